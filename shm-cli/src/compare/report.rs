//! What `compare` prints: one table for people, one JSON object for machines.

use comfy_table::presets::{ASCII_MARKDOWN, UTF8_FULL_CONDENSED};
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;
use shm_common::Size;

use super::peer::{Figures, Mechanism};
use super::remains::Remains;
use crate::Failure;

#[derive(Serialize)]
pub(crate) struct Report {
    payload_bytes: usize,
    rounds: u32,
    mechanisms: Vec<Outcome>,
}

/// Of one mechanism; what was not measured is null.
#[derive(Serialize, Default)]
pub(crate) struct Outcome {
    name: &'static str,
    payload_bytes: usize,
    /// The checksums of both sides are the same.
    verified: bool,
    checksum_sent: Option<String>,
    checksum_received: Option<String>,
    set_up_ns: Option<u64>,
    map_ns: Option<u64>,
    first_touch_ns: Option<u64>,
    transfer_ns: Option<u64>,
    gb_per_s: Option<f64>,
    hand_over_median_ns: Option<u64>,
    hand_over_p99_ns: Option<u64>,
    tear_down_ns: Option<u64>,
    found_by: Option<String>,
    left_after_sigkill: Option<Vec<String>>,
    error: Option<String>,
}

impl Outcome {
    pub(crate) fn measured(
        mechanism: Mechanism,
        figures: &Figures,
        remains: Remains,
    ) -> Self {
        let sent = Some(format!("{:016x}", figures.checksum));
        let received =
            figures.received_checksum.map(|sum| format!("{sum:016x}"));
        let verified = sent == received;
        let differs = "the received bytes differ from the sent ones";
        Self {
            name: mechanism.name(),
            payload_bytes: figures.payload_bytes,
            verified,
            checksum_sent: sent,
            checksum_received: received,
            set_up_ns: Some(figures.set_up),
            map_ns: Some(figures.map),
            first_touch_ns: Some(figures.first_touch),
            transfer_ns: Some(figures.transfer),
            gb_per_s: Some(rate(figures.payload_bytes, figures.transfer)),
            hand_over_median_ns: Some(figures.hand_over_median),
            hand_over_p99_ns: Some(figures.hand_over_p99),
            tear_down_ns: Some(figures.tear_down),
            found_by: Some(remains.found_by),
            left_after_sigkill: Some(remains.left),
            error: (!verified).then(|| differs.to_owned()),
        }
    }

    pub(crate) fn failed(
        mechanism: Mechanism,
        payload_bytes: usize,
        error: String,
    ) -> Self {
        let (name, error) = (mechanism.name(), Some(error));
        Self { name, payload_bytes, error, ..Self::default() }
    }
}

impl Report {
    pub(crate) fn new(
        payload_bytes: usize,
        rounds: u32,
        mechanisms: Vec<Outcome>,
    ) -> Self {
        Self { payload_bytes, rounds, mechanisms }
    }

    /// Whether every mechanism moved every byte.
    pub(crate) fn is_complete(&self) -> bool {
        self.mechanisms.iter().all(|outcome| outcome.error.is_none())
    }

    /// What went wrong, a line each.
    pub(crate) fn complaints(&self) -> impl Iterator<Item = String> {
        self.mechanisms.iter().filter_map(|outcome| {
            let error = outcome.error.as_ref()?;
            Some(format!("{}: {error}", outcome.name))
        })
    }

    pub(crate) fn to_json(&self) -> Result<String, Failure> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// A row for each thing compared, a column for each mechanism.
    pub(crate) fn to_table(&self, is_terminal: bool) -> String {
        let mut table = Table::new();
        table.load_preset(match is_terminal {
            true => UTF8_FULL_CONDENSED,
            false => ASCII_MARKDOWN,
        });
        table.set_content_arrangement(ContentArrangement::Dynamic);
        if !is_terminal {
            table.set_width(120);
        }
        let names = self.mechanisms.iter().map(|outcome| outcome.name);
        table.set_header(std::iter::once("").chain(names));
        let mut row = |title: &str, cell: &dyn Fn(&Outcome) -> String| {
            let cells = self.mechanisms.iter().map(cell);
            table.add_row(std::iter::once(title.to_owned()).chain(cells));
        };
        row("every byte checked", &|o| match &o.error {
            None => "yes".into(),
            Some(error) => format!("NO: {error}"),
        });
        row("set-up", &|o| time(o.set_up_ns));
        row("map", &|o| time(o.map_ns));
        row("first touch, all pages", &|o| time(o.first_touch_ns));
        row("transfer", &|o| time(o.transfer_ns));
        row("", &|o| {
            o.gb_per_s.map_or(String::new(), |r| format!("{r:.1} GB/s"))
        });
        row("hand-over, median", &|o| time(o.hand_over_median_ns));
        row("hand-over, p99", &|o| time(o.hand_over_p99_ns));
        row("tear-down", &|o| time(o.tear_down_ns));
        row("a stranger finds it as", &|o| {
            o.found_by.clone().unwrap_or_default()
        });
        row("left after SIGKILL of both", &|o| match &o.left_after_sigkill {
            None => String::new(),
            Some(left) if left.is_empty() => "nothing".into(),
            Some(left) => left.join(", "),
        });
        let payload = Size::new(self.payload_bytes)
            .map_or_else(|_| String::new(), |size| size.to_string());
        format!(
            "{payload} between two processes; transfer: copied in and out \
             again, median of 5; hand-over: one word, one way, {} times\n\
             {table}",
            self.rounds
        )
    }
}

/// In units of a thousand: 10⁹ bytes a second.
#[expect(
    clippy::cast_precision_loss,
    reason = "a rate is not told to 15 digits"
)]
fn rate(bytes: usize, nanoseconds: u64) -> f64 {
    bytes as f64 / nanoseconds.max(1) as f64
}

/// With three digits that count.
#[expect(clippy::cast_precision_loss, reason = "three digits are printed")]
fn time(nanoseconds: Option<u64>) -> String {
    let Some(nanoseconds) = nanoseconds else { return String::new() };
    let value = nanoseconds as f64;
    match nanoseconds {
        0..1_000 => format!("{nanoseconds} ns"),
        1_000..1_000_000 => format!("{:.1} µs", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", value / 1e6),
        _ => format!("{:.2} s", value / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_the_unit_that_suits_them() {
        assert_eq!(time(Some(999)), "999 ns");
        assert_eq!(time(Some(1_250)), "1.2 µs");
        assert_eq!(time(Some(12_340_000)), "12.3 ms");
        assert_eq!(time(Some(2_000_000_000)), "2.00 s");
        assert_eq!(time(None), "");
    }

    #[test]
    fn a_failure_is_a_column_a_complaint_and_null_in_json() {
        let failed = Outcome::failed(Mechanism::Posix, 7, "no room".to_owned());
        let report = Report::new(7, 1, vec![failed]);
        assert!(!report.is_complete());
        let complaints: Vec<String> = report.complaints().collect();
        assert_eq!(complaints, ["posix: no room"]);
        assert!(report.to_table(false).contains("NO: no room"));
        let json: serde_json::Value =
            serde_json::from_str(&report.to_json().unwrap()).unwrap();
        assert_eq!(json["mechanisms"][0]["name"], "posix");
        assert_eq!(json["mechanisms"][0]["verified"], false);
        assert!(json["mechanisms"][0]["transfer_ns"].is_null());
    }
}
