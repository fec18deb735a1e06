//! Claiming the pages of a segment, so that no touch can fail later.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use shm_common::{
    Error, HugePages, Object, OsError, PageSize, ReadWrite, Reserve, Result,
    Size, check_memory,
};

use crate::{Mapping, SegmentOptions, raw};

/// Gives a new object its size and, if wanted, its pages.
pub(crate) fn set_size(
    fd: BorrowedFd<'_>,
    options: SegmentOptions,
    size: Size,
) -> Result<()> {
    check(options, size)?;
    match (options.reserve, options.huge_pages) {
        (Reserve::OnTouch, _) => {
            Ok(retry(|| raw::ftruncate(fd, offset(size.bytes())))?)
        }
        (Reserve::Now, HugePages::Transparent) => {
            retry(|| raw::ftruncate(fd, offset(size.bytes())))?;
            // Only a fault in an advised mapping makes huge pages. It is a
            // hint: what does not work out is reserved in base pages below.
            let page = PageSize::base();
            let advised =
                Mapping::<ReadWrite>::new(fd, size, page, options.huge_pages);
            let _ = advised.and_then(|mapping| mapping.populate());
            reserve(fd, 0, size)
        }
        (Reserve::Now, _) => reserve(fd, 0, size),
    }
}

/// Makes the object at least `to` bytes long, from `from` bytes now.
pub(crate) fn grow(
    fd: BorrowedFd<'_>,
    options: SegmentOptions,
    from: Size,
    to: Size,
) -> Result<()> {
    if let Ok(more) = Size::new(to.bytes() - from.bytes()) {
        check(options, more)?;
    }
    match options.reserve {
        Reserve::Now => reserve(fd, from.bytes(), to),
        Reserve::OnTouch => extend(fd, to).map_err(|os| sort(os, to)),
    }
}

/// Refuses what memory cannot hold, before the kernel kills for it. The pages of
/// a pool are set aside, and no part of that memory.
fn check(options: SegmentOptions, more: Size) -> Result<()> {
    match (options.reserve, options.huge_pages) {
        (Reserve::OnTouch, _) | (_, HugePages::Pool(_)) => Ok(()),
        (Reserve::Now, _) => check_memory(more),
    }
}

fn reserve(fd: BorrowedFd<'_>, from: usize, to: Size) -> Result<()> {
    let len = to.bytes() - from;
    if len == 0 {
        return Ok(());
    }
    let reserved = match raw::posix_fallocate(fd, offset(from), offset(len)) {
        Err(os) if os.errno() == libc::EINTR => reserve_in_steps(fd, from, to),
        result => result,
    };
    reserved.map_err(|os| sort(os, to))
}

/// Tells an empty pool from other failures. A memfd lies in a tmpfs of the
/// kernel's own, without a size limit: only a pool of huge pages is ever full,
/// and it does not say by how much.
fn sort(os: OsError, to: Size) -> Error {
    match os.errno() {
        libc::ENOSPC => Error::NoSpace {
            requested: to,
            available: None,
            os: os.hint("too few huge pages are free: see vm.nr_hugepages"),
        },
        _ => os.into(),
    }
}

/// For a process that gets signals faster than the kernel reserves: each step
/// stays done, and an interrupted one is repeated at half its length, so that
/// it ends. The size changes last, as it does in one step.
fn reserve_in_steps(
    fd: BorrowedFd<'_>,
    from: usize,
    to: Size,
) -> Result<(), OsError> {
    let page = PageSize::base().bytes();
    let (mut at, mut step) = (from, to.bytes() - from);
    while at < to.bytes() {
        let len = step.min(to.bytes() - at);
        let flags = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match fallocate(fd, flags, offset(at), offset(len)) {
            Ok(()) => at += len,
            Err(Errno::EINTR) => step = (step / 2).max(page),
            Err(errno) => {
                return Err(OsError::new("fallocate", errno as i32)
                    .on(Object::Descriptor(fd.as_raw_fd())));
            }
        }
    }
    extend(fd, to)
}

/// Makes the object at least `to` bytes long by reserving its last page; unlike
/// ftruncate this cannot shrink what somebody else has grown meanwhile.
fn extend(fd: BorrowedFd<'_>, to: Size) -> Result<(), OsError> {
    retry(|| raw::posix_fallocate(fd, offset(to.bytes() - 1), 1))
}

/// Repeats a call that a signal interrupted.
fn retry<T>(
    mut call: impl FnMut() -> Result<T, OsError>,
) -> Result<T, OsError> {
    loop {
        match call() {
            Err(os) if os.errno() == libc::EINTR => {}
            result => return result,
        }
    }
}

/// As the system calls take it: at most `isize::MAX`, like every offset in a
/// segment, so the cast is exact.
fn offset(bytes: usize) -> libc::off_t {
    bytes.cast_signed() as libc::off_t
}
