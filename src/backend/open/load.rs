//! Loads the state that a claim begins with: from an older owner on this daemon, from a savepoint, or from the store.

use super::{
    native,
    restored::{Contents, LoadError, Loaded, RESTORE_READ_ATTEMPTS, with_attachments},
    savepoint, shares, warm,
};
use crate::{
    backend::{environment::Environment, error, handle::Backend},
    claim::{claimed::Claim, states::States},
    object::Retry,
    restore::Progress,
};

/// Loads the state that `claim` begins with: from `predecessor` as far as possible, otherwise from the store.
pub(super) async fn load(
    env: &Environment,
    claim: &Claim,
    predecessor: Option<&Backend>,
    progress: &mut (impl FnMut(Progress) + Send),
) -> Result<Loaded, LoadError> {
    let states = States::restored(&claim.manifest.states, |id| claim.bound.contains(&id));
    if let Some(source) = &claim.savepoint {
        return savepoint::load(env, claim, source, states, progress).await;
    }
    if let Some(store) = &claim.native {
        return native::load(env, claim, store, states, progress).await;
    }
    // An owner that begins empty has no use for the state of the one before.
    let predecessor = predecessor.filter(|_| !claim.parts.is_empty());
    let warm::Begun { contents, images, rolled_back, is_warm, not_warm } =
        warm::begin(env, claim, predecessor, &states, progress).await?;
    let Contents { inner, mut restored, previous } = contents;
    let retry = Retry::forever().at_most(RESTORE_READ_ATTEMPTS);
    let shares = shares::read(env, claim, &states, retry).await;
    let (shares, read) = shares.map_err(LoadError::Restore)?;
    restored.progress.add(read);
    let shares = match rolled_back {
        // The shares of the owner before may be there already, but the log of the new epoch does not have them.
        Some(_) => shares,
        None => {
            shares::changed(&inner, shares, &states).map_err(|fault| LoadError::Refused(error::local_store(&fault)))?
        }
    };
    let parts = with_attachments(env, claim, retry).await?;
    let warm = is_warm.then(|| rolled_back.unwrap_or(0));
    Ok(Loaded { inner, states, parts, restored, previous, images, shares, warm, not_warm })
}
