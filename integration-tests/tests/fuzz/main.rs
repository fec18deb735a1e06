//! Fuzz targets: whatever bytes come, a typed error or a value, and nothing
//! held afterwards that was not held before.
//!
//! A plain `cargo test` replays the corpus in `__fuzz__` and tries some random
//! inputs. To look longer, with coverage, on a nightly toolchain:
//! `cargo bolero test -p integration-tests a_message -T 10min`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use bolero::check;
use integration_tests::alone::alone;
use integration_tests::leaks::Snapshot;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, setsockopt, socketpair,
    sockopt,
};
use shm_common::{Error, Size};
use shm_memfd::{Label, raw, transfer};
use shm_posix::Name;
use shm_sysv::Key;

#[test]
fn a_size() {
    check!().for_each(|input: &[u8]| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        match text.parse::<Size>() {
            Ok(size) => {
                assert!(
                    (1..=isize::MAX.unsigned_abs()).contains(&size.bytes())
                );
                // What it prints, it reads.
                assert_eq!(size.to_string().parse(), Ok(size));
            }
            Err(error) => {
                assert!(matches!(error, Error::InvalidSize { .. }));
                assert!(!error.to_string().is_empty());
            }
        }
    });
}

#[test]
fn a_name() {
    check!().for_each(|input: &[u8]| {
        match Name::new(OsStr::from_bytes(input)) {
            Ok(name) => {
                let tail = name.as_c_str().to_bytes().strip_prefix(b"/");
                let tail = tail.unwrap();
                assert!((1..=Name::MAX_LEN).contains(&tail.len()));
                assert!(!tail.contains(&b'/'));
                assert!(!matches!(tail, b"." | b".."));
                assert!(name.path().starts_with("/dev/shm"));
                assert_eq!(
                    name.path().file_name(),
                    Some(OsStr::from_bytes(tail))
                );
            }
            Err(error) => {
                assert!(matches!(error, Error::InvalidName { .. }));
            }
        }
    });
}

#[test]
fn a_label() {
    check!().for_each(|input: &[u8]| {
        match Label::new(OsStr::from_bytes(input)) {
            // The kernel takes each that we take.
            Ok(label) => drop(raw::memfd_create(label.as_c_str(), 0).unwrap()),
            Err(error) => {
                assert!(matches!(error, Error::InvalidName { .. }));
            }
        }
    });
}

#[test]
fn a_key() {
    check!().for_each(|input: &[u8]| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        match text.parse::<Key>() {
            Ok(key) => {
                // In both ways that people write it.
                let number = key.as_raw();
                assert_eq!(number.to_string().parse(), Ok(key));
                assert_eq!(format!("{number:#x}").parse(), Ok(key));
            }
            Err(error) => {
                assert!(matches!(error, Error::InvalidName { .. }));
            }
        }
    });
}

/// A message of any shape over any kind of socket, received with any room.
#[test]
fn a_message() {
    alone(|| {
        let memfd = raw::memfd_create(c"fuzz", libc::MFD_CLOEXEC).unwrap();
        check!().for_each(|input: &[u8]| {
            // Spelled out, so that the corpus can be written by hand.
            let mut bytes = input.iter().copied().map(usize::from);
            let mut next = || bytes.next().unwrap_or_default();
            let exchange = Exchange {
                kind: next() % 3,
                with_credentials: next() % 2 == 1,
                payload: next() * 17,
                descriptors: next() % 255,
                room: next() * 9,
                max: next(),
                closes: next() % 2 == 1,
            };
            let before = Snapshot::take().unwrap();
            exchange.run(&memfd);
            assert_eq!(before, Snapshot::take().unwrap(), "{exchange:?}");
        });
    });
}

#[derive(Debug)]
struct Exchange {
    kind: usize,
    /// The receiver asks for the sender's credentials too.
    with_credentials: bool,
    payload: usize,
    descriptors: usize,
    room: usize,
    max: usize,
    /// The sender closes its end before the receiver looks.
    closes: bool,
}

impl Exchange {
    fn run(&self, memfd: &OwnedFd) {
        let kinds = [SockType::Stream, SockType::SeqPacket, SockType::Datagram];
        let kind = kinds[self.kind];
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            kind,
            None,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        )
        .unwrap();
        setsockopt(&ours, sockopt::PassCred, &self.with_credentials).unwrap();
        let payload = vec![7; self.payload];
        let borrowed = vec![memfd.as_fd(); self.descriptors];
        // The socket types of std: a datagram socket sends as well.
        let socket = std::os::unix::net::UnixStream::from(theirs);
        match transfer::send(&socket, &payload, &borrowed) {
            Ok(()) => assert!(self.can_be_sent(), "sent"),
            Err(error) => assert!(!self.can_be_sent(), "{error}"),
        }
        if !self.can_be_sent() && self.payload > 0 {
            // Bytes alone.
            let flags = MsgFlags::MSG_NOSIGNAL;
            let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
            nix::sys::socket::send(fd, &payload, flags).unwrap();
        }
        if self.closes {
            drop(socket);
        }
        let mut room = vec![0; self.room];
        match transfer::receive(&ours, &mut room, self.max) {
            Ok(message) => {
                assert!(message.len <= room.len());
                assert!(room[..message.len].iter().all(|byte| *byte == 7));
                let all = if self.can_be_sent() { self.descriptors } else { 0 };
                assert_eq!(message.descriptors.len(), all);
                assert!(all <= self.max);
            }
            Err(Error::EmptyMessage) => assert_eq!(self.room, 0),
            Err(Error::DescriptorsTruncated { received, max }) => {
                assert_eq!((received, max), (self.descriptors, self.max));
            }
            Err(Error::MessageTruncated { capacity }) => {
                assert_ne!(kind, SockType::Stream);
                assert!(capacity < self.payload);
            }
            Err(Error::Disconnected(_) | Error::WouldBlock(_)) => {
                assert_eq!(self.payload, 0);
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn can_be_sent(&self) -> bool {
        self.payload > 0
            && (1..=transfer::MAX_DESCRIPTORS).contains(&self.descriptors)
    }
}
