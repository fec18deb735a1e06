//! When is passing a descriptor the right thing? The same payload by six ways
//! to another process, which reads all of it.
#![expect(
    unsafe_code,
    reason = "fills and reads slots in place, as the protocol allows"
)]

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use integration_tests::peer::{DEADLINE, Peer};
use shm_common::{ReadOnly, ReadWrite, SharedBytes, Size};
use shm_memfd::{Frozen, Label, Mapping, Segment, transfer};

use crate::cores;
use crate::handover::sum;
use crate::markdown::Table;
use crate::measure::{
    Contender, Effort, Times, compare_all, must, three_digits,
};
use crate::plot::{Plot, Series, SeriesLabelPosition};

const SIZES: [usize; 8] = [
    4 << 10,
    16 << 10,
    64 << 10,
    256 << 10,
    1 << 20,
    4 << 20,
    16 << 20,
    64 << 20,
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    NewMemfd,
    Pool,
    InPlace,
    ThroughSlot,
    Socket,
    Pipe,
}

impl Way {
    /// In the order of their numbers.
    const ALL: [Self; 6] = [
        Self::NewMemfd,
        Self::Pool,
        Self::InPlace,
        Self::ThroughSlot,
        Self::Socket,
        Self::Pipe,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::NewMemfd => "(a) new memfd",
            Self::Pool => "(b) pool of memfds",
            Self::InPlace => "(c) slot, in place",
            Self::ThroughSlot => "(d) slot, copied",
            Self::Socket => "(e) Unix socket",
            Self::Pipe => "(f) pipe",
        }
    }
}

/// How many memfds the pool has; the slot is one more.
const POOL: usize = 4;

pub(crate) fn run(effort: Effort, docs: &Path) -> io::Result<String> {
    if !cores::are_two()? {
        return Ok(cores::TOO_FEW.into());
    }
    let (ours, theirs) = UnixStream::pair()?;
    let (pipe_out, pipe_in) = io::pipe()?;
    let peer = Peer::fork(move |_| -> io::Result<Vec<u8>> {
        let _pinned = cores::pin(1)?;
        Reader { socket: theirs, pipe: pipe_out, slots: vec![] }.run()?;
        Ok(vec![])
    })?;
    let pinned = cores::pin(0)?;
    let mut measured = Vec::new();
    for size in effort.among(&SIZES) {
        let writer = Writer::new(&ours, &pipe_in, size)?;
        let mut contenders: Vec<Contender<'_>> = Way::ALL
            .map(|way| {
                let writer = &writer;
                let mut private = vec![0; size];
                let mut seed = 0;
                Contender::new(way.name(), move || {
                    seed += 1;
                    must(writer.pass(way, &mut private, seed));
                })
            })
            .into();
        let times = compare_all(effort.for_run_of(size), &mut contenders);
        measured.push((size, times));
    }
    // Its own copy of our end of the socket keeps it from seeing the end.
    (&ours).write_all(&Header { way: STOP, slot: 0, len: 0 }.to_bytes())?;
    drop(pinned);
    must(peer.join(DEADLINE));
    plot(&measured, docs)?;
    Ok(format!(
        "{METHOD}\n{}\n![Speed of the six ways](payload.svg)\n\n{}",
        table(&measured),
        answer(&measured)
    ))
}

const METHOD: &str = "\
One run: the payload is produced, handed to a process on the other core, which \
reads all of it and answers with a checksum. So both ends touch every byte once, \
which costs the same on all six ways. In every case a message of 16 bytes over \
a Unix socket says that the payload is there, and 8 bytes answer.

- (a) a new memfd each time: reserved, mapped, filled in place, unmapped, \
frozen, sent; the receiver checks the seals, maps it and reads the slice
- (b) four memfds that were passed and mapped once; only an index travels
- (c) one shared slot, written and read in place
- (d) one shared slot, copied into from private memory and out of it into \
private memory
- (e) the bytes follow on the socket, from and to private memory
- (f) the bytes go through a pipe, from and to private memory
";

/// What goes before every payload: way, slot, length.
struct Header {
    way: u8,
    slot: u8,
    len: usize,
}

/// Not ways: new slots come with this message, and this is the last one.
const SLOTS: u8 = 254;
const STOP: u8 = 255;

impl Header {
    const LEN: usize = 16;

    fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0] = self.way;
        bytes[1] = self.slot;
        bytes[8..].copy_from_slice(&self.len.to_ne_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        let [way, slot, _, _, _, _, _, _, len @ ..] = bytes;
        Self { way, slot, len: usize::from_ne_bytes(len) }
    }
}

struct Writer<'a> {
    socket: &'a UnixStream,
    pipe: &'a PipeWriter,
    size: Size,
    /// The pool, and then the slot.
    slots: Vec<Mapping<ReadWrite>>,
}

impl<'a> Writer<'a> {
    fn new(
        socket: &'a UnixStream,
        pipe: &'a PipeWriter,
        size: usize,
    ) -> io::Result<Self> {
        let size = Size::new(size)?;
        let label = Label::new("slot")?;
        let create = |_| Segment::create(&label, size);
        let segments: Vec<Segment> =
            (0..=POOL).map(create).collect::<Result<_, _>>()?;
        let slots = segments.iter().map(|segment| segment.map());
        let slots = slots.collect::<Result<_, _>>()?;
        let writer = Self { socket, pipe, size, slots };
        let descriptors: Vec<BorrowedFd<'_>> =
            segments.iter().map(AsFd::as_fd).collect();
        writer.send(SLOTS, 0, &descriptors)?;
        writer.answer()?;
        Ok(writer)
    }

    /// Hands one payload over, and waits until it was read.
    fn pass(&self, way: Way, private: &mut [u8], seed: u64) -> io::Result<()> {
        let number = way as u8;
        let pooled = usize::try_from(seed).unwrap_or(0) % POOL;
        let expected = match way {
            Way::NewMemfd => {
                let segment =
                    Segment::create(&Label::new("payload")?, self.size)?;
                let mapping = segment.map()?;
                // SAFETY: nobody else has this memory yet.
                let bytes = unsafe { mapping.bytes().as_mut_slice() };
                let expected = produce(bytes, seed);
                // What is frozen must not be mapped writable.
                drop(mapping);
                let frozen = segment.freeze().map_err(|failed| failed.error)?;
                self.send(number, 0, &[frozen.as_fd()])?;
                expected
            }
            Way::Pool | Way::InPlace => {
                let index = if way == Way::Pool { pooled } else { POOL };
                // SAFETY: 1. the reader touches a slot only between our message
                // and its answer, neither of which is under way, and nothing
                // else here uses it. 2. The answer was a system call.
                let slot = unsafe { self.slots[index].bytes().as_mut_slice() };
                let expected = produce(slot, seed);
                self.send(number, index, &[])?;
                expected
            }
            Way::ThroughSlot => {
                let expected = produce(private, seed);
                self.slots[POOL].bytes().write_at(0, private)?;
                self.send(number, POOL, &[])?;
                expected
            }
            Way::Socket => {
                let expected = produce(private, seed);
                self.send(number, 0, &[])?;
                let mut socket = self.socket;
                socket.write_all(private)?;
                expected
            }
            Way::Pipe => {
                let expected = produce(private, seed);
                self.send(number, 0, &[])?;
                let mut pipe = self.pipe;
                pipe.write_all(private)?;
                expected
            }
        };
        match self.answer()? {
            sum if sum == expected => Ok(()),
            _ => Err(io::Error::other("the payload arrived changed")),
        }
    }

    fn send(
        &self,
        way: u8,
        slot: usize,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let slot = u8::try_from(slot).map_err(io::Error::other)?;
        let len = self.size.bytes();
        let header = Header { way, slot, len }.to_bytes();
        if descriptors.is_empty() {
            let mut socket = self.socket;
            return socket.write_all(&header);
        }
        Ok(transfer::send(self.socket, &header, descriptors)?)
    }

    fn answer(&self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        let mut socket = self.socket;
        socket.read_exact(&mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }
}

/// Writes every byte, and gives the sum that a reader must find.
fn produce(bytes: &mut [u8], seed: u64) -> u64 {
    let (words, _) = bytes.as_chunks_mut();
    let mut sum = 0_u64;
    for (word, index) in words.iter_mut().zip(0_u64..) {
        let value = seed ^ index;
        *word = value.to_ne_bytes();
        sum = sum.wrapping_add(value);
    }
    sum
}

struct Reader {
    socket: UnixStream,
    pipe: PipeReader,
    slots: Vec<Mapping<ReadOnly>>,
}

impl Reader {
    fn run(&mut self) -> io::Result<()> {
        let mut private = Vec::new();
        loop {
            let mut header = [0; Header::LEN];
            let message =
                transfer::receive(&self.socket, &mut header, POOL + 1)?;
            let header = Header::from_bytes(header);
            if header.way == STOP {
                return Ok(());
            }
            if header.way == SLOTS {
                let map = |fd| Segment::open_read_only(fd)?.map();
                let slots = message.descriptors.into_iter().map(map);
                self.slots = slots.collect::<Result<_, _>>()?;
                private = vec![0; header.len];
                self.answer(0)?;
                continue;
            }
            let way = Way::ALL[usize::from(header.way)];
            let sum = match way {
                Way::NewMemfd => {
                    let [fd] = message.into_descriptors()?;
                    sum(&Frozen::open(fd)?.map()?)
                }
                Way::Pool | Way::InPlace => {
                    // SAFETY: 1. the writer waits for our answer. 2. Its
                    // message was a system call.
                    sum(unsafe { self.slot(&header).as_slice() })
                }
                Way::ThroughSlot => {
                    self.slot(&header).read_at(0, &mut private)?;
                    sum(&private)
                }
                Way::Socket => {
                    self.socket.read_exact(&mut private)?;
                    sum(&private)
                }
                Way::Pipe => {
                    self.pipe.read_exact(&mut private)?;
                    sum(&private)
                }
            };
            self.answer(sum)?;
        }
    }

    fn slot(&self, header: &Header) -> SharedBytes<'_, ReadOnly> {
        self.slots[usize::from(header.slot)].bytes()
    }

    fn answer(&mut self, sum: u64) -> io::Result<()> {
        self.socket.write_all(&sum.to_ne_bytes())
    }
}

type Measured = [(usize, Vec<Times>)];

fn table(measured: &Measured) -> Table {
    let mut table = Table::new([
        "payload",
        Way::ALL[0].name(),
        Way::ALL[1].name(),
        Way::ALL[2].name(),
        Way::ALL[3].name(),
        Way::ALL[4].name(),
        Way::ALL[5].name(),
    ]);
    for (size, times) in measured {
        let mut row = vec![must(Size::new(*size)).to_string()];
        row.extend(times.iter().map(Times::to_string));
        table.row(row);
    }
    table
}

fn plot(measured: &Measured, docs: &Path) -> io::Result<()> {
    let series = Way::ALL.map(|way| Series {
        name: way.name(),
        points: measured
            .iter()
            .map(|(size, times)| {
                (*size as f64, *size as f64 / times[way as usize].median)
            })
            .collect(),
    });
    Plot {
        title: "A payload to another process, which reads all of it",
        x: "bytes of payload",
        y: "GB/s (median), production and reading included",
        series: series.into(),
        legend: SeriesLabelPosition::UpperLeft,
    }
    .write(&docs.join("payload.svg"))
}

/// Three sentences, by the figures at hand.
fn answer(measured: &Measured) -> String {
    let quicker_than = |other: Way| {
        let loses = |times: &Vec<Times>| {
            times[Way::NewMemfd as usize].median >= times[other as usize].median
        };
        let from = match measured.iter().rposition(|(_, times)| loses(times)) {
            None => measured.first(),
            Some(last) => measured.get(last + 1),
        };
        match from {
            None => "at no size".to_owned(),
            Some((size, _)) => format!("from {} up", must(Size::new(*size))),
        }
    };
    let pool_gains = |row: Option<&(usize, Vec<Times>)>| match row {
        None => String::new(),
        Some((size, times)) => {
            let ratio = times[Way::NewMemfd as usize]
                .over(times[Way::Pool as usize])
                .of_medians;
            let size = must(Size::new(*size));
            format!("{} × at {size}", three_digits(ratio))
        }
    };
    format!(
        "**When is passing a descriptor the right thing?** A new memfd for \
         each message is quicker than a pipe {}, than the socket {} and than a \
         copy through a slot {}, since it saves the copies but has the kernel \
         zero, map and free fresh pages every time. Passing each descriptor \
         once and from then on only an index saves that too, and is quicker \
         than a new memfd by {} and {}: the descriptor is the way to set \
         sharing up, not the message. So pass one per message where that is \
         the point, because the receiver keeps the payload, must be sure that \
         nobody can change it any more, or shares no slot with the sender; \
         for everything else pass it once and reuse it.\n",
        quicker_than(Way::Pipe),
        quicker_than(Way::Socket),
        quicker_than(Way::ThroughSlot),
        pool_gains(measured.first()),
        pool_gains(measured.last()),
    )
}
