//! The words that processes agree on: each file is one protocol, as functions
//! over an atomic word and the futex, with no idea of where the word lies.
//!
//! `tests/loom.rs` includes the same files with the atomics of loom and a model
//! of the futex, and goes through every interleaving of some threads.

pub(crate) mod barrier;
pub(crate) mod condvar;
pub(crate) mod event;
pub(crate) mod semaphore;
pub(crate) mod sequence;

use std::sync::atomic;

use crate::{Deadline, futex};
