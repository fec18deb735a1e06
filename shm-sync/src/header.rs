//! How an object begins: what it is, and who can use it.
//!
//! | offset | 32-bit word |
//! |---|---|
//! | 0 | magic, written last; 0 where nothing was created |
//! | 4 | version, kind, and for what holds a mutex: C library, pointer width |
//! | 8 | a length or number that belongs to the kind |
//! | 12 | for what holds a mutex: the PID namespace of its users, or 0 |

use std::os::linux::fs::MetadataExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use shm_common::{Access, Error, Object, ReadWrite, Result, SharedBytes};

use crate::{futex, raw};

/// Every object begins on a cache line, so that no two share one.
pub(crate) const ALIGN: usize = 64;

/// The length of the words above, in bytes.
pub(crate) const LEN: usize = 16;

/// Reads "shmy" in memory, in the byte order of who created the object.
const MAGIC: u32 = u32::from_ne_bytes(*b"shmy");

/// Changes with the meaning of any byte here or behind it.
const VERSION: u8 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Mutex = 1,
    Condvar = 2,
    Event = 3,
    Semaphore = 4,
    Barrier = 5,
    SeqLock = 6,
    Ready = 7,
    Bytes = 8,
    Layout = 9,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Kind::Mutex => "mutex",
            Kind::Condvar => "condvar",
            Kind::Event => "event",
            Kind::Semaphore => "semaphore",
            Kind::Barrier => "barrier",
            Kind::SeqLock => "sequence lock",
            Kind::Ready => "ready flag",
            Kind::Bytes => "range of bytes",
            Kind::Layout => "layout",
        }
    }

    pub(crate) const fn at(self, offset: usize) -> Object {
        Object::At { what: self.name(), offset }
    }

    /// Whether the C library has a part in it: a mutex.
    const fn holds_mutex(self) -> bool {
        matches!(self, Kind::Mutex | Kind::SeqLock | Kind::Ready)
    }

    /// The second word.
    fn tag(self) -> u32 {
        let (library, width) = match self.holds_mutex() {
            true => (raw::LIBRARY, POINTER_WIDTH),
            false => (0, 0),
        };
        u32::from_le_bytes([VERSION, self as u8, library, width])
    }
}

#[expect(clippy::cast_possible_truncation, reason = "4 or 8")]
const POINTER_WIDTH: u8 = size_of::<usize>() as u8;

/// The range of an object, if it is inside and begins on a cache line.
pub(crate) fn place<A: Access>(
    bytes: SharedBytes<'_, A>,
    offset: usize,
    len: usize,
) -> Result<SharedBytes<'_, A>> {
    let place = bytes.subslice(offset, len)?;
    if !place.as_ptr().addr().is_multiple_of(ALIGN) {
        return Err(Error::Misaligned { offset, align: ALIGN });
    }
    Ok(place)
}

/// As [`place`], for an object that is waited for: refuses memory in which the
/// kernel finds no sleepers. There a lock that is free would be had, and one
/// that is not would end the process: glibc trusts a futex to work.
pub(crate) fn place_to_wait(
    bytes: SharedBytes<'_, ReadWrite>,
    offset: usize,
    len: usize,
) -> Result<SharedBytes<'_, ReadWrite>> {
    let place = place(bytes, offset, len)?;
    let magic = place.atomic_u32(0)?;
    // A page that is not to be had must be a SIGBUS, as at every touch, and not
    // what the kernel says of it.
    magic.load(Ordering::Relaxed);
    // Nobody waits for the magic.
    match futex::wake(magic) {
        Err(os) if os.errno() == libc::EFAULT => Err(Error::Unsupported {
            what: "nobody can wait in this memory: it is a driver's, as that \
                   of a dma-buf, and the kernel has no futexes there",
            os: Some(os.on(Object::At { what: "object", offset })),
        }),
        // Another refusal may be one of this call alone.
        _ => Ok(place),
    }
}

/// Takes back what says that an object is there, before it is made anew.
pub(crate) fn begin(place: SharedBytes<'_, ReadWrite>) -> Result<()> {
    place.atomic_u32(0)?.store(0, Ordering::Relaxed);
    Ok(())
}

/// Says that an object is there, once all else of it is.
pub(crate) fn publish(
    place: SharedBytes<'_, ReadWrite>,
    kind: Kind,
    number: u32,
) -> Result<()> {
    place.atomic_u32(4)?.store(kind.tag(), Ordering::Relaxed);
    place.atomic_u32(8)?.store(number, Ordering::Relaxed);
    place.atomic_u32(12)?.store(namespace_of(kind), Ordering::Relaxed);
    place.atomic_u32(0)?.store(MAGIC, Ordering::Release);
    Ok(())
}

/// As [`publish`], after [`claim`], by any number of processes at once over
/// zeros, each of which may be killed: all write the same, and only where there
/// is nothing yet.
pub(crate) fn publish_together(
    place: SharedBytes<'_, ReadWrite>,
    kind: Kind,
) -> Result<()> {
    install(place.atomic_u32(12)?, namespace_of(kind));
    install(place.atomic_u32(0)?, MAGIC);
    Ok(())
}

/// Writes `value` over zero.
pub(crate) fn install(word: &AtomicU32, value: u32) {
    // It fails where somebody was quicker; what they wrote is checked later.
    let _ =
        word.compare_exchange(0, value, Ordering::AcqRel, Ordering::Acquire);
}

/// Whether something was published there; what, says [`check`].
pub(crate) fn is_there(place: SharedBytes<'_, ReadWrite>) -> Result<bool> {
    Ok(place.load_u32(0)? != 0)
}

/// Checks that an object of this kind is there and that this process can use
/// it, and gives its number.
pub(crate) fn check<A: Access>(
    bytes: SharedBytes<'_, A>,
    offset: usize,
    kind: Kind,
) -> Result<u32> {
    let head = place(bytes, offset, LEN)?;
    match head.load_u32(0)? {
        MAGIC => {}
        0 => {
            return Err(Error::NotReady {
                object: kind.at(offset),
                waited: Duration::ZERO,
            });
        }
        found => return Err(differs(kind, offset, "magic", MAGIC, found)),
    }
    check_tag(head, offset, kind)?;
    head.load_u32(8)
}

/// Says what is made there, and by whom, before it is; and that nobody else has
/// begun to make something there.
pub(crate) fn claim(
    place: SharedBytes<'_, ReadWrite>,
    offset: usize,
    kind: Kind,
) -> Result<()> {
    install(place.atomic_u32(4)?, kind.tag());
    check_tag(place, offset, kind)
}

fn check_tag<A: Access>(
    head: SharedBytes<'_, A>,
    offset: usize,
    kind: Kind,
) -> Result<()> {
    let [version, its_kind, library, width] = kind.tag().to_le_bytes();
    let [found_version, found_kind, found_library, found_width] =
        head.load_u32(4)?.to_le_bytes();
    for (what, expected, found) in [
        ("version", version, found_version),
        ("kind", its_kind, found_kind),
        ("C library", library, found_library),
        ("pointer width", width, found_width),
    ] {
        if expected != found {
            return Err(differs(kind, offset, what, expected, found));
        }
    }
    Ok(())
}

/// As [`check`], for one that wants to lock.
pub(crate) fn check_to_lock<A: Access>(
    bytes: SharedBytes<'_, A>,
    offset: usize,
    kind: Kind,
) -> Result<u32> {
    let number = check(bytes, offset, kind)?;
    let theirs = place(bytes, offset, LEN)?.load_u32(12)?;
    let ours = namespace_of(kind);
    // 0: one of the two could not tell, so it is up to them.
    if ours != theirs && ours != 0 && theirs != 0 {
        return Err(differs(kind, offset, "PID namespace", ours, theirs));
    }
    Ok(number)
}

pub(crate) fn differs(
    kind: Kind,
    offset: usize,
    what: &'static str,
    expected: impl Into<u64>,
    found: impl Into<u64>,
) -> Error {
    Error::Incompatible {
        object: kind.at(offset),
        what,
        expected: expected.into(),
        found: found.into(),
    }
}

/// The PID namespace of this process, if `kind` holds a mutex: its owner is
/// known by thread id, and the same id means another thread elsewhere. 0 where
/// the system does not tell.
fn namespace_of(kind: Kind) -> u32 {
    if !kind.holds_mutex() {
        return 0;
    }
    // Not cached: a fork may have changed it.
    let inode = std::fs::metadata("/proc/self/ns/pid").map(|m| m.st_ino());
    // The kernel numbers namespaces by 32 bits.
    inode.ok().and_then(|inode| u32::try_from(inode).ok()).unwrap_or(0)
}
