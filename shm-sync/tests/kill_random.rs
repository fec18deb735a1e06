//! Processes that contend are killed at random times, and the others go on.
#![expect(
    clippy::unwrap_used,
    unsafe_code,
    reason = "a test fails by panicking, and owns its segment"
)]

mod common;

use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;

use common::{Shared, random_below, soon, until};
use integration_tests::peer::Peer;
use shm_sync::{
    Layout, Locked, Made, Mutex, Predecessor, Ready, Result, Semaphore, SeqLock,
};

for_every_mechanism! {
    writers_that_are_killed_leave_whole_values,
    makers_that_are_killed_make_it_once,
    owners_that_are_killed_lose_nothing_that_they_finished,
    a_layout_is_made_once_by_processes_that_are_killed,
}

fn peer(body: impl FnOnce() -> Result<()>) -> Peer {
    Peer::fork(|_| body().map(|()| [])).unwrap()
}

/// Sleeps for up to so many microseconds.
fn sleep_up_to(microseconds: u64) {
    sleep(Duration::from_micros(random_below(microseconds)));
}

fn writers_that_are_killed_leave_whole_values(shared: &Shared) {
    // SAFETY: 1. and 2. this test uses its segment only by this. 3. It stays.
    let lock = unsafe { SeqLock::create(shared.bytes(), 0, [0_u64; 40]) };
    let lock = lock.unwrap();
    let write = || {
        peer(|| {
            for number in 0.. {
                lock.write([number; 40])?;
            }
            Ok(())
        })
    };
    let mut writers = [write(), write()];
    let mut died = 0;
    for round in 0..350 {
        sleep_up_to(1500);
        let value = lock.read().unwrap();
        assert_eq!(value, [value[0]; 40]);
        std::mem::replace(&mut writers[round % 2], write()).kill().unwrap();
        let before = lock.write_until([0; 40], soon()).unwrap();
        died += u32::from(before == Predecessor::Died);
    }
    // The writers notice as well, and some of the time before this test does.
    let deaths = lock.reader().deaths().unwrap();
    assert!(deaths >= died && deaths > 0, "{deaths} {died}");
}

fn makers_that_are_killed_make_it_once(shared: &Shared) {
    let (head, table) = shared.bytes().split_at(Ready::SIZE).unwrap();
    let make = |in_the_middle: Duration| {
        // SAFETY: 1. this test uses its head only by this. 2. Zeros at first
        // and whenever nobody uses it. 3. The mapping stays.
        let ready = unsafe { Ready::open_or_create(head, 0)? };
        ready.make_once_until(soon(), || {
            for index in 1..2000 {
                table.set(8 * index, index)?;
                if index == 1000 {
                    sleep(in_the_middle);
                }
            }
            // The last step, which one that is killed after it does not take
            // back.
            table.atomic_u32(0)?.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
    };
    let mut again = 0;
    for round in 0..75 {
        // Some are killed in the middle for certain, some at any time.
        let in_the_middle = Duration::from_secs(60 * (round % 2));
        shared.bytes().fill(0);
        let start = || peer(|| make(in_the_middle).map(drop));
        let peers = [start(), start(), start()];
        if round % 2 == 1 {
            until("begin", || table.load_u32(8 * 999).unwrap() != 0);
        }
        sleep_up_to(1500);
        for peer in peers {
            peer.kill().unwrap();
        }
        again += u32::from(make(Duration::ZERO).unwrap() == Made::Now);
        let value: [usize; 1999] = table.get(8).unwrap();
        assert!(value.iter().zip(1..).all(|(value, index)| *value == index));
        // Once more for each that was killed just before it said so.
        assert!((1..=4).contains(&table.load_u32(0).unwrap()));
        assert_eq!(make(Duration::ZERO).unwrap(), Made::Before);
    }
    assert!(again >= 37, "{again}");
}

fn owners_that_are_killed_lose_nothing_that_they_finished(shared: &Shared) {
    let bytes = shared.bytes();
    // SAFETY: 1. and 2. this test uses its segment only by this. 3. No guard is
    // leaked.
    let mutex = unsafe { Mutex::create(bytes, 0, 16) }.unwrap();
    let started = Semaphore::create(bytes, 128, 0).unwrap();
    let work = || {
        peer(|| {
            started.release(1)?;
            loop {
                let guard = mutex.lock()?.or_repair(|bytes| {
                    // The second is the first, or one step behind.
                    bytes.set(8, bytes.get::<u64>(0)?)
                })?;
                let counts: [u64; 2] = guard.get(0)?;
                assert_eq!(counts[0], counts[1]);
                guard.set(0, counts[0] + 1)?;
                guard.set(8, counts[1] + 1)?;
            }
        })
    };
    let mut owners = [work(), work()];
    let mut last = 0;
    for round in 0..100 {
        started.acquire_until(soon()).unwrap();
        sleep_up_to(1000);
        std::mem::replace(&mut owners[round % 2], work()).kill().unwrap();
        let guard = match mutex.lock_until(soon()).unwrap() {
            Locked::Clean(guard) => guard,
            Locked::OwnerDied(orphan) => {
                orphan.set(8, orphan.get::<u64>(0).unwrap()).unwrap();
                orphan.mark_consistent().unwrap()
            }
        };
        let counts: [u64; 2] = guard.get(0).unwrap();
        assert_eq!(counts[0], counts[1]);
        assert!(counts[0] >= last);
        last = counts[0];
    }
    assert!(last > 0);
}

fn a_layout_is_made_once_by_processes_that_are_killed(shared: &Shared) {
    let mut layout = Layout::new(*b"random  ", 1);
    let lock = layout.mutex(8);
    let data = layout.bytes(1000);
    let open = || {
        // SAFETY: 1. this test uses its segment only by this. 2. Zeros at first
        // and whenever nobody uses it. 3. No guard is leaked.
        unsafe {
            layout.open_or_create(shared.bytes(), soon(), |new| {
                new.at(data)?.fill(1);
                let lock = new.at(lock)?;
                lock.lock()?.or_repair(|_| Ok(()))?.set(0, 1_u64)
            })
        }
    };
    for _ in 0..30 {
        shared.bytes().fill(0);
        let start = || {
            peer(|| {
                let (placed, _) = open()?;
                let lock = placed.at(lock)?;
                loop {
                    let guard = lock.lock()?.or_repair(|_| Ok(()))?;
                    guard.update(0, |count: u64| count + 1)?;
                }
            })
        };
        let peers = [start(), start()];
        sleep_up_to(3000);
        for peer in peers {
            peer.kill().unwrap();
        }
        let (placed, _) = open().unwrap();
        assert_eq!(placed.at(data).unwrap().to_vec(), [1; 1000]);
        let lock = placed.at(lock).unwrap();
        let locked = lock.lock_until(soon()).unwrap();
        let guard = locked.or_repair(|_| Ok(())).unwrap();
        assert!(guard.get::<u64>(0).unwrap() >= 1);
    }
}
