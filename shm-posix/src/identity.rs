//! What finds a POSIX segment: a name.

use std::ffi::{CStr, CString, OsStr};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;

use shm_common::{Error, NameFault, Object, Result};

use crate::raw;

/// Where Linux's C libraries keep the objects of `shm_open(3)`: a tmpfs.
pub(crate) const DIRECTORY: &str = "/dev/shm";

/// The name of a segment, checked once: a slash, then 1 to 255 bytes without a
/// slash or NUL, and neither `.` nor `..`.
///
/// Every process that sees the same `/dev/shm` finds the same segment by it,
/// and permissions decide who may open it.
///
/// # Examples
///
/// ```
/// use shm_posix::Name;
///
/// let name = Name::new("/ring")?;
/// assert_eq!(name, Name::new("ring")?); // the slash may be left out
/// assert_eq!(name.to_string(), "/ring");
/// assert!(Name::new("a/b").is_err());
/// # Ok::<(), shm_posix::Error>(())
/// ```
///
/// # Sources
///
/// `shm_open(3)`; the limit is `NAME_MAX`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// `/dev/shm/NAME`: its tail, from the last slash, is the POSIX name.
    path: CString,
}

impl Name {
    /// The greatest length in bytes, not counting the leading slash.
    pub const MAX_LEN: usize = 255;

    /// Checks a name, which may lack its leading slash.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`]: it is empty, `.` or `..`, holds a NUL or a slash
    /// after the first character, or is longer than 255 bytes.
    pub fn new(name: impl AsRef<OsStr>) -> Result<Self> {
        let given = name.as_ref().as_bytes();
        let tail = given.strip_prefix(b"/").unwrap_or(given);
        let invalid = |fault| Error::InvalidName {
            name: name.as_ref().to_owned(),
            fault,
        };
        check(tail).map_err(invalid)?;
        let path = [DIRECTORY.as_bytes(), b"/", tail].concat();
        let path = CString::new(path).map_err(|_| invalid(NameFault::Nul))?;
        Ok(Self { path })
    }

    /// The name as `shm_open(3)` takes it, with its leading slash.
    #[must_use]
    pub fn as_c_str(&self) -> &CStr {
        // The slash that ends the directory begins the name.
        let bytes = self.path.as_bytes_with_nul();
        CStr::from_bytes_until_nul(&bytes[DIRECTORY.len()..])
            .unwrap_or_default()
    }

    /// The file in the tmpfs that the name stands for.
    #[must_use]
    pub fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(self.path.as_bytes()))
    }

    /// Removes this name, whoever created the segment. Handles and mappings of
    /// it go on working; nobody can open it by name any more.
    ///
    /// # Errors
    ///
    /// - [`Error::NotFound`]: no segment has this name (`ENOENT`).
    /// - [`Error::PermissionDenied`]: `/dev/shm` is sticky, so only the owner
    ///   of the segment and root may (`EACCES`, `EPERM`).
    ///
    /// # Sources
    ///
    /// `shm_unlink(3)`.
    pub fn unlink(&self) -> Result<()> {
        Ok(raw::shm_unlink(self.as_c_str())?)
    }

    pub(crate) fn object(&self) -> Object {
        let name = self.as_c_str().to_bytes();
        Object::Name(OsStr::from_bytes(name).to_owned())
    }
}

/// What is wrong with the part of a name after its slash.
pub(crate) fn check(tail: &[u8]) -> Result<(), NameFault> {
    match tail {
        [] => Err(NameFault::Empty),
        b"." | b".." => Err(NameFault::Dots),
        _ if tail.contains(&0) => Err(NameFault::Nul),
        _ if tail.contains(&b'/') => Err(NameFault::Slash),
        _ if tail.len() > Name::MAX_LEN => {
            Err(NameFault::TooLong { max: Name::MAX_LEN })
        }
        _ => Ok(()),
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::new(name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.object().fmt(f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({:?})", self.as_c_str())
    }
}
