//! Honest comparisons: the contenders take turns, many short rounds each, so
//! that whatever else the machine does meets all of them alike.

use std::fmt;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// How much time a comparison takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// How long one contender runs in one round; at least one run.
    pub(crate) round: Duration,
    pub(crate) rounds: usize,
    /// Nothing with more bytes than this is measured.
    pub(crate) largest: usize,
}

impl Effort {
    pub(crate) const FULL: Self = Self {
        // Short, so that most rounds pass between two interruptions.
        round: Duration::from_micros(500),
        rounds: 61,
        largest: usize::MAX,
    };

    pub(crate) const QUICK: Self =
        Self { round: Duration::from_micros(500), rounds: 5, largest: 4 << 20 };

    /// Those of the sizes that are measured.
    pub(crate) fn among(self, sizes: &[usize]) -> impl Iterator<Item = usize> {
        sizes.iter().copied().filter(move |size| *size <= self.largest)
    }

    /// For runs that take long by themselves: fewer rounds.
    pub(crate) fn for_run_of(self, bytes: usize) -> Self {
        let rounds = match bytes {
            0x0800_0000.. => self.rounds.min(7),
            0x0100_0000.. => self.rounds.min(15),
            0x0010_0000.. => self.rounds.min(31),
            _ => self.rounds,
        };
        Self { rounds, ..self }
    }
}

/// One of the things compared.
pub(crate) struct Contender<'a> {
    pub(crate) name: &'static str,
    /// Runs that often, and says how long that took.
    run: Box<dyn FnMut(u64) -> Duration + 'a>,
}

impl<'a> Contender<'a> {
    /// What `once` does is timed in a loop.
    pub(crate) fn new<T>(
        name: &'static str,
        mut once: impl FnMut() -> T + 'a,
    ) -> Self {
        Self::timed(name, move |times| {
            let begun = Instant::now();
            for _ in 0..times {
                black_box(once());
            }
            begun.elapsed()
        })
    }

    /// `run` takes the time itself.
    pub(crate) fn timed(
        name: &'static str,
        run: impl FnMut(u64) -> Duration + 'a,
    ) -> Self {
        Self { name, run: Box::new(run) }
    }

    pub(crate) fn run(&mut self, times: u64) -> Duration {
        (self.run)(times)
    }
}

/// Nanoseconds for one run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) least: f64,
    pub(crate) first_quartile: f64,
    pub(crate) median: f64,
    pub(crate) third_quartile: f64,
}

/// Lets the contenders take turns; the times are in their order.
pub(crate) fn compare<const N: usize>(
    effort: Effort,
    mut contenders: [Contender<'_>; N],
) -> [Times; N] {
    let times = compare_all(effort, &mut contenders);
    std::array::from_fn(|index| times[index])
}

/// As [`compare`], for a number of contenders that varies.
pub(crate) fn compare_all(
    effort: Effort,
    contenders: &mut [Contender<'_>],
) -> Vec<Times> {
    let counts: Vec<u64> =
        contenders.iter_mut().map(|c| runs_per_round(effort, c)).collect();
    let mut samples = vec![Vec::new(); contenders.len()];
    for round in 0..effort.rounds {
        for turn in 0..contenders.len() {
            // Back and forth, so that nobody always runs after the same one.
            let index = match round % 2 {
                0 => turn,
                _ => contenders.len() - 1 - turn,
            };
            let spent = contenders[index].run(counts[index]);
            samples[index].push(nanoseconds(spent) / counts[index] as f64);
        }
    }
    samples.into_iter().map(Times::of).collect()
}

/// Warms the contender up, too.
fn runs_per_round(effort: Effort, contender: &mut Contender<'_>) -> u64 {
    let mut runs = 1;
    loop {
        let spent = contender.run(runs).as_nanos().max(1);
        let wanted = effort.round.as_nanos();
        if spent >= wanted / 4 {
            let scaled = u128::from(runs) * wanted / spent;
            return u64::try_from(scaled).unwrap_or(u64::MAX).max(1);
        }
        runs *= 4;
    }
}

fn nanoseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

impl Times {
    fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |quarter| samples[(samples.len() - 1) * quarter / 4];
        Self {
            least: at(0),
            first_quartile: at(1),
            median: at(2),
            third_quartile: at(3),
        }
    }

    /// For what is half of what was timed, and the like.
    pub(crate) fn times(self, factor: f64) -> Self {
        Self {
            least: self.least * factor,
            first_quartile: self.first_quartile * factor,
            median: self.median * factor,
            third_quartile: self.third_quartile * factor,
        }
    }

    pub(crate) fn over(self, other: Self) -> Ratio {
        Ratio {
            of_medians: self.median / other.median,
            of_least: self.least / other.least,
        }
    }

    pub(crate) fn minus(self, other: Self) -> Difference {
        Difference {
            of_medians: self.median - other.median,
            of_least: self.least - other.least,
        }
    }
}

/// The median, and the quartiles around it.
impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, name) = match self.median {
            0.0..1e3 => (1.0, "ns"),
            1e3..1e6 => (1e3, "µs"),
            _ => (1e6, "ms"),
        };
        let [median, low, high] =
            [self.median, self.first_quartile, self.third_quartile]
                .map(|time| three_digits(time / unit));
        write!(f, "{median} {name} ({low} – {high})")
    }
}

/// A number with three digits that count.
pub(crate) fn three_digits(number: f64) -> String {
    match number.abs() {
        0.0..10.0 => format!("{number:.2}"),
        10.0..100.0 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}

/// Ours over the other's: below 1, ours is quicker. The median says what a
/// caller meets; the least time is the steadier of the two on a busy machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ratio {
    pub(crate) of_medians: f64,
    pub(crate) of_least: f64,
}

impl Ratio {
    pub(crate) fn meets(self, at_most: f64) -> Verdict {
        Verdict::of(self.of_medians <= at_most, self.of_least <= at_most)
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} / {:.2}", self.of_medians, self.of_least)
    }
}

/// Nanoseconds by which ours takes longer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Difference {
    of_medians: f64,
    of_least: f64,
}

impl Difference {
    pub(crate) fn meets(self, at_most: f64) -> Verdict {
        Verdict::of(self.of_medians <= at_most, self.of_least <= at_most)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:+.2} / {:+.2} ns", self.of_medians, self.of_least)
    }
}

/// Whether a target is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Met,
    Missed,
    /// The medians say one thing and the least times another.
    Unclear,
}

impl Verdict {
    fn of(medians: bool, least: bool) -> Self {
        match (medians, least) {
            (true, true) => Self::Met,
            (false, false) => Self::Missed,
            _ => Self::Unclear,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Met => "met",
            Self::Missed => "**missed**",
            Self::Unclear => "unclear",
        })
    }
}

/// Gives the value; an error ends the program, out of the timed loop's way.
pub(crate) fn must<T, E: fmt::Display>(result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => fail(&error),
    }
}

#[cold]
#[inline(never)]
fn fail(error: &dyn fmt::Display) -> ! {
    panic!("a contender failed: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contenders_take_turns_and_nobody_always_goes_first() {
        let order = std::cell::RefCell::new(String::new());
        let contender = |name, letter| {
            let order = &order;
            Contender::timed(name, move |_| {
                order.borrow_mut().push(letter);
                Duration::from_millis(1)
            })
        };
        let effort = Effort { rounds: 4, ..Effort::QUICK };
        compare(effort, [contender("a", 'a'), contender("b", 'b')]);
        assert_eq!(order.into_inner(), "ab".to_owned() + "abbaabba");
    }

    #[test]
    fn a_target_is_met_or_missed_only_when_both_ratios_say_so() {
        let verdict =
            |of_medians, of_least| Ratio { of_medians, of_least }.meets(1.05);
        assert_eq!(verdict(1.04, 1.0), Verdict::Met);
        assert_eq!(verdict(1.06, 1.07), Verdict::Missed);
        assert_eq!(verdict(1.06, 1.0), Verdict::Unclear);
    }

    #[test]
    fn times_are_told_with_their_quartiles() {
        let times = Times::of(vec![5e3, 1e3, 3e3, 2e3, 4e3]);
        assert_eq!(times.to_string(), "3.00 µs (2.00 – 4.00)");
        assert_eq!(times.least, 1e3);
    }
}
