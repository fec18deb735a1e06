//! The raw layer: the mechanism's own calls, under their C names.
//!
//! Each function makes one call and turns its errno into an [`OsError`] that
//! names what it was applied to. There is no policy here: no retry, no default.
//! The structures, numbers and flags are those of `<linux/udmabuf.h>`,
//! `<linux/dma-heap.h>` and `<linux/dma-buf.h>`, which libc lacks.
#![expect(unsafe_code, reason = "calls C functions")]

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{self, NonNull};

use libc::{c_int, c_void, off_t};
use shm_common::{Object, OsError};

fn descriptor_of(fd: BorrowedFd<'_>) -> Object {
    Object::Descriptor(fd.as_raw_fd())
}

/// A descriptor as the structures hold it; one that is open is not negative.
fn number_of(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// `struct udmabuf_create`: a range of a memfd.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct udmabuf_create {
    /// The memfd's descriptor.
    pub memfd: u32,
    /// [`UDMABUF_FLAGS_CLOEXEC`] or 0.
    pub flags: u32,
    /// The first byte, at the beginning of a page.
    pub offset: u64,
    /// The bytes, in whole pages.
    pub size: u64,
}

/// `struct udmabuf_create_item`: one of several ranges.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct udmabuf_create_item {
    /// The memfd's descriptor.
    pub memfd: u32,
    /// Nothing.
    pub __pad: u32,
    /// The first byte, at the beginning of a page.
    pub offset: u64,
    /// The bytes, in whole pages.
    pub size: u64,
}

/// `struct udmabuf_create_list`, without the items that follow it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct udmabuf_create_list {
    /// [`UDMABUF_FLAGS_CLOEXEC`] or 0.
    pub flags: u32,
    /// The number of items.
    pub count: u32,
}

/// `struct dma_heap_allocation_data`: what is asked of a heap, and its answer.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct dma_heap_allocation_data {
    /// The bytes.
    pub len: u64,
    /// The answer: the new buffer's descriptor. 0 in the question.
    pub fd: u32,
    /// `O_CLOEXEC` and the access mode.
    pub fd_flags: u32,
    /// None are defined: 0.
    pub heap_flags: u64,
}

/// `struct dma_buf_sync`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct dma_buf_sync {
    /// `DMA_BUF_SYNC_*`.
    pub flags: u64,
}

/// `struct dma_buf_export_sync_file`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct dma_buf_export_sync_file {
    /// [`DMA_BUF_SYNC_READ`], [`DMA_BUF_SYNC_WRITE`] or both.
    pub flags: u32,
    /// The answer: the sync file's descriptor.
    pub fd: i32,
}

/// `struct dma_buf_import_sync_file`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct dma_buf_import_sync_file {
    /// [`DMA_BUF_SYNC_READ`], [`DMA_BUF_SYNC_WRITE`] or both.
    pub flags: u32,
    /// The sync file's descriptor.
    pub fd: i32,
}

const _: () = {
    assert!(size_of::<udmabuf_create>() == 24);
    assert!(size_of::<udmabuf_create_item>() == 24);
    assert!(size_of::<udmabuf_create_list>() == 8);
    assert!(size_of::<dma_heap_allocation_data>() == 24);
    assert!(size_of::<dma_buf_sync>() == 8);
    assert!(size_of::<dma_buf_export_sync_file>() == 8);
    assert!(size_of::<dma_buf_import_sync_file>() == 8);
};

/// Closes the descriptor in exec.
pub const UDMABUF_FLAGS_CLOEXEC: u32 = 1;
/// The processor reads.
pub const DMA_BUF_SYNC_READ: u64 = 1;
/// The processor writes.
pub const DMA_BUF_SYNC_WRITE: u64 = 2;
/// It does both.
pub const DMA_BUF_SYNC_RW: u64 = DMA_BUF_SYNC_READ | DMA_BUF_SYNC_WRITE;
/// The access begins.
pub const DMA_BUF_SYNC_START: u64 = 0;
/// The access ends.
pub const DMA_BUF_SYNC_END: u64 = 4;
/// The bytes of a name, its NUL included.
pub const DMA_BUF_NAME_LEN: usize = 32;
/// `f_type` of statfs(2) for a dma-buf, from `<linux/magic.h>`.
pub const DMA_BUF_MAGIC: u32 = 0x444d_4142;

/// The number of the call that makes a buffer of a range.
pub const UDMABUF_CREATE: libc::Ioctl =
    libc::_IOW::<udmabuf_create>(b'u' as u32, 0x42);
/// The number of the call that makes a buffer of several ranges.
pub const UDMABUF_CREATE_LIST: libc::Ioctl =
    libc::_IOW::<udmabuf_create_list>(b'u' as u32, 0x43);
/// The number of the call that allocates a buffer.
pub const DMA_HEAP_IOCTL_ALLOC: libc::Ioctl =
    libc::_IOWR::<dma_heap_allocation_data>(b'H' as u32, 0);
/// The number of the call that brackets accesses.
pub const DMA_BUF_IOCTL_SYNC: libc::Ioctl =
    libc::_IOW::<dma_buf_sync>(b'b' as u32, 0);
/// The number of the call that names a buffer. The header has two spellings:
/// this one, whose argument is 64 bits wide, is the same for every program.
pub const DMA_BUF_SET_NAME_B: libc::Ioctl = libc::_IOW::<u64>(b'b' as u32, 1);
/// The number of the call that gives a sync file.
pub const DMA_BUF_IOCTL_EXPORT_SYNC_FILE: libc::Ioctl =
    libc::_IOWR::<dma_buf_export_sync_file>(b'b' as u32, 2);
/// The number of the call that takes a sync file.
pub const DMA_BUF_IOCTL_IMPORT_SYNC_FILE: libc::Ioctl =
    libc::_IOW::<dma_buf_import_sync_file>(b'b' as u32, 3);

/// `ioctl(UDMABUF_CREATE)` on `/dev/udmabuf`: makes a dma-buf of a range of a
/// memfd. The two are the same pages from then on.
///
/// # Errors
///
/// The errno of the call, on the memfd: `EBADFD` (no memfd at all), `EINVAL`
/// (sealed too little or too much; a range that is not of whole pages, empty,
/// outside, or over the driver's limit), `EMFILE`, `ENFILE`, `ENOMEM`.
///
/// # Sources
///
/// `<linux/udmabuf.h>`; since Linux 4.20.
pub fn ioctl_udmabuf_create(
    device: BorrowedFd<'_>,
    memfd: BorrowedFd<'_>,
    flags: u32,
    offset: u64,
    size: u64,
) -> Result<OwnedFd, OsError> {
    let create =
        udmabuf_create { memfd: number_of(memfd), flags, offset, size };
    let fd =
        // SAFETY: the kernel reads the one structure, which lives through the
        // call.
        unsafe { ioctl(device, UDMABUF_CREATE, (&raw const create).cast()) };
    opened(fd).ok_or_else(|| {
        OsError::last("ioctl(UDMABUF_CREATE)").on(descriptor_of(memfd))
    })
}

/// `ioctl(UDMABUF_CREATE_LIST)` on `/dev/udmabuf`: makes one dma-buf of several
/// ranges, one after the other: each a memfd, an offset and a size in bytes.
///
/// # Errors
///
/// The errno of the call, on the device: as for [`ioctl_udmabuf_create`], also
/// `EINVAL` for no item or more than the driver's limit.
///
/// # Sources
///
/// `<linux/udmabuf.h>`; since Linux 4.20.
pub fn ioctl_udmabuf_create_list(
    device: BorrowedFd<'_>,
    flags: u32,
    items: &[(BorrowedFd<'_>, u64, u64)],
) -> Result<OwnedFd, OsError> {
    let failed = |os: OsError| os.on(Object::Path("/dev/udmabuf".into()));
    let Ok(count) = u32::try_from(items.len()) else {
        let call = "ioctl(UDMABUF_CREATE_LIST)";
        return Err(failed(OsError::new(call, libc::EINVAL)));
    };
    // The head and the items in one piece, in words, as which they are aligned.
    let word = |halves: [u32; 2]| {
        let [a, b] = halves.map(u32::to_ne_bytes);
        u64::from_ne_bytes([a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]])
    };
    let mut list = vec![word([flags, count])];
    for (memfd, offset, size) in items {
        let memfd = memfd.as_raw_fd().cast_unsigned();
        list.extend([word([memfd, 0]), *offset, *size]);
    }
    let fd =
        // SAFETY: the kernel reads the head and as many items as that says, all
        // in the words of `list`, which lives through the call.
        unsafe { ioctl(device, UDMABUF_CREATE_LIST, list.as_ptr().cast()) };
    opened(fd)
        .ok_or_else(|| failed(OsError::last("ioctl(UDMABUF_CREATE_LIST)")))
}

/// `ioctl(DMA_HEAP_IOCTL_ALLOC)` on a heap: allocates a buffer of zeros.
///
/// # Errors
///
/// The errno of the call, on the heap: `EINVAL` (no bytes, unknown flags),
/// `EMFILE`, `ENFILE`, `ENOMEM`, `EINTR` (on the way to be killed).
///
/// # Crashes
///
/// A length near the machine's memory makes the system run out of it: the
/// kernel kills processes, and may panic.
///
/// # Sources
///
/// `<linux/dma-heap.h>`; since Linux 5.6.
pub fn ioctl_dma_heap_alloc(
    heap: BorrowedFd<'_>,
    len: u64,
    fd_flags: u32,
    heap_flags: u64,
) -> Result<OwnedFd, OsError> {
    let mut data =
        dma_heap_allocation_data { len, fd: 0, fd_flags, heap_flags };
    let done =
        // SAFETY: the kernel reads and writes the one structure, which is
        // exclusively borrowed through the call.
        unsafe { ioctl(heap, DMA_HEAP_IOCTL_ALLOC, (&raw mut data).cast()) };
    match done {
        -1 => Err(OsError::last("ioctl(DMA_HEAP_IOCTL_ALLOC)")
            .on(descriptor_of(heap))),
        // SAFETY: the call succeeded, so it is open and nobody else knows it.
        _ => Ok(unsafe { OwnedFd::from_raw_fd(data.fd.cast_signed()) }),
    }
}

/// `ioctl(DMA_BUF_IOCTL_SYNC)`: begins or ends accesses by the processor.
///
/// # Errors
///
/// The errno of the call: `EINVAL` (unknown flags), `EAGAIN` and `EINTR` (call
/// again), and what the driver says.
///
/// # Sources
///
/// `<linux/dma-buf.h>`; since Linux 4.6.
pub fn ioctl_dma_buf_sync(
    fd: BorrowedFd<'_>,
    flags: u64,
) -> Result<(), OsError> {
    let sync = dma_buf_sync { flags };
    let done =
        // SAFETY: the kernel reads the one structure, which lives through the
        // call.
        unsafe { ioctl(fd, DMA_BUF_IOCTL_SYNC, (&raw const sync).cast()) };
    match done {
        -1 => {
            Err(OsError::last("ioctl(DMA_BUF_IOCTL_SYNC)")
                .on(descriptor_of(fd)))
        }
        _ => Ok(()),
    }
}

/// `ioctl(DMA_BUF_SET_NAME)`: gives the buffer a name that people see.
///
/// # Errors
///
/// The errno of the call: `EINVAL` (longer than [`DMA_BUF_NAME_LEN`]);
/// `EBUSY` before Linux 5.11, once a device uses the buffer.
///
/// # Sources
///
/// `<linux/dma-buf.h>`; since Linux 5.3.
pub fn ioctl_dma_buf_set_name(
    fd: BorrowedFd<'_>,
    name: &CStr,
) -> Result<(), OsError> {
    // SAFETY: the kernel reads a C string, which lives through the call.
    match unsafe { ioctl(fd, DMA_BUF_SET_NAME_B, name.as_ptr().cast()) } {
        -1 => {
            Err(OsError::last("ioctl(DMA_BUF_SET_NAME)").on(descriptor_of(fd)))
        }
        _ => Ok(()),
    }
}

/// `ioctl(DMA_BUF_IOCTL_EXPORT_SYNC_FILE)`: gives a sync file that is done when
/// the devices are, for who does what `flags` say.
///
/// # Errors
///
/// The errno of the call: `ENOTTY` where the kernel was built without
/// `CONFIG_SYNC_FILE`, `EINVAL` (unknown flags), `EMFILE`, `ENOMEM`.
///
/// # Sources
///
/// `<linux/dma-buf.h>`; since Linux 6.0.
pub fn ioctl_dma_buf_export_sync_file(
    fd: BorrowedFd<'_>,
    flags: u32,
) -> Result<OwnedFd, OsError> {
    let mut export = dma_buf_export_sync_file { flags, fd: -1 };
    let number = DMA_BUF_IOCTL_EXPORT_SYNC_FILE;
    // SAFETY: the kernel reads and writes the one structure, which is
    // exclusively borrowed through the call.
    match unsafe { ioctl(fd, number, (&raw mut export).cast()) } {
        -1 => Err(OsError::last("ioctl(DMA_BUF_IOCTL_EXPORT_SYNC_FILE)")
            .on(descriptor_of(fd))),
        // SAFETY: the call succeeded, so it is open and nobody else knows it.
        _ => Ok(unsafe { OwnedFd::from_raw_fd(export.fd) }),
    }
}

/// `ioctl(DMA_BUF_IOCTL_IMPORT_SYNC_FILE)`: lets devices wait for a sync file
/// before they use the buffer.
///
/// # Errors
///
/// The errno of the call: `ENOTTY` where the kernel was built without
/// `CONFIG_SYNC_FILE`, `EINVAL` (unknown flags, or no sync file), `ENOMEM`.
///
/// # Sources
///
/// `<linux/dma-buf.h>`; since Linux 6.0.
pub fn ioctl_dma_buf_import_sync_file(
    fd: BorrowedFd<'_>,
    flags: u32,
    sync_file: BorrowedFd<'_>,
) -> Result<(), OsError> {
    let import = dma_buf_import_sync_file { flags, fd: sync_file.as_raw_fd() };
    let number = DMA_BUF_IOCTL_IMPORT_SYNC_FILE;
    // SAFETY: the kernel reads the one structure, which lives through the call.
    match unsafe { ioctl(fd, number, (&raw const import).cast()) } {
        -1 => Err(OsError::last("ioctl(DMA_BUF_IOCTL_IMPORT_SYNC_FILE)")
            .on(descriptor_of(fd))),
        _ => Ok(()),
    }
}

/// `fcntl(F_GET_SEALS)`. Any file in a tmpfs answers, not only a memfd.
///
/// # Errors
///
/// The errno of the call: `EINVAL` for a file that has no seals.
///
/// # Sources
///
/// fcntl(2), "File Sealing"; since Linux 3.17.
pub fn fcntl_get_seals(fd: BorrowedFd<'_>) -> Result<c_int, OsError> {
    // SAFETY: a call without pointers, on a borrowed descriptor.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) } {
        -1 => Err(OsError::last("fcntl(F_GET_SEALS)").on(descriptor_of(fd))),
        seals => Ok(seals),
    }
}

/// Maps `length` bytes of an object at an address that the kernel chooses.
///
/// # Errors
///
/// The errno of the call: `EACCES`, `EINVAL`, `ENOMEM`.
///
/// # Safety
///
/// 1. `flags` holds neither `MAP_FIXED` nor another flag that replaces or
///    grows an existing mapping.
///
/// # Sources
///
/// mmap(2).
pub unsafe fn mmap(
    length: usize,
    prot: c_int,
    flags: c_int,
    fd: impl AsFd,
    offset: off_t,
) -> Result<NonNull<c_void>, OsError> {
    let fd = fd.as_fd();
    // SAFETY: the kernel picks unused addresses, since there is no hint and,
    // as the caller promises, no MAP_FIXED; so no existing memory is touched.
    let start = unsafe {
        libc::mmap(ptr::null_mut(), length, prot, flags, fd.as_raw_fd(), offset)
    };
    if start == libc::MAP_FAILED {
        return Err(OsError::last("mmap").on(descriptor_of(fd)));
    }
    // Without MAP_FIXED the kernel never picks page 0.
    NonNull::new(start)
        .ok_or_else(|| OsError::new("mmap", libc::EINVAL).on(descriptor_of(fd)))
}

/// Unmaps a range.
///
/// # Errors
///
/// The errno of the call: `EINVAL`; `ENOMEM` when it would split a mapping and
/// there are too many.
///
/// # Safety
///
/// 1. `start..start + length` is all of one or more mappings, and nobody uses
///    those addresses any more.
///
/// # Sources
///
/// munmap(2).
pub unsafe fn munmap(
    start: NonNull<c_void>,
    length: usize,
) -> Result<(), OsError> {
    // SAFETY: the caller promises that nobody uses the range any more.
    match unsafe { libc::munmap(start.as_ptr(), length) } {
        -1 => Err(OsError::last("munmap").on(Object::Memory(length))),
        _ => Ok(()),
    }
}

/// One ioctl(2) whose argument is a pointer.
///
/// # Safety
///
/// 1. `argument` points to what `number` reads and, if it is one of those that
///    answer, writes; through the call.
unsafe fn ioctl(
    fd: BorrowedFd<'_>,
    number: libc::Ioctl,
    argument: *const c_void,
) -> c_int {
    // SAFETY: 1. by the caller, for the driver that the number belongs to. The
    // number holds the direction and length of its argument, so that another
    // driver refuses it (ENOTTY) or, if it has one alike, copies no more.
    unsafe { libc::ioctl(fd.as_raw_fd(), number, argument) }
}

/// The descriptor that a call returned.
fn opened(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: only for what such a call returned: it is open, and nobody else
    // knows it.
    (fd != -1).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}
