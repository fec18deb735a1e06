//! How much memory there is to reserve.

use std::fs::File;
use std::io::{self, Read};

use crate::{Error, Object, OsError, Result, Size};

/// Below this many bytes nobody asks: memory that is that short cannot be
/// helped by an error.
const WORTH_ASKING: usize = 16 << 20;

/// Refuses to reserve `size` bytes that this machine does not have. The kernel
/// itself hands out pages until none is left, and then kills a process, which
/// need not be the one that asked.
///
/// The answer is true at the moment of the call, and does not know the limits
/// of control groups. Without `/proc` everything passes.
///
/// # Errors
///
/// [`Error::OutOfMemory`]: more than is free or can be freed (`ENOMEM`); no
/// call was made.
///
/// # Sources
///
/// `proc_meminfo(5)`: `MemAvailable`, `SwapFree`.
pub fn check_memory(size: Size) -> Result<()> {
    match size.bytes() < WORTH_ASKING {
        true => Ok(()),
        false => ask(size),
    }
}

/// Kept out of line: small segments do not come here.
#[cold]
fn ask(size: Size) -> Result<()> {
    match read_table().as_deref().ok().and_then(available) {
        Some(bytes) if size.bytes() as u64 > bytes => {
            let os = OsError::new("reserve", libc::ENOMEM)
                .on(Object::Memory(size.bytes()))
                .hint(format!("{bytes} bytes of memory and swap are left"));
            Err(Error::OutOfMemory(os))
        }
        _ => Ok(()),
    }
}

/// The beginning of the table, by one read: the lines that count stand there.
fn read_table() -> io::Result<String> {
    let mut table = vec![0; 2048];
    let len = File::open("/proc/meminfo")?.read(&mut table)?;
    table.truncate(len);
    String::from_utf8(table).map_err(io::Error::other)
}

/// What `/proc/meminfo` says of memory and swap that is left, in bytes.
fn available(table: &str) -> Option<u64> {
    let kibibytes = |name: &str| {
        let line = table.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()
    };
    let memory = kibibytes("MemAvailable:")?;
    let swap = kibibytes("SwapFree:").unwrap_or_default();
    memory.checked_add(swap)?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_swap_that_are_left_count() {
        let table =
            "MemTotal:  100 kB\nMemAvailable:   50 kB\nSwapFree: 7 kB\n";
        assert_eq!(available(table), Some(57 * 1024));
        assert_eq!(available("MemAvailable: 50 kB\n"), Some(50 * 1024));
        assert_eq!(available("MemTotal: 100 kB\n"), None);
        assert_eq!(available("MemAvailable: many kB\n"), None);
        assert_eq!(available(&format!("MemAvailable: {} kB", u64::MAX)), None);
    }

    #[test]
    fn what_no_machine_has_is_refused_with_what_this_one_has() {
        let error = check_memory(Size::MAX).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory(_)), "{error:?}");
        assert!(error.to_string().contains("are left"), "{error}");
        assert_eq!(check_memory(Size::MIB), Ok(()));
    }
}
