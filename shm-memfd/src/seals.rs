//! Only here: promises about a segment that the kernel keeps for ever.
#![expect(
    unsafe_code,
    reason = "a frozen mapping is the one that may be seen as a slice"
)]

use std::fmt;
use std::ops::{BitOr, Deref};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use shm_common::{
    AsSharedBytes, Error, HugePages, Object, PageSize, ReadOnly, Result,
    SharedBytes, Size,
};

use crate::segment::{
    check_access, check_seals, duplicate, fstat, page_size_and_len,
};
use crate::{Mapping, Segment, Stat, raw};

/// A set of seals. A seal is set once, holds for every descriptor and mapping
/// of the segment, and never comes off.
///
/// # Sources
///
/// fcntl(2), "File Sealing".
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Seals(u32);

impl Seals {
    /// No further seal can be set.
    pub const SEAL: Self = Self(libc::F_SEAL_SEAL.cast_unsigned());
    /// The size cannot shrink, so a mapping can never be cut off. Every segment
    /// of this crate has it from creation.
    pub const SHRINK: Self = Self(libc::F_SEAL_SHRINK.cast_unsigned());
    /// The size cannot grow.
    pub const GROW: Self = Self(libc::F_SEAL_GROW.cast_unsigned());
    /// Nobody can write. It can only be set while no mapping exists that was
    /// made through a descriptor for writing, and the kernel holds no page for
    /// input or output.
    pub const WRITE: Self = Self(libc::F_SEAL_WRITE.cast_unsigned());
    /// Nobody can write, except through writable mappings that exist already.
    /// Since Linux 5.1.
    pub const FUTURE_WRITE: Self =
        Self(libc::F_SEAL_FUTURE_WRITE.cast_unsigned());
    /// The executable bits cannot change. Since Linux 6.3, where every segment
    /// of this crate has it. Where somebody else made a segment that can be
    /// executed, the kernel sets [`SHRINK`](Self::SHRINK), [`GROW`](Self::GROW),
    /// [`WRITE`](Self::WRITE) and [`FUTURE_WRITE`](Self::FUTURE_WRITE) with it:
    /// what can be executed cannot be written any more.
    pub const EXEC: Self = Self(libc::F_SEAL_EXEC.cast_unsigned());

    /// No seal.
    #[must_use]
    pub const fn empty() -> Self {
        Self(0)
    }

    /// The set with these `F_SEAL_*` bits, known to this crate or not.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The set as `F_SEAL_*` bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether every seal of `other` is in this set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the two sets share a seal.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) fn of(fd: BorrowedFd<'_>) -> Result<Self> {
        match raw::fcntl_get_seals(fd) {
            Ok(bits) => Ok(Self(bits.cast_unsigned())),
            Err(os) if os.errno() == libc::EINVAL => Err(Error::WrongKind {
                object: Object::Descriptor(fd.as_raw_fd()),
                expected: "memfd",
            }),
            // It is open, since it is owned; so it was opened by O_PATH.
            Err(os) if os.errno() == libc::EBADF => {
                Err(Error::PermissionDenied(
                    os.hint("the descriptor only names the file (O_PATH)"),
                ))
            }
            Err(os) => Err(os.into()),
        }
    }
}

impl BitOr for Seals {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for Seals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [(Seals, &str); 6] = [
            (Seals::SEAL, "SEAL"),
            (Seals::SHRINK, "SHRINK"),
            (Seals::GROW, "GROW"),
            (Seals::WRITE, "WRITE"),
            (Seals::FUTURE_WRITE, "FUTURE_WRITE"),
            (Seals::EXEC, "EXEC"),
        ];
        f.write_str("Seals(")?;
        let mut rest = self.0;
        let mut separator = "";
        for (seal, name) in NAMES.iter().filter(|(s, _)| self.contains(*s)) {
            write!(f, "{separator}{name}")?;
            rest &= !seal.0;
            separator = " | ";
        }
        if rest != 0 {
            write!(f, "{separator}{rest:#x}")?;
        }
        f.write_str(")")
    }
}

/// A segment whose bytes can never change again: nobody can write or shrink
/// it. That makes it safe to see as a plain `&[u8]`. [`Segment::freeze`] also
/// keeps it from growing; one that somebody else froze may still grow behind
/// its last byte.
///
/// It is handed over like any segment; the receiver takes it by
/// [`Frozen::open`], which checks the seals and so need not trust the sender.
///
/// # Examples
///
/// ```
/// use shm_memfd::{Frozen, Label, Segment, Size};
///
/// let segment = Segment::create(&Label::new("frozen")?, Size::KIB)?;
/// segment.map()?.bytes().write_at(0, b"for ever")?;
///
/// let frozen = segment.freeze()?;
/// let mapping = frozen.map()?;
/// assert!(mapping.starts_with(b"for ever"));
/// # Ok::<(), shm_memfd::Error>(())
/// ```
#[derive(Debug)]
pub struct Frozen {
    /// Invariant: carries the seals of [`Frozen::SEALS`].
    fd: OwnedFd,
    size: Size,
    page_size: PageSize,
}

impl Frozen {
    /// What makes a segment frozen to [`open`](Self::open): nobody can write
    /// or shrink it.
    pub const SEALS: Seals = Seals(Seals::WRITE.0 | Seals::SHRINK.0);

    /// Takes a descriptor that somebody froze, after checking that it is
    /// frozen. A descriptor that is refused is closed.
    ///
    /// # Errors
    ///
    /// - [`Error::WrongKind`]: it is no memfd.
    /// - [`Error::MissingSeals`]: it lacks [`Seals::WRITE`] or
    ///   [`Seals::SHRINK`].
    /// - [`Error::PermissionDenied`]: the descriptor cannot be read.
    /// - [`Error::InvalidSize`]: its size is 0.
    pub fn open(fd: impl Into<OwnedFd>) -> Result<Self> {
        let fd = fd.into();
        check_seals(fd.as_fd(), Self::SEALS)?;
        check_access::<ReadOnly>(fd.as_fd())?;
        let (page_size, size) = page_size_and_len(fd.as_fd())?;
        Ok(Self { fd, size, page_size })
    }

    /// For the one who has just set those seals.
    pub(crate) fn sealed(fd: OwnedFd, size: Size, page_size: PageSize) -> Self {
        Self { fd, size, page_size }
    }

    /// The length in bytes, `1..=isize::MAX`.
    #[expect(
        clippy::len_without_is_empty,
        reason = "a segment has at least one byte"
    )]
    #[must_use]
    pub fn len(&self) -> usize {
        self.size.bytes()
    }

    /// Asks the kernel about the segment as it is now.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]: the kernel does not tell; never for a memfd.
    pub fn stat(&self) -> Result<Stat> {
        Ok(fstat(self.as_fd())?.into())
    }

    /// The seals that are set: those of [`SEALS`](Self::SEALS), and maybe more.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]: the kernel does not tell; never for a memfd.
    pub fn seals(&self) -> Result<Seals> {
        Seals::of(self.as_fd())
    }

    /// Makes a second handle on the same segment, with a descriptor of its own.
    ///
    /// # Errors
    ///
    /// [`Error::LimitReached`]: too many descriptors (`EMFILE`), or no more
    /// than the three standard ones are allowed (`EINVAL`).
    pub fn try_clone(&self) -> Result<Self> {
        let fd = duplicate(self.as_fd())?;
        Ok(Self { fd, size: self.size, page_size: self.page_size })
    }

    /// Maps the whole segment.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`]: no address range is free, there are too many
    /// mappings, or the huge-page pool has too few (`ENOMEM`;
    /// `vm.max_map_count`, `vm.nr_hugepages`).
    #[doc(alias = "mmap")]
    pub fn map(&self) -> Result<FrozenMapping> {
        let mapping = Mapping::new(
            self.as_fd(),
            self.size,
            self.page_size,
            HugePages::No,
        )?;
        Ok(FrozenMapping { mapping })
    }
}

impl TryFrom<OwnedFd> for Frozen {
    type Error = Error;

    fn try_from(fd: OwnedFd) -> Result<Self> {
        Self::open(fd)
    }
}

impl AsFd for Frozen {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Frozen> for OwnedFd {
    fn from(frozen: Frozen) -> Self {
        frozen.fd
    }
}

/// A frozen segment at an address of this process; derefs to its bytes.
///
/// # Crashes
///
/// Frozen bytes cannot change, but they need not be in memory yet: who reads a
/// page that was never reserved gets one, of zeros. So a sender can freeze a
/// length for which it reserved nothing ([`Reserve::OnTouch`]), and the
/// reader's touches use up memory, until the kernel's out-of-memory killer
/// comes; where the pages are those of a pool, the touch that finds it empty is
/// a `SIGBUS`. For a sender that is not trusted, compare [`Stat::allocated`]
/// with the length first.
///
/// [`Reserve::OnTouch`]: crate::Reserve::OnTouch
///
/// # Examples
///
/// ```
/// use shm_memfd::{Label, Segment, Size};
///
/// let segment = Segment::create(&Label::new("slice")?, Size::KIB)?;
/// let mapping = segment.freeze()?.map()?;
/// let bytes: &[u8] = &mapping;
/// assert_eq!(bytes, [0; 1024]);
/// # Ok::<(), shm_memfd::Error>(())
/// ```
///
/// Nothing can be stored in it:
///
/// ```compile_fail,E0596
/// # use shm_memfd::{Label, Segment, Size};
/// # let segment = Segment::create(&Label::new("slice")?, Size::KIB)?;
/// let mut mapping = segment.freeze()?.map()?;
/// mapping.fill(1);
/// # Ok::<(), shm_memfd::Error>(())
/// ```
#[derive(Debug)]
pub struct FrozenMapping {
    /// Invariant: maps a segment with the seals of [`Frozen::SEALS`].
    mapping: Mapping<ReadOnly>,
}

impl Deref for FrozenMapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: 1. nobody writes: F_SEAL_WRITE is only granted when no
        // mapping exists that is or could be made writable (so no userfaultfd
        // can fill a hole either) and the kernel itself holds none of the pages
        // for input (io_uring, dma-buf, RDMA), forbids every later one, as well
        // as write(2) and hole punching, and never comes off (fcntl(2));
        // F_SEAL_SHRINK keeps the pages there. Only files made by memfd_create
        // can have these seals, so no other file system can feign them. 2.
        // Having seen the seal through a system call is ordered after whatever
        // was written before it was set.
        unsafe { self.mapping.bytes().as_slice() }
    }
}

impl AsRef<[u8]> for FrozenMapping {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

// SAFETY: 1. and 2. are the inner mapping's.
unsafe impl AsSharedBytes for FrozenMapping {
    type Access = ReadOnly;

    fn as_shared_bytes(&self) -> SharedBytes<'_, ReadOnly> {
        self.mapping.bytes()
    }
}

/// Freezing failed, and here is the segment, as it was.
#[derive(Debug)]
#[non_exhaustive]
pub struct FreezeError {
    /// The segment that is not frozen.
    pub segment: Segment,
    /// Why.
    pub error: Error,
}

impl fmt::Display for FreezeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for FreezeError {}

impl From<FreezeError> for Error {
    fn from(failed: FreezeError) -> Self {
        failed.error
    }
}
