//! The share of a checkpoint's operator state that a backend begins with.

use std::collections::BTreeMap;

use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::{
    backend::environment::Environment,
    checkpoint::manifest::{Import, Manifest},
    claim::{claimed::Claim, states::States},
    object::Retry,
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

/// Reads the operator state of single subtasks of a checkpoint.
struct SubtaskReader<'a> {
    env: &'a Environment,
    /// The manifest of the backend that reads, which has the imports.
    by: &'a Manifest,
    /// The checkpoint that is restored, for messages.
    checkpoint: CheckpointId,
    /// All operator state of the backend that reads.
    states: &'a [(StateId, StateDescriptor)],
    retry: Retry,
}

/// Reads the shares of the backend that `claim` opens, which has `states`. Also returns how much was read. Cancel-safe.
///
/// # Errors
/// If a source cannot be read.
pub(super) async fn read(
    env: &Environment,
    claim: &Claim,
    states: &States,
    retry: Retry,
) -> Result<(Shares, Progress), RestoreError> {
    let Claim { manifest, parts, operator: sources, .. } = claim;
    let checkpoint = parts.first().map_or(0, |part| part.checkpoint.id);
    if sources.parallelism == 0 {
        return Ok(Default::default());
    }
    let is_shared = |state: &StateDescriptor| match state.redistribution {
        Some(redistribution) => !sources.only_union || redistribution == Redistribution::Union,
        None => false,
    };
    let shared: Vec<(StateId, StateDescriptor)> =
        states.in_force().map(|state| (state.id, state.descriptor)).filter(|(_, state)| is_shared(state)).collect();
    // All operator state is registered with each reader, whether or not it is shared: the log of a subtask has changes
    // of all of it.
    let all = states.data().filter(|(_, state)| state.redistribution.is_some());
    let all: Vec<(StateId, StateDescriptor)> = all.map(|(id, state)| (id, state.clone())).collect();
    // Collected first: a stream of borrowing closures would make the restore a future that cannot be spawned.
    let reader = SubtaskReader { env, by: manifest, checkpoint, states: &all, retry };
    let reads: Vec<_> = sources.imports.iter().map(|import| reader.read(import)).collect();
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

impl SubtaskReader<'_> {
    /// Reads all operator state of the subtask that `import` is of.
    async fn read(&self, import: &Import) -> Result<(u32, HashMapBackend, Progress), RestoreError> {
        let Self { env, by, checkpoint, states, retry } = *self;
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
}

/// The subset of `shares` that differs from the contents of `inner`.
pub(super) fn changed(inner: &WithOperatorState, shares: Shares, states: &States) -> Result<Shares, state::StateError> {
    let mut changed = vec![];
    for (id, share) in shares {
        let Some(state) = states.get(id) else { continue };
        // A share that is there already needs no changes in the log, as after most restarts.
        if state::operator::contents(inner, id, state.kind)? != share {
            changed.push((id, share));
        }
    }
    Ok(changed)
}
