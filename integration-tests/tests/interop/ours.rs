//! Our side of each mechanism.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use integration_tests::leaks;
use shm_common::{ReadWrite, SharedBytes, Size};
use shm_memfd::transfer;

pub(crate) fn size(bytes: usize) -> Size {
    Size::new(bytes).unwrap()
}

/// A segment of ours, or theirs when we have opened it.
pub(crate) trait Ours: Sized {
    /// What the other program calls the mechanism.
    const NAME: &'static str;
    /// Whether two segments cannot have the same name.
    const HAS_NAME: bool = true;

    fn create(bytes: usize) -> Self;
    /// What the other program is told to find it, and its standard input.
    fn target(&self) -> (String, Option<OwnedFd>);
    /// What a second segment of the same name would be created with.
    fn name(&self) -> String;
    fn new_name() -> String;
    /// Opens what the other program has created, printed or sent.
    fn find(name: &str, printed: &str, socket: &UnixStream) -> Self;
    fn remove_what_must_still_be_there(name: &str, printed: &str);
    fn len(&self) -> usize;
    fn with<T>(
        &self,
        use_it: impl FnOnce(SharedBytes<'_, ReadWrite>) -> T,
    ) -> T;

    fn write(&self, bytes: &[u8]) {
        self.with(|view| view.write_at(0, bytes)).unwrap();
    }

    fn read(&self, len: usize) -> Vec<u8> {
        self.with(|view| view.subslice(0, len).map(SharedBytes::to_vec))
            .unwrap()
    }
}

pub(crate) struct SysV(shm_sysv::Segment);

impl Ours for SysV {
    const NAME: &'static str = "sysv";

    fn create(bytes: usize) -> Self {
        let key = shm_sysv::Key::new(leaks::unique_key());
        Self(shm_sysv::Segment::create(key, size(bytes)).unwrap())
    }

    fn target(&self) -> (String, Option<OwnedFd>) {
        (self.0.id().as_raw().to_string(), None)
    }

    fn name(&self) -> String {
        self.0.stat().unwrap().key.as_raw().to_string()
    }

    fn new_name() -> String {
        leaks::unique_key().to_string()
    }

    fn find(name: &str, printed: &str, _: &UnixStream) -> Self {
        let segment = shm_sysv::Segment::open(name.parse().unwrap()).unwrap();
        assert_eq!(segment.id().as_raw().to_string(), printed);
        Self(segment)
    }

    fn remove_what_must_still_be_there(_: &str, printed: &str) {
        printed.parse::<shm_sysv::Id>().unwrap().remove().unwrap();
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn with<T>(
        &self,
        use_it: impl FnOnce(SharedBytes<'_, ReadWrite>) -> T,
    ) -> T {
        use_it(self.0.map().unwrap().bytes())
    }
}

pub(crate) struct Posix(shm_posix::Segment);

impl Ours for Posix {
    const NAME: &'static str = "posix";

    fn create(bytes: usize) -> Self {
        let name = Self::new_name().parse().unwrap();
        Self(shm_posix::Segment::create(&name, size(bytes)).unwrap())
    }

    fn target(&self) -> (String, Option<OwnedFd>) {
        (self.0.name().to_string(), None)
    }

    fn name(&self) -> String {
        self.0.name().to_string()
    }

    fn new_name() -> String {
        format!("/{}", leaks::unique_name("interop"))
    }

    fn find(name: &str, _: &str, _: &UnixStream) -> Self {
        Self(shm_posix::Segment::open(&name.parse().unwrap()).unwrap())
    }

    fn remove_what_must_still_be_there(name: &str, _: &str) {
        name.parse::<shm_posix::Name>().unwrap().unlink().unwrap();
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn with<T>(
        &self,
        use_it: impl FnOnce(SharedBytes<'_, ReadWrite>) -> T,
    ) -> T {
        use_it(self.0.map().unwrap().bytes())
    }
}

pub(crate) struct Memfd(shm_memfd::Segment);

impl Ours for Memfd {
    const NAME: &'static str = "memfd";
    const HAS_NAME: bool = false;

    fn create(bytes: usize) -> Self {
        let label = shm_memfd::Label::new("interop").unwrap();
        Self(shm_memfd::Segment::create(&label, size(bytes)).unwrap())
    }

    fn target(&self) -> (String, Option<OwnedFd>) {
        let fd = self.0.as_fd().try_clone_to_owned().unwrap();
        ("0".to_owned(), Some(fd))
    }

    fn name(&self) -> String {
        String::new()
    }

    fn new_name() -> String {
        "0".to_owned()
    }

    fn find(_: &str, _: &str, socket: &UnixStream) -> Self {
        let message = transfer::receive(socket, &mut [0], 1).unwrap();
        let [fd] = message.into_descriptors().unwrap();
        Self(shm_memfd::Segment::open(fd).unwrap())
    }

    /// Nothing is: its creator and we had the only descriptors.
    fn remove_what_must_still_be_there(_: &str, _: &str) {}

    fn len(&self) -> usize {
        self.0.len()
    }

    fn with<T>(
        &self,
        use_it: impl FnOnce(SharedBytes<'_, ReadWrite>) -> T,
    ) -> T {
        use_it(self.0.map().unwrap().bytes())
    }
}
