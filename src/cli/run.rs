//! High arguments: each command resolved and run.

use super::{
    CliError,
    args::{Command, ConfigArgs, ConfigCommand, ServeArgs},
    logging::init as init_logging,
    output, tools,
};
use crate::config::{self, Config, Host};

/// Runs `command` to its end.
pub(super) fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Serve(args) => serve(&args),
        Command::Config(ConfigCommand::Options { json: true }) => output::print(&config::list_json()),
        Command::Config(ConfigCommand::Options { json: false }) => output::print(&config::list()),
        Command::Config(ConfigCommand::Example) => output::print(&config::example()),
        Command::Config(ConfigCommand::Check(args)) => check(&args),
        Command::Gc(args) => tools::gc(&args),
        Command::Checkpoints(args) => tools::checkpoints(&args),
        Command::Dump(args) => tools::dump(&args),
    }
}

/// Runs the daemon, or only checks its configuration.
fn serve(args: &ServeArgs) -> Result<(), CliError> {
    if args.check_config {
        return check(&args.config);
    }
    let config = resolve(&args.config)?;
    init_logging(&config.log)?;
    crate::daemon::serve(&config).map_err(CliError::runtime)
}

/// Says that the configuration is valid, or fails with all its faults.
fn check(args: &ConfigArgs) -> Result<(), CliError> {
    resolve(args)?;
    output::print("configuration is valid\n")
}

fn resolve(args: &ConfigArgs) -> Result<Config, CliError> {
    Ok(Config::resolve(&args.sources(), &Host::detect())?)
}
