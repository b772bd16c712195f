//! The log on standard error.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{EnvFilter, Layer as _, fmt::layer, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use super::CliError;
use crate::{
    admin::errors::Complaints,
    config::{LogConfig, LogFormat},
};

/// Sends tracing events to standard error for the rest of this process, and warnings and errors also to `complaints`.
/// Colours are used only on a terminal.
///
/// # Errors
/// If the filter is not valid, or a subscriber is installed already.
pub fn init(log: &LogConfig, complaints: &Complaints) -> Result<(), CliError> {
    let filter = EnvFilter::try_new(&log.level).map_err(CliError::runtime)?;
    let written = match log.format {
        LogFormat::Text => layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => layer().json().flatten_event(true).with_current_span(true).with_writer(io::stderr).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(filter).with(written).with(complaints.clone());
    subscriber.try_init().map_err(CliError::runtime)
}
