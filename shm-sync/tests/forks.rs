//! A child that is forked in the midst of something has no part in it.
#![expect(
    clippy::unwrap_used,
    unsafe_code,
    reason = "a test fails by panicking, owns its segment, and forks"
)]

mod common;

use std::time::Duration;

use common::Shared;
use integration_tests::peer::Peer;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use shm_sync::{Error, Made, Ready, Result, SeqLock};

/// Runs in a process of its own, which has one thread and may be forked.
fn peer(body: impl FnOnce()) {
    let peer = Peer::fork(|_| {
        body();
        Ok::<_, Error>([])
    });
    if let Err(error) = peer.unwrap().join(Duration::from_secs(20)) {
        panic!("{error}");
    }
}

/// In the parent the child, which has ended by then.
fn fork_here(child: &mut Option<(Pid, WaitStatus)>) {
    // SAFETY: this process has one thread.
    if let ForkResult::Parent { child: pid } = unsafe { fork() }.unwrap() {
        *child = Some((pid, waitpid(pid, None).unwrap()));
    }
}

/// The child ends with 0 if it was refused; the parent sees to that.
fn child_was_refused<T>(
    child: Option<(Pid, WaitStatus)>,
    result: Result<T>,
) -> T {
    match child {
        Some((pid, status)) => {
            assert_eq!(status, WaitStatus::Exited(pid, 0));
            result.unwrap()
        }
        None => {
            let refused = matches!(result, Err(Error::PermissionDenied(_)));
            // SAFETY: ends the process at once; nothing runs after it.
            unsafe { libc::_exit(i32::from(!refused)) }
        }
    }
}

#[test]
fn a_child_that_an_update_forks_publishes_nothing() {
    let shared = Shared::memfd();
    // SAFETY: 1. and 2. this test uses the segment only by this. 3. No thread
    // holds the lock for longer than a call.
    let lock = unsafe { SeqLock::create(shared.bytes(), 0, 1_u64) }.unwrap();
    peer(|| {
        let mut child = None;
        let updated = lock.update(|value| {
            fork_here(&mut child);
            if child.is_some() { value + 1 } else { 666 }
        });
        child_was_refused(child, updated);
        assert_eq!(lock.read().unwrap(), 2);
        // The lock is free again, and nobody died with it.
        lock.write(3).unwrap();
    });
    assert_eq!(lock.read().unwrap(), 3);
}

#[test]
fn a_child_that_a_maker_forks_has_made_nothing() {
    let shared = Shared::memfd();
    // SAFETY: as above.
    let ready = unsafe { Ready::open_or_create(shared.bytes(), 0) }.unwrap();
    peer(|| {
        let mut child = None;
        let made = ready.make_once(|| {
            fork_here(&mut child);
            // The child has ended, and it is not made yet.
            assert!(!ready.is_done());
            Ok(())
        });
        assert_eq!(child_was_refused(child, made), Made::Now);
        assert_eq!(ready.make_once(|| Ok(())).unwrap(), Made::Before);
    });
    assert!(ready.is_done());
}
