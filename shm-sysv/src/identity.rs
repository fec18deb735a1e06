//! What finds a System V segment: a key, chosen by people, and an identifier,
//! chosen by the kernel.

use std::ffi::CString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;

use shm_common::{Error, NameFault, Object, Result};

use crate::raw;

/// The number by which processes find the same segment.
///
/// Any number will do, and any program may have picked the same: a file that
/// belongs to yours makes a better one, by [`from_path`](Self::from_path).
///
/// # Examples
///
/// ```
/// use shm_sysv::Key;
///
/// assert_eq!("0x1234".parse::<Key>()?, Key::new(0x1234));
/// assert_eq!(Key::new(0x1234).to_string(), "0x1234");
/// # Ok::<(), shm_sysv::Error>(())
/// ```
///
/// # Sources
///
/// shmget(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(i32);

impl Key {
    /// `IPC_PRIVATE`: no key. A segment created with it is found only by its
    /// [`Id`]. It has the number 0.
    pub const PRIVATE: Self = Self(libc::IPC_PRIVATE);

    /// The key with this number.
    #[must_use]
    pub const fn new(key: i32) -> Self {
        Self(key)
    }

    /// Makes a key from an existing file and a number that tells apart several
    /// segments which belong to it.
    ///
    /// The key changes when the file is made anew, and two files can give the
    /// same key: it holds 16 bits of the inode's number and 8 of the device's.
    ///
    /// # Errors
    ///
    /// - [`Error::NotFound`]: there is no such file (`ENOENT`).
    /// - [`Error::InvalidName`]: the path holds a NUL byte.
    ///
    /// # Sources
    ///
    /// ftok(3).
    pub fn from_path(path: impl AsRef<Path>, project: u8) -> Result<Self> {
        let path = path.as_ref().as_os_str();
        let c_path = CString::new(path.as_bytes()).map_err(|_| {
            Error::InvalidName { name: path.to_owned(), fault: NameFault::Nul }
        })?;
        Ok(Self(raw::ftok(&c_path, project.into())?))
    }

    /// The number.
    #[must_use]
    pub const fn as_raw(self) -> i32 {
        self.0
    }

    pub(crate) fn object(self) -> Object {
        Object::Key(self.0)
    }
}

/// Reads a decimal number, or a hexadecimal one after `0x`, as ipcs(1) prints
/// keys; of 32 bits.
///
/// # Errors
///
/// [`Error::InvalidName`]: it is no such number.
impl FromStr for Key {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = match text.strip_prefix("0x") {
            // `from_str_radix` would also take a sign there.
            Some(digits) if digits.starts_with(['+', '-']) => None,
            Some(digits) => {
                u32::from_str_radix(digits, 16).ok().map(u32::cast_signed)
            }
            None => text.parse().ok(),
        };
        number.map(Self).ok_or_else(|| not_a_number(text))
    }
}

/// Hexadecimal, as ipcs(1) prints keys; reads back as the same key.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// The number that the kernel gave a segment, `0..=i32::MAX`.
///
/// Every process of the same IPC namespace can use it, if permissions let it. A
/// number is used again only after the kernel has run through thousands of
/// others.
///
/// # Sources
///
/// shmget(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(i32);

impl Id {
    /// The identifier with this number, which came from another process.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`]: it is negative.
    pub fn new(id: i32) -> Result<Self> {
        match id {
            0.. => Ok(Self(id)),
            _ => Err(not_a_number(&id.to_string())),
        }
    }

    /// The number.
    #[must_use]
    pub const fn as_raw(self) -> i32 {
        self.0
    }

    /// Removes the segment, whoever created it. Handles and mappings of it go
    /// on working; its key is free at once, and the kernel frees the memory
    /// with the last attachment.
    ///
    /// # Errors
    ///
    /// - [`Error::NotFound`]: no segment has this identifier (`EINVAL`).
    /// - [`Error::Removed`]: it was removed and the number is used again
    ///   (`EIDRM`).
    /// - [`Error::PermissionDenied`]: only its owner, its creator and root may
    ///   (`EPERM`).
    ///
    /// # Sources
    ///
    /// shmctl(2) `IPC_RMID`.
    pub fn remove(self) -> Result<()> {
        raw::shmctl_ipc_rmid(self.0).map_err(by_id)
    }

    /// For a number that the kernel gave.
    pub(crate) const fn from_kernel(id: i32) -> Self {
        Self(id)
    }
}

/// Reads a decimal number.
///
/// # Errors
///
/// [`Error::InvalidName`]: it is no number, negative, or over `i32::MAX`.
impl FromStr for Id {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = text.parse().ok();
        let id = number.and_then(|number| Self::new(number).ok());
        id.ok_or_else(|| not_a_number(text))
    }
}

/// Decimal, as ipcs(1) prints identifiers; reads back as the same.
impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn not_a_number(text: &str) -> Error {
    Error::InvalidName { name: text.into(), fault: NameFault::NotANumber }
}

/// Sorts the errors of calls that take an identifier: a wrong one is `EINVAL`.
pub(crate) fn by_id(os: shm_common::OsError) -> Error {
    match os.errno() {
        libc::EINVAL => {
            Error::NotFound(os.hint("no segment has it, or not any more"))
        }
        _ => os.into(),
    }
}
