//! Moving bytes in and out of a mapping, against `memcpy` and vm-memory.
#![expect(
    unsafe_code,
    reason = "the peers work on addresses, and so must the same bytes here"
)]

use std::fmt;
use std::hint::black_box;
use std::io;
use std::path::Path;
use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};

use shm_common::zerocopy::{FromBytes, Immutable, IntoBytes};
use shm_common::{PageSize, ReadWrite, SharedBytes, Size};
use shm_memfd::{Label, Mapping, Segment};
use vm_memory::VolatileSlice;

use crate::markdown::Table;
use crate::measure::{Contender, Effort, Times, Verdict, compare, must};
use crate::plot::{Plot, Series, SeriesLabelPosition};

const SIZES: [usize; 18] = [
    1,
    2,
    4,
    7,
    8,
    16,
    24,
    64,
    100,
    256,
    1 << 10,
    4 << 10,
    16 << 10,
    64 << 10,
    256 << 10,
    1 << 20,
    8 << 20,
    64 << 20,
];

/// From here on the target is a speed, below it is a time.
const LONG: usize = 256;

/// The least speed, as a part of that of `memcpy`.
const SPEED: f64 = 0.95;

/// The most nanoseconds above a plain load or store, or `memcpy`.
const EXTRA: f64 = 2.0;

/// How the two sides lie: bytes after a page.
struct Alignment {
    name: &'static str,
    source: usize,
    target: usize,
}

/// Half a page apart, so that none but the last meets what the last is for.
const ALIGNMENTS: [Alignment; 6] = [
    Alignment { name: "both aligned", source: 0, target: 2048 },
    Alignment { name: "source + 1", source: 1, target: 2048 },
    Alignment { name: "target + 1", source: 0, target: 2049 },
    Alignment { name: "both + 24", source: 24, target: 2072 },
    Alignment { name: "+ 24, + 8", source: 24, target: 2056 },
    Alignment { name: "8 after, mod 4096", source: 0, target: 8 },
];

pub(crate) fn run(effort: Effort, docs: &Path) -> io::Result<String> {
    let sizes: Vec<usize> = effort.among(&SIZES).collect();
    let largest = sizes.last().copied().unwrap_or(1);
    let memory = Memory::new(largest);
    let mut text = format!(
        "The target is at least {SPEED} of `memcpy`'s speed from {LONG} bytes \
         up, and at most {EXTRA} ns more below. `memcpy` may assume that nobody \
         else writes, which here is undefined behaviour: it is the bar, not an \
         alternative.\n\n### All six ways in which the two sides can lie\n\n\
         From {LONG} bytes up a cell is the speed as a part of `memcpy`'s \
         (above 1, ours is quicker), below it is the nanoseconds more than \
         `memcpy` takes. Bold: missed. A tilde: median and least time disagree \
         about it. In the last column the target begins 8 bytes after the \
         source, modulo 4096, where some processors' `rep movsb`, and so \
         `memcpy`, is slow: no merit of ours.\n",
    );
    let mut aligned = Vec::new();
    for operation in [Operation::Read, Operation::Write] {
        let mut head = vec![operation.name().to_owned()];
        head.extend(ALIGNMENTS.map(|alignment| alignment.name.to_owned()));
        let mut table = Table::new(ALIGNMENT_HEAD);
        for size in &sizes {
            let mut row = vec![must(Size::new(*size)).to_string()];
            for (column, alignment) in ALIGNMENTS.iter().enumerate() {
                let pair = memory.pair(operation, alignment, *size);
                let times = pair.compare(effort.for_run_of(*size));
                row.push(Cell { size: *size, times }.to_string());
                if column == 0 {
                    aligned.push((operation, *size, times));
                }
            }
            table.row(row);
        }
        text += &format!("\n`{}`:\n\n{table}", operation.name());
    }
    text += "\n### The first of these columns in full\n\n";
    text += &in_full(&aligned).to_string();
    plot(&aligned, docs)?;
    text +=
        "\n![Speed of read_at beside memcpy and vm-memory](copy-speed.svg)\n";
    text += "\n### `fill` and `copy_to`\n\n";
    text += &fill_and_copy_to(effort, &memory, &sizes).to_string();
    text += "\n### One value: `get`, `set` and atomics\n\n";
    text += &values(effort, &memory).to_string();
    Ok(text)
}

const ALIGNMENT_HEAD: [&str; 7] = [
    "bytes",
    ALIGNMENTS[0].name,
    ALIGNMENTS[1].name,
    ALIGNMENTS[2].name,
    ALIGNMENTS[3].name,
    ALIGNMENTS[4].name,
    ALIGNMENTS[5].name,
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Read,
    Write,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Read => "read_at",
            Self::Write => "write_at",
        }
    }
}

/// A mapping and private memory, both on a page, with room for every
/// alignment.
struct Memory {
    mapping: Mapping<ReadWrite>,
    private: *mut u8,
    _owner: Vec<u8>,
}

impl Memory {
    fn new(largest: usize) -> Self {
        let page = PageSize::base().bytes();
        // Twice, for what copies within the mapping.
        let room = 2 * (largest + 2 * page);
        let label = must(Label::new("bytes"));
        let segment = must(Segment::create(&label, must(Size::new(room))));
        let mut owner = vec![1_u8; room];
        let skip = owner.as_ptr().align_offset(page);
        let private = owner.as_mut_ptr().wrapping_add(skip);
        Self { mapping: must(segment.map()), private, _owner: owner }
    }

    fn pair(
        &self,
        operation: Operation,
        alignment: &Alignment,
        len: usize,
    ) -> Pair<'_> {
        let (shared, private) = match operation {
            Operation::Read => (alignment.source, alignment.target),
            Operation::Write => (alignment.target, alignment.source),
        };
        Pair {
            operation,
            view: must(self.mapping.bytes().subslice(shared, len)),
            private: self.private.wrapping_add(private),
        }
    }
}

/// Two sides of a copy, which both contenders use in turn.
struct Pair<'a> {
    operation: Operation,
    view: SharedBytes<'a, ReadWrite>,
    private: *mut u8,
}

/// Ours, `memcpy`, vm-memory.
type Copies = [Times; 3];

impl Pair<'_> {
    fn compare(&self, effort: Effort) -> Copies {
        let (view, len) = (&self.view, self.view.len());
        let private = || {
            // SAFETY: one contender runs at a time, and gives up its reference
            // before the next; the memory has room and is initialised.
            unsafe { slice::from_raw_parts_mut(self.private, len) }
        };
        let shared = || {
            // SAFETY: as above, and no other process has the mapping.
            unsafe { view.as_mut_slice() }
        };
        // SAFETY: as above.
        let volatile = &unsafe { VolatileSlice::new(view.as_mut_ptr(), len) };
        match self.operation {
            Operation::Read => compare(
                effort,
                [
                    Contender::new("read_at", || {
                        must(black_box(view).read_at(0, black_box(private())));
                    }),
                    Contender::new("memcpy", || {
                        black_box(private())
                            .copy_from_slice(black_box(shared()));
                    }),
                    Contender::new("vm-memory", || {
                        black_box(volatile).copy_to(black_box(private()))
                    }),
                ],
            ),
            Operation::Write => compare(
                effort,
                [
                    Contender::new("write_at", || {
                        must(black_box(view).write_at(0, black_box(private())));
                    }),
                    Contender::new("memcpy", || {
                        black_box(shared())
                            .copy_from_slice(black_box(private()));
                    }),
                    Contender::new("vm-memory", || {
                        black_box(volatile)
                            .copy_from::<u8>(black_box(private()));
                    }),
                ],
            ),
        }
    }
}

/// Ours against the second.
struct Cell<const N: usize> {
    size: usize,
    times: [Times; N],
}

impl<const N: usize> Cell<N> {
    fn verdict(&self) -> Verdict {
        let [ours, theirs, ..] = self.times.as_slice() else {
            return Verdict::Unclear;
        };
        match self.size {
            LONG.. => ours.over(*theirs).meets(1.0 / SPEED),
            _ => ours.minus(*theirs).meets(EXTRA),
        }
    }
}

impl<const N: usize> fmt::Display for Cell<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ours, theirs) = (self.times[0].median, self.times[1].median);
        let figure = match self.size {
            LONG.. => format!("{:.2}", theirs / ours),
            _ => format!("{:+.1} ns", ours - theirs),
        };
        match self.verdict() {
            Verdict::Met => f.write_str(&figure),
            Verdict::Missed => write!(f, "**{figure}**"),
            Verdict::Unclear => write!(f, "~ {figure}"),
        }
    }
}

fn in_full(aligned: &[(Operation, usize, Copies)]) -> Table {
    let mut table = Table::new([
        "call",
        "bytes",
        "ours",
        "`memcpy`",
        "vm-memory",
        "ours / `memcpy` (median / least)",
        "ours / vm-memory",
        "target",
    ]);
    for (operation, size, times) in aligned {
        let [ours, memcpy, vm_memory] = *times;
        table.row([
            format!("`{}`", operation.name()),
            must(Size::new(*size)).to_string(),
            ours.to_string(),
            memcpy.to_string(),
            vm_memory.to_string(),
            ours.over(memcpy).to_string(),
            ours.over(vm_memory).to_string(),
            Cell { size: *size, times: *times }.verdict().to_string(),
        ]);
    }
    table
}

fn plot(aligned: &[(Operation, usize, Copies)], docs: &Path) -> io::Result<()> {
    let names = ["read_at", "memcpy", "vm-memory"];
    let series = names.iter().enumerate().map(|(index, name)| Series {
        name,
        points: aligned
            .iter()
            .filter(|(operation, size, _)| {
                *operation == Operation::Read && *size >= 64
            })
            .map(|(_, size, times)| {
                (*size as f64, *size as f64 / times[index].median)
            })
            .collect(),
    });
    Plot {
        title: "Out of a mapping, both sides aligned",
        x: "bytes",
        y: "GB/s (median)",
        series: series.collect(),
        legend: SeriesLabelPosition::UpperRight,
    }
    .write(&docs.join("copy-speed.svg"))
}

fn fill_and_copy_to(effort: Effort, memory: &Memory, sizes: &[usize]) -> Table {
    let mut table = Table::new([
        "call",
        "bytes",
        "ours",
        "`memset`, `memmove`",
        "ours / theirs (median / least)",
        "target",
    ]);
    let mut row = |call: &str, size: usize, times: [Times; 2]| {
        table.row([
            call.to_owned(),
            must(Size::new(size)).to_string(),
            times[0].to_string(),
            times[1].to_string(),
            times[0].over(times[1]).to_string(),
            Cell { size, times }.verdict().to_string(),
        ]);
    };
    for size in sizes {
        let effort = effort.for_run_of(*size);
        let view = &must(memory.mapping.bytes().subslice(0, *size));
        let times = compare(
            effort,
            [
                Contender::new("fill", || black_box(view).fill(7)),
                Contender::new("memset", || {
                    let (start, len) = (view.as_mut_ptr(), black_box(*size));
                    // SAFETY: the bytes of the view, which only we use now.
                    unsafe { ptr::write_bytes(black_box(start), 7, len) }
                }),
            ],
        );
        row("`fill`", *size, times);
    }
    for size in sizes {
        let effort = effort.for_run_of(*size);
        let half = memory.mapping.len() / 2;
        // Not a multiple of a page apart: see the alignments.
        let view = &must(memory.mapping.bytes().subslice(0, *size));
        let target = &must(memory.mapping.bytes().subslice(half + 2048, *size));
        let times = compare(
            effort,
            [
                Contender::new("copy_to", || {
                    must(black_box(view).copy_to(*black_box(target)));
                }),
                Contender::new("memmove", || {
                    let (from, to) = (view.as_ptr(), target.as_mut_ptr());
                    let (from, to) = (black_box(from), black_box(to));
                    // SAFETY: the bytes of two views, which only we use now.
                    unsafe { ptr::copy(from, to, black_box(*size)) }
                }),
            ],
        );
        row("`copy_to`", *size, times);
    }
    table
}

fn values(effort: Effort, memory: &Memory) -> Table {
    let mut table = Table::new([
        "call",
        "ours",
        "plain",
        "more than plain (median / least)",
        "target",
    ]);
    let view = &memory.mapping.bytes();
    value::<u8>(effort, view, &mut table, "u8");
    value::<u16>(effort, view, &mut table, "u16");
    value::<u32>(effort, view, &mut table, "u32");
    value::<u64>(effort, view, &mut table, "u64");
    value::<[u8; 16]>(effort, view, &mut table, "[u8; 16]");
    value::<[u64; 8]>(effort, view, &mut table, "[u64; 8]");

    let plain = &must(view.atomic_u64(64));
    // Half a nanosecond: what two compares and a branch may take.
    let mut row = |call: &str, at_most: f64, [ours, theirs]: [Times; 2]| {
        let more = ours.minus(theirs);
        table.row([
            call.to_owned(),
            ours.to_string(),
            theirs.to_string(),
            more.to_string(),
            format!("{} ({at_most} ns)", more.meets(at_most)),
        ]);
    };
    let word = || must(black_box(view).atomic_u64(64));
    let times = compare(
        effort,
        [
            Contender::new("ours", || word().load(Ordering::Acquire)),
            Contender::new("plain", || load(plain)),
        ],
    );
    row("`atomic_u64`, looked up for each load", EXTRA, times);
    let held = &word();
    let times = compare(
        effort,
        [
            Contender::new("ours", || load(held)),
            Contender::new("plain", || load(plain)),
        ],
    );
    row("`atomic_u64`, looked up once, load", 0.1, times);
    let times = compare(
        effort,
        [
            Contender::new("ours", || add(held)),
            Contender::new("plain", || add(plain)),
        ],
    );
    row("`atomic_u64`, looked up once, `fetch_add`", 0.1, times);
    let times = compare(
        effort,
        [
            Contender::new("ours", || must(black_box(view).load_u64(64))),
            Contender::new("plain", || load(plain)),
        ],
    );
    row("`load_u64`", EXTRA, times);
    table
}

fn load(word: &&AtomicU64) -> u64 {
    black_box(word).load(Ordering::Acquire)
}

fn add(word: &&AtomicU64) -> u64 {
    black_box(word).fetch_add(1, Ordering::AcqRel)
}

fn value<T: FromBytes + IntoBytes + Immutable + Copy>(
    effort: Effort,
    view: &SharedBytes<'_, ReadWrite>,
    table: &mut Table,
    name: &str,
) {
    let start = view.as_mut_ptr().wrapping_add(64).cast::<T>();
    let gets = compare(
        effort,
        [
            Contender::new("get", || must(black_box(view).get::<T>(64))),
            Contender::new("load", || {
                // SAFETY: inside the mapping, on a cache line, any bytes are a
                // `T`, and only we use them now.
                unsafe { ptr::read_volatile(*black_box(&start)) }
            }),
        ],
    );
    let given = any(view);
    let sets = compare(
        effort,
        [
            Contender::new("set", || {
                must(black_box(view).set::<T>(64, *black_box(&given)));
            }),
            Contender::new("store", || {
                // SAFETY: as for the load.
                unsafe {
                    ptr::write_volatile(*black_box(&start), *black_box(&given))
                }
            }),
        ],
    );
    for (call, [ours, plain]) in [("get", gets), ("set", sets)] {
        let more = ours.minus(plain);
        table.row([
            format!("`{call}::<{name}>`"),
            ours.to_string(),
            plain.to_string(),
            more.to_string(),
            format!("{} ({EXTRA} ns)", more.meets(EXTRA)),
        ]);
    }
}

/// Some value.
fn any<T: FromBytes>(view: &SharedBytes<'_, ReadWrite>) -> T {
    must(view.get(0))
}
