//! The raw layer: the mechanism's own calls, under their C names.
//!
//! Each function makes one call and turns its errno into an [`OsError`] that
//! names what it was applied to. There is no policy here: no retry, no default.
#![expect(unsafe_code, reason = "calls C functions")]

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr::{self, NonNull};

use libc::{c_int, c_uint, c_void, off_t};
use shm_common::{Object, OsError};

fn descriptor_of(fd: BorrowedFd<'_>) -> Object {
    Object::Descriptor(fd.as_raw_fd())
}

/// Creates a nameless file in memory.
///
/// # Errors
///
/// The errno of the call: `EINVAL` for flags that the kernel does not know,
/// `EMFILE`, `ENFILE`, `ENOMEM`.
///
/// # Sources
///
/// `memfd_create(2)`; since Linux 3.17, `MFD_NOEXEC_SEAL` since Linux 6.3.
pub fn memfd_create(name: &CStr, flags: c_uint) -> Result<OwnedFd, OsError> {
    // SAFETY: `name` is a C string that lives through the call.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
    if fd == -1 {
        let label = OsStr::from_bytes(name.to_bytes()).to_owned();
        return Err(OsError::last("memfd_create").on(Object::Label(label)));
    }
    // SAFETY: the call succeeded, so `fd` is open and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `fcntl(F_ADD_SEALS)`: adds seals, which nothing takes off again.
///
/// # Errors
///
/// The errno of the call: `EBUSY` (`F_SEAL_WRITE` while a writable mapping, or
/// the kernel, uses the pages), `EPERM` (sealed by `F_SEAL_SEAL`, or a
/// descriptor for reading), `EINVAL` (no such seal, or no file that has seals).
///
/// # Sources
///
/// fcntl(2), "File Sealing"; since Linux 3.17.
pub fn fcntl_add_seals(
    fd: BorrowedFd<'_>,
    seals: c_int,
) -> Result<(), OsError> {
    // SAFETY: a call without pointers, on a borrowed descriptor.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) } {
        -1 => Err(OsError::last("fcntl(F_ADD_SEALS)").on(descriptor_of(fd))),
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

/// Sets the length of the object to `length` bytes, without reserving any.
///
/// # Errors
///
/// The errno of the call. A full file system is *not* among them: see
/// [`posix_fallocate`].
///
/// # Crashes
///
/// Beyond `RLIMIT_FSIZE` the process gets `SIGXFSZ`.
///
/// # Sources
///
/// ftruncate(2).
pub fn ftruncate(fd: BorrowedFd<'_>, length: off_t) -> Result<(), OsError> {
    // SAFETY: a call without pointers, on a borrowed descriptor.
    match unsafe { libc::ftruncate(fd.as_raw_fd(), length) } {
        -1 => Err(OsError::last("ftruncate").on(descriptor_of(fd))),
        _ => Ok(()),
    }
}

/// Reserves the pages of `offset..offset + len`, growing the object to the end
/// of that range if it is shorter.
///
/// # Errors
///
/// The errno that the call returns: `ENOSPC`, `EINTR` (nothing of this call
/// was done), `EFBIG`.
///
/// # Crashes
///
/// Beyond `RLIMIT_FSIZE` the process gets `SIGXFSZ`.
///
/// # Sources
///
/// `posix_fallocate(3)`; in tmpfs since Linux 3.5.
pub fn posix_fallocate(
    fd: BorrowedFd<'_>,
    offset: off_t,
    len: off_t,
) -> Result<(), OsError> {
    // SAFETY: a call without pointers, on a borrowed descriptor.
    match unsafe { libc::posix_fallocate(fd.as_raw_fd(), offset, len) } {
        0 => Ok(()),
        errno => {
            Err(OsError::new("posix_fallocate", errno).on(descriptor_of(fd)))
        }
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

/// Advises the kernel about a mapped range.
///
/// # Errors
///
/// The errno of the call: `EINVAL` when the kernel does not know the advice;
/// `EFAULT` when `MADV_POPULATE_WRITE` would have been a `SIGBUS`.
///
/// # Safety
///
/// 1. `start..start + length` is mapped, and `start` is a page's first byte.
/// 2. `advice` changes no byte that anyone relies on (not `MADV_DONTNEED`, say,
///    on private memory).
///
/// # Sources
///
/// madvise(2).
pub unsafe fn madvise(
    start: NonNull<c_void>,
    length: usize,
    advice: c_int,
) -> Result<(), OsError> {
    // SAFETY: the caller promises a mapped range and harmless advice.
    match unsafe { libc::madvise(start.as_ptr(), length, advice) } {
        -1 => Err(OsError::last("madvise").on(Object::Memory(length))),
        _ => Ok(()),
    }
}

/// Takes a pending signal of `set`, waiting up to `timeout` for one; gives its
/// number. The signals of `set` should be blocked in this thread.
///
/// # Errors
///
/// The errno of the call: `EAGAIN` (none came), `EINTR`.
///
/// # Sources
///
/// sigtimedwait(2).
pub fn sigtimedwait(
    set: &libc::sigset_t,
    timeout: libc::timespec,
) -> Result<c_int, OsError> {
    // SAFETY: `set` and `timeout` live through the call, and a null pointer
    // says that nothing but the number is wanted.
    match unsafe {
        libc::sigtimedwait(set, ptr::null_mut(), &raw const timeout)
    } {
        -1 => Err(OsError::last("sigtimedwait")),
        signal => Ok(signal),
    }
}

/// What one recvmsg(2) brought.
#[derive(Debug)]
#[non_exhaustive]
pub struct Received {
    /// The bytes written to the buffer.
    pub len: usize,
    /// `msg_flags`: `MSG_TRUNC`, `MSG_CTRUNC` and others.
    pub flags: c_int,
    /// Every descriptor that the sender passed (`SCM_RIGHTS`), each already
    /// owned.
    pub descriptors: Vec<OwnedFd>,
    /// The sender's pidfd, where the socket has `SO_PASSPIDFD`.
    pub pidfd: Option<OwnedFd>,
}

/// The most descriptors that the kernel puts in one message: `SCM_MAX_FD`.
pub const SCM_MAX_FD: usize = 253;

/// The type of a control message that carries the sender's pidfd, where
/// `SO_PASSPIDFD` asks for it; not in every version of the C headers.
const SCM_PIDFD: c_int = 4;

/// Room for the control messages of one message, in words so that it is aligned
/// for `cmsghdr`: 253 descriptors, the sender's credentials and pidfd, and as
/// much again for what else may come (a security label, a time stamp). What
/// still does not fit shows as `MSG_CTRUNC`.
type ControlBuffer = [u64; 256];

/// Receives one message and every descriptor in it. Descriptors are owned from
/// the moment they are known, so no path leaks one.
///
/// # Errors
///
/// The errno of the call: `EAGAIN`, `EINTR`, `ECONNRESET`.
///
/// # Sources
///
/// recvmsg(2), unix(7), cmsg(3); `MSG_CMSG_CLOEXEC` since Linux 2.6.23.
pub fn recvmsg(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: c_int,
) -> Result<Received, OsError> {
    let mut control: ControlBuffer = [0; 256];
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: `msghdr` is a C struct of integers and pointers, for which all
    // zeros is a value: no address, no parts, no control messages.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<ControlBuffer>() as _;
    // SAFETY: the header names one part, `buffer`, and `control`, both with
    // their lengths and exclusively borrowed through the call.
    let len =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let Ok(len) = usize::try_from(len) else {
        return Err(OsError::last("recvmsg").on(descriptor_of(socket)));
    };
    let mut received = Received {
        len,
        flags: message.msg_flags,
        descriptors: Vec::new(),
        pidfd: None,
    };
    // SAFETY: 1. the header was just filled by a successful recvmsg, and
    // `control` is still there. 2. Called once.
    unsafe { take_descriptors(&message, &mut received) };
    Ok(received)
}

/// Takes ownership of every descriptor in the control messages.
///
/// # Safety
///
/// 1. A successful recvmsg filled `message`, whose control buffer is live.
/// 2. It is called once for that recvmsg.
unsafe fn take_descriptors(message: &libc::msghdr, into: &mut Received) {
    // SAFETY: 1. by the caller: a filled header with a live buffer.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: the kernel wrote a whole, aligned header there: cmsg(3).
        let cmsghdr = unsafe { header.read() };
        if cmsghdr.cmsg_level == libc::SOL_SOCKET
            && matches!(cmsghdr.cmsg_type, libc::SCM_RIGHTS | SCM_PIDFD)
        {
            // SAFETY: CMSG_LEN only computes.
            let header_len = unsafe { libc::CMSG_LEN(0) } as usize;
            let data_len =
                (cmsghdr.cmsg_len as usize).saturating_sub(header_len);
            // SAFETY: `header` is a header inside the buffer.
            let data = unsafe { libc::CMSG_DATA(header) }.cast::<RawFd>();
            for index in 0..data_len / size_of::<RawFd>() {
                // SAFETY: the index is within the data of this message.
                let slot = unsafe { data.add(index) };
                // SAFETY: the kernel wrote a number there; unaligned is
                // allowed.
                let fd = unsafe { slot.read_unaligned() };
                // In place of a pidfd that it could not open, the kernel writes
                // a negative errno.
                if fd < 0 {
                    continue;
                }
                // SAFETY: the kernel opened it for us in this recvmsg, and by
                // 2. nobody else takes it.
                let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                match cmsghdr.cmsg_type {
                    SCM_PIDFD => into.pidfd = Some(fd),
                    _ => into.descriptors.push(fd),
                }
            }
        }
        // SAFETY: 1. as above, and `header` is a header inside the buffer.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
}
