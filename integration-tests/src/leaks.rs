//! Names that no other test uses, and a look at what is left behind.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

/// How the names of this run begin, in `/dev/shm` and elsewhere.
#[must_use]
pub fn prefix() -> String {
    format!("shmtest-{}-", process::id())
}

/// A name that no other test uses, nor another run of the same.
#[must_use]
pub fn unique_name(tag: &str) -> String {
    format!("{}{}-{tag}", prefix(), next_number())
}

/// A System V key that no other test uses, nor another run of the same.
#[must_use]
pub fn unique_key() -> i32 {
    // A process id has at most 22 bits.
    let key = (process::id() << 10) | (next_number() & 0x3ff);
    key.cast_signed()
}

fn next_number() -> u32 {
    static NUMBER: AtomicU32 = AtomicU32::new(1);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

/// What this process holds of the system, and what it created there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The open descriptors, and what each leads to.
    pub descriptors: BTreeMap<i32, String>,
    /// The shared mappings, as `/proc/self/maps` has them.
    pub mappings: BTreeSet<String>,
    /// The System V segments that this process created.
    pub segments: BTreeSet<i32>,
    /// The names in `/dev/shm` that begin with [`prefix`].
    pub names: BTreeSet<String>,
}

impl Snapshot {
    /// Looks now. Other threads must stand still meanwhile.
    ///
    /// # Errors
    ///
    /// `/proc` or `/dev/shm` cannot be read.
    pub fn take() -> io::Result<Self> {
        Ok(Self {
            descriptors: descriptors()?,
            mappings: shared_mappings()?,
            segments: own_segments()?,
            names: own_names()?,
        })
    }

    /// A line for each thing.
    fn lines(&self) -> BTreeSet<String> {
        let descriptors = self
            .descriptors
            .iter()
            .map(|(number, target)| format!("descriptor {number}: {target}"));
        let mappings = self.mappings.iter().map(|m| format!("mapping {m}"));
        let segments = self.segments.iter().map(|id| format!("segment {id}"));
        let names = self.names.iter().map(|name| format!("name {name}"));
        descriptors.chain(mappings).chain(segments).chain(names).collect()
    }
}

/// Fails if `scenario` leaves anything behind in this process or the system.
/// Other threads must stand still, so call it in a process of its own.
///
/// # Panics
///
/// Something is left behind, or missing, afterwards.
pub fn assert_none(scenario: impl FnOnce()) {
    let before = Snapshot::take().unwrap_or_else(|error| panic!("{error}"));
    scenario();
    let after = Snapshot::take().unwrap_or_else(|error| panic!("{error}"));
    let (before, after) = (before.lines(), after.lines());
    let left: Vec<_> = after.difference(&before).collect();
    let missing: Vec<_> = before.difference(&after).collect();
    assert!(
        left.is_empty() && missing.is_empty(),
        "left behind: {left:#?}, missing: {missing:#?}"
    );
}

fn descriptors() -> io::Result<BTreeMap<i32, String>> {
    let mut descriptors = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let number = entry.file_name().into_string().ok();
        // The one that reads this directory is gone by the time that we look.
        let target = fs::read_link(entry.path()).ok();
        if let (Some(number), Some(target)) = (number, target) {
            let target = target.to_string_lossy().into_owned();
            if !target.ends_with("/fd") {
                let number = number.parse().map_err(io::Error::other)?;
                descriptors.insert(number, target);
            }
        }
    }
    Ok(descriptors)
}

fn shared_mappings() -> io::Result<BTreeSet<String>> {
    // "7f00-7f10 rw-s 00000000 00:01 1024   /memfd:frames (deleted)"
    let shared = |line: &&str| {
        let permissions = line.split(' ').nth(1).unwrap_or_default();
        permissions.ends_with('s')
            || ["/memfd:", "/dev/shm", "/SYSV"]
                .iter()
                .any(|kind| line.contains(kind))
    };
    let maps = fs::read_to_string("/proc/self/maps")?;
    Ok(maps.lines().filter(shared).map(String::from).collect())
}

fn own_segments() -> io::Result<BTreeSet<i32>> {
    // key shmid perms size cpid …
    let own = process::id().to_string();
    let table = fs::read_to_string("/proc/sysvipc/shm")?;
    let mut segments = BTreeSet::new();
    for line in table.lines().skip(1) {
        let columns: Vec<&str> = line.split_whitespace().collect();
        if let [_, id, _, _, creator, ..] = columns[..]
            && creator == own
        {
            segments.insert(id.parse().map_err(io::Error::other)?);
        }
    }
    Ok(segments)
}

fn own_names() -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir("/dev/shm")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(&prefix()) {
            names.insert(name);
        }
    }
    Ok(names)
}
