//! How a person names a segment: `sysv:0x1234`, `sysv-id:7`, `posix:/name`,
//! `memfd:PID/FD`, `dmabuf:PID/FD`.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use shm_posix::Name;
use shm_sysv::{Id, Key};

use crate::Failure;
use crate::mechanism::Mechanism;
use crate::output::printable;

/// One segment; what is printed reads back as the same, unless a POSIX name has
/// bytes that are not fit to be printed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    SysvKey(Key),
    SysvId(Id),
    Posix(Name),
    Memfd(Descriptor),
    Dmabuf(Descriptor),
}

/// A descriptor of some process, by which something without a name is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Descriptor {
    pub(crate) pid: i32,
    pub(crate) fd: i32,
}

impl Descriptor {
    /// What the kernel shows of it.
    pub(crate) fn path(self) -> PathBuf {
        format!("/proc/{}/fd/{}", self.pid, self.fd).into()
    }
}

impl Target {
    pub(crate) fn mechanism(&self) -> Mechanism {
        match self {
            Self::SysvKey(_) | Self::SysvId(_) => Mechanism::Sysv,
            Self::Posix(_) => Mechanism::Posix,
            Self::Memfd(_) => Mechanism::Memfd,
            Self::Dmabuf(_) => Mechanism::Dmabuf,
        }
    }

    /// A failure that tells what could not be done with it, why, and what may
    /// help.
    pub(crate) fn cannot(
        &self,
        what: &str,
        error: impl Into<io::Error>,
    ) -> Failure {
        let error = error.into();
        let hint = match error.kind() {
            io::ErrorKind::NotFound => "; `shm ls` shows what there is",
            io::ErrorKind::PermissionDenied => "; `shm ls` shows whose it is",
            io::ErrorKind::AlreadyExists => {
                "; `shm stat` tells what it is, and `shm rm` removes it"
            }
            _ => "",
        };
        format!("cannot {what} {self}: {error}{hint}").into()
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const KINDS: &str = "sysv:KEY, sysv-id:ID, posix:/NAME, memfd:PID/FD \
                             or dmabuf:PID/FD";
        let (kind, rest) = text
            .split_once(':')
            .ok_or_else(|| format!("a target is {KINDS}"))?;
        let told = |error: shm_common::Error| error.to_string();
        match kind {
            "sysv" => Ok(Self::SysvKey(rest.parse().map_err(told)?)),
            "sysv-id" => Ok(Self::SysvId(rest.parse().map_err(told)?)),
            "posix" => Ok(Self::Posix(rest.parse().map_err(told)?)),
            "memfd" => Ok(Self::Memfd(rest.parse()?)),
            "dmabuf" => Ok(Self::Dmabuf(rest.parse()?)),
            _ => Err(format!("{kind:?} is no kind of target: use {KINDS}")),
        }
    }
}

impl FromStr for Descriptor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Not `parse::<u32>`, which takes a sign, and not beyond `i32`.
        let number = |digits: &str| {
            let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse::<i32>().ok().filter(|_| plain)
        };
        text.split_once('/')
            .and_then(|(pid, fd)| {
                let pid = number(pid).filter(|pid| *pid > 0)?;
                Some(Self { pid, fd: number(fd)? })
            })
            .ok_or_else(|| {
                format!(
                    "{text:?} is no PID/FD, the number of a process and of one \
                     of its descriptors"
                )
            })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SysvKey(key) => write!(f, "sysv:{key}"),
            Self::SysvId(id) => write!(f, "sysv-id:{id}"),
            Self::Posix(name) => {
                let file = name.path().file_name().unwrap_or_default();
                write!(f, "posix:/{}", printable(file))
            }
            Self::Memfd(descriptor) => write!(f, "memfd:{descriptor}"),
            Self::Dmabuf(descriptor) => write!(f, "dmabuf:{descriptor}"),
        }
    }
}

impl fmt::Display for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pid, self.fd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_reads_back() {
        for text in [
            "sysv:0x1234",
            "sysv:0x0",
            "sysv:0xffffffff",
            "sysv-id:0",
            "sysv-id:2147483647",
            "posix:/name",
            "posix:/with:colon and blank",
            "memfd:1/0",
            "dmabuf:4194304/1023",
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        let same = |one: &str, other: &str| {
            assert_eq!(one.parse::<Target>(), other.parse(), "{one}");
        };
        same("sysv:4660", "sysv:0x1234");
        same("posix:name", "posix:/name");
    }

    #[test]
    fn what_is_no_target_is_told_with_what_is_one() {
        for text in ["", "name", "/name", "shm:/name", "POSIX:/name", ":"] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(error.contains("posix:/NAME"), "{text:?}: {error}");
        }
        for text in [
            "sysv:",
            "sysv:0x",
            "sysv:0x100000000",
            "sysv:much",
            "sysv-id:-1",
            "sysv-id:2147483648",
            "posix:",
            "posix:/",
            "posix:/a/b",
            "posix:..",
        ] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(error.starts_with("cannot use "), "{text:?}: {error}");
        }
        for text in ["", "1", "/", "1/", "/1", "0/1", "1/-1", "+1/1", "1/2/3"] {
            for kind in ["memfd", "dmabuf"] {
                let target = format!("{kind}:{text}").parse::<Target>();
                assert!(target.unwrap_err().contains("no PID/FD"), "{text:?}");
            }
        }
    }
}
