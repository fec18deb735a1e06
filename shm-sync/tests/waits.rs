//! Event, semaphore, condition variable and barrier, between real processes.
#![expect(
    clippy::unwrap_used,
    unsafe_code,
    reason = "a test fails by panicking, and owns its segment"
)]

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Bytes, Shared, shortly, soon, until, until_asleep};
use integration_tests::peer::Peer;
use integration_tests::surroundings::{self, Refused};
use nix::sys::signal::Signal;
use proptest::prelude::*;
use shm_sync::{
    Barrier, Condvar, Deadline, Error, Event, Mutex, Reset, Result, Semaphore,
    Turn,
};

for_every_mechanism! {
    an_automatic_event_lets_one_go_on_for_each_set,
    a_manual_event_lets_all_go_on_until_it_is_reset,
    an_event_goes_to_another_when_a_waiter_is_killed,
    permits_are_neither_lost_nor_made,
    a_permit_goes_to_another_when_a_waiter_is_killed,
    two_processes_take_turns_by_a_condvar,
    a_killed_waiter_takes_no_notification_with_it,
    a_barrier_keeps_processes_in_step,
    a_killed_participant_is_noticed_by_the_deadline,
}

fn peer(body: impl FnOnce() -> Result<()>) -> Peer {
    Peer::fork(|_| body().map(|()| [])).unwrap()
}

fn end(peer: Peer) {
    if let Err(error) = peer.join(Duration::from_secs(20)) {
        panic!("{error}");
    }
}

fn has_timed_out<T: std::fmt::Debug>(result: Result<T>) -> bool {
    match result {
        Err(Error::TimedOut(os)) => os.errno() == libc::ETIMEDOUT,
        other => panic!("{other:?}"),
    }
}

fn an_automatic_event_lets_one_go_on_for_each_set(shared: &Shared) {
    let event = Event::create(shared.bytes(), 0, Reset::Auto).unwrap();
    let gone = shared.bytes().atomic_u32(4096).unwrap();
    let waiters = [(); 3].map(|()| {
        peer(|| {
            event.wait()?;
            gone.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
    });
    waiters.iter().for_each(until_asleep);
    for number in 1..=3 {
        event.set().unwrap();
        until("go on", || gone.load(Ordering::Relaxed) == number);
        assert!(has_timed_out(event.wait_until(Deadline::now())));
    }
    waiters.into_iter().for_each(end);
    // Sets do not add up.
    event.set().unwrap();
    event.set().unwrap();
    assert!(event.try_wait());
    assert!(!event.try_wait());
}

fn a_manual_event_lets_all_go_on_until_it_is_reset(shared: &Shared) {
    let event = Event::create(shared.bytes(), 0, Reset::Manual).unwrap();
    let written = shared.bytes().subslice(4096, 8).unwrap();
    let waiters = [(); 3].map(|()| {
        peer(|| {
            let event = Event::open(shared.bytes(), 0)?;
            event.wait_until(soon())?;
            assert_eq!(written.get::<u64>(0)?, 7);
            event.wait()
        })
    });
    waiters.iter().for_each(until_asleep);
    written.set(0, 7_u64).unwrap();
    event.set().unwrap();
    waiters.into_iter().for_each(end);
    assert!(event.try_wait());
    event.reset();
    assert!(!event.try_wait());
    assert!(has_timed_out(event.wait_until(shortly())));
}

/// Lets two processes `wait`, calls `wake`, and kills the one that slept first
/// at once: it is woken, and mostly gets no further. The other one has to get
/// what is `there` then.
fn kill_the_first_to_wake(
    wait: impl Fn() -> Result<()>,
    wake: impl Fn(),
    there: impl Fn() -> bool,
) {
    let mut went_on = 0;
    for _ in 0..50 {
        let start = || peer(&wait);
        let first = start();
        until_asleep(&first);
        let other = start();
        until_asleep(&other);
        wake();
        first.signal(Signal::SIGKILL).unwrap();
        first.kill().unwrap();
        if there() {
            end(other);
            went_on += 1;
        } else if other.join(Duration::from_millis(1)).is_ok() {
            // Else the killed one had gone through with it.
            went_on += 1;
        }
    }
    assert!(went_on > 0, "whoever is killed had always gone on before");
}

fn an_event_goes_to_another_when_a_waiter_is_killed(shared: &Shared) {
    let bytes = shared.bytes();
    let event = Event::create(bytes, 0, Reset::Auto).unwrap();
    kill_the_first_to_wake(
        || event.wait(),
        || event.set().unwrap(),
        || format!("{event:?}").contains("is_set: true"),
    );
}

fn permits_are_neither_lost_nor_made(shared: &Shared) {
    let bytes = shared.bytes();
    let items = Semaphore::create(bytes, 0, 0).unwrap();
    let room = Semaphore::create(bytes, 64, 10).unwrap();
    let produce = || {
        peer(|| {
            for _ in 0..5_000 {
                room.acquire()?;
                items.release(1)?;
            }
            Ok(())
        })
    };
    let consume = || {
        peer(|| {
            for _ in 0..5_000 {
                items.acquire_until(soon())?;
                room.release(1)?;
            }
            Ok(())
        })
    };
    let peers = [produce(), consume(), produce(), consume()];
    peers.into_iter().for_each(end);
    assert_eq!(items.permits(), 0);
    assert_eq!(room.permits(), 10);
    assert!(!items.try_acquire());
    assert!(has_timed_out(items.acquire_until(shortly())));
}

fn a_permit_goes_to_another_when_a_waiter_is_killed(shared: &Shared) {
    let semaphore = Semaphore::create(shared.bytes(), 0, 0).unwrap();
    kill_the_first_to_wake(
        || semaphore.acquire(),
        || semaphore.release(1).unwrap(),
        || semaphore.permits() > 0,
    );
}

#[test]
fn a_thousand_permits_wake_all_that_they_are_for() {
    let shared = Shared::memfd();
    let semaphore = Semaphore::create(shared.bytes(), 0, 0).unwrap();
    let waiters = [(); 3].map(|()| {
        peer(|| {
            for _ in 0..300 {
                semaphore.acquire()?;
            }
            Ok(())
        })
    });
    waiters.iter().for_each(until_asleep);
    semaphore.release(1000).unwrap();
    waiters.into_iter().for_each(end);
    assert_eq!(semaphore.permits(), 100);
}

#[test]
fn more_permits_than_there_can_be_are_an_error() {
    let shared = Shared::memfd();
    let refused = Semaphore::create(shared.bytes(), 0, Semaphore::MAX + 1);
    assert!(matches!(refused, Err(Error::LimitReached(_))));
    let semaphore =
        Semaphore::create(shared.bytes(), 0, Semaphore::MAX).unwrap();
    for count in [1, u32::MAX] {
        let refused = semaphore.release(count).unwrap_err();
        assert!(matches!(refused, Error::LimitReached(_)));
        assert_eq!(refused.raw_os_error(), Some(libc::EOVERFLOW));
    }
    assert_eq!(semaphore.permits(), Semaphore::MAX);
    assert!(semaphore.try_acquire());
    semaphore.release(1).unwrap();
}

/// A condition variable at 0, and its mutex at 64.
fn condvar_and_mutex(bytes: Bytes<'_>) -> (Condvar<'_>, Mutex<'_>) {
    let condvar = Condvar::create(bytes, 0).unwrap();
    // SAFETY: 1. and 2. each test uses its segment only by this. 3. No guard is
    // leaked.
    (condvar, unsafe { Mutex::create(bytes, 64, 8) }.unwrap())
}

fn two_processes_take_turns_by_a_condvar(shared: &Shared) {
    let (condvar, mutex) = condvar_and_mutex(shared.bytes());
    let player = |parity| {
        peer(move || {
            let mut guard = mutex.lock()?.or_repair(|_| Ok(()))?;
            for _ in 0..500 {
                while guard.get::<u64>(0)? % 2 != parity {
                    let locked = condvar.wait_until(guard, soon())?;
                    guard = locked.or_repair(|_| Ok(()))?;
                }
                guard.update(0, |turn: u64| turn + 1)?;
                condvar.notify_all()?;
            }
            guard.unlock()
        })
    };
    let players = [player(0), player(1)];
    players.into_iter().for_each(end);
    let guard = mutex.lock().unwrap().or_repair(|_| Ok(())).unwrap();
    assert_eq!(guard.get::<u64>(0).unwrap(), 1000);
}

fn a_killed_waiter_takes_no_notification_with_it(shared: &Shared) {
    let (condvar, mutex) = condvar_and_mutex(shared.bytes());
    let lock = || {
        let locked = mutex.lock_until(soon()).unwrap();
        locked.or_repair(|_| Ok(())).unwrap()
    };
    kill_the_first_to_wake(
        || {
            let mut guard = mutex.lock()?.or_repair(|_| Ok(()))?;
            while guard.get::<u64>(0)? == 0 {
                guard = condvar.wait(guard)?.or_repair(|_| Ok(()))?;
            }
            guard.set(0, 0_u64)
        },
        || {
            lock().set(0, 1_u64).unwrap();
            condvar.notify_all().unwrap();
        },
        || lock().get::<u64>(0).unwrap() > 0,
    );
}

#[test]
fn a_wait_for_a_notification_gives_the_lock_back_and_ends_at_the_deadline() {
    let shared = Shared::memfd();
    let (condvar, mutex) = condvar_and_mutex(shared.bytes());
    let guard = mutex.lock().unwrap().or_repair(|_| Ok(())).unwrap();
    let deadline = shortly();
    assert!(has_timed_out(condvar.wait_until(guard, deadline)));
    assert!(deadline.has_passed());
    // The lock is free, and not with the one whose wait failed.
    assert!(mutex.try_lock().unwrap().is_some());
}

#[test]
fn a_waiter_learns_that_the_owner_died_that_had_woken_it() {
    let shared = Shared::memfd();
    let (condvar, mutex) = condvar_and_mutex(shared.bytes());
    let waiter = peer(|| {
        let guard = mutex.lock()?.or_repair(|_| Ok(()))?;
        match condvar.wait(guard)? {
            shm_sync::Locked::Clean(_) => panic!("no owner died"),
            shm_sync::Locked::OwnerDied(orphan) => {
                orphan.mark_consistent()?.unlock()
            }
        }
    });
    until_asleep(&waiter);
    let mut owner = Peer::fork(|link| -> Result<[u8; 0]> {
        let _guard = mutex.lock()?.or_repair(|_| Ok(()))?;
        condvar.notify_all()?;
        link.send("notified").unwrap();
        std::thread::sleep(Duration::from_secs(60));
        Ok([])
    })
    .unwrap();
    owner.receive().unwrap();
    owner.kill().unwrap();
    end(waiter);
}

fn a_barrier_keeps_processes_in_step(shared: &Shared) {
    Barrier::create(shared.bytes(), 0, 3).unwrap();
    let counts = shared.bytes().subslice(4096, 64 * 3).unwrap();
    let last = shared.bytes().atomic_u32(8192).unwrap();
    let walker = |own: usize| {
        peer(move || {
            let barrier = Barrier::open(shared.bytes(), 0)?;
            assert_eq!(barrier.participants(), 3);
            for step in 1..=300_u64 {
                counts.set(64 * own, step)?;
                let turn = match step % 2 {
                    0 => barrier.wait()?,
                    _ => barrier.wait_until(soon())?,
                };
                if turn == Turn::Last {
                    last.fetch_add(1, Ordering::Relaxed);
                }
                for other in 0..3 {
                    // It may have gone a step further by now.
                    let seen: u64 = counts.get(64 * other)?;
                    assert!(seen == step || seen == step + 1, "{seen} {step}");
                }
            }
            Ok(())
        })
    };
    let walkers = [walker(0), walker(1), walker(2)];
    walkers.into_iter().for_each(end);
    assert_eq!(last.load(Ordering::Relaxed), 300);
}

fn a_killed_participant_is_noticed_by_the_deadline(shared: &Shared) {
    let barrier = Barrier::create(shared.bytes(), 0, 3).unwrap();
    let waits = || {
        peer(|| {
            // It has no deadline, and is told by the one that has.
            let waited = barrier.wait();
            assert!(matches!(waited, Err(Error::Broken(_))), "{waited:?}");
            Ok(())
        })
    };
    let waiter = waits();
    until_asleep(&waiter);
    // The third one is killed on its way.
    let killed = peer(|| {
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    killed.kill().unwrap();
    let deadline = shortly();
    assert!(has_timed_out(barrier.wait_until(deadline)));
    assert!(deadline.has_passed());
    end(waiter);
    assert!(barrier.is_broken());
    let late = barrier.wait_until(soon());
    assert!(matches!(late, Err(Error::Broken(_))), "{late:?}");

    // With a new one in its place it works again.
    barrier.reset().unwrap();
    let waits = || peer(|| barrier.wait().map(drop));
    let others = [waits(), waits()];
    barrier.wait_until(soon()).unwrap();
    others.into_iter().for_each(end);

    // One that is killed while it waits has arrived: the round passes.
    let (killed, other) = (waits(), waits());
    until_asleep(&killed);
    until_asleep(&other);
    killed.kill().unwrap();
    assert_eq!(barrier.wait_until(soon()).unwrap(), Turn::Last);
    end(other);
    // But it is missed in the next one.
    assert!(has_timed_out(barrier.wait_until(shortly())));
}

#[test]
fn those_that_wait_when_a_barrier_is_reset_do_not_pass() {
    let shared = Shared::memfd();
    let barrier = Barrier::create(shared.bytes(), 0, 2).unwrap();
    let waiter = peer(|| {
        let waited = barrier.wait();
        assert!(matches!(waited, Err(Error::Broken(_))), "{waited:?}");
        Ok(())
    });
    until_asleep(&waiter);
    barrier.reset().unwrap();
    end(waiter);
    assert!(!barrier.is_broken());
}

#[test]
fn a_barrier_is_for_somebody_and_not_for_too_many() {
    let shared = Shared::memfd();
    for participants in [0, Barrier::MAX + 1, u32::MAX] {
        let refused = Barrier::create(shared.bytes(), 0, participants);
        assert!(matches!(refused, Err(Error::LimitReached(_))));
    }
    let alone = Barrier::create(shared.bytes(), 0, 1).unwrap();
    for _ in 0..100_000 {
        assert_eq!(alone.wait().unwrap(), Turn::Last);
    }
}

/// Whatever a peer writes there, a wait with a deadline ends, and sleeps
/// meanwhile.
#[test]
fn no_word_keeps_a_waiter_beyond_its_deadline() {
    let shared = Shared::memfd();
    let bytes = shared.bytes();
    let event = Event::create(bytes, 0, Reset::Manual).unwrap();
    let semaphore = Semaphore::create(bytes, 64, 0).unwrap();
    let barrier = Barrier::create(bytes, 128, 2).unwrap();
    let words = [0, 1, 2, 3, 7, 1 << 16, 1 << 30, 1 << 31, u32::MAX];
    end(peer(|| {
        for value in words {
            for offset in [16, 64 + 16, 128 + 16] {
                bytes.atomic_u32(offset)?.store(value, Ordering::Relaxed);
            }
            // Some of these mean that it is set, and others nothing.
            let set = event.wait_until(shortly()).is_ok();
            assert_eq!(set, value == 1, "event, {value:#x}");
            // Any outcome will do, as long as there is one.
            let _ = semaphore.acquire_until(shortly());
            let _ = barrier.wait_until(shortly());
        }
        Ok(())
    }));
    // Asleep, and not spinning.
    bytes.atomic_u32(16).unwrap().store(7, Ordering::Relaxed);
    let waiter = peer(|| event.wait_until(soon()));
    until_asleep(&waiter);
    event.set().unwrap();
    end(waiter);
}

#[test]
fn signals_do_not_end_a_wait() {
    let shared = Shared::memfd();
    let bytes = shared.bytes();
    let event = Event::create(bytes, 0, Reset::Auto).unwrap();
    let semaphore = Semaphore::create(bytes, 64, 0).unwrap();
    let barrier = Barrier::create(bytes, 128, 2).unwrap();
    // It has one thread, which gets them all.
    let mut waiter = Peer::fork(|link| -> Result<[u8; 0]> {
        surroundings::storm_of_signals(200).unwrap();
        let waits: [&dyn Fn(Deadline) -> bool; 3] = [
            &|deadline| has_timed_out(event.wait_until(deadline)),
            &|deadline| has_timed_out(semaphore.acquire_until(deadline)),
            &|deadline| has_timed_out(barrier.wait_until(deadline)),
        ];
        for wait in waits {
            let deadline = shortly();
            assert!(wait(deadline));
            assert!(deadline.has_passed());
        }
        link.send("timed out").unwrap();
        event.wait()?;
        Ok([])
    })
    .unwrap();
    assert_eq!(waiter.receive().unwrap(), b"timed out");
    std::thread::sleep(Duration::from_millis(20));
    event.set().unwrap();
    end(waiter);
}

#[test]
fn a_kernel_that_refuses_to_wait_or_wake_is_an_error() {
    let shared = Shared::memfd();
    let bytes = shared.bytes();
    let event = Event::create(bytes, 0, Reset::Auto).unwrap();
    let awaited = Event::create(bytes, 64, Reset::Auto).unwrap();
    let waiter = peer(|| awaited.wait());
    until_asleep(&waiter);
    let refused = peer(|| {
        surroundings::refuse(&Refused {
            call: libc::SYS_futex,
            argument: 0,
            mask: 0,
            bits: 0,
            errno: libc::EPERM,
        })
        .unwrap();
        for refused in [event.wait(), awaited.set()] {
            let refused = refused.unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
            assert!(refused.to_string().contains("the event at offset"));
        }
        // Where nobody waits, the kernel is not asked.
        event.reset();
        let fresh = Event::create(bytes, 128, Reset::Auto)?;
        fresh.set()?;
        fresh.wait()
    });
    end(refused);
    // What could not be announced did not happen either.
    assert!(!awaited.try_wait());
    awaited.set().unwrap();
    end(waiter);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// What is there is had at every deadline, however far away or long past;
    /// what is not there is not had before the deadline.
    #[test]
    fn a_deadline_of_any_distance_is_kept(
        seconds in prop_oneof![Just(0), 1_000_000..u64::MAX, Just(u64::MAX)],
        nanoseconds in prop_oneof![Just(0), 0..3_000_000_u32],
    ) {
        let shared = Shared::memfd();
        let event = Event::create(shared.bytes(), 0, Reset::Auto).unwrap();
        let duration = Duration::new(seconds, nanoseconds);
        let deadline = Deadline::after(duration);
        if seconds == 0 {
            prop_assert!(has_timed_out(event.wait_until(deadline)));
            prop_assert!(deadline.has_passed());
        } else {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(2));
                    event.set().unwrap();
                });
                event.wait_until(deadline).unwrap();
            });
        }
        event.set().unwrap();
        event.wait_until(deadline).unwrap();
    }
}
