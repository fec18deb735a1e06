//! What a stranger finds while a segment is in use, and what is left when all
//! its users were killed: found by looking, in the places where a person would.

use std::fs::File;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use super::kind::{Kind, Mechanism, for_kind};
use super::pair::Pair;
use super::progress::Progress;
use crate::Failure;
use crate::interrupts::Interrupts;

pub(crate) struct Remains {
    /// Where somebody who was told nothing finds the segment.
    pub(crate) found_by: Vec<String>,
    /// What of that is left after `SIGKILL`.
    pub(crate) left: Vec<String>,
}

/// Looks while both processes hold a segment, kills them and looks again.
pub(crate) fn after_sigkill(
    mut pair: Pair,
    progress: &Progress,
    interrupts: &Interrupts,
) -> Result<Remains, Failure> {
    let description = pair.held(progress, interrupts)?;
    let mechanism = pair.mechanism();
    let look = || for_kind!(mechanism, K => K::look(&description));
    let found_by = look()?;
    if found_by.is_empty() {
        return Err("cannot find the segment that both hold".into());
    }
    let _lock = lock();
    pair.sigkill()?;
    Ok(Remains { found_by, left: look()? })
}

/// Removes what earlier runs left that were killed themselves.
pub(crate) fn reap_all() {
    let _lock = lock();
    for mechanism in Mechanism::ALL {
        for_kind!(mechanism, K => K::reap());
    }
}

/// Between killing and looking, a segment is there that nobody uses, and
/// another run that begins must not take it away. So both are done under a
/// lock, on the directory that all who could meet have in common. The kernel
/// lets go of it with the process.
///
/// Nobody waits for ever: without the lock, the worst is that another run sees
/// nothing left where something was.
fn lock() -> Option<Flock<File>> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let begun = Instant::now();
    let mut directory = File::open("/dev/shm").ok()?;
    loop {
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Some(lock),
            Err(_) if begun.elapsed() > PATIENCE => return None,
            Err((file, _)) => directory = file,
        }
        thread::sleep(Duration::from_millis(2));
    }
}
