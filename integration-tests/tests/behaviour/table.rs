//! Rows and cells, and how they are run.

use std::fmt;
use std::io;
use std::path::Path;

use integration_tests::peer::{DEADLINE, JoinError, Peer};
use libtest_mimic::{Completion, Failed, Trial};
use nix::errno::Errno;
use nix::unistd::Uid;
use shm_common::OsError;

/// Rows on one subject.
pub struct Chapter {
    pub title: &'static str,
    pub rows: &'static [Row],
}

/// One question, and what each mechanism answers.
pub struct Row {
    pub question: &'static str,
    pub sysv: Cell,
    pub posix: Cell,
    pub memfd: Cell,
    pub dmabuf: Cell,
}

impl Row {
    /// For `..Row::REST`: a mechanism that is left out of a row has no answer.
    pub const REST: Self = Self {
        question: "",
        sysv: Cell::None,
        posix: Cell::None,
        memfd: Cell::None,
        dmabuf: Cell::None,
    };

    /// Each under the name of its field.
    pub fn cells(&self) -> [(&'static str, &Cell); 4] {
        [
            ("sysv", &self.sysv),
            ("posix", &self.posix),
            ("memfd", &self.memfd),
            ("dmabuf", &self.dmabuf),
        ]
    }
}

pub enum Cell {
    /// The question makes no sense there.
    None,
    Probe(Probe),
}

pub struct Probe {
    pub expected: Expected,
    pub needs: Needs,
    pub file: &'static str,
    pub line: u32,
    pub run: fn() -> Found,
}

/// What a probe sees.
pub enum Expected {
    Always(&'static str),
    /// Another answer since a version of Linux.
    Since {
        version: (u32, u32),
        now: &'static str,
        before: &'static str,
    },
    /// The same, and later releases of older series got the change too: below
    /// that version either answer is right.
    Backported {
        version: (u32, u32),
        now: &'static str,
        before: &'static str,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    Nothing,
    Root,
    /// Device nodes, and root, who may open them.
    Devices(&'static [&'static str]),
}

/// The drivers that make dma-bufs.
pub const HEAP: Needs = Needs::Devices(&["/dev/dma_heap/system"]);
pub const UDMABUF: Needs = Needs::Devices(&["/dev/udmabuf"]);
pub const BOTH: Needs =
    Needs::Devices(&["/dev/dma_heap/system", "/dev/udmabuf"]);

/// A text for the cell; or what kept the probe from seeing anything.
pub type Found = Result<String, Unexpected>;

/// A step that should have worked did not.
#[derive(Debug)]
pub struct Unexpected(String);

impl fmt::Display for Unexpected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! unexpected_from {
    ($($error:ty),*) => {$(
        impl From<$error> for Unexpected {
            fn from(error: $error) -> Self {
                Self(error.to_string())
            }
        }
    )*};
}

unexpected_from!(OsError, Errno, io::Error, shm_common::Error, JoinError, &str);

/// A cell: what is expected, and the probe as a block that gives [`Found`].
macro_rules! probe {
    ($expected:expr, $body:block) => {
        probe!($expected, $crate::table::Needs::Nothing, $body)
    };
    ($expected:expr, root, $body:block) => {
        probe!($expected, $crate::table::Needs::Root, $body)
    };
    ($expected:expr, heap, $body:block) => {
        probe!($expected, $crate::table::HEAP, $body)
    };
    ($expected:expr, udmabuf, $body:block) => {
        probe!($expected, $crate::table::UDMABUF, $body)
    };
    ($expected:expr, both_drivers, $body:block) => {
        probe!($expected, $crate::table::BOTH, $body)
    };
    ($expected:expr, $needs:expr, $body:block) => {
        $crate::table::Cell::Probe($crate::table::Probe {
            expected: $expected,
            needs: $needs,
            file: file!(),
            line: line!(),
            run: || $body,
        })
    };
}
pub(crate) use probe;

/// Expected on every kernel.
pub const fn always(text: &'static str) -> Expected {
    Expected::Always(text)
}

impl Expected {
    /// Whether that is right on a kernel.
    fn allows(&self, found: &str, kernel: (u32, u32)) -> bool {
        match self {
            Self::Always(text) => found == *text,
            Self::Since { version, now, before } => {
                found == if kernel >= *version { *now } else { *before }
            }
            Self::Backported { version, now, before } => {
                found == *now || kernel < *version && found == *before
            }
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always(text) => write!(f, "{text:?}"),
            Self::Since { version: (major, minor), now, before }
            | Self::Backported { version: (major, minor), now, before } => {
                write!(f, "{now:?} since {major}.{minor}, before: {before:?}")
            }
        }
    }
}

impl Needs {
    /// What of it this machine, or this user, has not.
    fn missing(self) -> Option<String> {
        let is_root = Uid::effective().is_root();
        match self {
            Self::Nothing => None,
            Self::Devices(paths)
                if let Some(path) =
                    paths.iter().find(|path| !Path::new(path).exists()) =>
            {
                Some(format!("there is no {path}"))
            }
            Self::Root | Self::Devices(_) if is_root => None,
            Self::Root | Self::Devices(_) => Some("needs root".to_owned()),
        }
    }
}

impl Probe {
    /// Runs it in a process of its own, and compares.
    fn check(&self) -> Result<Completion, Failed> {
        if let Some(missing) = self.needs.missing() {
            return Ok(Completion::ignored_with(missing));
        }
        let Self { expected, file, line, run, .. } = self;
        let found = in_child(*run);
        match &found {
            Ok(text) if expected.allows(text, kernel()) => {
                Ok(Completion::Completed)
            }
            _ => Err(format!(
                "{file}:{line}: expected {expected}, found {found:?}"
            )
            .into()),
        }
    }
}

impl Chapter {
    /// A test for each cell, `memfd::limits::rlimit_as_is_reached_map`. What needs the
    /// drivers of dma-bufs lies in `dmabuf`, also where it asks of a memfd.
    pub fn tests(&self) -> impl Iterator<Item = Trial> + use<> {
        let (title, rows) = (self.title, self.rows);
        rows.iter().flat_map(move |row| {
            let cells = row.cells().into_iter();
            cells.filter_map(move |(mechanism, cell)| {
                let Cell::Probe(probe) = cell else { return None };
                let name = [mechanism, title, row.question].map(identifier);
                let mut name = name.join("::");
                if matches!(probe.needs, Needs::Devices(_))
                    && mechanism != "dmabuf"
                {
                    name.insert_str(0, "dmabuf::");
                }
                Some(Trial::ignorable_test(name, || probe.check()))
            })
        })
    }
}

/// Words as Rust would have them for a name.
fn identifier(words: &str) -> String {
    let mut name = String::new();
    for character in words.to_lowercase().chars() {
        match character {
            'a'..='z' | '0'..='9' => name.push(character),
            _ if name.ends_with('_') => {}
            _ => name.push('_'),
        }
    }
    name.trim_matches('_').to_owned()
}

/// Runs a probe, or a part of one, in a child; a signal that kills it is what
/// was found.
pub fn in_child(run: impl FnOnce() -> Found) -> Found {
    found_by(Peer::fork(|_| run())?)
}

/// As [`in_child`], as a user who owns nothing.
pub fn as_nobody(run: impl FnOnce() -> Found) -> Found {
    const NOBODY: u32 = 65_534;
    match Peer::fork_as(NOBODY, |_| run())? {
        Some(peer) => found_by(peer),
        None => Err("only root can become another user".into()),
    }
}

fn found_by(peer: Peer) -> Found {
    match peer.join(DEADLINE) {
        Ok(text) => String::from_utf8(text).map_err(|_| "no text".into()),
        Err(JoinError::Killed(signal)) => Ok(signal.as_str().to_owned()),
        Err(error) => Err(error.into()),
    }
}

/// What is told of a call: that it worked, or its errno by name.
pub fn outcome<T>(result: Result<T, impl Failure>) -> Found {
    Ok(match result {
        Ok(_) => "works".to_owned(),
        Err(error) => error.name(),
    })
}

/// What is told of a question with two answers.
pub fn either(answer: bool, yes: &str, no: &str) -> Found {
    Ok(if answer { yes } else { no }.to_owned())
}

/// An error that has an errno.
pub trait Failure {
    fn errno(&self) -> i32;

    fn name(&self) -> String {
        format!("{:?}", Errno::from_raw(self.errno()))
    }
}

impl Failure for OsError {
    fn errno(&self) -> i32 {
        OsError::errno(self)
    }
}

impl Failure for Errno {
    fn errno(&self) -> i32 {
        *self as i32
    }
}

impl Failure for io::Error {
    fn errno(&self) -> i32 {
        self.raw_os_error().unwrap_or_default()
    }
}

/// The kernel's version, as far as behaviour is told by it.
pub fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
    let release = release.unwrap_or_default();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse().unwrap_or_default());
    (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default())
}

pub fn an_answer_is_right_for_the_kernels_that_give_it() {
    let (version, now, before) = ((6, 7), "works", "EPERM");
    let since = Expected::Since { version, now, before };
    assert!(since.allows("works", (6, 7)) && since.allows("EPERM", (6, 6)));
    assert!(!since.allows("EPERM", (6, 7)) && !since.allows("works", (6, 6)));
    let backported = Expected::Backported { version, now, before };
    assert!(backported.allows("works", (6, 7)));
    assert!(backported.allows("works", (6, 1)));
    assert!(backported.allows("EPERM", (6, 1)));
    assert!(!backported.allows("EPERM", (6, 12)));
    assert!(!backported.allows("EACCES", (6, 1)));
}
