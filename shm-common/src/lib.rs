//! What has one meaning for every shared-memory mechanism: the error type,
//! sizes, and the one view over bytes that another process may write.
//!
//! # What it is
//!
//! The mechanism crates `shm-sysv`, `shm-posix` and `shm-memfd` differ in what
//! the kernel does; this crate holds what does not differ. It makes no system
//! call, except to ask about this machine and this process, and everything in
//! it works over plain heap memory too, which is how it is tested.
//!
//! | to say | use |
//! |---|---|
//! | what went wrong, with which call, on what | [`Error`], [`OsError`], [`Object`] |
//! | how many bytes | [`Size`], [`PageSize`] |
//! | how to create a segment | [`Reserve`], [`HugePages`], [`Origin`] |
//! | read and write what others write too | [`SharedBytes`], [`ReadOnly`], [`ReadWrite`] |
//! | "I own a live mapping" | [`AsSharedBytes`] |
//! | who made it; whether there is memory for it | [`Creator`], [`check_memory`] |
//!
//! # Limits
//!
//! Linux. Atomic words of a width the processor lacks are missing here too.
//!
//! # Example
//!
//! ```
//! use shm_common::SharedBytes;
//!
//! // Heap memory stands in for a mapping here.
//! let mut memory = vec![0; 4096];
//! let bytes = SharedBytes::from_mut(&mut memory);
//!
//! bytes.write_at(8, b"hello")?;
//! bytes.set(16, 42_u64)?;
//! assert_eq!(bytes.get::<u64>(16)?, 42);
//! assert_eq!(bytes.subslice(8, 5)?.to_vec(), b"hello");
//! assert!(bytes.write_at(usize::MAX, b"!").is_err());
//! # Ok::<(), shm_common::Error>(())
//! ```
//!
//! # Not done here
//!
//! Synchronisation: a view moves bytes, it does not order them. Use its atomic
//! words, or a crate that builds on them.

mod access;
mod atomics;
mod bytes;
mod copy;
mod creation;
mod creator;
mod error;
mod memory;
mod os_error;
mod page_size;
mod size;

pub use access::{Access, ReadOnly, ReadWrite};
pub use bytes::{AsSharedBytes, SharedBytes};
pub use creation::{HugePages, Origin, Reserve};
pub use creator::Creator;
pub use error::{Error, NameFault, Result, SizeFault};
pub use memory::check_memory;
pub use os_error::{Object, OsError};
pub use page_size::PageSize;
pub use size::Size;

pub use zerocopy;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
