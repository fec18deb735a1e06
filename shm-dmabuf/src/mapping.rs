//! The attached range: shared memory at an address of this process.
#![expect(unsafe_code, reason = "owns an address range of mmap(2)")]

use std::fmt;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use shm_common::{
    Access, AsSharedBytes, Error, PageSize, Result, SharedBytes, Size,
};

use crate::raw;

/// A buffer at an address of this process, unmapped on drop.
///
/// It holds on to the buffer by itself: the [`Segment`](crate::Segment) may be
/// dropped, the bytes stay. A forked child inherits the mapping, at the same
/// address and still shared; exec removes it.
///
/// Devices write without the processor knowing: see
/// [`Segment::cpu_access`](crate::Segment::cpu_access). Atomic words work
/// between processors, in ordinary memory as udmabuf and the system heap give
/// it; what another driver's memory makes of them is for that driver to say
/// (`docs/unsafe.md`). No process can sleep on one: a futex here is `EFAULT`.
///
/// # Crashes
///
/// None known for buffers of this crate's making: all pages are there from the
/// beginning, and nobody can take one away. A foreign driver may still answer a
/// touch with `SIGBUS`, for example when its device is gone.
///
/// # Sources
///
/// mmap(2), munmap(2), `<linux/dma-buf.h>`.
pub struct Mapping<A: Access> {
    /// Invariants:
    /// 1. `start..start + mapped_len` is a shared mapping that this value alone
    ///    owns: it is made in `new` and unmapped in `drop`, only there.
    /// 2. It can be read; it can be written if `A` is `ReadWrite`.
    /// 3. `len <= mapped_len <= isize::MAX`.
    start: NonNull<u8>,
    len: usize,
    mapped_len: usize,
    _access: PhantomData<A>,
}

impl<A: Access> Mapping<A> {
    pub(crate) fn new(fd: BorrowedFd<'_>, size: Size) -> Result<Self> {
        let mapped_len = PageSize::base().round_up(size)?.bytes();
        let prot = match A::WRITABLE {
            true => libc::PROT_READ | libc::PROT_WRITE,
            false => libc::PROT_READ,
        };
        // Only shared: drivers refuse a private mapping.
        // SAFETY: 1. MAP_SHARED replaces nothing.
        let start =
            unsafe { raw::mmap(mapped_len, prot, libc::MAP_SHARED, fd, 0) };
        let start = start.map_err(|os| match os.errno() {
            // The range and the flags are right, so it is the driver.
            libc::EINVAL => Error::Unsupported {
                what: "the driver that made this buffer does not let the \
                       processor map it",
                os: Some(os),
            },
            _ => os.into(),
        })?;
        Ok(Self {
            start: start.cast(),
            len: size.bytes(),
            mapped_len,
            _access: PhantomData,
        })
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
