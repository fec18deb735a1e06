//! The raw layer: the mechanism's own calls, under their C names.
//!
//! Each function makes one call and turns its errno into an [`OsError`] that
//! names what it was applied to. There is no policy here: no retry, no default.
#![expect(unsafe_code, reason = "calls C functions")]

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr::{self, NonNull};

use libc::{c_int, c_void, mode_t, off_t};
use shm_common::{Object, OsError};

fn name_of(name: &CStr) -> Object {
    Object::Name(OsStr::from_bytes(name.to_bytes()).to_owned())
}

fn descriptor_of(fd: BorrowedFd<'_>) -> Object {
    Object::Descriptor(fd.as_raw_fd())
}

/// Opens, and with `O_CREAT` creates, the object `name`. The C library adds
/// `O_CLOEXEC`.
///
/// # Errors
///
/// The errno of the call; a name that the C library refuses is `EINVAL`.
///
/// # Sources
///
/// `shm_open(3)`; in Linux's C libraries an open(2) in `/dev/shm`.
pub fn shm_open(
    name: &CStr,
    oflag: c_int,
    mode: mode_t,
) -> Result<OwnedFd, OsError> {
    // SAFETY: `name` is a C string that lives through the call.
    let fd = unsafe { libc::shm_open(name.as_ptr(), oflag, mode) };
    if fd == -1 {
        return Err(OsError::last("shm_open").on(name_of(name)));
    }
    // SAFETY: the call succeeded, so `fd` is open and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Removes the name; the object lives on while it is open or mapped.
///
/// # Errors
///
/// The errno of the call: `ENOENT`, `EACCES`.
///
/// # Sources
///
/// `shm_unlink(3)`.
pub fn shm_unlink(name: &CStr) -> Result<(), OsError> {
    // SAFETY: `name` is a C string that lives through the call.
    match unsafe { libc::shm_unlink(name.as_ptr()) } {
        -1 => Err(OsError::last("shm_unlink").on(name_of(name))),
        _ => Ok(()),
    }
}

/// Sets the length of the object to `length` bytes, without reserving any.
///
/// # Errors
///
/// The errno of the call. A full file system is *not* among them: see
/// [`posix_fallocate`].
///
/// # Crashes
///
/// Beyond `RLIMIT_FSIZE` the process gets `SIGXFSZ`.
///
/// # Sources
///
/// ftruncate(2).
pub fn ftruncate(fd: BorrowedFd<'_>, length: off_t) -> Result<(), OsError> {
    // SAFETY: a call without pointers, on a borrowed descriptor.
    match unsafe { libc::ftruncate(fd.as_raw_fd(), length) } {
        -1 => Err(OsError::last("ftruncate").on(descriptor_of(fd))),
        _ => Ok(()),
    }
}

/// Reserves the pages of `offset..offset + len`, growing the object to the end
/// of that range if it is shorter.
///
/// # Errors
///
/// The errno that the call returns: `ENOSPC`, `EINTR` (nothing of this call
/// was done), `EFBIG`.
///
/// # Crashes
///
/// Beyond `RLIMIT_FSIZE` the process gets `SIGXFSZ`.
///
/// # Sources
///
/// `posix_fallocate(3)`; in tmpfs since Linux 3.5.
pub fn posix_fallocate(
    fd: BorrowedFd<'_>,
    offset: off_t,
    len: off_t,
) -> Result<(), OsError> {
    // SAFETY: a call without pointers, on a borrowed descriptor.
    match unsafe { libc::posix_fallocate(fd.as_raw_fd(), offset, len) } {
        0 => Ok(()),
        errno => {
            Err(OsError::new("posix_fallocate", errno).on(descriptor_of(fd)))
        }
    }
}

/// Takes, changes or gives back the lock of an open file. It belongs to the
/// open file, not to the process: copies of the descriptor and mappings made
/// from it share it, also across fork, and it goes when the last of them goes.
///
/// # Errors
///
/// The errno of the call: with `LOCK_NB`, `EWOULDBLOCK` when another open file
/// holds it.
///
/// # Sources
///
/// flock(2).
pub fn flock(fd: BorrowedFd<'_>, operation: c_int) -> Result<(), OsError> {
    // SAFETY: a call without pointers, on a borrowed descriptor.
    match unsafe { libc::flock(fd.as_raw_fd(), operation) } {
        -1 => Err(OsError::last("flock").on(descriptor_of(fd))),
        _ => Ok(()),
    }
}

/// Maps `length` bytes of an object at an address that the kernel chooses.
///
/// # Errors
///
/// The errno of the call: `EACCES`, `EINVAL`, `ENOMEM`.
///
/// # Safety
///
/// 1. `flags` holds neither `MAP_FIXED` nor another flag that replaces or
///    grows an existing mapping.
///
/// # Sources
///
/// mmap(2).
pub unsafe fn mmap(
    length: usize,
    prot: c_int,
    flags: c_int,
    fd: impl AsFd,
    offset: off_t,
) -> Result<NonNull<c_void>, OsError> {
    let fd = fd.as_fd();
    // SAFETY: the kernel picks unused addresses, since there is no hint and,
    // as the caller promises, no MAP_FIXED; so no existing memory is touched.
    let start = unsafe {
        libc::mmap(ptr::null_mut(), length, prot, flags, fd.as_raw_fd(), offset)
    };
    if start == libc::MAP_FAILED {
        return Err(OsError::last("mmap").on(descriptor_of(fd)));
    }
    // Without MAP_FIXED the kernel never picks page 0.
    NonNull::new(start)
        .ok_or_else(|| OsError::new("mmap", libc::EINVAL).on(descriptor_of(fd)))
}

/// Unmaps a range.
///
/// # Errors
///
/// The errno of the call: `EINVAL`; `ENOMEM` when it would split a mapping and
/// there are too many.
///
/// # Safety
///
/// 1. `start..start + length` is all of one or more mappings, and nobody uses
///    those addresses any more.
///
/// # Sources
///
/// munmap(2).
pub unsafe fn munmap(
    start: NonNull<c_void>,
    length: usize,
) -> Result<(), OsError> {
    // SAFETY: the caller promises that nobody uses the range any more.
    match unsafe { libc::munmap(start.as_ptr(), length) } {
        -1 => Err(OsError::last("munmap").on(Object::Memory(length))),
        _ => Ok(()),
    }
}

/// Advises the kernel about a mapped range.
///
/// # Errors
///
/// The errno of the call: `EINVAL` when the kernel does not know the advice;
/// `EFAULT` when `MADV_POPULATE_WRITE` would have been a `SIGBUS`.
///
/// # Safety
///
/// 1. `start..start + length` is mapped, and `start` is a page's first byte.
/// 2. `advice` changes no byte that anyone relies on (not `MADV_DONTNEED`, say,
///    on private memory).
///
/// # Sources
///
/// madvise(2).
pub unsafe fn madvise(
    start: NonNull<c_void>,
    length: usize,
    advice: c_int,
) -> Result<(), OsError> {
    // SAFETY: the caller promises a mapped range and harmless advice.
    match unsafe { libc::madvise(start.as_ptr(), length, advice) } {
        -1 => Err(OsError::last("madvise").on(Object::Memory(length))),
        _ => Ok(()),
    }
}
