//! The run of each command, with its arguments resolved.

use super::{
    CliError, allocator,
    args::{ChangelogCommand, Command, ConfigArgs, ConfigCommand, HealthArgs, ServeArgs, StoreCommand, TopArgs},
    checkpoints,
    logging::init as init_logging,
    manual, output, reading, savepoint, tools,
};
use crate::{
    admin::errors::Complaints,
    clock::Clock,
    config::{self, Config, Host},
    tools::{health, top},
};

/// Runs `command` to its end.
pub(super) fn run(command: Command) -> Result<(), CliError> {
    // All files written here, also those of RocksDB and the stores, hold state. No other user may read them.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    if reads_state(&command) {
        allocator::set_up();
    }
    match command {
        Command::Serve(args) => serve(&args),
        Command::Config(ConfigCommand::Options { json: true }) => output::print(&config::list_json()),
        Command::Config(ConfigCommand::Options { json: false }) => output::print(&config::list()),
        Command::Config(ConfigCommand::Example) => output::print(&config::example()),
        Command::Config(ConfigCommand::Check(args)) => check(&args),
        Command::Config(ConfigCommand::Translate { file }) => tools::translate(&file),
        Command::Gc(args) => tools::gc(&args),
        Command::Checkpoints(command) => checkpoints::run(command),
        Command::Changelog(ChangelogCommand::Dump(args)) => reading::changelog(&args),
        Command::Pin(command) => checkpoints::pin(command),
        Command::Discard(args) => tools::discard(&args),
        Command::Fence(args) => tools::fence(&args),
        Command::Savepoint(command) => savepoint::run(command),
        Command::Verify(args) => reading::verify(&args.read),
        Command::State(command) => reading::state(command),
        Command::Dump(args) => tools::dump(&args),
        Command::Store(StoreCommand::Doctor(args)) => tools::doctor(&args),
        Command::Health(args) => ask_health(args),
        Command::Top(args) => top(args),
        Command::Man { folder } => manual::man(&folder),
        Command::Completions { shell } => manual::completions(shell),
    }
}

/// Whether a command takes and gives back as much memory as there is state.
fn reads_state(command: &Command) -> bool {
    matches!(
        command,
        Command::Savepoint(_)
            | Command::Verify(_)
            | Command::State(_)
            | Command::Checkpoints(_)
            | Command::Changelog(_)
    )
}

/// Runs the daemon, or only checks its configuration.
fn serve(args: &ServeArgs) -> Result<(), CliError> {
    if args.check_config {
        return check(&args.config);
    }
    let config = resolve(&args.config)?;
    // Ordering: this may replace the process by a new one, so it comes before anything is opened or logged.
    allocator::set_up();
    let complaints = Complaints::new(Clock::system());
    init_logging(&config.log, &complaints)?;
    crate::daemon::serve(&config, complaints).map_err(CliError::runtime)
}

/// Prints that the configuration is valid, or fails with all its faults.
fn check(args: &ConfigArgs) -> Result<(), CliError> {
    resolve(args)?;
    output::print("configuration is valid\n")
}

/// Prints that the daemon is ready, or fails.
fn ask_health(args: HealthArgs) -> Result<(), CliError> {
    let config = resolve(&ConfigArgs { config: args.config, admin: args.admin, ..ConfigArgs::default() })?;
    health::ask(config.admin.address).map_err(CliError::runtime)?;
    output::print("ready\n")
}

/// Shows the figures of a running daemon, once or until the user quits.
fn top(args: TopArgs) -> Result<(), CliError> {
    let source = match args.socket {
        Some(socket) => top::Source::Socket(socket),
        None => {
            let HealthArgs { config, admin } = args.daemon;
            let config = resolve(&ConfigArgs { config, admin, ..ConfigArgs::default() })?;
            top::Source::Admin(config.admin.address.ok_or_else(|| CliError::runtime(health::HealthError::Off))?)
        }
    };
    if args.once {
        return output::print(&top::once(&source).map_err(CliError::runtime)?);
    }
    top::watch(&source).map_err(CliError::runtime)
}

fn resolve(args: &ConfigArgs) -> Result<Config, CliError> {
    Ok(Config::resolve(&args.sources(), &Host::detect())?)
}
