//! memfd: a segment is found by being handed its descriptor.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use shm_common::{Error, ReadWrite, Size};
use shm_memfd::{Label, Mapping, Segment, transfer};

use super::{Kind, holders, read_line, write_line};
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
        holders::of(&format!("/memfd:{description}"))
    }

    fn sweep(_: &str, _: &[u32]) {
        // The kernel has done it.
    }

    fn reap() {
        // There is nothing that could be left.
    }
}

pub(super) fn gone(error: Error) -> Failure {
    match error {
        Error::Disconnected(_) => Gone.into(),
        error => error.into(),
    }
}
