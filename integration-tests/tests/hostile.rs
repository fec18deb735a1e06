//! A peer that breaks every rule: the victim gets a typed error, holds
//! afterwards what it held before, and never touches what is not there.
//!
//! Each scenario has a process of its own for the victim, whose descriptors and
//! mappings are counted before and after, and another one for the peer.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use integration_tests::alone::alone;
use integration_tests::leaks::{self, assert_none};
use integration_tests::peer::{DEADLINE, JoinError, Peer};
use integration_tests::surroundings::limit;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::resource::Resource;
use nix::sys::signal::Signal;
use shm_common::{Error, Size};
use shm_memfd::{Frozen, Label, Seals, Segment, raw, transfer};

const SIZE: usize = 8192;

/// Sends by what the peer thinks fit, from another process, and gives what the
/// victim makes of it; nothing may be left of that. In a test that is `alone`.
fn attacked<T>(
    peer: impl Fn(&UnixStream),
    victim: impl Fn(&UnixStream) -> T,
    check: impl Fn(T),
) {
    assert_none(|| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let attacker = Peer::fork(|_| {
            peer(&theirs);
            Ok::<_, String>("")
        })
        .unwrap();
        drop(theirs);
        attacker.join(DEADLINE).unwrap();
        check(victim(&ours));
    });
}

/// A memfd with exactly these seals.
fn memfd(size: usize, seals: i32) -> OwnedFd {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let fd = raw::memfd_create(c"hostile", flags).unwrap();
    raw::ftruncate(fd.as_fd(), size.try_into().unwrap()).unwrap();
    raw::fcntl_add_seals(fd.as_fd(), seals).unwrap();
    fd
}

fn send_all(socket: &UnixStream, descriptors: &[OwnedFd]) {
    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    transfer::send(socket, b"!", &borrowed).unwrap();
}

/// Takes one descriptor as a segment.
fn take_one(socket: &UnixStream) -> Result<Segment, Error> {
    let message = transfer::receive(socket, &mut [0], 1)?;
    let [fd] = message.into_descriptors()?;
    Segment::open(fd)
}

/// As [`take_one`], for a descriptor of the peer's choice.
fn offered(
    offer: impl Fn() -> OwnedFd,
    check: impl Fn(Result<Segment, Error>),
) {
    attacked(|socket| send_all(socket, &[offer()]), take_one, check);
}

#[test]
fn no_descriptor_where_one_was_agreed() {
    alone(|| {
        attacked(
            |mut socket| socket.write_all(b"!").unwrap(),
            take_one,
            |taken| {
                let expected =
                    Error::WrongDescriptorCount { expected: 1, received: 0 };
                assert_eq!(taken.unwrap_err(), expected);
            },
        )
    });
}

#[test]
fn more_descriptors_than_the_victim_takes() {
    alone(|| {
        attacked(
            |socket| {
                let many: Vec<_> = (0..253)
                    .map(|_| memfd(SIZE, libc::F_SEAL_SHRINK))
                    .collect();
                send_all(socket, &many);
            },
            take_one,
            |taken| {
                let error = taken.unwrap_err();
                let expected =
                    Error::DescriptorsTruncated { received: 253, max: 1 };
                assert_eq!(error, expected);
            },
        )
    });
}

#[test]
fn more_descriptors_than_the_process_may_have() {
    alone(|| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let many: Vec<_> =
            (0..100).map(|_| memfd(SIZE, libc::F_SEAL_SHRINK)).collect();
        send_all(&theirs, &many);
        drop(many);
        limit(Resource::RLIMIT_NOFILE, 40).unwrap();
        assert_none(|| {
            let taken = transfer::receive(&ours, &mut [0], 253);
            let Err(Error::DescriptorsTruncated { received, max: 253 }) = taken
            else {
                panic!("{taken:?}");
            };
            assert!(received < 40, "{received}");
        });
    });
}

#[test]
fn a_descriptor_of_another_kind() {
    let offers: [fn() -> OwnedFd; 4] = [
        || std::io::pipe().unwrap().0.into(),
        || UnixStream::pair().unwrap().0.into(),
        || std::fs::File::open("/proc/self/exe").unwrap().into(),
        || std::fs::File::open("/dev/null").unwrap().into(),
    ];
    alone(|| {
        for offer in offers {
            assert_none(|| {
                let error = Segment::open(offer()).unwrap_err();
                assert!(matches!(error, Error::WrongKind { .. }), "{error:?}");
            });
        }
    });
}

#[test]
fn a_memfd_that_can_shrink() {
    alone(|| {
        offered(
            || memfd(SIZE, 0),
            |taken| {
                let Err(Error::MissingSeals { required, present, .. }) = taken
                else {
                    panic!("{taken:?}");
                };
                assert_eq!(required, Seals::SHRINK.bits());
                assert_eq!(present, 0);
            },
        )
    });
}

/// It answers when asked for its seals, and can be truncated at any time.
#[test]
fn a_posix_object_in_place_of_a_memfd() {
    alone(|| {
        offered(
            || {
                let name = leaks::unique_name("hostile");
                let name = shm_posix::Name::new(name).unwrap();
                let size = Size::new(SIZE).unwrap();
                let segment = shm_posix::Segment::create(&name, size).unwrap();
                segment.as_fd().try_clone_to_owned().unwrap()
            },
            |taken| {
                let error = taken.unwrap_err();
                assert!(
                    matches!(error, Error::MissingSeals { .. }),
                    "{error:?}"
                );
            },
        )
    });
}

#[test]
fn a_memfd_of_size_0() {
    alone(|| {
        offered(
            || memfd(0, libc::F_SEAL_SHRINK),
            |taken| {
                let error = taken.unwrap_err();
                assert!(
                    matches!(error, Error::InvalidSize { .. }),
                    "{error:?}"
                );
            },
        )
    });
}

#[test]
fn a_memfd_larger_than_any_address_space() {
    alone(|| {
        offered(
            || memfd(isize::MAX.unsigned_abs(), libc::F_SEAL_SHRINK),
            |taken| {
                // Larger than a mapping can be: found out when it is mapped, by
                // the kernel or by rounding to pages.
                let error =
                    taken.and_then(|segment| segment.map()).unwrap_err();
                assert!(
                    matches!(
                        error,
                        Error::OutOfMemory(_) | Error::InvalidSize { .. }
                    ),
                    "{error:?}"
                );
            },
        )
    });
}

#[test]
fn a_descriptor_for_reading_where_the_victim_writes() {
    alone(|| {
        offered(
            || {
                let fd = memfd(SIZE, libc::F_SEAL_SHRINK);
                let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
                std::fs::File::open(path).unwrap().into()
            },
            |taken| {
                let error = taken.and_then(|s| s.map()).unwrap_err();
                assert!(
                    matches!(error, Error::PermissionDenied(_)),
                    "{error:?}"
                );
            },
        )
    });
}

#[test]
fn a_memfd_sealed_against_writing_where_the_victim_writes() {
    alone(|| {
        offered(
            || memfd(SIZE, libc::F_SEAL_SHRINK | libc::F_SEAL_WRITE),
            |taken| {
                let error = taken.and_then(|s| s.map()).unwrap_err();
                assert!(
                    matches!(error, Error::PermissionDenied(_)),
                    "{error:?}"
                );
            },
        )
    });
}

#[test]
fn half_frozen_in_place_of_frozen() {
    for seals in [libc::F_SEAL_SHRINK, libc::F_SEAL_WRITE, 0] {
        // What is missing is said, not only that something is.
        let fd = memfd(SIZE, seals);
        let Err(Error::MissingSeals { required, present, .. }) =
            Frozen::open(fd)
        else {
            panic!("taken with seals {seals:#x}");
        };
        assert_eq!(required, Frozen::SEALS.bits());
        assert_eq!(present, seals.cast_unsigned());
    }
}

/// The announced length is of no account: the kernel's is.
#[test]
fn a_lie_about_the_size() {
    alone(|| {
        attacked(
            |socket| {
                let fd = memfd(SIZE, libc::F_SEAL_SHRINK);
                let announced = u64::MAX.to_ne_bytes();
                transfer::send(socket, &announced, &[fd.as_fd()]).unwrap();
            },
            |socket| {
                let mut announced = [0; 8];
                let message =
                    transfer::receive(socket, &mut announced, 1).unwrap();
                let [fd] = message.into_descriptors().unwrap();
                Segment::open(fd).unwrap()
            },
            |segment| {
                assert_eq!(segment.len(), SIZE);
                let mapping = segment.map().unwrap();
                assert_eq!(mapping.bytes().len(), SIZE);
                assert!(mapping.bytes().get::<u8>(SIZE).is_err());
            },
        )
    });
}

/// The peer keeps a descriptor of what it sent, and uses it.
#[test]
fn a_peer_that_shrinks_grows_and_punches_holes_afterwards() {
    alone(|| {
        let fd = memfd(SIZE, libc::F_SEAL_SHRINK);
        let segment = Segment::open(fd.try_clone().unwrap()).unwrap();
        let mapping = segment.map().unwrap();
        mapping.bytes().fill(7);
        let peer = Peer::fork(|_| {
            let shrunk = raw::ftruncate(fd.as_fd(), 0);
            let grown = raw::ftruncate(fd.as_fd(), 1 << 20);
            let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE
                | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            let punched = fallocate(&fd, hole, 0, 4096);
            Ok::<_, String>(format!(
                "{:?}",
                (
                    shrunk.map_err(|os| os.errno()),
                    grown.is_ok(),
                    punched.is_ok(),
                )
            ))
        })
        .unwrap();
        let did = peer.join(DEADLINE).unwrap();
        let did = String::from_utf8(did).unwrap();
        assert_eq!(did, format!("(Err({}), true, true)", libc::EPERM));
        // Zeros where the hole is, the rest as it was, and no crash anywhere.
        let bytes = mapping.bytes().to_vec();
        assert!(bytes[..4096].iter().all(|byte| *byte == 0));
        assert!(bytes[4096..].iter().all(|byte| *byte == 7));
        assert_eq!(mapping.len(), SIZE);
    });
}

#[test]
fn a_peer_that_closes_half_way() {
    alone(|| {
        attacked(
            |mut socket| socket.write_all(b"ab").unwrap(),
            |socket| {
                // Eight bytes were agreed on.
                let mut buffer = [0; 8];
                let mut have = 0;
                loop {
                    let message =
                        transfer::receive(socket, &mut buffer[have..], 1)?;
                    have += message.len;
                    if have == buffer.len() {
                        return Ok(have);
                    }
                }
            },
            |taken: Result<usize, Error>| {
                let error = taken.unwrap_err();
                assert!(matches!(error, Error::Disconnected(_)), "{error:?}");
            },
        )
    });
}

/// Hundreds of descriptors, one message after the other: the victim holds no
/// more than it takes.
#[test]
fn a_flood() {
    alone(|| {
        attacked(
            |socket| {
                let fd = memfd(SIZE, libc::F_SEAL_SHRINK);
                let many: Vec<_> =
                    (0..100).map(|_| fd.try_clone().unwrap()).collect();
                socket.set_nonblocking(true).unwrap();
                let borrowed: Vec<_> = many.iter().map(AsFd::as_fd).collect();
                let mut sent = 0;
                while sent < 8 {
                    match transfer::send(socket, b"!", &borrowed) {
                        Ok(()) => sent += 1,
                        // The socket, or this user, has no room for more.
                        Err(Error::WouldBlock(_) | Error::LimitReached(_)) => {
                            break;
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
                assert!(sent > 0);
            },
            |socket| {
                let mut messages = 0;
                loop {
                    match transfer::receive(socket, &mut [0], 1) {
                        Err(Error::DescriptorsTruncated {
                            received, ..
                        }) => {
                            assert_eq!(received, 100);
                            messages += 1;
                        }
                        Err(Error::Disconnected(_)) => return messages,
                        other => panic!("{other:?}"),
                    }
                }
            },
            |messages| assert!(messages > 0),
        )
    });
}

/// Anybody who may write a POSIX object may shrink it, and then a touch of what
/// was cut off is a `SIGBUS`: documented under `# Crashes`. What is still there
/// can be read.
#[test]
fn a_posix_object_that_shrinks_while_it_is_mapped() {
    let name = shm_posix::Name::new(leaks::unique_name("hostile")).unwrap();
    let size = Size::new(SIZE).unwrap();
    let segment = shm_posix::Segment::create(&name, size).unwrap();
    let mapping = segment.map().unwrap();
    mapping.bytes().fill(7);
    let theirs = shm_posix::Segment::open(&name).unwrap();
    shm_posix::raw::ftruncate(theirs.as_fd(), 4096).unwrap();
    assert_eq!(mapping.bytes().get::<u8>(4095), Ok(7));
    let victim = Peer::fork(|_| {
        let byte = mapping.bytes().get::<u8>(4096);
        Ok::<_, String>(format!("{byte:?}"))
    });
    let ended = victim.unwrap().join(DEADLINE);
    assert!(
        matches!(ended, Err(JoinError::Killed(Signal::SIGBUS))),
        "{ended:?}"
    );
    // Whoever opens it now knows its size.
    assert_eq!(shm_posix::Segment::open(&name).unwrap().len(), 4096);
}

/// The bytes are the peer's to write at any time, and never more than bytes.
#[test]
fn a_peer_that_writes_while_the_victim_reads() {
    let label = Label::new("hostile").unwrap();
    let segment = Segment::create(&label, Size::new(SIZE).unwrap()).unwrap();
    let mapping = segment.map().unwrap();
    let stop = mapping.bytes().atomic_u32(0).unwrap();
    let scribbled = mapping.bytes().subslice(64, SIZE - 64).unwrap();
    let scribbler = Peer::fork(|_| {
        while stop.load(std::sync::atomic::Ordering::Relaxed) == 0 {
            scribbled.fill(0xff);
            scribbled.fill(0);
        }
        Ok::<_, String>("")
    })
    .unwrap();
    let mut both = [false; 2];
    for _ in 0..200_000 {
        for byte in scribbled.get::<[u8; 64]>(63).unwrap() {
            assert!(matches!(byte, 0 | 0xff), "{byte:#x}");
            both[usize::from(byte == 0)] = true;
        }
        if both == [true; 2] {
            break;
        }
    }
    stop.store(1, std::sync::atomic::Ordering::Relaxed);
    scribbler.join(DEADLINE).unwrap();
    assert_eq!(both, [true; 2], "the peer did not write meanwhile");
}
