//! Which system calls a piece of code makes, asked of the kernel by ptrace(2).
#![expect(unsafe_code, reason = "forks the process that is watched")]

use std::io;

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getppid};
use syscalls::Sysno;

/// Runs `code` twice in a child, and gives the names of the calls that the
/// second time made, in order: the first time warms up allocators and caches.
pub(crate) fn system_calls(mut code: impl FnMut()) -> io::Result<Vec<String>> {
    // SAFETY: this program has one thread when it forks (the tests only make
    // system calls), so the child may do whatever the parent may; it never
    // returns from here.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let watched = ptrace::traceme().and_then(|()| {
                code();
                raise(Signal::SIGSTOP)
            });
            if watched.is_ok() {
                code();
            }
            // Marks the end.
            getppid();
            // SAFETY: ends the process at once; nothing runs after it.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            let calls = watch(child);
            // It has told what there was to tell, or cannot be watched.
            let _ = kill(child, Signal::SIGKILL);
            while let Err(Errno::EINTR) = waitpid(child, None) {}
            calls
        }
    }
}

fn watch(child: Pid) -> io::Result<Vec<String>> {
    let stopped = waitpid(child, None)?;
    if stopped != WaitStatus::Stopped(child, Signal::SIGSTOP) {
        return Err(io::Error::other(format!("{stopped:?} before the start")));
    }
    ptrace::setoptions(
        child,
        ptrace::Options::PTRACE_O_TRACESYSGOOD
            | ptrace::Options::PTRACE_O_EXITKILL,
    )?;
    let mut calls = Vec::new();
    loop {
        ptrace::syscall(child, None)?;
        match waitpid(child, None)? {
            WaitStatus::PtraceSyscall(_) => {}
            other => {
                return Err(io::Error::other(format!(
                    "{other:?} before the end"
                )));
            }
        }
        let info = ptrace::syscall_info(child)?;
        if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
            continue;
        }
        // SAFETY: `op` says that this is the field that was written.
        let number = unsafe { info.u.entry }.nr;
        let number = usize::try_from(number).map_err(io::Error::other)?;
        match Sysno::new(number) {
            Some(Sysno::getppid) => return Ok(calls),
            Some(call) => calls.push(call.name().to_owned()),
            None => calls.push(number.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_seen_once_and_in_order() {
        let calls = system_calls(|| {
            nix::unistd::getuid();
            nix::unistd::getpid();
            nix::unistd::getuid();
        });
        assert_eq!(calls.unwrap(), ["getuid", "getpid", "getuid"]);
    }
}
