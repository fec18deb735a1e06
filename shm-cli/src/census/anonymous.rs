//! memfd and dma-buf: without a name, and there only while somebody has them.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::OnceLock;

use nix::fcntl::OFlag;
use nix::libc;
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open,
};
use shm_common::PageSize;
use shm_memfd::Seals;

use super::look::{Held, Look, Object, known, without_mark};
use super::segment::{Segment, Verdict, open_or_mapped_by};
use crate::Failure;
use crate::mechanism::Mechanism;
use crate::output::printable;
use crate::target::{Descriptor, Target};

/// Those of these mechanisms, in the order of the processes that have them.
pub(super) fn census(look: &Look, mechanisms: &[Mechanism]) -> Vec<Segment> {
    let mut segments: Vec<Segment> = look
        .held
        .iter()
        .filter(|(_, held)| mechanisms.contains(&held.mechanism))
        .filter_map(|(object, held)| segment(*object, held))
        .collect();
    segments.sort_by_key(|segment| {
        let first = segment.users.first().map(|user| user.pid);
        let fd = match &segment.target {
            Some(Target::Memfd(it) | Target::Dmabuf(it)) => Some(it.fd),
            _ => None,
        };
        (segment.mechanism, first, fd, segment.name.clone())
    });
    segments
}

/// None: it is of another kind.
fn segment(object: Object, held: &Held) -> Option<Segment> {
    let prefix = prefix(held.mechanism)?;
    let label = without_mark(held.path.as_bytes()).strip_prefix(prefix)?;
    let to_target = match held.mechanism {
        Mechanism::Memfd => Target::Memfd,
        _ => Target::Dmabuf,
    };
    let mut facts = held.known_facts();
    if held.mechanism == Mechanism::Dmabuf {
        // It has no blocks; its pages are all there, for devices.
        facts.resident = facts.len;
    }
    if held.mechanism == Mechanism::Memfd {
        // Other files can have such a path, too.
        if !is_memfd(object).unwrap_or(true) {
            return None;
        }
        let seals = held.descriptor.map(|it| seals(it, object));
        facts.seals = seals.and_then(Result::ok);
    }
    Some(Segment {
        mechanism: held.mechanism,
        object,
        target: held.descriptor.map(to_target),
        name: printable(std::ffi::OsStr::from_bytes(label)),
        facts,
        users: held.users.clone(),
        verdict: Verdict::InUse,
        evidence: open_or_mapped_by(&held.users),
    })
}

/// How the paths of those without a name begin.
fn prefix(mechanism: Mechanism) -> Option<&'static [u8]> {
    match mechanism {
        Mechanism::Memfd => Some(b"/memfd:"),
        Mechanism::Dmabuf => Some(b"/dmabuf:"),
        Mechanism::Sysv | Mechanism::Posix => None,
    }
}

fn seals(descriptor: Descriptor, object: Object) -> Result<Seals, Failure> {
    // Whoever has a lease on it could keep this process waiting.
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
    let file = open_as(descriptor, object, &options)?;
    let bits = shm_memfd::raw::fcntl_get_seals(file.as_fd())?;
    Ok(Seals::from_bits(bits.cast_unsigned()))
}

/// Opens what another process's descriptor leads to, once more: if it is this
/// object, which may have changed since it was looked at, and a memfd. Something
/// else is never opened, only looked at: it may be a device that does something
/// then, or a file whose server never answers.
pub(crate) fn open_as(
    descriptor: Descriptor,
    object: Object,
    options: &OpenOptions,
) -> io::Result<fs::File> {
    // It stays the same behind this one.
    let held = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_PATH.bits())
        .open(descriptor.path())?;
    let here = format!("/proc/self/fd/{}", held.as_raw_fd());
    let known = known(Path::new(&here))?;
    if Object::of_statx(&known) != object || !is_memfd(object)? {
        return Err(io::ErrorKind::NotFound.into());
    }
    options.open(here)
}

/// Takes another process's descriptor, if it leads to this object: what cannot
/// be opened once more, as no dma-buf can.
///
/// # Sources
///
/// `pidfd_getfd(2)`, of Linux 5.6 and later.
pub(crate) fn take(
    descriptor: Descriptor,
    object: Object,
) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(descriptor.pid).ok_or(io::ErrorKind::NotFound)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let flags = PidfdGetfdFlags::empty();
    let taken = pidfd_getfd(process, descriptor.fd, flags)?;
    let here = format!("/proc/self/fd/{}", taken.as_raw_fd());
    match Object::of_statx(&known(Path::new(&here))?) == object {
        true => Ok(taken),
        false => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Whether it lies where the kernel keeps memfds, whatever it is called: in
/// mounts of its own, one for each size of pages.
fn is_memfd(object: Object) -> io::Result<bool> {
    static DEVICES: OnceLock<Vec<u64>> = OnceLock::new();
    let devices = match DEVICES.get() {
        Some(devices) => devices,
        None => {
            let mut devices = vec![device_of_memfds(0)?];
            for size in PageSize::huge().unwrap_or_default() {
                let size = size.log2() << libc::MFD_HUGE_SHIFT;
                // Not all that the processor has, the kernel gives out.
                devices.extend(device_of_memfds(libc::MFD_HUGETLB | size).ok());
            }
            DEVICES.get_or_init(|| devices)
        }
    };
    Ok(match object {
        Object::File { device, .. } => devices.contains(&device),
        Object::SystemV(_) => false,
    })
}

fn device_of_memfds(flags: libc::c_uint) -> io::Result<u64> {
    let flags = flags | libc::MFD_CLOEXEC;
    let create = |flags| shm_memfd::raw::memfd_create(c"shm", flags);
    // Before Linux 6.3 there is no such flag.
    let memfd = create(flags | libc::MFD_NOEXEC_SEAL)
        .or_else(|_| create(flags))
        .map_err(|os| io::Error::from_raw_os_error(os.errno()))?;
    Ok(fs::File::from(memfd).metadata()?.dev())
}

/// What a descriptor leads to, if that is of the mechanism.
pub(super) fn object(
    mechanism: Mechanism,
    descriptor: Descriptor,
) -> Result<Object, Failure> {
    let target = match mechanism {
        Mechanism::Dmabuf => Target::Dmabuf(descriptor),
        _ => Target::Memfd(descriptor),
    };
    let path = descriptor.path();
    let link =
        fs::read_link(&path).map_err(|error| target.cannot("find", error))?;
    let prefix = prefix(mechanism).unwrap_or_default();
    if !link.as_os_str().as_bytes().starts_with(prefix) {
        let link = printable(link.as_os_str());
        return Err(format!(
            "cannot use {target}: it leads to {link}, which is no {mechanism}"
        )
        .into());
    }
    let known = known(&path).map_err(|e| target.cannot("find", e))?;
    Ok(Object::of_statx(&known))
}
