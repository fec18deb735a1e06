//! How long each of many repetitions took: the figures that people ask for,
//! and a histogram, of which all that is drawn is made.

use hdrhistogram::{CreationError, Histogram, RecordError};
use serde::{Deserialize, Serialize};

/// Times are told to three digits, and so in whole nanoseconds up to 2 µs.
const DIGITS: u8 = 3;

/// As `--json` has it; times in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Distribution {
    pub(crate) count: u64,
    pub(crate) min_ns: u64,
    pub(crate) median_ns: u64,
    pub(crate) p90_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) p99_9_ns: u64,
    pub(crate) max_ns: u64,
    /// In order, without those in which there is nothing.
    pub(crate) histogram: Vec<Bucket>,
}

/// How many took that long; both ends are inside. From a time to its double
/// there are sixteen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bucket {
    pub(crate) from_ns: u64,
    pub(crate) to_ns: u64,
    pub(crate) count: u64,
}

/// Takes note of times.
pub(crate) struct Recorder(Histogram<u64>);

impl Recorder {
    pub(crate) fn new() -> Result<Self, CreationError> {
        Histogram::new(DIGITS).map(Self)
    }

    pub(crate) fn record(
        &mut self,
        nanoseconds: u64,
    ) -> Result<(), RecordError> {
        self.0.record(nanoseconds)
    }

    /// A percentile is the least time that so many do not exceed.
    pub(crate) fn distribution(&self) -> Distribution {
        let times = &self.0;
        Distribution {
            count: times.len(),
            min_ns: times.min(),
            median_ns: times.value_at_quantile(0.5),
            p90_ns: times.value_at_quantile(0.9),
            p99_ns: times.value_at_quantile(0.99),
            p99_9_ns: times.value_at_quantile(0.999),
            max_ns: times.max(),
            histogram: self.histogram(),
        }
    }

    /// One that is coarse enough to be read.
    fn histogram(&self) -> Vec<Bucket> {
        let mut buckets: Vec<Bucket> = Vec::new();
        for recorded in self.0.iter_recorded() {
            let time = recorded.value_iterated_to();
            let count = recorded.count_at_value();
            let (from_ns, to_ns) = around(time);
            match buckets.last_mut() {
                Some(last) if last.from_ns == from_ns => last.count += count,
                _ => buckets.push(Bucket { from_ns, to_ns, count }),
            }
        }
        buckets
    }
}

/// The ends of the bucket that this time is in.
fn around(time: u64) -> (u64, u64) {
    // Of the number, the highest five bits count.
    let dropped = (u64::BITS - time.leading_zeros()).saturating_sub(5);
    let from = time >> dropped << dropped;
    (from, from | ((1 << dropped) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distribution(times: impl IntoIterator<Item = u64>) -> Distribution {
        let mut recorder = Recorder::new().unwrap();
        for time in times {
            recorder.record(time).unwrap();
        }
        recorder.distribution()
    }

    #[test]
    fn a_percentile_is_the_nearest_rank() {
        let hundred = distribution((1..=100).rev());
        assert_eq!(hundred.count, 100);
        assert_eq!((hundred.min_ns, hundred.max_ns), (1, 100));
        assert_eq!(hundred.median_ns, 50);
        assert_eq!((hundred.p90_ns, hundred.p99_ns), (90, 99));
        assert_eq!(hundred.p99_9_ns, 100);
        assert_eq!(distribution([7]).median_ns, 7);
        assert_eq!(distribution([1, 2, 3]).median_ns, 2);
        assert_eq!(distribution([0]).max_ns, 0);
    }

    #[test]
    fn of_nothing_there_is_nothing() {
        assert_eq!(distribution([]), Distribution::default());
    }

    #[test]
    fn a_bucket_holds_what_is_within_its_ends() {
        let times = [0, 1, 31, 32, 33, 34, 180, 180, 1_000_003, u64::MAX / 4];
        let distribution = distribution(times);
        for Bucket { from_ns, to_ns, count } in &distribution.histogram {
            let within = |time: &&u64| (*from_ns..=*to_ns).contains(*time);
            let inside = times.iter().filter(within).count();
            assert_eq!(u64::try_from(inside), Ok(*count), "{from_ns}");
        }
        let counts = distribution.histogram.iter().map(|bucket| bucket.count);
        assert_eq!(counts.sum::<u64>(), 10);
    }

    #[test]
    fn buckets_follow_one_another_without_a_gap() {
        let mut next = Some(0);
        while let Some(time) = next {
            let (from, to) = around(time);
            assert_eq!(from, time);
            assert!(to - from <= from / 16, "{from} to {to}");
            next = to.checked_add(1);
        }
    }
}
