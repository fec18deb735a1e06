//! Surroundings that a program rarely meets: few resources, many signals, a
//! small `/dev/shm`, a kernel that lacks a call.
//!
//! They hold for the rest of the process, or of the thread, so they belong in
//! [`alone`](crate::alone::alone) or in a [`Peer`](crate::peer::Peer).
#![expect(unsafe_code, reason = "calls what nix lacks")]

use std::io;
use std::ptr;

use libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JMP, BPF_K};
use libc::{BPF_LD, BPF_RET, BPF_W};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Limits what this process may have of something.
///
/// # Errors
///
/// `to` is above the hard limit.
pub fn limit(resource: Resource, to: libc::rlim_t) -> io::Result<()> {
    let (_, hard) = getrlimit(resource)?;
    Ok(setrlimit(resource, to, hard)?)
}

/// Gives this thread a `/dev/shm` of its own with room for `bytes` bytes. Needs
/// root; gone with the thread.
///
/// # Errors
///
/// This process may not.
pub fn small_dev_shm(bytes: usize) -> io::Result<()> {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    let options = format!("size={bytes},mode=1777");
    let (kind, flags) = (Some("tmpfs"), MsFlags::empty());
    Ok(mount(kind, "/dev/shm", kind, flags, Some(options.as_str()))?)
}

/// Hides `/proc` from this thread. Needs root; gone with the thread.
///
/// # Errors
///
/// This process may not.
pub fn without_proc() -> io::Result<()> {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    let kind = Some("tmpfs");
    Ok(mount(kind, "/proc", kind, MsFlags::empty(), NONE)?)
}

/// Lets the next child of this process be process 1 of a pid namespace of its
/// own. Needs root.
///
/// # Errors
///
/// This process may not.
pub fn new_pid_namespace() -> io::Result<()> {
    Ok(unshare(CloneFlags::CLONE_NEWPID)?)
}

/// Gives this thread a System V table of its own, with that limit
/// (`shmmni`, `shmmax` or `shmall`). Needs root; gone with the thread.
///
/// # Errors
///
/// This process may not.
pub fn system_v_limit(name: &str, to: u64) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWIPC)?;
    std::fs::write(format!("/proc/sys/kernel/{name}"), to.to_string())
}

/// Lets a signal come every `micros` microseconds, whose handler does nothing,
/// and which interrupts system calls.
///
/// # Errors
///
/// The kernel takes no such handler or timer.
pub fn storm_of_signals(micros: i32) -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: all zeros is a value of this struct of integers and pointers.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
    // SAFETY: the handler does nothing, so it may run at any time; there is no
    // SA_RESTART. `action` lives through the call.
    let set = unsafe {
        libc::sigaction(libc::SIGALRM, &raw const action, ptr::null_mut())
    };
    succeeded(set)?;
    let every = libc::timeval { tv_sec: 0, tv_usec: micros.into() };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    // SAFETY: `timer` lives through the call.
    succeeded(unsafe {
        libc::setitimer(libc::ITIMER_REAL, &raw const timer, ptr::null_mut())
    })
}

/// A system call as an older or other kernel would answer it.
#[derive(Debug, Clone, Copy)]
pub struct Refused {
    /// `SYS_…`
    pub call: libc::c_long,
    /// Which argument is looked at, from 0.
    pub argument: usize,
    /// Refused if the argument's bits under `mask` …
    pub mask: u32,
    /// … are these.
    pub bits: u32,
    /// What the refusal is.
    pub errno: i32,
}

/// Makes the kernel refuse a call, from now on and for ever, in this thread.
///
/// # Errors
///
/// This kernel has no system call filters.
pub fn refuse(refused: &Refused) -> io::Result<()> {
    // The low half of the argument.
    let half = if cfg!(target_endian = "big") { 4 } else { 0 };
    let arguments = std::mem::offset_of!(libc::seccomp_data, args);
    let argument = u32::try_from(arguments + 8 * refused.argument + half)
        .map_err(io::Error::other)?;
    let call = u32::try_from(refused.call).map_err(io::Error::other)?;
    let refusal = libc::SECCOMP_RET_ERRNO | refused.errno.cast_unsigned();
    filter(&mut [
        step(LOAD, 0, 0, 0),
        step(EQUALS, 0, 4, call),
        step(LOAD, 0, 0, argument),
        step(AND, 0, 0, refused.mask),
        step(EQUALS, 0, 1, refused.bits),
        step(ANSWER, 0, 0, refusal),
        step(ANSWER, 0, 0, libc::SECCOMP_RET_ALLOW),
    ])
}

/// Kills this process when it is about to make a call, as `SIGKILL` would: no
/// handler and no destructor runs. What it dies of is `SIGSYS`.
///
/// # Errors
///
/// This kernel has no system call filters.
pub fn die_before(call: libc::c_long) -> io::Result<()> {
    let call = u32::try_from(call).map_err(io::Error::other)?;
    filter(&mut [
        step(LOAD, 0, 0, 0),
        step(EQUALS, 0, 1, call),
        step(ANSWER, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        step(ANSWER, 0, 0, libc::SECCOMP_RET_ALLOW),
    ])
}

const LOAD: u16 = code(BPF_LD | BPF_W | BPF_ABS);
const EQUALS: u16 = code(BPF_JMP | BPF_JEQ | BPF_K);
const AND: u16 = code(BPF_ALU | BPF_AND | BPF_K);
const ANSWER: u16 = code(BPF_RET | BPF_K);

/// One step of a filter: what to do, how many steps to skip if so and if not,
/// and with which number.
const fn step(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// Filters the system calls of this thread through a program.
fn filter(program: &mut [libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    let filter = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // SAFETY: this option takes numbers.
    succeeded(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: `filter`, and the program of `len` steps, live through the call,
    // which copies them.
    succeeded(unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const filter,
        )
    })
}

#[expect(clippy::cast_possible_truncation, reason = "the codes have 8 bits")]
const fn code(bits: u32) -> u16 {
    bits as u16
}

fn succeeded(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
