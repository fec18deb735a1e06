//! The bytes of a segment, wherever it lies.
//!
//! Files are read and written by calls, which fail where a mapping would be a
//! `SIGBUS`: whoever else has the segment may cut it off at any time. System V
//! segments and dma-bufs can only be mapped, and cannot be cut off; nor can a
//! memfd that is sealed against it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use shm_common::{Access, AsSharedBytes, Error, ReadWrite};
use shm_dmabuf::CpuAccess;

use crate::Failure;
use crate::census::{self, open_as};
use crate::target::{Descriptor, Target};

/// What can be read.
pub(crate) trait Contents {
    /// How many bytes there were when it was opened.
    fn len(&self) -> usize;

    /// Reads some bytes, at least one if there are any at this offset; says how
    /// many.
    fn read_at(
        &self,
        offset: usize,
        buffer: &mut [u8],
    ) -> Result<usize, Failure>;
}

/// What can be written, within its length.
pub(crate) trait ContentsMut {
    fn len(&self) -> usize;

    fn write_at(&self, offset: usize, bytes: &[u8]) -> Result<(), Failure>;
}

/// A segment that is mapped.
struct Mapped<M>(M);

/// A file, what keeps it in use, and its length.
struct Opened<S> {
    file: File,
    len: usize,
    /// The lock of a POSIX segment, by which a reaper leaves it alone.
    _segment: S,
}

/// A dma-buf, which devices may use as well.
struct Buffer<A: Access> {
    segment: shm_dmabuf::Segment<A>,
    mapping: Mapped<shm_dmabuf::Mapping<A>>,
}

/// Opens what a target leads to, for reading.
pub(crate) fn open(target: &Target) -> Result<Box<dyn Contents>, Failure> {
    let cannot = |error: Error| target.cannot("read", error);
    Ok(match target {
        Target::SysvKey(key) => {
            let segment = shm_sysv::Segment::open_read_only(*key);
            let mapping = segment.and_then(|segment| segment.map());
            Box::new(Mapped(mapping.map_err(cannot)?))
        }
        Target::SysvId(id) => {
            let segment = shm_sysv::Segment::open_id_read_only(*id);
            let mapping = segment.and_then(|segment| segment.map());
            Box::new(Mapped(mapping.map_err(cannot)?))
        }
        Target::Posix(name) => {
            let segment = shm_posix::Segment::open_read_only(name);
            let segment = segment.map_err(cannot)?;
            let file = File::from(segment.as_fd().try_clone_to_owned()?);
            let len = segment.len();
            Box::new(Opened { file, len, _segment: segment })
        }
        Target::Memfd(descriptor) => {
            let file = open_memfd(target, *descriptor, false)?;
            from_file(file)?
        }
        Target::Dmabuf(descriptor) => {
            let fd = take_dmabuf(target, *descriptor)?;
            let segment = shm_dmabuf::Segment::open_read_only(fd);
            let segment = segment.map_err(cannot)?;
            let mapping = segment.map().map_err(cannot)?;
            Box::new(Buffer { segment, mapping: Mapped(mapping) })
        }
    })
}

/// A file whose bytes are read.
pub(crate) fn from_file(file: File) -> Result<Box<dyn Contents>, Failure> {
    let len = length(&file)?;
    Ok(Box::new(Opened { file, len, _segment: () }))
}

/// Opens what a target leads to, for writing.
pub(crate) fn open_mut(
    target: &Target,
) -> Result<Box<dyn ContentsMut>, Failure> {
    let cannot = |error: Error| target.cannot("write", error);
    Ok(match target {
        Target::SysvKey(key) => {
            let segment = shm_sysv::Segment::open(*key);
            let mapping = segment.and_then(|segment| segment.map());
            Box::new(Mapped(mapping.map_err(cannot)?))
        }
        Target::SysvId(id) => {
            let segment = shm_sysv::Segment::open_id(*id);
            let mapping = segment.and_then(|segment| segment.map());
            Box::new(Mapped(mapping.map_err(cannot)?))
        }
        Target::Posix(name) => {
            let segment = shm_posix::Segment::open(name).map_err(cannot)?;
            let file = File::from(segment.as_fd().try_clone_to_owned()?);
            let len = segment.len();
            Box::new(Opened { file, len, _segment: segment })
        }
        Target::Memfd(descriptor) => {
            let file = open_memfd(target, *descriptor, true)?;
            let fd = file.as_fd().try_clone_to_owned()?;
            match shm_memfd::Segment::open(fd) {
                // Those of huge pages can be written in no other way.
                Ok(segment) => Box::new(Mapped(segment.map()?)),
                Err(Error::MissingSeals { .. }) => {
                    let len = length(&file)?;
                    Box::new(Opened { file, len, _segment: () })
                }
                Err(error) => return Err(cannot(error)),
            }
        }
        Target::Dmabuf(descriptor) => {
            let fd = take_dmabuf(target, *descriptor)?;
            let segment = shm_dmabuf::Segment::open(fd).map_err(cannot)?;
            let mapping = segment.map().map_err(cannot)?;
            Box::new(Buffer { segment, mapping: Mapped(mapping) })
        }
    })
}

fn take_dmabuf(
    target: &Target,
    descriptor: Descriptor,
) -> Result<OwnedFd, Failure> {
    let object = census::object(target)?;
    census::take(descriptor, object).map_err(|e| target.cannot("take", e))
}

/// Opens once more what somebody else's descriptor leads to.
fn open_memfd(
    target: &Target,
    descriptor: Descriptor,
    write: bool,
) -> Result<File, Failure> {
    let object = census::object(target)?;
    let mut options = OpenOptions::new();
    options.read(true).write(write);
    open_as(descriptor, object, &options).map_err(|error| {
        // Which the kernel calls an operation that is not permitted.
        let sealed = write && error.raw_os_error() == Some(1);
        let hint = if sealed { "; it is sealed against writing" } else { "" };
        format!("cannot open {target}: {error}{hint}").into()
    })
}

fn length(file: &File) -> Result<usize, Failure> {
    Ok(usize::try_from(file.metadata()?.len())?)
}

impl<M: AsSharedBytes> Contents for Mapped<M> {
    fn len(&self) -> usize {
        self.0.as_shared_bytes().len()
    }

    fn read_at(
        &self,
        offset: usize,
        buffer: &mut [u8],
    ) -> Result<usize, Failure> {
        let rest = Contents::len(self).saturating_sub(offset);
        let len = rest.min(buffer.len());
        self.0.as_shared_bytes().read_at(offset, &mut buffer[..len])?;
        Ok(len)
    }
}

impl<M: AsSharedBytes<Access = ReadWrite>> ContentsMut for Mapped<M> {
    fn len(&self) -> usize {
        self.0.as_shared_bytes().len()
    }

    fn write_at(&self, offset: usize, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.0.as_shared_bytes().write_at(offset, bytes)?)
    }
}

impl<A: Access> Contents for Buffer<A> {
    fn len(&self) -> usize {
        Contents::len(&self.mapping)
    }

    fn read_at(
        &self,
        offset: usize,
        buffer: &mut [u8],
    ) -> Result<usize, Failure> {
        let access = self.segment.cpu_access(CpuAccess::Read)?;
        let read = self.mapping.read_at(offset, buffer)?;
        access.end()?;
        Ok(read)
    }
}

impl ContentsMut for Buffer<ReadWrite> {
    fn len(&self) -> usize {
        ContentsMut::len(&self.mapping)
    }

    fn write_at(&self, offset: usize, bytes: &[u8]) -> Result<(), Failure> {
        let access = self.segment.cpu_access(CpuAccess::Write)?;
        self.mapping.write_at(offset, bytes)?;
        Ok(access.end()?)
    }
}

impl<S> Contents for Opened<S> {
    fn len(&self) -> usize {
        self.len
    }

    fn read_at(
        &self,
        offset: usize,
        buffer: &mut [u8],
    ) -> Result<usize, Failure> {
        loop {
            match self.file.read_at(buffer, offset as u64) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                read => {
                    return read.map_err(|error| {
                        format!("cannot read the segment: {error}").into()
                    });
                }
            }
        }
    }
}

impl<S> ContentsMut for Opened<S> {
    fn len(&self) -> usize {
        self.len
    }

    fn write_at(&self, offset: usize, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.file.write_all_at(bytes, offset as u64);
        written.map_err(|error| {
            format!("cannot write the segment: {error}").into()
        })
    }
}
