//! Fences: manifests that end older owners, in the backend's own chain and in the chains that it reads.

use std::collections::BTreeMap;

use super::{
    claiming::Claiming,
    part::Part,
    plan::Plan,
    redistribution,
    refusal::{refuse_outdated, too_many_epochs},
    spec::OpenSpec,
};
use crate::{
    checkpoint::{
        chain::{self, ChainError},
        generation,
        manifest::{CheckpointRecord, Manifest},
    },
    error::Error,
    object::Retry,
    types::{BackendId, CheckpointIdentity, Epoch, KeyGroupRange},
};

/// How often it tries to fence the owner of a chain that it reads.
const SOURCE_ATTEMPTS: usize = 16;

/// How often it tries to fence a faster owner before it derives its first manifest again.
const FENCE_ATTEMPTS: usize = 16;

/// Fences the owners of chains, for one opener.
#[derive(Debug)]
pub(crate) struct Fencer<'a> {
    by: &'a Claiming,
    spec: &'a OpenSpec,
    retry: Retry,
    /// The other chains whose owners were fenced so far, with the epochs that fenced them.
    pub(crate) fenced: Vec<(BackendId, Epoch)>,
}

impl<'a> Fencer<'a> {
    /// A fencer for the opener `by` of `spec`, which has fenced nobody yet.
    pub(crate) fn new(by: &'a Claiming, spec: &'a OpenSpec, retry: Retry) -> Self {
        Self { by, spec, retry, fenced: vec![] }
    }

    /// Makes sure that no owner before this attempt can write to the backend's own chain.
    pub(crate) async fn fence_own(&self) -> Result<(), Error> {
        let Self { by, spec, retry, .. } = *self;
        for _ in 0..FENCE_ATTEMPTS {
            let Some(head) = chain::read_head(&by.store, &spec.id, retry).await? else { return Ok(()) };
            refuse_outdated(spec, &head.manifest)?;
            // An owner of this very attempt is no older one. The claim that follows decides between the two.
            if head.manifest.owner().attempt == spec.attempt {
                return Ok(());
            }
            let attempt = spec.attempt.max(head.manifest.owner().attempt);
            let fence = generation::fence(&head, attempt, &spec.peers, by.random.uuid());
            match chain::append(&by.store, &fence.ok_or_else(|| too_many_epochs(&spec.id))?, retry).await {
                Ok(_) => {
                    tracing::info!(backend = %spec.id, attempt = spec.attempt, "fenced its owner, who kept writing");
                    return Ok(());
                }
                // Its owner was faster once more. The next try derives the fence from its newest manifest.
                Err(ChainError::Fenced { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Fences the chains of `parts`, except the backend's own and those of siblings that go on, for a backend that has
    /// `key_groups`. Returns the parts as the chains have them then; `None` if a chain has let go of the checkpoint.
    pub(crate) async fn fence_all(
        &mut self,
        parts: Vec<Part>,
        key_groups: KeyGroupRange,
    ) -> Result<Option<Vec<Part>>, Error> {
        let spec = self.spec;
        let mut current = vec![];
        for part in parts {
            if part.manifest.backend == spec.id || redistribution::is_of_sibling(spec, &part, key_groups) {
                current.push(part);
                continue;
            }
            // The fenced head counts from here on: its owner may have published until the fence, and cannot publish any
            // more.
            let manifest = self.fence(&part).await?;
            let Some(record) = manifest.checkpoints.iter().find(|record| record.identity == part.record.identity)
            else {
                return Ok(None);
            };
            current.push(Part { record: record.clone(), manifest });
        }
        Ok(Some(current))
    }

    /// Makes sure that no owner before this start can write to the chain of `part`, and that the part is marked there
    /// as claimed, or as not to be claimed. Returns the chain's head.
    async fn fence(&mut self, part: &Part) -> Result<Manifest, Error> {
        let Self { by, spec, retry, .. } = *self;
        let backend = &part.manifest.backend;
        let is_part = |record: &CheckpointRecord| record.identity == part.record.identity;
        for _ in 0..SOURCE_ATTEMPTS {
            let Some(head) = chain::read_head(&by.store, backend, retry).await? else { break };
            refuse_outdated(spec, &head.manifest)?;
            let owner = head.manifest.owner();
            // An owner of another generation under the same attempt belongs to the old one: its subtasks never open
            // again.
            let is_of_this_start = spec.is_peer(owner);
            let is_marked = |r: &CheckpointRecord| !is_part(r) || spec.has_marked(by, r);
            // An owner that serves has marked the part in its chain itself, whether or not it restores that part.
            let is_fenced = (owner.is_fence && head.manifest.checkpoints.iter().all(is_marked))
                || (!owner.is_fence && owner.span.parallelism == spec.parallelism);
            if is_of_this_start && is_fenced {
                return Ok(head.manifest);
            }
            // After a peer's fence, the higher of the two attempts must still outdate others.
            let attempt = spec.attempt.max(owner.attempt);
            let Some(mut manifest) = generation::fence(&head, attempt, &spec.peers, by.random.uuid()) else {
                return Err(too_many_epochs(backend));
            };
            for record in manifest.checkpoints.iter_mut().filter(|record| is_part(record)) {
                spec.mark(by, record);
            }
            match chain::append(&by.store, &manifest, retry).await {
                Ok(_) => {
                    tracing::info!(%backend, by = %spec.id, attempt = spec.attempt, "fenced to restore from it");
                    self.fenced.push((backend.clone(), manifest.owner().epoch));
                    return Ok(manifest);
                }
                Err(ChainError::Fenced { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ChainError::Contended(backend.clone()).into())
    }
}

/// Whether the chains of all parts still retain the checkpoint.
pub(crate) async fn are_retained(by: &Claiming, spec: &OpenSpec, plan: &Plan, retry: Retry) -> Result<bool, Error> {
    let mut wanted: BTreeMap<&BackendId, Vec<CheckpointIdentity>> = BTreeMap::new();
    for part in plan.parts.iter().chain(&plan.operator).filter(|part| part.manifest.backend != spec.id) {
        wanted.entry(&part.manifest.backend).or_default().push(part.record.identity);
    }
    for (backend, wanted) in wanted {
        let head = chain::read_head(&by.store, backend, retry).await?;
        let retained = head.map_or_else(Vec::new, |head| head.manifest.checkpoints);
        if wanted.iter().any(|identity| retained.iter().all(|record| record.identity != *identity)) {
            return Ok(false);
        }
    }
    Ok(true)
}
