//! Where a page goes: to standard output, or into a file that is there whole or
//! not at all.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use tempfile::NamedTempFile;

use crate::Failure;
use crate::census::Object;
use crate::output;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Destination {
    Stdout,
    File(PathBuf),
}

impl From<PathBuf> for Destination {
    fn from(path: PathBuf) -> Self {
        match path.as_os_str() == "-" {
            true => Self::Stdout,
            false => Self::File(path),
        }
    }
}

impl Destination {
    /// Whether it could be written now.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let Self::File(path) = self else { return Ok(()) };
        match fs::metadata(path) {
            Ok(metadata) => check_replaceable(path, &metadata)?,
            // A name that leads nowhere yet is as good as none.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(cannot(path, error)),
        }
        beside(path).map(drop)
    }

    /// A file of that name is replaced.
    pub(crate) fn write(&self, page: &str) -> Result<(), Failure> {
        let Self::File(path) = self else { return output::print(page) };
        let unwritable = |error: io::Error| cannot(path, error);
        let file = beside(path)?;
        // Not by way of `file`, whose errors tell the name it has for now.
        let mut written = file.as_file();
        written.write_all(page.as_bytes()).map_err(unwritable)?;
        if let Ok(metadata) = fs::metadata(path) {
            let permissions = metadata.permissions();
            file.as_file().set_permissions(permissions).map_err(unwritable)?;
        }
        // Or else a crash might leave the name, and nothing behind it.
        file.as_file().sync_all().map_err(unwritable)?;
        file.persist(target(path)).map_err(|error| unwritable(error.error))?;
        Ok(())
    }
}

/// Whether a file that is there could be replaced, and is meant to be.
fn check_replaceable(path: &Path, metadata: &Metadata) -> Result<(), Failure> {
    if !metadata.is_file() {
        return Err(cannot(path, "it is no regular file"));
    }
    // Replacing it asks only for the directory; a file that may not be written
    // is meant to stay.
    let file = File::options().append(true).open(path);
    file.map_err(|error| cannot(path, error))?;
    // As a container is given one; nothing else can get its name.
    let attributes = statx(CWD, path, AtFlags::empty(), StatxFlags::empty());
    if attributes
        .is_ok_and(|it| it.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
    {
        let hint = "it is mounted there, and cannot be replaced";
        return Err(cannot(path, hint));
    }
    let is_there = |other: io::Result<Metadata>| {
        other.is_ok_and(|other| Object::of(&other) == Object::of(metadata))
    };
    let stdout = io::stdout().as_fd().try_clone_to_owned();
    if is_there(stdout.and_then(|fd| File::from(fd).metadata())) {
        // With the file, the table would be lost.
        let hint = "it is the standard output, to which --html=- writes";
        return Err(cannot(path, hint));
    }
    // Through /dev/stderr, say, a file can be reached that was removed; what
    // would be replaced then is the link.
    match is_there(fs::canonicalize(path).and_then(fs::metadata)) {
        true => Ok(()),
        false => Err(cannot(path, "it is a file without a name")),
    }
}

/// A file in the same directory, which is removed unless it is given its name.
fn beside(path: &Path) -> Result<NamedTempFile, Failure> {
    let target = target(path);
    let directory = match target.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Err(cannot(path, "it is no regular file")),
    };
    // A name that ends with a slash or a dot is one of a directory.
    let name = target.file_name().map(OsStr::as_bytes);
    if !name.is_some_and(|name| target.as_os_str().as_bytes().ends_with(name)) {
        return Err(cannot(path, "it is no regular file"));
    }
    tempfile::Builder::new()
        .prefix(".shm-")
        // As every program makes its files, with what the umask leaves.
        .make_in(directory, |name| File::create_new(name))
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                let directory = directory.display();
                cannot(path, format!("there is no directory {directory}"))
            }
            _ => cannot(path, error),
        })
}

/// What a symbolic link leads to is replaced, not the link.
fn target(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

fn cannot(path: &Path, why: impl fmt::Display) -> Failure {
    format!("cannot write {}: {why}", path.display()).into()
}
