//! The mechanisms that are compared, and what is done differently for each.

mod dmabuf;
mod holders;
mod memfd;
mod posix;
mod sysv;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use shm_common::{AsSharedBytes, ReadWrite, Size};

use super::turns::Gone;
use crate::Failure;

pub(crate) use crate::mechanism::Mechanism;
pub(crate) use dmabuf::Dmabuf;
pub(crate) use memfd::Memfd;
pub(crate) use posix::Posix;
pub(crate) use sysv::Sysv;

/// Calls a function that is generic over [`Kind`] for a [`Mechanism`].
macro_rules! for_kind {
    ($mechanism:expr, $Kind:ident => $call:expr) => {
        match $mechanism {
            $crate::compare::kind::Mechanism::Sysv => {
                type $Kind = $crate::compare::kind::Sysv;
                $call
            }
            $crate::compare::kind::Mechanism::Posix => {
                type $Kind = $crate::compare::kind::Posix;
                $call
            }
            $crate::compare::kind::Mechanism::Memfd => {
                type $Kind = $crate::compare::kind::Memfd;
                $call
            }
            $crate::compare::kind::Mechanism::Dmabuf => {
                type $Kind = $crate::compare::kind::Dmabuf;
                $call
            }
        }
    };
}
pub(crate) use for_kind;

/// What is done differently for each mechanism: by the two processes, in the
/// order of a segment's life, and by the command that looks on.
pub(crate) trait Kind {
    type Segment;
    type Mapping: AsSharedBytes<Access = ReadWrite>;

    /// Why this machine, or this user, does not have it; none: it does.
    fn unavailable() -> Option<String> {
        None
    }
    /// `label` is what the segment is called, where it is called something.
    fn create(label: &str, size: Size) -> shm_common::Result<Self::Segment>;
    fn map(segment: &Self::Segment) -> shm_common::Result<Self::Mapping>;
    /// Lets the other process [find](Self::find) it.
    fn announce(
        segment: &Self::Segment,
        socket: &UnixStream,
    ) -> Result<(), Failure>;
    fn find(socket: &UnixStream) -> Result<Self::Segment, Failure>;
    /// What the command [looks](Self::look) for.
    fn describe(segment: &Self::Segment) -> String;

    /// Every place in the system that leads to that segment.
    fn look(description: &str) -> Result<Vec<String>, Failure>;
    /// Removes what these processes left, which are dead.
    fn sweep(label: &str, dead: &[u32]);
    /// Removes what earlier runs left that were killed.
    fn reap();
}

fn write_line(mut socket: &UnixStream, line: &str) -> Result<(), Failure> {
    let sent = socket.write_all(format!("{line}\n").as_bytes());
    Ok(sent.map_err(|_| Gone)?)
}

/// Byte by byte, so as not to take what comes after the line.
fn read_line(mut socket: &UnixStream) -> Result<String, Failure> {
    let mut line = Vec::new();
    loop {
        let mut byte = 0;
        let received = socket.read_exact(std::slice::from_mut(&mut byte));
        received.map_err(|_| Gone)?;
        match byte {
            b'\n' => return Ok(String::from_utf8(line)?),
            _ => line.push(byte),
        }
    }
}
