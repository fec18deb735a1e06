//! The signals by which a user ends the command, taken note of so that it can
//! clean up first.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::sys::signal::Signal;
use procfs::process::Process;

use crate::Failure;

/// Takes note of the signals that come.
pub(crate) struct Interrupts {
    /// The number of the last one.
    came: Arc<AtomicUsize>,
    /// Those that are listened to.
    signals: Vec<i32>,
}

/// The user wants to stop.
#[derive(Debug)]
pub(crate) struct Interrupted(Signal);

impl Interrupts {
    /// From now on these signals no longer end the process.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let came = Arc::new(AtomicUsize::new(0));
        let ignored = ignored_signals();
        let mut signals = Vec::new();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            let number = signal as i32;
            // As under nohup, or in the background of a script: whoever
            // started this does not want it to end by that.
            if ignored & (1 << (number - 1)) != 0 {
                continue;
            }
            let value = usize::try_from(number)?;
            let came = Arc::clone(&came);
            signal_hook::flag::register_usize(number, came, value)?;
            signals.push(number);
        }
        Ok(Self { came, signals })
    }

    /// From now on they end the process again: there is nothing to clean up
    /// any more.
    pub(crate) fn ignore_no_longer(self) -> Result<(), Failure> {
        self.check()?;
        for signal in self.signals {
            let now = Arc::new(AtomicBool::new(true));
            signal_hook::flag::register_conditional_default(signal, now)?;
        }
        Ok(())
    }

    /// Fails if the user wants to stop.
    pub(crate) fn check(&self) -> Result<(), Interrupted> {
        let number = i32::try_from(self.came.load(Ordering::Relaxed));
        match number.map(Signal::try_from) {
            Ok(Ok(signal)) => Err(Interrupted(signal)),
            _ => Ok(()),
        }
    }
}

impl Interrupted {
    /// Ends this process by the signal that came, so that a shell that waits
    /// for it knows. Returns if that cannot be done.
    pub(crate) fn end_this_process(&self) {
        let number = self.0 as i32;
        let _ = signal_hook::low_level::emulate_default_handler(number);
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interrupted by {}; nothing is left behind", self.0)
    }
}

impl std::error::Error for Interrupted {}

/// A bit for each; none where the kernel does not tell.
fn ignored_signals() -> u64 {
    let status = Process::myself().and_then(|process| process.status());
    status.map_or(0, |status| status.sigign)
}
