//! memfd: nothing finds one, so processes meet at a socket.

use std::fs;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::str::FromStr;

use integration_tests::leaks;
use integration_tests::peer::DEADLINE;
use shm_common::{Error, ReadOnly, ReadWrite, Result, Size};
use shm_memfd::transfer;

use crate::mechanism::Mechanism;

pub(crate) enum Memfd {}

/// A socket in which a descriptor lies: who opens the segment takes it out, and
/// puts it back for the next one.
pub(crate) struct Socket {
    label: String,
    into: UnixStream,
    out_of: UnixStream,
}

impl Socket {
    /// A segment called `label` is to lie in it.
    pub(super) fn new(label: String) -> Self {
        let (into, out_of) = UnixStream::pair().unwrap();
        out_of.set_read_timeout(Some(DEADLINE)).unwrap();
        Self { label, into, out_of }
    }

    pub(super) fn label<L: FromStr<Err = Error>>(&self) -> Result<L> {
        self.label.parse()
    }

    /// Whether this process has what the kernel calls by that and the label, as
    /// a descriptor or a mapping.
    pub(super) fn is_held(&self, prefix: &str) -> bool {
        let file = format!("{prefix}{}", self.label);
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

    pub(super) fn tell(&self) -> (String, Vec<BorrowedFd<'_>>) {
        (self.label.clone(), vec![self.into.as_fd(), self.out_of.as_fd()])
    }

    pub(super) fn told(words: &str, descriptors: Vec<OwnedFd>) -> Self {
        let [into, out_of] = descriptors.try_into().unwrap();
        let (into, out_of) = (UnixStream::from(into), out_of.into());
        Self { label: words.to_owned(), into, out_of }
    }

    pub(super) fn put(&self, fd: impl AsFd) -> Result<()> {
        transfer::send(&self.into, b"!", &[fd.as_fd()])
    }

    pub(super) fn take(&self) -> Result<OwnedFd> {
        let message = transfer::receive(&self.out_of, &mut [0], 1)?;
        let [fd] = message.into_descriptors()?;
        Ok(fd)
    }

    pub(super) fn copy(&self) -> Result<OwnedFd> {
        let fd = self.take()?;
        self.put(&fd)?;
        Ok(fd)
    }

    pub(super) fn close(&self) {
        let _ = self.into.shutdown(Shutdown::Both);
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
        Socket::new(leaks::unique_name("conformance"))
    }

    fn create(place: &Self::Place, size: Size) -> Result<Self::Segment> {
        shm_memfd::Segment::create(&place.label()?, size)
    }

    fn create_with_mode(
        place: &Self::Place,
        size: Size,
        mode: u32,
    ) -> Result<Self::Segment> {
        shm_memfd::SegmentOptions::new()
            .mode(mode)
            .create(&place.label()?, size)
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
        place.is_held("/memfd:")
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
