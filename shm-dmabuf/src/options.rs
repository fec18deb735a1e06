//! How a buffer is created and opened, in the manner of
//! [`std::fs::OpenOptions`].

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use shm_common::{ReadOnly, ReadWrite, Result, Size};

use crate::{Heap, Label, Segment};

/// Options for [`Segment`]; the defaults are what [`Segment::create`] and
/// [`Segment::open`] use.
///
/// # Examples
///
/// ```no_run
/// use shm_dmabuf::{Heap, Label, SegmentOptions, Size};
///
/// let segment = SegmentOptions::new()
///     .label(Label::new("frames")?)
///     .create(&Heap::open("system")?, Size::MIB)?;
/// assert_eq!(segment.stat()?.label.unwrap(), "frames");
/// # Ok::<(), shm_dmabuf::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
#[must_use = "options do nothing until `create` or `open` is called"]
pub struct SegmentOptions {
    pub(crate) label: Option<Label>,
}

impl SegmentOptions {
    /// No label.
    pub const fn new() -> Self {
        Self { label: None }
    }

    /// The label of a new buffer. Those that are opened keep theirs.
    pub const fn label(mut self, label: Label) -> Self {
        self.label = Some(label);
        self
    }

    /// As [`Segment::create`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Crashes
    ///
    /// As there.
    pub fn create(self, heap: &Heap, size: Size) -> Result<Segment> {
        Segment::create_with(self, heap, size)
    }

    /// As [`Segment::from_memfd`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn from_memfd(
        self,
        memfd: impl AsFd,
        range: Range<usize>,
    ) -> Result<Segment> {
        Segment::from_memfds_with(self, &[(memfd.as_fd(), range)])
    }

    /// As [`Segment::from_memfds`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn from_memfds(
        self,
        parts: &[(BorrowedFd<'_>, Range<usize>)],
    ) -> Result<Segment> {
        Segment::from_memfds_with(self, parts)
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
