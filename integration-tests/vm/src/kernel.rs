//! Finds the kernels: Debian's, from its packages, or one that is named.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, run};

/// A kernel that can be booted.
#[derive(Debug)]
pub struct Kernel {
    pub image: PathBuf,
    /// The options that it was built with, where a `config-*` lies beside it.
    config: Option<String>,
}

impl Kernel {
    /// The kernel in this file.
    pub fn at(image: PathBuf) -> Result<Self> {
        if !image.is_file() {
            return Err(format!("there is no {}", image.display()).into());
        }
        let name = image.file_name().and_then(OsStr::to_str);
        let name = name.unwrap_or_default().replacen("vmlinuz", "config", 1);
        let config = fs::read_to_string(image.with_file_name(name)).ok();
        Ok(Self { image, config })
    }

    /// Debian's newest cloud kernel of a series such as `6.12`, from `cache`
    /// where there is one already.
    pub fn of_series(series: &str, cache: &Path) -> Result<Self> {
        let unpacked = cache.join(series);
        if let Some(image) = image_in(&unpacked.join("boot")) {
            return Self::at(image);
        }
        let package = newest_package(series)?;
        eprintln!("vm: getting {package}");
        let packages = cache.join("packages");
        let _ = fs::remove_dir_all(&packages);
        fs::create_dir_all(&packages)?;
        let mut download = Command::new("apt-get");
        download.args(["--quiet=2", "download", &package]);
        run(download.current_dir(&packages))?;
        let archive = only_file_in(&packages)?;
        let mut unpack = Command::new("dpkg-deb");
        run(unpack.arg("--extract").arg(archive).arg(&unpacked))?;
        fs::remove_dir_all(&packages)?;
        let image = image_in(&unpacked.join("boot"));
        Self::at(image.ok_or_else(|| format!("no kernel in {package}"))?)
    }

    /// Whether it was built with an option in the kernel itself; none: nobody
    /// knows.
    pub fn has(&self, option: &str) -> Option<bool> {
        let config = self.config.as_ref()?;
        Some(config.lines().any(|line| line == format!("{option}=y")))
    }

    /// Its version, as its configuration has it in the head; none: nobody
    /// knows.
    pub fn version(&self) -> Option<(u64, u64)> {
        // "# Linux/x86 6.12.117 Kernel Configuration"
        let head = self.config.as_ref()?.lines();
        let mut head = head.filter(|line| line.starts_with("# Linux/"));
        let version = head.next()?.split(' ').nth(2)?;
        match numbers(version)[..] {
            [major, minor, ..] => Some((major, minor)),
            _ => None,
        }
    }
}

fn image_in(directory: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(directory).ok()?;
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.find(|path| {
        let name = path.file_name().and_then(OsStr::to_str);
        name.is_some_and(|name| name.starts_with("vmlinuz"))
    })
}

fn only_file_in(directory: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(directory)?;
    match (entries.next(), entries.next()) {
        (Some(entry), None) => Ok(entry?.path()),
        _ => Err(format!("no single file in {}", directory.display()).into()),
    }
}

fn newest_package(series: &str) -> Result<String> {
    let pattern = format!("^linux-image-{series}[.]");
    let mut search = Command::new("apt-cache");
    let listed = run(search.args(["search", "--names-only", &pattern]))?;
    let names = listed.lines().filter_map(|line| line.split(' ').next());
    let found = names
        .filter(|name| name.ends_with("-cloud-amd64"))
        .max_by_key(|name| numbers(name));
    found.map(String::from).ok_or_else(|| {
        format!(
            "apt knows no linux-image-{series}.*-cloud-amd64 (after \
             apt-get update): add a suite of Debian that has it, or give \
             KERNEL=path/to/vmlinuz"
        )
        .into()
    })
}

/// The numbers in a name, in order: by them 6.12.117 is newer than 6.12.13.
fn numbers(name: &str) -> Vec<u64> {
    let parts = name.split(|c: char| !c.is_ascii_digit());
    parts.filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        let older = numbers("linux-image-6.12.13+deb12-cloud-amd64");
        let newer = numbers("linux-image-6.12.117+deb12-cloud-amd64");
        assert!(older < newer);
    }
}
