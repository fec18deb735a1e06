//! Lengths in bytes that a segment can have.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use crate::{Error, Result, SizeFault};

/// A length in bytes, `1..=isize::MAX`: what one Rust object, and so one
/// mapping, can span.
///
/// Reads and prints sizes as people write them, in powers of 1024.
///
/// # Examples
///
/// ```
/// use shm_common::Size;
///
/// let size: Size = "64KiB".parse()?;
/// assert_eq!(size, Size::new(65_536)?);
/// assert_eq!(size.to_string(), "64KiB");
/// assert_eq!("4097".parse::<Size>()?.to_string(), "4097");
/// assert!("0".parse::<Size>().is_err());
/// # Ok::<(), shm_common::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(NonZeroUsize);

/// The units that are read and printed, greatest first.
const UNITS: [(&str, u32); 5] =
    [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

impl Size {
    /// 1,024 bytes.
    pub const KIB: Self = Self::constant(1 << 10);
    /// 1,048,576 bytes.
    pub const MIB: Self = Self::constant(1 << 20);
    /// The greatest size: `isize::MAX` bytes.
    pub const MAX: Self = Self::constant(isize::MAX.unsigned_abs());

    /// Makes a size of `bytes` bytes.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSize`]: `bytes` is 0, or greater than `isize::MAX`.
    pub fn new(bytes: usize) -> Result<Self> {
        match Self::checked(bytes) {
            Ok(size) => Ok(size),
            Err(fault) => Err(invalid(bytes, fault)),
        }
    }

    const fn checked(bytes: usize) -> Result<Self, SizeFault> {
        match NonZeroUsize::new(bytes) {
            None => Err(SizeFault::Zero),
            Some(_) if bytes > isize::MAX.unsigned_abs() => {
                Err(SizeFault::TooLarge)
            }
            Some(bytes) => Ok(Self(bytes)),
        }
    }

    /// Only for the constants above: a fault is found at compile time.
    pub(crate) const fn constant(bytes: usize) -> Self {
        match Self::checked(bytes) {
            Ok(size) => size,
            Err(_) => panic!("a constant size is out of range"),
        }
    }

    /// The size in bytes, `1..=isize::MAX`.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.0.get()
    }

    /// Makes a size `count` times this one.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSize`]: the product is 0, or greater than `isize::MAX`.
    pub fn times(self, count: usize) -> Result<Self> {
        Self::new(self.bytes().saturating_mul(count))
    }
}

fn invalid(given: impl ToString, fault: SizeFault) -> Error {
    Error::InvalidSize { given: given.to_string(), fault }
}

impl TryFrom<usize> for Size {
    type Error = Error;

    fn try_from(bytes: usize) -> Result<Self> {
        Self::new(bytes)
    }
}

impl TryFrom<u64> for Size {
    type Error = Error;

    fn try_from(bytes: u64) -> Result<Self> {
        let narrow = usize::try_from(bytes)
            .map_err(|_| invalid(bytes, SizeFault::TooLarge))?;
        Self::new(narrow)
    }
}

impl From<Size> for usize {
    fn from(size: Size) -> usize {
        size.bytes()
    }
}

/// Reads a whole number, then optionally blanks and one of the units `B`,
/// `KiB`, `MiB`, `GiB`, `TiB` in any case.
///
/// `K`, `kB` and `MB` are refused: they mean 1000 to some and 1024 to others.
///
/// # Errors
///
/// [`Error::InvalidSize`], whose [`SizeFault`] says what is wrong.
impl FromStr for Size {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let trimmed = text.trim();
        let unit_at = trimmed
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(unit_at);
        let unit = unit.trim_start();
        if number.is_empty() {
            return Err(invalid(text, SizeFault::NotANumber));
        }
        let shift = match unit {
            "" => 0,
            _ => UNITS
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(unit))
                .map(|(_, shift)| *shift)
                .ok_or_else(|| invalid(text, SizeFault::UnknownUnit))?,
        };
        // All digits, so only a number too large fails to parse.
        let bytes = number
            .parse()
            .ok()
            .and_then(|n: u128| n.checked_mul(1 << shift))
            .and_then(|n| usize::try_from(n).ok())
            .ok_or_else(|| invalid(text, SizeFault::TooLarge))?;
        Self::checked(bytes).map_err(|fault| invalid(text, fault))
    }
}

/// Prints the greatest unit that divides the size exactly, so that the text
/// reads back as the same size.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.bytes();
        let (unit, shift) = UNITS
            .into_iter()
            .find(|(_, shift)| *shift > 0 && bytes.trailing_zeros() >= *shift)
            .unwrap_or(("", 0));
        f.pad(&format!("{}{unit}", bytes >> shift))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fault(text: &str) -> SizeFault {
        match text.parse::<Size>() {
            Err(Error::InvalidSize { given, fault }) => {
                assert_eq!(given, text);
                fault
            }
            other => panic!("{text:?} gave {other:?}"),
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_the_reason() {
        for text in ["", " ", "-1", "+1", "KiB", "0x10", ".5"] {
            let fault = fault(text);
            let expected = match text {
                "0x10" => SizeFault::UnknownUnit,
                _ => SizeFault::NotANumber,
            };
            assert_eq!(fault, expected, "{text:?}");
        }
        for text in ["1e9", "1K", "1kB", "5MB", "1.5MiB", "7 bytes"] {
            assert_eq!(fault(text), SizeFault::UnknownUnit, "{text:?}");
        }
        assert_eq!(fault("0"), SizeFault::Zero);
        assert_eq!(fault("0GiB"), SizeFault::Zero);
        for text in
            ["9999999999GiB", "9223372036854775808", "18446744073709551616"]
        {
            assert_eq!(fault(text), SizeFault::TooLarge, "{text:?}");
        }
    }

    #[test]
    fn units_are_powers_of_1024_in_any_case() {
        let bytes = |text: &str| text.parse::<Size>().unwrap().bytes();
        assert_eq!(bytes("4096"), 4096);
        assert_eq!(bytes("4096B"), 4096);
        assert_eq!(bytes(" 64 kib "), 65_536);
        assert_eq!(bytes("2MiB"), 2 << 20);
        assert_eq!(bytes("3gib"), 3 << 30);
        assert_eq!(bytes("1TiB"), 1 << 40);
        assert_eq!(Size::MAX.bytes(), isize::MAX as usize);
        assert_eq!(Size::MIB.times(3).unwrap(), "3MiB".parse().unwrap());
        assert!(Size::MIB.times(0).is_err());
        assert!(Size::MIB.times(usize::MAX).is_err());
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(bytes in 1..=isize::MAX as usize) {
            let size = Size::new(bytes).unwrap();
            prop_assert_eq!(size.to_string().parse::<Size>().unwrap(), size);
        }

        #[test]
        fn any_text_is_a_size_or_an_error(text in "\\PC*") {
            if let Ok(size) = text.parse::<Size>() {
                prop_assert!(size.bytes() <= isize::MAX as usize);
            }
        }

        #[test]
        fn any_digits_with_any_letters_are_a_size_or_an_error(
            text in "[0-9]{0,21} ?[a-zA-Z]{0,4}",
        ) {
            if let Ok(size) = text.parse::<Size>() {
                prop_assert!(size.bytes() >= 1);
            }
        }
    }
}
