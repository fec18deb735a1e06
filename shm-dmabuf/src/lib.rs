//! Memory shared with devices: a segment is a dma-buf, found by being handed its
//! descriptor.
//!
//! # What it is
//!
//! A dma-buf is memory that devices and processes use without copies: a frame
//! that a camera fills, a graphics card shows and a process looks at. A driver
//! makes it, and a descriptor stands for it. Two drivers make them out of
//! ordinary memory, for any process: *udmabuf* out of the pages of a memfd, and
//! a *heap* out of its own.
//!
//! # Life of a segment
//!
//! | step | our call | system call | what exists now |
//! |---|---|---|---|
//! | create | [`Segment::create`], [`Heap::allocate`] | `ioctl(DMA_HEAP_IOCTL_ALLOC)` | a buffer without a name |
//! | or make of a memfd | [`Segment::from_memfd`], [`Segment::from_memfds`] | `ioctl(UDMABUF_CREATE)` | the same pages, as a buffer |
//! | hand over | by any Unix socket | `sendmsg`, `recvmsg` | a descriptor of the peer's own |
//! | open | [`Segment::open`] | `fstatfs`, `lseek` | a checked handle |
//! | map | [`Segment::map`] | `mmap` | its pages at an address |
//! | take turns with devices | [`Segment::cpu_access`] | `ioctl(DMA_BUF_IOCTL_SYNC)` | |
//! | unmap | drop [`Mapping`] | `munmap` | |
//! | remove, free | the last handle and mapping go | `close`, `munmap` | nothing |
//! | after a crash | nothing | nothing | nothing |
//!
//! # Differs from its siblings
//!
//! - Made by *drivers*: the calls are their ioctls on nodes in `/dev`, which
//!   are root's by default and missing on many machines. Then every call that
//!   creates is [`Error::Unsupported`], and says what is missing.
//! - Devices use it too, and do so past the processor's caches: so accesses are
//!   bracketed by [`Segment::cpu_access`]. It is no lock.
//! - Found by *nothing*, and leaves nothing behind, as a memfd.
//! - Made once: it neither grows nor shrinks, and its pages cannot be swapped
//!   out.
//! - *No futexes*: what sleeps in it, as `shm-sync` does, belongs elsewhere.
//! - Cannot be sealed, and a memfd cannot be sealed against writing while it is
//!   also a buffer: so nobody can freeze what a device may write.
//!
//! # Limits
//!
//! Labels of 31 bytes. udmabuf: `size_limit_mb` (64 MiB by default) in one
//! buffer, of `list_limit` ranges (1024). A heap: memory; a length near all of
//! it would make the kernel panic, and is refused. `ulimit -n` descriptors in a
//! process. Linux 5.6 or later; udmabuf alone since 5.3, when dma-bufs got the
//! file system by which they are known.
//!
//! # Example
//!
//! ```
//! use shm_dmabuf::{CpuAccess, Error, Heap, Segment, Size};
//!
//! # fn main() -> Result<(), Error> {
//! # match share() {
//! #     // Without the driver, or for those who may not use it:
//! #     Err(Error::Unsupported { .. } | Error::PermissionDenied(_)) => Ok(()),
//! #     result => result,
//! # }
//! # }
//! # fn share() -> Result<(), Error> {
//! let segment = Segment::create(&Heap::open("system")?, Size::MIB)?;
//! let mapping = segment.map()?;
//! let access = segment.cpu_access(CpuAccess::Write)?;
//! mapping.bytes().write_at(0, b"hello")?;
//! access.end()?;
//!
//! // The descriptor goes to another process, as any does. There:
//! let fd = std::os::fd::OwnedFd::from(segment);
//! let theirs = Segment::open_read_only(fd)?;
//! let access = theirs.cpu_access(CpuAccess::Read)?;
//! assert_eq!(theirs.map()?.bytes().get(0), Ok(*b"hello"));
//! access.end()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Not done here
//!
//! Synchronisation between the processes: see `shm-sync`. Passing descriptors:
//! see `shm-memfd`'s `transfer`, which passes any. Handing buffers to devices:
//! that is each device's own interface.

mod cpu_access;
mod identity;
mod mapping;
mod options;
pub mod raw;
mod reserve;
mod segment;
mod stat;

pub use cpu_access::{CpuAccess, CpuAccessGuard};
pub use identity::{Heap, Label};
pub use mapping::Mapping;
pub use options::SegmentOptions;
pub use segment::Segment;
pub use stat::Stat;

pub use shm_common::{
    self, AsSharedBytes, Error, PageSize, ReadOnly, ReadWrite, Result,
    SharedBytes, Size,
};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
