//! What goes to the user: on standard output the result, on standard error one
//! line for whatever went wrong.

use std::ffi::OsStr;
use std::io::{self, Write};

use comfy_table::presets::{ASCII_MARKDOWN, UTF8_FULL_CONDENSED};
use comfy_table::{ContentArrangement, Table};
use console::Term;

use crate::Failure;

/// Writes the result, and a line feed.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    print_as_is(format!("{text}\n").as_bytes())
}

/// Writes the result.
pub(crate) fn print_as_is(text: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    written(stdout.write_all(text).and_then(|()| stdout.flush())).map(drop)
}

/// What became of writing to standard output: whether anybody reads on.
pub(crate) fn written(result: io::Result<()>) -> Result<bool, Failure> {
    match result {
        Ok(()) => Ok(true),
        // Whoever read it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(format!("cannot write the result: {error}").into()),
    }
}

/// Says something on standard error, in a line, whatever names it holds;
/// `eprintln!` would panic where nobody listens.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "shm: {}", printable(line.as_ref()));
}

/// The width of the terminal, if the result goes to one.
pub(crate) fn width() -> Option<u16> {
    let terminal = Term::stdout();
    terminal.is_term().then(|| terminal.size().1)
}

/// An empty table: of lines of at most that many characters, or else in
/// Markdown, where a row stays a line, also for grep.
pub(crate) fn table(width: Option<u16>) -> Table {
    let mut table = Table::new();
    match width {
        Some(width) => table
            .load_preset(UTF8_FULL_CONDENSED)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width),
        None => table.load_preset(ASCII_MARKDOWN),
    };
    table
}

/// Text that others chose, such as a name: without what a terminal would obey,
/// and in one line.
pub(crate) fn printable(text: &OsStr) -> String {
    let mut printable = String::new();
    for piece in text.as_encoded_bytes().utf8_chunks() {
        for character in piece.valid().chars() {
            match is_harmless(character) {
                true => printable.push(character),
                false => printable.extend(character.escape_unicode()),
            }
        }
        for byte in piece.invalid() {
            printable += &format!("\\x{byte:02x}");
        }
    }
    printable
}

/// Neither a command to a terminal, nor one of the signs that turn the
/// direction of what follows.
fn is_harmless(character: char) -> bool {
    !character.is_control()
        && !matches!(
            character,
            '\u{61c}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn what_others_chose_is_printed_harmlessly_and_in_one_line() {
        let printed = |bytes: &[u8]| printable(OsStr::from_bytes(bytes));
        assert_eq!(printed(b"plain name"), "plain name");
        assert_eq!(printed("Größe µ".as_bytes()), "Größe µ");
        assert_eq!(printed(b"\x1b[2Jgone"), "\\u{1b}[2Jgone");
        assert_eq!(printed(b"a\nb"), "a\\u{a}b");
        assert_eq!(printed("a\u{202e}b".as_bytes()), "a\\u{202e}b");
        assert_eq!(printed("a\u{61c}b".as_bytes()), "a\\u{61c}b");
        assert_eq!(printed(b"a\xffb"), "a\\xffb");
    }
}
