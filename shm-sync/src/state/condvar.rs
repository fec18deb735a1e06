//! One word: a number that each notification moves on, and in its lowest bit
//! whether somebody waits for the next one.
//!
//! A waiter sets the bit while it holds the mutex, and sleeps only while the
//! word is what it left. A notifier that sees the bit adds 1, which clears the
//! bit and carries into the number, and wakes all, in one step. Two that see it
//! at once may leave it set with nobody waiting, which costs the next notifier
//! a system call; so does a killed waiter.

use shm_common::OsError;

use super::atomic::{AtomicU32, Ordering};
use super::{Deadline, futex};

const AWAITED: u32 = 1;

/// Announces a waiter, which holds the mutex, and says what it sleeps on.
pub(crate) fn announce(word: &AtomicU32) -> u32 {
    word.fetch_or(AWAITED, Ordering::Relaxed) | AWAITED
}

/// Sleeps, without the mutex, until a notification after [`announce`].
pub(crate) fn sleep(
    word: &AtomicU32,
    announced: u32,
    deadline: Option<Deadline>,
) -> Result<(), OsError> {
    while word.load(Ordering::Relaxed) == announced {
        futex::wait(word, announced, deadline)?;
    }
    Ok(())
}

/// Wakes all that were announced before. A notifier changed what they wait for
/// under the mutex, before or now; so it sees the bit of each of them.
pub(crate) fn notify(word: &AtomicU32) -> Result<(), OsError> {
    if word.load(Ordering::Relaxed) & AWAITED == 0 {
        return Ok(());
    }
    futex::add_and_wake(word, 1)
}
