//! Several objects in one segment, at offsets that all users agree on.
#![expect(unsafe_code, reason = "places objects that hold a mutex")]

use std::fmt;
use std::marker::PhantomData;

use shm_common::SizeFault;
use shm_common::zerocopy::{FromBytes, Immutable, IntoBytes};
use shm_common::{Error, OsError, ReadWrite, Result, SharedBytes, Size};

use crate::header::{self, ALIGN, Kind};
use crate::{
    Barrier, Condvar, Deadline, Event, Made, Mutex, Ready, Reset, Semaphore,
    SeqLock, seq_lock,
};

/// What the segment holds after the [`Ready`] that it begins with: the magic in
/// two words, the version, the number of objects.
const TABLE: usize = Ready::SIZE;
/// And for each object its kind, its number, and its offset and length in units
/// of `ALIGN`.
const ROW: usize = size_of::<Row>();

type Row = [u32; 4];

/// Which objects a segment holds, one after the other, and how it begins.
///
/// All users declare the same layout, in the same order. Whoever comes first
/// makes the objects; the others wait for that, and check that their
/// declaration says the same, down to the last length, before they use any.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use shm_memfd::{Label, Segment};
/// use shm_sync::{Deadline, Layout, Reset};
///
/// // The same lines in every program.
/// let mut layout = Layout::new(*b"example!", 1);
/// let balance = layout.mutex(8);
/// let changed = layout.event(Reset::Manual);
/// let position = layout.seq_lock([0.0_f64, 0.0]);
///
/// let segment = Segment::create(&Label::new("example")?, layout.size()?)?;
/// let mapping = segment.map()?;
/// let deadline = Deadline::after(Duration::from_secs(5));
/// // SAFETY: 1. this program uses the segment only by this. 2. It was zeros.
/// // 3. No guard is leaked.
/// let (placed, _) = unsafe {
///     layout.open_or_create(mapping.bytes(), deadline, |new| {
///         let balance = new.at(balance)?;
///         balance.lock()?.or_repair(|_| Ok(()))?.set(0, 100_u64)
///     })?
/// };
///
/// let balance = placed.at(balance)?;
/// let guard = balance.lock()?.or_repair(|_| Ok(()))?;
/// assert_eq!(guard.get::<u64>(0)?, 100);
/// placed.at(changed)?.set()?;
/// placed.at(position)?.write([1.0, 2.0])?;
/// # guard.unlock()?;
/// # Ok::<(), shm_sync::Error>(())
/// ```
///
/// What was declared as one kind cannot be used as another:
///
/// ```compile_fail,E0308
/// # use shm_sync::{Event, Layout, Placed, Reset, Result};
/// # fn f(placed: Placed<'_>, layout: &mut Layout) -> Result<()> {
/// let lock = layout.mutex(8);
/// let event: Event<'_> = placed.at(lock)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Layout {
    magic: [u8; 8],
    version: u32,
    objects: Vec<Declared>,
}

#[derive(Debug, Clone)]
struct Declared {
    kind: Kind,
    /// What must agree apart from kind and length: how an event resets, how
    /// many permits or participants.
    number: u32,
    /// In bytes, as asked for; `usize::MAX` for what cannot be.
    len: usize,
    /// The first value of a sequence lock.
    value: Vec<u8>,
}

/// Which object of a [`Layout`] is meant. It is only a number with a type.
pub struct Slot<O> {
    index: usize,
    _object: PhantomData<fn() -> O>,
}

/// A kind of object that a [`Layout`] can hold; the trait is sealed.
pub trait Object: sealed::Sealed {
    /// The object in a segment that is borrowed for `'a`.
    type At<'a>;

    #[doc(hidden)]
    fn open<'a>(placed: &Placed<'a>, index: usize) -> Result<Self::At<'a>>;
}

/// The objects of a [`Layout`] in a segment where they are all made.
#[derive(Debug, Clone)]
pub struct Placed<'a> {
    bytes: SharedBytes<'a, ReadWrite>,
    /// Invariant: at each place is an object of that kind, made by
    /// [`Layout::make`], whose bytes belong to no other place; for all of `'a`
    /// the promises of [`Layout::open_or_create`] hold.
    objects: Vec<Place>,
}

#[derive(Debug, Clone)]
struct Place {
    kind: Kind,
    offset: usize,
    len: usize,
}

impl Layout {
    /// An empty layout, which only segments with the same magic and version
    /// have.
    #[must_use]
    pub const fn new(magic: [u8; 8], version: u32) -> Self {
        Self { magic, version, objects: Vec::new() }
    }

    /// Adds a [`Mutex`] that protects `len` bytes, zeros at first.
    pub fn mutex(&mut self, len: usize) -> Slot<Mutex<'static>> {
        let size = Mutex::size(len).unwrap_or(usize::MAX);
        // Where it does not fit, `size` is `MAX`.
        let number = u32::try_from(len).unwrap_or(0);
        self.add(Kind::Mutex, number, size, Vec::new())
    }

    /// Adds a [`Condvar`].
    pub fn condvar(&mut self) -> Slot<Condvar<'static>> {
        self.add(Kind::Condvar, 0, Condvar::SIZE, Vec::new())
    }

    /// Adds an [`Event`].
    pub fn event(&mut self, reset: Reset) -> Slot<Event<'static>> {
        self.add(Kind::Event, reset.number(), Event::SIZE, Vec::new())
    }

    /// Adds a [`Semaphore`] with so many permits at first.
    pub fn semaphore(&mut self, permits: u32) -> Slot<Semaphore<'static>> {
        self.add(Kind::Semaphore, permits, Semaphore::SIZE, Vec::new())
    }

    /// Adds a [`Barrier`] for so many participants.
    pub fn barrier(&mut self, participants: u32) -> Slot<Barrier<'static>> {
        self.add(Kind::Barrier, participants, Barrier::SIZE, Vec::new())
    }

    /// Adds a [`SeqLock`] that holds `value` at first.
    pub fn seq_lock<T: FromBytes + IntoBytes + Immutable>(
        &mut self,
        value: T,
    ) -> Slot<SeqLock<'static, T>> {
        let number = u32::try_from(size_of::<T>()).unwrap_or(0);
        let value = value.as_bytes().to_vec();
        self.add(Kind::SeqLock, number, SeqLock::<T>::SIZE, value)
    }

    /// Adds a [`Ready`], for something else than the layout itself.
    pub fn ready(&mut self) -> Slot<Ready<'static>> {
        self.add(Kind::Ready, 0, Ready::SIZE, Vec::new())
    }

    /// Adds `len` bytes, zeros at first, which nothing here protects.
    pub fn bytes(
        &mut self,
        len: usize,
    ) -> Slot<SharedBytes<'static, ReadWrite>> {
        let size = len.checked_next_multiple_of(ALIGN).unwrap_or(usize::MAX);
        let number = u32::try_from(len % ALIGN).unwrap_or(0);
        self.add(Kind::Bytes, number, size, Vec::new())
    }

    fn add<O>(
        &mut self,
        kind: Kind,
        number: u32,
        len: usize,
        value: Vec<u8>,
    ) -> Slot<O> {
        let index = self.objects.len();
        self.objects.push(Declared { kind, number, len, value });
        Slot { index, _object: PhantomData }
    }

    /// The length in bytes that a segment needs for it.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSize`]: more than a segment can have.
    pub fn size(&self) -> Result<Size> {
        Size::new(self.offsets()?.1)
    }

    /// Where each object begins, and where the last one ends.
    fn offsets(&self) -> Result<(Vec<usize>, usize)> {
        let too_large = || Error::InvalidSize {
            given: format!("a layout of {} objects", self.objects.len()),
            fault: SizeFault::TooLarge,
        };
        let rows = self.objects.len().saturating_add(1).checked_mul(ROW);
        let table = rows.and_then(|len| len.checked_next_multiple_of(ALIGN));
        let mut end = table
            .and_then(|len| len.checked_add(TABLE))
            .ok_or_else(too_large)?;
        let mut offsets = Vec::with_capacity(self.objects.len());
        for object in &self.objects {
            offsets.push(end);
            end = end.checked_add(object.len).ok_or_else(too_large)?;
        }
        // As the rows count, in lines of 32 bits.
        u32::try_from(end / ALIGN).map_err(|_| too_large())?;
        Ok((offsets, end))
    }

    /// Uses the objects in `bytes`, and makes them if nobody has; then also
    /// `finish` runs, with all of them made, before anyone else sees them.
    /// Exactly one process does that, and another one anew, over zeroed bytes
    /// and fresh objects, if it is killed half-way. The others wait.
    ///
    /// # Errors
    ///
    /// - What `finish` returns; then they are not made.
    /// - [`Error::TimedOut`]: somebody else still makes them at the deadline.
    /// - [`Error::Incompatible`]: they are there, and of another layout, or
    ///   made by another version, C library, pointer width or PID namespace.
    /// - [`Error::OutOfBounds`]: `bytes` is shorter than [`size`](Self::size).
    /// - [`Error::Misaligned`]: its address is no multiple of 64.
    /// - [`Error::Unsupported`]: nobody can sleep in that memory (`EFAULT`).
    /// - [`Error::InvalidSize`], [`Error::LimitReached`]: an object is declared
    ///   that cannot be made.
    ///
    /// # Safety
    ///
    /// As for [`Mutex::create`], for all that [`size`](Self::size) says:
    /// 1. Until the last user is done, those bytes are written only through
    ///    what this type places there, in this process and in every other that
    ///    has them mapped.
    /// 2. They were zeros before the first call of this.
    /// 3. A [`MutexGuard`](crate::MutexGuard) that is leaked (`mem::forget`)
    ///    keeps its lock: the mapping then stays for as long as its thread runs.
    ///    None is leaked in `finish`.
    pub unsafe fn open_or_create<'a>(
        &self,
        bytes: SharedBytes<'a, ReadWrite>,
        deadline: Deadline,
        finish: impl FnOnce(&Placed<'_>) -> Result<()>,
    ) -> Result<(Placed<'a>, Made)> {
        // SAFETY: 1. to 3. as promised to us.
        let (ready, placed) = unsafe { self.begin(bytes)? };
        let made = ready.make_once_until(deadline, || {
            // SAFETY: 1. and 3. as promised to us. 2. Others wait for this.
            unsafe { self.make(&placed)? };
            finish(&placed)
        })?;
        self.check(&placed)?;
        Ok((placed, made))
    }

    /// Makes the objects in `bytes`.
    ///
    /// # Errors
    ///
    /// - [`Error::AlreadyExists`]: somebody did (`EEXIST`).
    /// - [`Error::TimedOut`]: somebody does so now (`ETIMEDOUT`).
    /// - As for [`open_or_create`](Self::open_or_create).
    ///
    /// # Safety
    ///
    /// 1. to 3. as for [`open_or_create`](Self::open_or_create).
    pub unsafe fn create<'a>(
        &self,
        bytes: SharedBytes<'a, ReadWrite>,
    ) -> Result<Placed<'a>> {
        let deadline = Deadline::now();
        // SAFETY: 1. to 3. as promised to us.
        let placed =
            unsafe { self.open_or_create(bytes, deadline, |_| Ok(()))? };
        match placed {
            (placed, Made::Now) => Ok(placed),
            (_, Made::Before) => Err(OsError::new("create", libc::EEXIST)
                .on(Kind::Layout.at(0))
                .into()),
        }
    }

    /// Uses the objects in `bytes`, and waits until somebody has made them.
    ///
    /// # Errors
    ///
    /// - [`Error::TimedOut`]: nobody has at the deadline (`ETIMEDOUT`).
    /// - [`Error::Incompatible`], [`Error::OutOfBounds`],
    ///   [`Error::Misaligned`], [`Error::Unsupported`],
    ///   [`Error::InvalidSize`]: as for
    ///   [`open_or_create`](Self::open_or_create).
    ///
    /// # Safety
    ///
    /// 1. to 3. as for [`open_or_create`](Self::open_or_create).
    pub unsafe fn open<'a>(
        &self,
        bytes: SharedBytes<'a, ReadWrite>,
        deadline: Deadline,
    ) -> Result<Placed<'a>> {
        // SAFETY: 1. to 3. as promised to us.
        let (ready, placed) = unsafe { self.begin(bytes)? };
        ready.wait_until(deadline)?;
        self.check(&placed)?;
        Ok(placed)
    }

    /// Where all is, and whether it is made.
    ///
    /// # Safety
    ///
    /// 1. to 3. as for [`open_or_create`](Self::open_or_create); and
    /// 4. the `Placed` is given to others only once it is ready and checked.
    unsafe fn begin<'a>(
        &self,
        bytes: SharedBytes<'a, ReadWrite>,
    ) -> Result<(Ready<'a>, Placed<'a>)> {
        let (offsets, size) = self.offsets()?;
        let bytes = header::place(bytes, 0, size)?;
        // SAFETY: 1. to 3. are those of a layout, which begins with it.
        let ready = unsafe { Ready::open_or_create(bytes, 0)? };
        let objects = self.objects.iter().zip(offsets);
        let objects = objects.map(|(object, offset)| Place {
            kind: object.kind,
            offset,
            len: match object.kind {
                Kind::Bytes => object.exact_len(),
                _ => object.len,
            },
        });
        Ok((ready, Placed { bytes, objects: objects.collect() }))
    }

    /// Makes the objects and writes the table.
    ///
    /// # Safety
    ///
    /// 1. and 3. as for [`open_or_create`](Self::open_or_create); and
    /// 2. nobody uses the objects.
    unsafe fn make(&self, placed: &Placed<'_>) -> Result<()> {
        let bytes = placed.bytes;
        // Another one may have died here.
        bytes.split_at(TABLE)?.1.fill(0);
        for (declared, place) in self.objects.iter().zip(&placed.objects) {
            let (offset, number) = (place.offset, declared.number);
            match declared.kind {
                Kind::Mutex => {
                    let len = usize::try_from(number).unwrap_or(0);
                    // SAFETY: 1. to 3. as promised to us, for its place.
                    unsafe { Mutex::create(bytes, offset, len)? };
                }
                Kind::SeqLock => {
                    let value = &declared.value;
                    // SAFETY: 1. to 3. as promised to us, for its place.
                    unsafe { seq_lock::create(bytes, offset, value)? };
                }
                Kind::Condvar => drop(Condvar::create(bytes, offset)?),
                Kind::Event => {
                    let reset = Reset::from_number(number, offset)?;
                    Event::create(bytes, offset, reset)?;
                }
                Kind::Semaphore => {
                    Semaphore::create(bytes, offset, number)?;
                }
                Kind::Barrier => {
                    Barrier::create(bytes, offset, number)?;
                }
                // All zeros is how they begin.
                Kind::Ready | Kind::Bytes | Kind::Layout => {}
            }
        }
        for (index, row) in self.rows(placed).into_iter().enumerate() {
            bytes.set(TABLE + index * ROW, row)?;
        }
        Ok(())
    }

    /// Compares the table with what is declared here.
    fn check(&self, placed: &Placed<'_>) -> Result<()> {
        const FIRST: [&str; 4] =
            ["magic", "magic", "version", "number of objects"];
        const OTHER: [&str; 4] = ["kind", "number", "place", "length"];
        for (index, row) in self.rows(placed).into_iter().enumerate() {
            let found: Row = placed.bytes.get(TABLE + index * ROW)?;
            let (kind, offset, names) = match index.checked_sub(1) {
                None => (Kind::Layout, 0, FIRST),
                Some(index) => {
                    let place = &placed.objects[index];
                    (place.kind, place.offset, OTHER)
                }
            };
            for ((ours, theirs), what) in row.iter().zip(found).zip(names) {
                if *ours != theirs {
                    let differs = header::differs;
                    return Err(differs(kind, offset, what, *ours, theirs));
                }
            }
        }
        Ok(())
    }

    /// The table.
    fn rows(&self, placed: &Placed<'_>) -> Vec<Row> {
        // `offsets` checked that all of it fits.
        let word = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let [a, b, c, d, e, f, g, h] = self.magic;
        let mut rows = vec![[
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            self.version,
            word(self.objects.len()),
        ]];
        rows.extend(self.objects.iter().zip(&placed.objects).map(
            |(declared, place)| {
                [
                    declared.kind as u32,
                    declared.number,
                    word(place.offset / ALIGN),
                    word(declared.len / ALIGN),
                ]
            },
        ));
        rows
    }
}

impl Declared {
    /// The length of a range of bytes as it was asked for; its number is what
    /// is in the last line.
    fn exact_len(&self) -> usize {
        match usize::try_from(self.number) {
            Ok(0) | Err(_) => self.len,
            Ok(rest) => self.len - ALIGN + rest,
        }
    }
}

impl<'a> Placed<'a> {
    /// The object that `slot` means, which is the same for every call.
    ///
    /// # Errors
    ///
    /// [`Error::Incompatible`]: the slot belongs to another layout.
    pub fn at<O: Object>(&self, slot: Slot<O>) -> Result<O::At<'a>> {
        O::open(self, slot.index)
    }

    /// The place of an object, which is of that kind.
    fn find(&self, index: usize, kind: Kind) -> Result<&Place> {
        let place = self.objects.get(index);
        let found = place.map_or(0, |place| place.kind as u32);
        match place {
            Some(place) if place.kind == kind => Ok(place),
            _ => {
                let offset = place.map_or(0, |place| place.offset);
                Err(header::differs(kind, offset, "kind", kind as u32, found))
            }
        }
    }
}

impl Object for Mutex<'static> {
    type At<'a> = Mutex<'a>;

    fn open<'a>(placed: &Placed<'a>, index: usize) -> Result<Mutex<'a>> {
        let place = placed.find(index, Kind::Mutex)?;
        // SAFETY: 1. to 3. the invariant of `Placed`, and its kind is checked.
        unsafe { Mutex::open(placed.bytes, place.offset) }
    }
}

impl<T> Object for SeqLock<'static, T>
where
    T: FromBytes + IntoBytes + Immutable,
{
    type At<'a> = SeqLock<'a, T>;

    fn open<'a>(placed: &Placed<'a>, index: usize) -> Result<SeqLock<'a, T>> {
        let place = placed.find(index, Kind::SeqLock)?;
        // SAFETY: 1. to 3. the invariant of `Placed`, and its kind is checked.
        unsafe { SeqLock::open(placed.bytes, place.offset) }
    }
}

impl Object for Ready<'static> {
    type At<'a> = Ready<'a>;

    fn open<'a>(placed: &Placed<'a>, index: usize) -> Result<Ready<'a>> {
        let place = placed.find(index, Kind::Ready)?;
        // SAFETY: 1. to 3. the invariant of `Placed`, and its kind is checked.
        unsafe { Ready::open_or_create(placed.bytes, place.offset) }
    }
}

impl Object for SharedBytes<'static, ReadWrite> {
    type At<'a> = SharedBytes<'a, ReadWrite>;

    fn open<'a>(
        placed: &Placed<'a>,
        index: usize,
    ) -> Result<SharedBytes<'a, ReadWrite>> {
        let place = placed.find(index, Kind::Bytes)?;
        placed.bytes.subslice(place.offset, place.len)
    }
}

macro_rules! objects {
    ($($object:ident),*) => {$(
        impl Object for $object<'static> {
            type At<'a> = $object<'a>;

            fn open<'a>(
                placed: &Placed<'a>,
                index: usize,
            ) -> Result<$object<'a>> {
                let place = placed.find(index, Kind::$object)?;
                $object::open(placed.bytes, place.offset)
            }
        }

        impl sealed::Sealed for $object<'static> {}
    )*};
}

// Those that the C library has no part in.
objects!(Condvar, Event, Semaphore, Barrier);

mod sealed {
    use super::{Mutex, ReadWrite, Ready, SeqLock, SharedBytes};

    pub trait Sealed {}
    impl Sealed for Mutex<'static> {}
    impl<T> Sealed for SeqLock<'static, T> {}
    impl Sealed for Ready<'static> {}
    impl Sealed for SharedBytes<'static, ReadWrite> {}
}

// By hand, because derives would ask the same of `O`.
impl<O> Clone for Slot<O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<O> Copy for Slot<O> {}

impl<O> fmt::Debug for Slot<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slot").field(&self.index).finish()
    }
}
