//! What the figures were measured on, and when: they mean nothing without it.

use std::fs;
use std::thread;
use std::time::SystemTime;

use nix::sys::statvfs::statvfs;
use nix::sys::utsname::uname;
use procfs::{CpuInfo, Current, LoadAverage, Meminfo};
use serde::Serialize;

use super::memory;

/// As `--json` has it; null is what the system does not tell.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Machine {
    /// Of this command.
    pub(crate) version: &'static str,
    /// Whether it was built to be quick; if not, the figures mean little.
    pub(crate) optimised: bool,
    /// When it began, in UTC.
    pub(crate) date: String,
    pub(crate) kernel: Option<String>,
    pub(crate) processor: Option<String>,
    /// How many this process may use.
    pub(crate) processors: Option<usize>,
    pub(crate) virtual_machine: Option<bool>,
    pub(crate) memory_bytes: Option<u64>,
    /// To this process; a container may have less than the machine.
    pub(crate) memory_available_bytes: Option<u64>,
    pub(crate) dev_shm_bytes: Option<u64>,
    /// Whether shared memory is made of huge pages where they fit.
    pub(crate) shmem_huge_pages: Option<String>,
    /// How many wanted to run, on average, in the minute before.
    pub(crate) load_average: Option<f32>,
}

impl Machine {
    /// As it is before anything is measured.
    pub(crate) fn now() -> Self {
        let memory = Meminfo::current().ok();
        let processor = CpuInfo::current().ok();
        let model = processor.as_ref().and_then(|cpu| cpu.model_name(0));
        let flags = processor.as_ref().and_then(|cpu| cpu.flags(0));
        let date = humantime::format_rfc3339_seconds(SystemTime::now());
        Self {
            version: env!("CARGO_PKG_VERSION"),
            optimised: !cfg!(debug_assertions),
            date: date.to_string(),
            kernel: kernel(),
            processor: model.map(|model| model.trim().to_owned()),
            processors: thread::available_parallelism().ok().map(usize::from),
            virtual_machine: flags.map(|flags| flags.contains(&"hypervisor")),
            memory_bytes: memory.map(|memory| memory.mem_total),
            memory_available_bytes: memory::available(),
            dev_shm_bytes: dev_shm(),
            shmem_huge_pages: huge_pages(),
            load_average: LoadAverage::current().ok().map(|load| load.one),
        }
    }

    /// Whether there may not have been two processors for the two processes.
    #[expect(clippy::cast_precision_loss, reason = "processors are few")]
    pub(crate) fn was_busy(&self) -> bool {
        let others = self.load_average.unwrap_or(0.0);
        let processors = self.processors.unwrap_or(1) as f32;
        // Each pair is two.
        others > (processors - 2.0).max(0.5)
    }
}

fn kernel() -> Option<String> {
    let system = uname().ok()?;
    let part = |part: &std::ffi::OsStr| part.to_string_lossy().into_owned();
    Some(format!(
        "{} {} {}",
        part(system.sysname()),
        part(system.release()),
        part(system.machine())
    ))
}

fn dev_shm() -> Option<u64> {
    let system = statvfs("/dev/shm").ok()?;
    #[expect(
        clippy::useless_conversion,
        reason = "the types differ between architectures"
    )]
    let (blocks, size): (u64, u64) =
        (system.blocks().into(), system.fragment_size().into());
    blocks.checked_mul(size)
}

/// The word in brackets, of several.
fn huge_pages() -> Option<String> {
    let path = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let text = fs::read_to_string(path).ok()?;
    text.split(['[', ']']).nth(1).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_told_by_its_kernel_and_its_memory() {
        let machine = Machine::now();
        assert!(machine.kernel.unwrap().starts_with("Linux "));
        assert!(machine.memory_bytes > machine.memory_available_bytes);
        assert!(machine.processors >= Some(1));
        assert!(machine.date.ends_with('Z'), "{}", machine.date);
    }
}
