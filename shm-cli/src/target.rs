//! How a person names a segment: `sysv:0x1234`, `sysv-id:7`, `posix:/name`,
//! `memfd:PID/FD`, `dmabuf:PID/FD`.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::str::FromStr;

use shm_posix::Name;
use shm_sysv::{Id, Key};

use crate::Failure;
use crate::mechanism::Mechanism;
use crate::output::printable;

/// One segment; what is printed reads back as the same. In a POSIX name, what is
/// not fit to be printed is escaped: `\xff` a byte, `\u{1b}` a character, `\\`
/// the backslash itself.
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
            "posix" => {
                Ok(Self::Posix(Name::new(unescaped(rest)?).map_err(told)?))
            }
            "memfd" => Ok(Self::Memfd(rest.parse()?)),
            "dmabuf" => Ok(Self::Dmabuf(rest.parse()?)),
            _ => Err(format!("{kind:?} is no kind of target: use {KINDS}")),
        }
    }
}

/// As [`unescaped`] reads it.
fn escaped(name: &OsStr) -> String {
    let parts = name.as_bytes().split(|byte| *byte == b'\\');
    let parts = parts.map(|part| printable(OsStr::from_bytes(part)));
    parts.collect::<Vec<_>>().join(r"\\")
}

fn unescaped(text: &str) -> Result<OsString, String> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, escape)) = rest.split_once('\\') {
        bytes.extend(before.as_bytes());
        rest = unescape(escape, &mut bytes).ok_or_else(|| {
            format!(
                "cannot use {text:?} as a name: a backslash is written \
                 \\\\, a byte \\xff, a character \\u{{1b}}"
            )
        })?;
    }
    bytes.extend(rest.as_bytes());
    Ok(OsString::from_vec(bytes))
}

/// What follows a backslash; gives what follows the escape.
fn unescape<'a>(escape: &'a str, bytes: &mut Vec<u8>) -> Option<&'a str> {
    if let Some(rest) = escape.strip_prefix('\\') {
        bytes.push(b'\\');
        return Some(rest);
    }
    let (code, rest) = match escape.strip_prefix('x') {
        Some(byte) => byte.split_at_checked(2)?,
        None => escape.strip_prefix("u{")?.split_once('}')?,
    };
    // `from_str_radix` takes a sign.
    if code.starts_with('+') {
        return None;
    }
    let code = u32::from_str_radix(code, 16).ok()?;
    match escape.starts_with('x') {
        true => bytes.push(code.try_into().ok()?),
        false => {
            let character = char::from_u32(code)?;
            bytes.extend(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    Some(rest)
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
                write!(f, "posix:/{}", escaped(file))
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
    use proptest::collection::vec;
    use proptest::prelude::*;

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
        same(r"posix:/\x61\u{62}", "posix:/ab");
    }

    proptest! {
        #[test]
        fn any_name_that_there_can_be_reads_back(
            name in vec(prop_oneof![Just(b'\\'), Just(b'x'), 1..=255_u8], 1..99),
        ) {
            if let Ok(name) = Name::new(OsString::from_vec(name)) {
                let printed = Target::Posix(name.clone()).to_string();
                prop_assert!(!printed.contains(char::is_control));
                prop_assert_eq!(printed.parse(), Ok(Target::Posix(name)));
            }
        }

        #[test]
        fn any_text_is_a_name_or_is_refused(text: String) {
            let _ = format!("posix:{text}").parse::<Target>();
            let _ = format!("posix:\\{text}").parse::<Target>();
        }
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
            r"posix:/\",
            r"posix:/\n",
            r"posix:/\xf",
            r"posix:/\x+f",
            r"posix:/\xfg",
            r"posix:/\x00",
            r"posix:/\x2f\x2f",
            r"posix:/\u{110000}",
            r"posix:/\u{1b",
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
