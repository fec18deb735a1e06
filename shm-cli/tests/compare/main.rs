//! `shm compare`, as its users run it.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod bench;
mod ends;
mod failures;
mod output;
mod support;
mod terminal;
