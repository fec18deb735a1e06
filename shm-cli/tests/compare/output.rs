//! What it prints when all goes well.

use std::fs;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use crate::support::*;

pub(crate) const OUTCOME: [&str; 21] = [
    "available",
    "checksum_received",
    "checksum_sent",
    "cpus",
    "curve",
    "error",
    "first_touch_ns",
    "found_by",
    "gb_per_s",
    "hand_over",
    "hand_over_median_ns",
    "hand_over_p99_ns",
    "left_after_sigkill",
    "map_ns",
    "name",
    "payload_bytes",
    "set_up_ns",
    "tear_down_ns",
    "transfer_ns",
    "unavailable_because",
    "verified",
];

#[test]
fn json_has_a_number_for_everything_measured() {
    let output = output(&mut compare(["--json", "--size=64KiB"]));
    assert_all_verified(&output);
    let report = json(&output);
    assert!(report["payload"].is_null());
    assert_eq!(report["payload_bytes"], 65_536);
    assert_eq!(report["transfers"], 25);
    assert_eq!(report["rounds"], 200_000);
    let machine = &report["machine"];
    assert!(machine["kernel"].as_str().unwrap().starts_with("Linux "));
    assert_eq!(machine["version"], env!("CARGO_PKG_VERSION"));
    for name in MECHANISMS {
        let outcome = outcome(&report, name).as_object().unwrap();
        let mut keys: Vec<&String> = outcome.keys().collect();
        keys.sort();
        assert_eq!(keys, OUTCOME);
        for (key, value) in outcome {
            if key.ends_with("_ns") {
                assert!(value.as_u64().unwrap() > 0, "{name} {key}");
            }
        }
        assert!(outcome["gb_per_s"].as_f64().unwrap() > 0.0);
        let p99 = outcome["hand_over_p99_ns"].as_u64();
        assert!(p99 >= outcome["hand_over_median_ns"].as_u64());
        let hand_over = &outcome["hand_over"];
        assert_eq!(hand_over["median_ns"], outcome["hand_over_median_ns"]);
        assert_eq!(hand_over["p99_ns"].as_u64(), p99);
        assert_distribution(hand_over, 200_000);
        // Only a page asks for it.
        assert!(outcome["curve"].is_null());
        assert!(outcome["error"].is_null());
        assert_eq!(outcome["available"], true);
        assert!(outcome["unavailable_because"].is_null());
    }
}

/// The figures are in order, and the histogram holds each time once.
pub(crate) fn assert_distribution(distribution: &Value, count: u64) {
    let number = |value: &Value| value.as_u64().unwrap();
    assert_eq!(distribution["count"], count);
    let figures = ["min", "median", "p90", "p99", "p99_9", "max"];
    let figures = figures
        .map(|name| distribution[&format!("{name}_ns")].as_u64().unwrap());
    assert!(figures.is_sorted(), "{figures:?}");
    let buckets = distribution["histogram"].as_array().unwrap();
    let counts = buckets.iter().map(|bucket| number(&bucket["count"]));
    assert_eq!(counts.sum::<u64>(), count);
    let ends = buckets.iter().flat_map(|bucket| {
        [number(&bucket["from_ns"]), number(&bucket["to_ns"])]
    });
    assert!(ends.is_sorted(), "{buckets:?}");
    let (first, last) = (&buckets[0], &buckets[buckets.len() - 1]);
    assert!(number(&first["from_ns"]) <= figures[0], "{first}");
    assert!(figures[5] <= number(&last["to_ns"]), "{last}");
}

/// dma-buf, where there is one, is moved through like the others; where there
/// is none that is told, and is no failure.
#[test]
fn a_mechanism_that_this_machine_lacks_is_told_and_no_failure() {
    let output = output(&mut compare(["--json", "--size=4KiB", "--rounds=10"]));
    assert!(output.status.success(), "{output:?}");
    let report = json(&output);
    let dmabuf = outcome(&report, "dmabuf");
    let available = dmabuf["available"].as_bool().unwrap();
    let node = std::path::Path::new("/dev/dma_heap/system");
    // Who may not open the node does not have it either.
    assert!(!available || node.exists());
    assert_eq!(dmabuf["verified"], available);
    assert!(dmabuf["error"].is_null());
    let reason = dmabuf["unavailable_because"].as_str().unwrap_or_default();
    assert_eq!(reason.contains("/dev/dma_heap/system"), !available);
}

#[test]
fn every_length_arrives_whole() {
    for size in ["1", "4095", "4096", "1048577"] {
        let size = format!("--size={size}");
        let arguments = ["--json", "--rounds=10", &size];
        assert_all_verified(&output(&mut compare(arguments)));
    }
}

#[test]
fn a_file_arrives_as_the_test_itself_reads_it() {
    let directory = Directory::new();
    let contents: Vec<u8> =
        (0_u32..1_000_003).map(|i| (i * 31 / 8).to_le_bytes()[0]).collect();
    // Like an option, and so to be handed on with care.
    directory.file("--odd name", &contents);
    let mut command = compare(["--json", "--payload=--odd name"]);
    let output = output(command.current_dir(directory.path()));
    assert_all_verified(&output);
    let report = json(&output);
    assert_eq!(report["payload"], "--odd name");
    let checksum = format!("{:016x}", xxh3_64(&contents));
    for name in MECHANISMS {
        let outcome = outcome(&report, name);
        assert_eq!(outcome["payload_bytes"], 1_000_003);
        assert_eq!(outcome["checksum_sent"], checksum);
        assert_eq!(outcome["checksum_received"], checksum);
    }
}

#[test]
fn what_a_stranger_finds_and_what_is_left_is_told() {
    let output = output(&mut compare(["--json", "--size=1", "--rounds=1"]));
    let report = json(&output);
    let places = |name: &str, which: &str| {
        let places = outcome(&report, name)[which].as_array().unwrap();
        let places = places.iter().map(|place| place.as_str().unwrap());
        places.map(String::from).collect::<Vec<_>>()
    };
    let [by_id] = &places("sysv", "found_by")[..] else { panic!("{report}") };
    assert!(by_id.starts_with("ipcs -m: key 0x4c8ed1"), "{by_id}");
    assert_eq!(&places("sysv", "left_after_sigkill")[..], [by_id.as_str()]);
    let [name] = &places("posix", "found_by")[..] else { panic!("{report}") };
    assert!(name.starts_with("/dev/shm/shm-compare-"), "{name}");
    assert_eq!(&places("posix", "left_after_sigkill")[..], [name.as_str()]);
    // It told that they were left; it has removed them since.
    assert!(!fs::exists(name).unwrap());
    let descriptors = places("memfd", "found_by");
    assert_eq!(descriptors.len(), 2, "{report}");
    for descriptor in descriptors {
        let (process, label) = descriptor.split_once(" -> ").unwrap();
        assert!(process.starts_with("/proc/"), "{descriptor}");
        assert!(label.starts_with("/memfd:shm-compare-"), "{descriptor}");
    }
    assert!(places("memfd", "left_after_sigkill").is_empty());
}

#[test]
fn a_pipe_gets_a_table_in_markdown_and_no_progress() {
    let mut run = Run::start(&mut compare(["--size=4KiB", MANY]));
    let processes = run.pause("sysv");
    // A terminal would have had a progress bar by then.
    thread::sleep(Duration::from_millis(1500));
    resume(&processes);
    let output = run.output();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("4096 generated bytes between"), "{text}");
    let rows: Vec<&str> = text.lines().filter(|l| l.starts_with('|')).collect();
    assert_eq!(rows.len(), 13, "{text}");
    for name in MECHANISMS {
        assert!(rows[0].contains(name), "{text}");
    }
    for row in &rows {
        assert_eq!(row.matches('|').count(), 6, "{row}");
    }
    let told = rows[2].matches("yes").count();
    let lacking = rows[2].matches("not here").count();
    assert!(told >= 3 && told + lacking == 4, "{text}");
    assert!(!text.contains('\x1b'), "{text}");
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let mut command = compare(["--size=1", "--rounds=1"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = output(command.stdout(writer));
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn help_and_version_are_told() {
    for option in ["--help", "--version"] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_shm"));
        let output = command.arg(option).output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("shm"), "{text}");
        // Not for people.
        assert!(!text.contains("peer"), "{text}");
    }
}
