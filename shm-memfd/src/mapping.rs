//! The attached range: shared memory at an address of this process.
#![expect(unsafe_code, reason = "owns an address range of mmap(2)")]

use std::fmt;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use shm_common::{
    Access, AsSharedBytes, HugePages, OsError, PageSize, Result, SharedBytes,
    Size,
};

use crate::raw;

/// A segment at an address of this process, unmapped on drop.
///
/// It holds on to the segment by itself: the [`Segment`](crate::Segment) may be
/// dropped and the name removed, the bytes stay. A forked child inherits the
/// mapping, at the same address and still shared; exec removes it.
///
/// # Crashes
///
/// An access gets `SIGBUS` if its page comes from a huge-page pool that is
/// empty: because it was not reserved, or because somebody who may write the
/// segment has punched it out. Nobody can shrink the segment, as every one that
/// is mapped here carries `F_SEAL_SHRINK`; but that seal stops no holes, and in
/// pages of the base size what is punched out turns to zeros. `F_SEAL_WRITE`
/// and `F_SEAL_FUTURE_WRITE` stop both.
///
/// # Examples
///
/// It is no slice, since others may write; see
/// [`FrozenMapping`](crate::FrozenMapping) for one that is:
///
/// ```compile_fail,E0308
/// # use shm_memfd::{Label, Segment, Size};
/// # let segment = Segment::create(&Label::new("no-slice")?, Size::KIB)?;
/// let bytes: &[u8] = &segment.map()?;
/// # Ok::<(), shm_memfd::Error>(())
/// ```
///
/// # Sources
///
/// mmap(2), munmap(2).
pub struct Mapping<A: Access> {
    /// Invariants:
    /// 1. `start..start + mapped_len` is a mapping that this value alone owns:
    ///    it is made in `new` and unmapped in `drop`, only there. It is shared,
    ///    or of a segment that nobody can write.
    /// 2. It can be read; it can be written if `A` is `ReadWrite`.
    /// 3. `len <= mapped_len <= isize::MAX`.
    start: NonNull<u8>,
    len: usize,
    mapped_len: usize,
    _access: PhantomData<A>,
}

impl<A: Access> Mapping<A> {
    pub(crate) fn new(
        fd: BorrowedFd<'_>,
        size: Size,
        page_size: PageSize,
        huge_pages: HugePages,
    ) -> Result<Self> {
        // Whole pages also for munmap, which refuses half a huge page.
        let mapped_len = page_size.round_up(size)?.bytes();
        let prot = match A::WRITABLE {
            true => libc::PROT_READ | libc::PROT_WRITE,
            false => libc::PROT_READ,
        };
        // SAFETY: 1. MAP_SHARED replaces nothing.
        let shared =
            unsafe { raw::mmap(mapped_len, prot, libc::MAP_SHARED, fd, 0) };
        let start = match shared {
            // Before Linux 6.7, but for late releases of older series, a
            // segment sealed against writing could not be mapped shared, not
            // even for reading. A private mapping of it has the same bytes, as
            // nobody writes them; of another segment it would not, so there the
            // refusal stands.
            Err(os)
                if os.errno() == libc::EPERM
                    && !A::WRITABLE
                    && is_write_sealed(fd) =>
            {
                // SAFETY: 1. MAP_PRIVATE replaces nothing.
                unsafe {
                    raw::mmap(mapped_len, prot, libc::MAP_PRIVATE, fd, 0)?
                }
            }
            shared => shared?,
        };
        let mapping = Self {
            start: start.cast(),
            len: size.bytes(),
            mapped_len,
            _access: PhantomData,
        };
        if huge_pages == HugePages::Transparent {
            match mapping.advise(libc::MADV_HUGEPAGE) {
                // A hint, which a kernel built without them does not take.
                Err(os) if os.errno() == libc::EINVAL => {}
                advised => advised?,
            }
        }
        Ok(mapping)
    }

    /// The bytes of the segment.
    #[must_use]
    pub fn bytes(&self) -> SharedBytes<'_, A> {
        // SAFETY: 1. one mapping, `len <= isize::MAX` (invariants 1 and 3), for
        // as long as `self` is borrowed. 2. The kernel fills fresh pages with
        // zeros; readable and writable by invariant 2. 3. No reference to these
        // bytes is ever made here, nor does anyone else know the address but
        // through a view.
        unsafe { SharedBytes::from_raw_parts(self.start, self.len) }
    }

    /// The length of the segment in bytes when it was mapped: as asked for at
    /// creation, `1..=isize::MAX`.
    #[expect(
        clippy::len_without_is_empty,
        reason = "a segment has at least one byte"
    )]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The length of the address range in bytes: whole pages.
    #[must_use]
    pub fn mapped_len(&self) -> usize {
        self.mapped_len
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
        // SAFETY: 1. invariant 1: mapped, and mmap begins on a page. 2. The
        // callers in this file only pass advice that leaves contents alone.
        unsafe { raw::madvise(self.start.cast(), self.mapped_len, advice) }
    }
}

fn is_write_sealed(fd: BorrowedFd<'_>) -> bool {
    raw::fcntl_get_seals(fd).is_ok_and(|seals| seals & libc::F_SEAL_WRITE != 0)
}

// SAFETY: 1. The range stays where it is until `drop`, also when the value is
// moved. 2. See `bytes`.
unsafe impl<A: Access> AsSharedBytes for Mapping<A> {
    type Access = A;

    fn as_shared_bytes(&self) -> SharedBytes<'_, A> {
        self.bytes()
    }
}

// SAFETY: a mapping belongs to the process, not to a thread; any thread may
// unmap it, and the bytes are only reached through views, which are `Send`.
unsafe impl<A: Access> Send for Mapping<A> {}
// SAFETY: `&Mapping` only gives views, which are `Sync`.
unsafe impl<A: Access> Sync for Mapping<A> {}

impl<A: Access> Drop for Mapping<A> {
    fn drop(&mut self) {
        // SAFETY: 1. exactly the range that `new` mapped; the views borrowed
        // `self`, so none is left.
        let unmapped =
            unsafe { raw::munmap(self.start.cast(), self.mapped_len) };
        // It fails only for ranges that are not whole mappings.
        debug_assert_eq!(unmapped, Ok(()));
    }
}

impl<A: Access> fmt::Debug for Mapping<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping")
            .field("bytes", &self.bytes())
            .field("mapped_len", &self.mapped_len)
            .finish()
    }
}
