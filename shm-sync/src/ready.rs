//! Something is made once, however many start and die.
#![expect(unsafe_code, reason = "promises the C library a mutex of its own")]

use std::fmt;

use shm_common::{ReadWrite, Result, SharedBytes};

use crate::Deadline;
use crate::header::{self, Kind};
use crate::robust::{self, Robust, Wait};
use crate::state::event;

/// Whether something has been made, and the right to make it.
///
/// It needs no creator: over zeros, which a new segment is made of, any number
/// of processes [open or create](Self::open_or_create) it at the same time.
/// Then exactly one `make` of theirs counts, in [`make_once`](Self::make_once):
/// no two run at a time, the first one that ends makes it done, and none runs
/// after that. The others wait, and see whatever it wrote.
///
/// # When a user is killed
///
/// | while it | the others |
/// |---|---|
/// | opens or creates, at any step | do so as well, with the same result |
/// | waits, or waits for its turn | notice nothing |
/// | makes, at any step | one of them makes it anew, from the beginning |
/// | has just marked it done | find it done |
///
/// One that only [waits](Self::wait_until) does not take over.
///
/// # Limits
///
/// Those of [`Mutex`](crate::Mutex#limits).
///
/// # Examples
///
/// ```
/// use shm_memfd::{Label, Segment, Size};
/// use shm_sync::{Made, Ready};
///
/// let segment = Segment::create(&Label::new("table")?, Size::MIB)?;
/// let mapping = segment.map()?;
/// let (head, table) = mapping.bytes().split_at(Ready::SIZE)?;
/// // SAFETY: 1. this program uses `head` only by this. 2. It was zeros. 3. No
/// // thread holds the lock for longer than a call.
/// let ready = unsafe { Ready::open_or_create(head, 0)? };
///
/// let made = ready.make_once(|| table.set(0, 42_u64))?;
/// assert_eq!(made, Made::Now);
/// assert_eq!(ready.make_once(|| unreachable!())?, Made::Before);
/// # Ok::<(), shm_sync::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Ready<'a> {
    robust: Robust<'a>,
    offset: usize,
}

/// Who made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Made {
    /// This call. Of all calls by all processes, at most one gets this: it may
    /// be killed before it does.
    Now,
    /// Another one, before.
    Before,
}

impl<'a> Ready<'a> {
    /// Its length in bytes: 64 with glibc on x86-64.
    pub const SIZE: usize = robust::LEN;

    /// Opens the one at `offset`, or creates it over zeros.
    ///
    /// # Errors
    ///
    /// - [`Error::Incompatible`](crate::Error::Incompatible): something else is
    ///   there, or it was made by another version, C library, pointer width or
    ///   PID namespace.
    /// - [`Error::OutOfBounds`](crate::Error::OutOfBounds): `bytes` ends before
    ///   it would.
    /// - [`Error::Misaligned`](crate::Error::Misaligned): its address is no
    ///   multiple of 64.
    /// - [`Error::Unsupported`](crate::Error::Unsupported): nobody can sleep in
    ///   that memory (`EFAULT`).
    /// - [`Error::Os`](crate::Error::Os): this system has no robust mutexes
    ///   (`ENOTSUP`).
    ///
    /// # Safety
    ///
    /// As for [`Mutex::create`](crate::Mutex::create), with
    /// [`SIZE`](Self::SIZE) bytes:
    /// 1. Until the last user is done, they are written only through this type,
    ///    in this process and in every other that has them mapped.
    /// 2. They were zeros before the first call of this.
    /// 3. The mapping stays while a thread of this process is in a call.
    pub unsafe fn open_or_create(
        bytes: SharedBytes<'a, ReadWrite>,
        offset: usize,
    ) -> Result<Self> {
        let place = header::place_to_wait(bytes, offset, Self::SIZE)?;
        // SAFETY: 1. `place` checked it. 2. from zeros, by `install`; who
        // writes them is our 1. 3. is our 3.
        let robust = unsafe { Robust::new(place)? };
        if !header::is_there(place)? {
            // First who makes it: what another C library makes of the mutex is
            // not to be mixed with this one's.
            header::claim(place, offset, Kind::Ready)?;
            robust.install()?;
            header::publish_together(place, Kind::Ready)?;
        }
        header::check_to_lock(bytes, offset, Kind::Ready)?;
        Ok(Self { robust, offset })
    }

    /// Runs `make`, unless it was run to its end before; waits for one that
    /// runs now. If `make` fails or panics, it is not made, and the next call
    /// tries.
    ///
    /// `make` begins from the beginning: an earlier one may have died half-way.
    ///
    /// # Errors
    ///
    /// - What `make` returns.
    /// - [`Error::Deadlock`](crate::Error::Deadlock): called inside `make`
    ///   (`EDEADLK`).
    pub fn make_once(&self, make: impl FnOnce() -> Result<()>) -> Result<Made> {
        self.make_for(Wait::ForEver, make)
    }

    /// As [`make_once`](Self::make_once), and waits for others until the
    /// deadline. It does not stop this call's own `make`.
    ///
    /// # Errors
    ///
    /// - As for [`make_once`](Self::make_once).
    /// - [`Error::TimedOut`](crate::Error::TimedOut): another one still makes
    ///   it (`ETIMEDOUT`).
    pub fn make_once_until(
        &self,
        deadline: Deadline,
        make: impl FnOnce() -> Result<()>,
    ) -> Result<Made> {
        self.make_for(Wait::Until(deadline), make)
    }

    /// Whether it is made.
    #[must_use]
    pub fn is_done(&self) -> bool {
        event::is_set(self.robust.word())
    }

    /// Waits until somebody has made it.
    ///
    /// # Errors
    ///
    /// - [`Error::TimedOut`](crate::Error::TimedOut): nobody has by then
    ///   (`ETIMEDOUT`).
    /// - [`Error::Os`](crate::Error::Os): the kernel refuses to wait.
    pub fn wait_until(&self, deadline: Deadline) -> Result<()> {
        event::wait(self.robust.word(), Some(deadline))
            .map_err(|os| os.on(Kind::Ready.at(self.offset)))?;
        Ok(())
    }

    fn make_for(
        &self,
        wait: Wait,
        make: impl FnOnce() -> Result<()>,
    ) -> Result<Made> {
        if self.is_done() {
            return Ok(Made::Before);
        }
        let object = || Kind::Ready.at(self.offset);
        let deadline = match wait {
            Wait::Until(deadline) => deadline,
            _ => Deadline::NEVER,
        };
        let held = loop {
            let nap = deadline.min(Deadline::after(robust::NAP));
            match self.robust.hold(Wait::Until(nap)) {
                Ok(held) => break held,
                // Whoever has made it may be stopped before it lets go.
                Err(_) if self.is_done() => return Ok(Made::Before),
                Err(os)
                    if os.errno() == libc::ETIMEDOUT
                        && !deadline.has_passed() => {}
                Err(os) => return Err(os.on(object()).into()),
            }
        };
        // One that died did so before it marked it done, which is looked at
        // next, or after that. Neither leaves anything to repair.
        held.after_death().map_err(|os| os.on(object()))?;
        if self.is_done() {
            return Ok(Made::Before);
        }
        make()?;
        held.check_owner().map_err(|os| os.on(object()))?;
        event::set(self.robust.word()).map_err(|os| os.on(object()))?;
        drop(held);
        Ok(Made::Now)
    }
}

impl fmt::Debug for Ready<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ready")
            .field("offset", &self.offset)
            .field("is_done", &self.is_done())
            .finish()
    }
}
