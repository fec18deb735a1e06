//! Claiming the pages of a buffer: how much may be asked for, which the drivers
//! either do not say or say too late.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::sysinfo::sysinfo;
use shm_common::{Error, Object, OsError, Result, Size};

use crate::Heap;

/// Where the udmabuf driver has its limits.
const PARAMETERS: &str = "/sys/module/udmabuf/parameters";

/// Refuses what memory does not hold. A heap takes pages until it has them all
/// or the kernel has killed whatever it could and panics: it never says ENOMEM
/// for want of memory. A part is left for everyone else.
///
/// Heaps of a device's own memory are told by their names: those are not of the
/// system's, and say ENOMEM themselves.
pub(crate) fn refuse_beyond_memory(heap: &Heap, size: Size) -> Result<()> {
    if !heap.name().as_bytes().starts_with(b"system") {
        return Ok(());
    }
    let available = available();
    let most = available - available / 8;
    if size.bytes() as u64 <= most {
        return Ok(());
    }
    let os = OsError::new("ioctl(DMA_HEAP_IOCTL_ALLOC)", libc::ENOMEM);
    Err(Error::OutOfMemory(os.on(heap.object()).hint(format!(
        "{size} asked for, {available} bytes of memory are available, of which \
         an eighth is kept; the kernel was not asked, as it would run out of \
         memory rather than refuse"
    ))))
}

/// The bytes that can be had without swapping, as the kernel estimates them;
/// without /proc, those that are free. Swap does not count: the pages of a
/// buffer cannot go there, and others may not have to.
fn available() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    // "MemAvailable:     832132 kB"
    let told = meminfo.lines().find_map(|line| {
        let kibibytes = line.strip_prefix("MemAvailable:")?;
        kibibytes.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    });
    match told {
        Some(kibibytes) => kibibytes.saturating_mul(1024),
        None => sysinfo().map_or(0, |info| info.ram_unused()),
    }
}

/// Says which limit of the driver's refused a buffer that has nothing else
/// wrong with it.
pub(crate) fn over_limit(os: OsError, pages: Size, parts: usize) -> Error {
    if os.errno() != libc::EINVAL {
        return os.into();
    }
    let exceeded = |name: &str, given: u64, unit: u64| {
        let limit = parameter(name)?;
        (given > limit.saturating_mul(unit))
            .then(|| format!("udmabuf.{name} is {limit}: see {PARAMETERS}"))
    };
    let hint = exceeded("size_limit_mb", pages.bytes() as u64, 1 << 20)
        .or_else(|| exceeded("list_limit", parts as u64, 1));
    match hint {
        Some(hint) => Error::LimitReached(
            os.on(Object::Path("/dev/udmabuf".into())).hint(hint),
        ),
        None => os.into(),
    }
}

fn parameter(name: &str) -> Option<u64> {
    let text = fs::read_to_string(Path::new(PARAMETERS).join(name)).ok()?;
    text.trim().parse().ok()
}
