//! A progress bar on stderr, for a terminal, once it has taken a second.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::kind::Mechanism;
use super::moving::TRANSFERS;

/// Of each mechanism: reading, setting up, the transfers, handing over,
/// tearing down, killing.
const STEPS: u64 = TRANSFERS as u64 + 5;

const PATIENCE: Duration = Duration::from_secs(1);

pub(crate) struct Progress {
    bar: ProgressBar,
    begun: Instant,
    /// Which mechanism it is about, and how many came before.
    mechanism: Option<(Mechanism, u64)>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let steps = STEPS * Mechanism::ALL.len() as u64;
        let hidden = ProgressDrawTarget::hidden();
        let bar = ProgressBar::with_draw_target(Some(steps), hidden);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {wide_msg}") {
            bar.set_style(style);
        }
        Self { bar, begun: Instant::now(), mechanism: None }
    }

    /// The next mechanism, wherever the one before has ended.
    pub(crate) fn begin(&mut self, mechanism: Mechanism) {
        let before = self.mechanism.map_or(0, |(_, before)| before + 1);
        self.mechanism = Some((mechanism, before));
        self.bar.set_position(STEPS * before);
    }

    pub(crate) fn step(&self, step: &str) {
        let name = self.mechanism.map_or("", |(mechanism, _)| mechanism.name());
        self.bar.set_message(format!("{name}: {step}"));
        self.bar.inc(1);
    }

    /// To be called now and then: shows the bar when it is time.
    pub(crate) fn tick(&self) {
        if self.bar.is_hidden()
            && self.begun.elapsed() > PATIENCE
            && io::stderr().is_terminal()
        {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.tick();
    }

    /// Takes the bar off the terminal.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}
