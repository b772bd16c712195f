//! Which calls a backend answers.

use super::error;
use crate::{error::Error, types::BackendId};

/// Which calls a backend answers.
#[derive(Debug, Clone)]
pub(super) enum Condition {
    /// All calls are answered.
    Serving,
    /// Only reads are answered, since the inner backend has this fatal fault.
    Failsafe(String),
    /// No calls: each gets this error.
    Ended(Error),
}

impl Condition {
    /// Whether the owner has ended.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self, Self::Ended(_))
    }

    /// Refuses any call of a backend that has ended.
    pub(super) fn check_running(&self) -> Result<(), Error> {
        match self {
            Self::Ended(error) => Err(error.clone()),
            Self::Serving | Self::Failsafe(_) => Ok(()),
        }
    }

    /// Refuses writes to `backend` in failsafe.
    pub(super) fn check_writable(&self, backend: &BackendId) -> Result<(), Error> {
        match self {
            Self::Failsafe(why) => Err(error::failsafe(backend, why)),
            Self::Serving | Self::Ended(_) => Ok(()),
        }
    }

    /// Why writes are refused; empty if they are not.
    pub(super) fn failsafe(&self) -> String {
        match self {
            Self::Failsafe(why) => why.clone(),
            Self::Serving | Self::Ended(_) => String::new(),
        }
    }
}
