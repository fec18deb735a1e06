//! Takes the file that `send` has put into a segment.

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use shm_sysv::{Id, ReadWrite, Segment, SharedBytes};

/// Where the segment holds its state: 0 being filled, 1 full, 2 taken.
const STATE: usize = 0;
/// Where the contents begin.
const CONTENTS: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(id), Some(path), None) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err("usage: receive ID FILE".into());
    };

    let segment = Segment::open_id(id.parse::<Id>()?)?;
    let mapping = segment.map()?;
    let (head, contents) = mapping.bytes().split_at(CONTENTS)?;

    let state = head.atomic_u32(STATE)?;
    wait_for(state, 1)?;
    empty(contents, File::create(&path)?)?;
    state.store(2, Ordering::Release);

    eprintln!("{} bytes from id {}", contents.len(), segment.id());
    Ok(())
}

/// Writes the segment to the file, piece by piece.
fn empty(
    source: SharedBytes<'_, ReadWrite>,
    mut file: File,
) -> Result<(), Box<dyn Error>> {
    let mut piece = vec![0; 1 << 20];
    let mut at = 0;
    while at < source.len() {
        let wanted = piece.len().min(source.len() - at);
        source.read_at(at, &mut piece[..wanted])?;
        file.write_all(&piece[..wanted])?;
        at += wanted;
    }
    Ok(())
}

fn wait_for(state: &AtomicU32, wanted: u32) -> Result<(), Box<dyn Error>> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while state.load(Ordering::Acquire) != wanted {
        if Instant::now() > deadline {
            return Err("the sender did not finish".into());
        }
        sleep(Duration::from_millis(1));
    }
    Ok(())
}
