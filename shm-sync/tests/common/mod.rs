//! What the tests of this crate share: a segment of each mechanism, and kills
//! at a chosen instruction.
#![expect(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test uses some of it, and fails by panicking"
)]

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

use integration_tests::leaks;
use integration_tests::peer::{JoinError, Peer};
use nix::sys::signal::Signal;
use shm_sync::{AsSharedBytes, Deadline, ReadWrite, Result, SharedBytes, Size};

pub type Bytes<'a> = SharedBytes<'a, ReadWrite>;

/// A mapping of whatever mechanism.
pub type AnyMapping = Box<dyn AsSharedBytes<Access = ReadWrite>>;

/// A fresh segment, mapped here.
pub struct Shared {
    mapping: AnyMapping,
    /// Maps it once more, at another address.
    again: Box<dyn Fn() -> AnyMapping>,
}

impl Shared {
    pub const LEN: usize = 64 * 1024;

    pub fn sysv() -> Self {
        let key = shm_sysv::Key::new(leaks::unique_key());
        let size = Size::new(Self::LEN).unwrap();
        let segment = shm_sysv::Segment::create(key, size).unwrap();
        Self {
            mapping: Box::new(segment.map().unwrap()),
            // A handle is an attachment, which its mappings share.
            again: Box::new(move || {
                let again = shm_sysv::Segment::open_id(segment.id()).unwrap();
                Box::new(again.map().unwrap())
            }),
        }
    }

    pub fn posix() -> Self {
        let name = leaks::unique_name("sync");
        let name = shm_posix::Name::new(name).unwrap();
        let size = Size::new(Self::LEN).unwrap();
        let segment = shm_posix::Segment::create(&name, size).unwrap();
        Self {
            mapping: Box::new(segment.map().unwrap()),
            again: Box::new(move || Box::new(segment.map().unwrap())),
        }
    }

    pub fn memfd() -> Self {
        let label = leaks::unique_name("sync");
        let label = shm_memfd::Label::new(label).unwrap();
        let size = Size::new(Self::LEN).unwrap();
        let segment = shm_memfd::Segment::create(&label, size).unwrap();
        Self {
            mapping: Box::new(segment.map().unwrap()),
            again: Box::new(move || Box::new(segment.map().unwrap())),
        }
    }

    pub fn bytes(&self) -> Bytes<'_> {
        self.mapping.as_shared_bytes()
    }

    /// The same segment at another address, as another process has it.
    pub fn again(&self) -> AnyMapping {
        let again = (self.again)();
        assert_ne!(again.as_shared_bytes().as_ptr(), self.bytes().as_ptr());
        again
    }
}

/// Makes a test of each function for each mechanism.
#[macro_export]
macro_rules! for_every_mechanism {
    ($($test:ident,)*) => {
        mod sysv {$(
            #[test]
            fn $test() {
                super::$test(&super::common::Shared::sysv());
            }
        )*}

        mod posix {$(
            #[test]
            fn $test() {
                super::$test(&super::common::Shared::posix());
            }
        )*}

        mod memfd {$(
            #[test]
            fn $test() {
                super::$test(&super::common::Shared::memfd());
            }
        )*}
    };
}

/// Time enough for what must happen; whoever waits so long fails.
pub fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(15))
}

/// Time enough to see that something does not happen.
pub fn shortly() -> Deadline {
    Deadline::after(Duration::from_millis(30))
}

/// Waits until `done`, which another process brings about.
pub fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = soon();
    while !done() {
        assert!(!deadline.has_passed(), "{what}: not within the deadline");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Waits until a process sleeps in the futex call.
pub fn until_asleep(peer: &Peer) {
    until("sleep in a futex", || is_asleep(peer.pid()));
}

fn is_asleep(pid: i32) -> bool {
    // "202 0x7f... 0x80 ...": the number of the call that it is in.
    let call = std::fs::read_to_string(format!("/proc/{pid}/syscall"));
    let number = libc::SYS_futex.to_string();
    call.unwrap().split(' ').next() == Some(number.as_str())
}

/// Some number below `end`, another one each time.
pub fn random_below(end: u64) -> u64 {
    // Each of these hashers has another seed.
    RandomState::new().hash_one(0) % end
}

/// What became of a process that was to be killed after some instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stepped {
    /// Killed in the middle.
    Killed,
    /// It came to its end before that, after so many.
    Finished(u64),
}

/// Runs `body` in another process and kills it after so many instructions. It
/// is gone when this returns.
pub fn kill_after(steps: u64, body: impl FnOnce() -> Result<()>) -> Stepped {
    let peer = Peer::fork(move |_| {
        let (result, taken) = stepping::killed_after(steps, body);
        result.map(|()| taken.to_ne_bytes())
    });
    match peer.unwrap().join(Duration::from_secs(20)) {
        Err(JoinError::Killed(Signal::SIGKILL)) => Stepped::Killed,
        Ok(taken) => {
            let taken = taken.try_into().unwrap();
            Stepped::Finished(u64::from_ne_bytes(taken))
        }
        Err(other) => panic!("{other} (after {steps} steps)"),
    }
}

/// Kills `body` at `kills` instructions, from its first to its last, evenly
/// spread and elsewhere in each run; `prepare` runs before and `check` after
/// each.
pub fn kill_at_every_step(
    kills: u64,
    mut prepare: impl FnMut(),
    body: impl Fn() -> Result<()>,
    mut check: impl FnMut(u64, Stepped),
) {
    // Once here, so that no child meets what happens only the first time.
    prepare();
    body().unwrap();
    prepare();
    let whole = kill_after(u64::MAX, &body);
    check(u64::MAX, whole);
    let Stepped::Finished(all) = whole else {
        panic!("it cannot be killed after so many");
    };
    let mut killed = 0;
    for kill in 0..kills {
        prepare();
        let step = 1 + (kill * all + random_below(all)) / kills;
        let stepped = kill_after(step, &body);
        killed += u64::from(stepped == Stepped::Killed);
        check(step, stepped);
    }
    // The number of steps varies a little, where a loop does.
    assert!(killed * 10 >= kills * 9, "{killed} kills of {kills}");
}

/// The processor's trap flag: after each instruction it calls the kernel, and
/// that a handler of ours, which counts them. It takes a microsecond; ptrace,
/// which changes processes twice for each, takes many.
mod stepping {
    #![expect(unsafe_code, reason = "installs a handler, sets a flag")]

    use std::arch::asm;
    use std::ptr::null_mut;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// How many instructions are left.
    static LEFT: AtomicU64 = AtomicU64::new(0);

    extern "C" fn count(_: libc::c_int) {
        if LEFT.fetch_sub(1, Ordering::Relaxed) == 1 {
            // SAFETY: a call without pointers, allowed in a handler.
            let own = unsafe { libc::getpid() };
            // SAFETY: as before.
            unsafe { libc::kill(own, libc::SIGKILL) };
        }
    }

    /// What `body` returns, and how many instructions it took.
    pub fn killed_after<T>(steps: u64, body: impl FnOnce() -> T) -> (T, u64) {
        LEFT.store(steps, Ordering::Relaxed);
        // SAFETY: all zeros is a value of this struct of integers and pointers.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = count as extern "C" fn(libc::c_int) as usize;
        action.sa_flags = libc::SA_RESTART;
        // SAFETY: the handler only counts and kills; `action` lives through
        // the call.
        let set = unsafe {
            libc::sigaction(libc::SIGTRAP, &raw const action, null_mut())
        };
        assert_eq!(set, 0);
        trap(true);
        let result = body();
        trap(false);
        (result, steps - LEFT.load(Ordering::Relaxed))
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(never)]
    fn trap(on: bool) {
        if on {
            // SAFETY: sets a flag, that makes the kernel call the handler,
            // which is there; the stack is as before.
            unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") };
        } else {
            // SAFETY: takes it back.
            unsafe { asm!("pushfq", "and qword ptr [rsp], -0x101", "popfq") };
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn trap(_on: bool) {}
}
