//! Process 1 of the virtual machine: runs the test programs one after another,
//! and switches the machine off. Under the names `cat`, `ls` and `test` it is
//! the programs that tests start, as far as they use them.
//!
//! What they print goes to the console as it is, and line by line, with a mark
//! in front, to the second serial port, which the other side reads:
//!
//! ```text
//! program shm-posix/segment
//! out test create_fails_when_the_name_exists ... ok
//! err left out: …: needs root
//! left /dev/shm/shmtest-…
//! status exit status: 0
//! end
//! ```

use std::env;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

/// The second serial port.
const REPORT: &str = "/dev/ttyS1";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["cat", path] => status_of(cat(path).is_ok()),
        ["ls", "-l", path] => status_of(list(path).is_ok()),
        ["test", "-e", path] => status_of(fs::exists(path).unwrap_or(false)),
        _ => init(),
    }
}

fn status_of(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn cat(path: &str) -> io::Result<()> {
    io::copy(&mut File::open(path)?, &mut io::stdout()).map(drop)
}

fn list(directory: &str) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        // The one by which this directory is read is listed too, or gone.
        let target = fs::read_link(&path).unwrap_or_default();
        let (path, target) = (path.display(), target.display());
        writeln!(io::stdout(), "{path} -> {target}")?;
    }
    Ok(())
}

fn init() -> ExitCode {
    if let Err(error) = run_all() {
        eprintln!("vm-init: {error}");
    }
    // Whatever happened: the other side sees whether the end was reached.
    match reboot(RebootMode::RB_POWER_OFF) {
        Ok(never) => match never {},
        Err(error) => eprintln!("vm-init: cannot switch off: {error}"),
    }
    ExitCode::FAILURE
}

fn run_all() -> Result<(), Box<dyn Error>> {
    mount_all()?;
    let report = Mutex::new(File::options().write(true).open(REPORT)?);
    for (number, line) in fs::read_to_string("/tests/list")?.lines().enumerate()
    {
        let mut words = line.split(' ');
        tell(&report, "program", words.next().unwrap_or_default());
        let mut program = Command::new(format!("/tests/{number}"));
        program.args(words).current_dir("/tmp");
        program.env("SHM_TEST_VM", "1").env("PATH", "/bin");
        let status = run(&mut program, &report)?;
        adopt();
        for left in left_behind()? {
            tell(&report, "left", &left);
        }
        tell(&report, "status", &status);
    }
    tell(&report, "end", "");
    Ok(())
}

fn mount_all() -> nix::Result<()> {
    let mount = |kind: &str, on: &str, options: &str| {
        mount(Some(kind), on, Some(kind), MsFlags::empty(), Some(options))
    };
    mount("proc", "/proc", "")?;
    mount("sysfs", "/sys", "")?;
    mount("devtmpfs", "/dev", "mode=755")?;
    // A file system of its own is a matter of the distribution.
    let _ = fs::create_dir("/dev/shm");
    mount("tmpfs", "/dev/shm", "mode=1777")
}

fn run(
    program: &mut Command,
    report: &Mutex<File>,
) -> Result<String, Box<dyn Error>> {
    let mut child =
        program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        scope.spawn(|| pass_on("out", out, report));
        scope.spawn(|| pass_on("err", err, report));
    });
    Ok(child.wait()?.to_string())
}

/// Passes on what a program prints, until it and its children have ended.
fn pass_on(mark: &str, from: Option<impl Read>, report: &Mutex<File>) {
    let mut from = from.map(BufReader::new);
    let mut line = Vec::new();
    while let Some(from) = &mut from
        && from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0)
    {
        let text = String::from_utf8_lossy(&line);
        eprintln!("{}", text.trim_end());
        tell(report, mark, text.trim_end());
        line.clear();
    }
}

fn tell(report: &Mutex<File>, mark: &str, text: &str) {
    // A report that cannot be written is one that the other side misses.
    if let Ok(mut report) = report.lock() {
        let _ = writeln!(report, "{mark} {text}");
    }
}

/// Reaps the orphans, which are process 1's to reap.
fn adopt() {
    let any = Some(WaitPidFlag::WNOHANG);
    while let Ok(status) = waitpid(None, any)
        && status != WaitStatus::StillAlive
    {}
}

/// What a program should have removed.
fn left_behind() -> io::Result<Vec<String>> {
    let mut left = Vec::new();
    for entry in fs::read_dir("/dev/shm")? {
        left.push(entry?.path().display().to_string());
    }
    let segments = fs::read_to_string("/proc/sysvipc/shm")?;
    left.extend(segments.lines().skip(1).map(|line| format!("segment {line}")));
    Ok(left)
}
