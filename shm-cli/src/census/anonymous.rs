//! memfd and dma-buf: without a name, and there only while somebody has them.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::OFlag;
use shm_memfd::Seals;

use super::look::{Held, Look, Object, without_mark};
use super::segment::{Facts, Segment, Verdict, open_or_mapped_by};
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
    let mut facts = match &held.metadata {
        Some(metadata) => Facts::of_file(metadata),
        None => Facts { len: Some(held.mapped_len), ..Facts::default() },
    };
    if held.mechanism == Mechanism::Dmabuf {
        // It has no blocks; its pages are all there, for devices.
        facts.resident = facts.len;
    }
    if held.mechanism == Mechanism::Memfd
        && let Some(descriptor) = held.descriptor
    {
        facts.seals = seals(descriptor, object).ok();
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
    let file = open_as(descriptor, object, OpenOptions::new().read(true))?;
    let bits = shm_memfd::raw::fcntl_get_seals(file.as_fd())?;
    Ok(Seals::from_bits(bits.cast_unsigned()))
}

/// Opens what another process's descriptor leads to, once more: if it is this
/// object, which may have changed since it was looked at. Something else is
/// never opened, only looked at: it may be a device that does something then.
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
    let metadata = held.metadata()?;
    if !metadata.is_file() || Object::of(&metadata) != object {
        return Err(io::ErrorKind::NotFound.into());
    }
    let number = std::os::fd::AsRawFd::as_raw_fd(&held);
    options.open(format!("/proc/self/fd/{number}"))
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
    let metadata = fs::metadata(&path);
    let metadata = metadata.map_err(|e| target.cannot("find", e))?;
    Ok(Object::of(&metadata))
}
