//! A snapshot of what the kernel knows about a segment.

use std::fs;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::{Id, Key, raw};

/// A snapshot of a segment, true at the moment of the call.
///
/// # Sources
///
/// shmctl(2) `IPC_STAT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stat {
    /// The length in bytes.
    pub len: u64,
    /// The permission bits, `0..=0o777`.
    pub mode: u32,
    /// The owner's user id.
    pub uid: u32,
    /// The owner's group id.
    pub gid: u32,
    /// The creator's user id.
    pub creator_uid: u32,
    /// The creator's group id.
    pub creator_gid: u32,
    /// The key; [`Key::PRIVATE`] if it has none, or none any more.
    pub key: Key,
    /// The identifier.
    pub id: Id,
    /// How often it is attached, in all processes.
    pub attachments: u64,
    /// The process that created it; 0 if that lives outside this process's pid
    /// namespace. It may be gone, and its number used again.
    pub creator_pid: i32,
    /// The process that last attached or detached it; 0 if none did, or as for
    /// the creator.
    pub last_pid: i32,
    /// Whether it is removed, and goes with its last attachment.
    pub removed: bool,
    /// Whether it is locked in memory.
    pub locked: bool,
    /// When it was last attached, if ever; in whole seconds, like all times of
    /// System V.
    pub attached: Option<SystemTime>,
    /// When it was last detached, if ever.
    pub detached: Option<SystemTime>,
    /// When it was created, or its owner or mode last changed.
    pub changed: SystemTime,
}

impl Stat {
    /// Whether nobody has it attached and its creator is gone: what is left
    /// after a crash looks like this, and so does what was kept on purpose.
    ///
    /// The handles of this crate count as attachments, so a segment of theirs
    /// never looks like this while one lives. Other programs may create a
    /// segment and attach it later; while they run, their creator is there.
    /// Where the creator's process cannot be told, the answer is no.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.attachments == 0
            && self.creator_pid > 0
            && !is_alive(self.creator_pid)
    }

    #[expect(
        clippy::unnecessary_cast,
        clippy::cast_lossless,
        reason = "the fields' types differ between architectures"
    )]
    pub(crate) fn new(id: Id, stat: &libc::shmid_ds) -> Self {
        let mode = stat.shm_perm.mode as u32;
        Self {
            len: stat.shm_segsz as u64,
            mode: mode & 0o777,
            uid: stat.shm_perm.uid,
            gid: stat.shm_perm.gid,
            creator_uid: stat.shm_perm.cuid,
            creator_gid: stat.shm_perm.cgid,
            key: Key::new(key_of(&stat.shm_perm)),
            id,
            attachments: stat.shm_nattch as u64,
            creator_pid: stat.shm_cpid,
            last_pid: stat.shm_lpid,
            removed: mode & raw::SHM_DEST != 0,
            locked: mode & raw::SHM_LOCKED != 0,
            attached: time(stat.shm_atime as i64),
            detached: time(stat.shm_dtime as i64),
            changed: time(stat.shm_ctime as i64)
                .unwrap_or(SystemTime::UNIX_EPOCH),
        }
    }
}

/// Whether the process runs. One that is dead and not yet waited for, which some
/// containers' first process never does, does not.
fn is_alive(pid: i32) -> bool {
    if kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH) {
        return false;
    }
    // "7 (name, of any characters) S 1 …"
    let stat = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.iter().rposition(|byte| *byte == b')');
    let state = after_name.and_then(|at| stat.get(at + 2));
    !matches!(state, Some(b'Z' | b'X'))
}

/// The C libraries do not agree on the field's name.
#[cfg_attr(
    target_env = "musl",
    allow(
        deprecated,
        reason = "libc will call it otherwise; there is no other"
    )
)]
fn key_of(permissions: &libc::ipc_perm) -> i32 {
    #[cfg(not(target_env = "musl"))]
    return permissions.__key;
    #[cfg(target_env = "musl")]
    return permissions.__ipc_perm_key;
}

/// Seconds since 1970, where 0 stands for never.
fn time(seconds: i64) -> Option<SystemTime> {
    let seconds = u64::try_from(seconds).ok().filter(|s| *s > 0)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}
