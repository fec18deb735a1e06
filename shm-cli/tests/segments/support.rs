//! Running the command, and programs of others that make segments.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use integration_tests::leaks::{unique_key, unique_name};
use serde_json::Value;

pub(crate) const NOBODY: u32 = 65_534;

/// The size of what is planted.
pub(crate) const SIZE: u64 = 12_345;

pub(crate) fn shm<const N: usize>(arguments: [&str; N]) -> Command {
    of(Path::new(env!("CARGO_BIN_EXE_shm")), &arguments)
}

fn of(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.arg("50").arg(program).args(arguments).stdin(Stdio::null());
    command
}

/// The command as a user who may do little, from where any user gets.
pub(crate) struct AsNobody {
    directory: Directory,
}

impl AsNobody {
    pub(crate) fn new() -> Self {
        let directory = Directory::new();
        fs::copy(env!("CARGO_BIN_EXE_shm"), directory.0.join("shm")).unwrap();
        Self { directory }
    }

    pub(crate) fn shm<const N: usize>(&self, arguments: [&str; N]) -> Command {
        let mut command = of(&self.directory.0.join("shm"), &arguments);
        command.uid(NOBODY).gid(NOBODY).current_dir("/");
        command
    }
}

/// Every byte there is, and different pieces.
pub(crate) fn bytes(len: usize) -> Vec<u8> {
    let byte = |at: usize| u8::try_from((at ^ (at >> 8)) & 0xff).unwrap();
    (0..len).map(byte).collect()
}

/// Its standard output, after it succeeded; what it says else is a note.
pub(crate) fn stdout(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        assert!(line.starts_with("shm: note: "), "{output:?}");
    }
    String::from_utf8(output.stdout).unwrap()
}

/// The line by which it failed, with that status.
pub(crate) fn failure(command: &mut Command, status: i32) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(status), "{output:?}");
    line(&output)
}

/// The only line on standard error.
pub(crate) fn line(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{output:?}");
    assert!(text.starts_with("shm: "), "{text}");
    text.trim_end().to_owned()
}

pub(crate) fn json(command: &mut Command) -> Value {
    serde_json::from_str(&stdout(command)).unwrap()
}

/// All that `ls` says.
pub(crate) fn ls<const N: usize>(options: [&str; N]) -> Vec<Value> {
    let report = json(shm(["ls", "--json"]).args(options));
    report["segments"].as_array().unwrap().clone()
}

/// Of those rows, the one of which a field is this text.
pub(crate) fn row<'a>(
    rows: &'a [Value],
    field: &str,
    text: &str,
) -> Option<&'a Value> {
    rows.iter().find(|row| row[field] == text)
}

pub(crate) fn texts(rows: &[Value], field: &str) -> Vec<String> {
    let mut texts: Vec<String> = rows
        .iter()
        .map(|row| row[field].as_str().unwrap().to_owned())
        .collect();
    texts.sort();
    texts
}

/// A program that knows nothing of this workspace.
#[derive(Clone)]
pub(crate) enum Planter {
    C(PathBuf),
    Python,
}

impl Planter {
    /// Those that this machine has; a test that finds none says so.
    pub(crate) fn all() -> Vec<Self> {
        let c = compiled().map(|program| Self::C(program.clone()));
        let python = Command::new("python3").arg("--version").output();
        let python = python.is_ok().then_some(Self::Python);
        let all: Vec<_> = c.into_iter().chain(python).collect();
        if all.is_empty() {
            eprintln!("left out: needs cc or python3");
        }
        all
    }

    fn command(&self) -> Command {
        match self {
            Self::C(program) => Command::new(program),
            Self::Python => {
                let here = Path::new(env!("CARGO_MANIFEST_DIR"));
                let mut command = Command::new("python3");
                command.arg(here.join("tests/segments/plant.py"));
                command
            }
        }
    }

    /// Lets it make a segment that has this name, key or label, and have it
    /// until the plant is dropped or killed.
    pub(crate) fn plant(&self, kind: &'static str, name: &str) -> Plant {
        let mut child = self
            .command()
            .args([kind, name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut said).unwrap();
        let plant = Plant { child, kind, name: name.to_owned() };
        assert_eq!(said, "ready\n", "{kind} {name}");
        plant
    }

    pub(crate) fn plant_posix(&self) -> Plant {
        self.plant("posix", &format!("/{}", unique_name("plant")))
    }

    pub(crate) fn plant_sysv(&self) -> Plant {
        self.plant("sysv", &format!("{:#x}", unique_key()))
    }

    pub(crate) fn plant_memfd(&self) -> Plant {
        self.plant("memfd", &unique_name("plant"))
    }
}

/// The program in C, where it can be made.
fn compiled() -> Option<&'static PathBuf> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    PROGRAM
        .get_or_init(|| {
            let here = Path::new(env!("CARGO_MANIFEST_DIR"));
            let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
            // Another run of the tests may make and use it at the same time.
            let ours = directory.join(unique_name("plant"));
            let made = Command::new("cc")
                .arg(here.join("tests/segments/plant.c"))
                .args(["-pthread", "-o"])
                .arg(&ours)
                .output()
                .ok()?;
            assert!(made.status.success(), "{made:?}");
            let program = directory.join("plant");
            fs::rename(&ours, &program).unwrap();
            Some(program)
        })
        .as_ref()
}

/// A segment and the program that has it; both are gone when this is dropped.
pub(crate) struct Plant {
    child: Child,
    kind: &'static str,
    name: String,
}

impl Plant {
    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// As a target is written.
    pub(crate) fn target(&self) -> String {
        match self.kind {
            "memfd" => panic!("a memfd has no name"),
            kind => format!("{kind}:{}", self.name),
        }
    }

    /// In the listing, by what does not change.
    pub(crate) fn row<'a>(&self, rows: &'a [Value]) -> Option<&'a Value> {
        match self.kind {
            "posix" => row(rows, "target", &self.target()),
            "sysv" => row(rows, "name", &format!("key {}", self.name)),
            _ => row(rows, "name", &self.name),
        }
    }

    /// The program dies and leaves what it leaves.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Plant {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        match self.kind {
            "posix" => {
                let _ = fs::remove_file(format!("/dev/shm{}", self.name));
            }
            "sysv" => remove_key(&self.name),
            _ => {}
        }
    }
}

fn remove_key(key: &str) {
    for stat in shm_sysv::list().unwrap_or_default() {
        if stat.key.to_string() == key {
            let _ = stat.id.remove();
        }
    }
}

/// A file in `/dev/shm` that nobody has open, removed when dropped.
pub(crate) struct Leaked(PathBuf);

impl Leaked {
    /// With any name.
    pub(crate) fn new_os(name: &OsStr) -> Self {
        let path = Path::new("/dev/shm").join(name);
        fs::write(&path, b"x").unwrap();
        Self(path)
    }

    pub(crate) fn new(name: &str, bytes: &[u8]) -> Self {
        let path = Path::new("/dev/shm").join(name);
        fs::write(&path, bytes).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn belongs_to(&self, user: u32) {
        std::os::unix::fs::chown(&self.0, Some(user), Some(user)).unwrap();
    }

    pub(crate) fn target(&self) -> String {
        let name = self.0.file_name().unwrap().to_str().unwrap();
        format!("posix:/{name}")
    }
}

impl Drop for Leaked {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A directory of one test's own that all may enter, removed at its end.
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(unique_name("shm"));
        fs::create_dir(&path).unwrap();
        let everyone = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&path, everyone).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
