//! How a segment is created and opened, in the manner of
//! [`std::fs::OpenOptions`].

use shm_common::{
    HugePages, Origin, ReadOnly, ReadWrite, Reserve, Result, Size,
};

use crate::{Id, Key, Segment};

/// Options for [`Segment`]; the defaults are what [`Segment::create`] and
/// [`Segment::open`] use.
///
/// # Examples
///
/// ```
/// use shm_sysv::{Key, SegmentOptions, Size};
///
/// let segment = SegmentOptions::new()
///     .mode(0o640)
///     .remove_on_last_detach()
///     .create(Key::PRIVATE, Size::MIB)?;
/// let stat = segment.stat()?;
/// assert_eq!(stat.mode, 0o640); // whatever the umask
/// assert!(stat.removed); // and yet others attach, by its id
/// # Ok::<(), shm_sysv::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
#[must_use = "options do nothing until `create` or `open` is called"]
pub struct SegmentOptions {
    pub(crate) mode: u32,
    pub(crate) reserve: Reserve,
    pub(crate) huge_pages: HugePages,
    pub(crate) remove_on_last_detach: bool,
}

impl SegmentOptions {
    /// Mode 0600, pages reserved at creation, no huge pages, removed by the
    /// creator.
    pub const fn new() -> Self {
        Self {
            mode: 0o600,
            reserve: Reserve::Now,
            huge_pages: HugePages::No,
            remove_on_last_detach: false,
        }
    }

    /// The permission bits of a new segment, `0..=0o777`; others are dropped.
    /// The umask does not apply, and executable bits mean nothing.
    pub const fn mode(mut self, mode: u32) -> Self {
        self.mode = mode & 0o777;
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

    /// Which pages to use.
    pub const fn huge_pages(mut self, huge_pages: HugePages) -> Self {
        self.huge_pages = huge_pages;
        self
    }

    /// Lets the kernel free the segment with its last attachment, whatever
    /// becomes of the processes; `SIGKILL` of all of them leaves nothing.
    ///
    /// Linux lets others attach meanwhile, but only by [`Id`]: the key is taken
    /// off at once. Only a kill between the first system call of `create` and
    /// its third leaves the segment behind, for [`list`](crate::list) to show.
    pub const fn remove_on_last_detach(mut self) -> Self {
        self.remove_on_last_detach = true;
        self
    }

    /// As [`Segment::create`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn create(self, key: Key, size: Size) -> Result<Segment> {
        Segment::create_with(self, key, size)
    }

    /// As [`Segment::open`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn open(self, key: Key) -> Result<Segment<ReadWrite>> {
        Segment::open_with(self, key)
    }

    /// As [`Segment::open_read_only`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn open_read_only(self, key: Key) -> Result<Segment<ReadOnly>> {
        Segment::open_with(self, key)
    }

    /// As [`Segment::open_id`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn open_id(self, id: Id) -> Result<Segment<ReadWrite>> {
        Segment::open_id_with(self, id)
    }

    /// As [`Segment::open_id_read_only`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn open_id_read_only(self, id: Id) -> Result<Segment<ReadOnly>> {
        Segment::open_id_with(self, id)
    }

    /// As [`Segment::open_or_create`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn open_or_create(
        self,
        key: Key,
        size: Size,
    ) -> Result<(Segment, Origin)> {
        Segment::open_or_create_with(self, key, size)
    }
}

impl Default for SegmentOptions {
    fn default() -> Self {
        Self::new()
    }
}
