//! The behaviour reference: what the kernel really does, row by row.
//!
//! A row is a question, a cell is a probe that runs against the kernel of this
//! machine, and what it is expected to see. `docs/behaviour.md` is generated
//! from the same rows: with `UPDATE_DOCS=1` the test writes it, and otherwise
//! fails when it is stale. Linux alone is asked here, through the raw layers
//! and the C library; what the crates make of it is tested elsewhere.
#![expect(
    unreachable_pub,
    reason = "a test program exports nothing; `pub` tells what a file is for"
)]
#![expect(clippy::print_stdout, reason = "says what was left out")]

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

macro_rules! chapters {
    ($($test:ident: $chapter:ident,)*) => {$(
        #[test]
        fn $test() {
            $chapter::CHAPTER.check();
        }
    )*};
}

chapters! {
    what_finds_a_segment: finding,
    what_sizes_are: sizes,
    what_memory_does: memory,
    what_permissions_do: permissions,
    what_ends_a_segment: lifetime,
    what_namespaces_hide: namespaces,
    what_seals_forbid: seals,
    what_passing_a_descriptor_does: passing,
    what_limits_forbid: limits,
}

#[test]
fn the_reference_is_up_to_date() {
    reference::check(&CHAPTERS);
}
