//! What the suite needs of a mechanism, and how each one gives it.
//!
//! Processes meet at a *place*: a key, a name, or for a memfd, which nothing
//! finds, a socket with a descriptor in it.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use integration_tests::leaks;
use integration_tests::peer::DEADLINE;
use shm_common::{AsSharedBytes, Error, ReadOnly, ReadWrite, Result, Size};
use shm_memfd::transfer;

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
        shm_sysv::Segment::open_read_only(*place)?.map()
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

pub(crate) enum Memfd {}

/// A socket in which a descriptor lies: who opens the segment takes it out, and
/// puts it back for the next one.
pub(crate) struct Socket {
    label: shm_memfd::Label,
    into: UnixStream,
    out_of: UnixStream,
}

impl Socket {
    fn put(&self, fd: impl AsFd) -> Result<()> {
        transfer::send(&self.into, b"!", &[fd.as_fd()])
    }

    fn take(&self) -> Result<OwnedFd> {
        let message = transfer::receive(&self.out_of, &mut [0], 1)?;
        let [fd] = message.into_descriptors()?;
        Ok(fd)
    }

    fn copy(&self) -> Result<OwnedFd> {
        let fd = self.take()?;
        self.put(&fd)?;
        Ok(fd)
    }

    fn close(&self) {
        let _ = self.into.shutdown(std::net::Shutdown::Both);
    }
}

impl Mechanism for Memfd {
    type Place = Socket;
    type Segment = shm_memfd::Segment;
    type Mapping = shm_memfd::Mapping<ReadWrite>;
    type ReadMapping = shm_memfd::Mapping<ReadOnly>;

    const MODE_DECIDES: bool = false;
    const EXCLUSIVE: bool = false;

    fn place() -> Self::Place {
        let label = leaks::unique_name("conformance");
        let (into, out_of) = UnixStream::pair().unwrap();
        out_of.set_read_timeout(Some(DEADLINE)).unwrap();
        Socket { label: label.parse().unwrap(), into, out_of }
    }

    fn create(place: &Self::Place, size: Size) -> Result<Self::Segment> {
        shm_memfd::Segment::create(&place.label, size)
    }

    fn create_with_mode(
        place: &Self::Place,
        size: Size,
        mode: u32,
    ) -> Result<Self::Segment> {
        shm_memfd::SegmentOptions::new().mode(mode).create(&place.label, size)
    }

    fn offer(place: &Self::Place, segment: &Self::Segment) -> Result<()> {
        place.put(segment)
    }

    fn keep(_: &mut Self::Segment) {}

    fn map(segment: &Self::Segment) -> Result<Self::Mapping> {
        segment.map()
    }

    fn open(place: &Self::Place) -> Result<Self::Mapping> {
        shm_memfd::Segment::open(place.copy()?)?.map()
    }

    fn open_read_only(place: &Self::Place) -> Result<Self::ReadMapping> {
        shm_memfd::Segment::open_read_only(place.copy()?)?.map()
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
        let file = format!("/{}", place.label);
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let mut descriptors = fs::read_dir("/proc/self/fd").unwrap();
        maps.contains(&file)
            || descriptors.any(|entry| {
                let target = fs::read_link(entry.unwrap().path());
                // What another thread has closed meanwhile leads nowhere.
                let target = target.unwrap_or_default();
                target.to_string_lossy().contains(&file)
            })
    }

    fn tell(place: &Self::Place) -> (String, Vec<BorrowedFd<'_>>) {
        let label = place.label.as_c_str().to_str().unwrap().to_owned();
        (label, vec![place.into.as_fd(), place.out_of.as_fd()])
    }

    fn told(words: &str, descriptors: Vec<OwnedFd>) -> Self::Place {
        let [into, out_of] = descriptors.try_into().unwrap();
        let (into, out_of) = (UnixStream::from(into), out_of.into());
        Socket { label: words.parse().unwrap(), into, out_of }
    }

    fn len(mapping: &Self::Mapping) -> usize {
        mapping.len()
    }

    fn mapped_len(mapping: &Self::Mapping) -> usize {
        mapping.mapped_len()
    }
}
