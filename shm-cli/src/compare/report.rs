//! What was measured, as machines read it: of one mechanism by `bench`, of all
//! by `compare`. [`table`](super::table), [`page`](super::page) and `bench` make
//! it readable for people.

use serde::Serialize;

use super::curve::Point;
use super::distribution::Distribution;
use super::kind::Mechanism;
use super::machine::Machine;
use super::moving::transfers;
use super::payload::Payload;
use super::peer::{Received, Sent};
use super::remains::Remains;
use crate::Failure;

#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// The file; null if the bytes were generated.
    pub(crate) payload: Option<String>,
    pub(crate) payload_bytes: usize,
    pub(crate) transfers: u32,
    pub(crate) rounds: u32,
    pub(crate) mechanisms: Vec<Outcome>,
}

/// Of one mechanism; what was not measured is null.
#[derive(Serialize, Default)]
pub(crate) struct Outcome {
    pub(crate) name: &'static str,
    /// Whether this machine has the mechanism, for this user; if not, nothing
    /// was tried.
    pub(crate) available: bool,
    pub(crate) unavailable_because: Option<String>,
    pub(crate) payload_bytes: usize,
    /// Every byte came back as it was sent, and the checksums are the same.
    pub(crate) verified: bool,
    pub(crate) checksum_sent: Option<String>,
    pub(crate) checksum_received: Option<String>,
    /// Where the sender and the receiver stayed; null if they could not.
    pub(crate) cpus: Option<[usize; 2]>,
    #[serde(flatten)]
    pub(crate) figures: Figures,
    pub(crate) hand_over_median_ns: Option<u64>,
    pub(crate) hand_over_p99_ns: Option<u64>,
    pub(crate) hand_over: Option<Distribution>,
    /// In the order of the payloads; null if none was asked for.
    pub(crate) curve: Option<Vec<Point>>,
    /// Every place that led to a segment in use.
    pub(crate) found_by: Option<Vec<String>>,
    pub(crate) left_after_sigkill: Option<Vec<String>>,
    pub(crate) error: Option<String>,
}

/// What it took to move a payload of some size; what was not measured is null.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Figures {
    pub(crate) set_up_ns: Option<u64>,
    pub(crate) map_ns: Option<u64>,
    pub(crate) first_touch_ns: Option<u64>,
    pub(crate) transfer_ns: Option<u64>,
    pub(crate) gb_per_s: Option<f64>,
    pub(crate) tear_down_ns: Option<u64>,
}

impl Figures {
    pub(crate) fn new(payload_bytes: usize, sent: &Sent) -> Self {
        Self {
            set_up_ns: Some(sent.set_up),
            map_ns: Some(sent.map),
            first_touch_ns: Some(sent.first_touch),
            transfer_ns: Some(sent.transfer),
            gb_per_s: Some(rate(payload_bytes, sent.transfer)),
            tear_down_ns: Some(sent.tear_down),
        }
    }
}

/// Whether what was sent has arrived, and why not.
pub(crate) fn verify(sent: &Sent, received: &Received) -> Result<(), String> {
    match sent.checksum == received.checksum {
        true => Ok(()),
        false => Err("the checksums of the two processes differ".to_owned()),
    }
}

impl Outcome {
    pub(crate) fn measured(
        mechanism: Mechanism,
        payload_bytes: usize,
        (sent, received): (Sent, &Received),
        remains: Remains,
    ) -> Self {
        let error = verify(&sent, received).err();
        Self {
            name: mechanism.name(),
            available: true,
            unavailable_because: None,
            payload_bytes,
            verified: error.is_none(),
            checksum_sent: Some(hexadecimal(sent.checksum)),
            checksum_received: Some(hexadecimal(received.checksum)),
            cpus: sent.cpu.zip(received.cpu).map(|(one, other)| [one, other]),
            figures: Figures::new(payload_bytes, &sent),
            hand_over_median_ns: Some(sent.hand_over.median_ns),
            hand_over_p99_ns: Some(sent.hand_over.p99_ns),
            hand_over: Some(sent.hand_over),
            curve: None,
            found_by: Some(remains.found_by),
            left_after_sigkill: Some(remains.left),
            error,
        }
    }

    /// What was moved stands, and something else did not arrive.
    pub(crate) fn fail(&mut self, error: String) {
        self.verified = false;
        self.error.get_or_insert(error);
    }

    pub(crate) fn failed(
        mechanism: Mechanism,
        payload_bytes: usize,
        error: String,
    ) -> Self {
        let (name, error) = (mechanism.name(), Some(error));
        let available = true;
        Self { name, available, payload_bytes, error, ..Self::default() }
    }

    pub(crate) fn unavailable(
        mechanism: Mechanism,
        payload_bytes: usize,
        reason: String,
    ) -> Self {
        let (name, unavailable_because) = (mechanism.name(), Some(reason));
        Self { name, unavailable_because, payload_bytes, ..Self::default() }
    }
}

impl Report {
    pub(crate) fn new(
        machine: Machine,
        payload: &Payload,
        rounds: u32,
        mechanisms: Vec<Outcome>,
    ) -> Self {
        let path = payload.path().map(|path| path.display().to_string());
        Self {
            machine,
            payload: path,
            payload_bytes: payload.size().bytes(),
            transfers: transfers(payload.size()),
            rounds,
            mechanisms,
        }
    }

    /// What went wrong, in one line, if anything did: each error once, after
    /// the mechanisms that had it.
    pub(crate) fn complaint(&self) -> Option<String> {
        let mut errors: Vec<(&str, Vec<&str>)> = Vec::new();
        for outcome in &self.mechanisms {
            let Some(error) = outcome.error.as_deref() else { continue };
            match errors.iter_mut().find(|(known, _)| *known == error) {
                Some((_, names)) => names.push(outcome.name),
                None => errors.push((error, vec![outcome.name])),
            }
        }
        let lines: Vec<String> = errors
            .into_iter()
            .map(|(error, names)| format!("{}: {error}", names.join(", ")))
            .collect();
        (!lines.is_empty()).then(|| lines.join("; "))
    }

    pub(crate) fn to_json(&self) -> Result<String, Failure> {
        Ok(serde_json::to_string_pretty(self)?)
    }
}

fn hexadecimal(checksum: u64) -> String {
    format!("{checksum:016x}")
}

/// Bytes in a nanosecond, and so 10⁹ bytes in a second.
#[expect(
    clippy::cast_precision_loss,
    reason = "a rate is not told to 15 digits"
)]
fn rate(bytes: usize, nanoseconds: u64) -> f64 {
    bytes as f64 / nanoseconds.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use shm_common::Size;

    fn report(outcomes: Vec<Outcome>) -> Report {
        let payload = Payload::Generated(Size::KIB);
        Report::new(Machine::default(), &payload, 1, outcomes)
    }

    fn received(checksum: u64) -> Outcome {
        let sent = Sent {
            cpu: Some(0),
            checksum: 1,
            set_up: 1,
            map: 1,
            first_touch: 1,
            transfer: 512,
            hand_over: Distribution::default(),
            tear_down: 1,
        };
        let received = Received { cpu: Some(1), checksum };
        let remains = Remains { found_by: vec![], left: vec![] };
        let figures = (sent, &received);
        Outcome::measured(Mechanism::Sysv, 1024, figures, remains)
    }

    #[test]
    fn only_equal_checksums_are_verified() {
        let outcome = received(1);
        assert!(outcome.verified && outcome.error.is_none());
        assert_eq!(outcome.figures.gb_per_s, Some(2.0));
        assert_eq!(report(vec![outcome]).complaint(), None);
        let outcome = received(2);
        assert!(!outcome.verified);
        assert_eq!(
            report(vec![outcome]).complaint().unwrap(),
            "sysv: the checksums of the two processes differ"
        );
    }

    #[test]
    fn a_failure_is_null_and_a_reason_in_json() {
        let outcome =
            Outcome::failed(Mechanism::Posix, 1024, "no room".to_owned());
        let json = report(vec![outcome]).to_json().unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["mechanisms"][0]["name"], "posix");
        assert_eq!(json["mechanisms"][0]["verified"], false);
        assert_eq!(json["mechanisms"][0]["error"], "no room");
        assert!(json["mechanisms"][0]["transfer_ns"].is_null());
    }

    #[test]
    fn what_a_machine_does_not_have_is_no_failure() {
        let reason = "there is no /dev/dma_heap".to_owned();
        let report =
            report(vec![Outcome::unavailable(Mechanism::Dmabuf, 7, reason)]);
        assert_eq!(report.complaint(), None);
        assert!(report.to_table(None).contains("not here: there is no /dev"));
        let json = report.to_json().unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let dmabuf = &json["mechanisms"][0];
        assert_eq!(dmabuf["available"], false);
        assert_eq!(dmabuf["unavailable_because"], "there is no /dev/dma_heap");
        assert_eq!(dmabuf["verified"], false);
        assert!(dmabuf["error"].is_null());
    }

    #[test]
    fn what_failed_the_same_way_is_told_once() {
        let failed = |mechanism, error: &str| {
            Outcome::failed(mechanism, 1024, error.to_owned())
        };
        let report = report(vec![
            failed(Mechanism::Sysv, "it shrank"),
            failed(Mechanism::Posix, "no room"),
            failed(Mechanism::Memfd, "it shrank"),
        ]);
        assert_eq!(
            report.complaint().unwrap(),
            "sysv, memfd: it shrank; posix: no room"
        );
    }
}
