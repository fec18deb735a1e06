//! The one error type of the workspace: a variant where a caller would act
//! differently.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::time::Duration;

use crate::{Object, OsError, Size};

/// The result of every fallible call in the workspace.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed. A failed call undoes what it did before it failed.
///
/// An error that the kernel reported prints the call, the object and the errno
/// in one line; [`os_error`](Self::os_error) gives them as fields.
///
/// # Examples
///
/// ```
/// use shm_common::{Error, Object, OsError};
///
/// let error = Error::from(
///     OsError::new("shm_open", 2).on(Object::Name("/ring".into())),
/// );
/// assert!(matches!(error, Error::NotFound(_)));
/// assert_eq!(error.raw_os_error(), Some(2));
/// assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::NotFound);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The name or key is taken (`EEXIST`).
    AlreadyExists(OsError),
    /// Nothing has this name, key or identifier (`ENOENT`).
    NotFound(OsError),
    /// This process may not do that (`EACCES`, `EPERM`).
    PermissionDenied(OsError),
    /// The object was removed and cannot be used any more (`EIDRM`).
    Removed(OsError),
    /// A limit on the number or total size of objects is reached (`EMFILE`,
    /// `ENFILE`, `EFBIG`; for System V `ENOSPC`). The hint names the limit.
    LimitReached(OsError),
    /// No memory for this (`ENOMEM`).
    OutOfMemory(OsError),
    /// Somebody's use of the object forbids it now (`EBUSY`).
    Busy(OsError),
    /// The socket is not ready, or its time-out passed (`EAGAIN`).
    WouldBlock(OsError),
    /// The deadline passed first (`ETIMEDOUT`).
    TimedOut(OsError),
    /// This thread holds the lock already, and would wait for itself
    /// (`EDEADLK`).
    Deadlock(OsError),
    /// An owner of the lock died, and whoever took it over gave it up without
    /// a repair; nobody gets it any more (`ENOTRECOVERABLE`).
    NotRecoverable(OsError),
    /// Another participant gave up, so that none can go on (`ECANCELED`).
    Broken(OsError),
    /// The peer is gone: the socket is closed at its end (`EPIPE`,
    /// `ECONNRESET`, or the end of the stream).
    Disconnected(OsError),
    /// The file system that holds the object is full (`ENOSPC`).
    NoSpace {
        /// The bytes asked for.
        requested: Size,
        /// The bytes that were free, where the system tells.
        available: Option<u64>,
        /// The call that failed.
        os: OsError,
    },
    /// Text that cannot be a name, a label or a prefix; no call was made.
    InvalidName {
        /// The text as given.
        name: OsString,
        /// What is wrong with it.
        fault: NameFault,
    },
    /// A number or text that cannot be a size; no call was made.
    InvalidSize {
        /// The size as given.
        given: String,
        /// What is wrong with it.
        fault: SizeFault,
    },
    /// Bytes outside the view; nothing was read or written.
    OutOfBounds {
        /// The first byte asked for.
        offset: usize,
        /// The number of bytes asked for.
        len: usize,
        /// The length of the view in bytes.
        size: usize,
    },
    /// An address or offset that is not a multiple of what is needed.
    Misaligned {
        /// The offset asked for.
        offset: usize,
        /// The alignment that it lacks, in bytes.
        align: usize,
    },
    /// Two lengths that should agree do not, in bytes.
    WrongSize {
        /// The length needed.
        expected: usize,
        /// The length found.
        actual: usize,
    },
    /// The object exists, and after waiting that long its creator has still
    /// not given it a size, or another process still holds its lock.
    NotReady {
        /// The object.
        object: Object,
        /// How long this call waited.
        waited: Duration,
    },
    /// A descriptor lacks seals that make it safe to map.
    MissingSeals {
        /// The descriptor.
        object: Object,
        /// The seals needed, as `F_SEAL_*` bits.
        required: u32,
        /// The seals found, as `F_SEAL_*` bits.
        present: u32,
    },
    /// A descriptor is of another kind of file.
    WrongKind {
        /// The descriptor.
        object: Object,
        /// The kind needed.
        expected: &'static str,
    },
    /// Shared bytes hold something else than what is opened, or were laid out
    /// by another version, C library or kind of process.
    Incompatible {
        /// What was opened.
        object: Object,
        /// What differs.
        what: &'static str,
        /// Its value here.
        expected: u64,
        /// Its value in the shared bytes.
        found: u64,
    },
    /// Descriptors were lost on their way here, or more came than the caller
    /// takes; those that did arrive were closed.
    DescriptorsTruncated {
        /// How many arrived, and were closed.
        received: usize,
        /// How many the caller takes.
        max: usize,
    },
    /// A number of descriptors that one message cannot carry; nothing was sent.
    InvalidDescriptorCount {
        /// The number given.
        given: usize,
        /// The greatest number possible; the least is 1.
        max: usize,
    },
    /// A message arrived with another number of descriptors than agreed; they
    /// were closed.
    WrongDescriptorCount {
        /// How many were agreed on.
        expected: usize,
        /// How many arrived.
        received: usize,
    },
    /// A message shorter than one byte cannot carry descriptors; nothing was
    /// sent or received.
    EmptyMessage,
    /// A datagram was longer than the buffer; its end and its descriptors are
    /// lost.
    MessageTruncated {
        /// The length of the buffer in bytes.
        capacity: usize,
    },
    /// This mechanism or kernel cannot do that.
    Unsupported {
        /// What cannot be done, and what could be done instead.
        what: &'static str,
        /// The call that said so, if one was made.
        os: Option<OsError>,
    },
    /// Any other failure of a system call.
    Os(OsError),
}

/// What keeps a text from being a name, a label or a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NameFault {
    /// It is empty.
    Empty,
    /// It holds a NUL byte, where C would end it.
    Nul,
    /// It holds a slash after the first character.
    Slash,
    /// It is `.` or `..`, which name directories.
    Dots,
    /// It is longer than this many bytes.
    TooLong {
        /// The greatest length in bytes.
        max: usize,
    },
    /// It stands for a number of 32 bits, and is none.
    NotANumber,
}

/// What keeps a number or a text from being a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SizeFault {
    /// It is 0.
    Zero,
    /// It is greater than `isize::MAX`, or than the mechanism allows.
    TooLarge,
    /// It does not begin with a digit.
    NotANumber,
    /// Its unit is none of B, KiB, MiB, GiB, TiB.
    UnknownUnit,
    /// It is a page size and no power of two.
    NotAPowerOfTwo,
    /// It is smaller than the segment, and segments never shrink: that would
    /// crash every process that has the end mapped.
    Shrinks,
}

impl Error {
    /// The errno, for errors that the kernel reported.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        self.os_error().map(OsError::errno)
    }

    /// The failed call, its object and errno, for errors that the kernel
    /// reported.
    #[must_use]
    pub fn os_error(&self) -> Option<&OsError> {
        match self {
            Error::AlreadyExists(os)
            | Error::NotFound(os)
            | Error::PermissionDenied(os)
            | Error::Removed(os)
            | Error::LimitReached(os)
            | Error::OutOfMemory(os)
            | Error::Busy(os)
            | Error::WouldBlock(os)
            | Error::TimedOut(os)
            | Error::Deadlock(os)
            | Error::NotRecoverable(os)
            | Error::Broken(os)
            | Error::Disconnected(os)
            | Error::NoSpace { os, .. }
            | Error::Unsupported { os: Some(os), .. }
            | Error::Os(os) => Some(os),
            _ => None,
        }
    }

    fn kind(&self) -> io::ErrorKind {
        match self {
            Error::NotReady { .. } => io::ErrorKind::TimedOut,
            Error::Unsupported { .. } => io::ErrorKind::Unsupported,
            Error::DescriptorsTruncated { .. }
            | Error::WrongDescriptorCount { .. }
            | Error::MessageTruncated { .. }
            | Error::MissingSeals { .. }
            | Error::Incompatible { .. }
            | Error::WrongKind { .. } => io::ErrorKind::InvalidData,
            _ => match self.raw_os_error() {
                Some(errno) => io::Error::from_raw_os_error(errno).kind(),
                None => io::ErrorKind::InvalidInput,
            },
        }
    }
}

/// Sorts by errno alone; where a mechanism gives an errno another meaning, its
/// crate sorts first.
impl From<OsError> for Error {
    fn from(os: OsError) -> Self {
        match os.errno() {
            libc::EEXIST => Error::AlreadyExists(os),
            libc::ENOENT => Error::NotFound(os),
            libc::EACCES | libc::EPERM => Error::PermissionDenied(os),
            libc::EIDRM => Error::Removed(os),
            libc::EMFILE => Error::LimitReached(
                os.hint("this process has too many descriptors (ulimit -n)"),
            ),
            libc::ENFILE => Error::LimitReached(
                os.hint("the system has too many files (fs.file-max)"),
            ),
            libc::EFBIG => Error::LimitReached(
                os.hint("no file may be that large (ulimit -f)"),
            ),
            libc::ENOMEM => Error::OutOfMemory(os),
            libc::EBUSY => Error::Busy(os),
            libc::EAGAIN => Error::WouldBlock(os),
            libc::ETIMEDOUT => Error::TimedOut(os),
            libc::EDEADLK => Error::Deadlock(os),
            libc::ENOTRECOVERABLE => Error::NotRecoverable(os),
            libc::EPIPE | libc::ECONNRESET => Error::Disconnected(os),
            libc::ENOSYS => Error::Unsupported {
                what: "this kernel does not have the call",
                os: Some(os),
            },
            _ => Error::Os(os),
        }
    }
}

/// Keeps the text; the kind follows the errno, where there is one.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        io::Error::new(error.kind(), error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NoSpace { requested, available, os } => {
                write!(f, "{os}; {requested} asked for")?;
                match available {
                    Some(bytes) => write!(f, ", {bytes} bytes free"),
                    None => Ok(()),
                }
            }
            Error::InvalidName { name, fault } => {
                write!(f, "cannot use {name:?} as a name: it {fault}")
            }
            Error::InvalidSize { given, fault } => {
                write!(f, "cannot use {given:?} as a size: it {fault}")
            }
            Error::OutOfBounds { offset, len, size } => write!(
                f,
                "cannot access {len} bytes at offset {offset}: \
                 the view has {size} bytes"
            ),
            Error::Misaligned { offset, align } => write!(
                f,
                "cannot use offset {offset}: its address is not a multiple \
                 of {align}"
            ),
            Error::WrongSize { expected, actual } => write!(
                f,
                "cannot use {actual} bytes where {expected} are needed"
            ),
            Error::NotReady { object, waited } => write!(
                f,
                "cannot open {object}: not ready after {} ms",
                waited.as_millis()
            ),
            Error::MissingSeals { object, required, present } => write!(
                f,
                "cannot trust {object}: it lacks {}",
                Seals(required & !present)
            ),
            Error::Incompatible { object, what, expected, found } => write!(
                f,
                "cannot open {object}: its {what} is {found:#x}, and here \
                 {expected:#x}"
            ),
            Error::WrongKind { object, expected } => {
                write!(f, "cannot use {object}: it is no {expected}")
            }
            Error::DescriptorsTruncated { received, max } => write!(
                f,
                "cannot take the descriptors: {received} arrived and were \
                 closed, at most {max} were expected, and some may be lost \
                 (too many sent, or this process is at its ulimit -n)"
            ),
            Error::InvalidDescriptorCount { given, max } => write!(
                f,
                "cannot send {given} descriptors: a message takes 1 to {max}"
            ),
            Error::WrongDescriptorCount { expected, received } => write!(
                f,
                "cannot take the descriptors: {received} arrived and were \
                 closed, {expected} were expected"
            ),
            Error::EmptyMessage => f.write_str(
                "cannot pass descriptors with no bytes: \
                 a stream drops descriptors that no byte carries",
            ),
            Error::MessageTruncated { capacity } => write!(
                f,
                "cannot take the message: it is longer than {capacity} bytes"
            ),
            Error::Unsupported { what, os: None } => {
                write!(f, "cannot do this: {what}")
            }
            Error::Unsupported { what, os: Some(os) } => {
                write!(f, "{os}: {what}")
            }
            Error::AlreadyExists(os)
            | Error::NotFound(os)
            | Error::PermissionDenied(os)
            | Error::Removed(os)
            | Error::LimitReached(os)
            | Error::OutOfMemory(os)
            | Error::Busy(os)
            | Error::WouldBlock(os)
            | Error::TimedOut(os)
            | Error::Deadlock(os)
            | Error::NotRecoverable(os)
            | Error::Broken(os)
            | Error::Disconnected(os)
            | Error::Os(os) => os.fmt(f),
        }
    }
}

/// `Display` tells all there is, the call and its errno included, so there is
/// no `source`: a report of the chain would tell it twice.
impl std::error::Error for Error {}

impl fmt::Display for NameFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameFault::Empty => f.write_str("is empty"),
            NameFault::Nul => f.write_str("holds a NUL byte"),
            NameFault::Slash => {
                f.write_str("holds a slash after the first character")
            }
            NameFault::Dots => f.write_str("names a directory"),
            NameFault::NotANumber => {
                f.write_str("is no number that the kernel uses")
            }
            NameFault::TooLong { max } => {
                write!(f, "is longer than {max} bytes")
            }
        }
    }
}

impl fmt::Display for SizeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SizeFault::Zero => "is zero",
            SizeFault::TooLarge => "is too large",
            SizeFault::NotANumber => "does not begin with a digit",
            SizeFault::UnknownUnit => {
                "has an unknown unit (B, KiB, MiB, GiB, TiB)"
            }
            SizeFault::NotAPowerOfTwo => "is not a power of two",
            SizeFault::Shrinks => {
                "is smaller than the segment, and segments never shrink"
            }
        })
    }
}

/// `F_SEAL_*` bits, by name.
struct Seals(u32);

impl fmt::Display for Seals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [(i32, &str); 5] = [
            (libc::F_SEAL_SEAL, "F_SEAL_SEAL"),
            (libc::F_SEAL_SHRINK, "F_SEAL_SHRINK"),
            (libc::F_SEAL_GROW, "F_SEAL_GROW"),
            (libc::F_SEAL_WRITE, "F_SEAL_WRITE"),
            (libc::F_SEAL_FUTURE_WRITE, "F_SEAL_FUTURE_WRITE"),
        ];
        let mut names = NAMES
            .iter()
            .filter(|(bit, _)| self.0 & bit.cast_unsigned() != 0)
            .map(|(_, name)| *name);
        f.write_str(names.next().unwrap_or("no seal"))?;
        names.try_for_each(|name| write!(f, "|{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn os(errno: i32) -> OsError {
        OsError::new("shm_open", errno).on(Object::Name("/ring".into()))
    }

    #[test]
    fn each_errno_becomes_the_variant_that_a_caller_acts_on() {
        let sorted = |errno| Error::from(os(errno));
        assert!(matches!(sorted(libc::EEXIST), Error::AlreadyExists(_)));
        assert!(matches!(sorted(libc::ENOENT), Error::NotFound(_)));
        assert!(matches!(sorted(libc::EACCES), Error::PermissionDenied(_)));
        assert!(matches!(sorted(libc::EPERM), Error::PermissionDenied(_)));
        assert!(matches!(sorted(libc::EIDRM), Error::Removed(_)));
        assert!(matches!(sorted(libc::EMFILE), Error::LimitReached(_)));
        assert!(matches!(sorted(libc::ENFILE), Error::LimitReached(_)));
        assert!(matches!(sorted(libc::ENOMEM), Error::OutOfMemory(_)));
        assert!(matches!(sorted(libc::EBUSY), Error::Busy(_)));
        assert!(matches!(sorted(libc::EAGAIN), Error::WouldBlock(_)));
        assert!(matches!(sorted(libc::ETIMEDOUT), Error::TimedOut(_)));
        assert!(matches!(sorted(libc::EDEADLK), Error::Deadlock(_)));
        let given_up = sorted(libc::ENOTRECOVERABLE);
        assert!(matches!(given_up, Error::NotRecoverable(_)));
        assert!(matches!(sorted(libc::EPIPE), Error::Disconnected(_)));
        assert!(matches!(sorted(libc::ENOSYS), Error::Unsupported { .. }));
        assert!(matches!(sorted(libc::EXDEV), Error::Os(_)));
    }

    #[test]
    fn an_io_error_keeps_the_text_and_the_kind() {
        let error = io::Error::from(Error::from(os(libc::EACCES)));
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(
            error.to_string(),
            "cannot shm_open /ring: Permission denied (EACCES)"
        );
        let inner = error.get_ref().unwrap().downcast_ref::<Error>().unwrap();
        assert_eq!(inner.raw_os_error(), Some(libc::EACCES));
        let error = Error::OutOfBounds { offset: 1, len: 2, size: 2 };
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_full_file_system_is_told_once_with_both_numbers() {
        use std::error::Error as _;
        let error = Error::NoSpace {
            requested: Size::MIB,
            available: Some(4096),
            os: OsError::new("posix_fallocate", libc::ENOSPC)
                .on(Object::Path("/dev/shm".into())),
        };
        assert_eq!(
            error.to_string(),
            "cannot posix_fallocate /dev/shm: No space left on device \
             (ENOSPC); 1MiB asked for, 4096 bytes free"
        );
        assert!(error.source().is_none());
    }

    #[test]
    fn missing_seals_are_told_by_name() {
        let error = Error::MissingSeals {
            object: Object::Descriptor(5),
            required: 0b1110,
            present: 0b0100,
        };
        assert_eq!(
            error.to_string(),
            "cannot trust fd 5: it lacks F_SEAL_SHRINK|F_SEAL_WRITE"
        );
    }

    #[test]
    fn something_incompatible_is_told_with_both_values() {
        let error = Error::Incompatible {
            object: Object::At { what: "mutex", offset: 64 },
            what: "version",
            expected: 1,
            found: 0x20,
        };
        assert_eq!(
            error.to_string(),
            "cannot open the mutex at offset 64: its version is 0x20, and \
             here 0x1"
        );
    }

    #[test]
    fn every_fault_reads_as_the_end_of_a_sentence() {
        let name = |fault| {
            Error::InvalidName { name: "a\nb".into(), fault }.to_string()
        };
        assert_eq!(
            name(NameFault::TooLong { max: 255 }),
            "cannot use \"a\\nb\" as a name: it is longer than 255 bytes"
        );
        for fault in [
            NameFault::Empty,
            NameFault::Nul,
            NameFault::Slash,
            NameFault::Dots,
        ] {
            assert!(!name(fault).contains('\n'));
        }
    }

    #[test]
    fn an_error_is_small_enough_to_return_by_value() {
        assert!(size_of::<Error>() <= 128, "{}", size_of::<Error>());
    }
}
