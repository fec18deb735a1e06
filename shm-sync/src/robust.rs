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

use libc::pthread_mutex_t;
use shm_common::{Error, OsError, ReadWrite, Result, SharedBytes};

use crate::Deadline;
use crate::header::{self, ALIGN};
use crate::raw::{self, MutexAt};

/// Where the mutex lies in the object, in bytes. Before it are the header, a
/// word for the object's own use, and 4 bytes that are not used.
const MUTEX: usize = 24;

/// The word for the object's own use.
pub(crate) const WORD: usize = 16;

/// The length of all that, in bytes: 64 with glibc on x86-64.
pub(crate) const LEN: usize =
    (MUTEX + size_of::<pthread_mutex_t>()).next_multiple_of(ALIGN);

const _: () = assert!(MUTEX.is_multiple_of(align_of::<pthread_mutex_t>()));
const _: () = assert!(ALIGN.is_multiple_of(align_of::<pthread_mutex_t>()));
const _: () = assert!(header::LEN <= WORD && WORD + 4 <= MUTEX);

/// How long a lock may wait.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wait {
    No,
    Until(Deadline),
    ForEver,
}

/// A mutex whose owner may die.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Robust<'a> {
    /// Invariants, for all of `'a`: 1. to 3. of [`MutexAt`] for where this
    /// begins; 2. once [`create`](Self::create) or [`install`](Self::install)
    /// was called, here or elsewhere, as `new` was promised.
    mutex: SharedBytes<'a, ReadWrite>,
}

impl<'a> Robust<'a> {
    /// The mutex of the object that begins where `place` does.
    ///
    /// # Safety
    ///
    /// For all of `'a`:
    /// 1. `place` begins at a multiple of `ALIGN`.
    /// 2. Its bytes from `MUTEX` on hold a mutex that [`create`](Self::create)
    ///    or [`install`](Self::install) made, by the same C library, or get it
    ///    before anything else is called; and are written by nothing else.
    /// 3. They stay mapped for as long as a thread of this process holds the
    ///    mutex, also where its [`Held`] was leaked.
    pub(crate) unsafe fn new(
        place: SharedBytes<'a, ReadWrite>,
    ) -> Result<Self> {
        let len = size_of::<pthread_mutex_t>();
        Ok(Self { mutex: place.subslice(MUTEX, len)? })
    }

    #[inline]
    fn at(self) -> MutexAt {
        // SAFETY: a view is never at null.
        let start = unsafe { NonNull::new_unchecked(self.mutex.as_mut_ptr()) };
        start.cast()
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
                let offset = index * size_of::<u32>();
                header::install(self.mutex.atomic_u32(offset)?, *word);
            }
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn lock(self, wait: Wait) -> Result<Held<'a>, OsError> {
        let mutex = self.at();
        let locked = match wait {
            // SAFETY: 1. to 3. the invariant.
            Wait::ForEver => unsafe { raw::pthread_mutex_lock(mutex) },
            // SAFETY: 1. to 3. the invariant.
            Wait::No => unsafe { raw::pthread_mutex_trylock(mutex) },
            // SAFETY: 1. to 3. the invariant.
            Wait::Until(deadline) => unsafe {
                raw::pthread_mutex_clocklock(mutex, deadline)
            },
        };
        let owner_died = match locked {
            Ok(()) => false,
            Err(os) if os.errno() == libc::EOWNERDEAD => true,
            Err(os) => return Err(os),
        };
        Ok(Held { robust: self, owner_died, _thread: PhantomData })
    }
}

/// The lock, held by this thread; given back on drop.
///
/// Where its last owner died it must be made [`consistent`](Held::consistent)
/// first, or nobody ever gets it again.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    robust: Robust<'a>,
    pub(crate) owner_died: bool,
    /// The C library knows the owner by thread.
    _thread: PhantomData<*const ()>,
}

impl Held<'_> {
    /// After the death of the last owner: the lock can be had again once this
    /// thread gives it back.
    pub(crate) fn consistent(&mut self) -> Result<()> {
        // SAFETY: 1. to 3. the invariant.
        unsafe { raw::pthread_mutex_consistent(self.robust.at())? };
        self.owner_died = false;
        Ok(())
    }

    #[inline]
    pub(crate) fn unlock(self) -> Result<(), OsError> {
        let mutex = self.robust.at();
        std::mem::forget(self);
        // SAFETY: 1. to 3. the invariant.
        unsafe { raw::pthread_mutex_unlock(mutex) }
    }
}

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        // It fails in a forked child, which has nothing to give back.
        // SAFETY: 1. to 3. the invariant.
        let _ = unsafe { raw::pthread_mutex_unlock(self.robust.at()) };
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
