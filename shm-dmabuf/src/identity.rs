//! Where a buffer comes from, and what it is called: a heap has a node in
//! `/dev/dma_heap`, a buffer a label that people see, and that finds nothing.

use std::ffi::{CStr, OsStr, OsString};
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nix::errno::Errno;
use nix::fcntl::{self, OFlag};
use nix::sys::stat::Mode;
use shm_common::{Error, NameFault, Object, OsError, Result, Size};

use crate::raw::DMA_BUF_NAME_LEN;
use crate::{Segment, SegmentOptions};

/// Where the nodes of the heaps are.
const HEAPS: &str = "/dev/dma_heap";

/// A heap that is open: a place that buffers are allocated from, in memory that
/// the devices of that kind reach.
///
/// `system` is ordinary memory, page by page; others, such as `linux,cma`, are
/// the machine's.
///
/// # Examples
///
/// ```
/// use shm_dmabuf::{Error, Heap, Size};
///
/// match Heap::open("system") {
///     Ok(heap) => assert_eq!(heap.allocate(Size::KIB)?.len(), 1024),
///     // Without the driver, or for those who may not use it:
///     Err(Error::Unsupported { .. } | Error::PermissionDenied(_)) => {}
///     Err(other) => return Err(other),
/// }
/// # Ok::<(), Error>(())
/// ```
pub struct Heap {
    fd: OwnedFd,
    path: PathBuf,
}

impl Heap {
    /// Opens the heap of that name.
    ///
    /// # Errors
    ///
    /// - [`Error::InvalidName`]: it is empty, `.` or `..`, or holds a NUL or a
    ///   slash.
    /// - [`Error::Unsupported`]: the kernel has no such heap (`ENOENT`;
    ///   `CONFIG_DMABUF_HEAPS`).
    /// - [`Error::PermissionDenied`]: its node is not for this user
    ///   (`EACCES`); by default only root's.
    /// - [`Error::LimitReached`]: too many descriptors (`EMFILE`, `ENFILE`).
    #[doc(alias = "/dev/dma_heap")]
    pub fn open(name: impl AsRef<OsStr>) -> Result<Self> {
        let name = name.as_ref();
        check(name.as_bytes()).map_err(|fault| Error::InvalidName {
            name: name.to_owned(),
            fault,
        })?;
        let path = Path::new(HEAPS).join(name);
        let missing = "this kernel has no such heap (CONFIG_DMABUF_HEAPS); \
                       /dev/dma_heap lists those it has";
        Ok(Self { fd: open_device(&path, missing)?, path })
    }

    /// The names of the heaps that this kernel has, in order; none where it was
    /// built without any. They may still not be for this user.
    ///
    /// # Errors
    ///
    /// [`Error::Os`], [`Error::PermissionDenied`]: `/dev/dma_heap` cannot be
    /// read.
    pub fn list() -> Result<Vec<OsString>> {
        let failed = |error: &io::Error| {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            OsError::new("readdir", errno).on(Object::Path(HEAPS.into()))
        };
        let entries = match fs::read_dir(HEAPS) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            entries => entries.map_err(|error| failed(&error))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.map_err(|error| failed(&error))?.file_name());
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The name that it was opened by.
    #[must_use]
    pub fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }

    /// Allocates a buffer: as [`Segment::create`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Crashes
    ///
    /// As there.
    pub fn allocate(&self, size: Size) -> Result<Segment> {
        SegmentOptions::new().create(self, size)
    }

    pub(crate) fn object(&self) -> Object {
        Object::Path(self.path.clone())
    }
}

impl AsFd for Heap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Display for Heap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.object().fmt(f)
    }
}

impl fmt::Debug for Heap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Heap({:?})", self.name())
    }
}

/// Opens a driver's node; without it, `missing` is what cannot be done.
pub(crate) fn open_device(
    path: &Path,
    missing: &'static str,
) -> Result<OwnedFd> {
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
    fcntl::open(path, flags, Mode::empty()).map_err(|errno| {
        let os = OsError::new("open", errno as i32)
            .on(Object::Path(path.to_owned()));
        match errno {
            // ENXIO and ENODEV: a node without a driver.
            Errno::ENOENT | Errno::ENXIO | Errno::ENODEV => {
                Error::Unsupported { what: missing, os: Some(os) }
            }
            Errno::EACCES => os
                .hint("by default it is root's: a rule of udev gives it away")
                .into(),
            _ => os.into(),
        }
    })
}

/// The label of a buffer, checked once: 1 to 31 bytes without a slash or NUL,
/// and neither `.` nor `..`.
///
/// It shows in `/proc/PID/fd` and `/proc/PID/maps` as `/dmabuf:LABEL`, for
/// people. It need not be unique, and no call finds a buffer by it: buffers are
/// found by having been handed their descriptor.
///
/// The kernel would also take slashes, dots and nothing; they are refused so
/// that a label is one for the siblings too.
///
/// # Examples
///
/// ```
/// use shm_dmabuf::Label;
///
/// assert_eq!(Label::new("frames")?.to_string(), "dmabuf:frames");
/// assert!(Label::new("").is_err());
/// # Ok::<(), shm_dmabuf::Error>(())
/// ```
///
/// # Sources
///
/// `<linux/dma-buf.h>`, `DMA_BUF_SET_NAME`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    /// Invariant: the label, then zeros, at least one.
    label: [u8; DMA_BUF_NAME_LEN],
}

impl Label {
    /// The greatest length in bytes.
    pub const MAX_LEN: usize = DMA_BUF_NAME_LEN - 1;

    /// Checks a label.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`]: it is empty, `.` or `..`, holds a NUL or a
    /// slash, or is longer than 31 bytes.
    pub fn new(label: impl AsRef<OsStr>) -> Result<Self> {
        let given = label.as_ref().as_bytes();
        let invalid = |fault| Error::InvalidName {
            name: label.as_ref().to_owned(),
            fault,
        };
        check(given).map_err(invalid)?;
        if given.len() > Self::MAX_LEN {
            return Err(invalid(NameFault::TooLong { max: Self::MAX_LEN }));
        }
        let mut label = [0; DMA_BUF_NAME_LEN];
        label[..given.len()].copy_from_slice(given);
        Ok(Self { label })
    }

    /// The label as `DMA_BUF_SET_NAME` takes it.
    #[must_use]
    pub fn as_c_str(&self) -> &CStr {
        // By the invariant there is a NUL.
        CStr::from_bytes_until_nul(&self.label).unwrap_or_default()
    }
}

/// What is wrong with a name, other than its length.
fn check(name: &[u8]) -> Result<(), NameFault> {
    match name {
        [] => Err(NameFault::Empty),
        b"." | b".." => Err(NameFault::Dots),
        _ if name.contains(&0) => Err(NameFault::Nul),
        _ if name.contains(&b'/') => Err(NameFault::Slash),
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
        let label = OsStr::from_bytes(self.as_c_str().to_bytes());
        write!(f, "dmabuf:{}", label.display())
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Label({:?})", self.as_c_str())
    }
}
