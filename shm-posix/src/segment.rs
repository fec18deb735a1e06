//! A POSIX segment: `shm_open` → ftruncate → mmap → munmap → `shm_unlink`.

use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::sys::stat::{self, FileStat, Mode, SFlag};
use nix::unistd;
use shm_common::{
    Access, Creator, Error, HugePages, Object, Origin, OsError, ReadOnly,
    ReadWrite, Result, Size, SizeFault,
};

use crate::identity::DIRECTORY;
use crate::{Mapping, Name, SegmentOptions, Stat, raw, reserve};

/// How long to sleep between two looks at a segment that is not ready.
const PAUSE: Duration = Duration::from_millis(1);

/// A handle on a segment, by which it is mapped, measured and changed.
///
/// The handle that [`create`](Self::create) returns removes the name when it is
/// dropped, also while a panic unwinds, unless [`keep`](Self::keep) was called;
/// no other handle does, and no forked child.
///
/// Each handle holds a shared lock on the segment, and each mapping goes on
/// holding it: that is how [`reap`](crate::reap) knows what is in use.
pub struct Segment<A: Access = ReadWrite> {
    fd: OwnedFd,
    name: Name,
    size: Size,
    options: SegmentOptions,
    /// The process whose drop removes the name; none for handles that were
    /// opened or kept.
    owner: Option<Creator>,
    _access: PhantomData<A>,
}

// Create.
impl Segment<ReadWrite> {
    /// Creates a segment of `size` zero bytes that nobody else has under that
    /// name. It appears under its name whole: sized, with its pages reserved
    /// and its permissions set.
    ///
    /// # Errors
    ///
    /// - [`Error::AlreadyExists`]: the name is taken (`EEXIST`).
    /// - [`Error::NoSpace`]: `/dev/shm` has not that much room (`ENOSPC`).
    /// - [`Error::PermissionDenied`]: `/dev/shm` cannot be written (`EACCES`).
    /// - [`Error::LimitReached`]: too many descriptors (`EMFILE`, `ENFILE`).
    /// - [`Error::NotReady`]: only without `O_TMPFILE` or `/proc`: another
    ///   program holds a lock on it at once, for longer than
    ///   [`SegmentOptions::open_timeout`].
    ///
    /// # Crashes
    ///
    /// A size beyond `RLIMIT_FSIZE` is a `SIGXFSZ`, as for any file; where that
    /// is ignored or blocked, [`Error::LimitReached`] (`EFBIG`).
    ///
    /// # Sources
    ///
    /// `shm_open(3)`, open(2) `O_TMPFILE` (since Linux 3.11), `posix_fallocate(3)`.
    pub fn create(name: &Name, size: Size) -> Result<Self> {
        SegmentOptions::new().create(name, size)
    }

    pub(crate) fn create_with(
        options: SegmentOptions,
        name: &Name,
        size: Size,
    ) -> Result<Self> {
        if let HugePages::Pool(_) = options.huge_pages {
            return Err(Error::Unsupported {
                what: "/dev/shm has no pages from the huge-page pool; \
                       use a memfd or System V segment",
                os: None,
            });
        }
        match Self::create_nameless(options, name, size) {
            Err(Error::Unsupported { .. }) => {
                Self::create_in_place(options, name, size)
            }
            // A file system too full for a second segment is no news to one
            // who should hear that there is a first.
            Err(Error::NoSpace { .. }) if name.path().exists() => {
                Err(os_error("linkat", Errno::EEXIST, name.object()).into())
            }
            result => result,
        }
    }

    /// Makes the segment where nobody sees it, and links it to its name last.
    fn create_nameless(
        options: SegmentOptions,
        name: &Name,
        size: Size,
    ) -> Result<Self> {
        let fd = nix::fcntl::open(
            DIRECTORY,
            OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC,
            Mode::from_bits_truncate(options.mode),
        )
        .map_err(|errno| {
            let os = os_error("open", errno, Object::Path(DIRECTORY.into()));
            match errno {
                // Not a tmpfs, or a kernel that takes O_TMPFILE for
                // O_DIRECTORY.
                Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL => {
                    Error::Unsupported { what: "no O_TMPFILE", os: Some(os) }
                }
                _ => os.into(),
            }
        })?;
        raw::flock(fd.as_fd(), libc::LOCK_SH | libc::LOCK_NB)?;
        prepare(fd.as_fd(), options, size)?;
        // A nameless file has no directory entry to link from; its entry in
        // /proc stands in.
        let entry = format!("/proc/self/fd/{}", fd.as_raw_fd());
        unistd::linkat(
            AT_FDCWD,
            entry.as_str(),
            AT_FDCWD,
            name.path(),
            AtFlags::AT_SYMLINK_FOLLOW,
        )
        .map_err(|errno| {
            let os = os_error("linkat", errno, name.object());
            match errno {
                Errno::ENOENT => {
                    Error::Unsupported { what: "no /proc", os: Some(os) }
                }
                _ => os.into(),
            }
        })?;
        Ok(Self::owned(fd, options, name, size))
    }

    /// The textbook way, for kernels without the parts of the other: the name
    /// comes first, so an open may find the segment without a size, and waits.
    fn create_in_place(
        options: SegmentOptions,
        name: &Name,
        size: Size,
    ) -> Result<Self> {
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR;
        loop {
            let fd = raw::shm_open(name.as_c_str(), flags, options.mode)?;
            // From here on, dropping this removes the name again.
            let segment = Self::owned(fd, options, name, size);
            // A reaper may have come before the lock. Until it has decided, the
            // name must stay: were it removed and taken anew meanwhile, the
            // reaper would remove the new one.
            wait_for_lock(&segment)?;
            if segment.stat()?.links == 0 {
                continue;
            }
            prepare(segment.as_fd(), options, size)?;
            return Ok(segment);
        }
    }

    fn owned(
        fd: OwnedFd,
        options: SegmentOptions,
        name: &Name,
        size: Size,
    ) -> Self {
        Self {
            fd,
            name: name.clone(),
            size,
            options,
            owner: Some(Creator::this_process()),
            _access: PhantomData,
        }
    }
}

// Open.
impl Segment<ReadWrite> {
    /// Opens an existing segment for reading and writing; never creates or
    /// resizes it. A segment that another process is still making is waited
    /// for, up to [`SegmentOptions::open_timeout`].
    ///
    /// # Errors
    ///
    /// - [`Error::NotFound`]: nothing has this name (`ENOENT`).
    /// - [`Error::PermissionDenied`]: its mode forbids it (`EACCES`).
    /// - [`Error::NotReady`]: it still has no size, or is still locked by
    ///   another program.
    /// - [`Error::WrongKind`]: the name is no regular file.
    /// - [`Error::LimitReached`]: too many descriptors (`EMFILE`, `ENFILE`).
    ///
    /// # Sources
    ///
    /// `shm_open(3)`.
    pub fn open(name: &Name) -> Result<Self> {
        SegmentOptions::new().open(name)
    }

    /// Opens the segment, or creates it where there is none. Of any number of
    /// racing callers exactly one is told [`Origin::Created`].
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open) and [`create`](Self::create); and
    /// [`Error::WrongSize`] when the existing segment is shorter than `size`.
    pub fn open_or_create(name: &Name, size: Size) -> Result<(Self, Origin)> {
        SegmentOptions::new().open_or_create(name, size)
    }

    pub(crate) fn open_or_create_with(
        options: SegmentOptions,
        name: &Name,
        size: Size,
    ) -> Result<(Self, Origin)> {
        // How often others may create and remove the name between our two looks.
        const ATTEMPTS: usize = 100;
        let mut attempt = 0;
        loop {
            attempt += 1;
            match Self::open_with(options, name) {
                Ok(found) if found.len() < size.bytes() => {
                    return Err(Error::WrongSize {
                        expected: size.bytes(),
                        actual: found.len(),
                    });
                }
                Ok(found) => return Ok((found, Origin::Opened)),
                Err(Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
            match Self::create_with(options, name, size) {
                Ok(created) => return Ok((created, Origin::Created)),
                // Another caller was quicker: open what it made.
                Err(Error::AlreadyExists(_)) if attempt < ATTEMPTS => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Segment<ReadOnly> {
    /// Opens an existing segment for reading: needs only that permission, and
    /// gives a handle that cannot be mapped writable.
    ///
    /// # Errors
    ///
    /// As for [`Segment::open`].
    pub fn open_read_only(name: &Name) -> Result<Self> {
        SegmentOptions::new().open_read_only(name)
    }
}

impl<A: Access> Segment<A> {
    pub(crate) fn open_with(
        options: SegmentOptions,
        name: &Name,
    ) -> Result<Self> {
        let begun = Instant::now();
        loop {
            if let Some(segment) = Self::open_if_ready(options, name)? {
                return Ok(segment);
            }
            let waited = begun.elapsed();
            if waited >= options.open_timeout {
                return Err(Error::NotReady { object: name.object(), waited });
            }
            thread::sleep(PAUSE);
        }
    }

    /// None: look again in a moment.
    fn open_if_ready(
        options: SegmentOptions,
        name: &Name,
    ) -> Result<Option<Self>> {
        let access = match A::WRITABLE {
            true => libc::O_RDWR,
            false => libc::O_RDONLY,
        };
        // O_NONBLOCK: should the name be a FIFO, do not wait for its writer.
        let flags = access | libc::O_NONBLOCK;
        let fd = match raw::shm_open(name.as_c_str(), flags, 0) {
            // A symbolic link, a directory (of which the C library makes
            // EINVAL), a socket.
            Err(os)
                if matches!(
                    os.errno(),
                    libc::ELOOP | libc::EISDIR | libc::EINVAL | libc::ENXIO
                ) =>
            {
                return Err(wrong_kind(name));
            }
            // Somebody has a lease on it, such as a tool that asks the kernel
            // whether anybody uses it.
            Err(os) if os.errno() == libc::EWOULDBLOCK => return Ok(None),
            opened => opened?,
        };
        match raw::flock(fd.as_fd(), libc::LOCK_SH | libc::LOCK_NB) {
            // A reaper is deciding about it.
            Err(os) if os.errno() == libc::EWOULDBLOCK => return Ok(None),
            locked => locked?,
        }
        let stat = fstat(fd.as_fd())?;
        if SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
            != SFlag::S_IFREG
        {
            return Err(wrong_kind(name));
        }
        // Removed since we opened it, or not yet sized by a creator that does
        // not publish it whole.
        if stat.st_nlink == 0 || stat.st_size == 0 {
            return Ok(None);
        }
        Ok(Some(Self {
            size: Size::try_from(Stat::from(stat).len)?,
            fd,
            name: name.clone(),
            options,
            owner: None,
            _access: PhantomData,
        }))
    }
}

// Inspect.
impl<A: Access> Segment<A> {
    /// The name that it was created or opened under.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

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
    /// [`Error::Os`]: the kernel does not tell; never for a file in a tmpfs.
    pub fn stat(&self) -> Result<Stat> {
        Ok(fstat(self.as_fd())?.into())
    }
}

// Map.
impl Segment<ReadWrite> {
    /// Maps the whole segment for reading and writing.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`]: no address range is free, or there are too many
    /// mappings (`ENOMEM`; `vm.max_map_count`).
    ///
    /// # Crashes
    ///
    /// See [`Mapping`].
    #[doc(alias = "mmap")]
    pub fn map(&self) -> Result<Mapping<ReadWrite>> {
        Mapping::new(self.as_fd(), self.size, self.options.huge_pages)
    }

    /// Maps the whole segment for reading: a store through the mapping does not
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
        Mapping::new(self.as_fd(), self.size, self.options.huge_pages)
    }
}

impl Segment<ReadOnly> {
    /// Maps the whole segment for reading.
    ///
    /// # Errors
    ///
    /// As for [`Segment::map`](Segment::<ReadWrite>::map).
    ///
    /// # Crashes
    ///
    /// See [`Mapping`].
    #[doc(alias = "mmap")]
    pub fn map(&self) -> Result<Mapping<ReadOnly>> {
        Mapping::new(self.as_fd(), self.size, self.options.huge_pages)
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
    ///   shrinks here, because that would be a `SIGBUS` for whoever has the end
    ///   mapped.
    /// - [`Error::NoSpace`]: as for [`create`](Self::create); the size is as
    ///   before, though some pages may already be reserved.
    #[doc(alias = "ftruncate")]
    pub fn resize(&mut self, size: Size) -> Result<()> {
        let now = Size::try_from(self.stat()?.len)?;
        if size.bytes() < self.len() {
            return Err(Error::InvalidSize {
                given: size.to_string(),
                fault: SizeFault::Shrinks,
            });
        }
        // Another process may have made it longer already.
        if size > now {
            reserve::grow(self.as_fd(), self.options, now, size)?;
        }
        self.size = size;
        Ok(())
    }
}

impl<A: Access> Segment<A> {
    /// Sets the permission bits, `0..=0o777`; others are dropped. Handles and
    /// mappings that exist keep what they have.
    ///
    /// # Errors
    ///
    /// [`Error::PermissionDenied`]: only the owner and root may (`EPERM`).
    pub fn set_mode(&self, mode: u32) -> Result<()> {
        fchmod(self.as_fd(), mode & 0o777)
    }
}

// Destroy.
impl<A: Access> Segment<A> {
    /// Leaves the name in place when this handle is dropped: the system keeps
    /// the segment until somebody removes it or the machine goes down.
    pub fn keep(&mut self) {
        self.owner = None;
    }

    /// Removes the name now, if it still leads to this segment; does nothing if
    /// it is gone or leads to a newer one. Handles and mappings go on working.
    ///
    /// Another program that removes *and* creates the name between the look and
    /// the removal loses its new segment's name; the kernel has no call that
    /// does both at once.
    ///
    /// # Errors
    ///
    /// [`Error::PermissionDenied`]: `/dev/shm` is sticky, so only the owner of
    /// the segment and root may (`EACCES`, `EPERM`).
    #[doc(alias = "shm_unlink")]
    pub fn unlink(&mut self) -> Result<()> {
        if leads_to(&self.name, &fstat(self.as_fd())?)? {
            self.name.unlink()?;
        }
        self.owner = None;
        Ok(())
    }
}

impl<A: Access> Drop for Segment<A> {
    fn drop(&mut self) {
        if self.owner.is_some_and(Creator::is_this_process) {
            // What fails here cannot be told; `unlink` can be called before.
            let _ = self.unlink();
        }
    }
}

// Conversions.
impl<A: Access> AsFd for Segment<A> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<A: Access> fmt::Debug for Segment<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment")
            .field("name", &self.name)
            .field("len", &self.len())
            .field("writable", &A::WRITABLE)
            .field("owner", &self.owner.is_some())
            .field("fd", &self.fd.as_raw_fd())
            .finish()
    }
}

/// Takes the shared lock of a segment that a reaper, or another program, may
/// have locked.
fn wait_for_lock(segment: &Segment) -> Result<()> {
    let begun = Instant::now();
    loop {
        match raw::flock(segment.as_fd(), libc::LOCK_SH | libc::LOCK_NB) {
            Err(os) if os.errno() == libc::EWOULDBLOCK => {}
            locked => return Ok(locked?),
        }
        let waited = begun.elapsed();
        if waited >= segment.options.open_timeout {
            let object = segment.name.object();
            return Err(Error::NotReady { object, waited });
        }
        thread::sleep(PAUSE);
    }
}

/// Makes a new object what it shall be, before or while it gets its name.
fn prepare(
    fd: BorrowedFd<'_>,
    options: SegmentOptions,
    size: Size,
) -> Result<()> {
    // A second time, for the umask has cut what creation was given; and setting
    // the umask instead would change it for every thread of the process.
    fchmod(fd, options.mode)?;
    reserve::set_size(fd, options, size)
}

fn wrong_kind(name: &Name) -> Error {
    Error::WrongKind { object: name.object(), expected: "regular file" }
}

fn fchmod(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    stat::fchmod(fd, Mode::from_bits_truncate(mode)).map_err(|errno| {
        let object = Object::Descriptor(fd.as_raw_fd());
        os_error("fchmod", errno, object).into()
    })
}

fn fstat(fd: BorrowedFd<'_>) -> Result<FileStat> {
    stat::fstat(fd).map_err(|errno| {
        let object = Object::Descriptor(fd.as_raw_fd());
        os_error("fstat", errno, object).into()
    })
}

/// Whether the name leads to this very object. Names are used again, and inode
/// numbers too, but not while the object is open.
pub(crate) fn leads_to(name: &Name, object: &FileStat) -> Result<bool> {
    match stat::lstat(name.path()) {
        Ok(found) => {
            Ok((found.st_dev, found.st_ino) == (object.st_dev, object.st_ino))
        }
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(os_error("lstat", errno, name.object()).into()),
    }
}

pub(crate) fn os_error(
    call: &'static str,
    errno: Errno,
    object: Object,
) -> OsError {
    OsError::new(call, errno as i32).on(object)
}
