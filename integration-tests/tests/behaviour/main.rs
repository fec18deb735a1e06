//! The behaviour reference: what the kernel really does, row by row.
//!
//! A row is a question, a cell is a probe that runs against the kernel of this
//! machine, and what it is expected to see. Each cell is a test, ignored where
//! the machine has not what it needs. `docs/behaviour.md` is generated
//! from the same rows: with `UPDATE_DOCS=1` the test writes it, and otherwise
//! fails when it is stale. Linux alone is asked here, through the raw layers
//! and the C library; what the crates make of it is tested elsewhere.
#![expect(
    unreachable_pub,
    reason = "a test program exports nothing; `pub` tells what a file is for"
)]

mod finding;
mod kit;
mod lifetime;
mod limits;
mod memory;
mod namespaces;
mod passing;
mod permissions;
mod reference;
mod seals;
mod sizes;
mod table;

use std::collections::HashSet;

use libtest_mimic::{Arguments, Trial};

use table::Chapter;

const CHAPTERS: [Chapter; 9] = [
    finding::CHAPTER,
    sizes::CHAPTER,
    memory::CHAPTER,
    permissions::CHAPTER,
    lifetime::CHAPTER,
    namespaces::CHAPTER,
    seals::CHAPTER,
    passing::CHAPTER,
    limits::CHAPTER,
];

fn main() {
    let arguments = Arguments::from_args();
    libtest_mimic::run(&arguments, tests()).exit();
}

/// One for each cell, and those of the tables themselves.
fn tests() -> Vec<Trial> {
    macro_rules! test {
        ($test:path) => {
            Trial::test(stringify!($test), || {
                $test();
                Ok(())
            })
        };
    }
    let mut tests = vec![
        test!(the_reference_is_up_to_date),
        test!(no_two_cells_have_the_same_name),
        test!(table::an_answer_is_right_for_the_kernels_that_give_it),
    ];
    tests.extend(CHAPTERS.iter().flat_map(Chapter::tests));
    tests
}

fn the_reference_is_up_to_date() {
    reference::check(&CHAPTERS);
}

/// Else the one would seem to have run when the other has.
fn no_two_cells_have_the_same_name() {
    let mut names = HashSet::new();
    for cell in CHAPTERS.iter().flat_map(Chapter::tests) {
        assert!(names.insert(cell.name().to_owned()), "{}", cell.name());
    }
}
