//! The kernel's own wait and wake, of the kind that processes share.
//!
//! The one file that makes these calls; everything that waits here, except for
//! the C library's mutex, waits by [`wait`].
//!
//! A waker may be killed between any two of its instructions. If it changed a
//! word first and woke second, the sleepers would sleep on although what they
//! wait for is there. So where a sleeper may be, the change and the wake are
//! one system call, `FUTEX_WAKE_OP`, in which a kill takes effect only at the
//! end. And a sleeper may be killed between being woken and doing anything
//! about it, so a wake always wakes all: one that wakes a single sleeper can
//! die with that sleeper.

use std::sync::atomic::{AtomicU32, Ordering, fence};

use rustix::io::Errno;
use rustix::thread::futex::{self, Flags, WakeOp, WakeOpCmp};
use shm_common::OsError;

use crate::Deadline;

/// Shared between processes: the kernel finds sleepers by page, not by address.
const SHARED: Flags = Flags::empty();

/// As many as there are: the kernel reads the number as signed.
const ALL: u32 = i32::MAX.cast_unsigned();

/// Every bit: woken by whatever wake.
const ANY: std::num::NonZeroU32 = std::num::NonZeroU32::MAX;

/// The argument of `FUTEX_WAKE_OP` has 12 bits, of which one is a sign.
pub(crate) const MAX_ARGUMENT: u32 = 2047;

/// Sleeps while `word` is `expected`, until it is woken. May return early, also
/// by a signal: the caller looks at the word, and sleeps again.
///
/// # Errors
///
/// `ETIMEDOUT`: nobody woke it before the deadline. Any other: the kernel
/// refuses to wait, as it would again.
pub(crate) fn wait(
    word: &AtomicU32,
    expected: u32,
    deadline: Option<Deadline>,
) -> Result<(), OsError> {
    let until = deadline.map(Deadline::timespec);
    // This form takes a point of time, on CLOCK_MONOTONIC.
    match futex::wait_bitset(word, SHARED, expected, until.as_ref(), ANY) {
        // A word that never stays, or signals that never end, must not keep
        // anyone beyond the deadline.
        Err(Errno::INTR | Errno::AGAIN)
            if deadline.is_some_and(Deadline::has_passed) =>
        {
            Err(OsError::new("futex", libc::ETIMEDOUT))
        }
        Ok(()) | Err(Errno::INTR | Errno::AGAIN) => Ok(()),
        Err(errno) => Err(OsError::new("futex", errno.raw_os_error())),
    }
}

/// Wakes all that sleep on `word`, which the caller has changed before.
pub(crate) fn wake(word: &AtomicU32) -> Result<(), OsError> {
    match futex::wake(word, SHARED, ALL) {
        Ok(_) => Ok(()),
        Err(errno) => Err(OsError::new("futex", errno.raw_os_error())),
    }
}

/// Stores `value`, at most [`MAX_ARGUMENT`], and wakes all, in one step.
pub(crate) fn set_and_wake(
    word: &AtomicU32,
    value: u32,
) -> Result<(), OsError> {
    change_and_wake(word, WakeOp::Set, value)
}

/// Adds `value`, at most [`MAX_ARGUMENT`], and wakes all, in one step.
pub(crate) fn add_and_wake(
    word: &AtomicU32,
    value: u32,
) -> Result<(), OsError> {
    change_and_wake(word, WakeOp::Add, value)
}

fn change_and_wake(
    word: &AtomicU32,
    op: WakeOp,
    value: u32,
) -> Result<(), OsError> {
    debug_assert!(value <= MAX_ARGUMENT);
    let argument = u16::try_from(value).unwrap_or(u16::MAX);
    // The kernel's change of the word publishes what this thread wrote before.
    fence(Ordering::SeqCst);
    // The kernel changes the word and wakes under the lock under which sleepers
    // check it. There is a second wake in this call, for another word; here it
    // is the same word, of which no sleeper is left.
    let woken = futex::wake_op(
        word,
        SHARED,
        ALL,
        0,
        word,
        op,
        WakeOpCmp::Lt,
        argument,
        0,
    );
    match woken {
        Ok(_) => Ok(()),
        Err(errno) => Err(OsError::new("futex", errno.raw_os_error())),
    }
}
