//! One of the two processes that move the payload: `send` creates the segment,
//! `receive` finds it.
//!
//! Its standard input is the socket to the other one; on its standard output it
//! tells the command what it does, a JSON object a line. The payload goes
//! through the segment, behind a page of control words; the socket carries
//! what finds the segment, and shows when the other process is gone.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use shm_common::{AsSharedBytes, PageSize, ReadWrite, SharedBytes, Size};
use shm_memfd::transfer;
use xxhash_rust::xxh3::xxh3_64;

use crate::Failure;

/// How often the payload is moved; the median counts.
const TRANSFERS: u32 = 5;

/// Where the payload begins in the segment.
const PAYLOAD: usize = 4096;
/// Where the sender says whose turn it is, and where the receiver does: each on
/// a cache line of its own.
const SENT: usize = 0;
const ANSWERED: usize = 128;

/// A mechanism that is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mechanism {
    Sysv,
    Posix,
    Memfd,
}

impl Mechanism {
    pub(crate) const ALL: [Self; 3] = [Self::Sysv, Self::Posix, Self::Memfd];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sysv => "sysv",
            Self::Posix => "posix",
            Self::Memfd => "memfd",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Role {
    Send,
    Receive,
}

/// What both processes are to do.
#[derive(clap::Args, Clone)]
pub(crate) struct Work {
    #[arg(long)]
    pub(crate) mechanism: Mechanism,
    #[arg(long)]
    pub(crate) payload: Option<PathBuf>,
    /// In bytes.
    #[arg(long)]
    pub(crate) size: usize,
    #[arg(long)]
    pub(crate) rounds: u32,
}

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[arg(long)]
    role: Role,
    #[command(flatten)]
    work: Work,
    /// What the segment is called, where it is called something.
    #[arg(long)]
    label: String,
    /// Holds the segment until it is killed, instead of moving anything.
    #[arg(long)]
    hold: bool,
}

/// What a process tells the command.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Told {
    Step(String),
    /// What the segment is, as this process knows it.
    Holding(String),
    Sent(Figures),
    Received {
        checksum: u64,
    },
    Failed(String),
}

/// What the sender measured; times in nanoseconds.
#[derive(Serialize, Deserialize, Clone)]
pub(crate) struct Figures {
    pub(crate) payload_bytes: usize,
    pub(crate) checksum: u64,
    /// What the receiver computed from its copy.
    #[serde(default)]
    pub(crate) received_checksum: Option<u64>,
    pub(crate) set_up: u64,
    pub(crate) map: u64,
    pub(crate) first_touch: u64,
    pub(crate) transfer: u64,
    pub(crate) hand_over_median: u64,
    pub hand_over_p99: u64,
    pub(crate) tear_down: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    // Whatever becomes of the command, this process goes with it.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let done = match arguments.work.mechanism {
        Mechanism::Sysv => play::<SysV>(arguments, &socket),
        Mechanism::Posix => play::<Posix>(arguments, &socket),
        Mechanism::Memfd => play::<Memfd>(arguments, &socket),
    };
    Ok(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&Told::Failed(error.to_string()))?;
            ExitCode::FAILURE
        }
    })
}

fn play<M: Kind>(
    arguments: &Arguments,
    socket: &UnixStream,
) -> Result<(), Failure> {
    let size = Size::new(arguments.work.size)?;
    let size = size.bytes().checked_add(PAYLOAD).map(Size::new);
    let size = size.ok_or("cannot use that size: it is too large")??;
    match (arguments.role, arguments.hold) {
        (Role::Send, false) => send::<M>(arguments, socket, size),
        (Role::Receive, false) => receive::<M>(arguments, socket),
        (Role::Send, true) => {
            let segment = M::create(&arguments.label, size)?;
            let mapping = M::map(&segment)?;
            M::announce(&segment, socket)?;
            hold::<M>(&segment, &mapping, socket)
        }
        (Role::Receive, true) => {
            let segment = M::find(socket)?;
            let mapping = M::map(&segment)?;
            hold::<M>(&segment, &mapping, socket)
        }
    }
}

fn hold<M: Kind>(
    segment: &M::Segment,
    mapping: &M::Mapping,
    mut socket: &UnixStream,
) -> Result<(), Failure> {
    mapping.as_shared_bytes().write_at(PAYLOAD, b"held")?;
    tell(&Told::Holding(M::describe(segment)))?;
    // The other one never writes: this waits until either is killed.
    let _ = socket.read(&mut [0])?;
    Err("the other process ended before it was killed".into())
}

fn send<M: Kind>(
    arguments: &Arguments,
    socket: &UnixStream,
    size: Size,
) -> Result<(), Failure> {
    let work = &arguments.work;
    tell(&Told::Step("reading the payload".into()))?;
    let payload = load(work)?;
    let checksum = xxh3_64(&payload);
    tell(&Told::Step("setting up".into()))?;
    let (segment, set_up) = timed(|| M::create(&arguments.label, size));
    let segment = segment?;
    let (mapping, map) = timed(|| M::map(&segment));
    let mapping = mapping?;
    let ((), first_touch) = timed(|| touch(mapping.as_shared_bytes()));
    M::announce(&segment, socket)?;

    let bytes = mapping.as_shared_bytes();
    let line = Line::new(bytes, socket, SENT, ANSWERED)?;
    let mut transfers = Vec::new();
    for transfer in 0..TRANSFERS {
        let step = format!("moving it, {} of {TRANSFERS}", transfer + 1);
        tell(&Told::Step(step))?;
        let begun = Instant::now();
        bytes.write_at(PAYLOAD, &payload)?;
        line.pass()?;
        transfers.push(nanoseconds(begun.elapsed()));
        // The receiver has compared it, and wiped its copy.
        line.pass()?;
        bytes.fill_from(PAYLOAD)?;
    }
    tell(&Told::Step("handing over".into()))?;
    let mut hand_overs = Vec::new();
    for _ in 0..work.rounds {
        let begun = Instant::now();
        line.pass()?;
        // There and back again: half of it is one hand-over.
        hand_overs.push(nanoseconds(begun.elapsed()) / 2);
    }
    tell(&Told::Step("tearing down".into()))?;
    // The receiver says that it has let go.
    let mut socket = socket;
    socket.read_exact(&mut [0])?;
    let ((), tear_down) = timed(|| {
        drop(mapping);
        drop(segment);
    });
    tell(&Told::Sent(Figures {
        payload_bytes: payload.len(),
        checksum,
        received_checksum: None,
        set_up,
        map,
        first_touch,
        transfer: percentile(&mut transfers, 50),
        hand_over_median: percentile(&mut hand_overs, 50),
        hand_over_p99: percentile(&mut hand_overs, 99),
        tear_down,
    }))
}

fn receive<M: Kind>(
    arguments: &Arguments,
    socket: &UnixStream,
) -> Result<(), Failure> {
    let work = &arguments.work;
    // Touched before the clock runs, as the sender's is.
    let mut copy = vec![1; work.size];
    let segment = M::find(socket)?;
    let mapping = M::map(&segment)?;
    let bytes = mapping.as_shared_bytes();
    let line = Line::new(bytes, socket, ANSWERED, SENT)?;
    let mut checksum = None;
    for _ in 0..TRANSFERS {
        line.wait()?;
        bytes.read_at(PAYLOAD, &mut copy)?;
        line.answer();
        let computed = xxh3_64(&copy);
        if checksum.is_some_and(|first| first != computed) {
            return Err("two transfers of the same bytes differ".into());
        }
        checksum = Some(computed);
        copy.fill(0);
        line.wait()?;
        line.answer();
    }
    for _ in 0..work.rounds {
        line.wait()?;
        line.answer();
    }
    drop(mapping);
    drop(segment);
    let mut socket = socket;
    socket.write_all(b"\n")?;
    match checksum {
        Some(checksum) => tell(&Told::Received { checksum }),
        None => Err("nothing was received".into()),
    }
}

/// Wipes what was moved, so that the next transfer cannot pass for it.
trait FillFrom {
    fn fill_from(self, offset: usize) -> shm_common::Result<()>;
}

impl FillFrom for SharedBytes<'_, ReadWrite> {
    fn fill_from(self, offset: usize) -> shm_common::Result<()> {
        self.split_at(offset)?.1.fill(0);
        Ok(())
    }
}

/// Two words in the segment, by which the two processes take turns. The first
/// to go is the sender; turns are counted from 1.
struct Line<'a> {
    mine: &'a AtomicU32,
    theirs: &'a AtomicU32,
    socket: BorrowedFd<'a>,
}

impl<'a> Line<'a> {
    fn new(
        bytes: SharedBytes<'a, ReadWrite>,
        socket: &'a UnixStream,
        mine: usize,
        theirs: usize,
    ) -> shm_common::Result<Self> {
        Ok(Self {
            mine: bytes.atomic_u32(mine)?,
            theirs: bytes.atomic_u32(theirs)?,
            socket: socket.as_fd(),
        })
    }

    /// The sender's turn ends; returns at the receiver's answer.
    fn pass(&self) -> Result<(), Failure> {
        let turn = self.mine.fetch_add(1, Ordering::Release).wrapping_add(1);
        self.until(|theirs| theirs == turn)
    }

    /// Waits for the sender's turn to end.
    fn wait(&self) -> Result<(), Failure> {
        let turn = self.mine.load(Ordering::Relaxed);
        self.until(|theirs| theirs != turn)
    }

    fn answer(&self) {
        self.mine.fetch_add(1, Ordering::Release);
    }

    /// Spins for a while, then lets others run; looks now and then whether the
    /// other process still lives.
    fn until(&self, done: impl Fn(u32) -> bool) -> Result<(), Failure> {
        const SPINS: u32 = 10_000;
        const LOOK_EVERY: u32 = 256;
        let mut turns = 0_u32;
        while !done(self.theirs.load(Ordering::Acquire)) {
            turns = turns.saturating_add(1);
            if turns < SPINS {
                std::hint::spin_loop();
                continue;
            }
            if turns.is_multiple_of(LOOK_EVERY) || turns == u32::MAX {
                self.look()?;
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    fn look(&self) -> Result<(), Failure> {
        // A hang-up is always told, asked for or not.
        let mut socket = [PollFd::new(self.socket, PollFlags::empty())];
        match poll(&mut socket, PollTimeout::ZERO) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Ok(_) => Err("the other process is gone".into()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// What is done differently for each mechanism.
trait Kind {
    type Segment;
    type Mapping: AsSharedBytes<Access = ReadWrite>;

    fn create(label: &str, size: Size) -> shm_common::Result<Self::Segment>;
    fn map(segment: &Self::Segment) -> shm_common::Result<Self::Mapping>;
    /// Tells the other process how to find it.
    fn announce(
        segment: &Self::Segment,
        socket: &UnixStream,
    ) -> Result<(), Failure>;
    fn find(socket: &UnixStream) -> Result<Self::Segment, Failure>;
    /// What tells the command which one it is.
    fn describe(segment: &Self::Segment) -> String;
}

struct SysV;

impl Kind for SysV {
    type Segment = shm_sysv::Segment;
    type Mapping = shm_sysv::Mapping<ReadWrite>;

    fn create(_: &str, size: Size) -> shm_common::Result<Self::Segment> {
        shm_sysv::Segment::create(shm_sysv::Key::PRIVATE, size)
    }

    fn map(segment: &Self::Segment) -> shm_common::Result<Self::Mapping> {
        segment.map()
    }

    fn announce(
        segment: &Self::Segment,
        socket: &UnixStream,
    ) -> Result<(), Failure> {
        write_line(socket, &Self::describe(segment))
    }

    fn find(socket: &UnixStream) -> Result<Self::Segment, Failure> {
        Ok(shm_sysv::Segment::open_id(read_line(socket)?.parse()?)?)
    }

    fn describe(segment: &Self::Segment) -> String {
        segment.id().as_raw().to_string()
    }
}

struct Posix;

impl Kind for Posix {
    type Segment = shm_posix::Segment;
    type Mapping = shm_posix::Mapping<ReadWrite>;

    fn create(label: &str, size: Size) -> shm_common::Result<Self::Segment> {
        shm_posix::Segment::create(&shm_posix::Name::new(label)?, size)
    }

    fn map(segment: &Self::Segment) -> shm_common::Result<Self::Mapping> {
        segment.map()
    }

    fn announce(
        segment: &Self::Segment,
        socket: &UnixStream,
    ) -> Result<(), Failure> {
        write_line(socket, &Self::describe(segment))
    }

    fn find(socket: &UnixStream) -> Result<Self::Segment, Failure> {
        Ok(shm_posix::Segment::open(&read_line(socket)?.parse()?)?)
    }

    fn describe(segment: &Self::Segment) -> String {
        segment.name().to_string()
    }
}

struct Memfd;

impl Kind for Memfd {
    type Segment = (shm_memfd::Segment, String);
    type Mapping = shm_memfd::Mapping<ReadWrite>;

    fn create(label: &str, size: Size) -> shm_common::Result<Self::Segment> {
        let segment =
            shm_memfd::Segment::create(&shm_memfd::Label::new(label)?, size)?;
        Ok((segment, label.to_owned()))
    }

    fn map(segment: &Self::Segment) -> shm_common::Result<Self::Mapping> {
        segment.0.map()
    }

    fn announce(
        (segment, label): &Self::Segment,
        socket: &UnixStream,
    ) -> Result<(), Failure> {
        transfer::send(socket, b"!", &[segment.as_fd()])?;
        write_line(socket, label)
    }

    fn find(socket: &UnixStream) -> Result<Self::Segment, Failure> {
        let message = transfer::receive(socket, &mut [0], 1)?;
        let [fd] = message.into_descriptors()?;
        Ok((shm_memfd::Segment::open(fd)?, read_line(socket)?))
    }

    fn describe((_, label): &Self::Segment) -> String {
        label.clone()
    }
}

fn write_line(mut socket: &UnixStream, line: &str) -> Result<(), Failure> {
    Ok(socket.write_all(format!("{line}\n").as_bytes())?)
}

/// Byte by byte, so as not to take what comes after the line.
fn read_line(mut socket: &UnixStream) -> Result<String, Failure> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        socket
            .read_exact(&mut byte)
            .map_err(|_| "the other process is gone")?;
        match byte {
            [b'\n'] => return Ok(String::from_utf8(line)?),
            [byte] => line.push(byte),
        }
    }
}

/// Tells the command something.
fn tell(told: &Told) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string(told)?)?;
    Ok(stdout.flush()?)
}

/// The file, or pseudo-random bytes that nothing can compress or confuse.
fn load(work: &Work) -> Result<Vec<u8>, Failure> {
    let Some(path) = &work.payload else {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut bytes = Vec::with_capacity(work.size.next_multiple_of(8));
        while bytes.len() < work.size {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_ne_bytes());
        }
        bytes.truncate(work.size);
        return Ok(bytes);
    };
    let bytes = fs::read(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    match bytes.len() == work.size {
        true => Ok(bytes),
        false => Err(format!(
            "cannot use {}: its length changed meanwhile",
            path.display()
        )
        .into()),
    }
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
