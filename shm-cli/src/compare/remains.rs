//! What a stranger finds while a segment is in use, and what is left when all
//! its users were killed: found by looking, in the places where a person would.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::pair::Pair;
use super::peer::Mechanism;
use super::progress::Progress;
use crate::Failure;

pub(crate) struct Remains {
    /// Where somebody who was told nothing finds the segment.
    pub(crate) found_by: String,
    /// What is left after `SIGKILL`; empty: nothing.
    pub(crate) left: Vec<String>,
}

/// Looks while both processes hold a segment, kills them and looks again.
pub(crate) fn after_sigkill(
    mut pair: Pair,
    progress: &mut Progress,
    interrupted: &AtomicBool,
) -> Result<Remains, Failure> {
    let name = pair.held(progress, interrupted)?;
    let mechanism = pair.mechanism;
    let seen = look(mechanism, &name)?;
    if seen.is_empty() {
        return Err("cannot find the segment that both hold".into());
    }
    pair.kill();
    let left = look(mechanism, &name)?;
    Ok(Remains { found_by: seen.join(", "), left })
}

/// Everything in the system that leads to the segment.
fn look(mechanism: Mechanism, name: &str) -> Result<Vec<String>, Failure> {
    match mechanism {
        Mechanism::Sysv => {
            let id = name.parse()?;
            let all = shm_sysv::list()?;
            let found = all.iter().filter(|stat| stat.id == id);
            Ok(found
                .map(|stat| {
                    let len = stat.len;
                    format!("{} in ipcs -m ({len} bytes)", stat.id)
                })
                .collect())
        }
        Mechanism::Posix => {
            let name: shm_posix::Name = name.parse()?;
            let path = name.path();
            match fs::metadata(path) {
                Ok(file) => {
                    let len = file.len();
                    Ok(vec![format!("{} ({len} bytes)", path.display())])
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    Ok(vec![])
                }
                Err(error) => Err(error.into()),
            }
        }
        Mechanism::Memfd => Ok(memfds(name)),
    }
}

/// A memfd is only to be seen as a descriptor or a mapping of a process.
fn memfds(label: &str) -> Vec<String> {
    let target = format!("/memfd:{label} (deleted)");
    let mut found = Vec::new();
    let Ok(processes) = fs::read_dir("/proc") else { return found };
    for process in processes.flatten() {
        let directory = process.path();
        if holds(&directory, &target) {
            found.push(format!("{} of a holder", directory.display()));
        }
    }
    found
}

/// Whether a process has such a descriptor or mapping. Those of other users
/// cannot be looked into, and are not ours.
fn holds(process: &Path, target: &str) -> bool {
    let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten();
    let descriptor = descriptors.flatten().any(|entry| {
        fs::read_link(entry.path()).is_ok_and(|to| to == Path::new(target))
    });
    descriptor
        || fs::read_to_string(process.join("maps"))
            .is_ok_and(|maps| maps.contains(target))
}

/// Removes what processes left that are dead now.
pub(crate) fn sweep(pair: &Pair) {
    match pair.mechanism {
        Mechanism::Sysv => {
            let dead = pair.pids();
            for stat in shm_sysv::list().unwrap_or_default() {
                let creator = u32::try_from(stat.creator_pid).ok();
                if creator.is_some_and(|pid| dead.contains(&pid))
                    && stat.attachments == 0
                {
                    // Somebody else may be quicker.
                    let _ = stat.id.remove();
                }
            }
        }
        Mechanism::Posix => {
            // A name that cannot be removed is reported by the next look.
            let _ = shm_posix::reap(&pair.label);
        }
        // The kernel has done it.
        Mechanism::Memfd => {}
    }
}
