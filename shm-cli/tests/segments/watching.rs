//! `shm watch`, on a terminal of its own.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use integration_tests::alone::alone;
use integration_tests::leaks::unique_name;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::support::*;

const DEADLINE: Duration = Duration::from_secs(50);

/// The command on a terminal, and what that shows.
struct Watched {
    child: Child,
    keyboard: File,
    line: OwnedFd,
    before: Termios,
    screen: Arc<Mutex<vt100::Parser>>,
}

impl Watched {
    /// As a new process leads no group, setsid(1) does not fork but becomes
    /// the command.
    fn start() -> Self {
        Self::of(&[env!("CARGO_BIN_EXE_shm"), "watch", "--interval=50ms"])
    }

    /// A command that watches, which leads a session.
    fn of(command: &[&str]) -> Self {
        let size =
            Winsize { ws_row: 24, ws_col: 240, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        let before = tcgetattr(&pty.slave).unwrap();
        let keyboard = File::from(pty.master);
        let mut output = keyboard.try_clone().unwrap();
        let size = |number| NonZero::new(number).unwrap();
        let parser = vt100::Parser::new(size(24), size(240), 0);
        let screen = Arc::new(Mutex::new(parser));
        let shown = Arc::clone(&screen);
        thread::spawn(move || {
            let mut piece = [0; 4096];
            // An error is the end: nobody has the other side open any more.
            while let Ok(len @ 1..) = output.read(&mut piece) {
                shown.lock().unwrap().process(&piece[..len]);
            }
        });
        let stdio =
            || Stdio::from(pty.slave.as_fd().try_clone_to_owned().unwrap());
        let child = Command::new("setsid")
            .arg("--ctty")
            .args(command)
            .env("TERM", "xterm")
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .unwrap();
        Self { child, keyboard, line: pty.slave, before, screen }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    fn contents(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    fn wait_until(&self, what: &str, shown: impl Fn(&str) -> bool) {
        let begun = Instant::now();
        while !shown(&self.contents()) {
            let contents = self.contents();
            assert!(begun.elapsed() < DEADLINE, "not {what}:\n{contents}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn wait_for(&self, text: &str) {
        self.wait_until(text, |contents| contents.contains(text));
    }

    fn wait_for_row(&self, target: &str, verdict: &str) {
        self.wait_until(verdict, |contents| {
            let mut lines = contents.lines();
            lines.any(|l| l.starts_with(target) && l.contains(verdict))
        });
    }

    /// Only this one, if any.
    fn filter(&mut self, name: &str) {
        self.press(&format!("/{name}\r"));
        self.wait_for(&format!("only with \"{name}\""));
    }

    /// Waits for its end, and until these were its last words; the terminal
    /// must be as it was.
    fn end(mut self, last_words: &str) -> ExitStatus {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed() < DEADLINE, "it does not end");
            thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(tcgetattr(&self.line).unwrap(), self.before);
        let is_restored = || {
            let screen = self.screen.lock().unwrap();
            let screen = screen.screen();
            !screen.alternate_screen() && !screen.hide_cursor()
        };
        self.wait_until("restored", |contents| {
            is_restored()
                && match last_words {
                    "" => contents.trim().is_empty(),
                    words => contents.contains(words),
                }
        });
        status
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn segments_come_go_and_change_on_the_screen() {
    let Some(planter) = Planter::all().pop() else { return };
    let mut watched = Watched::start();
    watched.wait_for("q quit");
    let mut plant = planter.plant_posix();
    let name = plant.name().to_owned();
    let target = format!("posix:{name}");
    watched.filter(&name);
    watched.wait_for_row(&target, "in use: ");
    watched.press("\r");
    watched.wait_for(&format!("user      {} ", plant.pid()));
    plant.kill();
    watched.wait_for_row(&target, "stale: ");
    drop(plant);
    watched.wait_until("gone", |contents| !contents.contains(&target));
    watched.press("q");
    let status = watched.end("");
    assert!(status.success(), "{status}");
}

#[test]
fn only_what_is_confirmed_is_removed() {
    let Some(planter) = Planter::all().pop() else { return };
    let plant = planter.plant_posix();
    let mut watched = Watched::start();
    watched.wait_for("q quit");
    watched.filter(plant.name());
    watched.wait_for_row(&format!("posix:{}", plant.name()), "in use: ");
    watched.press("d");
    watched.wait_for("[y/N]");
    watched.press("n");
    watched.wait_for("q quit");
    assert!(plant.row(&ls([])).is_some());
    watched.press("d");
    watched.wait_for("[y/N]");
    watched.press("y");
    watched.wait_for(&format!("removed posix:{}", plant.name()));
    assert!(plant.row(&ls([])).is_none());
    // Control-C is a key here.
    watched.press("\x03");
    assert!(watched.end("").success());
}

/// It was asked about as what nobody uses.
#[test]
fn what_comes_to_life_before_the_answer_is_left() {
    let leaked = Leaked::new(&unique_name("watch"), b"x");
    let target = leaked.target();
    let mut watched = Watched::start();
    watched.wait_for("q quit");
    watched.filter(&target[7..]);
    watched.wait_for("stale: ");
    watched.press("d");
    watched.wait_for("It is stale");
    let file = File::open(leaked.path()).unwrap();
    watched.press("y");
    watched.wait_for(&format!("left {target}"));
    assert!(leaked.path().exists());
    drop(file);
}

#[test]
fn a_signal_ends_it_and_gives_the_terminal_back() {
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        let watched = Watched::start();
        watched.wait_for("q quit");
        let pid = Pid::from_raw(watched.child.id().cast_signed());
        kill(pid, signal).unwrap();
        let status = watched.end(&format!(
            "shm: interrupted by {signal}; nothing is left behind"
        ));
        assert_eq!(status.signal(), Some(signal as i32), "{status}");
    }
}

#[test]
fn it_stops_with_the_terminal_given_back_and_goes_on_with_it() {
    // One that can be noticed before, and one that cannot.
    for signal in [Signal::SIGTSTP, Signal::SIGSTOP] {
        let mut watched = Watched::start();
        watched.wait_for("q quit");
        let during = tcgetattr(&watched.line).unwrap();
        let pid = Pid::from_raw(watched.child.id().cast_signed());
        kill(pid, signal).unwrap();
        let stopped = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOWAIT;
        let status = waitid(Id::Pid(pid), stopped).unwrap();
        assert!(matches!(status, WaitStatus::Stopped(..)), "{status:?}");
        if signal != Signal::SIGSTOP {
            assert_eq!(tcgetattr(&watched.line).unwrap(), watched.before);
            let screen = Arc::clone(&watched.screen);
            watched.wait_until("given back", |_| {
                !screen.lock().unwrap().screen().alternate_screen()
            });
        }
        // As a shell does, which then says that it stopped.
        let now = SetArg::TCSANOW;
        tcsetattr(&watched.line, now, &watched.before).unwrap();
        let shell = watched.line.try_clone().unwrap();
        File::from(shell).write_all(b"\x1b[?1049l\x1b[2JStopped").unwrap();
        watched.wait_for("Stopped");
        kill(pid, Signal::SIGCONT).unwrap();
        watched.wait_for("q quit");
        assert_eq!(tcgetattr(&watched.line).unwrap(), during);
        assert!(!watched.contents().contains("Stopped"));
        watched.press("q");
        assert!(watched.end("Stopped").success());
    }
}

/// Also where it is a script that the shell waits for.
#[test]
fn a_key_stops_the_job_and_the_shell_goes_on() {
    let shm = env!("CARGO_BIN_EXE_shm");
    for job in ["\"$0\" watch", "sh -c '\"$0\" watch; true' \"$0\""] {
        let script = format!("{job}; echo It stopped; read line; fg");
        let mut watched = Watched::of(&["sh", "-m", "-c", &script, shm]);
        watched.wait_for("q quit");
        watched.press("\x1a");
        watched.wait_for("It stopped");
        assert_eq!(tcgetattr(&watched.line).unwrap(), watched.before);
        watched.press("\r");
        watched.wait_for("q quit");
        watched.press("q");
        assert!(watched.end("It stopped").success());
    }
}

#[test]
fn a_key_stops_nothing_that_nobody_would_let_go_on() {
    let mut watched = Watched::start();
    watched.wait_for("q quit");
    watched.press("\x1a");
    watched.wait_for("cannot stop: no shell would let it go on");
    watched.press("q");
    assert!(watched.end("").success());
}

/// As when its window is closed; whether or not a signal comes as well. Alone,
/// as no other program may have the terminal.
#[test]
fn it_ends_when_the_terminal_is_gone() {
    alone(|| {
        let pty = openpty(None, None).unwrap();
        let close_on_exec = FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC);
        fcntl(&pty.master, close_on_exec).unwrap();
        let side = || Stdio::from(pty.slave.try_clone().unwrap());
        let mut child = Command::new("timeout")
            .args(["--foreground", "--signal=KILL", "30"])
            .args([env!("CARGO_BIN_EXE_shm"), "watch", "--mechanism=sysv"])
            .env("TERM", "xterm")
            .stdin(side())
            .stdout(side())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut screen = File::from(pty.master);
        screen.read_exact(&mut [0; 100]).unwrap();
        drop((screen, pty.slave));
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(1), "{status}");
    });
}

#[test]
fn without_a_terminal_it_says_so() {
    let line = failure(&mut shm(["watch"]), 1);
    assert!(line.contains("it needs a terminal"), "{line}");
    for interval in ["--interval=soon", "--interval=0s"] {
        let line = failure(&mut shm(["watch", interval]), 2);
        assert!(line.contains("--interval"), "{line}");
    }
}
