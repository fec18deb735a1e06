//! What the suite needs of a mechanism, and how each one gives it.
//!
//! Processes meet at a *place*: a key, a name, or for a memfd and a dma-buf,
//! which nothing finds, a socket with a descriptor in it.

mod dmabuf;
mod memfd;
mod posix;
mod sysv;

use std::os::fd::{BorrowedFd, OwnedFd};

use shm_common::{AsSharedBytes, Error, ReadOnly, ReadWrite, Result, Size};

pub(crate) use self::dmabuf::Dmabuf;
pub(crate) use self::memfd::{Memfd, Socket};
pub(crate) use self::posix::Posix;
pub(crate) use self::sysv::SysV;

pub(crate) trait Mechanism {
    /// Where processes meet: what finds a segment.
    type Place;
    type Segment;
    type Mapping: AsSharedBytes<Access = ReadWrite>;
    type ReadMapping: AsSharedBytes<Access = ReadOnly>;

    /// Whether the segment has a mode that decides who may open it.
    const MODE_DECIDES: bool;
    /// Whether only one segment can be at a place.
    const EXCLUSIVE: bool;
    /// Whether processes can sleep on a word of it.
    const HAS_FUTEXES: bool = true;

    /// Why this machine, or this user, does not have it; none: it does.
    fn unavailable() -> Option<String> {
        None
    }
    /// What others find of a segment that was created with that many bytes.
    fn length(bytes: usize) -> usize {
        bytes
    }
    /// A place that nobody else uses.
    fn place() -> Self::Place;
    fn create(place: &Self::Place, size: Size) -> Result<Self::Segment>;
    fn create_with_mode(
        place: &Self::Place,
        size: Size,
        mode: u32,
    ) -> Result<Self::Segment>;
    /// Lets others find it at the place, where creating it does not.
    fn offer(place: &Self::Place, segment: &Self::Segment) -> Result<()>;
    /// Leaves it there when the segment is dropped, where that takes it away.
    fn keep(segment: &mut Self::Segment);
    fn map(segment: &Self::Segment) -> Result<Self::Mapping>;
    /// Opens and maps what is at the place.
    fn open(place: &Self::Place) -> Result<Self::Mapping>;
    fn open_read_only(place: &Self::Place) -> Result<Self::ReadMapping>;
    /// Takes away what finds it.
    fn remove(place: &Self::Place, segment: &mut Self::Segment) -> Result<()>;
    /// The same, for one who has no segment.
    fn clear(place: &Self::Place);
    /// Whether the error says that nothing can be found there (any more).
    fn is_absent(error: &Error) -> bool;
    /// Whether the system still has the segment; for a memfd, which the system
    /// shows nowhere else, this process.
    fn is_there(place: &Self::Place) -> bool;

    /// What a separate program is told: some words, and descriptors that it
    /// inherits.
    fn tell(place: &Self::Place) -> (String, Vec<BorrowedFd<'_>>);
    /// The place, for one who was told that.
    fn told(words: &str, descriptors: Vec<OwnedFd>) -> Self::Place;

    fn len(mapping: &Self::Mapping) -> usize;
    fn mapped_len(mapping: &Self::Mapping) -> usize;
}
