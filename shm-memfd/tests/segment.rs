//! The contract of a segment, against the real kernel; in the siblings the same
//! promises have the same test names, in the same order.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::panic::{catch_unwind, resume_unwind};
use std::time::{Duration, SystemTime};

use integration_tests::alone::{alone, alone_as_root};
use integration_tests::leaks::assert_none;
use integration_tests::peer::{DEADLINE, JoinError, Peer};
use integration_tests::surroundings::{self, Refused};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode, futimens, umask};
use nix::sys::time::TimeSpec;
use shm_common::{Access, SizeFault};
use shm_memfd::{
    Error, HugePages, Label, Mapping, PageSize, Reserve, Result, Seals,
    Segment, SegmentOptions, Size, Stat, raw,
};

/// Where the size is of no interest.
const SMALL: Size = Size::KIB;

// Create.

#[test]
fn create_gives_zero_bytes_of_the_length_asked_for() {
    let page = PageSize::base().bytes();
    for len in [1, page - 1, page, page + 1, 10 * page] {
        let label = label("zero");
        let segment = Segment::create(&label, size(len)).unwrap();
        let mapping = segment.map().unwrap();
        assert_eq!(segment.len(), len);
        assert_eq!(segment.stat().unwrap().len, len as u64);
        assert_eq!(mapping.len(), len);
        assert_eq!(mapping.mapped_len(), len.next_multiple_of(page));
        assert_eq!(mapping.bytes().to_vec(), vec![0; len]);
    }
}

#[test]
fn create_reserves_the_pages() {
    let label = label("reserved");
    let segment = Segment::create(&label, Size::MIB).unwrap();
    assert_eq!(segment.stat().unwrap().allocated, 1 << 20);
}

#[test]
fn reserve_on_touch_reserves_nothing() {
    let label = label("sparse");
    let options = SegmentOptions::new().reserve(Reserve::OnTouch);
    // More than any machine has.
    let segment = options.create(&label, "1TiB".parse().unwrap()).unwrap();
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
        let label = label("mode");
        for mode in [0o600, 0o666, 0o640, 0o604] {
            let options = SegmentOptions::new().mode(mode);
            let segment = options.create(&label, SMALL).unwrap();
            assert_eq!(segment.stat().unwrap().mode, mode, "{mode:o}");
        }
        // And it is not by changing the umask that this is done.
        assert_eq!(umask(Mode::empty()).bits(), 0o077);
    });
}

#[test]
fn transparent_huge_pages_are_a_hint() {
    let label = label("transparent");
    let options = SegmentOptions::new().huge_pages(HugePages::Transparent);
    let len = (4 << 20) + 1;
    let segment = options.create(&label, size(len)).unwrap();
    let stat = segment.stat().unwrap();
    assert_eq!(stat.len, len as u64);
    assert!(stat.allocated >= stat.len);
    let mapping = segment.map().unwrap();
    assert!(!kernel_has_transparent() || smaps_at(&mapping).contains(" hg"));
    mapping.bytes().write_at(len - 4, b"last").unwrap();
    let found = options.open(duplicate(&segment)).unwrap().map().unwrap();
    assert_eq!(found.bytes().get(len - 4), Ok(*b"last"));
}

#[test]
fn more_than_the_memory_is_an_error_and_no_kill() {
    alone(|| {
        // Should it be taken after all, this process goes and not another one.
        fs::write("/proc/self/oom_score_adj", "1000").unwrap();
        let exabyte = Size::new(1 << 60).unwrap();
        assert_none(|| {
            let error = Segment::create(&label("huge"), exabyte).unwrap_err();
            assert!(matches!(error, Error::OutOfMemory(_)), "{error:?}");
        });
    });
}

#[test]
fn a_huge_page_pool_that_has_none_is_an_error() {
    alone(|| {
        let label = label("pool");
        let pool =
            |page| SegmentOptions::new().huge_pages(HugePages::Pool(page));
        assert_none(|| {
            // No kernel has pages of that size.
            let page = PageSize::new(1 << 40).unwrap();
            let created = pool(page).create(&label, SMALL);
            let Err(Error::Unsupported { os: Some(os), .. }) = created else {
                panic!("{created:?}");
            };
            assert!(matches!(os.errno(), libc::EINVAL | libc::ENODEV));
            for page in PageSize::huge().unwrap() {
                let sparse = pool(page).reserve(Reserve::OnTouch);
                // More than is ever in a pool.
                let much = "1024TiB".parse().unwrap();
                let segment = sparse.create(&label, much).unwrap();
                let mapped = segment.map();
                assert!(matches!(mapped, Err(Error::OutOfMemory(_))));
            }
        });
    });
}

#[test]
fn a_segment_of_huge_pages_is_whole_huge_pages() {
    for page in PageSize::huge().unwrap() {
        let options = SegmentOptions::new()
            .huge_pages(HugePages::Pool(page))
            .reserve(Reserve::OnTouch);
        let segment = options.create(&label("pool"), SMALL).unwrap();
        assert_eq!(segment.len(), SMALL.bytes());
        assert_eq!(segment.stat().unwrap().len, page.bytes() as u64);
        let opened = Segment::open(duplicate(&segment)).unwrap();
        assert_eq!(opened.len(), page.bytes());
    }
}

#[test]
fn an_empty_huge_page_pool_is_no_space() {
    alone(|| {
        let label = label("pool");
        for page in PageSize::huge().unwrap() {
            if !is_empty_pool(page) {
                eprintln!("left out: the pool of {page} pages has some");
                continue;
            }
            let options =
                SegmentOptions::new().huge_pages(HugePages::Pool(page));
            assert_none(|| {
                let rounded = page.round_up(SMALL).unwrap();
                let created = options.create(&label, SMALL);
                assert_no_space(created.map(drop), rounded);
                let sparse = options.reserve(Reserve::OnTouch);
                let mut segment = sparse.create(&label, SMALL).unwrap();
                let more = page.bytes() + 1;
                let grown = segment.resize(size(more));
                assert_no_space(grown, page.round_up(size(more)).unwrap());
                let stat = segment.stat().unwrap();
                assert_eq!(stat.len, page.bytes() as u64);
            });
        }
    });
}

fn is_empty_pool(page: PageSize) -> bool {
    let kib = page.bytes() / 1024;
    let number = |what: &str| {
        let pool = format!("/sys/kernel/mm/hugepages/hugepages-{kib}kB");
        fs::read_to_string(format!("{pool}/{what}")).unwrap()
    };
    ["free_hugepages", "nr_overcommit_hugepages"]
        .iter()
        .all(|what| number(what).trim() == "0")
}

fn assert_no_space(result: Result<()>, asked: Size) {
    let Err(Error::NoSpace { requested, available, os }) = result else {
        panic!("{result:?}");
    };
    assert_eq!((requested, available), (asked, None));
    assert!(os.to_string().contains("vm.nr_hugepages"), "{os}");
}

#[test]
fn a_failed_create_leaves_nothing() {
    alone(|| {
        for (number, call) in [
            (libc::SYS_memfd_create, "memfd_create"),
            (libc::SYS_fchmod, "fchmod"),
            (libc::SYS_fallocate, "posix_fallocate"),
            (libc::SYS_fcntl, "fcntl(F_ADD_SEALS)"),
        ] {
            in_a_peer(|| {
                surroundings::refuse(&refused(number)).unwrap();
                let label = label("undone");
                let options = SegmentOptions::new().mode(0o600);
                assert_none(|| {
                    let failure = options.create(&label, SMALL).unwrap_err();
                    let os = failure.os_error().unwrap();
                    assert_eq!((os.call(), os.errno()), (call, libc::EIO));
                });
            });
        }
    });
}

// Open.

#[test]
fn open_finds_the_bytes_of_the_creator() {
    let segment = Segment::create(&label("found"), SMALL).unwrap();
    let ours = segment.map().unwrap();
    ours.bytes().write_at(0, b"ours").unwrap();
    in_a_peer(|| {
        // What fork hands over is handed over.
        let theirs = Segment::open(duplicate(&segment)).unwrap();
        let theirs = theirs.map().unwrap();
        assert_eq!(theirs.bytes().get(0), Ok(*b"ours"));
        theirs.bytes().write_at(0, b"theirs").unwrap();
    });
    assert_eq!(ours.bytes().get(0), Ok(*b"theirs"));
}

#[test]
fn open_never_creates_or_resizes() {
    let created = Segment::create(&label("as-it-is"), size(5000)).unwrap();
    let before = created.stat().unwrap();
    let opened = Segment::open(duplicate(&created)).unwrap();
    assert_eq!(opened.len(), 5000);
    let opened = Segment::open_read_only(duplicate(&created)).unwrap();
    assert_eq!(opened.len(), 5000);
    assert_eq!(opened.stat().unwrap(), before);
    assert_eq!(created.stat().unwrap(), before);
}

#[test]
fn open_read_only_needs_only_permission_to_read() {
    let segment = Segment::create(&label("readable"), SMALL).unwrap();
    segment.map().unwrap().bytes().write_at(0, b"read me").unwrap();
    let read_only = OwnedFd::from(segment.to_read_only().unwrap());
    let denied = Segment::open(read_only.try_clone().unwrap());
    assert!(matches!(denied, Err(Error::PermissionDenied(_))), "{denied:?}");
    let mapping = Segment::open_read_only(read_only).unwrap().map().unwrap();
    assert_eq!(mapping.bytes().get(0), Ok(*b"read me"));
}

#[test]
fn open_refuses_what_is_no_segment() {
    alone(|| {
        let memfd = |flags| raw::memfd_create(c"foreign", flags).unwrap();
        // With these its sender could cut off whoever maps it.
        let unsealed = memfd(libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
        raw::ftruncate(unsealed.as_fd(), 5000).unwrap();
        let sealed = memfd(libc::MFD_CLOEXEC);
        raw::ftruncate(sealed.as_fd(), 5000).unwrap();
        let sizeless = memfd(libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
        raw::fcntl_add_seals(sizeless.as_fd(), libc::F_SEAL_SHRINK).unwrap();
        let null = OwnedFd::from(fs::File::open("/dev/null").unwrap());

        let open = |fd: &OwnedFd| {
            let fd = || fd.try_clone().unwrap();
            let failure = Segment::open(fd()).unwrap_err();
            let again = Segment::open_read_only(fd()).unwrap_err();
            assert_eq!(
                std::mem::discriminant(&failure),
                std::mem::discriminant(&again)
            );
            failure
        };
        // What is refused is closed.
        assert_none(|| {
            assert!(matches!(open(&unsealed), Error::MissingSeals { .. }));
            assert!(matches!(open(&sealed), Error::MissingSeals { .. }));
            assert!(matches!(open(&sizeless), Error::InvalidSize { .. }));
            assert!(matches!(open(&null), Error::WrongKind { .. }));
        });
    });
}

// Inspect.

/// Whoever may write the segment may date it as they like.
#[test]
fn a_date_before_all_dates_hurts_nobody() {
    let segment = Segment::create(&label("dated"), SMALL).unwrap();
    let open = || Segment::open(duplicate(&segment)).unwrap();
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
    let options = SegmentOptions::new().mode(0o640);
    let segment = options.create(&label("stat"), size(5000)).unwrap();
    let stat = segment.stat().unwrap();
    let Stat { len, allocated, mode, uid, gid, .. } = stat;
    let page = PageSize::base().bytes() as u64;
    assert_eq!((len, allocated), (5000, 5000_u64.next_multiple_of(page)));
    assert_eq!(mode, 0o640);
    assert_eq!(uid, nix::unistd::geteuid().as_raw());
    assert_eq!(gid, nix::unistd::getegid().as_raw());
    assert!(stat.modified > begun && stat.modified <= SystemTime::now());

    let path = format!("/proc/self/fd/{}", segment.as_fd().as_raw_fd());
    let file = fs::metadata(&path).unwrap();
    assert_eq!((stat.device, stat.inode), (file.dev(), file.ino()));
    let target = fs::read_link(path).unwrap();
    assert_eq!(target.to_str().unwrap(), "/memfd:stat (deleted)");
}

// Map.

#[test]
fn all_mappings_are_the_same_bytes() {
    let label = label("mappings");
    let segment = Segment::create(&label, SMALL).unwrap();
    let one = segment.map().unwrap();
    let two = Segment::open(duplicate(&segment)).unwrap().map().unwrap();
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
    let segment = Segment::create(&label("outlived"), SMALL).unwrap();
    let ours = segment.map().unwrap();
    let theirs = Segment::open_read_only(duplicate(&segment)).unwrap();
    let theirs = theirs.map().unwrap();
    drop(segment);
    ours.bytes().write_at(0, b"still").unwrap();
    assert_eq!(theirs.bytes().get(0), Ok(*b"still"));
}

#[test]
fn nothing_is_left_of_a_whole_life() {
    alone(|| {
        assert_none(|| {
            let mut segment =
                Segment::create(&label("life"), Size::MIB).unwrap();
            let first = segment.map().unwrap();
            let opened = Segment::open(duplicate(&segment)).unwrap();
            let second = opened.map_read_only().unwrap();
            segment.resize(size(3 << 20)).unwrap();
            let third = segment.map().unwrap();
            let read_only = segment.to_read_only().unwrap();
            drop(segment);
            drop((first, opened, second, third, read_only));
        });
    });
}

#[test]
fn descriptors_do_not_survive_exec() {
    let label = label("cloexec");
    let created = Segment::create(&label, SMALL).unwrap();
    let opened = created.to_read_only().unwrap();
    for fd in [created.as_fd(), opened.as_fd()] {
        let flags = fcntl(fd, FcntlArg::F_GETFD).unwrap();
        assert_eq!(FdFlag::from_bits_retain(flags), FdFlag::FD_CLOEXEC);
    }
}

// Change.

#[test]
fn resize_grows_and_keeps_the_bytes() {
    let label = label("grows");
    let mut segment = Segment::create(&label, size(5000)).unwrap();
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
    let theirs = Segment::open(duplicate(&segment)).unwrap();
    assert_eq!(theirs.len(), 1 << 20);
    assert_eq!(theirs.map().unwrap().bytes().get(0), Ok(*b"both"));
}

#[test]
fn resize_never_shrinks() {
    let label = label("shrinks");
    let mut segment = Segment::create(&label, size(5000)).unwrap();
    for smaller in [4999, 1] {
        match segment.resize(size(smaller)).unwrap_err() {
            Error::InvalidSize { fault, .. } => {
                assert_eq!(fault, SizeFault::Shrinks);
            }
            other => panic!("{other:?}"),
        }
    }
    segment.resize(size(5000)).unwrap();
    // Nor what somebody else has grown meanwhile.
    let mut other = Segment::open(duplicate(&segment)).unwrap();
    other.resize(Size::MIB).unwrap();
    segment.resize(size(6000)).unwrap();
    assert_eq!((segment.len(), other.len()), (6000, 1 << 20));
    assert_eq!(segment.stat().unwrap().len, 1 << 20);
}

#[test]
fn nobody_shrinks_a_segment() {
    let segment = Segment::create(&label("cut-off"), size(5000)).unwrap();
    let mapping = segment.map().unwrap();
    let theirs = duplicate(&segment);
    in_a_peer(|| {
        let denied = raw::ftruncate(theirs.as_fd(), 1).unwrap_err();
        assert_eq!(denied.errno(), libc::EPERM);
    });
    mapping.bytes().fill(1);
    assert_eq!(segment.stat().unwrap().len, 5000);
}

#[test]
fn set_mode_decides_who_may_open() {
    alone_as_root(|| {
        let segment = Segment::create(&label("set-mode"), SMALL).unwrap();
        let open_anew = || {
            let fd = segment.as_fd().as_raw_fd();
            fs::File::options()
                .read(true)
                .write(true)
                .open(format!("/proc/self/fd/{fd}"))
        };
        segment.set_mode(0o606).unwrap();
        assert_eq!(segment.stat().unwrap().mode, 0o606);
        as_nobody(|| {
            let opened = OwnedFd::from(open_anew().unwrap());
            let theirs = Segment::open(opened).unwrap();
            let denied = theirs.set_mode(0o666);
            assert!(matches!(denied, Err(Error::PermissionDenied(_))));
        });
        segment.set_mode(0o7600).unwrap();
        assert_eq!(segment.stat().unwrap().mode, 0o600);
        as_nobody(|| {
            let denied = open_anew().unwrap_err();
            assert_eq!(denied.raw_os_error(), Some(libc::EACCES));
        });
    });
}

// Destroy.

#[test]
fn a_panic_removes_the_segment() {
    alone(|| {
        assert_none(|| {
            let panicked = catch_unwind(|| {
                let segment = Segment::create(&label("panic"), SMALL).unwrap();
                let _mapping = segment.map().unwrap();
                // Unwinds as a panic does, and prints nothing.
                resume_unwind(Box::new(()));
            });
            assert!(panicked.is_err());
        });
    });
}

// Limits.

#[test]
fn a_full_dev_shm_does_not_matter() {
    alone_as_root(|| {
        surroundings::small_dev_shm(1 << 20).unwrap();
        let mut segment = Segment::create(&label("full"), Size::MIB).unwrap();
        segment.resize(size(2 << 20)).unwrap();
        segment.map().unwrap().bytes().fill(1);
    });
}

#[test]
fn too_many_descriptors_are_a_limit_reached() {
    alone(|| {
        let label = label("emfile");
        let segment = Segment::create(&label, SMALL).unwrap();
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        surroundings::limit(Resource::RLIMIT_NOFILE, 0).unwrap();
        let failures = [
            Segment::create(&label, SMALL).map(drop),
            segment.to_read_only().map(drop),
        ];
        surroundings::limit(Resource::RLIMIT_NOFILE, soft).unwrap();
        for failure in failures {
            let Err(Error::LimitReached(os)) = failure else {
                panic!("{failure:?}");
            };
            assert_eq!(os.errno(), libc::EMFILE);
            assert!(os.to_string().contains("ulimit -n"), "{os}");
        }
    });
}

#[test]
fn a_size_beyond_the_limit_on_files_is_a_signal_or_an_error() {
    let label = label("fsize");
    let beyond = |reserve| {
        surroundings::limit(Resource::RLIMIT_FSIZE, 1 << 20).unwrap();
        let options = SegmentOptions::new().reserve(reserve);
        options.create(&label, size(2 << 20)).unwrap_err()
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
    }
}

#[test]
fn a_storm_of_signals_changes_nothing() {
    let label = label("storm");
    in_a_peer(|| {
        // New kernels let none of these interrupt a reservation; see the test
        // of steps below.
        surroundings::storm_of_signals(300).unwrap();
        for huge_pages in [HugePages::No, HugePages::Transparent] {
            let options = SegmentOptions::new().huge_pages(huge_pages);
            let mut segment = options.create(&label, size(16 << 20)).unwrap();
            segment.resize(size(32 << 20)).unwrap();
            let stat = segment.stat().unwrap();
            assert_eq!((stat.len, stat.allocated), (32 << 20, 32 << 20));
        }
    });
}

// Other kernels.

#[test]
fn without_transparent_huge_pages_the_hint_is_ignored() {
    let label = label("no-thp");
    in_a_peer(|| {
        surroundings::refuse(&no_advice(libc::MADV_HUGEPAGE)).unwrap();
        let options = SegmentOptions::new().huge_pages(HugePages::Transparent);
        let segment = options.create(&label, Size::MIB).unwrap();
        assert_eq!(segment.stat().unwrap().allocated, 1 << 20);
        assert_eq!(segment.map().unwrap().len(), 1 << 20);
    });
}

#[test]
fn without_populate_the_pages_are_reserved_all_the_same() {
    let label = label("no-populate");
    in_a_peer(|| {
        surroundings::refuse(&no_advice(libc::MADV_POPULATE_WRITE)).unwrap();
        for huge_pages in [HugePages::No, HugePages::Transparent] {
            let options = SegmentOptions::new().huge_pages(huge_pages);
            let segment = options.create(&label, Size::MIB).unwrap();
            assert_eq!(segment.stat().unwrap().allocated, 1 << 20);
            assert_eq!(segment.map().unwrap().bytes().get(0), Ok([0; 9]));
        }
    });
}

#[test]
fn a_reservation_that_is_interrupted_goes_on_in_steps() {
    in_a_peer(|| {
        surroundings::refuse(&INTERRUPTED).unwrap();
        let mut segment =
            Segment::create(&label("steps"), size(16 << 20)).unwrap();
        let stat = segment.stat().unwrap();
        assert_eq!((stat.len, stat.allocated), (16 << 20, 16 << 20));
        segment.resize(size(32 << 20)).unwrap();
        let stat = segment.stat().unwrap();
        assert_eq!((stat.len, stat.allocated), (32 << 20, 32 << 20));
    });
}

#[test]
fn without_noexec_seals_a_segment_is_made_all_the_same() {
    in_a_peer(|| {
        surroundings::refuse(&NO_NOEXEC_SEAL).unwrap();
        let segment = Segment::create(&label("no-noexec"), SMALL).unwrap();
        assert_eq!(segment.seals().unwrap(), Seals::SHRINK);
        segment.map().unwrap().bytes().write_at(0, b"made").unwrap();
        let opened = Segment::open(duplicate(&segment)).unwrap();
        assert_eq!(opened.map().unwrap().bytes().get(0), Ok(*b"made"));
    });
}

#[test]
fn with_noexec_seals_a_segment_never_becomes_executable() {
    let segment = Segment::create(&label("noexec"), SMALL).unwrap();
    let seals = segment.seals().unwrap();
    if raw::memfd_create(c"probe", libc::MFD_NOEXEC_SEAL).is_err() {
        // This kernel does not know them.
        assert_eq!(seals, Seals::SHRINK);
        return;
    }
    assert_eq!(seals, Seals::SHRINK | Seals::EXEC);
    assert_eq!(segment.stat().unwrap().mode & 0o111, 0);
    let denied = segment.set_mode(0o700);
    assert!(matches!(denied, Err(Error::PermissionDenied(_))), "{denied:?}");
    let options = SegmentOptions::new().mode(0o700);
    let denied = options.create(&label("noexec"), SMALL);
    assert!(matches!(denied, Err(Error::PermissionDenied(_))), "{denied:?}");
}

#[test]
fn without_shared_mappings_of_sealed_segments_a_private_one_serves() {
    in_a_peer(|| {
        let segment = Segment::create(&label("private"), SMALL).unwrap();
        segment.map().unwrap().bytes().write_at(0, b"sealed").unwrap();
        segment.seal(Seals::WRITE).unwrap();
        surroundings::refuse(&NO_SHARED_MAPPING).unwrap();
        let mapping = segment.map_read_only().unwrap();
        assert_eq!(mapping.bytes().get(0), Ok(*b"sealed"));
        assert!(smaps_at(&mapping).contains(" r--p "));
        let opened = Segment::open_read_only(duplicate(&segment)).unwrap();
        let mapping = opened.map().unwrap();
        assert_eq!(mapping.bytes().get(0), Ok(*b"sealed"));
        // What is to be written must be shared.
        let denied = segment.map();
        assert!(matches!(denied, Err(Error::PermissionDenied(_))));
    });
}

// What the tests share.

fn label(label: &str) -> Label {
    Label::new(label).unwrap()
}

/// A descriptor as a receiver would have it.
fn duplicate<A: Access>(segment: &Segment<A>) -> OwnedFd {
    segment.as_fd().try_clone_to_owned().unwrap()
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

/// A kernel before Linux 6.3.
const NO_NOEXEC_SEAL: Refused = Refused {
    call: libc::SYS_memfd_create,
    argument: 1,
    mask: libc::MFD_NOEXEC_SEAL,
    bits: libc::MFD_NOEXEC_SEAL,
    errno: libc::EINVAL,
};

/// A kernel before Linux 6.7, once what is mapped is sealed against writing.
const NO_SHARED_MAPPING: Refused = Refused {
    call: libc::SYS_mmap,
    argument: 3,
    mask: libc::MAP_TYPE.cast_unsigned(),
    bits: libc::MAP_SHARED.cast_unsigned(),
    errno: libc::EPERM,
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
