//! Tools for operators of jobs: they list the contents of a store, the checkpoints that can be restored, and the
//! garbage.
//!
//! | module | task |
//! | --- | --- |
//! | [`gc`] | tells for each object why it lives or goes; deletes those that go |
//! | [`dump`] | decodes a single object |
//! | [`checkpoints`] | lists and shows checkpoints that can be restored |
//! | [`diff`] | shows which states and keys grew between two checkpoints |
//! | [`changelog`] | shows the changes in the log of a checkpoint |
//! | [`pin`] | keeps checkpoints beyond their retention |
//! | [`discard`] | releases a checkpoint, or all checkpoints of a job |
//! | [`verify`] | proves that a checkpoint can be restored |
//! | [`state`] | shows the entries of a checkpoint or a savepoint |
//! | [`savepoint`] | lists, shows, verifies and removes savepoints |
//! | [`import`] | makes a savepoint from Parquet files of another program |
//! | [`transfer`] | copies savepoints from store to store |
//! | [`fence`] | leads past the newest manifest or job record, if it is damaged for good |
//! | [`doctor`] | checks which promises a store keeps, and measures its speed |
//! | [`health`] | asks a daemon whether it is ready |
//!
//! All but the last need a store and no daemon. Their result is an [`outline::Node`], which prints as text for people
//! or as JSON for programs.

pub mod changelog;
pub mod checkpoints;
pub mod diff;
pub mod discard;
pub mod doctor;
pub mod dump;
pub mod fence;
pub mod gc;
pub mod health;
pub mod import;
pub mod outline;
pub mod pin;
pub mod savepoint;
pub mod state;
pub mod target;
pub mod top;
pub mod transfer;
pub mod verify;

use std::time::{Duration, UNIX_EPOCH};

use self::outline::Node;
use crate::{
    object::Retry,
    types::{TimeMs, hex::encode as hex},
};

/// Attempts at a request to the store before a tool gives up.
const REQUEST_ATTEMPTS: u32 = 8;

/// The retries of all tools.
#[must_use]
pub fn retry() -> Retry {
    Retry::forever().at_most(REQUEST_ATTEMPTS)
}

/// The first millisecond of the year 10000, for which RFC 3339 has no form.
const RFC_3339_END_MS: TimeMs = 253_402_300_800_000;

/// A time as RFC 3339. A time beyond the year 9999, which only a wrong or forged object has, is shown as a number.
fn time(ms: TimeMs) -> Node {
    if ms >= RFC_3339_END_MS {
        return Node::text(format!("{ms} ms since 1970"));
    }
    Node::text(humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms)))
}
