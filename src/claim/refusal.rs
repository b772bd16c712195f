//! Refusals of an opener, by its own chain or by the chains that it reads.

use super::spec::OpenSpec;
use crate::{
    checkpoint::manifest::Manifest,
    error::{Error, Reason},
    types::{BackendId, Sqn},
};

/// Refuses an attempt that the newest owner of a chain outdates. A peer outdates it only in the chain that it serves
/// itself.
pub(crate) fn refuse_outdated(spec: &OpenSpec, head: &Manifest) -> Result<(), Error> {
    let owner = head.owner();
    let only_reads = head.backend != spec.id;
    let newest = match spec.is_peer(owner) {
        true if only_reads => return Ok(()),
        // A peer that only reads has fenced the owner that served before.
        true if owner.is_fence => {
            head.served().filter(|served| spec.is_peer(served)).map_or(0, |served| served.attempt)
        }
        _ => owner.attempt,
    };
    if newest <= spec.attempt {
        return Ok(());
    }
    let text = format!(
        "backend `{}`: attempt {} is outdated, attempt {newest} has opened `{}`; stop, or open with a higher attempt",
        spec.id, spec.attempt, head.backend
    );
    Err(Error::new(Reason::Fenced, text))
}

/// The error for a chain that has had the most epochs there may be.
pub(crate) fn too_many_epochs(backend: &BackendId) -> Error {
    let text = format!("backend `{backend}` was opened {} times, the most there may be", Sqn::MAX_EPOCH);
    Error::new(Reason::LimitExceeded, text)
}
