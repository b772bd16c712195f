//! Identities of checkpoints and the rungs of durability.

use std::fmt;

use uuid::Uuid;

/// Orders the owners that an engine starts for one backend.
pub type Attempt = u64;

/// The number of a checkpoint, chosen by the engine, at least 1; ids increase within an epoch but may be used again by
/// a later one.
pub type CheckpointId = u64;

/// Names one checkpoint of one backend beyond doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckpointIdentity {
    /// The number of the epoch that made it.
    pub epoch: u64,
    /// The engine's id.
    pub id: CheckpointId,
    /// Chosen by the daemon when the barrier came.
    pub uuid: Uuid,
}

impl fmt::Display for CheckpointIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (epoch {}, {})", self.id, self.epoch, self.uuid)
    }
}

/// How durable an acknowledged batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// In the inner backend.
    Applied,
    /// Durable in the object store; no restore point by itself.
    Persisted,
    /// Part of a completed checkpoint.
    Confirmed,
}
