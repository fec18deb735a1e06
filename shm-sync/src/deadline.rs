//! When to stop waiting: a point of time that no clock setting moves.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, Timespec, clock_gettime};

const NANOSECONDS: u32 = 1_000_000_000;

/// A point of time on `CLOCK_MONOTONIC`, at which a wait gives up.
///
/// It is absolute, so that a wait which is interrupted or woken early goes on
/// to the same point, and it is the same for every process of this machine. The
/// clock is never set; it stands still while the machine is suspended. No
/// duration is too long: what cannot be counted is [`NEVER`](Self::NEVER).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use shm_sync::Deadline;
///
/// let deadline = Deadline::after(Duration::from_millis(1500));
/// assert!(!deadline.has_passed());
/// assert!(deadline < Deadline::after(Duration::MAX));
/// assert!(Deadline::now().has_passed());
/// ```
///
/// # Sources
///
/// `clock_gettime(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deadline {
    seconds: i64,
    /// Less than `NANOSECONDS`: the kernel refuses others.
    nanoseconds: u32,
}

impl Deadline {
    /// The last point of time that the kernel knows: in 292 billion years.
    pub const NEVER: Self =
        Self { seconds: i64::MAX, nanoseconds: NANOSECONDS - 1 };

    /// This moment. A wait until then gives up unless it need not wait.
    #[must_use]
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        let nanoseconds = u32::try_from(now.tv_nsec).unwrap_or(0);
        Self { seconds: now.tv_sec, nanoseconds }
    }

    /// The point that is `duration` from now.
    #[must_use]
    pub fn after(duration: Duration) -> Self {
        Self::now().plus(duration)
    }

    /// Whether that point is now or before.
    #[must_use]
    pub fn has_passed(self) -> bool {
        self <= Self::now()
    }

    /// The time from now to that point; zero when it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.since(Self::now())
    }

    fn plus(self, duration: Duration) -> Self {
        let nanoseconds = self.nanoseconds + duration.subsec_nanos();
        let carry = u64::from(nanoseconds / NANOSECONDS);
        let seconds = duration
            .as_secs()
            .checked_add(carry)
            .and_then(|more| self.seconds.checked_add_unsigned(more));
        match seconds {
            Some(seconds) => {
                Self { seconds, nanoseconds: nanoseconds % NANOSECONDS }
            }
            None => Self::NEVER,
        }
    }

    fn since(self, earlier: Self) -> Duration {
        let seconds = i128::from(self.seconds) - i128::from(earlier.seconds);
        let left = seconds * i128::from(NANOSECONDS)
            + i128::from(self.nanoseconds)
            - i128::from(earlier.nanoseconds);
        let nanoseconds = u128::try_from(left).unwrap_or(0);
        let second = u128::from(NANOSECONDS);
        match u64::try_from(nanoseconds / second) {
            Ok(seconds) => {
                let rest = u32::try_from(nanoseconds % second).unwrap_or(0);
                Duration::new(seconds, rest)
            }
            Err(_) => Duration::MAX,
        }
    }

    /// As the kernel and the C library take it.
    pub(crate) fn timespec(self) -> Timespec {
        Timespec { tv_sec: self.seconds, tv_nsec: self.nanoseconds.into() }
    }
}

/// An `Instant` is a point on the same clock, whose number std does not tell.
impl From<Instant> for Deadline {
    fn from(instant: Instant) -> Self {
        Self::after(instant.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn deadlines() -> impl Strategy<Value = Deadline> {
        let second = prop_oneof![0..10_i64, i64::MAX - 9..=i64::MAX];
        // Near a carry as often as anywhere.
        let part =
            prop_oneof![0..3_u32, 0..NANOSECONDS, 999_999_998..NANOSECONDS];
        (second, part).prop_map(|(seconds, nanoseconds)| Deadline {
            seconds,
            nanoseconds,
        })
    }

    fn durations() -> impl Strategy<Value = Duration> {
        let second = prop_oneof![
            0..10_u64,
            any::<u64>(),
            i64::MAX as u64 - 9..=i64::MAX as u64,
            u64::MAX - 9..=u64::MAX,
        ];
        let part =
            prop_oneof![0..3_u32, 0..NANOSECONDS, 999_999_998..NANOSECONDS];
        (second, part).prop_map(|(s, n)| Duration::new(s, n))
    }

    proptest! {
        #[test]
        fn a_sum_is_exact_or_the_last_point_of_time(
            start in deadlines(),
            duration in durations(),
        ) {
            let nanoseconds = |seconds: i128, part: u32| {
                seconds * i128::from(NANOSECONDS) + i128::from(part)
            };
            let exact = nanoseconds(start.seconds.into(), start.nanoseconds)
                + nanoseconds(
                    duration.as_secs().into(),
                    duration.subsec_nanos(),
                );
            let last = Deadline::NEVER;
            let most = nanoseconds(last.seconds.into(), last.nanoseconds);
            let sum = start.plus(duration);
            prop_assert_eq!(
                nanoseconds(sum.seconds.into(), sum.nanoseconds),
                exact.min(most)
            );
        }

        #[test]
        fn the_kernel_takes_every_sum(
            start in deadlines(),
            duration in durations(),
        ) {
            let point = start.plus(duration).timespec();
            prop_assert!(point.tv_sec >= 0);
            prop_assert!((0..i64::from(NANOSECONDS)).contains(&point.tv_nsec));
        }

        #[test]
        fn what_is_left_is_what_was_added(
            start in deadlines(),
            duration in durations(),
        ) {
            let sum = start.plus(duration);
            prop_assume!(sum != Deadline::NEVER);
            prop_assert_eq!(sum.since(start), duration);
            prop_assert_eq!(start.since(sum), Duration::ZERO);
        }

        #[test]
        fn a_later_deadline_compares_greater(
            start in deadlines(),
            short in durations(),
            long in durations(),
        ) {
            let (short, long) = (short.min(long), short.max(long));
            prop_assert!(start.plus(short) <= start.plus(long));
        }
    }

    #[test]
    fn an_instant_becomes_the_same_point_of_time() {
        let instant = Instant::now() + Duration::from_secs(3600);
        let deadline = Deadline::from(instant);
        let after = instant.saturating_duration_since(Instant::now());
        // `after` was taken later, so it is no longer than what was left.
        assert!(deadline.remaining() <= Duration::from_secs(3600));
        assert!(
            deadline >= Deadline::after(after.saturating_sub(AN_HOUR / 60))
        );
        assert!(Deadline::from(Instant::now()).has_passed());
    }

    const AN_HOUR: Duration = Duration::from_secs(3600);
}
