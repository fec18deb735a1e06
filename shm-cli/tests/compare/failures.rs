//! What it says when something cannot be done, or went wrong.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use integration_tests::alone::alone_as_root;
use integration_tests::surroundings::{small_dev_shm, system_v_limit};
use nix::sys::stat::Mode;

use crate::support::*;

#[test]
fn wrong_usage_is_status_2() {
    let wrong: [&[&str]; 8] = [
        &[],
        &["compare", "--nonsense"],
        &["compare", "--size=0"],
        &["compare", "--size=much"],
        &["compare", "--rounds=0"],
        &["compare", "--size=1", "--payload=Cargo.toml"],
        &["compare", "more"],
        &["peer"],
    ];
    for arguments in wrong {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shm"));
        let output = command.args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_payload_that_cannot_be_moved_is_a_line_and_status_1() {
    let directory = Directory::new();
    let fifo = directory.path().join("fifo");
    nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let missing = directory.path().join("missing");
    for (path, why) in [
        (missing, "No such file"),
        (directory.path().to_owned(), "it is no regular file"),
        (directory.file("empty", b""), "it is empty"),
        (fifo, "it is no regular file"),
    ] {
        let output = output(compare(["--json", "--payload"]).arg(&path));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        let line = line(&output);
        assert!(line.starts_with("shm: cannot "), "{line}");
        assert!(line.contains(path.to_str().unwrap()), "{line}");
        assert!(line.contains(why), "{line}");
    }
}

#[test]
fn more_than_the_memory_is_refused_at_once() {
    for size in ["--size=9223372036854775807", "--size=1024TiB"] {
        let output = output(&mut compare(["--json", size]));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(line(&output).contains("are available"), "{output:?}");
    }
}

#[test]
fn a_payload_that_shrinks_fails_where_it_is_read_again() {
    let directory = Directory::new();
    let path = directory.file("payload", &[7; 8192]);
    let mut command = compare(["--json", MANY, "--payload"]);
    let mut run = Run::start(command.arg(&path));
    let processes = run.pause("sysv");
    File::options().write(true).open(&path).unwrap().set_len(4096).unwrap();
    resume(&processes);
    let output = run.output();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let line = line(&output);
    assert!(line.starts_with("shm: posix, memfd: cannot move"), "{line}");
    assert!(line.ends_with("its length changed since the command began"));
    let report = json(&output);
    assert_eq!(outcome(&report, "sysv")["verified"], true);
    assert_eq!(outcome(&report, "posix")["verified"], false);
    assert_eq!(outcome(&report, "memfd")["verified"], false);
}

/// A third process writes into the segment, always to the same byte.
#[test]
fn a_byte_that_arrives_as_another_is_found() {
    const AT: usize = 5_000_000;
    let directory = Directory::new();
    let path = directory.file("payload", &[0x55; 8_000_000]);
    let mut command = compare(["--json", "--payload"]);
    let mut run = Run::start(command.arg(&path));
    let segment = wait_until("the segment can be opened", || {
        let name = run.names().pop()?;
        shm_posix::Segment::open(&name.parse().ok()?).ok()
    });
    let mapping = segment.map().unwrap();
    let done = AtomicBool::new(false);
    let output = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // Behind a page of other things.
                mapping.bytes().set(4096 + AT, 0xaa_u8).unwrap();
            }
        });
        let output = run.output();
        done.store(true, Ordering::Relaxed);
        output
    });
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let line = line(&output);
    assert!(line.starts_with("shm: posix: "), "{line}");
    let report = json(&output);
    assert_eq!(outcome(&report, "sysv")["verified"], true);
    assert_eq!(outcome(&report, "posix")["verified"], false);
    assert_eq!(outcome(&report, "memfd")["verified"], true);
}

#[test]
fn a_killed_process_is_told_and_takes_the_other_along() {
    let mut run = Run::start(&mut compare(["--json", MANY, "--size=1"]));
    let processes = run.wait_for("sysv");
    let victim = nix::unistd::Pid::from_raw(processes[1]);
    nix::sys::signal::kill(victim, nix::sys::signal::SIGKILL).unwrap();
    let output = run.output();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let line = line(&output);
    assert!(line.starts_with("shm: sysv: SIGKILL ended a process"), "{line}");
    assert!(segments_of(&processes).is_empty());
    assert_eq!(outcome(&json(&output), "posix")["verified"], true);
}

#[test]
fn no_room_in_dev_shm_fails_posix_only() {
    alone_as_root(|| {
        small_dev_shm(1 << 20).unwrap();
        let output = output(&mut compare(["--json", "--size=4MiB"]));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let line = line(&output);
        assert!(line.starts_with("shm: posix: "), "{line}");
        assert!(line.contains("bytes free"), "{line}");
        let report = json(&output);
        assert_eq!(outcome(&report, "sysv")["verified"], true);
        assert_eq!(outcome(&report, "posix")["verified"], false);
        assert_eq!(outcome(&report, "memfd")["verified"], true);
        assert_eq!(fs::read_dir("/dev/shm").unwrap().count(), 0);
    });
}

#[test]
fn no_system_v_segments_fails_sysv_only() {
    alone_as_root(|| {
        system_v_limit("shmmni", 0).unwrap();
        let output = output(&mut compare(["--size=4KiB", "--rounds=1"]));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let line = line(&output);
        assert!(line.starts_with("shm: sysv: "), "{line}");
        assert!(line.contains("kernel.shmmni"), "{line}");
        let table = String::from_utf8(output.stdout).unwrap();
        let row = table.lines().find(|row| row.contains("every byte"));
        let row = row.unwrap();
        assert!(row.contains("NO: ") && row.contains("kernel.shmmni"), "{row}");
        assert_eq!(row.matches("| yes").count(), 2, "{row}");
    });
}

#[test]
fn any_user_may_compare_what_that_user_may_read() {
    alone_as_root(|| {
        let directory = Directory::new();
        let everyone = fs::Permissions::from_mode(0o755);
        fs::set_permissions(directory.path(), everyone).unwrap();
        let mut command = compare_as_nobody(&directory);
        command.args(["--json", "--size=1MiB", "--rounds=10"]);
        assert_all_verified(&command.output().unwrap());

        let secret = directory.file("secret", b"secret");
        let nobody = fs::Permissions::from_mode(0o000);
        fs::set_permissions(&secret, nobody).unwrap();
        let secret = secret.to_str().unwrap();
        let mut command = compare_as_nobody(&directory);
        let output = command.args(["--payload", secret]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(line(&output).contains("Permission denied"), "{output:?}");
    });
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut command = compare(["--size=1", "--rounds=1"]);
    let output = output(command.stdout(full));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(line(&output).starts_with("shm: cannot write"), "{output:?}");
}

#[test]
fn a_closed_stderr_is_no_panic() {
    let mut command = compare(["--payload=/missing"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = output(command.stderr(writer));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn one_of_the_two_processes_does_not_run_by_itself() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shm"));
    command.args(["peer", "--command=1", "--role=send", "--mechanism=posix"]);
    command.args(["--label=label", "--size=1", "--rounds=1"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(line(&output).contains("cannot run by itself"), "{output:?}");
}
