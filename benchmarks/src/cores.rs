//! Two processes on two cores.

use std::io;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

const THIS: Pid = Pid::from_raw(0);

/// Said where there is no second core.
pub(crate) const TOO_FEW: &str =
    "Left out: this needs two cores, and here is one.\n";

/// Whether there are two.
pub(crate) fn are_two() -> io::Result<bool> {
    Ok(usable(&sched_getaffinity(THIS)?).nth(1).is_some())
}

/// Keeps this process on one core, until dropped.
pub(crate) struct Pinned {
    before: CpuSet,
}

/// Keeps this process on the `index`-th of the cores that it may use.
pub(crate) fn pin(index: usize) -> io::Result<Pinned> {
    let before = sched_getaffinity(THIS)?;
    let cpu = usable(&before).nth(index);
    let cpu = cpu.ok_or_else(|| io::Error::other(TOO_FEW))?;
    let mut one = CpuSet::new();
    one.set(cpu)?;
    sched_setaffinity(THIS, &one)?;
    Ok(Pinned { before })
}

fn usable(set: &CpuSet) -> impl Iterator<Item = usize> {
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu) == Ok(true))
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // It was allowed before, so it still is.
        let _ = sched_setaffinity(THIS, &self.before);
    }
}
