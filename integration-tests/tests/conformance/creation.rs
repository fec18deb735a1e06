//! What a new segment is, and what is left of one that failed.

use std::fs;

use integration_tests::surroundings::limit;
use libc::{EFBIG, ENOMEM};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{SigSet, Signal};
use shm_common::{AsSharedBytes, Error, Size};

use crate::mechanism::Mechanism;
use crate::pieces::{odd, sizes};
use crate::{Place, Shared, child, join, page};

pub(crate) fn the_length_is_as_asked_for_and_the_mapping_whole_pages<
    M: Mechanism,
>() {
    assert!(matches!(Size::new(0), Err(Error::InvalidSize { .. })));
    for size in sizes::<M>() {
        let whole = size.div_ceil(page()) * page();
        let shared = Shared::<M>::new(size);
        let check = |mapping: &M::Mapping| {
            assert_eq!(M::len(mapping), size);
            assert_eq!(mapping.as_shared_bytes().len(), size);
            assert_eq!(M::mapped_len(mapping), whole);
            assert!(mapping.as_shared_bytes().get::<u8>(size).is_err());
        };
        check(&shared.map());
        join(child(|_| {
            check(&shared.open());
            let read_only = shared.open_read_only();
            assert_eq!(read_only.as_shared_bytes().len(), size);
        }));
    }
}

pub(crate) fn fresh_contents_are_zero<M: Mechanism>() {
    for size in sizes::<M>() {
        // The kernel may well give the second one the first one's pages.
        for _ in 0..2 {
            let shared = Shared::<M>::new(size);
            join(child(|_| {
                assert_eq!(
                    shared.open().as_shared_bytes().to_vec(),
                    [0].repeat(size)
                );
            }));
            shared.map().as_shared_bytes().fill(0xa5);
        }
    }
}

/// Where there is no room for its size: at the second call, when the object
/// exists already. A file is refused its length, a System V segment its
/// addresses.
pub(crate) fn a_failed_create_leaves_nothing<M: Mechanism>() {
    let place = Place::<M>::new();
    join(child(|_| {
        let room = [
            (Resource::RLIMIT_FSIZE, 1 << 20),
            (Resource::RLIMIT_AS, mapped_now() + (32 << 20)),
        ];
        let before = room.map(|(resource, _)| getrlimit(resource).unwrap().0);
        // Held back, so that a file that is too long is an error.
        SigSet::from(Signal::SIGXFSZ).thread_block().unwrap();
        for (resource, to) in room {
            limit(resource, to).unwrap();
        }
        let size = Size::MIB.times(64).unwrap();
        let error = M::create(&place.at, size).map(drop).unwrap_err();
        for ((resource, _), to) in room.into_iter().zip(before) {
            limit(resource, to).unwrap();
        }
        let errno = error.raw_os_error();
        assert!(matches!(errno, Some(EFBIG | ENOMEM)), "{error}");
        assert!(!M::is_there(&place.at));
        // Neither is the place spoilt.
        let segment = M::create(&place.at, size).unwrap();
        assert!(M::is_there(&place.at));
        drop(segment);
    }));
    assert!(!M::is_there(&place.at));
}

/// The bytes of this process's address space that are in use.
fn mapped_now() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
    pages * page() as u64
}

pub(crate) fn an_existing_segment_is_untouched_by_another_create<
    M: Mechanism,
>() {
    let shared = Shared::<M>::new(odd::<M>());
    shared.map().as_shared_bytes().fill(7);
    for size in [1, odd::<M>(), 9 * page()] {
        let second = M::create(&shared.place.at, Size::new(size).unwrap());
        if M::EXCLUSIVE {
            let error = second.map(drop).unwrap_err();
            assert!(matches!(error, Error::AlreadyExists(_)), "{error}");
        } else {
            let mapping = M::map(&second.unwrap()).unwrap();
            mapping.as_shared_bytes().fill(8);
        }
    }
    let found = shared.open();
    assert_eq!(found.as_shared_bytes().to_vec(), [7].repeat(odd::<M>()));
}
