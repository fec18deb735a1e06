//! Who made a value: a forked child has a copy of it and is somebody else.
#![expect(
    unsafe_code,
    reason = "keeps a page that the kernel wipes in a forked child"
)]

use std::process;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// The process that made a value, to be asked later whether this is still it.
///
/// A process id does not tell: an init of one pid namespace and the child that
/// it forks as init of another are both process 1, and numbers are used again.
/// So the process is known by a page of memory that the kernel clears in every
/// forked child, however it was forked. On Linux before 4.14, which cannot do
/// that, the process id has to do.
///
/// # Examples
///
/// ```
/// use shm_common::Creator;
///
/// let creator = Creator::this_process();
/// assert!(creator.is_this_process()); // and in a forked child it is not
/// ```
///
/// # Sources
///
/// madvise(2), `MADV_WIPEONFORK`; since Linux 4.14.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Creator(u64);

impl Creator {
    /// This process. The first call maps a page; later ones make no system
    /// call.
    #[must_use]
    pub fn this_process() -> Self {
        let Some(word) = word() else {
            return Self(u64::from(process::id()));
        };
        Self(match word.load(Ordering::Relaxed) {
            0 => mark(word),
            mark => mark,
        })
    }

    /// Whether this process is that one, and no forked child of it.
    #[must_use]
    pub fn is_this_process(self) -> bool {
        self == Self::this_process()
    }
}

/// Gives a process, new or forked, a mark that none of its ancestors has.
#[cold]
fn mark(word: &AtomicU64) -> u64 {
    // Inherited as it stands, so a child's marks are greater than its parent's.
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let fresh = NEXT.fetch_add(1, Ordering::Relaxed);
    let order = Ordering::Relaxed;
    // Another thread may have been quicker.
    word.compare_exchange(0, fresh, order, order)
        .map_or_else(|is| is, |_| fresh)
}

/// The word that the kernel clears on fork; none where it cannot.
///
/// No lock is taken: a child may have been forked while another thread held it.
fn word() -> Option<&'static AtomicU64> {
    static WORD: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());
    let none = ptr::dangling_mut();
    let mut known = WORD.load(Ordering::Acquire);
    if known.is_null() {
        let made = map_word().unwrap_or(none);
        let (set, read) = (Ordering::AcqRel, Ordering::Acquire);
        known = match WORD.compare_exchange(known, made, set, read) {
            Ok(_) => made,
            Err(other) => {
                if made != none {
                    // SAFETY: our own mapping, which nobody else has seen.
                    unsafe {
                        libc::munmap(made.cast(), size_of::<AtomicU64>())
                    };
                }
                other
            }
        };
    }
    if known == none {
        return None;
    }
    // SAFETY: a page that is mapped for ever, readable and writable, zero or
    // written as an atomic, and aligned to a page.
    Some(unsafe { &*known })
}

/// A page of zeros that is a page of zeros again in a forked child.
#[cold]
fn map_word() -> Option<*mut AtomicU64> {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let len = size_of::<AtomicU64>();
    // SAFETY: replaces nothing, as there is neither an address nor MAP_FIXED.
    let page = unsafe { libc::mmap(ptr::null_mut(), len, prot, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the page just mapped, which holds nothing yet.
    if unsafe { libc::madvise(page, len, libc::MADV_WIPEONFORK) } != 0 {
        // SAFETY: the page just mapped, which nobody knows.
        unsafe { libc::munmap(page, len) };
        return None;
    }
    Some(page.cast())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    #[cfg_attr(miri, ignore = "Miri knows no madvise")]
    fn every_thread_of_a_process_is_that_process() {
        let creator = Creator::this_process();
        for _ in 0..8 {
            let there = thread::spawn(Creator::this_process).join().unwrap();
            assert_eq!(there, creator);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri knows no fork")]
    fn a_forked_child_is_another_process_and_its_parent_stays_what_it_was() {
        let creator = Creator::this_process();
        // SAFETY: the child only asks who it is, and ends by `_exit`.
        let child = unsafe { libc::fork() };
        assert_ne!(child, -1);
        if child == 0 {
            let (same, again) =
                (creator.is_this_process(), Creator::this_process());
            let changes = !again.is_this_process();
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(i32::from(same) + 2 * i32::from(changes)) }
        }
        let mut status = 0;
        // SAFETY: our own child; `status` lives through the call.
        let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!((waited, status), (child, 0));
        assert!(creator.is_this_process());
    }
}
