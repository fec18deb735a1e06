//! System V: processes meet at a key.

use std::os::fd::{BorrowedFd, OwnedFd};

use integration_tests::leaks;
use shm_common::{Error, ReadOnly, ReadWrite, Result, Size};

use crate::mechanism::Mechanism;

pub(crate) enum SysV {}

impl Mechanism for SysV {
    type Place = shm_sysv::Key;
    type Segment = shm_sysv::Segment;
    type Mapping = shm_sysv::Mapping<ReadWrite>;
    type ReadMapping = shm_sysv::Mapping<ReadOnly>;

    const MODE_DECIDES: bool = true;
    const EXCLUSIVE: bool = true;

    fn place() -> Self::Place {
        shm_sysv::Key::new(leaks::unique_key())
    }

    fn create(place: &Self::Place, size: Size) -> Result<Self::Segment> {
        shm_sysv::Segment::create(*place, size)
    }

    fn create_with_mode(
        place: &Self::Place,
        size: Size,
        mode: u32,
    ) -> Result<Self::Segment> {
        shm_sysv::SegmentOptions::new().mode(mode).create(*place, size)
    }

    fn offer(_: &Self::Place, _: &Self::Segment) -> Result<()> {
        Ok(())
    }

    fn keep(segment: &mut Self::Segment) {
        segment.keep();
    }

    fn map(segment: &Self::Segment) -> Result<Self::Mapping> {
        segment.map()
    }

    fn open(place: &Self::Place) -> Result<Self::Mapping> {
        shm_sysv::Segment::open(*place)?.map()
    }

    fn open_read_only(place: &Self::Place) -> Result<Self::ReadMapping> {
        // The other way to find one.
        let id = shm_sysv::Segment::open_read_only(*place)?.id();
        shm_sysv::Segment::open_id_read_only(id)?.map()
    }

    fn remove(_: &Self::Place, segment: &mut Self::Segment) -> Result<()> {
        segment.remove()
    }

    fn clear(place: &Self::Place) {
        let _ = shm_sysv::Segment::open_read_only(*place)
            .and_then(|mut segment| segment.remove());
    }

    fn is_absent(error: &Error) -> bool {
        matches!(error, Error::NotFound(_))
    }

    fn is_there(place: &Self::Place) -> bool {
        // One that is removed and still attached, perhaps by a child of another
        // test, has no key any more.
        shm_sysv::list().unwrap().iter().any(|stat| stat.key == *place)
    }

    fn tell(place: &Self::Place) -> (String, Vec<BorrowedFd<'_>>) {
        (place.as_raw().to_string(), vec![])
    }

    fn told(words: &str, _: Vec<OwnedFd>) -> Self::Place {
        words.parse().unwrap()
    }

    fn len(mapping: &Self::Mapping) -> usize {
        mapping.len()
    }

    fn mapped_len(mapping: &Self::Mapping) -> usize {
        mapping.mapped_len()
    }
}
