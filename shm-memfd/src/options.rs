//! How a segment is created and opened, in the manner of
//! [`std::fs::OpenOptions`].

use std::os::fd::OwnedFd;

use shm_common::{HugePages, ReadOnly, ReadWrite, Reserve, Result, Size};

use crate::{Label, Segment};

/// Options for [`Segment`]; the defaults are what [`Segment::create`] and
/// [`Segment::open`] use.
///
/// # Examples
///
/// ```
/// use shm_memfd::{Label, Reserve, SegmentOptions, Size};
///
/// let sparse: Size = "1TiB".parse()?;
/// let segment = SegmentOptions::new()
///     .reserve(Reserve::OnTouch)
///     .create(&Label::new("sparse")?, sparse)?;
/// assert_eq!(segment.stat()?.allocated, 0);
/// # Ok::<(), shm_memfd::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
#[must_use = "options do nothing until `create` or `open` is called"]
pub struct SegmentOptions {
    pub(crate) mode: Option<u32>,
    pub(crate) reserve: Reserve,
    pub(crate) huge_pages: HugePages,
}

impl SegmentOptions {
    /// The kernel's mode, pages reserved at creation, no huge pages.
    pub const fn new() -> Self {
        Self { mode: None, reserve: Reserve::Now, huge_pages: HugePages::No }
    }

    /// The permission bits of a new segment, `0..=0o777`; others are dropped.
    /// With an executable bit, creation is
    /// [`Error::PermissionDenied`](crate::Error::PermissionDenied) on Linux 6.3
    /// or later, where [`Seals::EXEC`](crate::Seals::EXEC) forbids it.
    ///
    /// They play no part in handing over a descriptor. They decide who may open
    /// the segment anew through `/proc/PID/fd`: 0666, the kernel's choice, lets
    /// the receiver of a read-only descriptor get a writable one that way. Only
    /// a [seal](crate::Seals) rules it out for a receiver with the same user.
    pub const fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode & 0o777);
        self
    }

    /// When the pages of a new segment are claimed.
    ///
    /// # Crashes
    ///
    /// With [`Reserve::OnTouch`], a first touch when memory has run out calls
    /// the kernel's out-of-memory killer; with pages from a pool it is a
    /// `SIGBUS`, in whichever process touches.
    pub const fn reserve(mut self, reserve: Reserve) -> Self {
        self.reserve = reserve;
        self
    }

    /// Which pages to use. With [`HugePages::Pool`] the object's size is
    /// rounded up to whole pages, and a receiver finds it at that size.
    pub const fn huge_pages(mut self, huge_pages: HugePages) -> Self {
        self.huge_pages = huge_pages;
        self
    }

    /// As [`Segment::create`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn create(self, label: &Label, size: Size) -> Result<Segment> {
        Segment::create_with(self, label, size)
    }

    /// As [`Segment::open`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn open(self, fd: impl Into<OwnedFd>) -> Result<Segment<ReadWrite>> {
        Segment::open_with(self, fd.into())
    }

    /// As [`Segment::open_read_only`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn open_read_only(
        self,
        fd: impl Into<OwnedFd>,
    ) -> Result<Segment<ReadOnly>> {
        Segment::open_with(self, fd.into())
    }
}

impl Default for SegmentOptions {
    fn default() -> Self {
        Self::new()
    }
}
