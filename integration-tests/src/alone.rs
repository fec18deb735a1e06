//! Runs a test in a process of its own.
//!
//! Limits, signals, namespaces, system call filters and the table of
//! descriptors belong to the process, and the test harness runs other tests in
//! it at the same time. So a test that changes or counts them starts the test
//! program once more, for itself only.

use std::env;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, Uid, alarm};

use crate::link::retry;

/// A test that has not ended by then is killed, in seconds.
const DEADLINE: u32 = 60;

/// Set in the process that runs one test alone.
const MARK: &str = "SHM_TEST_ALONE";

/// Runs the whole body of a test in a process of its own.
///
/// # Panics
///
/// The body panicked there, or the process ended in another way.
pub fn alone<F: FnOnce()>(body: F) {
    if env::var_os(MARK).is_some() {
        alarm::set(DEADLINE);
        // Without it, it only lives a little longer.
        let _ = set_pdeathsig(Signal::SIGKILL);
        return body();
    }
    let test = test_of::<F>();
    let (status, said) = run(test)
        .unwrap_or_else(|error| panic!("cannot run {test} alone: {error}"));
    assert!(
        status.success() && said.contains("1 passed"),
        "{test} ended with {status}\n{said}"
    );
}

fn run(test: &str) -> io::Result<(ExitStatus, String)> {
    // Not a pipe: its end would wait for the last process that has it, and a
    // test that fails may leave some.
    let mut said = File::from(memfd_create(c"said", MFdFlags::MFD_CLOEXEC)?);
    let child = Command::new(env::current_exe()?)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(MARK, "1")
        .stdout(Stdio::from(said.try_clone()?))
        .stderr(Stdio::inherit())
        .process_group(0)
        .spawn()?;
    let status = wait_with_descendants(child)?;
    said.rewind()?;
    let mut text = String::new();
    said.read_to_string(&mut text)?;
    Ok((status, text))
}

/// Waits for the child, and kills what it leaves running.
fn wait_with_descendants(mut child: Child) -> io::Result<ExitStatus> {
    let pid = Pid::from_raw(child.id().cast_signed());
    let ended = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    retry(|| waitid(Id::Pid(pid), ended))?;
    // As a zombie it still has its number, so this hits no other group.
    let _ = killpg(pid, Signal::SIGKILL);
    child.wait()
}

/// As [`alone`], for what only root may do: under another user it says on the
/// terminal, past the harness, that the test was left out.
///
/// # Panics
///
/// As for [`alone`].
pub fn alone_as_root<F: FnOnce()>(body: F) {
    if Uid::effective().is_root() {
        alone(body);
    } else {
        let line = format!("left out: {}: needs root\n", test_of::<F>());
        // A terminal that is gone is no reason to fail.
        let _ = io::stderr().write_all(line.as_bytes());
    }
}

/// The test that a closure stands in: its type bears the path.
pub(crate) fn test_of<F>() -> &'static str {
    let path = std::any::type_name::<F>().trim_end_matches("::{{closure}}");
    path.split_once("::").map_or(path, |(_, test)| test)
}
