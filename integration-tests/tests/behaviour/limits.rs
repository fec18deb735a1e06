//! Limits of the system and of the process.

use integration_tests::surroundings::{limit, system_v_limit};
use nix::sys::resource::Resource;
use nix::sys::signal::Signal;

use crate::kit::{
    Memory, PAGE, Posix, SIZE, SysV, allocate, fallocate, ftruncate, heap,
    heap_buffer, ignore, memfd, memfd_with, sealed, udmabuf,
};
use crate::table::{Chapter, Row, always, outcome, probe};

const MIB: usize = 1 << 20;

pub const CHAPTER: Chapter = Chapter {
    title: "Limits",
    rows: &[
        Row {
            question: "kernel.shmmni segments exist: create one more",
            sysv: probe!(always("ENOSPC"), root, {
                system_v_limit("shmmni", 1)?;
                let _first = SysV::new(SIZE)?;
                outcome(SysV::new(SIZE))
            }),
            ..Row::REST
        },
        Row {
            question: "More bytes than kernel.shmmax",
            sysv: probe!(always("EINVAL"), root, {
                system_v_limit("shmmax", 4096)?;
                outcome(SysV::new(SIZE))
            }),
            ..Row::REST
        },
        Row {
            question: "More pages than kernel.shmall",
            sysv: probe!(always("ENOSPC"), root, {
                system_v_limit("shmall", 1)?;
                outcome(SysV::new(SIZE))
            }),
            ..Row::REST
        },
        Row {
            question: "A dma-buf as large as udmabuf.size_limit_mb allows; a page larger",
            dmabuf: probe!(always("works; EINVAL"), udmabuf, {
                let parameters = "/sys/module/udmabuf/parameters";
                let limit = format!("{parameters}/size_limit_mb");
                let limit = std::fs::read_to_string(limit)?;
                let limit = limit.trim().parse().map_err(|_| "no number")?;
                let most = MIB.saturating_mul(limit);
                let fd = sealed(most + PAGE, libc::F_SEAL_SHRINK)?;
                let within = outcome(udmabuf(&fd, 0, most))?;
                let beyond = outcome(udmabuf(&fd, 0, most + PAGE))?;
                Ok(format!("{within}; {beyond}"))
            }),
            ..Row::REST
        },
        Row {
            question: "RLIMIT_FSIZE is less: set the size, or reserve",
            sysv: probe!(always("works"), {
                limit(Resource::RLIMIT_FSIZE, 4096)?;
                outcome(SysV::new(MIB))
            }),
            posix: probe!(always("SIGXFSZ"), {
                limit(Resource::RLIMIT_FSIZE, 4096)?;
                let object = Posix::with(0o600)?;
                object.unlink()?;
                outcome(fallocate(&object.fd, MIB))
            }),
            memfd: probe!(always("SIGXFSZ"), {
                limit(Resource::RLIMIT_FSIZE, 4096)?;
                outcome(ftruncate(memfd_with(0)?, MIB))
            }),
            dmabuf: probe!(always("works"), heap, {
                limit(Resource::RLIMIT_FSIZE, 4096)?;
                outcome(heap_buffer(MIB))
            }),
        },
        Row {
            question: "… with SIGXFSZ ignored",
            posix: probe!(always("EFBIG"), {
                limit(Resource::RLIMIT_FSIZE, 4096)?;
                ignore(Signal::SIGXFSZ)?;
                outcome(fallocate(&Posix::with(0o600)?.fd, MIB))
            }),
            memfd: probe!(always("EFBIG"), {
                limit(Resource::RLIMIT_FSIZE, 4096)?;
                ignore(Signal::SIGXFSZ)?;
                outcome(ftruncate(memfd_with(0)?, MIB))
            }),
            ..Row::REST
        },
        Row {
            question: "RLIMIT_NOFILE is reached: create",
            sysv: probe!(always("works"), {
                limit(Resource::RLIMIT_NOFILE, 0)?;
                outcome(SysV::new(SIZE))
            }),
            posix: probe!(always("EMFILE"), {
                limit(Resource::RLIMIT_NOFILE, 0)?;
                outcome(Posix::new(SIZE))
            }),
            memfd: probe!(always("EMFILE"), {
                limit(Resource::RLIMIT_NOFILE, 0)?;
                outcome(memfd(SIZE))
            }),
            dmabuf: probe!(always("EMFILE"), heap, {
                let heap = heap()?;
                limit(Resource::RLIMIT_NOFILE, 0)?;
                outcome(allocate(&heap, SIZE, libc::O_RDWR))
            }),
        },
        Row {
            question: "RLIMIT_AS is reached: map",
            sysv: probe!(always("ENOMEM"), {
                let segment = SysV::new(MIB)?;
                limit(Resource::RLIMIT_AS, 4096)?;
                outcome(segment.attach())
            }),
            posix: probe!(always("ENOMEM"), {
                let object = Posix::new(MIB)?;
                limit(Resource::RLIMIT_AS, 4096)?;
                outcome(Memory::map(&object.fd, MIB))
            }),
            memfd: probe!(always("ENOMEM"), {
                let fd = memfd(MIB)?;
                limit(Resource::RLIMIT_AS, 4096)?;
                outcome(Memory::map(&fd, MIB))
            }),
            dmabuf: probe!(always("ENOMEM"), heap, {
                let fd = heap_buffer(MIB)?;
                limit(Resource::RLIMIT_AS, 4096)?;
                outcome(Memory::map(&fd, MIB))
            }),
        },
    ],
};
