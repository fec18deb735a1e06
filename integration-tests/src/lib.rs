//! What tests need of the system: other processes, rare surroundings, and a
//! look at what is left behind.

pub mod alone;
pub mod leaks;
mod link;
pub mod peer;
pub mod program;
pub mod surroundings;

/// Runs the example of the workspace's README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct ReadmeExamples;
