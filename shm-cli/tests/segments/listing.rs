//! `shm ls` and `shm stat`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use integration_tests::alone::{alone, alone_as_root};
use integration_tests::leaks::unique_name;
use integration_tests::surroundings::small_dev_shm;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, umount2};
use shm_memfd::{Label, Seals};
use shm_posix::{Name, Size};

use crate::support::*;

#[test]
fn what_others_have_is_in_use_and_they_are_told() {
    for planter in Planter::all() {
        for plant in
            [planter.plant_posix(), planter.plant_sysv(), planter.plant_memfd()]
        {
            let rows = ls([]);
            let row = plant.row(&rows).unwrap();
            assert_eq!(row["verdict"], "in-use", "{row}");
            assert_eq!(row["bytes"], SIZE, "{row}");
            assert!(row["age_seconds"].as_u64().unwrap() < 3600, "{row}");
            let users = row["users"].as_array().unwrap();
            assert_eq!(users.len(), 1, "{row}");
            assert_eq!(users[0]["pid"], plant.pid());
            assert_eq!(users[0]["mapped"], true);
        }
    }
}

#[test]
fn what_a_killed_program_left_is_stale_and_a_memfd_is_gone() {
    for planter in Planter::all() {
        let (mut posix, mut sysv) =
            (planter.plant_posix(), planter.plant_sysv());
        let mut memfd = planter.plant_memfd();
        for plant in [&mut posix, &mut sysv, &mut memfd] {
            plant.kill();
        }
        let rows = ls([]);
        for plant in [&posix, &sysv] {
            let row = plant.row(&rows).unwrap();
            assert_eq!(row["verdict"], "stale", "{row}");
            assert_eq!(row["users"].as_array().unwrap().len(), 0, "{row}");
            assert!(!row["evidence"].as_str().unwrap().is_empty());
        }
        assert!(memfd.row(&rows).is_none());
        let stale = ls(["--stale"]);
        assert!(posix.row(&stale).is_some() && sysv.row(&stale).is_some());
        assert!(stale.iter().all(|row| row["verdict"] == "stale"));
    }
}

#[test]
fn only_the_mechanisms_that_are_named_are_listed() {
    let name = unique_name("only");
    let leaked = Leaked::new(&name, b"x");
    let memfd = memfd(&name);
    let has = |options: [&str; 2]| {
        let rows = ls(options);
        let (posix, label) = (leaked.target(), row(&rows, "name", &name));
        (row(&rows, "target", &posix).is_some(), label.is_some())
    };
    assert_eq!(has(["--mechanism=posix", "--mechanism=memfd"]), (true, true));
    assert_eq!(has(["--mechanism=posix", "--mechanism=sysv"]), (true, false));
    assert_eq!(has(["--mechanism=memfd", "--mechanism=dmabuf"]), (false, true));
    drop(memfd);
}

// Alone: while another test starts a program, that has for a moment whatever is
// open here.
#[test]
fn a_segment_of_this_workspace_is_in_use_while_its_handle_lives() {
    alone(|| {
        let name = unique_name("ours");
        let target = format!("posix:/{name}");
        let name = Name::new(name).unwrap();
        let mut segment = shm_posix::Segment::create(&name, Size::KIB).unwrap();
        let verdict = || {
            let rows = ls(["--mechanism=posix"]);
            row(&rows, "target", &target).unwrap()["verdict"].clone()
        };
        assert_eq!(verdict(), "in-use");
        segment.keep();
        drop(segment);
        let left = verdict();
        name.unlink().unwrap();
        assert_eq!(left, "stale");
    });
}

#[test]
fn what_a_thread_has_shows_after_the_first_thread_has_ended() {
    for planter in Planter::all() {
        let Planter::C(_) = planter else { continue };
        let label = unique_name("thread");
        let plant = planter.plant("thread", &label);
        // It is ready a moment before that.
        let begun = Instant::now();
        let stat = format!("/proc/{}/stat", plant.pid());
        while !fs::read_to_string(&stat).unwrap().contains(") Z ") {
            assert!(begun.elapsed().as_secs() < 10, "it does not end");
            thread::sleep(Duration::from_millis(1));
        }
        let rows = ls(["--mechanism=memfd"]);
        let row = row(&rows, "name", &label).unwrap();
        let user = &row["users"][0];
        assert_eq!(user["pid"], plant.pid());
        assert_eq!(
            (&user["descriptors"], &user["mapped"]),
            (&1.into(), &true.into())
        );
        // Its descriptor is found through the thread.
        let target = row["target"].as_str().unwrap();
        let told = json(&mut shm(["stat", "--json", target]));
        assert_eq!(told["name"], label.as_str());
    }
}

/// Too few descriptors to look with must not look like nobody there.
#[test]
fn what_could_not_be_seen_for_want_of_descriptors_is_told() {
    let shell = "ulimit -n 4 && exec \"$0\" ls --json --mechanism=memfd";
    let report =
        json(Command::new("sh").args(["-c", shell, env!("CARGO_BIN_EXE_shm")]));
    let shortfall = report["shortfall"].as_str().unwrap();
    let (count, rest) = shortfall.split_once(' ').unwrap();
    assert!(rest.contains("could not be looked into"), "{shortfall}");
    assert!(count.parse::<u32>().unwrap() > 1, "{shortfall}");
}

/// One row for an object, however many descriptors lead to it.
#[test]
fn a_memfd_is_one_row_with_its_seals_and_all_who_have_it() {
    alone(|| {
        let label = unique_name("frames");
        let memfd = memfd(&label);
        memfd.seal(Seals::GROW).unwrap();
        let clone = || memfd.as_fd().try_clone_to_owned().unwrap();
        let (_second, third) = (clone(), clone());
        let child = Command::new("sleep").arg("60").stdin(third).spawn();
        let mut child = child.unwrap();
        let rows = ls(["--mechanism=memfd"]);
        child.kill().unwrap();
        child.wait().unwrap();
        let found: Vec<_> =
            rows.iter().filter(|row| row["name"] == label.as_str()).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        let seals = found[0]["seals"].as_array().unwrap();
        for seal in ["grow", "shrink"] {
            assert!(seals.contains(&seal.into()), "{seals:?}");
        }
        let users = found[0]["users"].as_array().unwrap();
        assert_eq!(users.len(), 2, "{users:?}");
        let of = |pid: u32| users.iter().find(|user| user["pid"] == pid);
        assert_eq!(of(std::process::id()).unwrap()["descriptors"], 2);
        assert_eq!(of(child.id()).unwrap()["descriptors"], 1);
        assert_eq!(of(child.id()).unwrap()["command"], "sleep");
    });
}

#[test]
fn a_segment_whose_name_is_removed_shows_while_somebody_has_it() {
    let name = unique_name("nameless");
    let leaked = Leaked::new(&name, &[7; 5000]);
    let file = File::open(leaked.path()).unwrap();
    drop(leaked);
    let rows = ls(["--mechanism=posix"]);
    let row = row(&rows, "name", &format!("/{name}")).unwrap();
    assert_eq!(row["target"], serde_json::Value::Null);
    assert_eq!(
        (&row["bytes"], &row["verdict"]),
        (&5000.into(), &"in-use".into())
    );
    assert!(row["evidence"].as_str().unwrap().contains("name is removed"));
    drop(file);
}

#[test]
fn semaphores_are_no_segments() {
    let name = unique_name("x");
    let semaphore = Leaked::new(&format!("sem.{name}"), &[0; 32]);
    let segment = Leaked::new(&format!("sem.{name}-2"), &[0; 33]);
    let file = File::open(semaphore.path()).unwrap();
    let rows = ls(["--mechanism=posix"]);
    assert!(row(&rows, "target", &semaphore.target()).is_none());
    assert!(row(&rows, "name", &format!("/sem.{name}")).is_none());
    assert!(row(&rows, "target", &segment.target()).is_some());
    drop(file);
    for verb in ["stat", "rm"] {
        let line = failure(&mut shm([verb, &semaphore.target()]), 1);
        assert!(line.contains("a semaphore"), "{line}");
    }
    assert!(semaphore.path().exists());
}

#[test]
fn names_that_would_command_the_terminal_do_not() {
    let tag = unique_name("evil");
    let evil = |end: &[u8]| {
        let name = [tag.as_bytes(), b"\x1b[2J\n| x |\xff", end].concat();
        OsStr::from_bytes(&name).to_owned()
    };
    let leaked = Leaked::new_os(&evil(b""));
    let memfd =
        shm_memfd::Segment::create(&Label::new(evil(b"m")).unwrap(), Size::KIB);
    let memfd = memfd.unwrap();
    let output = shm(["ls"]).output().unwrap();
    assert!(output.status.success());
    assert!(!output.stdout.contains(&b'\x1b'));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = text.lines().filter(|l| l.contains(&tag)).collect();
    assert_eq!(lines.len(), 2, "{text}");
    for line in lines {
        assert!(line.contains("\\u{1b}[2J\\u{a}"), "{line}");
    }
    drop((leaked, memfd));
}

/// Another user's processes cannot be looked into; the kernel is asked instead.
#[test]
fn a_user_is_found_that_the_processes_do_not_show() {
    alone_as_root(|| {
        let nobody = AsNobody::new();
        let leaked = Leaked::new(&unique_name("hidden"), b"x");
        leaked.belongs_to(NOBODY);
        let look = || {
            let report = json(&mut nobody.shm(["ls", "--json"]));
            assert!(report["shortfall"].is_string(), "{report}");
            let rows = report["segments"].as_array().unwrap();
            row(rows, "target", &leaked.target()).unwrap().clone()
        };
        assert_eq!(look()["verdict"], "stale");
        let file = File::open(leaked.path()).unwrap();
        let found = look();
        assert_eq!(found["verdict"], "in-use", "{found}");
        assert_eq!(found["users"].as_array().unwrap().len(), 0, "{found}");
        let evidence = found["evidence"].as_str().unwrap();
        assert!(evidence.contains("does not show"), "{evidence}");
        // Without a descriptor, too.
        let segment =
            shm_posix::Segment::open(&leaked.target()[6..].parse().unwrap());
        let mapping = segment.unwrap().map().unwrap();
        drop(file);
        assert_eq!(look()["verdict"], "in-use");
        drop(mapping);
        assert_eq!(look()["verdict"], "stale");
    });
}

#[test]
fn what_cannot_be_told_is_idle_and_not_stale() {
    alone_as_root(|| {
        let nobody = AsNobody::new();
        // Roots's: nobody may neither open it nor ask for the lease.
        let leaked = Leaked::new(&unique_name("roots"), b"x");
        let look = || {
            let report = json(&mut nobody.shm(["ls", "--json"]));
            let rows = report["segments"].as_array().unwrap();
            row(rows, "target", &leaked.target()).unwrap().clone()
        };
        for mode in [0o600, 0o644] {
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(leaked.path(), mode).unwrap();
            let row = look();
            assert_eq!(row["verdict"], "idle", "{row}");
            let evidence = row["evidence"].as_str().unwrap();
            assert!(evidence.contains("not all processes show"), "{row}");
        }
        // Whoever may read it sees that it is locked, as those do that use a
        // crate of this workspace.
        let file = File::open(leaked.path()).unwrap();
        let lock = Flock::lock(file, FlockArg::LockShared).unwrap();
        assert_eq!(look()["verdict"], "in-use");
        drop(lock);
    });
}

/// A user's own file system that does not answer any more, and a file in it that
/// seems to be a segment: of the name of one, and of a memfd's path. Only the
/// end of its server would end who asks it.
#[test]
fn a_file_system_that_does_not_answer_keeps_nobody_waiting() {
    alone_as_root(|| {
        small_dev_shm(1 << 20).unwrap();
        let directory = Directory::new();
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let started = Command::new("python3")
            .arg(here.join("tests/segments/hang.py"))
            .arg(&directory.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut server) = started else {
            eprintln!("left out: needs python3");
            return;
        };
        let mut requests = server.stdin.take().unwrap();
        let mut said = BufReader::new(server.stdout.take().unwrap()).lines();
        let Some(Ok(_)) = said.next() else {
            eprintln!("left out: needs /dev/fuse");
            return;
        };
        // From the first one that is closed, the kernel learns that the server
        // need not be told; else the start of a program would wait for it.
        drop(File::open(directory.0.join("closed")).unwrap());
        fs::write("/dev/shm/ring", b"x").unwrap();
        let same_name = File::open(directory.0.join("ring")).unwrap();
        let label = unique_name("spoof");
        // Whose path begins where its mount does, as that lies nowhere.
        let memfd = File::open(directory.0.join(format!("memfd:{label}")));
        let memfd = memfd.unwrap();
        umount2(&directory.0, MntFlags::MNT_DETACH).unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&memfd);
        let path = fs::read_link(format!("/proc/self/fd/{number}")).unwrap();
        assert!(path.starts_with(format!("/memfd:{label}")), "{path:?}");
        requests.write_all(b"hang").unwrap();
        assert_eq!(said.next().unwrap().unwrap(), "hangs");
        let begun = Instant::now();
        let mut look = shm(["ls", "--json"]).stdout(Stdio::piped()).spawn();
        let look = look.as_mut().unwrap();
        while look.try_wait().unwrap().is_none()
            && begun.elapsed() < Duration::from_secs(20)
        {
            thread::sleep(Duration::from_millis(5));
        }
        let ended = look.try_wait().unwrap();
        // Whoever waits for it now gets an error.
        drop(requests);
        server.kill().unwrap();
        server.wait().unwrap();
        look.wait().unwrap();
        assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
        drop((same_name, memfd));
    });
}

/// `open` waits for the lease's end, for 45 seconds.
#[test]
fn a_memfd_on_which_somebody_has_a_lease_keeps_nobody_waiting() {
    const PROGRAM: &str = "
import fcntl, os, sys
made = os.memfd_create(sys.argv[1])
kept = os.open(f'/proc/self/fd/{made}', os.O_RDONLY)
os.close(made)
fcntl.fcntl(kept, fcntl.F_SETLEASE, fcntl.F_WRLCK)
fcntl.fcntl(kept, fcntl.F_SETSIG, 28)  # SIGWINCH, which does nothing
print('ready', flush=True)
sys.stdin.read()
";
    let label = unique_name("leased");
    let started = Command::new("python3")
        .args(["-c", PROGRAM, &label])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut python) = started else {
        eprintln!("left out: needs python3");
        return;
    };
    let mut said = String::new();
    let stdout_of = python.stdout.take().unwrap();
    BufReader::new(stdout_of).read_line(&mut said).unwrap();
    let mut command = Command::new("timeout");
    command.args(["20", env!("CARGO_BIN_EXE_shm"), "ls", "--json"]);
    let output = command.arg("--mechanism=memfd").output().unwrap();
    drop(python.stdin.take());
    python.wait().unwrap();
    assert_eq!(said, "ready\n");
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8(output.stdout).unwrap().contains(&label));
}

#[test]
fn ten_thousand_segments_are_listed() {
    alone_as_root(|| {
        small_dev_shm(64 << 20).unwrap();
        for number in 0..10_000 {
            fs::write(format!("/dev/shm/{number}"), b"x").unwrap();
        }
        assert_eq!(ls(["--mechanism=posix", "--stale"]).len(), 10_000);
        let table = stdout(&mut shm(["ls", "--mechanism=posix"]));
        assert!(table.lines().count() >= 10_002);
    });
}

#[test]
fn a_machine_without_dev_shm_still_lists_the_rest() {
    alone_as_root(|| {
        small_dev_shm(1 << 20).unwrap();
        let label = unique_name("rest");
        let memfd = memfd(&label);
        // The new one, and the machine's below it; a plain directory is left.
        while umount2("/dev/shm", MntFlags::MNT_DETACH).is_ok() {}
        let output = shm(["ls", "--json"]).output().unwrap();
        if fs::read_dir("/dev/shm").is_ok() {
            assert!(output.status.success(), "{output:?}");
        } else {
            assert_eq!(output.status.code(), Some(1), "{output:?}");
        }
        assert!(String::from_utf8(output.stdout).unwrap().contains(&label));
        drop(memfd);
    });
}

#[test]
fn stat_tells_every_user_by_every_kind_of_target() {
    for planter in Planter::all() {
        let memfd = planter.plant_memfd();
        let rows = ls(["--mechanism=memfd"]);
        // One made by C has no descriptor any more, and so no target.
        let by_memfd = memfd.row(&rows).unwrap()["target"].as_str();
        let (posix, sysv) = (planter.plant_posix(), planter.plant_sysv());
        let rows = ls(["--mechanism=sysv"]);
        let by_id = sysv.row(&rows).unwrap()["target"].as_str().unwrap();
        for (plant, target) in [
            (&posix, Some(posix.target().as_str())),
            (&sysv, Some(sysv.target().as_str())),
            (&sysv, Some(by_id)),
            (&memfd, by_memfd),
        ] {
            let Some(target) = target else { continue };
            let told = json(&mut shm(["stat", "--json", target]));
            assert_eq!(told["target"], target);
            assert_eq!(told["bytes"], SIZE);
            assert_eq!(told["users"][0]["pid"], plant.pid(), "{told}");
            let text = stdout(&mut shm(["stat", target]));
            let user = format!("user:     {} ", plant.pid());
            assert!(text.contains(&user), "{text}");
            assert!(text.contains("size:     12345 bytes"), "{text}");
        }
    }
}

#[test]
fn stat_says_what_is_not_there() {
    let name = format!("posix:/{}", unique_name("missing"));
    let own = format!("memfd:{}/0", std::process::id());
    for target in [
        name.as_str(),
        "sysv:0x7fffffff",
        "sysv:0",
        "sysv-id:2147483647",
        "memfd:4194304/0",
        "dmabuf:4194304/0",
        own.as_str(),
    ] {
        let line = failure(&mut shm(["stat", target]), 1);
        assert!(line.contains(target.trim_end_matches('0')), "{line}");
        assert!(line.starts_with("shm: cannot "), "{line}");
    }
}

fn memfd(label: &str) -> shm_memfd::Segment {
    shm_memfd::Segment::create(&Label::new(label).unwrap(), Size::KIB).unwrap()
}
