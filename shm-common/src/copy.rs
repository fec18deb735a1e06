//! Copies between private memory and memory that others may write meanwhile.
//!
//! "Others" are other processes, and in this one other views of the same
//! bytes. Nothing keeps them from writing in the middle of a copy, so a copy
//! must have a meaning then too.
//!
//! **Why not `memcpy`.** A plain access that races with a write is undefined
//! behaviour, not merely a mix of old and new: the compiler may read a byte
//! twice and trust that both reads agree, or use it as scratch space before it
//! writes the final value.
//!
//! **Why not `volatile`.** It fixes how often memory is accessed, but std says
//! that it "has no bearing whatsoever on questions involving concurrent access
//! from multiple threads": the race stays. `docs/unsafe.md` has the sources.
//!
//! **What then.** Each access here is, to the abstract machine, a group of
//! relaxed atomic accesses, each to one byte, in no particular order and at
//! least one for each byte. Relaxed accesses may race: a byte is then the old
//! or the new one. In plain Rust that is a loop over `AtomicU8`, which is what
//! `portable.rs` does; the compiler never widens it, so it runs at a tenth of
//! the speed of `memcpy`. An `asm!` block may do whatever the abstract machine
//! could have done in its place, and `x86_64.rs` does those same byte accesses
//! by wide instructions. That holds as long as
//!
//! 1. the processor gives each byte of a wide access its old or its new value,
//!    and keeps the order that an acquire before or a release after the copy
//!    asks for. On x86 all loads and stores of ordinary memory do, the string
//!    instructions as a whole; non-temporal stores would not, so there are none
//!    (`docs/unsafe.md` says what holds for a driver's write-combining memory);
//! 2. the compiler neither drops, repeats, merges nor moves the block. So none
//!    is marked `pure`, `readonly` or `nomem`.
//!
//! Miri cannot run `asm!`, and is given `portable.rs`: the tests under it check
//! the argument, those on the processor the instructions.
//!
//! **What callers get.** No order: order the copy by an atomic before or after
//! it. No atomicity beyond the byte; but on x86-64, where [`read`] or [`write`]
//! moves 1, 2, 4 or 8 bytes that are aligned to their size, it is one
//! instruction, which does not tear. Else a byte may be accessed twice.
//!
//! **Mixed sizes.** To std, an atomic `u32` and an atomic byte of it that race,
//! and one of them writes, are undefined behaviour again. So a word used as an
//! atomic must not be raced by a copy: the rule that `SharedBytes` passes on.
#![cfg_attr(
    test,
    expect(unsafe_code, reason = "calls the copies, and maps pages for them")
)]

#[cfg(any(
    test,
    miri,
    not(all(target_arch = "x86_64", target_pointer_width = "64"))
))]
mod portable;
#[cfg(all(target_arch = "x86_64", target_pointer_width = "64", not(miri)))]
mod x86_64;

#[cfg(any(
    miri,
    not(all(target_arch = "x86_64", target_pointer_width = "64"))
))]
pub(crate) use portable::{fill, read, transfer, write};
#[cfg(all(
    target_arch = "x86_64",
    target_pointer_width = "64",
    not(miri)
))]
pub(crate) use x86_64::{fill, read, transfer, write};

#[cfg(test)]
mod tests {
    use std::ptr::null_mut;
    use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
    use std::thread;

    use super::portable;

    type Copy = unsafe fn(*const u8, *mut u8, usize);
    type Fill = unsafe fn(*mut u8, u8, usize);

    struct Implementation {
        name: &'static str,
        /// `read`, `write` and `transfer`.
        copies: [Copy; 3],
        fill: Fill,
    }

    /// The portable one, and where we are on x86-64 that with and without AVX.
    fn implementations() -> Vec<Implementation> {
        let mut all = vec![Implementation {
            name: "portable",
            copies: [portable::read, portable::write, portable::transfer],
            fill: portable::fill,
        }];
        #[cfg(all(
            target_arch = "x86_64",
            target_pointer_width = "64",
            not(miri)
        ))]
        {
            use super::x86_64;
            all.push(Implementation {
                name: "sse2",
                copies: [x86_64::transfer_sse2; 3],
                fill: x86_64::fill_long,
            });
            // From now on it is known whether there is AVX.
            let (from, mut to) = ([1; 64], [0; 64]);
            // SAFETY: 64 bytes each, borrowed for the call.
            unsafe { x86_64::write(from.as_ptr(), to.as_mut_ptr(), 64) };
            assert_eq!(from, to);
            all.push(Implementation {
                name: "x86_64",
                copies: [x86_64::read, x86_64::write, x86_64::transfer],
                fill: x86_64::fill,
            });
        }
        all
    }

    /// Around the lengths at which an implementation changes its ways; under
    /// Miri, which is slow, few.
    fn lengths() -> impl Iterator<Item = usize> {
        let (short, long): (usize, &[usize]) = match cfg!(miri) {
            true => (18, &[33]),
            false => (600, &[1023, 4096, 4161]),
        };
        (0..=short).chain(long.iter().copied())
    }

    fn alignments() -> &'static [usize] {
        if cfg!(miri) { &[0, 1] } else { &[0, 1, 3, 8, 16, 31, 32, 33, 63] }
    }

    /// `len` bytes, of which no two neighbourhoods are alike.
    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 131 + i / 256).to_le_bytes()[0]).collect()
    }

    /// Copies inside `arena`, and compares all of it with what a slice does.
    fn check_copy(
        copy: Copy,
        arena: &mut [u8],
        src: usize,
        dst: usize,
        n: usize,
    ) {
        let mut expected = arena.to_vec();
        expected.copy_within(src..src + n, dst);
        let start = arena.as_mut_ptr();
        // SAFETY: both ranges are inside `arena`, or `copy_within` would have
        // panicked; it is borrowed exclusively.
        unsafe { copy(start.wrapping_add(src), start.wrapping_add(dst), n) };
        assert!(
            arena == expected,
            "{n} bytes from {src} to {dst} at {start:p}"
        );
    }

    #[test]
    fn a_copy_moves_its_bytes_and_no_others_at_every_length_and_alignment() {
        let mut arena = pattern(3 * 4352);
        for Implementation { name, copies, .. } in implementations() {
            println!("{name}");
            for (n, copy) in lengths().flat_map(|n| copies.map(|c| (n, c))) {
                for at in alignments() {
                    check_copy(copy, &mut arena, *at, 4352 + 7, n);
                    check_copy(copy, &mut arena, 5, 4352 + at, n);
                }
            }
        }
    }

    #[test]
    fn a_transfer_may_overlap_itself_by_any_distance() {
        let mut arena = pattern(2 * 4352);
        for Implementation { name, copies, .. } in implementations() {
            println!("{name}");
            for n in lengths() {
                for distance in [0, 1, 7, 16, 31, 32, 33, 63, 64, 65, 200] {
                    check_copy(copies[2], &mut arena, 3, 3 + distance, n);
                    check_copy(copies[2], &mut arena, 3 + distance, 3, n);
                }
            }
        }
    }

    #[test]
    fn a_fill_sets_its_bytes_and_no_others_at_every_length_and_alignment() {
        for Implementation { name, fill, .. } in implementations() {
            for n in lengths() {
                for at in alignments() {
                    let mut arena = pattern(4352);
                    let mut expected = arena.clone();
                    expected[*at..at + n].fill(0xe7);
                    // SAFETY: inside, or the slicing would have panicked.
                    unsafe { fill(arena[*at..].as_mut_ptr(), 0xe7, n) };
                    assert!(arena == expected, "{name}: {n} bytes at {at}");
                }
            }
        }
    }

    /// Pages between two that cannot be touched.
    #[cfg(not(miri))]
    struct Fenced(*mut u8);

    #[cfg(not(miri))]
    impl Fenced {
        const LEN: usize = 8192;
        /// Holds a page of any size that Linux has.
        const FENCE: usize = 65536;

        fn new() -> Self {
            let len = Self::LEN.next_multiple_of(Self::FENCE);
            let (none, flags) =
                (libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            // SAFETY: replaces nothing.
            let start = unsafe {
                libc::mmap(
                    null_mut(),
                    len + 2 * Self::FENCE,
                    none,
                    flags,
                    -1,
                    0,
                )
            };
            assert_ne!(start, libc::MAP_FAILED);
            let start = start.cast::<u8>().wrapping_add(Self::FENCE);
            let both = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: pages of the mapping above.
            let set = unsafe { libc::mprotect(start.cast(), len, both) };
            assert_eq!(set, 0);
            Self(start)
        }

        fn first(&self) -> *mut u8 {
            self.0
        }

        /// Where `n` bytes end at the fence.
        fn last(&self, n: usize) -> *mut u8 {
            self.0.wrapping_add(Self::FENCE - n)
        }
    }

    #[cfg(not(miri))]
    impl Drop for Fenced {
        fn drop(&mut self) {
            let start = self.0.wrapping_sub(Self::FENCE);
            // SAFETY: all of the mapping, which nobody uses any more.
            let unmapped =
                unsafe { libc::munmap(start.cast(), 3 * Self::FENCE) };
            assert_eq!(unmapped, 0);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri sees an access out of bounds by itself")]
    fn nothing_is_touched_before_or_after_the_bytes() {
        #[cfg(not(miri))]
        for Implementation { name, copies, fill } in implementations() {
            println!("{name}");
            let (a, b) = (Fenced::new(), Fenced::new());
            for (n, copy) in lengths().flat_map(|n| copies.map(|c| (n, c))) {
                assert!(n <= Fenced::LEN);
                // A touch of a fence kills the test.
                // SAFETY: `n` bytes of two mappings that only we use.
                unsafe { copy(a.first(), b.last(n), n) };
                // SAFETY: as before.
                unsafe { copy(a.last(n), b.first(), n) };
                // SAFETY: as before.
                unsafe { fill(a.first(), 1, n) };
                // SAFETY: as before.
                unsafe { fill(a.last(n), 2, n) };
            }
        }
    }

    #[test]
    fn a_copy_that_races_with_writes_gets_old_or_new_bytes() {
        const LEN: usize = if cfg!(miri) { 40 } else { 333 };
        for Implementation { name, copies, fill } in implementations() {
            let shared: Vec<AtomicU8> =
                (0..LEN).map(|_| AtomicU8::new(0)).collect();
            let address = shared.as_ptr() as usize;
            let stop = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    let start = shared.as_ptr().cast::<u8>().cast_mut();
                    let ones = [0xff; LEN];
                    while !stop.load(Ordering::Relaxed) {
                        // SAFETY: the bytes are atomics, so they may be written
                        // while others read them; the thread ends before them.
                        unsafe { fill(start, 0, LEN) };
                        // SAFETY: as before, and `ones` is our own.
                        unsafe { copies[1](ones.as_ptr(), start, LEN) };
                    }
                });
                for _ in 0..if cfg!(miri) { 3 } else { 2000 } {
                    let mut private = [0x55; LEN];
                    let start = shared.as_ptr().cast();
                    // SAFETY: as before.
                    unsafe { copies[0](start, private.as_mut_ptr(), LEN) };
                    let fine = private.iter().all(|b| matches!(b, 0 | 0xff));
                    if !fine {
                        stop.store(true, Ordering::Relaxed);
                    }
                    assert!(fine, "{name} at {address:#x}: {private:?}");
                }
                stop.store(true, Ordering::Relaxed);
            });
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "the portable copies go byte by byte")]
    #[cfg_attr(
        not(all(target_arch = "x86_64", target_pointer_width = "64")),
        ignore = "the portable copies go byte by byte"
    )]
    fn an_aligned_word_does_not_tear() {
        let word = std::sync::atomic::AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let start = word.as_ptr().cast::<u8>();
        let address = start as usize;
        thread::scope(|scope| {
            scope.spawn(|| {
                let start = std::ptr::with_exposed_provenance_mut(address);
                for value in [0_u64, u64::MAX].into_iter().cycle() {
                    let bytes = value.to_ne_bytes();
                    // SAFETY: the word outlives the thread, and is only
                    // accessed by these copies.
                    unsafe { super::write(bytes.as_ptr(), start, 8) };
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
            let mut torn = None;
            for _ in 0..200_000 {
                let mut bytes = [0; 8];
                // SAFETY: as before.
                unsafe { super::read(start, bytes.as_mut_ptr(), 8) };
                let value = u64::from_ne_bytes(bytes);
                if value != 0 && value != u64::MAX {
                    torn = Some(value);
                }
            }
            stop.store(true, Ordering::Relaxed);
            assert_eq!(torn, None);
        });
    }
}
