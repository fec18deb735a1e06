//! The accesses as the abstract machine knows them, byte by byte: right on
//! every target and under Miri, and a tenth of the speed of `memcpy`.
#![expect(
    unsafe_code,
    reason = "makes slices of atomics from the addresses it is given"
)]

use std::mem::MaybeUninit;
use std::slice;
use std::sync::atomic::{AtomicU8, Ordering};

/// Copies `len` bytes of shared memory into private memory.
///
/// # Safety
///
/// 1. `src..src + len` can be read, and is initialised.
/// 2. This program accesses those bytes only atomically during the call, as
///    far as it writes.
/// 3. `dst..dst + len` can be written, and nobody else accesses it during the
///    call.
pub(crate) unsafe fn read(src: *const u8, dst: *mut u8, len: usize) {
    // SAFETY: 1. and 2. are promised to us.
    let src = unsafe { shared(src, len) };
    // SAFETY: std asks for 1. `len` writable bytes in one allocation, 2. that
    // nobody else accesses: by 3.; 3. initialised: `MaybeUninit` always is.
    let dst = unsafe {
        slice::from_raw_parts_mut(dst.cast::<MaybeUninit<u8>>(), len)
    };
    for (from, to) in src.iter().zip(dst) {
        to.write(from.load(Ordering::Relaxed));
    }
}

/// Copies `len` bytes of private memory into shared memory.
///
/// # Safety
///
/// 1. `src..src + len` can be read, is initialised, and nobody writes it during
///    the call.
/// 2. `dst..dst + len` can be written.
/// 3. This program accesses the destination only atomically during the call.
pub(crate) unsafe fn write(src: *const u8, dst: *mut u8, len: usize) {
    // SAFETY: std asks for `len` readable bytes in one allocation that are
    // initialised and that nobody writes: 1.
    let src = unsafe { slice::from_raw_parts(src, len) };
    // SAFETY: 1. and 2. are promised to us, as 2. and 3.
    let dst = unsafe { shared(dst, len) };
    for (from, to) in src.iter().zip(dst) {
        to.store(*from, Ordering::Relaxed);
    }
}

/// Copies `len` bytes of shared memory to shared memory. The two may overlap;
/// then the destination gets what the source held before.
///
/// # Safety
///
/// 1. `src..src + len` can be read, and is initialised.
/// 2. `dst..dst + len` can be written.
/// 3. This program accesses both only atomically during the call, as far as it
///    writes the source.
pub(crate) unsafe fn transfer(src: *const u8, dst: *mut u8, len: usize) {
    // Ascending order would overwrite what it has yet to read.
    let backwards = dst.addr().wrapping_sub(src.addr()) < len;
    // SAFETY: 1. and 2. are promised to us, as 1. and 3.
    let src = unsafe { shared(src, len) };
    // SAFETY: 1. and 2. are promised to us, as 2. and 3.
    let dst = unsafe { shared(dst, len) };
    let step = |(from, to): (&AtomicU8, &AtomicU8)| {
        to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
    };
    if backwards {
        src.iter().zip(dst).rev().for_each(step);
    } else {
        src.iter().zip(dst).for_each(step);
    }
}

/// Sets `len` bytes of shared memory to `value`.
///
/// # Safety
///
/// 1. `dst..dst + len` can be written.
/// 2. This program accesses those bytes only atomically during the call.
pub(crate) unsafe fn fill(dst: *mut u8, value: u8, len: usize) {
    // SAFETY: 1. and 2. are promised to us.
    for to in unsafe { shared(dst, len) } {
        to.store(value, Ordering::Relaxed);
    }
}

/// The bytes as atomics.
///
/// # Safety
///
/// While the slice is in use:
/// 1. `start..start + len` lies in one allocation or mapping and can be read,
///    and also written if the caller stores; `len` is at most `isize::MAX`.
/// 2. This program accesses those bytes only atomically, as far as anyone
///    writes.
unsafe fn shared<'a>(start: *const u8, len: usize) -> &'a [AtomicU8] {
    // SAFETY: 1. An `AtomicU8` is laid out as a `u8`, and aligned anywhere.
    // 2. The bytes are readable, in one allocation and not too many: 1.
    // 3. Others may write them, because the slice is of atomics: 2. 4. Where
    // they cannot be written, they are only loaded, which std allows for
    // atomics up to the width of a pointer.
    unsafe { slice::from_raw_parts(start.cast::<AtomicU8>(), len) }
}
