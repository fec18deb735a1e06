//! The accesses as `asm!`, at the speed of `memcpy`.
//!
//! | bytes | how |
//! |---|---|
//! | 1, 2, 4, 8, 16 | one load and one store; inline where `len` is a constant |
//! | 32, 64 | out of or into private memory: by 16 bytes; inline where `len` is a constant |
//! | up to 256 | all loads, then all stores: one half counts from the start, the other back from the end, and they meet or overlap |
//! | more | the same for 64 bytes at each end; in between, blocks of 64 that start on a cache line of the destination |
//!
//! Measured on Zen 4 against glibc 2.36: half the width (SSE2) reaches 0.6 of
//! `memcpy` up to 16 KiB, hence AVX. A destination aligned to 32 instead of 64
//! bytes costs up to half the speed from 1 MiB on. Prefetching gains nothing.
//! `rep movsb` gains nothing either, and is 20 times slower where the
//! destination lies a few bytes after the source, modulo a page.
#![expect(
    unsafe_code,
    reason = "only inline assembly can say these accesses at full width"
)]

use std::arch::asm;
use std::arch::x86_64::{__m128i, _mm_set1_epi8};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether AVX is known to be usable: the processor has it, and the kernel
/// keeps its registers. The first long call that finds it unset looks.
static AVX: AtomicBool = AtomicBool::new(cfg!(target_feature = "avx"));

/// Moves a word where `len` is the size of one; a constant `len` leaves one arm.
macro_rules! by_word {
    ($word:ident, $src:ident, $dst:ident, $len:ident) => {
        match $len {
            // The sizes of half a cache line and a whole one, which records
            // have: a call would take as long as the copy.
            // SAFETY: 1. to 3. are promised to us. 4. is the pattern.
            64 => unsafe { $word::<[__m128i; 4]>($src, $dst) },
            // SAFETY: as for 64.
            32 => unsafe { $word::<[__m128i; 2]>($src, $dst) },
            // Named, so that it is tested early. SAFETY: 1. to 3. are promised
            // to us; private memory may be accessed as if it were shared.
            17.. => unsafe { transfer($src, $dst, $len) },
            // SAFETY: 1. to 3. are promised to us. 4. is the pattern.
            16 => unsafe { $word::<__m128i>($src, $dst) },
            // SAFETY: as for 16.
            8 => unsafe { $word::<u64>($src, $dst) },
            // SAFETY: as for 16.
            4 => unsafe { $word::<u32>($src, $dst) },
            // SAFETY: as for 16.
            2 => unsafe { $word::<u16>($src, $dst) },
            // SAFETY: as for 16.
            1 => unsafe { $word::<u8>($src, $dst) },
            // SAFETY: as for 17.
            _ => unsafe { transfer($src, $dst, $len) },
        }
    };
}

/// Copies `len` bytes of shared memory into private memory.
///
/// # Safety
///
/// 1. `src..src + len` can be read, and is initialised.
/// 2. Whoever in this program writes those bytes during the call does so
///    atomically.
/// 3. `dst..dst + len` can be written, and nobody else accesses it during the
///    call.
#[inline]
pub(crate) unsafe fn read(src: *const u8, dst: *mut u8, len: usize) {
    by_word!(read_word, src, dst, len);
}

/// Copies `len` bytes of private memory into shared memory.
///
/// # Safety
///
/// 1. `src..src + len` can be read, is initialised, and nobody writes it during
///    the call.
/// 2. `dst..dst + len` can be written.
/// 3. Whoever in this program accesses the destination during the call does so
///    atomically.
#[inline]
pub(crate) unsafe fn write(src: *const u8, dst: *mut u8, len: usize) {
    by_word!(write_word, src, dst, len);
}

/// Copies `len` bytes of shared memory to shared memory. The two may overlap;
/// then the destination gets what the source held before.
///
/// # Safety
///
/// 1. `src..src + len` can be read, and is initialised.
/// 2. `dst..dst + len` can be written.
/// 3. Whoever in this program writes the source or accesses the destination
///    during the call does so atomically.
#[inline(never)]
pub(crate) unsafe fn transfer(src: *const u8, dst: *mut u8, len: usize) {
    if len <= 32 {
        // SAFETY: 1. to 3. are promised to us; 4. was just checked.
        unsafe { transfer_short(src, dst, len) }
    } else if !AVX.load(Ordering::Relaxed) {
        // SAFETY: 1. to 3. are promised to us.
        unsafe { transfer_sse2(src, dst, len) }
    } else if len > 256 {
        if is_backwards(src, dst, len) {
            // SAFETY: 1. to 3. are promised to us.
            unsafe { transfer_sse2(src, dst, len) }
        } else {
            // SAFETY: 1. to 3. are promised to us; 4. to 6. were just checked.
            unsafe { transfer_avx(src, dst, len) }
        }
    } else if len > 128 {
        // SAFETY: 1. to 3. are promised to us; 4. and 5. were just checked.
        unsafe { transfer_256_avx(src, dst, len) }
    } else if len > 64 {
        // SAFETY: as for 128.
        unsafe { transfer_128_avx(src, dst, len) }
    } else {
        // SAFETY: as for 128.
        unsafe { transfer_64_avx(src, dst, len) }
    }
}

/// Sets `len` bytes of shared memory to `value`.
///
/// # Safety
///
/// 1. `dst..dst + len` can be written.
/// 2. Whoever in this program accesses those bytes during the call does so
///    atomically.
pub(crate) unsafe fn fill(dst: *mut u8, value: u8, len: usize) {
    if len > 128 {
        if len < (16 << 10) && AVX.load(Ordering::Relaxed) {
            // SAFETY: 1. and 2. are promised to us; 3. and 4. were just
            // checked.
            unsafe { fill_avx(dst, value, len) }
        } else {
            // SAFETY: 1. and 2. are promised to us.
            unsafe { fill_long(dst, value, len) }
        }
    } else if let Some(last) = len.checked_sub(16) {
        // SAFETY: SSE2 is part of x86-64.
        let pattern = unsafe { _mm_set1_epi8(value.cast_signed()) };
        for at in (0..last).step_by(16) {
            // SAFETY: 1. and 2. are our 1. and 2.; inside, as `at < last`.
            unsafe { pattern.store(dst.wrapping_add(at)) };
        }
        // SAFETY: as before.
        unsafe { pattern.store(dst.wrapping_add(last)) };
    } else {
        for at in 0..len {
            // SAFETY: 1. and 2. are our 1. and 2.
            unsafe { value.store(dst.wrapping_add(at)) };
        }
    }
}

/// [`fill`] for any length; from 16 KiB up nothing is quicker.
///
/// # Safety
///
/// 1. and 2. as for [`fill`].
#[inline(never)]
pub(super) unsafe fn fill_long(dst: *mut u8, value: u8, len: usize) {
    find_avx();
    // SAFETY: does what relaxed stores of the bytes could do, which 1. and 2.
    // allow. The direction flag is clear, as `asm!` guarantees.
    unsafe {
        asm!(
            "rep stosb",
            in("al") value,
            inout("rdi") dst => _,
            inout("rcx") len => _,
            options(nostack, preserves_flags),
        );
    }
}

/// [`fill`] for `len > 128`, with AVX.
///
/// # Safety
///
/// 1. and 2. as for [`fill`]. 3. `len` is more than 128. 4. AVX is usable.
#[inline(always)]
unsafe fn fill_avx(dst: *mut u8, value: u8, len: usize) {
    // SAFETY: SSE2 is part of x86-64.
    let pattern = unsafe { _mm_set1_epi8(value.cast_signed()) };
    // As in `transfer_avx`: the head reaches the first block, which starts
    // before the tail by 3., and the last ends inside it.
    let first = dst.wrapping_add(64 - dst.addr() % 64);
    let tail = dst.wrapping_add(len - 64);
    // SAFETY: does what relaxed stores of the bytes could do, which 1. and 2.
    // allow; all are inside, see above. The instructions exist by 4.; the
    // vector registers are declared as overwritten.
    unsafe {
        asm!(
            "vinsertf128 ymm0, ymm0, xmm0, 1",
            "vmovdqu [{dst}], ymm0",
            "vmovdqu [{dst} + 32], ymm0",
            "2:",
            "vmovdqu [rcx], ymm0",
            "vmovdqu [rcx + 32], ymm0",
            "add rcx, 64",
            "cmp rcx, {tail}",
            "jb 2b",
            "vmovdqu [{tail}], ymm0",
            "vmovdqu [{tail} + 32], ymm0",
            "vzeroupper",
            dst = in(reg) dst,
            tail = in(reg) tail,
            inout("rcx") first => _,
            inout("xmm0") pattern => _,
            clobber_abi("sysv64"),
            options(nostack),
        );
    }
}

/// What one instruction moves, at any alignment.
trait Word: Copy {
    /// # Safety
    ///
    /// 1. The bytes at `from` can be read, and are initialised.
    /// 2. Whoever in this program writes them meanwhile does so atomically.
    unsafe fn load(from: *const u8) -> Self;

    /// # Safety
    ///
    /// 1. The bytes at `to` can be written.
    /// 2. Whoever in this program accesses them meanwhile does so atomically.
    unsafe fn store(self, to: *mut u8);
}

macro_rules! words {
    ($($word:ty: $class:ident, $load:expr, $store:expr;)*) => {$(
        impl Word for $word {
            #[inline(always)]
            unsafe fn load(from: *const u8) -> Self {
                let value;
                // SAFETY: does what a relaxed load of each of the bytes could
                // do, which 1. and 2. allow.
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
                // SAFETY: does what a relaxed store of each of the bytes could
                // do, which 1. and 2. allow.
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

words! {
    u8: reg_byte, "mov {value}, [{from}]", "mov [{to}], {value}";
    u16: reg, "mov {value:x}, [{from}]", "mov [{to}], {value:x}";
    u32: reg, "mov {value:e}, [{from}]", "mov [{to}], {value:e}";
    u64: reg, "mov {value}, [{from}]", "mov [{to}], {value}";
}

#[cfg(not(target_feature = "avx"))]
words! {
    __m128i: xmm_reg, "movdqu {value}, [{from}]", "movdqu [{to}], {value}";
}

// Code compiled for AVX may be using the upper halves of the registers, and
// then instructions in the old encoding are slow.
#[cfg(target_feature = "avx")]
words! {
    __m128i: xmm_reg, "vmovdqu {value}, [{from}]", "vmovdqu [{to}], {value}";
}

/// Several, which are all loaded before any is stored.
impl<const N: usize> Word for [__m128i; N] {
    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        std::array::from_fn(
            #[inline(always)]
            |index| {
                let from = from.wrapping_add(index * size_of::<__m128i>());
                // SAFETY: 1. and 2. are our 1. and 2., of which it is a part.
                unsafe { __m128i::load(from) }
            },
        )
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        for (index, word) in self.into_iter().enumerate() {
            let to = to.wrapping_add(index * size_of::<__m128i>());
            // SAFETY: 1. and 2. are our 1. and 2., of which it is a part.
            unsafe { word.store(to) };
        }
    }
}

/// [`read`] for one word.
///
/// # Safety
///
/// 1. to 3. as for [`read`]. 4. `len` is the size of `W`.
#[inline(always)]
unsafe fn read_word<W: Word>(src: *const u8, dst: *mut u8) {
    // SAFETY: 1. and 2. are our 1. and 2.
    let word = unsafe { W::load(src) };
    // SAFETY: writable and not shared: our 3.; needs no alignment.
    unsafe { dst.cast::<W>().write_unaligned(word) };
}

/// [`write`] for one word.
///
/// # Safety
///
/// 1. to 3. as for [`write`]. 4. `len` is the size of `W`.
#[inline(always)]
unsafe fn write_word<W: Word>(src: *const u8, dst: *mut u8) {
    // SAFETY: readable, initialised and not shared: our 1.; needs no alignment.
    let word = unsafe { src.cast::<W>().read_unaligned() };
    // SAFETY: 1. and 2. are our 2. and 3.
    unsafe { word.store(dst) };
}

/// [`transfer`] by the first word and the last.
///
/// # Safety
///
/// 1. to 3. as for [`transfer`]. 4. `len` is at least the size of `W` and at
///    most twice that.
#[inline(always)]
unsafe fn transfer_ends<W: Word>(src: *const u8, dst: *mut u8, len: usize) {
    let last = len - size_of::<W>();
    // SAFETY: 1. and 2. are our 1. and 3.; inside by 4.
    let head = unsafe { W::load(src) };
    // SAFETY: as before.
    let tail = unsafe { W::load(src.wrapping_add(last)) };
    // SAFETY: 1. and 2. are our 2. and 3.; inside by 4.
    unsafe { head.store(dst) };
    // SAFETY: as before.
    unsafe { tail.store(dst.wrapping_add(last)) };
}

/// [`transfer`] for few bytes.
///
/// # Safety
///
/// 1. to 3. as for [`transfer`]. 4. `len` is at most 32.
#[inline(always)]
unsafe fn transfer_short(src: *const u8, dst: *mut u8, len: usize) {
    if len >= 16 {
        // SAFETY: 1. to 3. are promised to us. 4. is ours and the comparison.
        unsafe { transfer_ends::<__m128i>(src, dst, len) }
    } else if len >= 8 {
        // SAFETY: 1. to 3. are promised to us. 4. is the comparisons.
        unsafe { transfer_ends::<u64>(src, dst, len) }
    } else if len >= 4 {
        // SAFETY: as for 8.
        unsafe { transfer_ends::<u32>(src, dst, len) }
    } else if len >= 2 {
        // SAFETY: as for 8.
        unsafe { transfer_ends::<u16>(src, dst, len) }
    } else if len == 1 {
        // SAFETY: as for 8.
        unsafe { transfer_ends::<u8>(src, dst, len) }
    }
}

/// Whether ascending order would overwrite what is yet to be read.
#[inline(always)]
fn is_backwards(src: *const u8, dst: *mut u8, len: usize) -> bool {
    dst.addr().wrapping_sub(src.addr()) < len
}

/// [`transfer`] for any length, without AVX.
///
/// # Safety
///
/// 1. to 3. as for [`transfer`].
#[inline(never)]
pub(super) unsafe fn transfer_sse2(src: *const u8, dst: *mut u8, len: usize) {
    find_avx();
    let backwards = is_backwards(src, dst, len);
    let mut done = 0;
    while len - done > 32 {
        let at = if backwards { len - done - 32 } else { done };
        let (src, dst) = (src.wrapping_add(at), dst.wrapping_add(at));
        // SAFETY: 1. to 3. hold for the part `at..at + 32` too, in that no part
        // overwrites what a later one reads. 4. Two words.
        unsafe { transfer_ends::<__m128i>(src, dst, 32) };
        done += 32;
    }
    let at = if backwards { 0 } else { done };
    let (src, dst) = (src.wrapping_add(at), dst.wrapping_add(at));
    // SAFETY: 1. to 3. as in the loop. 4. is why it ended.
    unsafe { transfer_short(src, dst, len - done) };
}

macro_rules! transfers_avx {
    ($($name:ident for $lens:literal: $($instruction:literal)*;)*) => {$(
        #[doc = concat!("[`transfer`] for `len` in `", $lens, "`, with AVX.")]
        ///
        /// # Safety
        ///
        /// 1. to 3. as for [`transfer`]. 4. `len` is in that range. 5. AVX is
        ///    usable.
        #[inline(always)]
        unsafe fn $name(src: *const u8, dst: *mut u8, len: usize) {
            // SAFETY: does what relaxed loads and stores of the bytes could do,
            // which 1. to 3. allow; all are inside by 4. The instructions exist
            // by 5.; the vector registers, which the last one clears in part,
            // are declared as overwritten.
            unsafe {
                asm!(
                    $($instruction,)*
                    "vzeroupper",
                    src = in(reg) src,
                    dst = in(reg) dst,
                    len = in(reg) len,
                    clobber_abi("sysv64"),
                    options(nostack, preserves_flags),
                );
            }
        }
    )*};
}

transfers_avx! {
    transfer_64_avx for "32..=64":
        "vmovdqu ymm0, [{src}]"
        "vmovdqu ymm1, [{src} + {len} - 32]"
        "vmovdqu [{dst}], ymm0"
        "vmovdqu [{dst} + {len} - 32], ymm1";

    transfer_128_avx for "64..=128":
        "vmovdqu ymm0, [{src}]"
        "vmovdqu ymm1, [{src} + 32]"
        "vmovdqu ymm2, [{src} + {len} - 64]"
        "vmovdqu ymm3, [{src} + {len} - 32]"
        "vmovdqu [{dst}], ymm0"
        "vmovdqu [{dst} + 32], ymm1"
        "vmovdqu [{dst} + {len} - 64], ymm2"
        "vmovdqu [{dst} + {len} - 32], ymm3";

    transfer_256_avx for "128..=256":
        "vmovdqu ymm0, [{src}]"
        "vmovdqu ymm1, [{src} + 32]"
        "vmovdqu ymm2, [{src} + 64]"
        "vmovdqu ymm3, [{src} + 96]"
        "vmovdqu ymm4, [{src} + {len} - 128]"
        "vmovdqu ymm5, [{src} + {len} - 96]"
        "vmovdqu ymm6, [{src} + {len} - 64]"
        "vmovdqu ymm7, [{src} + {len} - 32]"
        "vmovdqu [{dst}], ymm0"
        "vmovdqu [{dst} + 32], ymm1"
        "vmovdqu [{dst} + 64], ymm2"
        "vmovdqu [{dst} + 96], ymm3"
        "vmovdqu [{dst} + {len} - 128], ymm4"
        "vmovdqu [{dst} + {len} - 96], ymm5"
        "vmovdqu [{dst} + {len} - 64], ymm6"
        "vmovdqu [{dst} + {len} - 32], ymm7";
}

/// [`transfer`] for `len > 128`, with AVX, in ascending order.
///
/// # Safety
///
/// 1. to 3. as for [`transfer`]. 4. `len` is more than 128. 5. AVX is usable.
/// 6. Ascending order overwrites nothing that is yet to be read.
#[inline(always)]
unsafe fn transfer_avx(src: *const u8, dst: *mut u8, len: usize) {
    // The first block starts 1 to 64 bytes in, so the head reaches it. The last
    // starts before the last 64 bytes, so it ends inside. The tail was loaded
    // before anything was stored, and is stored last.
    let first = dst.wrapping_add(64 - dst.addr() % 64);
    let tail = dst.wrapping_add(len - 64);
    // SAFETY: does what relaxed loads and stores of the bytes could do, which
    // 1. to 3. and 6. allow; all are inside, see above. The instructions exist
    // by 5.; the vector registers are declared as overwritten.
    unsafe {
        asm!(
            "vmovdqu ymm2, [{src}]",
            "vmovdqu ymm3, [{src} + 32]",
            "vmovdqu ymm4, [{src} + {len} - 64]",
            "vmovdqu ymm5, [{src} + {len} - 32]",
            ".p2align 5",
            "2:",
            "vmovdqu ymm0, [rcx + {back}]",
            "vmovdqu ymm1, [rcx + {back} + 32]",
            "vmovdqu [rcx], ymm0",
            "vmovdqu [rcx + 32], ymm1",
            "add rcx, 64",
            "cmp rcx, {tail}",
            "jb 2b",
            "vmovdqu [{dst}], ymm2",
            "vmovdqu [{dst} + 32], ymm3",
            "vmovdqu [{tail}], ymm4",
            "vmovdqu [{tail} + 32], ymm5",
            "vzeroupper",
            src = in(reg) src,
            dst = in(reg) dst,
            len = in(reg) len,
            back = in(reg) src.addr().wrapping_sub(dst.addr()),
            tail = in(reg) tail,
            inout("rcx") first => _,
            clobber_abi("sysv64"),
            options(nostack),
        );
    }
}

/// Looks whether AVX is usable, for the calls to come.
fn find_avx() {
    if is_x86_feature_detected!("avx") {
        AVX.store(true, Ordering::Relaxed);
    }
}
