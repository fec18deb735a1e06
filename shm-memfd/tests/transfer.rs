//! Descriptors passed over every kind of Unix socket: what arrives, what is
//! told when something does not, and that no descriptor is ever left open.
//!
//! Who forks does so in a process of its own: a child inherits the descriptors
//! of every test, and would hold open what they close.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(unsafe_code, reason = "sets options and signals")]

use std::io::{PipeReader, Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use integration_tests::alone::{alone, alone_as_root};
use integration_tests::leaks::{self, unique_name};
use integration_tests::peer::{DEADLINE, JoinError, Peer};
use integration_tests::surroundings::{limit, storm_of_signals};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{SigHandler, SigSet, Signal, raise, signal};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::fstat;
use proptest::prelude::*;
use shm_memfd::transfer::{
    MAX_DESCRIPTORS, Message, peer_credentials, receive, send,
};
use shm_memfd::{Error, Label, Segment, Size, raw};

const KINDS: [SockType; 3] =
    [SockType::Stream, SockType::SeqPacket, SockType::Datagram];

/// Newer than the C headers of some systems.
const SO_PASSPIDFD: libc::c_int = 76;

/// A connected pair of sockets on which nothing waits for ever. All three kinds
/// come as a `UnixStream`, which only is what owns the descriptor.
fn pair(kind: SockType) -> (UnixStream, UnixStream) {
    let cloexec = SockFlag::SOCK_CLOEXEC;
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, kind, None, cloexec).unwrap();
    let patient = |fd: OwnedFd| {
        let socket = UnixStream::from(fd);
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.set_write_timeout(Some(DEADLINE)).unwrap();
        socket
    };
    (patient(ours), patient(theirs))
}

fn segment() -> Segment {
    Segment::create(&Label::new("transfer").unwrap(), Size::KIB).unwrap()
}

fn segments(count: usize) -> Vec<Segment> {
    (0..count).map(|_| segment()).collect()
}

fn fds(segments: &[Segment]) -> Vec<BorrowedFd<'_>> {
    segments.iter().map(AsFd::as_fd).collect()
}

/// What tells one object of the system from every other.
fn object(fd: impl AsFd) -> (u64, u64) {
    let stat = fstat(fd).unwrap();
    (stat.st_dev, stat.st_ino)
}

fn objects<F: AsFd>(fds: &[F]) -> Vec<(u64, u64)> {
    fds.iter().map(object).collect()
}

/// Leaves this process room for `free` more descriptors while `body` runs.
fn with_room_for<T>(free: usize, body: impl FnOnce() -> T) -> T {
    let (before, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // It is a limit on the number itself, and the taken ones have gaps.
    let taken = leaks::Snapshot::take().unwrap().descriptors;
    let first_beyond =
        (0..).filter(|number| !taken.contains_key(number)).nth(free).unwrap();
    limit(Resource::RLIMIT_NOFILE, u64::try_from(first_beyond).unwrap())
        .unwrap();
    let result = body();
    limit(Resource::RLIMIT_NOFILE, before).unwrap();
    result
}

#[test]
fn descriptors_arrive_in_order_and_lead_to_the_very_same_objects() {
    alone(|| {
        for kind in KINDS {
            for count in [1, 2, 16, MAX_DESCRIPTORS] {
                let (ours, theirs) = pair(kind);
                let sent = segments(count);
                send(&ours, b"payload", &fds(&sent)).unwrap();
                let mut buffer = [0; 16];
                let message =
                    receive(&theirs, &mut buffer, MAX_DESCRIPTORS).unwrap();
                assert_eq!(&buffer[..message.len], b"payload", "{kind:?}");
                assert_eq!(
                    objects(&message.descriptors),
                    objects(&sent),
                    "{count} on a {kind:?} socket"
                );
            }
        }
    });
}

#[test]
fn bytes_written_through_a_received_descriptor_are_seen_by_the_sender() {
    alone(|| {
        let (ours, theirs) = pair(SockType::Stream);
        let segment = segment();
        let peer = Peer::fork(|_| -> Result<Vec<u8>, Error> {
            let message = receive(&theirs, &mut [0], 1)?;
            let [fd] = message.into_descriptors()?;
            Segment::open(fd)?.map()?.bytes().write_at(5, b"from the peer")?;
            Ok(Vec::new())
        })
        .unwrap();
        send(&ours, b"!", &[segment.as_fd()]).unwrap();
        peer.join(DEADLINE).unwrap();
        let mapping = segment.map().unwrap();
        assert_eq!(mapping.bytes().get(5), Ok(*b"from the peer"));
    });
}

#[test]
fn a_descriptor_sent_twice_arrives_twice() {
    for kind in KINDS {
        let (ours, theirs) = pair(kind);
        let segment = segment();
        let twice = [segment.as_fd(), segment.as_fd()];
        send(&ours, b"1", &twice).unwrap();
        send(&ours, b"2", &twice).unwrap();
        for _ in 0..2 {
            let message = receive(&theirs, &mut [0], 2).unwrap();
            let [a, b]: [OwnedFd; 2] = message.into_descriptors().unwrap();
            assert_ne!(a.as_raw_fd(), b.as_raw_fd());
            assert_eq!(object(&a), object(&segment));
            assert_eq!(object(&b), object(&segment));
        }
    }
}

#[test]
fn every_received_descriptor_is_close_on_exec() {
    alone(|| {
        let label = unique_name("exec");
        let segment =
            Segment::create(&Label::new(&label).unwrap(), Size::KIB).unwrap();
        let inherited = || {
            let output = Command::new("ls")
                .args(["-l", "/proc/self/fd"])
                .output()
                .unwrap();
            assert!(output.status.success());
            String::from_utf8(output.stdout).unwrap().contains(&label)
        };
        for kind in KINDS {
            let (ours, theirs) = pair(kind);
            send(&ours, b"!", &[segment.as_fd(); 3]).unwrap();
            let message = receive(&theirs, &mut [0], 3).unwrap();
            for fd in &message.descriptors {
                let flags = fcntl(fd, FcntlArg::F_GETFD).unwrap();
                assert_eq!(flags, FdFlag::FD_CLOEXEC.bits(), "{kind:?}");
            }
            assert!(!inherited(), "{kind:?}");
            // What the program above would have shown otherwise.
            let open = FcntlArg::F_SETFD(FdFlag::empty());
            fcntl(&message.descriptors[0], open).unwrap();
            assert!(inherited());
        }
    });
}

#[test]
fn a_wrong_number_of_descriptors_is_refused_before_anything_is_sent() {
    for kind in KINDS {
        let (ours, theirs) = pair(kind);
        theirs.set_nonblocking(true).unwrap();
        let segment = segment();
        for given in [0, 254, 1000] {
            let max = MAX_DESCRIPTORS;
            assert_eq!(
                send(&ours, b"!", &vec![segment.as_fd(); given]),
                Err(Error::InvalidDescriptorCount { given, max })
            );
            let nothing = receive(&theirs, &mut [0], 1).unwrap_err();
            assert!(matches!(nothing, Error::WouldBlock(_)), "{nothing}");
        }
    }
}

#[test]
fn an_empty_payload_is_refused_before_anything_is_sent() {
    for kind in KINDS {
        let (ours, theirs) = pair(kind);
        theirs.set_nonblocking(true).unwrap();
        let segment = segment();
        let refused = send(&ours, b"", &[segment.as_fd()]);
        assert_eq!(refused, Err(Error::EmptyMessage));
        let nothing = receive(&theirs, &mut [0], 1).unwrap_err();
        assert!(matches!(nothing, Error::WouldBlock(_)), "{nothing}");
    }
}

#[test]
fn an_empty_buffer_is_refused_and_the_message_stays() {
    for kind in KINDS {
        let (ours, theirs) = pair(kind);
        let segment = segment();
        send(&ours, b"!", &[segment.as_fd()]).unwrap();
        let refused = receive(&theirs, &mut [], 1).unwrap_err();
        assert_eq!(refused, Error::EmptyMessage);
        let message = receive(&theirs, &mut [0], 1).unwrap();
        assert_eq!(objects(&message.descriptors), [object(&segment)]);
    }
}

#[test]
fn more_descriptors_than_expected_are_closed_and_told() {
    alone(|| {
        leaks::assert_none(|| {
            for kind in KINDS {
                for (received, max) in [(2, 1), (1, 0), (3, 2), (253, 252)] {
                    let (ours, theirs) = pair(kind);
                    let segment = segment();
                    send(&ours, b"!", &vec![segment.as_fd(); received])
                        .unwrap();
                    assert_eq!(
                        receive(&theirs, &mut [0], max).unwrap_err(),
                        Error::DescriptorsTruncated { received, max }
                    );
                }
            }
        });
    });
}

#[test]
fn another_number_of_descriptors_than_agreed_is_told_and_they_are_closed() {
    alone(|| {
        leaks::assert_none(|| {
            let (ours, theirs) = pair(SockType::Stream);
            let segment = segment();
            for received in [1, 3] {
                send(&ours, b"!", &vec![segment.as_fd(); received]).unwrap();
                let message = receive(&theirs, &mut [0], 3).unwrap();
                assert_eq!(
                    message.into_descriptors::<2>().unwrap_err(),
                    Error::WrongDescriptorCount { expected: 2, received }
                );
            }
        });
    });
}

#[test]
fn a_receiver_at_its_limit_of_open_files_is_told_and_leaks_nothing() {
    alone(|| {
        leaks::assert_none(|| {
            for kind in KINDS {
                for free in 0..4 {
                    let (ours, theirs) = pair(kind);
                    let segment = segment();
                    send(&ours, b"!", &[segment.as_fd(); 4]).unwrap();
                    let refused = with_room_for(free, || {
                        receive(&theirs, &mut [0], 4).unwrap_err()
                    });
                    assert_eq!(
                        refused,
                        Error::DescriptorsTruncated { received: free, max: 4 },
                        "{kind:?}"
                    );
                    // The socket is as good as before.
                    send(&ours, b"!", &[segment.as_fd()]).unwrap();
                    let message = receive(&theirs, &mut [0], 1).unwrap();
                    assert_eq!(message.descriptors.len(), 1);
                }
            }
        });
    });
}

/// Lets the kernel add to every message what it can; gives whether it knows
/// pidfds (since Linux 6.5).
fn let_the_kernel_add_to_messages(socket: &UnixStream) -> bool {
    assert!(switch_on(socket, libc::SO_PASSCRED));
    assert!(switch_on(socket, libc::SO_PASSSEC));
    assert!(switch_on(socket, libc::SO_TIMESTAMP));
    switch_on(socket, SO_PASSPIDFD)
}

fn switch_on(socket: &UnixStream, option: libc::c_int) -> bool {
    let on: libc::c_int = 1;
    let len = libc::socklen_t::try_from(size_of_val(&on)).unwrap();
    // SAFETY: `on` lives through the call, and `len` is its length.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const on).cast(),
            len,
        )
    };
    set == 0
}

#[test]
fn what_the_kernel_adds_to_a_message_costs_no_descriptor() {
    alone(|| {
        leaks::assert_none(|| {
            for kind in KINDS {
                let (ours, theirs) = pair(kind);
                let_the_kernel_add_to_messages(&theirs);
                for count in [1, 16, MAX_DESCRIPTORS] {
                    let segment = segment();
                    send(&ours, b"!", &vec![segment.as_fd(); count]).unwrap();
                    let message = receive(&theirs, &mut [0], count).unwrap();
                    assert_eq!(message.descriptors.len(), count, "{kind:?}");
                }
            }
        });
    });
}

#[test]
fn the_pidfd_that_the_kernel_adds_is_none_of_the_senders_descriptors() {
    alone(|| {
        leaks::assert_none(|| {
            for kind in KINDS {
                let (ours, theirs) = pair(kind);
                let supported = switch_on(&theirs, SO_PASSPIDFD);
                let segment = segment();
                for with in [1, 2] {
                    send(&ours, b"!", &vec![segment.as_fd(); with]).unwrap();
                    let message = receive(&theirs, &mut [0], with).unwrap();
                    let expected = vec![object(&segment); with];
                    assert_eq!(objects(&message.descriptors), expected);
                }
                // The raw layer tells both.
                send(&ours, b"!", &[segment.as_fd()]).unwrap();
                let cloexec = libc::MSG_CMSG_CLOEXEC;
                let raw =
                    raw::recvmsg(theirs.as_fd(), &mut [0], cloexec).unwrap();
                assert_eq!(objects(&raw.descriptors), [object(&segment)]);
                assert_eq!(raw.pidfd.is_some(), supported, "{kind:?}");
                if let Some(pidfd) = raw.pidfd {
                    let flags = fcntl(pidfd, FcntlArg::F_GETFD).unwrap();
                    assert_eq!(flags, FdFlag::FD_CLOEXEC.bits());
                }
            }
        });
    });
}

#[test]
fn a_pidfd_that_the_kernel_could_not_make_is_not_taken_for_one() {
    alone(|| {
        leaks::assert_none(|| {
            for kind in KINDS {
                let (mut ours, theirs) = pair(kind);
                switch_on(&theirs, SO_PASSPIDFD);
                ours.write_all(b"12").unwrap();
                ours.write_all(b"34").unwrap();
                // The kernel then gives -EMFILE where the pidfd would be.
                with_room_for(0, || {
                    let message = receive(&theirs, &mut [0; 2], 1).unwrap();
                    assert_eq!(message.len, 2);
                    assert!(message.descriptors.is_empty(), "{message:?}");
                    let raw = raw::recvmsg(theirs.as_fd(), &mut [0; 2], 0);
                    let raw = raw.unwrap();
                    assert!(raw.descriptors.is_empty(), "{raw:?}");
                    assert!(raw.pidfd.is_none(), "{raw:?}");
                });
            }
        });
    });
}

#[test]
fn a_flood_of_descriptors_does_not_exhaust_the_receiver() {
    alone(|| {
        leaks::assert_none(|| {
            let (ours, theirs) = pair(SockType::Stream);
            let segment = segment();
            for _ in 0..200 {
                for _ in 0..2 {
                    send(&ours, b"!", &[segment.as_fd(); MAX_DESCRIPTORS])
                        .unwrap();
                }
                // Room for a single message, so that what is not closed shows.
                with_room_for(253, || {
                    let mut buffer = [0; 64];
                    let flooded = receive(&theirs, &mut buffer, 1).unwrap_err();
                    assert_eq!(
                        flooded,
                        Error::DescriptorsTruncated { received: 253, max: 1 }
                    );
                    let message = receive(&theirs, &mut buffer, 253).unwrap();
                    assert_eq!(message.descriptors.len(), 253);
                });
            }
        });
    });
}

#[test]
fn a_datagram_longer_than_the_buffer_is_told_and_its_descriptors_are_closed() {
    alone(|| {
        leaks::assert_none(|| {
            for kind in [SockType::SeqPacket, SockType::Datagram] {
                let (ours, theirs) = pair(kind);
                let segment = segment();
                send(&ours, &[7; 100], &[segment.as_fd(); 2]).unwrap();
                let truncated = receive(&theirs, &mut [0; 99], 2).unwrap_err();
                assert_eq!(truncated, Error::MessageTruncated { capacity: 99 });
                send(&ours, &[7; 100], &[segment.as_fd(); 2]).unwrap();
                let message = receive(&theirs, &mut [0; 100], 2).unwrap();
                assert_eq!(message.descriptors.len(), 2);
            }
        });
    });
}

#[test]
fn a_datagram_too_long_for_the_socket_is_refused_with_its_descriptors() {
    alone(|| {
        leaks::assert_none(|| {
            for kind in [SockType::SeqPacket, SockType::Datagram] {
                let (ours, _theirs) = pair(kind);
                let huge = vec![0; 64 << 20];
                let refused = send(&ours, &huge, &[segment().as_fd()]);
                let errno = refused.unwrap_err().raw_os_error();
                assert_eq!(errno, Some(libc::EMSGSIZE));
            }
        });
    });
}

#[test]
fn plain_bytes_arrive_without_descriptors() {
    let (mut ours, theirs) = pair(SockType::Stream);
    ours.write_all(b"plain").unwrap();
    let mut buffer = [0; 16];
    let message = receive(&theirs, &mut buffer, 1).unwrap();
    assert_eq!(&buffer[..message.len], b"plain");
    assert!(message.descriptors.is_empty());
}

#[test]
fn descriptors_come_with_the_first_byte_of_a_payload_read_in_pieces() {
    let (ours, theirs) = pair(SockType::Stream);
    let sent = segments(3);
    let payload = b"read one byte at a time";
    send(&ours, payload, &fds(&sent)).unwrap();
    for (at, byte) in payload.iter().enumerate() {
        let mut buffer = [0];
        let message = receive(&theirs, &mut buffer, 3).unwrap();
        assert_eq!((message.len, buffer[0]), (1, *byte));
        let expected = if at == 0 { objects(&sent) } else { Vec::new() };
        assert_eq!(objects(&message.descriptors), expected);
    }
}

#[test]
fn two_messages_on_a_stream_are_never_merged() {
    let (ours, theirs) = pair(SockType::Stream);
    let sent = segments(2);
    for (payload, segment) in [&b"first"[..], b"second"].iter().zip(&sent) {
        send(&ours, payload, &[segment.as_fd()]).unwrap();
    }
    for (payload, segment) in [&b"first"[..], b"second"].iter().zip(&sent) {
        let mut buffer = [0; 64];
        let message = receive(&theirs, &mut buffer, 1).unwrap();
        assert_eq!(&buffer[..message.len], *payload);
        assert_eq!(objects(&message.descriptors), [object(segment)]);
    }
}

#[test]
fn bytes_that_precede_a_message_on_a_stream_come_with_its_descriptors() {
    // The module's documentation warns of this: it is why a reader must not
    // take more than what is left of a message.
    let (mut ours, theirs) = pair(SockType::Stream);
    ours.write_all(b"before ").unwrap();
    send(&ours, b"message", &[segment().as_fd()]).unwrap();
    ours.write_all(b" after").unwrap();
    let mut buffer = [0; 64];
    let message = receive(&theirs, &mut buffer, 1).unwrap();
    assert_eq!(&buffer[..message.len], b"before message");
    assert_eq!(message.descriptors.len(), 1);
    let message = receive(&theirs, &mut buffer, 1).unwrap();
    assert_eq!(&buffer[..message.len], b" after");
    assert!(message.descriptors.is_empty());
}

/// Receives `len` bytes and all descriptors that come with them.
fn receive_all(socket: &UnixStream, len: usize) -> (Vec<u8>, Vec<OwnedFd>) {
    let mut bytes = vec![0; len];
    let mut descriptors = Vec::new();
    let mut at = 0;
    while at < len {
        let mut message =
            receive(socket, &mut bytes[at..], MAX_DESCRIPTORS).unwrap();
        at += message.len;
        descriptors.append(&mut message.descriptors);
    }
    (bytes, descriptors)
}

/// Bytes of which no two neighbours of a page's distance are alike.
fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| ((at + seed) % 251).to_le_bytes()[0]).collect()
}

#[test]
fn a_long_payload_through_a_full_socket_arrives_whole_with_descriptors_once() {
    for nonblocking in [false, true] {
        let (ours, theirs) = pair(SockType::Stream);
        ours.set_nonblocking(nonblocking).unwrap();
        let sent = segments(2);
        let payload = pattern(0, 3 << 20);
        let (bytes, descriptors) = thread::scope(|scope| {
            let len = payload.len();
            // Moved, so that a failure there closes it and ends the sending.
            let receiver = scope.spawn(move || receive_all(&theirs, len));
            send(&ours, &payload, &fds(&sent)).unwrap();
            receiver.join().unwrap()
        });
        assert!(bytes == payload, "the bytes differ");
        assert_eq!(objects(&descriptors), objects(&sent));
    }
}

#[test]
fn a_socket_without_room_says_so_and_sends_nothing_of_the_message() {
    for kind in KINDS {
        let (ours, theirs) = pair(kind);
        ours.set_nonblocking(true).unwrap();
        let segment = segment();
        let mut sent = 0;
        let full = loop {
            // One byte each, so that none goes in half.
            match send(&ours, &[42], &[segment.as_fd()]) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(full, Error::WouldBlock(_)), "{full}");
        theirs.set_nonblocking(true).unwrap();
        for _ in 0..sent {
            let message = receive(&theirs, &mut [0], 1).unwrap();
            assert_eq!(objects(&message.descriptors), [object(&segment)]);
        }
        let nothing = receive(&theirs, &mut [0], 1).unwrap_err();
        assert!(matches!(nothing, Error::WouldBlock(_)), "{nothing}");
    }
}

#[test]
fn a_time_out_of_the_socket_is_kept() {
    for kind in KINDS {
        let (_ours, theirs) = pair(kind);
        theirs.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let nothing = receive(&theirs, &mut [0], 1).unwrap_err();
        assert!(matches!(nothing, Error::WouldBlock(_)), "{nothing}");
    }
}

#[test]
fn a_peer_that_has_closed_its_end_is_told() {
    for kind in [SockType::Stream, SockType::SeqPacket] {
        let (ours, theirs) = pair(kind);
        send(&theirs, b"last", &[segment().as_fd()]).unwrap();
        drop(theirs);
        // What it sent before still arrives.
        let message = receive(&ours, &mut [0; 4], 1).unwrap();
        assert_eq!((message.len, message.descriptors.len()), (4, 1));
        for _ in 0..2 {
            let gone = receive(&ours, &mut [0; 4], 1).unwrap_err();
            assert!(matches!(gone, Error::Disconnected(_)), "{gone}");
        }
        let gone = send(&ours, b"!", &[segment().as_fd()]).unwrap_err();
        assert!(matches!(gone, Error::Disconnected(_)), "{gone}");
        assert_eq!(gone.raw_os_error(), Some(libc::EPIPE));
    }
}

#[test]
fn a_datagram_socket_whose_peer_is_gone_says_so_when_sending() {
    alone(|| {
        let (ours, theirs) = pair(SockType::Datagram);
        drop(theirs);
        let gone = send(&ours, b"!", &[segment().as_fd()]).unwrap_err();
        assert!(matches!(gone, Error::Disconnected(_)), "{gone}");
        assert_eq!(gone.raw_os_error(), Some(libc::ECONNREFUSED));
    });
}

#[test]
fn a_peer_that_is_gone_is_told_without_a_signal() {
    alone(|| {
        for kind in KINDS {
            let (ours, theirs) = pair(kind);
            drop(theirs);
            let mut peer = Peer::fork(|link| -> Result<Vec<u8>, String> {
                // As in a program whose main function is not Rust's.
                // SAFETY: it is no handler.
                unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }
                    .map_err(|errno| errno.to_string())?;
                let gone = send(&ours, b"!", &[segment().as_fd()]).unwrap_err();
                assert!(matches!(gone, Error::Disconnected(_)), "{gone}");
                link.send("alive").map_err(|error| error.to_string())?;
                // From elsewhere it comes as ever.
                raise(Signal::SIGPIPE).map_err(|errno| errno.to_string())?;
                Ok(Vec::new())
            })
            .unwrap();
            assert_eq!(peer.receive().unwrap(), b"alive", "{kind:?}");
            let ended = peer.join(DEADLINE).unwrap_err();
            assert!(
                matches!(ended, JoinError::Killed(Signal::SIGPIPE)),
                "{kind:?}: {ended}"
            );
        }
    });
}

#[test]
fn a_peer_that_goes_half_way_through_a_payload_is_told_without_a_signal() {
    alone(|| {
        let (ours, theirs) = pair(SockType::Stream);
        let peer = Peer::fork(|_| -> nix::Result<[u8; 1]> {
            // SAFETY: it is no handler.
            unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
            // Its copy of that end, so that the other is the last.
            nix::unistd::close(theirs.as_raw_fd())?;
            let gone = send(&ours, &vec![0; 8 << 20], &[segment().as_fd()]);
            Ok([u8::from(matches!(gone, Err(Error::Disconnected(_))))])
        })
        .unwrap();
        receive(&theirs, &mut [0; 16], 1).unwrap();
        drop(theirs);
        assert_eq!(peer.join(DEADLINE).unwrap(), [1]);
    });
}

#[test]
fn a_caller_that_holds_the_signal_back_still_gets_it() {
    alone(|| {
        let (ours, theirs) = pair(SockType::Stream);
        drop(theirs);
        let peer = Peer::fork(|_| -> nix::Result<[u8; 1]> {
            // SAFETY: it is no handler.
            unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
            SigSet::from(Signal::SIGPIPE).thread_block()?;
            send(&ours, b"!", &[segment().as_fd()]).unwrap_err();
            let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            let sigpipe = SigSet::from(Signal::SIGPIPE);
            let taken = raw::sigtimedwait(sigpipe.as_ref(), at_once);
            Ok([u8::from(taken == Ok(libc::SIGPIPE))])
        })
        .unwrap();
        assert_eq!(peer.join(DEADLINE).unwrap(), [1]);
    });
}

#[test]
fn an_empty_datagram_is_a_message_and_not_the_end() {
    let (ours, theirs) = pair(SockType::Datagram);
    let datagrams =
        UnixDatagram::from(ours.as_fd().try_clone_to_owned().unwrap());
    datagrams.send(b"").unwrap();
    let message = receive(&theirs, &mut [0], 1).unwrap();
    assert_eq!((message.len, message.descriptors.len()), (0, 0));
    send(&ours, b"!", &[segment().as_fd()]).unwrap();
    assert_eq!(receive(&theirs, &mut [0], 1).unwrap().descriptors.len(), 1);
}

#[test]
fn a_peer_that_closes_with_unread_messages_is_told_as_disconnected() {
    for kind in [SockType::Stream, SockType::SeqPacket] {
        let (ours, theirs) = pair(kind);
        send(&ours, b"never read", &[segment().as_fd()]).unwrap();
        drop(theirs);
        let gone = receive(&ours, &mut [0], 1).unwrap_err();
        assert!(matches!(gone, Error::Disconnected(_)), "{gone}");
        assert_eq!(gone.raw_os_error(), Some(libc::ECONNRESET));
    }
}

#[test]
fn a_peer_that_closes_half_way_through_a_payload_is_told() {
    let (ours, theirs) = pair(SockType::Stream);
    let receiver = thread::spawn(move || {
        let message = receive(&theirs, &mut [0; 16], 1).unwrap();
        assert_eq!(message.descriptors.len(), 1);
        // Ends here, with most of the payload unread.
        drop(theirs);
    });
    let gone =
        send(&ours, &vec![0; 8 << 20], &[segment().as_fd()]).unwrap_err();
    assert!(matches!(gone, Error::Disconnected(_)), "{gone}");
    receiver.join().unwrap();

    let (mut ours, theirs) = pair(SockType::Stream);
    ours.write_all(b"only ha").unwrap();
    drop(ours);
    let message = receive(&theirs, &mut [0; 16], 1).unwrap();
    assert_eq!(message.len, 7);
    let gone = receive(&theirs, &mut [0; 9], 1).unwrap_err();
    assert!(matches!(gone, Error::Disconnected(_)), "{gone}");
}

/// Runs one side under a storm of signals, in a process with one thread, so
/// that all of them go there; and the other side here.
fn in_a_storm(
    storm: impl FnOnce() -> Result<(), Error>,
    calm: impl FnOnce() -> Result<(), Error>,
) {
    let peer = Peer::fork(|_| -> Result<[u8; 0], String> {
        storm_of_signals(100).map_err(|error| error.to_string())?;
        storm().map(|()| []).map_err(|error| error.to_string())
    })
    .unwrap();
    calm().unwrap();
    peer.join(DEADLINE).unwrap();
}

#[test]
fn signals_do_not_interrupt_receiving() {
    const MESSAGES: u8 = 20;
    alone(|| {
        for kind in KINDS {
            let (ours, theirs) = pair(kind);
            let segment = segment();
            let receiving = || {
                for at in 0..MESSAGES {
                    let mut buffer = [0];
                    let message = receive(&ours, &mut buffer, 1)?;
                    assert_eq!(buffer, [at]);
                    let arrived = objects(&message.descriptors);
                    assert_eq!(arrived, [object(&segment)]);
                }
                Ok(())
            };
            in_a_storm(receiving, || {
                for at in 0..MESSAGES {
                    // Signals come while the other side waits.
                    thread::sleep(Duration::from_millis(1));
                    send(&theirs, &[at], &[segment.as_fd()])?;
                }
                Ok(())
            });
        }
    });
}

#[test]
fn signals_do_not_interrupt_sending() {
    // Either is more than a socket holds at once.
    let (one, many) = ((1, 1 << 20), (12, 60_000));
    alone(|| {
        for (kind, (messages, len), nonblocking) in [
            (SockType::Stream, one, false),
            (SockType::Stream, one, true),
            (SockType::SeqPacket, many, false),
            (SockType::Datagram, many, false),
        ] {
            let (ours, theirs) = pair(kind);
            ours.set_nonblocking(nonblocking).unwrap();
            let segment = segment();
            let payload = pattern(7, len);
            let sending = || {
                for _ in 0..messages {
                    send(&ours, &payload, &[segment.as_fd(); 2])?;
                }
                Ok(())
            };
            in_a_storm(sending, || {
                let mut buffer = vec![0; len];
                let (mut received, mut descriptors) = (Vec::new(), 0);
                while received.len() < messages * len {
                    // Signals come while the other side waits for room.
                    thread::sleep(Duration::from_millis(2));
                    let message = receive(&theirs, &mut buffer, 2)?;
                    received.extend_from_slice(&buffer[..message.len]);
                    descriptors += message.descriptors.len();
                }
                assert!(received == payload.repeat(messages), "{kind:?}");
                assert_eq!(descriptors, 2 * messages, "{kind:?}");
                Ok(())
            });
        }
    });
}

#[test]
fn what_is_under_way_when_the_receiver_dies_is_freed() {
    alone(|| {
        for kind in KINDS {
            let (ours, theirs) = pair(kind);
            let (reader, writer) = std::io::pipe().unwrap();
            let peer = Peer::fork(|link| {
                link.send("holding")?;
                link.receive()
            });
            let mut peer = peer.unwrap();
            peer.receive().unwrap();
            send(&ours, b"!", &[writer.as_fd()]).unwrap();
            drop((writer, theirs));
            assert!(!has_ended(&reader, Duration::ZERO));
            // Only the peer has the socket, in which the descriptor lies.
            peer.kill().unwrap();
            assert!(has_ended(&reader, DEADLINE), "{kind:?}");
        }
    });
}

/// Whether nobody has the other end of the pipe open any more.
fn has_ended(reader: &PipeReader, within: Duration) -> bool {
    let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
    let within = PollTimeout::try_from(within).unwrap();
    poll(&mut fds, within).unwrap();
    fds[0].revents().unwrap().contains(PollFlags::POLLHUP) && { reader }
        .read(&mut [0])
        .unwrap()
        == 0
}

#[test]
fn too_many_descriptors_under_way_are_a_limit_and_not_a_loss() {
    // The limit is the user's, so this user must be nobody else's.
    const NOBODY_ELSE: u32 = 61_347;
    alone_as_root(|| {
        let (ours, _theirs) = pair(SockType::Stream);
        let segment = segment();
        let peer = Peer::fork_as(NOBODY_ELSE, |_| -> Result<String, String> {
            limit(Resource::RLIMIT_NOFILE, 100).map_err(|e| e.to_string())?;
            for sent in 0..10 {
                match send(&ours, b"!", &[segment.as_fd(); 50]) {
                    Ok(()) => {}
                    Err(Error::LimitReached(os)) if sent > 1 => {
                        return Ok(os.to_string());
                    }
                    Err(error) => return Err(format!("{sent}: {error}")),
                }
            }
            Err("no limit was reached".into())
        });
        let told = peer.unwrap().unwrap().join(DEADLINE).unwrap();
        let told = String::from_utf8(told).unwrap();
        assert!(told.contains("ETOOMANYREFS"), "{told}");
    });
}

/// A socket that waits for connections, without a file, and its address.
fn listener(tag: &str) -> (UnixListener, SocketAddr) {
    let address = SocketAddr::from_abstract_name(unique_name(tag)).unwrap();
    (UnixListener::bind_addr(&address).unwrap(), address)
}

#[test]
fn the_kernel_tells_who_the_peer_is() {
    alone(|| {
        let (listener, address) = listener("peer");
        let peer = Peer::fork(|link| {
            let _stream = UnixStream::connect_addr(&address)?;
            link.receive()
        })
        .unwrap();
        let (stream, _) = listener.accept().unwrap();
        let credentials = peer_credentials(&stream).unwrap();
        assert_eq!(credentials.pid, peer.pid());
        assert_eq!(credentials.uid, nix::unistd::geteuid().as_raw());
        assert_eq!(credentials.gid, nix::unistd::getegid().as_raw());
        peer.send("done").unwrap();
        peer.join(DEADLINE).unwrap();
        // They are of when it connected: it may be gone.
        assert_eq!(peer_credentials(&stream).unwrap(), credentials);
    });
}

#[test]
fn what_has_no_peer_has_no_credentials() {
    let without = [
        OwnedFd::from(segment()),
        OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap()),
        OwnedFd::from(UnixDatagram::unbound().unwrap()),
    ];
    for fd in &without {
        let refused = peer_credentials(fd).unwrap_err();
        assert!(matches!(refused, Error::WrongKind { .. }), "{refused}");
    }
}

#[test]
fn a_peer_of_another_user_is_told_as_such_and_can_use_what_it_is_sent() {
    const ANOTHER: u32 = 61_348;
    alone_as_root(|| {
        let (listener, address) = listener("another");
        let peer = Peer::fork_as(ANOTHER, |_| -> Result<Vec<u8>, String> {
            let use_it = || -> Result<(), Box<dyn std::error::Error>> {
                let stream = UnixStream::connect_addr(&address)?;
                let message = receive(&stream, &mut [0], 1)?;
                let [fd] = message.into_descriptors()?;
                let mapping = Segment::open(fd)?.map()?;
                Ok(mapping.bytes().write_at(0, b"theirs")?)
            };
            use_it().map(|()| Vec::new()).map_err(|e| e.to_string())
        });
        let peer = peer.unwrap().unwrap();
        let (stream, _) = listener.accept().unwrap();
        let credentials = peer_credentials(&stream).unwrap();
        assert_eq!(credentials.pid, peer.pid());
        assert_eq!((credentials.uid, credentials.gid), (ANOTHER, ANOTHER));
        let segment = segment();
        send(&stream, b"!", &[segment.as_fd()]).unwrap();
        peer.join(DEADLINE).unwrap();
        let mapping = segment.map().unwrap();
        assert_eq!(mapping.bytes().get(0), Ok(*b"theirs"));
    });
}

/// One message of the property test: its length, and which of the segments go
/// with it.
type Sketch = (usize, Vec<usize>);

fn sketches() -> impl Strategy<Value = Vec<Sketch>> {
    let len = prop_oneof![1..100_usize, 1..60_000_usize];
    let which = prop::collection::vec(0..8_usize, 1..20);
    prop::collection::vec((len, which), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_sequence_of_messages_arrives_as_it_was_sent(
        kind in prop::sample::select(&KINDS[..]),
        messages in sketches(),
        piece in 1..70_000_usize,
    ) {
        let (ours, theirs) = pair(kind);
        let known = segments(8);
        let expected = messages.clone();
        thread::scope(|scope| {
            let known = &known;
            // Moved in, so that the sending ends if this fails.
            let receiver = scope.spawn(move || {
                for (seed, (len, which)) in expected.iter().enumerate() {
                    let message = match kind {
                        SockType::Stream => {
                            receive_in_pieces(&theirs, *len, piece)
                        }
                        _ => receive_at_once(&theirs, *len),
                    };
                    let objects_sent: Vec<_> =
                        which.iter().map(|&at| object(&known[at])).collect();
                    assert!(message.0 == pattern(seed, *len));
                    assert_eq!(objects(&message.1), objects_sent);
                }
            });
            for (seed, (len, which)) in messages.iter().enumerate() {
                let with: Vec<_> =
                    which.iter().map(|&at| known[at].as_fd()).collect();
                send(&ours, &pattern(seed, *len), &with).unwrap();
            }
            receiver.join().unwrap();
        });
    }
}

fn receive_at_once(socket: &UnixStream, len: usize) -> (Vec<u8>, Vec<OwnedFd>) {
    // With room to spare, which a datagram must not fill.
    let mut bytes = vec![0; len + 100];
    let Message { len, descriptors, .. } =
        receive(socket, &mut bytes, MAX_DESCRIPTORS).unwrap();
    bytes.truncate(len);
    (bytes, descriptors)
}

fn receive_in_pieces(
    socket: &UnixStream,
    len: usize,
    piece: usize,
) -> (Vec<u8>, Vec<OwnedFd>) {
    let mut bytes = vec![0; len];
    let mut descriptors = None;
    let mut at = 0;
    while at < len {
        let end = len.min(at + piece);
        let message =
            receive(socket, &mut bytes[at..end], MAX_DESCRIPTORS).unwrap();
        at += message.len;
        match &descriptors {
            None => descriptors = Some(message.descriptors),
            Some(_) => assert!(message.descriptors.is_empty()),
        }
    }
    (bytes, descriptors.unwrap())
}
