//! `docs/behaviour.md`, from the rows.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;

use crate::table::{Cell, Chapter, Expected, Probe, kernel};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/behaviour.md");

/// How the line begins that tells the kernels.
const SEEN_ON: &str = "Seen on Linux ";

/// Writes the document with `UPDATE_DOCS=1`; else fails when it is stale.
pub fn check(chapters: &[Chapter]) {
    let old = fs::read_to_string(PATH).unwrap_or_default();
    let mut seen = kernels(&old);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        seen.insert(kernel());
        fs::write(PATH, document(chapters, &seen)).unwrap_or_else(|error| {
            panic!("cannot write docs/behaviour.md: {error}")
        });
    } else {
        assert!(
            old == document(chapters, &seen),
            "docs/behaviour.md is stale: run \
             UPDATE_DOCS=1 cargo test -p integration-tests --test behaviour"
        );
    }
}

/// The kernels that a document says its cells were seen on.
fn kernels(document: &str) -> BTreeSet<(u32, u32)> {
    let line = document.lines().find_map(|line| line.strip_prefix(SEEN_ON));
    let versions = line.unwrap_or_default().trim_end_matches('.').split(", ");
    versions
        .filter_map(|version| {
            let (major, minor) = version.split_once('.')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        })
        .collect()
}

fn document(chapters: &[Chapter], seen: &BTreeSet<(u32, u32)>) -> String {
    let mut text = String::from(
        "<!-- Generated: UPDATE_DOCS=1 cargo test -p integration-tests \
         --test behaviour -->\n\n\
         # What the kernel really does\n\n\
         Each cell was run: the mark after it leads to the probe. “Works” \
         means that the call\nsucceeded; a signal means that the process died \
         of it. An empty cell is a question\nthat makes no sense there. \
         Nothing here is about our crates: it is what Linux does\nbelow them. \
         Those about dma-bufs need their drivers, which of the kernels below \
         only\n6.12 had: see \
         [integration-tests/vm](../integration-tests/vm).\n\n",
    );
    let versions: Vec<String> =
        seen.iter().map(|(major, minor)| format!("{major}.{minor}")).collect();
    writeln!(text, "{SEEN_ON}{}.", versions.join(", ")).unwrap_or_default();
    let mut sources = Vec::new();
    for chapter in chapters {
        write!(
            text,
            "\n## {}\n\n\
             | | System V | POSIX | memfd | dma-buf |\n\
             |---|---|---|---|---|\n",
            chapter.title
        )
        .unwrap_or_default();
        for row in chapter.rows {
            let question = told(row.question);
            write!(text, "| {question} |").unwrap_or_default();
            for (_, cell) in row.cells() {
                match cell {
                    Cell::None => text.push_str(" |"),
                    Cell::Probe(probe) => {
                        sources.push(probe);
                        let number = sources.len();
                        let answer = answer(&probe.expected);
                        write!(text, " {answer} [°][{number}] |")
                            .unwrap_or_default();
                    }
                }
            }
            text.push('\n');
        }
    }
    text.push('\n');
    for (probe, number) in sources.into_iter().zip(1..) {
        // From the workspace's root, where the compiler was called.
        let Probe { file, line, .. } = probe;
        writeln!(text, "[{number}]: ../{file}#L{line}").unwrap_or_default();
    }
    text
}

fn answer(expected: &Expected) -> String {
    match expected {
        Expected::Always(text) => told(text),
        Expected::Since { version: (major, minor), now, before } => format!(
            "{} since Linux {major}.{minor}, before: {}",
            told(now),
            told(before)
        ),
        Expected::Backported { version: (major, minor), now, before } => {
            format!(
                "{} since Linux {major}.{minor} and late releases of older \
                 series, before: {}",
                told(now),
                told(before)
            )
        }
    }
}

/// Names of errors, signals and paths stand in code.
fn told(text: &str) -> String {
    let code = |word: &str| {
        let bare = word.trim_end_matches([',', ';', ':']);
        let rest = &word[bare.len()..];
        let is_code = bare.starts_with('/')
            || bare.contains('_')
            || bare.len() > 3
                && !bare.starts_with(|c: char| matches!(c, '1'..='9'))
                && bare
                    .chars()
                    .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
        if is_code { format!("`{bare}`{rest}") } else { word.to_owned() }
    };
    text.split(' ').map(code).collect::<Vec<_>>().join(" ")
}
