//! Reaping removes what crashed processes left, and only that.
//!
//! A lock belongs to an open file, which every child inherits that any test
//! forks. So each test here has a process of its own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(unsafe_code, reason = "nix has no leases")]

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use integration_tests::alone::{alone, alone_as_root};
use integration_tests::leaks;
use integration_tests::peer::{DEADLINE, Peer};
use integration_tests::surroundings::{self, Refused};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use shm_common::NameFault;
use shm_posix::{
    Error, Name, Reaped, Result, Segment, SegmentOptions, Size, raw, reap,
};

#[test]
fn what_a_killed_process_left_is_removed() {
    alone(|| {
        let prefix = Prefix::new();
        let names = [prefix.name("1"), prefix.name("2"), prefix.name("3")];
        let mut owner = Peer::fork(|link| -> Result<[u8; 0]> {
            let _mapped = Segment::create(&names[0], Size::MIB)?.map()?;
            let _handle = Segment::create(&names[1], Size::KIB)?;
            let third = Segment::create(&names[2], Size::KIB)?;
            let _both = (third.map()?, third);
            link.send("created").unwrap();
            link.receive().unwrap();
            Ok([])
        })
        .unwrap();
        owner.receive().unwrap();
        // The first lost its name with its handle, as it should.
        assert_eq!(outcome(&prefix), [in_use(&names[1]), in_use(&names[2])]);
        owner.kill().unwrap();
        assert!(names[1].path().exists(), "the kill left them");
        assert_eq!(outcome(&prefix), [removed(&names[1]), removed(&names[2])]);
        assert_eq!(outcome(&prefix), []);
        assert!(!names[1].path().exists() && !names[2].path().exists());
    });
}

#[test]
fn what_a_handle_or_a_mapping_holds_is_left_alone() {
    alone(|| {
        let prefix = Prefix::new();
        let name = prefix.name("held");
        let mut segment = Segment::create(&name, Size::KIB).unwrap();
        segment.keep();
        let mapping = segment.map().unwrap();
        assert_eq!(outcome(&prefix), [in_use(&name)]);
        drop(segment);
        assert_eq!(outcome(&prefix), [in_use(&name)]);
        let reader = Segment::open_read_only(&name).unwrap();
        drop(mapping);
        assert_eq!(outcome(&prefix), [in_use(&name)]);
        let read_only = reader.map().unwrap();
        drop(reader);
        assert_eq!(outcome(&prefix), [in_use(&name)]);
        drop(read_only);
        assert_eq!(outcome(&prefix), [removed(&name)]);
    });
}

#[test]
fn what_a_forked_child_inherited_is_left_alone() {
    alone(|| {
        let prefix = Prefix::new();
        let name = prefix.name("inherited");
        let mut segment = Segment::create(&name, Size::KIB).unwrap();
        segment.keep();
        let mapping = segment.map().unwrap();
        drop(segment);
        let heir = Peer::fork(|link| {
            link.receive().unwrap();
            Ok::<_, Error>("")
        });
        drop(mapping);
        assert_eq!(outcome(&prefix), [in_use(&name)]);
        heir.unwrap().kill().unwrap();
        assert_eq!(outcome(&prefix), [removed(&name)]);
    });
}

#[test]
fn a_live_segment_is_never_removed_while_others_come_and_go() {
    alone(|| live_segments_survive(None));
}

#[test]
fn a_live_segment_is_never_removed_where_its_name_comes_first() {
    alone(|| live_segments_survive(Some(NO_O_TMPFILE)));
}

/// Two processes create and drop, two others reap what they can.
fn live_segments_survive(refusal: Option<Refused>) {
    let prefix = Prefix::new();
    let reapers: Vec<Peer> = (0..2)
        .map(|_| {
            let run = |_: &_| -> Result<[u8; 0]> {
                loop {
                    reap(&prefix.0)?;
                }
            };
            Peer::fork(run).unwrap()
        })
        .collect();
    let names = ["a", "b"].map(|tag| prefix.name(tag));
    // Meets a segment in the making more often than a reaper does, and decides
    // to leave it.
    let decider = Peer::fork(|_| -> Result<[u8; 0]> {
        loop {
            for name in &names {
                let flags = libc::O_RDONLY;
                let Ok(fd) = raw::shm_open(name.as_c_str(), flags, 0) else {
                    continue;
                };
                let lock = libc::LOCK_EX | libc::LOCK_NB;
                let _ = raw::flock(fd.as_fd(), lock);
            }
        }
    });
    let makers = names.each_ref().map(|name| {
        Peer::fork(move |_| {
            if let Some(refusal) = &refusal {
                surroundings::refuse(refusal).unwrap();
            }
            for _ in 0..2000 {
                let segment = Segment::create(name, Size::KIB).unwrap();
                let created = segment.stat().unwrap();
                assert_eq!(created.links, 1, "has lost its name");
                drop(Segment::open(name).unwrap().map().unwrap());
                let still = segment.stat().unwrap();
                assert_eq!(still.links, 1, "has lost its name");
            }
            Ok::<_, Error>("")
        })
        .unwrap()
    });
    for maker in makers {
        maker.join(DEADLINE).unwrap();
    }
    decider.unwrap().kill().unwrap();
    for reaper in reapers {
        reaper.kill().unwrap();
    }
}

#[test]
fn of_many_reapers_one_removes_each_segment() {
    alone(|| {
        const LEFT: u8 = 60;
        let prefix = Prefix::new();
        for number in 0..LEFT {
            let name = prefix.name(&number.to_string());
            Segment::create(&name, Size::KIB).unwrap().keep();
        }
        let reapers = [(); 4].map(|()| {
            Peer::fork(|link| {
                link.receive().unwrap();
                let Reaped { removed, failed, .. } = reap(&prefix.0)?;
                assert!(failed.is_empty(), "{failed:?}");
                Ok::<_, Error>([u8::try_from(removed.len()).unwrap()])
            })
            .unwrap()
        });
        reapers.iter().for_each(|reaper| reaper.send("go").unwrap());
        let removed: u8 = reapers
            .into_iter()
            .map(|reaper| reaper.join(DEADLINE).unwrap()[0])
            .sum();
        assert_eq!(removed, LEFT);
        assert_eq!(prefix.files(), [] as [PathBuf; 0]);
    });
}

#[test]
fn an_open_that_meets_a_reaper_waits_for_its_decision() {
    alone(|| {
        let prefix = Prefix::new();
        let name = prefix.name("met");
        Segment::create(&name, Size::KIB).unwrap().keep();
        // As a reaper does that has not yet decided.
        let lock = raw::shm_open(name.as_c_str(), libc::O_RDONLY, 0).unwrap();
        raw::flock(lock.as_fd(), libc::LOCK_EX).unwrap();

        let hasty = SegmentOptions::new().open_timeout(Duration::ZERO);
        let met = hasty.open(&name);
        assert!(matches!(met, Err(Error::NotReady { .. })), "{met:?}");
        let patient = Peer::fork(|link| {
            link.send("waiting").unwrap();
            let options = SegmentOptions::new().open_timeout(DEADLINE);
            let opened = options.open(&name).map(drop);
            Ok::<_, Error>(format!("{opened:?}"))
        });
        let mut patient = patient.unwrap();
        patient.receive().unwrap();
        // Time to give up, for one that does not wait.
        thread::sleep(Duration::from_millis(20));
        name.unlink().unwrap();
        raw::flock(lock.as_fd(), libc::LOCK_UN).unwrap();
        let opened = patient.join(DEADLINE).unwrap();
        let opened = String::from_utf8(opened).unwrap();
        assert!(opened.starts_with("Err(NotFound("), "{opened}");
    });
}

/// The kernel keeps others from opening what a process has a lease on.
#[test]
fn a_lease_is_waited_for_and_is_a_use() {
    alone(|| {
        let prefix = Prefix::new();
        let name = prefix.name("leased");
        Segment::create(&name, Size::KIB).unwrap().keep();
        let mut holder = Peer::fork(|link| {
            // The news that somebody waits would end it.
            SigSet::from(Signal::SIGIO).thread_block()?;
            let file = fs::File::open(name.path())?;
            // SAFETY: this command of fcntl takes a number, and `file` is open.
            let lease = unsafe {
                libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK)
            };
            assert_eq!(lease, 0, "{}", io::Error::last_os_error());
            link.send("leased")?;
            link.receive()?;
            io::Result::Ok([])
        })
        .unwrap();
        holder.receive().unwrap();
        assert_eq!(outcome(&prefix), [in_use(&name)]);
        let hasty = SegmentOptions::new().open_timeout(Duration::ZERO);
        let met = hasty.open(&name);
        assert!(matches!(met, Err(Error::NotReady { .. })), "{met:?}");
        let patient = thread::spawn({
            let name = name.clone();
            move || SegmentOptions::new().open_timeout(DEADLINE).open(&name)
        });
        // Time to give up, for one that does not wait.
        thread::sleep(Duration::from_millis(20));
        holder.send("enough").unwrap();
        holder.join(DEADLINE).unwrap();
        patient.join().unwrap().unwrap();
        assert_eq!(outcome(&prefix), [removed(&name)]);
    });
}

#[test]
fn only_names_with_the_prefix_are_looked_at() {
    alone(|| {
        let prefix = Prefix::new();
        let inside = prefix.name("in");
        Segment::create(&inside, Size::KIB).unwrap().keep();
        let other = Prefix::new();
        // The prefix is in it, and not at its beginning.
        let outside = other.name(&prefix.0);
        Segment::create(&outside, Size::KIB).unwrap().keep();
        assert_eq!(outcome(&prefix), [removed(&inside)]);
        assert!(outside.path().exists());
        // Like names, prefixes may have their slash; a whole name is one, too.
        let whole = reap(&outside.to_string()).unwrap();
        assert_eq!(whole.removed, [outside]);
    });
}

#[test]
fn what_no_name_begins_with_is_no_prefix() {
    let fault = |prefix: &str| match reap(prefix) {
        Err(Error::InvalidName { fault, .. }) => fault,
        other => panic!("{prefix:?} gave {other:?}"),
    };
    assert_eq!(fault(""), NameFault::Empty);
    assert_eq!(fault("/"), NameFault::Empty);
    assert_eq!(fault("a/b"), NameFault::Slash);
    assert_eq!(fault("//a"), NameFault::Slash);
    assert_eq!(fault("a\0"), NameFault::Nul);
    let max = Name::MAX_LEN;
    assert_eq!(fault(&"a".repeat(max + 1)), NameFault::TooLong { max });
}

#[test]
fn names_may_begin_with_dots() {
    alone_as_root(|| {
        // A directory that nobody else has segments in.
        surroundings::small_dev_shm(1 << 20).unwrap();
        let names = [".a", "..a", "...", "a"].map(|n| Name::new(n).unwrap());
        for name in &names {
            Segment::create(name, Size::KIB).unwrap().keep();
        }
        assert_eq!(reap("..").unwrap().removed.len(), 2);
        assert_eq!(reap(".").unwrap().removed, [names[0].clone()]);
        assert!(names[3].path().exists());
    });
}

#[test]
fn links_fifos_and_directories_are_left_alone() {
    alone(|| {
        let prefix = Prefix::new();
        let path = |tag| prefix.name(tag).path().to_owned();
        fs::create_dir(path("directory")).unwrap();
        // To open one of these without care waits for a writer, for ever.
        mkfifo(&path("fifo"), Mode::S_IRWXU).unwrap();
        let other = Prefix::new();
        let target = other.name("target");
        Segment::create(&target, Size::KIB).unwrap().keep();
        symlink(target.path(), path("link")).unwrap();
        symlink(path("fifo"), path("link-to-a-fifo")).unwrap();

        let before = prefix.files();
        assert_eq!(outcome(&prefix), []);
        assert_eq!((prefix.files(), before.len()), (before, 4));
        assert!(target.path().exists());
    });
}

#[test]
fn what_belongs_to_another_user_fails_and_stays() {
    alone_as_root(|| {
        let prefix = Prefix::new();
        let names = [prefix.name("secret"), prefix.name("readable")];
        for (name, mode) in names.iter().zip([0o600, 0o644]) {
            let options = SegmentOptions::new().mode(mode);
            options.create(name, Size::KIB).unwrap().keep();
        }
        let nobody = Peer::fork_as(65_534, |_| {
            // Its own goes nevertheless.
            let own = prefix.name("own");
            Segment::create(&own, Size::KIB).unwrap().keep();
            let Reaped { removed, in_use, mut failed, .. } =
                reap(&prefix.0).unwrap();
            assert_eq!((removed, in_use), (vec![own], vec![]));
            failed.sort_by(|(one, _), (two, _)| two.cmp(one));
            for ((name, error), expected) in failed.iter().zip(&names) {
                assert_eq!(name, expected);
                assert!(matches!(error, Error::PermissionDenied(_)));
            }
            assert_eq!(failed.len(), 2);
            Ok::<_, Error>("")
        });
        nobody.unwrap().unwrap().join(DEADLINE).unwrap();
        assert!(names.iter().all(|name| name.path().exists()));
        assert_eq!(reap(&prefix.0).unwrap().removed.len(), 2);
    });
}

// What the tests share.

/// How the names of one test begin; what has such a name is removed when the
/// test ends.
struct Prefix(String);

impl Prefix {
    fn new() -> Self {
        Self(leaks::unique_name("reap-"))
    }

    fn name(&self, tag: &str) -> Name {
        Name::new(self.0.clone() + tag).unwrap()
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir("/dev/shm").unwrap();
        let mut paths: Vec<PathBuf> = entries
            .map(|entry| entry.unwrap())
            .filter(|entry| {
                let name = entry.file_name();
                name.as_bytes().starts_with(self.0.as_bytes())
            })
            .map(|entry| entry.path())
            .collect();
        paths.sort();
        paths
    }
}

impl Drop for Prefix {
    fn drop(&mut self) {
        for path in self.files() {
            // It is one or the other.
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
        }
    }
}

/// What reaping did, by name.
fn outcome(prefix: &Prefix) -> Vec<(Name, &'static str)> {
    let Reaped { removed, in_use, failed, .. } = reap(&prefix.0).unwrap();
    assert!(failed.is_empty(), "{failed:?}");
    let removed = removed.into_iter().map(|name| (name, "removed"));
    let in_use = in_use.into_iter().map(|name| (name, "in use"));
    let mut outcome: Vec<_> = removed.chain(in_use).collect();
    outcome.sort();
    outcome
}

fn removed(name: &Name) -> (Name, &'static str) {
    (name.clone(), "removed")
}

fn in_use(name: &Name) -> (Name, &'static str) {
    (name.clone(), "in use")
}

/// A file system that makes no nameless files.
const NO_O_TMPFILE: Refused = Refused {
    call: libc::SYS_openat,
    argument: 2,
    mask: libc::O_TMPFILE.cast_unsigned(),
    bits: libc::O_TMPFILE.cast_unsigned(),
    errno: libc::EOPNOTSUPP,
};
