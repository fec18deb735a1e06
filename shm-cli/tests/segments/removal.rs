//! `shm rm`.

use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::Stdio;

use integration_tests::alone::alone_as_root;
use integration_tests::leaks::unique_name;
use nix::pty::openpty;

use crate::support::*;

#[test]
fn what_nobody_uses_is_removed_without_asking() {
    for planter in Planter::all() {
        let (mut posix, mut sysv) =
            (planter.plant_posix(), planter.plant_sysv());
        posix.kill();
        sysv.kill();
        let (one, other) = (posix.target(), sysv.target());
        assert_eq!(stdout(&mut shm(["rm", &one, &other])), "");
        let rows = ls([]);
        assert!(posix.row(&rows).is_none() && sysv.row(&rows).is_none());
    }
}

#[test]
fn what_somebody_uses_is_left_alone_where_nobody_can_be_asked() {
    for planter in Planter::all() {
        for plant in [planter.plant_posix(), planter.plant_sysv()] {
            let line = failure(&mut shm(["rm", &plant.target()]), 1);
            assert!(line.contains(&plant.target()[..8]), "{line}");
            assert!(line.contains("in use"), "{line}");
            assert!(line.contains("--force"), "{line}");
            assert!(plant.row(&ls([])).is_some());
        }
    }
}

#[test]
fn force_removes_what_somebody_uses_who_keeps_it() {
    for planter in Planter::all() {
        let (posix, sysv) = (planter.plant_posix(), planter.plant_sysv());
        let (one, other) = (posix.target(), sysv.target());
        stdout(&mut shm(["rm", "--force", &one, &other]));
        let rows = ls([]);
        assert!(posix.row(&rows).is_none() && sysv.row(&rows).is_none());
        // Now without a name, and with the program as before.
        let nameless = row(&rows, "name", posix.name()).unwrap();
        assert_eq!(nameless["users"][0]["pid"], posix.pid());
        let attached = rows.iter().find(|row| {
            row["mechanism"] == "sysv" && row["users"][0]["pid"] == sysv.pid()
        });
        assert_eq!(attached.unwrap()["name"], "no key");
    }
}

#[test]
fn the_person_at_the_terminal_is_asked() {
    let Some(planter) = Planter::all().pop() else { return };
    let plant = planter.plant_posix();
    for (answer, remains) in [("\n", true), ("n\n", true), ("y\n", false)] {
        let terminal = openpty(None, None).unwrap();
        let mut keyboard = fs::File::from(terminal.master);
        let line = terminal.slave.as_fd().try_clone_to_owned().unwrap();
        keyboard.write_all(answer.as_bytes()).unwrap();
        let target = plant.target();
        let mut command = shm(["rm", &target]);
        let output = command.stdin(Stdio::from(line)).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let question = String::from_utf8(output.stderr).unwrap();
        assert!(question.contains(&target), "{question}");
        assert!(question.ends_with("[y/N] "), "{question}");
        assert_eq!(plant.row(&ls([])).is_some(), remains, "{answer:?}");
    }
}

#[test]
fn a_memfd_cannot_be_removed_and_who_has_it_is_told() {
    let label = shm_memfd::Label::new(unique_name("kept")).unwrap();
    let size = shm_memfd::Size::KIB;
    let memfd = shm_memfd::Segment::create(&label, size).unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&memfd.as_fd());
    let pid = std::process::id();
    let target = format!("memfd:{pid}/{fd}");
    let line = failure(&mut shm(["rm", "--force", &target]), 1);
    assert!(line.contains("it has no name"), "{line}");
    assert!(line.contains(&format!("{pid} (")), "{line}");
}

#[test]
fn one_that_fails_does_not_keep_the_others() {
    let leaked = Leaked::new(&unique_name("one"), b"x");
    let missing = format!("posix:/{}", unique_name("missing"));
    let line = failure(&mut shm(["rm", &missing, &leaked.target()]), 1);
    assert!(line.contains(&missing), "{line}");
    assert!(!fs::exists(leaked.path()).unwrap());
}

#[test]
fn another_users_segment_cannot_be_removed() {
    alone_as_root(|| {
        let nobody = AsNobody::new();
        let leaked = Leaked::new(&unique_name("roots"), b"x");
        let target = leaked.target();
        let line = failure(&mut nobody.shm(["rm", "--force", &target]), 1);
        assert!(line.contains("another user"), "{line}");
        assert!(fs::exists(leaked.path()).unwrap());
        for planter in Planter::all() {
            let plant = planter.plant_sysv();
            let target = plant.target();
            let line = failure(&mut nobody.shm(["rm", "--force", &target]), 1);
            assert!(line.contains("another user"), "{line}");
            assert!(plant.row(&ls([])).is_some());
        }
    });
}
