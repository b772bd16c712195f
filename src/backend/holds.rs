//! Holds: why a checkpoint stays although no retention asks for it.

use std::collections::BTreeMap;

use crate::types::CheckpointId;

/// Why an owner holds one of its checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// A savepoint is made of it.
    Savepoint,
    /// It can be read, and so many are reading it.
    Readable(usize),
}

/// The checkpoints of one owner that stay readable beyond their retention.
#[derive(Debug, Default)]
pub(super) struct Holds(BTreeMap<CheckpointId, Hold>);

impl Holds {
    /// Holds a checkpoint.
    pub(super) fn add(&mut self, id: CheckpointId, hold: Hold) {
        self.0.insert(id, hold);
    }

    /// Ends the hold on a checkpoint; returns whether there was one.
    pub(super) fn remove(&mut self, id: CheckpointId) -> bool {
        self.0.remove(&id).is_some()
    }

    /// Whether checkpoint `id` is held.
    pub(super) fn has(&self, id: CheckpointId) -> bool {
        self.0.contains_key(&id)
    }

    /// Whether a savepoint of checkpoint `id` is being made.
    pub(super) fn is_being_made(&self, id: CheckpointId) -> bool {
        self.0.get(&id) == Some(&Hold::Savepoint)
    }

    /// Whether some savepoint is being made.
    pub(super) fn is_any_being_made(&self) -> bool {
        self.0.values().any(|hold| *hold == Hold::Savepoint)
    }

    /// Whether checkpoint `id` can be read, and has no reader.
    pub(super) fn is_unread(&self, id: CheckpointId) -> bool {
        self.0.get(&id) == Some(&Hold::Readable(0))
    }

    /// Notes that a reader of a readable checkpoint begins.
    pub(super) fn begin_reading(&mut self, id: CheckpointId) {
        if let Some(Hold::Readable(readers)) = self.0.get_mut(&id) {
            *readers += 1;
        }
    }

    /// Whether the end of a reader lets checkpoint `id` loose: the first one does.
    pub(super) fn ends_with_a_reader(&self, id: CheckpointId) -> bool {
        matches!(self.0.get(&id), Some(Hold::Readable(_)))
    }
}
