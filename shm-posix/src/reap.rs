//! After a crash: removes the segments that nobody uses any more.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fstat};
use shm_common::{Error, Object, OsError, Result};

use crate::identity::{self, DIRECTORY};
use crate::segment::{leads_to, os_error};
use crate::{Name, raw};

/// What [`reap`] did with each segment that it looked at.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Reaped {
    /// Nobody had it open or mapped; its name is removed.
    pub removed: Vec<Name>,
    /// Somebody uses it; left alone.
    pub in_use: Vec<Name>,
    /// It could not be looked at or removed, and why; left alone.
    pub failed: Vec<(Name, Error)>,
}

/// Removes every segment whose name begins with `prefix` and that no process
/// has open or mapped, and says what it did with each.
///
/// Whether a segment is in use is asked of the kernel, not guessed from process
/// numbers: each handle and mapping of this crate holds a shared lock on the
/// file, which ends with the process, and only a segment whose exclusive lock
/// can be had is removed. So it is right across containers that share
/// `/dev/shm`. A segment that was [kept](crate::Segment::keep) and is not in
/// use is removed too. An open that meets a reaper waits for its decision.
///
/// **The prefix must belong to programs that use this crate**: objects that
/// another program made without taking the lock look unused, even while it has
/// them mapped.
///
/// # Errors
///
/// - [`Error::InvalidName`]: no name begins with `prefix`, or all do: it is
///   empty.
/// - Another [`Error`]: `/dev/shm` cannot be listed. What goes wrong with one
///   segment is in [`Reaped::failed`] and does not keep the others.
///
/// # Examples
///
/// ```
/// use shm_posix::{Name, Segment, Size, reap};
///
/// let prefix = format!("doc-reap-{}-", std::process::id());
/// let mut leaked =
///     Segment::create(&Name::new(format!("{prefix}1"))?, Size::KIB)?;
/// leaked.keep();
/// assert_eq!(reap(&prefix)?.in_use, [leaked.name().clone()]);
///
/// let name = leaked.name().clone();
/// drop(leaked); // as a crash would, it leaves the name
/// assert_eq!(reap(&prefix)?.removed, [name]);
/// # Ok::<(), shm_posix::Error>(())
/// ```
///
/// # Sources
///
/// flock(2).
pub fn reap(prefix: &str) -> Result<Reaped> {
    let prefix = prefix.strip_prefix('/').unwrap_or(prefix);
    // Like a name, except that names may begin with a dot or two.
    if !matches!(prefix, "." | "..") {
        identity::check(prefix.as_bytes()).map_err(|fault| {
            Error::InvalidName { name: prefix.into(), fault }
        })?;
    }
    let failed = |error: std::io::Error| {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        OsError::new("readdir", errno).on(Object::Path(DIRECTORY.into()))
    };
    let mut reaped = Reaped::default();
    for entry in fs::read_dir(DIRECTORY).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let file_name = entry.file_name();
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if !is_file || !file_name.as_bytes().starts_with(prefix.as_bytes()) {
            continue;
        }
        let name = Name::new(file_name)?;
        match reap_one(&name) {
            Ok(Verdict::Removed) => reaped.removed.push(name),
            Ok(Verdict::InUse) => reaped.in_use.push(name),
            Ok(Verdict::Gone) => {}
            Err(error) => reaped.failed.push((name, error)),
        }
    }
    Ok(reaped)
}

enum Verdict {
    Removed,
    InUse,
    /// Somebody else removed it first.
    Gone,
}

fn reap_one(name: &Name) -> Result<Verdict> {
    // Reading is enough for any lock. O_NOFOLLOW and O_NONBLOCK: the entry may
    // have become a symbolic link or a FIFO since it was listed.
    let flags = OFlag::O_RDONLY
        | OFlag::O_CLOEXEC
        | OFlag::O_NOFOLLOW
        | OFlag::O_NONBLOCK;
    let fd = match nix::fcntl::open(name.path(), flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::ENOENT) => return Ok(Verdict::Gone),
        // Somebody has a lease on it, and so has it open.
        Err(Errno::EWOULDBLOCK) => return Ok(Verdict::InUse),
        Err(errno) => return Err(os_error("open", errno, name.object()).into()),
    };
    match raw::flock(fd.as_fd(), libc::LOCK_EX | libc::LOCK_NB) {
        Err(os) if os.errno() == libc::EWOULDBLOCK => {
            return Ok(Verdict::InUse);
        }
        locked => locked?,
    }
    // From here until `fd` is closed, an open of this segment waits. The name
    // may meanwhile lead to another one.
    let stat =
        fstat(&fd).map_err(|errno| os_error("fstat", errno, name.object()))?;
    if !leads_to(name, &stat)? {
        return Ok(Verdict::Gone);
    }
    match name.unlink() {
        Ok(()) => Ok(Verdict::Removed),
        Err(Error::NotFound(_)) => Ok(Verdict::Gone),
        Err(error) => Err(error),
    }
}
