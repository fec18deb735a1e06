//! Who and what a segment outlives.

use std::panic::{AssertUnwindSafe, catch_unwind};

use integration_tests::peer::{DEADLINE, JoinError};
use shm_common::{AsSharedBytes, Size};

use crate::mechanism::Mechanism;
use crate::pieces::odd;
use crate::{Place, Shared, child, hear, join, page, panic_quietly};

pub(crate) fn a_mapping_outlives_its_handle<M: Mechanism>() {
    let shared = Shared::<M>::new(odd::<M>());
    let other = child(|link| {
        let mapping = shared.open();
        link.send("mapped").unwrap();
        link.receive().unwrap();
        assert_eq!(mapping.as_shared_bytes().get(page() - 1), Ok(*b"to"));
        mapping.as_shared_bytes().set(0, *b"fro").unwrap();
    });
    let mapping = shared.map();
    let other = hear(other);
    let Shared { place, segment } = shared;
    drop(segment);
    M::clear(&place.at);
    mapping.as_shared_bytes().set(page() - 1, *b"to").unwrap();
    other.send("written").unwrap();
    join(other);
    assert_eq!(mapping.as_shared_bytes().get(0), Ok(*b"fro"));
    drop(mapping);
    assert!(!M::is_there(&place.at));
}

/// Where the system keeps nothing, while somebody holds the descriptor.
pub(crate) fn contents_survive_the_exit_of_their_creator<M: Mechanism>() {
    let place = Place::<M>::new();
    join(child(|_| {
        let size = Size::new(odd::<M>()).unwrap();
        let mut segment = M::create(&place.at, size).unwrap();
        let mapping = M::map(&segment).unwrap();
        mapping.as_shared_bytes().fill(7);
        M::offer(&place.at, &segment).unwrap();
        M::keep(&mut segment);
    }));
    join(child(|_| {
        let mapping = M::open(&place.at).unwrap();
        let found = mapping.as_shared_bytes().to_vec();
        assert_eq!(found, [7].repeat(odd::<M>()));
    }));
}

pub(crate) fn removal_leaves_the_bytes_to_those_who_have_them<M: Mechanism>() {
    let mut shared = Shared::<M>::new(page());
    let mapping = shared.map();
    mapping.as_shared_bytes().set(0, *b"before").unwrap();
    let other = child(|link| {
        let mapping = shared.open();
        link.send("mapped").unwrap();
        link.receive().unwrap();
        assert_eq!(mapping.as_shared_bytes().get(0), Ok(*b"before"));
        mapping.as_shared_bytes().set(8, *b"after").unwrap();
        let error = M::open(&shared.place.at).map(drop).unwrap_err();
        assert!(M::is_absent(&error), "{error}");
    });
    let other = hear(other);
    M::remove(&shared.place.at, &mut shared.segment).unwrap();
    other.send("removed").unwrap();
    join(other);
    assert_eq!(mapping.as_shared_bytes().get(8), Ok(*b"after"));
    assert_eq!(shared.map().as_shared_bytes().get(8), Ok(*b"after"));
    let error = M::open_read_only(&shared.place.at).map(drop).unwrap_err();
    assert!(M::is_absent(&error), "{error}");
}

pub(crate) fn dropping_what_create_returned_removes_it<M: Mechanism>() {
    let place = Place::<M>::new();
    let segment = M::create(&place.at, Size::KIB).unwrap();
    assert!(M::is_there(&place.at));
    drop(segment);
    assert!(!M::is_there(&place.at));
}

pub(crate) fn an_unwinding_panic_removes_it<M: Mechanism>() {
    let place = Place::<M>::new();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let segment = M::create(&place.at, Size::KIB).unwrap();
        let _mapping = M::map(&segment).unwrap();
        assert!(M::is_there(&place.at));
        panic_quietly();
    }));
    assert_eq!(
        *panicked.unwrap_err().downcast::<&str>().unwrap(),
        "on purpose"
    );
    assert!(!M::is_there(&place.at));
}

pub(crate) fn a_child_that_ends_removes_nothing_of_its_parents<M: Mechanism>() {
    let shared = Shared::<M>::new(page());
    let mapping = shared.map();
    mapping.as_shared_bytes().fill(7);
    let Shared { place, segment } = shared;
    // Each child has a copy of these, and the parent goes on having its own.
    let mut owned = Some((segment, mapping));
    join(child(|_| {}));
    join(child(|_| drop(owned.take())));
    let panicked = child(|_| {
        let _owned = owned.take();
        panic!("on purpose");
    });
    let ended = panicked.join(DEADLINE);
    assert!(matches!(ended, Err(JoinError::Panicked(_))), "{ended:?}");
    let (segment, mapping) = owned.take().unwrap();
    assert!(M::is_there(&place.at));
    let found = M::open(&place.at).unwrap();
    assert_eq!(found.as_shared_bytes().to_vec(), [7].repeat(page()));
    assert_eq!(mapping.as_shared_bytes().to_vec(), [7].repeat(page()));
    drop((found, mapping, segment));
    assert!(!M::is_there(&place.at));
}
