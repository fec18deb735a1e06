//! Builds the test programs so that they need nothing but a kernel.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::{Result, run};

/// The target is given by name so that the flags hold for the programs alone,
/// and not for build scripts and macros, which cannot be static.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const FLAGS: (&str, &str) = (
    "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
    "-C target-feature=+crt-static -C strip=debuginfo",
);

/// What is built: the mechanisms, and the suites that run for all of them.
const PACKAGES: [&str; 7] = [
    "shm-sysv",
    "shm-posix",
    "shm-memfd",
    "shm-dmabuf",
    "shm-sync",
    "integration-tests",
    "integration-tests-vm",
];

/// A static test program.
#[derive(Debug)]
pub struct Program {
    /// `directory/target`.
    pub name: String,
    pub file: PathBuf,
    /// The tests in it.
    pub tests: Vec<String>,
}

/// What goes into the virtual machine.
#[derive(Debug)]
pub struct Programs {
    pub init: PathBuf,
    pub tests: Vec<Program>,
}

/// Builds everything, and asks each program for its tests.
pub fn build() -> Result<Programs> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["test", "--no-run", "--locked", "--tests"]);
    cargo.args(["--target", TARGET]);
    cargo.args(["--message-format", "json-render-diagnostics"]);
    cargo.args(PACKAGES.map(|package| format!("--package={package}")));
    // Without what debuggers need they are a tenth as large.
    cargo.env(FLAGS.0, FLAGS.1).env("CARGO_PROFILE_DEV_DEBUG", "0");
    let mut init = None;
    let mut tests = Vec::new();
    for line in run(&mut cargo)?.lines() {
        let message: Value = serde_json::from_str(line)?;
        let Some(file) = message["executable"].as_str().map(PathBuf::from)
        else {
            continue;
        };
        let target = message["target"]["name"].as_str().unwrap_or_default();
        if message["profile"]["test"] == true {
            let name = format!("{}/{target}", directory(&message));
            let listed = run(Command::new(&file).arg("--list"))?;
            tests.push(Program { name, file, tests: names(&listed) });
        } else if target == "vm-init" {
            init = Some(file);
        }
    }
    tests.sort_by(|a, b| a.name.cmp(&b.name));
    let init = init.ok_or("cargo built no vm-init")?;
    Ok(Programs { init, tests })
}

/// The name of the directory that a package lies in.
fn directory(message: &Value) -> &str {
    let manifest = message["manifest_path"].as_str().unwrap_or_default();
    let directory = Path::new(manifest).parent().and_then(Path::file_name);
    directory.and_then(OsStr::to_str).unwrap_or_default()
}

/// The tests that a program lists, each as `module::name: test`.
fn names(listed: &str) -> Vec<String> {
    let tests = listed.lines().filter_map(|line| line.strip_suffix(": test"));
    tests.map(String::from).collect()
}
