//! The raw layer: the mechanism's own calls, under their C names.
//!
//! Each function makes one call and turns its errno into an [`OsError`] that
//! names what it was applied to. There is no policy here: no retry, no default.
#![expect(unsafe_code, reason = "calls C functions")]

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::ptr::{self, NonNull};

use libc::{c_int, c_ulong, c_void, key_t, shmid_ds, size_t};
use shm_common::{Object, OsError};

/// `shmctl` command: as `IPC_STAT`, for an index into the kernel's table.
pub const SHM_STAT: c_int = 13;
/// `shmctl` command: how much shared memory there is.
pub const SHM_INFO: c_int = 14;
/// `shmctl` command: as [`SHM_STAT`], without permission. Since Linux 4.17.
pub const SHM_STAT_ANY: c_int = 15;
/// `shmget` flag: where the logarithm of the huge page size goes.
pub const SHM_HUGE_SHIFT: u32 = 26;
/// Mode bit of a segment that goes with its last attachment.
pub const SHM_DEST: u32 = 0o1000;
/// Mode bit of a segment that is locked in memory.
pub const SHM_LOCKED: u32 = 0o2000;

/// What `SHM_INFO` fills in.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct shm_info {
    /// Segments that exist.
    pub used_ids: c_int,
    /// Pages of all segments.
    pub shm_tot: c_ulong,
    /// Pages of those that are in memory.
    pub shm_rss: c_ulong,
    /// Pages of those that are swapped out.
    pub shm_swp: c_ulong,
    /// Unused since Linux 2.4.
    pub swap_attempts: c_ulong,
    /// Unused since Linux 2.4.
    pub swap_successes: c_ulong,
}

/// Finds the segment of a key, or with `IPC_CREAT` makes one.
///
/// # Errors
///
/// The errno of the call: `EACCES`, `EEXIST`, `EINVAL`, `ENOENT`, `ENOMEM`,
/// `ENOSPC`, `EPERM`.
///
/// # Sources
///
/// shmget(2).
pub fn shmget(
    key: key_t,
    size: size_t,
    shmflg: c_int,
) -> Result<c_int, OsError> {
    // SAFETY: a call without pointers.
    match unsafe { libc::shmget(key, size, shmflg) } {
        -1 => Err(OsError::last("shmget").on(Object::Key(key))),
        shmid => Ok(shmid),
    }
}

/// Attaches a segment at an address that the kernel chooses.
///
/// # Errors
///
/// The errno of the call: `EACCES`, `EIDRM`, `EINVAL`, `ENOMEM`.
///
/// # Safety
///
/// 1. `shmflg` does not hold `SHM_REMAP`.
///
/// # Sources
///
/// shmat(2).
pub unsafe fn shmat(
    shmid: c_int,
    shmflg: c_int,
) -> Result<NonNull<c_void>, OsError> {
    // SAFETY: the kernel picks unused addresses, since none is given and, as
    // the caller promises, there is no SHM_REMAP.
    let start = unsafe { libc::shmat(shmid, ptr::null(), shmflg) };
    if start.addr() == usize::MAX {
        return Err(OsError::last("shmat").on(Object::Id(shmid)));
    }
    // The kernel never picks page 0.
    NonNull::new(start).ok_or_else(|| {
        OsError::new("shmat", libc::EINVAL).on(Object::Id(shmid))
    })
}

/// Detaches the segment that was attached at `start`.
///
/// # Errors
///
/// The errno of the call: `EINVAL` when nothing is attached there.
///
/// # Safety
///
/// 1. `start` was returned by [`shmat`] and is still attached, and nobody uses
///    those addresses any more.
///
/// # Sources
///
/// shmdt(2).
pub unsafe fn shmdt(start: NonNull<c_void>) -> Result<(), OsError> {
    // SAFETY: the caller promises that nobody uses the range any more.
    match unsafe { libc::shmdt(start.as_ptr()) } {
        -1 => Err(OsError::last("shmdt")),
        _ => Ok(()),
    }
}

/// `shmctl(IPC_STAT)`: what the kernel knows about a segment.
///
/// # Errors
///
/// The errno of the call: `EACCES`, `EIDRM`, `EINVAL`.
///
/// # Sources
///
/// shmctl(2).
pub fn shmctl_ipc_stat(shmid: c_int) -> Result<shmid_ds, OsError> {
    stat("shmctl(IPC_STAT)", shmid, libc::IPC_STAT).map(|(_, stat)| stat)
}

/// `shmctl(SHM_STAT_ANY)`: the identifier of the segment at an index of the
/// kernel's table, and what the kernel knows about it.
///
/// # Errors
///
/// The errno of the call: `EINVAL` where there is none, or before Linux 4.17.
///
/// # Sources
///
/// shmctl(2).
pub fn shmctl_shm_stat_any(index: c_int) -> Result<(c_int, shmid_ds), OsError> {
    stat("shmctl(SHM_STAT_ANY)", index, SHM_STAT_ANY)
}

/// `shmctl(SHM_STAT)`: as [`shmctl_shm_stat_any`], for what may be read.
///
/// # Errors
///
/// The errno of the call: `EACCES`; `EINVAL` where there is none.
///
/// # Sources
///
/// shmctl(2).
pub fn shmctl_shm_stat(index: c_int) -> Result<(c_int, shmid_ds), OsError> {
    stat("shmctl(SHM_STAT)", index, SHM_STAT)
}

fn stat(
    call: &'static str,
    id: c_int,
    command: c_int,
) -> Result<(c_int, shmid_ds), OsError> {
    let mut buffer = MaybeUninit::<shmid_ds>::uninit();
    // SAFETY: these commands write one `shmid_ds`, and `buffer` is one.
    match unsafe { libc::shmctl(id, command, buffer.as_mut_ptr()) } {
        -1 => Err(OsError::last(call).on(Object::Id(id))),
        // SAFETY: the call succeeded, so it filled the buffer.
        value => Ok((value, unsafe { buffer.assume_init() })),
    }
}

/// `shmctl(IPC_SET)`: sets the owner and the permission bits from `to`.
///
/// # Errors
///
/// The errno of the call: `EIDRM`, `EINVAL`, `EPERM`.
///
/// # Sources
///
/// shmctl(2).
pub fn shmctl_ipc_set(shmid: c_int, mut to: shmid_ds) -> Result<(), OsError> {
    // SAFETY: the command reads one `shmid_ds`, and `to` is one.
    match unsafe { libc::shmctl(shmid, libc::IPC_SET, &raw mut to) } {
        -1 => Err(OsError::last("shmctl(IPC_SET)").on(Object::Id(shmid))),
        _ => Ok(()),
    }
}

/// `shmctl(IPC_RMID)`: takes the key off the segment and lets it go with its
/// last attachment.
///
/// # Errors
///
/// The errno of the call: `EIDRM`, `EINVAL`, `EPERM`.
///
/// # Sources
///
/// shmctl(2).
pub fn shmctl_ipc_rmid(shmid: c_int) -> Result<(), OsError> {
    // SAFETY: the command ignores the buffer.
    match unsafe { libc::shmctl(shmid, libc::IPC_RMID, ptr::null_mut()) } {
        -1 => Err(OsError::last("shmctl(IPC_RMID)").on(Object::Id(shmid))),
        _ => Ok(()),
    }
}

/// `shmctl(SHM_INFO)`: the highest index in use, and totals.
///
/// # Errors
///
/// The errno of the call; it has no reason to fail.
///
/// # Sources
///
/// shmctl(2).
pub fn shmctl_shm_info() -> Result<(c_int, shm_info), OsError> {
    let mut buffer = MaybeUninit::<shm_info>::uninit();
    let address = buffer.as_mut_ptr().cast();
    // SAFETY: this command writes one `shm_info` in place of a `shmid_ds`, and
    // `buffer` is one, laid out as in <bits/shm.h>.
    match unsafe { libc::shmctl(0, SHM_INFO, address) } {
        -1 => Err(OsError::last("shmctl(SHM_INFO)")),
        // SAFETY: the call succeeded, so it filled the buffer.
        index => Ok((index, unsafe { buffer.assume_init() })),
    }
}

/// Makes a key from a file's inode and device and the low 8 bits of `proj_id`.
///
/// # Errors
///
/// The errno of stat(2) on the file.
///
/// # Sources
///
/// ftok(3).
pub fn ftok(path: &CStr, proj_id: c_int) -> Result<key_t, OsError> {
    // SAFETY: `path` is a C string that lives through the call.
    match unsafe { libc::ftok(path.as_ptr(), proj_id) } {
        -1 => {
            let error = OsError::last("ftok");
            let path = PathBuf::from(path.to_string_lossy().into_owned());
            Err(error.on(Object::Path(path)))
        }
        key => Ok(key),
    }
}

/// Advises the kernel about an attached range.
///
/// # Errors
///
/// The errno of the call: `EINVAL` when the kernel does not know the advice;
/// `EFAULT` when `MADV_POPULATE_WRITE` would have been a `SIGBUS`.
///
/// # Safety
///
/// 1. `start..start + length` is mapped, and `start` is a page's first byte.
/// 2. `advice` changes no byte that anyone relies on.
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
