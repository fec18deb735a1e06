//! Bulk copies out of and into a view, beside `memcpy` on the same bytes.
//!
//! Compare within one run: `cargo bench -p shm-common`. Each group is one
//! direction, one alignment and one length; its two lines are the comparison.

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use shm_common::{Error, Result, SharedBytes};

const LENGTHS: [usize; 9] =
    [64, 256, 1000, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 8 << 20];

/// How far the shared and the private side lie from a cache line.
const ALIGNMENTS: [(usize, usize); 4] = [(0, 0), (1, 0), (0, 1), (24, 8)];

/// Bytes that start `skip` after a page.
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    fn new(len: usize, skip: usize) -> Self {
        let bytes = vec![1; len + 4096 + skip];
        let start = bytes.as_ptr().align_offset(4096) + skip;
        Self { bytes, start }
    }

    fn get(&mut self, len: usize) -> &mut [u8] {
        &mut self.bytes[self.start..][..len]
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(50))
        .measurement_time(Duration::from_millis(300))
        .configure_from_args();
    for (shared_skip, private_skip) in ALIGNMENTS {
        for len in LENGTHS {
            let mut shared = Buffer::new(len, shared_skip);
            let mut private = Buffer::new(len, private_skip);
            let (shared, private) = (shared.get(len), private.get(len));
            let at = format!("{shared_skip}-{private_skip}/{len}");
            let mut group = criterion.benchmark_group(format!("read/{at}"));
            read(&mut group, shared, private);
            group.finish();
            let mut group = criterion.benchmark_group(format!("write/{at}"));
            write(&mut group, shared, private);
            group.finish();
        }
    }
    criterion.final_summary();
}

fn read(
    group: &mut BenchmarkGroup<'_, WallTime>,
    shared: &mut [u8],
    private: &mut [u8],
) {
    group.throughput(Throughput::Bytes(shared.len() as u64));
    group.bench_function("memcpy", |bencher| {
        bencher.iter(|| {
            black_box(&mut *private).copy_from_slice(black_box(&*shared));
        });
    });
    let view = &SharedBytes::from_mut(shared);
    group.bench_function("read_at", |bencher| {
        bencher.iter(|| {
            done(black_box(view).read_at(0, black_box(&mut *private)));
        });
    });
}

fn write(
    group: &mut BenchmarkGroup<'_, WallTime>,
    shared: &mut [u8],
    private: &mut [u8],
) {
    group.throughput(Throughput::Bytes(shared.len() as u64));
    group.bench_function("memcpy", |bencher| {
        bencher.iter(|| {
            black_box(&mut *shared).copy_from_slice(black_box(&*private));
        });
    });
    let view = &SharedBytes::from_mut(shared);
    group.bench_function("write_at", |bencher| {
        bencher
            .iter(|| done(black_box(view).write_at(0, black_box(&*private))));
    });
}

/// Passes the error on, as callers do: neither keeping the result nor dropping
/// it is part of the copy, and either costs as much as 100 bytes do.
fn done(result: Result<()>) {
    if let Err(error) = result {
        fail(&error);
    }
}

#[cold]
fn fail(error: &Error) -> ! {
    panic!("{error}")
}
