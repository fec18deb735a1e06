//! Each object beside the least that could do its work.
//!
//! Compare within one run: `cargo bench -p shm-sync`. In each group the first
//! line is the bare way: the C library's robust mutex, a plain copy of 64
//! bytes, a ping-pong by `futex(2)` alone.
#![expect(
    unsafe_code,
    clippy::unwrap_used,
    reason = "calls C functions, and fails by panicking"
)]

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use criterion::Criterion;
use integration_tests::peer::Peer;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use rustix::thread::futex::{self, Flags};
use shm_memfd::{Label, Mapping, Segment};
use shm_sync::{
    Deadline, Event, Locked, Mutex, ReadWrite, Reset, SeqLock, SeqLockReader,
    SharedBytes, Size,
};

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let label = Label::new("bench").unwrap();
    let segment = Segment::create(&label, Size::MIB).unwrap();
    let mapping: Mapping<ReadWrite> = segment.map().unwrap();
    lock_and_unlock(&mut criterion, mapping.bytes());
    read(&mut criterion, mapping.bytes());
    hand_over(&mut criterion, mapping.bytes());
    criterion.final_summary();
}

/// Nobody else wants the lock.
fn lock_and_unlock(
    criterion: &mut Criterion,
    bytes: SharedBytes<'_, ReadWrite>,
) {
    let mut group = criterion.benchmark_group("lock and unlock");
    // The C library's part of another one: the same attributes, made the same
    // way.
    // SAFETY: 1. and 2. used only here. 3. No guard is leaked.
    unsafe { Mutex::create(bytes, 4096, 8) }.unwrap();
    let bare = bytes.subslice(4096 + 24, 40).unwrap().as_mut_ptr();
    let bare = bare.cast::<libc::pthread_mutex_t>();
    group.bench_function("bare robust mutex", |bencher| {
        bencher.iter(|| {
            // SAFETY: made above, and used only here.
            let locked = unsafe { libc::pthread_mutex_lock(black_box(bare)) };
            assert_eq!(locked, 0);
            // SAFETY: as before.
            let unlocked = unsafe { libc::pthread_mutex_unlock(bare) };
            assert_eq!(unlocked, 0);
        });
    });
    // SAFETY: 1. and 2. used only here. 3. No guard is leaked.
    let mutex = unsafe { Mutex::create(bytes, 0, 8) }.unwrap();
    group.bench_function("Mutex", |bencher| {
        bencher.iter(|| {
            let Ok(Locked::Clean(guard)) = black_box(&mutex).lock() else {
                panic!("nobody died");
            };
            drop(guard);
        });
    });
    group.bench_function("Mutex, with a deadline", |bencher| {
        bencher.iter(|| match black_box(&mutex).lock_until(Deadline::NEVER) {
            Ok(Locked::Clean(guard)) => drop(guard),
            other => panic!("{other:?}"),
        });
    });
    group.finish();
}

/// Nobody writes meanwhile.
fn read(criterion: &mut Criterion, bytes: SharedBytes<'_, ReadWrite>) {
    let mut group = criterion.benchmark_group("read of 64 bytes");
    let plain = [1_u64; 8];
    group.bench_function("plain copy", |bencher| {
        bencher.iter(|| *black_box(&plain));
    });
    // SAFETY: 1. and 2. used only here. 3. The mapping stays.
    let lock = unsafe { SeqLock::create(bytes, 0, plain) }.unwrap();
    group.bench_function("SeqLock", |bencher| {
        bencher.iter(|| black_box(&lock).read().unwrap());
    });
    let view = bytes.as_read_only();
    let reader = SeqLockReader::<[u64; 8], _>::open(view, 0).unwrap();
    group.bench_function("SeqLockReader", |bencher| {
        bencher.iter(|| black_box(&reader).read().unwrap());
    });
    group.finish();
    let mut group = criterion.benchmark_group("write of 64 bytes");
    group.bench_function("SeqLock", |bencher| {
        bencher.iter(|| lock.write(black_box(plain)).unwrap());
    });
    group.finish();
}

/// There and back between two processes, each on a processor of its own. Both
/// ways are measured in turns, since a machine is faster at times.
fn hand_over(criterion: &mut Criterion, bytes: SharedBytes<'_, ReadWrite>) {
    let words = bytes.subslice(8192, 4096).unwrap();
    let (ping, pong) =
        (words.atomic_u32(0).unwrap(), words.atomic_u32(64).unwrap());
    let bare = Peer::fork(|_| -> Result<[u8; 0], String> {
        pin(1);
        loop {
            bare_wait(ping);
            bare_post(pong);
        }
    });
    let events = [0, 64].map(|at| {
        Event::create(bytes.subslice(16384, 4096).unwrap(), at, Reset::Auto)
            .unwrap()
    });
    let ours = Peer::fork(|_| -> Result<[u8; 0], String> {
        pin(1);
        loop {
            events[0].wait().unwrap();
            events[1].set().unwrap();
        }
    });
    pin(0);
    let mut group = criterion.benchmark_group("hand-over, there and back");
    for round in 1..=3 {
        group.bench_function(format!("bare futex {round}"), |bencher| {
            bencher.iter_custom(|times| {
                let start = Instant::now();
                for _ in 0..times {
                    bare_post(ping);
                    bare_wait(pong);
                }
                start.elapsed()
            });
        });
        group.bench_function(format!("Event {round}"), |bencher| {
            bencher.iter_custom(|times| {
                let start = Instant::now();
                for _ in 0..times {
                    events[0].set().unwrap();
                    events[1].wait().unwrap();
                }
                start.elapsed()
            });
        });
    }
    group.finish();
    drop((bare, ours));
}

fn pin(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor).unwrap();
    // With one processor both share it.
    let _ = sched_setaffinity(Pid::from_raw(0), &set);
}

fn bare_post(word: &AtomicU32) {
    word.store(1, Ordering::Release);
    futex::wake(word, Flags::empty(), 1).unwrap();
}

fn bare_wait(word: &AtomicU32) {
    while word.swap(0, Ordering::Acquire) == 0 {
        let _ = futex::wait(word, Flags::empty(), 0, None);
    }
}
