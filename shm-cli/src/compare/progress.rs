//! A progress bar on stderr, for a terminal, once it has taken a second.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use shm_common::Size;

use super::kind::Mechanism;
use super::moving;

/// Of each payload that is moved; the last one is killing.
const STEPS: u64 = moving::STEPS + 1;

const PATIENCE: Duration = Duration::from_secs(1);

pub(crate) struct Progress {
    bar: ProgressBar,
    begun: Instant,
    /// What each mechanism is to move.
    sizes: Vec<Size>,
    /// How many mechanisms have begun.
    mechanisms: u64,
    mechanism: &'static str,
    /// What is moved now, and where the bar is when that ends.
    size: Size,
    end: u64,
}

impl Progress {
    /// `sizes`: of what each of so many mechanisms is to move.
    pub(crate) fn new(sizes: Vec<Size>, mechanisms: usize) -> Self {
        let steps = sizes.iter().copied().map(steps).sum::<u64>();
        let steps = steps.saturating_mul(mechanisms as u64);
        let hidden = ProgressDrawTarget::hidden();
        let bar = ProgressBar::with_draw_target(Some(steps), hidden);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {wide_msg}") {
            bar.set_style(style);
        }
        Self {
            bar,
            begun: Instant::now(),
            sizes,
            mechanisms: 0,
            mechanism: "",
            size: Size::KIB,
            end: 0,
        }
    }

    /// The next mechanism, wherever the one before has ended.
    pub(crate) fn begin(&mut self, mechanism: Mechanism) {
        let each = self.sizes.iter().copied().map(steps).sum::<u64>();
        self.end = each.saturating_mul(self.mechanisms);
        self.mechanisms += 1;
        self.mechanism = mechanism.name();
    }

    /// The next payload, wherever the one before has ended.
    pub(crate) fn part(&mut self, size: Size) {
        self.bar.set_position(self.end);
        self.size = size;
        self.end = self.end.saturating_add(steps(size));
    }

    pub(crate) fn step(&self, step: &str) {
        let Self { mechanism, size, .. } = self;
        self.bar.set_message(format!("{mechanism}: {size}: {step}"));
        self.bar.inc(weight(*size));
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

/// How far the bar goes in a step of that size: it takes about as long as there
/// are bytes, and a while for the two processes to start.
fn weight(size: Size) -> u64 {
    1 + (size.bytes() >> 23) as u64
}

fn steps(size: Size) -> u64 {
    STEPS.saturating_mul(weight(size))
}
