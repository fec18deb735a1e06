//! Takes the file that `send` has frozen, without copying it on the way.

use std::error::Error;
use std::fs;
use std::os::unix::net::UnixStream;

use shm_memfd::{Frozen, transfer};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(socket), Some(path), None) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err("usage: receive SOCKET FILE".into());
    };

    let stream = UnixStream::connect(&socket)?;
    let sender = transfer::peer_credentials(&stream)?;
    let message = transfer::receive(&stream, &mut [0; 1], 1)?;
    let [fd] = message.into_descriptors()?;

    // Frozen, so these are plain bytes that nobody can change: a `&[u8]`.
    let contents = Frozen::open(fd)?.map()?;
    fs::write(&path, &*contents)?;

    eprintln!("{} bytes from process {}", contents.len(), sender.pid);
    Ok(())
}
