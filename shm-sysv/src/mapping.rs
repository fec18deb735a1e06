//! The attached range: shared memory at an address of this process.
#![expect(unsafe_code, reason = "owns an address range of shmat(2)")]

use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use shm_common::{
    Access, AsSharedBytes, HugePages, OsError, PageSize, Result, SharedBytes,
    Size,
};

use crate::identity::by_id;
use crate::{Id, raw};

/// A segment at an address of this process, detached on drop, once its handle
/// is dropped too.
///
/// It holds on to the segment by itself: the [`Segment`](crate::Segment) may be
/// dropped and the segment removed, the bytes stay. A forked child inherits the
/// mapping, at the same address and still shared; exec detaches it.
///
/// # Crashes
///
/// An access gets `SIGBUS` if its pages come from a huge-page pool that is
/// empty and were not reserved. Nobody can shrink a System V segment.
///
/// # Sources
///
/// shmat(2), shmdt(2).
pub struct Mapping<A: Access> {
    attachment: Arc<Attachment>,
    /// Invariant: `attachment` can be read; it can be written if `A` is
    /// `ReadWrite`.
    _access: PhantomData<A>,
}

/// What the kernel counts: one shmat that has not been detached.
struct Attachment {
    /// Invariants:
    /// 1. `start..start + mapped_len` is an attached range that this value
    ///    alone owns: it is made in `Mapping::new` and detached in `drop`, only
    ///    there.
    /// 2. `len <= mapped_len <= isize::MAX`.
    start: NonNull<u8>,
    len: usize,
    mapped_len: usize,
}

impl<A: Access> Mapping<A> {
    /// Attaches the segment, whose size is told by `size` once it is attached:
    /// from then on its identifier cannot come to mean another segment, of
    /// another size.
    pub(crate) fn new(
        id: Id,
        size: impl FnOnce() -> Result<Size>,
        page_size: PageSize,
        huge_pages: HugePages,
    ) -> Result<Self> {
        let flags = match A::WRITABLE {
            true => 0,
            false => libc::SHM_RDONLY,
        };
        // SAFETY: 1. no SHM_REMAP.
        let start = unsafe { raw::shmat(id.as_raw(), flags) };
        let start = start.map_err(by_id)?.cast();
        // From here on, dropping this detaches it again.
        let mut attachment = Attachment { start, len: 0, mapped_len: 0 };
        let size = size()?;
        attachment.len = size.bytes();
        attachment.mapped_len = page_size.round_up(size)?.bytes();
        let mapping =
            Self { attachment: Arc::new(attachment), _access: PhantomData };
        if huge_pages == HugePages::Transparent {
            match mapping.advise(libc::MADV_HUGEPAGE) {
                // A hint, which a kernel built without them does not take.
                Err(os) if os.errno() == libc::EINVAL => {}
                advised => advised?,
            }
        }
        Ok(mapping)
    }

    /// The same attachment for one more user: attaching again would give the
    /// same bytes at a second address, for two more system calls.
    pub(crate) fn share(&self) -> Self {
        Self { attachment: Arc::clone(&self.attachment), _access: PhantomData }
    }

    /// The bytes of the segment.
    #[must_use]
    pub fn bytes(&self) -> SharedBytes<'_, A> {
        let Attachment { start, len, .. } = *self.attachment;
        // SAFETY: 1. one attachment, `len <= isize::MAX` (its invariants), for
        // as long as `self` is borrowed. 2. The kernel fills fresh pages with
        // zeros; readable and writable by the invariant of `Mapping`. 3. No
        // reference to these bytes is ever made here, nor does anyone else know
        // the address but through a view.
        unsafe { SharedBytes::from_raw_parts(start, len) }
    }

    /// The length of the segment in bytes: as asked for at creation,
    /// `1..=isize::MAX`.
    #[expect(
        clippy::len_without_is_empty,
        reason = "a segment has at least one byte"
    )]
    #[must_use]
    pub fn len(&self) -> usize {
        self.attachment.len
    }

    /// The length of the address range in bytes: whole pages. The kernel does
    /// not tell which pages a segment is made of, so where another process
    /// created it from huge pages, the range is longer than this.
    #[must_use]
    pub fn mapped_len(&self) -> usize {
        self.attachment.mapped_len
    }

    /// Brings every page into this process's page table now, so that the first
    /// touch of each costs no fault.
    ///
    /// # Errors
    ///
    /// [`Error::Os`](crate::Error::Os): a page cannot be had, where a touch
    /// would be a `SIGBUS` (`EFAULT`); the kernel is older than 5.14
    /// (`EINVAL`).
    ///
    /// # Sources
    ///
    /// madvise(2), `MADV_POPULATE_WRITE`.
    pub fn populate(&self) -> Result<()> {
        let advice = match A::WRITABLE {
            true => libc::MADV_POPULATE_WRITE,
            false => libc::MADV_POPULATE_READ,
        };
        Ok(self.advise(advice)?)
    }

    fn advise(&self, advice: libc::c_int) -> Result<(), OsError> {
        let Attachment { start, mapped_len, .. } = *self.attachment;
        // SAFETY: 1. invariant 1: attached, and shmat begins on a page. 2. The
        // callers in this file only pass advice that leaves contents alone.
        unsafe { raw::madvise(start.cast(), mapped_len, advice) }
    }
}

// SAFETY: 1. The range stays where it is until the last user drops it, also
// when the value is moved. 2. See `bytes`.
unsafe impl<A: Access> AsSharedBytes for Mapping<A> {
    type Access = A;

    fn as_shared_bytes(&self) -> SharedBytes<'_, A> {
        self.bytes()
    }
}

// SAFETY: an attachment belongs to the process, not to a thread; any thread may
// detach it, and the bytes are only reached through views, which are `Send`.
unsafe impl Send for Attachment {}
// SAFETY: `&Attachment` only gives views, which are `Sync`.
unsafe impl Sync for Attachment {}

impl Drop for Attachment {
    fn drop(&mut self) {
        // SAFETY: 1. exactly the range that `new` attached; the views borrowed
        // a `Mapping` that held this, so none is left.
        let detached = unsafe { raw::shmdt(self.start.cast()) };
        // It fails only where nothing is attached.
        debug_assert_eq!(detached, Ok(()));
    }
}

impl<A: Access> fmt::Debug for Mapping<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping")
            .field("bytes", &self.bytes())
            .field("mapped_len", &self.mapped_len())
            .finish()
    }
}
