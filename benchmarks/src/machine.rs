//! What the figures were measured on: they mean nothing without it.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::process::Command;
use std::time::Instant;

use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::utsname::uname;
use nix::unistd::{SysconfVar, sysconf};
use time::OffsetDateTime;

/// The head of the report. It begins with the run, and is told at its end.
pub(crate) struct Machine {
    begun: Instant,
    load: String,
    busy: Busy,
}

impl Machine {
    pub(crate) fn begin() -> io::Result<Self> {
        Ok(Self {
            begun: Instant::now(),
            load: fs::read_to_string("/proc/loadavg")?,
            busy: Busy::now()?,
        })
    }

    pub(crate) fn describe(&self) -> io::Result<String> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        let field = |name| {
            cpuinfo
                .lines()
                .find(|line| line.starts_with(name))
                .and_then(|line| line.split(": ").nth(1))
                .unwrap_or("?")
        };
        let virtual_machine = match field("flags").contains("hypervisor") {
            true => ", a virtual machine",
            false => "",
        };
        let system = uname()?;
        let spent = self.begun.elapsed();
        let (others, stolen) = self.busy.others_until_now()?;
        let share = |seconds: f64| 100.0 * seconds / spent.as_secs_f64();
        Ok(format!(
            "- processor: {} (family {}, model {}), {} cores{virtual_machine}\n\
             - memory: {:.0} GiB; /dev/shm with transparent huge pages: {}\n\
             - kernel: {} {}\n\
             - C library: glibc {}; compilers: {}, {}\n\
             - date: {}; the run took {} s\n\
             - load average when it began: {}; during the run, others used \
             {:.0} % of one core, and the hypervisor took {:.0} %\n",
            field("model name"),
            field("cpu family"),
            field("model\t"),
            std::thread::available_parallelism()?,
            total_memory() / (1_u64 << 30) as f64,
            chosen("/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
            system.sysname().display(),
            system.release().display(),
            glibc_version(),
            first_line(Command::new("rustc").arg("--version")),
            first_line(Command::new("cc").arg("--version")),
            OffsetDateTime::now_utc().date(),
            spent.as_secs(),
            self.load.split(' ').next().unwrap_or("?"),
            share(others),
            share(stolen),
        ))
    }
}

/// Processor time in seconds, since the machine was started.
struct Busy {
    everyone: f64,
    stolen: f64,
    ours: f64,
}

impl Busy {
    fn now() -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let ticks: Vec<f64> = stat
            .lines()
            .next()
            .unwrap_or_default()
            .split_ascii_whitespace()
            .skip(1)
            .map(|number| number.parse().unwrap_or(0.0))
            .collect();
        let tick = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100) as f64;
        // user, nice, system, idle, iowait, irq, softirq, steal
        let at = |index: usize| ticks.get(index).unwrap_or(&0.0) / tick;
        let time = |usage: Usage| {
            let (user, system) = (usage.user_time(), usage.system_time());
            (user.tv_sec() + system.tv_sec()) as f64
                + (user.tv_usec() + system.tv_usec()) as f64 / 1e6
        };
        Ok(Self {
            everyone: at(0) + at(1) + at(2) + at(5) + at(6),
            stolen: at(7),
            ours: time(getrusage(UsageWho::RUSAGE_SELF)?)
                + time(getrusage(UsageWho::RUSAGE_CHILDREN)?),
        })
    }

    fn others_until_now(&self) -> io::Result<(f64, f64)> {
        let now = Self::now()?;
        let ours = now.ours - self.ours;
        let others = now.everyone - self.everyone - ours;
        Ok((others.max(0.0), now.stolen - self.stolen))
    }
}

fn total_memory() -> f64 {
    let pages = sysconf(SysconfVar::_PHYS_PAGES).ok().flatten().unwrap_or(0);
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(0);
    pages as f64 * page as f64
}

/// The word in brackets, of several.
fn chosen(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let inside = text.split(['[', ']']).nth(1);
    inside.unwrap_or("none").to_owned()
}

#[expect(unsafe_code, reason = "asks the C library for its version")]
fn glibc_version() -> String {
    // SAFETY: takes nothing, and gives a constant string.
    let version = unsafe { libc::gnu_get_libc_version() };
    // SAFETY: a C string that is never freed or written.
    unsafe { CStr::from_ptr(version) }.to_string_lossy().into_owned()
}

fn first_line(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout);
    let text =
        String::from_utf8_lossy(&output.unwrap_or_default()).into_owned();
    text.lines().next().unwrap_or("?").to_owned()
}
