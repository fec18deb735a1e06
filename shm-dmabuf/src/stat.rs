//! A snapshot of what the kernel knows about a buffer.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// A snapshot of a buffer, true at the moment of the call.
///
/// # Sources
///
/// lseek(2), fstat(2), `/proc/PID/fdinfo` (see proc(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stat {
    /// The length in bytes: whole pages.
    pub len: u64,
    /// The file system that it lies in.
    pub device: u64,
    /// Its number in that file system: who holds the same buffer sees the same
    /// number. Numbers are used again once a buffer is gone.
    pub inode: u64,
    /// Which driver made it, such as `udmabuf` or `system`; none where `/proc`
    /// does not tell.
    pub exporter: Option<OsString>,
    /// Its label, if it has one and `/proc` tells.
    pub label: Option<OsString>,
}

/// The exporter and the label, from the text of `/proc/self/fdinfo/FD`.
pub(crate) fn names_in(fdinfo: &[u8]) -> (Option<OsString>, Option<OsString>) {
    // "exp_name:\tudmabuf\nname:\tframes\n": the label is the last, and may
    // hold newlines, so nothing is looked for behind it.
    let after = |text: &[u8], key: &[u8]| {
        let found = text.windows(key.len()).position(|piece| piece == key)?;
        Some(text[found + key.len()..].to_vec())
    };
    let owned = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
    let Some(rest) = after(fdinfo, b"\nexp_name:\t") else {
        return (None, None);
    };
    let end = rest.iter().position(|byte| *byte == b'\n');
    let (exporter, rest) = rest.split_at(end.unwrap_or(rest.len()));
    let label = after(rest, b"\nname:\t")
        .map(|label| owned(label.strip_suffix(b"\n").unwrap_or(&label)));
    (Some(owned(exporter)), label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> (Option<String>, Option<String>) {
        let (exporter, label) = names_in(text.as_bytes());
        let text = |name: OsString| name.into_string().unwrap();
        (exporter.map(text), label.map(text))
    }

    #[test]
    fn the_names_are_read_from_fdinfo() {
        let head = "pos:\t0\nflags:\t02000002\nsize:\t4096\ncount:\t1\n";
        let udmabuf = Some("udmabuf".to_owned());
        let text = format!("{head}exp_name:\tudmabuf\n");
        assert_eq!(names(&text), (udmabuf.clone(), None));
        let text = format!("{head}exp_name:\tudmabuf\nname:\tframes\n");
        assert_eq!(names(&text), (udmabuf, Some("frames".to_owned())));
        assert_eq!(names(head), (None, None));
        assert_eq!(names(""), (None, None));
    }

    #[test]
    fn a_label_cannot_pass_for_another_exporter() {
        let label = "x\nexp_name:\tsystem\nname:\ty";
        let text = format!("size:\t1\nexp_name:\tudmabuf\nname:\t{label}\n");
        let (exporter, found) = names(&text);
        assert_eq!(exporter.unwrap(), "udmabuf");
        assert_eq!(found.unwrap(), label);
    }
}
