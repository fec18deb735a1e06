//! Counts the instructions of the hot paths, which do not depend on how busy
//! the machine is, and fails when one has grown.
//!
//! | | |
//! |---|---|
//! | `instructions` | compares with what docs/performance.md records |
//! | `instructions table` | prints the table for docs/performance.md |
//!
//! Each path runs in a process of its own under valgrind's callgrind. Counted is
//! what this program executes itself, the libraries and the parts of std that
//! are compiled into it; not the C library, which picks another `memcpy` for
//! another processor, nor the kernel. So the counts change with the compiler,
//! and hardly with the machine: the copies have one path with AVX and one
//! without.
#![expect(
    clippy::print_stdout,
    reason = "a table for a file, or a report for a person"
)]

mod paths;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::{env, fs};

use crate::paths::Counted;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Over this many times the recorded count is a failure.
const GROWTH: f64 = 1.05;

const DOCUMENT: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/performance.md");

/// What a row of the table begins with, and no other line of the document.
const ROW: &str = "| instructions of `";

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => check(),
        ["table"] => {
            println!("| path | one call |\n| --- | --- |");
            for (name, count) in count_all()? {
                println!("{ROW}{name}` | {count:.1} |");
            }
            Ok(ExitCode::SUCCESS)
        }
        ["run", name] => {
            paths::run(name)?;
            Ok(ExitCode::SUCCESS)
        }
        _ => Err("usage: instructions [table]".into()),
    }
}

fn check() -> Result<ExitCode> {
    let recorded = recorded(&fs::read_to_string(DOCUMENT)?)?;
    let counted = count_all()?;
    let mut failed = false;
    for (name, count) in &counted {
        let (verdict, before) = match recorded.get(name) {
            None => ("not recorded", "-".to_owned()),
            Some(before) if *count > before * GROWTH => {
                ("GROWN", format!("{before:.1}"))
            }
            Some(before) if count * GROWTH < *before => {
                ("less: record it", format!("{before:.1}"))
            }
            Some(before) => ("as recorded", format!("{before:.1}")),
        };
        failed |= matches!(verdict, "GROWN" | "not recorded");
        println!("{name:28} {before:>9} {count:>9.1}  {verdict}");
    }
    if failed {
        println!(
            "\nA path has grown by more than 5 % over docs/performance.md, or \
             is not recorded there. If that is meant, or the compiler is \
             another: cargo run --release in benchmarks/ records it anew."
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// The counts in the document, by path.
fn recorded(document: &str) -> Result<BTreeMap<String, f64>> {
    let rows = document.lines().filter_map(|line| line.strip_prefix(ROW));
    rows.map(|row| {
        let (name, rest) =
            row.split_once("` | ").ok_or("a row without a name")?;
        let count = rest.trim_end_matches([' ', '|']).parse()?;
        Ok((name.to_owned(), count))
    })
    .collect()
}

/// Every path's instructions for one call, without those of the loop around it.
fn count_all() -> Result<Vec<(String, f64)>> {
    let around = count(paths::NOTHING)?;
    let mut counts = Vec::new();
    for name in paths::names() {
        counts.push((name.to_owned(), count(name)? - around));
    }
    Ok(counts)
}

fn count(name: &str) -> Result<f64> {
    let program = env::current_exe()?;
    let profile = env::temp_dir()
        .join(format!("shm-instructions-{}", std::process::id()));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--compress-strings=no"])
        .arg("--compress-pos=no")
        .arg(format!("--toggle-collect={}", paths::COUNTED))
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(&program)
        .args(["run", name])
        .output()
        .map_err(|error| format!("cannot run valgrind: {error}"))?;
    let text = fs::read_to_string(&profile);
    // It may not be there, if valgrind failed.
    let _ = fs::remove_file(&profile);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("valgrind, {name}: {said}").into());
    }
    let instructions = own_instructions(&text?, &program)?;
    Ok(instructions as f64 / f64::from(Counted::CALLS))
}

/// The sum of the costs of `program`'s own functions in a callgrind profile.
fn own_instructions(profile: &str, program: &Path) -> Result<u64> {
    let program = program.display().to_string();
    let (mut is_ours, mut is_callee, mut sum) = (false, false, 0);
    for line in profile.lines() {
        if let Some(object) = line.strip_prefix("ob=") {
            is_ours = object == program;
        } else if line.starts_with("calls=") {
            // The next line is what the callee cost, which it says itself.
            is_callee = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit()) {
            let cost = line.split(' ').nth(1).ok_or("a line without a cost")?;
            if is_ours && !is_callee {
                sum += cost.parse::<u64>()?;
            }
            is_callee = false;
        }
    }
    match sum {
        0 => Err("nothing was counted".into()),
        sum => Ok(sum),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_functions_count_and_each_once() {
        let profile = "\
            events: Ir\nob=/a/program\nfn=outer\n7 20\ncfn=inner\ncalls=1 9\n\
            8 500\n9 3\nob=/lib/libc.so.6\nfn=memcpy\n1 1000\nob=/a/program\n\
            fn=inner\n9 100\n";
        let sum = own_instructions(profile, Path::new("/a/program"));
        assert_eq!(sum.unwrap(), 20 + 3 + 100);
    }

    #[test]
    fn what_the_table_says_is_what_is_read_from_it() {
        let table =
            "| path | one call |\n| instructions of `get u64` | 7.5 |\n";
        let recorded = recorded(table).unwrap();
        assert_eq!(recorded.get("get u64"), Some(&7.5));
    }
}
