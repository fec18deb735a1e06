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
    /// The `shm` command.
    pub shm: PathBuf,
    pub tests: Vec<Program>,
}

/// Builds everything, and asks each program for its tests.
pub fn build() -> Result<Programs> {
    let mut init = None;
    let mut tests = Vec::new();
    let packages = PACKAGES.map(|package| format!("--package={package}"));
    let arguments = ["test", "--no-run", "--tests"].map(String::from);
    for built in cargo(arguments.into_iter().chain(packages))? {
        if built.is_test {
            let listed = run(Command::new(&built.file).arg("--list"))?;
            let (name, file) = (built.name(), built.file);
            tests.push(Program { name, file, tests: names(&listed) });
        } else if built.target == "vm-init" {
            init = Some(built.file);
        }
    }
    tests.sort_by(|a, b| a.name.cmp(&b.name));
    let init = init.ok_or("cargo built no vm-init")?;
    let arguments = ["build", "--package=shm-cli", "--bin=shm"];
    let shm = cargo(arguments.map(String::from))?.pop();
    let shm = shm.ok_or("cargo built no shm")?.file;
    Ok(Programs { init, shm, tests })
}

/// What cargo says of a program that it has built.
struct Built {
    /// The name of the directory that the package lies in.
    directory: String,
    target: String,
    is_test: bool,
    file: PathBuf,
}

impl Built {
    fn of(message: &Value) -> Option<Self> {
        let text =
            |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let manifest = text(&message["manifest_path"]);
        let directory = Path::new(&manifest).parent().and_then(Path::file_name);
        Some(Self {
            directory: directory.and_then(OsStr::to_str)?.to_owned(),
            target: text(&message["target"]["name"]),
            is_test: message["profile"]["test"] == true,
            file: message["executable"].as_str()?.into(),
        })
    }

    fn name(&self) -> String {
        format!("{}/{}", self.directory, self.target)
    }
}

/// Builds what the arguments say, static.
fn cargo(arguments: impl IntoIterator<Item = String>) -> Result<Vec<Built>> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(arguments).args(["--locked", "--target", TARGET]);
    cargo.args(["--message-format", "json-render-diagnostics"]);
    // Without what debuggers need they are a tenth as large.
    cargo.env(FLAGS.0, FLAGS.1).env("CARGO_PROFILE_DEV_DEBUG", "0");
    let mut all = Vec::new();
    for line in run(&mut cargo)?.lines() {
        all.extend(Built::of(&serde_json::from_str(line)?));
    }
    Ok(all)
}

/// The tests that a program lists, each as `module::name: test`.
fn names(listed: &str) -> Vec<String> {
    let tests = listed.lines().filter_map(|line| line.strip_suffix(": test"));
    tests.map(String::from).collect()
}
