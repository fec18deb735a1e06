//! The raw layer: the C library's mutex, under its C names.
//!
//! Each function makes one call and turns what it returns into an [`OsError`].
//! The mutex lies in memory that others write too, so there is never a
//! reference to it: it is bytes at an address, for the C library only.
#![expect(unsafe_code, reason = "calls C functions")]

use std::mem::MaybeUninit;
use std::ptr::NonNull;

use libc::{c_int, pthread_mutex_t};
use shm_common::OsError;

use crate::Deadline;

/// The address of a mutex, for the C library.
///
/// A function that takes one asks its caller for this:
///
/// 1. `size_of::<pthread_mutex_t>()` bytes there can be read and written, and
///    the address is a multiple of its alignment.
/// 2. They hold a mutex that [`pthread_mutex_init`] made, here or in another
///    process with the same C library, and ever since only these functions
///    wrote them.
/// 3. They stay mapped at this address for as long as a thread of this process
///    holds the mutex: the C library links the mutexes that a thread holds.
pub(crate) type MutexAt = NonNull<pthread_mutex_t>;

/// What the C library of this program is called in shared memory.
pub(crate) const LIBRARY: u8 = if cfg!(target_env = "gnu") {
    1
} else if cfg!(target_env = "musl") {
    2
} else {
    0xff
};

fn check(call: &'static str, returned: c_int) -> Result<(), OsError> {
    match returned {
        0 => Ok(()),
        errno => Err(OsError::new(call, errno)),
    }
}

/// Makes a mutex that is shared between processes, robust, and refuses to be
/// locked again by its owner.
///
/// # Errors
///
/// What the call returns: `ENOTSUP` where the kernel has no robust futexes.
///
/// # Safety
///
/// 1. As for [`MutexAt`].
/// 2. Nobody uses those bytes meanwhile.
///
/// # Sources
///
/// `pthread_mutex_init(3)`, `pthread_mutexattr_setrobust(3)`,
/// `pthread_mutexattr_setpshared(3)`, `pthread_mutexattr_settype(3)`.
pub(crate) unsafe fn pthread_mutex_init(mutex: MutexAt) -> Result<(), OsError> {
    let mut attributes = MaybeUninit::uninit();
    let attributes = attributes.as_mut_ptr();
    // SAFETY: room for attributes, which the call makes.
    let made = unsafe { libc::pthread_mutexattr_init(attributes) };
    check("pthread_mutexattr_init", made)?;
    // SAFETY: the attributes were made above.
    let typed = unsafe {
        libc::pthread_mutexattr_settype(
            attributes,
            libc::PTHREAD_MUTEX_ERRORCHECK,
        )
    };
    // SAFETY: as before.
    let shared = unsafe {
        libc::pthread_mutexattr_setpshared(
            attributes,
            libc::PTHREAD_PROCESS_SHARED,
        )
    };
    // SAFETY: as before.
    let robust = unsafe {
        libc::pthread_mutexattr_setrobust(
            attributes,
            libc::PTHREAD_MUTEX_ROBUST,
        )
    };
    let result = check("pthread_mutexattr_settype", typed)
        .and(check("pthread_mutexattr_setpshared", shared))
        .and(check("pthread_mutexattr_setrobust", robust))
        .and_then(|()| {
            // SAFETY: room for a mutex that nobody uses is promised to us; the
            // attributes were made above.
            let made =
                unsafe { libc::pthread_mutex_init(mutex.as_ptr(), attributes) };
            check("pthread_mutex_init", made)
        });
    // SAFETY: as before; they are not used any more.
    let destroyed = unsafe { libc::pthread_mutexattr_destroy(attributes) };
    result.and(check("pthread_mutexattr_destroy", destroyed))
}

/// Locks the mutex, without waiting.
///
/// # Errors
///
/// What the call returns. `EOWNERDEAD`: locked, and its last owner died with
/// it. `EBUSY`: another thread has it. `EDEADLK`: this thread has it already
/// (with musl `EBUSY`). `ENOTRECOVERABLE`.
///
/// # Safety
///
/// As for [`MutexAt`].
///
/// # Sources
///
/// `pthread_mutex_trylock(3)`.
#[inline]
pub(crate) unsafe fn pthread_mutex_trylock(
    mutex: MutexAt,
) -> Result<(), OsError> {
    // SAFETY: a live mutex, as promised to us.
    let returned = unsafe { libc::pthread_mutex_trylock(mutex.as_ptr()) };
    check("pthread_mutex_trylock", returned)
}

/// As [`pthread_mutex_trylock`], and waits up to a point of time on
/// `CLOCK_MONOTONIC`.
///
/// # Errors
///
/// As for [`pthread_mutex_trylock`], but `ETIMEDOUT` in place of `EBUSY`.
///
/// # Safety
///
/// As for [`MutexAt`].
///
/// # Sources
///
/// `pthread_mutex_clocklock(3)`; since glibc 2.30, not in musl.
pub(crate) unsafe fn pthread_mutex_clocklock(
    mutex: MutexAt,
    deadline: Deadline,
) -> Result<(), OsError> {
    #[cfg(target_env = "gnu")]
    {
        // The libc crate does not declare it.
        unsafe extern "C" {
            fn pthread_mutex_clocklock(
                mutex: *mut pthread_mutex_t,
                clock: libc::clockid_t,
                abstime: *const libc::timespec,
            ) -> c_int;
        }
        let abstime = timespec(deadline);
        // SAFETY: a live mutex, as promised to us; `abstime` lives through the
        // call. The declaration is that of `<pthread.h>`.
        let returned = unsafe {
            pthread_mutex_clocklock(
                mutex.as_ptr(),
                libc::CLOCK_MONOTONIC,
                &raw const abstime,
            )
        };
        check("pthread_mutex_clocklock", returned)
    }
    #[cfg(not(target_env = "gnu"))]
    // SAFETY: as promised to us.
    unsafe {
        pthread_mutex_timedlock_by_slices(mutex, deadline)
    }
}

/// [`pthread_mutex_clocklock`] where the C library lacks it: its time-outs are
/// on a clock that may be set. So it waits in slices, each measured anew; a
/// clock that is set back stretches one slice, and none of the others.
///
/// # Errors
///
/// As for [`pthread_mutex_clocklock`].
///
/// # Safety
///
/// As for [`MutexAt`].
///
/// # Sources
///
/// `pthread_mutex_timedlock(3)`.
#[cfg(any(test, not(target_env = "gnu")))]
unsafe fn pthread_mutex_timedlock_by_slices(
    mutex: MutexAt,
    deadline: Deadline,
) -> Result<(), OsError> {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    const SLICE: Duration = Duration::from_millis(100);
    loop {
        let slice = deadline.remaining().min(SLICE);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let end = now.unwrap_or_default() + slice;
        let abstime = libc::timespec {
            tv_sec: narrow(end.as_secs().try_into().unwrap_or(i64::MAX)),
            tv_nsec: narrow(end.subsec_nanos().into()),
        };
        // SAFETY: a live mutex, as promised to us; `abstime` lives through the
        // call.
        let returned = unsafe {
            libc::pthread_mutex_timedlock(mutex.as_ptr(), &raw const abstime)
        };
        if returned != libc::ETIMEDOUT || deadline.has_passed() {
            return check("pthread_mutex_timedlock", returned);
        }
    }
}

/// Unlocks the mutex.
///
/// # Errors
///
/// What the call returns. `EPERM`: this thread does not have it.
///
/// # Safety
///
/// As for [`MutexAt`].
///
/// # Sources
///
/// `pthread_mutex_unlock(3)`.
#[inline]
pub(crate) unsafe fn pthread_mutex_unlock(
    mutex: MutexAt,
) -> Result<(), OsError> {
    // SAFETY: a live mutex, as promised to us.
    let returned = unsafe { libc::pthread_mutex_unlock(mutex.as_ptr()) };
    check("pthread_mutex_unlock", returned)
}

/// Says that what the mutex protects is in order again after `EOWNERDEAD`.
///
/// # Errors
///
/// What the call returns. `EINVAL`: it is not in that state.
///
/// # Safety
///
/// As for [`MutexAt`].
///
/// # Sources
///
/// `pthread_mutex_consistent(3)`.
pub(crate) unsafe fn pthread_mutex_consistent(
    mutex: MutexAt,
) -> Result<(), OsError> {
    // SAFETY: a live mutex, as promised to us.
    let returned = unsafe { libc::pthread_mutex_consistent(mutex.as_ptr()) };
    check("pthread_mutex_consistent", returned)
}

#[cfg(target_env = "gnu")]
fn timespec(deadline: Deadline) -> libc::timespec {
    let point = deadline.timespec();
    libc::timespec {
        tv_sec: narrow(point.tv_sec),
        tv_nsec: narrow(point.tv_nsec),
    }
}

/// To whatever width the platform has there. All have room for nanoseconds; one
/// of 32 bits ends after 68 years, which a monotonic clock does not get to.
fn narrow<T: TryFrom<i64> + From<i32>>(number: i64) -> T {
    T::try_from(number).unwrap_or(T::from(i32::MAX))
}

#[cfg(test)]
mod tests {
    use std::cell::UnsafeCell;
    use std::time::Duration;

    use super::*;

    struct Fresh(UnsafeCell<MaybeUninit<pthread_mutex_t>>);

    // SAFETY: the C library's mutex is for use by several threads.
    unsafe impl Sync for Fresh {}

    impl Fresh {
        fn new() -> Self {
            let fresh = Self(UnsafeCell::new(MaybeUninit::zeroed()));
            // SAFETY: its own memory, aligned by its type, used by nobody yet.
            unsafe { pthread_mutex_init(fresh.at()) }.unwrap();
            fresh
        }

        fn at(&self) -> MutexAt {
            NonNull::new(self.0.get().cast()).unwrap()
        }
    }

    #[test]
    fn a_lock_by_slices_keeps_its_deadline_and_gets_what_is_free() {
        let mutex = Fresh::new();
        let soon = || Deadline::after(Duration::from_millis(250));
        // SAFETY: a live mutex that stays where it is until all threads ended.
        let lock = |deadline| unsafe {
            pthread_mutex_timedlock_by_slices(mutex.at(), deadline)
        };
        lock(Deadline::now()).unwrap();
        assert_eq!(lock(soon()).unwrap_err().errno(), libc::EDEADLK);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let deadline = soon();
                let error = lock(deadline).unwrap_err();
                assert_eq!(error.errno(), libc::ETIMEDOUT);
                // Not before, which the slices could get wrong.
                assert!(deadline.has_passed());
            });
        });
        // SAFETY: as before; this thread locked it.
        unsafe { pthread_mutex_unlock(mutex.at()) }.unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                lock(Deadline::NEVER).unwrap();
                // SAFETY: as before.
                unsafe { pthread_mutex_unlock(mutex.at()) }.unwrap();
            });
        });
    }
}
