//! Waiting, with a lock, until somebody changes what it protects.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

use shm_common::{ReadWrite, Result, SharedBytes};

use crate::header::{self, ALIGN, Kind};
use crate::state::condvar;
use crate::{Deadline, Locked, MutexGuard};

/// Lets the owner of a [`Mutex`](crate::Mutex) wait until another one changes
/// what the mutex protects.
///
/// Not the C library's: that one counts its waiters in shared memory, so that a
/// killed one can make a later notifier hang. This one has a number in shared
/// memory and the rest in the kernel, which forgets the dead.
///
/// There is no way to wake a single waiter: it could be killed before it does
/// anything about it, and the others would sleep on. All waiters of one
/// `Condvar` use one mutex; with several, notifications get lost.
///
/// # When a user is killed
///
/// | while it | the others |
/// |---|---|
/// | waits | notice nothing, but that one notification costs a system call more |
/// | owns the mutex again | get it with [`Locked::OwnerDied`] |
/// | notifies, at any step | are all woken, or none is |
///
/// A notifier that dies between its change and its notification has not
/// notified, so a waiter that must not miss that has a deadline.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use shm_memfd::{Label, Segment, Size};
/// use shm_sync::{Condvar, Deadline, Error, Mutex};
///
/// let segment = Segment::create(&Label::new("queue")?, Size::MIB)?;
/// let mapping = segment.map()?;
/// let changed = Condvar::create(mapping.bytes(), 0)?;
/// // SAFETY: 1. and 2. used only by this. 3. No guard is leaked.
/// let queue = unsafe { Mutex::create(mapping.bytes(), 64, 8)? };
///
/// // Here nobody else is there to put something in.
/// let deadline = Deadline::after(Duration::from_millis(1));
/// let mut guard = queue.lock()?.or_repair(|_| Ok(()))?;
/// let given_up = loop {
///     if guard.get::<u64>(0)? > 0 {
///         break None;
///     }
///     match changed.wait_until(guard, deadline) {
///         Ok(locked) => guard = locked.or_repair(|_| Ok(()))?,
///         Err(error) => break Some(error),
///     }
/// };
/// assert!(matches!(given_up, Some(Error::TimedOut(_))));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Condvar<'a> {
    word: &'a AtomicU32,
    offset: usize,
}

impl<'a> Condvar<'a> {
    /// Its length in bytes.
    pub const SIZE: usize = ALIGN;

    /// Makes a condition variable at `offset`.
    ///
    /// # Errors
    ///
    /// - [`Error::OutOfBounds`](crate::Error::OutOfBounds): `bytes` ends before it would.
    /// - [`Error::Misaligned`](crate::Error::Misaligned): its address is no multiple of 64.
    /// - [`Error::Unsupported`](crate::Error::Unsupported): nobody can sleep in that memory (`EFAULT`).
    pub fn create(
        bytes: SharedBytes<'a, ReadWrite>,
        offset: usize,
    ) -> Result<Self> {
        let place = header::place_to_wait(bytes, offset, Self::SIZE)?;
        header::begin(place)?;
        let word = place.atomic_u32(header::LEN)?;
        word.store(0, Ordering::Relaxed);
        header::publish(place, Kind::Condvar, 0)?;
        Ok(Self { word, offset })
    }

    /// Opens the condition variable at `offset`.
    ///
    /// # Errors
    ///
    /// - [`Error::NotReady`](crate::Error::NotReady): nothing was created there yet.
    /// - [`Error::Incompatible`](crate::Error::Incompatible): something else is there, or another version.
    /// - [`Error::OutOfBounds`](crate::Error::OutOfBounds), [`Error::Misaligned`](crate::Error::Misaligned),
    ///   [`Error::Unsupported`](crate::Error::Unsupported).
    pub fn open(
        bytes: SharedBytes<'a, ReadWrite>,
        offset: usize,
    ) -> Result<Self> {
        header::check(bytes, offset, Kind::Condvar)?;
        let place = header::place_to_wait(bytes, offset, Self::SIZE)?;
        Ok(Self { word: place.atomic_u32(header::LEN)?, offset })
    }

    /// Unlocks, waits for a notification, and locks again. May return without
    /// one: look at what the mutex protects, and wait again.
    ///
    /// # Errors
    ///
    /// The lock is not held after an error.
    /// - [`Error::PermissionDenied`](crate::Error::PermissionDenied): this thread got the guard by a fork.
    /// - Those of [`Mutex::lock`](crate::Mutex::lock).
    pub fn wait<'m>(&self, guard: MutexGuard<'m>) -> Result<Locked<'m>> {
        self.wait_for(guard, None)
    }

    /// As [`wait`](Self::wait), up to a deadline for both the notification and
    /// the lock.
    ///
    /// # Errors
    ///
    /// The lock is not held after an error.
    /// - As for [`wait`](Self::wait).
    /// - [`Error::TimedOut`](crate::Error::TimedOut): no notification came, or the lock was not to be
    ///   had (`ETIMEDOUT`).
    pub fn wait_until<'m>(
        &self,
        guard: MutexGuard<'m>,
        deadline: Deadline,
    ) -> Result<Locked<'m>> {
        self.wait_for(guard, Some(deadline))
    }

    fn wait_for<'m>(
        &self,
        guard: MutexGuard<'m>,
        deadline: Option<Deadline>,
    ) -> Result<Locked<'m>> {
        let mutex = guard.mutex();
        let announced = condvar::announce(self.word);
        guard.unlock()?;
        condvar::sleep(self.word, announced, deadline)
            .map_err(|os| os.on(Kind::Condvar.at(self.offset)))?;
        match deadline {
            None => mutex.lock(),
            Some(deadline) => mutex.lock_until(deadline),
        }
    }

    /// Wakes all that wait now. Call it after the change, with the mutex or
    /// without: without, the woken do not wait for it.
    ///
    /// # Errors
    ///
    /// [`Error::Os`](crate::Error::Os): the kernel refuses to wake (`ENOSYS` under a filter).
    pub fn notify_all(&self) -> Result<()> {
        condvar::notify(self.word)
            .map_err(|os| os.on(Kind::Condvar.at(self.offset)))?;
        Ok(())
    }
}

impl fmt::Debug for Condvar<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condvar")
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}
