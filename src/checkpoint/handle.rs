//! Checkpoint handles: the small opaque bytes by which an engine remembers a checkpoint.
//!
//! An [`super::envelope`] around the names of backend and checkpoint; at most 1 KiB. It lists no objects. Objects are
//! found through the manifest chain, which may move them (materialization, paging) while the handle stays valid.

use bytes::Bytes;
use uuid::Uuid;

use super::envelope::{self, EnvelopeError, Kind};
use crate::{
    proto::store,
    types::{BackendId, CheckpointIdentity, Name},
};

/// Longest handle in bytes.
pub const MAX_HANDLE_BYTES: usize = 1024;

/// The checkpoint that a handle names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointHandle {
    /// The backend of the checkpoint.
    pub backend: BackendId,
    /// The identity of the checkpoint.
    pub checkpoint: CheckpointIdentity,
}

impl CheckpointHandle {
    /// The handle as opaque bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let sealed = envelope::seal(Kind::Handle, &self.to_message());
        assert!(sealed.len() <= MAX_HANDLE_BYTES, "names are bounded, so handles are");
        sealed
    }

    /// Reads a handle.
    ///
    /// # Errors
    /// If the bytes are not exactly a handle.
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        Self::from_message(&envelope::open(Kind::Handle, bytes)?)
    }

    pub(super) fn to_message(&self) -> store::Handle {
        store::Handle {
            job: self.backend.job.to_string(),
            operator: self.backend.operator.to_string(),
            subtask: self.backend.subtask,
            name: Some(name_of(&self.checkpoint)),
        }
    }

    pub(super) fn from_message(handle: &store::Handle) -> Result<Self, EnvelopeError> {
        let contents = |what: &str| EnvelopeError::Contents(what.to_owned());
        let backend = BackendId {
            job: Name::new(&handle.job).map_err(|error| contents(&error.to_string()))?,
            operator: Name::new(&handle.operator).map_err(|error| contents(&error.to_string()))?,
            subtask: handle.subtask,
        };
        let name = handle.name.as_ref().ok_or_else(|| contents("no checkpoint"))?;
        Ok(Self { backend, checkpoint: identity_of(name).ok_or_else(|| contents("no UUID"))? })
    }
}

/// An identity in the form of durable objects.
pub(super) fn name_of(identity: &CheckpointIdentity) -> store::CheckpointName {
    store::CheckpointName {
        epoch: identity.epoch,
        id: identity.id,
        uuid: Bytes::copy_from_slice(identity.uuid.as_bytes()),
    }
}

/// The identity that a durable name stands for; `None` if its UUID is malformed.
pub(super) fn identity_of(name: &store::CheckpointName) -> Option<CheckpointIdentity> {
    let uuid = Uuid::from_slice(&name.uuid).ok()?;
    Some(CheckpointIdentity { epoch: name.epoch, id: name.id, uuid })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_names_fit_a_handle() {
        let name = Name::new(&"x".repeat(200)).unwrap();
        let backend = BackendId { job: name.clone(), operator: name, subtask: u32::MAX };
        let checkpoint = CheckpointIdentity { epoch: u64::MAX, id: u64::MAX, uuid: Uuid::max() };
        let handle = CheckpointHandle { backend, checkpoint };
        assert_eq!(CheckpointHandle::decode(&handle.encode()).unwrap(), handle);
        assert!(CheckpointHandle::decode(b"not a handle at all, really").is_err());
    }
}
