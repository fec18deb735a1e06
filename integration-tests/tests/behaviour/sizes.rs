//! Sizes: what is asked for, what is given, and how they change.

use nix::sys::stat::fstat;
use shm_posix::raw::ftruncate as raw_ftruncate;
use shm_sysv::raw::{shmctl_ipc_stat, shmget};
use std::os::fd::AsFd;

use crate::kit::{
    Memory, PAGE, Posix, SIZE, SysV, ftruncate, heap_buffer, memfd, memfd_with,
    punch_hole, sealed, udmabuf,
};
use crate::table::{Chapter, Row, always, either, in_child, outcome, probe};

/// No multiple of a page.
const ODD: usize = 5000;

pub const CHAPTER: Chapter = Chapter {
    title: "Sizes",
    rows: &[
        Row {
            question: "Create with size 0",
            sysv: probe!(always("EINVAL"), { outcome(SysV::new(0)) }),
            posix: probe!(always("works: every object begins so"), {
                let object = Posix::with(0o600)?;
                let size = fstat(&object.fd)?.st_size;
                either(size == 0, "works: every object begins so", "not 0")
            }),
            memfd: probe!(always("works: every memfd begins so"), {
                let size = fstat(memfd_with(0)?)?.st_size;
                either(size == 0, "works: every memfd begins so", "not 0")
            }),
            dmabuf: probe!(always("EINVAL"), heap, { outcome(heap_buffer(0)) }),
        },
        Row {
            question: "Create of part of a page of a memfd; past its end; of none",
            dmabuf: probe!(always("EINVAL; EINVAL; EINVAL"), udmabuf, {
                let fd = sealed(SIZE, libc::F_SEAL_SHRINK)?;
                let part = outcome(udmabuf(&fd, 0, ODD))?;
                let past = outcome(udmabuf(&fd, PAGE, SIZE))?;
                let none = outcome(udmabuf(&fd, 0, 0))?;
                Ok(format!("{part}; {past}; {none}"))
            }),
            ..Row::REST
        },
        Row {
            question: "Touch a mapping of an object of size 0",
            posix: probe!(always("SIGBUS"), {
                let object = Posix::with(0o600)?;
                object.unlink()?;
                let memory = Memory::map(&object.fd, SIZE)?;
                in_child(|| Ok(memory.read(0).to_string()))
            }),
            memfd: probe!(always("SIGBUS"), {
                let memory = Memory::map(memfd(0)?, SIZE)?;
                in_child(|| Ok(memory.read(0).to_string()))
            }),
            ..Row::REST
        },
        Row {
            question: "Map 0 bytes",
            posix: probe!(always("EINVAL"), {
                let object = Posix::new(SIZE)?;
                outcome(Memory::map(&object.fd, 0))
            }),
            memfd: probe!(always("EINVAL"), {
                outcome(Memory::map(memfd(SIZE)?, 0))
            }),
            dmabuf: probe!(always("EINVAL"), heap, {
                outcome(Memory::map(heap_buffer(SIZE)?, 0))
            }),
            ..Row::REST
        },
        Row {
            question: "A size of 2⁶³ − 1 bytes",
            sysv: probe!(always("ENOMEM"), {
                outcome(SysV::new(isize::MAX.unsigned_abs()))
            }),
            posix: probe!(always("works, until it is touched or reserved"), {
                let object = Posix::with(0o600)?;
                let set = outcome(raw_ftruncate(object.fd.as_fd(), i64::MAX))?;
                either(
                    set == "works",
                    "works, until it is touched or reserved",
                    &set,
                )
            }),
            memfd: probe!(always("works, until it is touched or reserved"), {
                let fd = memfd_with(0)?;
                let set = outcome(raw_ftruncate(fd.as_fd(), i64::MAX))?;
                either(
                    set == "works",
                    "works, until it is touched or reserved",
                    &set,
                )
            }),
            ..Row::REST
        },
        Row {
            question: "A negative size",
            posix: probe!(always("EINVAL"), {
                let object = Posix::with(0o600)?;
                outcome(raw_ftruncate(object.fd.as_fd(), -1))
            }),
            memfd: probe!(always("EINVAL"), {
                outcome(raw_ftruncate(memfd_with(0)?.as_fd(), -1))
            }),
            ..Row::REST
        },
        Row {
            question: "What is told of 5,000 bytes",
            sysv: probe!(always("5000, and 8192 can be touched"), {
                let segment = SysV::new(ODD)?;
                let told = shmctl_ipc_stat(segment.id)?.shm_segsz;
                segment.attach()?.write(SIZE - 1, 1);
                Ok(format!("{told}, and {SIZE} can be touched"))
            }),
            posix: probe!(always("5000, and 8192 can be touched"), {
                let object = Posix::new(ODD)?;
                let told = fstat(&object.fd)?.st_size;
                Memory::map(&object.fd, ODD)?.protect(libc::PROT_READ)?;
                Memory::map(&object.fd, SIZE)?.write(SIZE - 1, 1);
                Ok(format!("{told}, and {SIZE} can be touched"))
            }),
            memfd: probe!(always("5000, and 8192 can be touched"), {
                let fd = memfd(ODD)?;
                let told = fstat(&fd)?.st_size;
                Memory::map(&fd, SIZE)?.write(SIZE - 1, 1);
                Ok(format!("{told}, and {SIZE} can be touched"))
            }),
            dmabuf: probe!(always("8192, and 8192 can be touched"), heap, {
                let fd = heap_buffer(ODD)?;
                let told =
                    nix::unistd::lseek(&fd, 0, nix::unistd::Whence::SeekEnd)?;
                Memory::map(&fd, SIZE)?.write(SIZE - 1, 1);
                Ok(format!("{told}, and {SIZE} can be touched"))
            }),
        },
        Row {
            question: "Touch the first page after the end",
            sysv: probe!(always("cannot be attached"), {
                // Two pages are attached for a segment of one: the guard that
                // detaches them does not mind, the kernel attaches one.
                let segment = SysV::new(PAGE)?;
                let memory = segment.attach()?;
                let maps = std::fs::read_to_string("/proc/self/maps")?;
                let address = memory.address();
                let line = maps.lines().find(|l| l.starts_with(&address));
                let line = line.ok_or("the attachment is not in the map")?;
                let (start, end) = range(line).ok_or("no range")?;
                either(end - start == PAGE, "cannot be attached", line)
            }),
            posix: probe!(always("SIGBUS"), {
                let object = Posix::new(PAGE)?;
                object.unlink()?;
                let memory = Memory::map(&object.fd, SIZE)?;
                in_child(|| Ok(memory.read(PAGE).to_string()))
            }),
            memfd: probe!(always("SIGBUS"), {
                let memory = Memory::map(memfd(PAGE)?, SIZE)?;
                in_child(|| Ok(memory.read(PAGE).to_string()))
            }),
            dmabuf: probe!(always("cannot be mapped: EINVAL"), heap, {
                let mapped = outcome(Memory::map(heap_buffer(PAGE)?, SIZE))?;
                Ok(format!("cannot be mapped: {mapped}"))
            }),
        },
        Row {
            question: "Open asking for more than it has",
            sysv: probe!(always("EINVAL"), {
                let segment = SysV::new(SIZE)?;
                outcome(shmget(segment.key, SIZE + 1, 0))
            }),
            ..Row::REST
        },
        Row {
            question: "Open asking for less than it has, or for 0",
            sysv: probe!(always("works"), {
                let segment = SysV::new(SIZE)?;
                shmget(segment.key, 1, 0)?;
                outcome(shmget(segment.key, 0, 0))
            }),
            ..Row::REST
        },
        Row {
            question: "Grow while it is mapped",
            sysv: probe!(always("no call does that"), {
                let segment = SysV::new(PAGE)?;
                let flags = libc::IPC_CREAT | 0o600;
                let asked = outcome(shmget(segment.key, SIZE, flags))?;
                either(asked == "EINVAL", "no call does that", &asked)
            }),
            posix: probe!(always("works; the new bytes are zero"), {
                let object = Posix::new(PAGE)?;
                let memory = Memory::map(&object.fd, SIZE)?;
                ftruncate(&object.fd, SIZE)?;
                let zero = memory.read(SIZE - 1) == 0;
                either(zero, "works; the new bytes are zero", "not zero")
            }),
            memfd: probe!(always("works; the new bytes are zero"), {
                let fd = memfd(PAGE)?;
                let memory = Memory::map(&fd, SIZE)?;
                ftruncate(&fd, SIZE)?;
                let zero = memory.read(SIZE - 1) == 0;
                either(zero, "works; the new bytes are zero", "not zero")
            }),
            dmabuf: probe!(always("no call does that"), heap, {
                let set = outcome(ftruncate(heap_buffer(PAGE)?, SIZE))?;
                either(set == "EINVAL", "no call does that", &set)
            }),
        },
        Row {
            question: "Shrink while it is mapped, and touch what was cut off",
            sysv: probe!(always("no call does that"), {
                let segment = SysV::new(SIZE)?;
                let memory = segment.attach()?;
                shmget(segment.key, 1, libc::IPC_CREAT | 0o600)?;
                memory.write(SIZE - 1, 1);
                Ok("no call does that".into())
            }),
            posix: probe!(always("SIGBUS"), {
                let object = Posix::new(SIZE)?;
                object.unlink()?;
                let memory = Memory::map(&object.fd, SIZE)?;
                memory.write(PAGE, 1);
                ftruncate(&object.fd, PAGE)?;
                in_child(|| Ok(memory.read(PAGE).to_string()))
            }),
            memfd: probe!(always("SIGBUS"), {
                let fd = memfd(SIZE)?;
                let memory = Memory::map(&fd, SIZE)?;
                memory.write(PAGE, 1);
                ftruncate(&fd, PAGE)?;
                in_child(|| Ok(memory.read(PAGE).to_string()))
            }),
            dmabuf: probe!(always("no call does that"), heap, {
                let set = outcome(ftruncate(heap_buffer(SIZE)?, PAGE))?;
                either(set == "EINVAL", "no call does that", &set)
            }),
        },
        Row {
            question: "Shrink what is sealed against it",
            posix: probe!(always("cannot be sealed: EPERM"), {
                let object = Posix::new(SIZE)?;
                let seal = libc::F_SEAL_SHRINK;
                let sealed = outcome(crate::kit::add_seals(&object.fd, seal))?;
                Ok(format!("cannot be sealed: {sealed}"))
            }),
            memfd: probe!(always("EPERM"), {
                let fd = sealed(SIZE, libc::F_SEAL_SHRINK)?;
                outcome(ftruncate(&fd, PAGE))
            }),
            ..Row::REST
        },
        Row {
            question: "Shrink, grow again, and read what was there",
            posix: probe!(always("zeros"), {
                let object = Posix::new(SIZE)?;
                let memory = Memory::map(&object.fd, SIZE)?;
                memory.write(PAGE, 7);
                ftruncate(&object.fd, PAGE)?;
                ftruncate(&object.fd, SIZE)?;
                either(memory.read(PAGE) == 0, "zeros", "the old bytes")
            }),
            memfd: probe!(always("zeros"), {
                let fd = memfd(SIZE)?;
                let memory = Memory::map(&fd, SIZE)?;
                memory.write(PAGE, 7);
                ftruncate(&fd, PAGE)?;
                ftruncate(&fd, SIZE)?;
                either(memory.read(PAGE) == 0, "zeros", "the old bytes")
            }),
            ..Row::REST
        },
        Row {
            question: "Punch a hole while it is mapped (fallocate)",
            posix: probe!(always("the reader sees zeros"), {
                let object = Posix::new(SIZE)?;
                let memory = Memory::map(&object.fd, SIZE)?;
                memory.write(0, 7);
                punch_hole(&object.fd)?;
                either(memory.read(0) == 0, "the reader sees zeros", "no")
            }),
            memfd: probe!(always("the reader sees zeros"), {
                let fd = memfd(SIZE)?;
                let memory = Memory::map(&fd, SIZE)?;
                memory.write(0, 7);
                punch_hole(&fd)?;
                either(memory.read(0) == 0, "the reader sees zeros", "no")
            }),
            dmabuf: probe!(always("ENODEV"), heap, {
                outcome(punch_hole(heap_buffer(SIZE)?))
            }),
            ..Row::REST
        },
        Row {
            question: "Punch a hole through the mapping (MADV_REMOVE)",
            sysv: probe!(always("others see zeros"), {
                let segment = SysV::new(SIZE)?;
                let (ours, theirs) = (segment.attach()?, segment.attach()?);
                ours.write(0, 7);
                ours.advise(libc::MADV_REMOVE)?;
                either(theirs.read(0) == 0, "others see zeros", "no")
            }),
            posix: probe!(always("others see zeros"), {
                let object = Posix::new(SIZE)?;
                let ours = Memory::map(&object.fd, SIZE)?;
                let theirs = Memory::map(&object.fd, SIZE)?;
                ours.write(0, 7);
                ours.advise(libc::MADV_REMOVE)?;
                either(theirs.read(0) == 0, "others see zeros", "no")
            }),
            memfd: probe!(always("others see zeros"), {
                let fd = memfd(SIZE)?;
                let ours = Memory::map(&fd, SIZE)?;
                let theirs = Memory::map(&fd, SIZE)?;
                ours.write(0, 7);
                ours.advise(libc::MADV_REMOVE)?;
                either(theirs.read(0) == 0, "others see zeros", "no")
            }),
            dmabuf: probe!(always("ENODEV"), heap, {
                let memory = Memory::map(heap_buffer(SIZE)?, SIZE)?;
                outcome(memory.advise(libc::MADV_REMOVE))
            }),
        },
    ],
};

/// The addresses that a line of `/proc/self/maps` begins with.
fn range(line: &str) -> Option<(usize, usize)> {
    let (start, rest) = line.split_once('-')?;
    let (end, _) = rest.split_once(' ')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some((number(start)?, number(end)?))
}
