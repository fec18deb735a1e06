//! Packs what the kernel unpacks as its root.

use std::fs::File;
use std::io::{Cursor, Read, Seek};
use std::path::Path;

use cpio::NewcBuilder;
use cpio::newc::ModeFileType;

use crate::Result;
use crate::programs::Programs;

/// A file that can be read again: cpio wants its length first.
trait Source: Read + Seek {}
impl<T: Read + Seek> Source for T {}

/// Writes an archive with `/init`, which is also the programs of the system in
/// `/bin` that tests start, `/bin/shm`, the test programs as `/tests/0` and so on, and
/// `/tests/list`: on each line a program's name, and its arguments.
pub fn pack(to: &Path, programs: &Programs, list: &str) -> Result<()> {
    let mut entries: Vec<(NewcBuilder, Box<dyn Source>)> = Vec::new();
    for directory in ["bin", "dev", "proc", "sys", "tests", "tmp"] {
        let mode = if directory == "tmp" { 0o1777 } else { 0o755 };
        let entry = NewcBuilder::new(directory)
            .mode(mode)
            .set_mode_file_type(ModeFileType::Directory);
        entries.push((entry, Box::new(Cursor::new([]))));
    }
    let program = |name: &str| {
        NewcBuilder::new(name)
            .mode(0o755)
            .set_mode_file_type(ModeFileType::Regular)
    };
    // Copies, and not links: a program shows in its own map under its name.
    for name in ["init", "bin/cat", "bin/ls", "bin/test"] {
        entries.push((program(name), Box::new(File::open(&programs.init)?)));
    }
    entries.push((program("bin/shm"), Box::new(File::open(&programs.shm)?)));
    for (number, test) in programs.tests.iter().enumerate() {
        let file = File::open(&test.file)?;
        entries.push((program(&format!("tests/{number}")), Box::new(file)));
    }
    let list = Cursor::new(list.to_owned());
    entries.push((program("tests/list"), Box::new(list)));
    cpio::write_cpio(entries.into_iter(), File::create(to)?)?;
    Ok(())
}
