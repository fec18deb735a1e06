//! Runs the tests on other kernels: builds them static, packs them into an
//! initramfs, boots it under QEMU, and judges what comes back.
#![expect(
    unreachable_pub,
    reason = "a program exports nothing; `pub` tells what a file is for"
)]

mod boot;
mod initramfs;
mod kernel;
mod plan;
mod programs;
mod report;

use std::env;
use std::error::Error;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use kernel::Kernel;
use programs::Programs;
use report::Plan;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Debian's series that are booted when no kernel is named: one with the
/// drivers of dma-buf, and one that is older than what the crates fall back
/// from.
const SERIES: [&str; 2] = ["6.12", "6.1"];

/// What is called, and the package of Debian's that has it.
const TOOLS: [(&str, &str); 3] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("apt-get", "apt"),
    ("dpkg-deb", "dpkg"),
];

fn main() -> ExitCode {
    match run_everywhere() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("vm: {error}");
            match error.is::<Missing>() {
                true => ExitCode::from(MISSING),
                false => ExitCode::FAILURE,
            }
        }
    }
}

/// The exit status when QEMU or a kernel is not to be had, so that nothing was
/// tested.
const MISSING: u8 = 3;

#[derive(Debug)]
struct Missing(Box<dyn Error>);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Missing {}

/// Whether every kernel did what is expected of it.
fn run_everywhere() -> Result<bool> {
    let named = env::var_os("KERNEL").map(PathBuf::from);
    check_tools(named.is_some()).map_err(Missing)?;
    let directory =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/vm");
    fs::create_dir_all(&directory)?;
    let directory = directory.canonicalize()?;
    let kernels = match named {
        Some(image) => vec![Kernel::at(image)?],
        None => all_series(&directory.join("kernels"))?,
    };
    let programs = chosen(programs::build()?)?;
    let mut good = true;
    for kernel in kernels {
        good &= run_on(&kernel, &programs, &directory)?;
    }
    Ok(good)
}

/// The kernels of those series that are to be had, of which there must be one.
fn all_series(cache: &Path) -> Result<Vec<Kernel>> {
    let mut kernels = Vec::new();
    let mut missing = None;
    for series in SERIES {
        match Kernel::of_series(series, cache) {
            Ok(kernel) => kernels.push(kernel),
            Err(error) => {
                eprintln!("vm: left out: Linux {series}: {error}");
                missing = Some(error);
            }
        }
    }
    match missing {
        Some(error) if kernels.is_empty() => Err(Missing(error).into()),
        _ => Ok(kernels),
    }
}

fn run_on(
    kernel: &Kernel,
    programs: &Programs,
    directory: &Path,
) -> Result<bool> {
    let (plan, list) = plan_for(kernel, programs);
    // Of this run's own: another may be under way.
    let run = directory.join(format!("run-{}", std::process::id()));
    fs::create_dir_all(&run)?;
    initramfs::pack(&run.join("initramfs"), programs, &list)?;
    eprintln!("vm: booting {}", kernel.image.display());
    let report = boot::boot(kernel, &run)?;
    fs::remove_dir_all(&run)?;
    let verdict = report::judge(&report, &plan);
    for fault in &verdict.faults {
        eprintln!("vm: {fault}");
    }
    eprintln!(
        "vm: {}: {} passed, {} ignored, {} faults",
        kernel.image.display(),
        verdict.passed,
        verdict.ignored,
        verdict.faults.len()
    );
    Ok(verdict.faults.is_empty())
}

/// Those that were asked for, or all, without those that need more.
fn chosen(mut programs: Programs) -> Result<Programs> {
    let asked_for: Vec<String> = env::args().skip(1).collect();
    for name in &asked_for {
        if !programs.tests.iter().any(|program| program.name == *name) {
            return Err(format!("there is no program {name}").into());
        }
    }
    programs.tests.retain(|program| {
        !program.tests.is_empty()
            && (asked_for.is_empty() || asked_for.contains(&program.name))
    });
    programs.tests.retain(|program| {
        let reason = plan::left_out(&program.name);
        if let Some(reason) = reason {
            eprintln!("vm: left out: {}: {reason}", program.name);
        }
        reason.is_none()
    });
    for program in &mut programs.tests {
        for (test, reason) in plan::left_out_tests(&program.name) {
            eprintln!("vm: left out: {} {test}: {reason}", program.name);
            program.tests.retain(|listed| listed != test);
        }
    }
    Ok(programs)
}

/// What is expected of each test, and the list by which the programs are
/// started.
fn plan_for(kernel: &Kernel, programs: &Programs) -> (Plan, String) {
    let mut plan = Plan::new();
    let mut list = String::new();
    for program in &programs.tests {
        list.push_str(&program.name);
        // One at a time: emulated processors are slow, and some tests measure
        // what others use.
        list.push_str(" --exact --test-threads=1");
        for (test, _) in plan::left_out_tests(&program.name) {
            list.push_str(" --skip ");
            list.push_str(test);
        }
        list.push('\n');
        let tests = program.tests.iter().map(|test| {
            (test.clone(), plan::expected(&program.name, test, kernel))
        });
        plan.insert(program.name.clone(), tests.collect());
    }
    (plan, list)
}

/// Says what to install, all at once.
fn check_tools(kernel_is_named: bool) -> Result<()> {
    let needed = if kernel_is_named { &TOOLS[..1] } else { &TOOLS[..] };
    let missing: Vec<&str> = needed
        .iter()
        .filter(|(tool, _)| !is_installed(tool))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!(
        "this needs more: apt-get install --no-install-recommends {} (on a \
         system without apt, install QEMU its own way and give \
         KERNEL=path/to/vmlinuz)",
        missing.join(" ")
    )
    .into())
}

fn is_installed(tool: &str) -> bool {
    let mut version = Command::new(tool);
    version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    version.status().is_ok_and(|status| status.success())
}

/// Runs a command, and gives what it prints.
fn run(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}
