//! How the two processes take turns: two words in the segment, each written by
//! one side only and on a cache line of its own.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shm_common::{ReadWrite, SharedBytes};

use crate::Failure;

/// The bytes that the words need: a page, so that the payload begins with one.
pub(crate) const LEN: usize = 4096;

/// Where each side says how many turns it has taken. A processor may fetch
/// lines in pairs of 64 bytes.
const SENDERS: usize = 0;
const RECEIVERS: usize = 128;

/// How often to look before letting others run.
const SPINS: u32 = 10_000;
/// How often to let others run before looking whether the other still lives.
const LOOK_EVERY: u32 = 256;

/// The other process has ended; why, it has told the command itself.
#[derive(Debug)]
pub(crate) struct Gone;

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the other process is gone")
    }
}

impl std::error::Error for Gone {}

/// The sender's side: it goes first.
pub(crate) struct Leader<'a>(Words<'a>);

/// The receiver's side.
pub(crate) struct Follower<'a>(Words<'a>);

impl<'a> Leader<'a> {
    /// `spins`: whether the other process can run while this one spins.
    pub(crate) fn new(
        words: SharedBytes<'a, ReadWrite>,
        socket: &'a UnixStream,
        spins: bool,
    ) -> shm_common::Result<Self> {
        Words::new(words, [SENDERS, RECEIVERS], socket, spins).map(Self)
    }

    /// Ends this turn, and returns when the other has ended its.
    pub(crate) fn pass(&self) -> Result<(), Failure> {
        let turn = self.0.end_turn();
        self.0.until(|theirs| theirs == turn)
    }
}

impl<'a> Follower<'a> {
    /// As [`Leader::new`].
    pub(crate) fn new(
        words: SharedBytes<'a, ReadWrite>,
        socket: &'a UnixStream,
        spins: bool,
    ) -> shm_common::Result<Self> {
        Words::new(words, [RECEIVERS, SENDERS], socket, spins).map(Self)
    }

    /// Returns when it is this side's turn.
    pub(crate) fn wait(&self) -> Result<(), Failure> {
        let turn = self.0.mine.load(Ordering::Relaxed);
        self.0.until(|theirs| theirs != turn)
    }

    /// Ends this turn.
    pub(crate) fn answer(&self) {
        self.0.end_turn();
    }
}

struct Words<'a> {
    mine: &'a AtomicU32,
    theirs: &'a AtomicU32,
    /// Shows when the other process is gone.
    socket: BorrowedFd<'a>,
    spins: u32,
}

impl<'a> Words<'a> {
    fn new(
        words: SharedBytes<'a, ReadWrite>,
        [mine, theirs]: [usize; 2],
        socket: &'a UnixStream,
        spins: bool,
    ) -> shm_common::Result<Self> {
        Ok(Self {
            mine: words.atomic_u32(mine)?,
            theirs: words.atomic_u32(theirs)?,
            socket: socket.as_fd(),
            spins: if spins { SPINS } else { 0 },
        })
    }

    /// What was written before is seen by the other once it sees this.
    fn end_turn(&self) -> u32 {
        self.mine.fetch_add(1, Ordering::Release).wrapping_add(1)
    }

    /// Spins for a while, then lets others run.
    fn until(&self, done: impl Fn(u32) -> bool) -> Result<(), Failure> {
        let mut looks = 0_u32;
        while !done(self.theirs.load(Ordering::Acquire)) {
            looks = looks.wrapping_add(1);
            if looks < self.spins {
                std::hint::spin_loop();
                continue;
            }
            if looks.is_multiple_of(LOOK_EVERY) {
                self.check_other()?;
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    fn check_other(&self) -> Result<(), Failure> {
        // A hang-up is always told, asked for or not.
        let mut socket = [PollFd::new(self.socket, PollFlags::empty())];
        match poll(&mut socket, PollTimeout::ZERO) {
            Ok(0) | Err(Errno::EINTR) => Ok(()),
            Ok(_) => Err(Gone.into()),
            Err(errno) => Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_side_writes_the_other_reads_in_its_turn() {
        let (one, other) = UnixStream::pair().unwrap();
        let mut memory = vec![0; LEN];
        let bytes = SharedBytes::from_mut(&mut memory);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let turns = Follower::new(bytes, &other, true).unwrap();
                for round in 0..1000_u32 {
                    turns.wait().unwrap();
                    assert_eq!(bytes.get(512), Ok(round));
                    bytes.set(512, round * 2).unwrap();
                    turns.answer();
                }
            });
            let turns = Leader::new(bytes, &one, true).unwrap();
            for round in 0..1000_u32 {
                bytes.set(512, round).unwrap();
                turns.pass().unwrap();
                assert_eq!(bytes.get(512), Ok(round * 2));
            }
        });
    }

    #[test]
    fn nobody_waits_for_a_process_that_is_gone() {
        for spins in [true, false] {
            let (one, other) = UnixStream::pair().unwrap();
            let mut memory = vec![0; LEN];
            let bytes = SharedBytes::from_mut(&mut memory);
            drop(other);
            let turns = Leader::new(bytes, &one, spins).unwrap();
            assert!(turns.pass().unwrap_err().is::<Gone>());
        }
    }
}
