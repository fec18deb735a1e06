//! Where a page goes: to standard output, or into a file that is there whole or
//! not at all.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::Failure;
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
        // A name that leads nowhere yet is as good as none.
        if let Ok(metadata) = fs::metadata(path) {
            if !metadata.is_file() {
                return Err(cannot(path, "it is no regular file"));
            }
            // Replacing it asks only for the directory; a file that may not be
            // written is meant to stay.
            let file = File::options().append(true).open(path);
            file.map_err(|error| cannot(path, error))?;
        }
        beside(path).map(drop)
    }

    /// A file of that name is replaced.
    pub(crate) fn write(&self, page: &str) -> Result<(), Failure> {
        let Self::File(path) = self else { return output::print(page) };
        let unwritable = |error: io::Error| cannot(path, error);
        let mut file = beside(path)?;
        file.write_all(page.as_bytes()).map_err(unwritable)?;
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

/// A file in the same directory, which is removed unless it is given its name.
fn beside(path: &Path) -> Result<NamedTempFile, Failure> {
    let target = target(path);
    let directory = match target.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Err(cannot(path, "it is no regular file")),
    };
    if target.file_name().is_none() {
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
