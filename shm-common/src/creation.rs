//! Choices at creation that mean the same for every mechanism.

use crate::PageSize;

/// When the memory behind a segment is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Reserve {
    /// Before `create` returns: what cannot be had is an error there, and a
    /// later touch cannot fail for want of memory.
    #[default]
    Now,
    /// Page by page, at the first touch. Creation is quicker and untouched
    /// pages cost nothing; but a touch that finds no memory left kills the
    /// process that touches (`SIGBUS` on a full tmpfs or an empty huge-page
    /// pool, otherwise the out-of-memory killer), whichever process it is.
    OnTouch,
}

/// Which pages a segment is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HugePages {
    /// The base page size, unless the system's own settings say otherwise.
    #[default]
    No,
    /// Asks for transparent huge pages (`MADV_HUGEPAGE`): a hint, that the
    /// kernel follows when `/sys/kernel/mm/transparent_hugepage/shmem_enabled`
    /// lets it and memory is not fragmented.
    Transparent,
    /// Pages of exactly this size from the system's reserved pool
    /// (`/sys/kernel/mm/hugepages`). Creation or mapping fails when the pool
    /// has too few.
    Pool(PageSize),
}

/// How `open_or_create` came by the segment that it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// This call created it: its contents are zero, and dropping the returned
    /// value removes it. Of any number of racing callers exactly one gets this.
    Created,
    /// It was there already; dropping the returned value removes nothing.
    Opened,
}
