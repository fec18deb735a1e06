//! Descriptors passed over Unix sockets (`SCM_RIGHTS`).

use std::io::{IoSlice, IoSliceMut, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use integration_tests::surroundings::limit;
use nix::cmsg_space;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::Resource;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, recvmsg, sendmsg};
use nix::sys::stat::fstat;
use shm_memfd::raw;

use crate::kit::{Memory, Posix, SIZE, heap_buffer, memfd};
use crate::table::{
    Chapter, Found, Row, Unexpected, always, either, outcome, probe,
};

pub const CHAPTER: Chapter = Chapter {
    title: "Passing descriptors",
    rows: &[
        Row {
            question: "What arrives",
            posix: probe!(always("another number for the same object"), {
                arrives(&Posix::new(SIZE)?.fd)
            }),
            memfd: probe!(always("another number for the same object"), {
                arrives(memfd(SIZE)?)
            }),
            dmabuf: probe!(
                always("another number for the same object"),
                heap,
                { arrives(heap_buffer(SIZE)?) }
            ),
            ..Row::REST
        },
        Row {
            question: "253 descriptors in a message, and 254",
            posix: probe!(always("works, EINVAL"), {
                most(&Posix::new(SIZE)?.fd)
            }),
            memfd: probe!(always("works, EINVAL"), { most(memfd(SIZE)?) }),
            dmabuf: probe!(always("works, EINVAL"), heap, {
                most(heap_buffer(SIZE)?)
            }),
            ..Row::REST
        },
        Row {
            question: "The sender closes its descriptor while it is under way",
            memfd: probe!(always("it arrives all the same"), {
                closed_on_its_way(memfd(SIZE)?)
            }),
            dmabuf: probe!(always("it arrives all the same"), heap, {
                closed_on_its_way(heap_buffer(SIZE)?)
            }),
            ..Row::REST
        },
        Row {
            question: "Sent with no byte, over a stream",
            memfd: probe!(always("lost without a sign"), {
                let (ours, theirs) = UnixStream::pair()?;
                let fd = memfd(SIZE)?;
                let sent = outcome(send(&ours, b"", &[fd.as_raw_fd()]))?;
                send(&ours, b"!", &[])?;
                let lost = sent == "works" && receive(&theirs)?.is_empty();
                either(lost, "lost without a sign", &sent)
            }),
            ..Row::REST
        },
        Row {
            question: "The receiver uses read(2)",
            memfd: probe!(always("closed without a sign"), {
                let (ours, mut theirs) = UnixStream::pair()?;
                let fd = memfd(SIZE)?;
                let before = open_descriptors()?;
                send(&ours, b"!!", &[fd.as_raw_fd()])?;
                theirs.read_exact(&mut [0])?;
                let late = receive(&theirs)?.len();
                let none = late == 0 && open_descriptors()? == before;
                either(none, "closed without a sign", "kept")
            }),
            ..Row::REST
        },
        Row {
            question: "The receiver has room for fewer",
            memfd: probe!(
                always("the rest is closed, and MSG_CTRUNC is set"),
                {
                    let (ours, theirs) = UnixStream::pair()?;
                    let fd = memfd(SIZE)?;
                    let before = open_descriptors()?;
                    send(&ours, b"!", &[fd.as_raw_fd(); 8])?;
                    let (flags, _) = receive_few(&theirs)?;
                    let more = open_descriptors()? - before;
                    let cut = flags.contains(MsgFlags::MSG_CTRUNC) && more < 8;
                    let told = "the rest is closed, and MSG_CTRUNC is set";
                    either(cut, told, &format!("{flags:?}, {more}"))
                }
            ),
            ..Row::REST
        },
        Row {
            question: "Room for 1 descriptor, by CMSG_SPACE",
            memfd: probe!(always("lets 2 through: it is rounded up"), {
                let (ours, theirs) = UnixStream::pair()?;
                let fd = memfd(SIZE)?;
                let before = open_descriptors()?;
                send(&ours, b"!", &[fd.as_raw_fd(); 8])?;
                receive_few(&theirs)?;
                let more = open_descriptors()? - before;
                Ok(format!("lets {more} through: it is rounded up"))
            }),
            ..Row::REST
        },
        Row {
            question: "The receiver reaches its RLIMIT_NOFILE",
            memfd: probe!(
                always("the rest is closed, and MSG_CTRUNC is set"),
                {
                    let (ours, theirs) = UnixStream::pair()?;
                    let fd = memfd(SIZE)?;
                    send(&ours, b"!", &[fd.as_raw_fd(); 8])?;
                    let _fill = leave_room_for(2, &fd)?;
                    let mut byte = [0];
                    let received = raw::recvmsg(theirs.as_fd(), &mut byte, 0)?;
                    let few = received.descriptors.len() < 8;
                    let flagged = received.flags & libc::MSG_CTRUNC != 0;
                    let told = "the rest is closed, and MSG_CTRUNC is set";
                    either(few && flagged, told, &format!("{received:?}"))
                }
            ),
            ..Row::REST
        },
        Row {
            question: "Close-on-exec, at the receiver",
            memfd: probe!(always("only with MSG_CMSG_CLOEXEC"), {
                let with = close_on_exec(libc::MSG_CMSG_CLOEXEC)?;
                let without = close_on_exec(0)?;
                let told = "only with MSG_CMSG_CLOEXEC";
                either(with && !without, told, "otherwise")
            }),
            ..Row::REST
        },
        Row {
            question: "Two messages on a stream, one recvmsg",
            memfd: probe!(
                always("stops before the second one's descriptors"),
                {
                    let (ours, theirs) = UnixStream::pair()?;
                    let fd = memfd(SIZE)?;
                    send(&ours, b"ab", &[fd.as_raw_fd()])?;
                    send(&ours, b"cd", &[fd.as_raw_fd()])?;
                    let mut buffer = [0; 8];
                    let received =
                        raw::recvmsg(theirs.as_fd(), &mut buffer, 0)?;
                    let stops =
                        received.len == 2 && received.descriptors.len() == 1;
                    let told = "stops before the second one's descriptors";
                    either(stops, told, &format!("{received:?}"))
                }
            ),
            ..Row::REST
        },
    ],
};

fn send(
    socket: &UnixStream,
    bytes: &[u8],
    descriptors: &[RawFd],
) -> nix::Result<usize> {
    let parts = [IoSlice::new(bytes)];
    let rights = [ControlMessage::ScmRights(descriptors)];
    let control = if descriptors.is_empty() { &[][..] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<UnixAddr>(socket.as_raw_fd(), &parts, control, flags, None)
}

fn receive(socket: &UnixStream) -> Result<Vec<OwnedFd>, Unexpected> {
    let mut byte = [0];
    Ok(raw::recvmsg(socket.as_fd(), &mut byte, 0)?.descriptors)
}

/// With the room that `CMSG_SPACE` gives for one descriptor. What arrives stays
/// open.
fn receive_few(socket: &UnixStream) -> nix::Result<(MsgFlags, usize)> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut room = cmsg_space!(RawFd);
    let message = recvmsg::<UnixAddr>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut room),
        MsgFlags::empty(),
    )?;
    Ok((message.flags, message.bytes))
}

fn arrives(fd: impl AsFd) -> Found {
    let (ours, theirs) = UnixStream::pair()?;
    send(&ours, b"!", &[fd.as_fd().as_raw_fd()])?;
    let received = receive(&theirs)?;
    let received = received.first().ok_or("nothing arrived")?;
    let (sent, found) = (fstat(&fd)?, fstat(received)?);
    let same = (sent.st_dev, sent.st_ino) == (found.st_dev, found.st_ino)
        && received.as_raw_fd() != fd.as_fd().as_raw_fd();
    either(same, "another number for the same object", "another object")
}

fn closed_on_its_way(fd: OwnedFd) -> Found {
    let (ours, theirs) = UnixStream::pair()?;
    Memory::map(&fd, SIZE)?.write(0, 7);
    send(&ours, b"!", &[fd.as_raw_fd()])?;
    drop((fd, ours));
    let received = receive(&theirs)?;
    let fd = received.first().ok_or("nothing arrived")?;
    let alive = Memory::map(fd, SIZE)?.read(0) == 7;
    either(alive, "it arrives all the same", "it is empty")
}

fn most(fd: impl AsFd) -> Found {
    let (ours, theirs) = UnixStream::pair()?;
    let number = fd.as_fd().as_raw_fd();
    let all = outcome(send(&ours, b"!", &[number; 253]))?;
    let arrived = receive(&theirs)?.len();
    if arrived != 253 {
        return Ok(format!("only {arrived} arrive"));
    }
    let more = outcome(send(&ours, b"!", &[number; 254]))?;
    Ok(format!("{all}, {more}"))
}

fn close_on_exec(flags: i32) -> Result<bool, Unexpected> {
    let (ours, theirs) = UnixStream::pair()?;
    let fd = memfd(SIZE)?;
    send(&ours, b"!", &[fd.as_raw_fd()])?;
    let mut byte = [0];
    let received = raw::recvmsg(theirs.as_fd(), &mut byte, flags)?;
    let fd = received.descriptors.first().ok_or("nothing arrived")?;
    let bits = FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD)?);
    Ok(bits.contains(FdFlag::FD_CLOEXEC))
}

fn open_descriptors() -> std::io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/fd")?.count())
}

/// Uses up all numbers for descriptors but a few.
fn leave_room_for(
    few: usize,
    fd: &OwnedFd,
) -> Result<Vec<OwnedFd>, Unexpected> {
    limit(Resource::RLIMIT_NOFILE, 64)?;
    let mut fill = Vec::new();
    while let Ok(more) = fd.try_clone() {
        fill.push(more);
    }
    let keep = fill.len().checked_sub(few).ok_or("there was no room")?;
    fill.truncate(keep);
    Ok(fill)
}
