//! Where a segment without a name shows: in the processes that have it. Those
//! of other users cannot be looked into, and are not ours.

use procfs::ProcResult;
use procfs::process::{FDTarget, MMapPath, Process};

use crate::Failure;

/// Every descriptor that leads to what the kernel calls by this path; of a
/// process that has none, its map.
pub(super) fn of(path: &str) -> Result<Vec<String>, Failure> {
    let mut found = Vec::new();
    for process in procfs::process::all_processes()?.flatten() {
        // It may end meanwhile.
        let places = descriptors(&process, path).unwrap_or_default();
        if places.is_empty() && maps(&process, path).unwrap_or_default() {
            found.push(format!("/proc/{}/maps", process.pid));
        }
        found.extend(places);
    }
    Ok(found)
}

fn descriptors(process: &Process, path: &str) -> ProcResult<Vec<String>> {
    let mut found = Vec::new();
    for entry in process.fd()?.flatten() {
        let target = match entry.target {
            FDTarget::MemFD(label) => format!("/memfd:{label}"),
            FDTarget::Path(target) => target.to_string_lossy().into_owned(),
            _ => continue,
        };
        if is_of(&target, path) {
            let (pid, fd) = (process.pid, entry.fd);
            found.push(format!("/proc/{pid}/fd/{fd} -> {path}"));
        }
    }
    Ok(found)
}

fn maps(process: &Process, path: &str) -> ProcResult<bool> {
    Ok(process.maps()?.into_iter().any(|map| match map.pathname {
        MMapPath::Path(target) => is_of(&target.to_string_lossy(), path),
        _ => false,
    }))
}

/// The kernel marks files that have no name.
fn is_of(target: &str, path: &str) -> bool {
    target.strip_suffix(" (deleted)").unwrap_or(target) == path
}
