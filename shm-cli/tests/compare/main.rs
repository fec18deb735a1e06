//! `shm compare`, as its users run it.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod bench;
mod browser;
mod ends;
mod failures;
mod output;
mod page;
mod support;
mod terminal;
