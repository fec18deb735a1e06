//! Being stopped and going on, as by `kill -TSTP` and a shell's `fg`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgrp, getpid};
use procfs::process::{Process, Stat};

use super::screen::Screen;

/// Takes note of the signals that come.
pub(super) struct Stops {
    stop: Arc<AtomicBool>,
    /// Of a key, which is for all processes of the job.
    key: AtomicBool,
    /// After a stop that cannot be noticed, too.
    go_on: Arc<AtomicBool>,
}

impl Stops {
    pub(super) fn listen() -> io::Result<Self> {
        let stops = Self {
            stop: Arc::default(),
            key: AtomicBool::default(),
            go_on: Arc::default(),
        };
        for (signal, flag) in
            [(Signal::SIGTSTP, &stops.stop), (Signal::SIGCONT, &stops.go_on)]
        {
            signal_hook::flag::register(signal as i32, Arc::clone(flag))?;
        }
        Ok(stops)
    }

    /// As the signal that comes from a keyboard otherwise.
    pub(super) fn wish(&self) {
        self.key.store(true, Ordering::Relaxed);
    }

    /// Stops if that is wished, with the terminal given back; and takes it anew
    /// when it goes on, as whoever had it meanwhile left it in some other way.
    /// Says whether all must be drawn anew.
    pub(super) fn obey(&self, screen: &mut Screen) -> io::Result<bool> {
        let key = self.key.swap(false, Ordering::Relaxed);
        let stop = self.stop.swap(false, Ordering::Relaxed) || key;
        if !stop && !self.go_on.load(Ordering::Relaxed) {
            return Ok(false);
        }
        screen.without(|| {
            if key {
                // A script that started this must stop, too, or else the shell
                // waits for it on.
                let _ = kill(Pid::from_raw(0), Signal::SIGTSTP);
            }
            if stop {
                let signal = Signal::SIGTSTP as i32;
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
            // The signal to all came here as well.
            self.stop.store(false, Ordering::Relaxed);
            self.go_on.store(false, Ordering::Relaxed);
        })?;
        Ok(true)
    }
}

/// Whether a shell waits for this job, and can let it go on; if not, as where
/// this is all that runs in a window, the kernel would not stop it by a key
/// either.
pub(super) fn are_noticed() -> bool {
    let stat = |pid| Process::new(pid).and_then(|process| process.stat());
    let ours = |parent: &Stat| parent.pgrp == getpgrp().as_raw();
    let Ok(this) = stat(getpid().as_raw()) else { return false };
    [getpgrp(), getpid()].into_iter().any(|pid| {
        let parent = stat(pid.as_raw()).and_then(|child| stat(child.ppid));
        parent.is_ok_and(|it| it.session == this.session && !ours(&it))
    })
}
