//! The accesses as `asm!`, at the speed of `memcpy`.
//!
//! | bytes | how |
//! |---|---|
//! | 1, 2, 4, 8, 16 | one instruction, inline where the length is a constant |
//! | up to 256 | all loads, then all stores: half of them count from the start, half from the end, and they meet or overlap in the middle |
//! | more | the same for 64 bytes of head and 128 of tail; in between blocks of 128 that start on a cache line of the destination |
//!
//! Measured on Zen 4 against glibc 2.36. Half the width (SSE2) reaches only 0.6
//! of `memcpy` below 16 KiB, hence AVX; a destination aligned to 32 instead of
//! 64 bytes loses up to a quarter from 1 MiB on; prefetching gains nothing.
//! `rep movsb` wins nowhere, and where the destination lies a few bytes after
//! the source, modulo a page, it is 20 times slower.
#![expect(
    unsafe_code,
    reason = "inline assembly is the only way to spell these accesses"
)]

use std::arch::asm;
use std::arch::x86_64::{__m128i, _mm_set1_epi8};
use std::sync::atomic::{AtomicBool, Ordering};

/// A function that moves `len` bytes from the first pointer to the second.
type Move = unsafe fn(*const u8, *mut u8, usize);

/// Set once AVX is known to be usable: the processor has it and the kernel
/// saves its registers.
static AVX: AtomicBool = AtomicBool::new(cfg!(target_feature = "avx"));

/// Copies `len` bytes of shared memory into private memory.
///
/// # Safety
///
/// 1. `src..src + len` can be read, and is initialised.
/// 2. This program accesses those bytes only atomically during the call, as
///    far as it writes.
/// 3. `dst..dst + len` can be written, and nobody else accesses it during the
///    call.
#[inline]
pub(crate) unsafe fn read(src: *const u8, dst: *mut u8, len: usize) {
    let read: Move = match len {
        1 => read_word::<u8>,
        2 => read_word::<u16>,
        4 => read_word::<u32>,
        8 => read_word::<u64>,
        16 => read_word::<__m128i>,
        _ => transfer,
    };
    // SAFETY: 1. to 3. are promised to us; a word is as long as `len`.
    unsafe { read(src, dst, len) }
}

/// Copies `len` bytes of private memory into shared memory.
///
/// # Safety
///
/// 1. `src..src + len` can be read, is initialised, and nobody writes it during
///    the call.
/// 2. `dst..dst + len` can be written.
/// 3. This program accesses the destination only atomically during the call.
#[inline]
pub(crate) unsafe fn write(src: *const u8, dst: *mut u8, len: usize) {
    let write: Move = match len {
        1 => write_word::<u8>,
        2 => write_word::<u16>,
        4 => write_word::<u32>,
        8 => write_word::<u64>,
        16 => write_word::<__m128i>,
        _ => transfer,
    };
    // SAFETY: 1. to 3. are promised to us; a word is as long as `len`.
    unsafe { write(src, dst, len) }
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
#[inline(never)]
pub(crate) unsafe fn transfer(src: *const u8, dst: *mut u8, len: usize) {
    let transfer: Move = if len <= 64 {
        transfer_short
    } else if !AVX.load(Ordering::Relaxed) {
        transfer_sse2
    } else if len <= 128 {
        transfer_128_avx
    } else if len <= 256 {
        transfer_256_avx
    } else {
        transfer_avx
    };
    // SAFETY: 1. to 3. are promised to us. 4. The comparisons gave each its
    // lengths. 5. `AVX` was set.
    unsafe { transfer(src, dst, len) }
}

/// Sets `len` bytes of shared memory to `value`.
///
/// # Safety
///
/// 1. `dst..dst + len` can be written.
/// 2. This program accesses those bytes only atomically during the call.
pub(crate) unsafe fn fill(dst: *mut u8, value: u8, len: usize) {
    let fill = if len > 64 && AVX.load(Ordering::Relaxed) {
        fill_avx
    } else {
        fill_sse2
    };
    // SAFETY: 1. and 2. are promised to us. 3. and 4. were checked just now.
    unsafe { fill(dst, value, len) }
}

/// What one instruction moves.
trait Word: Copy {
    /// Loads a word of any alignment.
    ///
    /// # Safety
    ///
    /// 1. The bytes at `from` can be read, and are initialised.
    /// 2. This program writes them only atomically during the call.
    unsafe fn load(from: *const u8) -> Self;

    /// Stores a word at any alignment.
    ///
    /// # Safety
    ///
    /// 1. The bytes at `to` can be written.
    /// 2. This program accesses them only atomically during the call.
    unsafe fn store(self, to: *mut u8);
}

macro_rules! words {
    ($($word:ty: $class:ident, $load:expr, $store:expr;)*) => {$(
        impl Word for $word {
            #[inline(always)]
            unsafe fn load(from: *const u8) -> Self {
                let value;
                // SAFETY: stands for one relaxed load of each byte at `from`,
                // which the caller's 1. and 2. allow.
                unsafe {
                    asm!(
                        $load,
                        value = out($class) value,
                        from = in(reg) from,
                        options(nostack, preserves_flags),
                    );
                }
                value
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut u8) {
                // SAFETY: stands for one relaxed store of each byte at `to`,
                // which the caller's 1. and 2. allow.
                unsafe {
                    asm!(
                        $store,
                        to = in(reg) to,
                        value = in($class) self,
                        options(nostack, preserves_flags),
                    );
                }
            }
        }
    )*};
}

// Code that is compiled for AVX leaves the upper halves of its registers in
// use; there the old encoding stalls.
#[cfg(not(target_feature = "avx"))]
macro_rules! movdqu {
    ($operands:literal) => {
        concat!("movdqu ", $operands)
    };
}
#[cfg(target_feature = "avx")]
macro_rules! movdqu {
    ($operands:literal) => {
        concat!("vmovdqu ", $operands)
    };
}

words! {
    u8: reg_byte, "mov {value}, [{from}]", "mov [{to}], {value}";
    u16: reg, "mov {value:x}, [{from}]", "mov [{to}], {value:x}";
    u32: reg, "mov {value:e}, [{from}]", "mov [{to}], {value:e}";
    u64: reg, "mov {value}, [{from}]", "mov [{to}], {value}";
    __m128i: xmm_reg, movdqu!("{value}, [{from}]"), movdqu!("[{to}], {value}");
}

/// [`read`] for `len == size_of::<W>()`.
#[inline(always)]
unsafe fn read_word<W: Word>(src: *const u8, dst: *mut u8, _len: usize) {
    // SAFETY: 1. and 2. are `read`'s 1. and 2.
    let word = unsafe { W::load(src) };
    // SAFETY: by `read`'s 3. the bytes can be written and are not shared; no
    // alignment is needed.
    unsafe { dst.cast::<W>().write_unaligned(word) }
}

/// [`write`] for `len == size_of::<W>()`.
#[inline(always)]
unsafe fn write_word<W: Word>(src: *const u8, dst: *mut u8, _len: usize) {
    // SAFETY: by `write`'s 1. the bytes can be read, are initialised and not
    // written by others; no alignment is needed, and any bytes are a `W`.
    let word = unsafe { src.cast::<W>().read_unaligned() };
    // SAFETY: 1. and 2. are `write`'s 2. and 3.
    unsafe { word.store(dst) }
}

/// [`transfer`] for `len == size_of::<W>()`.
#[inline(always)]
unsafe fn transfer_word<W: Word>(src: *const u8, dst: *mut u8, _len: usize) {
    // SAFETY: 1. and 2. are `transfer`'s 1. and 3.
    let word = unsafe { W::load(src) };
    // SAFETY: 1. and 2. are `transfer`'s 2. and 3.
    unsafe { word.store(dst) }
}

/// [`transfer`] for `N` words from the start and `N` up to the end.
///
/// # Safety
///
/// 1. to 3. as for [`transfer`].
/// 4. `len` is `N * size_of::<W>()` at least and twice that at most.
#[inline(always)]
unsafe fn transfer_ends<W: Word, const N: usize>(
    src: *const u8,
    dst: *mut u8,
    len: usize,
) {
    let offset = |i| {
        let back = if i < N { 0 } else { len - 2 * N * size_of::<W>() };
        i * size_of::<W>() + back
    };
    let _ = (src, dst, offset);
}
