//! Only here: taking turns with the devices that use a buffer.

use std::fmt;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd};

use shm_common::{Error, OsError, Result};

use crate::raw;

/// What the processor does to a buffer meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CpuAccess {
    /// It reads.
    Read,
    /// It writes.
    Write,
    /// It does both.
    ReadWrite,
}

impl CpuAccess {
    fn flags(self) -> u64 {
        match self {
            CpuAccess::Read => raw::DMA_BUF_SYNC_READ,
            CpuAccess::Write => raw::DMA_BUF_SYNC_WRITE,
            CpuAccess::ReadWrite => raw::DMA_BUF_SYNC_RW,
        }
    }

    /// As the calls for sync files take it: the same bits, in a narrower field.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the flags have two bits"
    )]
    pub(crate) fn sync_file_flags(self) -> u32 {
        self.flags() as u32
    }
}

/// A stretch of accesses by the processor; it ends when this is dropped.
///
/// Within it the processor sees what devices have written, and once it has
/// ended devices see what the processor wrote. It keeps nobody out: neither
/// other processes nor other stretches, which may overlap.
///
/// An error at the end would be lost in a drop: use [`end`](Self::end) to hear
/// of it.
///
/// # Sources
///
/// `<linux/dma-buf.h>`, `DMA_BUF_IOCTL_SYNC`.
#[must_use = "the stretch ends when this is dropped"]
pub struct CpuAccessGuard<'a> {
    fd: BorrowedFd<'a>,
    access: CpuAccess,
}

impl<'a> CpuAccessGuard<'a> {
    pub(crate) fn start(fd: BorrowedFd<'a>, access: CpuAccess) -> Result<Self> {
        sync(fd, raw::DMA_BUF_SYNC_START | access.flags())?;
        Ok(Self { fd, access })
    }

    /// Ends the stretch.
    ///
    /// # Errors
    ///
    /// [`Error::Os`] and others: what the driver says; the devices may not see
    /// what was written. The stretch has ended all the same.
    pub fn end(self) -> Result<()> {
        // Nothing in it needs to be dropped.
        ManuallyDrop::new(self).end_once()
    }

    fn end_once(&self) -> Result<()> {
        sync(self.fd, raw::DMA_BUF_SYNC_END | self.access.flags())
    }
}

impl Drop for CpuAccessGuard<'_> {
    fn drop(&mut self) {
        // Who wants to know calls `end`.
        let _ = self.end_once();
    }
}

impl fmt::Debug for CpuAccessGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuAccessGuard")
            .field("fd", &self.fd.as_raw_fd())
            .field("access", &self.access)
            .finish()
    }
}

/// The call waits for devices, and is repeated when it was disturbed: the
/// interface asks for that after both errors.
fn sync(fd: BorrowedFd<'_>, flags: u64) -> Result<()> {
    loop {
        match raw::ioctl_dma_buf_sync(fd, flags) {
            Err(os) if matches!(os.errno(), libc::EINTR | libc::EAGAIN) => {}
            result => return Ok(result?),
        }
    }
}

/// Sorts the errors of the calls for sync files, which few kernels have.
pub(crate) fn without_sync_files(os: OsError) -> Error {
    match os.errno() {
        libc::ENOTTY => Error::Unsupported {
            what: "this kernel has no sync files for dma-buf (Linux 6.0, \
                   CONFIG_SYNC_FILE)",
            os: Some(os),
        },
        _ => os.into(),
    }
}
