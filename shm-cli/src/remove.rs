//! `shm rm`: removes segments by name, after asking where somebody uses them.

use std::io::{self, BufRead, IsTerminal, Write};
use std::process::ExitCode;

use crate::Failure;
use crate::census::{self, Census, Object, Segment, Verdict};
use crate::output::complain;
use crate::target::Target;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// `sysv:KEY`, `sysv-id:ID` or `posix:/NAME`.
    #[arg(required = true)]
    targets: Vec<Target>,
    /// Does not ask, also where somebody uses a segment.
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let Arguments { targets, force } = arguments;
    // Before the look, which is one for all: it takes longer than a removal.
    let objects: Vec<_> = targets.iter().map(census::object).collect();
    let mechanisms: Vec<_> = targets.iter().map(Target::mechanism).collect();
    let seen = match force {
        true => None,
        false => Some(Census::take(&mechanisms)?),
    };
    let mut code = ExitCode::SUCCESS;
    for (target, object) in targets.iter().zip(objects) {
        let seen = seen.as_ref();
        let removed = object.and_then(|object| remove(target, object, seen));
        if let Err(error) = removed {
            complain(&error.to_string());
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

/// What was looked at is what is removed, even if the name is taken anew
/// meanwhile. Without a look, nobody is asked.
fn remove(
    target: &Target,
    object: Object,
    seen: Option<&Census>,
) -> Result<(), Failure> {
    if let Target::Memfd(_) | Target::Dmabuf(_) = target {
        let (_, segment) = Census::find(target)?;
        let users: Vec<String> = segment
            .users
            .iter()
            .map(|user| format!("{} ({})", user.pid, user.command))
            .collect();
        let users = users.join(", ");
        let error = nameless(&target.to_string());
        return Err(format!("{error}: {users}").into());
    }
    let only_if_unused = match seen {
        None => false,
        Some(seen) => {
            let segment = seen.segment(target, object)?;
            let in_use = segment.verdict == Verdict::InUse;
            if in_use && !confirmed(target, &segment.evidence)? {
                return Ok(());
            }
            segment.verdict == Verdict::Stale
        }
    };
    match remove_object(target, object, only_if_unused)? {
        true => Ok(()),
        false => Err(format!(
            "cannot remove {target}: it went, or came to life, meanwhile"
        )
        .into()),
    }
}

/// Says whether it did.
fn remove_object(
    target: &Target,
    object: Object,
    only_if_unused: bool,
) -> Result<bool, Failure> {
    match (target, object) {
        (_, Object::SystemV(id)) => census::remove_sysv(id, only_if_unused),
        (Target::Posix(name), _) => {
            census::remove_posix(name, object, only_if_unused)
        }
        _ => Err(nameless(&target.to_string())),
    }
}

fn nameless(what: &str) -> Failure {
    let why = "it has no name, and goes when its last user lets go of it";
    format!("cannot remove {what}: {why}").into()
}

impl Segment {
    /// What it can be removed by, if it can.
    pub(crate) fn removable(&self) -> Result<&Target, Failure> {
        match &self.target {
            Some(Target::Memfd(_) | Target::Dmabuf(_)) | None => {
                Err(nameless(&self.name))
            }
            Some(target) => Ok(target),
        }
    }
}

/// Removes this very segment, whoever uses it, unless nobody did when it was
/// looked at and somebody does now; says so.
pub(crate) fn segment(segment: &Segment) -> Result<String, Failure> {
    let target = segment.removable()?;
    let only_if_unused = segment.verdict == Verdict::Stale;
    match remove_object(target, segment.object, only_if_unused)? {
        true => Ok(format!("removed {target}")),
        false => {
            Ok(format!("left {target}: it went, or came to life, meanwhile"))
        }
    }
}

/// Asks the person at the terminal; where there is none, that is a failure.
fn confirmed(target: &Target, evidence: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(format!(
            "cannot remove {target}: it is in use ({evidence}); --force does \
             so all the same"
        )
        .into());
    }
    let mut stderr = io::stderr();
    write!(stderr, "{target} is in use ({evidence}). Remove it? [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
