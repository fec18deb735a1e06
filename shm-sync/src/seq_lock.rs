//! One value that is read without waiting.
#![expect(unsafe_code, reason = "promises the C library a mutex of its own")]

use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use shm_common::zerocopy::{FromBytes, Immutable, IntoBytes};
use shm_common::{
    Access, Error, OsError, ReadWrite, Result, SharedBytes, SizeFault,
};

use crate::Deadline;
use crate::header::{self, ALIGN, Kind};
use crate::robust::{self, Held, Robust, Wait};
use crate::state::sequence;

/// A read is overtaken only by `SLOTS - 1` writes that end while it copies.
const SLOTS: usize = 4;

/// How often a read tries. Each failure means that three writers went through
/// their lock during one copy, so in practice the second try succeeds.
const ATTEMPTS: usize = 1000;

/// Where the rest begins, behind the writers' mutex.
const BODY: usize = robust::LEN;
/// In the body: the number of the last write, and how many writers died.
const NUMBER: usize = 0;
const DEATHS: usize = size_of::<usize>();
const VALUES: usize = ALIGN;

/// One value of plain data, with writers that take turns and readers that never
/// wait for them.
///
/// It has room for four values; a writer fills the next one and then publishes
/// it by a number. So a read never waits for a writer, also not for one that
/// was stopped or killed, and never gives a torn value: it is the value of one
/// write, and no older than the last write that ended before the read began.
///
/// Readers need no more than [`SeqLockReader`], which works on a mapping that
/// is read-only.
///
/// # When a user is killed
///
/// | while it | the others |
/// |---|---|
/// | reads | notice nothing |
/// | writes, at any step | read the value before or the new one; the next writer is told by [`Predecessor::Died`] |
///
/// # Limits
///
/// For writers those of [`Mutex`](crate::Mutex#limits). Every reader and writer
/// has the same `T`, of which the length is checked.
///
/// # Examples
///
/// ```
/// use shm_memfd::{Label, Segment, Size};
/// use shm_sync::{SeqLock, SeqLockReader};
///
/// let segment = Segment::create(&Label::new("position")?, Size::MIB)?;
/// let mapping = segment.map()?;
/// // SAFETY: 1. and 2. this program uses the first `SIZE` bytes of the segment
/// // only by this. 3. No thread holds the lock for longer than a call.
/// let position = unsafe { SeqLock::create(mapping.bytes(), 0, [0.0, 0.0])? };
/// position.write([1.5, 2.5])?;
///
/// let view = segment.map_read_only()?;
/// let reader = SeqLockReader::<[f64; 2], _>::open(view.bytes(), 0)?;
/// assert_eq!(reader.read()?, [1.5, 2.5]);
/// # Ok::<(), shm_sync::Error>(())
/// ```
///
/// Only plain data can be in it, of which a peer cannot forge an invalid value:
///
/// ```compile_fail,E0277
/// # fn f(bytes: shm_sync::SharedBytes<'_, shm_sync::ReadWrite>) {
/// // SAFETY: not run.
/// let flag = unsafe { shm_sync::SeqLock::<bool>::open(bytes, 0) };
/// # }
/// ```
pub struct SeqLock<'a, T> {
    robust: Robust<'a>,
    number: &'a AtomicUsize,
    deaths: &'a AtomicU32,
    reader: SeqLockReader<'a, T, ReadWrite>,
}

/// Makes a [`SeqLock`] for values as long as this one.
///
/// # Safety
///
/// As for [`SeqLock::create`].
pub(crate) unsafe fn create(
    bytes: SharedBytes<'_, ReadWrite>,
    offset: usize,
    value: &[u8],
) -> Result<()> {
    let place = header::place_to_wait(bytes, offset, size(value.len()))?;
    header::begin(place)?;
    // SAFETY: 1. `place` checked it. 2. `create` is next; who writes them is
    // our 1. 3. is our 3.
    let robust = unsafe { Robust::new(place)? };
    // SAFETY: 1. is our 2.
    unsafe { robust.create()? };
    let body = place.split_at(BODY)?.1;
    body.atomic_usize(NUMBER)?.store(0, Ordering::Relaxed);
    body.atomic_u32(DEATHS)?.store(0, Ordering::Relaxed);
    body.write_at(VALUES, value)?;
    header::publish(place, Kind::SeqLock, number_of(value.len())?)
}

/// How the writer before ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Predecessor {
    /// It finished, or there was none.
    Finished,
    /// It died while it wrote. Its value was published whole or not at all.
    Died,
}

impl<'a, T: FromBytes + IntoBytes + Immutable> SeqLock<'a, T> {
    /// Its length in bytes: 64 for the writers' lock with glibc on x86-64, 64
    /// for the number, and four values, each rounded up to 64.
    pub const SIZE: usize = size(size_of::<T>());

    /// Makes one at `offset` that holds `value`.
    ///
    /// # Errors
    ///
    /// - [`Error::OutOfBounds`]: `bytes` ends before it would.
    /// - [`Error::Misaligned`]: its address is no multiple of 64.
    /// - [`Error::Unsupported`]: nobody can sleep in that memory (`EFAULT`).
    /// - [`Error::InvalidSize`]: `T` has more than 2³² - 1 bytes.
    /// - [`Error::Os`]: this system has no robust mutexes (`ENOTSUP`).
    ///
    /// # Safety
    ///
    /// As for [`Mutex::create`](crate::Mutex::create), with
    /// [`SIZE`](Self::SIZE) bytes:
    /// 1. Until the last user is done, they are written only through this type,
    ///    in this process and in every other that has them mapped.
    /// 2. Nobody uses them yet.
    /// 3. The mapping stays while a thread of this process is in a call.
    pub unsafe fn create(
        bytes: SharedBytes<'a, ReadWrite>,
        offset: usize,
        value: T,
    ) -> Result<Self> {
        // SAFETY: 1. to 3. as promised to us.
        unsafe { create(bytes, offset, value.as_bytes())? };
        // SAFETY: 1. and 3. as promised to us. 2. Made just now.
        unsafe { Self::open(bytes, offset) }
    }

    /// Opens the one at `offset`.
    ///
    /// # Errors
    ///
    /// - [`Error::NotReady`]: nothing was created there yet.
    /// - [`Error::Incompatible`]: something else is there, or it was made for
    ///   values of another length, or by another version, C library, pointer
    ///   width or PID namespace.
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
        let len = header::check_to_lock(bytes, offset, Kind::SeqLock)?;
        check_len::<T>(offset, len)?;
        let place = header::place_to_wait(bytes, offset, Self::SIZE)?;
        let reader = SeqLockReader::at(place, offset)?;
        Ok(Self {
            // SAFETY: 1. `place` checked it. 2. made by `create`, of this C
            // library: `check_to_lock`; who writes them is our 1. 3. is our 3.
            robust: unsafe { Robust::new(place)? },
            number: reader.body.atomic_usize(NUMBER)?,
            deaths: reader.body.atomic_u32(DEATHS)?,
            reader,
        })
    }

    /// Publishes `value`, after the writers before it, and says how the last of
    /// them ended.
    ///
    /// # Errors
    ///
    /// [`Error::Deadlock`]: called inside [`update`](Self::update)
    /// (`EDEADLK`).
    pub fn write(&self, value: T) -> Result<Predecessor> {
        self.change(Wait::ForEver, |_| Ok(value))
    }

    /// As [`write`](Self::write), and waits for other writers until the
    /// deadline.
    ///
    /// # Errors
    ///
    /// - As for [`write`](Self::write).
    /// - [`Error::TimedOut`]: one of them still writes (`ETIMEDOUT`).
    pub fn write_until(
        &self,
        value: T,
        deadline: Deadline,
    ) -> Result<Predecessor> {
        self.change(Wait::Until(deadline), |_| Ok(value))
    }

    /// Publishes what `change` makes of the value, with no write in between.
    /// If `change` panics, nothing changes.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write).
    pub fn update(&self, change: impl FnOnce(T) -> T) -> Result<Predecessor> {
        self.change(Wait::ForEver, |this| Ok(change(this.current()?)))
    }

    /// As [`update`](Self::update), and waits for other writers until the
    /// deadline.
    ///
    /// # Errors
    ///
    /// As for [`write_until`](Self::write_until).
    pub fn update_until(
        &self,
        change: impl FnOnce(T) -> T,
        deadline: Deadline,
    ) -> Result<Predecessor> {
        let wait = Wait::Until(deadline);
        self.change(wait, |this| Ok(change(this.current()?)))
    }

    /// As [`SeqLockReader::read`].
    ///
    /// # Errors
    ///
    /// As for [`SeqLockReader::read`].
    #[inline]
    pub fn read(&self) -> Result<T> {
        self.reader.read()
    }

    /// What only reads it.
    #[must_use]
    pub const fn reader(&self) -> SeqLockReader<'a, T, ReadWrite> {
        self.reader
    }

    /// Writes what `value` returns, which the lock protects from other writes.
    fn change(
        &self,
        wait: Wait,
        value: impl FnOnce(&Self) -> Result<T>,
    ) -> Result<Predecessor> {
        let (held, predecessor) = self.lock(wait)?;
        let value = value(self)?;
        held.check_owner()
            .map_err(|os| os.on(Kind::SeqLock.at(self.reader.offset)))?;
        sequence::write::<SLOTS, _>(self.number, |slot| {
            self.reader.body.write_at(at::<T>(slot), value.as_bytes())
        })?;
        drop(held);
        Ok(predecessor)
    }

    /// The value, under the writers' lock.
    fn current(&self) -> Result<T> {
        self.reader.copy(self.number.load(Ordering::Relaxed))
    }

    fn lock(&self, wait: Wait) -> Result<(Held<'a>, Predecessor)> {
        let object = || Kind::SeqLock.at(self.reader.offset);
        let held = self.robust.hold(wait).map_err(|os| os.on(object()))?;
        if !held.owner_died() {
            return Ok((held, Predecessor::Finished));
        }
        // Nothing to repair: what the dead writer did not publish is in a slot
        // that nobody reads, and the next to be filled. If this thread dies
        // before the second step, the next one counts that death too.
        self.deaths.fetch_add(1, Ordering::Relaxed);
        held.after_death().map_err(|os| os.on(object()))?;
        Ok((held, Predecessor::Died))
    }
}

/// Reads a [`SeqLock`], through any mapping of it.
pub struct SeqLockReader<'a, T, A> {
    /// From the number on.
    body: SharedBytes<'a, A>,
    offset: usize,
    _value: PhantomData<fn() -> T>,
}

impl<'a, T: FromBytes, A: Access> SeqLockReader<'a, T, A> {
    /// Opens the one at `offset`, for reading only. Nothing is asked of the
    /// other processes: whatever they write, a read gives some `T` or an error.
    ///
    /// # Errors
    ///
    /// As for [`SeqLock::open`], but for the PID namespace, which does not
    /// matter to readers.
    pub fn open(bytes: SharedBytes<'a, A>, offset: usize) -> Result<Self> {
        let len = header::check(bytes, offset, Kind::SeqLock)?;
        check_len::<T>(offset, len)?;
        let place = header::place(bytes, offset, size(size_of::<T>()))?;
        Self::at(place, offset)
    }

    fn at(place: SharedBytes<'a, A>, offset: usize) -> Result<Self> {
        let (_, body) = place.split_at(BODY)?;
        Ok(Self { body, offset, _value: PhantomData })
    }

    /// Reads the value.
    ///
    /// It takes one copy, and a bounded number of them in the worst case.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`]: a thousand times in a row, three writes ended while
    /// one copy was made (`EBUSY`).
    #[inline]
    pub fn read(&self) -> Result<T> {
        for _ in 0..ATTEMPTS {
            let before = self.body.load_usize(NUMBER)?;
            let value = self.copy(before)?;
            if self.is_whole(before)? {
                return Ok(value);
            }
        }
        Err(self.busy())
    }

    /// Reads the value by a single copy; none if three writes ended meanwhile.
    ///
    /// # Errors
    ///
    /// None is possible, but by a bug.
    #[inline]
    pub fn try_read(&self) -> Result<Option<T>> {
        let before = self.body.load_usize(NUMBER)?;
        let value = self.copy(before)?;
        Ok(self.is_whole(before)?.then_some(value))
    }

    #[inline]
    fn copy(&self, number: usize) -> Result<T> {
        self.body.get(at::<T>(sequence::slot::<SLOTS>(number)))
    }

    #[inline]
    fn is_whole(&self, before: usize) -> Result<bool> {
        sequence::is_whole::<SLOTS, _>(before, || self.body.load_usize(NUMBER))
    }

    /// How many writers died while they wrote, as far as writers after them
    /// have noticed.
    ///
    /// # Errors
    ///
    /// None is possible, but by a bug.
    pub fn deaths(&self) -> Result<u32> {
        self.body.load_u32(DEATHS)
    }

    #[cold]
    fn busy(&self) -> Error {
        let os = OsError::new("read", libc::EBUSY);
        Error::Busy(os.on(Kind::SeqLock.at(self.offset)))
    }
}

/// From one value to the next: no two share a cache line.
const fn stride(len: usize) -> usize {
    len.next_multiple_of(ALIGN)
}

/// The length in bytes of a lock for values of that length.
const fn size(len: usize) -> usize {
    BODY + VALUES + SLOTS * stride(len)
}

/// Where in the body a slot begins.
const fn at<T>(slot: usize) -> usize {
    VALUES + slot * stride(size_of::<T>())
}

/// The length of a value, as the header has it.
fn number_of(len: usize) -> Result<u32> {
    u32::try_from(len).map_err(|_| Error::InvalidSize {
        given: len.to_string(),
        fault: SizeFault::TooLarge,
    })
}

fn check_len<T>(offset: usize, found: u32) -> Result<()> {
    let expected = number_of(size_of::<T>())?;
    if expected == found {
        return Ok(());
    }
    let what = "length of the value";
    Err(header::differs(Kind::SeqLock, offset, what, expected, found))
}

// By hand, because derives would ask the same of `T` and `A`.
impl<T> Clone for SeqLock<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for SeqLock<'_, T> {}

impl<T, A> Clone for SeqLockReader<'_, T, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, A> Copy for SeqLockReader<'_, T, A> {}

impl<T> fmt::Debug for SeqLock<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SeqLock")
            .field("offset", &self.reader.offset)
            .field("number", &self.number)
            .field("deaths", &self.deaths)
            .finish_non_exhaustive()
    }
}

impl<T, A> fmt::Debug for SeqLockReader<'_, T, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SeqLockReader")
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}
