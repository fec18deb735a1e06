//! dma-buf: made by a driver, out of a heap; found by being handed its
//! descriptor. Many machines have no such driver.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use shm_common::{ReadWrite, Size};
use shm_dmabuf::{Heap, Label, Mapping, Segment, SegmentOptions};
use shm_memfd::transfer;

use super::memfd::gone;
use super::{Kind, holders, read_line, write_line};
use crate::Failure;

/// The heap of ordinary memory.
const HEAP: &str = "system";

pub(crate) struct Dmabuf;

/// A segment and its name, which a received descriptor does not tell.
pub(crate) struct Named {
    segment: Segment,
    name: String,
}

impl Kind for Dmabuf {
    type Segment = Named;
    type Mapping = Mapping<ReadWrite>;

    fn unavailable() -> Option<String> {
        Heap::open(HEAP).err().map(|error| error.to_string())
    }

    fn create(label: &str, size: Size) -> shm_common::Result<Named> {
        // The kernel takes no longer ones; what differs stands at the end.
        let start = label.len().saturating_sub(Label::MAX_LEN);
        let name = label.get(start..).unwrap_or(label).to_owned();
        let options = SegmentOptions::new().label(Label::new(&name)?);
        let segment = options.create(&Heap::open(HEAP)?, size)?;
        Ok(Named { segment, name })
    }

    fn map(named: &Named) -> shm_common::Result<Self::Mapping> {
        named.segment.map()
    }

    fn announce(named: &Named, socket: &UnixStream) -> Result<(), Failure> {
        let descriptors = [named.segment.as_fd()];
        transfer::send(socket, b"!", &descriptors).map_err(gone)?;
        write_line(socket, &named.name)
    }

    fn find(socket: &UnixStream) -> Result<Named, Failure> {
        let message = transfer::receive(socket, &mut [0], 1).map_err(gone)?;
        let [fd] = message.into_descriptors()?;
        let name = read_line(socket)?;
        Ok(Named { segment: Segment::open(fd)?, name })
    }

    /// The name.
    fn describe(named: &Named) -> String {
        named.name.clone()
    }

    /// As a memfd: only the processes that have it lead to it.
    fn look(description: &str) -> Result<Vec<String>, Failure> {
        holders::of(&format!("/dmabuf:{description}"))
    }

    fn sweep(_: &str, _: &[u32]) {
        // The kernel has done it.
    }

    fn reap() {
        // There is nothing that could be left.
    }
}
