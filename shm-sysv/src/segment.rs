//! A System V segment: shmget → shmat → shmdt → shmctl.

use std::fmt;

use shm_common::{
    Access, Creator, Error, HugePages, Origin, OsError, PageSize, ReadOnly,
    ReadWrite, Reserve, Result, Size,
};

use crate::identity::by_id;
use crate::{Id, Key, Mapping, SegmentOptions, Stat, raw, reserve};

/// A handle on a segment, by which it is mapped, measured and changed.
///
/// The handle that [`create`](Self::create) returns removes the segment when it
/// is dropped, also while a panic unwinds, unless [`keep`](Self::keep) was
/// called; no other handle does, and no forked child.
///
/// Each handle is an attachment, and each mapping goes on being one: System V
/// has no descriptors, and the kernel's count of attachments is how
/// [`list`](crate::list) knows what is in use. It also keeps the identifier
/// from being used again while the handle lives.
pub struct Segment<A: Access = ReadWrite> {
    id: Id,
    mapping: Mapping<A>,
    size: Size,
    page_size: PageSize,
    options: SegmentOptions,
    /// The process whose drop removes the segment; none for handles that were
    /// opened or kept.
    owner: Option<Creator>,
}

// Create.
impl Segment<ReadWrite> {
    /// Creates a segment of `size` zero bytes that nobody else has under that
    /// key, with its pages reserved. With [`Key::PRIVATE`] it has no key, and
    /// others find it by its [`id`](Self::id).
    ///
    /// The kernel makes the key visible first: another process may open the
    /// segment, whole and zero, while its pages are still being reserved.
    ///
    /// # Errors
    ///
    /// - [`Error::AlreadyExists`]: the key is taken (`EEXIST`).
    /// - [`Error::LimitReached`]: too many segments or pages in the system
    ///   (`ENOSPC`; `kernel.shmmni`, `kernel.shmall`), or a size beyond
    ///   `kernel.shmmax` (`EINVAL`).
    /// - [`Error::OutOfMemory`]: not that much memory, or too few huge pages
    ///   (`ENOMEM`).
    /// - [`Error::PermissionDenied`]: this user may not have huge pages
    ///   (`EPERM`; `vm.hugetlb_shm_group`).
    ///
    /// # Sources
    ///
    /// shmget(2), shmat(2), madvise(2) `MADV_POPULATE_WRITE`.
    pub fn create(key: Key, size: Size) -> Result<Self> {
        SegmentOptions::new().create(key, size)
    }

    pub(crate) fn create_with(
        options: SegmentOptions,
        key: Key,
        size: Size,
    ) -> Result<Self> {
        let page_size = match options.huge_pages {
            HugePages::Pool(page) => page,
            _ => PageSize::base(),
        };
        reserve::check(options, size)?;
        let id = create_id(options, key, size)?;
        let huge_pages = options.huge_pages;
        let mapping = match Mapping::new(id, || Ok(size), page_size, huge_pages)
        {
            Ok(mapping) => mapping,
            Err(error) => {
                // The error that counts is the first.
                let _ = id.remove();
                return Err(error);
            }
        };
        let owner = Some(Creator::this_process());
        // From here on, dropping this removes the segment again.
        let mut segment = Self { id, mapping, size, page_size, options, owner };
        if options.remove_on_last_detach {
            segment.remove()?;
        }
        reserve::populate(&segment.mapping, options, size)?;
        Ok(segment)
    }
}

fn create_id(options: SegmentOptions, key: Key, size: Size) -> Result<Id> {
    let mode = options.mode.cast_signed();
    let mut flags = libc::IPC_CREAT | libc::IPC_EXCL | mode;
    if options.reserve == Reserve::OnTouch {
        flags |= libc::SHM_NORESERVE;
    }
    if let HugePages::Pool(page) = options.huge_pages {
        let log2 = page.log2() << raw::SHM_HUGE_SHIFT;
        flags |= libc::SHM_HUGETLB | log2.cast_signed();
    }
    match raw::shmget(key.as_raw(), size.bytes(), flags) {
        Ok(id) => Ok(Id::from_kernel(id)),
        Err(os) => Err(match (os.errno(), options.huge_pages) {
            (libc::ENOSPC, _) => Error::LimitReached(os.hint(
                "kernel.shmmni segments or kernel.shmall pages exist; \
                 ipcs -m lists them",
            )),
            (libc::EINVAL, HugePages::Pool(_)) => Error::Unsupported {
                what: "this kernel has no huge pages of that size; \
                       /sys/kernel/mm/hugepages lists those it has",
                os: Some(os),
            },
            (libc::EINVAL, _) => {
                Error::LimitReached(os.hint("kernel.shmmax is less than that"))
            }
            (libc::ENOMEM, HugePages::Pool(_)) => Error::OutOfMemory(
                os.hint("too few huge pages are free: see vm.nr_hugepages"),
            ),
            (libc::EPERM, HugePages::Pool(_)) => {
                Error::PermissionDenied(os.hint(
                    "this user may not have huge pages: see \
                         vm.hugetlb_shm_group",
                ))
            }
            _ => os.into(),
        }),
    }
}

// Open.
impl Segment<ReadWrite> {
    /// Opens an existing segment for reading and writing; never creates or
    /// resizes it.
    ///
    /// # Errors
    ///
    /// - [`Error::NotFound`]: nothing has this key (`ENOENT`); always for
    ///   [`Key::PRIVATE`].
    /// - [`Error::PermissionDenied`]: its mode forbids it (`EACCES`).
    /// - [`Error::Removed`]: it was removed while this call ran (`EIDRM`).
    /// - [`Error::OutOfMemory`]: no address range is free (`ENOMEM`).
    ///
    /// # Sources
    ///
    /// shmget(2), shmat(2).
    pub fn open(key: Key) -> Result<Self> {
        SegmentOptions::new().open(key)
    }

    /// Opens an existing segment by its identifier, which also finds one
    /// without a key and, on Linux, one that is removed and still attached.
    ///
    /// # Errors
    ///
    /// - [`Error::NotFound`]: no segment has this identifier (`EINVAL`).
    /// - [`Error::Removed`]: it was removed and the number is used again
    ///   (`EIDRM`).
    /// - Else as for [`open`](Self::open).
    pub fn open_id(id: Id) -> Result<Self> {
        SegmentOptions::new().open_id(id)
    }

    /// Opens the segment, or creates it where there is none. Of any number of
    /// racing callers exactly one is told [`Origin::Created`].
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open) and [`create`](Self::create); and
    /// [`Error::WrongSize`] when the existing segment is shorter than `size`.
    pub fn open_or_create(key: Key, size: Size) -> Result<(Self, Origin)> {
        SegmentOptions::new().open_or_create(key, size)
    }

    pub(crate) fn open_or_create_with(
        options: SegmentOptions,
        key: Key,
        size: Size,
    ) -> Result<(Self, Origin)> {
        // How often others may create and remove the key between our two looks.
        const ATTEMPTS: usize = 100;
        let mut attempt = 0;
        loop {
            attempt += 1;
            match Self::open_with(options, key) {
                Ok(found) if found.len() < size.bytes() => {
                    return Err(Error::WrongSize {
                        expected: size.bytes(),
                        actual: found.len(),
                    });
                }
                Ok(found) => return Ok((found, Origin::Opened)),
                Err(Error::NotFound(_) | Error::Removed(_)) => {}
                Err(error) => return Err(error),
            }
            match Self::create_with(options, key, size) {
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
    pub fn open_read_only(key: Key) -> Result<Self> {
        SegmentOptions::new().open_read_only(key)
    }

    /// Opens an existing segment by its identifier, for reading.
    ///
    /// # Errors
    ///
    /// As for [`Segment::open_id`].
    pub fn open_id_read_only(id: Id) -> Result<Self> {
        SegmentOptions::new().open_id_read_only(id)
    }
}

impl<A: Access> Segment<A> {
    pub(crate) fn open_with(options: SegmentOptions, key: Key) -> Result<Self> {
        if key == Key::PRIVATE {
            // The kernel would create one.
            return Err(OsError::new("shmget", libc::ENOENT)
                .on(key.object())
                .hint("a private segment is opened by its id")
                .into());
        }
        let id = raw::shmget(key.as_raw(), 0, 0)?;
        Self::open_id_with(options, Id::from_kernel(id))
    }

    pub(crate) fn open_id_with(
        options: SegmentOptions,
        id: Id,
    ) -> Result<Self> {
        let page_size = PageSize::base();
        let size = || Size::try_from(stat(id)?.len);
        let mapping = Mapping::new(id, size, page_size, options.huge_pages)?;
        let size = Size::new(mapping.len())?;
        Ok(Self { id, mapping, size, page_size, options, owner: None })
    }
}

// Inspect.
impl<A: Access> Segment<A> {
    /// The identifier, by which others may open it.
    #[must_use]
    pub fn id(&self) -> Id {
        self.id
    }

    /// The length in bytes, `1..=isize::MAX`: as asked for at creation.
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
    /// [`Error::PermissionDenied`]: reading has been forbidden since it was
    /// opened (`EACCES`).
    pub fn stat(&self) -> Result<Stat> {
        stat(self.id)
    }
}

// Map.
impl Segment<ReadWrite> {
    /// Maps the whole segment for reading and writing: the attachment that the
    /// handle is, so all mappings of a handle are at the same address.
    ///
    /// # Errors
    ///
    /// None: what can fail has been done by `create` or `open`.
    ///
    /// # Crashes
    ///
    /// See [`Mapping`].
    #[doc(alias = "shmat")]
    pub fn map(&self) -> Result<Mapping<ReadWrite>> {
        Ok(self.mapping.share())
    }

    /// Maps the whole segment for reading: a store through the mapping does not
    /// compile, and one that goes around it is a `SIGSEGV`.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`]: no address range is free, or there are too many
    /// mappings (`ENOMEM`; `vm.max_map_count`).
    ///
    /// # Crashes
    ///
    /// See [`Mapping`].
    pub fn map_read_only(&self) -> Result<Mapping<ReadOnly>> {
        let huge_pages = self.options.huge_pages;
        Mapping::new(self.id, || Ok(self.size), self.page_size, huge_pages)
    }
}

impl Segment<ReadOnly> {
    /// Maps the whole segment for reading.
    ///
    /// # Errors
    ///
    /// None: what can fail has been done by `open`.
    ///
    /// # Crashes
    ///
    /// See [`Mapping`].
    #[doc(alias = "shmat")]
    pub fn map(&self) -> Result<Mapping<ReadOnly>> {
        Ok(self.mapping.share())
    }
}

// Change.
impl<A: Access> Segment<A> {
    /// Sets the permission bits, `0..=0o777`; others are dropped. Handles and
    /// mappings that exist keep what they have.
    ///
    /// # Errors
    ///
    /// [`Error::PermissionDenied`]: only the owner, the creator and root may
    /// (`EPERM`).
    pub fn set_mode(&self, mode: u32) -> Result<()> {
        let id = self.id.as_raw();
        let mut stat = raw::shmctl_ipc_stat(id).map_err(by_id)?;
        stat.shm_perm.mode = (mode & 0o777) as _;
        raw::shmctl_ipc_set(id, stat).map_err(by_id)
    }
}

// Destroy.
impl<A: Access> Segment<A> {
    /// Leaves the segment in place when this handle is dropped: the system
    /// keeps it until somebody removes it or the machine goes down. One that
    /// removes itself on the last detach still does.
    pub fn keep(&mut self) {
        self.owner = None;
    }

    /// Removes this segment now; does nothing if that was done. Its key is free
    /// at once, handles and mappings go on working, and others may attach it by
    /// its identifier until the last attachment is gone.
    ///
    /// It never hits a newer segment: while this handle lives, its identifier
    /// is not used again.
    ///
    /// # Errors
    ///
    /// [`Error::PermissionDenied`]: only the owner, the creator and root may
    /// (`EPERM`).
    #[doc(alias = "IPC_RMID")]
    pub fn remove(&mut self) -> Result<()> {
        self.id.remove()?;
        self.owner = None;
        Ok(())
    }
}

impl<A: Access> Drop for Segment<A> {
    fn drop(&mut self) {
        // Before the fields, and so the attachment, are dropped.
        if self.owner.is_some_and(Creator::is_this_process) {
            // What fails here cannot be told; `remove` can be called before.
            let _ = self.remove();
        }
    }
}

impl<A: Access> fmt::Debug for Segment<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment")
            .field("id", &self.id)
            .field("len", &self.len())
            .field("writable", &A::WRITABLE)
            .field("owner", &self.owner.is_some())
            .finish()
    }
}

fn stat(id: Id) -> Result<Stat> {
    let stat = raw::shmctl_ipc_stat(id.as_raw()).map_err(by_id)?;
    Ok(Stat::new(id, &stat))
}
