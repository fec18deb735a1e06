//! `shm bench`, as its users run it.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use integration_tests::alone::alone_as_root;
use integration_tests::surroundings::small_dev_shm;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::output::{OUTCOME, assert_distribution};
use crate::support::*;

const POINT: [&str; 9] = [
    "first_touch_ns",
    "gb_per_s",
    "left_out_because",
    "map_ns",
    "payload_bytes",
    "set_up_ns",
    "tear_down_ns",
    "transfer_ns",
    "transfers",
];

/// The payloads of a curve, after a look at each point.
pub(crate) fn sizes(outcome: &Value) -> Vec<u64> {
    let points = outcome["curve"].as_array().unwrap();
    let size = |point: &Value| {
        let mut keys: Vec<&String> =
            point.as_object().unwrap().keys().collect();
        keys.sort();
        assert_eq!(keys, POINT);
        let measured = point["left_out_because"].is_null();
        for (key, value) in point.as_object().unwrap() {
            if key.ends_with("_ns") {
                assert_eq!(value.is_u64(), measured, "{point}");
            }
        }
        point["payload_bytes"].as_u64().unwrap()
    };
    points.iter().map(size).collect()
}

#[test]
fn bench_tells_of_one_mechanism_what_compare_tells_of_all() {
    for name in MECHANISMS {
        let arguments = [name, "--json", "--up-to=64KiB", "--rounds=1000"];
        let output = output(&mut shm("bench", arguments));
        assert!(output.status.success(), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
        let report = json(&output);
        assert_eq!(report["mechanisms"].as_array().unwrap().len(), 1);
        let outcome = outcome(&report, name);
        let mut keys: Vec<&String> =
            outcome.as_object().unwrap().keys().collect();
        keys.sort();
        assert_eq!(keys, OUTCOME);
        assert_eq!(outcome["verified"], true);
        assert_eq!(sizes(outcome), [4096, 16_384, 65_536]);
        assert_distribution(&outcome["hand_over"], 1000);
        let left = outcome["left_after_sigkill"].as_array().unwrap().len();
        assert_eq!(left, usize::from(name != "memfd"));
    }
}

#[test]
fn one_size_is_the_payload_and_the_only_point() {
    let arguments = ["memfd", "--json", "--size=5000", "--rounds=10"];
    let report = json(&output(&mut shm("bench", arguments)));
    assert_eq!(report["payload_bytes"], 5000);
    let outcome = outcome(&report, "memfd");
    assert_eq!(sizes(outcome), [5000]);
    // It was measured once.
    let point = &outcome["curve"][0];
    for figure in ["set_up_ns", "transfer_ns", "gb_per_s", "tear_down_ns"] {
        assert_eq!(outcome[figure], point[figure]);
    }
}

#[test]
fn a_pipe_gets_tables_with_a_row_for_each_payload() {
    let arguments = ["posix", "--up-to=17KiB", "--rounds=1000"];
    let output = output(&mut shm("bench", arguments));
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("posix: "), "{text}");
    for start in ["| 4 KiB ", "| 16 KiB ", "| 17 KiB ", "| min "] {
        let rows = text.lines().filter(|line| line.starts_with(start));
        assert_eq!(rows.count(), 1, "{start}: {text}");
    }
    assert!(text.contains("1000 times there and back"), "{text}");
    // Of the histogram, the longest bar.
    assert!(text.contains(&"█".repeat(30)), "{text}");
    assert!(text.contains("finds it by: /dev/shm/shm-compare-"), "{text}");
    assert!(text.contains("SIGKILL: /dev/shm/shm-compare-"), "{text}");
}

#[test]
fn a_mechanism_that_is_not_here_is_a_line_and_status_1() {
    let node = Path::new("/dev/dma_heap/system");
    if node.exists() {
        eprintln!("left out: this machine has dma-buf");
        return;
    }
    for option in ["--rounds=1", "--json"] {
        let output = output(&mut shm("bench", ["dmabuf", option]));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        let line = line(&output);
        assert!(line.starts_with("shm: dmabuf is not here: "), "{line}");
        assert!(line.contains("/dev/dma_heap/system"), "{line}");
    }
}

#[test]
fn wrong_usage_of_bench_is_status_2() {
    let wrong: [&[&str]; 6] = [
        &[],
        &["pipe"],
        &["memfd", "--rounds=0"],
        &["memfd", "--size=0"],
        &["memfd", "--up-to=4095"],
        &["memfd", "--size=4KiB", "--up-to=4KiB"],
    ];
    for arguments in wrong {
        let output = output(shm("bench", []).args(arguments));
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        line(&output);
    }
}

#[test]
fn payloads_without_room_are_left_out_and_that_is_no_failure() {
    alone_as_root(|| {
        small_dev_shm(64 << 10).unwrap();
        let arguments = ["posix", "--json", "--up-to=128KiB", "--rounds=10"];
        // The payload is the greatest, and fails.
        let report = json(&output(&mut shm("bench", arguments)));
        let posix = outcome(&report, "posix");
        assert_eq!(posix["verified"], false);
        let sizes = sizes(posix);
        assert_eq!(sizes, [4096, 16_384, 65_536, 131_072]);
        for (size, point) in
            sizes.iter().zip(posix["curve"].as_array().unwrap())
        {
            let reason = point["left_out_because"].as_str();
            // Beside the payload, there is a page.
            assert_eq!(reason.is_some(), *size >= 65_536, "{point}");
            assert!(reason.is_none_or(|why| why.contains("bytes free")));
        }
        assert_eq!(std::fs::read_dir("/dev/shm").unwrap().count(), 0);
    });
}

#[test]
fn a_payload_that_was_not_moved_is_not_told_as_one_that_arrived_wrong() {
    alone_as_root(|| {
        small_dev_shm(16 << 10).unwrap();
        let arguments = ["posix", "--up-to=16KiB", "--rounds=10"];
        let output = output(&mut shm("bench", arguments));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let told = "posix: 16 KiB were not moved: cannot posix_fallocate";
        assert!(text.starts_with(told), "{text}");
        assert!(!text.contains("NOT every byte"), "{text}");
        assert!(text.contains("\n| 4 KiB "), "{text}");
    });
}

#[test]
fn a_signal_ends_bench_and_nothing_is_left() {
    let mut run = Run::start(&mut shm("bench", ["posix", MANY]));
    let processes = run.wait_for("posix");
    run.signal(Signal::SIGINT);
    let output = run.output();
    assert_eq!(output.status.signal(), Some(2), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    assert!(run.names().is_empty());
    assert!(segments_of(&processes).is_empty());
}
