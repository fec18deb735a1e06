//! `shm send` and `shm recv`, with one another and with programs of others.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use nix::unistd::Pid;
use shm_memfd::{Frozen, Segment, transfer};

use crate::support::*;

struct Place {
    directory: Directory,
}

impl Place {
    fn new() -> Self {
        Self { directory: Directory::new() }
    }

    fn socket(&self) -> PathBuf {
        self.directory.0.join("socket")
    }

    fn option(&self) -> String {
        format!("--socket={}", self.socket().display())
    }

    fn file(&self, bytes: &[u8]) -> String {
        let path = self.directory.0.join("file");
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Starts a receiver; the command itself, that signals reach it.
    fn receive(&self) -> Child {
        Command::new(env!("CARGO_BIN_EXE_shm"))
            .args(["recv", "--timeout=50s", &self.option()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// The socket is there a moment before anybody listens at it. To the
    /// receiver, this is a look and no sender.
    /// A socket that has its path and does not listen yet.
    fn bind(&self) -> OwnedFd {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (family, kind) = (AddressFamily::Unix, SockType::Stream);
        let socket = socket(family, kind, flags, None).unwrap();
        let address = UnixAddr::new(&self.socket()).unwrap();
        bind(socket.as_raw_fd(), &address).unwrap();
        socket
    }

    fn wait_until_it_listens(&self) {
        let begun = Instant::now();
        while UnixStream::connect(self.socket()).is_err() {
            assert!(begun.elapsed().as_secs() < 50, "it does not listen");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn what_is_sent_is_received_from_a_file_and_from_standard_input() {
    for (frozen, by_name) in [(false, true), (true, false)] {
        let place = Place::new();
        let all = bytes(1_000_003);
        let file = place.file(&all);
        let receiver = place.receive();
        let mut send = shm(["send", &place.option()]);
        if frozen {
            send.arg("--freeze");
        }
        match by_name {
            true => send.arg(&file),
            false => send.stdin(fs::File::open(&file).unwrap()),
        };
        assert_eq!(stdout(&mut send), "");
        let output = receiver.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
        assert!(output.stdout == all);
        assert!(!place.socket().exists());
    }
}

/// The receiver that another program is.
#[test]
fn only_what_is_frozen_cannot_be_changed() {
    for frozen in [true, false] {
        let place = Place::new();
        let listener = UnixListener::bind(place.socket()).unwrap();
        let mut send = shm(["send", &place.option(), &place.file(b"hello")]);
        if frozen {
            send.arg("--freeze");
        }
        let sender = send.stderr(Stdio::piped()).spawn().unwrap();
        let (socket, _) = listener.accept().unwrap();
        let message = transfer::receive(&socket, &mut [0], 1).unwrap();
        let [fd] = message.into_descriptors().unwrap();
        drop(socket);
        let copy = fd.try_clone().unwrap();
        assert_eq!(Frozen::open(copy).is_ok(), frozen);
        let segment = Segment::open_read_only(fd).unwrap();
        assert_eq!(segment.map().unwrap().bytes().to_vec(), b"hello");
        let output = sender.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

/// `socket.send_fds` of Python, of a memfd with no seals at all.
#[test]
fn a_memfd_of_a_program_in_python_is_received() {
    const PROGRAM: &str = "
import os, socket, sys, time
fd = os.memfd_create('frames')
os.write(fd, b'sent by Python')
for _ in range(5000):
    try:
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(sys.argv[1])
        break
    except OSError:
        time.sleep(0.01)
socket.send_fds(peer, [b'x'], [fd])
";
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("left out: needs python3");
        return;
    }
    let place = Place::new();
    let receiver = place.receive();
    let mut python = Command::new("python3");
    python.args(["-c", PROGRAM]).arg(place.socket());
    assert!(python.status().unwrap().success());
    let output = receiver.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"sent by Python");
}

#[test]
fn what_is_no_memfd_is_not_read() {
    let (reader, _writer) = std::io::pipe().unwrap();
    let directory = fs::File::open("/").unwrap();
    let null = fs::File::open("/dev/zero").unwrap();
    for fd in [reader.as_fd(), directory.as_fd(), null.as_fd()] {
        let place = Place::new();
        let receiver = place.receive();
        place.wait_until_it_listens();
        let socket = UnixStream::connect(place.socket()).unwrap();
        transfer::send(&socket, b"!", &[fd]).unwrap();
        let output = receiver.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(line(&output).contains("as a memfd"), "{output:?}");
    }
}

#[test]
fn a_message_without_a_memfd_is_told() {
    let place = Place::new();
    let receiver = place.receive();
    place.wait_until_it_listens();
    let mut socket = UnixStream::connect(place.socket()).unwrap();
    socket.write_all(b"hello").unwrap();
    let output = receiver.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(line(&output).contains("0 arrived"), "{output:?}");
    assert!(!place.socket().exists());
}

#[test]
fn a_file_is_no_socket_and_is_not_waited_for() {
    let place = Place::new();
    let file = place.file(b"x");
    let socket = format!("--socket={file}");
    let line = failure(&mut shm(["send", &socket, "--timeout=1h", &file]), 1);
    assert!(line.contains("it is no socket"), "{line}");
}

#[test]
fn nobody_waits_for_ever() {
    let place = Place::new();
    let option = place.option();
    let file = place.file(b"x");
    let send = ["send", &option, "--timeout=30ms", &file];
    let line = failure(&mut shm(send), 1);
    assert!(line.contains("shm recv --socket"), "{line}");
    let line = failure(&mut shm(["recv", &option, "--timeout=30ms"]), 1);
    assert!(line.contains("nobody sent in time"), "{line}");
    assert!(!place.socket().exists());
    // One that accepts and does not receive.
    let _listener = UnixListener::bind(place.socket()).unwrap();
    let line = failure(&mut shm(send), 1);
    assert!(line.contains("cannot tell that"), "{line}");
}

#[test]
fn nobody_listens_where_nobody_can_connect() {
    let place = Place::new();
    let socket = place.directory.0.join("s".repeat(108));
    let option = format!("--socket={}", socket.display());
    let line = failure(&mut shm(["recv", "--timeout=1s", &option]), 1);
    assert!(line.contains("cannot listen at "), "{line}");
    assert!(line.contains("File name too long"), "{line}");
    assert_eq!(fs::read_dir(&place.directory.0).unwrap().count(), 0);
}

#[test]
fn a_receiver_that_goes_without_reading_is_a_failure() {
    let place = Place::new();
    let listener = UnixListener::bind(place.socket()).unwrap();
    let mut send = shm(["send", &place.option(), &place.file(b"x")]);
    let sender = send.stderr(Stdio::piped()).spawn().unwrap();
    let (socket, _) = listener.accept().unwrap();
    // Until it has been sent.
    let mut peeked =
        [nix::poll::PollFd::new(socket.as_fd(), nix::poll::PollFlags::POLLIN)];
    nix::poll::poll(&mut peeked, 50_000_u16).unwrap();
    drop(socket);
    let output = sender.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(line(&output).contains("cannot tell that"), "{output:?}");
}

#[test]
fn the_socket_is_for_this_user_and_goes_with_the_receiver() {
    let place = Place::new();
    let receiver = place.receive();
    place.wait_until_it_listens();
    let mode = fs::metadata(place.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // One that is listened at is not taken over.
    let line = failure(&mut shm(["recv", &place.option()]), 1);
    assert!(line.contains("cannot listen at"), "{line}");
    let pid = Pid::from_raw(receiver.id().cast_signed());
    kill(pid, Signal::SIGTERM).unwrap();
    let output = receiver.wait_with_output().unwrap();
    assert_eq!(output.status.signal(), Some(15), "{output:?}");
    assert!(!place.socket().exists());
}

#[test]
fn what_a_killed_receiver_left_is_taken_over_and_no_file() {
    let place = Place::new();
    let mut killed = place.receive();
    place.wait_until_it_listens();
    killed.kill().unwrap();
    killed.wait().unwrap();
    let metadata = fs::symlink_metadata(place.socket()).unwrap();
    assert!(metadata.file_type().is_socket());
    let receiver = place.receive();
    stdout(&mut shm(["send", &place.option(), &place.file(b"again")]));
    let output = receiver.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"again", "{output:?}");
    fs::write(place.socket(), b"a file").unwrap();
    let line = failure(&mut shm(["recv", &place.option()]), 1);
    assert!(line.contains("cannot listen at"), "{line}");
    assert_eq!(fs::read(place.socket()).unwrap(), b"a file");
}

#[test]
fn what_others_put_in_its_place_is_theirs() {
    let place = Place::new();
    let receiver = place.receive();
    place.wait_until_it_listens();
    // It takes that for a look, and closes its end: so it waits in its loop.
    let look = UnixStream::connect(place.socket()).unwrap();
    look.shutdown(Shutdown::Write).unwrap();
    assert_eq!((&look).read(&mut [0]).unwrap(), 0);
    fs::remove_file(place.socket()).unwrap();
    fs::write(place.socket(), b"a file").unwrap();
    let pid = Pid::from_raw(receiver.id().cast_signed());
    kill(pid, Signal::SIGTERM).unwrap();
    let output = receiver.wait_with_output().unwrap();
    assert_eq!(output.status.signal(), Some(15), "{output:?}");
    assert_eq!(fs::read(place.socket()).unwrap(), b"a file");
}

/// It has its socket, and is about to listen.
#[test]
fn one_that_does_not_listen_yet_keeps_its_socket() {
    let place = Place::new();
    let (other, path) = (place.bind(), place.socket());
    let inode = fs::symlink_metadata(&path).unwrap().ino();
    let mut receive = shm(["recv", &place.option(), "--timeout=1s"]);
    let receiver = receive.stderr(Stdio::piped()).spawn().unwrap();
    // By the time that the receiver looks for the second time, if it can.
    thread::sleep(Duration::from_millis(30));
    listen(&other, Backlog::new(1).unwrap()).unwrap();
    let output = receiver.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(fs::symlink_metadata(&path).unwrap().ino(), inode);
    assert!(line(&output).contains("somebody listens there"), "{output:?}");
}

/// A plain connect(2) would wait for ever.
#[test]
fn a_crowd_before_a_receiver_that_accepts_nobody_is_told() {
    let place = Place::new();
    let (other, path) = (place.bind(), place.socket());
    listen(&other, Backlog::new(0).unwrap()).unwrap();
    let _first = UnixStream::connect(&path).unwrap();
    let option = place.option();
    let file = place.file(b"x");
    let send = ["send", &option, "--timeout=30ms", &file];
    let line = failure(&mut shm(send), 1);
    assert!(line.contains("others wait already"), "{line}");
    let line = failure(&mut shm(["recv", &option]), 1);
    assert!(line.contains("cannot listen at"), "{line}");
}

#[test]
fn nothing_cannot_be_sent() {
    let place = Place::new();
    let file = place.file(b"");
    for (file, what) in [
        (file.as_str(), "it is empty"),
        ("/missing", "No such file"),
        ("/", "directory"),
        ("-", "it is empty"),
    ] {
        let mut send = shm(["send", "--timeout=0s", &place.option(), file]);
        let line = failure(&mut send, 1);
        assert!(line.contains(what), "{line}");
    }
}
