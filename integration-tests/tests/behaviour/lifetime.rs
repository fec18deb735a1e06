//! What keeps a segment, and what ends it.

use std::os::fd::{AsFd, AsRawFd};

use integration_tests::peer::Peer;
use integration_tests::surroundings::system_v_limit;
use nix::sys::signal::Signal;
use nix::sys::stat::fstat;
use shm_posix::raw::flock;
use shm_sysv::raw::{SHM_DEST, shmctl_ipc_stat};

use crate::kit::{
    Memory, Posix, SIZE, SysV, heap_buffer, link, memfd, memfd_with, sealed,
    sysv_column, udmabuf, udmabuf_with,
};
use crate::table::{
    Chapter, Found, Row, always, either, in_child, outcome, probe,
};

pub const CHAPTER: Chapter = Chapter {
    title: "Lifetime",
    rows: &[
        Row {
            question: "fork: a mapping, in the child",
            sysv: probe!(always("is shared"), {
                inherited(&SysV::new(SIZE)?.attach()?)
            }),
            posix: probe!(always("is shared"), {
                inherited(&Memory::map(&Posix::new(SIZE)?.fd, SIZE)?)
            }),
            memfd: probe!(always("is shared"), {
                inherited(&Memory::map(memfd(SIZE)?, SIZE)?)
            }),
            dmabuf: probe!(always("is shared"), heap, {
                inherited(&Memory::map(heap_buffer(SIZE)?, SIZE)?)
            }),
        },
        Row {
            question: "exec: a mapping",
            sysv: probe!(always("is gone"), {
                after_exec("/SYSV", || SysV::new(SIZE)?.attach())
            }),
            posix: probe!(always("is gone"), {
                after_exec("/dev/shm/shmtest", || {
                    Memory::map(&Posix::new(SIZE)?.fd, SIZE)
                })
            }),
            memfd: probe!(always("is gone"), {
                after_exec("/memfd:", || Memory::map(memfd(SIZE)?, SIZE))
            }),
            dmabuf: probe!(always("is gone"), heap, {
                let fd = heap_buffer(SIZE)?;
                after_exec("/dmabuf:", || Memory::map(&fd, SIZE))
            }),
        },
        Row {
            question: "exec: the descriptor",
            posix: probe!(always("is closed: shm_open sets O_CLOEXEC"), {
                let kept = survives_exec(&Posix::new(SIZE)?.fd)?;
                either(!kept, "is closed: shm_open sets O_CLOEXEC", "stays")
            }),
            memfd: probe!(always("stays, without MFD_CLOEXEC"), {
                let plain = survives_exec(memfd_with(0)?)?;
                let flagged = survives_exec(memfd_with(libc::MFD_CLOEXEC)?)?;
                let stays = plain && !flagged;
                either(stays, "stays, without MFD_CLOEXEC", "otherwise")
            }),
            dmabuf: probe!(
                always("stays, without UDMABUF_FLAGS_CLOEXEC"),
                udmabuf,
                {
                    let fd = sealed(SIZE, libc::F_SEAL_SHRINK)?;
                    let plain = survives_exec(udmabuf_with(&fd, 0, SIZE, 0)?)?;
                    let flagged = survives_exec(udmabuf(&fd, 0, SIZE)?)?;
                    let stays = plain && !flagged;
                    let told = "stays, without UDMABUF_FLAGS_CLOEXEC";
                    either(stays, told, "otherwise")
                }
            ),
            ..Row::REST
        },
        Row {
            question: "The creator exits; nobody has removed it",
            sysv: probe!(always("stays"), { left_by(None, Kind::SysV) }),
            posix: probe!(always("stays"), { left_by(None, Kind::Posix) }),
            memfd: probe!(always("gone"), { left_by(None, Kind::Memfd) }),
            dmabuf: probe!(always("gone"), heap, {
                left_by(None, Kind::Dmabuf)
            }),
        },
        Row {
            question: "SIGKILL of every user",
            sysv: probe!(always("stays"), {
                left_by(Some(Signal::SIGKILL), Kind::SysV)
            }),
            posix: probe!(always("stays"), {
                left_by(Some(Signal::SIGKILL), Kind::Posix)
            }),
            memfd: probe!(always("gone"), {
                left_by(Some(Signal::SIGKILL), Kind::Memfd)
            }),
            dmabuf: probe!(always("gone"), heap, {
                left_by(Some(Signal::SIGKILL), Kind::Dmabuf)
            }),
        },
        Row {
            question: "SIGKILL of every user, after it was removed",
            sysv: probe!(always("gone"), {
                left_by(Some(Signal::SIGKILL), Kind::SysVRemoved)
            }),
            posix: probe!(always("gone"), {
                left_by(Some(Signal::SIGKILL), Kind::PosixRemoved)
            }),
            ..Row::REST
        },
        Row {
            question: "Remove it while it is in use: those who have it",
            sysv: probe!(always("go on"), {
                let segment = SysV::new(SIZE)?;
                let memory = segment.attach()?;
                memory.write(0, 7);
                segment.remove()?;
                either(memory.read(0) == 7, "go on", "lose it")
            }),
            posix: probe!(always("go on"), {
                let object = Posix::new(SIZE)?;
                let memory = Memory::map(&object.fd, SIZE)?;
                memory.write(0, 7);
                object.unlink()?;
                either(memory.read(0) == 7, "go on", "lose it")
            }),
            ..Row::REST
        },
        Row {
            question: "How it shows that it was removed",
            sysv: probe!(always("mode bit 01000, key 0"), {
                let segment = SysV::new(SIZE)?;
                let _memory = segment.attach()?;
                segment.remove()?;
                let stat = shmctl_ipc_stat(segment.id)?;
                let bit = u32::from(stat.shm_perm.mode) & SHM_DEST;
                // Not by `stat`: the C libraries differ in the field's name.
                let key = sysv_column(segment.id, "key")?.unwrap_or_default();
                Ok(format!("mode bit {bit:05o}, key {key}"))
            }),
            posix: probe!(always("st_nlink is 0"), {
                let object = Posix::new(SIZE)?;
                object.unlink()?;
                Ok(format!("st_nlink is {}", fstat(&object.fd)?.st_nlink))
            }),
            memfd: probe!(always("st_nlink is 0"), {
                Ok(format!("st_nlink is {}", fstat(memfd(SIZE)?)?.st_nlink))
            }),
            ..Row::REST
        },
        Row {
            question: "Remove it twice",
            sysv: probe!(always("EINVAL"), {
                let segment = SysV::new(SIZE)?;
                segment.remove()?;
                outcome(segment.remove())
            }),
            posix: probe!(always("ENOENT"), {
                let object = Posix::new(SIZE)?;
                object.unlink()?;
                outcome(object.unlink())
            }),
            ..Row::REST
        },
        Row {
            question: "Close the descriptor while it is mapped",
            posix: probe!(always("the mapping goes on"), {
                let object = Posix::new(SIZE)?;
                let fd = object.open(libc::O_RDWR)?;
                let memory = Memory::map(&fd, SIZE)?;
                drop(fd);
                memory.write(0, 7);
                let other = Memory::map(&object.fd, SIZE)?;
                either(other.read(0) == 7, "the mapping goes on", "no")
            }),
            memfd: probe!(always("the mapping goes on"), {
                let fd = memfd(SIZE)?;
                let (ours, other) =
                    (Memory::map(&fd, SIZE)?, Memory::map(&fd, SIZE)?);
                drop(fd);
                ours.write(0, 7);
                either(other.read(0) == 7, "the mapping goes on", "no")
            }),
            dmabuf: probe!(always("the mapping goes on"), heap, {
                let fd = heap_buffer(SIZE)?;
                let (ours, other) =
                    (Memory::map(&fd, SIZE)?, Memory::map(&fd, SIZE)?);
                drop(fd);
                ours.write(0, 7);
                either(other.read(0) == 7, "the mapping goes on", "no")
            }),
            ..Row::REST
        },
        Row {
            question: "Close the memfd that it was made of (udmabuf)",
            dmabuf: probe!(always("the bytes stay"), udmabuf, {
                let fd = sealed(SIZE, libc::F_SEAL_SHRINK)?;
                Memory::map(&fd, SIZE)?.write(0, 7);
                let buffer = udmabuf(&fd, 0, SIZE)?;
                drop(fd);
                let read = Memory::map(buffer, SIZE)?.read(0);
                either(read == 7, "the bytes stay", "they are gone")
            }),
            ..Row::REST
        },
        Row {
            question: "Give a name to what never had one (linkat)",
            posix: probe!(always("works, for O_TMPFILE in /dev/shm"), {
                let flags =
                    nix::fcntl::OFlag::O_TMPFILE | nix::fcntl::OFlag::O_RDWR;
                let mode = nix::sys::stat::Mode::S_IRUSR;
                let fd = nix::fcntl::open("/dev/shm", flags, mode)?;
                let linked = name_it(&fd)?;
                Ok(format!("{linked}, for O_TMPFILE in /dev/shm"))
            }),
            memfd: probe!(always("EXDEV: its file system is the kernel's"), {
                let linked = name_it(memfd(SIZE)?)?;
                Ok(format!("{linked}: its file system is the kernel's"))
            }),
            dmabuf: probe!(
                always("EXDEV: its file system is the kernel's"),
                heap,
                {
                    let linked = name_it(heap_buffer(SIZE)?)?;
                    Ok(format!("{linked}: its file system is the kernel's"))
                }
            ),
            ..Row::REST
        },
        Row {
            question: "Give its name back to what was unlinked (linkat)",
            posix: probe!(always("ENOENT"), {
                let object = Posix::new(SIZE)?;
                object.unlink()?;
                name_it(&object.fd)
            }),
            ..Row::REST
        },
        Row {
            question: "A flock on the descriptor, when its holder is killed",
            posix: probe!(always("is released"), {
                let object = Posix::new(SIZE)?;
                let mut peer = Peer::fork(|link| {
                    let fd = object.open(libc::O_RDWR).map_err(said)?;
                    flock(fd.as_fd(), libc::LOCK_EX).map_err(said)?;
                    link.send("locked").map_err(|e| e.to_string())?;
                    std::thread::sleep(integration_tests::peer::DEADLINE);
                    Ok::<_, String>("")
                })?;
                peer.receive()?;
                let try_lock = libc::LOCK_EX | libc::LOCK_NB;
                let held = outcome(flock(object.fd.as_fd(), try_lock))?;
                peer.kill()?;
                let after = outcome(flock(object.fd.as_fd(), try_lock))?;
                let released = held == "EAGAIN" && after == "works";
                either(released, "is released", &format!("{held}, {after}"))
            }),
            ..Row::REST
        },
        Row {
            question: "A flock, when its descriptor is closed and mapped on",
            posix: probe!(always("is kept until the mapping goes"), {
                let object = Posix::new(SIZE)?;
                let fd = object.open(libc::O_RDWR)?;
                flock(fd.as_fd(), libc::LOCK_SH)?;
                let memory = Memory::map(&fd, SIZE)?;
                drop(fd);
                let try_lock = libc::LOCK_EX | libc::LOCK_NB;
                let mapped = outcome(flock(object.fd.as_fd(), try_lock))?;
                drop(memory);
                let unmapped = outcome(flock(object.fd.as_fd(), try_lock))?;
                let kept = mapped == "EAGAIN" && unmapped == "works";
                either(kept, "is kept until the mapping goes", &mapped)
            }),
            ..Row::REST
        },
        Row {
            question: "kernel.shm_rmid_forced is 1, and the creator exits",
            sysv: probe!(always("gone"), root, {
                system_v_limit("shm_rmid_forced", 1)?;
                let left = in_child(|| {
                    let segment = SysV::new(SIZE)?;
                    let id = segment.id;
                    std::mem::forget(segment);
                    Ok(id.to_string())
                })?;
                // Unlike the rest of a process, this goes just after its end.
                for _ in 0..200 {
                    if exists(&left)? {
                        let pause = std::time::Duration::from_millis(5);
                        std::thread::sleep(pause);
                    }
                }
                either(!exists(&left)?, "gone", "stays")
            }),
            ..Row::REST
        },
    ],
};

enum Kind {
    SysV,
    SysVRemoved,
    Posix,
    PosixRemoved,
    Memfd,
    Dmabuf,
}

/// Whether something is left of what a child made, mapped and never undid, when
/// it exits, or a signal ends it.
fn left_by(signal: Option<Signal>, kind: Kind) -> Found {
    let mut peer = Peer::fork(|link| {
        let name = make(&kind)?;
        link.send(name).map_err(|error| error.to_string())?;
        // Until it is killed, or told to go.
        link.receive().map_err(|error| error.to_string())?;
        Ok::<_, String>("")
    })?;
    let name = peer.receive()?;
    let name = String::from_utf8(name).map_err(|_| "no text")?;
    let alive = is_there(&kind, &name)?;
    match signal {
        Some(signal) => {
            peer.signal(signal)?;
            drop(peer);
        }
        None => {
            peer.send("go")?;
            peer.join(integration_tests::peer::DEADLINE)?;
        }
    }
    let left = is_there(&kind, &name)?;
    match kind {
        Kind::SysV if left => drop(SysV { key: 0, id: number(&name)? }),
        Kind::Posix if left => std::fs::remove_file(&name)?,
        _ => {}
    }
    // What has lost its name or key shows only through its users.
    if !alive && !matches!(kind, Kind::SysVRemoved | Kind::PosixRemoved) {
        return Err("it was not there while it was used".into());
    }
    either(left, "stays", "gone")
}

/// Makes one, maps it and forgets all that would undo it; tells what finds it.
fn make(kind: &Kind) -> Result<String, String> {
    match kind {
        Kind::SysV | Kind::SysVRemoved => {
            let segment = SysV::new(SIZE).map_err(said)?;
            std::mem::forget(segment.attach().map_err(said)?);
            let id = segment.id.to_string();
            match kind {
                Kind::SysV => std::mem::forget(segment),
                _ => drop(segment),
            }
            Ok(id)
        }
        Kind::Posix | Kind::PosixRemoved => {
            let object = Posix::new(SIZE).map_err(said)?;
            let path = object.path();
            std::mem::forget(Memory::map(&object.fd, SIZE).map_err(said)?);
            match kind {
                Kind::Posix => std::mem::forget(object),
                _ => drop(object),
            }
            Ok(path.to_string_lossy().into_owned())
        }
        Kind::Memfd | Kind::Dmabuf => {
            let fd = match kind {
                Kind::Memfd => memfd(SIZE).map_err(said)?,
                _ => heap_buffer(SIZE).map_err(|error| error.to_string())?,
            };
            let path =
                format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
            std::mem::forget(fd);
            Ok(path)
        }
    }
}

fn is_there(kind: &Kind, name: &str) -> std::io::Result<bool> {
    match kind {
        Kind::SysV | Kind::SysVRemoved => exists(name),
        _ => std::fs::exists(name),
    }
}

/// Whether the kernel's table holds the segment with this number.
fn exists(id: &str) -> std::io::Result<bool> {
    let number = id.parse().map_err(std::io::Error::other)?;
    Ok(sysv_column(number, "shmid")?.is_some())
}

fn number(id: &str) -> Result<i32, &'static str> {
    id.parse().map_err(|_| "no number")
}

fn said(error: shm_common::OsError) -> String {
    error.to_string()
}

fn inherited(memory: &Memory) -> Found {
    memory.write(0, 1);
    in_child(|| {
        let seen = memory.read(0);
        memory.write(1, 2);
        Ok(seen.to_string())
    })?;
    either(memory.read(1) == 2, "is shared", "is a copy")
}

/// Execs a program that shows its own map, in a child that has the mapping.
fn after_exec(
    path: &str,
    map: impl FnOnce() -> Result<Memory, shm_common::OsError>,
) -> Found {
    let memory = map()?;
    let before = std::fs::read_to_string("/proc/self/maps")?;
    if !before.contains(path) {
        return Err("it does not show in the map".into());
    }
    let output =
        std::process::Command::new("cat").arg("/proc/self/maps").output()?;
    drop(memory);
    let maps = String::from_utf8_lossy(&output.stdout).into_owned();
    if !maps.contains("cat") {
        return Err("the program did not show its map".into());
    }
    either(!maps.contains(path), "is gone", "is still there")
}

/// Whether a program that is exec'ed has the descriptor.
fn survives_exec(fd: impl AsFd) -> std::io::Result<bool> {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let status =
        std::process::Command::new("test").args(["-e", &path]).status()?;
    Ok(status.success())
}

fn name_it(fd: impl AsFd) -> Found {
    // Unlinks it again, when it is dropped.
    let to = Posix::with(0o600)?;
    to.unlink()?;
    outcome(link(fd, &to.path()))
}
