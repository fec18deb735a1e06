//! The helper itself: however a child process ends, its parent learns how, and
//! is never kept waiting.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use integration_tests::alone::{alone, alone_as_root};
use integration_tests::peer::{DEADLINE, JoinError, Link, MAX_MESSAGE, Peer};
use integration_tests::program::Program;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::get_pdeathsig;
use nix::sys::signal::{Signal, kill, raise};
use nix::unistd::{Pid, Uid, getgroups, getppid, getuid};

const SHORT: Duration = Duration::from_millis(50);

fn fork(closure: impl FnOnce(&Link)) -> Peer {
    Peer::fork(|link| {
        closure(link);
        Ok::<_, Infallible>([])
    })
    .unwrap()
}

/// Says that it runs, and then never ends by itself.
fn endless(link: &Link) {
    link.send("runs").unwrap();
    loop {
        thread::sleep(DEADLINE);
    }
}

/// Neither a process nor a zombie has this number.
fn is_gone(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH)
}

#[test]
fn a_child_returns_a_value() {
    let peer = Peer::fork(|_| Ok::<_, Infallible>("done")).unwrap();
    assert_eq!(peer.join(DEADLINE).unwrap(), b"done");
}

#[test]
fn a_child_is_another_process_with_a_copy_of_the_memory() {
    let parent = std::process::id();
    let mut value = 1;
    let peer = Peer::fork(|_| {
        value += 1;
        assert_eq!(getppid().as_raw().cast_unsigned(), parent);
        Ok::<_, Infallible>(std::process::id().to_string())
    });
    let peer = peer.unwrap();
    let pid = peer.pid().to_string();
    assert_eq!(peer.join(DEADLINE).unwrap(), pid.as_bytes());
    assert_eq!(value, 1);
}

#[test]
fn a_child_fails_with_its_error() {
    let error = || io::Error::other("no such luck");
    let peer = Peer::fork(|_| Err::<Vec<u8>, _>(error())).unwrap();
    match peer.join(DEADLINE) {
        Err(JoinError::Failed(text)) => assert_eq!(text, "no such luck"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_panic_in_a_child_says_where_and_what() {
    let line = line!() + 1;
    match fork(|_| panic!("out of {}", "ideas")).join(DEADLINE) {
        Err(JoinError::Panicked(text)) => {
            assert!(text.contains("out of ideas"), "{text}");
            assert!(text.contains(&format!("peer.rs:{line}:")), "{text}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_child_that_a_signal_kills_is_reported_with_the_signal() {
    for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGUSR1] {
        let peer = fork(|_| raise(signal).unwrap());
        match peer.join(DEADLINE) {
            Err(JoinError::Killed(by)) => assert_eq!(by, signal),
            other => panic!("{signal}: {other:?}"),
        }
    }
}

#[test]
fn a_child_gets_the_signals_that_it_is_sent() {
    let mut peer = fork(endless);
    assert_eq!(peer.receive().unwrap(), b"runs");
    peer.signal(Signal::SIGTERM).unwrap();
    let ended = peer.join(DEADLINE);
    assert!(
        matches!(ended, Err(JoinError::Killed(Signal::SIGTERM))),
        "{ended:?}"
    );
}

#[test]
fn a_child_that_exits_early_is_reported_with_its_status() {
    let ended = fork(|_| std::process::exit(7)).join(DEADLINE);
    assert!(matches!(ended, Err(JoinError::Exited(7))), "{ended:?}");
}

#[test]
fn a_child_that_runs_past_the_deadline_is_killed() {
    let peer = fork(endless);
    let pid = peer.pid();
    let ended = peer.join(SHORT);
    assert!(matches!(ended, Err(JoinError::Deadline)), "{ended:?}");
    assert!(is_gone(pid));
}

#[test]
fn dropping_and_killing_leave_no_process_and_no_zombie() {
    for end in [drop, |peer: Peer| peer.kill().unwrap()] {
        let mut running = fork(endless);
        running.receive().unwrap();
        let mut ended = fork(|_| ());
        // It reports when it has ended, as far as it can.
        ended.receive().unwrap_err();
        for peer in [running, ended] {
            let pid = peer.pid();
            assert!(!is_gone(pid));
            end(peer);
            assert!(is_gone(pid));
        }
    }
}

#[test]
fn a_panic_in_the_test_takes_its_child_along() {
    let peer = fork(endless);
    let pid = peer.pid();
    let panicked = std::panic::catch_unwind(|| {
        let _peer = peer;
        std::panic::resume_unwind(Box::new(()));
    });
    assert!(panicked.is_err());
    assert!(is_gone(pid));
}

#[test]
fn messages_keep_their_boundaries_and_their_order_both_ways() {
    let sizes = [0, 1, 0, 4096, MAX_MESSAGE, 3];
    let mut peer = fork(|link| {
        for _ in sizes {
            let message = link.receive().unwrap();
            link.send(message).unwrap();
        }
    });
    for (fill, size) in (0..).zip(sizes) {
        let message = vec![fill; size];
        peer.send(&message).unwrap();
        assert!(peer.receive().unwrap() == message, "{size} bytes");
    }
    let too_long = peer.send(vec![0; MAX_MESSAGE + 1]).unwrap_err();
    assert_eq!(too_long.kind(), io::ErrorKind::InvalidInput);
    peer.join(DEADLINE).unwrap();
}

#[test]
fn messages_that_nobody_received_do_not_hide_the_report() {
    let peer = Peer::fork(|link| {
        link.send("first")?;
        link.send("second")?;
        io::Result::Ok("report")
    });
    assert_eq!(peer.unwrap().join(DEADLINE).unwrap(), b"report");
}

#[test]
fn a_message_sent_before_the_end_is_received_after_it() {
    let mut peer = Peer::fork(|link| {
        link.send("last words")?;
        io::Result::Ok("report")
    })
    .unwrap();
    assert_eq!(peer.receive().unwrap(), b"last words");
    let nothing = peer.receive().unwrap_err();
    assert_eq!(nothing.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(peer.join(DEADLINE).unwrap(), b"report");
}

#[test]
fn receiving_from_a_child_that_was_killed_ends_at_once() {
    let mut peer = fork(|_| raise(Signal::SIGKILL).unwrap());
    let nothing = peer.receive().unwrap_err();
    assert_eq!(nothing.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_child_runs_as_another_user_and_still_dies_with_its_parent() {
    alone_as_root(|| {
        let peer = Peer::fork_as(61_234, |_| {
            assert_eq!(getuid(), Uid::from_raw(61_234));
            assert_eq!(getgroups().unwrap(), []);
            assert_eq!(get_pdeathsig().unwrap(), Some(Signal::SIGKILL));
            Ok::<_, Infallible>("done")
        });
        assert_eq!(peer.unwrap().unwrap().join(DEADLINE).unwrap(), b"done");
    });
}

#[test]
fn the_child_of_a_killed_process_dies_too() {
    // Alone, so that only those two processes have the pipe.
    alone(|| {
        let (reader, writer) = io::pipe().unwrap();
        let mut peer = fork(|link| {
            let mut grandchild = fork(endless);
            grandchild.receive().unwrap();
            endless(link);
        });
        drop(writer);
        peer.receive().unwrap();
        peer.kill().unwrap();
        let mut closed = [PollFd::new(reader.as_fd(), PollFlags::empty())];
        let deadline = PollTimeout::try_from(DEADLINE).unwrap();
        assert_eq!(poll(&mut closed, deadline), Ok(1));
    });
}

#[test]
fn a_program_gets_messages_and_returns_a_value() {
    let program = Program::here(|link, _| {
        Ok::<_, io::Error>([link.receive()?, link.receive()?].concat())
    });
    let peer = program.start(&[]).unwrap();
    peer.send("a ").unwrap();
    peer.send("value").unwrap();
    assert_eq!(peer.join(DEADLINE).unwrap(), b"a value");
}

#[test]
fn a_program_has_its_own_memory_and_only_the_descriptors_it_is_handed() {
    let program = Program::here(|link, descriptors| {
        let parent: usize = String::from_utf8(link.receive()?)?.parse()?;
        assert_eq!(parent, getppid().as_raw().cast_unsigned() as usize);
        let [pipe] = <[_; 1]>::try_from(descriptors).unwrap();
        let mut text = [0; 11];
        File::from(pipe).read_exact(&mut text)?;
        let maps = std::fs::read_to_string("/proc/self/maps")?;
        assert!(!maps.contains("/memfd:shmtest-"), "{maps}");
        for entry in std::fs::read_dir("/proc/self/fd")? {
            let target = std::fs::read_link(entry?.path()).unwrap_or_default();
            assert!(!target.to_string_lossy().contains("/memfd:shmtest-"));
        }
        Ok::<_, Box<dyn std::error::Error>>(text)
    });
    let label = integration_tests::leaks::unique_name("program");
    let label = shm_memfd::Label::new(label).unwrap();
    let ours =
        shm_memfd::Segment::create(&label, shm_memfd::Size::KIB).unwrap();
    let _mapping = ours.map().unwrap();
    let (reader, mut writer) = io::pipe().unwrap();
    let peer = program.start(&[reader.as_fd()]).unwrap();
    peer.send(std::process::id().to_string()).unwrap();
    io::Write::write_all(&mut writer, b"handed over").unwrap();
    drop(writer);
    assert_eq!(peer.join(DEADLINE).unwrap(), b"handed over");
}

#[test]
fn a_program_that_panics_says_where_and_what() {
    let program = Program::here(|_, _| -> io::Result<Vec<u8>> {
        panic!("out of {}", "ideas")
    });
    match program.start(&[]).unwrap().join(DEADLINE) {
        Err(JoinError::Panicked(text)) => {
            assert!(text.contains("out of ideas"), "{text}");
            assert!(text.contains("peer.rs:"), "{text}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_program_fails_exits_is_killed_and_is_late_as_a_child() {
    let program = Program::here(|link, _| match &*link.receive().unwrap() {
        b"fail" => Err::<Vec<u8>, _>("no such luck"),
        b"exit" => std::process::exit(7),
        b"kill" => {
            raise(Signal::SIGKILL).unwrap();
            Err("still here")
        }
        _ => loop {
            thread::sleep(DEADLINE);
        },
    });
    let tell = |what: &str, deadline| {
        let peer = program.start(&[]).unwrap();
        peer.send(what).unwrap();
        let pid = peer.pid();
        let ended = peer.join(deadline).unwrap_err();
        assert!(is_gone(pid));
        ended
    };
    let failed = tell("fail", DEADLINE);
    assert!(
        matches!(&failed, JoinError::Failed(text) if text == "no such luck")
    );
    assert!(matches!(tell("exit", DEADLINE), JoinError::Exited(7)));
    let killed = tell("kill", DEADLINE);
    assert!(matches!(killed, JoinError::Killed(Signal::SIGKILL)));
    assert!(matches!(tell("wait", SHORT), JoinError::Deadline));
}
