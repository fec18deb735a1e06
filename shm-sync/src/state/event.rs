//! One word: clear, set, or clear with somebody asleep.
//!
//! A sleeper sleeps only while the word is `AWAITED`. Whoever sets the word
//! then does it and wakes all in one step, so there are no sleepers while it is
//! anything else, and no other transition needs to wake anyone. A killed
//! sleeper leaves `AWAITED` behind, which costs the next setter a system call.

use shm_common::OsError;

use super::atomic::{AtomicU32, Ordering};
use super::{Deadline, futex};

pub(crate) const CLEAR: u32 = 0;
const SET: u32 = 1;
const AWAITED: u32 = 2;

pub(crate) fn set(word: &AtomicU32) -> Result<(), OsError> {
    let mut seen = word.load(Ordering::Relaxed);
    while seen != AWAITED {
        // Also where it is set already: this setter's writes are to be seen.
        match word.compare_exchange_weak(
            seen,
            SET,
            Ordering::Release,
            Ordering::Relaxed,
        ) {
            Ok(_) => return Ok(()),
            Err(now) => seen = now,
        }
    }
    futex::set_and_wake(word, SET)
}

pub(crate) fn reset(word: &AtomicU32) {
    // Not set: nothing to do, and `AWAITED` must stay.
    let _ =
        word.compare_exchange(SET, CLEAR, Ordering::Relaxed, Ordering::Relaxed);
}

pub(crate) fn is_set(word: &AtomicU32) -> bool {
    word.load(Ordering::Acquire) == SET
}

/// Clears the word if it is set, and says whether it was.
pub(crate) fn try_take(word: &AtomicU32) -> bool {
    word.compare_exchange(SET, CLEAR, Ordering::Acquire, Ordering::Relaxed)
        .is_ok()
}

/// Waits until the word is set, and leaves it set.
pub(crate) fn wait(
    word: &AtomicU32,
    deadline: Option<Deadline>,
) -> Result<(), OsError> {
    wait_for(word, deadline, is_set)
}

/// Waits until the word is set and this call is the one to clear it.
pub(crate) fn take(
    word: &AtomicU32,
    deadline: Option<Deadline>,
) -> Result<(), OsError> {
    wait_for(word, deadline, try_take)
}

fn wait_for(
    word: &AtomicU32,
    deadline: Option<Deadline>,
    done: impl Fn(&AtomicU32) -> bool,
) -> Result<(), OsError> {
    while !done(word) {
        let seen = word.load(Ordering::Relaxed);
        // What nobody here writes counts as clear.
        if seen != SET && seen != AWAITED {
            let order = Ordering::Relaxed;
            // It fails where the word has changed: then the wait is none.
            let _ = word.compare_exchange(seen, AWAITED, order, order);
        }
        // In any case, for it also looks at the deadline.
        futex::wait(word, AWAITED, deadline)?;
    }
    Ok(())
}
