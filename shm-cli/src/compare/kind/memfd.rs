//! memfd: a segment is found by being handed its descriptor.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use procfs::ProcResult;
use procfs::process::{FDTarget, MMapPath, Process};
use shm_common::{Error, ReadWrite, Size};
use shm_memfd::{Label, Mapping, Segment, transfer};

use super::{Kind, read_line, write_line};
use crate::Failure;
use crate::compare::turns::Gone;

pub(crate) struct Memfd;

/// A segment and its label, which a received descriptor does not tell.
pub(crate) struct Labelled {
    segment: Segment,
    label: String,
}

impl Kind for Memfd {
    type Segment = Labelled;
    type Mapping = Mapping<ReadWrite>;

    fn create(label: &str, size: Size) -> shm_common::Result<Labelled> {
        let segment = Segment::create(&Label::new(label)?, size)?;
        Ok(Labelled { segment, label: label.to_owned() })
    }

    fn map(labelled: &Labelled) -> shm_common::Result<Self::Mapping> {
        labelled.segment.map()
    }

    fn announce(
        labelled: &Labelled,
        socket: &UnixStream,
    ) -> Result<(), Failure> {
        let descriptors = [labelled.segment.as_fd()];
        transfer::send(socket, b"!", &descriptors).map_err(gone)?;
        write_line(socket, &labelled.label)
    }

    fn find(socket: &UnixStream) -> Result<Labelled, Failure> {
        let message = transfer::receive(socket, &mut [0], 1).map_err(gone)?;
        let [fd] = message.into_descriptors()?;
        let label = read_line(socket)?;
        Ok(Labelled { segment: Segment::open(fd)?, label })
    }

    /// The label.
    fn describe(labelled: &Labelled) -> String {
        labelled.label.clone()
    }

    /// No list leads to a memfd, only the processes that have it. Those of
    /// other users cannot be looked into, and are not ours.
    fn look(description: &str) -> Result<Vec<String>, Failure> {
        let mut found = Vec::new();
        for process in procfs::process::all_processes()?.flatten() {
            // It may end meanwhile.
            let places = descriptors(&process, description);
            let places = places.unwrap_or_default();
            if places.is_empty()
                && maps(&process, description).unwrap_or_default()
            {
                found.push(format!("/proc/{}/maps", process.pid));
            }
            found.extend(places);
        }
        Ok(found)
    }

    fn sweep(_: &str, _: &[u32]) {
        // The kernel has done it.
    }

    fn reap() {
        // There is nothing that could be left.
    }
}

fn descriptors(process: &Process, label: &str) -> ProcResult<Vec<String>> {
    let mut found = Vec::new();
    for entry in process.fd()?.flatten() {
        if let FDTarget::MemFD(target) = entry.target
            && is_of(&target, label)
        {
            let (pid, fd) = (process.pid, entry.fd);
            found.push(format!("/proc/{pid}/fd/{fd} -> /memfd:{label}"));
        }
    }
    Ok(found)
}

fn maps(process: &Process, label: &str) -> ProcResult<bool> {
    Ok(process.maps()?.into_iter().any(|map| match map.pathname {
        MMapPath::Path(path) => path
            .to_str()
            .and_then(|path| path.strip_prefix("/memfd:"))
            .is_some_and(|target| is_of(target, label)),
        _ => false,
    }))
}

/// The kernel marks files that have no name.
fn is_of(target: &str, label: &str) -> bool {
    target.strip_suffix(" (deleted)").unwrap_or(target) == label
}

pub(super) fn gone(error: Error) -> Failure {
    match error {
        Error::Disconnected(_) => Gone.into(),
        error => error.into(),
    }
}
