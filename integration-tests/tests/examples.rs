//! The examples `send` and `receive` of each mechanism crate, as two programs
//! that are started by hand, with a real file as the payload.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A directory of this test's own, removed at its end.
struct Directory(PathBuf);

impl Directory {
    fn new(tag: &str) -> Self {
        let name = format!("shmtest-{}-examples-{tag}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A sender that does not outlive its test.
struct Sender(Child);

impl Sender {
    /// Starts it and reads the line by which it says that it is ready.
    fn start(command: &mut Command) -> (Self, String) {
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut sender = Self(child);
        let stderr = sender.0.stderr.take().unwrap();
        let mut line = String::new();
        BufReader::new(stderr).read_line(&mut line).unwrap();
        (sender, line)
    }

    fn wait(mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the sender still waits");
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The examples as cargo builds them for this run; `--test` alone would not.
fn example(name: &str) -> Command {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| {
        let exe = std::env::current_exe().unwrap();
        let profile = exe.parent().and_then(Path::parent).unwrap();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--examples", "--offline"]);
        for mechanism in ["shm-sysv", "shm-posix", "shm-memfd"] {
            build.args(["-p", mechanism]);
        }
        if profile.ends_with("release") {
            build.arg("--release");
        }
        build.arg("--target-dir").arg(profile.parent().unwrap());
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        assert!(build.status().unwrap().success());
        profile.join("examples")
    });
    Command::new(directory.join(name))
}

/// A file larger than one piece of the examples, and no multiple of it.
fn payload(directory: &Path) -> (PathBuf, Vec<u8>) {
    let contents: Vec<u8> =
        (0_u32..2_500_007).map(|i| (i * 31 / 8).to_le_bytes()[0]).collect();
    let path = directory.join("payload");
    fs::write(&path, &contents).unwrap();
    (path, contents)
}

fn receive(command: &mut Command, copy: &Path, expected: &[u8]) {
    let output = command.arg(copy).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(fs::read(copy).unwrap() == expected, "the copy differs");
}

#[test]
fn a_file_travels_by_posix_name() {
    let directory = Directory::new("posix");
    let (path, contents) = payload(&directory.0);
    let name = format!("/shmtest-{}-examples", std::process::id());
    let mut send = example("posix-send");
    let (sender, _) = Sender::start(send.arg(&name).arg(path));
    let mut command = example("posix-receive");
    receive(command.arg(&name), &directory.0.join("copy"), &contents);
    sender.wait();
    assert!(!Path::new("/dev/shm").join(&name[1..]).exists());
}

#[test]
fn a_file_travels_by_system_v_identifier() {
    let directory = Directory::new("sysv");
    let (path, contents) = payload(&directory.0);
    let (sender, line) = Sender::start(example("sysv-send").arg(path));
    // "2500007 bytes in id 7: run receive within a minute"
    let (_, id) = line.split_once("in id ").unwrap();
    let (id, _) = id.split_once(':').unwrap();
    let mut command = example("sysv-receive");
    receive(command.arg(id), &directory.0.join("copy"), &contents);
    sender.wait();
    let id: shm_sysv::Id = id.parse().unwrap();
    assert!(shm_sysv::Segment::open_id(id).is_err(), "{id} is still there");
}

#[test]
fn a_file_travels_by_memfd_over_a_socket() {
    let directory = Directory::new("memfd");
    let (path, contents) = payload(&directory.0);
    let socket = directory.0.join("socket");
    let mut send = example("memfd-send");
    let (sender, _) = Sender::start(send.arg(&socket).arg(path));
    let mut command = example("memfd-receive");
    receive(command.arg(&socket), &directory.0.join("copy"), &contents);
    sender.wait();
    assert!(!socket.exists());
}

#[test]
fn an_example_that_is_called_wrongly_says_how() {
    for name in [
        "posix-send",
        "posix-receive",
        "sysv-send",
        "sysv-receive",
        "memfd-send",
        "memfd-receive",
    ] {
        let output = example(name).output().unwrap();
        assert!(!output.status.success(), "{name}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("usage: "), "{name}: {text}");
    }
}
