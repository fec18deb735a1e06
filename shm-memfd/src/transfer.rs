//! Only here: descriptors passed over Unix sockets, which is how a segment
//! without a name gets to another process.
//!
//! A message is at least one byte and 1 to 253 descriptors. The receiver gets
//! descriptors of its own for the same segments; no byte of them is copied.
//!
//! On a stream, bytes have no boundaries: [`receive`] returns as many as there
//! are up to the size of its buffer, so fix the length of what you send, or
//! send its length first, and never take more than what is left of a message:
//! the end of one may come together with the beginning of the next and its
//! descriptors. Descriptors come with the first byte of their message. A plain
//! read(2) of a byte that carries descriptors drops them.
#![expect(unsafe_code, reason = "lends a descriptor to what sends by it")]

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::socket::{self, MsgFlags, SockType, getsockopt, sockopt};
use sendfd::SendWithFd;
use shm_common::{Error, Object, OsError, Result};

use crate::raw;

/// The most descriptors that one message carries: the kernel's `SCM_MAX_FD`.
pub const MAX_DESCRIPTORS: usize = raw::SCM_MAX_FD;

/// Sends `payload` and copies of `descriptors` in one message.
///
/// All of it is sent when this returns. If the socket does not block and its
/// buffer fills up half-way through a payload on a stream, this waits for room,
/// since half a message cannot be taken back.
///
/// # Errors
///
/// - [`Error::EmptyMessage`]: `payload` is empty; nothing was sent.
/// - [`Error::InvalidDescriptorCount`]: `descriptors` is empty or more than
///   [`MAX_DESCRIPTORS`]; nothing was sent.
/// - [`Error::Disconnected`]: the peer closed its end (`EPIPE`, `ECONNRESET`;
///   on a datagram socket `ECONNREFUSED`).
/// - [`Error::WouldBlock`]: the socket does not block and has no room, or its
///   time-out passed (`EAGAIN`); nothing was sent.
/// - [`Error::LimitReached`]: this user has too many descriptors under way that
///   nobody received yet (`ETOOMANYREFS`).
/// - [`Error::Os`]: a datagram larger than the socket takes (`EMSGSIZE`).
///
/// A peer that is gone is never a `SIGPIPE`, whether that is ignored or not.
///
/// # Examples
///
/// ```
/// use std::os::fd::AsFd;
/// use std::os::unix::net::UnixStream;
/// use shm_memfd::{Label, Segment, Size, transfer};
///
/// let (ours, theirs) = UnixStream::pair()?;
/// let segment = Segment::create(&Label::new("frames")?, Size::MIB)?;
/// segment.map()?.bytes().write_at(0, b"zero copies")?;
/// transfer::send(&ours, b"!", &[segment.as_fd()])?;
///
/// // In another process:
/// let message = transfer::receive(&theirs, &mut [0; 1], 1)?;
/// let [fd] = message.into_descriptors()?;
/// let received = Segment::open(fd)?;
/// assert_eq!(received.map()?.bytes().get(0), Ok(*b"zero copies"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Sources
///
/// sendmsg(2), unix(7) `SCM_RIGHTS`.
pub fn send(
    socket: impl AsFd,
    payload: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<()> {
    let socket = socket.as_fd();
    if payload.is_empty() {
        return Err(Error::EmptyMessage);
    }
    if !(1..=MAX_DESCRIPTORS).contains(&descriptors.len()) {
        return Err(Error::InvalidDescriptorCount {
            given: descriptors.len(),
            max: MAX_DESCRIPTORS,
        });
    }
    let raw: Vec<RawFd> = descriptors.iter().map(|fd| fd.as_raw_fd()).collect();
    // What sends is implemented for std's sockets, of which any will do: only
    // its descriptor is used.
    // SAFETY: std asks that the descriptor be owned, because dropping the
    // stream closes it: it is never dropped, and open while `socket` borrows it.
    let stream = unsafe { UnixStream::from_raw_fd(socket.as_raw_fd()) };
    let stream = ManuallyDrop::new(stream);
    let sent = loop {
        match without_sigpipe(|| stream.send_with_fd(payload, &raw)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                return Err(send_error(socket, errno));
            }
            Ok(sent) => break sent,
        }
    };
    // The descriptors went with the first byte.
    send_rest(socket, payload.get(sent..).unwrap_or_default())
}

/// Makes a call that may write to a closed socket, and takes away the signal
/// that this sends to the thread. `MSG_NOSIGNAL` would do, but sendfd does not
/// let us say it.
fn without_sigpipe<T>(call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let sigpipe = SigSet::from(Signal::SIGPIPE);
    let before = sigpipe.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    // Where the caller holds it back, it is his.
    if before.contains(Signal::SIGPIPE) {
        return call();
    }
    let result = call();
    if let Err(error) = &result
        && error.kind() == io::ErrorKind::BrokenPipe
    {
        // It is there already, unless it is ignored.
        let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let _ = raw::sigtimedwait(sigpipe.as_ref(), at_once);
    }
    // It fails only for an operation that does not exist.
    let _ = before.thread_set_mask();
    result
}

fn send_rest(socket: BorrowedFd<'_>, mut rest: &[u8]) -> Result<()> {
    while !rest.is_empty() {
        let fd = socket.as_raw_fd();
        match socket::send(fd, rest, MsgFlags::MSG_NOSIGNAL) {
            Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let mut writable = [PollFd::new(socket, PollFlags::POLLOUT)];
                match poll(&mut writable, PollTimeout::NONE) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(errno) => {
                        return Err(send_error(socket, errno as i32));
                    }
                }
            }
            Err(errno) => return Err(send_error(socket, errno as i32)),
        }
    }
    Ok(())
}

fn send_error(socket: BorrowedFd<'_>, errno: i32) -> Error {
    let os = OsError::new("sendmsg", errno)
        .on(Object::Descriptor(socket.as_raw_fd()));
    match errno {
        libc::ETOOMANYREFS => Error::LimitReached(os.hint(
            "too many descriptors of this user are under way (ulimit -n)",
        )),
        // What a datagram socket has instead of EPIPE.
        libc::ECONNREFUSED => Error::Disconnected(os),
        _ => os.into(),
    }
}

/// What [`receive`] brought.
#[derive(Debug)]
#[non_exhaustive]
pub struct Message {
    /// How many bytes of the buffer were filled; 0 only for an empty datagram.
    pub len: usize,
    /// The descriptors, close-on-exec; at most as many as the caller takes,
    /// and none if the sender sent plain bytes.
    pub descriptors: Vec<OwnedFd>,
}

impl Message {
    /// The descriptors, when there are exactly `N` of them; otherwise they are
    /// closed.
    ///
    /// # Errors
    ///
    /// [`Error::WrongDescriptorCount`]: there are more or fewer.
    pub fn into_descriptors<const N: usize>(self) -> Result<[OwnedFd; N]> {
        self.descriptors.try_into().map_err(|others: Vec<OwnedFd>| {
            Error::WrongDescriptorCount { expected: N, received: others.len() }
        })
    }
}

/// Receives bytes into `buffer` and up to `max` descriptors. Waits until there
/// is something, unless the socket does not block or has a time-out.
///
/// A sender is not trusted: every descriptor that arrives is owned at once and
/// close-on-exec, so none leaks, whatever else was wrong.
///
/// # Errors
///
/// In each case the descriptors that arrived are closed.
///
/// - [`Error::DescriptorsTruncated`]: more than `max` came, or some were lost
///   because this process is at its limit of open files.
/// - [`Error::MessageTruncated`]: a datagram was longer than `buffer`.
/// - [`Error::Disconnected`]: the peer closed its end, or reset the connection
///   (`ECONNRESET`). An empty record on a seqpacket socket looks the same; on a
///   datagram socket, which has no end, an empty datagram is a message.
/// - [`Error::WouldBlock`]: nothing there, on a socket that does not block, or
///   within its time-out (`EAGAIN`).
/// - [`Error::EmptyMessage`]: `buffer` is empty; nothing was received.
///
/// # Sources
///
/// recvmsg(2), unix(7) `SCM_RIGHTS`.
pub fn receive(
    socket: impl AsFd,
    buffer: &mut [u8],
    max: usize,
) -> Result<Message> {
    if buffer.is_empty() {
        return Err(Error::EmptyMessage);
    }
    let socket = socket.as_fd();
    let received = loop {
        match raw::recvmsg(socket, buffer, libc::MSG_CMSG_CLOEXEC) {
            Err(os) if os.errno() == libc::EINTR => {}
            result => break result?,
        }
    };
    let raw::Received { len, flags, descriptors, .. } = received;
    if flags & libc::MSG_CTRUNC != 0 || descriptors.len() > max {
        let received = descriptors.len();
        return Err(Error::DescriptorsTruncated { received, max });
    }
    if flags & libc::MSG_TRUNC != 0 {
        return Err(Error::MessageTruncated { capacity: buffer.len() });
    }
    if len == 0 && descriptors.is_empty() && !is_datagram(socket) {
        let os = OsError::new("recvmsg", libc::ECONNRESET)
            .on(Object::Descriptor(socket.as_raw_fd()))
            .hint("the peer closed its end");
        return Err(Error::Disconnected(os));
    }
    Ok(Message { len, descriptors })
}

/// Whether an empty message is a message, and not the end of a connection.
fn is_datagram(socket: BorrowedFd<'_>) -> bool {
    getsockopt(&socket, sockopt::SockType) == Ok(SockType::Datagram)
}

/// Who is at the other end of a connected socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Credentials {
    /// The process that connected, or made the pair. It may have handed its end
    /// to another process, and may be gone and its number used again; 0 if it
    /// lives outside this process's pid namespace.
    pub pid: i32,
    /// Its effective user id at that time.
    pub uid: u32,
    /// Its effective group id at that time.
    pub gid: u32,
}

/// Asks the kernel who is at the other end; nothing that the peer says is
/// involved.
///
/// # Errors
///
/// [`Error::WrongKind`]: it is no Unix socket, or is not connected: a datagram
/// socket only is if it is one of a pair.
///
/// # Sources
///
/// unix(7) `SO_PEERCRED`.
pub fn peer_credentials(socket: impl AsFd) -> Result<Credentials> {
    let socket = socket.as_fd();
    let object = || Object::Descriptor(socket.as_raw_fd());
    let no_peer =
        || Error::WrongKind { object: object(), expected: "connected socket" };
    match getsockopt(&socket, sockopt::PeerCredentials) {
        // What the kernel says of a socket without a peer that it knows of;
        // no user can have that id.
        Ok(peer) if peer.uid() == u32::MAX => Err(no_peer()),
        Ok(peer) => Ok(Credentials {
            pid: peer.pid(),
            uid: peer.uid(),
            gid: peer.gid(),
        }),
        Err(Errno::ENOTSOCK | Errno::ENOPROTOOPT) => Err(no_peer()),
        Err(errno) => {
            Err(OsError::new("getsockopt(SO_PEERCRED)", errno as i32)
                .on(object())
                .into())
        }
    }
}
