//! Something that has happened, or not yet.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

use shm_common::{ReadWrite, Result, SharedBytes};

use crate::Deadline;
use crate::header::{self, ALIGN, Kind};
use crate::state::event;

/// What happens to an [`Event`] when a wait for it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reset {
    /// It is cleared: one `set` lets one waiter go on.
    Auto,
    /// It stays set until [`Event::reset`]: one `set` lets all go on.
    Manual,
}

impl Reset {
    pub(crate) const fn number(self) -> u32 {
        match self {
            Reset::Auto => 1,
            Reset::Manual => 2,
        }
    }

    pub(crate) fn from_number(number: u32, offset: usize) -> Result<Self> {
        match number {
            1 => Ok(Reset::Auto),
            2 => Ok(Reset::Manual),
            _ => {
                let (what, most) = ("kind of reset", Reset::Manual.number());
                Err(header::differs(Kind::Event, offset, what, most, number))
            }
        }
    }
}

/// A flag that processes can wait for.
///
/// What was written before [`set`](Self::set) is seen after the
/// [`wait`](Self::wait) that it ends. Setting a flag that is set changes
/// nothing: an event does not count; a [`Semaphore`](crate::Semaphore) does.
///
/// # When a user is killed
///
/// | while it | the others |
/// |---|---|
/// | sets the event, at any step | are woken and go on, or nothing was set |
/// | waits, or was just woken | go on in its place |
/// | has ended its wait | wait for the next `set`: an auto event went with it |
///
/// # Examples
///
/// ```
/// use shm_memfd::{Label, Segment, Size};
/// use shm_sync::{Deadline, Error, Event, Reset};
///
/// let segment = Segment::create(&Label::new("bell")?, Size::MIB)?;
/// let mapping = segment.map()?;
/// let event = Event::create(mapping.bytes(), 0, Reset::Auto)?;
/// event.set()?;
/// event.wait()?;
/// let again = event.wait_until(Deadline::now());
/// assert!(matches!(again, Err(Error::TimedOut(_))));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Event<'a> {
    word: &'a AtomicU32,
    reset: Reset,
    offset: usize,
}

impl<'a> Event<'a> {
    /// Its length in bytes.
    pub const SIZE: usize = ALIGN;

    /// Makes an event at `offset` that is not set.
    ///
    /// # Errors
    ///
    /// - [`Error::OutOfBounds`](crate::Error::OutOfBounds): `bytes` ends before
    ///   it would.
    /// - [`Error::Misaligned`](crate::Error::Misaligned): its address is no
    ///   multiple of 64.
    /// - [`Error::Unsupported`](crate::Error::Unsupported): nobody can sleep in
    ///   that memory (`EFAULT`).
    pub fn create(
        bytes: SharedBytes<'a, ReadWrite>,
        offset: usize,
        reset: Reset,
    ) -> Result<Self> {
        let place = header::place_to_wait(bytes, offset, Self::SIZE)?;
        header::begin(place)?;
        let word = place.atomic_u32(header::LEN)?;
        word.store(event::CLEAR, Ordering::Relaxed);
        header::publish(place, Kind::Event, reset.number())?;
        Ok(Self { word, reset, offset })
    }

    /// Opens the event at `offset`, which resets as its creator chose.
    ///
    /// # Errors
    ///
    /// - [`Error::NotReady`](crate::Error::NotReady): nothing was created there
    ///   yet.
    /// - [`Error::Incompatible`](crate::Error::Incompatible): something else is
    ///   there, or another version.
    /// - [`Error::OutOfBounds`](crate::Error::OutOfBounds),
    ///   [`Error::Misaligned`](crate::Error::Misaligned),
    ///   [`Error::Unsupported`](crate::Error::Unsupported).
    pub fn open(
        bytes: SharedBytes<'a, ReadWrite>,
        offset: usize,
    ) -> Result<Self> {
        let number = header::check(bytes, offset, Kind::Event)?;
        let reset = Reset::from_number(number, offset)?;
        let place = header::place_to_wait(bytes, offset, Self::SIZE)?;
        Ok(Self { word: place.atomic_u32(header::LEN)?, reset, offset })
    }

    /// Sets it, and wakes those that wait.
    ///
    /// # Errors
    ///
    /// [`Error::Os`](crate::Error::Os): the kernel refuses to wake (`ENOSYS`
    /// under a filter).
    pub fn set(&self) -> Result<()> {
        event::set(self.word)
            .map_err(|os| os.on(Kind::Event.at(self.offset)))?;
        Ok(())
    }

    /// Clears it, if it is set.
    pub fn reset(&self) {
        event::reset(self.word);
    }

    /// Whether it is set, and with [`Reset::Auto`] clears it: a wait that does
    /// not wait.
    #[must_use]
    pub fn try_wait(&self) -> bool {
        match self.reset {
            Reset::Auto => event::try_take(self.word),
            Reset::Manual => event::is_set(self.word),
        }
    }

    /// Waits until it is set; with [`Reset::Auto`], and until this call is the
    /// one that clears it.
    ///
    /// # Errors
    ///
    /// [`Error::Os`](crate::Error::Os): the kernel refuses to wait.
    pub fn wait(&self) -> Result<()> {
        self.wait_for(None)
    }

    /// As [`wait`](Self::wait), up to the deadline.
    ///
    /// # Errors
    ///
    /// - As for [`wait`](Self::wait).
    /// - [`Error::TimedOut`](crate::Error::TimedOut) (`ETIMEDOUT`).
    pub fn wait_until(&self, deadline: Deadline) -> Result<()> {
        self.wait_for(Some(deadline))
    }

    fn wait_for(&self, deadline: Option<Deadline>) -> Result<()> {
        let waited = match self.reset {
            Reset::Auto => event::take(self.word, deadline),
            Reset::Manual => event::wait(self.word, deadline),
        };
        waited.map_err(|os| os.on(Kind::Event.at(self.offset)))?;
        Ok(())
    }
}

impl fmt::Debug for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("offset", &self.offset)
            .field("reset", &self.reset)
            .field("is_set", &event::is_set(self.word))
            .finish()
    }
}
