//! High arguments: each command resolved and run.

use super::{
    CliError,
    args::{Command, ConfigArgs, ConfigCommand},
    output,
};
use crate::config::{self, Config, Host};

/// Runs `command` to its end.
pub(super) fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Config(ConfigCommand::Options { json: true }) => output::print(&config::list_json()),
        Command::Config(ConfigCommand::Options { json: false }) => output::print(&config::list()),
        Command::Config(ConfigCommand::Example) => output::print(&config::example()),
        Command::Config(ConfigCommand::Check(args)) => check(&args),
    }
}

/// Says that the configuration is valid, or fails with all its faults.
fn check(args: &ConfigArgs) -> Result<(), CliError> {
    resolve(args)?;
    output::print("configuration is valid\n")
}

fn resolve(args: &ConfigArgs) -> Result<Config, CliError> {
    Ok(Config::resolve(&args.sources(), &Host::detect())?)
}
