//! One word: the number of the round, how many have arrived in it, and how it
//! ended.
//!
//! | from | to | by |
//! |---|---|---|
//! | open, `a` of `n` arrived | open, `a + 1` arrived | one that arrives |
//! | open, `n - 1` arrived | passed | the last to arrive |
//! | open | broken | one that waited to its deadline |
//! | passed | open, round + 1, 1 arrived | the first to arrive again |
//! | any | open, round + 2, none arrived | a reset |
//!
//! All are compare-and-swaps, so a round ends in one way for all. That the
//! round passed shows to those still in it as "passed", or as the next round;
//! anything later means that it was reset under them, so that they must not go
//! on as if all had been there.

use super::atomic::{AtomicU32, Ordering};

/// The most participants.
pub(crate) const MAX: u32 = 0x3fff;

/// How the round ended, in the lowest bits.
const OUTCOME: u32 = 3;
const OPEN: u32 = 0;
const PASSED: u32 = 1;
const BROKEN: u32 = 2;

/// One who arrived.
const ONE: u32 = 1 << 2;
const ARRIVED: u32 = MAX << 2;

/// The round, in the upper half.
const ROUND: u32 = 1 << 16;

/// What one that arrives finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It is the last: the round is passed, and the others are to be woken.
    Last,
    /// It has to wait for the end of this round.
    Early { round: u32 },
    /// The barrier is broken.
    Broken,
}

/// How it stands with a round that one arrived in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Not all have arrived; the word to sleep on.
    Open {
        word: u32,
    },
    Passed,
    Broken,
}

pub(crate) fn arrive(word: &AtomicU32, participants: u32) -> Arrival {
    let mut seen = word.load(Ordering::Relaxed);
    loop {
        // What is in the word after this one has arrived in an open round.
        let open = match seen & OUTCOME {
            OPEN => (seen & !OUTCOME).wrapping_add(ONE),
            PASSED => (seen & !(ROUND - 1)).wrapping_add(ROUND) + ONE,
            _ => return Arrival::Broken,
        };
        let last = (open & ARRIVED) / ONE >= participants;
        let next = if last { open | PASSED } else { open };
        match word.compare_exchange_weak(
            seen,
            next,
            Ordering::AcqRel,
            Ordering::Relaxed,
        ) {
            Ok(_) if last => return Arrival::Last,
            Ok(_) => return Arrival::Early { round: round_of(next) },
            Err(now) => seen = now,
        }
    }
}

pub(crate) fn outcome(word: &AtomicU32, round: u32) -> Outcome {
    outcome_of(word.load(Ordering::Acquire), round)
}

fn outcome_of(word: u32, round: u32) -> Outcome {
    let later = round_of(word).wrapping_sub(round) & 0xffff;
    match (later, word & OUTCOME) {
        (0, OPEN) => Outcome::Open { word },
        (0, PASSED) | (1, _) => Outcome::Passed,
        _ => Outcome::Broken,
    }
}

/// Breaks the round if it is still open, and says how it ended; true where this
/// call broke it, and the others are to be woken.
pub(crate) fn give_up(word: &AtomicU32, round: u32) -> (Outcome, bool) {
    loop {
        let outcome = outcome(word, round);
        let Outcome::Open { word: seen } = outcome else {
            return (outcome, false);
        };
        let broken = word.compare_exchange(
            seen,
            seen | BROKEN,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        if broken.is_ok() {
            return (Outcome::Broken, true);
        }
    }
}

/// Begins anew, with nobody arrived. Those that still wait are to be woken.
pub(crate) fn reset(word: &AtomicU32) {
    let mut seen = word.load(Ordering::Relaxed);
    loop {
        let next = (seen & !(ROUND - 1)).wrapping_add(2 * ROUND);
        match word.compare_exchange_weak(
            seen,
            next,
            Ordering::AcqRel,
            Ordering::Relaxed,
        ) {
            Ok(_) => return,
            Err(now) => seen = now,
        }
    }
}

pub(crate) fn is_broken(word: &AtomicU32) -> bool {
    word.load(Ordering::Acquire) & OUTCOME == BROKEN
}

fn round_of(word: u32) -> u32 {
    word / ROUND
}
