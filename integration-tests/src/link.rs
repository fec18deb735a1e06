//! The wire between a test and its other processes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair,
};

/// How long anything here waits, unless told otherwise.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// The longest message, in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// What a record on the socket is: a message, or how the closure ended.
pub(crate) const MESSAGE: u8 = 0;
pub(crate) const RETURNED: u8 = 1;
pub(crate) const FAILED: u8 = 2;
pub(crate) const PANICKED: u8 = 3;

/// One end of the wire between parent and child; messages keep their
/// boundaries.
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
}

impl Link {
    /// Both ends, close-on-exec.
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        Ok((Self { socket: ours }, Self { socket: theirs }))
    }

    /// The end that a program inherited.
    pub(crate) fn inherited(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Sends a message of at most [`MAX_MESSAGE`] bytes.
    ///
    /// # Errors
    ///
    /// The other side is gone or does not read, or the message is too long.
    pub fn send(&self, message: impl AsRef<[u8]>) -> io::Result<()> {
        self.send_record(MESSAGE, message.as_ref())
    }

    /// Waits for a message, up to [`DEADLINE`].
    ///
    /// # Errors
    ///
    /// `TimedOut` at the deadline, `UnexpectedEof` when the other side is gone.
    pub fn receive(&self) -> io::Result<Vec<u8>> {
        if !wait_until(self.as_fd(), None, Instant::now() + DEADLINE)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match self.receive_record()? {
            Some((_, message)) => Ok(message),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    pub(crate) fn send_record(&self, kind: u8, body: &[u8]) -> io::Result<()> {
        if body.len() > MAX_MESSAGE {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let record = [&[kind], body].concat();
        retry(|| {
            send(self.socket.as_raw_fd(), &record, MsgFlags::MSG_NOSIGNAL)
        })?;
        Ok(())
    }

    /// None: the other side is gone, or there is nothing now.
    pub(crate) fn receive_record(&self) -> io::Result<Option<(u8, Vec<u8>)>> {
        let mut record = vec![0; MAX_MESSAGE + 1];
        let fd = self.socket.as_raw_fd();
        let received = retry(|| recv(fd, &mut record, MsgFlags::MSG_DONTWAIT));
        match received {
            Ok(0) | Err(Errno::EAGAIN | Errno::ECONNRESET) => Ok(None),
            Ok(len) => Ok(Some((record[0], record[1..len].to_vec()))),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Waits until `fd`, or the other one, can be read; false at the deadline.
pub(crate) fn wait_until(
    fd: BorrowedFd<'_>,
    other: Option<BorrowedFd<'_>>,
    deadline: Instant,
) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up, so as not to spin through the last millisecond.
        let left = left + Duration::from_micros(999);
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = vec![PollFd::new(fd, PollFlags::POLLIN)];
        fds.extend(other.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        match poll(&mut fds, timeout) {
            Ok(0) if Instant::now() < deadline => {}
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Repeats a call that a signal interrupted.
pub(crate) fn retry<T>(
    mut call: impl FnMut() -> nix::Result<T>,
) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}
