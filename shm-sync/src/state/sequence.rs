//! Some slots and a number: the value stands in slot `number % SLOTS`.
//!
//! A writer, of which there is one at a time, fills the next slot and then
//! moves the number on. So a writer that dies before that has changed nothing,
//! and readers go on with the value before. A slot is filled again `SLOTS`
//! writes later, so a reader has read a torn value only if the number moved on
//! by `SLOTS - 1` or more meanwhile: then the slot may be in the making.

use super::atomic::{AtomicUsize, Ordering, fence};

/// Fills the next slot and publishes it. The caller holds the writers' lock.
///
/// # Errors
///
/// Those of `fill`; then nothing was published.
#[inline]
pub(crate) fn write<const SLOTS: usize, E>(
    number: &AtomicUsize,
    fill: impl FnOnce(usize) -> Result<(), E>,
) -> Result<(), E> {
    let next = number.load(Ordering::Relaxed).wrapping_add(1);
    // Whoever sees a byte of the new value also sees the number of the value
    // before it, and by that learns that the slot is being filled again.
    fence(Ordering::Release);
    fill(slot::<SLOTS>(next))?;
    number.store(next, Ordering::Release);
    Ok(())
}

/// Which slot holds the value, where the number was loaded with acquire order.
#[inline]
pub(crate) const fn slot<const SLOTS: usize>(number: usize) -> usize {
    number % SLOTS
}

/// Whether what was copied since the number was `before` is the value of one
/// write: not if `SLOTS - 1` writes ended meanwhile.
///
/// # Errors
///
/// Those of `number`, which loads it.
#[inline]
pub(crate) fn is_whole<const SLOTS: usize, E>(
    before: usize,
    number: impl FnOnce() -> Result<usize, E>,
) -> Result<bool, E> {
    // The load of the number below is not earlier than any of the copy.
    fence(Ordering::Acquire);
    let overtaken = number()?.wrapping_sub(before);
    Ok(overtaken < SLOTS - 1)
}
