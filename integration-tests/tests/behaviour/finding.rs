//! How a segment is called, and how others find it.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use shm_memfd::raw::memfd_create;
use shm_posix::raw::shm_open;
use shm_sysv::raw::shmget;

use crate::kit::{
    Memory, Posix, SIZE, SysV, ftruncate, heap_buffer, link, maps_entry, memfd,
    reopen, set_name, sysv_column,
};
use crate::table::{
    Chapter, Failure, Found, Row, Unexpected, always, either, in_child,
    outcome, probe,
};

pub const CHAPTER: Chapter = Chapter {
    title: "Finding",
    rows: &[
        Row {
            question: "A process that knows no more than the name opens it",
            sysv: probe!(always("works"), {
                let segment = SysV::new(SIZE)?;
                in_child(|| outcome(shmget(segment.key, 0, 0)))
            }),
            posix: probe!(always("works"), {
                let object = Posix::new(SIZE)?;
                in_child(|| outcome(object.open(libc::O_RDWR)))
            }),
            memfd: probe!(always("a label finds nothing: two may be equal"), {
                let (one, other) = (memfd(SIZE)?, memfd(SIZE)?);
                let number = |fd| nix::sys::stat::fstat(fd).map(|s| s.st_ino);
                either(
                    number(&one)? != number(&other)?,
                    "a label finds nothing: two may be equal",
                    "one object",
                )
            }),
            dmabuf: probe!(
                always("a name finds nothing: two may be equal"),
                heap,
                {
                    let (one, other) = (heap_buffer(SIZE)?, heap_buffer(SIZE)?);
                    let named = |fd: &OwnedFd| -> Result<_, Unexpected> {
                        set_name(fd, c"probe")?;
                        Ok(nix::sys::stat::fstat(fd)?.st_ino)
                    };
                    either(
                        named(&one)? != named(&other)?,
                        "a name finds nothing: two may be equal",
                        "one object",
                    )
                }
            ),
        },
        Row {
            question: "Where a person finds it",
            sysv: probe!(always("ipcs -m, /proc/sysvipc/shm"), {
                let segment = SysV::new(SIZE)?;
                let listed = sysv_column(segment.id, "shmid")?.is_some();
                either(listed, "ipcs -m, /proc/sysvipc/shm", "nowhere")
            }),
            posix: probe!(always("a file in /dev/shm"), {
                let object = Posix::new(SIZE)?;
                let listed = object.path().exists();
                either(listed, "a file in /dev/shm", "nowhere")
            }),
            memfd: probe!(
                always("/proc/PID/fd and /proc/PID/maps of its users"),
                {
                    let fd = memfd(SIZE)?;
                    let link = format!("/proc/self/fd/{}", number_of(&fd));
                    let target = std::fs::read_link(link)?;
                    either(
                        target.to_string_lossy().starts_with("/memfd:"),
                        "/proc/PID/fd and /proc/PID/maps of its users",
                        "nowhere",
                    )
                }
            ),
            dmabuf: probe!(
                always("/proc/PID/fd and /proc/PID/maps of its users"),
                heap,
                {
                    let fd = heap_buffer(SIZE)?;
                    let link = format!("/proc/self/fd/{}", number_of(&fd));
                    let target = std::fs::read_link(link)?;
                    either(
                        target.to_string_lossy().starts_with("/dmabuf:"),
                        "/proc/PID/fd and /proc/PID/maps of its users",
                        &target.to_string_lossy(),
                    )
                }
            ),
        },
        Row {
            question: "What /proc/self/maps calls it",
            sysv: probe!(always("/SYSV and the key, (deleted)"), {
                let segment = SysV::new(SIZE)?;
                let entry = maps_entry(&segment.attach()?)?;
                let expected = format!("/SYSV{:08x} (deleted)", segment.key);
                either(
                    entry == expected,
                    "/SYSV and the key, (deleted)",
                    &entry,
                )
            }),
            posix: probe!(always("/dev/shm/NAME"), {
                let object = Posix::new(SIZE)?;
                let entry = maps_entry(&Memory::map(&object.fd, SIZE)?)?;
                let expected = object.path();
                either(expected.as_os_str() == &*entry, "/dev/shm/NAME", &entry)
            }),
            memfd: probe!(always("/memfd:LABEL (deleted)"), {
                let entry = maps_entry(&Memory::map(memfd(SIZE)?, SIZE)?)?;
                let expected = "/memfd:shmtest-probe (deleted)";
                either(entry == expected, "/memfd:LABEL (deleted)", &entry)
            }),
            dmabuf: probe!(always("/dmabuf:NAME"), heap, {
                let fd = heap_buffer(SIZE)?;
                set_name(&fd, c"probe")?;
                let entry = maps_entry(&Memory::map(fd, SIZE)?)?;
                either(entry == "/dmabuf:probe", "/dmabuf:NAME", &entry)
            }),
        },
        Row {
            question: "… if it was made nameless (O_TMPFILE) and linked later",
            posix: probe!(always("/dev/shm/#INODE (deleted), to its maker"), {
                let name = Posix::new(SIZE)?;
                name.unlink()?;
                let flags = OFlag::O_TMPFILE | OFlag::O_RDWR;
                let fd = nix::fcntl::open("/dev/shm", flags, Mode::S_IRUSR)?;
                ftruncate(&fd, SIZE)?;
                link(&fd, &name.path())?;
                let inode = nix::sys::stat::fstat(&fd)?.st_ino;
                let entry = maps_entry(&Memory::map(&fd, SIZE)?)?;
                let expected = format!("/dev/shm/#{inode} (deleted)");
                let told = "/dev/shm/#INODE (deleted), to its maker";
                either(entry == expected, told, &entry)
            }),
            ..Row::REST
        },
        Row {
            question: "Open what does not exist",
            sysv: probe!(always("ENOENT"), {
                let key = integration_tests::leaks::unique_key();
                outcome(shmget(key, 0, 0))
            }),
            posix: probe!(always("ENOENT"), {
                let object = Posix::new(SIZE)?;
                object.unlink()?;
                outcome(object.open(libc::O_RDWR))
            }),
            ..Row::REST
        },
        Row {
            question: "Create exclusively what exists",
            sysv: probe!(always("EEXIST"), {
                let segment = SysV::new(SIZE)?;
                let flags = libc::IPC_CREAT | libc::IPC_EXCL | 0o600;
                outcome(shmget(segment.key, SIZE, flags))
            }),
            posix: probe!(always("EEXIST"), {
                let object = Posix::new(SIZE)?;
                let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR;
                outcome(object.open(flags))
            }),
            ..Row::REST
        },
        Row {
            question: "Create, not exclusively, what exists at the same size",
            sysv: probe!(always("the same segment"), {
                let segment = SysV::new(SIZE)?;
                let id = shmget(segment.key, SIZE, libc::IPC_CREAT | 0o600)?;
                either(id == segment.id, "the same segment", "another")
            }),
            posix: probe!(always("the same object"), {
                let object = Posix::new(SIZE)?;
                let fd = object.open(libc::O_CREAT | libc::O_RDWR)?;
                let found = nix::sys::stat::fstat(&fd)?.st_ino;
                let same = found == object.path().metadata()?.ino();
                either(same, "the same object", "another")
            }),
            ..Row::REST
        },
        Row {
            question: "A name without a character",
            sysv: probe!(
                always("key 0, IPC_PRIVATE: a new segment each time"),
                {
                    let flags = libc::IPC_CREAT | 0o600;
                    let one = shmget(libc::IPC_PRIVATE, SIZE, flags)?;
                    let one = SysV { key: 0, id: one };
                    let other = shmget(libc::IPC_PRIVATE, SIZE, flags)?;
                    let other = SysV { key: 0, id: other };
                    either(
                        one.id != other.id,
                        "key 0, IPC_PRIVATE: a new segment each time",
                        "the same segment",
                    )
                }
            ),
            posix: probe!(always("EINVAL"), {
                outcome(shm_open(c"/", libc::O_CREAT | libc::O_RDWR, 0o600))
            }),
            memfd: probe!(always("works"), { outcome(memfd_create(c"", 0)) }),
            dmabuf: probe!(always("works"), heap, {
                outcome(set_name(heap_buffer(SIZE)?, c""))
            }),
        },
        Row {
            question: "A slash in the middle of the name",
            posix: probe!(always("EINVAL"), {
                let flags = libc::O_CREAT | libc::O_RDWR;
                outcome(shm_open(c"/shmtest/probe", flags, 0o600))
            }),
            memfd: probe!(always("works"), {
                outcome(memfd_create(c"shmtest/probe", 0))
            }),
            dmabuf: probe!(always("works"), heap, {
                outcome(set_name(heap_buffer(SIZE)?, c"shmtest/probe"))
            }),
            ..Row::REST
        },
        Row {
            question: "The name .. , which names a directory",
            posix: probe!(always("EINVAL"), {
                outcome(shm_open(c"/..", libc::O_RDWR, 0))
            }),
            memfd: probe!(always("works"), { outcome(memfd_create(c"..", 0)) }),
            dmabuf: probe!(always("works"), heap, {
                outcome(set_name(heap_buffer(SIZE)?, c".."))
            }),
            ..Row::REST
        },
        Row {
            question: "The longest name",
            posix: probe!(always("255 bytes, then ENAMETOOLONG"), {
                let open = |len: usize| -> Result<(), String> {
                    let flags = libc::O_CREAT | libc::O_RDWR;
                    let name = long_name(len).map_err(|e| e.to_string())?;
                    let fd = shm_open(&name, flags, 0o600);
                    let name = match fd {
                        Ok(fd) => Posix { name, fd },
                        Err(error) => return Err(error.name()),
                    };
                    drop(name);
                    Ok(())
                };
                longest(200, open)
            }),
            memfd: probe!(always("249 bytes, then EINVAL"), {
                longest(200, |len| {
                    let label = "x".repeat(len);
                    let label =
                        CString::new(label).map_err(|e| e.to_string())?;
                    memfd_create(&label, 0).map(drop).map_err(|e| e.name())
                })
            }),
            dmabuf: probe!(always("31 bytes, then EINVAL"), heap, {
                let fd = heap_buffer(SIZE)?;
                longest(1, |len| {
                    let name = CString::new("x".repeat(len));
                    let name = name.map_err(|e| e.to_string())?;
                    set_name(&fd, &name).map_err(|e| e.name())
                })
            }),
            ..Row::REST
        },
        Row {
            question: "Open what is removed and still in use, by name",
            sysv: probe!(always("ENOENT"), {
                let segment = SysV::new(SIZE)?;
                let _memory = segment.attach()?;
                segment.remove()?;
                outcome(shmget(segment.key, 0, 0))
            }),
            posix: probe!(always("ENOENT"), {
                let object = Posix::new(SIZE)?;
                let _memory = Memory::map(&object.fd, SIZE)?;
                object.unlink()?;
                outcome(object.open(libc::O_RDWR))
            }),
            ..Row::REST
        },
        Row {
            question: "Open what is removed and still in use, otherwise",
            sysv: probe!(always("works by id, until the last detach"), {
                let segment = SysV::new(SIZE)?;
                let memory = segment.attach()?;
                segment.remove()?;
                let meanwhile = outcome(segment.attach())?;
                drop(memory);
                let afterwards = outcome(segment.attach())?;
                either(
                    meanwhile == "works" && afterwards == "EINVAL",
                    "works by id, until the last detach",
                    &format!("{meanwhile}, then {afterwards}"),
                )
            }),
            posix: probe!(always("works by /proc/PID/fd"), {
                let object = Posix::new(SIZE)?;
                object.unlink()?;
                reopen(&object.fd, true)?;
                Ok("works by /proc/PID/fd".into())
            }),
            memfd: probe!(always("works by /proc/PID/fd"), {
                reopen(memfd(SIZE)?, true)?;
                Ok("works by /proc/PID/fd".into())
            }),
            dmabuf: probe!(always("ENXIO, by /proc/PID/fd"), heap, {
                let again = outcome(reopen(heap_buffer(SIZE)?, true))?;
                Ok(format!("{again}, by /proc/PID/fd"))
            }),
        },
        Row {
            question: "Create under a name whose object is removed and in use",
            sysv: probe!(always("another segment"), {
                let segment = SysV::new(SIZE)?;
                let _memory = segment.attach()?;
                segment.remove()?;
                let flags = libc::IPC_CREAT | libc::IPC_EXCL | 0o600;
                let id = shmget(segment.key, SIZE, flags)?;
                let newer = SysV { key: segment.key, id };
                either(newer.id != segment.id, "another segment", "the same")
            }),
            posix: probe!(always("another inode"), {
                let object = Posix::new(SIZE)?;
                object.unlink()?;
                let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR;
                let fd = object.open(flags)?;
                ftruncate(&fd, SIZE)?;
                let number = |fd| nix::sys::stat::fstat(fd).map(|s| s.st_ino);
                let differ = number(&fd)? != number(&object.fd)?;
                either(differ, "another inode", "the same")
            }),
            ..Row::REST
        },
        Row {
            question: "Find it by a number that was never given",
            sysv: probe!(always("EINVAL"), {
                outcome(Memory::attach(i32::MAX, 0))
            }),
            ..Row::REST
        },
    ],
};

fn number_of(fd: impl AsFd) -> i32 {
    use std::os::fd::AsRawFd;
    fd.as_fd().as_raw_fd()
}

/// A POSIX name of `len` bytes after its slash.
fn long_name(len: usize) -> Result<CString, std::ffi::NulError> {
    let mut name =
        format!("/{}", integration_tests::leaks::unique_name("long"));
    while name.len() < len + 1 {
        name.push('x');
    }
    CString::new(name)
}

/// The greatest length that works, and what the next one gives.
fn longest(from: usize, works: impl Fn(usize) -> Result<(), String>) -> Found {
    for len in from..300 {
        if let Err(error) = works(len) {
            return Ok(format!("{} bytes, then {error}", len - 1));
        }
    }
    Ok("300 bytes or more".into())
}
