//! Begins with a native savepoint: the objects of a checkpoint, which lie in a folder of their own.
//!
//! Seen from the folder, they are a store with this checkpoint, which nobody writes to. So it is loaded as a
//! [clone](super::clone) is, without pins, and the owner serves once all of its state is in a materialization of its
//! own. None of its manifests names an object of the savepoint.

use super::{
    super::{environment::Environment, states::States},
    Contents, LoadError, Loaded, RESTORE_READ_ATTEMPTS,
    admit::Admitted,
    choice::Part,
    claim::{self, Claim, Known},
    clone, operator,
};
use crate::{
    checkpoint::{
        chain::ChainError,
        generation,
        job::{self, JobCheckpoint},
        manifest::{CheckpointRecord, Manifest},
    },
    error::{Error, Reason},
    object::{Retry, Store},
    restore::{Progress, RestoreError},
    savepoint::{NativeMetadata, SavepointId},
};

/// How often it begins again when others open the same backend.
const CLAIM_ATTEMPTS: usize = 16;

/// Validates the request, and makes the manifest that opens the new epoch, which names nothing of the savepoint.
///
/// # Errors
/// [`Reason::CheckpointNotFound`] if the savepoint has no such operator.
pub(super) async fn claim(
    env: &Environment,
    admitted: &Admitted,
    (id, metadata, known): (&SavepointId, &NativeMetadata, &mut Known),
    retry: Retry,
) -> Result<Claim, Error> {
    let spec = &admitted.spec;
    let store = env.store.below(&metadata.folder(id));
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
    if !generation::is_whole(&parts) {
        let text = format!("backend `{backend}`: savepoint `{folder}` lacks the manifest of a subtask");
        return Err(Error::new(Reason::MissingObject, text));
    }
    let part = |(manifest, record): &(&Manifest, &CheckpointRecord)| Part {
        manifest: (*manifest).clone(),
        record: (*record).clone(),
    };
    let parts: Vec<Part> = parts.iter().map(part).collect();
    for _ in 0..CLAIM_ATTEMPTS {
        let head = known.head(env, spec, retry).await?;
        if let Some(head) = &head {
            claim::refuse_outdated(spec, &head.manifest)?;
        }
        if let Some(claim) = clone::begin(env, admitted, (head, parts.clone(), &known.seen), retry).await? {
            return Ok(Claim { native: Some(store), ..claim });
        }
    }
    Err(ChainError::Contended(spec.id.clone()).into())
}

/// An inner backend with the state of `claim`, as it is in `store`.
pub(super) async fn load(
    env: &Environment,
    (claim, store): (&Claim, &Store),
    states: States,
    progress: &mut (impl FnMut(Progress) + Send),
) -> Result<Loaded, LoadError> {
    let there = Environment { store: store.clone(), ..env.clone() };
    // Damage of the savepoint is none of the job's checkpoints, so no other one is looked for.
    let refused = |error: LoadError| match error {
        LoadError::Restore(error) => LoadError::Refused(super::restore_error(&claim.manifest.backend, error)),
        refused => refused,
    };
    let contents = super::restore(&there, claim, &states, (store, None), progress).await.map_err(refused)?;
    let Contents { inner, mut restored, .. } = contents;
    let checkpoint = claim.parts.first().map_or(0, |part| part.checkpoint.id);
    let retry = Retry::forever().at_most(RESTORE_READ_ATTEMPTS);
    let of_restore = |error: RestoreError| refused(LoadError::Restore(error));
    let shares = operator::read(&there, (&claim.manifest, &states), (&claim.operator, checkpoint), retry).await;
    let (shares, read) = shares.map_err(of_restore)?;
    restored.progress.add(read);
    // The base is the savepoint's, and none of this backend's.
    restored.base = None;
    let shares = operator::changed(&inner, shares, &states).map_err(|fault| {
        LoadError::Refused(Error::new(super::super::error::local(&fault), super::super::error::inner(&fault)))
    })?;
    let parts = super::with_attachments(&there, claim, retry).await.map_err(refused)?;
    let on_disk = claim.manifest.shape.inner == crate::types::InnerBackend::RocksDb;
    let images = (on_disk && env.options.warm).then(Default::default);
    Ok(Loaded { inner, states, parts, restored, previous: None, images, shares, warm: None, not_warm: String::new() })
}
