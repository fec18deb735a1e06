//! What probes use: the calls of the kernel, with guards that undo them.
#![expect(unsafe_code, reason = "maps memory and touches it")]

use std::ffi::{CStr, CString, c_int, c_uint};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use integration_tests::leaks;
use libc::{PROT_READ, PROT_WRITE, off_t};
use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal, signal};
use shm_common::OsError;
use shm_dmabuf::raw as dmabuf_raw;
use shm_memfd::raw as memfd_raw;
use shm_posix::raw as posix_raw;
use shm_sysv::raw as sysv_raw;

/// The size of most objects here: two pages of the base size on x86-64.
pub const SIZE: usize = 8192;
/// Half of it: where the second page begins.
pub const PAGE: usize = 4096;

pub const READ_WRITE: c_int = PROT_READ | PROT_WRITE;

/// A System V segment, removed on drop.
pub struct SysV {
    pub key: i32,
    pub id: i32,
}

impl SysV {
    pub fn new(size: usize) -> Result<Self, OsError> {
        Self::with(size, 0o600)
    }

    pub fn with(size: usize, flags: c_int) -> Result<Self, OsError> {
        let key = leaks::unique_key();
        let flags = flags | libc::IPC_CREAT | libc::IPC_EXCL;
        Ok(Self { key, id: sysv_raw::shmget(key, size, flags)? })
    }

    pub fn attach(&self) -> Result<Memory, OsError> {
        Memory::attach(self.id, 0)
    }

    pub fn remove(&self) -> Result<(), OsError> {
        sysv_raw::shmctl_ipc_rmid(self.id)
    }
}

impl Drop for SysV {
    fn drop(&mut self) {
        // It may be gone: that is what some probes are about.
        let _ = self.remove();
    }
}

/// A POSIX object, unlinked on drop.
pub struct Posix {
    pub name: CString,
    pub fd: OwnedFd,
}

impl Posix {
    pub fn new(size: usize) -> Result<Self, OsError> {
        let object = Self::with(0o600)?;
        posix_raw::ftruncate(object.fd.as_fd(), offset(size))?;
        Ok(object)
    }

    /// Of size 0.
    pub fn with(mode: libc::mode_t) -> Result<Self, OsError> {
        let name = CString::new(format!("/{}", leaks::unique_name("probe")));
        let name = name.unwrap_or_default();
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR;
        let fd = posix_raw::shm_open(&name, flags, mode)?;
        Ok(Self { name, fd })
    }

    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/dev/shm{}", self.name.to_string_lossy()))
    }

    pub fn open(&self, flags: c_int) -> Result<OwnedFd, OsError> {
        posix_raw::shm_open(&self.name, flags, 0)
    }

    pub fn unlink(&self) -> Result<(), OsError> {
        posix_raw::shm_unlink(&self.name)
    }
}

impl Drop for Posix {
    fn drop(&mut self) {
        // It may be gone: that is what some probes are about.
        let _ = self.unlink();
    }
}

/// A memfd that takes seals.
pub fn memfd(size: usize) -> Result<OwnedFd, OsError> {
    let fd = memfd_with(libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING)?;
    posix_raw::ftruncate(fd.as_fd(), offset(size))?;
    Ok(fd)
}

/// A memfd of size 0.
pub fn memfd_with(flags: c_uint) -> Result<OwnedFd, OsError> {
    memfd_raw::memfd_create(c"shmtest-probe", flags)
}

/// A memfd that carries `seals`.
pub fn sealed(size: usize, seals: c_int) -> Result<OwnedFd, OsError> {
    let fd = memfd(size)?;
    memfd_raw::fcntl_add_seals(fd.as_fd(), seals)?;
    Ok(fd)
}

/// A dma-buf of a heap, for reading and writing.
pub fn heap_buffer(size: usize) -> std::io::Result<OwnedFd> {
    heap_buffer_with(size, libc::O_RDWR)
}

pub fn heap_buffer_with(size: usize, flags: c_int) -> std::io::Result<OwnedFd> {
    allocate(heap()?, size, flags)
}

/// The heap of ordinary memory.
pub fn heap() -> std::io::Result<OwnedFd> {
    device("/dev/dma_heap/system")
}

pub fn allocate(
    heap: impl AsFd,
    size: usize,
    flags: c_int,
) -> std::io::Result<OwnedFd> {
    let flags = (flags | libc::O_CLOEXEC).cast_unsigned();
    let len = size as u64;
    dmabuf_raw::ioctl_dma_heap_alloc(heap.as_fd(), len, flags, 0)
        .map_err(|os| std::io::Error::from_raw_os_error(os.errno()))
}

/// A dma-buf of the pages of a memfd.
pub fn udmabuf(
    memfd: impl AsFd,
    at: usize,
    size: usize,
) -> std::io::Result<OwnedFd> {
    udmabuf_with(memfd, at, size, dmabuf_raw::UDMABUF_FLAGS_CLOEXEC)
}

pub fn udmabuf_with(
    memfd: impl AsFd,
    at: usize,
    size: usize,
    flags: u32,
) -> std::io::Result<OwnedFd> {
    let device = device("/dev/udmabuf")?;
    let (at, size) = (at as u64, size as u64);
    dmabuf_raw::ioctl_udmabuf_create(
        device.as_fd(),
        memfd.as_fd(),
        flags,
        at,
        size,
    )
    .map_err(|os| std::io::Error::from_raw_os_error(os.errno()))
}

/// A mapping or an attachment, undone on drop.
pub struct Memory {
    /// Invariant: `start..start + len` is mapped as long as this lives, and all
    /// of what `drop` undoes.
    start: NonNull<u8>,
    len: usize,
    attached: bool,
}

impl Memory {
    /// Shared, for reading and writing.
    pub fn map(fd: impl AsFd, len: usize) -> Result<Self, OsError> {
        Self::map_with(fd, len, READ_WRITE, libc::MAP_SHARED)
    }

    /// `flags` without `MAP_FIXED`.
    pub fn map_with(
        fd: impl AsFd,
        len: usize,
        prot: c_int,
        flags: c_int,
    ) -> Result<Self, OsError> {
        let flags = flags & !libc::MAP_FIXED;
        // SAFETY: 1. no MAP_FIXED.
        let start = unsafe { posix_raw::mmap(len, prot, flags, fd, 0)? };
        Ok(Self { start: start.cast(), len, attached: false })
    }

    /// `flags` without `SHM_REMAP`.
    pub fn attach(id: i32, flags: c_int) -> Result<Self, OsError> {
        const SHM_REMAP: c_int = 0o40000;
        // SAFETY: 1. no SHM_REMAP.
        let start = unsafe { sysv_raw::shmat(id, flags & !SHM_REMAP)? };
        Ok(Self { start: start.cast(), len: SIZE, attached: true })
    }

    /// May be a `SIGBUS` or a `SIGSEGV`: that is what some probes are about.
    pub fn read(&self, at: usize) -> u8 {
        assert!(at < self.len);
        // SAFETY: inside by the assertion; a byte is always aligned; volatile,
        // for it may change or be gone at any time.
        unsafe { self.start.as_ptr().wrapping_add(at).read_volatile() }
    }

    /// As [`read`](Self::read).
    pub fn write(&self, at: usize, byte: u8) {
        assert!(at < self.len);
        // SAFETY: as in `read`.
        unsafe { self.start.as_ptr().wrapping_add(at).write_volatile(byte) };
    }

    pub fn advise(&self, advice: c_int) -> Result<(), OsError> {
        // SAFETY: 1. mapped by the invariant. 2. Nobody but this probe relies
        // on the bytes.
        unsafe { posix_raw::madvise(self.start.cast(), self.len, advice) }
    }

    pub fn protect(&self, prot: c_int) -> nix::Result<()> {
        // SAFETY: our own mapping, to which no reference exists.
        let result = unsafe {
            libc::mprotect(self.start.as_ptr().cast(), self.len, prot)
        };
        Errno::result(result).map(drop)
    }

    pub fn lock(&self) -> nix::Result<()> {
        // SAFETY: our own mapping; nothing but its residence changes.
        let result =
            unsafe { libc::mlock(self.start.as_ptr().cast(), self.len) };
        Errno::result(result).map(drop)
    }

    /// Wakes who sleeps on the first word, of the kind that processes share.
    pub fn wake(&self) -> nix::Result<()> {
        let call = libc::SYS_futex;
        let (word, operation) = (self.start.as_ptr(), libc::FUTEX_WAKE);
        // SAFETY: the call takes an address and two numbers, and writes nothing.
        let woken = unsafe { libc::syscall(call, word, operation, 1) };
        Errno::result(woken).map(drop)
    }

    /// The address, as `/proc/self/maps` begins a line with it.
    pub fn address(&self) -> String {
        format!("{:x}-", self.start.addr())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let start = self.start.cast();
        let undone = match self.attached {
            // SAFETY: 1. attached in `attach`, and not used any more.
            true => unsafe { sysv_raw::shmdt(start) },
            // SAFETY: 1. all of what was mapped, and not used any more.
            false => unsafe { posix_raw::munmap(start, self.len) },
        };
        assert_eq!(undone, Ok(()));
    }
}

pub fn offset(bytes: usize) -> off_t {
    off_t::try_from(bytes).unwrap_or(off_t::MAX)
}

pub fn ftruncate(fd: impl AsFd, size: usize) -> Result<(), OsError> {
    posix_raw::ftruncate(fd.as_fd(), offset(size))
}

pub fn fallocate(fd: impl AsFd, size: usize) -> Result<(), OsError> {
    posix_raw::posix_fallocate(fd.as_fd(), 0, offset(size))
}

/// Takes the first page out of a file.
pub fn punch_hole(fd: impl AsFd) -> nix::Result<()> {
    use nix::fcntl::{FallocateFlags, fallocate};
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE
        | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(fd.as_fd(), flags, 0, offset(PAGE))
}

pub fn add_seals(fd: impl AsFd, seals: c_int) -> Result<(), OsError> {
    memfd_raw::fcntl_add_seals(fd.as_fd(), seals)
}

/// Opens a descriptor of this process anew.
pub fn reopen(fd: impl AsFd, write: bool) -> std::io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let file = std::fs::File::options().read(true).write(write).open(path)?;
    Ok(file.into())
}

/// Gives an open file another name.
pub fn link(fd: impl AsFd, path: &Path) -> nix::Result<()> {
    use nix::fcntl::{AT_FDCWD, AtFlags};
    let entry = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let flags = AtFlags::AT_SYMLINK_FOLLOW;
    nix::unistd::linkat(AT_FDCWD, entry.as_str(), AT_FDCWD, path, flags)
}

/// Lets a call fail where it would otherwise get a signal.
pub fn ignore(which: Signal) -> nix::Result<()> {
    // SAFETY: ignoring runs no code.
    unsafe { signal(which, SigHandler::SigIgn) }.map(drop)
}

fn device(path: &str) -> std::io::Result<OwnedFd> {
    let file = std::fs::File::options().read(true).write(true).open(path)?;
    Ok(file.into())
}

/// Gives a dma-buf a name.
pub fn set_name(fd: impl AsFd, name: &CStr) -> Result<(), OsError> {
    dmabuf_raw::ioctl_dma_buf_set_name(fd.as_fd(), name)
}

/// The line of `/proc/self/maps` about a mapping, from the path on.
pub fn maps_entry(memory: &Memory) -> std::io::Result<String> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let address = memory.address();
    let line = maps.lines().find(|line| line.starts_with(&address));
    let path = line.and_then(|line| line.find('/').map(|at| &line[at..]));
    Ok(path.unwrap_or_default().to_owned())
}

/// What the kernel's table says of a segment: `/proc/sysvipc/shm`, by heading.
pub fn sysv_column(id: i32, heading: &str) -> std::io::Result<Option<String>> {
    let table = std::fs::read_to_string("/proc/sysvipc/shm")?;
    let mut lines = table.lines().map(|line| line.split_whitespace());
    let position = |mut heads: std::str::SplitWhitespace<'_>, wanted| {
        heads.position(|head| head == wanted)
    };
    let heads = lines.next().ok_or(std::io::ErrorKind::InvalidData)?;
    let id_at = position(heads.clone(), "shmid");
    let at = position(heads, heading);
    let (Some(id_at), Some(at)) = (id_at, at) else { return Ok(None) };
    let id = id.to_string();
    Ok(lines
        .map(Iterator::collect::<Vec<_>>)
        .find(|columns| columns.get(id_at) == Some(&id.as_str()))
        .and_then(|columns| columns.get(at).map(ToString::to_string)))
}
