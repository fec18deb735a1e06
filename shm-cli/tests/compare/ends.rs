//! However it ends, nothing is left behind; and runs at the same time do not
//! disturb one another.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::thread;

use nix::sys::signal::Signal;

use crate::support::*;

fn have_ended(processes: &[i32]) -> Option<()> {
    let runs = |pid: &i32| match fs::read_to_string(format!("/proc/{pid}/stat"))
    {
        // Nobody may have waited for it yet.
        Ok(stat) => !stat.contains(") Z "),
        Err(_) => false,
    };
    (!processes.iter().any(runs)).then_some(())
}

#[test]
fn a_signal_ends_it_at_any_mechanism_and_nothing_is_left() {
    for (signal, mechanism) in [
        (Signal::SIGINT, "sysv"),
        (Signal::SIGHUP, "sysv"),
        (Signal::SIGTERM, "posix"),
        (Signal::SIGINT, "posix"),
        (Signal::SIGHUP, "memfd"),
    ] {
        let mut run = Run::start(&mut compare(["--json", MANY, "--size=1MiB"]));
        let processes = run.wait_for(mechanism);
        run.signal(signal);
        let output = run.output();
        assert_eq!(output.status.signal(), Some(signal as i32), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        let expected =
            format!("shm: interrupted by {signal}; nothing is left behind");
        assert_eq!(line(&output), expected);
        // Without waiting: it must have waited for them itself.
        assert_eq!(have_ended(&processes), Some(()), "at {mechanism}");
        assert!(run.names().is_empty(), "at {mechanism}");
        assert!(segments_of(&processes).is_empty(), "at {mechanism}");
    }
}

#[test]
fn after_sigkill_its_processes_end_and_the_next_run_removes_the_rest() {
    for mechanism in MECHANISMS {
        let mut run = Run::start(&mut compare(["--json", MANY, "--size=1MiB"]));
        // Stopped, they cannot end by themselves.
        let processes = run.pause(mechanism);
        run.signal(Signal::SIGKILL);
        wait_until("its processes have ended", || have_ended(&processes));
        assert_eq!(run.output().status.signal(), Some(9));
        let mut next = compare(["--json", "--size=1", "--rounds=1"]);
        assert_all_verified(&output(&mut next));
        assert!(run.names().is_empty(), "at {mechanism}");
        assert!(segments_of(&processes).is_empty(), "at {mechanism}");
    }
}

#[test]
fn a_signal_that_is_ignored_stays_so() {
    // As nohup does; the shell's `trap` lets its children ignore the signal.
    let mut shell = Command::new("sh");
    let script = "trap '' HUP; exec \"$0\" compare --json --size=1 \"$1\"";
    shell.args(["-c", script, env!("CARGO_BIN_EXE_shm"), MANY]);
    shell.stdout(std::process::Stdio::piped());
    shell.stderr(std::process::Stdio::piped());
    let mut run = Run::start(&mut shell);
    run.wait_for("sysv");
    run.signal(Signal::SIGHUP);
    assert_all_verified(&run.output());
}

#[test]
fn a_run_leaves_alone_what_another_one_uses() {
    let mut run = Run::start(&mut compare(["--json", MANY, "--size=1"]));
    for mechanism in MECHANISMS {
        let processes = run.pause(mechanism);
        let before = (run.names(), segments_of(&processes));
        let mut other = compare(["--json", "--size=1", "--rounds=1"]);
        assert_all_verified(&output(&mut other));
        assert_eq!((run.names(), segments_of(&processes)), before);
        resume(&processes);
    }
    assert_all_verified(&run.output());
}

#[test]
fn runs_at_the_same_time_find_what_they_themselves_left() {
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..8 {
                    let arguments = ["--json", "--size=64KiB", "--rounds=1"];
                    let output = output(&mut compare(arguments));
                    assert_all_verified(&output);
                    let report = json(&output);
                    for (name, left) in
                        [("sysv", 1), ("posix", 1), ("memfd", 0)]
                    {
                        let found =
                            &outcome(&report, name)["left_after_sigkill"];
                        assert_eq!(found.as_array().unwrap().len(), left);
                    }
                }
            });
        }
    });
}
