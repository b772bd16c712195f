//! Claims a backend with a native savepoint: the objects of a checkpoint, which lie in a folder of their own.
//!
//! Seen from the folder, they are a store with this checkpoint, to which no owner writes. So it is claimed as a
//! [clone](super::clone) is, without pins. None of the owner's manifests names an object of the savepoint.

use super::{
    admit::Admitted,
    choice::Chosen,
    claimed::{Claim, Known},
    claiming::Claiming,
    clone::{self, Basis},
    part::Part,
    refusal::refuse_outdated,
    shape::shape,
};
use crate::{
    checkpoint::{
        chain::ChainError,
        generation,
        job::{self, JobCheckpoint},
        manifest::{CheckpointRecord, Manifest},
    },
    error::{Error, Reason},
    object::Retry,
    savepoint::{NativeMetadata, SavepointId},
};

/// How often it begins again when others open the same backend.
const CLAIM_ATTEMPTS: usize = 16;

/// A native savepoint that a backend begins with.
#[derive(Debug, Clone, Copy)]
pub(super) struct NativeSource<'a> {
    /// Job and name of the savepoint.
    pub(super) id: &'a SavepointId,
    /// The metadata of the savepoint.
    pub(super) metadata: &'a NativeMetadata,
}

/// Validates the request, and makes the manifest that opens the new epoch, which names nothing of the savepoint.
///
/// # Errors
/// [`Reason::CheckpointNotFound`] if the savepoint has no such operator.
pub(crate) async fn claim(
    by: &Claiming,
    admitted: &Admitted,
    source: NativeSource<'_>,
    known: &mut Known,
    retry: Retry,
) -> Result<Claim, Error> {
    let NativeSource { id, metadata } = source;
    let spec = &admitted.spec;
    let store = by.store.below(&metadata.folder(id));
    let heads = job::read_heads(&store, &metadata.job(), retry).await?;
    let of = JobCheckpoint { attempt: metadata.attempt, id: metadata.checkpoint };
    let parts = generation::parts(&heads, &spec.id.operator, of);
    let (backend, folder) = (&spec.id, id.folder());
    if !metadata.operators.contains_key(spec.id.operator.as_str()) {
        let names: Vec<&str> = metadata.operators.keys().map(String::as_str).collect();
        let text =
            format!("backend `{backend}`: savepoint `{folder}` has no such operator; it has: {}", names.join(", "));
        return Err(Error::new(Reason::CheckpointNotFound, text));
    }
    // People copy and move such folders, so a part may be missing.
    if !generation::is_whole(&parts) {
        let text = format!("backend `{backend}`: savepoint `{folder}` lacks the manifest of a subtask");
        return Err(Error::new(Reason::MissingObject, text));
    }
    let part = |(manifest, record): &(&Manifest, &CheckpointRecord)| Part {
        manifest: (*manifest).clone(),
        record: (*record).clone(),
    };
    let parts: Vec<Part> = parts.iter().map(part).collect();
    let shape = shape(by, spec, parts.first().map(Part::span).as_ref())?;
    // The folder never changes, so one look is enough for all tries.
    let chosen = Chosen { parts, shape, skipped: vec![] };
    for _ in 0..CLAIM_ATTEMPTS {
        let head = known.head(by, spec, retry).await?;
        if let Some(head) = &head {
            refuse_outdated(spec, &head.manifest)?;
        }
        let basis = Basis { head, chosen: &chosen, seen: &known.seen };
        if let Some(claim) = clone::begin(by, admitted, basis, retry).await? {
            return Ok(Claim { native: Some(store), ..claim });
        }
    }
    Err(ChainError::Contended(spec.id.clone()).into())
}
