//! POSIX shared memory: a segment is a file in a tmpfs, found by name.
//!
//! # What it is
//!
//! `shm_open` opens a file in `/dev/shm`, and `mmap` makes its pages part of
//! the process. Whoever knows the name and has the permission shares it; the
//! name lasts until it is unlinked or the machine goes down, whatever happens
//! to the processes.
//!
//! # Life of a segment
//!
//! | step | our call | system call | what exists now |
//! |---|---|---|---|
//! | create | [`Segment::create`] | `open(O_TMPFILE)`, `flock`, `posix_fallocate`, `fchmod`, `linkat` | a file, whole from the moment that it has a name |
//! | open | [`Segment::open`] | `shm_open`, `flock`, `fstat` | one more handle |
//! | map | [`Segment::map`] | `mmap` | its pages at an address |
//! | unmap | drop [`Mapping`] | `munmap` | |
//! | remove | drop the creating [`Segment`], or [`Segment::unlink`] | `shm_unlink` | no name; handles and mappings go on |
//! | free | the last handle and mapping go | `close`, `munmap` | nothing |
//! | after a crash | [`reap`] | `flock`, `shm_unlink` | nothing that is not in use |
//!
//! # Differs from its siblings
//!
//! - Found by a *name* with permissions: System V has a number, memfd has
//!   nothing and is handed over.
//! - The name outlives a crash. Every handle and mapping here holds a shared
//!   lock on the file, so [`reap`] can tell what is in use, across containers
//!   too; System V counts attachments, a memfd needs nothing of the kind.
//! - Limited by the size of the `/dev/shm` mount: 64 MiB in many containers.
//! - Anybody who may write it may also shrink it under you (see `# Crashes` of
//!   [`Mapping`]); System V segments and sealed memfds cannot shrink.
//!
//! # Limits
//!
//! Names of 255 bytes; sizes up to what `/dev/shm` has room for; pages of the
//! base size, or transparent huge ones. Linux 3.11 or later; without `/proc`,
//! creation takes a slower path.
//!
//! # Example
//!
//! ```
//! use shm_posix::{Name, Segment, Size};
//!
//! let name = Name::new(format!("/doc-posix-{}", std::process::id()))?;
//! let segment = Segment::create(&name, Size::MIB)?;
//! let mapping = segment.map()?;
//! mapping.bytes().write_at(0, b"hello")?;
//!
//! // In another process that knows the name:
//! let theirs = Segment::open_read_only(&name)?.map()?;
//! assert_eq!(theirs.bytes().get(0), Ok(*b"hello"));
//!
//! drop(segment); // the name is gone, the mappings are not
//! assert!(Segment::open(&name).is_err());
//! assert_eq!(theirs.bytes().get(0), Ok(*b"hello"));
//! # Ok::<(), shm_posix::Error>(())
//! ```
//!
//! # Not done here
//!
//! Synchronisation between the processes: see `shm-common`'s atomics. Sealing,
//! and handing a segment to one process only: that is what `shm-memfd` is for.

mod identity;
mod mapping;
mod options;
pub mod raw;
mod reap;
mod reserve;
mod segment;
mod stat;

pub use identity::Name;
pub use mapping::Mapping;
pub use options::SegmentOptions;
pub use reap::{Reaped, reap};
pub use segment::Segment;
pub use stat::Stat;

pub use shm_common::{
    self, AsSharedBytes, Error, HugePages, Origin, PageSize, ReadOnly,
    ReadWrite, Reserve, Result, SharedBytes, Size,
};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
