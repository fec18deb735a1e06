//! Control words: real atomics inside a view.
#![expect(
    unsafe_code,
    reason = "makes references to atomics from a view's checked addresses"
)]

use std::sync::atomic::{
    AtomicI32, AtomicU8, AtomicU16, AtomicU32, AtomicUsize, Ordering, fence,
};
#[cfg(target_has_atomic = "64")]
use std::sync::atomic::{AtomicI64, AtomicU64};

use crate::{Access, Error, ReadWrite, Result, SharedBytes};

impl<'a, A: Access> SharedBytes<'a, A> {
    /// The atomic `T` at `offset`, once its bytes are known to be inside and
    /// its address to be a multiple of its alignment.
    ///
    /// # Safety
    ///
    /// 1. `T` is one of `std::sync::atomic`'s integers.
    /// 2. If `A` is `ReadOnly`, the caller only makes relaxed loads, and `T` is
    ///    no wider than a pointer.
    #[inline]
    unsafe fn atomic<T>(self, offset: usize) -> Result<&'a T> {
        let address = self.check(offset, size_of::<T>())?.cast::<T>();
        if !address.is_aligned() {
            return Err(Error::Misaligned { offset, align: align_of::<T>() });
        }
        // SAFETY: 1. aligned, and 2. inside the view: both checked just now.
        // 3. Valid for `'a` by invariants 1 and 2 of the view. 4. Never
        // accessed non-atomically where that could race: invariant 3.
        // 5. Writable unless the caller only makes relaxed loads, which std
        // allows on read-only memory up to the width of a pointer ("atomic
        // accesses to read-only memory").
        Ok(unsafe { address.as_ref() })
    }
}

macro_rules! atomic_words {
    ($($atomic:ident $name:ident,)*) => {
        impl<'a> SharedBytes<'a, ReadWrite> {$(
            #[doc = concat!("The [`", stringify!($atomic), "`] at `offset`.")]
            ///
            /// While others may write this word, nobody touches it by a bulk
            /// access or at another width.
            ///
            /// # Errors
            ///
            /// - [`Error::OutOfBounds`]: the view ends before the word does.
            /// - [`Error::Misaligned`]: the word's address is no multiple of
            ///   its size. Mappings begin on a page, so the offset decides.
            #[inline]
            pub fn $name(self, offset: usize) -> Result<&'a $atomic> {
                // SAFETY: 1. a std atomic; 2. the view is `ReadWrite`.
                unsafe { self.atomic(offset) }
            }
        )*}
    };
}

macro_rules! loads {
    ($($atomic:ident $integer:ident $name:ident $load:ident,)*) => {
        impl<A: Access> SharedBytes<'_, A> {$(
            #[doc = concat!(
                "Loads the word that others write through [`",
                stringify!($name), "`](SharedBytes::", stringify!($name),
                "), with acquire order."
            )]
            ///
            /// # Errors
            ///
            /// As for the atomic itself: [`Error::OutOfBounds`],
            /// [`Error::Misaligned`].
            #[inline]
            pub fn $load(self, offset: usize) -> Result<$integer> {
                // SAFETY: 1. a std atomic; 2. one relaxed load, no wider than a
                // pointer on this target.
                let word = unsafe { self.atomic::<$atomic>(offset)? };
                let value = word.load(Ordering::Relaxed);
                // On read-only memory std vouches for no stronger load; the
                // fence makes it an acquire all the same.
                fence(Ordering::Acquire);
                Ok(value)
            }
        )*}
    };
}

atomic_words! {
    AtomicU8 atomic_u8,
    AtomicU16 atomic_u16,
    AtomicU32 atomic_u32,
    AtomicI32 atomic_i32,
    AtomicUsize atomic_usize,
}

#[cfg(target_has_atomic = "64")]
atomic_words! {
    AtomicU64 atomic_u64,
    AtomicI64 atomic_i64,
}

loads! {
    AtomicU8 u8 atomic_u8 load_u8,
    AtomicU16 u16 atomic_u16 load_u16,
    AtomicU32 u32 atomic_u32 load_u32,
    AtomicI32 i32 atomic_i32 load_i32,
    AtomicUsize usize atomic_usize load_usize,
}

// A 32-bit processor may load a 64-bit atomic by writing it, which read-only
// memory does not allow.
#[cfg(target_pointer_width = "64")]
loads! {
    AtomicU64 u64 atomic_u64 load_u64,
    AtomicI64 i64 atomic_i64 load_i64,
}
