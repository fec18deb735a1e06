//! `shm compare`: the same payload through every mechanism, side by side.
//!
//! The command itself only starts processes, listens to them and looks at the
//! system. For each mechanism, a [`pair`] of processes of their own ([`peer`])
//! moves the payload ([`moving`]); then two more hold a segment and are killed,
//! and what they leave is looked for ([`remains`]). What is done differently
//! for each mechanism is in [`kind`], and only there.

mod cpus;
pub(crate) mod curve;
pub(crate) mod distribution;
mod kind;
pub(crate) mod machine;
pub(crate) mod measure;
mod memory;
mod moving;
mod pair;
pub(crate) mod payload;
pub(crate) mod peer;
mod progress;
mod remains;
pub(crate) mod report;
mod table;
mod turns;
pub(crate) mod units;

use std::path::PathBuf;
use std::process::ExitCode;

use shm_common::Size;

use crate::Failure;
use crate::interrupts::Interrupts;
use crate::output::{complain, print, width};
use kind::Mechanism;
use machine::Machine;
use measure::{Plan, unavailable};
use payload::Payload;
use report::{Outcome, Report};

/// What the segments of this command are called, before numbers.
const PREFIX: &str = "shm-compare-";

/// So many that one in a thousand is still no chance.
pub(crate) const ROUNDS: u32 = 200_000;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The file to move; without it, pseudo-random bytes.
    #[arg(long, value_name = "FILE", conflicts_with = "size")]
    payload: Option<PathBuf>,
    /// How many bytes to move, such as 64KiB, 16MiB or 4096.
    #[arg(long, default_value = "32MiB")]
    size: Size,
    /// How often the hand-over of one word is timed.
    #[arg(long, value_name = "N", default_value_t = ROUNDS)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rounds: u32,
    /// Prints one JSON object instead of the table.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let plan = Plan {
        payload: match &arguments.payload {
            None => Payload::Generated(arguments.size),
            Some(path) => Payload::of_file(path)?,
        },
        rounds: arguments.rounds,
        curve: None,
    };
    plan.payload.check_memory()?;
    let interrupts = Interrupts::listen()?;
    let report = measured(&plan, interrupts)?;
    print(&match arguments.json {
        true => report.to_json()?,
        false => report.to_table(width()),
    })?;
    Ok(report.status())
}

fn measured(plan: &Plan, interrupts: Interrupts) -> Result<Report, Failure> {
    let machine = Machine::now();
    let all = Mechanism::ALL.map(|each| (each, unavailable(each)));
    let available = all.iter().filter(|(_, reason)| reason.is_none()).count();
    let mut watch = plan.begin(interrupts, available);
    let mut outcomes = Vec::new();
    for (mechanism, unavailable) in all {
        outcomes.push(match unavailable {
            None => plan.measure(mechanism, &mut watch)?,
            Some(reason) => {
                let bytes = plan.payload.size().bytes();
                Outcome::unavailable(mechanism, bytes, reason)
            }
        });
    }
    Ok(Report::new(machine, &plan.payload, plan.rounds, outcomes))
}

impl Report {
    /// Says what went wrong, if anything did.
    pub(crate) fn status(&self) -> ExitCode {
        match self.complaint() {
            None => ExitCode::SUCCESS,
            Some(line) => {
                complain(&line);
                ExitCode::FAILURE
            }
        }
    }
}
