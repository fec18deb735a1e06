//! Two processes with a socket between them, killed and swept up after when
//! dropped.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use clap::ValueEnum;

use super::peer::{Figures, Mechanism, Role, Told, Work};
use super::progress::Progress;
use super::{PREFIX, remains};
use crate::Failure;

/// How often the progress bar and the wish to stop are looked at.
const TICK: Duration = Duration::from_millis(50);

/// The user wants to stop.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted; nothing is left behind")
    }
}

impl std::error::Error for Interrupted {}

pub(crate) struct Pair {
    pub(crate) mechanism: Mechanism,
    /// What the segment is called, where it is called something.
    pub(crate) label: String,
    children: Vec<Child>,
    told: Receiver<Option<Told>>,
}

impl Pair {
    /// Starts both. With `hold` they only create, open and map a segment, and
    /// keep it.
    pub(crate) fn start(work: &Work, hold: bool) -> Result<Self, Failure> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let label = format!("{PREFIX}{}-{number}", process::id());
        let (ours, theirs) = UnixStream::pair()?;
        let (sender, told) = channel();
        // From here on, dropping this ends what was started.
        let mut pair =
            Self { mechanism: work.mechanism, label, children: vec![], told };
        for (role, socket) in [(Role::Send, ours), (Role::Receive, theirs)] {
            pair.start_one(work, hold, role, socket, sender.clone())?;
        }
        Ok(pair)
    }

    fn start_one(
        &mut self,
        work: &Work,
        hold: bool,
        role: Role,
        socket: UnixStream,
        sender: Sender<Option<Told>>,
    ) -> Result<(), Failure> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("peer").args(["--mechanism", work.mechanism.name()]);
        command.args(["--role", &value_name(role)]);
        command.args(["--size", &work.size.to_string()]);
        command.args(["--rounds", &work.rounds.to_string()]);
        command.args(["--label", &self.label]);
        if let Some(path) = &work.payload {
            command.arg("--payload").arg(path);
        }
        if hold {
            command.arg("--hold");
        }
        // A group of its own: a Ctrl-C is for the command, which cleans up.
        command.process_group(0);
        command.stdin(Stdio::from(OwnedFd::from(socket)));
        command.stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|error| format!("cannot start a process: {error}"))?;
        let stdout = child.stdout.take();
        self.children.push(child);
        let stdout = stdout.ok_or("cannot listen to the process")?;
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let told = serde_json::from_str(&line).ok();
                if sender.send(told).is_err() {
                    return;
                }
            }
            // It has ended; nobody need be listening any more.
            let _ = sender.send(None);
        });
        Ok(())
    }

    /// What the processes say next.
    fn next(
        &self,
        progress: &mut Progress,
        interrupted: &AtomicBool,
    ) -> Result<Told, Failure> {
        loop {
            progress.tick();
            if interrupted.load(Ordering::Relaxed) {
                return Err(Interrupted.into());
            }
            match self.told.recv_timeout(TICK) {
                Ok(Some(Told::Step(step))) => {
                    progress.step(self.mechanism, &step);
                }
                Ok(Some(Told::Failed(error))) => return Err(error.into()),
                Ok(Some(told)) => return Ok(told),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(None) | Err(RecvTimeoutError::Disconnected) => {
                    return Err("a process ended before it was done".into());
                }
            }
        }
    }

    /// Waits until both are done with the payload.
    pub(crate) fn figures(
        &mut self,
        progress: &mut Progress,
        interrupted: &AtomicBool,
    ) -> Result<Figures, Failure> {
        let mut sent = None;
        let mut received = None;
        loop {
            match self.next(progress, interrupted)? {
                Told::Sent(figures) => sent = Some(figures),
                Told::Received { checksum } => received = Some(checksum),
                Told::Step(_) | Told::Holding(_) | Told::Failed(_) => {
                    return Err("a process said what was not asked".into());
                }
            }
            if let (Some(figures), Some(_)) = (&sent, received) {
                let received_checksum = received;
                return Ok(Figures { received_checksum, ..figures.clone() });
            }
        }
    }

    /// Waits until both hold the segment; tells what they call it.
    pub(crate) fn held(
        &self,
        progress: &mut Progress,
        interrupted: &AtomicBool,
    ) -> Result<String, Failure> {
        let mut names = Vec::new();
        while names.len() < 2 {
            match self.next(progress, interrupted)? {
                Told::Holding(name) => names.push(name),
                _ => return Err("a process said what was not asked".into()),
            }
        }
        match &names[..] {
            [one, other] if one == other => Ok(one.clone()),
            _ => Err(format!("the processes hold {names:?}").into()),
        }
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }

    /// `SIGKILL`s both, and waits until they are gone.
    pub(crate) fn kill(&mut self) {
        for child in &mut self.children {
            // It may have ended by itself.
            let _ = child.kill();
        }
        for child in &mut self.children {
            // It is our child and was killed, so it can be waited for.
            let _ = child.wait();
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // Those that are done end by themselves, those that are not may not.
        self.kill();
        remains::sweep(self);
    }
}

fn value_name(role: Role) -> String {
    let value = role.to_possible_value();
    value.map(|value| value.get_name().to_owned()).unwrap_or_default()
}
