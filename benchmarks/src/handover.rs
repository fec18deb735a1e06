//! From one process to another: how long a word takes through a mapping, and
//! what it costs to pass descriptors.
#![expect(unsafe_code, reason = "calls C, closes what sendfd received, mmap")]

use std::ffi::c_int;
use std::hint::spin_loop;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use integration_tests::leaks::unique_name;
use integration_tests::peer::{DEADLINE, Peer};
use ipc_channel::ipc::{IpcSharedMemory, channel};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use sendfd::{RecvWithFd, SendWithFd};
use shm_common::{PageSize, ReadWrite, SharedBytes, Size};
use shm_memfd::{Frozen, transfer};

use crate::cores;
use crate::markdown::Table;
use crate::measure::{Contender, Effort, compare, must, three_digits};

/// All mechanisms are the same memory once mapped; this much is noise.
const WORD_TARGET: f64 = 1.05;

/// Passing descriptors may take this many times as long as in C.
const PASS_TARGET: f64 = 1.1;

pub(crate) fn run(effort: Effort) -> io::Result<String> {
    let mut text = "### A word from one core to the other\n\n".to_owned();
    text += &words(effort)?;
    text += &format!(
        "\n### Descriptors\n\nOne message: sent, received close-on-exec, and \
         closed again, over a socket pair within one process, so that no \
         scheduler takes part. The target is at most {PASS_TARGET} × C. \
         `sendfd`'s own receive does less: it neither sets close-on-exec nor \
         notices lost descriptors.\n\n"
    );
    text += &descriptors(effort)?.to_string();
    text += "\n### 4 MiB by a new segment\n\nCopied into a new segment, passed, \
             mapped and read by the receiver, freed. Ours is frozen, so that the \
             receiver need not fear its sender; `ipc-channel`'s \
             `IpcSharedMemory` is not.\n\n";
    text += &region(effort)?.to_string();
    Ok(text)
}

/// The control words, in one anonymous mapping, a cache line each.
const CURRENT: usize = 0;
const ANSWERED: usize = 128;
const BASELINE: usize = 256;

/// Tells the peer to end.
const STOP: u64 = u64::MAX;

fn words(effort: Effort) -> io::Result<String> {
    if !cores::are_two()? {
        return Ok(cores::TOO_FEW.into());
    }
    let page = PageSize::base().bytes();
    let size = must(Size::new(page));
    let memory = anonymous(size)?;

    let sysv = must(shm_sysv::Segment::create(shm_sysv::Key::PRIVATE, size));
    let name = must(shm_posix::Name::new(unique_name("word")));
    let posix = must(shm_posix::Segment::create(&name, size));
    let label = must(shm_memfd::Label::new("word"));
    let memfd = must(shm_memfd::Segment::create(&label, size));
    let (sysv_id, memfd_fd) = (sysv.id(), memfd.as_fd().try_clone_to_owned()?);

    let peer = Peer::fork(move |_| -> io::Result<Vec<u8>> {
        let _pinned = cores::pin(1)?;
        // By the ways of strangers, not by what a fork inherits.
        let sysv = shm_sysv::Segment::open_id(sysv_id)?.map()?;
        let posix = shm_posix::Segment::open(&name)?.map()?;
        let memfd = shm_memfd::Segment::open(memfd_fd)?.map()?;
        answer(
            [
                memory.atomic_u64(BASELINE)?,
                sysv.bytes().atomic_u64(0)?,
                posix.bytes().atomic_u64(0)?,
                memfd.bytes().atomic_u64(0)?,
            ],
            memory,
        )?;
        Ok(vec![])
    })?;
    let _pinned = cores::pin(0)?;
    let (sysv, posix, memfd) =
        (must(sysv.map()), must(posix.map()), must(memfd.map()));
    let words = [
        must(memory.atomic_u64(BASELINE)),
        must(sysv.bytes().atomic_u64(0)),
        must(posix.bytes().atomic_u64(0)),
        must(memfd.bytes().atomic_u64(0)),
    ];
    let names = ["anonymous mapping", "shm-sysv", "shm-posix", "shm-memfd"];
    let current = must(memory.atomic_u64(CURRENT));
    let answered = must(memory.atomic_u64(ANSWERED));
    let contender = |index: usize| {
        let word = words[index];
        Contender::timed(names[index], move |times| {
            current.store(index as u64 + 1, Ordering::Release);
            wait_for(|| answered.load(Ordering::Acquire) == index as u64 + 1);
            round_trips(word, times)
        })
    };
    let times = compare(effort, [0, 1, 2, 3].map(contender))
        .map(|round_trip| round_trip.times(0.5));
    current.store(STOP, Ordering::Release);
    must(peer.join(DEADLINE));

    let mut table = Table::new([
        "mapping",
        "one way",
        "over anonymous (median / least)",
        "target",
    ]);
    for (name, time) in names.iter().zip(times) {
        let ratio = time.over(times[0]);
        table.row([
            (*name).to_owned(),
            time.to_string(),
            ratio.to_string(),
            ratio.meets(WORD_TARGET).to_string(),
        ]);
    }
    Ok(format!(
        "Half a round trip of an atomic word between two processes that spin, \
         each on its own core. Once mapped, the mechanism must not matter: the \
         target is at most {WORD_TARGET} × a bare anonymous shared mapping. \
         Where the memory lies decides which slice of the last-level cache a \
         word goes through, so a few nanoseconds either way are no merit.\n\n\
         {table}"
    ))
}

/// Sends the word there and back that often.
fn round_trips(word: &AtomicU64, times: u64) -> Duration {
    let begun = Instant::now();
    for _ in 0..times {
        let sent = word.load(Ordering::Relaxed) + 1;
        word.store(sent, Ordering::Release);
        wait_for(|| word.load(Ordering::Acquire) != sent);
    }
    begun.elapsed()
}

/// The other side: makes every odd word even, of that one of `words` that is
/// the current one.
fn answer(
    words: [&AtomicU64; 4],
    memory: SharedBytes<'_, ReadWrite>,
) -> shm_common::Result<()> {
    let current = memory.atomic_u64(CURRENT)?;
    let answered = memory.atomic_u64(ANSWERED)?;
    loop {
        let index = current.load(Ordering::Acquire);
        answered.store(index, Ordering::Release);
        let word = match index {
            STOP => return Ok(()),
            // Nothing to do yet.
            0 => continue,
            _ => usize::try_from(index - 1).map_or(words[0], |at| words[at]),
        };
        while current.load(Ordering::Relaxed) == index {
            // Mostly the word is looked at, since a look at `current` delays.
            for _ in 0..1000 {
                let seen = word.load(Ordering::Acquire);
                if seen % 2 == 1 {
                    word.store(seen + 1, Ordering::Release);
                }
                spin_loop();
            }
        }
    }
}

/// Spins; a peer that is gone ends the program, not hangs it.
fn wait_for(mut condition: impl FnMut() -> bool) {
    let mut deadline = None;
    loop {
        for _ in 0..1_000_000 {
            if condition() {
                return;
            }
            spin_loop();
        }
        let deadline = deadline.get_or_insert(Instant::now() + DEADLINE);
        assert!(Instant::now() < *deadline, "the peer does not answer");
    }
}

/// Shared with children that are forked later; never unmapped.
fn anonymous(size: Size) -> io::Result<SharedBytes<'static, ReadWrite>> {
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let len = NonZeroUsize::new(size.bytes()).unwrap_or(NonZeroUsize::MIN);
    // SAFETY: the kernel picks unused addresses.
    let start =
        unsafe { mmap_anonymous(None, len, access, MapFlags::MAP_SHARED)? };
    // SAFETY: 1. and 2. one mapping of zeros that stays for ever. 3. Nobody
    // else in this program knows the address.
    Ok(unsafe { SharedBytes::from_raw_parts(start.cast(), len.get()) })
}

fn descriptors(effort: Effort) -> io::Result<Table> {
    let mut table = Table::new([
        "descriptors",
        "against",
        "ours",
        "messages/s",
        "theirs",
        "ours / theirs (median / least)",
        "target",
    ]);
    let (from, to) = UnixStream::pair()?;
    let label = must(shm_memfd::Label::new("passed"));
    let segment = must(shm_memfd::Segment::create(&label, Size::KIB));
    for count in [1, 2, 16, transfer::MAX_DESCRIPTORS] {
        let borrowed = vec![segment.as_fd(); count];
        let raw = vec![segment.as_fd().as_raw_fd(); count];
        let (from, to) = (&from, &to);
        let [ours, c, sendfd] = compare(
            effort,
            [
                Contender::new("ours", || {
                    must(transfer::send(from, b"!", &borrowed));
                    let got = must(transfer::receive(to, &mut [0; 1], count));
                    assert_eq!(got.descriptors.len(), count);
                }),
                Contender::new("C", || {
                    let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
                    // SAFETY: two open sockets and `count` descriptors.
                    let errno =
                        unsafe { c_pass(from, to, raw.as_ptr(), count) };
                    assert_eq!(errno, 0, "errno of C");
                }),
                Contender::new("sendfd", || {
                    must(from.send_with_fd(b"!", &raw));
                    let mut received = [-1; transfer::MAX_DESCRIPTORS];
                    let got = must(to.recv_with_fd(&mut [0; 1], &mut received));
                    assert_eq!(got, (1, count));
                    received[..count].iter().copied().for_each(close);
                }),
            ],
        );
        for (name, theirs) in [("C", c), ("`sendfd`", sendfd)] {
            let ratio = ours.over(theirs);
            let target = match name {
                "C" => ratio.meets(PASS_TARGET).to_string(),
                _ => String::new(),
            };
            table.row([
                count.to_string(),
                name.to_owned(),
                ours.to_string(),
                three_digits(1e9 / ours.median),
                theirs.to_string(),
                ratio.to_string(),
                target,
            ]);
        }
    }
    Ok(table)
}

fn close(fd: RawFd) {
    // SAFETY: it was just received, and nobody else owns it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
}

fn region(effort: Effort) -> io::Result<Table> {
    const LEN: usize = 4 << 20;
    let payload = vec![1_u8; LEN];
    let (from, to) = UnixStream::pair()?;
    let (sender, receiver) = channel::<IpcSharedMemory>()?;
    let [ours, ipc_channel] = compare(
        effort,
        [
            Contender::new("ours", || must(pass_frozen(&from, &to, &payload))),
            Contender::new("ipc-channel", || {
                must(sender.send(IpcSharedMemory::from_bytes(&payload)));
                sum(&must(receiver.recv()))
            }),
        ],
    );
    let mut table = Table::new([
        "against",
        "ours",
        "theirs",
        "ours / theirs (median / least)",
    ]);
    table.row([
        "`ipc-channel`".to_owned(),
        ours.to_string(),
        ipc_channel.to_string(),
        ours.over(ipc_channel).to_string(),
    ]);
    Ok(table)
}

fn pass_frozen(
    from: &UnixStream,
    to: &UnixStream,
    payload: &[u8],
) -> shm_common::Result<u64> {
    let label = shm_memfd::Label::new("payload")?;
    let segment =
        shm_memfd::Segment::create(&label, Size::new(payload.len())?)?;
    segment.map()?.bytes().write_at(0, payload)?;
    transfer::send(from, b"!", &[segment.freeze()?.as_fd()])?;
    let [fd] = transfer::receive(to, &mut [0; 1], 1)?.into_descriptors()?;
    Ok(sum(&Frozen::open(fd)?.map()?))
}

/// Reads all of it.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let (words, _) = bytes.as_chunks();
    let words = words.iter().map(|word| u64::from_ne_bytes(*word));
    words.fold(0, u64::wrapping_add)
}

unsafe extern "C" {
    /// Sends and receives `count` descriptors at `fds`, and closes them.
    fn c_pass(from: c_int, to: c_int, fds: *const c_int, count: usize)
    -> c_int;
}
