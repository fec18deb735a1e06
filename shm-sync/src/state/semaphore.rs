//! One word: how many permits there are, or none and somebody asleep.
//!
//! A sleeper sleeps only while the word is `AWAITED`: no permit and that bit.
//! Whoever releases then adds and wakes all in one step. So as soon as there is
//! a permit there are no sleepers, the bit means nothing, and the next change
//! drops it. A killed sleeper leaves it behind, which costs the next release a
//! system call.

use libc::EOVERFLOW;
use shm_common::OsError;

use super::atomic::{AtomicU32, Ordering};
use super::{Deadline, futex};

/// No permit, and somebody may sleep.
const AWAITED: u32 = 1 << 31;

/// The most permits.
pub(crate) const MAX: u32 = 1 << 30;

/// The most that one step of the kernel adds. It adds without a look at the
/// sum, so releasers that all saw `AWAITED` add up; but there are no more than
/// 2²² threads in a system, and 2²² times this is less than `MAX`, so with at
/// most `MAX` from elsewhere the bit is out of reach.
const STEP: u32 = 255;

pub(crate) fn permits(word: &AtomicU32) -> u32 {
    word.load(Ordering::Acquire) & !AWAITED
}

pub(crate) fn release(word: &AtomicU32, mut count: u32) -> Result<(), OsError> {
    while count > 0 {
        let seen = word.load(Ordering::Relaxed);
        if seen == AWAITED {
            let step = count.min(STEP);
            futex::add_and_wake(word, step)?;
            count -= step;
            continue;
        }
        let sum = (seen & !AWAITED).saturating_add(count);
        if sum > MAX {
            return Err(OsError::new("release", EOVERFLOW));
        }
        let released = word.compare_exchange_weak(
            seen,
            sum,
            Ordering::Release,
            Ordering::Relaxed,
        );
        if released.is_ok() {
            count = 0;
        }
    }
    Ok(())
}

/// Takes a permit if there is one, and says whether.
pub(crate) fn try_acquire(word: &AtomicU32) -> bool {
    let mut seen = word.load(Ordering::Relaxed);
    while seen & !AWAITED > 0 {
        match word.compare_exchange_weak(
            seen,
            (seen & !AWAITED) - 1,
            Ordering::Acquire,
            Ordering::Relaxed,
        ) {
            Ok(_) => return true,
            Err(now) => seen = now,
        }
    }
    false
}

pub(crate) fn acquire(
    word: &AtomicU32,
    deadline: Option<Deadline>,
) -> Result<(), OsError> {
    while !try_acquire(word) {
        let order = Ordering::Relaxed;
        // It fails where somebody waits already, or there are permits now: then
        // the wait is none.
        let _ = word.compare_exchange(0, AWAITED, order, order);
        // In any case, for it also looks at the deadline.
        futex::wait(word, AWAITED, deadline)?;
    }
    Ok(())
}
