//! A memfd segment: `memfd_create` → ftruncate → mmap → munmap → close.

use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{self, FileStat, Mode};
use nix::sys::statfs::{HUGETLBFS_MAGIC, fstatfs};
use shm_common::{
    Access, Error, HugePages, Object, OsError, PageSize, ReadOnly, ReadWrite,
    Result, Size, SizeFault,
};

use crate::seals::{FreezeError, Frozen, Seals};
use crate::{Label, Mapping, SegmentOptions, Stat, raw, reserve};

/// A handle on a segment, by which it is mapped, measured, sealed and changed.
///
/// It is a descriptor. The kernel frees the segment when the last descriptor
/// and the last mapping of it are gone, in whatever process and for whatever
/// reason, `SIGKILL` included; there is no name to remove, and nothing to keep.
///
/// Every segment carries [`Seals::SHRINK`], so that no mapping of it can ever
/// be cut off.
///
/// # Examples
///
/// A segment for reading only cannot be mapped writable, nor resized or sealed:
///
/// ```compile_fail,E0308
/// # use shm_memfd::{Label, Mapping, ReadWrite, Segment, Size};
/// # let segment = Segment::create(&Label::new("read-only")?, Size::KIB)?;
/// let mapping: Mapping<ReadWrite> = segment.to_read_only()?.map()?;
/// # Ok::<(), shm_memfd::Error>(())
/// ```
///
/// ```compile_fail,E0599
/// # use shm_memfd::{Label, Seals, Segment, Size};
/// # let segment = Segment::create(&Label::new("read-only")?, Size::KIB)?;
/// segment.to_read_only()?.seal(Seals::GROW)?;
/// # Ok::<(), shm_memfd::Error>(())
/// ```
pub struct Segment<A: Access = ReadWrite> {
    fd: OwnedFd,
    size: Size,
    page_size: PageSize,
    options: SegmentOptions,
    _access: PhantomData<A>,
}

// Create.
impl Segment<ReadWrite> {
    /// Creates a segment of `size` zero bytes that nobody else knows of, with
    /// its pages reserved.
    ///
    /// # Errors
    ///
    /// - [`Error::NoSpace`]: the huge-page pool has too few (`ENOSPC`).
    /// - [`Error::OutOfMemory`]: not that much memory (`ENOMEM`).
    /// - [`Error::LimitReached`]: too many descriptors (`EMFILE`, `ENFILE`).
    /// - [`Error::Unsupported`]: the kernel has no huge pages of that size.
    ///
    /// # Crashes
    ///
    /// A size beyond `RLIMIT_FSIZE` is a `SIGXFSZ`, as for any file; where that
    /// is ignored or blocked, [`Error::LimitReached`] (`EFBIG`).
    ///
    /// # Sources
    ///
    /// `memfd_create(2)` (since Linux 3.17), `posix_fallocate(3)`.
    pub fn create(label: &Label, size: Size) -> Result<Self> {
        SegmentOptions::new().create(label, size)
    }

    pub(crate) fn create_with(
        options: SegmentOptions,
        label: &Label,
        size: Size,
    ) -> Result<Self> {
        let (page_size, object_size) = match options.huge_pages {
            HugePages::Pool(page) => (page, page.round_up(size)?),
            _ => (PageSize::base(), size),
        };
        let fd = create_fd(options, label)?;
        if let Some(mode) = options.mode {
            fchmod(fd.as_fd(), mode)?;
        }
        reserve::set_size(fd.as_fd(), options, object_size)?;
        raw::fcntl_add_seals(fd.as_fd(), libc::F_SEAL_SHRINK)?;
        Ok(Self { fd, size, page_size, options, _access: PhantomData })
    }
}

fn create_fd(options: SegmentOptions, label: &Label) -> Result<OwnedFd> {
    let mut flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    if let HugePages::Pool(page) = options.huge_pages {
        flags |= libc::MFD_HUGETLB | page.log2() << libc::MFD_HUGE_SHIFT;
    }
    let create = |flags| raw::memfd_create(label.as_c_str(), flags);
    // Shared memory is not for running: say so where the kernel knows the flag,
    // as it warns and may refuse where it is not said.
    let created = match create(flags | libc::MFD_NOEXEC_SEAL) {
        // EINVAL: older than 6.3, or no huge pages of this size.
        Err(os) if os.errno() == libc::EINVAL => create(flags),
        created => created,
    };
    created.map_err(|os| match (os.errno(), options.huge_pages) {
        (libc::EINVAL | libc::ENODEV, HugePages::Pool(_)) => {
            Error::Unsupported {
                what: "this kernel has no huge pages of that size; \
                       /sys/kernel/mm/hugepages lists those it has",
                os: Some(os),
            }
        }
        _ => os.into(),
    })
}

// Open.
impl Segment<ReadWrite> {
    /// Takes a descriptor that was received or inherited, for reading and
    /// writing, after checking that it is safe to map; what its sender says is
    /// not relied on. A descriptor that is refused is closed.
    ///
    /// # Errors
    ///
    /// - [`Error::WrongKind`]: it is no memfd, nor any file that has seals.
    /// - [`Error::MissingSeals`]: it lacks [`Seals::SHRINK`], so its sender
    ///   could crash us.
    /// - [`Error::PermissionDenied`]: it is for reading only, or sealed against
    ///   writing.
    /// - [`Error::InvalidSize`]: its size is 0.
    pub fn open(fd: impl Into<OwnedFd>) -> Result<Self> {
        SegmentOptions::new().open(fd)
    }
}

impl Segment<ReadOnly> {
    /// Takes a descriptor as [`Segment::open`] does, for reading: gives a
    /// handle that cannot be mapped writable.
    ///
    /// # Errors
    ///
    /// As for [`Segment::open`]; a descriptor for reading only is welcome.
    pub fn open_read_only(fd: impl Into<OwnedFd>) -> Result<Self> {
        SegmentOptions::new().open_read_only(fd)
    }
}

impl<A: Access> Segment<A> {
    pub(crate) fn open_with(
        mut options: SegmentOptions,
        fd: OwnedFd,
    ) -> Result<Self> {
        let seals = check_seals(fd.as_fd(), Seals::SHRINK)?;
        check_access::<A>(fd.as_fd())?;
        if A::WRITABLE && seals.intersects(Seals::WRITE | Seals::FUTURE_WRITE) {
            let os = os_error("mmap", Errno::EPERM, descriptor(fd.as_fd()));
            return Err(os.hint("it is sealed against writing").into());
        }
        let (page_size, size) = page_size_and_len(fd.as_fd())?;
        if page_size != PageSize::base() {
            options.huge_pages = HugePages::Pool(page_size);
        }
        Ok(Self { fd, size, page_size, options, _access: PhantomData })
    }
}

/// The seals, if they include those that are required.
pub(crate) fn check_seals(
    fd: BorrowedFd<'_>,
    required: Seals,
) -> Result<Seals> {
    let present = Seals::of(fd)?;
    if !present.contains(required) {
        return Err(Error::MissingSeals {
            object: descriptor(fd),
            required: required.bits(),
            present: present.bits(),
        });
    }
    Ok(present)
}

/// Refuses a descriptor that cannot be read, or not be written where it is to
/// be: `mmap` would refuse it later.
pub(crate) fn check_access<A: Access>(fd: BorrowedFd<'_>) -> Result<()> {
    let flags = fcntl(fd, FcntlArg::F_GETFL)
        .map_err(|errno| os_error("fcntl(F_GETFL)", errno, descriptor(fd)))?;
    let access = OFlag::from_bits_retain(flags) & OFlag::O_ACCMODE;
    let hint = if access == OFlag::O_WRONLY {
        "the descriptor cannot be read"
    } else if A::WRITABLE && access != OFlag::O_RDWR {
        "the descriptor is for reading only"
    } else {
        return Ok(());
    };
    Err(os_error("mmap", Errno::EACCES, descriptor(fd)).hint(hint).into())
}

/// What pages the segment is made of, and how long it really is.
pub(crate) fn page_size_and_len(
    fd: BorrowedFd<'_>,
) -> Result<(PageSize, Size)> {
    let stat = fstat(fd)?;
    let size = Size::try_from(Stat::from(stat).len)?;
    let base = PageSize::base();
    // A block is a huge page in a pool; in a tmpfs it may be the size of one
    // too, when transparent huge pages are on. So only then ask once more.
    let block = usize::try_from(stat.st_blksize).unwrap_or(base.bytes());
    if block == base.bytes() {
        return Ok((base, size));
    }
    let fs = fstatfs(fd)
        .map_err(|errno| os_error("fstatfs", errno, descriptor(fd)))?;
    let page_size = match fs.filesystem_type() {
        HUGETLBFS_MAGIC => PageSize::new(block)?,
        _ => base,
    };
    Ok((page_size, size))
}

// Inspect.
impl<A: Access> Segment<A> {
    /// The length in bytes, `1..=isize::MAX`: as asked for at creation or in
    /// [`resize`](Segment::resize), or as found by open.
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

    /// The seals that it carries now.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]: the kernel does not tell; never for a memfd.
    pub fn seals(&self) -> Result<Seals> {
        Seals::of(self.as_fd())
    }
}

// Map.
impl Segment<ReadWrite> {
    /// Maps the whole segment for reading and writing.
    ///
    /// # Errors
    ///
    /// - [`Error::OutOfMemory`]: no address range is free, there are too many
    ///   mappings, or the huge-page pool has too few (`ENOMEM`;
    ///   `vm.max_map_count`, `vm.nr_hugepages`).
    /// - [`Error::PermissionDenied`]: it was sealed against writing meanwhile
    ///   (`EPERM`).
    ///
    /// # Crashes
    ///
    /// See [`Mapping`].
    #[doc(alias = "mmap")]
    pub fn map(&self) -> Result<Mapping<ReadWrite>> {
        self.map_as()
    }

    /// Maps the whole segment for reading: a store through the mapping does not
    /// compile, and one that goes around it is a `SIGSEGV`.
    ///
    /// # Errors
    ///
    /// As for [`map`](Self::map), except that no seal forbids it.
    ///
    /// # Crashes
    ///
    /// See [`Mapping`].
    pub fn map_read_only(&self) -> Result<Mapping<ReadOnly>> {
        self.map_as()
    }
}

impl Segment<ReadOnly> {
    /// Maps the whole segment for reading.
    ///
    /// # Errors
    ///
    /// As for [`Segment::map_read_only`].
    ///
    /// # Crashes
    ///
    /// See [`Mapping`].
    #[doc(alias = "mmap")]
    pub fn map(&self) -> Result<Mapping<ReadOnly>> {
        self.map_as()
    }
}

impl<A: Access> Segment<A> {
    fn map_as<B: Access>(&self) -> Result<Mapping<B>> {
        let huge_pages = self.options.huge_pages;
        Mapping::new(self.as_fd(), self.size, self.page_size, huge_pages)
    }
}

// Change.
impl Segment<ReadWrite> {
    /// Grows the segment to `size` bytes; the new ones are zero. Mappings keep
    /// their length: map again to reach the new bytes.
    ///
    /// # Errors
    ///
    /// - [`Error::InvalidSize`]: smaller than this handle's. A segment never
    ///   shrinks.
    /// - [`Error::PermissionDenied`]: it is sealed by [`Seals::GROW`]
    ///   (`EPERM`).
    /// - [`Error::NoSpace`], [`Error::OutOfMemory`]: as for
    ///   [`create`](Self::create); the size is as before, though some pages may
    ///   already be reserved.
    #[doc(alias = "ftruncate")]
    pub fn resize(&mut self, size: Size) -> Result<()> {
        let now = Size::try_from(self.stat()?.len)?;
        if size.bytes() < self.len() {
            return Err(Error::InvalidSize {
                given: size.to_string(),
                fault: SizeFault::Shrinks,
            });
        }
        let object_size = match self.options.huge_pages {
            HugePages::Pool(page) => page.round_up(size)?,
            _ => size,
        };
        // Another process may have made it longer already.
        if object_size > now {
            reserve::grow(self.as_fd(), self.options, now, object_size)?;
        }
        self.size = size;
        Ok(())
    }

    /// Sets seals. They hold for everyone, at once and for ever.
    ///
    /// [`Seals::FUTURE_WRITE`] lets whoever has mapped the segment write on and
    /// makes it read-only for all others: map first, then seal, then hand over.
    ///
    /// # Errors
    ///
    /// - [`Error::Busy`]: [`Seals::WRITE`], or [`Seals::EXEC`] where it brings
    ///   that with it, while a mapping exists, in whatever process, that was
    ///   made through a descriptor for writing: a read-only one too, by
    ///   [`map_read_only`](Self::map_read_only), as it could be made writable,
    ///   and one that a forked child inherited; or while the kernel holds
    ///   pages, as `io_uring` and dma-buf do, and a pipe that the segment was
    ///   spliced into, which a mere reader can bring about (`EBUSY`).
    /// - [`Error::PermissionDenied`]: it is sealed by [`Seals::SEAL`]
    ///   (`EPERM`).
    /// - [`Error::Os`]: the kernel does not know the seal (`EINVAL`).
    pub fn seal(&self, seals: Seals) -> Result<()> {
        let bits = seals.bits().cast_signed();
        raw::fcntl_add_seals(self.as_fd(), bits).map_err(|os| {
            match os.errno() {
                libc::EBUSY => Error::Busy(os.hint(
                    "it is mapped through a descriptor for writing, here or \
                     elsewhere, or the kernel uses its pages",
                )),
                _ => os.into(),
            }
        })
    }

    /// Makes the bytes unchangeable for everyone and for ever, this process
    /// included.
    ///
    /// # Errors
    ///
    /// [`FreezeError`], which holds the segment as it was, and the error:
    ///
    /// - [`Error::Busy`]: a mapping exists, here or elsewhere, that was made
    ///   through a descriptor for writing, be it for reading only: drop it
    ///   first; or the kernel holds pages, as for [`seal`](Self::seal)
    ///   (`EBUSY`).
    /// - [`Error::PermissionDenied`]: it is sealed by [`Seals::SEAL`]
    ///   (`EPERM`).
    #[expect(
        clippy::result_large_err,
        reason = "the error gives the segment back"
    )]
    pub fn freeze(self) -> Result<Frozen, FreezeError> {
        let every = Seals::WRITE | Seals::SHRINK | Seals::GROW | Seals::SEAL;
        match self.seal(every) {
            Ok(()) => Ok(Frozen::sealed(self.fd, self.size, self.page_size)),
            Err(error) => Err(FreezeError { segment: self, error }),
        }
    }
}

impl<A: Access> Segment<A> {
    /// Sets the permission bits, `0..=0o777`; others are dropped. They only
    /// matter to opens through `/proc/PID/fd`.
    ///
    /// # Errors
    ///
    /// [`Error::PermissionDenied`]: only the owner and root may (`EPERM`); or
    /// an executable bit on Linux 6.3 or later, where [`Seals::EXEC`] forbids
    /// it.
    pub fn set_mode(&self, mode: u32) -> Result<()> {
        fchmod(self.as_fd(), mode & 0o777)
    }
}

// Conversions.
impl<A: Access> Segment<A> {
    /// Makes a second handle on the same segment, with a descriptor of its own.
    ///
    /// # Errors
    ///
    /// [`Error::LimitReached`]: too many descriptors (`EMFILE`), or no more
    /// than the three standard ones are allowed (`EINVAL`).
    ///
    /// # Sources
    ///
    /// fcntl(2), `F_DUPFD_CLOEXEC`.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self {
            fd: duplicate(self.as_fd())?,
            size: self.size,
            page_size: self.page_size,
            options: self.options,
            _access: PhantomData,
        })
    }

    /// Opens the segment once more, for reading, to hand that descriptor to
    /// those who shall not write.
    ///
    /// This alone stops accidents, not malice: where the mode allows, the
    /// receiver can open its descriptor for writing through `/proc/self/fd`.
    /// [`seal`](Segment::seal) with [`Seals::FUTURE_WRITE`], and that opens but
    /// neither maps for writing nor writes.
    ///
    /// # Errors
    ///
    /// - [`Error::NotFound`]: `/proc` is not mounted (`ENOENT`).
    /// - [`Error::PermissionDenied`]: the mode forbids reading (`EACCES`).
    /// - [`Error::LimitReached`]: too many descriptors (`EMFILE`, `ENFILE`).
    pub fn to_read_only(&self) -> Result<Segment<ReadOnly>> {
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(path.as_str(), flags, Mode::empty())
            .map_err(|errno| {
                os_error("open", errno, Object::Path(path.into()))
            })?;
        Ok(Segment {
            fd,
            size: self.size,
            page_size: self.page_size,
            options: self.options,
            _access: PhantomData,
        })
    }
}

impl<A: Access> AsFd for Segment<A> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<A: Access> From<Segment<A>> for OwnedFd {
    fn from(segment: Segment<A>) -> Self {
        segment.fd
    }
}

impl<A: Access> TryFrom<OwnedFd> for Segment<A> {
    type Error = Error;

    fn try_from(fd: OwnedFd) -> Result<Self> {
        Self::open_with(SegmentOptions::new(), fd)
    }
}

impl<A: Access> fmt::Debug for Segment<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment")
            .field("len", &self.len())
            .field("writable", &A::WRITABLE)
            .field("fd", &self.fd.as_raw_fd())
            .finish()
    }
}

pub(crate) fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    fd.try_clone_to_owned().map_err(|error| {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        let os =
            OsError::new("fcntl(F_DUPFD_CLOEXEC)", errno).on(descriptor(fd));
        match errno {
            // The least number to be given is 3, above the standard ones, and
            // the limit does not even allow that one.
            libc::EINVAL => Error::LimitReached(os.hint(
                "this process may not have more descriptors than the \
                         three standard ones (ulimit -n)",
            )),
            _ => os.into(),
        }
    })
}

fn fchmod(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    stat::fchmod(fd, Mode::from_bits_truncate(mode))
        .map_err(|errno| os_error("fchmod", errno, descriptor(fd)).into())
}

pub(crate) fn fstat(fd: BorrowedFd<'_>) -> Result<FileStat> {
    stat::fstat(fd)
        .map_err(|errno| os_error("fstat", errno, descriptor(fd)).into())
}

fn descriptor(fd: BorrowedFd<'_>) -> Object {
    Object::Descriptor(fd.as_raw_fd())
}

fn os_error(call: &'static str, errno: Errno, object: Object) -> OsError {
    OsError::new(call, errno as i32).on(object)
}
