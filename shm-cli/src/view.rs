//! A segment as it is shown, to people and to machines.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use indicatif::{BinaryBytes, HumanDuration};
use nix::unistd::{Uid, User as Account};
use serde::Serialize;
use shm_memfd::Seals;

use crate::census::{Segment, User, Verdict};
use crate::output::printable;

/// What is the same for all that is shown at once.
pub(crate) struct View {
    now: SystemTime,
    /// Of each user id.
    owners: HashMap<u32, String>,
}

/// A segment, with its fields as `--json` has them; null is what the kernel
/// does not tell.
#[derive(Serialize)]
pub(crate) struct Row<'a> {
    mechanism: &'static str,
    target: Option<String>,
    name: &'a str,
    bytes: Option<u64>,
    resident_bytes: Option<u64>,
    uid: Option<u32>,
    owner: Option<String>,
    mode: Option<String>,
    seals: Option<Vec<Cow<'static, str>>>,
    users: Vec<Holder<'a>>,
    age_seconds: Option<u64>,
    verdict: Verdict,
    evidence: &'a str,
}

#[derive(Serialize)]
struct Holder<'a> {
    pid: i32,
    command: &'a str,
    descriptors: u32,
    mapped: bool,
}

impl View {
    /// As the time is now.
    pub(crate) fn now() -> Self {
        Self { now: SystemTime::now(), owners: HashMap::new() }
    }

    pub(crate) fn row<'a>(&mut self, segment: &'a Segment) -> Row<'a> {
        let facts = &segment.facts;
        Row {
            mechanism: segment.mechanism.name(),
            target: segment.target.as_ref().map(ToString::to_string),
            name: &segment.name,
            bytes: facts.len,
            resident_bytes: facts.resident,
            uid: facts.uid,
            owner: facts.uid.map(|uid| self.owner(uid)),
            mode: facts.mode.map(|mode| format!("{mode:04o}")),
            seals: facts.seals.map(seal_names),
            users: segment.users.iter().map(Holder::of).collect(),
            age_seconds: segment.age(self.now).map(|age| age.as_secs()),
            verdict: segment.verdict,
            evidence: &segment.evidence,
        }
    }

    /// The name of a user, or else the number.
    fn owner(&mut self, uid: u32) -> String {
        let owner = self.owners.entry(uid).or_insert_with(|| {
            match Account::from_uid(Uid::from_raw(uid)) {
                Ok(Some(account)) => printable(account.name.as_ref()),
                _ => uid.to_string(),
            }
        });
        owner.clone()
    }
}

impl<'a> Holder<'a> {
    fn of(user: &'a User) -> Self {
        let User { pid, command, descriptors, mapped } = user;
        Self { pid: *pid, command, descriptors: *descriptors, mapped: *mapped }
    }
}

impl Row<'_> {
    pub(crate) const HEADER: [&'static str; 10] = [
        "target", "name", "size", "resident", "owner", "mode", "seals",
        "users", "age", "verdict",
    ];

    /// A cell for each column.
    pub(crate) fn cells(&self) -> [String; 10] {
        [
            self.target(),
            self.name.to_owned(),
            size(self.bytes),
            size(self.resident_bytes),
            self.owner.clone().unwrap_or_default(),
            self.mode.clone().unwrap_or_default(),
            self.seals(),
            self.users(),
            self.age(),
            format!("{}: {}", self.verdict, self.evidence),
        ]
    }

    /// A line for each thing that is known, with every user.
    pub(crate) fn lines(&self) -> Vec<(&'static str, String)> {
        let exact = |bytes: Option<u64>| match bytes {
            Some(bytes) => format!("{bytes} bytes ({})", size(Some(bytes))),
            None => String::new(),
        };
        let mut lines = vec![
            ("target", self.target()),
            ("name", self.name.to_owned()),
            ("size", exact(self.bytes)),
            ("resident", exact(self.resident_bytes)),
            ("owner", self.owner.clone().unwrap_or_default()),
            ("mode", self.mode.clone().unwrap_or_default()),
            ("seals", self.seals()),
            ("age", self.age()),
            ("verdict", format!("{}: {}", self.verdict, self.evidence)),
        ];
        lines.extend(self.users.iter().map(|user| ("user", user.line())));
        lines.retain(|(_, text)| !text.is_empty());
        lines
    }

    fn target(&self) -> String {
        self.target.clone().unwrap_or_else(|| format!("({})", self.mechanism))
    }

    fn seals(&self) -> String {
        self.seals.as_ref().map_or_else(String::new, |seals| seals.join(" "))
    }

    /// The first few: the line of a segment that all have is no page.
    fn users(&self) -> String {
        const SHOWN: usize = 3;
        let shown = self.users.iter().take(SHOWN);
        let mut users: Vec<String> = shown
            .map(|user| format!("{} {}", user.pid, user.command))
            .collect();
        if let Some(more @ 1..) = self.users.len().checked_sub(SHOWN) {
            users.push(format!("and {more} more"));
        }
        users.join(", ")
    }

    fn age(&self) -> String {
        self.age_seconds.map_or_else(String::new, |seconds| {
            format!("{:#}", HumanDuration(Duration::from_secs(seconds)))
        })
    }
}

impl Holder<'_> {
    fn line(&self) -> String {
        let descriptors = match self.descriptors {
            0 => None,
            1 => Some("1 descriptor".to_owned()),
            count => Some(format!("{count} descriptors")),
        };
        let mapped = self.mapped.then(|| "mapped".to_owned());
        let how: Vec<_> = descriptors.into_iter().chain(mapped).collect();
        format!("{} {}: {}", self.pid, self.command, how.join(", "))
    }
}

fn size(bytes: Option<u64>) -> String {
    bytes.map_or_else(String::new, |bytes| BinaryBytes(bytes).to_string())
}

/// Without what all have in common, and in lower case.
fn seal_names(seals: Seals) -> Vec<Cow<'static, str>> {
    const NAMES: [(Seals, &str); 6] = [
        (Seals::SEAL, "seal"),
        (Seals::SHRINK, "shrink"),
        (Seals::GROW, "grow"),
        (Seals::WRITE, "write"),
        (Seals::FUTURE_WRITE, "future-write"),
        (Seals::EXEC, "exec"),
    ];
    let mut names = Vec::new();
    let mut rest = seals.bits();
    for (seal, name) in NAMES {
        if seals.contains(seal) {
            names.push(Cow::Borrowed(name));
            rest &= !seal.bits();
        }
    }
    if rest != 0 {
        names.push(Cow::Owned(format!("{rest:#x}")));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seals_are_named_and_unknown_ones_numbered() {
        assert!(seal_names(Seals::empty()).is_empty());
        assert_eq!(
            seal_names(Seals::SHRINK | Seals::from_bits(0x1000)),
            ["shrink", "0x1000"]
        );
        assert_eq!(seal_names(Seals::from_bits(0x3f)).len(), 6);
    }

    #[test]
    fn how_a_process_has_it_is_told() {
        let line = |descriptors, mapped| {
            Holder { pid: 7, command: "cat", descriptors, mapped }.line()
        };
        assert_eq!(line(1, false), "7 cat: 1 descriptor");
        assert_eq!(line(2, true), "7 cat: 2 descriptors, mapped");
        assert_eq!(line(0, true), "7 cat: mapped");
    }
}
