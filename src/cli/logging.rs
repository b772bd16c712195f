//! The log on standard error.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{EnvFilter, util::SubscriberInitExt as _};

use super::CliError;
use crate::config::{LogConfig, LogFormat};

/// Sends tracing events to standard error for the rest of this process; colours only to a terminal.
///
/// # Errors
///
/// When the filter is not valid, or events already go somewhere.
pub fn init(log: &LogConfig) -> Result<(), CliError> {
    let filter = EnvFilter::try_new(&log.level).map_err(CliError::runtime)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let installed = match log.format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).finish().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(true).finish().try_init(),
    };
    installed.map_err(CliError::runtime)
}
