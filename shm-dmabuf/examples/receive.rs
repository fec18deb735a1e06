//! Takes the buffer that `send` hands over, as a device's driver might.

use std::error::Error;
use std::fs;
use std::os::unix::net::UnixStream;

use shm_dmabuf::{CpuAccess, Segment};
use shm_memfd::transfer;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(socket), Some(path), None) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err("usage: receive SOCKET FILE".into());
    };

    let stream = UnixStream::connect(&socket)?;
    let sender = transfer::peer_credentials(&stream)?;
    let mut told = [0; size_of::<usize>()];
    let message = transfer::receive(&stream, &mut told, 1)?;
    let [fd] = message.into_descriptors()?;

    // What the sender said about the length is checked by the view.
    let segment = Segment::open_read_only(fd)?;
    let mapping = segment.map()?;
    let bytes = mapping.bytes().subslice(0, usize::from_le_bytes(told))?;
    let access = segment.cpu_access(CpuAccess::Read)?;
    let contents = bytes.to_vec();
    access.end()?;
    fs::write(&path, contents)?;

    eprintln!("{} bytes from process {}", bytes.len(), sender.pid);
    Ok(())
}
