//! A snapshot of what the kernel knows about a segment.

use std::time::{Duration, SystemTime};

use nix::sys::stat::FileStat;

/// A snapshot of a segment, true at the moment of the call.
///
/// # Sources
///
/// fstat(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stat {
    /// The length in bytes.
    pub len: u64,
    /// The bytes of the pages that are allocated.
    pub allocated: u64,
    /// The permission bits, `0..=0o777`.
    pub mode: u32,
    /// The owner's user id.
    pub uid: u32,
    /// The owner's group id.
    pub gid: u32,
    /// The file system that it lies in.
    pub device: u64,
    /// Its number in that file system. Numbers are used again once a segment is
    /// gone.
    pub inode: u64,
    /// When the contents were last written by a call, or the size changed;
    /// stores through a mapping do not count.
    pub modified: SystemTime,
}

impl From<FileStat> for Stat {
    #[expect(
        clippy::cast_sign_loss,
        reason = "the kernel gives sizes and block counts as positive numbers"
    )]
    #[expect(
        clippy::unnecessary_cast,
        reason = "the fields' types differ between architectures"
    )]
    fn from(stat: FileStat) -> Self {
        Self {
            len: stat.st_size as u64,
            // In units of 512 bytes, whatever st_blksize says.
            allocated: stat.st_blocks as u64 * 512,
            mode: stat.st_mode & 0o777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            modified: time(stat.st_mtime as i64, stat.st_mtime_nsec as u64),
        }
    }
}

/// Seconds since 1970, or before: whoever may write the segment may set them.
fn time(seconds: i64, nanoseconds: u64) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let part = Duration::from_nanos(nanoseconds);
    match seconds {
        0.. => SystemTime::UNIX_EPOCH.checked_add(whole),
        _ => SystemTime::UNIX_EPOCH.checked_sub(whole),
    }
    .and_then(|time| time.checked_add(part))
    // Beyond what either type holds.
    .unwrap_or(SystemTime::UNIX_EPOCH)
}
