//! The example, as it is started by hand.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The example as cargo builds it for this run; `--test` alone would not.
fn build() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let profile = exe.parent().and_then(Path::parent).unwrap();
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--offline", "-p", "shm-sync"]);
    build.args(["--example", "sync-survivors"]);
    if profile.ends_with("release") {
        build.arg("--release");
    }
    build.arg("--target-dir").arg(profile.parent().unwrap());
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    assert!(build.status().unwrap().success());
    profile.join("examples/sync-survivors")
}

fn run(arguments: &[&str]) -> (Output, String) {
    let output = Command::new(build()).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, text)
}

#[test]
fn the_sum_is_right_after_a_hundred_writers_were_killed() {
    let (output, text) = run(&["100"]);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("100 writers killed"), "{text}");
    assert!(text.contains("are 1000000"), "{text}");
}

#[test]
fn the_example_that_is_called_wrongly_says_how() {
    let (output, text) = run(&[]);
    assert!(!output.status.success());
    assert!(text.contains("usage: "), "{text}");
}
