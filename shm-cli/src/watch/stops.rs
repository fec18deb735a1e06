//! Being stopped and going on, as by `kill -TSTP` and a shell's `fg`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;

use super::screen::Screen;

/// Takes note of the signals that come.
pub(super) struct Stops {
    stop: Arc<AtomicBool>,
    /// After a stop that cannot be noticed, too.
    go_on: Arc<AtomicBool>,
}

impl Stops {
    pub(super) fn listen() -> io::Result<Self> {
        let stops = Self { stop: Arc::default(), go_on: Arc::default() };
        for (signal, flag) in
            [(Signal::SIGTSTP, &stops.stop), (Signal::SIGCONT, &stops.go_on)]
        {
            signal_hook::flag::register(signal as i32, Arc::clone(flag))?;
        }
        Ok(stops)
    }

    /// As the signal that comes from a keyboard otherwise.
    pub(super) fn wish(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Stops if that is wished, with the terminal given back; and takes it anew
    /// when it goes on, as whoever had it meanwhile left it in some other way.
    /// Says whether all must be drawn anew.
    pub(super) fn obey(&self, screen: &mut Screen) -> io::Result<bool> {
        let stop = self.stop.swap(false, Ordering::Relaxed);
        if !stop && !self.go_on.load(Ordering::Relaxed) {
            return Ok(false);
        }
        screen.without(|| {
            if stop {
                let signal = Signal::SIGTSTP as i32;
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
            self.go_on.store(false, Ordering::Relaxed);
        })?;
        Ok(true)
    }
}
