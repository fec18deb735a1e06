//! What containers see of each other.

use nix::sched::{CloneFlags, unshare};
use shm_sysv::raw::{shmctl_ipc_stat, shmget};

use integration_tests::surroundings::small_dev_shm;

use crate::kit::{Memory, Posix, SIZE, SysV, heap_buffer, memfd, reopen};
use crate::table::{
    Chapter, Found, Row, always, as_nobody, in_child, outcome, probe,
};

pub const CHAPTER: Chapter = Chapter {
    title: "Namespaces",
    rows: &[
        Row {
            question: "Open it from another IPC namespace",
            sysv: probe!(always("ENOENT"), root, {
                let segment = SysV::new(SIZE)?;
                in_child(|| {
                    unshare(CloneFlags::CLONE_NEWIPC)?;
                    outcome(shmget(segment.key, 0, 0))
                })
            }),
            posix: probe!(always("works"), root, {
                let object = Posix::new(SIZE)?;
                in_child(|| {
                    unshare(CloneFlags::CLONE_NEWIPC)?;
                    outcome(object.open(libc::O_RDWR))
                })
            }),
            memfd: probe!(always("works"), root, {
                let fd = memfd(SIZE)?;
                in_child(|| {
                    unshare(CloneFlags::CLONE_NEWIPC)?;
                    outcome(Memory::map(&fd, SIZE))
                })
            }),
            dmabuf: probe!(always("works"), heap, {
                let fd = heap_buffer(SIZE)?;
                in_child(|| {
                    unshare(CloneFlags::CLONE_NEWIPC)?;
                    outcome(Memory::map(&fd, SIZE))
                })
            }),
        },
        Row {
            question: "Open it where /dev/shm is another mount",
            sysv: probe!(always("works"), root, {
                let segment = SysV::new(SIZE)?;
                in_child(|| {
                    small_dev_shm(1 << 20)?;
                    outcome(shmget(segment.key, 0, 0))
                })
            }),
            posix: probe!(always("ENOENT"), root, {
                let object = Posix::new(SIZE)?;
                in_child(|| {
                    small_dev_shm(1 << 20)?;
                    outcome(object.open(libc::O_RDWR))
                })
            }),
            memfd: probe!(always("works"), root, {
                let fd = memfd(SIZE)?;
                in_child(|| {
                    small_dev_shm(1 << 20)?;
                    outcome(Memory::map(&fd, SIZE))
                })
            }),
            dmabuf: probe!(always("works"), heap, {
                let fd = heap_buffer(SIZE)?;
                in_child(|| {
                    small_dev_shm(1 << 20)?;
                    outcome(Memory::map(&fd, SIZE))
                })
            }),
        },
        Row {
            question: "A mapping that exists, after unsharing both",
            sysv: probe!(always("goes on"), root, {
                goes_on(&SysV::new(SIZE)?.attach()?)
            }),
            posix: probe!(always("goes on"), root, {
                goes_on(&Memory::map(&Posix::new(SIZE)?.fd, SIZE)?)
            }),
            memfd: probe!(always("goes on"), root, {
                goes_on(&Memory::map(memfd(SIZE)?, SIZE)?)
            }),
            dmabuf: probe!(always("goes on"), heap, {
                goes_on(&Memory::map(heap_buffer(SIZE)?, SIZE)?)
            }),
        },
        Row {
            question: "The creator's process id, seen from another pid namespace",
            sysv: probe!(always("0"), root, {
                let segment = SysV::new(SIZE)?;
                in_child(|| {
                    unshare(CloneFlags::CLONE_NEWPID)?;
                    // Only children are in the new one.
                    in_child(|| {
                        let stat = shmctl_ipc_stat(segment.id)?;
                        Ok(stat.shm_cpid.to_string())
                    })
                })
            }),
            ..Row::REST
        },
        Row {
            question: "The superuser of a user namespace opens another's 0600",
            sysv: probe!(always("EACCES"), root, {
                let id = as_nobody(|| {
                    let segment = SysV::new(SIZE)?;
                    let id = segment.id.to_string();
                    std::mem::forget(segment);
                    Ok(id)
                })?;
                let id = id.parse().map_err(|_| "no number")?;
                let segment = SysV { key: 0, id };
                in_child(|| {
                    unshare(CloneFlags::CLONE_NEWUSER)?;
                    outcome(segment.attach())
                })
            }),
            posix: probe!(always("EACCES"), root, {
                let object = Posix::new(SIZE)?;
                nix::unistd::fchown(&object.fd, Some(65_534.into()), None)?;
                in_child(|| {
                    unshare(CloneFlags::CLONE_NEWUSER)?;
                    outcome(object.open(libc::O_RDWR))
                })
            }),
            memfd: probe!(always("EACCES"), root, {
                let fd = memfd(SIZE)?;
                let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
                nix::sys::stat::fchmod(&fd, mode)?;
                nix::unistd::fchown(&fd, Some(65_534.into()), None)?;
                in_child(|| {
                    unshare(CloneFlags::CLONE_NEWUSER)?;
                    outcome(reopen(&fd, true))
                })
            }),
            ..Row::REST
        },
        Row {
            question: "Segments of an IPC namespace whose last process ends",
            sysv: probe!(always("gone with it"), root, {
                let id = in_child(|| {
                    unshare(CloneFlags::CLONE_NEWIPC)?;
                    let segment = SysV::new(SIZE)?;
                    let id = segment.id.to_string();
                    std::mem::forget(segment);
                    Ok(id)
                })?;
                // The number means nothing here, or another segment.
                let all = shm_sysv::list()?;
                let ours = std::process::id();
                let found = all.iter().any(|stat| {
                    stat.id.as_raw().to_string() == id
                        && u32::try_from(stat.creator_pid) == Ok(ours)
                });
                crate::table::either(!found, "gone with it", "stay")
            }),
            ..Row::REST
        },
    ],
};

fn goes_on(memory: &Memory) -> Found {
    memory.write(0, 1);
    in_child(|| {
        unshare(CloneFlags::CLONE_NEWIPC)?;
        small_dev_shm(1 << 20)?;
        memory.write(1, memory.read(0) + 1);
        Ok(String::new())
    })?;
    crate::table::either(memory.read(1) == 2, "goes on", "is cut off")
}
