//! `shm reap`. It looks at the whole machine, on which other tests and programs
//! run: so each test has a `/dev/shm` and a System V table of its own.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use integration_tests::alone::alone_as_root;
use integration_tests::leaks::unique_name;
use integration_tests::surroundings::{
    new_pid_namespace, small_dev_shm, system_v_limit,
};

use nix::mount::{MsFlags, mount};

use crate::support::*;

fn in_a_world_of_its_own(test: impl FnOnce()) {
    small_dev_shm(64 << 20).unwrap();
    system_v_limit("shmmni", 100).unwrap();
    test();
}

/// The names that are left, and the keys.
fn left() -> Vec<String> {
    let names = fs::read_dir("/dev/shm").unwrap().map(|entry| {
        let name = entry.unwrap().file_name();
        format!("posix:/{}", name.to_str().unwrap())
    });
    let keys = shm_sysv::list().unwrap().into_iter();
    let keys = keys.map(|stat| format!("sysv:{}", stat.key));
    let mut all: Vec<_> = names.chain(keys).collect();
    all.sort();
    all
}

/// By programs in C and Python that are killed, by `ipcmk`, and as a plain file.
#[test]
fn exactly_what_was_leaked_is_stale_and_is_removed() {
    alone_as_root(|| {
        in_a_world_of_its_own(|| {
            let (mut leaked, mut live, mut kept) = (vec![], vec![], vec![]);
            for planter in Planter::all() {
                for _ in 0..2 {
                    leaked.push(planter.plant_posix());
                    leaked.push(planter.plant_sysv());
                }
                live.push(planter.plant_posix());
                live.push(planter.plant_sysv());
                kept.push(planter.plant_memfd());
            }
            let survives: Vec<String> =
                live.iter().map(Plant::target).collect();
            leaked.iter_mut().for_each(Plant::kill);
            fs::write("/dev/shm/file", b"x").unwrap();
            let made = Command::new("ipcmk").args(["-M", "4096"]).output();
            assert!(made.unwrap().status.success());
            assert_eq!(left().len(), leaked.len() + live.len() + 2);

            let stale = ls(["--stale"]);
            for plant in &leaked {
                assert!(plant.row(&stale).is_some(), "{}", plant.target());
            }
            assert!(row(&stale, "target", "posix:/file").is_some());
            assert_eq!(stale.len(), leaked.len() + 2);
            let targets = texts(&stale, "target");

            let dry = stdout(&mut shm(["reap", "--dry-run"]));
            assert_eq!(removed(&dry, "would remove "), targets);
            assert_eq!(left().len(), leaked.len() + live.len() + 2);

            let said = stdout(&mut shm(["reap"]));
            assert_eq!(removed(&said, "removed "), targets);
            let mut survives = survives;
            survives.sort();
            assert_eq!(left(), survives);
            // Those who have the others still do.
            let rows = ls([]);
            for plant in live.iter().chain(&kept) {
                let row = plant.row(&rows).unwrap();
                assert_eq!(row["verdict"], "in-use", "{row}");
            }
            let again = stdout(&mut shm(["reap"]));
            assert!(again.starts_with("nothing to remove\n"), "{again}");
        });
    });
}

/// The targets of which it says so, each with evidence.
fn removed(text: &str, how: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(how));
    let mut targets: Vec<String> = lines
        .map(|line| {
            let (target, evidence) = line.split_once(": ").unwrap();
            assert!(!evidence.is_empty(), "{line}");
            target.to_owned()
        })
        .collect();
    targets.sort();
    targets
}

#[test]
fn what_is_too_young_or_of_another_mechanism_is_left() {
    alone_as_root(|| {
        in_a_world_of_its_own(|| {
            fs::write("/dev/shm/young", b"x").unwrap();
            let old = File::create("/dev/shm/old").unwrap();
            let long_ago = SystemTime::now() - Duration::from_secs(3600);
            let times = fs::FileTimes::new();
            let times = times.set_accessed(long_ago).set_modified(long_ago);
            old.set_times(times).unwrap();
            drop(old);
            stdout(&mut shm(["reap", "--mechanism=sysv"]));
            assert_eq!(left(), ["posix:/old", "posix:/young"]);
            // That the times were set is a sign of life, too.
            let said = stdout(&mut shm(["reap", "--older-than=10m"]));
            assert_eq!(left(), ["posix:/old", "posix:/young"]);
            assert!(said.ends_with("2 not old enough\n"), "{said}");
            stdout(&mut shm(["reap", "--older-than=0s", "--mechanism=posix"]));
            assert!(left().is_empty());
        });
    });
}

/// As containers do it, where it could not be removed.
#[test]
fn a_file_that_is_mounted_there_is_none_of_the_segments() {
    alone_as_root(|| {
        in_a_world_of_its_own(|| {
            fs::write("/dev/shm/mounted", b"").unwrap();
            let here = Some(env!("CARGO_BIN_EXE_shm"));
            let none: Option<&str> = None;
            let bind = MsFlags::MS_BIND;
            mount(here, "/dev/shm/mounted", none, bind, none).unwrap();
            assert!(row(&ls([]), "target", "posix:/mounted").is_none());
            let said = stdout(&mut shm(["reap"]));
            assert!(said.starts_with("nothing to remove\n"), "{said}");
        });
    });
}

#[test]
fn a_user_reaps_only_the_own_ones() {
    alone_as_root(|| {
        in_a_world_of_its_own(|| {
            let nobody = AsNobody::new();
            let own = Leaked::new("own", b"x");
            own.belongs_to(NOBODY);
            let used = Leaked::new("used", b"x");
            used.belongs_to(NOBODY);
            let file = File::open(used.path()).unwrap();
            let _roots = Leaked::new("roots", b"x");
            let made = Command::new("ipcmk").args(["-M", "4096"]).output();
            assert!(made.unwrap().status.success());
            let said = stdout(&mut nobody.shm(["reap"]));
            assert_eq!(removed(&said, "removed "), ["posix:/own"]);
            let told = "1 idle, 1 of other users\n";
            assert!(said.ends_with(told), "{said}");
            assert_eq!(left().len(), 3);
            drop(file);
        });
    });
}

#[test]
fn a_locked_segment_and_one_whose_creator_lives_are_left() {
    alone_as_root(|| {
        in_a_world_of_its_own(|| {
            // Created by this process, which does not have it attached.
            let mut segment = shm_sysv::Segment::create(
                shm_sysv::Key::new(7),
                shm_sysv::Size::KIB,
            )
            .unwrap();
            segment.keep();
            drop(segment);
            let rows = ls(["--mechanism=sysv"]);
            assert_eq!(rows[0]["verdict"], "idle");
            let evidence = rows[0]["evidence"].as_str().unwrap();
            assert!(evidence.contains("its creator"), "{evidence}");
            stdout(&mut shm(["reap"]));
            assert_eq!(left(), ["sysv:0x7"]);
        });
    });
}

/// In a container, its creator, who is gone, has a number; who had it attached
/// last lives outside, and may come back.
#[test]
fn a_segment_that_somebody_outside_the_container_had_last_is_left() {
    alone_as_root(|| {
        in_a_world_of_its_own(|| {
            new_pid_namespace().unwrap();
            let inside = "ipcmk -M 4096 >&2 && echo made && read -r _ && \
                          mount -t proc proc /proc && \
                          exec \"$0\" reap --mechanism=sysv";
            let mut container = Command::new("sh")
                .args(["-c", inside, env!("CARGO_BIN_EXE_shm")])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let output = container.stdout.take().unwrap();
            let mut said = BufReader::new(output).lines();
            assert_eq!(said.next().unwrap().unwrap(), "made");
            let id = shm_sysv::list().unwrap()[0].id;
            drop(shm_sysv::Segment::open_id(id).unwrap());
            container.stdin.take().unwrap().write_all(b"\n").unwrap();
            let said: Vec<_> = said.map(Result::unwrap).collect();
            assert!(container.wait().unwrap().success());
            assert_eq!(said, ["nothing to remove", "left alone: 1 idle"]);
            assert_eq!(left().len(), 1);
        });
    });
}

/// Programs that take no lock open and map segments while they are reaped. Who
/// has got one with a name keeps one with a name.
#[test]
fn what_comes_to_life_meanwhile_is_left_alone() {
    alone_as_root(|| {
        in_a_world_of_its_own(|| {
            let done = AtomicBool::new(false);
            let held = AtomicU32::new(0);
            let user = |number: usize| {
                let path = format!("/dev/shm/{}", unique_name("busy"));
                while !done.load(Ordering::Relaxed) {
                    // Made, left for a moment, and come back to.
                    let made = File::options()
                        .write(true)
                        .create(true)
                        .truncate(true)
                        .open(&path);
                    drop(made.unwrap());
                    thread::sleep(Duration::from_micros(300 * number as u64));
                    let Ok(file) = File::open(&path) else { continue };
                    if file.metadata().unwrap().nlink() == 0 {
                        continue;
                    }
                    for _ in 0..20 {
                        thread::sleep(Duration::from_micros(200));
                        let links = file.metadata().unwrap().nlink();
                        assert_eq!(links, 1, "its name was taken away");
                    }
                    held.fetch_add(1, Ordering::Relaxed);
                }
            };
            let reaped = thread::scope(|scope| {
                let users: Vec<_> = (0..8)
                    .map(|number| scope.spawn(move || user(number)))
                    .collect();
                let mut reaped = 0;
                let begun = Instant::now();
                // A busy machine gets through fewer.
                for _ in 0..150 {
                    if begun.elapsed() > Duration::from_secs(20) {
                        break;
                    }
                    // A user may have come in between: that is told.
                    let said = stdout(&mut shm(["reap", "--mechanism=posix"]));
                    reaped += removed(&said, "removed ").len();
                }
                done.store(true, Ordering::Relaxed);
                for user in users {
                    user.join().unwrap();
                }
                reaped
            });
            // Else nothing was tried.
            assert!(reaped > 0 && held.load(Ordering::Relaxed) > 0, "{reaped}");
        });
    });
}
