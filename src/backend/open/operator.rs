//! The operator state that a backend begins with: which subtasks it comes from, and how the backend gets its share.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    super::{environment::Environment, states::States},
    OpenSpec,
    choice::Part,
};
use crate::{
    checkpoint::manifest::{Import, Manifest},
    error::{Error, Reason},
    restore::{Imported, Progress, Restore, RestoreError, block_memory},
    state::{
        self, StateBackend,
        hashmap::HashMapBackend,
        operator::{Contents, WithOperatorState},
    },
    types::{CheckpointId, KeyGroupRange, Redistribution, StateDescriptor, StateId},
};

/// The operator state that a backend will read.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// The operator state of each subtask that had some.
    pub(super) imports: Vec<Import>,
    /// How many subtasks the checkpoint has; 0 if nothing is read.
    pub(super) parallelism: u32,
    /// Whether only union lists are read, because the backend has its own operator state already.
    pub(super) only_union: bool,
}

/// The operator state that a backend begins with, besides its own: for each state, its whole contents.
pub(super) type Shares = Vec<(StateId, Contents)>;

/// The subtasks whose operator state the backend needs, given parts of the checkpoint. Pure.
pub(super) fn wanted(spec: &OpenSpec, parts: &[Part]) -> BTreeSet<u32> {
    let Some(old) = parts.first().map(|part| part.span().parallelism) else { return BTreeSet::new() };
    let of_part = |part: &Part| part.manifest.redistributions(&part.record).collect::<Vec<_>>();
    let to = (spec.id.subtask, spec.parallelism);
    parts
        .iter()
        .flat_map(of_part)
        .flat_map(|redistribution| state::operator::sources(redistribution, old, to))
        .collect()
}

/// Whether the backend, which goes on with `part`, needs the operator state of its siblings. Pure.
pub(super) fn needs_siblings(part: &Part) -> bool {
    let is_union = |redistribution| redistribution == Redistribution::Union;
    part.span().parallelism > 1 && part.manifest.redistributions(&part.record).any(is_union)
}

/// Checks that `parts` include all subtasks that are `wanted`. Pure.
///
/// # Errors
/// If some are missing; the error names them.
pub(super) fn check(spec: &OpenSpec, parts: &[Part], wanted: &BTreeSet<u32>, by_handles: bool) -> Result<(), Error> {
    let Some(old) = parts.first().map(|part| part.span().parallelism) else { return Ok(()) };
    let has = |subtask: &u32| parts.iter().any(|part| part.manifest.backend.subtask == *subtask);
    let missing: Vec<String> = wanted.iter().filter(|subtask| !has(subtask)).map(ToString::to_string).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let (what, reason) = if by_handles {
        ("give their handles too", Reason::InvalidArgument)
    } else {
        ("they do not retain it", Reason::CheckpointNotFound)
    };
    let text = format!(
        "backend `{}`: the checkpoint has operator state that is redistributed, and so needs that of subtasks {} of {old}; {what}",
        spec.id,
        missing.join(", ")
    );
    Err(Error::new(reason, text))
}

/// Whether the chain of `part`, of which only operator state is read, belongs to a sibling that goes on. Pure.
pub(super) fn is_of_sibling(spec: &OpenSpec, part: &Part, key_groups: KeyGroupRange) -> bool {
    let owner = part.manifest.owner();
    let is_alike =
        part.span().parallelism == spec.parallelism || (!owner.is_fence && owner.span.parallelism == spec.parallelism);
    let backend = &part.manifest.backend;
    is_alike
        && backend.subtask < spec.parallelism
        && *backend != spec.id
        && !part.span().key_groups.overlaps(key_groups)
}

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
        let to = (manifest.backend.subtask, manifest.shape.parallelism);
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
