//! Restores the state that an owner begins with from the store, or from local images and copies of it.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::shares::Shares;
use crate::{
    backend::{environment::Environment, error},
    checkpoint::manifest::Shape,
    claim::{claimed::Claim, part::RestoredPart, states::States},
    error::{Error, Reason},
    materialization::reusable::Reusable,
    object::Retry,
    restore::{KeptImages, Progress, Restore, RestoreError, Restored, block_memory},
    state::{StateBackend, hashmap::HashMapBackend, operator::WithOperatorState},
    tasks,
    types::InnerBackend,
};

/// Attempts of each read of a restore.
pub(super) const RESTORE_READ_ATTEMPTS: u32 = 12;

/// A filled inner backend.
pub(super) struct Contents {
    pub(super) inner: WithOperatorState,
    /// The same facts as after a restore from the store, except for the amounts that were read.
    pub(super) restored: Restored,
    pub(super) previous: Option<Arc<Reusable>>,
}

/// A loaded inner backend, with everything else that an owner begins with.
pub(super) struct Loaded {
    pub(super) inner: WithOperatorState,
    pub(super) states: States,
    pub(super) parts: Vec<RestoredPart>,
    pub(super) restored: Restored,
    pub(super) previous: Option<Arc<Reusable>>,
    pub(super) images: Option<KeptImages>,
    pub(super) shares: Shares,
    /// For a warm restart: the number of changes that were rolled back.
    pub(super) warm: Option<u64>,
    pub(super) not_warm: String,
}

/// Why the state could not be loaded.
pub(super) enum LoadError {
    Refused(Error),
    Restore(RestoreError),
}

impl LoadError {
    /// The error of a load whose damage is none of the job's checkpoints, so that no other one is looked for.
    pub(super) fn refused(self, claim: &Claim) -> Self {
        match self {
            Self::Restore(error) => Self::Refused(error::restore_error(&claim.manifest.backend, error)),
            refused @ Self::Refused(_) => refused,
        }
    }
}

/// Restores the state that `claim` begins with. Reads from the store of `env`, and from the images in `kept` if it has
/// them.
pub(super) async fn restore(
    env: &Environment,
    claim: &Claim,
    states: &States,
    kept: Option<&KeptImages>,
    progress: impl FnMut(Progress) + Send,
) -> Result<Contents, LoadError> {
    let manifest = &claim.reads;
    let inner = inner_backend(env, &manifest.shape).map_err(LoadError::Refused)?;
    let mut inner = WithOperatorState::new(inner);
    // Every id is registered before the first change, which may name any of them.
    tasks::blocking_if(inner.may_block(), || {
        states.data().for_each(|(id, descriptor)| inner.register(id, descriptor));
    });
    let restored = match claim.parts.first() {
        Some(part) => {
            let restore = Restore {
                store: &env.store,
                tasks: &env.tasks,
                local: env.local.as_deref(),
                kept,
                manifest,
                checkpoint: &manifest.beginning(part.checkpoint.id),
                parallel_reads: env.options.download_parallelism,
                // Each read has its own retries, since a restore of a large state takes long.
                retry: Retry::forever().at_most(RESTORE_READ_ATTEMPTS),
                block_memory: block_memory(env.options.state_memory),
                imported: None,
            };
            restore.run(&mut inner, progress).await.map_err(LoadError::Restore)?
        }
        None => Restored::default(),
    };
    // Only a base of the backend's own chain is reused: stamps and sqns of another chain cannot be compared.
    let previous = manifest.owner().contents.base.zip(restored.base.clone());
    let previous = previous.map(|(uuid, index)| Arc::new(Reusable::new(uuid, index)));
    Ok(Contents { inner, restored, previous })
}

/// The parts of `claim` with their attachments.
pub(super) async fn with_attachments(
    env: &Environment,
    claim: &Claim,
    retry: Retry,
) -> Result<Vec<RestoredPart>, LoadError> {
    let reads = claim.parts.iter().zip(&claim.attachments).map(|(part, attachment)| async move {
        let read = attachment.read(&env.store, &part.backend, part.checkpoint, retry).await?;
        let checkpoint = part.checkpoint.id;
        let attachment = read.map_err(|fault| RestoreError::Damaged { checkpoint, fault })?;
        Ok::<_, RestoreError>(RestoredPart { attachment, ..part.clone() })
    });
    // Collected first: a stream of borrowing closures would make the opening a future that cannot be spawned.
    let reads: Vec<_> = reads.collect();
    let reads = stream::iter(reads).buffered(env.options.download_parallelism.max(1));
    reads.try_collect().await.map_err(LoadError::Restore)
}

/// An empty inner backend of keyed state.
fn inner_backend(env: &Environment, shape: &Shape) -> Result<Box<dyn StateBackend>, Error> {
    let local = match (shape.inner, &env.local) {
        (InnerBackend::HashMap, _) => return Ok(Box::new(HashMapBackend::new(shape.key_groups))),
        (InnerBackend::RocksDb, Some(local)) => local,
        (InnerBackend::RocksDb, None) => {
            let text = "this daemon has no inner backend `rocksdb`: it was built without it, or cannot write \
                        `state.backend.rocksdb.localdir` (its log says so); open with `hashmap`";
            return Err(Error::new(Reason::Unsupported, text));
        }
    };
    let made = tasks::blocking(|| local.create(shape.key_groups, shape.max_parallelism));
    made.map_err(|fault| {
        let text = format!("{}; is there room in `state.backend.rocksdb.localdir`?", error::inner(&fault));
        Error::new(error::local(&fault), text)
    })
}
