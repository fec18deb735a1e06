//! The commands that look after segments, as their users run them, on segments
//! that programs of others made.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod contents;
mod listing;
mod pages;
mod passing;
mod reaping;
mod removal;
mod support;
mod usage;
mod watching;
