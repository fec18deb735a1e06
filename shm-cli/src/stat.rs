//! `shm stat`: what can be said about one segment.

use std::process::ExitCode;

use crate::Failure;
use crate::census::Census;
use crate::output::{complain, print};
use crate::target::Target;
use crate::view::View;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// `sysv:KEY`, `sysv-id:ID`, `posix:/NAME`, `memfd:PID/FD` or
    /// `dmabuf:PID/FD`.
    target: Target,
    /// Prints one JSON object instead of lines.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let (census, segment) = Census::find(&arguments.target)?;
    let row = View::now().row(&segment);
    if arguments.json {
        print(&serde_json::to_string_pretty(&row)?)?;
    } else {
        let lines: Vec<String> = row
            .lines()
            .into_iter()
            .map(|(what, text)| format!("{:10}{text}", format!("{what}:")))
            .collect();
        print(&lines.join("\n"))?;
    }
    if let Some(shortfall) = &census.shortfall {
        complain(&format!("note: {shortfall}"));
    }
    Ok(ExitCode::SUCCESS)
}
