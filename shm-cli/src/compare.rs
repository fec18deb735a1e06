//! `shm compare`: the same payload through every mechanism, side by side.
//!
//! The command itself only starts processes, listens to them and looks at the
//! system. For each mechanism, two processes of their own move the payload
//! ([`peer`]); then two more hold a segment and are killed, and what they leave
//! is looked for ([`remains`]).

mod pair;
pub(crate) mod peer;
mod progress;
mod remains;
mod report;

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use shm_common::Size;

use crate::Failure;
use pair::Pair;
use peer::{Figures, Mechanism, Work};
use progress::Progress;
use report::{Outcome, Report};

/// What the segments of this command are called, before a number.
const PREFIX: &str = "shm-compare-";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The file to move; without it, pseudo-random bytes.
    #[arg(long, value_name = "FILE", conflicts_with = "size")]
    payload: Option<PathBuf>,
    /// How many bytes to move, such as 64KiB, 16MiB or 4096.
    #[arg(long, default_value = "32MiB")]
    size: Size,
    /// How often the hand-over of one word is timed.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rounds: u32,
    /// Prints one JSON object instead of the table.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let size = match &arguments.payload {
        None => arguments.size,
        Some(path) => size_of_file(path)?,
    };
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGHUP,
    ] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    // What an earlier run left that was killed itself.
    shm_posix::reap(PREFIX)?;
    let mut progress = Progress::new(Mechanism::ALL.len());
    let mut outcomes = Vec::new();
    for mechanism in Mechanism::ALL {
        let work = Work {
            mechanism,
            payload: arguments.payload.clone(),
            size: size.bytes(),
            rounds: arguments.rounds,
        };
        let outcome = match compare(&work, &mut progress, &interrupted) {
            Ok((figures, remains)) => {
                Outcome::measured(mechanism, &figures, remains)
            }
            Err(error) if error.is::<pair::Interrupted>() => {
                return Err(error);
            }
            Err(error) => {
                Outcome::failed(mechanism, size.bytes(), error.to_string())
            }
        };
        outcomes.push(outcome);
    }
    progress.finish();
    let report = Report::new(size.bytes(), arguments.rounds, outcomes);
    let text = match arguments.json {
        true => report.to_json()?,
        false => report.to_table(io::stdout().is_terminal()),
    };
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()?;
    Ok(match report.is_complete() {
        true => ExitCode::SUCCESS,
        false => {
            for line in report.complaints() {
                eprintln!("shm: {line}");
            }
            ExitCode::FAILURE
        }
    })
}

fn compare(
    work: &Work,
    progress: &mut Progress,
    interrupted: &AtomicBool,
) -> Result<(Figures, remains::Remains), Failure> {
    let mut pair = Pair::start(work, false)?;
    let figures = pair.figures(progress, interrupted)?;
    drop(pair);
    progress.step(work.mechanism, "killing both");
    let pair = Pair::start(work, true)?;
    let remains = remains::after_sigkill(pair, progress, interrupted)?;
    Ok((figures, remains))
}

fn size_of_file(path: &PathBuf) -> Result<Size, Failure> {
    let cannot = |what: &dyn std::fmt::Display| {
        format!("cannot read {}: {what}", path.display())
    };
    let metadata = fs::metadata(path).map_err(|error| cannot(&error))?;
    if !metadata.is_file() {
        return Err(cannot(&"it is no regular file").into());
    }
    Size::try_from(metadata.len()).map_err(|error| cannot(&error).into())
}
