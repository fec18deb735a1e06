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
    fill(next % SLOTS)?;
    number.store(next, Ordering::Release);
    Ok(())
}

/// Copies the value out; none if it may be torn, because `SLOTS - 1` writes
/// ended meanwhile. `number` loads with acquire order.
///
/// # Errors
///
/// Those of `number` and `copy`.
#[inline]
pub(crate) fn read<const SLOTS: usize, T, E>(
    number: impl Fn() -> Result<usize, E>,
    copy: impl FnOnce(usize) -> Result<T, E>,
) -> Result<Option<T>, E> {
    let before = number()?;
    let value = copy(before % SLOTS)?;
    // The load of the number below is not earlier than any of the copy.
    fence(Ordering::Acquire);
    let overtaken = number()?.wrapping_sub(before);
    Ok((overtaken < SLOTS - 1).then_some(value))
}
