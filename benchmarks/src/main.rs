//! Measures the libraries against C and against their peers, and writes
//! `docs/performance.md` and its plots anew.
//!
//! `cargo run --release` does it all. With `--section NAME` or `--quick` they go
//! to `target/` instead.

mod bytes;
mod cores;
mod handover;
mod lifecycle;
mod machine;
mod markdown;
mod measure;
mod payload;
mod plot;
mod trace;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::{Parser, ValueEnum};

use crate::machine::Machine;
use crate::measure::Effort;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Measures the libraries against C and against their peers.
#[derive(Parser)]
struct Arguments {
    /// Measure only these, and write a report to target/ instead of docs/
    #[arg(long, value_enum)]
    section: Vec<Section>,
    /// Measure briefly and badly, and write a report to target/
    #[arg(long)]
    quick: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    Lifecycle,
    Bytes,
    Handover,
    Payload,
    Instructions,
}

impl Section {
    fn title(self) -> &'static str {
        match self {
            Self::Lifecycle => "Life cycle",
            Self::Bytes => "Bytes",
            Self::Handover => "From one process to another",
            Self::Payload => "A payload to another process",
            Self::Instructions => "Instruction counts",
        }
    }

    fn run(self, effort: Effort, docs: &Path) -> Result<String> {
        Ok(match self {
            Self::Lifecycle => lifecycle::run(effort)?,
            Self::Bytes => bytes::run(effort, docs)?,
            Self::Handover => handover::run(effort)?,
            Self::Payload => payload::run(effort, docs)?,
            Self::Instructions => instructions()?,
        })
    }
}

/// Counted by a program of its own, that the gate in `.ci/run` builds without
/// the peers.
fn instructions() -> Result<String> {
    let output = Command::new(env!("CARGO"))
        .args(["run", "--release", "--quiet", "--package", "instructions"])
        .args(["--", "table"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()?;
    match output.status.success() {
        true => Ok(format!("{COUNTS}\n{}", String::from_utf8(output.stdout)?)),
        false => Err("cannot count instructions (is valgrind there?)".into()),
    }
}

const COUNTS: &str = "\
What one call executes in the libraries and what is compiled into them, counted \
by valgrind: the same on a busy machine, so that `.ci/run` can fail when a path \
grows by more than 5 % over what is recorded here. The C library and the kernel \
do not count. A call through a pointer, a check of its result and the arguments \
kept from the optimiser are part of each count; another compiler, or a processor \
without AVX, gives other counts.
";

fn main() -> Result<()> {
    let Arguments { mut section, quick } = Arguments::parse();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs: PathBuf = match quick || !section.is_empty() {
        true => here.join("target"),
        false => here.join("../docs"),
    };
    if section.is_empty() {
        section = Section::value_variants().to_vec();
    }
    let effort = if quick { Effort::QUICK } else { Effort::FULL };
    let machine = Machine::begin()?;
    let mut body = String::new();
    for section in section {
        eprintln!("{} …", section.title());
        let text = section.run(effort, &docs)?;
        body += &format!("\n## {}\n\n{text}", section.title());
    }
    let report = format!("{INTRODUCTION}\n{}{body}", machine.describe()?);
    let path = docs.join("performance.md");
    fs::write(&path, report)?;
    eprintln!("{} written", path.display());
    Ok(())
}

const INTRODUCTION: &str = "\
# Performance

Written by `cargo run --release` in `benchmarks/`; do not edit. A figure holds
for this machine and this hour. What carries over to others is the ratios, and
those are what to look at:
";
