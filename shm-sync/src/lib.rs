//! Synchronisation in shared memory that survives its users.
//!
//! # What it is
//!
//! Locks, events and the like that lie in a mapping, of whatever mechanism, and
//! work between the processes that share it. Any of these may be killed at any
//! instruction; the others go on, and are told where something may be
//! half-done.
//!
//! | to | use | when a user is killed in it |
//! |---|---|---|
//! | change several things as one | [`Mutex`] | the next owner gets [`Locked::OwnerDied`], and repairs |
//! | wait for such a change | [`Condvar`] | the others notice nothing |
//! | wait until something has happened | [`Event`] | the others go on in its place |
//! | count what there is | [`Semaphore`] | the others go on in its place |
//! | wait until all are there | [`Barrier`] | a deadline passes, and all find it broken |
//! | publish one value to many readers | [`SeqLock`] | readers have the value before, the next writer is told |
//! | make something exactly once | [`Ready`] | another one makes it anew |
//! | place several of these in a segment | [`Layout`] | another one makes it anew |
//!
//! # Life of an object
//!
//! | step | our call | what happens |
//! |---|---|---|
//! | create | `create` | its bytes are written, its magic last |
//! | open | `open` | magic, version, kind and user are checked |
//! | both | [`Layout::open_or_create`], [`Ready::open_or_create`] | the first one creates, over zeros |
//! | use | [`Mutex::lock`], [`Event::wait`], … | an atomic operation, and `futex(2)` only to sleep and to wake sleepers |
//! | give up | drop it | nothing: it is a view |
//! | destroy | | with the segment |
//!
//! Each call that may wait has a form that does not (`try_`, or a deadline of
//! [`Deadline::now`]), and one with a [`Deadline`] (`_until`). Signals and
//! wake-ups for nothing do not end a wait. Nothing spins: what waits sleeps,
//! and whoever sleeps for a lock looks for it once a second, should its wake-up
//! have died with somebody.
//!
//! # What lies in memory
//!
//! Each object begins on a cache line, 64 bytes, and has it for itself. All
//! words are in the byte order of the machine.
//!
//! | offset | length | what |
//! |---|---|---|
//! | 0 | 4 | magic, `shmy`; 0 until the object is made |
//! | 4 | 1 | version of all this: 1 |
//! | 5 | 1 | kind: 1 mutex, 2 condvar, 3 event, 4 semaphore, 5 barrier, 6 sequence lock, 7 ready |
//! | 6 | 1 | C library, if a mutex is in it: 1 glibc, 2 musl; else 0 |
//! | 7 | 1 | pointer width in bytes, if a mutex is in it; else 0 |
//! | 8 | 4 | number: bytes protected, way of reset, participants, length of the value |
//! | 12 | 4 | PID namespace, if a mutex is in it; 0 unknown |
//! | 16 | 4 | state |
//! | 24 | | `pthread_mutex_t`, if there is one: 40 bytes with glibc on x86-64, 48 on arm64 |
//!
//! That is all of an [`Event`], a [`Semaphore`], a [`Condvar`] and a
//! [`Barrier`], which are the same for every C library and pointer width. What
//! has a mutex goes on at the next multiple of 64, which is 64 with glibc on
//! x86-64 and 128 on arm64: a [`Mutex`] with the bytes that it protects, a
//! [`SeqLock`] with 64 bytes for the number of the last write and then four
//! values, each at a multiple of 64. The bytes of a `pthread_mutex_t` belong to
//! the ABI of the C library, so that its releases agree on them.
//!
//! # Trust
//!
//! What has no mutex believes nothing that it reads: a peer that scribbles over
//! it can make waits end or not end, and no more. A mutex is different. The C
//! library and the kernel find the locks of a dead thread by a list that goes
//! through the mutexes themselves, and follow it. Who writes over one can make
//! its owner write anywhere, so [`Mutex`], [`SeqLock`], [`Ready`] and [`Layout`]
//! are created and opened by `unsafe` calls, whose contract is that nobody does.
//! A [`SeqLockReader`] needs no such trust.
//!
//! # Limits
//!
//! Linux 5.5 or later, or an older one with its repair of robust mutexes; glibc
//! 2.30 or later, or musl. The rounds of a [`Barrier`] are counted by 16 bits: a
//! participant that is stopped for 65,536 of them takes another for its own. In
//! memory of a driver, as that of a dma-buf, the kernel has no futexes: there
//! nothing can be created or opened ([`Error::Unsupported`]), but for a
//! [`SeqLockReader`], which never waits. A process in another time namespace has
//! another clock, and other deadlines. A lock does not tell a stopped process
//! from a slow one: give waits a deadline where that matters.
//!
//! # Example
//!
//! ```
//! use shm_posix::{Name, Segment};
//! use shm_sync::{Deadline, Layout, Reset};
//!
//! // The same lines in every program.
//! let mut layout = Layout::new(*b"counter1", 1);
//! let counter = layout.mutex(8);
//! let changed = layout.event(Reset::Auto);
//!
//! let name = Name::new(format!("/doc-sync-{}", std::process::id()))?;
//! let segment = Segment::create(&name, layout.size()?)?;
//! let mapping = segment.map()?;
//! // SAFETY: 1. all programs use this segment only by this layout. 2. It was
//! // zeros. 3. No guard is leaked.
//! let placed = unsafe { layout.create(mapping.bytes())? };
//!
//! // In another process that knows the name:
//! let theirs = Segment::open(&name)?.map()?;
//! let deadline = Deadline::after(std::time::Duration::from_secs(1));
//! // SAFETY: as above.
//! let placed = unsafe { layout.open(theirs.bytes(), deadline)? };
//! let counter = placed.at(counter)?;
//! let guard = counter.lock()?.or_repair(|_| Ok(()))?;
//! guard.update(0, |count: u64| count + 1)?;
//! placed.at(changed)?.set()?;
//! # guard.unlock()?;
//! # Ok::<(), shm_sync::Error>(())
//! ```
//!
//! # Not done here
//!
//! Messages: that is what `shm-channel` is for. Fairness, and priority
//! inheritance. Finding out which process died: nobody needs it to go on.

#[allow(
    clippy::unnecessary_safety_comment,
    reason = "takes the one in the example above for one of this module"
)]
mod barrier;
mod condvar;
mod deadline;
mod event;
mod futex;
mod header;
mod layout;
mod mutex;
mod raw;
mod ready;
mod robust;
mod semaphore;
mod seq_lock;
mod state;

pub use barrier::{Barrier, Turn};
pub use condvar::Condvar;
pub use deadline::Deadline;
pub use event::{Event, Reset};
pub use layout::{Layout, Object, Placed, Slot};
pub use mutex::{Locked, Mutex, MutexGuard, OrphanGuard};
pub use ready::{Made, Ready};
pub use semaphore::Semaphore;
pub use seq_lock::{Predecessor, SeqLock, SeqLockReader};

pub use shm_common::{
    self, AsSharedBytes, Error, ReadOnly, ReadWrite, Result, SharedBytes, Size,
    zerocopy,
};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
