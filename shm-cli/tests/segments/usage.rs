//! What it says when it is used in a wrong way, and to a closed pipe.

use std::fs::File;
use std::process::Command;

use integration_tests::leaks::unique_name;

use crate::support::*;

#[test]
fn wrong_usage_is_one_line_and_status_2() {
    let wrong: [(&[&str], &str); 12] = [
        (&["ls", "--mechanism=pipe"], "'pipe'"),
        (&["ls", "--nonsense"], "--nonsense"),
        (&["ls", "posix:/x"], "posix:/x"),
        (&["stat"], "<TARGET>"),
        (&["stat", "name"], "posix:/NAME"),
        (&["stat", "shm:/name"], "no kind of target"),
        (&["stat", "memfd:1"], "PID/FD"),
        (&["rm"], "<TARGETS>"),
        (&["rm", "posix:/a/b"], "slash"),
        (&["reap", "--older-than=10"], "10m"),
        (&["reap", "--older-than=-1s"], "10m"),
        (&["reap", "posix:/x"], "posix:/x"),
    ];
    for (arguments, what) in wrong {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shm"));
        let output = command.args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        let line = line(&output);
        assert!(line.contains(what), "{line}");
        assert!(line.ends_with("(see --help)"), "{line}");
    }
}

#[test]
fn what_was_given_commands_no_terminal_and_stays_in_the_line() {
    let evil = "\x1b[2Jevil\nUsage: evil";
    let option = format!("--socket=/{evil}/missing");
    let write = ["write", "sysv-id:2147483647", evil];
    for (arguments, status) in [
        (&["stat", evil][..], 2),
        (&["send", &option, "--timeout=0s", "/etc/passwd"], 1),
        (&["man", evil], 2),
        (&write, 1),
        (&["send", &option, evil], 1),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shm"));
        let line = failure(command.args(arguments), status);
        assert!(!line.contains('\x1b'), "{line:?}");
    }
}

#[test]
fn a_closed_pipe_is_no_failure_and_a_full_disk_is_one() {
    let leaked = Leaked::new(&unique_name("pipe"), b"x");
    let target = leaked.target();
    for arguments in [
        ["ls", "--json"],
        ["ls", "--stale"],
        ["stat", &target],
        ["reap", "--dry-run"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = shm(arguments).stdout(writer).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        let full = File::options().write(true).open("/dev/full").unwrap();
        let line = failure(shm(arguments).stdout(full), 1);
        assert!(line.starts_with("shm: cannot write"), "{line}");
    }
}
