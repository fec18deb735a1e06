//! How the cost of moving a payload depends on its size: a point for each
//! power of two, each measured by two processes of its own.

use serde::Serialize;
use shm_common::Size;

use super::moving::transfers;
use super::report::Figures;

/// The smallest payload.
const SMALLEST: usize = 4096;

/// As `--json` has it.
#[derive(Debug, Serialize)]
pub(crate) struct Point {
    pub(crate) payload_bytes: usize,
    pub(crate) transfers: u32,
    #[serde(flatten)]
    pub(crate) figures: Figures,
    /// Why there is no room for that much; null if it was moved.
    pub(crate) left_out_because: Option<String>,
}

impl Point {
    pub(crate) fn measured(size: Size, figures: Figures) -> Self {
        Self {
            payload_bytes: size.bytes(),
            transfers: transfers(size),
            figures,
            left_out_because: None,
        }
    }

    pub(crate) fn left_out(size: Size, reason: String) -> Self {
        let left_out_because = Some(reason);
        Self { left_out_because, ..Self::measured(size, Figures::default()) }
    }
}

/// The greatest payload of a curve.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Greatest(Size);

/// For `clap`.
pub(crate) fn greatest(text: &str) -> Result<Greatest, String> {
    let size: Size = text.parse().map_err(|error| format!("{error}"))?;
    match size.bytes() < SMALLEST {
        true => Err("the smallest payload is 4KiB".to_owned()),
        false => Ok(Greatest(size)),
    }
}

impl Greatest {
    /// The sizes of a curve that ends with that.
    pub(crate) fn sizes(self) -> Vec<Size> {
        let powers = (0..usize::BITS).map(|power| 1_usize << power);
        powers
            .filter(|bytes| (SMALLEST..=self.0.bytes()).contains(bytes))
            .flat_map(Size::new)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sizes_are_powers_of_two_up_to_the_greatest() {
        let sizes = |text| greatest(text).unwrap().sizes();
        assert_eq!(sizes("4KiB"), [Size::new(4096).unwrap()]);
        let all = sizes("256MiB");
        assert_eq!(all.len(), 17);
        assert_eq!(all[16], "256MiB".parse().unwrap());
        assert_eq!(sizes("300MiB"), all);
        assert!(greatest("4095").is_err());
        assert!(greatest("much").is_err());
        assert_eq!(sizes(&Size::MAX.to_string()).len(), 51);
    }
}
