//! Who may do what.

use std::os::fd::{AsFd, OwnedFd};

use nix::sys::stat::{Mode, fchmod, fstat, stat, umask};
use shm_sysv::raw::{shmctl_ipc_rmid, shmctl_ipc_set, shmctl_ipc_stat, shmget};

use crate::kit::{
    Memory, Posix, READ_WRITE, SIZE, SysV, heap_buffer, heap_buffer_with,
    memfd, memfd_with, reopen, sealed, udmabuf,
};
use crate::table::{
    Chapter, Expected, Found, Row, always, as_nobody, outcome, probe,
};

pub const CHAPTER: Chapter = Chapter {
    title: "Permissions",
    rows: &[
        Row {
            question: "Create with mode 0666 under umask 077",
            sysv: probe!(always("0666"), {
                umask(Mode::from_bits_truncate(0o77));
                let segment = SysV::with(SIZE, 0o666)?;
                mode(shmctl_ipc_stat(segment.id)?.shm_perm.mode.into())
            }),
            posix: probe!(always("0600"), {
                umask(Mode::from_bits_truncate(0o77));
                mode(fstat(&Posix::with(0o666)?.fd)?.st_mode)
            }),
            ..Row::REST
        },
        Row {
            question: "The mode that it has when none is asked for",
            memfd: probe!(always("0777"), {
                umask(Mode::from_bits_truncate(0o77));
                mode(fstat(memfd_with(0)?)?.st_mode)
            }),
            dmabuf: probe!(always("0600"), heap, {
                umask(Mode::from_bits_truncate(0o77));
                mode(fstat(heap_buffer(SIZE)?)?.st_mode)
            }),
            ..Row::REST
        },
        Row {
            question: "… with MFD_NOEXEC_SEAL",
            memfd: probe!(
                Expected::Since {
                    version: (6, 3),
                    now: "0666",
                    before: "EINVAL"
                },
                {
                    match memfd_with(libc::MFD_NOEXEC_SEAL) {
                        Ok(fd) => mode(fstat(fd)?.st_mode),
                        error => outcome(error),
                    }
                }
            ),
            ..Row::REST
        },
        Row {
            question: "Set the mode afterwards, whatever the umask",
            sysv: probe!(always("0666"), {
                umask(Mode::from_bits_truncate(0o77));
                let segment = SysV::new(SIZE)?;
                let mut stat = shmctl_ipc_stat(segment.id)?;
                stat.shm_perm.mode = 0o666;
                shmctl_ipc_set(segment.id, stat)?;
                mode(shmctl_ipc_stat(segment.id)?.shm_perm.mode.into())
            }),
            posix: probe!(always("0666"), {
                umask(Mode::from_bits_truncate(0o77));
                let object = Posix::with(0o600)?;
                fchmod(&object.fd, Mode::from_bits_truncate(0o666))?;
                mode(fstat(&object.fd)?.st_mode)
            }),
            memfd: probe!(always("0666"), {
                let fd = memfd(SIZE)?;
                fchmod(&fd, Mode::from_bits_truncate(0o666))?;
                mode(fstat(&fd)?.st_mode)
            }),
            ..Row::REST
        },
        Row {
            question: "Another user makes one, by /dev/dma_heap/system; by /dev/udmabuf",
            dmabuf: probe!(always("EACCES; EACCES"), both_drivers, {
                let fd = sealed(SIZE, libc::F_SEAL_SHRINK)?;
                let heap = as_nobody(|| outcome(heap_buffer(SIZE)))?;
                let udmabuf = as_nobody(|| outcome(udmabuf(&fd, 0, SIZE)))?;
                Ok(format!("{heap}; {udmabuf}"))
            }),
            ..Row::REST
        },
        Row {
            question: "Another user opens what has mode 0600",
            sysv: probe!(always("EACCES"), root, {
                let segment = SysV::new(SIZE)?;
                as_nobody(|| outcome(Memory::attach(segment.id, 0)))
            }),
            posix: probe!(always("EACCES"), root, {
                let object = Posix::new(SIZE)?;
                as_nobody(|| outcome(object.open(libc::O_RDWR)))
            }),
            memfd: probe!(always("EACCES"), root, {
                let fd = memfd(SIZE)?;
                fchmod(&fd, Mode::from_bits_truncate(0o600))?;
                as_nobody(|| outcome(reopen(&fd, true)))
            }),
            ..Row::REST
        },
        Row {
            question: "Another user opens what has mode 0644, to read",
            sysv: probe!(always("works"), root, {
                let segment = SysV::with(SIZE, 0o644)?;
                as_nobody(|| {
                    outcome(Memory::attach(segment.id, libc::SHM_RDONLY))
                })
            }),
            posix: probe!(always("works"), root, {
                let object = Posix::with(0o644)?;
                as_nobody(|| outcome(object.open(libc::O_RDONLY)))
            }),
            memfd: probe!(always("works"), root, {
                let fd = memfd(SIZE)?;
                fchmod(&fd, Mode::from_bits_truncate(0o644))?;
                as_nobody(|| outcome(reopen(&fd, false)))
            }),
            ..Row::REST
        },
        Row {
            question: "Another user opens what has mode 0644, to write",
            sysv: probe!(always("EACCES"), root, {
                let segment = SysV::with(SIZE, 0o644)?;
                as_nobody(|| outcome(Memory::attach(segment.id, 0)))
            }),
            posix: probe!(always("EACCES"), root, {
                let object = Posix::with(0o644)?;
                as_nobody(|| outcome(object.open(libc::O_RDWR)))
            }),
            memfd: probe!(always("EACCES"), root, {
                let fd = memfd(SIZE)?;
                fchmod(&fd, Mode::from_bits_truncate(0o644))?;
                as_nobody(|| outcome(reopen(&fd, true)))
            }),
            ..Row::REST
        },
        Row {
            question: "Another user who was given the descriptor maps mode 0600",
            posix: probe!(always("works"), root, {
                let object = Posix::new(SIZE)?;
                as_nobody(|| outcome(Memory::map(&object.fd, SIZE)))
            }),
            memfd: probe!(always("works"), root, {
                let fd = memfd(SIZE)?;
                fchmod(&fd, Mode::from_bits_truncate(0o600))?;
                as_nobody(|| outcome(Memory::map(&fd, SIZE)))
            }),
            dmabuf: probe!(always("works"), heap, {
                let fd = heap_buffer(SIZE)?;
                as_nobody(|| outcome(Memory::map(&fd, SIZE)))
            }),
            ..Row::REST
        },
        Row {
            question: "Another user removes what has mode 0666",
            sysv: probe!(always("EPERM"), root, {
                let segment = SysV::with(SIZE, 0o666)?;
                as_nobody(|| outcome(shmctl_ipc_rmid(segment.id)))
            }),
            ..Row::REST
        },
        Row {
            question: "… where /dev/shm is sticky, mode 1777, as usual",
            posix: probe!(always("EACCES"), root, {
                integration_tests::surroundings::small_dev_shm(1 << 20)?;
                let object = Posix::with(0o666)?;
                fchmod(&object.fd, Mode::from_bits_truncate(0o666))?;
                as_nobody(|| outcome(object.unlink()))
            }),
            ..Row::REST
        },
        Row {
            question: "Another user changes the size of mode 0666",
            posix: probe!(always("works"), root, {
                let object = Posix::new(SIZE)?;
                fchmod(&object.fd, Mode::from_bits_truncate(0o666))?;
                as_nobody(|| {
                    let theirs = object.open(libc::O_RDWR)?;
                    outcome(crate::kit::ftruncate(&theirs, 0))
                })
            }),
            memfd: probe!(always("works"), root, {
                let fd = memfd(SIZE)?;
                as_nobody(|| outcome(crate::kit::ftruncate(&fd, 0)))
            }),
            ..Row::REST
        },
        Row {
            question: "The superuser opens what has mode 0000",
            sysv: probe!(always("works"), root, {
                outcome(SysV::with(SIZE, 0)?.attach())
            }),
            posix: probe!(always("works"), root, {
                outcome(Posix::with(0)?.open(libc::O_RDWR))
            }),
            memfd: probe!(always("works"), root, {
                let fd = memfd(SIZE)?;
                fchmod(&fd, Mode::empty())?;
                outcome(reopen(&fd, true))
            }),
            ..Row::REST
        },
        Row {
            question: "Ask about what may not be read",
            sysv: probe!(always("EACCES; SHM_STAT_ANY tells"), root, {
                let segment = SysV::new(SIZE)?;
                as_nobody(|| {
                    let asked = outcome(shmctl_ipc_stat(segment.id))?;
                    let all = shm_sysv::list()?;
                    let id = segment.id;
                    let any = all.iter().any(|stat| stat.id.as_raw() == id);
                    let tells = if any { "tells" } else { "hides it" };
                    Ok(format!("{asked}; SHM_STAT_ANY {tells}"))
                })
            }),
            posix: probe!(always("works"), root, {
                let object = Posix::new(SIZE)?;
                as_nobody(|| outcome(stat(&object.path())))
            }),
            ..Row::REST
        },
        Row {
            question: "Map for writing what was opened for reading",
            sysv: probe!(always("EACCES, by mprotect"), {
                let segment = SysV::new(SIZE)?;
                let memory = Memory::attach(segment.id, libc::SHM_RDONLY)?;
                let upgraded = outcome(memory.protect(READ_WRITE))?;
                Ok(format!("{upgraded}, by mprotect"))
            }),
            posix: probe!(always("EACCES, by mprotect EACCES"), {
                read_only(Posix::new(SIZE)?.open(libc::O_RDONLY)?)
            }),
            memfd: probe!(always("EACCES, by mprotect EACCES"), {
                read_only(reopen(memfd(SIZE)?, false)?)
            }),
            dmabuf: probe!(always("EACCES, by mprotect EACCES"), heap, {
                read_only(heap_buffer_with(SIZE, libc::O_RDONLY)?)
            }),
        },
        Row {
            question: "A read-only mapping of what was opened to write: mprotect",
            posix: probe!(always("works"), {
                read_mapping(&Posix::new(SIZE)?.fd)
            }),
            memfd: probe!(always("works"), { read_mapping(memfd(SIZE)?) }),
            dmabuf: probe!(always("works"), heap, {
                read_mapping(heap_buffer(SIZE)?)
            }),
            ..Row::REST
        },
        Row {
            question: "Map what was opened for writing only (O_WRONLY)",
            posix: probe!(always("EACCES"), {
                let path = Posix::new(SIZE)?;
                let file =
                    std::fs::File::options().write(true).open(path.path())?;
                outcome(Memory::map(file, SIZE))
            }),
            dmabuf: probe!(always("EACCES"), heap, {
                let fd = heap_buffer_with(SIZE, libc::O_WRONLY)?;
                outcome(Memory::map(fd, SIZE))
            }),
            ..Row::REST
        },
        Row {
            question: "Open a read-only descriptor for writing by /proc/self/fd",
            posix: probe!(always("works: the mode decides"), {
                let fd = Posix::new(SIZE)?.open(libc::O_RDONLY)?;
                let again = outcome(reopen(fd, true))?;
                Ok(format!("{again}: the mode decides"))
            }),
            memfd: probe!(always("works: the mode decides"), {
                let fd = reopen(memfd(SIZE)?, false)?;
                let again = outcome(reopen(fd, true))?;
                Ok(format!("{again}: the mode decides"))
            }),
            dmabuf: probe!(always("ENXIO"), heap, {
                let flags = libc::O_RDONLY;
                let fd = heap_buffer_with(SIZE, flags)?;
                outcome(reopen(fd, true))
            }),
            ..Row::REST
        },
        Row {
            question: "… after F_SEAL_FUTURE_WRITE, and mapped for writing",
            memfd: probe!(
                Expected::Since {
                    version: (5, 1),
                    now: "EPERM",
                    before: "EINVAL"
                },
                {
                    let fd = memfd(SIZE)?;
                    let seal = libc::F_SEAL_FUTURE_WRITE;
                    match crate::kit::add_seals(&fd, seal) {
                        Ok(()) => outcome(Memory::map(reopen(fd, true)?, SIZE)),
                        error => outcome(error),
                    }
                }
            ),
            ..Row::REST
        },
        Row {
            question: "A key is opened with more rights than its mode has",
            sysv: probe!(always("EACCES"), root, {
                let segment = SysV::with(SIZE, 0o644)?;
                as_nobody(|| outcome(shmget(segment.key, 0, 0o666)))
            }),
            ..Row::REST
        },
        Row {
            question: "mlock beyond RLIMIT_MEMLOCK, as another user",
            sysv: probe!(always("ENOMEM"), root, {
                let segment = SysV::with(SIZE, 0o666)?;
                as_nobody(|| locked_by_nobody(&segment.attach()?))
            }),
            posix: probe!(always("ENOMEM"), root, {
                let object = Posix::new(SIZE)?;
                as_nobody(|| locked_by_nobody(&Memory::map(&object.fd, SIZE)?))
            }),
            memfd: probe!(always("ENOMEM"), root, {
                as_nobody(|| {
                    locked_by_nobody(&Memory::map(memfd(SIZE)?, SIZE)?)
                })
            }),
            dmabuf: probe!(always("ENOMEM"), heap, {
                let fd = heap_buffer(SIZE)?;
                as_nobody(|| locked_by_nobody(&Memory::map(&fd, SIZE)?))
            }),
        },
    ],
};

fn mode(bits: u32) -> Found {
    Ok(format!("{:04o}", bits & 0o777))
}

fn read_only(fd: OwnedFd) -> Found {
    let mapped = outcome(Memory::map(&fd, SIZE))?;
    let upgraded = read_mapping(fd)?;
    Ok(format!("{mapped}, by mprotect {upgraded}"))
}

fn read_mapping(fd: impl AsFd) -> Found {
    let flags = libc::MAP_SHARED;
    let memory = Memory::map_with(fd, SIZE, libc::PROT_READ, flags)?;
    outcome(memory.protect(READ_WRITE))
}

fn locked_by_nobody(memory: &Memory) -> Found {
    use nix::sys::resource::{Resource, setrlimit};
    setrlimit(Resource::RLIMIT_MEMLOCK, 4096, 4096)?;
    outcome(memory.lock())
}
