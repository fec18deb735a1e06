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
    let mut code = ExitCode::SUCCESS;
    for target in &arguments.targets {
        if let Err(error) = remove(target, arguments.force) {
            complain(&error.to_string());
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

fn remove(target: &Target, force: bool) -> Result<(), Failure> {
    if let Target::Memfd(_) | Target::Dmabuf(_) = target {
        let (_, segment) = Census::find(target)?;
        let users: Vec<String> = segment
            .users
            .iter()
            .map(|user| format!("{} ({})", user.pid, user.command))
            .collect();
        let users = users.join(", ");
        return Err(format!(
            "cannot remove {target}: it has no name, and goes when its last \
             user lets go of it: {users}"
        )
        .into());
    }
    // What was looked at is what is removed, even if the name is taken anew
    // meanwhile.
    let object = match force {
        true => census::object(target)?,
        false => {
            let (_, segment) = Census::find(target)?;
            if segment.verdict == Verdict::InUse && !confirmed(&segment)? {
                return Ok(());
            }
            segment.object
        }
    };
    match remove_object(target, object)? {
        true => Ok(()),
        false => Err(format!("cannot remove {target}: it is gone").into()),
    }
}

/// Says whether it was there.
fn remove_object(target: &Target, object: Object) -> Result<bool, Failure> {
    match (target, object) {
        (_, Object::SystemV(id)) => census::remove_sysv(id, false),
        (Target::Posix(name), _) => census::remove_posix(name, object, false),
        _ => Err(format!(
            "cannot remove {target}: it has no name, and goes when its last \
             user lets go of it"
        )
        .into()),
    }
}

/// Removes this very segment, whoever uses it; says so.
pub(crate) fn segment(segment: &Segment) -> Result<String, Failure> {
    let Some(target) = &segment.target else {
        let name = &segment.name;
        let why = "it has no name, and goes with its users";
        return Err(format!("cannot remove {name}: {why}").into());
    };
    match remove_object(target, segment.object)? {
        true => Ok(format!("removed {target}")),
        false => Ok(format!("{target} was gone already")),
    }
}

/// Asks the person at the terminal; where there is none, that is a failure.
fn confirmed(segment: &Segment) -> Result<bool, Failure> {
    let target = segment.target.as_ref().map(ToString::to_string);
    let target = target.unwrap_or_default();
    let evidence = &segment.evidence;
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
