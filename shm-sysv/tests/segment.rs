//! The contract of a segment, against the real kernel; in the siblings the same
//! promises have the same test names, in the same order.
//!
//! A forked child inherits every attachment, so tests that count them, or wait
//! for the last to go, have a process of their own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::ops::Deref;
use std::panic::{catch_unwind, resume_unwind};
use std::process;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, SystemTime};

use integration_tests::alone::{alone, alone_as_root};
use integration_tests::leaks::{self, assert_none};
use integration_tests::peer::{DEADLINE, Peer};
use integration_tests::surroundings::{self, Refused};
use nix::sys::resource::Resource;
use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;
use shm_common::Access;
use shm_sysv::{
    Error, HugePages, Id, Key, Mapping, Origin, PageSize, Reserve, Result,
    Segment, SegmentOptions, Size, raw,
};

/// Where the size is of no interest.
const SMALL: Size = Size::KIB;

// Create.

#[test]
fn create_gives_zero_bytes_of_the_length_asked_for() {
    let page = PageSize::base().bytes();
    for len in [1, page - 1, page, page + 1, 10 * page] {
        let key = Scratch::new();
        let segment = Segment::create(*key, size(len)).unwrap();
        let mapping = segment.map().unwrap();
        assert_eq!(segment.len(), len);
        assert_eq!(segment.stat().unwrap().len, len as u64);
        assert_eq!(mapping.len(), len);
        assert_eq!(mapping.mapped_len(), len.next_multiple_of(page));
        assert_eq!(mapping.bytes().to_vec(), vec![0; len]);
    }
}

#[test]
fn create_fails_when_the_key_exists() {
    let key = Scratch::new();
    let first = Segment::create(*key, SMALL).unwrap();
    first.map().unwrap().bytes().write_at(0, b"first").unwrap();
    let before = first.stat().unwrap();

    // Also when the kernel, left to itself, would compare the sizes first.
    for size in [Size::MIB, size(1)] {
        let second = SegmentOptions::new().mode(0o666).create(*key, size);
        assert!(matches!(second, Err(Error::AlreadyExists(_))), "{second:?}");
    }

    let after = first.stat().unwrap();
    assert_eq!((after.len, after.mode), (before.len, before.mode));
    let found = Segment::open(*key).unwrap();
    assert_eq!(found.id(), first.id());
    assert_eq!(found.map().unwrap().bytes().get(0), Ok(*b"first"));
}

#[test]
fn create_without_a_key_makes_a_segment_each_time() {
    let one = Segment::create(Key::PRIVATE, SMALL).unwrap();
    let two = Segment::create(Key::PRIVATE, SMALL).unwrap();
    assert_ne!(one.id(), two.id());
    assert_eq!(one.stat().unwrap().key, Key::PRIVATE);
    one.map().unwrap().bytes().write_at(0, b"one").unwrap();
    let found = Segment::open_id(one.id()).unwrap().map().unwrap();
    assert_eq!(found.bytes().get(0), Ok(*b"one"));
}

#[test]
fn create_reserves_the_pages() {
    let key = Scratch::new();
    let segment = Segment::create(*key, Size::MIB).unwrap();
    assert_eq!(allocated(segment.id()), 1 << 20);
}

#[test]
fn reserve_on_touch_reserves_nothing() {
    let key = Scratch::new();
    let options = SegmentOptions::new().reserve(Reserve::OnTouch);
    // More than any machine has.
    let segment = options.create(*key, "1TiB".parse().unwrap()).unwrap();
    assert_eq!(allocated(segment.id()), 0);
    let mapping = segment.map().unwrap();
    mapping.bytes().write_at((1 << 40) - 4, b"last").unwrap();
    let allocated = allocated(segment.id());
    assert!((1..=4 << 20).contains(&allocated), "{allocated} bytes");
}

#[test]
fn the_mode_is_as_asked_for_whatever_the_umask() {
    alone(|| {
        umask(Mode::from_bits_truncate(0o077));
        for mode in [0o600, 0o666, 0o640, 0o604] {
            let key = Scratch::new();
            let options = SegmentOptions::new().mode(mode);
            let segment = options.create(*key, SMALL).unwrap();
            assert_eq!(segment.stat().unwrap().mode, mode, "{mode:o}");
        }
        // And it is not by changing the umask that this is done.
        assert_eq!(umask(Mode::empty()).bits(), 0o077);
        let key = Scratch::new();
        let segment = Segment::create(*key, SMALL).unwrap();
        assert_eq!(segment.stat().unwrap().mode, 0o600);
    });
}

#[test]
fn transparent_huge_pages_are_a_hint() {
    let key = Scratch::new();
    let options = SegmentOptions::new().huge_pages(HugePages::Transparent);
    let len = (4 << 20) + 1;
    let segment = options.create(*key, size(len)).unwrap();
    assert_eq!(segment.stat().unwrap().len, len as u64);
    assert!(allocated(segment.id()) >= len);
    let mapping = segment.map().unwrap();
    assert!(!kernel_has_transparent() || smaps_at(&mapping).contains(" hg"));
    mapping.bytes().write_at(len - 4, b"last").unwrap();
    let found = options.open(*key).unwrap().map().unwrap();
    assert_eq!(found.bytes().get(len - 4), Ok(*b"last"));
}

#[test]
fn more_than_the_memory_is_an_error_and_no_kill() {
    alone(|| {
        // Should it be taken after all, this process goes and not another one.
        fs::write("/proc/self/oom_score_adj", "1000").unwrap();
        let exabyte = Size::new(1 << 60).unwrap();
        assert_none(|| {
            let key = Scratch::new();
            let error = Segment::create(*key, exabyte).unwrap_err();
            assert!(matches!(error, Error::OutOfMemory(_)), "{error:?}");
        });
    });
}

#[test]
fn a_huge_page_pool_that_has_none_is_an_error() {
    alone(|| {
        let key = Scratch::new();
        let pool =
            |page| SegmentOptions::new().huge_pages(HugePages::Pool(page));
        assert_none(|| {
            // No kernel has pages of that size.
            let page = PageSize::new(1 << 40).unwrap();
            let created = pool(page).create(*key, SMALL);
            let Err(Error::Unsupported { os: Some(os), .. }) = created else {
                panic!("{created:?}");
            };
            assert_eq!(os.errno(), libc::EINVAL);
            for page in PageSize::huge().unwrap() {
                // More than is ever in a pool.
                let created =
                    pool(page).create(*key, "1024TiB".parse().unwrap());
                match created.unwrap_err() {
                    Error::OutOfMemory(os) => {
                        let text = os.to_string();
                        assert!(text.contains("vm.nr_hugepages"), "{text}");
                    }
                    // Only root may have them, unless told otherwise.
                    Error::PermissionDenied(_) if !geteuid().is_root() => {}
                    other => panic!("{other:?}"),
                }
            }
        });
    });
}

#[test]
fn a_huge_page_pool_that_is_for_others_is_an_error() {
    alone_as_root(|| {
        let key = Scratch::new();
        as_nobody(|| {
            for page in PageSize::huge().unwrap() {
                let options =
                    SegmentOptions::new().huge_pages(HugePages::Pool(page));
                let denied = options.create(*key, SMALL).unwrap_err();
                let Error::PermissionDenied(os) = denied else {
                    panic!("{denied:?}");
                };
                let text = os.to_string();
                assert!(text.contains("vm.hugetlb_shm_group"), "{text}");
            }
        });
    });
}

#[test]
fn a_failed_create_leaves_nothing() {
    alone(|| {
        for call in [libc::SYS_shmget, libc::SYS_shmat, libc::SYS_madvise] {
            in_a_peer(|| {
                surroundings::refuse(&refused(call)).unwrap();
                let key = Scratch::new();
                assert_none(|| {
                    for options in [
                        SegmentOptions::new(),
                        SegmentOptions::new().remove_on_last_detach(),
                    ] {
                        let failure = options.create(*key, SMALL).unwrap_err();
                        assert_eq!(failure.raw_os_error(), Some(libc::EIO));
                    }
                });
            });
        }
    });
}

// Open.

#[test]
fn open_finds_the_bytes_of_the_creator() {
    let key = Scratch::new();
    let segment = Segment::create(*key, SMALL).unwrap();
    let ours = segment.map().unwrap();
    ours.bytes().write_at(0, b"ours").unwrap();
    in_a_peer(|| {
        let theirs = Segment::open(*key).unwrap().map().unwrap();
        assert_eq!(theirs.bytes().get(0), Ok(*b"ours"));
        theirs.bytes().write_at(0, b"theirs").unwrap();
    });
    assert_eq!(ours.bytes().get(0), Ok(*b"theirs"));
}

#[test]
fn open_of_what_is_missing_is_not_found() {
    alone(|| {
        let key = Scratch::new();
        let missing = Segment::open(*key).unwrap_err();
        assert!(matches!(missing, Error::NotFound(_)), "{missing:?}");
        assert!(missing.to_string().contains(&key.to_string()), "{missing}");
        let missing = Segment::open_read_only(*key).unwrap_err();
        assert!(matches!(missing, Error::NotFound(_)), "{missing:?}");

        let gone = Segment::create(*key, SMALL).unwrap().id();
        for missing in [
            Segment::open_id(gone).map(drop),
            Segment::open_id_read_only(gone).map(drop),
            gone.remove(),
        ] {
            // Others may create meanwhile, and so use its place again.
            let Err(Error::NotFound(os) | Error::Removed(os)) = missing else {
                panic!("{missing:?}");
            };
            assert!(os.to_string().contains(&gone.to_string()), "{os}");
        }
    });
}

#[test]
fn open_without_a_key_is_not_found() {
    // The kernel would create a segment.
    alone(|| {
        assert_none(|| {
            for missing in [
                Segment::open(Key::PRIVATE).map(drop),
                Segment::open_read_only(Key::PRIVATE).map(drop),
            ] {
                assert!(matches!(missing, Err(Error::NotFound(_))));
            }
        });
    });
}

#[test]
fn open_never_creates_or_resizes() {
    let key = Scratch::new();
    assert!(Segment::open(*key).is_err());
    assert!(!key.is_taken());

    let created = Segment::create(*key, size(5000)).unwrap();
    assert_eq!(Segment::open(*key).unwrap().len(), 5000);
    assert_eq!(Segment::open_read_only(*key).unwrap().len(), 5000);
    let (opened, origin) = Segment::open_or_create(*key, SMALL).unwrap();
    assert_eq!((opened.len(), origin), (5000, Origin::Opened));
    assert_eq!((opened.id(), created.len()), (created.id(), 5000));
    assert_eq!(created.stat().unwrap().len, 5000);
}

#[test]
fn open_read_only_needs_only_permission_to_read() {
    alone_as_root(|| {
        let key = Scratch::new();
        let options = SegmentOptions::new().mode(0o644);
        let segment = options.create(*key, SMALL).unwrap();
        segment.map().unwrap().bytes().write_at(0, b"read me").unwrap();
        as_nobody(|| {
            let mapping = Segment::open_read_only(*key).unwrap().map().unwrap();
            assert_eq!(mapping.bytes().get(0), Ok(*b"read me"));
            for denied in [
                Segment::open(*key).map(drop),
                Segment::open_or_create(*key, SMALL).map(drop),
                segment.id().remove(),
            ] {
                assert!(matches!(denied, Err(Error::PermissionDenied(_))));
            }
        });
        segment.set_mode(0o600).unwrap();
        as_nobody(|| {
            let denied = Segment::open_read_only(*key);
            assert!(matches!(denied, Err(Error::PermissionDenied(_))));
        });
    });
}

#[test]
fn open_or_create_tells_exactly_one_caller_that_it_created() {
    const CALLERS: u32 = 4;
    let keys: Vec<Scratch> = (0..100).map(|_| Scratch::new()).collect();
    // Where they wait for each other before each key, turning: a message
    // would wake one after the other.
    let places = Segment::create(Key::PRIVATE, SMALL).unwrap();
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
            for (index, key) in keys.iter().enumerate() {
                meet(index);
                let (segment, origin) =
                    Segment::open_or_create(**key, SMALL).unwrap();
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
    let mut creators = vec![0; keys.len()];
    for caller in &mut callers {
        let created = caller.receive().unwrap();
        creators.iter_mut().zip(created).for_each(|(sum, one)| *sum += one);
    }
    assert_eq!(creators, vec![1; keys.len()]);
    for key in &keys {
        let mapping = Segment::open(**key).unwrap().map().unwrap();
        assert_eq!(mapping.bytes().get::<u32>(0), Ok(CALLERS));
    }
    for caller in callers {
        caller.send("end").unwrap();
        caller.join(DEADLINE).unwrap();
    }
    assert!(keys.iter().all(|key| !key.is_taken()));
}

#[test]
fn open_or_create_gets_one_while_others_create_and_remove() {
    let key = Scratch::new();
    let callers = [(); 3].map(|()| {
        Peer::fork(|_| {
            for _ in 0..1000 {
                // Between two looks, what one sees comes or goes.
                drop(Segment::open_or_create(*key, SMALL)?);
            }
            Ok::<_, Error>("")
        })
        .unwrap()
    });
    for caller in callers {
        caller.join(DEADLINE).unwrap();
    }
    assert!(!key.is_taken());
}

#[test]
fn open_or_create_refuses_a_segment_that_is_too_short() {
    let key = Scratch::new();
    let (_first, origin) = Segment::open_or_create(*key, size(100)).unwrap();
    assert_eq!(origin, Origin::Created);
    let longer = Segment::open_or_create(*key, size(101));
    match longer {
        Err(Error::WrongSize { expected: 101, actual: 100 }) => {}
        other => panic!("{other:?}"),
    }
    assert!(Segment::open_or_create(*key, size(100)).is_ok());
}

// Inspect.

#[test]
fn stat_tells_what_the_kernel_knows() {
    alone(|| {
        let begun = SystemTime::now() - Duration::from_secs(2);
        let key = Scratch::new();
        let options = SegmentOptions::new().mode(0o640);
        let segment = options.create(*key, size(5000)).unwrap();
        let stat = segment.stat().unwrap();
        assert_eq!((stat.len, stat.mode), (5000, 0o640));
        assert_eq!((stat.key, stat.id), (*key, segment.id()));
        let user = geteuid().as_raw();
        let group = nix::unistd::getegid().as_raw();
        assert_eq!((stat.uid, stat.creator_uid), (user, user));
        assert_eq!((stat.gid, stat.creator_gid), (group, group));
        let pid = process::id().cast_signed();
        assert_eq!((stat.creator_pid, stat.last_pid), (pid, pid));
        assert_eq!((stat.removed, stat.locked), (false, false));
        let now = begun..SystemTime::now();
        assert!(now.contains(&stat.changed));
        assert!(now.contains(&stat.attached.unwrap()));
        assert_eq!((stat.attachments, stat.detached), (1, None));

        let second = segment.map_read_only().unwrap();
        assert_eq!(segment.stat().unwrap().attachments, 2);
        drop(second);
        let other = Peer::fork(|link| -> Result<[u8; 0]> {
            // The one that fork gave it, and its own.
            let _own = Segment::open(*key)?;
            link.send("attached").unwrap();
            link.receive().unwrap();
            Ok([])
        });
        let mut other = other.unwrap();
        other.receive().unwrap();
        let stat = segment.stat().unwrap();
        assert_eq!((stat.attachments, stat.last_pid), (3, other.pid()));
        assert!(stat.detached.is_some());
        other.kill().unwrap();
        assert_eq!(segment.stat().unwrap().attachments, 1);

        let mut segment = segment;
        segment.remove().unwrap();
        let stat = segment.stat().unwrap();
        assert_eq!((stat.removed, stat.key), (true, Key::PRIVATE));
        assert_eq!((stat.len, stat.mode), (5000, 0o640));
    });
}

// Map.

#[test]
fn all_mappings_are_the_same_bytes() {
    let key = Scratch::new();
    let segment = Segment::create(*key, SMALL).unwrap();
    let one = segment.map().unwrap();
    let two = Segment::open(*key).unwrap().map().unwrap();
    let read_only = segment.map_read_only().unwrap();
    one.bytes().write_at(0, b"one").unwrap();
    assert_eq!(two.bytes().get(0), Ok(*b"one"));
    two.bytes().write_at(0, b"two").unwrap();
    assert_eq!(one.bytes().get(0), Ok(*b"two"));
    assert_eq!(read_only.bytes().get(0), Ok(*b"two"));
    // A handle is an attachment, which its mappings share.
    let again = segment.map().unwrap();
    assert_eq!(again.bytes().as_ptr(), one.bytes().as_ptr());
    assert!(smaps_at(&one).contains(" rw-s "));
    assert!(smaps_at(&read_only).contains(" r--s "));
}

#[test]
fn a_mapping_outlives_its_segment() {
    let key = Scratch::new();
    let segment = Segment::create(*key, SMALL).unwrap();
    let ours = segment.map().unwrap();
    let theirs = Segment::open_read_only(*key).unwrap().map().unwrap();
    drop(segment);
    assert!(!key.is_taken());
    ours.bytes().write_at(0, b"still").unwrap();
    assert_eq!(theirs.bytes().get(0), Ok(*b"still"));
}

#[test]
fn nothing_is_left_of_a_whole_life() {
    alone(|| {
        let key = Scratch::new();
        assert_none(|| {
            let segment = Segment::create(*key, Size::MIB).unwrap();
            let first = segment.map().unwrap();
            let opened = Segment::open(*key).unwrap();
            let second = opened.map_read_only().unwrap();
            let by_id = Segment::open_id_read_only(segment.id()).unwrap();
            drop(segment);
            drop((first, opened, second, by_id));
        });
    });
}

// Change.

#[test]
fn set_mode_decides_who_may_open() {
    alone_as_root(|| {
        let key = Scratch::new();
        let segment = Segment::create(*key, SMALL).unwrap();
        segment.set_mode(0o606).unwrap();
        assert_eq!(segment.stat().unwrap().mode, 0o606);
        as_nobody(|| {
            let theirs = Segment::open(*key).unwrap();
            let denied = theirs.set_mode(0o666);
            assert!(matches!(denied, Err(Error::PermissionDenied(_))));
        });
        segment.set_mode(0o7600).unwrap();
        assert_eq!(segment.stat().unwrap().mode, 0o600);
        as_nobody(|| {
            let denied = Segment::open(*key);
            assert!(matches!(denied, Err(Error::PermissionDenied(_))));
        });
    });
}

// Destroy.

#[test]
fn dropping_what_create_returned_removes_the_segment() {
    let key = Scratch::new();
    drop(Segment::create(*key, SMALL).unwrap());
    assert!(!key.is_taken());
    drop(Segment::open_or_create(*key, SMALL).unwrap());
    assert!(!key.is_taken());
    assert!(Segment::create(*key, SMALL).is_ok());
}

#[test]
fn a_panic_removes_the_segment() {
    let key = Scratch::new();
    let panicked = catch_unwind(|| {
        let _segment = Segment::create(*key, SMALL).unwrap();
        assert!(key.is_taken());
        // Unwinds as a panic does, and prints nothing.
        resume_unwind(Box::new(()));
    });
    assert!(panicked.is_err());
    assert!(!key.is_taken());
}

#[test]
fn keep_leaves_the_segment() {
    let key = Scratch::new();
    let mut segment = Segment::create(*key, SMALL).unwrap();
    segment.map().unwrap().bytes().write_at(0, b"kept").unwrap();
    segment.keep();
    drop(segment);
    let found = Segment::open(*key).unwrap().map().unwrap();
    assert_eq!(found.bytes().get(0), Ok(*b"kept"));
    Segment::open(*key).unwrap().id().remove().unwrap();
    assert!(!key.is_taken());
}

#[test]
fn an_opened_handle_removes_nothing() {
    let key = Scratch::new();
    let created = Segment::create(*key, SMALL).unwrap();
    drop(Segment::open(*key).unwrap());
    drop(Segment::open_read_only(*key).unwrap());
    drop(Segment::open_or_create(*key, SMALL).unwrap());
    let id = created.id();
    drop(Segment::open_id(id).unwrap());
    drop(Segment::open_id_read_only(id).unwrap());
    in_a_peer(|| {
        let mapping = Segment::open(*key).unwrap().map().unwrap();
        drop(mapping);
    });
    assert!(key.is_taken());
}

#[test]
fn a_forked_child_removes_nothing() {
    let key = Scratch::new();
    let mut segment = Some(Segment::create(*key, SMALL).unwrap());
    in_a_peer(|| drop(segment.take()));
    assert!(key.is_taken());
    // What a child creates is the child's.
    let own = Scratch::new();
    in_a_peer(|| drop(Segment::create(*own, SMALL).unwrap()));
    assert!(!own.is_taken());
    drop(segment);
    assert!(!key.is_taken());
}

/// The process id is 1 on both sides of a fork, as between the inits of two
/// pid namespaces: a number does not tell them apart.
#[test]
fn a_forked_child_with_the_same_process_id_removes_nothing() {
    alone_as_root(|| {
        let key = Scratch::new();
        let inner = || -> std::result::Result<&str, String> {
            assert_eq!(process::id(), 1);
            let segment = Segment::create(*key, SMALL).unwrap();
            let mut segment = Some(segment);
            surroundings::new_pid_namespace().unwrap();
            let child = Peer::fork(|_| {
                assert_eq!(process::id(), 1);
                drop(segment.take());
                Ok::<_, String>("")
            });
            child.unwrap().join(DEADLINE).unwrap();
            assert!(Segment::open(*key).is_ok());
            Ok("")
        };
        surroundings::new_pid_namespace().unwrap();
        Peer::fork(|_| inner()).unwrap().join(DEADLINE).unwrap();
    });
}

#[test]
fn removal_never_hits_a_newer_segment() {
    let key = Scratch::new();
    let old = Segment::create(*key, SMALL).unwrap();
    let mut explicit = Segment::open(*key).unwrap();
    old.id().remove().unwrap();
    let new = Segment::create(*key, Size::MIB).unwrap();
    drop(old);
    explicit.remove().unwrap();
    assert_eq!(Segment::open(*key).unwrap().id(), new.id());
    assert!(!new.stat().unwrap().removed);
}

#[test]
fn removal_can_be_repeated() {
    let key = Scratch::new();
    let mut segment = Segment::create(*key, SMALL).unwrap();
    let mut opened = Segment::open(*key).unwrap();
    segment.remove().unwrap();
    assert!(segment.stat().unwrap().removed);
    segment.remove().unwrap();
    opened.remove().unwrap();
    let newer = Segment::create(*key, SMALL).unwrap();
    segment.remove().unwrap();
    drop((segment, opened));
    assert!(!newer.stat().unwrap().removed);
}

#[test]
fn remove_on_last_detach_leaves_nothing_of_killed_processes() {
    alone(|| {
        let key = Scratch::new();
        let user = |open: &dyn Fn() -> Result<Segment>| {
            let mut user = Peer::fork(|link| -> Result<[u8; 0]> {
                let segment = open()?;
                link.send(segment.id().as_raw().to_ne_bytes()).unwrap();
                link.receive().unwrap();
                Ok([])
            })
            .unwrap();
            let id = user.receive().unwrap().try_into().unwrap();
            (user, Id::new(i32::from_ne_bytes(id)).unwrap())
        };
        let (creator, id) = user(&|| {
            let options = SegmentOptions::new().remove_on_last_detach();
            let mut segment = options.create(*key, Size::MIB)?;
            segment.map()?.bytes().write_at(0, b"shared")?;
            // Against this promise it can do nothing.
            segment.keep();
            Ok(segment)
        });
        assert!(!key.is_taken(), "the key is free at once");
        let (second, _) = user(&|| Segment::open_id(id));
        creator.kill().unwrap();
        // Its creator is gone, and it can still be had.
        let (third, _) = user(&|| Segment::open_id(id));
        second.kill().unwrap();
        let last = Segment::open_id_read_only(id).unwrap();
        let mapping = last.map().unwrap();
        assert_eq!(mapping.bytes().get(0), Ok(*b"shared"));
        assert_eq!(last.stat().unwrap().attachments, 2);
        drop((last, mapping));
        third.kill().unwrap();
        let gone = Segment::open_id(id);
        let Err(Error::NotFound(_) | Error::Removed(_)) = gone else {
            panic!("{gone:?}");
        };
    });
}

// Limits.

#[test]
fn a_full_dev_shm_does_not_matter() {
    alone_as_root(|| {
        surroundings::small_dev_shm(1 << 20).unwrap();
        let key = Scratch::new();
        let segment = Segment::create(*key, size(2 << 20)).unwrap();
        segment.map().unwrap().bytes().fill(1);
    });
}

#[test]
fn no_descriptor_is_needed() {
    alone(|| {
        surroundings::limit(Resource::RLIMIT_NOFILE, 0).unwrap();
        let key = Scratch::new();
        let segment = Segment::create(*key, SMALL).unwrap();
        Segment::open(*key).unwrap().map().unwrap();
        segment.map_read_only().unwrap();
    });
}

#[test]
fn the_limit_on_files_does_not_matter() {
    let key = Scratch::new();
    in_a_peer(|| {
        surroundings::limit(Resource::RLIMIT_FSIZE, 1 << 20).unwrap();
        let segment = Segment::create(*key, size(2 << 20)).unwrap();
        segment.map().unwrap().bytes().fill(1);
    });
}

#[test]
fn a_full_table_is_a_limit_reached() {
    alone_as_root(|| {
        let page = PageSize::base().bytes();
        // A limit, what is created first, and what is too much then.
        let limits = [
            ("shmmni", 1, Some(1), 1, libc::ENOSPC),
            ("shmall", 2, Some(page), page + 1, libc::ENOSPC),
            ("shmmax", 4 * page, None, 4 * page + 1, libc::EINVAL),
        ];
        for (limit, to, first, second, errno) in limits {
            surroundings::system_v_limit(limit, to as u64).unwrap();
            let create = |bytes| Segment::create(Key::PRIVATE, size(bytes));
            let first = first.map(|bytes| create(bytes).unwrap());
            let full = create(second).unwrap_err();
            let Error::LimitReached(os) = full else { panic!("{full:?}") };
            assert_eq!(os.errno(), errno);
            assert!(os.to_string().contains(limit), "{os}");
            // It is over with the one that was in the way.
            let possible = second.min(to);
            drop(first);
            create(possible).unwrap();
        }
    });
}

#[test]
fn the_table_does_not_fill_up_over_time() {
    alone_as_root(|| {
        surroundings::system_v_limit("shmmni", 2).unwrap();
        let key = Scratch::new();
        let first = Segment::create(*key, SMALL).unwrap();
        for _ in 0..100 {
            drop(Segment::create(Key::PRIVATE, SMALL).unwrap());
            assert!(Segment::create(*key, SMALL).is_err());
            drop(Segment::open(*key).unwrap());
        }
        // And not by failures either.
        in_a_peer(|| {
            surroundings::refuse(&refused(libc::SYS_shmat)).unwrap();
            for _ in 0..100 {
                let failure = Segment::create(Key::PRIVATE, SMALL).unwrap_err();
                assert_eq!(failure.raw_os_error(), Some(libc::EIO));
            }
        });
        drop(first);
    });
}

#[test]
fn a_storm_of_signals_changes_nothing() {
    let key = Scratch::new();
    in_a_peer(|| {
        surroundings::storm_of_signals(300).unwrap();
        for huge_pages in [HugePages::No, HugePages::Transparent] {
            let options = SegmentOptions::new().huge_pages(huge_pages);
            let segment = options.create(*key, size(32 << 20)).unwrap();
            assert_eq!(allocated(segment.id()), 32 << 20);
            assert_eq!(Segment::open(*key).unwrap().len(), 32 << 20);
        }
    });
    assert!(!key.is_taken());
}

// Other kernels.

#[test]
fn without_transparent_huge_pages_the_hint_is_ignored() {
    let key = Scratch::new();
    in_a_peer(|| {
        surroundings::refuse(&no_advice(libc::MADV_HUGEPAGE)).unwrap();
        let options = SegmentOptions::new().huge_pages(HugePages::Transparent);
        let segment = options.create(*key, Size::MIB).unwrap();
        assert_eq!(allocated(segment.id()), 1 << 20);
        assert_eq!(segment.map_read_only().unwrap().len(), 1 << 20);
    });
}

#[test]
fn without_populate_the_pages_are_reserved_all_the_same() {
    let key = Scratch::new();
    in_a_peer(|| {
        surroundings::refuse(&no_advice(libc::MADV_POPULATE_WRITE)).unwrap();
        for huge_pages in [HugePages::No, HugePages::Transparent] {
            let options = SegmentOptions::new().huge_pages(huge_pages);
            let segment = options.create(*key, Size::MIB).unwrap();
            assert_eq!(allocated(segment.id()), 1 << 20);
            assert_eq!(segment.map().unwrap().bytes().get(0), Ok([0; 9]));
        }
    });
}

// What the tests share.

/// A key of one test's own; what has it is removed when the test ends.
#[derive(Debug)]
struct Scratch(Key);

impl Scratch {
    fn new() -> Self {
        Self(Key::new(leaks::unique_key()))
    }

    fn find(&self) -> Result<Id> {
        Id::new(raw::shmget(self.as_raw(), 0, 0)?)
    }

    fn is_taken(&self) -> bool {
        self.find().is_ok()
    }
}

impl Deref for Scratch {
    type Target = Key;

    fn deref(&self) -> &Key {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Mostly it is gone already.
        let _ = self.find().and_then(Id::remove);
    }
}

/// The bytes of a segment's pages that exist, in memory or swapped out.
fn allocated(id: Id) -> usize {
    let table = fs::read_to_string("/proc/sysvipc/shm").unwrap();
    let id = id.as_raw().to_string();
    let columns = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|columns| columns[1] == id)
        .unwrap();
    // … ctime rss swap
    let number = |index: usize| columns[index].parse::<usize>().unwrap();
    number(14) + number(15)
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
