//! System V shared memory: a segment is an entry in a table of the kernel,
//! found by number.
//!
//! # What it is
//!
//! `shmget` makes a segment or finds the one with a given key, and `shmat`
//! makes its pages part of the process. Whoever knows the key or the identifier
//! and has the permission shares it; the segment lasts until it is removed or
//! the machine goes down, whatever happens to the processes.
//!
//! # Life of a segment
//!
//! | step | our call | system call | what exists now |
//! |---|---|---|---|
//! | create | [`Segment::create`] | `shmget`, `shmat`, `madvise` | a segment, attached by its handle |
//! | open | [`Segment::open`] | `shmget`, `shmat`, `shmctl(IPC_STAT)` | one more attachment |
//! | map | [`Segment::map`] | | the attachment in use |
//! | unmap | drop [`Mapping`] and [`Segment`] | `shmdt` | one attachment less |
//! | remove | drop the creating [`Segment`], or [`Segment::remove`] | `shmctl(IPC_RMID)` | no key; attachments go on |
//! | free | the last attachment goes | `shmdt` | nothing |
//! | after a crash | [`list`], [`Id::remove`] | `shmctl(SHM_STAT_ANY)`, `shmctl(IPC_RMID)` | nothing that is not in use |
//!
//! # Differs from its siblings
//!
//! - Found by a *number*, with permissions of its own: POSIX has names in a
//!   file system, memfd has nothing and is handed over.
//! - No descriptor: a handle is an attachment. It cannot be passed over a
//!   socket, and needs none of `ulimit -n`.
//! - Outlives a crash, unless [`SegmentOptions::remove_on_last_detach`] is
//!   chosen: then the kernel frees it like a memfd.
//! - Its size never changes: nobody can shrink it under a reader, and nobody
//!   can grow it.
//! - Not limited by the size of `/dev/shm`.
//!
//! # Limits
//!
//! `kernel.shmmni` segments (4096 by default), `kernel.shmmax` bytes in one,
//! `kernel.shmall` pages in all; one table for each IPC namespace.
//!
//! # Example
//!
//! ```
//! use shm_sysv::{Key, Segment, Size};
//!
//! let segment = Segment::create(Key::PRIVATE, Size::MIB)?;
//! let mapping = segment.map()?;
//! mapping.bytes().write_at(0, b"hello")?;
//!
//! // In another process that was told the id:
//! let theirs = Segment::open_id_read_only(segment.id())?.map()?;
//! assert_eq!(theirs.bytes().get(0), Ok(*b"hello"));
//! # Ok::<(), shm_sysv::Error>(())
//! ```
//!
//! # Not done here
//!
//! Synchronisation between the processes: see `shm-common`'s atomics. System V
//! semaphores and message queues, which share no more than the keys.

mod identity;
mod list;
mod mapping;
mod options;
pub mod raw;
mod reserve;
mod segment;
mod stat;

pub use identity::{Id, Key};
pub use list::list;
pub use mapping::Mapping;
pub use options::SegmentOptions;
pub use segment::Segment;
pub use stat::Stat;

pub use shm_common::{
    self, AsSharedBytes, Error, HugePages, Origin, PageSize, ReadOnly,
    ReadWrite, Reserve, Result, SharedBytes, Size,
};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
