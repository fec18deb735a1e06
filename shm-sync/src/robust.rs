//! The C library's robust mutex in shared bytes: the part that [`Mutex`],
//! [`SeqLock`] and [`Ready`] have in common.
//!
//! [`Mutex`]: crate::Mutex
//! [`SeqLock`]: crate::SeqLock
//! [`Ready`]: crate::Ready
#![expect(unsafe_code, reason = "hands shared bytes to the C library's mutex")]

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use libc::pthread_mutex_t;
use shm_common::{Creator, Error, OsError, ReadWrite, Result, SharedBytes};

use crate::Deadline;
use crate::header::{self, ALIGN};
use crate::raw::{self, MutexAt};

/// Where things lie in the object, in bytes. Behind the header are a word for
/// the object's own use, 4 bytes without a use, and the mutex.
const WORD: usize = 16;
const MUTEX: usize = 24;

/// The length of all that, in bytes: 64 with glibc on x86-64.
pub(crate) const LEN: usize =
    (MUTEX + size_of::<pthread_mutex_t>()).next_multiple_of(ALIGN);

const _: () = assert!(MUTEX.is_multiple_of(align_of::<pthread_mutex_t>()));
const _: () = assert!(ALIGN.is_multiple_of(align_of::<pthread_mutex_t>()));
const _: () = assert!(header::LEN <= WORD && WORD + 4 <= MUTEX);

/// How long a waiter sleeps at most before it looks for itself.
pub(crate) const NAP: Duration = Duration::from_secs(1);

/// Whether the lock that was had came from a dead owner.
#[inline]
fn owner_died(locked: Result<(), OsError>) -> Result<bool, OsError> {
    match locked {
        Ok(()) => Ok(false),
        Err(os) if os.errno() == libc::EOWNERDEAD => Ok(true),
        Err(os) => Err(os),
    }
}

/// How long a lock may wait.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wait {
    No,
    Until(Deadline),
    ForEver,
}

/// A mutex whose owner may die, at the head of an object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Robust<'a> {
    /// All of the object. Invariants, for all of `'a`:
    /// 1. It has at least `LEN` bytes, and begins at a multiple of `ALIGN`.
    /// 2. All of [`MutexAt`] holds for where the mutex lies, once `create` or
    ///    `install` was called, here or elsewhere, as `new` was promised.
    place: SharedBytes<'a, ReadWrite>,
}

impl<'a> Robust<'a> {
    /// The mutex of the object that is all of `place`.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`]: it is shorter than [`LEN`].
    ///
    /// # Safety
    ///
    /// For all of `'a`:
    /// 1. `place` begins at a multiple of `ALIGN`.
    /// 2. Its bytes from `MUTEX` to `LEN` hold a mutex that
    ///    [`create`](Self::create) or [`install`](Self::install) made, by the
    ///    same C library, or get it before anything else is called; and are
    ///    written by nothing else.
    /// 3. They stay mapped for as long as a thread of this process holds the
    ///    mutex, also where a guard was leaked.
    pub(crate) unsafe fn new(
        place: SharedBytes<'a, ReadWrite>,
    ) -> Result<Self> {
        place.split_at(LEN)?;
        Ok(Self { place })
    }

    #[inline]
    fn at(self) -> MutexAt {
        self.inside(MUTEX).cast()
    }

    /// The word for the object's own use.
    #[inline]
    pub(crate) fn word(self) -> &'a AtomicU32 {
        // SAFETY: inside and aligned: invariant 1, and the assertion above.
        // Valid for `'a`, and accessed only as this atomic: those of the view.
        unsafe { self.inside(WORD).cast().as_ref() }
    }

    /// What the object has behind its head.
    #[inline]
    pub(crate) fn rest(self) -> SharedBytes<'a, ReadWrite> {
        let len = self.place.len() - LEN;
        // SAFETY: 1. to 3. the end of a view that is valid for `'a`, and by
        // invariant 1 not shorter.
        unsafe { SharedBytes::from_raw_parts(self.inside(LEN), len) }
    }

    /// The address of an offset up to `LEN`.
    #[inline]
    fn inside(self, offset: usize) -> NonNull<u8> {
        debug_assert!(offset <= LEN);
        let start = self.place.as_mut_ptr().wrapping_add(offset);
        // SAFETY: by invariant 1 inside a view, or at its end, so that the sum
        // did not wrap to null.
        unsafe { NonNull::new_unchecked(start) }
    }

    /// Makes the mutex.
    ///
    /// # Safety
    ///
    /// 1. Nobody uses it meanwhile.
    pub(crate) unsafe fn create(self) -> Result<()> {
        // SAFETY: 1. the invariant; 2. as promised.
        unsafe { raw::pthread_mutex_init(self.at())? };
        Ok(())
    }

    /// Makes the mutex over zeros. Any number of processes may do so at once,
    /// and each may be killed at any step: what the C library makes does not
    /// depend on the address (checked here), so all have the same bytes to
    /// write, and write those that are still zero. The words that locking
    /// changes stay zero in it, so a mutex that is locked already is left
    /// alone.
    pub(crate) fn install(self) -> Result<()> {
        let ours = image(&mut MaybeUninit::zeroed())?;
        if ours != image(&mut Box::new(MaybeUninit::zeroed()))? {
            return Err(Error::Unsupported {
                what: "the mutex of this C library depends on its address",
                os: None,
            });
        }
        for (index, word) in ours.iter().enumerate() {
            if *word != 0 {
                let offset = MUTEX + index * size_of::<u32>();
                header::install(self.place.atomic_u32(offset)?, *word);
            }
        }
        Ok(())
    }

    /// Locks, and says whether the last owner died with the lock. If so it must
    /// be made [`consistent`](Self::consistent) before it is unlocked, or
    /// nobody ever gets it again.
    #[inline]
    pub(crate) fn lock(self, wait: Wait) -> Result<bool, OsError> {
        // SAFETY: 1. to 3. the invariant.
        match (unsafe { raw::pthread_mutex_trylock(self.at()) }, wait) {
            (Ok(()), _) => Ok(false),
            (Err(os), Wait::Until(_) | Wait::ForEver)
                if os.errno() == libc::EBUSY =>
            {
                self.wait(wait)
            }
            (locked, _) => owner_died(locked),
        }
    }

    /// Waits for a lock that somebody had a moment ago.
    ///
    /// glibc takes a free mutex without a word about those who sleep for it, as
    /// whoever unlocks has just woken one. If that one is killed before it gets
    /// there, or the one who unlocks before it wakes anyone, the others would
    /// sleep on, next to a free lock. So nobody sleeps for long without a look.
    #[cold]
    fn wait(self, wait: Wait) -> Result<bool, OsError> {
        let deadline = match wait {
            Wait::Until(deadline) => deadline,
            _ => Deadline::NEVER,
        };
        loop {
            let nap = deadline.min(Deadline::after(NAP));
            // SAFETY: 1. to 3. the invariant.
            match unsafe { raw::pthread_mutex_clocklock(self.at(), nap) } {
                Err(os) if os.errno() == libc::ETIMEDOUT => {}
                locked => return owner_died(locked),
            }
            if deadline.has_passed() {
                // SAFETY: 1. to 3. the invariant.
                let last = unsafe { raw::pthread_mutex_trylock(self.at()) };
                return match last {
                    Err(os) if os.errno() == libc::EBUSY => Err(OsError::new(
                        "pthread_mutex_clocklock",
                        libc::ETIMEDOUT,
                    )),
                    locked => owner_died(locked),
                };
            }
        }
    }

    /// As [`lock`](Self::lock), and unlocks when the result is dropped.
    pub(crate) fn hold(self, wait: Wait) -> Result<Held<'a>, OsError> {
        let owner_died = self.lock(wait)?;
        let creator = Creator::this_process();
        Ok(Held { robust: self, owner_died, creator, _thread: PhantomData })
    }

    /// After the death of the last owner: the lock can be had again once this
    /// thread gives it back.
    pub(crate) fn consistent(self) -> Result<(), OsError> {
        // SAFETY: 1. to 3. the invariant.
        unsafe { raw::pthread_mutex_consistent(self.at()) }
    }

    /// Gives the lock back, which is refused unless this thread has it.
    #[inline]
    pub(crate) fn unlock(self) -> Result<(), OsError> {
        // SAFETY: 1. to 3. the invariant.
        unsafe { raw::pthread_mutex_unlock(self.at()) }
    }
}

/// The lock, held by this thread; given back on drop.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    robust: Robust<'a>,
    owner_died: bool,
    /// A child that is forked meanwhile has a copy of this, and not the lock.
    creator: Creator,
    /// The C library knows the owner by thread.
    _thread: PhantomData<*const ()>,
}

impl Held<'_> {
    /// Whether the last owner died with it; if so makes it consistent.
    pub(crate) fn after_death(&self) -> Result<bool, OsError> {
        if self.owner_died {
            self.robust.consistent()?;
        }
        Ok(self.owner_died)
    }

    /// Whether the last owner died with it, for which nothing is done.
    pub(crate) const fn owner_died(&self) -> bool {
        self.owner_died
    }
}

impl Held<'_> {
    /// Refuses what only the owner may do to a child that was forked while the
    /// lock was held.
    pub(crate) fn check_owner(&self) -> Result<(), OsError> {
        match self.creator.is_this_process() {
            true => Ok(()),
            false => Err(OsError::new("pthread_mutex_unlock", libc::EPERM)
                .hint("the lock is that of the process that forked this one")),
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.check_owner().is_ok() {
            // This thread has it: a `Held` does not leave a call. What fails
            // here cannot be told.
            let _ = self.robust.unlock();
        }
    }
}

/// The words of a mutex.
type Image = [u32; size_of::<pthread_mutex_t>() / size_of::<u32>()];

const _: () = assert!(size_of::<Image>() == size_of::<pthread_mutex_t>());

/// What the C library makes of zeros at that address.
fn image(zeros: &mut MaybeUninit<pthread_mutex_t>) -> Result<Image> {
    let mutex = NonNull::from(zeros).cast();
    // SAFETY: 1. and 3. room for a mutex, borrowed through the call, never
    // locked. 2. of `MutexAt` is what the call is for; nobody else has it.
    unsafe { raw::pthread_mutex_init(mutex)? };
    // SAFETY: as long and no less aligned; all bytes were set, to zero at
    // least, and integers take any.
    Ok(unsafe { mutex.cast::<Image>().read() })
}
