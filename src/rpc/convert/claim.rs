//! Claim modes, and the targets of `Discard`.

use super::{backend_id, invalid, name, target, unknown_value};
use crate::{
    backend::ClaimMode,
    checkpoint::{discard::Discard, handle::CheckpointHandle, ledger::NoticeTarget},
    error::Error,
    proto::v1,
};

/// The owner of a restored checkpoint.
pub(super) fn mode(mode: i32) -> Result<Option<ClaimMode>, Error> {
    match v1::ClaimMode::try_from(mode) {
        Ok(v1::ClaimMode::Unspecified) => Ok(None),
        Ok(v1::ClaimMode::Claim) => Ok(Some(ClaimMode::Claim)),
        Ok(v1::ClaimMode::NoClaim) => Ok(Some(ClaimMode::NoClaim)),
        Err(_) => Err(unknown_value("claim_mode", mode)),
    }
}

/// The target of a `Discard` request.
pub(in crate::rpc) fn discard(request: &v1::DiscardRequest) -> Result<Discard, Error> {
    use v1::discard_request::What;
    match request.what.as_ref().ok_or_else(|| invalid("set `job`, `handle` or `checkpoint`"))? {
        What::Job(job) => Ok(Discard::Job(name("job", job)?)),
        What::Handle(handle) => {
            let handle = CheckpointHandle::decode(handle);
            let handle = handle.map_err(|error| invalid(format!("the checkpoint handle: {error}")))?;
            let identity = handle.checkpoint;
            let target = NoticeTarget { epoch: identity.epoch, id: identity.id, uuid: Some(identity.uuid) };
            Ok(Discard::Checkpoint(handle.backend, target))
        }
        What::Checkpoint(named) => {
            Ok(Discard::Checkpoint(backend_id(named.backend.as_ref())?, target(named.checkpoint.as_ref())?))
        }
    }
}
