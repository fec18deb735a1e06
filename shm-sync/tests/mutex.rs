//! The mutex: one owner at a time, and what happens when it is gone.
#![expect(
    clippy::unwrap_used,
    unsafe_code,
    reason = "a test fails by panicking, and owns its segment"
)]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Bytes, Shared, shortly, soon, until_asleep};
use integration_tests::peer::{JoinError, Link, Peer};
use integration_tests::surroundings;
use nix::sys::signal::Signal;
use proptest::prelude::*;
use shm_sync::{
    Deadline, Error, Locked, Mutex, MutexGuard, OrphanGuard, Result,
};

for_every_mechanism! {
    four_processes_count_to_400_000_together,
    a_process_that_maps_it_elsewhere_shares_the_lock,
    the_next_owner_learns_that_the_last_one_was_killed,
    one_that_waits_gets_the_lock_of_an_owner_that_is_killed,
    one_that_is_killed_while_it_waits_disturbs_nobody,
    a_lock_that_is_free_is_had_although_nobody_woke_those_who_wait,
    a_stopped_owner_keeps_the_lock_and_a_deadline_passes,
    a_forked_child_cannot_unlock_what_its_parent_holds,
}

/// A mutex at the start that protects 64 bytes.
fn create(bytes: Bytes<'_>) -> Mutex<'_> {
    // SAFETY: 1. and 2. each test uses its segment only by this. 3. A guard is
    // leaked only where the mapping outlives the process or thread.
    unsafe { Mutex::create(bytes, 0, 64) }.unwrap()
}

fn peer(body: impl FnOnce(&Link) -> Result<()>) -> Peer {
    Peer::fork(|link| body(link).map(|()| [])).unwrap()
}

/// A process that locks, says so, and keeps the lock.
fn owner(mutex: Mutex<'_>) -> Peer {
    let mut peer = peer(|link| {
        let guard = clean(mutex.lock()?);
        guard.set(0, 7_u64)?;
        link.send("locked").unwrap();
        std::thread::sleep(Duration::from_secs(60));
        guard.unlock()
    });
    assert_eq!(peer.receive().unwrap(), b"locked");
    peer
}

fn end(peer: Peer) {
    if let Err(error) = peer.join(Duration::from_secs(20)) {
        panic!("{error}");
    }
}

#[track_caller]
fn clean(locked: Locked<'_>) -> MutexGuard<'_> {
    match locked {
        Locked::Clean(guard) => guard,
        Locked::OwnerDied(_) => panic!("an owner died"),
    }
}

#[track_caller]
fn orphaned(locked: Locked<'_>) -> OrphanGuard<'_> {
    match locked {
        Locked::Clean(_) => panic!("no owner died"),
        Locked::OwnerDied(orphan) => orphan,
    }
}

fn four_processes_count_to_400_000_together(shared: &Shared) {
    let mutex = create(shared.bytes());
    let count = || {
        peer(|_| {
            for _ in 0..100_000 {
                let guard = clean(mutex.lock()?);
                guard.update(0, |count: u64| count + 1)?;
            }
            Ok(())
        })
    };
    let peers: Vec<Peer> = (0..4).map(|_| count()).collect();
    peers.into_iter().for_each(end);
    let guard = clean(mutex.lock_until(soon()).unwrap());
    assert_eq!(guard.get::<u64>(0).unwrap(), 400_000);
}

fn a_process_that_maps_it_elsewhere_shares_the_lock(shared: &Shared) {
    let mutex = create(shared.bytes());
    let guard = clean(mutex.lock().unwrap());
    guard.set(0, 5_u64).unwrap();
    let peer = peer(|_| {
        let mapping = shared.again();
        // SAFETY: 1. and 3. as in `create`. 2. Made by that.
        let mutex = unsafe { Mutex::open(mapping.as_shared_bytes(), 0) }?;
        assert_eq!(mutex.len(), 64);
        assert!(mutex.try_lock()?.is_none());
        let guard = clean(mutex.lock()?);
        guard.update(0, |value: u64| value + 1)?;
        guard.unlock()
    });
    until_asleep(&peer);
    guard.unlock().unwrap();
    end(peer);
    let guard = clean(mutex.lock_until(soon()).unwrap());
    assert_eq!(guard.get::<u64>(0).unwrap(), 6);
}

fn the_next_owner_learns_that_the_last_one_was_killed(shared: &Shared) {
    let mutex = create(shared.bytes());
    owner(mutex).kill().unwrap();
    let orphan = orphaned(mutex.lock_until(soon()).unwrap());
    assert_eq!(orphan.get::<u64>(0).unwrap(), 7);
    orphan.set(0, 8_u64).unwrap();
    let guard = orphan.mark_consistent().unwrap();
    assert_eq!(guard.get::<u64>(0).unwrap(), 8);
    guard.unlock().unwrap();
    // Told once.
    clean(mutex.lock_until(soon()).unwrap()).unlock().unwrap();
    // And once more for each death, however it is locked.
    owner(mutex).kill().unwrap();
    drop(orphaned(mutex.try_lock().unwrap().unwrap()).mark_consistent());
    owner(mutex).kill().unwrap();
    drop(orphaned(mutex.lock().unwrap()).mark_consistent());
    clean(mutex.try_lock().unwrap().unwrap()).unlock().unwrap();
}

fn one_that_waits_gets_the_lock_of_an_owner_that_is_killed(shared: &Shared) {
    let mutex = create(shared.bytes());
    let owner = owner(mutex);
    let waiters = [(); 2].map(|()| {
        peer(|_| match mutex.lock()? {
            Locked::Clean(guard) => guard.update(8, |count: u64| count + 1),
            Locked::OwnerDied(orphan) => {
                orphan.set(16, 1_u64)?;
                orphan.mark_consistent()?.unlock()
            }
        })
    });
    waiters.iter().for_each(until_asleep);
    owner.kill().unwrap();
    waiters.into_iter().for_each(end);
    let guard = clean(mutex.lock_until(soon()).unwrap());
    // One of them was told, the other one was not.
    assert_eq!(guard.get::<[u64; 2]>(8).unwrap(), [1, 1]);
}

fn one_that_is_killed_while_it_waits_disturbs_nobody(shared: &Shared) {
    let mutex = create(shared.bytes());
    let guard = clean(mutex.lock().unwrap());
    let wait = || peer(|_| clean(mutex.lock()?).unlock());
    let (killed, other) = (wait(), wait());
    until_asleep(&killed);
    until_asleep(&other);
    killed.kill().unwrap();
    guard.unlock().unwrap();
    end(other);
    clean(mutex.lock_until(soon()).unwrap()).unlock().unwrap();
}

/// One who unlocks may be killed before it wakes anyone, and one who was woken
/// before it does anything about it; and if a third one has locked and unlocked
/// in between, nothing in the mutex tells of the sleepers any more.
fn a_lock_that_is_free_is_had_although_nobody_woke_those_who_wait(
    shared: &Shared,
) {
    let mutex = create(shared.bytes());
    let owner = owner(mutex);
    let waiters: Vec<Peer> =
        (0..3).map(|_| peer(|_| clean(mutex.lock()?).unlock())).collect();
    waiters.iter().for_each(until_asleep);
    // What that comes to: the C library's word says that the lock is free.
    let word = shared.bytes().atomic_u32(24).unwrap();
    assert_ne!(word.swap(0, Ordering::Relaxed), 0, "it is elsewhere");
    waiters.into_iter().for_each(end);
    owner.kill().unwrap();
}

fn a_stopped_owner_keeps_the_lock_and_a_deadline_passes(shared: &Shared) {
    let mutex = create(shared.bytes());
    let mut other = peer(|link| {
        let guard = clean(mutex.lock()?);
        link.send("locked").unwrap();
        assert_eq!(link.receive().unwrap(), b"unlock");
        guard.unlock()
    });
    assert_eq!(other.receive().unwrap(), b"locked");
    other.signal(Signal::SIGSTOP).unwrap();
    let deadline = shortly();
    let waited = mutex.lock_until(deadline);
    assert!(matches!(waited, Err(Error::TimedOut(_))), "{waited:?}");
    assert!(deadline.has_passed());
    assert!(mutex.try_lock().unwrap().is_none());
    other.signal(Signal::SIGCONT).unwrap();
    other.send("unlock").unwrap();
    // It was not dead, so nothing is to be repaired.
    clean(mutex.lock_until(soon()).unwrap()).unlock().unwrap();
    end(other);
}

fn a_forked_child_cannot_unlock_what_its_parent_holds(shared: &Shared) {
    let mutex = create(shared.bytes());
    let guard = clean(mutex.lock().unwrap());
    // `guard` is in both processes from here on.
    let mut guard = Some(guard);
    let child = peer(|_| {
        let refused = guard.take().unwrap().unlock();
        assert!(matches!(refused, Err(Error::PermissionDenied(_))));
        let text = refused.unwrap_err().to_string();
        assert_eq!(
            text,
            "cannot pthread_mutex_unlock the mutex at offset 0: Operation \
             not permitted (EPERM); the lock belongs to the thread that \
             locked it"
        );
        Ok(())
    });
    end(child);
    let child = peer(|_| {
        drop(guard.take());
        Ok(())
    });
    end(child);
    let child = peer(|_| {
        // It could not wait on behalf of its parent either.
        let condvar = shm_sync::Condvar::create(shared.bytes(), 1024)?;
        let waited = condvar.wait(guard.take().unwrap());
        assert!(matches!(waited, Err(Error::PermissionDenied(_))));
        Ok(())
    });
    end(child);
    let child = peer(|_| {
        let _inherited = guard.take();
        panic!("in the child");
    });
    let ended = child.join(Duration::from_secs(20));
    assert!(matches!(ended, Err(JoinError::Panicked(_))), "{ended:?}");
    // Still locked, and nothing wrong with it.
    let other = peer(|_| {
        assert!(mutex.try_lock()?.is_none());
        Ok(())
    });
    end(other);
    guard.unwrap().unlock().unwrap();
    clean(mutex.lock_until(soon()).unwrap()).unlock().unwrap();
}

#[test]
fn a_forked_child_cannot_repair_or_give_up_for_its_parent() {
    let shared = Shared::memfd();
    let mutex = create(shared.bytes());
    owner(mutex).kill().unwrap();
    let mut orphan = Some(orphaned(mutex.lock().unwrap()));
    let child = peer(|_| {
        let refused = orphan.take().unwrap().mark_consistent();
        assert!(matches!(refused, Err(Error::PermissionDenied(_))));
        Ok(())
    });
    end(child);
    let child = peer(|link| {
        assert_eq!(link.receive().unwrap(), b"repaired");
        drop(orphan.take());
        Ok(())
    });
    drop(orphan.unwrap().mark_consistent().unwrap());
    child.send("repaired").unwrap();
    end(child);
    clean(mutex.lock_until(soon()).unwrap()).unlock().unwrap();
}

#[test]
fn a_child_does_not_hide_that_its_parent_died_as_the_owner() {
    let shared = Shared::memfd();
    let mutex = create(shared.bytes());
    let word = shared.bytes().atomic_u32(4096).unwrap();
    let parent = peer(|_| {
        let guard = clean(mutex.lock()?);
        // Not a `Peer`, which would die with its parent.
        // SAFETY: the child only makes system calls and uses shared memory.
        match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Parent { .. } => {
                std::mem::forget(guard);
                Ok(())
            }
            nix::unistd::ForkResult::Child => {
                let deadline = soon();
                while word.load(Ordering::Acquire) == 0 {
                    assert!(!deadline.has_passed());
                    std::thread::sleep(Duration::from_millis(1));
                }
                // The lock is free now but for a dead owner: the child must
                // not take it, nor make it look clean.
                let panicked = catch_unwind(AssertUnwindSafe(|| {
                    let _inherited = guard;
                    panic!("as it should");
                }));
                let answer = if panicked.is_err() { 2 } else { 3 };
                word.store(answer, Ordering::Release);
                // SAFETY: ends the process at once.
                unsafe { libc::_exit(0) }
            }
        }
    });
    end(parent);
    word.store(1, Ordering::Release);
    common::until("answer", || word.load(Ordering::Acquire) > 1);
    assert_eq!(word.load(Ordering::Acquire), 2);
    drop(orphaned(mutex.lock_until(soon()).unwrap()).mark_consistent());
}

#[test]
fn an_owner_that_locks_again_gets_an_error() {
    let shared = Shared::memfd();
    let mutex = create(shared.bytes());
    let guard = clean(mutex.lock().unwrap());
    for again in [mutex.lock(), mutex.lock_until(soon())] {
        assert!(matches!(again, Err(Error::Deadlock(_))), "{again:?}");
    }
    assert!(matches!(mutex.try_lock(), Err(Error::Deadlock(_)) | Ok(None)));
    guard.unlock().unwrap();
    clean(mutex.lock().unwrap()).unlock().unwrap();
}

#[test]
fn an_orphan_that_is_dropped_is_lost_for_all() {
    let shared = Shared::memfd();
    let mutex = create(shared.bytes());
    owner(mutex).kill().unwrap();
    let orphan = orphaned(mutex.lock().unwrap());
    let waiter = peer(|_| {
        let refused = mutex.lock();
        assert!(matches!(refused, Err(Error::NotRecoverable(_))));
        Ok(())
    });
    until_asleep(&waiter);
    drop(orphan);
    end(waiter);
    for refused in [mutex.lock(), mutex.lock_until(soon())] {
        assert!(matches!(refused, Err(Error::NotRecoverable(_))));
    }
    assert!(matches!(mutex.try_lock(), Err(Error::NotRecoverable(_))));
    // Also for one that opens it later.
    let late = peer(|_| {
        // SAFETY: 1. and 3. as in `create`. 2. Made by that.
        let mutex = unsafe { Mutex::open(shared.bytes(), 0) }?;
        assert!(matches!(mutex.lock(), Err(Error::NotRecoverable(_))));
        Ok(())
    });
    end(late);
}

#[test]
fn a_failed_repair_gives_the_lock_up() {
    let shared = Shared::memfd();
    let mutex = create(shared.bytes());
    owner(mutex).kill().unwrap();
    let repaired = mutex.lock().unwrap().or_repair(|bytes| bytes.set(64, 0_u8));
    assert!(matches!(repaired, Err(Error::OutOfBounds { .. })));
    assert!(matches!(mutex.lock(), Err(Error::NotRecoverable(_))));
}

#[test]
fn a_repairer_that_is_killed_leaves_the_repair_to_the_next() {
    let shared = Shared::memfd();
    let mutex = create(shared.bytes());
    owner(mutex).kill().unwrap();
    for _ in 0..3 {
        let mut repairer = peer(|link| {
            let orphan = orphaned(mutex.lock()?);
            link.send("repairing").unwrap();
            std::thread::sleep(Duration::from_secs(60));
            orphan.mark_consistent()?.unlock()
        });
        assert_eq!(repairer.receive().unwrap(), b"repairing");
        repairer.kill().unwrap();
    }
    drop(orphaned(mutex.lock_until(soon()).unwrap()).mark_consistent());
    clean(mutex.lock().unwrap()).unlock().unwrap();
}

#[test]
fn a_panic_of_the_owner_counts_as_its_death() {
    let shared = Shared::memfd();
    let mutex = create(shared.bytes());
    let panicking = |body: &dyn Fn()| {
        assert!(catch_unwind(AssertUnwindSafe(body)).is_err());
    };
    panicking(&|| {
        let _guard = clean(mutex.lock().unwrap());
        panic!("as it should");
    });
    // One that repairs and panics leaves it to the next one, too.
    panicking(&|| {
        let _orphan = orphaned(mutex.lock().unwrap());
        panic!("as it should");
    });
    drop(orphaned(mutex.lock().unwrap()).mark_consistent().unwrap());
    // A guard that is made and dropped while a panic unwinds is no victim.
    struct Locks<'a>(Mutex<'a>);
    impl Drop for Locks<'_> {
        fn drop(&mut self) {
            clean(self.0.lock().unwrap()).set(0, 1_u8).unwrap();
        }
    }
    panicking(&|| {
        let _locks = Locks(mutex);
        panic!("as it should");
    });
    clean(mutex.lock().unwrap()).unlock().unwrap();
}

#[test]
fn a_thread_that_ends_with_the_lock_is_a_dead_owner() {
    let shared = Shared::memfd();
    let mutex = create(shared.bytes());
    std::thread::scope(|scope| {
        scope.spawn(|| std::mem::forget(mutex.lock().unwrap()));
    });
    // The scope ends a little before the thread does.
    drop(orphaned(mutex.lock_until(soon()).unwrap()).mark_consistent());
}

#[test]
fn another_user_shares_the_lock() {
    let shared = Shared::memfd();
    let mutex = create(shared.bytes());
    let other = Peer::fork_as(65534, |_| {
        let guard = clean(mutex.lock()?);
        guard.set(0, 1_u64)?;
        std::mem::forget(guard);
        Ok::<_, Error>([])
    });
    if let Some(other) = other.unwrap() {
        end(other);
        let orphan = orphaned(mutex.lock_until(soon()).unwrap());
        assert_eq!(orphan.get::<u64>(0).unwrap(), 1);
        drop(orphan.mark_consistent());
    }
}

#[test]
fn signals_do_not_end_a_wait() {
    let shared = Shared::memfd();
    let mutex = create(shared.bytes());
    let owner = owner(mutex);
    // It has one thread, which gets them all.
    let mut waiter = peer(|link| {
        surroundings::storm_of_signals(200).unwrap();
        let deadline = shortly();
        let waited = mutex.lock_until(deadline);
        assert!(matches!(waited, Err(Error::TimedOut(_))), "{waited:?}");
        assert!(deadline.has_passed());
        link.send("timed out").unwrap();
        orphaned(mutex.lock()?).mark_consistent()?.unlock()
    });
    assert_eq!(waiter.receive().unwrap(), b"timed out");
    std::thread::sleep(Duration::from_millis(20));
    owner.kill().unwrap();
    end(waiter);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// A lock that is free is had at every deadline, however far away or long
    /// past; one that is not is not had before the deadline.
    #[test]
    fn a_deadline_of_any_distance_is_kept(
        seconds in prop_oneof![Just(0), Just(1), 1_000_000..u64::MAX],
        nanoseconds in prop_oneof![Just(0), Just(999_999_999), 0..3_000_000_u32],
    ) {
        let shared = Shared::memfd();
        let mutex = create(shared.bytes());
        let duration = Duration::new(seconds, nanoseconds);
        let guard = clean(mutex.lock_until(Deadline::after(duration)).unwrap());
        if seconds == 0 && nanoseconds < 10_000_000 {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let deadline = Deadline::after(duration);
                    let waited = mutex.lock_until(deadline);
                    assert!(matches!(waited, Err(Error::TimedOut(_))));
                    assert!(deadline.has_passed());
                });
            });
        } else if seconds > 1 {
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| {
                    let deadline = Deadline::after(duration);
                    drop(clean(mutex.lock_until(deadline).unwrap()));
                });
                std::thread::sleep(Duration::from_millis(2));
                guard.unlock().unwrap();
                waiting.join().unwrap();
            });
        }
    }
}
