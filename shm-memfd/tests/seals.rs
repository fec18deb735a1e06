//! Every seal against every way to change a segment, and whether what is frozen
//! deserves to be a `&[u8]`.
//!
//! Who forks does so in a process of its own: a child inherits the mappings of
//! every test, and nothing is frozen while they exist.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(unsafe_code, reason = "tries what the libraries do not offer")]

use std::env;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::ptr::{self, NonNull};
use std::thread;
use std::time::{Duration, Instant};

use integration_tests::alone::{alone, alone_as_root};
use integration_tests::leaks::{self, unique_name};
use integration_tests::peer::{DEADLINE, Peer};
use integration_tests::surroundings::{
    Refused, limit, new_pid_namespace, refuse,
};
use nix::fcntl::{FallocateFlags, FcntlArg, FdFlag, fallocate, fcntl};
use nix::sys::resource::Resource;
use nix::sys::stat::{Mode, fchmod};
use shm_memfd::{
    AsSharedBytes, Error, FreezeError, Frozen, FrozenMapping, HugePages, Label,
    Mapping, PageSize, ReadOnly, ReadWrite, Reserve, Seals, Segment,
    SegmentOptions, Size, raw,
};

const LEN: usize = 10_000;

fn segment() -> Segment {
    let label = Label::new("seals").unwrap();
    Segment::create(&label, Size::new(LEN).unwrap()).unwrap()
}

/// A segment with bytes in it, and these.
fn filled() -> (Segment, Vec<u8>) {
    let segment = segment();
    let bytes: Vec<u8> = (0..LEN).map(|at| at.to_le_bytes()[0]).collect();
    segment.map().unwrap().bytes().write_at(0, &bytes).unwrap();
    (segment, bytes)
}

/// Holds `text`, and cannot change any more.
fn frozen(text: &[u8]) -> Frozen {
    let segment = segment();
    segment.map().unwrap().bytes().write_at(0, text).unwrap();
    segment.freeze().unwrap()
}

/// Another handle on the same descriptor, for the calls of the standard
/// library.
fn file(fd: impl AsFd) -> File {
    File::from(fd.as_fd().try_clone_to_owned().unwrap())
}

/// Opens the object of a descriptor anew, as whoever holds it can.
fn reopen(fd: impl AsFd, options: &OpenOptions) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    options.open(path).map(OwnedFd::from)
}

fn for_both() -> OpenOptions {
    OpenOptions::new().read(true).write(true).clone()
}

/// Whether this kernel maps shared, for reading, what is sealed against
/// writing: since Linux 6.7, and in later releases of some older series.
fn maps_sealed_shared() -> bool {
    let sealed = foreign(LEN, Seals::WRITE);
    match try_map(&sealed, libc::PROT_READ, libc::MAP_SHARED, None) {
        Ok(()) => true,
        Err(errno) => {
            assert_eq!(errno, libc::EPERM);
            false
        }
    }
}

/// What every new segment carries.
fn from_creation() -> Seals {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|n| n.parse().unwrap());
    let version: (u32, u32) =
        (numbers.next().unwrap(), numbers.next().unwrap());
    match version >= (6, 3) {
        true => Seals::SHRINK | Seals::EXEC,
        false => Seals::SHRINK,
    }
}

/// A way to change a segment, or what others can do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Write,
    WriteAt,
    WriteBeyondTheEnd,
    Shrink,
    Grow,
    PunchAHole,
    ZeroARange,
    MapForWriting,
    MapForReadingThenAllowWriting,
    MapACopyForWriting,
    MakeExecutable,
    AddASeal,
}

impl Way {
    const ALL: [Self; 12] = [
        Self::Write,
        Self::WriteAt,
        Self::WriteBeyondTheEnd,
        Self::Shrink,
        Self::Grow,
        Self::PunchAHole,
        Self::ZeroARange,
        Self::MapForWriting,
        Self::MapForReadingThenAllowWriting,
        Self::MapACopyForWriting,
        Self::MakeExecutable,
        Self::AddASeal,
    ];

    /// Tries it, and gives the errno of the refusal.
    fn attempt(self, fd: impl AsFd) -> Result<(), i32> {
        let fd = fd.as_fd();
        let len = u64::try_from(LEN).unwrap();
        let io = |result: io::Result<()>| {
            result.map_err(|error| error.raw_os_error().unwrap())
        };
        let fallocate = |flags| {
            let whole = libc::off_t::try_from(LEN).unwrap();
            fallocate(fd, flags, 0, whole).map_err(|errno| errno as i32)
        };
        let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let writing = libc::PROT_READ | libc::PROT_WRITE;
        match self {
            Self::Write => io(file(fd).write_all(b"!")),
            Self::WriteAt => io(file(fd).write_all_at(b"!", 1)),
            Self::WriteBeyondTheEnd => io(file(fd).write_all_at(b"!", len)),
            Self::Shrink => io(file(fd).set_len(len - 1)),
            Self::Grow => io(file(fd).set_len(len + 1)),
            Self::PunchAHole => {
                fallocate(FallocateFlags::FALLOC_FL_PUNCH_HOLE | keep)
            }
            // No tmpfs can do that, sealed or not; it shall stay so.
            Self::ZeroARange => {
                fallocate(FallocateFlags::FALLOC_FL_ZERO_RANGE | keep)
            }
            Self::MapForWriting => try_map(fd, writing, libc::MAP_SHARED, None),
            Self::MapForReadingThenAllowWriting => {
                let shared = libc::MAP_SHARED;
                try_map(fd, libc::PROT_READ, shared, Some(writing))
            }
            Self::MapACopyForWriting => {
                try_map(fd, writing, libc::MAP_PRIVATE, None)
            }
            Self::MakeExecutable => {
                io(file(fd).set_permissions(Permissions::from_mode(0o777)))
            }
            Self::AddASeal => {
                raw::fcntl_add_seals(fd, libc::F_SEAL_FUTURE_WRITE)
                    .map_err(|os| os.errno())
            }
        }
    }
}

/// Maps, perhaps changes the protection, writes if it may, and unmaps.
fn try_map(
    fd: impl AsFd,
    prot: i32,
    flags: i32,
    then: Option<i32>,
) -> Result<(), i32> {
    // SAFETY: 1. neither of the flags used here replaces a mapping.
    let start = unsafe { raw::mmap(LEN, prot, flags, fd, 0) };
    let start = start.map_err(|os| os.errno())?;
    let protected = then.map_or(Ok(()), |prot| {
        // SAFETY: the range was just mapped, and only we know of it.
        match unsafe { libc::mprotect(start.as_ptr(), LEN, prot) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error().raw_os_error().unwrap()),
        }
    });
    let writable = then.unwrap_or(prot) & libc::PROT_WRITE != 0;
    if writable && protected.is_ok() {
        // SAFETY: mapped and writable, by the protection asked for last.
        unsafe { start.cast::<u8>().write_volatile(b'!') };
    }
    // SAFETY: 1. the whole range, of which only we know.
    unsafe { raw::munmap(start, LEN) }.unwrap();
    protected
}

#[test]
fn each_seal_forbids_what_it_names_and_nothing_else() {
    let upgrade = match maps_sealed_shared() {
        true => libc::EACCES,
        // Cannot even be mapped.
        false => libc::EPERM,
    };
    let executable_is_sealed = from_creation().contains(Seals::EXEC);
    let writing = |upgrade| {
        vec![
            (Way::Write, libc::EPERM),
            (Way::WriteAt, libc::EPERM),
            (Way::WriteBeyondTheEnd, libc::EPERM),
            (Way::PunchAHole, libc::EPERM),
            (Way::MapForWriting, libc::EPERM),
            (Way::MapForReadingThenAllowWriting, upgrade),
        ]
    };
    let growing =
        [Way::Grow, Way::WriteBeyondTheEnd].map(|way| (way, libc::EPERM));
    for (seal, forbids) in [
        (Seals::empty(), Vec::new()),
        (Seals::SHRINK, Vec::new()),
        (Seals::GROW, growing.to_vec()),
        (Seals::WRITE, writing(upgrade)),
        (Seals::FUTURE_WRITE, writing(libc::EACCES)),
        (Seals::SEAL, vec![(Way::AddASeal, libc::EPERM)]),
    ] {
        for way in Way::ALL {
            let (segment, bytes) = filled();
            segment.seal(seal).unwrap();
            let always = match way {
                Way::Shrink => Some(libc::EPERM),
                Way::MakeExecutable if executable_is_sealed => {
                    Some(libc::EPERM)
                }
                Way::ZeroARange => Some(libc::EOPNOTSUPP),
                _ => None,
            };
            let sealed =
                forbids.iter().find(|(forbidden, _)| *forbidden == way);
            let expected =
                sealed.map(|(_, errno)| *errno).or(always).map_or(Ok(()), Err);
            let attempt = way.attempt(&segment);
            assert_eq!(attempt, expected, "{way:?} after {seal:?}");
            let mut now = vec![0; LEN];
            file(&segment).read_exact_at(&mut now, 0).unwrap();
            let harmless = [
                Way::WriteBeyondTheEnd,
                Way::Grow,
                Way::MapACopyForWriting,
                Way::MakeExecutable,
                Way::AddASeal,
            ];
            let untouched = attempt.is_err() || harmless.contains(&way);
            assert_eq!(now == bytes, untouched, "{way:?} after {seal:?}");
        }
    }
}

#[test]
fn every_segment_can_neither_shrink_nor_become_executable() {
    let size = Size::new(LEN).unwrap();
    let label = Label::new("seals").unwrap();
    for options in [
        SegmentOptions::new(),
        SegmentOptions::new().reserve(Reserve::OnTouch),
        SegmentOptions::new().mode(0o600),
        SegmentOptions::new().huge_pages(HugePages::Transparent),
    ] {
        let segment = options.create(&label, size).unwrap();
        assert_eq!(segment.seals(), Ok(from_creation()), "{options:?}");
    }
}

#[test]
fn the_calls_tell_a_seal_from_other_refusals() {
    let denied = |error: Error| match error {
        Error::PermissionDenied(os) => os.errno(),
        other => panic!("{other}"),
    };
    let segment = segment();
    segment.seal(Seals::FUTURE_WRITE).unwrap();
    assert_eq!(denied(segment.map().unwrap_err()), libc::EPERM);
    segment.map_read_only().unwrap();

    let mut segment = self::segment();
    segment.seal(Seals::GROW).unwrap();
    let grown = segment.resize(Size::MIB).unwrap_err();
    assert_eq!(denied(grown), libc::EPERM);
    assert_eq!(segment.len(), LEN);
    segment.resize(Size::new(LEN).unwrap()).unwrap();
    if from_creation().contains(Seals::EXEC) {
        assert_eq!(denied(segment.set_mode(0o700).unwrap_err()), libc::EPERM);
    }
    segment.set_mode(0o600).unwrap();

    segment.seal(Seals::SEAL).unwrap();
    assert_eq!(denied(segment.seal(Seals::WRITE).unwrap_err()), libc::EPERM);
    let FreezeError { segment, error, .. } = segment.freeze().unwrap_err();
    assert_eq!(denied(error), libc::EPERM);
    segment.map().unwrap();

    let unknown = self::segment().seal(Seals::from_bits(1 << 30)).unwrap_err();
    assert!(matches!(unknown, Error::Os(_)), "{unknown}");
    assert_eq!(unknown.raw_os_error(), Some(libc::EINVAL));
}

#[test]
fn a_set_of_seals_reads_by_name() {
    let seals = Seals::SHRINK | Seals::WRITE | Seals::from_bits(0x400);
    assert_eq!(format!("{seals:?}"), "Seals(SHRINK | WRITE | 0x400)");
    assert_eq!(format!("{:?}", Seals::empty()), "Seals()");
    assert!(seals.contains(Seals::SHRINK | Seals::WRITE));
    assert!(!seals.contains(Seals::SHRINK | Seals::GROW));
    assert!(seals.intersects(Seals::SHRINK | Seals::GROW));
    assert!(!seals.intersects(Seals::GROW));
}

#[test]
fn frozen_bytes_are_a_slice_that_outlives_the_handle() {
    let (segment, bytes) = filled();
    let frozen = segment.freeze().unwrap();
    assert_eq!(frozen.len(), LEN);
    assert_eq!(frozen.stat().unwrap().len, LEN as u64);
    let added = Seals::WRITE | Seals::SHRINK | Seals::GROW | Seals::SEAL;
    assert_eq!(frozen.seals(), Ok(from_creation() | added));
    let again = Frozen::open(frozen.as_fd().try_clone_to_owned().unwrap());
    let mapping = frozen.map().unwrap();
    drop(frozen);
    assert_eq!(&*mapping, &bytes[..]);
    assert_eq!(mapping.as_shared_bytes().to_vec(), bytes);
    assert_eq!(&*again.unwrap().map().unwrap(), mapping.as_ref());
}

#[test]
fn frozen_bytes_withstand_every_way_to_change_them() {
    let (segment, bytes) = filled();
    let frozen = segment.freeze().unwrap();
    let mapping = frozen.map().unwrap();
    for way in Way::ALL {
        let harmless = match way {
            Way::MapACopyForWriting => true,
            Way::MakeExecutable => !from_creation().contains(Seals::EXEC),
            _ => false,
        };
        assert_eq!(way.attempt(&frozen).is_ok(), harmless, "{way:?}");
        assert_eq!(&*mapping, &bytes[..], "{way:?}");
    }
    // A descriptor for writing can be had, and is of no use.
    for options in [for_both(), OpenOptions::new().write(true).clone()] {
        let fd = reopen(&frozen, &options).unwrap();
        for way in [Way::Write, Way::WriteAt, Way::Shrink, Way::PunchAHole] {
            assert_eq!(way.attempt(&fd), Err(libc::EPERM), "{way:?}");
        }
    }
    let start = NonNull::from(&mapping[0]).cast();
    // Gives the pages back to the system, that is, punches a hole.
    // SAFETY: 1. mapped, and its first byte. 2. Refused, which is the point.
    let removed = unsafe { raw::madvise(start, LEN, libc::MADV_REMOVE) };
    assert!(removed.is_err());
    // Unlike that, this only takes them out of this process's table.
    // SAFETY: 1. as above. 2. the mapping is of a file that nobody writes.
    unsafe { raw::madvise(start, LEN, libc::MADV_DONTNEED) }.unwrap();
    assert_eq!(&*mapping, &bytes[..]);
    // The way of debuggers, which can write to read-only code.
    let memory = for_both().open("/proc/self/mem").unwrap();
    let address = u64::try_from(start.as_ptr().addr()).unwrap();
    if maps_sealed_shared() {
        memory.write_at(b"!!!", address).unwrap_err();
    }
    assert_eq!(&*mapping, &bytes[..]);
}

#[test]
fn freezing_waits_for_no_mapping_and_gives_the_segment_back() {
    let (segment, bytes) = filled();
    let writable = segment.map().unwrap();
    let FreezeError { segment, error, .. } = segment.freeze().unwrap_err();
    assert!(matches!(error, Error::Busy(_)), "{error}");
    assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
    assert!(error.to_string().contains("mapped through"), "{error}");
    assert_eq!(segment.seals(), Ok(from_creation()));
    writable.bytes().write_at(0, b"still writable").unwrap();
    drop(writable);
    let mapping = segment.freeze().unwrap().map().unwrap();
    assert!(mapping.starts_with(b"still writable"));
    assert_eq!(mapping[14..], bytes[14..]);
}

#[test]
fn freezing_is_refused_while_another_process_has_it_mapped() {
    alone(|| {
        let segment = segment();
        let mut peer = Peer::fork(|link| -> io::Result<Vec<u8>> {
            let mapping = segment.map()?;
            link.send("mapped")?;
            link.receive()?;
            drop(mapping);
            link.send("unmapped")?;
            link.receive()
        })
        .unwrap();
        assert_eq!(peer.receive().unwrap(), b"mapped");
        let failed = segment.freeze().unwrap_err();
        assert!(matches!(failed.error, Error::Busy(_)), "{failed}");
        peer.send("unmap").unwrap();
        assert_eq!(peer.receive().unwrap(), b"unmapped");
        // It still has the descriptor, which is no obstacle.
        failed.segment.freeze().unwrap();
        peer.send("end").unwrap();
        peer.join(DEADLINE).unwrap();
    });
}

#[test]
fn a_mapping_for_reading_only_stops_freezing_if_its_descriptor_could_write() {
    let segment = segment();
    let reader = segment.to_read_only().unwrap();
    let through_writable = segment.map_read_only().unwrap();
    let failed = segment.freeze().unwrap_err();
    assert!(matches!(failed.error, Error::Busy(_)), "{failed}");
    drop(through_writable);
    let through_reader = reader.map().unwrap();
    let frozen = failed.segment.freeze().unwrap();
    let mapping = frozen.map().unwrap();
    assert_eq!(through_reader.bytes().to_vec(), *mapping);
}

#[test]
fn freezing_is_refused_while_the_kernel_may_still_write_to_the_pages() {
    let (segment, _) = filled();
    let mapping = segment.map().unwrap();
    let Some(ring) = pin(&mapping) else {
        let line = "left out: freezing under io_uring, which is not to be had";
        writeln!(io::stderr(), "{line}").unwrap();
        return;
    };
    // Not even the mapping is needed for it any more.
    drop(mapping);
    let mut failed = segment.freeze().unwrap_err();
    assert!(matches!(failed.error, Error::Busy(_)), "{failed}");
    drop(ring);
    let deadline = Instant::now() + DEADLINE;
    // The kernel takes a ring apart in the background.
    while let Err(again) = failed.segment.freeze() {
        assert!(matches!(again.error, Error::Busy(_)), "{again}");
        assert!(Instant::now() < deadline, "{again}");
        thread::sleep(Duration::from_millis(1));
        failed = again;
    }
}

#[test]
fn freezing_is_refused_while_a_reader_has_the_bytes_in_a_pipe() {
    alone(|| {
        let (segment, bytes) = filled();
        let theirs = segment.to_read_only().unwrap();
        let mut peer = Peer::fork(|link| -> io::Result<[u8; 16]> {
            let (mut end, into) = io::pipe()?;
            let mut read = [0; 16];
            splice(&theirs, &into, read.len())?;
            link.send("spliced")?;
            link.receive()?;
            end.read_exact(&mut read)?;
            link.send("read")?;
            link.receive()?;
            Ok(read)
        })
        .unwrap();
        assert_eq!(peer.receive().unwrap(), b"spliced");
        let failed = segment.freeze().unwrap_err();
        assert!(matches!(failed.error, Error::Busy(_)), "{failed}");
        peer.send("read it").unwrap();
        assert_eq!(peer.receive().unwrap(), b"read");
        // It still has the descriptor and the pipe, which are no obstacle.
        failed.segment.freeze().unwrap();
        peer.send("end").unwrap();
        assert_eq!(peer.join(DEADLINE).unwrap(), bytes[..16]);
    });
}

/// Puts the first bytes of a file into a pipe, as references to its pages.
fn splice(from: impl AsFd, into: impl AsFd, len: usize) -> io::Result<()> {
    // SAFETY: two open descriptors, and no offsets.
    let spliced = unsafe {
        libc::splice(
            from.as_fd().as_raw_fd(),
            ptr::null_mut(),
            into.as_fd().as_raw_fd(),
            ptr::null_mut(),
            len,
            0,
        )
    };
    match usize::try_from(spliced) {
        Ok(all) if all == len => Ok(()),
        Ok(less) => Err(io::Error::other(format!("only {less} bytes"))),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Registers the bytes as a buffer that the kernel may fill at any time; None:
/// this system does not let us.
fn pin(mapping: &Mapping<ReadWrite>) -> Option<OwnedFd> {
    const IORING_REGISTER_BUFFERS: libc::c_int = 0;
    // `struct io_uring_params`, of which all zeros is a value.
    let mut parameters = [0_u64; 15];
    // SAFETY: the parameters are as long as the call reads and writes.
    let ring = unsafe {
        libc::syscall(libc::SYS_io_uring_setup, 1, &raw mut parameters)
    };
    let ring = RawFd::try_from(ring).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: the call succeeded, so it is open and only known here.
    let ring = unsafe { OwnedFd::from_raw_fd(ring) };
    let buffer = libc::iovec {
        iov_base: mapping.bytes().as_ptr().cast_mut().cast(),
        iov_len: mapping.len(),
    };
    // SAFETY: one buffer, which is mapped; the ring never uses it.
    let registered = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring.as_raw_fd(),
            IORING_REGISTER_BUFFERS,
            &raw const buffer,
            1,
        )
    };
    (registered == 0).then_some(ring)
}

#[test]
fn future_write_leaves_existing_mappings_and_refuses_new_ones() {
    let segment = segment();
    let mapping = segment.map().unwrap();
    segment.seal(Seals::FUTURE_WRITE).unwrap();
    mapping.bytes().write_at(0, b"the writer writes on").unwrap();
    let refused = segment.map().unwrap_err();
    assert!(matches!(refused, Error::PermissionDenied(_)), "{refused}");

    let reader = segment.to_read_only().unwrap();
    let theirs = reader.map().unwrap();
    assert_eq!(theirs.bytes().get(11), Ok(*b"writes on"));
    mapping.bytes().write_at(11, b"and on   ").unwrap();
    assert_eq!(theirs.bytes().get(11), Ok(*b"and on   "));
    // It is not frozen: the bytes still change.
    let unfrozen = Frozen::open(OwnedFd::from(reader)).unwrap_err();
    assert!(matches!(unfrozen, Error::MissingSeals { .. }), "{unfrozen}");
}

#[test]
fn the_seal_of_the_mode_forbids_writing_too_where_the_mode_is_executable() {
    if !from_creation().contains(Seals::EXEC) {
        // Linux before 6.3 does not know it.
        let error = segment().seal(Seals::EXEC).unwrap_err();
        assert!(matches!(error, Error::Os(_)), "{error}");
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        return;
    }
    let plain = Segment::open(foreign(LEN, Seals::SHRINK)).unwrap();
    fchmod(&plain, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    plain.seal(Seals::EXEC).unwrap();
    assert_eq!(plain.seals(), Ok(Seals::SHRINK | Seals::EXEC));

    let program = Segment::open(foreign(LEN, Seals::SHRINK)).unwrap();
    fchmod(&program, Mode::S_IRWXU).unwrap();
    let mapping = program.map().unwrap();
    let error = program.seal(Seals::EXEC).unwrap_err();
    assert!(matches!(error, Error::Busy(_)), "{error}");
    assert_eq!(program.seals(), Ok(Seals::SHRINK));
    drop(mapping);
    program.seal(Seals::EXEC).unwrap();
    let every = Frozen::SEALS | Seals::GROW | Seals::FUTURE_WRITE | Seals::EXEC;
    assert_eq!(program.seals(), Ok(every));
    Frozen::open(program).unwrap();
}

#[test]
fn reading_frozen_bytes_makes_the_pages_that_were_never_reserved() {
    let label = Label::new("seals").unwrap();
    let options = SegmentOptions::new().reserve(Reserve::OnTouch);
    let segment = options.create(&label, Size::new(LEN).unwrap()).unwrap();
    let frozen = segment.freeze().unwrap();
    let allocated = || frozen.stat().unwrap().allocated;
    let mapping = frozen.map().unwrap();
    assert_eq!(allocated(), 0);
    assert_eq!(mapping[..], [0; LEN]);
    assert!(allocated() >= u64::try_from(LEN).unwrap());
}

#[test]
fn a_read_only_descriptor_can_be_opened_for_writing_until_it_is_sealed() {
    let segment = segment();
    let reader = segment.to_read_only().unwrap();
    let as_it_is = reader.as_fd().try_clone_to_owned().unwrap();
    let refused = Segment::open(as_it_is).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
    assert!(matches!(refused, Error::PermissionDenied(_)), "{refused}");

    let stronger = reopen(&reader, &for_both()).unwrap();
    Segment::open(stronger).unwrap().map().unwrap();

    segment.seal(Seals::FUTURE_WRITE).unwrap();
    let stronger = reopen(&reader, &for_both()).unwrap();
    assert_eq!(Way::Write.attempt(&stronger), Err(libc::EPERM));
    let refused = Segment::open(stronger).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    assert!(matches!(refused, Error::PermissionDenied(_)), "{refused}");
    let reader = OwnedFd::from(reader);
    Segment::open_read_only(reader).unwrap().map().unwrap();
}

#[test]
fn the_mode_keeps_another_user_from_a_stronger_descriptor() {
    const ANOTHER: u32 = 61_349;
    alone_as_root(|| {
        for (mode, can) in [(0o600, false), (0o644, false), (0o666, true)] {
            let segment = segment();
            segment.set_mode(mode).unwrap();
            let reader = segment.to_read_only().unwrap();
            let peer = Peer::fork_as(ANOTHER, |_| -> Result<_, String> {
                let stronger = reopen(&reader, &for_both());
                // What it was handed, it can use in any case.
                reader.map().map_err(|error| error.to_string())?;
                Ok([u8::from(stronger.is_ok())])
            });
            let could = peer.unwrap().unwrap().join(DEADLINE).unwrap();
            assert_eq!(could, [u8::from(can)], "{mode:o}");
        }
    });
}

/// A memfd of another program, which did not seal it as we do.
fn foreign(len: usize, seals: Seals) -> OwnedFd {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // Whatever `vm.memfd_noexec` says, where there is one.
    let fd = raw::memfd_create(c"foreign", flags | libc::MFD_EXEC)
        .or_else(|_| raw::memfd_create(c"foreign", flags))
        .unwrap();
    let len = libc::off_t::try_from(len).unwrap();
    raw::ftruncate(fd.as_fd(), len).unwrap();
    raw::fcntl_add_seals(fd.as_fd(), seals.bits().cast_signed()).unwrap();
    fd
}

/// A file with a name, which is removed again.
struct Named(String);

impl Named {
    fn in_dev_shm() -> Self {
        Self(format!("/dev/shm/{}", unique_name("seals")))
    }

    fn create(&self) -> OwnedFd {
        let file = for_both().create_new(true).open(&self.0).unwrap();
        file.set_len(4096).unwrap();
        file.into()
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn what_could_shrink_or_change_is_refused_and_closed() {
    let missing = |error: Error| match error {
        Error::MissingSeals { required, present, .. } => {
            (Seals::from_bits(required), Seals::from_bits(present))
        }
        other => panic!("{other}"),
    };
    alone(move || {
        leaks::assert_none(|| {
            let shrink = Seals::SHRINK;
            for present in
                [Seals::empty(), Seals::GROW, Seals::WRITE, Seals::SEAL]
            {
                let fd = || foreign(4096, present);
                let expected = (shrink, present);
                assert_eq!(missing(Segment::open(fd()).unwrap_err()), expected);
                let refused = Segment::open_read_only(fd()).unwrap_err();
                assert_eq!(missing(refused), expected);
            }
            let frozen = Seals::SHRINK | Seals::WRITE;
            for present in [
                Seals::empty(),
                Seals::SHRINK,
                Seals::WRITE,
                Seals::SHRINK | Seals::GROW | Seals::SEAL,
                Seals::SHRINK | Seals::FUTURE_WRITE,
            ] {
                let refused = Frozen::open(foreign(4096, present)).unwrap_err();
                assert_eq!(missing(refused), (frozen, present));
            }
            Frozen::open(foreign(4096, frozen)).unwrap().map().unwrap();

            // These answer as if they were memfds, and can never be sealed.
            let named = Named::in_dev_shm();
            let refused = Segment::open(named.create()).unwrap_err();
            assert_eq!(missing(refused), (shrink, Seals::SEAL));
            drop(named);
            let named = Named::in_dev_shm();
            let fd = named.create();
            raw::fcntl_add_seals(fd.as_fd(), libc::F_SEAL_WRITE).unwrap_err();
            let refused = Frozen::open(fd).unwrap_err();
            assert_eq!(missing(refused), (frozen, Seals::SEAL));
        });
    });
}

#[test]
fn what_is_no_memfd_is_refused_and_closed() {
    type Make = fn() -> OwnedFd;
    let others: [Make; 6] = [
        || io::pipe().unwrap().0.into(),
        || io::pipe().unwrap().1.into(),
        || UnixStream::pair().unwrap().0.into(),
        || File::open(env::current_exe().unwrap()).unwrap().into(),
        || File::open("/dev/null").unwrap().into(),
        || File::open("/").unwrap().into(),
    ];
    alone(move || {
        leaks::assert_none(|| {
            for (at, other) in others.iter().enumerate() {
                for refused in [
                    Segment::open(other()).unwrap_err(),
                    Segment::open_read_only(other()).unwrap_err(),
                    Frozen::open(other()).unwrap_err(),
                ] {
                    let kind = matches!(refused, Error::WrongKind { .. });
                    assert!(kind, "{at}: {refused}");
                }
            }
        });
    });
}

#[test]
fn what_is_empty_or_cannot_be_mapped_is_refused_and_closed() {
    let frozen = Seals::SHRINK | Seals::WRITE;
    let path_only =
        OpenOptions::new().read(true).custom_flags(libc::O_PATH).clone();
    let for_writing = OpenOptions::new().write(true).clone();
    alone(move || {
        leaks::assert_none(|| {
            for refused in [
                Segment::open(foreign(0, Seals::SHRINK)).unwrap_err(),
                Segment::open_read_only(foreign(0, frozen)).unwrap_err(),
                Frozen::open(foreign(0, frozen)).unwrap_err(),
            ] {
                let empty = matches!(refused, Error::InvalidSize { .. });
                assert!(empty, "{refused}");
            }
            let fd = foreign(4096, frozen);
            for options in [&path_only, &for_writing] {
                let weak = || reopen(&fd, options).unwrap();
                for refused in [
                    Segment::open(weak()).unwrap_err(),
                    Segment::open_read_only(weak()).unwrap_err(),
                    Frozen::open(weak()).unwrap_err(),
                ] {
                    let denied = matches!(refused, Error::PermissionDenied(_));
                    assert!(denied, "{refused}");
                }
            }
        });
    });
}

#[test]
fn huge_pages_that_the_pool_does_not_have_are_told_at_map() {
    alone(|| {
        leaks::assert_none(|| {
            let sizes = PageSize::huge();
            let Some(huge) = sizes.unwrap().into_iter().next() else { return };
            let flags = libc::MFD_CLOEXEC
                | libc::MFD_ALLOW_SEALING
                | libc::MFD_HUGETLB
                | huge.log2() << libc::MFD_HUGE_SHIFT;
            let fd = raw::memfd_create(c"huge", flags).unwrap();
            // More than any machine has.
            let len = libc::off_t::try_from(huge.bytes() << 24).unwrap();
            raw::ftruncate(fd.as_fd(), len).unwrap();
            raw::fcntl_add_seals(fd.as_fd(), libc::F_SEAL_SHRINK).unwrap();
            let segment = Segment::open(fd).unwrap();
            let refused = segment.map().unwrap_err();
            assert!(matches!(refused, Error::OutOfMemory(_)), "{refused}");
        });
    });
}

/// The first mapping of this process whose line has that in it.
fn permissions_of_mapping(of: &str) -> String {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.contains(of)).unwrap();
    line.split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn an_older_kernel_maps_what_is_frozen_privately_and_nothing_else() {
    alone(|| {
        let (segment, bytes) = filled();
        let frozen = segment.freeze().unwrap();
        // There every shared mapping of a file sealed so is refused.
        refuse(&Refused {
            call: libc::SYS_mmap,
            argument: 3,
            mask: (libc::MAP_SHARED | libc::MAP_PRIVATE).cast_unsigned(),
            bits: libc::MAP_SHARED.cast_unsigned(),
            errno: libc::EPERM,
        })
        .unwrap();
        let mapping = frozen.map().unwrap();
        assert_eq!(permissions_of_mapping("/memfd:seals"), "r--p");
        assert_eq!(&*mapping, &bytes[..]);

        // What may still change must not be mapped so: a private mapping need
        // not show what others write.
        let changing = self::segment();
        for refused in [
            changing.map_read_only().unwrap_err(),
            changing.to_read_only().unwrap().map().unwrap_err(),
        ] {
            let denied = matches!(refused, Error::PermissionDenied(_));
            assert!(denied, "{refused}");
        }
    });
}

#[test]
fn this_kernel_maps_what_is_frozen_shared_where_it_can() {
    alone(|| {
        let frozen = segment().freeze().unwrap();
        let _mapping = frozen.map().unwrap();
        let expected = if maps_sealed_shared() { "r--s" } else { "r--p" };
        assert_eq!(permissions_of_mapping("/memfd:seals"), expected);
    });
}

#[test]
fn an_older_kernel_gives_segments_without_the_seal_of_the_mode() {
    alone(|| {
        refuse(&Refused {
            call: libc::SYS_memfd_create,
            argument: 1,
            mask: libc::MFD_NOEXEC_SEAL,
            bits: libc::MFD_NOEXEC_SEAL,
            errno: libc::EINVAL,
        })
        .unwrap();
        let (segment, bytes) = filled();
        assert_eq!(segment.seals(), Ok(Seals::SHRINK));
        let flags = fcntl(&segment, FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags, FdFlag::FD_CLOEXEC.bits());
        assert_eq!(&*segment.freeze().unwrap().map().unwrap(), &bytes[..]);
    });
}

#[test]
fn segments_are_to_be_had_where_executable_ones_are_forbidden() {
    const SYSCTL: &str = "/proc/sys/vm/memfd_noexec";
    alone_as_root(|| {
        if !fs::exists(SYSCTL).unwrap() {
            // Before Linux 6.3 they cannot be forbidden.
            segment();
            return;
        }
        // The setting is that of a pid namespace.
        new_pid_namespace().unwrap();
        let peer = Peer::fork(|_| -> io::Result<[u8; 0]> {
            // 1: none is, unless it says so; 2: none may say so. The first
            // kernels with this also refused what said nothing.
            for level in ["1", "2"] {
                fs::write(SYSCTL, level)?;
                assert_eq!(segment().seals(), Ok(from_creation()));
            }
            let flags = libc::MFD_CLOEXEC | libc::MFD_EXEC;
            let refused = raw::memfd_create(c"executable", flags).unwrap_err();
            assert_eq!(refused.errno(), libc::EACCES);
            Ok([])
        });
        peer.unwrap().join(DEADLINE).unwrap();
    });
}

#[test]
fn another_user_who_is_handed_frozen_bytes_reads_them() {
    alone_as_root(|| {
        let frozen = frozen(b"public");
        let peer = Peer::fork_as(65_534, |_| {
            let theirs = Frozen::open(frozen.try_clone()?)?;
            Ok::<_, Error>(theirs.map()?[..6].to_vec())
        });
        let read = peer.unwrap().unwrap().join(DEADLINE).unwrap();
        assert_eq!(read, b"public");
    });
}

#[test]
fn a_clone_is_the_same_segment_by_a_descriptor_of_its_own() {
    let segment = segment();
    let clone = segment.try_clone().unwrap();
    segment.map().unwrap().bytes().write_at(0, b"one").unwrap();
    assert_eq!(clone.map().unwrap().bytes().get(0), Ok(*b"one"));
    let (one, other) = (segment.stat().unwrap(), clone.stat().unwrap());
    assert_eq!((one.device, one.inode), (other.device, other.inode));
    drop(segment);
    let frozen = clone.freeze().unwrap();
    let again = frozen.try_clone().unwrap();
    drop(frozen);
    assert!(again.map().unwrap().starts_with(b"one"));
}

#[test]
fn a_clone_where_there_may_be_only_the_standard_descriptors_is_a_limit() {
    alone(|| {
        let (segment, frozen) = (segment(), frozen(b"x"));
        limit(Resource::RLIMIT_NOFILE, 3).unwrap();
        for error in
            [segment.try_clone().unwrap_err(), frozen.try_clone().unwrap_err()]
        {
            assert!(matches!(error, Error::LimitReached(_)), "{error:?}");
            assert!(error.to_string().contains("ulimit -n"), "{error}");
        }
    });
}

#[test]
fn a_clone_without_descriptors_left_is_a_limit() {
    alone(|| {
        let (segment, frozen) = (segment(), frozen(b"x"));
        limit(Resource::RLIMIT_NOFILE, 32).unwrap();
        let mut fill = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            fill.push(file);
        }
        for error in
            [segment.try_clone().unwrap_err(), frozen.try_clone().unwrap_err()]
        {
            assert!(matches!(error, Error::LimitReached(_)), "{error:?}");
        }
    });
}

#[test]
fn what_may_be_used_from_any_thread_says_so() {
    const fn from_any_thread<T: Send + Sync>() {}
    const {
        from_any_thread::<Segment<ReadWrite>>();
        from_any_thread::<Segment<ReadOnly>>();
        from_any_thread::<Mapping<ReadWrite>>();
        from_any_thread::<Mapping<ReadOnly>>();
        from_any_thread::<Frozen>();
        from_any_thread::<FrozenMapping>();
        from_any_thread::<FreezeError>();
        from_any_thread::<Seals>();
    }
    let (segment, bytes) = filled();
    let mapping = segment.freeze().unwrap().map().unwrap();
    let mapping = thread::spawn(move || mapping).join().unwrap();
    thread::scope(|scope| {
        let same = scope.spawn(|| mapping[..] == bytes[..]);
        assert!(same.join().unwrap());
    });
}
