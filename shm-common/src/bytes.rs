//! The only way to touch shared memory: a view that never makes a reference to
//! bytes which another process may write.
#![expect(
    unsafe_code,
    reason = "the one place that turns a mapping's address into safe accesses"
)]

use std::fmt;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{Access, Error, ReadOnly, ReadWrite, Result, copy};

/// A view over `len` bytes that other threads and other processes may read and
/// write at any time.
///
/// It is a pointer, a length in bytes and a lifetime, and as cheap to copy. It
/// never becomes a `&[u8]`: the compiler may assume that nobody writes behind
/// such a reference, and here somebody may. Instead bytes are moved in and out
/// by copies, and control words are used through real atomics. With `A` =
/// [`ReadOnly`], what would write does not compile.
///
/// Two accesses that race give some mix of the old and the new bytes, never
/// undefined behaviour; [`atomic_u64`](Self::atomic_u64) and its siblings are
/// how two sides agree on when to read. One rule is left to the caller:
/// **while others may write a word as an atomic, do not touch it by a bulk
/// access or as an atomic of another width**, for std has no meaning for
/// accesses of mixed size that race. Keep control words and payload in views of
/// their own, by [`split_at`](Self::split_at), and it cannot happen.
///
/// # Crashes
///
/// An access is a plain load or store of the mapping. Where the kernel has no
/// page to give, the process gets `SIGBUS`: see the `# Crashes` headings of the
/// crate that made the mapping.
///
/// # Examples
///
/// A write through a read-only view does not compile:
///
/// ```compile_fail,E0599
/// # use shm_common::SharedBytes;
/// # let mut memory = [0_u8; 8];
/// let view = SharedBytes::from_mut(&mut memory).as_read_only();
/// view.write_at(0, b"no")?;
/// # Ok::<(), shm_common::Error>(())
/// ```
///
/// and a view cannot outlive its memory:
///
/// ```compile_fail,E0597
/// # use shm_common::SharedBytes;
/// let view = {
///     let mut memory = [0_u8; 8];
///     SharedBytes::from_mut(&mut memory)
/// };
/// view.len();
/// ```
pub struct SharedBytes<'a, A> {
    /// Invariants, for all of `'a`:
    /// 1. `start..start + len` lies in one allocation or mapping, and
    ///    `len <= isize::MAX`.
    /// 2. Those bytes are initialised and can be read; if `A` is `ReadWrite`
    ///    they can also be written.
    /// 3. This program makes no non-atomic access to those bytes that could
    ///    race with one through a view, and holds no `&mut [u8]` to them, nor a
    ///    `&[u8]` if anybody may write them.
    start: NonNull<u8>,
    len: usize,
    _lifetime: PhantomData<&'a [AtomicU8]>,
    _access: PhantomData<A>,
}

impl<'a, A: Access> SharedBytes<'a, A> {
    /// Makes a view of `len` bytes at `start`.
    ///
    /// # Safety
    ///
    /// For all of `'a`:
    /// 1. `start..start + len` lies in one allocation or mapping, and `len` is
    ///    at most `isize::MAX`.
    /// 2. Those bytes are initialised and can be read; if `A` is `ReadWrite`
    ///    they can also be written.
    /// 3. This program makes no non-atomic access to those bytes that could
    ///    race with one through a view, and holds no `&mut [u8]` to them, nor a
    ///    `&[u8]` if anybody may write them. (What other processes do is not
    ///    restricted.)
    #[must_use]
    pub const unsafe fn from_raw_parts(start: NonNull<u8>, len: usize) -> Self {
        Self { start, len, _lifetime: PhantomData, _access: PhantomData }
    }

    /// The length in bytes.
    #[must_use]
    pub const fn len(self) -> usize {
        self.len
    }

    /// Whether the view has no byte.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The address of the first byte, for system calls and foreign code. What
    /// they may do with it is invariant 3 of
    /// [`from_raw_parts`](Self::from_raw_parts).
    #[must_use]
    pub const fn as_ptr(self) -> *const u8 {
        self.start.as_ptr()
    }

    /// The same bytes, for reading only.
    #[must_use]
    pub const fn as_read_only(self) -> SharedBytes<'a, ReadOnly> {
        SharedBytes {
            start: self.start,
            len: self.len,
            _lifetime: PhantomData,
            _access: PhantomData,
        }
    }

    /// The view of `len` bytes from `offset`.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`]: they are not all inside this view.
    pub fn subslice(self, offset: usize, len: usize) -> Result<Self> {
        let start = self.check(offset, len)?;
        Ok(Self { start, len, ..self })
    }

    /// The views of the bytes before `offset` and from `offset` on.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`]: `offset` is greater than the length.
    pub fn split_at(self, offset: usize) -> Result<(Self, Self)> {
        let start = self.check(offset, 0)?;
        let rest = self.len - offset;
        Ok((Self { len: offset, ..self }, Self { start, len: rest, ..self }))
    }

    /// Fills all of `buffer` with the bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`]: the view ends before; nothing was read.
    #[inline]
    pub fn read_at(self, offset: usize, buffer: &mut [u8]) -> Result<()> {
        let from = self.check(offset, buffer.len())?;
        // SAFETY: `read` asks for 1. and 2., a readable source that is only
        // accessed atomically by others: `check` put it inside the view, whose
        // invariants 1 to 3 say so; and 3. a private writable destination: it
        // is a `&mut [u8]`, which by invariant 3 is no part of any view.
        unsafe {
            copy::read(from.as_ptr(), buffer.as_mut_ptr(), buffer.len());
        }
        Ok(())
    }

    /// Copies all bytes into a new vector.
    #[must_use]
    pub fn to_vec(self) -> Vec<u8> {
        let mut vec = Vec::with_capacity(self.len);
        // SAFETY: as in `read_at`: 1. and 2. by the view's invariants 1 to 3;
        // 3. the vector is fresh and has room for `len` bytes.
        unsafe {
            copy::read(self.as_ptr(), vec.as_mut_ptr(), self.len);
        }
        // SAFETY: 1. `len` is at most the capacity asked for above. 2. `read`
        // wrote the first `len` bytes.
        unsafe { vec.set_len(self.len) };
        vec
    }

    /// Copies out one value of plain data. It is whole only if its writer is
    /// done: order the two sides by an atomic.
    ///
    /// The offset needs no alignment. `T` is plain data for which every
    /// pattern of bytes is a value, so a peer cannot forge an invalid one.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`]: the view ends before the value does.
    ///
    /// # Examples
    ///
    /// ```
    /// use shm_common::SharedBytes;
    /// use zerocopy::{FromBytes, Immutable, IntoBytes};
    ///
    /// #[derive(Debug, PartialEq, FromBytes, IntoBytes, Immutable)]
    /// #[repr(C)]
    /// struct Sample {
    ///     time: u64,
    ///     value: f64,
    /// }
    ///
    /// let mut memory = [0; 64];
    /// let bytes = SharedBytes::from_mut(&mut memory);
    /// bytes.set(3, Sample { time: 7, value: 0.5 })?;
    /// assert_eq!(bytes.get::<Sample>(3)?, Sample { time: 7, value: 0.5 });
    /// # Ok::<(), shm_common::Error>(())
    /// ```
    ///
    /// A type with invalid patterns, such as `bool` or `char`, is refused:
    ///
    /// ```compile_fail,E0277
    /// # let mut memory = [0; 64];
    /// # let bytes = shm_common::SharedBytes::from_mut(&mut memory);
    /// let flag: bool = bytes.get(0)?;
    /// # Ok::<(), shm_common::Error>(())
    /// ```
    #[inline]
    pub fn get<T: FromBytes>(self, offset: usize) -> Result<T> {
        let from = self.check(offset, size_of::<T>())?;
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: as in `read_at`: 1. and 2. by the view's invariants 1 to 3;
        // 3. `value` is a local of exactly that size.
        unsafe {
            copy::read(
                from.as_ptr(),
                value.as_mut_ptr().cast(),
                size_of::<T>(),
            );
        }
        // SAFETY: all `size_of::<T>()` bytes were written, and `FromBytes`
        // promises that every pattern of bytes is a valid `T`.
        Ok(unsafe { value.assume_init() })
    }

    /// Copies all bytes to `target`, which may overlap this view; then the
    /// target ends up with what this view held before.
    ///
    /// # Errors
    ///
    /// [`Error::WrongSize`]: the two lengths differ; nothing was copied.
    pub fn copy_to(self, target: SharedBytes<'_, ReadWrite>) -> Result<()> {
        if target.len != self.len {
            return Err(Error::WrongSize {
                expected: self.len,
                actual: target.len,
            });
        }
        // SAFETY: `transfer` asks for 1. a readable source and 2. a writable
        // target of `len` bytes that 3. others access only atomically: the
        // invariants of the two views, whose lengths are equal.
        unsafe { copy::transfer(self.as_ptr(), target.as_mut_ptr(), self.len) };
        Ok(())
    }

    /// Gives the bytes as a slice, without a copy.
    ///
    /// # Safety
    ///
    /// For as long as the slice, or anything made from it, is in use:
    /// 1. Nobody writes these bytes: no other view or atomic in this process,
    ///    no other process, and no system call.
    /// 2. What others wrote before is ordered before this call, by an acquire
    ///    load of an atomic or stronger.
    #[must_use]
    pub const unsafe fn as_slice(self) -> &'a [u8] {
        // SAFETY: std asks for 1. `len` readable bytes in one allocation,
        // 2. initialised, 3. not written during the lifetime, 4. at most
        // `isize::MAX`: 1., 2. and 4. are invariants 1 and 2, 3. is what the
        // caller promises.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The address of `offset`, if `len` bytes from there are inside.
    #[inline]
    pub(crate) fn check(
        self,
        offset: usize,
        len: usize,
    ) -> Result<NonNull<u8>> {
        // One comparison that cannot wrap: offset <= self.len comes first.
        if offset > self.len || len > self.len - offset {
            return Err(out_of_bounds(offset, len, self.len));
        }
        // SAFETY: 1. `offset <= self.len <= isize::MAX`, and 2. the result is
        // inside, or one past, the one allocation of invariant 1.
        Ok(unsafe { self.start.add(offset) })
    }
}

/// Kept out of line, so that the check stays two compares and a branch.
#[cold]
fn out_of_bounds(offset: usize, len: usize, size: usize) -> Error {
    Error::OutOfBounds { offset, len, size }
}

impl<'a> SharedBytes<'a, ReadWrite> {
    /// Makes a view of ordinary memory, which is borrowed for as long as any
    /// copy of the view lives.
    #[must_use]
    pub const fn from_mut(memory: &'a mut [u8]) -> Self {
        let len = memory.len();
        // A slice is never at null.
        let start = match NonNull::new(memory.as_mut_ptr()) {
            Some(start) => start,
            None => NonNull::dangling(),
        };
        // SAFETY: 1. and 2. are what `&mut [u8]` is. 3. The exclusive borrow
        // lasts for `'a` and the reference itself ends here, so every access
        // in `'a` comes from this view.
        unsafe { Self::from_raw_parts(start, len) }
    }

    /// As [`as_ptr`](Self::as_ptr), for writing.
    #[must_use]
    pub const fn as_mut_ptr(self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Writes all of `data` from `offset` on.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`]: the view ends before; nothing was written.
    #[inline]
    pub fn write_at(self, offset: usize, data: &[u8]) -> Result<()> {
        let to = self.check(offset, data.len())?;
        // SAFETY: `write` asks for 1. a private readable source: a `&[u8]`,
        // which by invariant 3 is no part of any view; and for 2. and 3. a
        // writable target that others access only atomically: `check` put it
        // inside the view, whose invariants 1 to 3 say so.
        unsafe { copy::write(data.as_ptr(), to.as_ptr(), data.len()) };
        Ok(())
    }

    /// Writes one value of plain data at `offset`, which needs no alignment.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`]: the view ends before the value would; nothing
    /// was written.
    #[inline]
    pub fn set<T: IntoBytes + Immutable>(
        self,
        offset: usize,
        value: T,
    ) -> Result<()> {
        self.write_at(offset, value.as_bytes())
    }

    /// Sets every byte to `value`.
    pub fn fill(self, value: u8) {
        // SAFETY: `fill` asks for 1. and 2. a writable target that others
        // access only atomically: the view's invariants 1 to 3.
        unsafe { copy::fill(self.as_mut_ptr(), value, self.len) };
    }

    /// Gives the bytes as a mutable slice, without a copy.
    ///
    /// # Safety
    ///
    /// For as long as the slice, or anything made from it, is in use:
    /// 1. Nobody else reads or writes these bytes: no other view or atomic in
    ///    this process, no other process, and no system call.
    /// 2. What others wrote before is ordered before this call, by an acquire
    ///    load of an atomic or stronger.
    #[must_use]
    pub const unsafe fn as_mut_slice(self) -> &'a mut [u8] {
        // SAFETY: as in `as_slice`, and 5. no other access: promised by the
        // caller.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

// By hand, because a derive would ask for `A: Clone`.
impl<A> Clone for SharedBytes<'_, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for SharedBytes<'_, A> {}

// SAFETY: a view is an address whose every safe access is atomic, like
// `&[AtomicU8]`, which is `Send` and `Sync`; it is bound to no thread.
unsafe impl<A> Send for SharedBytes<'_, A> {}
// SAFETY: as for `Send`; `&SharedBytes` gives no more than a copy of it.
unsafe impl<A> Sync for SharedBytes<'_, A> {}

impl<A: Access> fmt::Debug for SharedBytes<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBytes")
            .field("start", &self.start)
            .field("len", &self.len)
            .field("writable", &A::WRITABLE)
            .finish()
    }
}

/// What owns a live mapping and can show the bytes in it, so that code on top
/// works with any mechanism without knowing which.
///
/// # Safety
///
/// For as long as the value lives, also when it is moved:
/// 1. Every call returns a view of the same bytes.
/// 2. That view keeps the promises of [`SharedBytes::from_raw_parts`].
pub unsafe trait AsSharedBytes {
    /// Whether the bytes can be written.
    type Access: Access;

    /// The bytes.
    fn as_shared_bytes(&self) -> SharedBytes<'_, Self::Access>;
}

macro_rules! delegate_as_shared_bytes {
    ($($pointer:ty),*) => {$(
        // SAFETY: 1. and 2. are the pointee's; it neither moves nor dies while
        // the pointer lives.
        unsafe impl<T: AsSharedBytes + ?Sized> AsSharedBytes for $pointer {
            type Access = T::Access;

            fn as_shared_bytes(&self) -> SharedBytes<'_, T::Access> {
                (**self).as_shared_bytes()
            }
        }
    )*};
}

delegate_as_shared_bytes!(&T, Box<T>, Rc<T>, Arc<T>);

// SAFETY: 1. and 2. A view is the same bytes for all of its lifetime, which
// `&self` cannot outlive.
unsafe impl<A: Access> AsSharedBytes for SharedBytes<'_, A> {
    type Access = A;

    fn as_shared_bytes(&self) -> SharedBytes<'_, A> {
        *self
    }
}
