//! Puts a file into a memfd, makes a dma-buf of its pages, and hands that to
//! another process.
//!
//! In one terminal `cargo run --example dmabuf-send -- SOCKET FILE`, then in
//! another `cargo run --example dmabuf-receive -- SOCKET COPY`.

use std::error::Error;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

use shm_dmabuf::{PageSize, ReadWrite, Segment, SharedBytes, Size};
use shm_memfd::{Label, transfer};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(socket), Some(path), None) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err("usage: send SOCKET FILE".into());
    };
    let file = File::open(&path)?;
    let len = usize::try_from(file.metadata()?.len())?;

    // A buffer is made of whole pages, so the file's length is told apart.
    let pages = PageSize::base().round_up(Size::new(len)?)?;
    let memfd = shm_memfd::Segment::create(&Label::new("send")?, pages)?;
    fill(memfd.map()?.bytes().subslice(0, len)?, file)?;
    let segment = Segment::from_memfd(&memfd, 0..pages.bytes())?;

    let listener = Listener::bind(socket)?;
    eprintln!("{len} bytes in a buffer: run receive");
    let (stream, _) = listener.socket.accept()?;
    transfer::send(&stream, &len.to_le_bytes(), &[segment.as_fd()])?;
    Ok(())
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

/// A listening socket that removes its file.
struct Listener {
    socket: UnixListener,
    path: OsString,
}

impl Listener {
    fn bind(path: OsString) -> std::io::Result<Self> {
        Ok(Self { socket: UnixListener::bind(Path::new(&path))?, path })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
