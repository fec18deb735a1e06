//! What lies in memory, who may open it, and several objects in one segment.
#![expect(
    clippy::unwrap_used,
    unsafe_code,
    reason = "a test fails by panicking, and owns its segment"
)]

mod common;

use common::{Bytes, Shared, shortly, soon};
use integration_tests::alone::alone_as_root;
use integration_tests::peer::Peer;
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use shm_sync::{
    Barrier, Condvar, Deadline, Error, Event, Layout, Locked, Made, Mutex,
    Placed, Ready, Reset, Result, Semaphore, SeqLock, SeqLockReader, Slot,
};

for_every_mechanism! {
    all_objects_of_a_layout_work_in_a_process_that_opens_it,
    a_sequence_lock_is_read_through_a_read_only_view,
}

struct Example {
    layout: Layout,
    mutex: Slot<Mutex<'static>>,
    condvar: Slot<Condvar<'static>>,
    event: Slot<Event<'static>>,
    semaphore: Slot<Semaphore<'static>>,
    barrier: Slot<Barrier<'static>>,
    value: Slot<SeqLock<'static, [u16; 5]>>,
    ready: Slot<Ready<'static>>,
    bytes: Slot<Bytes<'static>>,
}

impl Example {
    fn new() -> Self {
        let mut layout = Layout::new(*b"example!", 3);
        Self {
            mutex: layout.mutex(100),
            condvar: layout.condvar(),
            event: layout.event(Reset::Manual),
            semaphore: layout.semaphore(2),
            barrier: layout.barrier(2),
            value: layout.seq_lock([1, 2, 3, 4, 5]),
            ready: layout.ready(),
            bytes: layout.bytes(70),
            layout,
        }
    }
}

fn create<'a>(layout: &Layout, bytes: Bytes<'a>) -> Result<Placed<'a>> {
    // SAFETY: 1. each test uses its segment only by this. 2. It was zeros. 3.
    // No guard is leaked.
    unsafe { layout.create(bytes) }
}

fn open<'a>(layout: &Layout, bytes: Bytes<'a>) -> Result<Placed<'a>> {
    // SAFETY: as for `create`.
    unsafe { layout.open(bytes, shortly()) }
}

fn end(peer: Peer) {
    if let Err(error) = peer.join(std::time::Duration::from_secs(20)) {
        panic!("{error}");
    }
}

fn all_objects_of_a_layout_work_in_a_process_that_opens_it(shared: &Shared) {
    let example = Example::new();
    // Everything else in the segment is somebody else's.
    let len = example.layout.size().unwrap().bytes();
    let rest = shared.bytes().subslice(len, Shared::LEN - len).unwrap();
    rest.fill(0xa5);

    let other = Peer::fork(|_| -> Result<[u8; 0]> {
        let mapping = shared.again();
        let example = Example::new();
        // SAFETY: as for `create`.
        let placed =
            unsafe { example.layout.open(mapping.as_shared_bytes(), soon())? };
        placed.at(example.barrier)?.wait_until(soon())?;
        let mutex = placed.at(example.mutex)?;
        let mut guard = match mutex.lock()? {
            Locked::Clean(guard) => guard,
            Locked::OwnerDied(_) => panic!("nobody died"),
        };
        assert_eq!(guard.bytes().len(), 100);
        while guard.get::<u64>(0)? == 0 {
            let locked = placed.at(example.condvar)?.wait(guard)?;
            guard = locked.or_repair(|_| Ok(()))?;
        }
        placed.at(example.event)?.wait()?;
        let semaphore = placed.at(example.semaphore)?;
        assert!(semaphore.try_acquire() && semaphore.try_acquire());
        assert!(!semaphore.try_acquire());
        assert_eq!(placed.at(example.value)?.read()?, [1, 2, 3, 4, 5]);
        let bytes = placed.at(example.bytes)?;
        assert_eq!(bytes.to_vec(), [0; 70]);
        let made = placed.at(example.ready)?.make_once(|| {
            bytes.fill(9);
            placed.at(example.value)?.write([9; 5]).map(drop)
        })?;
        assert_eq!(made, Made::Now);
        placed.at(example.barrier)?.wait_until(soon())?;
        Ok([])
    })
    .unwrap();

    let placed = create(&example.layout, shared.bytes()).unwrap();
    placed.at(example.barrier).unwrap().wait_until(soon()).unwrap();
    let mutex = placed.at(example.mutex).unwrap();
    let locked = mutex.lock_until(soon()).unwrap();
    locked.or_repair(|_| Ok(())).unwrap().set(0, 1_u64).unwrap();
    placed.at(example.condvar).unwrap().notify_all().unwrap();
    placed.at(example.event).unwrap().set().unwrap();
    placed.at(example.barrier).unwrap().wait_until(soon()).unwrap();
    end(other);
    let ready = placed.at(example.ready).unwrap();
    assert_eq!(ready.make_once(|| panic!("made")).unwrap(), Made::Before);
    assert_eq!(placed.at(example.value).unwrap().read().unwrap(), [9; 5]);
    assert_eq!(rest.to_vec(), vec![0xa5; rest.len()]);
}

#[test]
fn a_layout_that_differs_in_anything_is_refused() {
    let shared = Shared::memfd();
    let example = || Layout::new(*b"example!", 1);
    let mut original = example();
    original.mutex(100);
    original.event(Reset::Auto);
    original.semaphore(3);
    original.seq_lock(1_u32);
    original.bytes(10);
    create(&original, shared.bytes()).unwrap();
    open(&original, shared.bytes()).unwrap();

    let declare = |mut layout: Layout, change: usize| {
        layout.mutex(if change == 1 { 101 } else { 100 });
        match change {
            2 => _ = layout.event(Reset::Manual),
            3 => _ = layout.condvar(),
            _ => _ = layout.event(Reset::Auto),
        }
        layout.semaphore(if change == 4 { 4 } else { 3 });
        match change {
            5 => _ = layout.seq_lock(1_u64),
            6 => _ = layout.seq_lock([1_u8; 65]),
            // The first value may differ: it is only the first.
            _ => _ = layout.seq_lock(2_u32),
        }
        layout.bytes(if change == 7 { 11 } else { 10 });
        if change == 8 {
            layout.ready();
        }
        layout
    };
    open(&declare(example(), 0), shared.bytes()).unwrap();
    for (layout, expected) in [
        (
            declare(Layout::new(*b"Example!", 1), 0),
            "the layout at offset 0: its magic is",
        ),
        (
            declare(Layout::new(*b"example?", 1), 0),
            "the layout at offset 0: its magic is",
        ),
        (
            declare(Layout::new(*b"example!", 2), 0),
            "the layout at offset 0: its version is 0x1, and here 0x2",
        ),
        (
            declare(example(), 1),
            "the mutex at offset 192: its number is 0x64, and here 0x65",
        ),
        (
            declare(example(), 2),
            "the event at offset 384: its number is 0x1, and here 0x2",
        ),
        (
            declare(example(), 3),
            "the condvar at offset 384: its kind is 0x3, and here 0x2",
        ),
        (declare(example(), 4), "its number is 0x3, and here 0x4"),
        (declare(example(), 5), "its number is 0x4, and here 0x8"),
        (declare(example(), 6), "its number is 0x4, and here 0x41"),
        (declare(example(), 7), "its number is 0xa, and here 0xb"),
        (declare(example(), 8), "number of objects is 0x5, and here 0x6"),
    ] {
        let refused = open(&layout, shared.bytes()).unwrap_err();
        assert!(matches!(refused, Error::Incompatible { .. }));
        let text = refused.to_string();
        assert!(text.contains(expected), "{text}: not {expected}");
    }
}

#[test]
fn a_layout_is_created_once() {
    let shared = Shared::memfd();
    let mut layout = Layout::new(*b"example!", 1);
    layout.event(Reset::Auto);
    let nobody = open(&layout, shared.bytes());
    assert!(matches!(nobody, Err(Error::TimedOut(_))), "{nobody:?}");
    create(&layout, shared.bytes()).unwrap();
    let again = create(&layout, shared.bytes());
    assert!(matches!(again, Err(Error::AlreadyExists(_))), "{again:?}");
    // SAFETY: as for `create`.
    let (_, made) = unsafe {
        let never = |_: &Placed<'_>| panic!("made");
        layout.open_or_create(shared.bytes(), Deadline::now(), never)
    }
    .unwrap();
    assert_eq!(made, Made::Before);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let shared = Shared::memfd();
    for len in [usize::MAX, isize::MAX as usize, 1 << 38] {
        let mut layout = Layout::new(*b"example!", 1);
        layout.mutex(len);
        assert!(layout.size().is_err(), "{len}");
        let refused = create(&layout, shared.bytes());
        assert!(matches!(refused, Err(Error::InvalidSize { .. })));
        let mut layout = Layout::new(*b"example!", 1);
        layout.bytes(len);
        layout.bytes(len);
        assert!(layout.size().is_err(), "{len}");
    }
    let mut layout = Layout::new(*b"example!", 1);
    layout.bytes(Shared::LEN);
    let refused = create(&layout, shared.bytes());
    assert!(matches!(refused, Err(Error::OutOfBounds { .. })));
    // An object that cannot be made leaves the layout to be made.
    let mut layout = Layout::new(*b"example!", 1);
    layout.barrier(0);
    let refused = create(&layout, shared.bytes());
    assert!(matches!(refused, Err(Error::LimitReached(_))));
    let mut layout = Layout::new(*b"example!", 1);
    layout.barrier(1);
    create(&layout, shared.bytes()).unwrap();
}

#[test]
fn a_slot_of_another_layout_gives_no_object_of_another_kind() {
    let shared = Shared::memfd();
    let mut layout = Layout::new(*b"example!", 1);
    layout.bytes(1000);
    let placed = create(&layout, shared.bytes()).unwrap();
    let mut other = Layout::new(*b"example!", 1);
    let (mutex, event) = (other.mutex(8), other.event(Reset::Auto));
    let refused = placed.at(mutex).unwrap_err();
    assert!(matches!(refused, Error::Incompatible { what: "kind", .. }));
    let refused = placed.at(event).unwrap_err();
    assert!(matches!(refused, Error::Incompatible { what: "kind", .. }));
}

/// Opens whatever is at `offset` as each of the kinds.
fn open_as_each(bytes: Bytes<'_>, offset: usize) -> [Result<()>; 8] {
    // SAFETY: 1. and 3. this test uses its segment only by this. 2. What passes
    // the check was made by `create`.
    let mutex = unsafe { Mutex::open(bytes, offset) };
    // SAFETY: as before.
    let value = unsafe { SeqLock::<u64>::open(bytes, offset) };
    [
        mutex.map(drop),
        Condvar::open(bytes, offset).map(drop),
        Event::open(bytes, offset).map(drop),
        Semaphore::open(bytes, offset).map(drop),
        Barrier::open(bytes, offset).map(drop),
        value.map(drop),
        SeqLockReader::<u64, _>::open(bytes, offset).map(drop),
        // The last, as it makes what it does not find.
        // SAFETY: as before.
        unsafe { Ready::open_or_create(bytes, offset) }.map(drop),
    ]
}

/// One of each kind, each a kibibyte after the other.
fn create_each(bytes: Bytes<'_>) {
    // SAFETY: 1. to 3. as above, and nothing was there.
    unsafe { Mutex::create(bytes, 0, 8) }.unwrap();
    Condvar::create(bytes, 1024).unwrap();
    Event::create(bytes, 2048, Reset::Auto).unwrap();
    Semaphore::create(bytes, 3072, 1).unwrap();
    Barrier::create(bytes, 4096, 2).unwrap();
    // SAFETY: as before.
    unsafe { SeqLock::create(bytes, 5120, 1_u64) }.unwrap();
    // SAFETY: as before.
    unsafe { Ready::open_or_create(bytes, 7168) }.unwrap();
}

#[test]
fn an_object_opens_as_what_it_is_and_as_nothing_else() {
    let shared = Shared::memfd();
    create_each(shared.bytes());
    for (made, offset) in
        [0, 1024, 2048, 3072, 4096, 5120, 5120, 7168].into_iter().enumerate()
    {
        let opened = open_as_each(shared.bytes(), offset);
        for (kind, opened) in opened.into_iter().enumerate() {
            // Two ways to open a sequence lock.
            if kind == made || [kind, made] == [5, 6] || [kind, made] == [6, 5]
            {
                opened.unwrap();
            } else {
                let refused = opened.unwrap_err();
                assert!(
                    matches!(refused, Error::Incompatible { what: "kind", .. }),
                    "{made} as {kind}: {refused}"
                );
            }
        }
    }
}

#[test]
fn an_object_of_another_version_library_or_width_is_refused() {
    let shared = Shared::memfd();
    create_each(shared.bytes());
    let kinds = [0, 1024, 2048, 3072, 4096, 5120, 5120, 7168];
    for (byte, what, holds_mutex_only) in [
        (0, "magic", false),
        (4, "version", false),
        (6, "C library", true),
        (7, "pointer width", true),
        (12, "PID namespace", true),
    ] {
        for (kind, offset) in kinds.into_iter().enumerate() {
            let holds_mutex = [0, 5, 6, 7].contains(&kind);
            if holds_mutex_only && !holds_mutex {
                continue;
            }
            let at = offset + byte;
            let before: u8 = shared.bytes().get(at).unwrap();
            shared.bytes().set(at, before ^ 0x70).unwrap();
            let [.., opened] = {
                let mut all = open_as_each(shared.bytes(), offset);
                all.swap(kind, 7);
                all
            };
            if kind == 6 && byte == 12 {
                // A reader locks nothing.
                opened.unwrap();
            } else {
                match opened {
                    Err(Error::Incompatible { what: found, .. }) => {
                        assert_eq!(found, what);
                    }
                    other => panic!("{kind}, {what}: {other:?}"),
                }
            }
            shared.bytes().set(at, before).unwrap();
        }
    }
    // Of another length, and with a way of reset that does not exist.
    // SAFETY: as above.
    let refused = unsafe { SeqLock::<u32>::open(shared.bytes(), 5120) };
    assert_eq!(
        refused.unwrap_err().to_string(),
        "cannot open the sequence lock at offset 5120: its length of the \
         value is 0x8, and here 0x4"
    );
    shared.bytes().set(2048 + 8, 7_u32).unwrap();
    let refused = Event::open(shared.bytes(), 2048);
    assert!(matches!(refused, Err(Error::Incompatible { .. })));
}

#[test]
fn what_was_not_created_is_not_ready() {
    let shared = Shared::memfd();
    let [opened @ .., ready] = open_as_each(shared.bytes(), 0);
    ready.unwrap();
    for opened in opened {
        assert!(matches!(opened, Err(Error::NotReady { .. })), "{opened:?}");
    }
}

#[test]
fn an_object_begins_on_a_cache_line_inside_the_bytes() {
    let shared = Shared::memfd();
    for offset in [1, 8, 32, 63, 65] {
        for refused in open_as_each(shared.bytes(), offset) {
            let misaligned = Err(Error::Misaligned { offset, align: 64 });
            assert_eq!(refused, misaligned);
        }
        let refused = Event::create(shared.bytes(), offset, Reset::Auto);
        assert!(matches!(refused, Err(Error::Misaligned { .. })));
    }
    for offset in [Shared::LEN, usize::MAX - 63, usize::MAX] {
        for refused in open_as_each(shared.bytes(), offset) {
            assert!(matches!(refused, Err(Error::OutOfBounds { .. })));
        }
    }
    // The bytes that a mutex claims to protect may be cut off.
    // SAFETY: as above.
    unsafe { Mutex::create(shared.bytes(), 0, 1000) }.unwrap();
    let half = shared.bytes().subslice(0, 1024).unwrap();
    // SAFETY: as above.
    let refused = unsafe { Mutex::open(half, 0) };
    assert!(matches!(refused, Err(Error::OutOfBounds { .. })));
}

/// The documented layout: other programs rely on it.
#[test]
fn the_bytes_are_as_documented() {
    let shared = Shared::memfd();
    create_each(shared.bytes());
    let head =
        |offset: usize| -> [u8; 20] { shared.bytes().get(offset).unwrap() };
    assert_eq!(head(1024)[..8], *b"shmy\x01\x02\0\0");
    assert_eq!(head(1024)[8..], [0; 12]);
    assert_eq!(head(2048)[..8], *b"shmy\x01\x03\0\0");
    assert_eq!(head(3072)[..8], *b"shmy\x01\x04\0\0");
    assert_eq!(head(3072)[16..], 1_u32.to_ne_bytes());
    assert_eq!(head(4096)[..8], *b"shmy\x01\x05\0\0");
    assert_eq!(head(4096)[8..12], 2_u32.to_ne_bytes());
    #[cfg(all(target_env = "gnu", target_arch = "x86_64"))]
    {
        assert_eq!(head(0)[..8], *b"shmy\x01\x01\x01\x08");
        assert_eq!(head(0)[8..12], 8_u32.to_ne_bytes());
        assert_eq!(head(5120)[..8], *b"shmy\x01\x06\x01\x08");
        assert_eq!(head(7168)[..8], *b"shmy\x01\x07\x01\x08");
        assert_eq!(Mutex::size(0).unwrap(), 64);
        assert_eq!(Mutex::size(65).unwrap(), 192);
        assert_eq!(Ready::SIZE, 64);
        assert_eq!(SeqLock::<[u8; 65]>::SIZE, 128 + 4 * 128);
        assert_eq!(shared.bytes().get(5120 + 128), Ok(1_u64));
    }
    assert_eq!(Event::SIZE, 64);
    assert_eq!(Semaphore::SIZE, 64);
    assert_eq!(Condvar::SIZE, 64);
    assert_eq!(Barrier::SIZE, 64);
}

#[test]
fn a_mutex_is_refused_in_another_pid_namespace() {
    alone_as_root(|| {
        let shared = Shared::memfd();
        create_each(shared.bytes());
        // For children from now on. A `Peer` looks for its parent, which
        // cannot be seen from there.
        unshare(CloneFlags::CLONE_NEWPID).unwrap();
        // SAFETY: there are no other threads, and the child only looks.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let opened = open_as_each(shared.bytes(), 0);
                let refused = matches!(
                    opened[0],
                    Err(Error::Incompatible { what: "PID namespace", .. })
                );
                let others = [(2, 2048), (6, 5120)].into_iter();
                let opened = others.clone().all(|(kind, offset)| {
                    open_as_each(shared.bytes(), offset)[kind].is_ok()
                });
                let status = i32::from(!refused) + 2 * i32::from(!opened);
                // SAFETY: ends the process at once.
                unsafe { libc::_exit(status) }
            }
            ForkResult::Parent { child } => {
                let ended = waitpid(child, None).unwrap();
                assert_eq!(ended, WaitStatus::Exited(child, 0));
            }
        }
    });
}

fn a_sequence_lock_is_read_through_a_read_only_view(shared: &Shared) {
    // SAFETY: as above.
    let lock =
        unsafe { SeqLock::create(shared.bytes(), 0, [1_u64; 8]) }.unwrap();
    let view = shared.bytes().as_read_only();
    let reader = SeqLockReader::<[u64; 8], _>::open(view, 0).unwrap();
    assert_eq!(reader.read().unwrap(), [1; 8]);
    lock.update(|value| value.map(|word| word + 1)).unwrap();
    assert_eq!(reader.try_read().unwrap(), Some([2; 8]));
    assert_eq!(reader.deaths().unwrap(), 0);
}

#[test]
fn a_write_inside_an_update_is_an_error_and_a_panic_changes_nothing() {
    let shared = Shared::memfd();
    // SAFETY: as above.
    let lock = unsafe { SeqLock::create(shared.bytes(), 0, 1_u64) }.unwrap();
    lock.update(|value| {
        assert!(matches!(lock.write(7), Err(Error::Deadlock(_))));
        assert_eq!(lock.read().unwrap(), 1);
        value + 1
    })
    .unwrap();
    assert_eq!(lock.read().unwrap(), 2);
    let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        lock.update(|_| panic!("as it should"))
    }));
    assert!(panics.is_err());
    assert_eq!(lock.read().unwrap(), 2);
    lock.write_until(3, Deadline::now()).unwrap();
    lock.update_until(|value| value + 1, Deadline::now()).unwrap();
    assert_eq!(lock.read().unwrap(), 4);
}

#[test]
fn a_writer_that_waits_gives_up_at_its_deadline() {
    let shared = Shared::memfd();
    // SAFETY: as above.
    let lock = unsafe { SeqLock::create(shared.bytes(), 0, 1_u64) }.unwrap();
    lock.update(|value| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let refused = lock.write_until(7, shortly());
                assert!(matches!(refused, Err(Error::TimedOut(_))));
                // A reader does not wait for either of them.
                assert_eq!(lock.read().unwrap(), 1);
            });
        });
        value + 1
    })
    .unwrap();
    assert_eq!(lock.read().unwrap(), 2);
}

#[test]
fn a_make_that_fails_after_one_that_was_killed_is_left_to_the_next() {
    let shared = Shared::memfd();
    // SAFETY: as above.
    let ready = unsafe { Ready::open_or_create(shared.bytes(), 0) }.unwrap();
    let killed = Peer::fork(|_| -> Result<[u8; 0]> {
        ready.make_once(|| {
            nix::sys::signal::raise(nix::sys::signal::SIGKILL).unwrap();
            Ok(())
        })?;
        Ok([])
    });
    assert!(killed.unwrap().join(std::time::Duration::from_secs(20)).is_err());
    let failed = ready.make_once(|| shared.bytes().set(usize::MAX, 0_u8));
    assert!(matches!(failed, Err(Error::OutOfBounds { .. })), "{failed:?}");
    assert_eq!(ready.make_once(|| Ok(())).unwrap(), Made::Now);
}

#[test]
fn a_make_that_fails_or_panics_is_left_to_the_next() {
    let shared = Shared::memfd();
    // SAFETY: as above.
    let ready = unsafe { Ready::open_or_create(shared.bytes(), 0) }.unwrap();
    let failed = ready.make_once(|| shared.bytes().set(usize::MAX, 0_u8));
    assert!(matches!(failed, Err(Error::OutOfBounds { .. })));
    assert!(!ready.is_done());
    let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        ready.make_once(|| panic!("as it should"))
    }));
    assert!(panics.is_err());
    assert!(!ready.is_done());
    let inside = ready.make_once(|| ready.make_once(|| Ok(())).map(drop));
    assert!(matches!(inside, Err(Error::Deadlock(_))), "{inside:?}");
    let waited = ready.wait_until(shortly());
    assert!(matches!(waited, Err(Error::TimedOut(_))));
    let made = ready.make_once(|| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let other = ready.make_once_until(shortly(), || Ok(()));
                assert!(matches!(other, Err(Error::TimedOut(_))));
            });
        });
        Ok(())
    });
    assert_eq!(made.unwrap(), Made::Now);
    ready.wait_until(Deadline::now()).unwrap();
}
