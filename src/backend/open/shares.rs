//! The share of a checkpoint's operator state that a backend begins with.

use std::collections::BTreeMap;

use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::{
    backend::environment::Environment,
    checkpoint::manifest::{Import, Manifest},
    claim::{redistribution::Sources, states::States},
    restore::{Imported, Progress, Restore, RestoreError, block_memory},
    state::{
        self, StateBackend,
        hashmap::HashMapBackend,
        operator::{Contents, Successor, WithOperatorState},
    },
    types::{CheckpointId, KeyGroupRange, Redistribution, StateDescriptor, StateId},
};

/// The operator state that a backend begins with, besides its own: for each state, its whole contents.
pub(super) type Shares = Vec<(StateId, Contents)>;

/// Reads the shares of a backend from `sources`, which `manifest` names. Also returns how much was read. Cancel-safe.
///
/// # Errors
/// If a source cannot be read.
pub(super) async fn read(
    env: &Environment,
    (manifest, states): (&Manifest, &States),
    (sources, checkpoint): (&Sources, CheckpointId),
    retry: crate::object::Retry,
) -> Result<(Shares, Progress), RestoreError> {
    if sources.parallelism == 0 {
        return Ok(Default::default());
    }
    let is_shared = |state: &StateDescriptor| match state.redistribution {
        Some(redistribution) => !sources.only_union || redistribution == Redistribution::Union,
        None => false,
    };
    let shared: Vec<(StateId, StateDescriptor)> =
        states.in_force().map(|state| (state.id, state.descriptor)).filter(|(_, state)| is_shared(state)).collect();
    let all = states.data().filter(|(_, state)| state.redistribution.is_some());
    let all: Vec<(StateId, StateDescriptor)> = all.map(|(id, state)| (id, state.clone())).collect();
    // Collected first: a stream of borrowing closures would make the restore a future that cannot be spawned.
    let reads: Vec<_> =
        sources.imports.iter().map(|import| read_one(env, manifest, (import, checkpoint), (&all, retry))).collect();
    let had: Vec<(u32, HashMapBackend, Progress)> =
        stream::iter(reads).buffered(env.options.download_parallelism.max(1)).try_collect().await?;
    let mut progress = Progress::default();
    had.iter().for_each(|(_, _, read)| progress.add(*read));
    let inner = |source| RestoreError::Inner { checkpoint, source };
    let mut shares = vec![];
    for (id, state) in shared {
        let Some(redistribution) = state.redistribution else { continue };
        let mut of_subtasks = BTreeMap::new();
        for (subtask, backend, _) in &had {
            of_subtasks.insert(*subtask, state::operator::contents(backend, id, state.kind).map_err(inner)?);
        }
        let to = Successor { subtask: manifest.backend.subtask, parallelism: manifest.shape.parallelism };
        shares.push((id, state::operator::share(redistribution, &of_subtasks, sources.parallelism, to)));
    }
    Ok((shares, progress))
}

/// Reads all operator state of one subtask.
async fn read_one(
    env: &Environment,
    by: &Manifest,
    (import, checkpoint): (&Import, CheckpointId),
    (states, retry): (&[(StateId, StateDescriptor)], crate::object::Retry),
) -> Result<(u32, HashMapBackend, Progress), RestoreError> {
    let mut backend = HashMapBackend::new(KeyGroupRange::OPERATOR);
    for (id, state) in states {
        backend.register(*id, state);
    }
    let (manifest, record) = import.view(by, checkpoint);
    let restore = Restore {
        store: &env.store,
        tasks: &env.tasks,
        local: env.local.as_deref(),
        kept: None,
        manifest: &manifest,
        checkpoint: &record,
        parallel_reads: env.options.download_parallelism,
        retry,
        block_memory: block_memory(env.options.state_memory),
        imported: Some(Imported { import, by }),
    };
    let restored = restore.run(&mut backend, |_| {}).await?;
    Ok((import.origin.subtask, backend, restored.progress))
}

/// The subset of `shares` that differs from the contents of `inner`.
pub(super) fn changed(inner: &WithOperatorState, shares: Shares, states: &States) -> Result<Shares, state::StateError> {
    let mut changed = vec![];
    for (id, share) in shares {
        let Some(state) = states.get(id) else { continue };
        if state::operator::contents(inner, id, state.kind)? != share {
            changed.push((id, share));
        }
    }
    Ok(changed)
}
