//! `shm peer`, which only `shm` itself calls, to compare and bench: one of the two processes that
//! share a segment. The sender creates it, the receiver finds it.
//!
//! Its standard input is the socket to the other one, which carries what finds
//! the segment and shows when the other is gone. On its standard output it
//! tells the command what it does, a JSON object a line.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use clap::ValueEnum;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::getppid;
use serde::{Deserialize, Serialize};
use shm_common::{AsSharedBytes, Size};

use super::cpus;
use super::distribution::Distribution;
use super::kind::{Kind, Mechanism, for_kind};
use super::moving;
use super::payload::{NoRoom, Payload};
use super::turns::{self, Gone};
use crate::Failure;

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Role {
    Send,
    Receive,
}

#[derive(clap::Args, Clone, PartialEq, Debug)]
pub(crate) struct Arguments {
    /// The process that started this one.
    #[arg(long)]
    pub(crate) command: i32,
    #[arg(long)]
    pub(crate) role: Role,
    #[arg(long)]
    pub(crate) mechanism: Mechanism,
    /// What the segment is called, where it is called something.
    #[arg(long)]
    pub(crate) label: String,
    /// Generated if there is none.
    #[arg(long)]
    pub(crate) payload: Option<PathBuf>,
    #[arg(long)]
    pub(crate) size: Size,
    #[arg(long)]
    pub(crate) rounds: u32,
    /// The processor to stay on.
    #[arg(long)]
    pub(crate) cpu: Option<usize>,
    /// Holds the segment until it is killed, instead of moving anything.
    #[arg(long)]
    pub(crate) hold: bool,
}

impl Arguments {
    /// As the other process will read them.
    pub(crate) fn to_command_line(&self) -> Vec<OsString> {
        let mut line = vec!["peer".into()];
        let mut add = |option: &str, value: OsString| {
            // In one word: a value may begin with a hyphen.
            let mut word = OsString::from(format!("--{option}="));
            word.push(value);
            line.push(word);
        };
        add("command", self.command.to_string().into());
        add("role", name(self.role).into());
        add("mechanism", name(self.mechanism).into());
        add("label", (&self.label).into());
        if let Some(path) = &self.payload {
            add("payload", path.into());
        }
        add("size", self.size.to_string().into());
        add("rounds", self.rounds.to_string().into());
        if let Some(cpu) = self.cpu {
            add("cpu", cpu.to_string().into());
        }
        if self.hold {
            line.push("--hold".into());
        }
        line
    }

    pub(crate) fn payload(&self) -> Payload {
        match &self.payload {
            Some(path) => Payload::File(path.clone(), self.size),
            None => Payload::Generated(self.size),
        }
    }
}

fn name(value: impl ValueEnum) -> String {
    let value = value.to_possible_value();
    value.map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// What a process tells the command.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Told {
    /// What it does now.
    Step(String),
    Sent(Sent),
    Received(Received),
    /// What the segment that it holds is, as [`Kind::describe`] gives it.
    Holding(String),
    /// There is no room for so large a segment or payload.
    NoRoom(String),
    Failed(String),
}

/// What the sender measured; times in nanoseconds.
#[derive(Serialize, Deserialize)]
pub(crate) struct Sent {
    /// The processor that it stayed on.
    pub(crate) cpu: Option<usize>,
    /// Of the payload.
    pub(crate) checksum: u64,
    pub(crate) set_up: u64,
    pub(crate) map: u64,
    pub(crate) first_touch: u64,
    pub(crate) transfer: u64,
    pub(crate) hand_over: Distribution,
    pub(crate) tear_down: u64,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Received {
    /// The processor that it stayed on.
    pub(crate) cpu: Option<usize>,
    /// Of what it copied out of the segment, each time the same.
    pub(crate) checksum: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    // Whatever becomes of the command, this process goes with it.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid().as_raw() != arguments.command {
        return Err("cannot run by itself: shm starts it".into());
    }
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mechanism = arguments.mechanism;
    let done = for_kind!(mechanism, K => share::<K>(arguments, &socket));
    if let Err(error) = done {
        // Why the other is gone, it has told itself.
        if !error.is::<Gone>() {
            let text = error.to_string();
            tell(&match is_for_want_of_room(&error) {
                true => Told::NoRoom(text),
                false => Told::Failed(text),
            })?;
        }
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether a smaller payload might do.
fn is_for_want_of_room(error: &Failure) -> bool {
    use shm_common::Error::{LimitReached, NoSpace, OutOfMemory};
    error.is::<NoRoom>()
        || error.downcast_ref::<shm_common::Error>().is_some_and(|error| {
            matches!(error, NoSpace { .. } | LimitReached(_) | OutOfMemory(_))
        })
}

fn share<K: Kind>(
    arguments: &Arguments,
    socket: &UnixStream,
) -> Result<(), Failure> {
    let cpu = arguments.cpu.filter(|cpu| cpus::stay_on(*cpu));
    match (arguments.role, arguments.hold) {
        (Role::Send, false) => {
            tell(&Told::Sent(moving::send::<K>(arguments, socket, cpu)?))
        }
        (Role::Receive, false) => {
            let received = moving::receive::<K>(arguments, socket, cpu)?;
            tell(&Told::Received(received))
        }
        (Role::Send, true) => {
            let size = segment_size(arguments.size)?;
            let segment = K::create(&arguments.label, size)?;
            K::announce(&segment, socket)?;
            hold::<K>(&segment)
        }
        (Role::Receive, true) => hold::<K>(&K::find(socket)?),
    }
}

/// Of a segment for that payload.
pub(crate) fn segment_size(payload: Size) -> shm_common::Result<Size> {
    // It cannot wrap: a size is at most `isize::MAX`.
    Size::new(turns::LEN + payload.bytes())
}

/// Keeps the segment in use until this process is killed.
fn hold<K: Kind>(segment: &K::Segment) -> Result<(), Failure> {
    let mapping = K::map(segment)?;
    mapping.as_shared_bytes().write_at(turns::LEN, b"!")?;
    tell(&Told::Holding(K::describe(segment)))?;
    loop {
        thread::park();
    }
}

pub(crate) fn tell(told: &Told) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string(told)?)?;
    Ok(stdout.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::os::unix::ffi::OsStringExt;

    #[derive(Parser)]
    struct Reader {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn the_other_process_reads_what_was_written() {
        let mut written = Arguments {
            command: 7,
            role: Role::Receive,
            mechanism: Mechanism::Memfd,
            label: "label".to_owned(),
            payload: None,
            size: Size::MIB,
            rounds: 3,
            cpu: None,
            hold: false,
        };
        for whole in [false, true] {
            if whole {
                let odd = OsString::from_vec(b"--a b=\xff".to_vec());
                written.payload = Some(odd.into());
                written.cpu = Some(5);
                written.hold = true;
            }
            let read = Reader::parse_from(written.to_command_line());
            assert_eq!(read.arguments, written);
        }
    }

    #[test]
    fn the_greatest_payload_is_an_error_and_not_a_panic() {
        assert!(segment_size(Size::MAX).is_err());
    }
}
