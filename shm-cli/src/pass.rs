//! `shm send` and `shm recv`: a memfd over a Unix socket.
//!
//! The receiver listens and the sender connects, which waits for it. The sender
//! has done its work when the receiver has taken the message: the kernel tells
//! that, when the receiver closes its end with nothing unread.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr};
use nix::sys::stat::{Mode, umask};
use shm_memfd::{Error, Label, Segment, Size, transfer};

use crate::Failure;
use crate::census::Object;
use crate::contents;
use crate::copy::{self, Input};
use crate::interrupts::Interrupts;

/// How often the wish to stop is looked at.
const TICK: Duration = Duration::from_millis(20);

#[derive(clap::Args)]
pub(crate) struct SendArguments {
    /// Where the receiver listens.
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Seals the memfd, so that nobody can ever change it.
    #[arg(long)]
    freeze: bool,
    /// How long to wait for a receiver, such as 500ms, 10s or 1h.
    #[arg(long, value_name = "TIME", default_value = "10s")]
    #[arg(value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// What to send; without it, or as -, what comes on standard input.
    file: Option<PathBuf>,
}

#[derive(clap::Args)]
pub(crate) struct ReceiveArguments {
    /// Where to listen; only this user and root may connect.
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// How long to wait for a sender, such as 500ms, 10s or 1h; without it, for
    /// ever.
    #[arg(long, value_name = "TIME")]
    #[arg(value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
}

pub(crate) fn send(arguments: &SendArguments) -> Result<ExitCode, Failure> {
    let SendArguments { socket: path, freeze, timeout, file } = arguments;
    let segment = filled(Input::open(file.as_ref())?)?;
    let fd = match freeze {
        true => OwnedFd::from(segment.freeze().map_err(|error| error.error)?),
        false => OwnedFd::from(segment),
    };
    let patience = Patience::of(Some(*timeout));
    let socket = connect(path, &patience)?;
    transfer::send(&socket, b"!", &[fd.as_fd()])?;
    drop(fd);
    wait_until_taken(&socket, path, &patience)?;
    Ok(ExitCode::SUCCESS)
}

/// A memfd with all of the input in it.
fn filled(mut input: Input) -> Result<Segment, Failure> {
    let label = Path::new(&input.name).file_name();
    let label = label.and_then(|name| Label::new(name).ok());
    let label = label.map_or_else(|| Label::new("shm-send"), Ok)?;
    // It grows as it is written, and cannot shrink again: so it begins with the
    // least that there is.
    let segment = Segment::create(&label, Size::new(1)?)?;
    let mut file = File::from(segment.as_fd().try_clone_to_owned()?);
    let name = &input.name;
    let copied = io::copy(&mut input.reader, &mut file)
        .map_err(|error| format!("cannot copy {name}: {error}"))?;
    if copied == 0 {
        return Err(format!("cannot send {name}: it is empty").into());
    }
    // At the size that it has got.
    Ok(Segment::open(OwnedFd::from(segment))?)
}

fn connect(path: &Path, patience: &Patience) -> Result<UnixStream, Failure> {
    loop {
        match connect_at_once(path) {
            Ok(socket) => return Ok(socket),
            // Which the kernel refuses, too.
            Err(_) if is_no_socket(path) => {
                let path = path.display();
                return Err(
                    format!("cannot send to {path}: it is no socket").into()
                );
            }
            // It does not listen yet, or others wait for it, too.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound
                        | io::ErrorKind::ConnectionRefused
                        | io::ErrorKind::WouldBlock
                ) && !patience.has_ended() =>
            {
                thread::sleep(TICK);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let path = path.display();
                return Err(format!(
                    "cannot send to {path}: whoever listens there accepts \
                     nobody, and others wait already"
                )
                .into());
            }
            Err(error) => {
                let path = path.display();
                return Err(format!(
                    "cannot send to {path}: {error}; `shm recv --socket \
                     {path}` would listen there"
                )
                .into());
            }
        }
    }
}

fn is_no_socket(path: &Path) -> bool {
    let there = fs::metadata(path);
    there.is_ok_and(|metadata| !metadata.file_type().is_socket())
}

/// Never waits until others are accepted, as a plain connect(2) does: it fails
/// with `EAGAIN`.
fn connect_at_once(path: &Path) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (family, kind) = (AddressFamily::Unix, SockType::Stream);
    let socket = socket::socket(family, kind, flags, None)?;
    socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    let socket = UnixStream::from(socket);
    socket.set_nonblocking(false)?;
    Ok(socket)
}

/// Waits until the receiver closes its end; it must have read all by then.
fn wait_until_taken(
    mut socket: &UnixStream,
    path: &Path,
    patience: &Patience,
) -> Result<(), Failure> {
    let mut answer = [0; 64];
    loop {
        socket.set_read_timeout(patience.rest())?;
        match socket.read(&mut answer) {
            Ok(0) => return Ok(()),
            // Whatever it answers is its business.
            Ok(_) if !patience.has_ended() => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            answered => {
                let path = path.display();
                let error = match answered {
                    Err(e) if e.kind() != io::ErrorKind::WouldBlock => e,
                    _ => {
                        return Err(format!(
                            "cannot tell that {path} took it: it did not in \
                             time (see --timeout)"
                        )
                        .into());
                    }
                };
                return Err(format!(
                    "cannot tell that {path} took it: {error}"
                )
                .into());
            }
        }
    }
}

pub(crate) fn receive(
    arguments: &ReceiveArguments,
) -> Result<ExitCode, Failure> {
    let ReceiveArguments { socket: path, timeout } = arguments;
    let interrupts = Interrupts::listen()?;
    let patience = Patience::of(*timeout);
    let place = Place::take(path)?;
    let (socket, message) = loop {
        wait_for(place.listener.as_fd(), &interrupts, &patience)?;
        let (socket, _) = place.listener.accept()?;
        wait_for(socket.as_fd(), &interrupts, &patience)?;
        match transfer::receive(&socket, &mut [0], 1) {
            // Only a look whether anybody listens, as below.
            Err(Error::Disconnected(_)) => {}
            received => break (socket, received?),
        }
    };
    // Who comes now is refused, and knows it.
    drop(place);
    let [fd] = message.into_descriptors()?;
    // Whatever else it is, reading it may never end, or do something.
    shm_memfd::raw::fcntl_get_seals(fd.as_fd())
        .map_err(|os| format!("cannot use what was sent as a memfd: {os}"))?;
    drop(socket);
    interrupts.ignore_no_longer()?;
    let contents = contents::from_file(File::from(fd))?;
    copy::print(&*contents, 0, contents.len())?;
    Ok(ExitCode::SUCCESS)
}

/// A path that is listened at, removed when dropped.
struct Place<'a> {
    listener: UnixListener,
    path: &'a Path,
    /// The socket that lies there, which keeps its number as long as the
    /// listener lives.
    object: Object,
}

impl<'a> Place<'a> {
    /// A socket that has its path already refuses whoever comes until it
    /// listens, and would seem abandoned: so it gets the path last.
    fn take(path: &'a Path) -> Result<Self, Failure> {
        let cannot = |error: io::Error| {
            let hint = match error.kind() {
                io::ErrorKind::AlreadyExists => {
                    "; somebody listens there, or it is some other file"
                }
                _ => "",
            };
            format!("cannot listen at {}: {error}{hint}", path.display())
        };
        // A link may have a longer name than a socket that can be reached.
        UnixAddr::new(path).map_err(|errno| cannot(errno.into()))?;
        // Of any other process that wants the path; unless one that had this
        // number was killed here.
        let first = path.with_file_name(format!(".{}", process::id()));
        remove_if_abandoned(&first);
        // There is no other thread that would be surprised.
        let before = umask(Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(&first);
        umask(before);
        let listener = listener.map_err(cannot)?;
        let object = fs::symlink_metadata(&first).and_then(|metadata| {
            let mut named = fs::hard_link(&first, path);
            let taken = io::ErrorKind::AlreadyExists;
            if named.as_ref().is_err_and(|error| error.kind() == taken)
                && remove_if_abandoned(path)
            {
                named = fs::hard_link(&first, path);
            }
            named.map(|()| Object::of(&metadata))
        });
        let object = fs::remove_file(&first).and(object).map_err(cannot)?;
        Ok(Self { listener, path, object })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // Somebody else may have taken the path.
        if is_there(self.path, self.object) {
            let _ = fs::remove_file(self.path);
        }
    }
}

fn is_there(path: &Path, object: Object) -> bool {
    let there = fs::symlink_metadata(path);
    there.is_ok_and(|metadata| Object::of(&metadata) == object)
}

/// Removes a socket at which nobody listens; says whether it did.
fn remove_if_abandoned(path: &Path) -> bool {
    let socket = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => metadata,
        _ => return false,
    };
    let refuses = || {
        connect_at_once(path).is_err_and(|error| {
            error.kind() == io::ErrorKind::ConnectionRefused
        })
    };
    if !refuses() {
        return false;
    }
    // Whoever has just made it is about to listen.
    thread::sleep(5 * TICK);
    refuses()
        && is_there(path, Object::of(&socket))
        && fs::remove_file(path).is_ok()
}

/// Waits until something comes.
fn wait_for(
    fd: impl AsFd,
    interrupts: &Interrupts,
    patience: &Patience,
) -> Result<(), Failure> {
    let tick = PollTimeout::try_from(TICK)?;
    loop {
        interrupts.check()?;
        let mut readable = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut readable, tick) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
        if patience.has_ended() {
            return Err("cannot receive anything: nobody sent in time".into());
        }
    }
}

/// How long to wait; none: for ever.
struct Patience {
    until: Option<Instant>,
}

impl Patience {
    fn of(timeout: Option<Duration>) -> Self {
        // One that is beyond what can be told is for ever.
        let until = timeout.and_then(|time| Instant::now().checked_add(time));
        Self { until }
    }

    fn has_ended(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// What is left, which is never nothing.
    fn rest(&self) -> Option<Duration> {
        self.until.map(|until| {
            let rest = until.saturating_duration_since(Instant::now());
            rest.max(Duration::from_millis(1))
        })
    }
}
