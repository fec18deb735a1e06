//! Runs a part of a test in a program of its own, for what a fork would give
//! away: the memory, the mappings and the descriptors of the parent.
//!
//! The program is this test program, started once more for that test alone,
//! which comes to the same [`Program::here`] and runs the entry instead. It is
//! a [`Peer`] like any other: it has a [`Link`], ends with a report, and is
//! killed when dropped.
//!
//! ```no_run
//! use std::io;
//!
//! use integration_tests::peer::DEADLINE;
//! use integration_tests::program::Program;
//!
//! // The body of a test:
//! let program = Program::here(|link, _| -> io::Result<_> {
//!     Ok([link.receive()?, b" to you".to_vec()].concat())
//! });
//! let peer = program.start(&[])?;
//! peer.send("hello")?;
//! assert_eq!(peer.join(DEADLINE)?, b"hello to you");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![expect(unsafe_code, reason = "takes over descriptors that it inherits")]

use std::env;
use std::ffi::{CString, OsString};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::{dup2_stdout, execve};

use crate::alone::test_of;
use crate::peer::{Link, Peer, run_to_exit};

/// Set in the program: the numbers of the descriptors that it inherits, the
/// link first.
const MARK: &str = "SHM_TEST_PROGRAM";

/// A part of a test that can be started as a program.
#[derive(Debug)]
pub struct Program {
    test: &'static str,
}

impl Program {
    /// Makes `entry` the program of this test; in that program itself, runs it
    /// and never returns. So it stands first in the test, once, and `entry` is
    /// a closure in the body of the `#[test]` function which captures nothing:
    /// the link and the descriptors that [`start`](Self::start) hands over are
    /// all that it has of its parent.
    ///
    /// # Panics
    ///
    /// A descriptor was not inherited as announced.
    pub fn here<F, T, E>(entry: F) -> Self
    where
        F: FnOnce(&Link, Vec<OwnedFd>) -> Result<T, E>,
        T: Into<Vec<u8>>,
        E: fmt::Display,
    {
        const { assert!(size_of::<F>() == 0, "captures something") };
        if let Some(numbers) = env::var_os(MARK) {
            let mut descriptors = inherited(&numbers)
                .unwrap_or_else(|error| panic!("{MARK}={numbers:?}: {error}"));
            let link = Link::inherited(descriptors.remove(0));
            run_to_exit(&link, || entry(&link, descriptors))
        }
        Self { test: test_of::<F>() }
    }

    /// Starts the program, which inherits these descriptors and its link, and
    /// else none that is close-on-exec, as all are that this process opened.
    ///
    /// # Errors
    ///
    /// As for [`Peer::fork`]. Where the program cannot be started after the
    /// fork, [`Peer::join`] says so.
    pub fn start(&self, descriptors: &[BorrowedFd<'_>]) -> io::Result<Peer> {
        let program = c_string(env::current_exe()?.into_os_string())?;
        let arguments = [
            program.clone(),
            c_string(self.test.into())?,
            c"--exact".into(),
            c"--include-ignored".into(),
            c"--nocapture".into(),
            c"--test-threads=1".into(),
        ];
        let mut environment = Vec::new();
        for (mut variable, value) in env::vars_os() {
            variable.push("=");
            variable.push(value);
            environment.push(c_string(variable)?);
        }
        // The harness in the program talks, too.
        let null = File::options().write(true).open("/dev/null")?;
        Peer::fork(|link| -> io::Result<Vec<u8>> {
            let mut mark = format!("{MARK}=");
            for fd in [&[link.as_fd()], descriptors].concat() {
                fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
                mark += &format!("{} ", fd.as_raw_fd());
            }
            environment.push(CString::new(mark)?);
            dup2_stdout(&null)?;
            match execve(&program, &arguments, &environment)? {}
        })
    }
}

/// Takes over the descriptors with these numbers.
fn inherited(numbers: &OsString) -> io::Result<Vec<OwnedFd>> {
    let mut descriptors = Vec::new();
    for number in numbers.to_string_lossy().split_whitespace() {
        let number = number.parse().map_err(io::Error::other)?;
        // SAFETY: only `start` sets the variable: the descriptor is open, and
        // meant for this program, where nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        descriptors.push(fd);
    }
    if descriptors.is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(descriptors)
}

fn c_string(text: OsString) -> io::Result<CString> {
    Ok(CString::new(text.into_vec())?)
}
