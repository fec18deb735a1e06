//! The `shm` command: compares the shared-memory mechanisms of this machine,
//! and looks after the segments on it.
//!
//! Exit status 0: done; 1: failed, with one line on stderr; 2: wrong usage.

mod census;
mod compare;
mod interrupts;
mod list;
mod mechanism;
mod output;
mod reap;
mod remove;
mod stat;
mod target;
mod view;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use interrupts::Interrupted;
use output::complain;

#[derive(Parser)]
#[command(name = "shm", version, about = "Linux shared memory, side by side")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lists every segment on the machine: what it is, who has it, and whether
    /// anybody needs it.
    Ls(list::Arguments),
    /// Tells what there is to know about one segment.
    Stat(stat::Arguments),
    /// Removes segments; asks before it removes what somebody uses.
    Rm(remove::Arguments),
    /// Removes every segment that nobody has open, mapped, locked or attached,
    /// and whose creator is gone.
    Reap(reap::Arguments),
    /// Moves a payload between two processes through every mechanism, checks
    /// every byte, and prints what it cost and what a crash leaves behind.
    Compare(compare::Arguments),
    /// One of the two processes of `compare`.
    #[command(hide = true)]
    Peer(compare::peer::Arguments),
}

/// Anything that can go wrong; its text is one line for the user.
type Failure = Box<dyn std::error::Error>;

/// The status of wrong usage.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return explain(&error),
    };
    let done = match arguments.command {
        Command::Ls(arguments) => list::run(&arguments),
        Command::Stat(arguments) => stat::run(&arguments),
        Command::Rm(arguments) => remove::run(&arguments),
        Command::Reap(arguments) => reap::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Peer(arguments) => compare::peer::run(&arguments),
    };
    let error = match done {
        Ok(code) => return code,
        Err(error) => error,
    };
    complain(&error.to_string());
    if let Some(interrupted) = error.downcast_ref::<Interrupted>() {
        interrupted.end_this_process();
    }
    ExitCode::FAILURE
}

/// Prints the help that was asked for, or says in one line what is wrong.
fn explain(error: &clap::Error) -> ExitCode {
    use ErrorKind::{
        DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion,
    };
    match error.kind() {
        DisplayHelp | DisplayVersion => {
            // Whoever closed the pipe has seen enough.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(USAGE)
        }
        _ => {
            complain(&in_one_line(&error.to_string()));
            ExitCode::from(USAGE)
        }
    }
}

/// What `clap` spreads over a paragraph, a tip and the usage.
fn in_one_line(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let lines = text.lines().map(str::trim);
    let told: Vec<&str> = lines
        .take_while(|line| !line.starts_with("Usage:"))
        .filter(|line| !line.is_empty() && !line.starts_with("For more"))
        .collect();
    format!("{} (see --help)", told.join(" "))
}
