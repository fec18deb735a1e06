//! Runs a closure in another process: the one place that knows how.
//!
//! The test harness has threads, and a fork copies only the one that calls it:
//! whatever lock another thread held at that moment stays locked in the child
//! for ever. So a closure that runs here may allocate (the C library mends its
//! own locks after a fork), make system calls and panic; it must not print,
//! start threads, or use a lock that other tests use.
//!
//! The child always ends by `_exit`: no destructor of the parent's stack and no
//! `atexit` handler runs in it. It dies with the thread that forked it. A
//! [`Peer`] that is dropped early kills and reaps its child, so that a test that
//! panics leaves neither a process nor a zombie.
//!
//! Waiting never relies on the end of a stream, since a child that another
//! thread forks meanwhile inherits our descriptors; it waits for the process
//! itself, by pidfd, and for no longer than a deadline.
#![expect(unsafe_code, reason = "forks")]

use std::fmt;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Pid, Uid};

pub use crate::link::{DEADLINE, Link, MAX_MESSAGE};
use crate::link::{FAILED, MESSAGE, PANICKED, RETURNED, retry, wait_until};

/// Whether this process is a child of [`Peer::fork`].
static IN_CHILD: AtomicBool = AtomicBool::new(false);

/// What a panic in the child said, and where.
static PANIC: Mutex<String> = Mutex::new(String::new());

/// How a child ended that did not return a value.
#[derive(Debug)]
pub enum JoinError {
    /// The closure returned this error.
    Failed(String),
    /// The closure panicked: where, and what it said.
    Panicked(String),
    /// This signal killed the child.
    Killed(Signal),
    /// The child ended with this status and without a report.
    Exited(i32),
    /// The child still ran at the deadline, and was killed.
    Deadline,
    /// The child could not be waited for.
    Os(io::Error),
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JoinError::Failed(error) => write!(f, "the peer failed: {error}"),
            JoinError::Panicked(what) => write!(f, "the peer {what}"),
            JoinError::Killed(signal) => write!(f, "{signal} killed the peer"),
            JoinError::Exited(status) => {
                write!(f, "the peer exited early, with status {status}")
            }
            JoinError::Deadline => {
                f.write_str("the peer still ran at the deadline")
            }
            JoinError::Os(error) => write!(f, "cannot wait: {error}"),
        }
    }
}

impl std::error::Error for JoinError {}

/// A child process that runs a closure; killed and reaped when dropped.
#[derive(Debug)]
pub struct Peer {
    pid: Pid,
    pidfd: OwnedFd,
    link: Link,
    /// How the closure ended, once that was read.
    report: Option<(u8, Vec<u8>)>,
    reaped: bool,
}

impl Peer {
    /// Forks, and runs `closure` in the child.
    ///
    /// # Errors
    ///
    /// No socket pair, no process, or no pidfd can be had.
    pub fn fork<T, E>(
        closure: impl FnOnce(&Link) -> Result<T, E>,
    ) -> io::Result<Self>
    where
        T: Into<Vec<u8>>,
        E: fmt::Display,
    {
        silence_panics_in_children();
        let (ours, theirs) = Link::pair()?;
        let parent = nix::unistd::getpid();
        // SAFETY: the child only does what the module's documentation allows,
        // and never returns from here.
        match unsafe { nix::unistd::fork() }? {
            ForkResult::Child => {
                drop(ours);
                run_child(parent, &theirs, closure)
            }
            ForkResult::Parent { child } => {
                drop(theirs);
                Ok(Self {
                    pid: child,
                    pidfd: pidfd_open(child).inspect_err(|_| {
                        let _ = kill(child, Signal::SIGKILL);
                        let _ = waitpid(child, None);
                    })?,
                    link: ours,
                    report: None,
                    reaped: false,
                })
            }
        }
    }

    /// As [`fork`](Self::fork), as another user: with this user and group id
    /// and no other groups. None: this process may not become another user.
    ///
    /// # Errors
    ///
    /// As for [`fork`](Self::fork).
    pub fn fork_as<T, E>(
        id: u32,
        closure: impl FnOnce(&Link) -> Result<T, E>,
    ) -> io::Result<Option<Self>>
    where
        T: Into<Vec<u8>>,
        E: fmt::Display,
    {
        if !Uid::effective().is_root() {
            return Ok(None);
        }
        let become_other = move || -> nix::Result<()> {
            let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
            nix::unistd::setgroups(&[])?;
            nix::unistd::setresgid(gid, gid, gid)?;
            nix::unistd::setresuid(uid, uid, uid)?;
            // The kernel forgets it when the user changes.
            set_pdeathsig(Signal::SIGKILL)
        };
        let peer = Self::fork(move |link| match become_other() {
            Ok(()) => closure(link).map_err(|error| error.to_string()),
            Err(errno) => Err(format!("cannot become user {id}: {errno}")),
        })?;
        Ok(Some(peer))
    }

    /// The child's process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Sends the child a message.
    ///
    /// # Errors
    ///
    /// As for [`Link::send`].
    pub fn send(&self, message: impl AsRef<[u8]>) -> io::Result<()> {
        self.link.send(message)
    }

    /// Waits for a message of the child's, up to [`DEADLINE`].
    ///
    /// # Errors
    ///
    /// `TimedOut` at the deadline, `UnexpectedEof` when the child has ended
    /// without sending one; [`join`](Self::join) tells how.
    pub fn receive(&mut self) -> io::Result<Vec<u8>> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let alive = wait_until(self.link.as_fd(), None, Instant::now())?
                || wait_until(
                    self.link.as_fd(),
                    Some(self.pidfd.as_fd()),
                    deadline,
                )?;
            match self.link.receive_record()? {
                Some((MESSAGE, message)) => return Ok(message),
                Some(report) => self.report = Some(report),
                None if alive => {}
                None => return Err(io::ErrorKind::TimedOut.into()),
            }
            if self.report.is_some() || self.has_ended()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Sends the child a signal.
    ///
    /// # Errors
    ///
    /// The child is gone and reaped.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill(self.pid, signal)?)
    }

    /// Kills the child and waits until it is gone.
    ///
    /// # Errors
    ///
    /// It cannot be waited for.
    pub fn kill(mut self) -> io::Result<()> {
        self.kill_and_reap()
    }

    /// Waits for the child to end, up to `deadline` from now, and gives what
    /// the closure returned. Messages that were not received are dropped.
    ///
    /// # Errors
    ///
    /// [`JoinError`] says how it ended otherwise.
    pub fn join(mut self, deadline: Duration) -> Result<Vec<u8>, JoinError> {
        let ended =
            wait_until(self.pidfd.as_fd(), None, Instant::now() + deadline)
                .map_err(JoinError::Os)?;
        if !ended {
            self.kill_and_reap().map_err(JoinError::Os)?;
            return Err(JoinError::Deadline);
        }
        while self.report.is_none() {
            match self.link.receive_record().map_err(JoinError::Os)? {
                Some((MESSAGE, _)) => {}
                Some(report) => self.report = Some(report),
                None => break,
            }
        }
        let status = self.reap().map_err(JoinError::Os)?;
        match (self.report.take(), status) {
            (_, WaitStatus::Signaled(_, signal, _)) => {
                Err(JoinError::Killed(signal))
            }
            (Some((RETURNED, value)), _) => Ok(value),
            (Some((FAILED, text)), _) => Err(JoinError::Failed(lossy(text))),
            (Some((_, text)), _) => Err(JoinError::Panicked(lossy(text))),
            (None, WaitStatus::Exited(_, status)) => {
                Err(JoinError::Exited(status))
            }
            (None, _) => Err(JoinError::Exited(-1)),
        }
    }

    fn has_ended(&self) -> io::Result<bool> {
        wait_until(self.pidfd.as_fd(), None, Instant::now())
    }

    fn kill_and_reap(&mut self) -> io::Result<()> {
        // A zombie can be signalled too, so this fails only once reaped.
        kill(self.pid, Signal::SIGKILL)?;
        self.reap().map(drop)
    }

    fn reap(&mut self) -> io::Result<WaitStatus> {
        let status = retry(|| waitpid(self.pid, Some(WaitPidFlag::__WALL)))?;
        self.reaped = true;
        Ok(status)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if !self.reaped {
            // Nothing can be told here; the process is ours, so it works.
            let _ = self.kill_and_reap();
        }
    }
}

fn run_child<T, E>(
    parent: Pid,
    link: &Link,
    closure: impl FnOnce(&Link) -> Result<T, E>,
) -> !
where
    T: Into<Vec<u8>>,
    E: fmt::Display,
{
    // Without it, the child only lives a little longer.
    let _ = set_pdeathsig(Signal::SIGKILL);
    // The parent may have died before that took effect. One in another pid
    // namespace has the number 0 here.
    let parent_now = nix::unistd::getppid();
    if parent_now != parent && parent_now.as_raw() != 0 {
        exit();
    }
    run_to_exit(link, || closure(link))
}

/// Runs `closure`, reports how it ended, and ends this process.
pub(crate) fn run_to_exit<T, E>(
    link: &Link,
    closure: impl FnOnce() -> Result<T, E>,
) -> !
where
    T: Into<Vec<u8>>,
    E: fmt::Display,
{
    silence_panics_in_children();
    IN_CHILD.store(true, Ordering::Relaxed);
    let (kind, body) = match panic::catch_unwind(AssertUnwindSafe(closure)) {
        Ok(Ok(value)) => (RETURNED, value.into()),
        Ok(Err(error)) => (FAILED, error.to_string().into_bytes()),
        Err(_) => {
            let said = PANIC.lock().map(|text| text.clone());
            (PANICKED, said.unwrap_or_default().into_bytes())
        }
    };
    let end = body.len().min(MAX_MESSAGE);
    // If the parent is gone, there is nobody to tell.
    let _ = link.send_record(kind, &body[..end]);
    exit()
}

fn exit() -> ! {
    // SAFETY: ends the process at once; nothing runs after it.
    unsafe { libc::_exit(0) }
}

/// Panics in children are reported by [`Peer::join`] and not printed: printing
/// takes locks that another thread of the parent may have held.
fn silence_panics_in_children() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IN_CHILD.load(Ordering::Relaxed) {
                previous(info);
            } else if let Ok(mut text) = PANIC.lock() {
                *text = info.to_string();
            }
        }));
    });
}

fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: a call without pointers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    match i32::try_from(fd) {
        // SAFETY: the call succeeded, so it is open and only known here.
        Ok(fd @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn lossy(text: Vec<u8>) -> String {
    String::from_utf8_lossy(&text).into_owned()
}
