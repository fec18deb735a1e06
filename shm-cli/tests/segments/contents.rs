//! `shm create`, `shm write` and `shm read`.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Output, Stdio};

use integration_tests::alone::alone_as_root;
use integration_tests::leaks::{unique_key, unique_name};
use integration_tests::surroundings::{small_dev_shm, system_v_limit};
use nix::sys::memfd::{MFdFlags, memfd_create};
use shm_memfd::{Label, Size};

use crate::support::*;

/// What `shm create` made, removed when dropped.
struct Created(String);

impl Created {
    fn new(target: &str, options: &[&str]) -> Self {
        let mut command = shm(["create", target]);
        let told = stdout(command.args(options));
        Self(told.trim_end().to_owned())
    }

    fn posix(options: &[&str]) -> Self {
        Self::new(&format!("posix:/{}", unique_name("made")), options)
    }

    fn sysv(options: &[&str]) -> Self {
        Self::new(&format!("sysv:{:#x}", unique_key()), options)
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        let _ = shm(["rm", "--force", &self.0]).output();
    }
}

/// Runs it with these bytes on its standard input.
fn with_input(command: &mut Command, bytes: &[u8]) -> Output {
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may not read all of it.
    let _ = child.stdin.take().unwrap().write_all(bytes);
    child.wait_with_output().unwrap()
}

fn write(target: &str, offset: &str, bytes: &[u8]) -> Output {
    with_input(&mut shm(["write", target, "--offset", offset]), bytes)
}

fn read(target: &str, options: &[&str]) -> Vec<u8> {
    let output = shm(["read", target]).args(options).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    output.stdout
}

#[test]
fn what_is_created_stays_and_has_what_was_asked_for() {
    for made in [
        Created::posix(&["--size=1MiB", "--mode=0640"]),
        Created::sysv(&["--size=1MiB", "--mode=0640"]),
        Created::new("sysv:0", &["--size=1MiB", "--mode=640"]),
    ] {
        let told = json(&mut shm(["stat", "--json", &made.0]));
        assert_eq!(told["bytes"], 1 << 20, "{told}");
        assert_eq!(told["resident_bytes"], 1 << 20, "{told}");
        assert_eq!(told["mode"], "0640", "{told}");
        assert_eq!(told["verdict"], "stale", "{told}");
    }
    let made = Created::posix(&["--size=1MiB", "--reserve=touch"]);
    let told = json(&mut shm(["stat", "--json", &made.0]));
    assert_eq!(told["resident_bytes"], 0, "{told}");
    assert_eq!(told["mode"], "0600", "{told}");
}

#[test]
fn what_was_written_is_read_whatever_the_bytes_are() {
    let all = bytes(600_000);
    for made in
        [Created::posix(&["--size=600000"]), Created::sysv(&["--size=600000"])]
    {
        let written = write(&made.0, "0", &all);
        assert!(written.status.success(), "{written:?}");
        assert_eq!(read(&made.0, &[]), all);
        let part = read(&made.0, &["--offset=1000", "--len=300000"]);
        assert_eq!(part, all[1000..301_000]);
        let written = write(&made.0, "599999", b"!");
        assert!(written.status.success(), "{written:?}");
        assert_eq!(read(&made.0, &["--offset=599998"]), [all[599_998], b'!']);
        assert!(read(&made.0, &["--offset=600000"]).is_empty());
        // From a file, by its name.
        let directory = Directory::new();
        let file = directory.0.join("file");
        fs::write(&file, b"from a file").unwrap();
        let file = file.to_str().unwrap();
        stdout(&mut shm(["write", &made.0, file]));
        assert_eq!(read(&made.0, &["--len=11"]), b"from a file");
    }
}

#[test]
fn what_programs_of_others_wrote_is_read() {
    for planter in Planter::all() {
        let words = match planter {
            Planter::C(_) => "planted by C",
            Planter::Python => "planted by Python",
        };
        for plant in [planter.plant_posix(), planter.plant_sysv()] {
            let target = plant.target();
            let len = format!("--len={}", words.len());
            assert_eq!(read(&target, &[&len]), words.as_bytes());
            assert_eq!(read(&target, &[]).len() as u64, SIZE);
        }
    }
}

/// Also one that others may cut off, and one that nobody may write.
#[test]
fn a_memfd_is_read_and_written_through_the_process_that_has_it() {
    let label = Label::new(unique_name("memfd")).unwrap();
    let sealed = shm_memfd::Segment::create(&label, Size::KIB).unwrap();
    let unsealed = memfd_create(label.as_c_str(), MFdFlags::MFD_CLOEXEC);
    let unsealed = File::from(unsealed.unwrap());
    unsealed.set_len(1024).unwrap();
    for fd in [sealed.as_fd(), unsealed.as_fd()] {
        let target = format!("memfd:{}/{}", std::process::id(), fd.as_raw_fd());
        let written = write(&target, "1000", b"hello");
        assert!(written.status.success(), "{written:?}");
        assert_eq!(read(&target, &["--offset=999", "--len=6"]), b"\0hello");
        assert_eq!(read(&target, &[]).len(), 1024);
    }
    let frozen = sealed.freeze().unwrap();
    let fd = frozen.as_fd().as_raw_fd();
    let target = format!("memfd:{}/{fd}", std::process::id());
    assert_eq!(read(&target, &["--offset=1000", "--len=5"]), b"hello");
    let refused = write(&target, "0", b"x");
    assert_eq!(refused.status.code(), Some(1));
    assert!(line(&refused).contains("sealed against writing"), "{refused:?}");
}

#[test]
fn what_does_not_fit_is_refused_or_told() {
    let made = Created::posix(&["--size=10"]);
    for (arguments, what) in [
        (["read", &made.0, "--offset=11"], "it has 10 bytes"),
        (["read", &made.0, "--len=11"], "it has 10 bytes"),
        (["write", &made.0, "--offset=11"], "it has 10 bytes"),
    ] {
        let line = failure(&mut shm(arguments), 1);
        assert!(line.contains(&made.0) && line.contains(what), "{line}");
    }
    // A file is measured first.
    let directory = Directory::new();
    let file = directory.0.join("file");
    fs::write(&file, b"01234567890").unwrap();
    let file = file.to_str().unwrap();
    let line_of_file = failure(&mut shm(["write", &made.0, file]), 1);
    assert!(line_of_file.contains("room for 10 bytes"), "{line_of_file}");
    assert_eq!(read(&made.0, &[]), [0; 10]);
    // What comes from elsewhere cannot be.
    let output = write(&made.0, "4", b"0123456789");
    assert_eq!(output.status.code(), Some(1));
    assert!(line(&output).contains("what fits is written"), "{output:?}");
    assert_eq!(read(&made.0, &[]), b"\0\0\0\x000123\x34\x35");
    // Exactly what there is room for.
    assert!(write(&made.0, "4", b"abcdef").status.success());
}

#[test]
fn what_cannot_be_created_is_one_line() {
    let made = Created::posix(&["--size=10"]);
    let key = format!("sysv:{:#x}", unique_key());
    let new = format!("posix:/{}", unique_name("new"));
    for (arguments, status, what) in [
        (["create", &made.0, "--size=10"], 1, "shm rm"),
        (["create", &new, "--size=0"], 2, "zero"),
        (["create", &new, "--size=-1"], 2, "-1"),
        (["create", &new, "--size=1e9"], 2, "unit"),
        (["create", &new, "--size=9999999999GiB"], 2, "too large"),
        (["create", &new, "--size=99999999GiB"], 1, "ENOSPC"),
        (["create", &key, "--size=99999999GiB"], 1, "ENOMEM"),
        (["create", &new, "--huge=2MiB"], 2, "--size"),
        (["create", "sysv-id:7", "--size=10"], 2, "sysv:KEY"),
        (["create", "memfd:1/2", "--size=10"], 2, "shm send"),
        (["create", "dmabuf:1/2", "--size=10"], 2, "shm send"),
    ] {
        let line = failure(&mut shm(arguments), status);
        assert!(line.contains(what), "{arguments:?}: {line}");
    }
    for option in ["--mode=1000", "--mode=rw", "--reserve=later", "--huge=3"] {
        let line = failure(&mut shm(["create", &new, "--size=10", option]), 2);
        assert!(line.contains(&option[..6]), "{line}");
    }
    // Not taken for an option.
    let line = failure(&mut shm(["create", &new, "--size", "-1"]), 2);
    assert!(line.contains("cannot use \"-1\" as a size"), "{line}");
    let mut huge = shm(["create", &new, "--size=2MiB", "--huge=2MiB"]);
    assert!(failure(&mut huge, 1).contains("huge-page pool"));
    assert!(row(&ls([]), "target", &new).is_none());
}

/// Nobody would know of it.
#[test]
fn what_cannot_be_told_is_not_created() {
    alone_as_root(|| {
        system_v_limit("shmmni", 100).unwrap();
        small_dev_shm(1 << 20).unwrap();
        for target in ["sysv:0", "posix:/a"] {
            let full = File::options().write(true).open("/dev/full").unwrap();
            let mut command = shm(["create", target, "--size=10"]);
            let line = failure(command.stdout(full), 1);
            assert!(line.contains("cannot write the result"), "{line}");
        }
        assert!(shm_sysv::list().unwrap().is_empty());
        assert_eq!(fs::read_dir("/dev/shm").unwrap().count(), 0);
    });
}

#[test]
fn what_is_larger_than_a_file_may_be_is_one_line() {
    let made = Created::posix(&["--size=10000"]);
    let new = format!("posix:/{}", unique_name("new"));
    let directory = Directory::new();
    let option = format!("--socket={}/socket", directory.0.display());
    let commands: [&[&str]; 3] = [
        &["create", &new, "--size=10000"],
        &["write", &made.0, "--offset=8KiB", "/etc/passwd"],
        &["send", &option, "--timeout=0s", env!("CARGO_BIN_EXE_shm")],
    ];
    for arguments in commands {
        let shell = "ulimit -f 1 && exec \"$0\" \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", shell, env!("CARGO_BIN_EXE_shm")]);
        let line = failure(command.args(arguments), 1);
        assert!(line.contains("File too large"), "{line}");
    }
}

#[test]
fn no_room_is_told_with_what_there_is() {
    alone_as_root(|| {
        small_dev_shm(1 << 20).unwrap();
        let line = failure(&mut shm(["create", "posix:/a", "--size=2MiB"]), 1);
        assert!(line.contains("2MiB asked for"), "{line}");
        assert!(line.contains("bytes free"), "{line}");
        assert_eq!(fs::read_dir("/dev/shm").unwrap().count(), 0);
    });
}

#[test]
fn what_cannot_be_opened_is_one_line() {
    let missing = format!("posix:/{}", unique_name("missing"));
    for target in [
        missing.as_str(),
        "sysv:0x7fffffff",
        "sysv-id:2147483647",
        "memfd:4194304/0",
        "dmabuf:4194304/0",
    ] {
        for verb in ["read", "write"] {
            let line = failure(&mut shm([verb, target]), 1);
            let hint = match target.split_once(':') {
                Some(("sysv-id", _)) => "no segment has it",
                _ => "shm ls",
            };
            assert!(line.starts_with("shm: cannot "), "{line}");
            assert!(line.contains(hint), "{line}");
        }
    }
    let made = Created::posix(&["--size=10"]);
    for file in ["/missing", "/"] {
        let line = failure(&mut shm(["write", &made.0, file]), 1);
        assert!(line.contains(&format!("cannot read {file}: ")), "{line}");
    }
}

#[test]
fn another_users_segment_is_not_for_everyone() {
    alone_as_root(|| {
        let nobody = AsNobody::new();
        for made in [
            Created::posix(&["--size=10", "--mode=0600"]),
            Created::sysv(&["--size=10", "--mode=0600"]),
        ] {
            for verb in ["read", "write"] {
                let line = failure(&mut nobody.shm([verb, &made.0]), 1);
                assert!(line.contains("Permission denied"), "{line}");
            }
        }
        let made = Created::posix(&["--size=10", "--mode=0644"]);
        stdout(&mut nobody.shm(["read", &made.0]));
        failure(&mut nobody.shm(["write", &made.0]), 1);
    });
}

/// As `| head` does.
#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let made = Created::posix(&["--size=4MiB"]);
    let mut command = shm(["read", &made.0]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

/// The segment shrinks while it is read: an error, and no `SIGBUS`.
#[test]
fn a_segment_that_is_cut_off_is_a_failure_and_no_crash() {
    let made = Created::posix(&["--size=8MiB"]);
    let mut command = shm(["read", &made.0]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    let mut output = child.stdout.take().unwrap();
    // It has begun, and cannot end: a pipe does not hold that much.
    std::io::Read::read_exact(&mut output, &mut [0; 1]).unwrap();
    let path = format!("/dev/shm{}", &made.0["posix:".len()..]);
    File::options().write(true).open(path).unwrap().set_len(4096).unwrap();
    std::io::copy(&mut output, &mut std::io::sink()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(line(&output).contains("was cut off"), "{output:?}");
}
