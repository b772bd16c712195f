//! The parts of a checkpoint, one for each subtask that made it.

use bytes::Bytes;

use crate::{
    checkpoint::manifest::{Attachment, CheckpointRecord, Manifest, Span},
    types::{BackendId, CheckpointIdentity, KeyGroupRange, TimeMs},
};

/// The part of a checkpoint that one chain retains.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// The head of the chain.
    pub(crate) manifest: Manifest,
    /// The record of the checkpoint in it.
    pub(crate) record: CheckpointRecord,
}

impl Part {
    /// The part of the operator's state that it has.
    pub(crate) fn span(&self) -> Span {
        self.manifest.span(&self.record)
    }
}

/// The part of one subtask in a restored checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredPart {
    /// The subtask's backend.
    pub backend: BackendId,
    /// Its part of the checkpoint.
    pub checkpoint: CheckpointIdentity,
    /// The key groups of that subtask.
    pub key_groups: KeyGroupRange,
    /// The bytes that its task attached.
    pub attachment: Bytes,
    /// The time of its newest batch.
    pub time: TimeMs,
}

/// The public form of `parts` without attachments, and the places of the attachments.
pub(crate) fn restored(parts: &[Part]) -> (Vec<RestoredPart>, Vec<Attachment>) {
    parts.iter().map(|part| (restored_part(part), part.record.attachment.clone())).unzip()
}

fn restored_part(part: &Part) -> RestoredPart {
    RestoredPart {
        backend: part.manifest.backend.clone(),
        checkpoint: part.record.identity,
        key_groups: part.span().key_groups,
        attachment: Bytes::new(),
        time: part.record.time,
    }
}
