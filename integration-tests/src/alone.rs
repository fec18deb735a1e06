//! Runs a test in a process of its own.
//!
//! Limits, signals, namespaces, system call filters and the table of
//! descriptors belong to the process, and the test harness runs other tests in
//! it at the same time. So a test that changes or counts them starts the test
//! program once more, for itself only.

use std::env;
use std::io::{self, Write};
use std::process::{Command, Stdio};

use nix::unistd::{Uid, alarm};

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
        return body();
    }
    let test = test_of::<F>();
    let program = env::current_exe().unwrap_or_else(|error| panic!("{error}"));
    let output = Command::new(program)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(MARK, "1")
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|error| panic!("cannot run {test} alone: {error}"));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{test} ended with {}\n{text}",
        output.status
    );
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
