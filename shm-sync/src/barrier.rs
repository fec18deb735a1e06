//! A place where all wait for all.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use shm_common::{Error, OsError, ReadWrite, Result, SharedBytes};

use crate::header::{self, ALIGN, Kind};
use crate::state::barrier::{self, Arrival, Outcome};
use crate::{Deadline, futex};

/// How long a sleep lasts at most. The last to arrive ends the round and then
/// wakes the others: if it is killed in between, they go on by themselves.
const NAP: Duration = Duration::from_secs(1);

/// A place where a number of processes wait until all of them are there, over
/// and over.
///
/// What each wrote before its [`wait`](Self::wait) is seen by all after it.
///
/// A participant that is killed does not arrive, and nobody can tell whether it
/// is late: the deadline of one that waits for it decides. That one breaks the
/// barrier: it gets [`Error::TimedOut`], all others [`Error::Broken`] at once,
/// now and later, so that no two of them see a round end in different ways.
/// [`reset`](Self::reset) begins anew.
///
/// # When a user is killed
///
/// | while it | the others |
/// |---|---|
/// | has not arrived | wait to the first deadline, and find the barrier broken |
/// | arrives, at any step | as before or as after; if it was the last, some pass a second late |
/// | waits | go on when all are there; it has arrived, and is missed next time |
///
/// Take on another in the place of a killed one only after a `reset`: in the
/// round in which it was killed, both would count.
///
/// # Examples
///
/// ```
/// use shm_memfd::{Label, Segment, Size};
/// use shm_sync::{Barrier, Deadline, Error};
///
/// let segment = Segment::create(&Label::new("start")?, Size::MIB)?;
/// let mapping = segment.map()?;
/// let barrier = Barrier::create(mapping.bytes(), 0, 2)?;
///
/// // The other one does not come.
/// let waited = barrier.wait_until(Deadline::now());
/// assert!(matches!(waited, Err(Error::TimedOut(_))));
/// assert!(matches!(barrier.wait(), Err(Error::Broken(_))));
/// barrier.reset()?;
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Barrier<'a> {
    word: &'a AtomicU32,
    participants: u32,
    offset: usize,
}

/// Which of the participants one was in its round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Turn {
    /// The last to arrive: exactly one in a round, unless it is killed.
    Last,
    /// One that waited for the others.
    Earlier,
}

impl<'a> Barrier<'a> {
    /// Its length in bytes.
    pub const SIZE: usize = ALIGN;

    /// The most participants: 16,383.
    pub const MAX: u32 = barrier::MAX;

    /// Makes a barrier at `offset` for so many participants, at least one.
    ///
    /// # Errors
    ///
    /// - [`Error::LimitReached`]: none, or more than [`MAX`](Self::MAX)
    ///   (`EINVAL`).
    /// - [`Error::OutOfBounds`]: `bytes` ends before it would.
    /// - [`Error::Misaligned`]: its address is no multiple of 64.
    /// - [`Error::Unsupported`]: nobody can sleep in that memory (`EFAULT`).
    pub fn create(
        bytes: SharedBytes<'a, ReadWrite>,
        offset: usize,
        participants: u32,
    ) -> Result<Self> {
        if !(1..=Self::MAX).contains(&participants) {
            return Err(Error::LimitReached(
                OsError::new("create", libc::EINVAL)
                    .on(Kind::Barrier.at(offset))
                    .hint("a barrier is for 1 to 16383 participants"),
            ));
        }
        let place = header::place_to_wait(bytes, offset, Self::SIZE)?;
        header::begin(place)?;
        let word = place.atomic_u32(header::LEN)?;
        word.store(0, Ordering::Relaxed);
        header::publish(place, Kind::Barrier, participants)?;
        Ok(Self { word, participants, offset })
    }

    /// Opens the barrier at `offset`, for as many as its creator said.
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
        let participants = header::check(bytes, offset, Kind::Barrier)?;
        if !(1..=Self::MAX).contains(&participants) {
            let (what, most) = ("participants", Self::MAX);
            return Err(header::differs(
                Kind::Barrier,
                offset,
                what,
                most,
                participants,
            ));
        }
        let place = header::place_to_wait(bytes, offset, Self::SIZE)?;
        let word = place.atomic_u32(header::LEN)?;
        Ok(Self { word, participants, offset })
    }

    /// For how many participants it is.
    #[must_use]
    pub const fn participants(&self) -> u32 {
        self.participants
    }

    /// Waits until all are there.
    ///
    /// # Errors
    ///
    /// - [`Error::Broken`]: one of them waited to its deadline, now or before,
    ///   or the barrier was reset meanwhile (`ECANCELED`).
    /// - [`Error::Os`]: the kernel refuses to wait.
    pub fn wait(&self) -> Result<Turn> {
        self.wait_until(Deadline::NEVER)
    }

    /// As [`wait`](Self::wait), up to the deadline, at which it breaks the
    /// barrier for all.
    ///
    /// # Errors
    ///
    /// - As for [`wait`](Self::wait).
    /// - [`Error::TimedOut`]: not all came in time (`ETIMEDOUT`).
    pub fn wait_until(&self, deadline: Deadline) -> Result<Turn> {
        let round = match barrier::arrive(self.word, self.participants) {
            Arrival::Last => {
                self.wake()?;
                return Ok(Turn::Last);
            }
            Arrival::Early { round } => round,
            Arrival::Broken => return Err(self.broken()),
        };
        loop {
            match barrier::outcome(self.word, round) {
                Outcome::Passed => return Ok(Turn::Earlier),
                Outcome::Broken => return Err(self.broken()),
                Outcome::Open { word } => {
                    self.sleep(word, deadline)?;
                }
            }
            if deadline.has_passed() {
                return match barrier::give_up(self.word, round) {
                    (Outcome::Passed, _) => Ok(Turn::Earlier),
                    (_, false) => Err(self.broken()),
                    (_, true) => {
                        self.wake()?;
                        let os = OsError::new("wait", libc::ETIMEDOUT);
                        Err(os.on(Kind::Barrier.at(self.offset)).into())
                    }
                };
            }
        }
    }

    /// Whether it is broken.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        barrier::is_broken(self.word)
    }

    /// Begins anew, with nobody there. Those that still wait get
    /// [`Error::Broken`].
    ///
    /// # Errors
    ///
    /// [`Error::Os`]: the kernel refuses to wake (`ENOSYS` under a filter).
    pub fn reset(&self) -> Result<()> {
        barrier::reset(self.word);
        self.wake()
    }

    fn sleep(&self, word: u32, deadline: Deadline) -> Result<()> {
        let nap = deadline.min(Deadline::after(NAP));
        match futex::wait(self.word, word, Some(nap)) {
            Err(os) if os.errno() != libc::ETIMEDOUT => {
                Err(os.on(Kind::Barrier.at(self.offset)).into())
            }
            _ => Ok(()),
        }
    }

    fn wake(&self) -> Result<()> {
        futex::wake(self.word)
            .map_err(|os| os.on(Kind::Barrier.at(self.offset)))?;
        Ok(())
    }

    fn broken(&self) -> Error {
        Error::Broken(
            OsError::new("wait", libc::ECANCELED)
                .on(Kind::Barrier.at(self.offset)),
        )
    }
}

impl fmt::Debug for Barrier<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Barrier")
            .field("offset", &self.offset)
            .field("participants", &self.participants)
            .field("is_broken", &self.is_broken())
            .finish()
    }
}
