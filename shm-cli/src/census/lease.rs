//! Asks the kernel whether anybody else has a file open or mapped, in whatever
//! process or container, and keeps newcomers waiting until the answer is used.
//!
//! A write lease is granted only on a file that nobody else has open, and what
//! is mapped is open. While it is held, whoever opens the file waits, and this
//! process is told by `SIGIO`, which it must not die of.
#![expect(unsafe_code, reason = "nix has no leases")]

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;

use crate::Failure;

/// From now on `SIGIO` does not end this process.
pub(super) fn survive_the_news() -> Result<(), Failure> {
    let nobody = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(Signal::SIGIO as i32, nobody)?;
    Ok(())
}

/// Takes the lease on a file; it ends when the descriptor is closed.
///
/// # Errors
///
/// - `EAGAIN`: somebody else has the file open or mapped.
/// - `EACCES`: only the file's owner and who has `CAP_LEASE` may ask.
/// - `EINVAL`: this file system, or this kernel, has no leases.
///
/// # Sources
///
/// `F_SETLEASE(2const)`.
pub(super) fn take(file: impl AsFd) -> Result<(), Errno> {
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: this command of fcntl takes a number, and `fd` is open while
    // `file` is borrowed.
    let result = unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_WRLCK) };
    Errno::result(result).map(drop)
}

/// Whether the lease is held and nobody waits for its end.
pub(super) fn is_undisturbed(file: impl AsFd) -> bool {
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: as in `take`; this command takes nothing.
    let result = unsafe { libc::fcntl(fd, libc::F_GETLEASE) };
    result == libc::F_WRLCK
}
