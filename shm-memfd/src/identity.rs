//! What a memfd is called: a label that people see, and that finds nothing.

use std::ffi::{CStr, CString, OsStr};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;

use shm_common::{Error, NameFault, Result};

/// The label of a segment, checked once: 1 to 249 bytes without a slash or NUL,
/// and neither `.` nor `..`.
///
/// It shows in `/proc/PID/fd` and `/proc/PID/maps` as `/memfd:LABEL`, for
/// people. It need not be unique, and no call finds a segment by it: segments
/// are found by having been handed their descriptor.
///
/// The kernel would also take slashes, dots and nothing; they are refused so
/// that any label can serve as a file name or a POSIX segment's name.
///
/// # Examples
///
/// ```
/// use shm_memfd::Label;
///
/// assert_eq!(Label::new("frames")?.to_string(), "frames");
/// assert!(Label::new("").is_err());
/// # Ok::<(), shm_memfd::Error>(())
/// ```
///
/// # Sources
///
/// `memfd_create(2)`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    label: CString,
}

impl Label {
    /// The greatest length in bytes.
    pub const MAX_LEN: usize = 249;

    /// Checks a label.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`]: it is empty, `.` or `..`, holds a NUL or a
    /// slash, or is longer than 249 bytes.
    pub fn new(label: impl AsRef<OsStr>) -> Result<Self> {
        let given = label.as_ref().as_bytes();
        let invalid = |fault| Error::InvalidName {
            name: label.as_ref().to_owned(),
            fault,
        };
        check(given).map_err(invalid)?;
        let label = CString::new(given).map_err(|_| invalid(NameFault::Nul))?;
        Ok(Self { label })
    }

    /// The label as `memfd_create(2)` takes it.
    #[must_use]
    pub fn as_c_str(&self) -> &CStr {
        &self.label
    }
}

/// What is wrong with a label.
fn check(label: &[u8]) -> Result<(), NameFault> {
    match label {
        [] => Err(NameFault::Empty),
        b"." | b".." => Err(NameFault::Dots),
        _ if label.contains(&0) => Err(NameFault::Nul),
        _ if label.contains(&b'/') => Err(NameFault::Slash),
        _ if label.len() > Label::MAX_LEN => {
            Err(NameFault::TooLong { max: Label::MAX_LEN })
        }
        _ => Ok(()),
    }
}

impl FromStr for Label {
    type Err = Error;

    fn from_str(label: &str) -> Result<Self> {
        Self::new(label)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.label.to_string_lossy().fmt(f)
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Label({:?})", self.label)
    }
}
