//! How a segment is created and opened, in the manner of
//! [`std::fs::OpenOptions`].

use std::time::Duration;

use shm_common::{
    HugePages, Origin, ReadOnly, ReadWrite, Reserve, Result, Size,
};

use crate::{Name, Segment};

/// Options for [`Segment`]; the defaults are what [`Segment::create`] and
/// [`Segment::open`] use.
///
/// # Examples
///
/// ```
/// use shm_posix::{Name, SegmentOptions, Size};
///
/// let name = Name::new(format!("/doc-options-{}", std::process::id()))?;
/// let segment =
///     SegmentOptions::new().mode(0o640).create(&name, Size::MIB)?;
/// assert_eq!(segment.stat()?.mode, 0o640); // whatever the umask
/// # Ok::<(), shm_posix::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
#[must_use = "options do nothing until `create` or `open` is called"]
pub struct SegmentOptions {
    pub(crate) mode: u32,
    pub(crate) reserve: Reserve,
    pub(crate) huge_pages: HugePages,
    pub(crate) open_timeout: Duration,
}

impl SegmentOptions {
    /// Mode 0600, pages reserved at creation, no huge pages, and up to a second
    /// of waiting for a segment that another process is still making.
    pub const fn new() -> Self {
        Self {
            mode: 0o600,
            reserve: Reserve::Now,
            huge_pages: HugePages::No,
            open_timeout: Duration::from_secs(1),
        }
    }

    /// The permission bits of a new segment, `0..=0o777`; others are dropped.
    /// The umask does not apply.
    pub const fn mode(mut self, mode: u32) -> Self {
        self.mode = mode & 0o777;
        self
    }

    /// When the pages of a new segment are claimed.
    ///
    /// # Crashes
    ///
    /// With [`Reserve::OnTouch`], a first touch when `/dev/shm` is full is a
    /// `SIGBUS`, in whichever process touches.
    pub const fn reserve(mut self, reserve: Reserve) -> Self {
        self.reserve = reserve;
        self
    }

    /// Which pages to use. [`HugePages::Pool`] is [`Error::Unsupported`](crate::Error::Unsupported) here:
    /// `/dev/shm` is a tmpfs, and the pool is only to be had through memfd and
    /// System V.
    pub const fn huge_pages(mut self, huge_pages: HugePages) -> Self {
        self.huge_pages = huge_pages;
        self
    }

    /// How long an open waits for a segment that exists and has no size yet, or
    /// whose lock a [`reap`](crate::reap) holds.
    pub const fn open_timeout(mut self, timeout: Duration) -> Self {
        self.open_timeout = timeout;
        self
    }

    /// As [`Segment::create`].
    ///
    /// # Errors
    ///
    /// As there; and [`Error::Unsupported`](crate::Error::Unsupported) for [`HugePages::Pool`].
    pub fn create(self, name: &Name, size: Size) -> Result<Segment> {
        Segment::create_with(self, name, size)
    }

    /// As [`Segment::open`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn open(self, name: &Name) -> Result<Segment<ReadWrite>> {
        Segment::open_with(self, name)
    }

    /// As [`Segment::open_read_only`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn open_read_only(self, name: &Name) -> Result<Segment<ReadOnly>> {
        Segment::open_with(self, name)
    }

    /// As [`Segment::open_or_create`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn open_or_create(
        self,
        name: &Name,
        size: Size,
    ) -> Result<(Segment, Origin)> {
        Segment::open_or_create_with(self, name, size)
    }
}

impl Default for SegmentOptions {
    fn default() -> Self {
        Self::new()
    }
}
