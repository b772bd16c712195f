//! The command line. Low arguments (as clap reads them) become high arguments (a resolved configuration or options of a
//! tool), which are run.
//!
//! Exit codes: 0 for success, 64 for a bad command line or a bad configuration, 1 for a fault while running. Results go
//! to standard output, everything else to standard error. The reader of standard output may leave at any time.

mod allocator;
mod args;
mod checkpoints;
mod examples;
mod logging;
mod manual;
mod old;
mod output;
mod reading;
mod run;
mod savepoint;
mod tools;

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory as _, FromArgMatches as _};

pub use self::{
    args::{
        Args, CheckpointsCommand, Command, ConfigArgs, ConfigCommand, DiscardArgs, DumpArgs, GcArgs, HealthArgs,
        SavepointCommand, ServeArgs, StoreArgs, TopArgs,
    },
    logging::init as init_logging,
};
use crate::config::Faults;

/// `EX_USAGE` of sysexits(3): the command line or the configuration is at fault, and trying again will not help.
pub const EXIT_USAGE: u8 = 64;

/// The reason why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The configuration has faults.
    #[error(transparent)]
    Config(#[from] Faults),
    /// The command line asks for something impossible.
    #[error("{0}")]
    Usage(String),
    /// The command line has the form of an earlier version, which this command replaces.
    #[error("this command has another form now: `{0}`")]
    OldForm(String),
    /// A fault while running.
    #[error("{0}")]
    Runtime(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl CliError {
    /// A fault while running, caused by `error`.
    pub fn runtime(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Runtime(error.into())
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) | Self::Usage(_) | Self::OldForm(_) => ExitCode::from(EXIT_USAGE),
            Self::Runtime(_) => ExitCode::FAILURE,
        }
    }
}

/// The clap description of the command line, with examples.
#[must_use]
pub fn command() -> clap::Command {
    examples::add(Args::command())
}

/// Runs the command in `arguments`, whose first item is the program's name, to its end.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let replacement = old::replacement(&arguments);
    if let Some(words) = &replacement {
        let error = CliError::OldForm(words.join(" "));
        output::complain(&error);
        if words.first().is_some_and(|program| program != "dstl") {
            return error.exit_code();
        }
    }
    let arguments = replacement.map_or(arguments, |words| words.into_iter().map(OsString::from).collect());
    let parsed = command().try_get_matches_from(arguments).and_then(|found| Args::from_arg_matches(&found));
    let args = match parsed {
        Ok(args) => args,
        Err(error) => {
            let asked = !error.use_stderr();
            // If the terminal is gone, the message cannot be shown.
            let _ = error.print();
            return if asked { ExitCode::SUCCESS } else { ExitCode::from(EXIT_USAGE) };
        }
    };
    match run::run(args.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&error);
            error.exit_code()
        }
    }
}
