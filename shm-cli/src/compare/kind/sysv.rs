//! System V: a segment is found by a number, in a table of the kernel's.

use std::ops::RangeInclusive;
use std::os::unix::net::UnixStream;
use std::process;

use nix::unistd::Uid;
use shm_common::{Error, ReadWrite, Size};
use shm_sysv::{Id, Key, Mapping, Segment, Stat};

use super::{Kind, read_line, write_line};
use crate::Failure;

/// The keys of this command's segments, by which it knows its own again: 256
/// that nobody else is likely to have picked.
const KEYS: RangeInclusive<i32> = 0x4c8e_d100..=0x4c8e_d1ff;

pub(crate) struct Sysv;

impl Kind for Sysv {
    type Segment = Segment;
    type Mapping = Mapping<ReadWrite>;

    fn create(_: &str, size: Size) -> shm_common::Result<Segment> {
        // Somewhere else than other runs, which then is free at once.
        let first = KEYS.start() | (process::id() & 0xff).cast_signed();
        let keys = (first..=*KEYS.end()).chain(*KEYS.start()..first);
        let mut created = Segment::create(Key::new(first), size);
        for key in keys.skip(1) {
            match created {
                Err(Error::AlreadyExists(_)) => {
                    created = Segment::create(Key::new(key), size);
                }
                done => return done,
            }
        }
        created
    }

    fn map(segment: &Segment) -> shm_common::Result<Self::Mapping> {
        segment.map()
    }

    fn announce(segment: &Segment, socket: &UnixStream) -> Result<(), Failure> {
        write_line(socket, &Self::describe(segment))
    }

    fn find(socket: &UnixStream) -> Result<Segment, Failure> {
        Ok(Segment::open_id(read_line(socket)?.parse()?)?)
    }

    /// The number of the identifier.
    fn describe(segment: &Segment) -> String {
        segment.id().as_raw().to_string()
    }

    fn look(description: &str) -> Result<Vec<String>, Failure> {
        let id: Id = description.parse()?;
        let all = shm_sysv::list()?;
        let found = all.iter().filter(|stat| stat.id == id);
        Ok(found
            .map(|stat| {
                let (key, id) = (stat.key, stat.id);
                format!("ipcs -m: key {key}, id {id}")
            })
            .collect())
    }

    fn sweep(_: &str, dead: &[u32]) {
        remove(|stat| {
            let creator = u32::try_from(stat.creator_pid);
            stat.attachments == 0
                && creator.is_ok_and(|pid| dead.contains(&pid))
        });
    }

    fn reap() {
        let us = Uid::effective().as_raw();
        remove(|stat| stat.creator_uid == us && stat.is_abandoned());
    }
}

/// Removes those of this command's segments that nobody uses.
fn remove(is_unused: impl Fn(&Stat) -> bool) {
    for stat in shm_sysv::list().unwrap_or_default() {
        if KEYS.contains(&stat.key.as_raw()) && is_unused(&stat) {
            // Somebody else may be quicker.
            let _ = stat.id.remove();
        }
    }
}
