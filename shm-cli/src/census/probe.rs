//! Asks a POSIX segment itself whether it is in use.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use shm_common::Error;
use shm_posix::Name;

use super::lease;
use super::look::Object;

/// What the kernel said, after `/proc` showed no user.
pub(super) enum Answer {
    /// Nobody has it; and whoever comes waits until this is dropped.
    Unused(Hold),
    /// Nobody has locked it, but whether anybody has it open could not be
    /// asked, and why.
    Unlocked(Hold, String),
    /// Somebody has it: what shows that.
    InUse(&'static str),
    /// It could not be asked, and why.
    Unknown(String),
    /// The name is gone, or leads to another segment.
    Gone,
}

/// The segment, open and locked, perhaps with a lease on it.
pub(super) struct Hold(Flock<File>);

impl Hold {
    /// Removes the name, if it still leads here and nobody waits to use it;
    /// says whether it did.
    pub(super) fn unlink(self, name: &Name) -> shm_common::Result<bool> {
        match self.is_undisturbed(name) {
            true => unlink(name),
            false => Ok(false),
        }
    }

    fn is_undisturbed(&self, name: &Name) -> bool {
        let there = name.path().symlink_metadata();
        let same = there.and_then(|there| {
            Ok(Object::of(&there) == Object::of(&self.0.metadata()?))
        });
        same.unwrap_or(false) && lease::is_undisturbed(&*self.0)
    }
}

/// Says whether it was there.
pub(super) fn unlink(name: &Name) -> shm_common::Result<bool> {
    match name.unlink() {
        Ok(()) => Ok(true),
        Err(Error::NotFound(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Asks. For as long as the answer is kept, nobody else can open or lock it.
pub(super) fn ask(name: &Name, object: Object) -> Answer {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(name.path());
    let file = match opened {
        Ok(file) => file,
        Err(error) => {
            return match error.kind() {
                io::ErrorKind::NotFound => Answer::Gone,
                io::ErrorKind::WouldBlock => Answer::InUse("a lease is on it"),
                _ => Answer::Unknown(format!("it cannot be opened: {error}")),
            };
        }
    };
    match file.metadata() {
        Ok(metadata) if Object::of(&metadata) == object => {}
        _ => return Answer::Gone,
    }
    let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) => file,
        Err((_, Errno::EWOULDBLOCK)) => {
            return Answer::InUse("locked by a process that does not show");
        }
        Err((_, errno)) => {
            return Answer::Unknown(format!("it cannot be locked: {errno}"));
        }
    };
    match lease::take(&*file) {
        Ok(()) => Answer::Unused(Hold(file)),
        Err(Errno::EAGAIN) => {
            Answer::InUse("open or mapped by a process that does not show")
        }
        Err(errno) => {
            let reason = format!("the kernel does not tell: {}", errno.desc());
            Answer::Unlocked(Hold(file), reason)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::thread;
    use std::time::{Duration, Instant};

    use integration_tests::leaks::unique_name;

    /// A file in `/dev/shm`, removed when dropped.
    struct Segment(Name);

    impl Segment {
        fn new() -> Self {
            let name = Name::new(unique_name("probe")).unwrap();
            fs::write(name.path(), b"x").unwrap();
            Self(name)
        }

        fn hold(&self) -> Hold {
            let metadata = self.0.path().metadata().unwrap();
            let begun = Instant::now();
            loop {
                match ask(&self.0, Object::of(&metadata)) {
                    Answer::Unused(hold) => return hold,
                    // Another test's program may have it for a moment, from
                    // when it is forked until it is executed.
                    Answer::InUse(_) if begun.elapsed().as_secs() < 10 => {}
                    _ => panic!("it is not unused"),
                }
            }
        }
    }

    impl Drop for Segment {
        fn drop(&mut self) {
            let _ = fs::remove_file(self.0.path());
        }
    }

    /// And this process does not die of `SIGIO`.
    #[test]
    fn who_comes_while_it_is_held_waits_and_is_noticed() {
        lease::survive_the_news().unwrap();
        let segment = Segment::new();
        let hold = segment.hold();
        assert!(hold.is_undisturbed(&segment.0));
        let path = segment.0.path();
        thread::scope(|scope| {
            let comes = scope.spawn(|| fs::read(path).unwrap());
            let begun = Instant::now();
            while hold.is_undisturbed(&segment.0) {
                assert!(begun.elapsed().as_secs() < 10, "nobody came");
                thread::sleep(Duration::from_millis(1));
            }
            assert!(!comes.is_finished());
            assert!(!hold.unlink(&segment.0).unwrap());
            assert_eq!(comes.join().unwrap(), b"x");
        });
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_noticed() {
        lease::survive_the_news().unwrap();
        let segment = Segment::new();
        let hold = segment.hold();
        fs::remove_file(segment.0.path()).unwrap();
        assert!(!hold.is_undisturbed(&segment.0));
        fs::write(segment.0.path(), b"newer").unwrap();
        assert!(!hold.unlink(&segment.0).unwrap());
        assert!(segment.0.path().exists());
    }

    #[test]
    fn what_nobody_disturbs_is_removed() {
        lease::survive_the_news().unwrap();
        let segment = Segment::new();
        assert!(segment.hold().unlink(&segment.0).unwrap());
        assert!(!segment.0.path().exists());
    }
}
