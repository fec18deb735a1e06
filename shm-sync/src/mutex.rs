//! A lock that a dead owner does not keep.
#![expect(unsafe_code, reason = "promises the C library a mutex of its own")]

use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use shm_common::zerocopy::{FromBytes, Immutable, IntoBytes};
use shm_common::{Error, OsError, ReadWrite, Result, SharedBytes};
use shm_common::{Size, SizeFault};

use crate::Deadline;
use crate::header::{self, ALIGN, Kind};
use crate::robust::{self, Robust, Wait};

/// What the lock knows of the bytes that it protects.
const WHOLE: u32 = 0;
/// An owner died or panicked, and nobody has repaired them yet.
const ABANDONED: u32 = 1;
/// Somebody could not repair them, or did not care to.
const GIVEN_UP: u32 = 2;
/// A bit beside these, while the owner was unwinding a panic when it locked: a
/// guard that is made in the midst of one is no victim of it.
const PANICKING: u32 = 4;

/// A lock between processes, with the bytes that it protects.
///
/// It is the C library's robust mutex: when its owner dies with it, the kernel
/// hands it on, and whoever gets it next is told by [`Locked::OwnerDied`] that
/// the bytes may be half-written. Only a [`MutexGuard`] gives access to them.
///
/// The value is a view, like [`SharedBytes`], and as cheap to copy; copies are
/// the same lock. It has no fairness.
///
/// # When a user is killed
///
/// | while it | the others |
/// |---|---|
/// | waits for the lock | notice nothing, but that one may get the lock a second late |
/// | locks or unlocks, at any step | get the lock; `OwnerDied` if it had it; those that sleep may get it a second late |
/// | owns the lock | get it with `OwnerDied` |
/// | repairs, before [`mark_consistent`](OrphanGuard::mark_consistent) ends | get it with `OwnerDied` |
///
/// A panic that unwinds through a guard counts as a death. A user that is
/// stopped (`SIGSTOP`) is not dead: the others wait, so give them a deadline.
///
/// # Limits
///
/// Users have the same C library and pointer width, and see each other's
/// thread ids: they are in one PID namespace; [`open`](Self::open) checks it. A
/// thread that holds more than 2048 robust mutexes hands on only so many.
///
/// # Examples
///
/// ```
/// use shm_memfd::{Label, Segment, Size};
/// use shm_sync::{Locked, Mutex};
///
/// let segment = Segment::create(&Label::new("ledger")?, Size::MIB)?;
/// let mapping = segment.map()?;
/// // SAFETY: 1. and 2. this program uses the first `Mutex::size(8)` bytes of
/// // the segment only by this. 3. No guard is leaked.
/// let mutex = unsafe { Mutex::create(mapping.bytes(), 0, 8)? };
///
/// let guard = match mutex.lock()? {
///     Locked::Clean(guard) => guard,
///     Locked::OwnerDied(orphan) => {
///         orphan.set(0, 0_u64)?; // in a state that makes sense again
///         orphan.mark_consistent()?
///     }
/// };
/// guard.update(0, |balance: u64| balance + 5)?;
/// assert_eq!(guard.get::<u64>(0)?, 5);
/// # Ok::<(), shm_sync::Error>(())
/// ```
///
/// The bytes cannot be used after the guard is gone:
///
/// ```compile_fail,E0505
/// # fn f(guard: shm_sync::MutexGuard<'_>) -> shm_sync::Result<()> {
/// let bytes = guard.bytes();
/// drop(guard);
/// bytes.set(0, 1_u8)
/// # }
/// ```
///
/// nor may the mapping go before the guard:
///
/// ```compile_fail,E0505
/// # use shm_memfd::{Mapping, ReadWrite};
/// # fn f(mapping: Mapping<ReadWrite>) -> shm_sync::Result<()> {
/// # // SAFETY: not run.
/// # let mutex = unsafe { shm_sync::Mutex::create(mapping.bytes(), 0, 8)? };
/// let guard = mutex.lock()?;
/// drop(mapping);
/// drop(guard);
/// # Ok(())
/// # }
/// ```
///
/// and a guard stays in its thread, which is the owner:
///
/// ```compile_fail,E0277
/// # fn f(guard: shm_sync::MutexGuard<'static>) {
/// std::thread::spawn(move || drop(guard));
/// # }
/// ```
///
/// # Sources
///
/// `pthread_mutex_lock(3)`, `pthread_mutexattr_setrobust(3)`,
/// `get_robust_list(2)`.
#[derive(Clone, Copy)]
pub struct Mutex<'a> {
    /// With the bytes that it protects, of which the last line is not whole.
    robust: Robust<'a>,
    offset: usize,
}

impl<'a> Mutex<'a> {
    /// The length in bytes of a mutex that protects `len` bytes.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSize`]: more than 2³² - 1 bytes, or than a segment has.
    pub fn size(len: usize) -> Result<usize> {
        let too_large = || Error::InvalidSize {
            given: len.to_string(),
            fault: SizeFault::TooLarge,
        };
        u32::try_from(len).map_err(|_| too_large())?;
        len.checked_next_multiple_of(ALIGN)
            .and_then(|len| len.checked_add(robust::LEN))
            .filter(|size| Size::new(*size).is_ok())
            .ok_or_else(too_large)
    }

    /// Makes a mutex at `offset` that protects `len` bytes, which lie behind it
    /// and stay as they are.
    ///
    /// # Errors
    ///
    /// - [`Error::InvalidSize`]: as for [`size`](Self::size).
    /// - [`Error::OutOfBounds`]: `bytes` ends before the mutex would.
    /// - [`Error::Misaligned`]: its address is no multiple of 64.
    /// - [`Error::Unsupported`]: nobody can sleep in that memory (`EFAULT`).
    /// - [`Error::Os`]: this system has no robust mutexes (`ENOTSUP`).
    ///
    /// # Safety
    ///
    /// The C library keeps addresses in the mutex and trusts them, so:
    /// 1. Until the last user is done, the [`size`](Self::size) bytes from
    ///    `offset` on are written only through this type, in this process and
    ///    in every other that has them mapped. Those that do not keep this can
    ///    make this process write anywhere.
    /// 2. Nobody uses them yet, also not an earlier mutex at that place.
    /// 3. A guard that is leaked (`mem::forget`) keeps the lock: the mapping
    ///    then stays for as long as its thread runs.
    pub unsafe fn create(
        bytes: SharedBytes<'a, ReadWrite>,
        offset: usize,
        len: usize,
    ) -> Result<Self> {
        let place = header::place_to_wait(bytes, offset, Self::size(len)?)?;
        header::begin(place)?;
        let exact = place.subslice(0, robust::LEN + len)?;
        // SAFETY: 1. `place` checked it. 2. `create` is next; who writes them
        // is our 1. 3. is our 3.
        let robust = unsafe { Robust::new(exact)? };
        // SAFETY: 1. is our 2.
        unsafe { robust.create()? };
        robust.word().store(WHOLE, Ordering::Relaxed);
        // `size` checked that it fits.
        header::publish(place, Kind::Mutex, u32::try_from(len).unwrap_or(0))?;
        Ok(Self { robust, offset })
    }

    /// Opens the mutex at `offset`, with as many bytes as its creator gave it.
    ///
    /// # Errors
    ///
    /// - [`Error::NotReady`]: nothing was created there yet.
    /// - [`Error::Incompatible`]: something else is there, or it was made by
    ///   another version, C library, pointer width or PID namespace.
    /// - [`Error::OutOfBounds`], [`Error::Misaligned`],
    ///   [`Error::Unsupported`].
    ///
    /// # Safety
    ///
    /// 1. and 3. as for [`create`](Self::create); and
    /// 2. what is there was made by [`create`](Self::create).
    pub unsafe fn open(
        bytes: SharedBytes<'a, ReadWrite>,
        offset: usize,
    ) -> Result<Self> {
        let len = header::check_to_lock(bytes, offset, Kind::Mutex)?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let place = header::place_to_wait(bytes, offset, Self::size(len)?)?;
        let exact = place.subslice(0, robust::LEN + len)?;
        // SAFETY: 1. `place` checked it. 2. made by `create`, of this C
        // library: `check_to_lock`; who writes them is our 1. 3. is our 3.
        let robust = unsafe { Robust::new(exact)? };
        Ok(Self { robust, offset })
    }

    /// Locks, however long that takes.
    ///
    /// # Errors
    ///
    /// - [`Error::Deadlock`]: this thread has the lock already (`EDEADLK`).
    /// - [`Error::NotRecoverable`]: an owner died, and nobody repaired what it
    ///   left (`ENOTRECOVERABLE`).
    #[inline]
    pub fn lock(&self) -> Result<Locked<'_>> {
        self.finish(self.robust.lock(Wait::ForEver))
    }

    /// Locks unless somebody has the lock now; then it is none.
    ///
    /// # Errors
    ///
    /// As for [`lock`](Self::lock). With musl the owner gets none as well.
    #[inline]
    pub fn try_lock(&self) -> Result<Option<Locked<'_>>> {
        match self.finish(self.robust.lock(Wait::No)) {
            Ok(locked) => Ok(Some(locked)),
            Err(Error::Busy(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Locks, and waits for that until the deadline. A lock that is free is had
    /// also after it.
    ///
    /// # Errors
    ///
    /// - As for [`lock`](Self::lock).
    /// - [`Error::TimedOut`]: somebody still has it (`ETIMEDOUT`). It says
    ///   nothing about whether they live: a dead owner's lock is handed on.
    #[inline]
    pub fn lock_until(&self, deadline: Deadline) -> Result<Locked<'_>> {
        self.finish(self.robust.lock(Wait::Until(deadline)))
    }

    /// The number of bytes that it protects.
    #[must_use]
    pub fn len(&self) -> usize {
        self.robust.rest().len()
    }

    /// Whether it protects no bytes of its own.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the caller gets of a lock that the C library was asked for.
    #[inline]
    fn finish(&self, locked: Result<bool, OsError>) -> Result<Locked<'_>> {
        if matches!(locked, Ok(false))
            && self.state().load(Ordering::Relaxed) == WHOLE
            && !thread::panicking()
        {
            return Ok(Locked::Clean(self.guard()));
        }
        self.admit(locked)
    }

    /// The same in all cases.
    #[cold]
    fn admit(&self, locked: Result<bool, OsError>) -> Result<Locked<'_>> {
        let owner_died = locked.map_err(|os| self.failed(os))?;
        // From here on it unlocks.
        let guard = self.guard();
        if owner_died {
            self.take_over().map_err(|os| self.failed(os))?;
        }
        let state = self.state().load(Ordering::Relaxed) & !PANICKING;
        let mood = if thread::panicking() { PANICKING } else { 0 };
        self.state().store(state | mood, Ordering::Relaxed);
        match state {
            WHOLE => Ok(Locked::Clean(guard)),
            GIVEN_UP => Err(self.given_up()),
            _ => Ok(Locked::OwnerDied(OrphanGuard { guard: Some(guard) })),
        }
    }

    #[inline]
    const fn guard(&self) -> MutexGuard<'_> {
        MutexGuard { mutex: self, _thread: PhantomData }
    }

    /// Writes down that an owner died, and only then tells the C library that
    /// the lock can be had again: if this thread dies in between, the kernel
    /// says the same to the next one.
    #[cold]
    fn take_over(&self) -> Result<(), OsError> {
        if self.state().load(Ordering::Relaxed) & !PANICKING != GIVEN_UP {
            self.state().store(ABANDONED, Ordering::Relaxed);
        }
        self.robust.consistent()
    }

    #[inline]
    fn state(&self) -> &'a AtomicU32 {
        self.robust.word()
    }

    #[cold]
    fn failed(&self, os: OsError) -> Error {
        os.on(Kind::Mutex.at(self.offset)).into()
    }

    #[cold]
    fn given_up(&self) -> Error {
        OsError::new("pthread_mutex_lock", libc::ENOTRECOVERABLE)
            .on(Kind::Mutex.at(self.offset))
            .into()
    }

    /// Whether this thread is the owner: not so in a forked child, which has
    /// copies of its parent's guards.
    #[cold]
    fn is_ours(&self) -> bool {
        // To try would not tell with every C library. A lock that may wait
        // refuses its owner with all of them.
        match self.robust.lock(Wait::Until(Deadline::now())) {
            Err(os) => os.errno() == libc::EDEADLK,
            Ok(owner_died) => {
                // The parent is gone and this thread has the lock, which it
                // must not keep; the next one is to learn of the death. Where
                // one of these fails, it finds out by itself.
                if owner_died {
                    let _ = self.take_over();
                }
                let _ = self.robust.unlock();
                false
            }
        }
    }

    #[cold]
    fn not_ours(&self) -> Error {
        OsError::new("pthread_mutex_unlock", libc::EPERM)
            .on(Kind::Mutex.at(self.offset))
            .hint("the lock belongs to the thread that locked it")
            .into()
    }
}

impl fmt::Debug for Mutex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutex")
            .field("offset", &self.offset)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// A lock that was had, and in which state.
#[derive(Debug)]
#[must_use = "dropping it unlocks, and gives an orphaned lock up for good"]
pub enum Locked<'a> {
    /// Every owner so far has unlocked it.
    Clean(MutexGuard<'a>),
    /// An owner died with it, or panicked, and the bytes may be half-written.
    OwnerDied(OrphanGuard<'a>),
}

impl<'a> Locked<'a> {
    /// The guard, after `repair` where an owner died.
    ///
    /// # Errors
    ///
    /// What `repair` returns, and then the lock is given up for good; or what
    /// [`OrphanGuard::mark_consistent`] does.
    ///
    /// # Examples
    ///
    /// ```
    /// # let mut memory = [0_u64; 32];
    /// # let bytes = shm_sync::zerocopy::IntoBytes::as_mut_bytes(&mut memory);
    /// # let at = bytes.as_ptr().align_offset(64);
    /// # let bytes = shm_sync::SharedBytes::from_mut(&mut bytes[at..]);
    /// # // SAFETY: 1. to 3. used by nothing else.
    /// # let mutex = unsafe { shm_sync::Mutex::create(bytes, 0, 8)? };
    /// let guard = mutex.lock()?.or_repair(|bytes| bytes.set(0, 0_u64))?;
    /// # guard.unlock()?;
    /// # Ok::<(), shm_sync::Error>(())
    /// ```
    pub fn or_repair(
        self,
        repair: impl FnOnce(SharedBytes<'_, ReadWrite>) -> Result<()>,
    ) -> Result<MutexGuard<'a>> {
        match self {
            Locked::Clean(guard) => Ok(guard),
            Locked::OwnerDied(orphan) => {
                repair(orphan.bytes())?;
                orphan.mark_consistent()
            }
        }
    }
}

/// The lock, and access to what it protects; unlocks on drop.
///
/// It belongs to its thread. A child that is forked meanwhile gets a copy that
/// owns nothing: dropping it there does nothing, and [`unlock`](Self::unlock)
/// is refused; but nothing keeps such a child from writing the bytes.
pub struct MutexGuard<'a> {
    /// A reference, so that the guard is one word: it is moved on its way to
    /// the caller, and a wider one costs as much again as the lock.
    mutex: &'a Mutex<'a>,
    /// The C library knows the owner by thread.
    _thread: PhantomData<*const ()>,
}

/// The lock, taken over from an owner that died or panicked. The bytes are as
/// it left them.
///
/// Dropping it without [`mark_consistent`](Self::mark_consistent) gives the lock
/// up for good: everybody gets [`Error::NotRecoverable`] from then on. A panic
/// that drops it leaves the repair to the next one.
#[derive(Debug)]
#[must_use = "dropping it gives the lock up for good"]
pub struct OrphanGuard<'a> {
    /// None only inside `mark_consistent`.
    guard: Option<MutexGuard<'a>>,
}

impl<'a> MutexGuard<'a> {
    /// The bytes that the lock protects.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> SharedBytes<'_, ReadWrite> {
        self.mutex.robust.rest()
    }

    /// Copies out the value at `offset`.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`]: the bytes end before.
    #[inline]
    pub fn get<T: FromBytes>(&self, offset: usize) -> Result<T> {
        self.bytes().get(offset)
    }

    /// Writes the value at `offset`.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`]: the bytes end before; nothing was written.
    #[inline]
    pub fn set<T: IntoBytes + Immutable>(
        &self,
        offset: usize,
        value: T,
    ) -> Result<()> {
        self.bytes().set(offset, value)
    }

    /// Replaces the value at `offset` by what `change` makes of it.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`]: the bytes end before; nothing was written.
    #[inline]
    pub fn update<T: FromBytes + IntoBytes + Immutable>(
        &self,
        offset: usize,
        change: impl FnOnce(T) -> T,
    ) -> Result<()> {
        self.set(offset, change(self.get(offset)?))
    }

    /// Unlocks, and says when that was not possible.
    ///
    /// # Errors
    ///
    /// [`Error::PermissionDenied`]: another thread is the owner: this one got
    /// the guard by a fork (`EPERM`).
    pub fn unlock(self) -> Result<()> {
        let mutex = self.mutex;
        // What its drop would do, which cannot say whether it did.
        std::mem::forget(self);
        mutex.robust.unlock().map_err(|_| mutex.not_ours())
    }

    /// The mutex that it locks.
    #[must_use]
    pub const fn mutex(&self) -> &'a Mutex<'a> {
        self.mutex
    }
}

impl MutexGuard<'_> {
    /// A panic unwinds this thread: since it locked, or also when it did.
    #[cold]
    fn unwind(&self) {
        if !self.mutex.is_ours() {
            return;
        }
        let state = self.mutex.state();
        let before = state.load(Ordering::Relaxed);
        let after = match before & PANICKING {
            0 => ABANDONED,
            _ => before & !PANICKING,
        };
        state.store(after, Ordering::Relaxed);
    }
}

impl<'a> OrphanGuard<'a> {
    /// The bytes, as the dead owner left them.
    #[must_use]
    pub fn bytes(&self) -> SharedBytes<'_, ReadWrite> {
        match &self.guard {
            Some(guard) => guard.bytes(),
            None => SharedBytes::from_mut(&mut []),
        }
    }

    /// As [`MutexGuard::get`].
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`].
    pub fn get<T: FromBytes>(&self, offset: usize) -> Result<T> {
        self.bytes().get(offset)
    }

    /// As [`MutexGuard::set`].
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`].
    pub fn set<T: IntoBytes + Immutable>(
        &self,
        offset: usize,
        value: T,
    ) -> Result<()> {
        self.bytes().set(offset, value)
    }

    /// Says that the bytes make sense again, and makes an ordinary guard of it.
    ///
    /// # Errors
    ///
    /// [`Error::PermissionDenied`]: this thread got the guard by a fork, and
    /// does not own the lock (`EPERM`); nothing changes.
    pub fn mark_consistent(mut self) -> Result<MutexGuard<'a>> {
        match self.guard.take() {
            Some(guard) if guard.mutex.is_ours() => {
                let state = guard.mutex.state();
                let mood = state.load(Ordering::Relaxed) & PANICKING;
                state.store(WHOLE | mood, Ordering::Relaxed);
                Ok(guard)
            }
            Some(guard) => Err(guard.mutex.not_ours()),
            // Not so before this call, which takes it.
            None => Err(OsError::new("mark_consistent", libc::EPERM).into()),
        }
    }
}

impl Drop for MutexGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        if thread::panicking() {
            self.unwind();
        }
        // It fails in a forked child, which has nothing to give back.
        let _ = self.mutex.robust.unlock();
    }
}

impl Drop for OrphanGuard<'_> {
    fn drop(&mut self) {
        let Some(guard) = &self.guard else { return };
        if !thread::panicking() && guard.mutex.is_ours() {
            guard.mutex.state().store(GIVEN_UP, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for MutexGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MutexGuard")
            .field("mutex", &self.mutex)
            .finish_non_exhaustive()
    }
}
