//! A processor for each of the two processes, so that a hand-over is measured
//! between two processors, and the same two for every mechanism.

use std::fs;
use std::thread;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

const THIS_THREAD: Pid = Pid::from_raw(0);

/// Two processors that this process may run on, of different cores where there
/// are such; none if it may only have one.
pub(crate) fn two() -> Option<[usize; 2]> {
    let allowed = sched_getaffinity(THIS_THREAD).ok()?;
    let is_allowed = |cpu: &usize| allowed.is_set(*cpu).unwrap_or(false);
    let mut cpus = (0..CpuSet::count()).filter(is_allowed);
    let first = cpus.next()?;
    let others: Vec<usize> = cpus.collect();
    // Two threads of one core share what they compute with.
    let core = siblings(first);
    let apart = others.iter().find(|cpu| siblings(**cpu) != core);
    Some([first, *apart.or(others.first())?])
}

/// The processors that are one core with this one, as the kernel writes them.
fn siblings(cpu: usize) -> Option<String> {
    let directory = format!("/sys/devices/system/cpu/cpu{cpu}/topology");
    fs::read_to_string(format!("{directory}/thread_siblings_list")).ok()
}

/// Lets this thread run on no other processor. False: it cannot be done.
pub(crate) fn stay_on(cpu: usize) -> bool {
    let mut only = CpuSet::new();
    only.set(cpu).and_then(|()| sched_setaffinity(THIS_THREAD, &only)).is_ok()
}

/// Whether another process can run while this one waits without sleeping.
pub(crate) fn are_several() -> bool {
    thread::available_parallelism().is_ok_and(|several| several.get() > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_processors_differ_and_can_be_had() {
        let Some([one, other]) = two() else {
            assert!(!are_several());
            return;
        };
        assert_ne!(one, other);
        // A thread of its own: it is changed for good.
        let stayed = thread::spawn(move || {
            let stayed = stay_on(other);
            (stayed, sched_getaffinity(THIS_THREAD).unwrap())
        });
        let (stayed, allowed) = stayed.join().unwrap();
        assert!(stayed);
        assert_eq!(allowed.is_set(other), Ok(true));
        assert_eq!(allowed.is_set(one), Ok(false));
    }
}
