//! Begins with a native savepoint: the objects of a checkpoint, which lie in a folder of their own.
//!
//! Seen from the folder, they are a store with this checkpoint, so it is loaded as a checkpoint is. The owner serves
//! once all of its state is in a materialization of its own.

use super::{
    restored::{Contents, LoadError, Loaded, RESTORE_READ_ATTEMPTS, restore, with_attachments},
    shares,
};
use crate::{
    backend::{environment::Environment, error},
    claim::{claimed::Claim, states::States},
    object::{Retry, Store},
    restore::Progress,
    types::InnerBackend,
};

/// An inner backend with the state of `claim`, as it is in `store`.
pub(super) async fn load(
    env: &Environment,
    claim: &Claim,
    store: &Store,
    states: States,
    progress: &mut (impl FnMut(Progress) + Send),
) -> Result<Loaded, LoadError> {
    let there = Environment { store: store.clone(), ..env.clone() };
    let refused = |error: LoadError| error.refused(claim);
    let contents = restore(&there, claim, &states, None, progress).await.map_err(refused)?;
    let Contents { inner, mut restored, .. } = contents;
    let retry = Retry::forever().at_most(RESTORE_READ_ATTEMPTS);
    let shares = shares::read(&there, claim, &states, retry).await;
    let (shares, read) = shares.map_err(|error| refused(LoadError::Restore(error)))?;
    restored.progress.add(read);
    // The base is the savepoint's, and none of this backend's.
    restored.base = None;
    let changed = shares::changed(&inner, shares, &states);
    let shares = changed.map_err(|fault| LoadError::Refused(error::local_store(&fault)))?;
    let parts = with_attachments(&there, claim, retry).await.map_err(refused)?;
    let on_disk = claim.manifest.shape.inner == InnerBackend::RocksDb;
    let images = (on_disk && env.options.warm).then(Default::default);
    Ok(Loaded { inner, states, parts, restored, previous: None, images, shares, warm: None, not_warm: String::new() })
}
