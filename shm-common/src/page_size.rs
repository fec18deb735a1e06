//! The units in which the kernel maps memory.

use std::fs;
use std::io;
use std::sync::OnceLock;

use nix::unistd::{SysconfVar, sysconf};

use crate::{Error, Object, OsError, Result, Size, SizeFault};

/// A page size in bytes, a power of two: the base size or one of the huge
/// sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSize(Size);

impl PageSize {
    /// Makes a page size of `bytes` bytes. Whether the kernel offers it shows
    /// when it is used; [`huge`](Self::huge) lists those that it does.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSize`]: `bytes` is not a power of two, or greater than
    /// `isize::MAX`.
    pub fn new(bytes: usize) -> Result<Self> {
        let size = Size::new(bytes)?;
        if !bytes.is_power_of_two() {
            return Err(Error::InvalidSize {
                given: bytes.to_string(),
                fault: SizeFault::NotAPowerOfTwo,
            });
        }
        Ok(Self(size))
    }

    /// The base page size of this system: 4096 bytes on x86-64, 4, 16 or 64 KiB
    /// on aarch64. Asked of the kernel once.
    ///
    /// # Sources
    ///
    /// sysconf(3), `_SC_PAGESIZE`.
    #[must_use]
    pub fn base() -> Self {
        static BASE: OnceLock<PageSize> = OnceLock::new();
        *BASE.get_or_init(|| {
            // POSIX has no system without a page size: sysconf fails for names
            // that it does not know. So the constant is never used.
            let bytes = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
            bytes
                .and_then(|bytes| usize::try_from(bytes).ok())
                .and_then(|bytes| Self::new(bytes).ok())
                .unwrap_or(Self(Size::constant(4096)))
        })
    }

    /// The huge page sizes that this kernel offers, smallest first; empty when
    /// it was built without any. Whether the pool of a size holds a page is
    /// another matter: see `nr_hugepages` in the same directory.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]: `/sys/kernel/mm/hugepages` cannot be read.
    pub fn huge() -> Result<Vec<Self>> {
        const DIRECTORY: &str = "/sys/kernel/mm/hugepages";
        let failed = |error: &io::Error| {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            OsError::new("readdir", errno).on(Object::Path(DIRECTORY.into()))
        };
        let entries = match fs::read_dir(DIRECTORY) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            entries => entries.map_err(|error| failed(&error))?,
        };
        let mut sizes = Vec::new();
        for entry in entries {
            let name = entry.map_err(|error| failed(&error))?.file_name();
            let kibibytes = name
                .to_str()
                .and_then(|name| name.strip_prefix("hugepages-"))
                .and_then(|name| name.strip_suffix("kB"))
                .and_then(|number| number.parse().ok());
            if let Some(kibibytes) = kibibytes {
                sizes.push(Self::new(Size::KIB.times(kibibytes)?.bytes())?);
            }
        }
        sizes.sort_unstable();
        Ok(sizes)
    }

    /// The page size in bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.0.bytes()
    }

    /// The base-2 logarithm, as `MFD_HUGE_SHIFT` and `SHM_HUGE_SHIFT` want it.
    #[must_use]
    pub const fn log2(self) -> u32 {
        self.bytes().trailing_zeros()
    }

    /// The bytes of the whole pages that hold `size`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSize`]: the result would be greater than `isize::MAX`.
    pub fn round_up(self, size: Size) -> Result<Size> {
        let rounded = size.bytes().checked_next_multiple_of(self.bytes());
        rounded.and_then(|bytes| Size::new(bytes).ok()).ok_or_else(|| {
            Error::InvalidSize {
                given: size.to_string(),
                fault: SizeFault::TooLarge,
            }
        })
    }
}

impl std::fmt::Display for PageSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    #[cfg_attr(miri, ignore = "Miri starts no other program")]
    fn the_base_page_size_is_the_kernels() {
        let printed =
            std::process::Command::new("getconf").arg("PAGESIZE").output();
        if let Ok(output) = printed {
            let text = String::from_utf8(output.stdout).unwrap();
            assert_eq!(text.trim(), PageSize::base().bytes().to_string());
        }
        assert!(PageSize::base().bytes() >= 4096);
    }

    #[test]
    fn huge_pages_are_greater_than_base_pages() {
        for huge in PageSize::huge().unwrap() {
            assert!(huge > PageSize::base());
        }
    }

    #[test]
    fn only_powers_of_two_are_page_sizes() {
        assert!(PageSize::new(0).is_err());
        assert!(PageSize::new(4097).is_err());
        assert_eq!(PageSize::new(2 << 20).unwrap().log2(), 21);
        assert_eq!(PageSize::new(2 << 20).unwrap().to_string(), "2MiB");
    }

    proptest! {
        #[test]
        fn rounding_adds_less_than_a_page_and_never_wraps(
            bytes in 1..=isize::MAX as usize,
            log2 in 0..63_u32,
        ) {
            let page = PageSize::new(1 << log2).unwrap();
            match page.round_up(Size::new(bytes).unwrap()) {
                Ok(rounded) => {
                    prop_assert_eq!(rounded.bytes() % page.bytes(), 0);
                    prop_assert!(rounded.bytes() >= bytes);
                    prop_assert!(rounded.bytes() - bytes < page.bytes());
                }
                Err(_) => prop_assert!(
                    bytes > isize::MAX as usize - page.bytes()
                ),
            }
        }
    }
}
