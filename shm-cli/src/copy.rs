//! `shm read` and `shm write`: the bytes of a segment, from and to anywhere.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use shm_common::Size;

use crate::Failure;
use crate::contents::{self, Contents, ContentsMut};
use crate::output::written;
use crate::target::Target;

/// How much is copied at a time.
const PIECE: usize = 256 << 10;

#[derive(clap::Args)]
pub(crate) struct ReadArguments {
    /// `sysv:KEY`, `sysv-id:ID`, `posix:/NAME`, `memfd:PID/FD` or
    /// `dmabuf:PID/FD`.
    target: Target,
    /// Where to begin, such as 0, 4096 or 64KiB.
    #[arg(long, value_name = "N", default_value = "0", value_parser = offset)]
    #[arg(allow_hyphen_values = true)]
    offset: usize,
    /// How many bytes; without it, all that follow.
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    len: Option<Size>,
}

#[derive(clap::Args)]
pub(crate) struct WriteArguments {
    /// `sysv:KEY`, `sysv-id:ID`, `posix:/NAME`, `memfd:PID/FD` or
    /// `dmabuf:PID/FD`.
    target: Target,
    /// Where to begin, such as 0, 4096 or 64KiB.
    #[arg(long, value_name = "N", default_value = "0", value_parser = offset)]
    #[arg(allow_hyphen_values = true)]
    offset: usize,
    /// What to write; without it, or as -, what comes on standard input.
    file: Option<PathBuf>,
}

fn offset(text: &str) -> Result<usize, String> {
    match text {
        "0" => Ok(0),
        _ => text.parse().map(Size::bytes).map_err(|error| error.to_string()),
    }
}

pub(crate) fn read(arguments: &ReadArguments) -> Result<ExitCode, Failure> {
    let ReadArguments { target, offset, len } = arguments;
    let contents = contents::open(target)?;
    let rest = contents.len().checked_sub(*offset);
    let len = match (rest, len.map(Size::bytes)) {
        (Some(rest), None) => rest,
        (Some(rest), Some(len)) if len <= rest => len,
        _ => {
            let size = contents.len();
            return Err(format!(
                "cannot read {target} there: it has {size} bytes"
            )
            .into());
        }
    };
    print(&*contents, *offset, len)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes these bytes to standard output.
pub(crate) fn print(
    contents: &dyn Contents,
    mut offset: usize,
    mut len: usize,
) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let mut buffer = vec![0; PIECE.min(len)];
    while len > 0 {
        let piece = PIECE.min(len);
        let read = contents.read_at(offset, &mut buffer[..piece])?;
        if read == 0 {
            return Err(format!(
                "cannot read on: the segment was cut off at {offset} bytes"
            )
            .into());
        }
        if !written(stdout.write_all(&buffer[..read]))? {
            return Ok(());
        }
        offset += read;
        len -= read;
    }
    written(stdout.flush()).map(drop)
}

pub(crate) fn write(arguments: &WriteArguments) -> Result<ExitCode, Failure> {
    let WriteArguments { target, offset, file } = arguments;
    let contents = contents::open_mut(target)?;
    let Some(room) = contents.len().checked_sub(*offset) else {
        let size = contents.len();
        return Err(format!(
            "cannot write {target} there: it has {size} bytes"
        )
        .into());
    };
    let mut input = Input::open(file.as_ref())?;
    // Where that is known, nothing is written that does not fit.
    if input.len.is_some_and(|len| len > room as u64) {
        return Err(too_long(target, room));
    }
    fill(&mut input, &*contents, *offset, room).and_then(|fits| match fits {
        true => Ok(ExitCode::SUCCESS),
        false => {
            Err(format!("{}; what fits is written", too_long(target, room))
                .into())
        }
    })
}

fn too_long(target: &Target, room: usize) -> Failure {
    format!(
        "cannot write all of it to {target}: there is room for {room} bytes"
    )
    .into()
}

/// Says whether it was all.
fn fill(
    input: &mut Input,
    contents: &dyn ContentsMut,
    mut offset: usize,
    mut room: usize,
) -> Result<bool, Failure> {
    let mut buffer = vec![0; PIECE];
    loop {
        let read = match input.reader.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                continue;
            }
            Err(error) => {
                return Err(
                    format!("cannot read {}: {error}", input.name).into()
                );
            }
        };
        let fits = read.min(room);
        contents.write_at(offset, &buffer[..fits])?;
        if fits < read {
            return Ok(false);
        }
        offset += fits;
        room -= fits;
    }
}

/// Where bytes come from.
pub(crate) struct Input {
    pub(crate) reader: Box<dyn Read>,
    /// If that is known before.
    pub(crate) len: Option<u64>,
    pub(crate) name: String,
}

impl Input {
    /// Opens a file, or takes standard input where it is none or `-`.
    pub(crate) fn open(path: Option<&PathBuf>) -> Result<Self, Failure> {
        let path = path.filter(|path| path.as_os_str() != "-");
        let Some(path) = path else {
            let reader = Box::new(io::stdin().lock());
            let name = "standard input".to_owned();
            return Ok(Self { reader, len: None, name });
        };
        let name = path.display().to_string();
        let open = || {
            let file = File::open(path)?;
            let metadata = file.metadata()?;
            if metadata.is_dir() {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            io::Result::Ok((file, metadata))
        };
        let (file, metadata) =
            open().map_err(|error| format!("cannot read {name}: {error}"))?;
        let len = metadata.is_file().then_some(metadata.len());
        Ok(Self { reader: Box::new(file), len, name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_a_size_or_zero() {
        assert_eq!(offset("0"), Ok(0));
        assert_eq!(offset("4097"), Ok(4097));
        assert_eq!(offset("64KiB"), Ok(65_536));
        for text in ["", "-1", "1e9", "0KiB", "99999999999GiB"] {
            assert!(offset(text).is_err(), "{text:?}");
        }
    }
}
