//! A progress bar on stderr, for a terminal, once it has taken a second.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::peer::Mechanism;

/// The steps that each mechanism reports: reading, setting up, five transfers,
/// handing over, tearing down, killing.
const STEPS: u64 = 10;

const PATIENCE: Duration = Duration::from_secs(1);

pub(crate) struct Progress {
    bar: ProgressBar,
    begun: Instant,
}

impl Progress {
    pub(crate) fn new(mechanisms: usize) -> Self {
        let steps = STEPS * mechanisms as u64;
        let hidden = ProgressDrawTarget::hidden();
        let bar = ProgressBar::with_draw_target(Some(steps), hidden);
        let style = ProgressStyle::with_template("{bar:30} {elapsed} {msg}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        Self { bar, begun: Instant::now() }
    }

    pub(crate) fn step(&mut self, mechanism: Mechanism, step: &str) {
        self.bar.set_message(format!("{}: {step}", mechanism.name()));
        self.bar.inc(1);
    }

    pub(crate) fn tick(&mut self) {
        if self.bar.is_hidden()
            && self.begun.elapsed() > PATIENCE
            && io::stderr().is_terminal()
        {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.tick();
    }

    pub(crate) fn finish(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}
