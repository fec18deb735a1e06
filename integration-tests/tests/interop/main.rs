//! Programs that know nothing of this workspace, on the other side: one in C,
//! one in Python, and the tools that list segments. Both directions.
//!
//! Where there is no `cc`, `python3` or `lsipc`, those tests show as ignored,
//! with the reason.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod ours;

use std::env;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Failed, Trial};

use ours::{Memfd, Ours, Posix, SysV};

/// As long as the other one reads.
const OUR_TEXT: &[u8] = b"written by us";
const THEIR_TEXT: &str = "written by the other";

/// A size that is no multiple of a page.
const SIZE: usize = 10_000;

/// The program on the other side.
#[derive(Clone)]
enum Other {
    C(PathBuf),
    Python(PathBuf),
}

impl Other {
    fn command(&self) -> Command {
        match self {
            Self::C(program) => Command::new(program),
            Self::Python(script) => {
                let mut command = Command::new("python3");
                command.arg(script);
                command
            }
        }
    }

    /// Runs one verb on a target; standard input may be a descriptor.
    fn run(
        &self,
        words: [&str; 3],
        rest: &[&str],
        stdin: Option<OwnedFd>,
    ) -> Vec<u8> {
        let mut command = self.command();
        command.args(words).args(rest);
        command.stdin(stdin.map_or_else(Stdio::null, Stdio::from));
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}: {errors}");
        assert!(errors.is_empty(), "{words:?} complains: {errors}");
        output.stdout
    }
}

fn it_reads_what_we_write<O: Ours>(other: &Other) {
    let ours = O::create(SIZE);
    ours.write(OUR_TEXT);
    let (target, stdin) = ours.target();
    let len = OUR_TEXT.len().to_string();
    let read = other.run([O::NAME, "read", &target], &[&len], stdin);
    assert_eq!(read, OUR_TEXT);
}

fn we_read_what_it_writes<O: Ours>(other: &Other) {
    let ours = O::create(SIZE);
    let (target, stdin) = ours.target();
    other.run([O::NAME, "write", &target], &[THEIR_TEXT], stdin);
    assert_eq!(ours.read(THEIR_TEXT.len()), THEIR_TEXT.as_bytes());
}

fn it_finds_our_size<O: Ours>(other: &Other) {
    let ours = O::create(SIZE);
    let (target, stdin) = ours.target();
    let told = other.run([O::NAME, "size", &target], &[], stdin);
    assert_eq!(String::from_utf8(told).unwrap(), SIZE.to_string());
}

fn it_cannot_create_what_we_have<O: Ours>(other: &Other) {
    let ours = O::create(SIZE);
    let mut command = other.command();
    command.args([O::NAME, "create", &ours.name(), "4096", THEIR_TEXT]);
    let output = command.output().unwrap();
    assert!(!output.status.success(), "it did");
    assert_eq!(ours.read(3), [0; 3], "it wrote");
}

fn we_open_what_it_creates<O: Ours>(other: &Other) {
    let (theirs, rest) = (O::new_name(), [SIZE.to_string()]);
    let (ours, sent) = UnixStream::pair().unwrap();
    let printed = other.run(
        [O::NAME, "create", &theirs],
        &[&rest[0], THEIR_TEXT],
        Some(sent.into()),
    );
    let printed = String::from_utf8(printed).unwrap();
    let found = O::find(&theirs, &printed, &ours);
    assert_eq!(found.len(), SIZE);
    assert_eq!(found.read(THEIR_TEXT.len()), THEIR_TEXT.as_bytes());
    drop(found);
    // Ours was not the handle that created it.
    O::remove_what_must_still_be_there(&theirs, &printed);
}

/// `ipcs -m` and `lsipc -m` show id, size and attachments of ours.
fn is_listed_by(tool: &str, arguments: &[&str]) {
    let segment =
        shm_sysv::Segment::create(shm_sysv::Key::PRIVATE, ours::size(SIZE))
            .unwrap();
    let output = Command::new(tool).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let id = segment.id().as_raw().to_string();
    let row = text.lines().find(|l| l.split_whitespace().any(|w| w == id));
    let row = row.unwrap_or_else(|| panic!("no row for {id} in\n{text}"));
    for column in [SIZE.to_string(), "1".to_owned()] {
        let has = row.split_whitespace().any(|word| word == column);
        assert!(has, "{column} is not in {row:?}");
    }
}

/// A plain program sees a POSIX segment as a file.
fn is_a_file_to(tool: &str) {
    let ours = Posix::create(SIZE);
    ours.write(OUR_TEXT);
    let path = format!("/dev/shm{}", ours.name());
    let output = Command::new(tool).arg(&path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout.len(), SIZE);
    assert!(output.stdout.starts_with(OUR_TEXT));
}

fn has(tool: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(tool).is_file())
}

/// Compiles the C program, once.
fn compile(source: &Path) -> PathBuf {
    let name = format!("interop-other-{}", std::process::id());
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mut cc = Command::new("cc");
    cc.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-o"]);
    cc.arg(&program).arg(source).arg("-lrt");
    let output = cc.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    program
}

fn trial(
    name: String,
    missing: Option<&str>,
    body: impl FnOnce() + Send + 'static,
) -> Trial {
    let trial = Trial::test(name, move || {
        body();
        Ok::<(), Failed>(())
    });
    match missing {
        Some(tool) => trial.with_kind(format!("no {tool}")),
        None => trial,
    }
    .with_ignored_flag(missing.is_some())
}

type Test = fn(&Other);

fn trials_for<O: Ours>(
    all: &mut Vec<Trial>,
    language: &str,
    missing: Option<&str>,
    other: &Other,
) {
    let tests: &[(&str, Test)] = &[
        ("it_reads_what_we_write", it_reads_what_we_write::<O>),
        ("we_read_what_it_writes", we_read_what_it_writes::<O>),
        ("it_finds_our_size", it_finds_our_size::<O>),
        ("we_open_what_it_creates", we_open_what_it_creates::<O>),
    ];
    let named: &[(&str, Test)] = &[(
        "it_cannot_create_what_we_have",
        it_cannot_create_what_we_have::<O>,
    )];
    for (name, test) in
        tests.iter().chain(if O::HAS_NAME { named } else { &[] })
    {
        let (other, test) = (other.clone(), *test);
        let name = format!("{language}::{}::{name}", O::NAME);
        all.push(trial(name, missing, move || test(&other)));
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let sources =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join("interop");
    let cc = ["cc"].into_iter().find(|tool| !has(tool));
    let python = ["python3"].into_iter().find(|tool| !has(tool));
    let program = match cc {
        None if !arguments.list => compile(&sources.join("other.c")),
        _ => PathBuf::new(),
    };
    let others = [
        ("c", cc, Other::C(program.clone())),
        ("python", python, Other::Python(sources.join("other.py"))),
    ];
    let mut all = Vec::new();
    for (language, missing, other) in others {
        trials_for::<SysV>(&mut all, language, missing, &other);
        trials_for::<Posix>(&mut all, language, missing, &other);
        trials_for::<Memfd>(&mut all, language, missing, &other);
    }
    for (tool, arguments) in
        [("ipcs", &["-m"][..]), ("lsipc", &["-m", "--raw", "-b"][..])]
    {
        let missing = Some(tool).filter(|tool| !has(tool));
        let name = format!("tools::{tool}_lists_ours");
        all.push(trial(name, missing, move || is_listed_by(tool, arguments)));
    }
    all.push(trial("tools::cat_reads_ours".into(), None, || {
        is_a_file_to("cat");
    }));
    let conclusion = libtest_mimic::run(&arguments, all);
    if program.exists() {
        // It lies in cargo's own folder for such things; one less is enough.
        let _ = fs::remove_file(program);
    }
    conclusion.exit_code()
}
