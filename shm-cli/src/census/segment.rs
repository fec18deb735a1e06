//! A segment, and what can be said about it.

use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use rustix::fs::Statx;
use serde::Serialize;

use super::look::{Object, User};
use crate::mechanism::Mechanism;
use crate::target::Target;

/// Whether a segment is needed, as far as can be seen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// Somebody has it open, mapped, attached or locked.
    InUse,
    /// Nobody is seen to have it; but somebody may come back to it, or may be
    /// there and not show.
    Idle,
    /// Nobody has it, and nobody is there who would come back to it.
    Stale,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::InUse => "in use",
            Self::Idle => "idle",
            Self::Stale => "stale",
        })
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) mechanism: Mechanism,
    pub(crate) object: Object,
    /// None: nothing leads to it that a person could write.
    pub(crate) target: Option<Target>,
    /// A key, a name or a label.
    pub(crate) name: String,
    pub(crate) facts: Facts,
    pub(crate) users: Vec<User>,
    pub(crate) verdict: Verdict,
    pub(crate) evidence: String,
}

/// What the kernel knows of a segment; none of what it does not tell.
#[derive(Clone, Default, Debug)]
pub(crate) struct Facts {
    pub(crate) len: Option<u64>,
    /// The bytes that it takes of the memory, or of the swap space.
    pub(crate) resident: Option<u64>,
    pub(crate) uid: Option<u32>,
    pub(crate) mode: Option<u32>,
    pub(crate) seals: Option<shm_memfd::Seals>,
    /// When it last showed a sign of life. What is done through a mapping is
    /// none.
    pub(crate) changed: Option<SystemTime>,
}

impl Facts {
    pub(crate) fn of_file(metadata: &Metadata) -> Self {
        let seconds = [metadata.atime(), metadata.mtime(), metadata.ctime()];
        Self {
            len: Some(metadata.len()),
            // In units of 512 bytes, whatever st_blksize says.
            resident: metadata.blocks().checked_mul(512),
            uid: Some(metadata.uid()),
            mode: Some(metadata.mode() & 0o777),
            seals: None,
            changed: last(seconds),
        }
    }

    pub(super) fn of_statx(statx: &Statx) -> Self {
        let times = [statx.stx_atime, statx.stx_mtime, statx.stx_ctime];
        Self {
            len: Some(statx.stx_size),
            resident: statx.stx_blocks.checked_mul(512),
            uid: Some(statx.stx_uid),
            mode: Some(u32::from(statx.stx_mode) & 0o777),
            seals: None,
            changed: last(times.map(|time| time.tv_sec)),
        }
    }
}

/// Of these seconds since 1970.
fn last(seconds: [i64; 3]) -> Option<SystemTime> {
    let seconds = seconds.into_iter().max()?;
    let seconds = Duration::from_secs(u64::try_from(seconds).ok()?);
    SystemTime::UNIX_EPOCH.checked_add(seconds)
}

impl Segment {
    /// How long ago it last showed a sign of life, where that is known. A clock
    /// that was set back makes no segment old.
    pub(crate) fn age(&self, now: SystemTime) -> Option<Duration> {
        let changed = self.facts.changed?;
        Some(now.duration_since(changed).unwrap_or(Duration::ZERO))
    }
}

/// "is open in 1 process" and the like.
pub(crate) fn open_or_mapped_by(users: &[User]) -> String {
    let open = users.iter().filter(|user| user.descriptors > 0).count();
    let mapped = users.iter().filter(|user| user.mapped).count();
    let processes = |count| match count {
        1 => "1 process".to_owned(),
        _ => format!("{count} processes"),
    };
    match (open, mapped) {
        (_, 0) => format!("open in {}", processes(open)),
        (0, _) => format!("mapped in {}", processes(mapped)),
        (one, other) if one == other => {
            format!("open and mapped in {}", processes(one))
        }
        _ => {
            let (open, mapped) = (processes(open), processes(mapped));
            format!("open in {open}, mapped in {mapped}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_it_is_used_is_told_in_words() {
        let user = |descriptors, mapped| User {
            pid: 1,
            command: String::new(),
            descriptors,
            mapped,
        };
        let told = |users: &[User]| open_or_mapped_by(users);
        assert_eq!(told(&[user(2, false)]), "open in 1 process");
        assert_eq!(
            told(&[user(0, true), user(0, true)]),
            "mapped in 2 processes"
        );
        assert_eq!(told(&[user(1, true)]), "open and mapped in 1 process");
        assert_eq!(
            told(&[user(1, true), user(1, false)]),
            "open in 2 processes, mapped in 1 process"
        );
    }

    #[test]
    fn a_time_that_is_still_to_come_makes_nothing_old() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let age = |changed: Option<u64>| {
            let changed = changed.map(|seconds| {
                SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
            });
            let segment = Segment {
                mechanism: Mechanism::Posix,
                object: Object::SystemV(0),
                target: None,
                name: String::new(),
                facts: Facts { changed, ..Facts::default() },
                users: vec![],
                verdict: Verdict::Idle,
                evidence: String::new(),
            };
            segment.age(now).map(|age| age.as_secs())
        };
        assert_eq!(age(Some(90)), Some(10));
        assert_eq!(age(Some(200)), Some(0));
        assert_eq!(age(None), None);
    }
}
