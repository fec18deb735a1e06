//! A system call that failed: which, on what, and why.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt;
use std::os::fd::RawFd;
use std::path::PathBuf;

use nix::errno::Errno;

/// What a failed operation was applied to; the way people write it down.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Object {
    /// A POSIX name, with its leading slash.
    Name(OsString),
    /// A System V key.
    Key(i32),
    /// A System V identifier.
    Id(i32),
    /// A memfd, by its label.
    Label(OsString),
    /// A descriptor of this process, by its number at the time.
    Descriptor(RawFd),
    /// A file of the system, such as `/dev/shm`.
    Path(PathBuf),
    /// A mapping of this process: its length in bytes.
    Memory(usize),
    /// Something that lies in shared bytes: what, and where it begins.
    At {
        /// What it is.
        what: &'static str,
        /// Its first byte, counted from the start of the view.
        offset: usize,
    },
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Object::Name(name) => write!(f, "{}", name.display()),
            Object::Key(key) => write!(f, "key {key:#x}"),
            Object::Id(id) => write!(f, "id {id}"),
            Object::Label(label) => write!(f, "memfd:{}", label.display()),
            Object::Descriptor(fd) => write!(f, "fd {fd}"),
            Object::Path(path) => write!(f, "{}", path.display()),
            Object::Memory(len) => write!(f, "a mapping of {len} bytes"),
            Object::At { what, offset } => {
                write!(f, "the {what} at offset {offset}")
            }
        }
    }
}

/// A failed system call: its name, the object it was applied to, the errno and,
/// where one helps, a hint.
///
/// It reads `cannot shm_open /ring: No such file or directory (ENOENT)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OsError {
    call: &'static str,
    object: Option<Object>,
    errno: i32,
    hint: Option<Cow<'static, str>>,
}

impl OsError {
    /// Takes this thread's `errno`, which must be done before anything else
    /// runs; hence the object is added afterwards, by [`on`](Self::on).
    #[must_use]
    pub fn last(call: &'static str) -> Self {
        Self::new(call, Errno::last_raw())
    }

    /// For an errno that arrived as a value.
    #[must_use]
    pub fn new(call: &'static str, errno: i32) -> Self {
        Self { call, object: None, errno, hint: None }
    }

    /// Says what the call was applied to.
    #[must_use]
    pub fn on(mut self, object: Object) -> Self {
        self.object = Some(object);
        self
    }

    /// Says where to look next: a sysctl, a mount, a limit.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The failed call, under its C name.
    #[must_use]
    pub fn call(&self) -> &'static str {
        self.call
    }

    /// What the call was applied to, if it was applied to something.
    #[must_use]
    pub fn object(&self) -> Option<&Object> {
        self.object.as_ref()
    }

    /// The errno, as a number of `<errno.h>`.
    #[must_use]
    pub fn errno(&self) -> i32 {
        self.errno
    }
}

impl fmt::Display for OsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.call)?;
        if let Some(object) = &self.object {
            write!(f, " {object}")?;
        }
        // The `Debug` form of nix's `Errno` is the symbol, like `ENOENT`.
        match Errno::from_raw(self.errno) {
            Errno::UnknownErrno => write!(f, ": errno {}", self.errno)?,
            errno => write!(f, ": {} ({errno:?})", errno.desc())?,
        }
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for OsError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_call_reads_as_one_line_with_its_object_and_hint() {
        let error = OsError::new("shm_open", libc::ENOENT)
            .on(Object::Name("/ring".into()))
            .hint("list /dev/shm");
        assert_eq!(
            error.to_string(),
            "cannot shm_open /ring: No such file or directory (ENOENT); \
             list /dev/shm"
        );
    }

    #[test]
    fn an_unknown_errno_is_still_told_by_number() {
        let error = OsError::new("shmat", 4000).on(Object::Id(7));
        assert_eq!(error.to_string(), "cannot shmat id 7: errno 4000");
    }

    #[test]
    fn every_object_reads_the_way_people_write_it() {
        let read = |object: Object| object.to_string();
        assert_eq!(read(Object::Key(0x1234)), "key 0x1234");
        assert_eq!(read(Object::Label("frames".into())), "memfd:frames");
        assert_eq!(read(Object::Descriptor(5)), "fd 5");
        assert_eq!(read(Object::Path("/dev/shm".into())), "/dev/shm");
        assert_eq!(read(Object::Memory(9)), "a mapping of 9 bytes");
        let event = Object::At { what: "event", offset: 64 };
        assert_eq!(read(event), "the event at offset 64");
    }

    #[test]
    fn last_takes_the_errno_of_the_failed_call() {
        Errno::set_raw(libc::EIDRM);
        assert_eq!(OsError::last("shmat").errno(), libc::EIDRM);
    }
}
