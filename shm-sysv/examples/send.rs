//! Puts a file into a segment, and waits until another process has taken it.
//!
//! In one terminal `cargo run --example sysv-send -- FILE`, which prints an id;
//! then in another `cargo run --example sysv-receive -- ID COPY`.

use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use shm_sysv::{Key, ReadWrite, Segment, SharedBytes, Size};

/// Where the segment holds its state: 0 being filled, 1 full, 2 taken.
const STATE: usize = 0;
/// Where the contents begin.
const CONTENTS: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(path), None) = (arguments.next(), arguments.next()) else {
        return Err("usage: send FILE".into());
    };
    let file = File::open(&path)?;
    let len = usize::try_from(file.metadata()?.len())?;

    // Dropping the segment, also on an error below, removes it.
    let segment = Segment::create(Key::PRIVATE, Size::new(CONTENTS + len)?)?;
    let mapping = segment.map()?;
    let bytes = mapping.bytes();

    fill(bytes.subslice(CONTENTS, len)?, file)?;
    let state = bytes.atomic_u32(STATE)?;
    state.store(1, Ordering::Release);

    eprintln!(
        "{len} bytes in id {}: run receive within a minute",
        segment.id()
    );
    wait_for(state, 2)
}

/// Reads the file into the segment, piece by piece.
fn fill(
    target: SharedBytes<'_, ReadWrite>,
    mut file: File,
) -> Result<(), Box<dyn Error>> {
    let mut piece = vec![0; 1 << 20];
    let mut at = 0;
    while at < target.len() {
        let wanted = piece.len().min(target.len() - at);
        file.read_exact(&mut piece[..wanted])?;
        target.write_at(at, &piece[..wanted])?;
        at += wanted;
    }
    Ok(())
}

fn wait_for(state: &AtomicU32, wanted: u32) -> Result<(), Box<dyn Error>> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while state.load(Ordering::Acquire) != wanted {
        if Instant::now() > deadline {
            return Err("nobody came".into());
        }
        sleep(Duration::from_millis(1));
    }
    Ok(())
}
