//! Seals: what each forbids, to whom, and with which errno.

use std::os::fd::AsFd;

use libc::{
    F_SEAL_EXEC, F_SEAL_FUTURE_WRITE, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK,
    F_SEAL_WRITE, MAP_PRIVATE, MAP_SHARED, PROT_READ,
};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::write;
use shm_memfd::raw::fcntl_get_seals;

use crate::kit::{
    Memory, PAGE, Posix, READ_WRITE, SIZE, add_seals, fallocate, ftruncate,
    heap_buffer, memfd, memfd_with, punch_hole, reopen, sealed, udmabuf,
};
use crate::table::{
    Chapter, Expected, Found, Row, always, either, outcome, probe,
};

pub const CHAPTER: Chapter = Chapter {
    title: "Seals",
    rows: &[
        Row {
            question: "The seals that it begins with (F_GET_SEALS)",
            posix: probe!(always("F_SEAL_SEAL: so this proves no memfd"), {
                let seals = fcntl_get_seals(Posix::new(SIZE)?.fd.as_fd())?;
                let only_seal = seals == F_SEAL_SEAL;
                let told = "F_SEAL_SEAL: so this proves no memfd";
                either(only_seal, told, &format!("{seals:#x}"))
            }),
            memfd: probe!(always("none, or F_SEAL_SEAL if not asked for"), {
                let asked = fcntl_get_seals(memfd(SIZE)?.as_fd())?;
                let not = fcntl_get_seals(memfd_with(0)?.as_fd())?;
                let told = "none, or F_SEAL_SEAL if not asked for";
                either(asked == 0 && not == F_SEAL_SEAL, told, "others")
            }),
            dmabuf: probe!(always("EINVAL"), heap, {
                outcome(fcntl_get_seals(heap_buffer(SIZE)?.as_fd()))
            }),
            ..Row::REST
        },
        Row {
            question: "Add a seal where sealing was not asked for",
            posix: probe!(always("EPERM"), {
                outcome(add_seals(&Posix::new(SIZE)?.fd, F_SEAL_SHRINK))
            }),
            memfd: probe!(always("EPERM"), {
                outcome(add_seals(memfd_with(0)?, F_SEAL_SHRINK))
            }),
            ..Row::REST
        },
        Row {
            question: "Add a seal through a descriptor for reading",
            memfd: probe!(always("EPERM"), {
                let fd = reopen(memfd(SIZE)?, false)?;
                outcome(add_seals(fd, F_SEAL_SHRINK))
            }),
            ..Row::REST
        },
        Row {
            question: "Seals, through another descriptor of it",
            memfd: probe!(always("are the same: they are the object's"), {
                let fd = memfd(SIZE)?;
                let other = reopen(&fd, true)?;
                add_seals(&fd, F_SEAL_SHRINK)?;
                let same = fcntl_get_seals(other.as_fd())? == F_SEAL_SHRINK;
                let told = "are the same: they are the object's";
                either(same, told, "differ")
            }),
            ..Row::REST
        },
        Row {
            question: "F_SEAL_SEAL: add another",
            memfd: probe!(always("EPERM"), {
                outcome(add_seals(sealed(SIZE, F_SEAL_SEAL)?, F_SEAL_SHRINK))
            }),
            ..Row::REST
        },
        Row {
            question: "F_SEAL_SHRINK: shrink",
            memfd: probe!(always("EPERM"), {
                outcome(ftruncate(sealed(SIZE, F_SEAL_SHRINK)?, PAGE))
            }),
            ..Row::REST
        },
        Row {
            question: "F_SEAL_SHRINK: grow",
            memfd: probe!(always("works"), {
                outcome(ftruncate(sealed(SIZE, F_SEAL_SHRINK)?, 2 * SIZE))
            }),
            ..Row::REST
        },
        Row {
            question: "F_SEAL_SHRINK: punch a hole",
            memfd: probe!(always("works: the bytes become zero"), {
                let fd = sealed(SIZE, F_SEAL_SHRINK)?;
                let memory = Memory::map(&fd, SIZE)?;
                memory.write(0, 7);
                let punched = outcome(punch_hole(&fd))?;
                either(
                    punched == "works" && memory.read(0) == 0,
                    "works: the bytes become zero",
                    &punched,
                )
            }),
            ..Row::REST
        },
        Row {
            question: "F_SEAL_GROW: grow by ftruncate, fallocate, write(2)",
            memfd: probe!(always("EPERM, EPERM, EPERM"), {
                let fd = sealed(0, F_SEAL_GROW)?;
                each(&[
                    outcome(ftruncate(&fd, SIZE))?,
                    outcome(fallocate(&fd, SIZE))?,
                    outcome(write(&fd, b"x"))?,
                ])
            }),
            ..Row::REST
        },
        Row {
            question: "F_SEAL_GROW: shrink, and grow back",
            memfd: probe!(always("works, EPERM"), {
                let fd = sealed(SIZE, F_SEAL_GROW)?;
                each(&[
                    outcome(ftruncate(&fd, PAGE))?,
                    outcome(ftruncate(&fd, SIZE))?,
                ])
            }),
            ..Row::REST
        },
        Row {
            question: "F_SEAL_WRITE: while it is mapped for writing",
            memfd: probe!(always("EBUSY"), {
                let fd = memfd(SIZE)?;
                let _memory = Memory::map(&fd, SIZE)?;
                outcome(add_seals(&fd, F_SEAL_WRITE))
            }),
            ..Row::REST
        },
        Row {
            question: "F_SEAL_WRITE: while it is mapped for reading, shared",
            memfd: probe!(always("EBUSY"), {
                let fd = memfd(SIZE)?;
                let _memory =
                    Memory::map_with(&fd, SIZE, PROT_READ, MAP_SHARED)?;
                outcome(add_seals(&fd, F_SEAL_WRITE))
            }),
            ..Row::REST
        },
        Row {
            question: "F_SEAL_WRITE: … through a descriptor for reading",
            memfd: probe!(always("works"), {
                let fd = memfd(SIZE)?;
                let reader = reopen(&fd, false)?;
                let _memory =
                    Memory::map_with(reader, SIZE, PROT_READ, MAP_SHARED)?;
                outcome(add_seals(&fd, F_SEAL_WRITE))
            }),
            ..Row::REST
        },
        Row {
            question: "F_SEAL_WRITE: write(2), punch a hole, map for writing",
            memfd: probe!(always("EPERM, EPERM, EPERM"), {
                let fd = sealed(SIZE, F_SEAL_WRITE)?;
                each(&[
                    outcome(write(&fd, b"x"))?,
                    outcome(punch_hole(&fd))?,
                    outcome(Memory::map(&fd, SIZE))?,
                ])
            }),
            ..Row::REST
        },
        Row {
            question: "F_SEAL_WRITE: map for reading, shared",
            memfd: probe!(since_6_7("works", "EPERM"), {
                let fd = sealed(SIZE, F_SEAL_WRITE)?;
                outcome(Memory::map_with(&fd, SIZE, PROT_READ, MAP_SHARED))
            }),
            ..Row::REST
        },
        Row {
            question: "F_SEAL_WRITE: … and make that mapping writable",
            memfd: probe!(since_6_7("EACCES", "EPERM"), {
                let fd = sealed(SIZE, F_SEAL_WRITE)?;
                match Memory::map_with(&fd, SIZE, PROT_READ, MAP_SHARED) {
                    Ok(memory) => outcome(memory.protect(READ_WRITE)),
                    error => outcome(error),
                }
            }),
            ..Row::REST
        },
        Row {
            question: "F_SEAL_WRITE: MADV_REMOVE through a mapping for reading",
            memfd: probe!(since_6_7("EACCES", "EPERM"), {
                let fd = sealed(SIZE, F_SEAL_WRITE)?;
                match Memory::map_with(&fd, SIZE, PROT_READ, MAP_SHARED) {
                    Ok(memory) => outcome(memory.advise(libc::MADV_REMOVE)),
                    error => outcome(error),
                }
            }),
            ..Row::REST
        },
        Row {
            question: "F_SEAL_WRITE: map privately, and write",
            memfd: probe!(always("works, on a copy"), {
                let fd = sealed(SIZE, F_SEAL_WRITE)?;
                let private =
                    Memory::map_with(&fd, SIZE, READ_WRITE, MAP_PRIVATE)?;
                private.write(0, 7);
                let other =
                    Memory::map_with(&fd, SIZE, PROT_READ, MAP_PRIVATE)?;
                either(other.read(0) == 0, "works, on a copy", "works")
            }),
            ..Row::REST
        },
        Row {
            question: "F_SEAL_WRITE: shrink and grow",
            memfd: probe!(always("works, works: seal these too"), {
                let fd = sealed(SIZE, F_SEAL_WRITE)?;
                let shrunk = outcome(ftruncate(&fd, PAGE))?;
                let grown = outcome(ftruncate(&fd, SIZE))?;
                Ok(format!("{shrunk}, {grown}: seal these too"))
            }),
            ..Row::REST
        },
        Row {
            question: "F_SEAL_FUTURE_WRITE: a writable mapping that exists",
            memfd: probe!(always("writes on"), {
                let fd = memfd(SIZE)?;
                let memory = Memory::map(&fd, SIZE)?;
                add_seals(&fd, F_SEAL_FUTURE_WRITE)?;
                memory.write(0, 7);
                let reader =
                    Memory::map_with(&fd, SIZE, PROT_READ, MAP_SHARED)?;
                either(reader.read(0) == 7, "writes on", "cannot")
            }),
            ..Row::REST
        },
        Row {
            question: "F_SEAL_FUTURE_WRITE: write(2), punch a hole, map for writing",
            memfd: probe!(always("EPERM, EPERM, EPERM"), {
                let fd = sealed(SIZE, F_SEAL_FUTURE_WRITE)?;
                each(&[
                    outcome(write(&fd, b"x"))?,
                    outcome(punch_hole(&fd))?,
                    outcome(Memory::map(&fd, SIZE))?,
                ])
            }),
            ..Row::REST
        },
        Row {
            question: "F_SEAL_FUTURE_WRITE: map for reading, shared",
            memfd: probe!(always("works"), {
                let fd = sealed(SIZE, F_SEAL_FUTURE_WRITE)?;
                outcome(Memory::map_with(&fd, SIZE, PROT_READ, MAP_SHARED))
            }),
            ..Row::REST
        },
        Row {
            question: "F_SEAL_EXEC: set an executable bit",
            memfd: probe!(
                Expected::Since {
                    version: (6, 3),
                    now: "EPERM",
                    before: "EINVAL"
                },
                {
                    match memfd_with(libc::MFD_NOEXEC_SEAL) {
                        Ok(fd) => {
                            let mode = Mode::from_bits_truncate(0o777);
                            let seals = fcntl_get_seals(fd.as_fd())?;
                            if seals & F_SEAL_EXEC == 0 {
                                return Err("it has no F_SEAL_EXEC".into());
                            }
                            outcome(fchmod(fd, mode))
                        }
                        error => outcome(error),
                    }
                }
            ),
            ..Row::REST
        },
        Row {
            question: "A dma-buf of its pages (udmabuf), without F_SEAL_SHRINK",
            memfd: probe!(always("EINVAL"), udmabuf, {
                outcome(udmabuf(memfd(SIZE)?, 0, SIZE))
            }),
            posix: probe!(
                always("EINVAL: it cannot have that seal"),
                udmabuf,
                {
                    let made =
                        outcome(udmabuf(&Posix::new(SIZE)?.fd, 0, SIZE))?;
                    Ok(format!("{made}: it cannot have that seal"))
                }
            ),
            ..Row::REST
        },
        Row {
            question: "… with F_SEAL_GROW, F_SEAL_WRITE, F_SEAL_FUTURE_WRITE besides",
            memfd: probe!(always("works, EINVAL, EINVAL"), udmabuf, {
                let with = |seal| {
                    let fd = sealed(SIZE, F_SEAL_SHRINK | seal)?;
                    outcome(udmabuf(fd, 0, SIZE))
                };
                each(&[
                    with(F_SEAL_GROW)?,
                    with(F_SEAL_WRITE)?,
                    with(F_SEAL_FUTURE_WRITE)?,
                ])
            }),
            ..Row::REST
        },
        Row {
            question: "F_SEAL_WRITE: while a dma-buf of its pages exists",
            memfd: probe!(always("EBUSY"), udmabuf, {
                let fd = sealed(SIZE, F_SEAL_SHRINK)?;
                let _buffer = udmabuf(&fd, 0, SIZE)?;
                outcome(add_seals(&fd, F_SEAL_WRITE))
            }),
            ..Row::REST
        },
        Row {
            question: "F_SEAL_FUTURE_WRITE: while it exists, and write through it",
            memfd: probe!(always("works, and the memfd sees it"), udmabuf, {
                let fd = sealed(SIZE, F_SEAL_SHRINK)?;
                let buffer = Memory::map(udmabuf(&fd, 0, SIZE)?, SIZE)?;
                let added = outcome(add_seals(&fd, F_SEAL_FUTURE_WRITE))?;
                buffer.write(0, 7);
                let reader =
                    Memory::map_with(&fd, SIZE, PROT_READ, MAP_SHARED)?;
                let seen = if reader.read(0) == 7 { "sees" } else { "misses" };
                Ok(format!("{added}, and the memfd {seen} it"))
            }),
            ..Row::REST
        },
        Row {
            question: "F_SEAL_WRITE: once the dma-buf and its mappings are gone",
            memfd: probe!(always("works"), udmabuf, {
                let fd = sealed(SIZE, F_SEAL_SHRINK)?;
                drop(Memory::map(udmabuf(&fd, 0, SIZE)?, SIZE)?);
                outcome(add_seals(&fd, F_SEAL_WRITE))
            }),
            ..Row::REST
        },
        Row {
            question: "Punch a hole while a dma-buf of its pages exists",
            memfd: probe!(
                always("zeros here, the bytes stay there"),
                udmabuf,
                {
                    let fd = sealed(SIZE, F_SEAL_SHRINK)?;
                    let memory = Memory::map(&fd, SIZE)?;
                    memory.write(0, 7);
                    let buffer = Memory::map(udmabuf(&fd, 0, SIZE)?, SIZE)?;
                    punch_hole(&fd)?;
                    let parted = memory.read(0) == 0 && buffer.read(0) == 7;
                    either(
                        parted,
                        "zeros here, the bytes stay there",
                        "otherwise",
                    )
                }
            ),
            ..Row::REST
        },
        Row {
            question: "A seal that the kernel does not know",
            memfd: probe!(always("EINVAL"), {
                outcome(add_seals(memfd(SIZE)?, 1 << 20))
            }),
            ..Row::REST
        },
    ],
};

/// Debian's 6.1.192, for one, has it too.
const fn since_6_7(now: &'static str, before: &'static str) -> Expected {
    Expected::Backported { version: (6, 7), now, before }
}

fn each(told: &[String]) -> Found {
    Ok(told.join(", "))
}
