//! Claiming the pages of a segment, so that no touch can fail later.

use std::sync::atomic::Ordering;

use shm_common::{
    Error, HugePages, PageSize, ReadWrite, Reserve, Result, Size, check_memory,
};

use crate::{Mapping, SegmentOptions};

/// Refuses what memory cannot hold, before the kernel kills for it. The pages of
/// a pool are set aside, and no part of that memory.
pub(crate) fn check(options: SegmentOptions, size: Size) -> Result<()> {
    match (options.reserve, options.huge_pages) {
        (Reserve::OnTouch, _) | (_, HugePages::Pool(_)) => Ok(()),
        (Reserve::Now, _) => check_memory(size),
    }
}

/// Gives a new segment its pages, if wanted. System V has no call for that: the
/// pages are touched through the attachment, by the kernel where it can.
pub(crate) fn populate(
    mapping: &Mapping<ReadWrite>,
    options: SegmentOptions,
    size: Size,
) -> Result<()> {
    if options.reserve == Reserve::OnTouch {
        return Ok(());
    }
    loop {
        return match mapping.populate() {
            Err(Error::Os(os)) if os.errno() == libc::EINTR => continue,
            // Older than Linux 5.14.
            Err(Error::Os(os)) if os.errno() == libc::EINVAL => touch(mapping),
            Err(Error::Os(os))
                if os.errno() == libc::EFAULT
                    && matches!(options.huge_pages, HugePages::Pool(_)) =>
            {
                Err(Error::NoSpace {
                    requested: size,
                    available: None,
                    os: os.hint("too few huge pages are free"),
                })
            }
            result => result,
        };
    }
}

/// Writes each page without changing it, as others may already have attached.
fn touch(mapping: &Mapping<ReadWrite>) -> Result<()> {
    for offset in (0..mapping.len()).step_by(PageSize::base().bytes()) {
        mapping.bytes().atomic_u8(offset)?.fetch_or(0, Ordering::Relaxed);
    }
    Ok(())
}
