//! What is moved, and whether it has arrived.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use shm_common::{Access, SharedBytes, Size};

use super::memory;
use crate::Failure;

/// What is moved: both processes must mean the same.
#[derive(Clone)]
pub(crate) enum Payload {
    /// A file that had this size when the command began.
    File(PathBuf, Size),
    /// Pseudo-random bytes, which nothing can compress or confuse.
    Generated(Size),
}

/// There is no room for so large a payload; a smaller one might do.
#[derive(Debug)]
pub(crate) struct NoRoom(pub(crate) String);

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoRoom {}

impl Payload {
    /// Looks whether the file can be used, without reading it.
    pub(crate) fn of_file(path: &Path) -> Result<Self, Failure> {
        let bytes = open(path)?.1;
        match Size::try_from(bytes) {
            Ok(size) => Ok(Self::File(path.to_owned(), size)),
            Err(_) if bytes == 0 => Err(cannot("move", path, "it is empty")),
            Err(error) => Err(cannot("move", path, error)),
        }
    }

    pub(crate) fn size(&self) -> Size {
        match *self {
            Self::File(_, size) | Self::Generated(size) => size,
        }
    }

    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path, _) => Some(path),
            Self::Generated(_) => None,
        }
    }

    /// Fails if there is not the memory for it: once in the sender, once in
    /// the segment, once in the receiver. The kernel would not say so but kill
    /// somebody, and not surely us.
    pub(crate) fn check_memory(&self) -> Result<(), NoRoom> {
        let needed = needed(self.size());
        match memory::available() {
            Some(available) if needed > available => Err(NoRoom(format!(
                "cannot move {}: that takes {} MiB of memory, three times the \
                 payload and a little, and {} MiB are available",
                self.size(),
                needed >> 20,
                available >> 20,
            ))),
            _ => Ok(()),
        }
    }

    /// All of it, in memory.
    pub(crate) fn load(&self) -> Result<Vec<u8>, Failure> {
        match self {
            Self::File(path, size) => load_file(path, size.bytes()),
            Self::Generated(size) => generate(size.bytes()),
        }
    }
}

/// Three times the payload; its page tables, of 8 bytes a page in four
/// mappings; and what the two processes take by themselves, some MiB each.
fn needed(payload: Size) -> u64 {
    const PROCESSES: u64 = 8 << 20;
    let bytes = payload.bytes() as u64;
    bytes.saturating_mul(3).saturating_add(bytes / 128 + PROCESSES)
}

/// The file, if it is one that has an end, and its length in bytes.
fn open(path: &Path) -> Result<(File, u64), Failure> {
    let unreadable = |error: io::Error| cannot("read", path, error);
    // Should it be a FIFO, do not wait for its writer.
    let flags = OFlag::O_NONBLOCK.bits();
    let file = File::options().read(true).custom_flags(flags).open(path);
    let file = file.map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    match metadata.is_file() {
        true => Ok((file, metadata.len())),
        false => Err(cannot("move", path, "it is no regular file")),
    }
}

fn load_file(path: &Path, size: usize) -> Result<Vec<u8>, Failure> {
    let (file, _) = open(path)?;
    let mut bytes = allocate(size)?;
    // One byte more shows that it grew; all of it might not fit into memory.
    file.take(size as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| cannot("read", path, error))?;
    match bytes.len() == size {
        true => Ok(bytes),
        false => {
            let changed = "its length changed since the command began";
            Err(cannot("move", path, changed))
        }
    }
}

fn generate(size: usize) -> Result<Vec<u8>, Failure> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = allocate(size)?;
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let word = state.to_ne_bytes();
        let len = word.len().min(size - bytes.len());
        bytes.extend_from_slice(&word[..len]);
    }
    Ok(bytes)
}

/// An empty vector with room for `size` bytes; an error instead of an abort.
pub(crate) fn allocate(size: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(size)
        .map_err(|_| NoRoom(format!("no memory for {size} bytes")))?;
    Ok(bytes)
}

/// Compares byte for byte; fails with the first one that differs.
pub(crate) fn check<A: Access>(
    arrived: SharedBytes<'_, A>,
    payload: &[u8],
) -> Result<(), Failure> {
    let mut piece = [0; 64 * 1024];
    let mut offset = 0;
    for expected in payload.chunks(piece.len()) {
        let found = &mut piece[..expected.len()];
        arrived.read_at(offset, found)?;
        if found != expected {
            let pairs = found.iter().zip(expected);
            let same = pairs.take_while(|(one, other)| one == other).count();
            let at = offset + same;
            return Err(format!("byte {at} arrived as another").into());
        }
        offset += expected.len();
    }
    Ok(())
}

fn cannot(verb: &str, path: &Path, why: impl fmt::Display) -> Failure {
    format!("cannot {verb} {}: {why}", path.display()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_bytes_have_the_length_asked_for_and_do_not_repeat() {
        for size in [1, 7, 8, 9, 4095] {
            assert_eq!(generate(size).unwrap().len(), size);
        }
        let bytes = generate(64 * 1024).unwrap();
        let (one, other) = bytes.split_at(32 * 1024);
        assert_ne!(one, other);
    }

    #[test]
    fn one_wrong_byte_is_found_wherever_it_is() {
        let payload = generate(200_000).unwrap();
        let mut arrived = payload.clone();
        check(SharedBytes::from_mut(&mut arrived), &payload).unwrap();
        for at in [0, 1, 65_535, 65_536, 199_999] {
            arrived[at] ^= 1;
            let error = check(SharedBytes::from_mut(&mut arrived), &payload);
            let text = error.unwrap_err().to_string();
            assert_eq!(text, format!("byte {at} arrived as another"));
            arrived[at] ^= 1;
        }
    }

    #[test]
    fn bytes_that_did_not_all_arrive_are_no_match() {
        let mut arrived = [7; 9];
        assert!(check(SharedBytes::from_mut(&mut arrived), &[7; 10]).is_err());
    }

    /// As was found out with `memory.max`: with less than 102 MiB the kernel
    /// killed a process.
    #[test]
    fn a_payload_takes_a_little_more_than_three_times_its_size() {
        let of = |text: &str| needed(text.parse().unwrap());
        assert!((102 << 20..110 << 20).contains(&of("32MiB")));
        assert!((4 << 20..16 << 20).contains(&of("1")));
        assert!(of("1GiB") - of("512MiB") >= (3 << 29) + (4 << 20));
        assert!(needed(Size::MAX) > 1 << 63);
    }

    #[test]
    fn more_memory_than_there_is_fails_at_once() {
        let payload = Payload::Generated(Size::MAX);
        let text = payload.check_memory().unwrap_err().to_string();
        assert!(text.contains("three times the payload"), "{text}");
        assert!(allocate(isize::MAX.unsigned_abs()).is_err());
    }
}
