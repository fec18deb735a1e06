//! POSIX: a segment is found by a name, in a directory.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;

use shm_common::{ReadWrite, Size};
use shm_posix::{Mapping, Name, Segment};

use super::{Kind, read_line, write_line};
use crate::Failure;
use crate::compare::PREFIX;

pub(crate) struct Posix;

impl Kind for Posix {
    type Segment = Segment;
    type Mapping = Mapping<ReadWrite>;

    fn create(label: &str, size: Size) -> shm_common::Result<Segment> {
        Segment::create(&Name::new(label)?, size)
    }

    fn map(segment: &Segment) -> shm_common::Result<Self::Mapping> {
        segment.map()
    }

    fn announce(segment: &Segment, socket: &UnixStream) -> Result<(), Failure> {
        write_line(socket, &Self::describe(segment))
    }

    fn find(socket: &UnixStream) -> Result<Segment, Failure> {
        Ok(Segment::open(&read_line(socket)?.parse()?)?)
    }

    /// The name.
    fn describe(segment: &Segment) -> String {
        segment.name().to_string()
    }

    fn look(description: &str) -> Result<Vec<String>, Failure> {
        let name: Name = description.parse()?;
        match fs::symlink_metadata(name.path()) {
            Ok(_) => Ok(vec![name.path().display().to_string()]),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![]),
            Err(error) => Err(error.into()),
        }
    }

    fn sweep(label: &str, _: &[u32]) {
        // What cannot be removed is tried again by the next run.
        let _ = shm_posix::reap(label);
    }

    fn reap() {
        // That there is no /dev/shm is told where it is needed.
        let _ = shm_posix::reap(PREFIX);
    }
}
