//! The `shm` command: compares the shared-memory mechanisms of this machine.
//!
//! Exit status 0: done; 1: failed, with one line on stderr; 2: wrong usage.

mod compare;

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

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

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Peer(arguments) => compare::peer::run(&arguments),
    };
    match done {
        Ok(code) => code,
        // Whoever read our output has seen enough.
        Err(error) if is_closed_output(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shm: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Anything that can go wrong; its text is one line for the user.
type Failure = Box<dyn std::error::Error>;

fn is_closed_output(error: &(dyn std::error::Error + 'static)) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
