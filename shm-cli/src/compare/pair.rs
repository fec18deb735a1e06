//! Two processes with a socket between them, killed and swept up after when
//! dropped.

use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;

use super::kind::{Kind, Mechanism, for_kind};
use super::payload::{NoRoom, Payload};
use super::peer::{Arguments, Received, Role, Sent, Told};
use super::progress::Progress;
use super::{PREFIX, cpus};
use crate::Failure;
use crate::interrupts::Interrupts;

/// How often the progress bar and the wish to stop are looked at.
const TICK: Duration = Duration::from_millis(50);

/// What both processes are to do.
pub(crate) struct Work {
    pub(crate) mechanism: Mechanism,
    pub(crate) payload: Payload,
    pub(crate) rounds: u32,
}

/// How long a pair goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// It moves the payload, and ends.
    Moved,
    /// It only holds a segment.
    Killed,
}

pub(crate) struct Pair {
    mechanism: Mechanism,
    label: String,
    /// The sender comes first.
    children: Vec<Child>,
    /// What they say; none when one has ended.
    told: Receiver<Option<Told>>,
}

impl Pair {
    pub(crate) fn start(work: &Work, until: Until) -> Result<Self, Failure> {
        let [one, other] = match cpus::two() {
            Some(cpus) => cpus.map(Some),
            None => [None, None],
        };
        let (ours, theirs) = UnixStream::pair()?;
        let (sender, told) = channel();
        let mechanism = work.mechanism;
        // From here on, dropping this ends what was started.
        let mut pair =
            Self { mechanism, label: label(), children: vec![], told };
        for (role, cpu, socket) in
            [(Role::Send, one, ours), (Role::Receive, other, theirs)]
        {
            let arguments = Arguments {
                command: process::id().cast_signed(),
                role,
                mechanism,
                label: pair.label.clone(),
                payload: work.payload.path().map(Into::into),
                size: work.payload.size(),
                rounds: work.rounds,
                cpu,
                hold: until == Until::Killed,
            };
            pair.start_one(&arguments, socket, sender.clone())?;
        }
        Ok(pair)
    }

    fn start_one(
        &mut self,
        arguments: &Arguments,
        socket: UnixStream,
        sender: Sender<Option<Told>>,
    ) -> Result<(), Failure> {
        // This program, even if its file has been replaced meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("shm").args(arguments.to_command_line());
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
        thread::Builder::new().spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let told = serde_json::from_str(&line);
                let told = told.unwrap_or_else(|_| {
                    Told::Failed(format!("a process said {line:?}"))
                });
                if sender.send(Some(told)).is_err() {
                    return;
                }
            }
            // Nobody need be listening any more.
            let _ = sender.send(None);
        })?;
        Ok(())
    }

    pub(crate) fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Waits until the payload has been moved; gives what both say of it.
    pub(crate) fn figures(
        &mut self,
        progress: &Progress,
        interrupts: &Interrupts,
    ) -> Result<(Sent, Received), Failure> {
        let (mut sent, mut received) = (None, None);
        loop {
            match self.next(progress, interrupts)? {
                Told::Sent(figures) => sent = Some(figures),
                Told::Received(figures) => received = Some(figures),
                _ => return Err("a process said what was not asked".into()),
            }
            match (sent, received) {
                (Some(sent), Some(received)) => return Ok((sent, received)),
                not_yet => (sent, received) = not_yet,
            }
        }
    }

    /// Waits until both hold the segment; gives what they call it.
    pub(crate) fn held(
        &mut self,
        progress: &Progress,
        interrupts: &Interrupts,
    ) -> Result<String, Failure> {
        let mut names = Vec::new();
        while names.len() < self.children.len() {
            match self.next(progress, interrupts)? {
                Told::Holding(name) => names.push(name),
                _ => return Err("a process said what was not asked".into()),
            }
        }
        names.dedup();
        match &names[..] {
            [name] => Ok(name.clone()),
            _ => Err(format!("the processes hold different {names:?}").into()),
        }
    }

    /// What the processes say next, other than the steps they take.
    fn next(
        &mut self,
        progress: &Progress,
        interrupts: &Interrupts,
    ) -> Result<Told, Failure> {
        let mut ended = 0;
        loop {
            progress.tick();
            interrupts.check()?;
            match self.told.recv_timeout(TICK) {
                Ok(Some(Told::Step(step))) => progress.step(&step),
                Ok(Some(Told::Failed(error))) => return Err(error.into()),
                Ok(Some(Told::NoRoom(why))) => return Err(NoRoom(why).into()),
                Ok(Some(told)) => return Ok(told),
                Err(RecvTimeoutError::Timeout) => {}
                // The other one may have to say why.
                Ok(None) if ended == 0 => ended += 1,
                Ok(None) | Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.how_they_ended().into());
                }
            }
        }
    }

    /// For processes that ended without a word.
    fn how_they_ended(&mut self) -> String {
        let children = self.children.iter_mut();
        let mut statuses = children.filter_map(|child| child.wait().ok());
        match statuses.find_map(|status| status.signal()) {
            Some(number) => {
                let signal = Signal::try_from(number);
                let name = signal.map_or("a signal", Signal::as_str);
                let hint = match signal {
                    Ok(Signal::SIGKILL) => " (is there too little memory?)",
                    Ok(Signal::SIGXFSZ) => " (ulimit -f is less)",
                    _ => "",
                };
                format!("{name} ended a process before it was done{hint}")
            }
            None => "a process ended before it was done".to_owned(),
        }
    }

    /// Kills both, and waits until they are gone.
    ///
    /// # Errors
    ///
    /// One of them did not die of it.
    pub(crate) fn sigkill(&mut self) -> Result<(), Failure> {
        let statuses = self.kill();
        let killed = |status: &ExitStatus| {
            status.signal() == Some(Signal::SIGKILL as i32)
        };
        match statuses.len() == self.children.len()
            && statuses.iter().all(killed)
        {
            true => Ok(()),
            false => Err("a process ended before it was killed".into()),
        }
    }

    fn kill(&mut self) -> Vec<ExitStatus> {
        for child in &mut self.children {
            // It may have ended by itself.
            let _ = child.kill();
        }
        // They are our children and were killed, so they can be waited for.
        self.children.iter_mut().flat_map(Child::wait).collect()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // Those that are done end by themselves, those that are not may not.
        self.kill();
        let dead: Vec<u32> = self.children.iter().map(Child::id).collect();
        for_kind!(self.mechanism, K => K::sweep(&self.label, &dead));
    }
}

/// What nobody else calls a segment. A process of the same number may use the
/// same `/dev/shm` from another container; so the time is part of it.
fn label() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let nanoseconds = now.map_or(0, |now| now.subsec_nanos());
    format!("{PREFIX}{}-{number}-{nanoseconds:08x}", process::id())
}
