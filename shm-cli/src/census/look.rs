//! One look into every process: which shared memory it has open or mapped.
//!
//! The tables of `/proc` are read here and not by a library: `/proc/PID/maps`
//! holds paths that other users chose, and there may be tens of thousands of
//! lines, of which few count.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::makedev;
use procfs::process::{Process, StatFlags};
use rustix::fs::{AtFlags, CWD, Statx, StatxFlags, statx};

use super::segment::Facts;
use crate::mechanism::Mechanism;
use crate::output::printable;
use crate::target::Descriptor;

/// What tells a segment from all others, however it is found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Object {
    /// An identifier of this IPC namespace.
    SystemV(i32),
    File {
        device: u64,
        inode: u64,
    },
}

impl Object {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self::File { device: metadata.dev(), inode: metadata.ino() }
    }

    pub(super) fn of_statx(statx: &Statx) -> Self {
        let (major, minor) = (statx.stx_dev_major, statx.stx_dev_minor);
        let device = makedev(major.into(), minor.into());
        Self::File { device, inode: statx.stx_ino }
    }
}

/// What the kernel knows of a file by itself. Whatever serves the file is not
/// asked: any user may mount file systems of their own (FUSE), and one that
/// does not answer would keep this process for ever, beyond the reach of
/// `SIGKILL`.
pub(super) fn known(path: &Path) -> io::Result<Statx> {
    let flags = AtFlags::STATX_DONT_SYNC;
    Ok(statx(CWD, path, flags, StatxFlags::BASIC_STATS)?)
}

/// A process that has a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct User {
    pub(crate) pid: i32,
    pub(crate) command: String,
    /// How many of its descriptors lead to the segment.
    pub(crate) descriptors: u32,
    pub(crate) mapped: bool,
}

/// What the processes have of one segment.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) mechanism: Mechanism,
    /// What the kernel calls it.
    pub(crate) path: OsString,
    pub(crate) users: Vec<User>,
    /// One of the descriptors.
    pub(crate) descriptor: Option<Descriptor>,
    /// What one of the descriptors or maps told of it, where it may be asked.
    pub(crate) facts: Option<Facts>,
    /// How long it is at least, by what is mapped of it.
    pub(crate) mapped_len: u64,
}

/// What the look is for, apart from what shows by its path.
#[derive(Default, Debug)]
pub(crate) struct Wanted {
    pub(crate) files: HashSet<Object>,
    /// Their names without a directory: in a container, only that part of their
    /// paths is the same.
    pub(crate) names: HashSet<OsString>,
}

#[derive(Default, Debug)]
pub(crate) struct Look {
    pub(crate) held: HashMap<Object, Held>,
    /// How many processes could not be looked into.
    pub(crate) unseen: usize,
    /// Whether there may be processes that do not show at all.
    pub(crate) confined: bool,
}

impl Look {
    pub(crate) fn into_processes(wanted: &Wanted) -> io::Result<Self> {
        let mut look = Self { confined: is_confined(), ..Self::default() };
        let ipc = namespace(Path::new("/proc/self"));
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let pid = name.to_str().and_then(|name| name.parse().ok());
            if let Some(pid) = pid {
                Visit::new(pid, wanted, ipc.as_deref()).pay(&mut look);
            }
        }
        Ok(look)
    }

    /// Whether no process can have escaped it.
    pub(crate) fn is_complete(&self) -> bool {
        self.unseen == 0 && !self.confined
    }

    /// What it may have missed, for the user; none if that is nothing.
    pub(crate) fn shortfall(&self) -> Option<String> {
        let unseen = match self.unseen {
            0 => None,
            1 => Some("1 process could not be looked into".to_owned()),
            n => Some(format!("{n} processes could not be looked into")),
        };
        let confined = self.confined.then(|| {
            "processes outside this container, or hidden by it, do not show"
                .to_owned()
        });
        let parts: Vec<_> = unseen.into_iter().chain(confined).collect();
        (!parts.is_empty()).then(|| parts.join(", and "))
    }

    pub(crate) fn users(&self, object: Object) -> Vec<User> {
        self.held.get(&object).map_or_else(Vec::new, |held| held.users.clone())
    }
}

/// Whether this process lives in a pid namespace of its own, or `/proc` is
/// mounted so as to hide others' processes (hidepid).
fn is_confined() -> bool {
    // PROC_PID_INIT_INO of the kernel.
    const FIRST: &str = "pid:[4026531836]";
    let ours = fs::read_link("/proc/self/ns/pid");
    !ours.is_ok_and(|ours| ours == Path::new(FIRST))
        || !Path::new("/proc/1").exists()
}

fn namespace(process: &Path) -> Option<PathBuf> {
    fs::read_link(process.join("ns/ipc")).ok()
}

/// Whether there may have been more to see: not if it has only ended.
fn is_missed<T>(seen: io::Result<T>) -> bool {
    let gone = Errno::ESRCH as i32;
    seen.is_err_and(|error| {
        error.kind() != io::ErrorKind::NotFound
            && error.raw_os_error() != Some(gone)
    })
}

/// To one process.
struct Visit<'a> {
    pid: i32,
    /// Its thread through which it is seen, mostly the first.
    through: i32,
    directory: PathBuf,
    wanted: &'a Wanted,
    /// This process's IPC namespace: identifiers mean nothing in another.
    ipc: Option<&'a Path>,
}

impl<'a> Visit<'a> {
    fn new(pid: i32, wanted: &'a Wanted, ipc: Option<&'a Path>) -> Self {
        let directory = PathBuf::from(format!("/proc/{pid}"));
        Self { pid, through: pid, directory, wanted, ipc }
    }

    fn pay(&self, look: &mut Look) {
        let descriptors = self.descriptors(look);
        // Also where that failed: the process may just have ended.
        let maps = self.maps(look);
        // Of what has no memory, the first thread may have ended and others
        // may go on.
        if matches!(maps, Ok(false))
            && let Some(thread) = self.other_thread()
        {
            return thread.pay(look);
        }
        let missed = is_missed(descriptors) || is_missed(maps);
        if missed && self.may_have_something() {
            look.unseen += 1;
        }
    }

    /// Through which its descriptors and maps show, too. Never another one of
    /// that.
    fn other_thread(&self) -> Option<Self> {
        let threads = fs::read_dir(self.directory.join("task")).ok()?;
        let mut threads = threads.filter_map(|thread| {
            thread.ok()?.file_name().to_str()?.parse::<i32>().ok()
        });
        let through = threads.find(|thread| *thread != self.pid)?;
        let directory = self.directory.join(format!("task/{through}"));
        let Self { pid, wanted, ipc, .. } = *self;
        Some(Self { pid, through, directory, wanted, ipc })
    }

    /// Threads of the kernel and what is dead already do not count.
    fn may_have_something(&self) -> bool {
        let stat = Process::new(self.pid).and_then(|process| process.stat());
        match stat {
            Ok(stat) => {
                let flags = StatFlags::from_bits_truncate(stat.flags);
                !flags.contains(StatFlags::PF_KTHREAD)
                    && (stat.state != 'Z' || stat.num_threads > 1)
            }
            Err(procfs::ProcError::NotFound(_)) => false,
            Err(_) => true,
        }
    }

    fn descriptors(&self, look: &mut Look) -> io::Result<()> {
        for entry in fs::read_dir(self.directory.join("fd"))? {
            let entry = entry?;
            let path = entry.path();
            // Each may be closed meanwhile; only what shows by its name to be
            // of interest is asked anything.
            let Ok(target) = fs::read_link(&path) else { continue };
            let target = target.into_os_string();
            let Some(mechanism) = self.mechanism(&target) else { continue };
            let Ok(known) = known(&path) else { continue };
            let object = Object::of_statx(&known);
            if !self.is_wanted(&target, object) {
                continue;
            }
            let number = entry.file_name();
            let fd = number.to_str().and_then(|fd| fd.parse().ok());
            let held = look.held.entry(object);
            let held = held.or_insert_with(|| Held::new(mechanism, target));
            let user = held.user(self.pid);
            user.descriptors += 1;
            let descriptor = fd.map(|fd| Descriptor { pid: self.through, fd });
            held.descriptor = held.descriptor.or(descriptor);
            held.facts.get_or_insert_with(|| Facts::of_statx(&known));
        }
        Ok(())
    }

    /// Says whether there are any.
    fn maps(&self, look: &mut Look) -> io::Result<bool> {
        let table = fs::read(self.directory.join("maps"))?;
        let mut same_ipc = None;
        for line in table.split(|byte| *byte == b'\n') {
            let Some(map) = Map::parse(line) else { continue };
            let target = OsStr::from_bytes(map.path);
            let (mechanism, object) = match system_v(target) {
                true => {
                    let same = *same_ipc.get_or_insert_with(|| {
                        namespace(&self.directory).as_deref() == self.ipc
                    });
                    // The inode's number is the identifier.
                    match i32::try_from(map.inode) {
                        Ok(id) if same => {
                            (Mechanism::Sysv, Object::SystemV(id))
                        }
                        _ => continue,
                    }
                }
                false => {
                    let (device, inode) = (map.device, map.inode);
                    let object = Object::File { device, inode };
                    match self.mechanism(target) {
                        Some(mechanism) if self.is_wanted(target, object) => {
                            (mechanism, object)
                        }
                        _ => continue,
                    }
                }
            };
            let held = look.held.entry(object);
            let held =
                held.or_insert_with(|| Held::new(mechanism, target.to_owned()));
            held.user(self.pid).mapped = true;
            held.mapped_len = held.mapped_len.max(map.end);
            if held.facts.is_none() && mechanism != Mechanism::Sysv {
                // For root only.
                let file = self.directory.join("map_files").join(map.range());
                // It may be another's place by now.
                let known = known(&file).ok();
                let known = known.filter(|k| Object::of_statx(k) == object);
                held.facts = known.as_ref().map(Facts::of_statx);
            }
        }
        Ok(!table.is_empty())
    }

    /// Of what has this path, which is all that a person would see, too.
    fn mechanism(&self, path: &OsStr) -> Option<Mechanism> {
        let bytes = path.as_bytes();
        let in_container = || {
            let path = without_mark(bytes);
            let tail = path.rsplit(|byte| *byte == b'/').next();
            tail.is_some_and(|tail| {
                self.wanted.names.contains(OsStr::from_bytes(tail))
            })
        };
        if bytes.starts_with(b"/memfd:") {
            Some(Mechanism::Memfd)
        } else if bytes.starts_with(b"/dmabuf:") {
            Some(Mechanism::Dmabuf)
        } else if posix_name(path).is_some() || in_container() {
            Some(Mechanism::Posix)
        } else {
            None
        }
    }

    /// A path that only ends as a wanted one must lead to a wanted file.
    fn is_wanted(&self, path: &OsStr, object: Object) -> bool {
        let anonymous = [b"/memfd:".as_slice(), b"/dmabuf:"];
        let path_bytes = path.as_bytes();
        anonymous.iter().any(|start| path_bytes.starts_with(start))
            || posix_name(path).is_some()
            || self.wanted.files.contains(&object)
    }
}

impl Held {
    fn new(mechanism: Mechanism, path: OsString) -> Self {
        Self {
            mechanism,
            path,
            users: vec![],
            descriptor: None,
            facts: None,
            mapped_len: 0,
        }
    }

    /// At least how long it is.
    pub(super) fn known_facts(&self) -> Facts {
        self.facts.clone().unwrap_or_else(|| Facts {
            len: Some(self.mapped_len),
            ..Facts::default()
        })
    }

    /// The processes come one after the other.
    fn user(&mut self, pid: i32) -> &mut User {
        if self.users.last().is_none_or(|last| last.pid != pid) {
            let command = command(pid).unwrap_or_default();
            let user = User { pid, command, descriptors: 0, mapped: false };
            self.users.push(user);
        }
        let last = self.users.len() - 1;
        &mut self.users[last]
    }
}

/// What a process calls itself, if it lives.
pub(crate) fn command(pid: i32) -> Option<String> {
    let mut command = fs::read(format!("/proc/{pid}/comm")).ok()?;
    command.pop_if(|last| *last == b'\n');
    Some(printable(&OsString::from_vec(command)))
}

/// A line of `/proc/PID/maps`.
struct Map<'a> {
    start: u64,
    until: u64,
    device: u64,
    inode: u64,
    /// Where in the file it ends.
    end: u64,
    path: &'a [u8],
}

impl<'a> Map<'a> {
    /// None: it is not of a file.
    fn parse(line: &'a [u8]) -> Option<Self> {
        // 7f00-7f10 rw-s 00000000 00:01 1024            /memfd:frames (deleted)
        let slash = line.iter().position(|byte| *byte == b'/')?;
        let (fields, path) = line.split_at(slash);
        let fields = std::str::from_utf8(fields).ok()?;
        let mut fields = fields.split_ascii_whitespace();
        let (start, until) = fields.next()?.split_once('-')?;
        let start = u64::from_str_radix(start, 16).ok()?;
        let until = u64::from_str_radix(until, 16).ok()?;
        let offset = u64::from_str_radix(fields.nth(1)?, 16).ok()?;
        let (major, minor) = fields.next()?.split_once(':')?;
        let major = u64::from_str_radix(major, 16).ok()?;
        let minor = u64::from_str_radix(minor, 16).ok()?;
        let inode = fields.next()?.parse().ok()?;
        let end = offset.checked_add(until.checked_sub(start)?)?;
        let device = makedev(major, minor);
        Some(Self { start, until, device, inode, end, path })
    }

    /// Its name in `/proc/PID/map_files`.
    fn range(&self) -> String {
        format!("{:x}-{:x}", self.start, self.until)
    }
}

/// Whether the kernel calls a System V segment by that.
fn system_v(path: &OsStr) -> bool {
    let bytes = without_mark(path.as_bytes());
    bytes.strip_prefix(b"/SYSV").is_some_and(|key| {
        key.len() == 8 && key.iter().all(u8::is_ascii_hexdigit)
    }) && bytes.len() < path.len()
}

/// The name of a file that lies, or lay, in `/dev/shm` itself, with its slash,
/// as `shm_open(3)` takes it; and whether it lay there.
pub(crate) fn posix_name(path: &OsStr) -> Option<(&OsStr, bool)> {
    let name = path.as_bytes().strip_prefix(b"/dev/shm")?;
    let unmarked = without_mark(name);
    match unmarked.split_first()? {
        (b'/', tail) if !tail.is_empty() && !tail.contains(&b'/') => {
            Some((OsStr::from_bytes(unmarked), unmarked.len() < name.len()))
        }
        _ => None,
    }
}

/// The kernel marks files that have no name.
pub(crate) fn without_mark(path: &[u8]) -> &[u8] {
    path.strip_suffix(b" (deleted)").unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_maps_is_read_whatever_the_path_holds() {
        let line = b"7f00-7f10 rw-s 00001000 00:1a 1024   /memfd:a b (deleted)";
        let map = Map::parse(line).unwrap();
        assert_eq!((map.inode, map.end), (1024, 0x1010));
        assert_eq!(map.device, makedev(0, 0x1a));
        assert_eq!(map.path, b"/memfd:a b (deleted)");
        assert_eq!(map.range(), "7f00-7f10");
        assert_eq!(Map::parse(b"7f-80 r--p 0 0:1 9 /\xff").unwrap().end, 1);
    }

    #[test]
    fn what_is_no_file_or_no_line_is_passed_over() {
        for line in [
            "",
            "/",
            "7f00-7f10 rw-p 00000000 00:00 0 ",
            "7f00-7f10 rw-p 00000000 00:00 0   [stack]",
            "7f10-7f00 rw-s 00000000 00:01 1 /backwards",
            "0-ffffffffffffffff rw-s ffffffffffffffff 00:01 1 /too/far",
            "7f00 rw-s 0 00:01 1 /x",
            "7f00-7f10 rw-s /x",
        ] {
            assert!(Map::parse(line.as_bytes()).is_none(), "{line:?}");
        }
    }

    #[test]
    fn only_what_the_kernel_calls_so_is_a_system_v_segment() {
        let is = |path: &str| system_v(OsStr::new(path));
        assert!(is("/SYSV00001234 (deleted)"));
        assert!(is("/SYSVffffffff (deleted)"));
        for other in [
            "/SYSV",
            "/SYSV (deleted)",
            "/SYSV00001234",
            "/SYSV1234 (deleted)",
            "/SYSV0000123g (deleted)",
            "/tmp/SYSV00001234 (deleted)",
        ] {
            assert!(!is(other), "{other}");
        }
    }

    #[test]
    fn a_name_is_that_of_a_file_in_dev_shm_itself() {
        let name = |path: &'static str| {
            let name = posix_name(OsStr::new(path));
            name.map(|(name, deleted)| (name.to_str().unwrap(), deleted))
        };
        assert_eq!(name("/dev/shm/a"), Some(("/a", false)));
        assert_eq!(name("/dev/shm/a (deleted)"), Some(("/a", true)));
        assert_eq!(name("/dev/shm/a b"), Some(("/a b", false)));
        for path in ["/dev/shm", "/dev/shm/", "/dev/shm/a/b", "/dev/shmem/a"] {
            assert_eq!(name(path), None, "{path}");
        }
    }
}
