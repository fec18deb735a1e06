//! The memory behind a segment: contents, reservation, advice.

use std::os::fd::AsFd;

use integration_tests::surroundings::small_dev_shm;
use nix::sys::stat::fstat;
use shm_dmabuf::raw::{
    DMA_BUF_SYNC_END, DMA_BUF_SYNC_RW, DMA_BUF_SYNC_START, ioctl_dma_buf_sync,
};

use crate::kit::{
    Memory, PAGE, Posix, SIZE, SysV, fallocate, ftruncate, heap_buffer, memfd,
    memfd_with, sealed, sysv_column, udmabuf,
};
use crate::table::{
    Chapter, Expected, Found, Row, always, either, in_child, outcome, probe,
};

/// The room in the small file system of some probes.
const ROOM: usize = 1 << 20;

const POPULATE: Expected =
    Expected::Since { version: (5, 14), now: "works", before: "EINVAL" };

pub const CHAPTER: Chapter = Chapter {
    title: "Memory",
    rows: &[
        Row {
            question: "Fresh contents",
            sysv: probe!(always("zeros"), {
                zeros(&SysV::new(SIZE)?.attach()?)
            }),
            posix: probe!(always("zeros"), {
                zeros(&Memory::map(&Posix::new(SIZE)?.fd, SIZE)?)
            }),
            memfd: probe!(always("zeros"), {
                zeros(&Memory::map(memfd(SIZE)?, SIZE)?)
            }),
            dmabuf: probe!(always("zeros"), heap, {
                zeros(&Memory::map(heap_buffer(SIZE)?, SIZE)?)
            }),
        },
        Row {
            question: "Memory in use before the first touch",
            sysv: probe!(always("none"), {
                let segment = SysV::new(SIZE)?;
                let resident = sysv_column(segment.id, "rss")?;
                either(resident.as_deref() == Some("0"), "none", "some")
            }),
            posix: probe!(always("none"), { in_use(&Posix::new(SIZE)?.fd) }),
            memfd: probe!(always("none"), { in_use(memfd(SIZE)?) }),
            ..Row::REST
        },
        Row {
            question: "Reserve the pages by posix_fallocate",
            posix: probe!(always("all"), {
                let object = Posix::with(0o600)?;
                fallocate(&object.fd, SIZE)?;
                in_use(&object.fd)
            }),
            memfd: probe!(always("all"), {
                let fd = memfd_with(0)?;
                fallocate(&fd, SIZE)?;
                in_use(&fd)
            }),
            ..Row::REST
        },
        Row {
            question: "Reserve the pages by MADV_POPULATE_WRITE",
            sysv: probe!(POPULATE, {
                let memory = SysV::new(SIZE)?.attach()?;
                outcome(memory.advise(libc::MADV_POPULATE_WRITE))
            }),
            posix: probe!(POPULATE, {
                let memory = Memory::map(&Posix::new(SIZE)?.fd, SIZE)?;
                outcome(memory.advise(libc::MADV_POPULATE_WRITE))
            }),
            memfd: probe!(POPULATE, {
                let memory = Memory::map(memfd(SIZE)?, SIZE)?;
                outcome(memory.advise(libc::MADV_POPULATE_WRITE))
            }),
            dmabuf: probe!(always("EINVAL"), heap, {
                let memory = Memory::map(heap_buffer(SIZE)?, SIZE)?;
                outcome(memory.advise(libc::MADV_POPULATE_WRITE))
            }),
        },
        Row {
            question: "/dev/shm is too small: set the size by ftruncate",
            sysv: probe!(always("not concerned"), root, {
                small_dev_shm(ROOM)?;
                filled(&SysV::new(2 * ROOM)?)
            }),
            posix: probe!(always("works"), root, {
                small_dev_shm(ROOM)?;
                let object = Posix::with(0o600)?;
                outcome(ftruncate(&object.fd, 2 * ROOM))
            }),
            memfd: probe!(always("not concerned"), root, {
                small_dev_shm(ROOM)?;
                let fd = memfd_with(0)?;
                fallocate(&fd, 2 * ROOM)?;
                Ok("not concerned".into())
            }),
            dmabuf: probe!(always("not concerned"), heap, {
                small_dev_shm(ROOM)?;
                let fd = heap_buffer(2 * ROOM)?;
                Memory::map(fd, 2 * ROOM)?.write(2 * ROOM - 1, 1);
                Ok("not concerned".into())
            }),
        },
        Row {
            question: "/dev/shm is too small: … and touch all of it",
            posix: probe!(always("SIGBUS"), root, {
                small_dev_shm(ROOM)?;
                let object = Posix::new(2 * ROOM)?;
                let memory = Memory::map(&object.fd, 2 * ROOM)?;
                in_child(|| {
                    for at in (0..2 * ROOM).step_by(PAGE) {
                        memory.write(at, 1);
                    }
                    Ok("works".into())
                })
            }),
            ..Row::REST
        },
        Row {
            question: "/dev/shm is too small: reserve by posix_fallocate",
            posix: probe!(always("ENOSPC, and its size stays 0"), root, {
                small_dev_shm(ROOM)?;
                let object = Posix::with(0o600)?;
                let reserved = outcome(fallocate(&object.fd, 2 * ROOM))?;
                let size = fstat(&object.fd)?.st_size;
                Ok(format!("{reserved}, and its size stays {size}"))
            }),
            ..Row::REST
        },
        Row {
            question: "/dev/shm is too small: MAP_POPULATE",
            posix: probe!(always("says nothing; the touch is SIGBUS"), root, {
                small_dev_shm(ROOM)?;
                let object = Posix::new(2 * ROOM)?;
                let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
                let prot = crate::kit::READ_WRITE;
                let memory =
                    Memory::map_with(&object.fd, 2 * ROOM, prot, flags)?;
                let touched = in_child(|| {
                    for at in (0..2 * ROOM).step_by(PAGE) {
                        memory.write(at, 1);
                    }
                    Ok("works".into())
                })?;
                Ok(format!("says nothing; the touch is {touched}"))
            }),
            ..Row::REST
        },
        Row {
            question: "/dev/shm is too small: MADV_POPULATE_WRITE",
            posix: probe!(
                Expected::Since {
                    version: (5, 14),
                    now: "EFAULT",
                    before: "EINVAL"
                },
                root,
                {
                    small_dev_shm(ROOM)?;
                    let object = Posix::new(2 * ROOM)?;
                    let memory = Memory::map(&object.fd, 2 * ROOM)?;
                    outcome(memory.advise(libc::MADV_POPULATE_WRITE))
                }
            ),
            ..Row::REST
        },
        Row {
            question: "/dev/shm is too small: write(2)",
            posix: probe!(always("ENOSPC"), root, {
                small_dev_shm(ROOM)?;
                let object = Posix::with(0o600)?;
                let block = vec![1; ROOM];
                nix::unistd::write(&object.fd, &block)?;
                outcome(nix::unistd::write(&object.fd, &block))
            }),
            ..Row::REST
        },
        Row {
            question: "Huge pages, and the pool has none: create",
            sysv: probe!(always("ENOMEM"), {
                outcome(SysV::with(2 << 20, libc::SHM_HUGETLB | 0o600))
            }),
            memfd: probe!(always("works"), {
                outcome(memfd_with(libc::MFD_HUGETLB))
            }),
            ..Row::REST
        },
        Row {
            question: "Huge pages, and the pool has none: reserve, or map",
            memfd: probe!(always("ENOSPC, or ENOMEM"), {
                let fd = memfd_with(libc::MFD_HUGETLB)?;
                let reserved = outcome(fallocate(&fd, 2 << 20))?;
                ftruncate(&fd, 2 << 20)?;
                let mapped = outcome(Memory::map(&fd, 2 << 20))?;
                Ok(format!("{reserved}, or {mapped}"))
            }),
            ..Row::REST
        },
        Row {
            question: "MADV_DONTNEED, and read again",
            sysv: probe!(always("the bytes stay"), {
                stay(&SysV::new(SIZE)?.attach()?, libc::MADV_DONTNEED)
            }),
            posix: probe!(always("the bytes stay"), {
                let memory = Memory::map(&Posix::new(SIZE)?.fd, SIZE)?;
                stay(&memory, libc::MADV_DONTNEED)
            }),
            memfd: probe!(always("the bytes stay"), {
                let memory = Memory::map(memfd(SIZE)?, SIZE)?;
                stay(&memory, libc::MADV_DONTNEED)
            }),
            dmabuf: probe!(always("EINVAL"), heap, {
                let memory = Memory::map(heap_buffer(SIZE)?, SIZE)?;
                outcome(memory.advise(libc::MADV_DONTNEED))
            }),
        },
        Row {
            question: "MADV_DONTFORK, and the child touches it",
            sysv: probe!(always("SIGSEGV"), {
                not_inherited(&SysV::new(SIZE)?.attach()?)
            }),
            posix: probe!(always("SIGSEGV"), {
                not_inherited(&Memory::map(&Posix::new(SIZE)?.fd, SIZE)?)
            }),
            memfd: probe!(always("SIGSEGV"), {
                not_inherited(&Memory::map(memfd(SIZE)?, SIZE)?)
            }),
            dmabuf: probe!(always("SIGSEGV"), heap, {
                not_inherited(&Memory::map(heap_buffer(SIZE)?, SIZE)?)
            }),
        },
        Row {
            question: "MADV_WIPEONFORK",
            sysv: probe!(always("EINVAL"), {
                let memory = SysV::new(SIZE)?.attach()?;
                outcome(memory.advise(libc::MADV_WIPEONFORK))
            }),
            posix: probe!(always("EINVAL"), {
                let memory = Memory::map(&Posix::new(SIZE)?.fd, SIZE)?;
                outcome(memory.advise(libc::MADV_WIPEONFORK))
            }),
            memfd: probe!(always("EINVAL"), {
                let memory = Memory::map(memfd(SIZE)?, SIZE)?;
                outcome(memory.advise(libc::MADV_WIPEONFORK))
            }),
            dmabuf: probe!(always("EINVAL"), heap, {
                let memory = Memory::map(heap_buffer(SIZE)?, SIZE)?;
                outcome(memory.advise(libc::MADV_WIPEONFORK))
            }),
        },
        Row {
            question: "MADV_DONTDUMP: keep it out of core files",
            sysv: probe!(always("works"), {
                dumped_not(&SysV::new(SIZE)?.attach()?)
            }),
            posix: probe!(always("works"), {
                dumped_not(&Memory::map(&Posix::new(SIZE)?.fd, SIZE)?)
            }),
            memfd: probe!(always("works"), {
                dumped_not(&Memory::map(memfd(SIZE)?, SIZE)?)
            }),
            dmabuf: probe!(always("works"), heap, {
                dumped_not(&Memory::map(heap_buffer(SIZE)?, SIZE)?)
            }),
        },
        Row {
            question: "A private mapping (MAP_PRIVATE) is written",
            posix: probe!(always("others do not see it"), {
                private(&Posix::new(SIZE)?.fd)
            }),
            memfd: probe!(always("others do not see it"), {
                private(memfd(SIZE)?)
            }),
            dmabuf: probe!(always("cannot be made: EINVAL"), heap, {
                let fd = heap_buffer(SIZE)?;
                let prot = crate::kit::READ_WRITE;
                let flags = libc::MAP_PRIVATE;
                let mapped = outcome(Memory::map_with(fd, SIZE, prot, flags))?;
                Ok(format!("cannot be made: {mapped}"))
            }),
            ..Row::REST
        },
        Row {
            question: "read(2) and write(2) instead of a mapping",
            posix: probe!(always("the mapping sees it at once"), {
                written(&Posix::new(SIZE)?.fd)
            }),
            memfd: probe!(always("the mapping sees it at once"), {
                written(memfd(SIZE)?)
            }),
            dmabuf: probe!(always("EINVAL"), heap, {
                let fd = heap_buffer(SIZE)?;
                let read = outcome(nix::unistd::read(&fd, &mut [0]))?;
                let written = outcome(nix::unistd::write(&fd, b"x"))?;
                either(read == "EINVAL" && read == written, "EINVAL", &written)
            }),
            ..Row::REST
        },
        Row {
            question: "Wake who sleeps on a word of it by FUTEX_WAKE of the shared kind",
            sysv: probe!(always("works"), {
                let segment = SysV::new(SIZE)?;
                outcome(Memory::attach(segment.id, 0)?.wake())
            }),
            posix: probe!(always("works"), {
                outcome(Memory::map(&Posix::new(SIZE)?.fd, SIZE)?.wake())
            }),
            memfd: probe!(always("works"), {
                outcome(Memory::map(memfd(SIZE)?, SIZE)?.wake())
            }),
            dmabuf: probe!(always("EFAULT, by udmabuf too"), both_drivers, {
                let heap = Memory::map(heap_buffer(SIZE)?, SIZE)?.wake();
                let fd = sealed(SIZE, libc::F_SEAL_SHRINK)?;
                let udmabuf = Memory::map(udmabuf(&fd, 0, SIZE)?, SIZE)?.wake();
                match heap == udmabuf {
                    true => Ok(format!("{}, by udmabuf too", outcome(heap)?)),
                    false => Ok(format!("{heap:?}, by udmabuf {udmabuf:?}")),
                }
            }),
        },
        Row {
            question: "A memfd, and a dma-buf of its pages (udmabuf)",
            dmabuf: probe!(
                always("each sees what the other writes"),
                udmabuf,
                {
                    let fd = sealed(SIZE, libc::F_SEAL_SHRINK)?;
                    let memory = Memory::map(&fd, SIZE)?;
                    let buffer = Memory::map(udmabuf(&fd, PAGE, PAGE)?, PAGE)?;
                    memory.write(PAGE, 1);
                    let there = buffer.read(0) == 1;
                    buffer.write(1, 2);
                    let here = memory.read(PAGE + 1) == 2;
                    let told = "each sees what the other writes";
                    either(there && here, told, "they are two")
                }
            ),
            ..Row::REST
        },
        Row {
            question: "Begin and end access of the processor (DMA_BUF_IOCTL_SYNC)",
            dmabuf: probe!(always("works, works"), heap, {
                let fd = heap_buffer(SIZE)?;
                let both = DMA_BUF_SYNC_RW;
                let begun = sync(&fd, DMA_BUF_SYNC_START | both)?;
                let ended = sync(&fd, DMA_BUF_SYNC_END | both)?;
                Ok(format!("{begun}, {ended}"))
            }),
            ..Row::REST
        },
        Row {
            question: "… to end what was not begun; neither to read nor to write",
            dmabuf: probe!(
                always("works, by udmabuf EINVAL; EINVAL"),
                both_drivers,
                {
                    let fd = heap_buffer(SIZE)?;
                    let end = DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW;
                    let ended = sync(&fd, end)?;
                    let memfd = sealed(SIZE, libc::F_SEAL_SHRINK)?;
                    let other = sync(udmabuf(&memfd, 0, SIZE)?, end)?;
                    let neither = sync(&fd, DMA_BUF_SYNC_START)?;
                    Ok(format!("{ended}, by udmabuf {other}; {neither}"))
                }
            ),
            ..Row::REST
        },
    ],
};

fn sync(fd: impl AsFd, flags: u64) -> Found {
    outcome(ioctl_dma_buf_sync(fd.as_fd(), flags))
}

fn zeros(memory: &Memory) -> Found {
    let all = (0..SIZE).all(|at| memory.read(at) == 0);
    either(all, "zeros", "anything")
}

fn in_use(fd: impl AsFd) -> Found {
    let bytes = fstat(fd)?.st_blocks * 512;
    Ok(match usize::try_from(bytes) {
        Ok(0) => "none".into(),
        Ok(SIZE) => "all".into(),
        _ => format!("{bytes} bytes"),
    })
}

fn filled(segment: &SysV) -> Found {
    let memory = segment.attach()?;
    for at in (0..SIZE).step_by(PAGE) {
        memory.write(at, 1);
    }
    Ok("not concerned".into())
}

fn stay(memory: &Memory, advice: i32) -> Found {
    memory.write(PAGE, 7);
    memory.advise(advice)?;
    either(memory.read(PAGE) == 7, "the bytes stay", "they are gone")
}

fn not_inherited(memory: &Memory) -> Found {
    memory.write(0, 7);
    memory.advise(libc::MADV_DONTFORK)?;
    in_child(|| Ok(format!("it reads {}", memory.read(0))))
}

fn dumped_not(memory: &Memory) -> Found {
    memory.advise(libc::MADV_DONTDUMP)?;
    let all = std::fs::read_to_string("/proc/self/smaps")?;
    let address = memory.address();
    let own = all.lines().skip_while(|line| !line.starts_with(&address));
    let flags = own.skip(1).find(|line| line.starts_with("VmFlags"));
    either(flags.is_some_and(|f| f.contains(" dd")), "works", "no effect")
}

fn private(fd: impl AsFd) -> Found {
    let shared = Memory::map(&fd, SIZE)?;
    let prot = crate::kit::READ_WRITE;
    let private = Memory::map_with(&fd, SIZE, prot, libc::MAP_PRIVATE)?;
    private.write(0, 7);
    let seen = shared.read(0) == 7;
    either(!seen, "others do not see it", "others see it")
}

fn written(fd: impl AsFd) -> Found {
    let memory = Memory::map(&fd, SIZE)?;
    nix::unistd::write(&fd, b"w")?;
    memory.write(1, b'm');
    let mut read = [0];
    nix::unistd::read(&fd, &mut read)?;
    either(
        memory.read(0) == b'w' && read == *b"m",
        "the mapping sees it at once",
        "it does not",
    )
}
