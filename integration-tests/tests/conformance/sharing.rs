//! What one process writes, another reads.
#![expect(unsafe_code, reason = "stores around a read-only view")]

use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};

use integration_tests::peer::{DEADLINE, JoinError};
use integration_tests::surroundings::limit;
use nix::sys::resource::Resource;
use nix::sys::signal::Signal;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use shm_common::AsSharedBytes;

use crate::mechanism::Mechanism;
use crate::pieces::{Model, odd, pieces, sizes};
use crate::{Shared, child, hear, join, page, wait_for};

pub(crate) fn what_the_parent_writes_the_child_reads<M: Mechanism>() {
    for size in sizes::<M>() {
        let shared = Shared::<M>::new(size);
        let mut reader = child(|link| {
            let mapping = shared.open();
            let mut model = Model::new(size);
            for (seed, piece) in pieces(size).into_iter().enumerate() {
                link.receive().unwrap();
                model.write(piece.clone(), seed);
                model.check(mapping.as_shared_bytes(), piece);
                link.send("read").unwrap();
            }
        });
        let mapping = shared.map();
        let mut model = Model::new(size);
        for (seed, piece) in pieces(size).into_iter().enumerate() {
            let data = model.write(piece.clone(), seed);
            mapping.as_shared_bytes().write_at(piece.start, data).unwrap();
            reader.send("written").unwrap();
            reader = hear(reader);
        }
        join(reader);
    }
}

pub(crate) fn what_the_child_writes_the_parent_reads<M: Mechanism>() {
    for size in sizes::<M>() {
        let shared = Shared::<M>::new(size);
        let mut writer = child(|link| {
            let mapping = shared.open();
            let mut model = Model::new(size);
            for (seed, piece) in pieces(size).into_iter().enumerate() {
                let data = model.write(piece.clone(), seed);
                mapping.as_shared_bytes().write_at(piece.start, data).unwrap();
                link.send("written").unwrap();
                link.receive().unwrap();
            }
        });
        let mapping = shared.map();
        let mut model = Model::new(size);
        for (seed, piece) in pieces(size).into_iter().enumerate() {
            writer = hear(writer);
            model.write(piece.clone(), seed);
            model.check(mapping.as_shared_bytes(), piece);
            writer.send("read").unwrap();
        }
        join(writer);
    }
}

/// They agree on turns by a word in the segment, and by nothing else.
pub(crate) fn two_children_see_each_others_writes<M: Mechanism>() {
    const ROUNDS: u32 = 100;
    let shared = Shared::<M>::new(2 * page());
    // Across the boundary of the two pages.
    let at = page() - 4;
    let [even, odd] = [0, 1].map(|own| {
        child(|_| {
            let mapping = shared.open();
            let bytes = mapping.as_shared_bytes();
            let turn = bytes.atomic_u32(0).unwrap();
            for round in (own..ROUNDS).step_by(2) {
                wait_for(|| turn.load(Acquire) == round);
                if round > 0 {
                    let others = u64::from(round - 1) << 32 | 0xabcd;
                    assert_eq!(bytes.get(at), Ok(others));
                }
                bytes.set(at, u64::from(round) << 32 | 0xabcd).unwrap();
                turn.store(round + 1, Release);
            }
        })
    });
    join(even);
    join(odd);
    let mapping = shared.map();
    assert_eq!(mapping.as_shared_bytes().load_u32(0), Ok(ROUNDS));
}

pub(crate) fn an_atomic_counter_loses_nothing<M: Mechanism>() {
    const PROCESSES: u32 = 4;
    // Long enough for them to meet, also on one processor.
    const EACH: u64 = 500_000;
    let counter_at = page() + 8;
    let shared = Shared::<M>::new(2 * page());
    let children: Vec<_> = (0..PROCESSES)
        .map(|_| {
            child(|_| {
                let mapping = shared.open();
                let bytes = mapping.as_shared_bytes();
                let counter = bytes.atomic_u64(counter_at).unwrap();
                // All at once, so that they do get into each other's way.
                let ready = bytes.atomic_u32(0).unwrap();
                ready.fetch_add(1, AcqRel);
                wait_for(|| ready.load(Acquire) == PROCESSES);
                for _ in 0..EACH {
                    counter.fetch_add(1, AcqRel);
                }
            })
        })
        .collect();
    children.into_iter().for_each(join);
    let counted = shared.map().as_shared_bytes().load_u64(counter_at);
    assert_eq!(counted, Ok(u64::from(PROCESSES) * EACH));
}

pub(crate) fn random_writes_of_a_child_are_read_identically<M: Mechanism>() {
    let case = (1..3 * page()).prop_flat_map(|size| {
        let write = (0..size).prop_flat_map(move |offset| {
            let longest = (size - offset).min(600);
            let data = prop::collection::vec(any::<u8>(), 0..=longest);
            (Just(offset), data)
        });
        (Just(size), prop::collection::vec(write, 1..24))
    });
    let config =
        Config { cases: 16, failure_persistence: None, ..Config::default() };
    let checked = TestRunner::new(config).run(&case, |(size, writes)| {
        let shared = Shared::<M>::new(size);
        join(child(|_| {
            let mapping = shared.open();
            for (offset, data) in &writes {
                mapping.as_shared_bytes().write_at(*offset, data).unwrap();
            }
        }));
        let mut model = Model::new(size);
        for (offset, data) in &writes {
            model.put(*offset, data);
        }
        model.check(shared.map().as_shared_bytes(), 0..size);
        Ok(())
    });
    checked.unwrap_or_else(|error| panic!("{error}"));
}

/// A store through the view does not compile; one around it is a signal.
pub(crate) fn a_read_only_child_reads_and_cannot_write<M: Mechanism>() {
    let shared = Shared::<M>::new(odd::<M>());
    let mapping = shared.map();
    mapping.as_shared_bytes().fill(7);
    for offset in [0, page()] {
        let writer = child(|link| {
            let mapping = shared.open_read_only();
            let bytes = mapping.as_shared_bytes();
            assert_eq!(bytes.get::<u8>(offset), Ok(7));
            link.send("read").unwrap();
            // No core file of what is meant to happen.
            limit(Resource::RLIMIT_CORE, 0).unwrap();
            let address = bytes.as_ptr().wrapping_add(offset).cast_mut();
            // SAFETY: inside the mapping, of which this process holds no
            // reference. The kernel refuses the store.
            unsafe { address.write_volatile(8) };
        });
        let ended = hear(writer).join(DEADLINE);
        assert!(
            matches!(ended, Err(JoinError::Killed(Signal::SIGSEGV))),
            "{ended:?}"
        );
        assert_eq!(mapping.as_shared_bytes().get::<u8>(offset), Ok(7));
    }
}
