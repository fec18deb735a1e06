//! One suite for every mechanism: what one process writes, another reads, and
//! what must survive survives.
//!
//! The suite is written once, against the trait [`Mechanism`];
//! `conformance!` makes the tests of each mechanism from it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod creation;
mod lifetime;
mod mechanism;
mod pieces;
mod sharing;
mod strangers;
mod waiting;

use std::convert::Infallible;
use std::panic::resume_unwind;
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use integration_tests::alone::alone_as_root;
use integration_tests::peer::{DEADLINE, Link, Peer};
use integration_tests::program::Program;
use libtest_mimic::{Arguments, Completion, Trial};
use mechanism::{Dmabuf, Mechanism, Memfd, Posix, SysV};
use shm_common::{PageSize, Size};

/// A segment that others find at its place, removed at the end of the test
/// whatever happens.
struct Shared<M: Mechanism> {
    place: Place<M>,
    segment: M::Segment,
}

impl<M: Mechanism> Shared<M> {
    fn new(bytes: usize) -> Self {
        let place = Place::new();
        let segment = M::create(&place.at, Size::new(bytes).unwrap()).unwrap();
        M::offer(&place.at, &segment).unwrap();
        Self { place, segment }
    }

    fn map(&self) -> M::Mapping {
        M::map(&self.segment).unwrap()
    }

    fn open(&self) -> M::Mapping {
        M::open(&self.place.at).unwrap()
    }

    fn open_read_only(&self) -> M::ReadMapping {
        M::open_read_only(&self.place.at).unwrap()
    }
}

/// A place that is cleared at the end of the test, by the process that made it.
struct Place<M: Mechanism> {
    at: M::Place,
    maker: u32,
}

impl<M: Mechanism> Place<M> {
    fn new() -> Self {
        Self { at: M::place(), maker: std::process::id() }
    }
}

impl<M: Mechanism> Drop for Place<M> {
    fn drop(&mut self) {
        if self.maker == std::process::id() {
            M::clear(&self.at);
        }
    }
}

fn page() -> usize {
    PageSize::base().bytes()
}

/// Forks a child that fails by panicking.
fn child(body: impl FnOnce(&Link)) -> Peer {
    Peer::fork(|link| {
        body(link);
        Ok::<_, Infallible>([])
    })
    .unwrap()
}

/// Waits for a child that shall end well.
fn join(peer: Peer) {
    peer.join(DEADLINE).unwrap_or_else(|error| panic!("{error}"));
}

/// Waits for a message of a child, and says why if there is none.
fn hear(mut peer: Peer) -> Peer {
    if let Err(error) = peer.receive() {
        join(peer);
        panic!("no message: {error}");
    }
    peer
}

/// Waits until the condition holds, without help of the kernel: for what only
/// the shared memory tells.
fn wait_for(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "still waiting at the deadline");
        thread::yield_now();
    }
}

/// Panics without a word on the terminal.
fn panic_quietly() -> ! {
    resume_unwind(Box::new("on purpose"))
}

macro_rules! conformance {
    ($($module:ident for $mechanism:ident: $($extra:ident::$more:ident)*;)*) => {
        $(mod $module {
            use super::*;

            pub(super) fn trials() -> Vec<Trial> {
                tests! { $mechanism:
                    sharing::what_the_parent_writes_the_child_reads
                    sharing::what_the_child_writes_the_parent_reads
                    sharing::two_children_see_each_others_writes
                    sharing::an_atomic_counter_loses_nothing
                    sharing::random_writes_of_a_child_are_read_identically
                    sharing::a_read_only_child_reads_and_cannot_write
                    waiting::a_lock_is_waited_for_or_cannot_be_made
                    creation::the_length_is_as_asked_for_and_the_mapping_whole_pages
                    creation::fresh_contents_are_zero
                    creation::an_existing_segment_is_untouched_by_another_create
                    lifetime::a_mapping_outlives_its_handle
                    lifetime::contents_survive_the_exit_of_their_creator
                    lifetime::removal_leaves_the_bytes_to_those_who_have_them
                    lifetime::dropping_what_create_returned_removes_it
                    lifetime::an_unwinding_panic_removes_it
                    lifetime::a_child_that_ends_removes_nothing_of_its_parents
                    $($extra::$more)*;
                    // They know themselves by their names.
                    a_separate_program_finds_it_by_what_it_is_told
                    another_user_may_do_what_the_mode_allows
                }
            }

            fn a_separate_program_finds_it_by_what_it_is_told() {
                let program = Program::here(|link, descriptors| {
                    strangers::answer::<$mechanism>(link, descriptors);
                    Ok::<_, Infallible>([])
                });
                strangers::a_separate_program_finds_it_by_what_it_is_told::<
                    $mechanism,
                >(&program);
            }

            fn another_user_may_do_what_the_mode_allows() {
                alone_as_root(|| {
                    strangers::another_user_may_do_what_the_mode_allows::<
                        $mechanism,
                    >();
                });
            }
        })*

        fn main() -> ExitCode {
            let tests = [$($module::trials()),*];
            let arguments = Arguments::from_args();
            let tests = tests.into_iter().flatten().collect();
            libtest_mimic::run(&arguments, tests).exit_code()
        }
    };
}

macro_rules! tests {
    ($mechanism:ident: $($file:ident::$test:ident)*; $($own:ident)*) => {
        vec![
            $(trial::<$mechanism>(
                concat!(module_path!(), "::", stringify!($test)),
                $file::$test::<$mechanism>,
            ),)*
            $(trial::<$mechanism>(
                concat!(module_path!(), "::", stringify!($own)),
                $own,
            ),)*
        ]
    };
}

/// A test, which is ignored where the mechanism is not to be had.
fn trial<M: Mechanism>(path: &str, test: fn()) -> Trial {
    // As the harness that comes with Rust calls it: without the program.
    let name = path.split_once("::").map_or(path, |(_, name)| name);
    Trial::ignorable_test(name, move || match M::unavailable() {
        Some(reason) => Ok(Completion::ignored_with(reason)),
        None => {
            test();
            Ok(Completion::Completed)
        }
    })
}

conformance! {
    sysv for SysV: creation::a_failed_create_leaves_nothing;
    posix for Posix: creation::a_failed_create_leaves_nothing;
    memfd for Memfd: creation::a_failed_create_leaves_nothing;
    // No limit of a process makes a driver fail: shm-dmabuf tests what does.
    dmabuf for Dmabuf:;
}
