//! The `shm` command: compares the shared-memory mechanisms of this machine.
//!
//! Exit status 0: done; 1: failed, with one line on stderr; 2: wrong usage.

mod compare;
mod interrupts;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use interrupts::Interrupted;

#[derive(Parser)]
#[command(name = "shm", version, about = "Linux shared memory, side by side")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Moves a payload between two processes through every mechanism, checks
    /// every byte, and prints what it cost and what a crash leaves behind.
    Compare(compare::Arguments),
    /// One of the two processes of `compare`.
    #[command(hide = true)]
    Peer(compare::peer::Arguments),
}

/// Anything that can go wrong; its text is one line for the user.
type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
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

/// Says on stderr why the command failed; `eprintln!` would panic where nobody
/// listens.
fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "shm: {line}");
}
