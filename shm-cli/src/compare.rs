//! `shm compare`: the same payload through every mechanism, side by side.
//!
//! The command itself only starts processes, listens to them and looks at the
//! system. For each mechanism, a [`pair`] of processes of their own ([`peer`])
//! moves the payload ([`moving`]); then two more hold a segment and are killed,
//! and what they leave is looked for ([`remains`]). What is done differently
//! for each mechanism is in [`kind`], and only there.

mod cpus;
pub(crate) mod curve;
mod destination;
pub(crate) mod distribution;
mod kind;
pub(crate) mod machine;
pub(crate) mod measure;
mod memory;
mod moving;
mod page;
mod pair;
pub(crate) mod payload;
pub(crate) mod peer;
mod plot;
mod plots;
mod progress;
mod remains;
pub(crate) mod report;
mod table;
mod turns;
pub(crate) mod units;

use std::path::PathBuf;
use std::process::ExitCode;

use shm_common::Size;

use crate::interrupts::Interrupts;
use crate::output::{complain, print, width};
use crate::{Failure, Usage};
use curve::Greatest;
use destination::Destination;
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
    /// Also writes a page with plots; `-` writes it instead of the table.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// The greatest payload of the plots, which begin with 4KiB.
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    #[arg(value_parser = curve::greatest, requires = "html")]
    up_to: Greatest,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let page = arguments.html.clone().map(Destination::from);
    let instead = page == Some(Destination::Stdout);
    if instead && arguments.json {
        let twice = "--json and --html=- cannot both go to standard output";
        return Err(Usage(format!("{twice} (see --help)")).into());
    }
    let payload = match &arguments.payload {
        None => Payload::Generated(arguments.size),
        Some(path) => Payload::of_file(path)?,
    };
    let curve = page.as_ref().map(|_| arguments.up_to.sizes(&payload));
    let plan = Plan { payload, rounds: arguments.rounds, curve };
    plan.payload.check_memory()?;
    let interrupts = Interrupts::listen()?;
    if let Some(page) = &page {
        page.check()?;
    }
    let report = measured(&plan, interrupts)?;
    let printed = match (arguments.json, instead) {
        (true, _) => print(&report.to_json()?),
        (false, false) => print(&report.to_table(width())),
        (false, true) => Ok(()),
    };
    // Nobody measures again only because one of the two did not work.
    let written = page.map_or(Ok(()), |page| page.write(&report.to_html()));
    printed.and(written)?;
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
