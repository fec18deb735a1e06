//! How the cost of moving a payload depends on its size: a point for each step
//! of four times the size, each measured by two processes of its own.

use serde::Serialize;
use shm_common::Size;

use super::moving::transfers;
use super::payload::Payload;
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
    pub(crate) fn size(self) -> Size {
        self.0
    }

    /// The sizes of a curve up to that, which a payload is a part of if it is
    /// generated as they are.
    pub(crate) fn sizes(self, payload: &Payload) -> Vec<Size> {
        let powers = (0..usize::BITS / 2).map(|power| 1_usize << (2 * power));
        let mut sizes: Vec<Size> = powers.flat_map(Size::new).collect();
        if payload.path().is_none() {
            sizes.push(payload.size());
        }
        let range = SMALLEST..=self.0.bytes();
        sizes.retain(|size| range.contains(&size.bytes()));
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_goes_up_to_the_greatest_and_through_the_payload() {
        let size = |text: &str| text.parse::<Size>().unwrap();
        let sizes = |text, payload| {
            let payload = Payload::Generated(size(payload));
            greatest(text).unwrap().sizes(&payload)
        };
        assert_eq!(sizes("4KiB", "32MiB"), [size("4KiB")]);
        let few = [size("4KiB"), size("16KiB"), size("17KiB")];
        assert_eq!(sizes("63KiB", "17KiB"), few);
        assert_eq!(sizes("16KiB", "4KiB"), few[..2]);
        let all = sizes("256MiB", "32MiB");
        assert_eq!(all.len(), 10);
        assert_eq!(all[6..9], [size("16MiB"), size("32MiB"), size("64MiB")]);
        assert_eq!(sizes(&Size::MAX.to_string(), "4KiB").len(), 26);
        let file = Payload::File("file".into(), size("17KiB"));
        assert_eq!(greatest("63KiB").unwrap().sizes(&file), few[..2]);
        assert!(greatest("4095").is_err());
        assert!(greatest("much").is_err());
    }
}
