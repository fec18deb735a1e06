//! The list shows every segment, and which of them a crash left behind.
//!
//! A forked child inherits every attachment, and a segment with one is in use.
//! So each test here has a process of its own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::thread;
use std::time::{Duration, Instant};

use integration_tests::alone::{alone, alone_as_root};
use integration_tests::peer::{DEADLINE, Peer};
use integration_tests::surroundings::{self, Refused};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shm_sysv::{
    Error, Id, Key, Result, Segment, SegmentOptions, Size, Stat, list, raw,
};

#[test]
fn the_list_agrees_with_stat() {
    alone(|| {
        let mut segments: Vec<Segment> = (1..=5)
            .map(|bytes| {
                let size = Size::new(bytes * 1000).unwrap();
                Segment::create(Key::PRIVATE, size).unwrap()
            })
            .collect();
        segments[2].remove().unwrap();
        for segment in &segments {
            let listed = find(segment.id()).unwrap();
            assert_eq!(listed, segment.stat().unwrap());
        }
        let ids: Vec<Id> = segments.iter().map(Segment::id).collect();
        drop(segments);
        assert_eq!(ids.into_iter().find_map(find), None);
    });
}

#[test]
fn the_list_has_what_this_user_may_not_open() {
    alone_as_root(|| {
        let segment = Segment::create(Key::PRIVATE, Size::KIB).unwrap();
        let nobody = Peer::fork_as(65_534, |_| {
            let denied = Segment::open_id_read_only(segment.id());
            assert!(matches!(denied, Err(Error::PermissionDenied(_))));
            let listed = find(segment.id()).unwrap();
            assert_eq!((listed.len, listed.mode, listed.uid), (1024, 0o600, 0));
            Ok::<_, Error>("")
        });
        nobody.unwrap().unwrap().join(DEADLINE).unwrap();
    });
}

#[test]
fn without_shm_stat_any_the_list_has_what_may_be_read() {
    alone_as_root(|| {
        let secret = Segment::create(Key::PRIVATE, Size::KIB).unwrap();
        let options = SegmentOptions::new().mode(0o644);
        let readable = options.create(Key::PRIVATE, Size::KIB).unwrap();
        let nobody = Peer::fork_as(65_534, |_| {
            surroundings::refuse(&NO_SHM_STAT_ANY).unwrap();
            assert_eq!(find(readable.id()), Some(readable.stat()?));
            assert_eq!(find(secret.id()), None);
            Ok::<_, Error>("")
        });
        nobody.unwrap().unwrap().join(DEADLINE).unwrap();
    });
}

#[test]
fn what_a_killed_process_left_is_abandoned() {
    alone(|| {
        let (owner, ids) = owner_of(&[
            SegmentOptions::new(),
            SegmentOptions::new().mode(0o666),
            SegmentOptions::new().remove_on_last_detach(),
        ]);
        let _left = Left(ids.clone());
        for id in &ids {
            assert!(!find(*id).unwrap().is_abandoned());
        }
        owner.kill().unwrap();
        // The kernel took care of the last one.
        assert_eq!(find(ids[2]), None);
        for id in &ids[..2] {
            let stat = find(*id).unwrap();
            assert_eq!(stat.attachments, 0);
            assert!(stat.is_abandoned());
            // So it can be removed, once.
            id.remove().unwrap();
            assert_eq!(find(*id), None);
            let again = id.remove();
            let Err(Error::NotFound(_) | Error::Removed(_)) = again else {
                panic!("{again:?}");
            };
        }
    });
}

/// As under a first process that waits for nobody, in some containers.
#[test]
fn what_a_zombie_left_is_abandoned() {
    alone(|| {
        let (owner, ids) = owner_of(&[SegmentOptions::new()]);
        let _left = Left(ids.clone());
        assert!(!find(ids[0]).unwrap().is_abandoned());
        owner.signal(Signal::SIGKILL).unwrap();
        let deadline = Instant::now() + DEADLINE;
        while find(ids[0]).unwrap().attachments > 0 {
            assert!(Instant::now() < deadline, "it is still attached");
            thread::sleep(Duration::from_millis(1));
        }
        // Detached by its end; its state follows.
        while !find(ids[0]).unwrap().is_abandoned() {
            assert!(Instant::now() < deadline, "its creator counts as alive");
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(kill(Pid::from_raw(owner.pid()), None), Ok(()));
    });
}

#[test]
fn what_is_attached_is_not_abandoned() {
    alone(|| {
        let (owner, ids) = owner_of(&[SegmentOptions::new()]);
        let _left = Left(ids.clone());
        let opened = Segment::open_id_read_only(ids[0]).unwrap();
        owner.kill().unwrap();
        assert!(!find(ids[0]).unwrap().is_abandoned());
        let mapping = opened.map().unwrap();
        drop(opened);
        assert!(!find(ids[0]).unwrap().is_abandoned());
        drop(mapping);
        assert!(find(ids[0]).unwrap().is_abandoned());
    });
}

#[test]
fn what_a_live_creator_kept_is_not_abandoned() {
    alone(|| {
        let mut segment = Segment::create(Key::PRIVATE, Size::KIB).unwrap();
        segment.keep();
        let id = segment.id();
        let _left = Left(vec![id]);
        drop(segment);
        let stat = find(id).unwrap();
        assert_eq!((stat.attachments, stat.is_abandoned()), (0, false));
        // Nor is it to another user, who may not even signal its creator.
        let nobody = Peer::fork_as(65_534, |_| {
            assert!(!find(id).unwrap().is_abandoned());
            Ok::<_, Error>("")
        });
        if let Some(nobody) = nobody.unwrap() {
            nobody.join(DEADLINE).unwrap();
        }
    });
}

#[test]
fn a_live_segment_is_always_listed_while_others_come_and_go() {
    alone(|| {
        let segment = Segment::create(Key::PRIVATE, Size::KIB).unwrap();
        // They come to their end by themselves: a kill between two calls of
        // `create` would leave a segment.
        let restless: Vec<Peer> = (0..2)
            .map(|_| {
                let run = |_: &_| -> Result<[u8; 0]> {
                    for _ in 0..3000 {
                        drop(Segment::create(Key::PRIVATE, Size::KIB)?);
                    }
                    Ok([])
                };
                Peer::fork(run).unwrap()
            })
            .collect();
        for _ in 0..500 {
            let stat = find(segment.id()).unwrap();
            assert_eq!((stat.len, stat.is_abandoned()), (1024, false));
        }
        for peer in restless {
            peer.join(DEADLINE).unwrap();
        }
    });
}

// What the tests share.

fn find(id: Id) -> Option<Stat> {
    list().unwrap().into_iter().find(|stat| stat.id == id)
}

/// A process that has made segments and holds them, and their identifiers.
fn owner_of(options: &[SegmentOptions]) -> (Peer, Vec<Id>) {
    let mut owner = Peer::fork(|link| -> Result<[u8; 0]> {
        let segments = options
            .iter()
            .map(|options| options.create(Key::PRIVATE, Size::KIB))
            .collect::<Result<Vec<Segment>>>()?;
        for segment in &segments {
            link.send(segment.id().as_raw().to_ne_bytes()).unwrap();
        }
        link.receive().unwrap();
        Ok([])
    })
    .unwrap();
    let mut id = || {
        let message = owner.receive().unwrap();
        Id::new(i32::from_ne_bytes(message.try_into().unwrap())).unwrap()
    };
    let ids = options.iter().map(|_| id()).collect();
    (owner, ids)
}

/// Segments that are removed when the test ends, if they are still there.
struct Left(Vec<Id>);

impl Drop for Left {
    fn drop(&mut self) {
        for id in &self.0 {
            let _ = id.remove();
        }
    }
}

/// A kernel before Linux 4.17.
const NO_SHM_STAT_ANY: Refused = Refused {
    call: libc::SYS_shmctl,
    argument: 1,
    mask: 0xff,
    bits: raw::SHM_STAT_ANY.cast_unsigned(),
    errno: libc::EINVAL,
};
