//! Processes that are no children of the creator's, in memory or in rights.

use std::os::fd::OwnedFd;

use integration_tests::peer::{DEADLINE, Link, Peer};
use integration_tests::program::Program;
use nix::sys::stat::{Mode, umask};
use shm_common::{AsSharedBytes, Error, Result, Size};

use crate::mechanism::Mechanism;
use crate::pieces::odd;
use crate::{Infallible, Place, Shared, join, page};

pub(crate) fn a_separate_program_finds_it_by_what_it_is_told<M: Mechanism>(
    program: &Program,
) {
    let shared = Shared::<M>::new(odd::<M>());
    let mapping = shared.map();
    mapping.as_shared_bytes().set(page() - 3, *b"ping").unwrap();
    let (words, descriptors) = M::tell(&shared.place.at);
    let peer = program.start(&descriptors).unwrap();
    peer.send(words).unwrap();
    join(peer);
    assert_eq!(mapping.as_shared_bytes().get(page() - 3), Ok(*b"pong"));
}

/// The program's part.
pub(crate) fn answer<M: Mechanism>(link: &Link, descriptors: Vec<OwnedFd>) {
    let words = String::from_utf8(link.receive().unwrap()).unwrap();
    let place = M::told(&words, descriptors);
    let mapping = M::open(&place).unwrap();
    let bytes = mapping.as_shared_bytes();
    assert_eq!(bytes.len(), odd::<M>());
    assert_eq!(bytes.get(page() - 3), Ok(*b"ping"));
    bytes.set(page() - 3, *b"pong").unwrap();
    let read_only = M::open_read_only(&place).unwrap();
    assert_eq!(read_only.as_shared_bytes().get(page() - 3), Ok(*b"pong"));
}

/// The umask has no say in it. A descriptor that was handed over works whatever
/// the mode.
pub(crate) fn another_user_may_do_what_the_mode_allows<M: Mechanism>() {
    const ANOTHER: u32 = 61_235;
    umask(Mode::from_bits_truncate(0o077));
    for (mode, reads, writes) in [
        (0o600, false, false),
        (0o060, false, false),
        (0o604, true, false),
        (0o644, true, false),
        (0o666, true, true),
    ] {
        let place = Place::<M>::new();
        let segment = M::create_with_mode(&place.at, Size::KIB, mode).unwrap();
        M::offer(&place.at, &segment).unwrap();
        let mapping = M::map(&segment).unwrap();
        mapping.as_shared_bytes().set(0, *b"theirs").unwrap();
        let allows = |wanted| wanted || !M::MODE_DECIDES;
        let other = Peer::fork_as(ANOTHER, |_| {
            let read = M::open_read_only(&place.at).map(|mapping| {
                assert_eq!(mapping.as_shared_bytes().get(0), Ok(*b"theirs"));
            });
            check(read, allows(reads));
            let written = M::open(&place.at).map(|mapping| {
                mapping.as_shared_bytes().set(0, *b"others").unwrap();
            });
            check(written, allows(writes));
            Ok::<_, Infallible>([])
        });
        let other = other.unwrap().unwrap();
        let ended = other.join(DEADLINE);
        ended.unwrap_or_else(|error| panic!("mode {mode:o}: {error}"));
        let expected = if allows(writes) { b"others" } else { b"theirs" };
        assert_eq!(mapping.as_shared_bytes().get(0), Ok(*expected));
    }
}

fn check(result: Result<()>, allowed: bool) {
    match result {
        Ok(()) => assert!(allowed, "allowed"),
        Err(Error::PermissionDenied(_)) => assert!(!allowed, "denied"),
        Err(error) => panic!("{error}"),
    }
}
