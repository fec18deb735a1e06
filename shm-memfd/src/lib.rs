//! Anonymous shared memory: a segment is a memfd, found by being handed its
//! descriptor.
//!
//! # What it is
//!
//! `memfd_create` makes a file in memory that has no name; `mmap` makes its
//! pages part of the process. To share it, the descriptor is passed over a Unix
//! socket or inherited by fork. The kernel frees it with its last user, and
//! *seals* let one side promise the other what can no longer happen to it.
//!
//! # Life of a segment
//!
//! | step | our call | system call | what exists now |
//! |---|---|---|---|
//! | create | [`Segment::create`] | `memfd_create`, `posix_fallocate`, `fcntl(F_ADD_SEALS)` | a nameless file |
//! | hand over | [`transfer::send`] | `sendmsg` | a descriptor under way |
//! | receive | [`transfer::receive`] | `recvmsg` | a descriptor of the peer's own |
//! | open | [`Segment::open`] | `fcntl(F_GET_SEALS)`, `fstat` | a checked handle |
//! | map | [`Segment::map`] | `mmap` | its pages at an address |
//! | freeze | [`Segment::freeze`] | `fcntl(F_ADD_SEALS)` | bytes that can never change |
//! | unmap | drop [`Mapping`] | `munmap` | |
//! | remove, free | the last handle and mapping go | `close`, `munmap` | nothing |
//! | after a crash | nothing | nothing | nothing |
//!
//! # Differs from its siblings
//!
//! - Found by *nothing*: only who is given the descriptor has it. POSIX has
//!   names, System V numbers.
//! - Leaves nothing behind, however its users end; the siblings need
//!   cleaning after a crash.
//! - Cannot be shrunk under a reader, and can be frozen: a [`FrozenMapping`]
//!   is a plain `&[u8]`, which no other mechanism can give soundly.
//! - Not limited by the size of `/dev/shm`.
//!
//! # Limits
//!
//! Labels of 249 bytes; 253 descriptors in a message; `ulimit -n` descriptors
//! in a process. Linux 3.17 or later; [`Seals::FUTURE_WRITE`] since 5.1.
//!
//! # Example
//!
//! ```
//! use shm_memfd::{Label, Segment, Size};
//!
//! let segment = Segment::create(&Label::new("frames")?, Size::MIB)?;
//! let mapping = segment.map()?;
//! mapping.bytes().write_at(0, b"hello")?;
//!
//! // The descriptor goes to another process: see `transfer`. There:
//! let fd = std::os::fd::OwnedFd::from(segment);
//! let theirs = Segment::open_read_only(fd)?.map()?;
//! assert_eq!(theirs.bytes().get(0), Ok(*b"hello"));
//! # Ok::<(), shm_memfd::Error>(())
//! ```
//!
//! # Not done here
//!
//! Synchronisation between the processes: see `shm-common`'s atomics. Making
//! the connection over which a descriptor is passed: any Unix socket will do.

mod identity;
mod mapping;
mod options;
pub mod raw;
mod reserve;
mod seals;
mod segment;
mod stat;
pub mod transfer;

pub use identity::Label;
pub use mapping::Mapping;
pub use options::SegmentOptions;
pub use seals::{FreezeError, Frozen, FrozenMapping, Seals};
pub use segment::Segment;
pub use stat::Stat;

pub use shm_common::{
    self, AsSharedBytes, Error, HugePages, PageSize, ReadOnly, ReadWrite,
    Reserve, Result, SharedBytes, Size,
};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
