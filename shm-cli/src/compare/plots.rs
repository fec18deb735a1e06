//! The two plots of a [`page`](super::page): which numbers they show, and over
//! which axes.

use super::distribution::{Bucket, Distribution};
use super::plot::{Axis, Line, Plot, Scale};
use super::report::{Outcome, Report};
use super::units::{decimals, rate, size, time};

/// Transfer rate against payload size.
pub(crate) fn rates(report: &Report) -> Plot {
    let mut lines = Vec::new();
    let mut description = String::new();
    for outcome in &report.mechanisms {
        let points = rates_of(outcome);
        if points.is_empty() {
            continue;
        }
        let says: Vec<String> = points
            .iter()
            .map(|(bytes, gb_per_s)| {
                format!("{} at {}", rate(Some(*gb_per_s)), size(*bytes))
            })
            .collect();
        let name = outcome.name;
        description += &format!("{name}: {}. ", says.join(", "));
        let marks = says.iter().map(|says| format!("{name}: {says}"));
        lines.push(Line {
            name,
            marks: Some(marks.collect()),
            points: points
                .into_iter()
                .map(|(bytes, gb_per_s)| (float(bytes as u64), gb_per_s))
                .collect(),
        });
    }
    let points = || lines.iter().flat_map(|line| &line.points);
    let least = points().map(|point| point.0).fold(f64::MAX, f64::min);
    let most = points().map(|point| point.0).fold(0.0, f64::max);
    let quickest = points().map(|point| point.1).fold(0.0, f64::max);
    Plot {
        id: "rates",
        title: "Transfer rate against the size of the payload",
        description,
        x: bytes_axis(least, most),
        y: rate_axis(quickest),
        lines,
    }
}

/// Payloads and their rates in GB/s.
fn rates_of(outcome: &Outcome) -> Vec<(usize, f64)> {
    let points = outcome.curve.iter().flatten();
    points
        .filter_map(|point| {
            Some((point.payload_bytes, point.figures.gb_per_s?))
        })
        .collect()
}

fn bytes_axis(least: f64, most: f64) -> Axis {
    // One payload alone is in the middle.
    let (from, to) = match least < most {
        true => (least, most),
        false => (least / 2.0, most * 2.0),
    };
    let powers = || (0..63).map(|power| 1_usize << power);
    let within = |bytes: &usize| (from..=to).contains(&float(*bytes as u64));
    let tick = |bytes: usize| (float(bytes as u64), size(bytes));
    let sixteenfold = |bytes: &usize| bytes.trailing_zeros().is_multiple_of(4);
    // 4KiB, 64KiB, … first.
    let mut ticks: Vec<_> =
        powers().filter(within).filter(sixteenfold).map(tick).collect();
    if ticks.len() < 3 {
        ticks = powers().filter(within).map(tick).collect();
    }
    let title = "payload in bytes";
    Axis { title, scale: Scale::Logarithmic, from, to, ticks }
}

fn rate_axis(quickest: f64) -> Axis {
    let step = one_two_five(quickest / 5.0);
    let steps = (quickest / step).ceil().max(1.0);
    let digits = decimals(step, 1.0);
    let mut ticks = Vec::new();
    let mut at = 0.0;
    while at <= steps {
        let number = at * step;
        ticks.push((number, format!("{number:.digits$}")));
        at += 1.0;
    }
    let title = "GB/s";
    Axis { title, scale: Scale::Linear, from: 0.0, to: steps * step, ticks }
}

/// How long a hand-over takes, from the quickest to the slowest.
pub(crate) fn hand_overs(report: &Report) -> Plot {
    let measured = report.mechanisms.iter().filter_map(|outcome| {
        let distribution = outcome.hand_over.as_ref()?;
        (distribution.count > 0).then_some((outcome.name, distribution))
    });
    let mut lines = Vec::new();
    let mut description = String::new();
    for (name, distribution) in measured {
        let Distribution { median_ns, p99_ns, p99_9_ns, max_ns, .. } =
            distribution;
        description += &format!(
            "{name}: half of them took at most {}, 99 % {}, 99.9 % {}, and \
             none more than {}. ",
            time(Some(*median_ns)),
            time(Some(*p99_ns)),
            time(Some(*p99_9_ns)),
            time(Some(*max_ns)),
        );
        let points = steps(distribution);
        lines.push(Line { name, points, marks: None });
    }
    let points = || lines.iter().flat_map(|line| &line.points);
    let quickest = points().map(|point| point.1).fold(f64::MAX, f64::min);
    let slowest = points().map(|point| point.1).fold(0.0, f64::max);
    let rarest = points().map(|point| point.0).fold(10.0, f64::max);
    Plot {
        id: "hand-overs",
        title: "Hand-over of a word, from the quickest to the slowest",
        description,
        x: share_axis(rarest),
        y: time_axis(quickest, slowest),
        lines,
    }
}

/// A line through the times in their order. Its x is of how many hand-overs one
/// takes longer: what is rare has as much room as what is common.
fn steps(distribution: &Distribution) -> Vec<(f64, f64)> {
    let all = distribution.count;
    let mut points = Vec::new();
    let mut before = 0;
    for Bucket { to_ns, count, .. } in &distribution.histogram {
        // The last, than which none takes longer, is one of all.
        let one_of = |before: u64| {
            let longer = all.saturating_sub(before).max(1);
            float(all) / float(longer)
        };
        let time = float(*to_ns.min(&distribution.max_ns)).max(1.0);
        points.push((one_of(before), time));
        before += count;
        points.push((one_of(before), time));
    }
    points
}

fn share_axis(rarest: f64) -> Axis {
    let mut ticks = vec![(1.0, "0".to_owned()), (10.0, "90".to_owned())];
    let mut one_of = 100.0;
    for digits in 0.. {
        if one_of > rarest {
            break;
        }
        let percent = 100.0 - 100.0 / one_of;
        ticks.push((one_of, format!("{percent:.digits$}")));
        one_of *= 10.0;
    }
    ticks.push((2.0, "50".to_owned()));
    let title = "% of the hand-overs are no slower";
    Axis { title, scale: Scale::Logarithmic, from: 1.0, to: rarest, ticks }
}

fn time_axis(quickest: f64, slowest: f64) -> Axis {
    let mut to = one_two_five(slowest);
    // The same steps downwards.
    let from = 1.0 / one_two_five(1.25 / quickest.min(slowest));
    to = to.max(from * 10.0);
    let decades: Vec<f64> = std::iter::successors(Some(1.0), |at| {
        let next = at * 10.0;
        (next <= to).then_some(next)
    })
    .collect();
    let mut numbers = decades.clone();
    // Where there are few.
    if to / from <= 200.0 {
        numbers.extend(decades.iter().flat_map(|one| [2.0 * one, 5.0 * one]));
    }
    numbers.retain(|number| (from * 0.999..=to * 1.001).contains(number));
    let ticks = numbers.into_iter().map(|ns| (ns, brief_time(ns))).collect();
    let title = "time, one way";
    Axis { title, scale: Scale::Logarithmic, from, to, ticks }
}

/// The least of 1, 2, 5, 10, 20, … that is not less; for fractions too.
fn one_two_five(number: f64) -> f64 {
    if !(number.is_finite() && number > 0.0) {
        return 1.0;
    }
    let power = 10_f64.powf(number.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].into_iter();
    let mut enough = steps.filter(|step| step * power >= number * 0.999);
    enough.next().unwrap_or(10.0) * power
}

/// Of a round number of nanoseconds.
fn brief_time(nanoseconds: f64) -> String {
    let (number, unit) = match nanoseconds {
        ..1e3 => (nanoseconds, "ns"),
        1e3..1e6 => (nanoseconds / 1e3, "µs"),
        1e6..1e9 => (nanoseconds / 1e6, "ms"),
        _ => (nanoseconds / 1e9, "s"),
    };
    format!("{} {unit}", number.round())
}

#[expect(clippy::cast_precision_loss, reason = "for a picture")]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(from_ns: u64, to_ns: u64, count: u64) -> Bucket {
        Bucket { from_ns, to_ns, count }
    }

    #[test]
    fn the_line_of_a_distribution_ends_with_the_slowest_of_all() {
        let distribution = Distribution {
            count: 100,
            max_ns: 900,
            histogram: vec![
                bucket(40, 41, 50),
                bucket(50, 51, 40),
                bucket(60, 61, 9),
                bucket(896, 927, 1),
            ],
            ..Distribution::default()
        };
        let points = steps(&distribution);
        let near = |(x, y): (f64, f64), (at, time): (f64, f64)| {
            (x - at).abs() < 1e-9 && (y - time).abs() < 1e-9
        };
        let expected = [
            (1.0, 41.0),
            (2.0, 41.0),
            (2.0, 51.0),
            (10.0, 51.0),
            (10.0, 61.0),
            (100.0, 61.0),
            (100.0, 900.0),
            (100.0, 900.0),
        ];
        assert_eq!(points.len(), expected.len());
        for (point, expected) in points.into_iter().zip(expected) {
            assert!(near(point, expected), "{point:?} {expected:?}");
        }
    }

    #[test]
    fn an_axis_has_room_for_all_and_names_what_is_within() {
        for (quickest, slowest) in
            [(40.0, 9e6), (1.0, 1.0), (150.0, 380.0), (99.0, 3e9)]
        {
            let axis = time_axis(quickest, slowest);
            assert!(axis.from <= quickest && slowest <= axis.to);
            assert!(axis.ticks.len() >= 2, "{quickest} {slowest}");
            for (number, _) in axis.ticks {
                assert!((axis.from * 0.99..=axis.to * 1.01).contains(&number));
            }
        }
        for quickest in [0.003, 0.7, 1.0, 24.8, 190.0] {
            let axis = rate_axis(quickest);
            assert!(axis.to >= quickest * 0.999, "{quickest}");
            assert!((3..=11).contains(&axis.ticks.len()), "{quickest}");
        }
        let numbers = |axis: Axis| {
            let read = |tick: (f64, String)| (tick.0, tick.1.parse().unwrap());
            axis.ticks.into_iter().map(read).collect::<Vec<(f64, f64)>>()
        };
        for quickest in [0.000_4, 0.003, 0.02, 0.7, 24.8] {
            for (number, told) in numbers(rate_axis(quickest)) {
                assert!((number - told).abs() < 1e-9, "{number} {told}");
            }
        }
        let names = |axis: Axis| {
            let names = axis.ticks.into_iter().map(|(_, name)| name);
            names.collect::<Vec<String>>()
        };
        let all = bytes_axis(4096.0, 268_435_456.0);
        let expected = ["4 KiB", "64 KiB", "1 MiB", "16 MiB", "256 MiB"];
        assert_eq!(names(all), expected);
        let few = bytes_axis(4096.0, 8192.0);
        assert_eq!(names(few), ["4 KiB", "8 KiB"]);
        let shares = share_axis(20_000.0);
        assert_eq!(names(shares), ["0", "90", "99", "99.9", "99.99", "50"]);
    }

    #[test]
    fn steps_are_one_two_and_five() {
        let of = |number: f64| one_two_five(number);
        for (number, step) in
            [(0.9, 1.0), (1.0, 1.0), (1.1, 2.0), (30.0, 50.0), (0.03, 0.05)]
        {
            assert!((of(number) - step).abs() < step / 1e6, "{number}");
        }
        for odd in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!((of(odd) - 1.0).abs() < 1e-9);
        }
    }

    #[test]
    fn the_greatest_numbers_are_no_panic() {
        let distribution = Distribution {
            count: u64::MAX,
            max_ns: u64::MAX,
            histogram: vec![bucket(0, u64::MAX, u64::MAX)],
            ..Distribution::default()
        };
        let points = steps(&distribution);
        assert!(points.iter().all(|(x, y)| x.is_finite() && y.is_finite()));
        share_axis(points[1].0);
        time_axis(points[0].1, points[1].1);
    }
}
