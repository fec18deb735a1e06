//! Kills: at each step of a segment's life, before each of its system calls,
//! and at random moments. Afterwards the automatic mechanisms have left nothing,
//! what the others left is found by their tools, and nothing else is.
//!
//! `SHM_CRASH_KILLS=10000` makes more of the random ones. Those begin with a
//! seed that is told when a test fails; `SHM_CRASH_SEED` sets it.
#![expect(
    unreachable_pub,
    reason = "a test program exports nothing; `pub` tells what a file is for"
)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod victims;

use std::collections::BTreeSet;
use std::env;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use integration_tests::leaks;
use integration_tests::peer::{JoinError, Link, Peer};
use integration_tests::surroundings::die_before;
use nix::sys::signal::Signal;
use shm_common::AsSharedBytes;

use victims::{CONTENTS, Leaves, Memfd, Posix, SysV, SysVAutomatic, Victim};

/// What a victim tells when it gets there.
const STEPS: [&str; 5] =
    ["created", "mapped", "written", "handed over", "removed"];

/// One life. After each step `at` is told, and may wait.
fn live<V: Victim>(
    to: &UnixStream,
    at: impl Fn(&str) -> Result<(), String>,
) -> Result<&'static str, String> {
    let said = |error: shm_common::Error| error.to_string();
    let segment = V::create().map_err(said)?;
    at("created")?;
    let mapping = V::map(&segment).map_err(said)?;
    at("mapped")?;
    let bytes = mapping.as_shared_bytes();
    bytes.write_at(0, CONTENTS).map_err(said)?;
    at("written")?;
    V::hand_over(&segment, to).map_err(said)?;
    at("handed over")?;
    drop(mapping);
    drop(segment);
    at("removed")?;
    Ok("")
}

/// Socket ends of which ours never waits.
fn sockets() -> (UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (ours, theirs)
}

/// What is left of a dead victim is `expected`, and the crate's own tool finds
/// that and removes it.
fn check<V: Victim>(pid: i32, expected: Leaves, when: &str) {
    let left = left_by::<V>(pid);
    let expected = usize::from(expected == Leaves::Segment);
    assert_eq!(left.len(), expected, "{when}: {left:?}");
    let cleaned: BTreeSet<String> = V::clean(pid).into_iter().collect();
    let cleaned: BTreeSet<_> = cleaned.difference(older()).cloned().collect();
    assert_eq!(cleaned, left, "{when}: found to clean up, and left");
    let left = left_by::<V>(pid);
    assert!(left.is_empty(), "{when}: after cleaning up: {left:?}");
}

fn left_by<V: Victim>(pid: i32) -> BTreeSet<String> {
    let all: BTreeSet<String> = V::left_by(pid).into_iter().collect();
    all.difference(older()).cloned().collect()
}

/// What was there before this program began: some of it may have been left by
/// processes whose numbers are used again now.
fn older() -> &'static BTreeSet<String> {
    static OLDER: OnceLock<BTreeSet<String>> = OnceLock::new();
    OLDER.get_or_init(|| {
        let (mut all, own) = (victims::everything(), std::process::id());
        all.retain(|name| !name.starts_with(&format!("/shmtest-{own}-")));
        all
    })
}

fn killed_at_each_step<V: Victim>() {
    older();
    for last in STEPS {
        let (ours, theirs) = sockets();
        let mut victim =
            Peer::fork(|link| live::<V>(&theirs, |step| wait_at(link, step)))
                .unwrap();
        drop(theirs);
        loop {
            let step = victim.receive().unwrap();
            if step == last.as_bytes() {
                break;
            }
            victim.send("go on").unwrap();
        }
        let pid = victim.pid();
        victim.kill().unwrap();
        if last == "handed over" {
            // Read by a child: what this process opened, children of other
            // tests would inherit, and hold on to.
            let reader = Peer::fork(|_| {
                let read = V::read(&ours)?;
                Ok::<_, shm_common::Error>(read.map_or(vec![], Vec::from))
            });
            let read = reader.unwrap().join(Duration::from_secs(20)).unwrap();
            let whole = if V::IS_READ_LATER { &CONTENTS[..] } else { b"" };
            assert_eq!(read, whole, "what its dead sender handed over");
        }
        let expected = match last {
            "removed" => Leaves::Nothing,
            _ => V::ALIVE,
        };
        check::<V>(pid, expected, last);
    }
}

fn wait_at(link: &Link, step: &str) -> Result<(), String> {
    link.send(step).map_err(|error| error.to_string())?;
    link.receive().map_err(|error| error.to_string())?;
    Ok(())
}

fn killed_before_each_system_call<V: Victim>() {
    older();
    for (call, leaves) in V::CALLS {
        let (_ours, theirs) = sockets();
        let victim = Peer::fork(|_| {
            die_before(*call).map_err(|error| error.to_string())?;
            live::<V>(&theirs, |_| Ok(()))
        })
        .unwrap();
        let pid = victim.pid();
        match victim.join(Duration::from_secs(20)) {
            Err(JoinError::Killed(Signal::SIGSYS)) => {}
            other => panic!("call {call} was not made: {other:?}"),
        }
        check::<V>(pid, *leaves, &format!("before system call {call}"));
    }
}

/// Kills at random moments, while a survivor uses segments under the same
/// prefix; nothing of its is taken for a leftover.
fn killed_at_random<V: Victim>() {
    older();
    let kills = number("SHM_CRASH_KILLS").unwrap_or(1200) / 4;
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seed = number("SHM_CRASH_SEED")
        .unwrap_or_else(|| u64::from(clock.unwrap().subsec_nanos()) | 1);
    let mut random = Random(seed);
    let survivor = V::create().unwrap();
    let own = i32::try_from(std::process::id()).unwrap();
    let mut left = 0;
    for kill in 0..kills {
        let (_ours, theirs) = sockets();
        let victim = Peer::fork(|_| -> Result<&str, String> {
            // For ever, unless something goes wrong.
            loop {
                let (_far, near) = sockets();
                live::<V>(&near, |_| Ok(()))?;
            }
        })
        .unwrap();
        drop(theirs);
        let pid = victim.pid();
        std::thread::sleep(Duration::from_micros(random.below(1500)));
        victim.signal(Signal::SIGKILL).unwrap();
        match victim.join(Duration::from_secs(20)) {
            Err(JoinError::Killed(Signal::SIGKILL)) => {}
            other => panic!("seed {seed}, kill {kill}: {other:?}"),
        }
        let found = left_by::<V>(pid);
        assert!(found.len() <= 1, "seed {seed}, kill {kill}: {found:?}");
        left += found.len();
        let leaves =
            if found.is_empty() { Leaves::Nothing } else { Leaves::Segment };
        check::<V>(pid, leaves, &format!("seed {seed}, kill {kill}"));
    }
    let (mine, all) = (V::describe(&survivor), V::left_by(own));
    assert!(all.contains(&mine), "seed {seed}: {mine} of the survivor");
    // That some were hit in the middle shows that the moments were good ones.
    assert!(
        left > 0 || V::ALIVE == Leaves::Nothing,
        "seed {seed}: none of {kills} kills left anything"
    );
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap())
}

/// A xorshift generator: the moments need no more.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Nothing that a live process has made, holds or only maps is ever reaped,
/// while it creates and drops, others are killed, and a reaper never stops.
#[test]
fn a_reaper_never_takes_what_is_alive() {
    use shm_posix::{Name, Segment, reap};
    let prefix = format!("{}alive-", leaks::prefix());
    let control = Memfd::create().unwrap().map().unwrap();
    let stop = control.bytes().atomic_u32(0).unwrap();
    let reaper = Peer::fork(|_| -> Result<&str, String> {
        while stop.load(Ordering::Relaxed) == 0 {
            let reaped = reap(&prefix).map_err(|error| error.to_string())?;
            if let Some(taken) = reaped.removed.first() {
                return Err(format!("it took {taken}"));
            }
        }
        Ok("")
    })
    .unwrap();
    for round in 0..3000 {
        let name = Name::new(format!("{prefix}{round}")).unwrap();
        let mut segment =
            Segment::create(&name, victims::size().unwrap()).unwrap();
        let mapping = segment.map().unwrap();
        if round % 2 == 0 {
            // From here on only the mapping holds the lock.
            segment.keep();
            drop(segment);
            assert!(Segment::open(&name).is_ok(), "{name} was taken");
            name.unlink().unwrap();
        }
        drop(mapping);
    }
    stop.store(1, Ordering::Relaxed);
    reaper.join(Duration::from_secs(20)).unwrap();
}

macro_rules! crash {
    ($($mechanism:ident: $victim:ty,)*) => {$(
        mod $mechanism {
            use super::*;

            #[test]
            fn killed_at_each_step() {
                super::killed_at_each_step::<$victim>();
            }

            #[test]
            fn killed_before_each_system_call() {
                super::killed_before_each_system_call::<$victim>();
            }

            #[test]
            fn killed_at_random() {
                super::killed_at_random::<$victim>();
            }
        }
    )*};
}

crash! {
    sysv: SysV,
    sysv_automatic: SysVAutomatic,
    posix: Posix,
    memfd: Memfd,
}
