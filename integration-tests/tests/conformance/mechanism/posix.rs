//! POSIX: processes meet at a name.

use std::fs;
use std::os::fd::{BorrowedFd, OwnedFd};

use integration_tests::leaks;
use shm_common::{Error, ReadOnly, ReadWrite, Result, Size};

use crate::mechanism::Mechanism;

pub(crate) enum Posix {}

impl Mechanism for Posix {
    type Place = shm_posix::Name;
    type Segment = shm_posix::Segment;
    type Mapping = shm_posix::Mapping<ReadWrite>;
    type ReadMapping = shm_posix::Mapping<ReadOnly>;

    const MODE_DECIDES: bool = true;
    const EXCLUSIVE: bool = true;

    fn place() -> Self::Place {
        shm_posix::Name::new(leaks::unique_name("conformance")).unwrap()
    }

    fn create(place: &Self::Place, size: Size) -> Result<Self::Segment> {
        shm_posix::Segment::create(place, size)
    }

    fn create_with_mode(
        place: &Self::Place,
        size: Size,
        mode: u32,
    ) -> Result<Self::Segment> {
        shm_posix::SegmentOptions::new().mode(mode).create(place, size)
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
        shm_posix::Segment::open(place)?.map()
    }

    fn open_read_only(place: &Self::Place) -> Result<Self::ReadMapping> {
        shm_posix::Segment::open_read_only(place)?.map()
    }

    fn remove(_: &Self::Place, segment: &mut Self::Segment) -> Result<()> {
        segment.unlink()
    }

    fn clear(place: &Self::Place) {
        let _ = place.unlink();
    }

    fn is_absent(error: &Error) -> bool {
        matches!(error, Error::NotFound(_))
    }

    fn is_there(place: &Self::Place) -> bool {
        fs::exists(place.path()).unwrap()
    }

    fn tell(place: &Self::Place) -> (String, Vec<BorrowedFd<'_>>) {
        (place.as_c_str().to_str().unwrap().to_owned(), vec![])
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
