//! A life of a segment in each mechanism, and where to look for it afterwards.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::process;

use integration_tests::leaks;
use shm_common::{AsSharedBytes, ReadWrite, Result, Size};
use shm_memfd::transfer;

/// What a victim writes before it hands its segment over.
pub const CONTENTS: &[u8; 8] = b"complete";

/// Two pages, so that reserving takes more than one.
pub fn size() -> Result<Size> {
    Size::KIB.times(8)
}

/// One mechanism, as the suite uses it.
pub trait Victim {
    type Segment;

    /// The system calls of a whole life, and whether being killed just before
    /// one leaves something.
    const CALLS: &'static [(libc::c_long, Leaves)];
    /// What a kill after `create` and before the removal leaves.
    const ALIVE: Leaves;
    /// Whether what was handed over can be read when its sender is dead.
    const IS_READ_LATER: bool = true;

    fn create() -> Result<Self::Segment>;
    fn map(
        segment: &Self::Segment,
    ) -> Result<impl AsSharedBytes<Access = ReadWrite>>;
    /// Sends what finds the segment: a text, or its descriptor.
    fn hand_over(segment: &Self::Segment, to: &UnixStream) -> Result<()>;
    /// Opens what was handed over and reads it; none: it is gone.
    fn read(from: &UnixStream) -> Result<Option<[u8; 8]>>;
    /// What `left_by` calls the segment.
    fn describe(segment: &Self::Segment) -> String;
    /// What the system holds that this process made.
    fn left_by(pid: i32) -> Vec<String>;
    /// Cleans up by means of the crate; tells what it removed.
    fn clean(pid: i32) -> Vec<String>;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leaves {
    Nothing,
    Segment,
}

use Leaves::{Nothing, Segment};

/// By which call the C library removes a name: newer architectures have but the
/// general one.
#[cfg(not(any(target_arch = "aarch64", target_arch = "riscv64")))]
const UNLINK: libc::c_long = libc::SYS_unlink;
#[cfg(any(target_arch = "aarch64", target_arch = "riscv64"))]
const UNLINK: libc::c_long = libc::SYS_unlinkat;

pub struct Posix;

impl Victim for Posix {
    type Segment = shm_posix::Segment;

    const CALLS: &'static [(libc::c_long, Leaves)] = &[
        (libc::SYS_flock, Nothing),
        (libc::SYS_fchmod, Nothing),
        (libc::SYS_fallocate, Nothing),
        (libc::SYS_linkat, Nothing),
        (libc::SYS_mmap, Segment),
        (libc::SYS_munmap, Segment),
        (UNLINK, Segment),
    ];
    const ALIVE: Leaves = Segment;

    fn create() -> Result<Self::Segment> {
        let name = leaks::unique_name("crash");
        shm_posix::Segment::create(&shm_posix::Name::new(name)?, size()?)
    }

    fn map(
        segment: &Self::Segment,
    ) -> Result<impl AsSharedBytes<Access = ReadWrite>> {
        segment.map()
    }

    fn hand_over(segment: &Self::Segment, to: &UnixStream) -> Result<()> {
        send_text(to, &segment.name().to_string())
    }

    fn read(from: &UnixStream) -> Result<Option<[u8; 8]>> {
        let Some(name) = receive_text(from) else { return Ok(None) };
        let name: shm_posix::Name = name.parse()?;
        Ok(Some(shm_posix::Segment::open(&name)?.map()?.bytes().get(0)?))
    }

    fn describe(segment: &Self::Segment) -> String {
        segment.name().to_string()
    }

    fn left_by(pid: i32) -> Vec<String> {
        let entries = std::fs::read_dir("/dev/shm").unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        names
            .map(|name| format!("/{}", name.to_string_lossy()))
            .filter(|name| name.starts_with(&format!("/shmtest-{pid}-")))
            .collect()
    }

    fn clean(pid: i32) -> Vec<String> {
        let reaped = shm_posix::reap(&format!("shmtest-{pid}-")).unwrap();
        assert!(reaped.in_use.is_empty(), "{reaped:?}");
        assert!(reaped.failed.is_empty(), "{reaped:?}");
        reaped.removed.iter().map(ToString::to_string).collect()
    }
}

pub struct SysV;

impl Victim for SysV {
    type Segment = shm_sysv::Segment;

    const CALLS: &'static [(libc::c_long, Leaves)] = &[
        (libc::SYS_shmget, Nothing),
        (libc::SYS_shmat, Segment),
        (libc::SYS_madvise, Segment),
        (libc::SYS_shmctl, Segment),
        (libc::SYS_shmdt, Nothing),
    ];
    const ALIVE: Leaves = Segment;

    fn create() -> Result<Self::Segment> {
        shm_sysv::Segment::create(shm_sysv::Key::PRIVATE, size()?)
    }

    fn map(
        segment: &Self::Segment,
    ) -> Result<impl AsSharedBytes<Access = ReadWrite>> {
        segment.map()
    }

    fn hand_over(segment: &Self::Segment, to: &UnixStream) -> Result<()> {
        send_text(to, &segment.id().as_raw().to_string())
    }

    fn read(from: &UnixStream) -> Result<Option<[u8; 8]>> {
        let Some(id) = receive_text(from) else { return Ok(None) };
        let segment = shm_sysv::Segment::open_id(id.parse()?)?;
        Ok(Some(segment.map()?.bytes().get(0)?))
    }

    fn describe(segment: &Self::Segment) -> String {
        segment.id().to_string()
    }

    fn left_by(pid: i32) -> Vec<String> {
        let all = shm_sysv::list().unwrap();
        let own = all.iter().filter(|stat| stat.creator_pid == pid);
        own.map(|stat| stat.id.to_string()).collect()
    }

    fn clean(pid: i32) -> Vec<String> {
        let all = shm_sysv::list().unwrap();
        let own = all.iter().filter(|stat| stat.creator_pid == pid);
        own.map(|stat| {
            assert!(stat.is_abandoned(), "{stat:?}");
            stat.id.remove().unwrap();
            stat.id.to_string()
        })
        .collect()
    }
}

/// System V, with `remove_on_last_detach`.
pub struct SysVAutomatic;

impl Victim for SysVAutomatic {
    type Segment = shm_sysv::Segment;

    const CALLS: &'static [(libc::c_long, Leaves)] = &[
        (libc::SYS_shmget, Nothing),
        // The documented gap: until the third call marks it.
        (libc::SYS_shmat, Segment),
        (libc::SYS_shmctl, Segment),
        (libc::SYS_madvise, Nothing),
        (libc::SYS_shmdt, Nothing),
    ];
    const ALIVE: Leaves = Nothing;
    const IS_READ_LATER: bool = false;

    fn create() -> Result<Self::Segment> {
        shm_sysv::SegmentOptions::new()
            .remove_on_last_detach()
            .create(shm_sysv::Key::PRIVATE, size()?)
    }

    fn map(
        segment: &Self::Segment,
    ) -> Result<impl AsSharedBytes<Access = ReadWrite>> {
        segment.map()
    }

    fn hand_over(segment: &Self::Segment, to: &UnixStream) -> Result<()> {
        SysV::hand_over(segment, to)
    }

    fn read(from: &UnixStream) -> Result<Option<[u8; 8]>> {
        match SysV::read(from) {
            Err(
                shm_common::Error::NotFound(_) | shm_common::Error::Removed(_),
            ) => Ok(None),
            found => found,
        }
    }

    fn describe(segment: &Self::Segment) -> String {
        segment.id().to_string()
    }

    fn left_by(pid: i32) -> Vec<String> {
        SysV::left_by(pid)
    }

    fn clean(pid: i32) -> Vec<String> {
        SysV::clean(pid)
    }
}

pub struct Memfd;

impl Victim for Memfd {
    type Segment = shm_memfd::Segment;

    const CALLS: &'static [(libc::c_long, Leaves)] = &[
        (libc::SYS_memfd_create, Nothing),
        (libc::SYS_fallocate, Nothing),
        (libc::SYS_fcntl, Nothing),
        (libc::SYS_mmap, Nothing),
        (libc::SYS_sendmsg, Nothing),
        (libc::SYS_munmap, Nothing),
    ];
    const ALIVE: Leaves = Nothing;

    fn create() -> Result<Self::Segment> {
        let label = format!("{}crash", leaks::prefix());
        shm_memfd::Segment::create(&shm_memfd::Label::new(label)?, size()?)
    }

    fn map(
        segment: &Self::Segment,
    ) -> Result<impl AsSharedBytes<Access = ReadWrite>> {
        segment.map()
    }

    fn hand_over(segment: &Self::Segment, to: &UnixStream) -> Result<()> {
        transfer::send(to, b"!", &[segment.as_fd()])
    }

    fn read(from: &UnixStream) -> Result<Option<[u8; 8]>> {
        match transfer::receive(from, &mut [0], 1) {
            Ok(message) => {
                let [fd] = message.into_descriptors()?;
                let segment = shm_memfd::Segment::open(fd)?;
                Ok(Some(segment.map()?.bytes().get(0)?))
            }
            Err(shm_common::Error::WouldBlock(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn describe(segment: &Self::Segment) -> String {
        let link = format!("/proc/self/fd/{}", segment.as_fd().as_raw_fd());
        std::fs::read_link(link).unwrap().to_string_lossy().into_owned()
    }

    fn left_by(pid: i32) -> Vec<String> {
        // Only as a descriptor or a mapping of somebody. The children of this
        // process are all that could have inherited one, and all are gone.
        let label = format!("/memfd:shmtest-{pid}-crash");
        let own = format!("/proc/{}/fd", process::id());
        std::fs::read_dir(own)
            .unwrap()
            .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
            .map(|target| target.to_string_lossy().into_owned())
            .filter(|target| target.starts_with(&label))
            .collect()
    }

    fn clean(_: i32) -> Vec<String> {
        Vec::new()
    }
}

/// What the system holds, whoever made it, as `left_by` calls it.
pub fn everything() -> BTreeSet<String> {
    let entries = std::fs::read_dir("/dev/shm").unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| format!("/{}", name.to_string_lossy()));
    let segments = shm_sysv::list().unwrap();
    names.chain(segments.iter().map(|stat| stat.id.to_string())).collect()
}

fn send_text(mut to: &UnixStream, text: &str) -> Result<()> {
    use std::io::Write;
    // A socket pair that is read later: it has room.
    to.write_all(text.as_bytes()).unwrap();
    Ok(())
}

/// What was sent before its sender died, whole: it was one write.
fn receive_text(mut from: &UnixStream) -> Option<String> {
    let mut text = [0; 300];
    let len = from.read(&mut text).unwrap_or_default();
    let text = String::from_utf8(text[..len].to_vec()).unwrap();
    (!text.is_empty()).then_some(text)
}
