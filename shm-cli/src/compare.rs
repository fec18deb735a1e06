//! `shm compare`: the same payload through every mechanism, side by side.
//!
//! The command itself only starts processes, listens to them and looks at the
//! system. For each mechanism, a [`pair`] of processes of their own ([`peer`])
//! moves the payload ([`moving`]); then two more hold a segment and are killed,
//! and what they leave is looked for ([`remains`]). What is done differently
//! for each mechanism is in [`kind`], and only there.

mod cpus;
mod kind;
mod moving;
mod pair;
mod payload;
pub(crate) mod peer;
mod progress;
mod remains;
mod report;
mod table;
mod turns;

use std::path::PathBuf;
use std::process::ExitCode;

use shm_common::Size;

use crate::Failure;
use crate::interrupts::{Interrupted, Interrupts};
use crate::output::{complain, print, width};
use kind::{Kind, Mechanism, for_kind};
use pair::{Pair, Work};
use payload::Payload;
use progress::Progress;
use report::{Outcome, Report};

/// What the segments of this command are called, before numbers.
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
    let payload = match &arguments.payload {
        None => Payload::Generated(arguments.size),
        Some(path) => Payload::of_file(path)?,
    };
    payload.check_memory()?;
    let interrupts = Interrupts::listen()?;
    remains::reap_all();
    let mut progress = Progress::new();
    let mut outcomes = Vec::new();
    for mechanism in Mechanism::ALL {
        let work = Work {
            mechanism,
            payload: payload.clone(),
            rounds: arguments.rounds,
        };
        progress.begin(mechanism);
        if let Some(reason) = for_kind!(mechanism, K => K::unavailable()) {
            let bytes = payload.size().bytes();
            outcomes.push(Outcome::unavailable(mechanism, bytes, reason));
            continue;
        }
        let outcome = compare(&work, &mut progress, &interrupts);
        if let Err(error) = &outcome
            && error.is::<Interrupted>()
        {
            return outcome.map(|_| ExitCode::FAILURE);
        }
        outcomes.push(outcome.unwrap_or_else(|error| {
            let bytes = payload.size().bytes();
            Outcome::failed(mechanism, bytes, error.to_string())
        }));
    }
    progress.finish();
    let report = Report::new(&payload, arguments.rounds, outcomes);
    print(&match arguments.json {
        true => report.to_json()?,
        false => report.to_table(width()),
    })?;
    Ok(match report.complaint() {
        None => ExitCode::SUCCESS,
        Some(line) => {
            complain(&line);
            ExitCode::FAILURE
        }
    })
}

fn compare(
    work: &Work,
    progress: &mut Progress,
    interrupts: &Interrupts,
) -> Result<Outcome, Failure> {
    let mut pair = Pair::start(work, pair::Until::Moved)?;
    let (sent, received) = pair.figures(progress, interrupts)?;
    drop(pair);
    progress.step("killing both");
    let pair = Pair::start(work, pair::Until::Killed)?;
    let remains = remains::after_sigkill(pair, progress, interrupts)?;
    let bytes = work.payload.size().bytes();
    let figures = (&sent, &received);
    Ok(Outcome::measured(work.mechanism, bytes, figures, remains))
}
