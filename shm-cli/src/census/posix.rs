//! POSIX: the files of `/dev/shm`.
//!
//! A program that uses one of this workspace's crates holds a lock on it; any
//! other program has it open or mapped, which `/proc` shows where it may be
//! read. Where neither shows a user, the kernel is asked whether there is one.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::Duration;

use shm_common::Error;
use shm_posix::Name;

use super::look::{Look, Object, Wanted, posix_name};
use super::objects;
use super::probe::{self, Answer};
use super::segment::{Facts, Segment, Verdict, open_or_mapped_by};
use crate::Failure;
use crate::mechanism::Mechanism;
use crate::output::printable;
use crate::target::Target;

const DIRECTORY: &str = "/dev/shm";

/// Nobody has it open or mapped.
const UNUSED: &str = "no process has it open or mapped; the kernel says so";

/// A file in `/dev/shm`.
pub(super) struct Entry {
    pub(super) name: Name,
    pub(super) object: Object,
    metadata: Metadata,
}

/// The files there, sorted by name; some are semaphores.
pub(super) fn list() -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let device = fs::metadata(DIRECTORY)?.dev();
    for entry in fs::read_dir(DIRECTORY)? {
        let entry = entry?;
        // It may be gone by now.
        let Ok(metadata) = entry.metadata() else { continue };
        let Ok(name) = Name::new(entry.file_name()) else { continue };
        // A file that is mounted there from elsewhere cannot be removed.
        if metadata.is_file() && metadata.dev() == device {
            let object = Object::of(&metadata);
            entries.push(Entry { name, object, metadata });
        }
    }
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(entries)
}

/// What `sem_open(3)` keeps in the same place, and what is none of ours.
fn is_semaphore(name: &OsStr, len: Option<u64>) -> bool {
    let name = name.as_bytes();
    // The size of a sem_t, with 32 and 64 bits.
    name.strip_prefix(b"/").unwrap_or(name).starts_with(b"sem.")
        && matches!(len, None | Some(16 | 32))
}

impl Entry {
    fn is_segment(&self) -> bool {
        let name = self.name.path().file_name().unwrap_or_default();
        !is_semaphore(name, Some(self.metadata.len()))
    }
}

pub(super) fn wanted(entries: &[Entry]) -> Wanted {
    let names =
        entries.iter().filter_map(|entry| entry.name.path().file_name());
    Wanted { files: objects(entries), names: names.map(Into::into).collect() }
}

/// Judges each.
pub(super) fn census(entries: Vec<Entry>, look: &Look) -> Vec<Segment> {
    let mut segments = Vec::new();
    // Whom another look at the same time, or a reaper, keeps out.
    let mut disturbed = Vec::new();
    for entry in entries.iter().filter(|entry| entry.is_segment()) {
        let users = look.users(entry.object);
        let judged = match users.is_empty() {
            false => Some((Verdict::InUse, open_or_mapped_by(&users))),
            true => {
                let answer = probe::ask(&entry.name, entry.object);
                if matches!(answer, Answer::InUse(_)) {
                    disturbed.push((segments.len(), entry));
                }
                judge(answer, look)
            }
        };
        if let Some((verdict, evidence)) = judged {
            segments.push(Segment {
                mechanism: Mechanism::Posix,
                object: entry.object,
                target: Some(Target::Posix(entry.name.clone())),
                name: String::new(),
                facts: Facts::of_file(&entry.metadata),
                users,
                verdict,
                evidence,
            });
        }
    }
    ask_again(&mut segments, disturbed, look);
    segments.extend(nameless(&entries, look));
    segments
}

/// A look takes microseconds, a user stays.
fn ask_again(
    segments: &mut [Segment],
    mut disturbed: Vec<(usize, &Entry)>,
    look: &Look,
) {
    for _ in 0..5 {
        if disturbed.is_empty() {
            return;
        }
        thread::sleep(Duration::from_millis(2));
        disturbed.retain(|(at, entry)| {
            let answer = probe::ask(&entry.name, entry.object);
            let still = matches!(answer, Answer::InUse(_));
            if let Some((verdict, evidence)) = judge(answer, look) {
                segments[*at].verdict = verdict;
                segments[*at].evidence = evidence;
            }
            still
        });
    }
}

/// None: it is gone.
fn judge(answer: Answer, look: &Look) -> Option<(Verdict, String)> {
    let not_seen = |reason: String| match look.is_complete() {
        true => (
            Verdict::Stale,
            "no process has it open or mapped, as far as /proc shows"
                .to_owned(),
        ),
        false => (
            Verdict::Idle,
            format!("no user seen, but not all processes show ({reason})"),
        ),
    };
    match answer {
        Answer::Unused(_) => Some((Verdict::Stale, UNUSED.to_owned())),
        Answer::InUse(evidence) => Some((Verdict::InUse, evidence.to_owned())),
        Answer::Unlocked(_, reason) | Answer::Unknown(reason) => {
            Some(not_seen(reason))
        }
        Answer::Gone => None,
    }
}

/// Those that only their users keep: their name is removed, or they lie in
/// another `/dev/shm` than this process's.
fn nameless(entries: &[Entry], look: &Look) -> Vec<Segment> {
    let named = objects(entries);
    let mut segments = Vec::new();
    for (object, held) in &look.held {
        let is_posix = held.mechanism == Mechanism::Posix;
        let Some((name, deleted)) = posix_name(&held.path) else { continue };
        let len = held.facts.as_ref().and_then(|facts| facts.len);
        if !is_posix || named.contains(object) || is_semaphore(name, len) {
            continue;
        }
        let how = match deleted {
            true => "its name is removed, it goes with them",
            false => "it lies in another /dev/shm",
        };
        segments.push(Segment {
            mechanism: Mechanism::Posix,
            object: *object,
            target: None,
            name: printable(name),
            facts: held.known_facts(),
            users: held.users.clone(),
            verdict: Verdict::InUse,
            evidence: format!("{}; {how}", open_or_mapped_by(&held.users)),
        });
    }
    segments.sort_by(|one, other| one.name.cmp(&other.name));
    segments
}

pub(super) fn object(name: &Name) -> Result<Object, Failure> {
    let target = Target::Posix(name.clone());
    match fs::symlink_metadata(name.path()) {
        Ok(metadata) if metadata.is_file() => Ok(Object::of(&metadata)),
        Ok(_) => {
            Err(format!("cannot use {target}: it is no regular file").into())
        }
        Err(error) => Err(target.cannot("find", error)),
    }
}

/// Removes the name if it still leads to the segment, and, `only_if_unused`, if
/// still nobody uses it; says whether it did.
///
/// Who uses leases is asked and kept out until the name is removed, so nobody
/// can come in between. Where there are none, a program that takes no lock can
/// open the segment after the last look at the processes: it then has a segment
/// without a name.
pub(crate) fn remove(
    name: &Name,
    object: Object,
    only_if_unused: bool,
) -> Result<bool, Failure> {
    if !only_if_unused {
        // Between this look and the removal, others may do both; the kernel
        // has no call that compares and removes.
        return Ok(leads_to(name, object) && told(probe::unlink(name), name)?);
    }
    let mut answer = probe::ask(name, object);
    for _ in 0..5 {
        if !matches!(answer, Answer::InUse(_)) {
            break;
        }
        thread::sleep(Duration::from_millis(2));
        answer = probe::ask(name, object);
    }
    match answer {
        Answer::Unused(hold) => told(hold.unlink(name), name),
        Answer::Unlocked(_hold, _) => {
            let metadata = fs::symlink_metadata(name.path())?;
            let entry = Entry { name: name.clone(), object, metadata };
            let look = Look::into_processes(&wanted(&[entry]))?;
            // This process has it.
            let own = i32::try_from(std::process::id())?;
            let users = look.users(object);
            let unused = users.iter().all(|user| user.pid == own);
            let sure = unused && look.is_complete();
            Ok(sure
                && leads_to(name, object)
                && told(probe::unlink(name), name)?)
        }
        Answer::InUse(_) | Answer::Unknown(_) | Answer::Gone => Ok(false),
    }
}

fn leads_to(name: &Name, object: Object) -> bool {
    let there = fs::symlink_metadata(name.path());
    there.is_ok_and(|metadata| Object::of(&metadata) == object)
}

fn told(
    removed: shm_common::Result<bool>,
    name: &Name,
) -> Result<bool, Failure> {
    removed.map_err(|error| match error {
        Error::PermissionDenied(_) => {
            let target = Target::Posix(name.clone());
            format!("cannot remove {target}: it belongs to another user").into()
        }
        error => error.into(),
    })
}
