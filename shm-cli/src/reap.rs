//! `shm reap`: removes what a crash left, and nothing else.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use nix::unistd::Uid;

use crate::Failure;
use crate::census::{self, Census, Object, Segment, Verdict};
use crate::list::or_all;
use crate::mechanism::Mechanism;
use crate::output::{complain, print};
use crate::target::Target;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only says what would be removed.
    #[arg(long)]
    dry_run: bool,
    /// Only what showed no sign of life for that long, such as 90s, 10m or
    /// 2days.
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Option<Duration>,
    /// Only segments of this mechanism; may be given more than once.
    #[arg(long, value_name = "MECHANISM")]
    mechanism: Vec<Mechanism>,
}

fn age(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; say it like 90s, 10m or 2days"))
}

/// How many segments were left alone, and why.
#[derive(Default)]
struct Left {
    in_use: usize,
    idle: usize,
    young: usize,
    others: usize,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let census = Census::take(or_all(&arguments.mechanism))?;
    let (us, now) = (Uid::effective(), SystemTime::now());
    let mut left = Left::default();
    let (mut lines, mut failures) = (Vec::new(), census.failures);
    for segment in &census.segments {
        match segment.verdict {
            Verdict::InUse => left.in_use += 1,
            Verdict::Idle => left.idle += 1,
            Verdict::Stale if !may_remove(us, segment) => left.others += 1,
            Verdict::Stale if is_young(arguments, segment, now) => {
                left.young += 1;
            }
            Verdict::Stale => match reap(segment, arguments.dry_run) {
                Ok(line) => lines.push(line),
                Err(error) => failures.push(error.to_string()),
            },
        }
    }
    if lines.is_empty() {
        lines.push("nothing to remove".to_owned());
    }
    lines.extend(left.line());
    print(&lines.join("\n"))?;
    for failure in &failures {
        complain(failure);
    }
    Ok(match failures.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Whether the kernel would let this user: `/dev/shm` is sticky.
fn may_remove(us: Uid, segment: &Segment) -> bool {
    us.is_root() || segment.facts.uid == Some(us.as_raw())
}

fn is_young(arguments: &Arguments, segment: &Segment, now: SystemTime) -> bool {
    arguments
        .older_than
        .is_some_and(|least| segment.age(now).is_none_or(|age| age < least))
}

/// Gives the line that tells what was done.
fn reap(segment: &Segment, dry_run: bool) -> Result<String, Failure> {
    let Some(target) = &segment.target else {
        return Err("a segment that nothing leads to cannot be stale".into());
    };
    let evidence = &segment.evidence;
    if dry_run {
        return Ok(format!("would remove {target}: {evidence}"));
    }
    let removed = match (target, segment.object) {
        (Target::Posix(name), object) => {
            census::remove_posix(name, object, true)?
        }
        (_, Object::SystemV(id)) => census::remove_sysv(id, true)?,
        (_, Object::File { .. }) => false,
    };
    Ok(match removed {
        true => format!("removed {target}: {evidence}"),
        false => format!("left {target}: it came to life, or went, meanwhile"),
    })
}

impl Left {
    fn line(&self) -> Option<String> {
        let parts: Vec<String> = [
            (self.in_use, "in use"),
            (self.idle, "idle"),
            (self.young, "not old enough"),
            (self.others, "of other users"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, why)| format!("{count} {why}"))
        .collect();
        (!parts.is_empty()).then(|| format!("left alone: {}", parts.join(", ")))
    }
}
