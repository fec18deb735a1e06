//! Running the command, and looking at what it leaves behind.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use integration_tests::leaks;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Those that every machine has.
pub(crate) const MECHANISMS: [&str; 3] = ["sysv", "posix", "memfd"];

/// Nothing here takes that long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(50);

/// So often that a test has the time to see it, and can [`Run::pause`] it.
pub(crate) const MANY: &str = "--rounds=300000";

/// The command with `compare`; its output is to be read.
pub(crate) fn compare<const N: usize>(arguments: [&str; N]) -> Command {
    shm("compare", arguments)
}

pub(crate) fn shm<const N: usize>(
    subcommand: &str,
    arguments: [&str; N],
) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shm"));
    command.arg(subcommand).args(arguments);
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for it to end.
pub(crate) fn output(command: &mut Command) -> Output {
    Run::start(command).output()
}

/// The JSON object that it prints.
pub(crate) fn json(output: &Output) -> Value {
    match serde_json::from_slice(&output.stdout) {
        Ok(value) => value,
        Err(error) => panic!("{error}: {output:?}"),
    }
}

/// What it says of one mechanism.
pub(crate) fn outcome<'a>(report: &'a Value, name: &str) -> &'a Value {
    let outcomes = report["mechanisms"].as_array().unwrap();
    outcomes.iter().find(|outcome| outcome["name"] == name).unwrap()
}

/// The only line on stderr.
pub(crate) fn line(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    text.trim_end().to_owned()
}

pub(crate) fn assert_all_verified(output: &Output) {
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    let report = json(output);
    for name in MECHANISMS {
        assert_eq!(outcome(&report, name)["verified"], true, "{report}");
    }
}

/// A running command, killed when dropped.
pub(crate) struct Run {
    /// None once its output was waited for.
    child: Option<Child>,
    pid: Pid,
}

impl Run {
    pub(crate) fn start(command: &mut Command) -> Self {
        // A signal to all of a group must not reach the test.
        let child = command.process_group(0).spawn().unwrap();
        Self::of(child)
    }

    pub(crate) fn of(child: Child) -> Self {
        let pid = Pid::from_raw(child.id().cast_signed());
        Self { child: Some(child), pid }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap();
    }

    /// Waits until it moves something through this mechanism; gives the
    /// processes that do.
    pub(crate) fn wait_for(&self, mechanism: &str) -> Vec<i32> {
        wait_until(&format!("{mechanism} is in use"), || {
            let processes = children(self.pid);
            let both = processes.len() == 2;
            (both && self.uses(mechanism, &processes)).then_some(processes)
        })
    }

    /// As [`wait_for`](Self::wait_for), and stops these processes there until
    /// they are [resumed](resume).
    pub(crate) fn pause(&self, mechanism: &str) -> Vec<i32> {
        let processes = self.wait_for(mechanism);
        send(&processes, Signal::SIGSTOP);
        // Stopped too late: the segment is gone again.
        assert!(self.uses(mechanism, &processes), "{mechanism} was too quick");
        processes
    }

    fn uses(&self, mechanism: &str, processes: &[i32]) -> bool {
        match mechanism {
            "sysv" => !segments_of(processes).is_empty(),
            "posix" => !self.names().is_empty(),
            _ => processes.iter().any(|process| {
                let files = fs::read_dir(format!("/proc/{process}/fd"));
                files.into_iter().flatten().flatten().any(|file| {
                    let target = fs::read_link(file.path()).unwrap_or_default();
                    target.to_string_lossy().starts_with("/memfd:shm-compare-")
                })
            }),
        }
    }

    /// Its names in `/dev/shm`.
    pub(crate) fn names(&self) -> Vec<String> {
        let prefix = format!("shm-compare-{}-", self.pid);
        let entries = fs::read_dir("/dev/shm").unwrap().flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.starts_with(&prefix))
            .collect()
    }

    /// Waits for it to end.
    pub(crate) fn output(&mut self) -> Output {
        let child = self.child.take().unwrap();
        let (ended, wait) = channel::<()>();
        let pid = self.pid;
        let watchdog = thread::spawn(move || {
            // An end of the channel is an end of the process.
            if wait.recv_timeout(DEADLINE)
                == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
            {
                let _ = kill(pid, Signal::SIGKILL);
            }
        });
        let output = child.wait_with_output().unwrap();
        drop(ended);
        watchdog.join().unwrap();
        output
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Lets processes that were paused go on.
pub(crate) fn resume(processes: &[i32]) {
    send(processes, Signal::SIGCONT);
}

fn send(processes: &[i32], signal: Signal) {
    for process in processes {
        // They are waited for only after their end was told.
        kill(Pid::from_raw(*process), signal).unwrap();
    }
}

/// The System V segments that these processes created and nobody removed.
pub(crate) fn segments_of(processes: &[i32]) -> Vec<shm_sysv::Id> {
    let all = shm_sysv::list().unwrap().into_iter();
    let created = |pid: i32| processes.contains(&pid);
    all.filter(|stat| created(stat.creator_pid) && !stat.removed)
        .map(|stat| stat.id)
        .collect()
}

fn children(pid: Pid) -> Vec<i32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let list = list.unwrap_or_default();
    list.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

pub(crate) fn wait_until<T>(
    what: &str,
    mut look: impl FnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A directory of one test's own, removed at its end.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(leaks::unique_name("compare"));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn file(&self, name: &str, contents: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, contents).unwrap();
        path
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The command with `compare`, as a user who owns nothing; started by root, from
/// this directory.
pub(crate) fn compare_as_nobody(directory: &Directory) -> Command {
    const NOBODY: u32 = 65_534;
    // The program may lie where only root gets.
    let program = directory.path().join("shm");
    if !program.exists() {
        fs::copy(env!("CARGO_BIN_EXE_shm"), &program).unwrap();
    }
    let mut command = Command::new(program);
    command.arg("compare").current_dir("/").uid(NOBODY).gid(NOBODY);
    command
}
