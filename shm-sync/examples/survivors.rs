//! Writers that are killed at random share a counter and a record, and the
//! others go on.
//!
//! `cargo run --example sync-survivors -- 500` kills 500 of them, one every few
//! milliseconds, and then adds up. It starts itself again for each writer: real
//! processes, which find the segment by its name.
//!
//! Each writer moves money between two accounts under a `Mutex`, counts that in
//! a third place, and publishes what it did last in a `SeqLock`. Killed between
//! two of these writes it leaves the accounts wrong; the next owner of the lock
//! is told so, and repairs them by what it knows about all of them: their sum.
#![expect(unsafe_code, reason = "promises a segment of its own to a layout")]

use std::error::Error;
use std::io;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use shm_posix::{Name, Segment};
use shm_sync::{
    Deadline, Layout, Locked, Mutex, MutexGuard, Result, SeqLock, Slot,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// How many writers there are at any time.
const WRITERS: usize = 8;
/// What the two accounts hold together, always.
const SUM: u64 = 1_000_000;

/// Under the lock: the accounts, how many moves were made, and how many owners
/// died.
const FIRST: usize = 0;
const SECOND: usize = 8;
const MOVES: usize = 16;
const DEATHS: usize = 24;

/// What a writer did last.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Record {
    process: u64,
    /// The number of its move, twice: in a torn value they would differ.
    number: u64,
    again: u64,
}

/// What the segment holds, the same in every process.
struct Bank {
    layout: Layout,
    accounts: Slot<Mutex<'static>>,
    last: Slot<SeqLock<'static, Record>>,
}

impl Bank {
    fn new() -> Self {
        let mut layout = Layout::new(*b"bankbank", 1);
        let accounts = layout.mutex(32);
        let nobody = Record { process: 0, number: 0, again: 0 };
        Self { last: layout.seq_lock(nobody), accounts, layout }
    }
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [role, name] if role == "writer" => Ok(write(&Name::new(name)?)?),
        [kills] => supervise(kills.parse()?),
        _ => Err("usage: survivors KILLS".into()),
    }
}

/// Moves money until it is killed.
fn write(name: &Name) -> Result<()> {
    let segment = Segment::open(name)?;
    let mapping = segment.map()?;
    let bank = Bank::new();
    let deadline = Deadline::after(Duration::from_secs(10));
    // SAFETY: 1. the segment is used only by this program, by this layout. 2.
    // It was zeros. 3. No guard is leaked.
    let placed = unsafe { bank.layout.open(mapping.bytes(), deadline)? };
    let (accounts, last) = (placed.at(bank.accounts)?, placed.at(bank.last)?);
    let process = u64::from(std::process::id());
    for amount in (1..100).cycle() {
        let guard = lock(&accounts)?;
        let first: u64 = guard.get(FIRST)?;
        let moved = amount.min(first);
        guard.set(FIRST, first - moved)?;
        // Killed here, the money would be gone.
        guard.update(SECOND, |second: u64| second + moved)?;
        if first == moved {
            guard.set(FIRST, SUM)?;
            guard.set(SECOND, 0_u64)?;
        }
        guard.update(MOVES, |moves: u64| moves + 1)?;
        let number: u64 = guard.get(MOVES)?;
        guard.unlock()?;
        last.write(Record { process, number, again: number })?;
    }
    Ok(())
}

/// The lock, with the accounts in order.
fn lock<'a>(accounts: &'a Mutex<'_>) -> Result<MutexGuard<'a>> {
    match accounts.lock()? {
        Locked::Clean(guard) => Ok(guard),
        Locked::OwnerDied(orphan) => {
            let first: u64 = orphan.get(FIRST)?;
            orphan.set(SECOND, SUM - first.min(SUM))?;
            orphan.set(DEATHS, orphan.get::<u64>(DEATHS)? + 1)?;
            orphan.mark_consistent()
        }
    }
}

/// Starts the writers, kills `kills` of them, and looks at what they did.
fn supervise(kills: u32) -> std::result::Result<(), Box<dyn Error>> {
    let bank = Bank::new();
    let name = format!("/survivors-{}", std::process::id());
    let name = Name::new(name)?;
    // Dropping the segment, also on an error below, removes its name.
    let segment = Segment::create(&name, bank.layout.size()?)?;
    let mapping = segment.map()?;
    let deadline = Deadline::after(Duration::from_secs(10));
    // SAFETY: as in `write`.
    let (placed, _) = unsafe {
        bank.layout.open_or_create(mapping.bytes(), deadline, |new| {
            let accounts = new.at(bank.accounts)?;
            accounts.lock()?.or_repair(|_| Ok(()))?.set(FIRST, SUM)
        })?
    };
    let (accounts, last) = (placed.at(bank.accounts)?, placed.at(bank.last)?);

    let mut writers = Vec::new();
    for _ in 0..WRITERS {
        writers.push(Writer::start(&name)?);
    }
    for kill in 0..kills {
        sleep(Duration::from_micros(500 + 37 * u64::from(kill % 100)));
        // Its drop kills it.
        let index = usize::try_from(kill)? % WRITERS;
        writers[index] = Writer::start(&name)?;
        let record = last.read()?;
        if record.number != record.again {
            return Err(format!("a torn record: {record:?}").into());
        }
    }
    // The last ones may have been started just now.
    let begun = Instant::now();
    while last.read()?.number == 0 {
        if begun.elapsed() > Duration::from_secs(10) {
            return Err("no writer wrote".into());
        }
        sleep(Duration::from_millis(1));
    }
    drop(writers);

    let guard = lock(&accounts)?;
    let [first, second, moves, deaths]: [u64; 4] = guard.get(FIRST)?;
    eprintln!(
        "{kills} writers killed, {moves} moves; {deaths} died with the lock, \
         {} while they published",
        last.reader().deaths()?
    );
    if first + second != SUM {
        return Err(format!("{first} and {second} are not {SUM}").into());
    }
    eprintln!("{first} and {second} are {SUM}; last: {:?}", last.read()?);
    Ok(())
}

/// A writer, killed when dropped.
struct Writer(Child);

impl Writer {
    fn start(name: &Name) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("writer").arg(name.to_string()).stdin(Stdio::null());
        Ok(Self(command.spawn()?))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Nothing can be told here; the process is ours, so it works.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
