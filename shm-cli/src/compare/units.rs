//! Figures as people read them, with three digits that count.

use shm_common::Size;

/// Nothing for what was not measured.
#[expect(clippy::cast_precision_loss, reason = "three digits are printed")]
pub(crate) fn time(nanoseconds: Option<u64>) -> String {
    let Some(nanoseconds) = nanoseconds else { return String::new() };
    let (value, unit) = match nanoseconds {
        0..1_000 => return format!("{nanoseconds} ns"),
        // What would be rounded to 1000 is 1.00 of the next unit.
        1_000..999_500 => (nanoseconds as f64 / 1e3, "µs"),
        999_500..999_500_000 => (nanoseconds as f64 / 1e6, "ms"),
        _ => (nanoseconds as f64 / 1e9, "s"),
    };
    format!("{} {unit}", three_digits(value))
}

/// In 10⁹ bytes a second.
pub(crate) fn rate(gb_per_s: Option<f64>) -> String {
    gb_per_s
        .map_or(String::new(), |rate| format!("{} GB/s", three_digits(rate)))
}

/// However small it is: a byte is moved at some thousandths of a GB/s.
pub(crate) fn three_digits(number: f64) -> String {
    let decimals = decimals(number, 99.95);
    format!("{number:.decimals$}")
}

/// How many there must be so that a number is that much in units of the last.
pub(crate) fn decimals(number: f64, least: f64) -> usize {
    let tenfold = |number: &f64| Some(number * 10.0);
    let mut numbers = std::iter::successors(Some(number), tenfold).take(12);
    // What is a little less is so only by rounding.
    numbers.position(|number| number >= least * (1.0 - 1e-9)).unwrap_or(2)
}

/// In the greatest unit of which they are a whole number.
pub(crate) fn size(bytes: usize) -> String {
    let text = Size::new(bytes).map_or("0".to_owned(), |size| size.to_string());
    match text.find(|character: char| !character.is_ascii_digit()) {
        Some(unit) => format!("{} {}", &text[..unit], &text[unit..]),
        None => format!("{text} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_the_unit_that_suits_them() {
        assert_eq!(time(None), "");
        assert_eq!(time(Some(0)), "0 ns");
        assert_eq!(time(Some(999)), "999 ns");
        assert_eq!(time(Some(1_256)), "1.26 µs");
        assert_eq!(time(Some(999_499)), "999 µs");
        assert_eq!(time(Some(999_500)), "1.00 ms");
        assert_eq!(time(Some(12_340_000)), "12.3 ms");
        assert_eq!(time(Some(234_000_000)), "234 ms");
        assert_eq!(time(Some(2_000_000_000)), "2.00 s");
    }

    #[test]
    fn a_rate_has_three_digits_however_small_it_is() {
        let rates = [
            (123.4, "123 GB/s"),
            (24.831, "24.8 GB/s"),
            (9.996, "10.0 GB/s"),
            (8.07, "8.07 GB/s"),
            (0.1, "0.100 GB/s"),
            (0.001_468, "0.00147 GB/s"),
            (0.000_001, "0.00000100 GB/s"),
            (0.0, "0.00 GB/s"),
        ];
        assert_eq!(rate(None), "");
        for (gb_per_s, text) in rates {
            assert_eq!(rate(Some(gb_per_s)), text);
        }
    }

    #[test]
    fn a_size_is_a_whole_number_of_some_unit() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(4097), "4097 B");
        assert_eq!(size(65_536), "64 KiB");
        assert_eq!(size(1 << 28), "256 MiB");
    }
}
