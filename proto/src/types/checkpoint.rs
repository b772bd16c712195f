//! Identities of checkpoints and the rungs of durability.

use std::fmt;

use uuid::Uuid;

/// The number of an owner among those that an engine starts for one backend; a later owner has a higher number.
pub type Attempt = u64;

/// The number of a checkpoint, chosen by the engine, at least 1; ids increase within an epoch but may be used again by
/// a later one.
pub type CheckpointId = u64;

/// Names one checkpoint of one backend without ambiguity, even if an id is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckpointIdentity {
    /// The number of the epoch that made it.
    pub epoch: u64,
    /// The id that the engine gave it.
    pub id: CheckpointId,
    /// A UUID that the daemon chose when the barrier came.
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
    /// The batch is in the inner backend, and lost if the daemon crashes.
    Applied,
    /// The batch is durable in the object store, but not yet part of a restore point.
    Persisted,
    /// The batch is part of a completed checkpoint.
    Confirmed,
}
