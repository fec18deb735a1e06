//! A number of permits.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

use shm_common::{Error, OsError, ReadWrite, Result, SharedBytes};

use crate::Deadline;
use crate::header::{self, ALIGN, Kind};
use crate::state::semaphore;

/// A number of permits, that processes take and give.
///
/// A permit belongs to nobody: any process may release, also more than was
/// acquired. So a permit is gone if the process that was to give it back is
/// killed; where that must not be, use a [`Mutex`](crate::Mutex).
///
/// What was written before a [`release`](Self::release) is seen after the
/// [`acquire`](Self::acquire) of what it released.
///
/// # When a user is killed
///
/// | while it | the others |
/// |---|---|
/// | releases, at any step | can acquire what it released so far |
/// | waits, or was just woken | acquire in its place |
/// | has acquired | have a permit less |
///
/// # Examples
///
/// ```
/// use shm_memfd::{Label, Segment, Size};
/// use shm_sync::Semaphore;
///
/// let segment = Segment::create(&Label::new("slots")?, Size::MIB)?;
/// let mapping = segment.map()?;
/// let slots = Semaphore::create(mapping.bytes(), 0, 2)?;
/// slots.acquire()?;
/// slots.acquire()?;
/// assert!(!slots.try_acquire());
/// slots.release(1)?;
/// assert!(slots.try_acquire());
/// # Ok::<(), shm_sync::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Semaphore<'a> {
    word: &'a AtomicU32,
    offset: usize,
}

impl<'a> Semaphore<'a> {
    /// Its length in bytes.
    pub const SIZE: usize = ALIGN;

    /// The most permits: 2³⁰.
    pub const MAX: u32 = semaphore::MAX;

    /// Makes a semaphore at `offset` with so many permits.
    ///
    /// # Errors
    ///
    /// - [`Error::LimitReached`]: more than [`MAX`](Self::MAX) (`EOVERFLOW`).
    /// - [`Error::OutOfBounds`]: `bytes` ends before it would.
    /// - [`Error::Misaligned`]: its address is no multiple of 64.
    /// - [`Error::Unsupported`]: nobody can sleep in that memory (`EFAULT`).
    pub fn create(
        bytes: SharedBytes<'a, ReadWrite>,
        offset: usize,
        permits: u32,
    ) -> Result<Self> {
        let place = header::place_to_wait(bytes, offset, Self::SIZE)?;
        let word = place.atomic_u32(header::LEN)?;
        let semaphore = Self { word, offset };
        if permits > semaphore::MAX {
            return Err(Error::LimitReached(
                OsError::new("create", libc::EOVERFLOW)
                    .on(Kind::Semaphore.at(offset)),
            ));
        }
        header::begin(place)?;
        word.store(permits, Ordering::Relaxed);
        header::publish(place, Kind::Semaphore, 0)?;
        Ok(semaphore)
    }

    /// Opens the semaphore at `offset`.
    ///
    /// # Errors
    ///
    /// - [`Error::NotReady`]: nothing was created there yet.
    /// - [`Error::Incompatible`]: something else is there, or another version.
    /// - [`Error::OutOfBounds`], [`Error::Misaligned`],
    ///   [`Error::Unsupported`].
    pub fn open(
        bytes: SharedBytes<'a, ReadWrite>,
        offset: usize,
    ) -> Result<Self> {
        header::check(bytes, offset, Kind::Semaphore)?;
        let place = header::place_to_wait(bytes, offset, Self::SIZE)?;
        Ok(Self { word: place.atomic_u32(header::LEN)?, offset })
    }

    /// How many permits there are at this moment.
    #[must_use]
    pub fn permits(&self) -> u32 {
        semaphore::permits(self.word)
    }

    /// Adds so many permits, and wakes those that wait. More than 255 may be
    /// added in several steps.
    ///
    /// # Errors
    ///
    /// - [`Error::LimitReached`]: there would be more than [`MAX`](Self::MAX)
    ///   (`EOVERFLOW`); some may have been added.
    /// - [`Error::Os`]: the kernel refuses to wake (`ENOSYS` under a filter).
    pub fn release(&self, permits: u32) -> Result<()> {
        semaphore::release(self.word, permits).map_err(|os| {
            let overflow = os.errno() == libc::EOVERFLOW;
            let os = os.on(Kind::Semaphore.at(self.offset));
            if overflow { Error::LimitReached(os) } else { os.into() }
        })
    }

    /// Takes a permit if there is one, and says whether.
    #[must_use]
    pub fn try_acquire(&self) -> bool {
        semaphore::try_acquire(self.word)
    }

    /// Takes a permit, and waits for one if need be.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]: the kernel refuses to wait.
    pub fn acquire(&self) -> Result<()> {
        self.acquire_for(None)
    }

    /// As [`acquire`](Self::acquire), up to the deadline.
    ///
    /// # Errors
    ///
    /// - As for [`acquire`](Self::acquire).
    /// - [`Error::TimedOut`] (`ETIMEDOUT`).
    pub fn acquire_until(&self, deadline: Deadline) -> Result<()> {
        self.acquire_for(Some(deadline))
    }

    fn acquire_for(&self, deadline: Option<Deadline>) -> Result<()> {
        semaphore::acquire(self.word, deadline)
            .map_err(|os| os.on(Kind::Semaphore.at(self.offset)))?;
        Ok(())
    }
}

impl fmt::Debug for Semaphore<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore")
            .field("offset", &self.offset)
            .field("permits", &self.permits())
            .finish()
    }
}
