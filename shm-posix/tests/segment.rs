//! The contract of a segment, against the real kernel; in the siblings the same
//! promises have the same test names, in the same order.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::panic::{catch_unwind, resume_unwind};
use std::process;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use integration_tests::alone::{alone, alone_as_root};
use integration_tests::leaks::{self, assert_none};
use integration_tests::peer::{DEADLINE, JoinError, Peer};
use integration_tests::surroundings::{self, Refused};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode, futimens, umask};
use nix::sys::time::TimeSpec;
use nix::unistd::mkfifo;
use shm_common::{Access, SizeFault};
use shm_posix::{
    Error, HugePages, Mapping, Name, Origin, PageSize, Reserve, Result,
    Segment, SegmentOptions, Size, Stat, raw,
};

/// Where the size is of no interest.
const SMALL: Size = Size::KIB;

// Create.

#[test]
fn create_gives_zero_bytes_of_the_length_asked_for() {
    let page = PageSize::base().bytes();
    for len in [1, page - 1, page, page + 1, 10 * page] {
        let name = Scratch::new("zero");
        let segment = Segment::create(&name, size(len)).unwrap();
        let mapping = segment.map().unwrap();
        assert_eq!(segment.len(), len);
        assert_eq!(segment.stat().unwrap().len, len as u64);
        assert_eq!(mapping.len(), len);
        assert_eq!(mapping.mapped_len(), len.next_multiple_of(page));
        assert_eq!(mapping.bytes().to_vec(), vec![0; len]);
    }
}

#[test]
fn create_fails_when_the_name_exists() {
    let name = Scratch::new("exists");
    let first = Segment::create(&name, SMALL).unwrap();
    first.map().unwrap().bytes().write_at(0, b"first").unwrap();
    let before = first.stat().unwrap();

    let second = SegmentOptions::new().mode(0o666).create(&name, Size::MIB);
    assert!(matches!(second, Err(Error::AlreadyExists(_))), "{second:?}");

    assert_eq!(first.stat().unwrap(), before);
    let found = Segment::open(&name).unwrap().map().unwrap();
    assert_eq!(found.bytes().get(0), Ok(*b"first"));
}

#[test]
fn create_reserves_the_pages() {
    let name = Scratch::new("reserved");
    let segment = Segment::create(&name, Size::MIB).unwrap();
    assert_eq!(segment.stat().unwrap().allocated, 1 << 20);
}

#[test]
fn reserve_on_touch_reserves_nothing() {
    let name = Scratch::new("sparse");
    let options = SegmentOptions::new().reserve(Reserve::OnTouch);
    // More than any machine has.
    let segment = options.create(&name, "1TiB".parse().unwrap()).unwrap();
    assert_eq!(segment.stat().unwrap().allocated, 0);
    let mapping = segment.map().unwrap();
    mapping.bytes().write_at((1 << 40) - 4, b"last").unwrap();
    let allocated = segment.stat().unwrap().allocated;
    assert!((1..=4 << 20).contains(&allocated), "{allocated} bytes");
}

#[test]
fn the_mode_is_as_asked_for_whatever_the_umask() {
    alone(|| {
        umask(Mode::from_bits_truncate(0o077));
        for mode in [0o600, 0o666, 0o640, 0o604] {
            let name = Scratch::new("mode");
            let options = SegmentOptions::new().mode(mode);
            let segment = options.create(&name, SMALL).unwrap();
            assert_eq!(segment.stat().unwrap().mode, mode, "{mode:o}");
        }
        // And it is not by changing the umask that this is done.
        assert_eq!(umask(Mode::empty()).bits(), 0o077);
        let name = Scratch::new("mode");
        let segment = Segment::create(&name, SMALL).unwrap();
        assert_eq!(segment.stat().unwrap().mode, 0o600);
    });
}

#[test]
fn transparent_huge_pages_are_a_hint() {
    let name = Scratch::new("transparent");
    let options = SegmentOptions::new().huge_pages(HugePages::Transparent);
    let len = (4 << 20) + 1;
    let segment = options.create(&name, size(len)).unwrap();
    let stat = segment.stat().unwrap();
    assert_eq!(stat.len, len as u64);
    assert!(stat.allocated >= stat.len);
    let mapping = segment.map().unwrap();
    assert!(!kernel_has_transparent() || smaps_at(&mapping).contains(" hg"));
    mapping.bytes().write_at(len - 4, b"last").unwrap();
    let found = options.open(&name).unwrap().map().unwrap();
    assert_eq!(found.bytes().get(len - 4), Ok(*b"last"));
}

#[test]
fn more_than_the_memory_is_an_error_and_no_kill() {
    alone(|| {
        // Should it be taken after all, this process goes and not another one.
        fs::write("/proc/self/oom_score_adj", "1000").unwrap();
        let exabyte = Size::new(1 << 60).unwrap();
        assert_none(|| {
            let name = Scratch::new("huge");
            let error = Segment::create(&name, exabyte).unwrap_err();
            // Whichever is said to be too small.
            assert!(
                matches!(error, Error::OutOfMemory(_) | Error::NoSpace { .. }),
                "{error:?}"
            );
        });
    });
}

#[test]
fn a_huge_page_pool_that_has_none_is_an_error() {
    alone(|| {
        let name = Scratch::new("pool");
        let page = PageSize::new(2 << 20).unwrap();
        let options = SegmentOptions::new().huge_pages(HugePages::Pool(page));
        assert_none(|| {
            // A tmpfs has no such pages at all.
            let created = options.create(&name, SMALL);
            assert!(matches!(created, Err(Error::Unsupported { .. })));
        });
    });
}

#[test]
fn a_failed_create_leaves_nothing() {
    alone(|| {
        let nameless = [
            (libc::SYS_flock, "flock"),
            (libc::SYS_fchmod, "fchmod"),
            (libc::SYS_fallocate, "posix_fallocate"),
            (libc::SYS_linkat, "linkat"),
        ];
        for (number, call) in nameless {
            create_fails_and_leaves_nothing(call, &[refused(number)]);
        }
        // The same where the name comes first.
        for (number, call) in &nameless[..3] {
            create_fails_and_leaves_nothing(
                call,
                &[NO_O_TMPFILE, refused(*number)],
            );
        }
    });
}

fn create_fails_and_leaves_nothing(call: &str, refusals: &[Refused]) {
    let name = Scratch::new("undone");
    in_a_peer(|| {
        for refusal in refusals {
            surroundings::refuse(refusal).unwrap();
        }
        assert_none(|| {
            let failure = Segment::create(&name, SMALL).unwrap_err();
            let os = failure.os_error().unwrap();
            assert_eq!((os.call(), os.errno()), (call, libc::EIO));
        });
    });
    assert!(!name.path().exists(), "{call}");
}

#[test]
fn nobody_ever_sees_a_half_made_segment() {
    let name = Scratch::new("whole");
    // Polls, and tells how often it found the segment.
    let watcher = Peer::fork(|link| {
        let mut found = 0_u32;
        let begun = Instant::now();
        link.send("begin").map_err(|error| error.to_string())?;
        while found < 200 && begun.elapsed() < DEADLINE / 2 {
            // Not by this crate's own open, which would wait.
            let Ok(file) = fs::File::open(name.path()) else { continue };
            found += 1;
            let stat = file.metadata().unwrap();
            let seen = (stat.len(), stat.permissions().mode() & 0o777);
            if seen != (1 << 20, 0o646) {
                return Err(format!("length and mode are {seen:?}"));
            }
        }
        Ok(found.to_ne_bytes())
    });
    let mut watcher = watcher.unwrap();
    watcher.receive().unwrap();
    let maker = Peer::fork(|_| -> Result<[u8; 0]> {
        let options = SegmentOptions::new().mode(0o646);
        loop {
            drop(options.create(&name, Size::MIB)?);
        }
    });
    let found = watcher.join(DEADLINE).unwrap();
    assert_eq!(found, 200_u32.to_ne_bytes());
    maker.unwrap().kill().unwrap();
}

// Open.

#[test]
fn open_finds_the_bytes_of_the_creator() {
    let name = Scratch::new("found");
    let segment = Segment::create(&name, SMALL).unwrap();
    let ours = segment.map().unwrap();
    ours.bytes().write_at(0, b"ours").unwrap();
    in_a_peer(|| {
        let theirs = Segment::open(&name).unwrap().map().unwrap();
        assert_eq!(theirs.bytes().get(0), Ok(*b"ours"));
        theirs.bytes().write_at(0, b"theirs").unwrap();
    });
    assert_eq!(ours.bytes().get(0), Ok(*b"theirs"));
}

#[test]
fn open_of_what_is_missing_is_not_found() {
    let name = Scratch::new("missing");
    let missing = Segment::open(&name).unwrap_err();
    assert!(matches!(missing, Error::NotFound(_)), "{missing:?}");
    assert!(missing.to_string().contains(&name.to_string()), "{missing}");
    let missing = Segment::open_read_only(&name).unwrap_err();
    assert!(matches!(missing, Error::NotFound(_)), "{missing:?}");
    assert!(matches!(name.unlink(), Err(Error::NotFound(_))));
}

#[test]
fn open_never_creates_or_resizes() {
    let name = Scratch::new("as-it-is");
    assert!(Segment::open(&name).is_err());
    assert!(!name.path().exists());

    let created = Segment::create(&name, size(5000)).unwrap();
    let before = created.stat().unwrap();
    assert_eq!(Segment::open(&name).unwrap().len(), 5000);
    assert_eq!(Segment::open_read_only(&name).unwrap().len(), 5000);
    let (opened, origin) = Segment::open_or_create(&name, SMALL).unwrap();
    assert_eq!((opened.len(), origin), (5000, Origin::Opened));
    assert_eq!(created.stat().unwrap(), before);
}

#[test]
fn open_read_only_needs_only_permission_to_read() {
    alone_as_root(|| {
        let name = Scratch::new("readable");
        let options = SegmentOptions::new().mode(0o644);
        let segment = options.create(&name, SMALL).unwrap();
        segment.map().unwrap().bytes().write_at(0, b"read me").unwrap();
        as_nobody(|| {
            let mapping =
                Segment::open_read_only(&name).unwrap().map().unwrap();
            assert_eq!(mapping.bytes().get(0), Ok(*b"read me"));
            for denied in [
                Segment::open(&name).map(drop),
                Segment::open_or_create(&name, SMALL).map(drop),
                name.unlink(),
            ] {
                assert!(matches!(denied, Err(Error::PermissionDenied(_))));
            }
        });
        segment.set_mode(0o600).unwrap();
        as_nobody(|| {
            let denied = Segment::open_read_only(&name);
            assert!(matches!(denied, Err(Error::PermissionDenied(_))));
        });
    });
}

#[test]
fn open_or_create_tells_exactly_one_caller_that_it_created() {
    const CALLERS: u32 = 4;
    let names: Vec<Scratch> = (0..100).map(|_| Scratch::new("race")).collect();
    // Where they wait for each other before each name, turning: a message
    // would wake one after the other.
    let places = Segment::create(&Scratch::new("meet"), SMALL).unwrap();
    let places = places.map().unwrap();
    let meet = |index: usize| {
        let arrived = places.bytes().atomic_u32(4 * index).unwrap();
        arrived.fetch_add(1, Ordering::AcqRel);
        while arrived.load(Ordering::Acquire) < CALLERS {
            thread::yield_now();
        }
    };
    let caller = |_| {
        Peer::fork(|link| {
            let mut held = Vec::new();
            let mut created = Vec::new();
            for (index, name) in names.iter().enumerate() {
                meet(index);
                let (segment, origin) =
                    Segment::open_or_create(name, SMALL).unwrap();
                let mapping = segment.map().unwrap();
                let count = mapping.bytes().atomic_u32(0).unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                created.push(u8::from(origin == Origin::Created));
                // The creator's drop would make room for another one.
                held.push(segment);
            }
            link.send(created).unwrap();
            link.receive().unwrap();
            Ok::<_, Error>("")
        })
        .unwrap()
    };
    let mut callers: Vec<Peer> = (0..CALLERS).map(caller).collect();
    let mut creators = vec![0; names.len()];
    for caller in &mut callers {
        let created = caller.receive().unwrap();
        creators.iter_mut().zip(created).for_each(|(sum, one)| *sum += one);
    }
    assert_eq!(creators, vec![1; names.len()]);
    for name in &names {
        let mapping = Segment::open(name).unwrap().map().unwrap();
        assert_eq!(mapping.bytes().get::<u32>(0), Ok(CALLERS));
    }
    for caller in callers {
        caller.send("end").unwrap();
        caller.join(DEADLINE).unwrap();
    }
    assert!(names.iter().all(|name| !name.path().exists()));
}

#[test]
fn open_or_create_gets_one_while_others_create_and_remove() {
    let name = Scratch::new("churn");
    let callers = [(); 3].map(|()| {
        Peer::fork(|_| {
            for _ in 0..1000 {
                // Between two looks, what one sees comes or goes.
                drop(Segment::open_or_create(&name, SMALL)?);
            }
            Ok::<_, Error>("")
        })
        .unwrap()
    });
    for caller in callers {
        caller.join(DEADLINE).unwrap();
    }
    assert!(!name.path().exists());
}

#[test]
fn open_or_create_refuses_a_segment_that_is_too_short() {
    let name = Scratch::new("short");
    let (_first, origin) = Segment::open_or_create(&name, size(100)).unwrap();
    assert_eq!(origin, Origin::Created);
    let longer = Segment::open_or_create(&name, size(101));
    match longer {
        Err(Error::WrongSize { expected: 101, actual: 100 }) => {}
        other => panic!("{other:?}"),
    }
    assert!(Segment::open_or_create(&name, size(100)).is_ok());
}

#[test]
fn open_waits_for_the_size_of_a_segment_that_is_being_made() {
    let name = Scratch::new("sizeless");
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR;
    let fd = raw::shm_open(name.as_c_str(), flags, 0o600).unwrap();

    let hasty = Duration::from_millis(5);
    let options = SegmentOptions::new().open_timeout(hasty);
    match options.open(&name).unwrap_err() {
        Error::NotReady { waited, .. } => assert!(waited >= hasty),
        other => panic!("{other:?}"),
    }
    let patient = Peer::fork(|link| {
        link.send("waiting").unwrap();
        let options = SegmentOptions::new().open_timeout(DEADLINE);
        Ok::<_, Error>(options.open(&name)?.len().to_ne_bytes())
    });
    let mut patient = patient.unwrap();
    patient.receive().unwrap();
    // Time to give up, for one that does not wait.
    thread::sleep(Duration::from_millis(20));
    raw::ftruncate(fd.as_fd(), 5000).unwrap();
    assert_eq!(patient.join(DEADLINE).unwrap(), 5000_usize.to_ne_bytes());
}

#[test]
fn open_refuses_what_is_no_segment() {
    // An open of a FIFO without care waits for ever.
    alone(|| {
        let directory = Scratch::new("directory");
        fs::create_dir(directory.path()).unwrap();
        let fifo = Scratch::new("fifo");
        mkfifo(fifo.path(), Mode::S_IRWXU).unwrap();
        let target = Scratch::new("target");
        let _segment = Segment::create(&target, SMALL).unwrap();
        let link = Scratch::new("link");
        symlink(target.path(), link.path()).unwrap();
        for name in [&directory, &fifo, &link] {
            for opened in [
                Segment::open(name).map(drop),
                Segment::open_read_only(name).map(drop),
                Segment::open_or_create(name, SMALL).map(drop),
            ] {
                let Err(Error::WrongKind { expected, .. }) = opened else {
                    panic!("{name:?}: {opened:?}");
                };
                assert_eq!(expected, "regular file");
            }
            assert!(fs::symlink_metadata(name.path()).is_ok());
        }
    });
}

// Inspect.

/// Whoever may write the segment may date it as they like.
#[test]
fn a_date_before_all_dates_hurts_nobody() {
    let name = Scratch::new("dated");
    let segment = Segment::create(&name, SMALL).unwrap();
    let open = || Segment::open(&name).unwrap();
    for (seconds, nanoseconds) in [(-5, 1), (0, 0), (1 << 40, 7)] {
        let time = TimeSpec::new(seconds, nanoseconds);
        futimens(&segment, &time, &time).unwrap();
        let modified = open().stat().unwrap().modified;
        let since = modified.duration_since(SystemTime::UNIX_EPOCH);
        match u64::try_from(seconds) {
            Ok(0) => assert_eq!(since.unwrap(), Duration::ZERO),
            // As far as the kernel goes along.
            Ok(_) => assert!(since.unwrap() > Duration::from_secs(1 << 31)),
            Err(_) => {
                let before = since.unwrap_err().duration();
                assert_eq!(before, Duration::new(4, 999_999_999));
            }
        }
    }
}

#[test]
fn stat_tells_what_the_kernel_knows() {
    let begun = SystemTime::now() - Duration::from_secs(1);
    let name = Scratch::new("stat");
    let options = SegmentOptions::new().mode(0o640);
    let segment = options.create(&name, size(5000)).unwrap();
    let mut stat = segment.stat().unwrap();
    let Stat { len, allocated, mode, uid, gid, links, .. } = stat;
    let page = PageSize::base().bytes() as u64;
    assert_eq!((len, allocated), (5000, 5000_u64.next_multiple_of(page)));
    assert_eq!((mode, links), (0o640, 1));
    assert_eq!(uid, nix::unistd::geteuid().as_raw());
    assert_eq!(gid, nix::unistd::getegid().as_raw());
    assert!(stat.modified > begun && stat.modified <= SystemTime::now());

    let file = fs::metadata(name.path()).unwrap();
    assert_eq!((stat.device, stat.inode), (file.dev(), file.ino()));
    name.unlink().unwrap();
    stat.links = 0;
    assert_eq!(segment.stat().unwrap(), stat);
}

// Map.

#[test]
fn all_mappings_are_the_same_bytes() {
    let name = Scratch::new("mappings");
    let segment = Segment::create(&name, SMALL).unwrap();
    let one = segment.map().unwrap();
    let two = Segment::open(&name).unwrap().map().unwrap();
    let read_only = segment.map_read_only().unwrap();
    one.bytes().write_at(0, b"one").unwrap();
    assert_eq!(two.bytes().get(0), Ok(*b"one"));
    two.bytes().write_at(0, b"two").unwrap();
    assert_eq!(one.bytes().get(0), Ok(*b"two"));
    assert_eq!(read_only.bytes().get(0), Ok(*b"two"));
    assert!(smaps_at(&one).contains(" rw-s "));
    assert!(smaps_at(&read_only).contains(" r--s "));
}

#[test]
fn a_mapping_outlives_its_segment() {
    let name = Scratch::new("outlived");
    let segment = Segment::create(&name, SMALL).unwrap();
    let ours = segment.map().unwrap();
    let theirs = Segment::open_read_only(&name).unwrap().map().unwrap();
    drop(segment);
    assert!(!name.path().exists());
    ours.bytes().write_at(0, b"still").unwrap();
    assert_eq!(theirs.bytes().get(0), Ok(*b"still"));
}

#[test]
fn nothing_is_left_of_a_whole_life() {
    alone(|| {
        let name = Scratch::new("life");
        assert_none(|| {
            let mut segment = Segment::create(&name, Size::MIB).unwrap();
            let first = segment.map().unwrap();
            let opened = Segment::open(&name).unwrap();
            let second = opened.map_read_only().unwrap();
            segment.resize(size(3 << 20)).unwrap();
            let third = segment.map().unwrap();
            drop(segment);
            drop((first, opened, second, third));
        });
    });
}

#[test]
fn descriptors_do_not_survive_exec() {
    let name = Scratch::new("cloexec");
    let created = Segment::create(&name, SMALL).unwrap();
    let opened = Segment::open_read_only(&name).unwrap();
    for fd in [created.as_fd(), opened.as_fd()] {
        let flags = fcntl(fd, FcntlArg::F_GETFD).unwrap();
        assert_eq!(FdFlag::from_bits_retain(flags), FdFlag::FD_CLOEXEC);
    }
}

// Change.

#[test]
fn resize_grows_and_keeps_the_bytes() {
    let name = Scratch::new("grows");
    let mut segment = Segment::create(&name, size(5000)).unwrap();
    let before = segment.map().unwrap();
    before.bytes().fill(7);
    segment.resize(Size::MIB).unwrap();

    let stat = segment.stat().unwrap();
    assert_eq!((stat.len, stat.allocated), (1 << 20, 1 << 20));
    assert_eq!((segment.len(), before.len()), (1 << 20, 5000));
    let after = segment.map().unwrap().bytes().to_vec();
    assert!(after[..5000].iter().all(|byte| *byte == 7));
    assert!(after[5000..].iter().all(|byte| *byte == 0));
    before.bytes().write_at(0, b"both").unwrap();
    let theirs = Segment::open(&name).unwrap();
    assert_eq!(theirs.len(), 1 << 20);
    assert_eq!(theirs.map().unwrap().bytes().get(0), Ok(*b"both"));
}

#[test]
fn resize_never_shrinks() {
    let name = Scratch::new("shrinks");
    let mut segment = Segment::create(&name, size(5000)).unwrap();
    for smaller in [4999, 1] {
        match segment.resize(size(smaller)).unwrap_err() {
            Error::InvalidSize { fault, .. } => {
                assert_eq!(fault, SizeFault::Shrinks);
            }
            other => panic!("{other:?}"),
        }
    }
    segment.resize(size(5000)).unwrap();
    // Not even what somebody else has grown meanwhile: it is long enough.
    Segment::open(&name).unwrap().resize(Size::MIB).unwrap();
    segment.resize(size(6000)).unwrap();
    assert_eq!(segment.stat().unwrap().len, 1 << 20);
    assert_eq!(segment.len(), 6000);
}

#[test]
fn set_mode_decides_who_may_open() {
    alone_as_root(|| {
        let name = Scratch::new("set-mode");
        let segment = Segment::create(&name, SMALL).unwrap();
        segment.set_mode(0o606).unwrap();
        assert_eq!(segment.stat().unwrap().mode, 0o606);
        as_nobody(|| {
            let theirs = Segment::open(&name).unwrap();
            let denied = theirs.set_mode(0o666);
            assert!(matches!(denied, Err(Error::PermissionDenied(_))));
        });
        segment.set_mode(0o7600).unwrap();
        assert_eq!(segment.stat().unwrap().mode, 0o600);
        as_nobody(|| {
            let denied = Segment::open(&name);
            assert!(matches!(denied, Err(Error::PermissionDenied(_))));
        });
    });
}

// Destroy.

#[test]
fn dropping_what_create_returned_removes_the_segment() {
    let name = Scratch::new("dropped");
    drop(Segment::create(&name, SMALL).unwrap());
    assert!(!name.path().exists());
    drop(Segment::open_or_create(&name, SMALL).unwrap());
    assert!(!name.path().exists());
    assert!(Segment::create(&name, SMALL).is_ok());
}

#[test]
fn a_panic_removes_the_segment() {
    let name = Scratch::new("panic");
    let panicked = catch_unwind(|| {
        let _segment = Segment::create(&name, SMALL).unwrap();
        assert!(name.path().exists());
        // Unwinds as a panic does, and prints nothing.
        resume_unwind(Box::new(()));
    });
    assert!(panicked.is_err());
    assert!(!name.path().exists());
}

#[test]
fn keep_leaves_the_segment() {
    let name = Scratch::new("kept");
    let mut segment = Segment::create(&name, SMALL).unwrap();
    segment.map().unwrap().bytes().write_at(0, b"kept").unwrap();
    segment.keep();
    drop(segment);
    let found = Segment::open(&name).unwrap().map().unwrap();
    assert_eq!(found.bytes().get(0), Ok(*b"kept"));
    name.unlink().unwrap();
    assert!(!name.path().exists());
}

#[test]
fn an_opened_handle_removes_nothing() {
    let name = Scratch::new("opened");
    let _created = Segment::create(&name, SMALL).unwrap();
    drop(Segment::open(&name).unwrap());
    drop(Segment::open_read_only(&name).unwrap());
    drop(Segment::open_or_create(&name, SMALL).unwrap());
    in_a_peer(|| {
        let mapping = Segment::open(&name).unwrap().map().unwrap();
        drop(mapping);
    });
    assert!(name.path().exists());
}

#[test]
fn a_forked_child_removes_nothing() {
    let name = Scratch::new("forked");
    let mut segment = Some(Segment::create(&name, SMALL).unwrap());
    in_a_peer(|| drop(segment.take()));
    assert!(name.path().exists());
    // What a child creates is the child's.
    let own = Scratch::new("own");
    in_a_peer(|| drop(Segment::create(&own, SMALL).unwrap()));
    assert!(!own.path().exists());
    drop(segment);
    assert!(!name.path().exists());
}

/// The process id is 1 on both sides of a fork, as between the inits of two
/// pid namespaces: a number does not tell them apart.
#[test]
fn a_forked_child_with_the_same_process_id_removes_nothing() {
    alone_as_root(|| {
        let name = Scratch::new("inits");
        let inner = || -> std::result::Result<&str, String> {
            assert_eq!(process::id(), 1);
            let segment = Segment::create(&name, SMALL).unwrap();
            let mut segment = Some(segment);
            surroundings::new_pid_namespace().unwrap();
            let child = Peer::fork(|_| {
                assert_eq!(process::id(), 1);
                drop(segment.take());
                Ok::<_, String>("")
            });
            child.unwrap().join(DEADLINE).unwrap();
            assert!(Segment::open(&name).is_ok());
            Ok("")
        };
        surroundings::new_pid_namespace().unwrap();
        Peer::fork(|_| inner()).unwrap().join(DEADLINE).unwrap();
    });
}

#[test]
fn removal_never_hits_a_newer_segment() {
    let name = Scratch::new("newer");
    let old = Segment::create(&name, SMALL).unwrap();
    let mut explicit = Segment::open(&name).unwrap();
    name.unlink().unwrap();
    let new = Segment::create(&name, Size::MIB).unwrap();
    drop(old);
    explicit.unlink().unwrap();
    assert_eq!(Segment::open(&name).unwrap().len(), new.len());
    assert_eq!(new.stat().unwrap().links, 1);
}

#[test]
fn removal_can_be_repeated() {
    let name = Scratch::new("twice");
    let mut segment = Segment::create(&name, SMALL).unwrap();
    let mut opened = Segment::open(&name).unwrap();
    segment.unlink().unwrap();
    assert_eq!(segment.stat().unwrap().links, 0);
    segment.unlink().unwrap();
    opened.unlink().unwrap();
    let newer = Segment::create(&name, SMALL).unwrap();
    segment.unlink().unwrap();
    drop((segment, opened));
    assert_eq!(newer.stat().unwrap().links, 1);
}

// Limits.

#[test]
fn a_full_dev_shm_is_an_error_and_not_a_crash() {
    alone_as_root(|| {
        surroundings::small_dev_shm(1 << 20).unwrap();
        let name = Scratch::new("full");
        let no_space = |result: Result<()>, asked: Size, free: u64| {
            let Err(Error::NoSpace { requested, available, os }) = result
            else {
                panic!("{result:?}");
            };
            assert_eq!((requested, available), (asked, Some(free)));
            assert_eq!(os.errno(), libc::ENOSPC);
            assert!(os.to_string().contains("/dev/shm"), "{os}");
        };
        let create = |options: SegmentOptions, size| {
            options.create(&name, size).map(drop)
        };
        let plain = SegmentOptions::new();
        for size in [size((1 << 20) + 1), "1024TiB".parse().unwrap()] {
            no_space(create(plain, size), size, 1 << 20);
            let huge = plain.huge_pages(HugePages::Transparent);
            no_space(create(huge, size), size, 1 << 20);
            assert!(!name.path().exists());
        }
        // Nothing of that is left: everything is still free.
        let mut all = Segment::create(&name, Size::MIB).unwrap();
        all.map().unwrap().bytes().fill(1);
        let other = Scratch::new("full");
        let second = Segment::create(&other, SMALL).map(drop);
        no_space(second, SMALL, 0);
        // That the name is taken is what matters more.
        let again = Segment::create(&name, SMALL);
        assert!(matches!(again, Err(Error::AlreadyExists(_))));

        let more = size(2 << 20);
        no_space(all.resize(more), more, 0);
        let stat = all.stat().unwrap();
        assert_eq!((all.len(), stat.len), (1 << 20, 1 << 20));
    });
}

#[test]
fn an_unreserved_page_of_a_full_dev_shm_is_a_crash() {
    alone_as_root(|| {
        surroundings::small_dev_shm(1 << 20).unwrap();
        let name = Scratch::new("sigbus");
        let options = SegmentOptions::new().reserve(Reserve::OnTouch);
        let mut segment = options.create(&name, size(2 << 20)).unwrap();
        let mapping = segment.map().unwrap();
        let touching = Peer::fork(|_| {
            mapping.bytes().fill(1);
            Ok::<_, Error>("")
        });
        let killed = touching.unwrap().join(DEADLINE);
        let Err(JoinError::Killed(Signal::SIGBUS)) = killed else {
            panic!("{killed:?}");
        };
        // Here it can be had as an error instead.
        let failed = mapping.populate().unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(libc::EFAULT));
        // Growing reserves the last page.
        let grown = segment.resize(size(3 << 20));
        assert!(matches!(grown, Err(Error::NoSpace { .. })), "{grown:?}");
        assert_eq!(segment.stat().unwrap().len, 2 << 20);
    });
}

#[test]
fn too_many_descriptors_are_a_limit_reached() {
    alone(|| {
        let name = Scratch::new("emfile");
        let other = Scratch::new("emfile");
        let _segment = Segment::create(&name, SMALL).unwrap();
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        surroundings::limit(Resource::RLIMIT_NOFILE, 0).unwrap();
        let failures = [
            Segment::create(&other, SMALL).map(drop),
            Segment::open(&name).map(drop),
            Segment::open_read_only(&name).map(drop),
            Segment::open_or_create(&other, SMALL).map(drop),
        ];
        surroundings::limit(Resource::RLIMIT_NOFILE, soft).unwrap();
        for failure in failures {
            let Err(Error::LimitReached(os)) = failure else {
                panic!("{failure:?}");
            };
            assert_eq!(os.errno(), libc::EMFILE);
            assert!(os.to_string().contains("ulimit -n"), "{os}");
        }
        assert!(!other.path().exists());
    });
}

#[test]
fn a_size_beyond_the_limit_on_files_is_a_signal_or_an_error() {
    let name = Scratch::new("fsize");
    let beyond = |reserve| {
        surroundings::limit(Resource::RLIMIT_FSIZE, 1 << 20).unwrap();
        let options = SegmentOptions::new().reserve(reserve);
        options.create(&name, size(2 << 20)).unwrap_err()
    };
    for reserve in [Reserve::Now, Reserve::OnTouch] {
        let killed = Peer::fork(|_| {
            beyond(reserve);
            Ok::<_, Error>("")
        });
        let killed = killed.unwrap().join(DEADLINE);
        let Err(JoinError::Killed(Signal::SIGXFSZ)) = killed else {
            panic!("{killed:?}");
        };
        in_a_peer(|| {
            SigSet::from(Signal::SIGXFSZ).thread_block().unwrap();
            let failure = beyond(reserve);
            let Error::LimitReached(os) = failure else {
                panic!("{failure:?}");
            };
            assert_eq!(os.errno(), libc::EFBIG);
            assert!(os.to_string().contains("ulimit -f"), "{os}");
        });
        assert!(!name.path().exists());
    }
}

#[test]
fn a_storm_of_signals_changes_nothing() {
    let name = Scratch::new("storm");
    in_a_peer(|| {
        // New kernels let none of these interrupt a reservation; see the test
        // of steps below.
        surroundings::storm_of_signals(300).unwrap();
        for huge_pages in [HugePages::No, HugePages::Transparent] {
            let options = SegmentOptions::new().huge_pages(huge_pages);
            let mut segment = options.create(&name, size(16 << 20)).unwrap();
            segment.resize(size(32 << 20)).unwrap();
            let stat = segment.stat().unwrap();
            assert_eq!((stat.len, stat.allocated), (32 << 20, 32 << 20));
            assert_eq!(Segment::open(&name).unwrap().len(), 32 << 20);
        }
    });
    assert!(!name.path().exists());
}

// Other kernels.

#[test]
fn without_transparent_huge_pages_the_hint_is_ignored() {
    let name = Scratch::new("no-thp");
    in_a_peer(|| {
        surroundings::refuse(&no_advice(libc::MADV_HUGEPAGE)).unwrap();
        let options = SegmentOptions::new().huge_pages(HugePages::Transparent);
        let segment = options.create(&name, Size::MIB).unwrap();
        assert_eq!(segment.stat().unwrap().allocated, 1 << 20);
        assert_eq!(segment.map().unwrap().len(), 1 << 20);
    });
}

#[test]
fn without_populate_the_pages_are_reserved_all_the_same() {
    let name = Scratch::new("no-populate");
    in_a_peer(|| {
        surroundings::refuse(&no_advice(libc::MADV_POPULATE_WRITE)).unwrap();
        for huge_pages in [HugePages::No, HugePages::Transparent] {
            let options = SegmentOptions::new().huge_pages(huge_pages);
            let segment = options.create(&name, Size::MIB).unwrap();
            assert_eq!(segment.stat().unwrap().allocated, 1 << 20);
            assert_eq!(segment.map().unwrap().bytes().get(0), Ok([0; 9]));
        }
    });
}

#[test]
fn a_reservation_that_is_interrupted_goes_on_in_steps() {
    let name = Scratch::new("steps");
    in_a_peer(|| {
        surroundings::refuse(&INTERRUPTED).unwrap();
        let mut segment = Segment::create(&name, size(16 << 20)).unwrap();
        let stat = segment.stat().unwrap();
        assert_eq!((stat.len, stat.allocated), (16 << 20, 16 << 20));
        segment.resize(size(32 << 20)).unwrap();
        let stat = segment.stat().unwrap();
        assert_eq!((stat.len, stat.allocated), (32 << 20, 32 << 20));
    });
}

#[test]
fn without_o_tmpfile_a_segment_is_made_under_its_name() {
    alone(|| {
        let name = Scratch::new("no-o-tmpfile");
        for errno in [libc::EOPNOTSUPP, libc::EISDIR, libc::EINVAL] {
            in_a_peer(|| {
                surroundings::refuse(&Refused { errno, ..NO_O_TMPFILE })
                    .unwrap();
                umask(Mode::from_bits_truncate(0o077));
                assert_none(|| keeps_its_contract_in_place(&name));
            });
            assert!(!name.path().exists());
        }
    });
}

#[test]
fn without_proc_a_segment_is_made_under_its_name() {
    alone_as_root(|| {
        let name = Scratch::new("no-proc");
        surroundings::without_proc().unwrap();
        umask(Mode::from_bits_truncate(0o077));
        keeps_its_contract_in_place(&name);
    });
}

fn keeps_its_contract_in_place(name: &Name) {
    let options = SegmentOptions::new().mode(0o666);
    let segment = options.create(name, size(5000)).unwrap();
    let stat = segment.stat().unwrap();
    assert_eq!((stat.len, stat.mode, stat.links), (5000, 0o666, 1));
    assert!(stat.allocated >= 5000);
    assert_eq!(segment.map().unwrap().bytes().to_vec(), [0; 5000]);
    assert_eq!(Segment::open(name).unwrap().len(), 5000);
    let again = options.create(name, SMALL);
    assert!(matches!(again, Err(Error::AlreadyExists(_))), "{again:?}");
    let flags = fcntl(segment.as_fd(), FcntlArg::F_GETFD).unwrap();
    assert_eq!(FdFlag::from_bits_retain(flags), FdFlag::FD_CLOEXEC);
    drop(segment);
    assert!(!name.path().exists());
}

// What the tests share.

/// A name of one test's own; whatever has it is removed when the test ends.
#[derive(Debug)]
struct Scratch(Name);

impl Scratch {
    fn new(tag: &str) -> Self {
        Self(Name::new(leaks::unique_name(tag)).unwrap())
    }
}

impl Deref for Scratch {
    type Target = Name;

    fn deref(&self) -> &Name {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Mostly it is gone already.
        let _ = self.unlink();
        let _ = fs::remove_dir(self.path());
    }
}

fn size(bytes: usize) -> Size {
    Size::new(bytes).unwrap()
}

/// Runs a closure in another process, to its end.
fn in_a_peer(closure: impl FnOnce()) {
    let run = |_: &_| -> Result<&str> {
        closure();
        Ok("")
    };
    Peer::fork(run).unwrap().join(DEADLINE).unwrap();
}

/// As [`in_a_peer`], as a user who owns nothing here. For tests that run as
/// root.
fn as_nobody(closure: impl FnOnce()) {
    let run = |_: &_| -> Result<&str> {
        closure();
        Ok("")
    };
    let peer = Peer::fork_as(65_534, run).unwrap().unwrap();
    peer.join(DEADLINE).unwrap();
}

/// What `/proc/self/smaps` has about a mapping: first its addresses and
/// permissions, last its flags.
fn smaps_at<A: Access>(mapping: &Mapping<A>) -> String {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let start = format!("{:08x}-", mapping.bytes().as_ptr().addr());
    let mut lines = smaps.lines().skip_while(|l| !l.starts_with(&start));
    let first = lines.next().unwrap();
    let rest = lines.take_while(|line| !line.contains('-'));
    [first].into_iter().chain(rest).collect::<Vec<_>>().join("\n")
}

fn kernel_has_transparent() -> bool {
    fs::exists("/sys/kernel/mm/transparent_hugepage").unwrap()
}

/// A kernel that fails a system call, whatever it is asked.
fn refused(call: libc::c_long) -> Refused {
    Refused { call, argument: 0, mask: 0, bits: 0, errno: libc::EIO }
}

/// A file system that makes no nameless files.
const NO_O_TMPFILE: Refused = Refused {
    call: libc::SYS_openat,
    argument: 2,
    mask: libc::O_TMPFILE.cast_unsigned(),
    bits: libc::O_TMPFILE.cast_unsigned(),
    errno: libc::EOPNOTSUPP,
};

/// A kernel that is not done with 16 MiB when the next signal comes; Linux
/// interrupts a reservation for any signal in old versions, and for a deadly
/// one only in new ones.
const INTERRUPTED: Refused = Refused {
    call: libc::SYS_fallocate,
    argument: 3,
    mask: u32::MAX,
    bits: 16 << 20,
    errno: libc::EINTR,
};

/// A kernel that does not know a kind of advice.
fn no_advice(advice: libc::c_int) -> Refused {
    Refused {
        call: libc::SYS_madvise,
        argument: 2,
        mask: u32::MAX,
        bits: advice.cast_unsigned(),
        errno: libc::EINVAL,
    }
}
