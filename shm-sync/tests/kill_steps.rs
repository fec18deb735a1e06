//! A process is killed between every two steps of an operation, and the others
//! go on.
//!
//! A step is an instruction of the processor, of which a debug build has many
//! for each line: the process counts its own, and kills itself after so many.
//! Where the kills fall differs from run to run. Then there are kills at
//! random times, under contention: `kill_random.rs`. Together more than 2,000.
#![cfg(target_arch = "x86_64")]
#![expect(
    clippy::unwrap_used,
    unsafe_code,
    reason = "a test fails by panicking, and owns its segment"
)]

mod common;

use std::time::Duration;

use common::{Shared, Stepped, kill_at_every_step, soon, until_asleep};
use integration_tests::peer::Peer;
use shm_sync::{
    Condvar, Deadline, Event, Layout, Locked, Made, Mutex, Predecessor, Ready,
    Reset, Semaphore, SeqLock,
};

for_every_mechanism! {
    a_killed_writer_never_leaves_a_torn_value,
    a_killed_maker_leaves_the_making_to_the_next,
    a_killed_owner_is_noticed_or_had_not_begun_or_was_done,
}

fn a_killed_writer_never_leaves_a_torn_value(shared: &Shared) {
    const KILLS: u64 = 30;
    const OLD: [u8; 100] = [1; 100];
    const NEW: [u8; 100] = [2; 100];
    let bytes = shared.bytes();
    // SAFETY: 1. and 2. this test uses its segment only by this. 3. It stays.
    let lock = unsafe { SeqLock::create(bytes, 0, OLD) }.unwrap();
    let (mut published, mut died) = (0, 0);
    kill_at_every_step(
        KILLS,
        || _ = lock.write(OLD).unwrap(),
        || lock.write(NEW).map(drop),
        |step, stepped| {
            let value = lock.read().unwrap();
            assert!(value == OLD || value == NEW, "{step}: {value:?}");
            if let Stepped::Finished(_) = stepped {
                assert_eq!(value, NEW);
            }
            // Until the slot that the dead writer left half-filled has been
            // the current one.
            for number in 0..5 {
                let value = [10 + number; 100];
                let before = lock.write_until(value, soon()).unwrap();
                assert_eq!(lock.read().unwrap(), value, "{step}");
                died += u32::from(before == Predecessor::Died);
                assert!(number == 0 || before == Predecessor::Finished);
            }
            published += u32::from(value == NEW);
        },
    );
    assert_eq!(lock.reader().deaths().unwrap(), died);
    // Some died before the step that publishes, some after it, and some with
    // the lock.
    assert!(published > 1 && died > 1, "{published} {died}");
    assert!(u64::from(published) < KILLS && u64::from(died) < KILLS);
}

fn a_killed_maker_leaves_the_making_to_the_next(shared: &Shared) {
    let (head, table) = shared.bytes().split_at(Ready::SIZE).unwrap();
    let open = || {
        // SAFETY: 1. this test uses its head only by this. 2. Zeros: `prepare`.
        // 3. The mapping stays.
        unsafe { Ready::open_or_create(head, 0) }
    };
    let make = |ready: Ready<'_>| {
        ready.make_once_until(soon(), || {
            table.set(0, 1_u64)?;
            table.set(8, 2_u64)
        })
    };
    let (mut before, mut now) = (0, 0);
    let mut check = |step, stepped| {
        let ready = open().unwrap();
        match make(ready).unwrap() {
            Made::Now => {
                assert_eq!(stepped, Stepped::Killed, "{step}");
                now += 1;
            }
            Made::Before => before += 1,
        }
        assert_eq!(table.get::<[u64; 2]>(0).unwrap(), [1, 2], "{step}");
        assert_eq!(make(ready).unwrap(), Made::Before, "{step}");
    };
    let zeros = || shared.bytes().fill(0);
    kill_at_every_step(
        3,
        zeros,
        || open().and_then(make).map(drop),
        &mut check,
    );
    // The same without the long way to open it, of which each step is killed
    // more often so.
    zeros();
    let ready = open().unwrap();
    let opened = || {
        zeros();
        open().unwrap();
    };
    kill_at_every_step(40, opened, || make(ready).map(drop), &mut check);
    assert!(before > 1 && now > 1, "{before} {now}");
}

fn a_killed_owner_is_noticed_or_had_not_begun_or_was_done(shared: &Shared) {
    // SAFETY: 1. and 2. this test uses its segment only by this. 3. No guard is
    // leaked.
    let mutex = unsafe { Mutex::create(shared.bytes(), 0, 16) }.unwrap();
    let mut died = 0;
    kill_at_every_step(
        24,
        || (),
        || {
            let guard = mutex.lock()?.or_repair(|_| Ok(()))?;
            // Equal, but between these two.
            guard.update(0, |count: u64| count + 1)?;
            guard.update(8, |count: u64| count + 1)?;
            guard.unlock()
        },
        |step, stepped| {
            let guard = match mutex.lock_until(soon()).unwrap() {
                Locked::Clean(guard) => guard,
                Locked::OwnerDied(orphan) => {
                    assert_eq!(stepped, Stepped::Killed, "{step}");
                    died += 1;
                    let first: u64 = orphan.get(0).unwrap();
                    orphan.set(8, first).unwrap();
                    orphan.mark_consistent().unwrap()
                }
            };
            let counts: [u64; 2] = guard.get(0).unwrap();
            assert_eq!(counts[0], counts[1], "{step}");
            guard.unlock().unwrap();
        },
    );
    assert!(died > 1, "{died}");
}

#[test]
fn a_killed_repairer_has_repaired_or_leaves_it_to_the_next() {
    let shared = Shared::memfd();
    // SAFETY: 1. and 2. used only by this. 3. No guard is leaked, but where
    // the process ends.
    let mutex = unsafe { Mutex::create(shared.bytes(), 0, 16) }.unwrap();
    let (mut repaired, mut left) = (0, 0);
    kill_at_every_step(
        40,
        || {
            let broken = waiter(|| {
                let guard = mutex.lock()?.or_repair(|_| Ok(()))?;
                guard.set(0, [1_u64, 0])?;
                std::mem::forget(guard);
                Ok(())
            });
            assert_ends(broken, "breaks it");
        },
        || {
            let guard = mutex.lock()?.or_repair(|bytes| bytes.set(8, 1_u64))?;
            guard.unlock()
        },
        |step, stepped| {
            let guard = match mutex.lock_until(soon()).unwrap() {
                Locked::Clean(guard) => {
                    repaired += 1;
                    guard
                }
                Locked::OwnerDied(orphan) => {
                    assert_eq!(stepped, Stepped::Killed, "{step}");
                    left += 1;
                    orphan.set(8, 1_u64).unwrap();
                    orphan.mark_consistent().unwrap()
                }
            };
            assert_eq!(guard.get::<[u64; 2]>(0).unwrap(), [1, 1], "{step}");
        },
    );
    assert!(repaired > 0 && left > 1, "{repaired} {left}");
}

/// A process that waits, as long as `wait` says.
fn waiter(wait: impl FnOnce() -> shm_sync::Result<()>) -> Peer {
    Peer::fork(|_| wait().map(|()| [])).unwrap()
}

fn assert_ends(peer: Peer, what: &str) {
    if let Err(error) = peer.join(Duration::from_secs(15)) {
        panic!("{what}: {error}");
    }
}

#[test]
fn a_killed_setter_has_set_and_woken_or_done_neither() {
    let shared = Shared::memfd();
    let event = Event::create(shared.bytes(), 0, Reset::Manual).unwrap();
    let mut waiting: Option<Peer> = None;
    let (mut woken, mut not) = (0, 0);
    let waiting = std::cell::RefCell::new(&mut waiting);
    kill_at_every_step(
        20,
        || {
            event.reset();
            let peer = waiter(|| event.wait());
            until_asleep(&peer);
            // A waiter of before, if there is one, is killed by this.
            waiting.borrow_mut().replace(peer);
        },
        || event.set(),
        |step, _| {
            let peer = waiting.borrow_mut().take().unwrap();
            if event.try_wait() {
                assert_ends(peer, &format!("set, killed at {step}"));
                woken += 1;
            } else {
                peer.kill().unwrap();
                not += 1;
            }
        },
    );
    assert!(woken > 1 && not > 1, "{woken} {not}");
}

#[test]
fn a_killed_releaser_has_released_and_woken_or_done_neither() {
    let shared = Shared::memfd();
    let semaphore = Semaphore::create(shared.bytes(), 0, 0).unwrap();
    let mut waiting: Option<Peer> = None;
    let waiting = std::cell::RefCell::new(&mut waiting);
    let (mut woken, mut not) = (0, 0);
    kill_at_every_step(
        20,
        || {
            while semaphore.try_acquire() {}
            let peer = waiter(|| semaphore.acquire());
            until_asleep(&peer);
            waiting.borrow_mut().replace(peer);
        },
        || semaphore.release(2),
        |step, _| {
            let peer = waiting.borrow_mut().take().unwrap();
            // One of the two for the waiter.
            if semaphore.permits() > 0 {
                assert_ends(peer, &format!("released, killed at {step}"));
                assert_eq!(semaphore.permits(), 1, "{step}");
                woken += 1;
            } else {
                peer.kill().unwrap();
                not += 1;
            }
        },
    );
    assert!(woken > 1 && not > 1, "{woken} {not}");
}

#[test]
fn a_killed_notifier_leaves_the_condvar_to_the_next() {
    let shared = Shared::memfd();
    let condvar = Condvar::create(shared.bytes(), 0).unwrap();
    // SAFETY: 1. and 2. used only by this. 3. No guard is leaked.
    let mutex = unsafe { Mutex::create(shared.bytes(), 64, 8) }.unwrap();
    let waiting = std::cell::RefCell::new(None::<Peer>);
    kill_at_every_step(
        20,
        || {
            // One of before, if there is one, is killed.
            drop(waiting.borrow_mut().take());
            let guard = mutex.lock_until(soon()).unwrap();
            let guard = guard.or_repair(|_| Ok(())).unwrap();
            guard.set(0, 0_u64).unwrap();
            drop(guard);
            let peer = waiter(|| {
                let mut guard = mutex.lock()?.or_repair(|_| Ok(()))?;
                while guard.get::<u64>(0)? == 0 {
                    guard = condvar.wait(guard)?.or_repair(|_| Ok(()))?;
                }
                guard.set(0, 0_u64)
            });
            until_asleep(&peer);
            waiting.borrow_mut().replace(peer);
        },
        || {
            let guard = mutex.lock()?.or_repair(|_| Ok(()))?;
            guard.set(0, 1_u64)?;
            drop(guard);
            condvar.notify_all()
        },
        |step, _| {
            let peer = waiting.borrow_mut().take().unwrap();
            let guard = mutex.lock_until(soon()).unwrap();
            let guard = guard.or_repair(|_| Ok(())).unwrap();
            guard.set(0, 1_u64).unwrap();
            guard.unlock().unwrap();
            condvar.notify_all().unwrap();
            assert_ends(peer, &format!("notified, killed at {step}"));
        },
    );
}

#[test]
fn a_killed_maker_of_a_layout_leaves_the_making_to_the_next() {
    let shared = Shared::memfd();
    let mut layout = Layout::new(*b"killtest", 1);
    let lock = layout.mutex(8);
    let value = layout.seq_lock(7_u64);
    let open = |deadline: Deadline| {
        // SAFETY: 1. this test uses its segment only by this. 2. Zeros:
        // `prepare`. 3. No guard is leaked.
        unsafe {
            layout.open_or_create(shared.bytes(), deadline, |new| {
                let lock = new.at(lock)?;
                let guard = lock.lock()?.or_repair(|_| Ok(()))?;
                guard.update(0, |count: u64| count + 1)
            })
        }
    };
    kill_at_every_step(
        3,
        || shared.bytes().fill(0),
        || open(soon()).map(drop),
        |step, _| {
            let (placed, _) = open(soon()).unwrap();
            let lock = placed.at(lock).unwrap();
            let locked = lock.lock_until(soon()).unwrap();
            let Locked::Clean(guard) = locked else {
                panic!("{step}: the owner of a fresh lock died");
            };
            // Counted once: a second maker began from zeros.
            assert_eq!(guard.get::<u64>(0).unwrap(), 1, "{step}");
            let lock = placed.at(value).unwrap();
            assert_eq!(lock.read().unwrap(), 7, "{step}");
        },
    );
}
