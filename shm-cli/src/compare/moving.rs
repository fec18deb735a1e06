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

use shm_common::{AsSharedBytes, PageSize, ReadWrite, SharedBytes, Size};
use xxhash_rust::xxh3::xxh3_64;

use super::cpus;
use super::distribution::Recorder;
use super::kind::Kind;
use super::payload::{allocate, check};
use super::peer::{Arguments, Received, Sent, Told, segment_size, tell};
use super::turns::{self, Follower, Gone, Leader};
use crate::Failure;

/// How often a payload of that size is moved; the median counts. A small one is
/// moved so often that what others do meanwhile does not show.
pub(crate) fn transfers(size: Size) -> u32 {
    const BYTES: usize = 16 << 20;
    let transfers = BYTES / size.bytes();
    u32::try_from(transfers).unwrap_or(u32::MAX).clamp(5, 25)
}

/// How many steps the sender tells of at most: reading, setting up, some
/// transfers, handing over, tearing down.
pub(crate) const STEPS: u64 = TRANSFERS_TOLD as u64 + 4;

/// Of how many transfers the sender tells.
const TRANSFERS_TOLD: u32 = 5;

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
    let mut times = Vec::new();
    let transfers = transfers(arguments.size);
    for transfer in 0..transfers {
        if transfer % transfers.div_ceil(TRANSFERS_TOLD) == 0 {
            step(&format!("moving it, {} of {transfers}", transfer + 1))?;
        }
        let begun = Instant::now();
        moved.write_at(0, &payload)?;
        turns.pass()?;
        times.push(nanoseconds(begun.elapsed()));
        // What is found there next, the other process has written.
        moved.fill(0);
        turns.pass()?;
        check(moved, &payload)?;
    }
    step("handing over")?;
    let mut hand_overs = Recorder::new()?;
    for _ in 0..arguments.rounds {
        let begun = Instant::now();
        turns.pass()?;
        // There and back again: half of it is one hand-over.
        hand_overs.record(nanoseconds(begun.elapsed()) / 2)?;
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
        transfer: median(&mut times),
        hand_over: hand_overs.distribution(),
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
    for _ in 0..transfers(arguments.size) {
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

/// The value that half of all do not exceed.
fn median(values: &mut [u64]) -> u64 {
    values.sort_unstable();
    let middle = values.len().div_ceil(2).saturating_sub(1);
    values.get(middle).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_one_of_the_values() {
        assert_eq!(median(&mut [3, 1, 2]), 2);
        assert_eq!(median(&mut [4, 3, 1, 2]), 2);
        assert_eq!(median(&mut [7]), 7);
        assert_eq!(median(&mut []), 0);
    }

    #[test]
    fn small_payloads_are_moved_more_often() {
        let of = |size: &str| transfers(size.parse().unwrap());
        assert_eq!(of("1"), 25);
        assert_eq!(of("1MiB"), 16);
        assert_eq!(of("32MiB"), 5);
        assert_eq!(transfers(Size::MAX), 5);
    }
}
