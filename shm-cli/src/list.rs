//! `shm ls`: every segment on the machine, and whether anybody needs it.

use std::process::ExitCode;

use serde::Serialize;

use crate::Failure;
use crate::census::{Census, Verdict};
use crate::mechanism::Mechanism;
use crate::output::{complain, print, table, width};
use crate::view::{Row, View};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only segments of this mechanism; may be given more than once.
    #[arg(long, value_name = "MECHANISM")]
    mechanism: Vec<Mechanism>,
    /// Only segments that nobody needs: nobody has them, and nobody is there
    /// who would come back to them.
    #[arg(long)]
    stale: bool,
    /// Prints one JSON object instead of the table.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    segments: Vec<Row<'a>>,
    /// Null: no process can have escaped.
    shortfall: Option<&'a str>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let census = Census::take(or_all(&arguments.mechanism))?;
    let mut view = View::now();
    let rows: Vec<Row> = census
        .segments
        .iter()
        .filter(|s| !arguments.stale || s.verdict == Verdict::Stale)
        .map(|segment| view.row(segment))
        .collect();
    if arguments.json {
        let shortfall = census.shortfall.as_deref();
        let report = Report { segments: rows, shortfall };
        print(&serde_json::to_string_pretty(&report)?)?;
    } else {
        print(&in_a_table(&rows))?;
        if let Some(shortfall) = &census.shortfall {
            complain(&format!("note: {shortfall}"));
        }
    }
    Ok(match &census.failures[..] {
        [] => ExitCode::SUCCESS,
        failures => {
            complain(&failures.join("; "));
            ExitCode::FAILURE
        }
    })
}

/// All mechanisms, unless some are named.
pub(crate) fn or_all(mechanisms: &[Mechanism]) -> &[Mechanism] {
    match mechanisms {
        [] => &Mechanism::ALL,
        named => named,
    }
}

fn in_a_table(rows: &[Row]) -> String {
    let mut table = table(width());
    table.set_header(Row::HEADER);
    for row in rows {
        table.add_row(row.cells());
    }
    table.to_string()
}
