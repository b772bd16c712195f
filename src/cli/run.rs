//! High arguments: each command resolved and run.

use super::{
    CliError,
    args::{Command, ConfigArgs, ConfigCommand, HealthArgs, ServeArgs},
    logging::init as init_logging,
    output,
};
use crate::{
    config::{self, Config, Host},
    tools::health,
};

/// Runs `command` to its end.
pub(super) fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Serve(args) => serve(&args),
        Command::Config(ConfigCommand::Options { json: true }) => output::print(&config::list_json()),
        Command::Config(ConfigCommand::Options { json: false }) => output::print(&config::list()),
        Command::Config(ConfigCommand::Example) => output::print(&config::example()),
        Command::Config(ConfigCommand::Check(args)) => check(&args),
        Command::Health(args) => ask_health(args),
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

/// Says that the daemon is ready, or fails.
fn ask_health(args: HealthArgs) -> Result<(), CliError> {
    let config = resolve(&ConfigArgs { config: args.config, admin: args.admin, ..ConfigArgs::default() })?;
    health::ask(config.admin.address).map_err(CliError::runtime)?;
    output::print("ready\n")
}

fn resolve(args: &ConfigArgs) -> Result<Config, CliError> {
    Ok(Config::resolve(&args.sources(), &Host::detect())?)
}
