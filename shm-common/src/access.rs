//! Who may write: the type parameter of views, mappings and segments.

use std::fmt::Debug;

/// May read and may not write; a write through it does not compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReadOnly {}

/// May read and write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReadWrite {}

/// [`ReadOnly`] or [`ReadWrite`], and nothing else: the trait is sealed.
pub trait Access: sealed::Sealed + Debug + Send + Sync + 'static {
    /// Whether writing is allowed.
    const WRITABLE: bool;
}

impl Access for ReadOnly {
    const WRITABLE: bool = false;
}

impl Access for ReadWrite {
    const WRITABLE: bool = true;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::ReadOnly {}
    impl Sealed for super::ReadWrite {}
}
