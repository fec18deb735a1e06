//! A dma-buf segment: `UDMABUF_CREATE` or `DMA_HEAP_IOCTL_ALLOC` → mmap →
//! `DMA_BUF_IOCTL_SYNC` → munmap → close.

use std::fmt;
use std::fs;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::fstat;
use nix::sys::statfs::{FsType, fstatfs};
use nix::unistd::{Whence, lseek64};
use shm_common::{
    Access, Error, Object, OsError, PageSize, ReadOnly, ReadWrite, Result,
    Size, SizeFault,
};

use crate::cpu_access::{CpuAccess, CpuAccessGuard, without_sync_files};
use crate::identity::open_device;
use crate::{Heap, Label, Mapping, SegmentOptions, Stat, raw, reserve, stat};

/// A handle on a buffer, by which it is mapped, measured and handed over.
///
/// It is a descriptor. The kernel frees the buffer when the last descriptor and
/// the last mapping of it are gone and no device uses it any more, for whatever
/// reason, `SIGKILL` included; there is no name to remove, and nothing to keep.
///
/// Its size is what it was made with for as long as it lives, so that no
/// mapping of it can ever be cut off.
pub struct Segment<A: Access = ReadWrite> {
    fd: OwnedFd,
    size: Size,
    _access: PhantomData<A>,
}

// Create.
impl Segment<ReadWrite> {
    /// Creates a buffer of `size` zero bytes that nobody else knows of, out of
    /// a heap. The heap gives whole pages, and a receiver finds that many.
    ///
    /// # Errors
    ///
    /// - [`Error::OutOfMemory`]: not that much memory is available (`ENOMEM`).
    ///   More than seven eighths of it is refused without a call.
    /// - [`Error::LimitReached`]: too many descriptors (`EMFILE`, `ENFILE`).
    /// - [`Error::InvalidSize`]: it cannot be rounded up to whole pages.
    /// - [`Error::WrongKind`]: the node that was opened is no heap's
    ///   (`ENOTTY`).
    ///
    /// # Crashes
    ///
    /// The memory is looked at first, and taken afterwards: if others take it
    /// in between, the kernel's out-of-memory killer comes, which may panic.
    ///
    /// # Sources
    ///
    /// `<linux/dma-heap.h>`; since Linux 5.6.
    pub fn create(heap: &Heap, size: Size) -> Result<Self> {
        SegmentOptions::new().create(heap, size)
    }

    pub(crate) fn create_with(
        options: SegmentOptions,
        heap: &Heap,
        size: Size,
    ) -> Result<Self> {
        let rounded = PageSize::base().round_up(size)?;
        reserve::refuse_beyond_memory(heap, rounded)?;
        let flags = (libc::O_RDWR | libc::O_CLOEXEC).cast_unsigned();
        let len = rounded.bytes() as u64;
        let fd = raw::ioctl_dma_heap_alloc(heap.as_fd(), len, flags, 0)
            .map_err(|os| match os.errno() {
                libc::ENOTTY => Error::WrongKind {
                    object: heap.object(),
                    expected: "dma-buf heap",
                },
                _ => os.on(heap.object()).into(),
            })?;
        Self::made(options, fd, size)
    }

    /// Makes a buffer of `range` of a memfd, in bytes: whole pages, which are
    /// from then on both the memfd's and the buffer's.
    ///
    /// The memfd must be sealed by `F_SEAL_SHRINK`, and must not be sealed
    /// against writing; while the buffer lives, it cannot be. What is punched
    /// out of the memfd stays in the buffer, and the two part there.
    ///
    /// # Errors
    ///
    /// - [`Error::WrongKind`]: it is no memfd, nor any file that has seals.
    /// - [`Error::MissingSeals`]: it lacks `F_SEAL_SHRINK`.
    /// - [`Error::PermissionDenied`]: it is sealed against writing
    ///   (`EPERM`), or `/dev/udmabuf` is not for this user (`EACCES`); by
    ///   default it is only root's.
    /// - [`Error::Misaligned`]: the range does not begin or end with a page.
    /// - [`Error::OutOfBounds`]: it ends behind the memfd.
    /// - [`Error::InvalidSize`]: it is empty.
    /// - [`Error::LimitReached`]: it is larger than the driver allows
    ///   (`EINVAL`; `udmabuf.size_limit_mb`, 64 MiB by default), or too many
    ///   descriptors (`EMFILE`, `ENFILE`).
    /// - [`Error::Unsupported`]: there is no `/dev/udmabuf` (`ENOENT`;
    ///   `CONFIG_UDMABUF`, module `udmabuf`).
    ///
    /// # Examples
    ///
    /// ```
    /// use shm_dmabuf::{Error, PageSize, Segment};
    /// use shm_memfd::{Label, Size};
    ///
    /// let page = PageSize::base().bytes();
    /// let label = Label::new("frames")?;
    /// let memfd = shm_memfd::Segment::create(&label, Size::new(4 * page)?)?;
    /// match Segment::from_memfd(&memfd, page..3 * page) {
    ///     Ok(segment) => {
    ///         segment.map()?.bytes().write_at(0, b"hello")?;
    ///         assert_eq!(memfd.map()?.bytes().get(page), Ok(*b"hello"));
    ///     }
    ///     // Without the driver, or for those who may not use it:
    ///     Err(Error::Unsupported { .. } | Error::PermissionDenied(_)) => {}
    ///     Err(other) => return Err(other),
    /// }
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Sources
    ///
    /// `<linux/udmabuf.h>`; since Linux 4.20.
    #[doc(alias = "udmabuf")]
    pub fn from_memfd(memfd: impl AsFd, range: Range<usize>) -> Result<Self> {
        SegmentOptions::new().from_memfd(memfd, range)
    }

    /// Makes one buffer of several ranges of memfds, one after the other as
    /// they are given. They may be of the same memfd, and may overlap: then the
    /// same bytes are in the buffer twice.
    ///
    /// # Errors
    ///
    /// As for [`from_memfd`](Self::from_memfd), for any of them; also
    /// [`Error::InvalidSize`] for none, and [`Error::LimitReached`] for more
    /// than the driver allows (`EINVAL`; `udmabuf.list_limit`, 1024 by
    /// default).
    pub fn from_memfds(
        parts: &[(BorrowedFd<'_>, Range<usize>)],
    ) -> Result<Self> {
        SegmentOptions::new().from_memfds(parts)
    }

    pub(crate) fn from_memfds_with(
        options: SegmentOptions,
        parts: &[(BorrowedFd<'_>, Range<usize>)],
    ) -> Result<Self> {
        // The driver has one errno for every fault, so they are looked for
        // here.
        let mut total: usize = 0;
        for (memfd, range) in parts {
            check_part(*memfd, range)?;
            total = total.saturating_add(range.len());
        }
        let size = Size::new(total)?;
        let device = open_device(
            Path::new("/dev/udmabuf"),
            "this kernel makes no dma-buf of a memfd (CONFIG_UDMABUF; \
             modprobe udmabuf, if it is a module)",
        )?;
        let fd = udmabuf(device.as_fd(), parts)
            .map_err(|os| reserve::over_limit(os, size, parts.len()))?;
        Self::made(options, fd, size)
    }

    fn made(options: SegmentOptions, fd: OwnedFd, size: Size) -> Result<Self> {
        let segment = Self { fd, size, _access: PhantomData };
        if let Some(label) = options.label {
            segment.set_name(&label)?;
        }
        Ok(segment)
    }
}

/// One range by the one call, several by the other.
fn udmabuf<'a>(
    device: BorrowedFd<'_>,
    parts: &[(BorrowedFd<'a>, Range<usize>)],
) -> Result<OwnedFd, OsError> {
    let flags = raw::UDMABUF_FLAGS_CLOEXEC;
    if let [(memfd, range)] = parts {
        let (offset, size) = (range.start as u64, range.len() as u64);
        return raw::ioctl_udmabuf_create(device, *memfd, flags, offset, size);
    }
    let item = |(memfd, range): &(BorrowedFd<'a>, Range<usize>)| {
        (*memfd, range.start as u64, range.len() as u64)
    };
    let items: Vec<_> = parts.iter().map(item).collect();
    raw::ioctl_udmabuf_create_list(device, flags, &items)
}

/// Refuses what the driver would refuse, and says why.
fn check_part(memfd: BorrowedFd<'_>, range: &Range<usize>) -> Result<()> {
    const AGAINST_WRITING: u32 =
        (libc::F_SEAL_WRITE | libc::F_SEAL_FUTURE_WRITE).cast_unsigned();
    let required = libc::F_SEAL_SHRINK.cast_unsigned();
    if range.is_empty() {
        return Err(Error::InvalidSize {
            given: format!("{range:?}"),
            fault: SizeFault::Zero,
        });
    }
    let align = PageSize::base().bytes();
    for offset in [range.start, range.end] {
        if offset % align != 0 {
            return Err(Error::Misaligned { offset, align });
        }
    }
    let present = seals_of(memfd)?;
    if present & required != required {
        let object = descriptor(memfd);
        return Err(Error::MissingSeals { object, required, present });
    }
    if present & AGAINST_WRITING != 0 {
        let os = OsError::new("ioctl(UDMABUF_CREATE)", libc::EPERM);
        return Err(os
            .on(descriptor(memfd))
            .hint("it is sealed against writing, and devices may write")
            .into());
    }
    let stat = fstat(memfd)
        .map_err(|errno| os_error("fstat", errno, descriptor(memfd)))?;
    // One that is larger than the address space holds the range too.
    let size = usize::try_from(stat.st_size).unwrap_or(usize::MAX);
    if range.end > size {
        let (offset, len) = (range.start, range.len());
        return Err(Error::OutOfBounds { offset, len, size });
    }
    Ok(())
}

fn seals_of(fd: BorrowedFd<'_>) -> Result<u32> {
    match raw::fcntl_get_seals(fd) {
        Ok(bits) => Ok(bits.cast_unsigned()),
        Err(os) if os.errno() == libc::EINVAL => {
            Err(Error::WrongKind { object: descriptor(fd), expected: "memfd" })
        }
        // It is open, since it is borrowed; so it was opened by O_PATH.
        Err(os) if os.errno() == libc::EBADF => Err(Error::PermissionDenied(
            os.hint("the descriptor only names the file (O_PATH)"),
        )),
        Err(os) => Err(os.into()),
    }
}

// Open.
impl Segment<ReadWrite> {
    /// Takes a descriptor that was received or inherited, for reading and
    /// writing, after checking that it is a dma-buf; what its sender says is
    /// not relied on. A descriptor that is refused is closed.
    ///
    /// # Errors
    ///
    /// - [`Error::WrongKind`]: it is no dma-buf.
    /// - [`Error::PermissionDenied`]: it is for reading only.
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
        _options: SegmentOptions,
        fd: OwnedFd,
    ) -> Result<Self> {
        check_kind(fd.as_fd())?;
        check_access::<A>(fd.as_fd())?;
        let size = Size::try_from(len_of(fd.as_fd())?)?;
        Ok(Self { fd, size, _access: PhantomData })
    }
}

/// Every dma-buf lies in a file system of the kernel's own for them.
fn check_kind(fd: BorrowedFd<'_>) -> Result<()> {
    const DMA_BUF_MAGIC: FsType = FsType(raw::DMA_BUF_MAGIC as _);
    let fs = fstatfs(fd)
        .map_err(|errno| os_error("fstatfs", errno, descriptor(fd)))?;
    if fs.filesystem_type() != DMA_BUF_MAGIC {
        let object = descriptor(fd);
        return Err(Error::WrongKind { object, expected: "dma-buf" });
    }
    Ok(())
}

/// Refuses a descriptor that cannot be read, or not be written where it is to
/// be: `mmap` would refuse it later.
fn check_access<A: Access>(fd: BorrowedFd<'_>) -> Result<()> {
    let flags = fcntl(fd, FcntlArg::F_GETFL)
        .map_err(|errno| os_error("fcntl(F_GETFL)", errno, descriptor(fd)))?;
    let access = OFlag::from_bits_retain(flags) & OFlag::O_ACCMODE;
    let hint = if flags & libc::O_PATH != 0 {
        "the descriptor only names the file (O_PATH)"
    } else if access == OFlag::O_WRONLY {
        "the descriptor cannot be read"
    } else if A::WRITABLE && access != OFlag::O_RDWR {
        "the descriptor is for reading only"
    } else {
        return Ok(());
    };
    Err(os_error("mmap", Errno::EACCES, descriptor(fd)).hint(hint).into())
}

/// The length, which a dma-buf tells by lseek alone on every kernel.
fn len_of(fd: BorrowedFd<'_>) -> Result<u64> {
    let len = lseek64(fd, 0, Whence::SeekEnd)
        .map_err(|errno| os_error("lseek", errno, descriptor(fd)))?;
    Ok(len.cast_unsigned())
}

// Inspect.
impl<A: Access> Segment<A> {
    /// The length in bytes, `1..=isize::MAX`: as asked for at creation, or as
    /// found by open.
    #[expect(
        clippy::len_without_is_empty,
        reason = "a segment has at least one byte"
    )]
    #[must_use]
    pub fn len(&self) -> usize {
        self.size.bytes()
    }

    /// Asks the kernel about the buffer as it is now.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]: the kernel does not tell; never for a dma-buf.
    pub fn stat(&self) -> Result<Stat> {
        let fd = self.as_fd();
        let file = fstat(fd)
            .map_err(|errno| os_error("fstat", errno, descriptor(fd)))?;
        let fdinfo = format!("/proc/self/fdinfo/{}", self.fd.as_raw_fd());
        // Without /proc there are just no names.
        let fdinfo = fs::read(fdinfo).unwrap_or_default();
        let (exporter, label) = stat::names_in(&fdinfo);
        Ok(Stat {
            len: len_of(fd)?,
            device: file.st_dev as u64,
            inode: file.st_ino as u64,
            exporter,
            label,
        })
    }
}

// Map.
impl Segment<ReadWrite> {
    /// Maps the whole buffer for reading and writing.
    ///
    /// # Errors
    ///
    /// - [`Error::OutOfMemory`]: no address range is free, or there are too
    ///   many mappings (`ENOMEM`; `vm.max_map_count`).
    /// - [`Error::Unsupported`]: the driver that made the buffer does not let
    ///   the processor at it (`EINVAL`).
    ///
    /// # Crashes
    ///
    /// See [`Mapping`].
    #[doc(alias = "mmap")]
    pub fn map(&self) -> Result<Mapping<ReadWrite>> {
        self.map_as()
    }

    /// Maps the whole buffer for reading: a store through the mapping does not
    /// compile, and one that goes around it is a `SIGSEGV`.
    ///
    /// # Errors
    ///
    /// As for [`map`](Self::map).
    ///
    /// # Crashes
    ///
    /// See [`Mapping`].
    pub fn map_read_only(&self) -> Result<Mapping<ReadOnly>> {
        self.map_as()
    }
}

impl Segment<ReadOnly> {
    /// Maps the whole buffer for reading.
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
        Mapping::new(self.as_fd(), self.size)
    }
}

// Change.
impl<A: Access> Segment<A> {
    /// Begins a stretch of accesses by the processor, through any mapping, in
    /// any process; see [`CpuAccessGuard`]. It waits for devices that use the
    /// buffer, and moves between caches what they need.
    ///
    /// Where only processors use the buffer it does nothing, and may be left
    /// out.
    ///
    /// # Errors
    ///
    /// [`Error::Os`] and others: what the driver says.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use shm_dmabuf::{CpuAccess, Heap, Segment, Size};
    ///
    /// let segment = Segment::create(&Heap::open("system")?, Size::MIB)?;
    /// let mapping = segment.map()?;
    ///
    /// let access = segment.cpu_access(CpuAccess::Write)?;
    /// mapping.bytes().write_at(0, b"for the device")?;
    /// access.end()?;
    /// # Ok::<(), shm_dmabuf::Error>(())
    /// ```
    #[doc(alias = "DMA_BUF_IOCTL_SYNC")]
    pub fn cpu_access(&self, access: CpuAccess) -> Result<CpuAccessGuard<'_>> {
        CpuAccessGuard::start(self.as_fd(), access)
    }

    /// Gives a sync file: a descriptor that polls readable once the devices
    /// have done what stands in the way of such an access.
    ///
    /// # Errors
    ///
    /// - [`Error::Unsupported`]: the kernel is older than 6.0 or was built
    ///   without `CONFIG_SYNC_FILE` (`ENOTTY`).
    /// - [`Error::LimitReached`]: too many descriptors (`EMFILE`, `ENFILE`).
    #[doc(alias = "DMA_BUF_IOCTL_EXPORT_SYNC_FILE")]
    pub fn export_sync_file(&self, access: CpuAccess) -> Result<OwnedFd> {
        let flags = access.sync_file_flags();
        raw::ioctl_dma_buf_export_sync_file(self.as_fd(), flags)
            .map_err(without_sync_files)
    }

    /// Makes devices wait for a sync file of whatever origin before they use
    /// the buffer, as if such an access were under way until then.
    ///
    /// # Errors
    ///
    /// - [`Error::Unsupported`]: as for
    ///   [`export_sync_file`](Self::export_sync_file).
    /// - [`Error::Os`]: it is no sync file (`EINVAL`).
    #[doc(alias = "DMA_BUF_IOCTL_IMPORT_SYNC_FILE")]
    pub fn import_sync_file(
        &self,
        sync_file: impl AsFd,
        access: CpuAccess,
    ) -> Result<()> {
        let (flags, sync_file) = (access.sync_file_flags(), sync_file.as_fd());
        raw::ioctl_dma_buf_import_sync_file(self.as_fd(), flags, sync_file)
            .map_err(without_sync_files)
    }

    /// Gives the buffer another label. Whoever holds it may.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`]: a device uses it, on a kernel before 5.11 (`EBUSY`).
    #[doc(alias = "DMA_BUF_SET_NAME")]
    pub fn set_name(&self, label: &Label) -> Result<()> {
        Ok(raw::ioctl_dma_buf_set_name(self.as_fd(), label.as_c_str())?)
    }
}

// Conversions.
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

fn descriptor(fd: BorrowedFd<'_>) -> Object {
    Object::Descriptor(fd.as_raw_fd())
}

fn os_error(call: &'static str, errno: Errno, object: Object) -> OsError {
    OsError::new(call, errno as i32).on(object)
}
