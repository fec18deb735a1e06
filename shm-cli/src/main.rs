//! The `shm` command: compares the shared-memory mechanisms of this machine,
//! and looks after the segments on it.
//!
//! Exit status 0: done; 1: failed, with one line on stderr; 2: wrong usage.

mod bench;
mod census;
mod compare;
mod contents;
mod copy;
mod create;
mod interrupts;
mod list;
mod mechanism;
mod output;
mod pages;
mod pass;
mod reap;
mod remove;
mod stat;
mod target;
mod view;
mod watch;

use std::fmt;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use nix::sys::signal::Signal;

use interrupts::Interrupted;
use output::{complain, written};

#[derive(Parser)]
#[command(
    name = "shm",
    version,
    about = "Looks after shared memory, and compares its mechanisms"
)]
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
    /// Shows the listing as it changes, on a terminal; and removes from it.
    Watch(watch::Arguments),
    /// Makes a segment that stays until somebody removes it.
    Create(create::Arguments),
    /// Writes a file, or what comes on standard input, into a segment.
    Write(copy::WriteArguments),
    /// Writes the bytes of a segment to standard output.
    Read(copy::ReadArguments),
    /// Removes segments; asks before it removes what somebody uses.
    Rm(remove::Arguments),
    /// Removes every segment that nobody has open, mapped, locked or attached,
    /// and whose creator is gone.
    Reap(reap::Arguments),
    /// Puts a file, or what comes on standard input, into a memfd, and hands
    /// that to a receiver.
    Send(pass::SendArguments),
    /// Takes a memfd from a sender, and writes its bytes to standard output.
    Recv(pass::ReceiveArguments),
    /// Moves a payload between two processes through every mechanism, checks
    /// every byte, and prints what it cost and what a crash leaves behind.
    Compare(compare::Arguments),
    /// Measures one mechanism: payloads of all sizes, and the hand-over of a
    /// word in detail.
    Bench(bench::Arguments),
    /// Prints what makes a shell complete these commands.
    Completions(pages::CompletionsArguments),
    /// Prints the manual page, in the form that man(1) reads.
    Man(pages::ManArguments),
    /// One of the two processes of `compare` and `bench`.
    #[command(hide = true)]
    Peer(compare::peer::Arguments),
}

/// Anything that can go wrong; its text is one line for the user.
type Failure = Box<dyn std::error::Error>;

/// What was asked for makes no sense, as only the command itself can tell.
#[derive(Debug)]
struct Usage(String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The status of wrong usage.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    survive_the_size_limit();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return explain(&error),
    };
    let done = match arguments.command {
        Command::Ls(arguments) => list::run(&arguments),
        Command::Stat(arguments) => stat::run(&arguments),
        Command::Watch(arguments) => watch::run(&arguments),
        Command::Create(arguments) => create::run(&arguments),
        Command::Write(arguments) => copy::write(&arguments),
        Command::Read(arguments) => copy::read(&arguments),
        Command::Rm(arguments) => remove::run(&arguments),
        Command::Reap(arguments) => reap::run(&arguments),
        Command::Send(arguments) => pass::send(&arguments),
        Command::Recv(arguments) => pass::receive(&arguments),
        Command::Completions(arguments) => pages::completions(&arguments),
        Command::Man(arguments) => pages::man(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
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
    match error.is::<Usage>() {
        true => ExitCode::from(USAGE),
        false => ExitCode::FAILURE,
    }
}

/// What is larger than `ulimit -f` lets it be is a failure like any other
/// (`EFBIG`), and no end by a signal.
fn survive_the_size_limit() {
    let nobody = Arc::new(AtomicBool::new(false));
    // Else it ends by the signal, as it did.
    let _ = signal_hook::flag::register(Signal::SIGXFSZ as i32, nobody);
}

/// Prints the help that was asked for, or says in one line what is wrong.
fn explain(error: &clap::Error) -> ExitCode {
    use ErrorKind::{
        DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion,
    };
    match error.kind() {
        DisplayHelp | DisplayVersion => match written(error.print()) {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&error.to_string());
                ExitCode::FAILURE
            }
        },
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
