//! System V: the kernel keeps a table, and counts attachments.
//!
//! It does not know who needs a segment that nobody has attached. What created
//! it, and what last attached it, is taken to need it while it runs.

use std::collections::HashMap;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use procfs::process::Process;
use procfs::{Current, SharedMemorySegments};
use shm_common::Error;
use shm_sysv::{Id, Key, Stat, raw};

use super::look::{Look, Object, User, command};
use super::segment::{Facts, Segment, Verdict};
use crate::Failure;
use crate::mechanism::Mechanism;
use crate::target::Target;

pub(super) fn census(look: &Look) -> Result<Vec<Segment>, Failure> {
    let resident = resident();
    let mut stats = shm_sysv::list()?;
    stats.sort_by_key(|stat| stat.id);
    Ok(stats
        .into_iter()
        .map(|stat| {
            let id = stat.id.as_raw();
            let users = look.users(Object::SystemV(id));
            let (verdict, evidence) = judge(&stat, &users);
            Segment {
                mechanism: Mechanism::Sysv,
                object: Object::SystemV(id),
                target: Some(Target::SysvId(stat.id)),
                name: match stat.key {
                    Key::PRIVATE => "no key".to_owned(),
                    key => format!("key {key}"),
                },
                facts: Facts {
                    len: Some(stat.len),
                    resident: resident.get(&id).copied(),
                    uid: Some(stat.uid),
                    mode: Some(stat.mode),
                    seals: None,
                    changed: [stat.attached, stat.detached, Some(stat.changed)]
                        .into_iter()
                        .flatten()
                        .max(),
                },
                users,
                verdict,
                evidence,
            }
        })
        .collect())
}

/// How much each takes of memory and swap space, by identifier; nothing where
/// the kernel does not tell.
fn resident() -> HashMap<i32, u64> {
    let table = SharedMemorySegments::current();
    let segments = table.map_or_else(|_| vec![], |table| table.0);
    let bytes = |segment: &procfs::Shm| segment.rss.checked_add(segment.swap);
    segments
        .iter()
        .filter_map(|s| Some((i32::try_from(s.shmid).ok()?, bytes(s)?)))
        .collect()
}

fn judge(stat: &Stat, users: &[User]) -> (Verdict, String) {
    if stat.attachments > 0 {
        let times = match stat.attachments {
            1 => "attached once".to_owned(),
            count => format!("attached {count} times"),
        };
        let shown = match users.len() {
            0 => "by a process that does not show".to_owned(),
            1 => "by 1 process".to_owned(),
            count => format!("by {count} processes"),
        };
        let removed = match stat.removed {
            true => "; its key is removed, it goes with them",
            false => "",
        };
        return (Verdict::InUse, format!("{times}, {shown}{removed}"));
    }
    let parties = (stat.creator_pid, stat.last_pid);
    match waits_for(stat.locked, parties, stat.attached.is_some()) {
        Some(evidence) => (Verdict::Idle, evidence),
        None => (
            Verdict::Stale,
            format!("not attached, and its creator {} is gone", parties.0),
        ),
    }
}

/// Why a segment that nobody has attached is not stale, if it is not.
fn waits_for(
    locked: bool,
    (creator, last): (i32, i32),
    attached: bool,
) -> Option<String> {
    if locked {
        return Some(
            "not attached, but locked in memory on purpose".to_owned(),
        );
    }
    let outside = "lives, or lived, outside this container";
    match (Party::of(creator), Party::of(last)) {
        (Party::Runs(who), _) => {
            Some(format!("not attached, but its creator {who} runs"))
        }
        (Party::Unknown, _) => {
            Some(format!("not attached; its creator {outside}"))
        }
        (Party::Gone, Party::Runs(who)) => {
            Some(format!("not attached, but {who} runs, which had it last"))
        }
        // Or else nobody ever had it attached.
        (Party::Gone, Party::Unknown) if attached => {
            Some(format!("not attached; who had it last {outside}"))
        }
        (Party::Gone, _) => None,
    }
}

/// A process that had to do with a segment.
enum Party {
    /// None, or none that has a number here.
    Unknown,
    Gone,
    /// Its number, and what it calls itself. It may be another that got the
    /// number since: then the segment is left alone in vain.
    Runs(String),
}

impl Party {
    fn of(pid: i32) -> Self {
        match pid {
            ..=0 => Self::Unknown,
            _ if !runs(pid) => Self::Gone,
            _ => Self::Runs(match command(pid) {
                Some(command) => format!("{pid} ({command})"),
                None => pid.to_string(),
            }),
        }
    }
}

/// Whether a process is alive: one that is dead and that nobody has waited for
/// is not, unless its first thread alone has ended.
fn runs(pid: i32) -> bool {
    let stat = Process::new(pid).and_then(|process| process.stat());
    match stat {
        Ok(stat) => stat.state != 'Z' || stat.num_threads > 1,
        Err(procfs::ProcError::NotFound(_)) => exists(pid),
        // It is there, and does not show.
        Err(_) => true,
    }
}

/// Also where `/proc` hides it.
fn exists(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH)
}

pub(super) fn id_of(key: Key) -> Result<i32, Failure> {
    let target = Target::SysvKey(key);
    if key == Key::PRIVATE {
        return Err(format!(
            "cannot find {target}: a segment without a key has only an \
             identifier, sysv-id:ID"
        )
        .into());
    }
    raw::shmget(key.as_raw(), 0, 0)
        .map_err(|os| target.cannot("find", Error::from(os)))
}

/// Removes the segment, and, `only_if_unused`, if it is still stale; says whether
/// it did.
///
/// The kernel has no call that compares and removes: who attaches it in between
/// keeps what is attached, and only others cannot find it any more.
pub(crate) fn remove(id: i32, only_if_unused: bool) -> Result<bool, Failure> {
    if only_if_unused && !is_stale(id)? {
        return Ok(false);
    }
    match Id::new(id)?.remove() {
        Ok(()) => Ok(true),
        Err(Error::NotFound(_) | Error::Removed(_)) => Ok(false),
        Err(Error::PermissionDenied(_)) => {
            let why = "it belongs to another user";
            Err(format!("cannot remove sysv-id:{id}: {why}").into())
        }
        Err(error) => {
            Err(format!("cannot remove sysv-id:{id}: {error}").into())
        }
    }
}

/// Also whether nobody has attached and detached it again since it was looked
/// at. What is gone is not stale.
fn is_stale(id: i32) -> Result<bool, Failure> {
    match raw::shmctl_ipc_stat(id) {
        Ok(stat) => {
            let mode = u32::from(stat.shm_perm.mode);
            let locked = mode & raw::SHM_LOCKED != 0;
            let parties = (stat.shm_cpid, stat.shm_lpid);
            let waits = waits_for(locked, parties, stat.shm_atime != 0);
            return Ok(stat.shm_nattch == 0 && waits.is_none());
        }
        Err(os) if matches!(Error::from(os.clone()), Error::Removed(_)) => {
            return Ok(false);
        }
        // Its owner may have forbidden to read it; the table is for everyone.
        Err(_) => {}
    }
    let stats = shm_sysv::list()?;
    let found = stats.iter().find(|stat| stat.id.as_raw() == id);
    Ok(found.is_some_and(|stat| judge(stat, &[]).0 == Verdict::Stale))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use integration_tests::leaks::unique_key;
    use integration_tests::peer::Peer;
    use shm_sysv::{Segment, Size};

    #[test]
    fn what_was_used_since_it_was_looked_at_is_left() {
        let key = Key::new(unique_key());
        let creator = Peer::fork(|_| {
            let mut segment = Segment::create(key, Size::KIB)?;
            segment.keep();
            Ok::<_, Error>(segment.id().as_raw().to_ne_bytes())
        });
        let id = creator.unwrap().join(Duration::from_secs(50)).unwrap();
        let id = i32::from_ne_bytes(id.try_into().unwrap());
        let verdict = || {
            let stats = shm_sysv::list().unwrap();
            let stat = stats.iter().find(|stat| stat.id.as_raw() == id);
            judge(stat.unwrap(), &[]).0
        };
        let before = verdict();
        // As a newcomer does, that looks into it and will come again.
        drop(Segment::open(key).unwrap());
        let removed = remove(id, true).unwrap();
        let after = remove(id, false).unwrap();
        assert_eq!((before, removed, after), (Verdict::Stale, false, true));
    }
}
