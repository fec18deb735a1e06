//! The payload goes from one process to the other, several times: copied into
//! the segment, behind the words of [`turns`], and out of it again.
//!
//! That it arrived is checked twice. Each side computes a checksum of what it
//! has in memory of its own; and the receiver writes what it has back into the
//! segment, which was wiped meanwhile, where the sender compares it with the
//! payload byte for byte.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use shm_common::{AsSharedBytes, PageSize, ReadWrite, SharedBytes};
use xxhash_rust::xxh3::xxh3_64;

use super::cpus;
use super::kind::Kind;
use super::payload::{allocate, check};
use super::peer::{Arguments, Received, Sent, Told, segment_size, tell};
use super::turns::{self, Follower, Gone, Leader};
use crate::Failure;

/// How often the payload is moved; the median counts.
pub(crate) const TRANSFERS: u32 = 5;

pub(crate) fn send<K: Kind>(
    arguments: &Arguments,
    mut socket: &UnixStream,
    cpu: Option<usize>,
) -> Result<Sent, Failure> {
    step("reading the payload")?;
    let payload = arguments.payload().load()?;
    let checksum = xxh3_64(&payload);
    step("setting up")?;
    let size = segment_size(arguments.size)?;
    let (segment, set_up) = timed(|| K::create(&arguments.label, size));
    let segment = segment?;
    let (mapping, map) = timed(|| K::map(&segment));
    let mapping = mapping?;
    let ((), first_touch) = timed(|| touch(mapping.as_shared_bytes()));
    K::announce(&segment, socket)?;

    let bytes = mapping.as_shared_bytes();
    let (words, moved) = bytes.split_at(turns::LEN)?;
    let turns = Leader::new(words, socket, spins(cpu))?;
    let mut transfers = Vec::new();
    for transfer in 1..=TRANSFERS {
        step(&format!("moving it, {transfer} of {TRANSFERS}"))?;
        let begun = Instant::now();
        moved.write_at(0, &payload)?;
        turns.pass()?;
        transfers.push(nanoseconds(begun.elapsed()));
        // What is found there next, the other process has written.
        moved.fill(0);
        turns.pass()?;
        check(moved, &payload)?;
    }
    step("handing over")?;
    let mut hand_overs = Vec::new();
    for _ in 0..arguments.rounds {
        let begun = Instant::now();
        turns.pass()?;
        // There and back again: half of it is one hand-over.
        hand_overs.push(nanoseconds(begun.elapsed()) / 2);
    }
    step("tearing down")?;
    // The receiver says that it has let go.
    socket.read_exact(&mut [0]).map_err(|_| Gone)?;
    let ((), tear_down) = timed(|| {
        drop(mapping);
        drop(segment);
    });
    Ok(Sent {
        cpu,
        checksum,
        set_up,
        map,
        first_touch,
        transfer: percentile(&mut transfers, 50),
        hand_over_median: percentile(&mut hand_overs, 50),
        hand_over_p99: percentile(&mut hand_overs, 99),
        tear_down,
    })
}

pub(crate) fn receive<K: Kind>(
    arguments: &Arguments,
    mut socket: &UnixStream,
    cpu: Option<usize>,
) -> Result<Received, Failure> {
    // Touched before the clock runs, as the sender's copy is.
    let mut copy = allocate(arguments.size.bytes())?;
    copy.resize(arguments.size.bytes(), 1);
    let segment = K::find(socket)?;
    let mapping = K::map(&segment)?;
    let bytes = mapping.as_shared_bytes();
    let (words, moved) = bytes.split_at(turns::LEN)?;
    let turns = Follower::new(words, socket, spins(cpu))?;
    let mut checksums = Vec::new();
    for _ in 0..TRANSFERS {
        turns.wait()?;
        moved.read_at(0, &mut copy)?;
        turns.answer();
        checksums.push(xxh3_64(&copy));
        turns.wait()?;
        moved.write_at(0, &copy)?;
        // The next transfer cannot pass for this one.
        copy.fill(1);
        turns.answer();
    }
    for _ in 0..arguments.rounds {
        turns.wait()?;
        turns.answer();
    }
    drop(mapping);
    drop(segment);
    socket.write_all(b"!").map_err(|_| Gone)?;
    checksums.dedup();
    match checksums[..] {
        [checksum] => Ok(Received { cpu, checksum }),
        _ => Err("the same bytes arrived as different ones".into()),
    }
}

/// Tells the command, which counts them for its progress bar.
fn step(what: &str) -> Result<(), Failure> {
    tell(&Told::Step(what.to_owned()))
}

/// Whether the other process runs while this one spins.
fn spins(cpu: Option<usize>) -> bool {
    cpu.is_some() || cpus::are_several()
}

/// Writes to every page, for the first time.
fn touch(bytes: SharedBytes<'_, ReadWrite>) {
    for offset in (0..bytes.len()).step_by(PageSize::base().bytes()) {
        // It cannot fail: the offset is inside.
        let _ = bytes.set(offset, 0_u8);
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let begun = Instant::now();
    let result = work();
    (result, nanoseconds(begun.elapsed()))
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The value that `percent` of all do not exceed.
fn percentile(values: &mut [u64], percent: usize) -> u64 {
    values.sort_unstable();
    let index = (values.len() * percent).div_ceil(100).saturating_sub(1);
    values.get(index).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_nearest_rank() {
        let mut values: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(percentile(&mut values, 50), 50);
        assert_eq!(percentile(&mut values, 99), 99);
        assert_eq!(percentile(&mut [7], 50), 7);
        assert_eq!(percentile(&mut [1, 2, 3], 50), 2);
        assert_eq!(percentile(&mut [], 50), 0);
    }
}
