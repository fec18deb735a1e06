//! Every interleaving of a few threads, by loom, of what is built on atomic
//! words here.
//!
//! These are the files of `src/state` themselves, with the atomics of loom and
//! a model of the kernel's futex. `RUSTFLAGS="--cfg loom" cargo test -p shm-sync
//! --test loom --release`
#![cfg(loom)]
#![expect(
    dead_code,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and uses some of each file"
)]

#[path = "../src/state/barrier.rs"]
mod barrier;
#[path = "../src/state/condvar.rs"]
mod condvar;
#[path = "../src/state/event.rs"]
mod event;
#[path = "../src/state/semaphore.rs"]
mod semaphore;
#[path = "../src/state/sequence.rs"]
mod sequence;

use loom::sync::atomic;
use loom::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

/// No wait has one here: a model has no time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline;

/// The kernel: it compares and sleeps, or changes and wakes, as one step.
mod futex {
    use loom::sync::atomic::{AtomicU32, Ordering, fence};
    use loom::sync::{Condvar, Mutex};
    use shm_common::OsError;

    use super::Deadline;

    loom::lazy_static! {
        static ref KERNEL: (Mutex<()>, Condvar) =
            (Mutex::new(()), Condvar::new());
    }

    pub(crate) fn wait(
        word: &AtomicU32,
        expected: u32,
        _: Option<Deadline>,
    ) -> Result<(), OsError> {
        let (lock, sleepers) = &*KERNEL;
        let locked = lock.lock().unwrap();
        // As the kernel's own load: what is in memory now.
        if word.fetch_add(0, Ordering::Relaxed) == expected {
            // It may wake early, which the callers have to bear anyway.
            drop(sleepers.wait(locked).unwrap());
        }
        Ok(())
    }

    pub(crate) fn wake(_: &AtomicU32) -> Result<(), OsError> {
        change(|| ())
    }

    pub(crate) fn set_and_wake(
        word: &AtomicU32,
        value: u32,
    ) -> Result<(), OsError> {
        fence(Ordering::SeqCst);
        change(|| _ = word.swap(value, Ordering::Relaxed))
    }

    pub(crate) fn add_and_wake(
        word: &AtomicU32,
        value: u32,
    ) -> Result<(), OsError> {
        fence(Ordering::SeqCst);
        change(|| _ = word.fetch_add(value, Ordering::Relaxed))
    }

    fn change(change: impl FnOnce()) -> Result<(), OsError> {
        let (lock, sleepers) = &*KERNEL;
        let locked = lock.lock().unwrap();
        change();
        sleepers.notify_all();
        drop(locked);
        Ok(())
    }
}

/// Goes through the interleavings with at most so many switches of a running
/// thread; none limits them.
fn model(preemptions: Option<usize>, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(body);
}

/// Something that is written before, and seen after.
fn seen(data: &AtomicU32) -> u32 {
    data.load(Ordering::Relaxed)
}

#[test]
fn a_wait_for_an_event_ends_and_sees_what_was_before_the_set() {
    model(None, || {
        let event = Arc::new((AtomicU32::new(0), AtomicU32::new(0)));
        let other = Arc::clone(&event);
        let setter = thread::spawn(move || {
            other.1.store(7, Ordering::Relaxed);
            event::set(&other.0).unwrap();
        });
        event::wait(&event.0, None).unwrap();
        assert_eq!(seen(&event.1), 7);
        setter.join().unwrap();
    });
}

#[test]
fn each_of_two_takes_one_of_two_sets() {
    model(Some(3), || {
        let word = Arc::new(AtomicU32::new(0));
        let taken = Arc::new(AtomicU32::new(0));
        let takers = [(); 2].map(|()| {
            let (word, taken) = (Arc::clone(&word), Arc::clone(&taken));
            thread::spawn(move || {
                event::take(&word, None).unwrap();
                taken.fetch_add(1, Ordering::Relaxed);
            })
        });
        event::set(&word).unwrap();
        // Only once the first is taken: sets do not add up.
        while taken.load(Ordering::Relaxed) == 0 {
            thread::yield_now();
        }
        event::set(&word).unwrap();
        takers.into_iter().for_each(|taker| taker.join().unwrap());
        assert!(!event::try_take(&word));
    });
}

#[test]
fn a_reset_never_hides_a_waiter() {
    model(Some(3), || {
        let word = Arc::new(AtomicU32::new(0));
        let other = Arc::clone(&word);
        let waiter = thread::spawn(move || event::wait(&other, None).unwrap());
        let other = Arc::clone(&word);
        let resetter = thread::spawn(move || event::reset(&other));
        event::set(&word).unwrap();
        resetter.join().unwrap();
        event::set(&word).unwrap();
        waiter.join().unwrap();
    });
}

#[test]
fn two_acquire_what_two_release() {
    model(Some(3), || {
        let word = Arc::new(AtomicU32::new(0));
        let data = Arc::new(AtomicU32::new(0));
        let acquirer = {
            let (word, data) = (Arc::clone(&word), Arc::clone(&data));
            thread::spawn(move || {
                semaphore::acquire(&word, None).unwrap();
                semaphore::acquire(&word, None).unwrap();
                // Both releasers wrote before.
                assert_eq!(seen(&data), 2);
            })
        };
        let releaser = {
            let (word, data) = (Arc::clone(&word), Arc::clone(&data));
            thread::spawn(move || {
                data.fetch_add(1, Ordering::Relaxed);
                semaphore::release(&word, 1).unwrap();
            })
        };
        data.fetch_add(1, Ordering::Relaxed);
        semaphore::release(&word, 1).unwrap();
        acquirer.join().unwrap();
        releaser.join().unwrap();
        assert_eq!(semaphore::permits(&word), 0);
    });
}

#[test]
fn two_sleepers_are_both_woken_by_a_release_of_two() {
    model(Some(3), || {
        let word = Arc::new(AtomicU32::new(0));
        let acquirers = [(); 2].map(|()| {
            let word = Arc::clone(&word);
            thread::spawn(move || semaphore::acquire(&word, None).unwrap())
        });
        semaphore::release(&word, 2).unwrap();
        for acquirer in acquirers {
            acquirer.join().unwrap();
        }
        assert_eq!(semaphore::permits(&word), 0);
    });
}

#[test]
fn a_notification_after_the_change_reaches_every_waiter() {
    model(Some(2), || {
        let word = Arc::new(AtomicU32::new(0));
        // The lock, and what it protects.
        let state = Arc::new(Mutex::new(false));
        let waiters = [(); 2].map(|()| {
            let (word, state) = (Arc::clone(&word), Arc::clone(&state));
            thread::spawn(move || {
                let mut guard = state.lock().unwrap();
                while !*guard {
                    let announced = condvar::announce(&word);
                    drop(guard);
                    condvar::sleep(&word, announced, None).unwrap();
                    guard = state.lock().unwrap();
                }
            })
        });
        *state.lock().unwrap() = true;
        condvar::notify(&word).unwrap();
        for waiter in waiters {
            waiter.join().unwrap();
        }
    });
}

#[test]
fn two_notifiers_at_once_lose_no_waiter() {
    model(Some(3), || {
        let word = Arc::new(AtomicU32::new(0));
        let state = Arc::new(Mutex::new(0));
        let waiter = {
            let (word, state) = (Arc::clone(&word), Arc::clone(&state));
            thread::spawn(move || {
                let mut guard = state.lock().unwrap();
                while *guard < 2 {
                    let announced = condvar::announce(&word);
                    drop(guard);
                    condvar::sleep(&word, announced, None).unwrap();
                    guard = state.lock().unwrap();
                }
            })
        };
        let notify = |word: &AtomicU32, state: &Mutex<u32>| {
            *state.lock().unwrap() += 1;
            condvar::notify(word).unwrap();
        };
        let notifier = {
            let (word, state) = (Arc::clone(&word), Arc::clone(&state));
            thread::spawn(move || notify(&word, &state))
        };
        notify(&word, &state);
        notifier.join().unwrap();
        waiter.join().unwrap();
    });
}

/// A whole wait at a barrier, as `Barrier::wait_until` has it without deadline.
fn pass(word: &AtomicU32, participants: u32) -> barrier::Outcome {
    match barrier::arrive(word, participants) {
        barrier::Arrival::Last => {
            futex::wake(word).unwrap();
            barrier::Outcome::Passed
        }
        barrier::Arrival::Broken => barrier::Outcome::Broken,
        barrier::Arrival::Early { round } => loop {
            match barrier::outcome(word, round) {
                barrier::Outcome::Open { word: seen } => {
                    futex::wait(word, seen, None).unwrap();
                }
                outcome => return outcome,
            }
        },
    }
}

#[test]
fn all_pass_a_barrier_twice_and_see_what_was_before() {
    model(Some(3), || {
        let word = Arc::new(AtomicU32::new(0));
        let data = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
        let walk = |own: usize, word: &AtomicU32, data: &[AtomicU32; 2]| {
            for step in 1..=2 {
                data[own].store(step, Ordering::Relaxed);
                assert_eq!(pass(word, 2), barrier::Outcome::Passed);
                assert!(seen(&data[1 - own]) >= step);
            }
        };
        let other = {
            let (word, data) = (Arc::clone(&word), Arc::clone(&data));
            thread::spawn(move || walk(1, &word, &data))
        };
        walk(0, &word, &data);
        other.join().unwrap();
    });
}

#[test]
fn a_round_ends_in_one_way_for_all() {
    model(Some(3), || {
        let word = Arc::new(AtomicU32::new(0));
        // Arrives, and at its deadline gives up at any time.
        let impatient = |word: &AtomicU32| match barrier::arrive(word, 3) {
            barrier::Arrival::Last => {
                futex::wake(word).unwrap();
                barrier::Outcome::Passed
            }
            barrier::Arrival::Broken => barrier::Outcome::Broken,
            barrier::Arrival::Early { round } => {
                let (outcome, broke) = barrier::give_up(word, round);
                if broke {
                    futex::wake(word).unwrap();
                }
                outcome
            }
        };
        let patient = {
            let word = Arc::clone(&word);
            thread::spawn(move || pass(&word, 3))
        };
        let other = {
            let word = Arc::clone(&word);
            thread::spawn(move || impatient(&word))
        };
        let ours = impatient(&word);
        assert_eq!(ours, other.join().unwrap());
        assert_eq!(ours, patient.join().unwrap());
    });
}

/// A value of two words in each slot, which a torn read would mix.
struct Slots<const SLOTS: usize> {
    number: AtomicUsize,
    words: [[AtomicU32; 2]; SLOTS],
}

impl<const SLOTS: usize> Slots<SLOTS> {
    fn new() -> Self {
        Self {
            number: AtomicUsize::new(0),
            words: std::array::from_fn(|_| {
                [AtomicU32::new(0), AtomicU32::new(0)]
            }),
        }
    }

    /// `steps` of the two words: a writer that dies in between writes fewer.
    fn write(&self, value: u32, steps: usize) {
        let _ = sequence::write::<SLOTS, ()>(&self.number, |slot| {
            for word in &self.words[slot][..steps] {
                word.store(value, Ordering::Relaxed);
            }
            // One that died does not publish.
            if steps < 2 { Err(()) } else { Ok(()) }
        });
    }

    fn read(&self) -> Option<u32> {
        let before = self.number.load(Ordering::Acquire);
        let [a, b] = &self.words[sequence::slot::<SLOTS>(before)];
        let (a, b) = (a.load(Ordering::Relaxed), b.load(Ordering::Relaxed));
        let number = || Ok::<_, ()>(self.number.load(Ordering::Acquire));
        if !sequence::is_whole::<SLOTS, _>(before, number).unwrap() {
            return None;
        }
        assert_eq!(a, b, "torn");
        Some(a)
    }
}

#[test]
fn a_value_is_never_torn_and_never_older_than_one_read_before() {
    fn check<const SLOTS: usize>(writes: u32) {
        model(None, move || {
            let slots = Arc::new(Slots::<SLOTS>::new());
            let other = Arc::clone(&slots);
            let writer = thread::spawn(move || {
                for value in 1..=writes {
                    other.write(value, 2);
                }
            });
            let mut newest = 0;
            for _ in 0..2 {
                if let Some(value) = slots.read() {
                    assert!(value >= newest);
                    newest = value;
                }
            }
            writer.join().unwrap();
            assert_eq!(slots.read(), Some(writes));
        });
    }
    // Fewer slots than in use, so that few writes get around.
    check::<2>(3);
    check::<3>(4);
}

#[test]
fn a_writer_that_died_changes_nothing_and_is_followed_by_another() {
    model(None, || {
        let slots = Arc::new(Slots::<3>::new());
        slots.write(1, 2);
        let lock = Arc::new(Mutex::new(()));
        let writers = [(2, 1), (3, 2)].map(|(value, steps)| {
            let (slots, lock) = (Arc::clone(&slots), Arc::clone(&lock));
            thread::spawn(move || {
                let held = lock.lock().unwrap();
                slots.write(value, steps);
                drop(held);
            })
        });
        if let Some(value) = slots.read() {
            assert!(value == 1 || value == 3, "{value}");
        }
        for writer in writers {
            writer.join().unwrap();
        }
        assert_eq!(slots.read(), Some(3));
    });
}
