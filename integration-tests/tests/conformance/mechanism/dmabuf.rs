//! dma-buf: made by a driver; nothing finds one, so processes meet at a socket.

use std::os::fd::{BorrowedFd, OwnedFd};

use integration_tests::leaks;
use shm_common::{Error, PageSize, ReadOnly, ReadWrite, Result, Size};
use shm_dmabuf::{Heap, SegmentOptions};

use crate::mechanism::{Mechanism, Socket};

pub(crate) enum Dmabuf {}

impl Mechanism for Dmabuf {
    type Place = Socket;
    type Segment = shm_dmabuf::Segment;
    type Mapping = shm_dmabuf::Mapping<ReadWrite>;
    type ReadMapping = shm_dmabuf::Mapping<ReadOnly>;

    const MODE_DECIDES: bool = false;
    const EXCLUSIVE: bool = false;
    const HAS_FUTEXES: bool = false;

    fn unavailable() -> Option<String> {
        Heap::open("system").err().map(|error| error.to_string())
    }

    fn length(bytes: usize) -> usize {
        bytes.next_multiple_of(PageSize::base().bytes())
    }

    fn place() -> Self::Place {
        // The kernel takes 31 bytes.
        Socket::new(leaks::unique_name("c"))
    }

    fn create(place: &Self::Place, size: Size) -> Result<Self::Segment> {
        SegmentOptions::new()
            .label(place.label()?)
            .create(&Heap::open("system")?, size)
    }

    /// It has no mode.
    fn create_with_mode(
        place: &Self::Place,
        size: Size,
        _: u32,
    ) -> Result<Self::Segment> {
        Self::create(place, size)
    }

    fn offer(place: &Self::Place, segment: &Self::Segment) -> Result<()> {
        place.put(segment)
    }

    fn keep(_: &mut Self::Segment) {}

    fn map(segment: &Self::Segment) -> Result<Self::Mapping> {
        segment.map()
    }

    fn open(place: &Self::Place) -> Result<Self::Mapping> {
        shm_dmabuf::Segment::open(place.copy()?)?.map()
    }

    fn open_read_only(place: &Self::Place) -> Result<Self::ReadMapping> {
        shm_dmabuf::Segment::open_read_only(place.copy()?)?.map()
    }

    fn remove(place: &Self::Place, _: &mut Self::Segment) -> Result<()> {
        place.take()?;
        place.close();
        Ok(())
    }

    fn clear(place: &Self::Place) {
        place.close();
    }

    fn is_absent(error: &Error) -> bool {
        matches!(error, Error::Disconnected(_))
    }

    fn is_there(place: &Self::Place) -> bool {
        place.is_held("/dmabuf:")
    }

    fn tell(place: &Self::Place) -> (String, Vec<BorrowedFd<'_>>) {
        place.tell()
    }

    fn told(words: &str, descriptors: Vec<OwnedFd>) -> Self::Place {
        Socket::told(words, descriptors)
    }

    fn len(mapping: &Self::Mapping) -> usize {
        mapping.len()
    }

    fn mapped_len(mapping: &Self::Mapping) -> usize {
        mapping.mapped_len()
    }
}
