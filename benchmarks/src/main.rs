//! Measures the libraries against C and against their peers, and writes
//! `docs/performance.md` and its plots anew.
//!
//! `cargo run --release` does it all. With `--section NAME` or `--quick` the
//! figures are printed and no file is touched.

mod lifecycle;
mod machine;
mod markdown;
mod measure;
mod trace;

use std::error::Error;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::machine::Machine;
use crate::measure::Effort;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Measures the libraries against C and against their peers.
#[derive(Parser)]
struct Arguments {
    /// Measure only this, print it, and write nothing
    #[arg(long)]
    section: Option<Section>,
    /// Measure briefly and badly, print it, and write nothing
    #[arg(long)]
    quick: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    Lifecycle,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let effort = match arguments.quick {
        true => Effort { round: Duration::from_micros(500), rounds: 5 },
        false => Effort { round: Duration::from_millis(2), rounds: 21 },
    };
    let machine = Machine::begin()?;
    let text = lifecycle::run(effort)?;
    eprintln!("{}\n{text}", machine.describe()?);
    Ok(())
}
