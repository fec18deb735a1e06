//! `shm completions` and `shm man`: what other programs make of the command's
//! own description.

use std::process::ExitCode;

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use crate::output::print_as_is;
use crate::{Arguments, Failure, Usage};

#[derive(clap::Args)]
pub(crate) struct CompletionsArguments {
    /// The shell.
    shell: Shell,
}

#[derive(clap::Args)]
pub(crate) struct ManArguments {
    /// A command of `shm`, such as ls; without it, the page of `shm` itself.
    command: Option<String>,
}

pub(crate) fn completions(
    arguments: &CompletionsArguments,
) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    let mut command = for_people();
    clap_complete::generate(arguments.shell, &mut command, "shm", &mut script);
    print_as_is(&script)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn man(arguments: &ManArguments) -> Result<ExitCode, Failure> {
    let mut command = for_people();
    // So that each knows what it is a part of.
    command.build();
    if let Some(name) = &arguments.command {
        let found = command.find_subcommand(name).cloned();
        command = found.ok_or_else(|| {
            Usage(format!("{name:?} is no command of shm (see --help)"))
        })?;
    }
    // "shm-ls", as manual pages of such commands are called.
    let title = command.get_display_name().unwrap_or("shm").to_owned();
    let mut page = Vec::new();
    let source = concat!("shm ", env!("CARGO_PKG_VERSION"));
    let man = clap_mangen::Man::new(command).title(title).source(source);
    man.render(&mut page)?;
    print_as_is(&page)?;
    Ok(ExitCode::SUCCESS)
}

/// The command without what only the command itself calls.
fn for_people() -> Command {
    let whole = Arguments::command();
    let shown = whole.get_subcommands().filter(|sub| !sub.is_hide_set());
    Command::new("shm")
        .version(env!("CARGO_PKG_VERSION"))
        .about(whole.get_about().cloned().unwrap_or_default())
        .subcommand_required(true)
        .subcommands(shown.cloned())
}
