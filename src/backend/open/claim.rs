//! Claims a backend: makes the manifest that opens the next epoch, and fences other chains that are read.
//!
//! ```text
//!   heads ──▶ parts of the checkpoint ──▶ validate ──▶ fence the other chains ──▶ own manifest: imports
//!     ▲                                                                              │
//!     └──────── an import's checkpoint was let go meanwhile ◀── heads again ◀────────┘
//! ```
//!
//! An older owner that publishes all the time moves the chain on while its successor reads and chooses. When the
//! successor meets that, it adds a fence first, which takes one read and one request, and chooses again behind the
//! fence.
//!
//! A source may drop objects from its head, and a sweep may delete them, before this backend's manifest names them. So
//! the sources are read again *after* that manifest is durable. If a source still retains the checkpoint, every sweep
//! that begins after the source lets it go sees the import (see [`crate::checkpoint::collect`]). If not, the import is
//! worth nothing, and the claim begins again. The manifest itself is the pin.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{
    super::{environment::Environment, states},
    OpenSpec, RestoreFrom, RestoredPart,
    admit::Admitted,
    choice::{self, Chosen, Part, same_operator},
    clone,
    operator::{self, Sources},
    savepoint,
};
use crate::{
    checkpoint::{
        chain::{self, ChainError, Head},
        generation,
        index::Bounds,
        job::{self, Seen, Spoilt},
        manifest::{Attachment, CheckpointRecord, Contents, EpochRecord, Fences, Import, Manifest, Shape, Span},
        pages,
        pin::Held,
    },
    error::{Error, Reason},
    object::{Retry, Store},
    types::{
        BackendId, CheckpointIdentity, Epoch, KeyGroupAssignment, KeyGroupRange, Sqn, StateId, default_max_parallelism,
    },
};

/// How often the first manifest is derived again when others open the same backend.
const CLAIM_ATTEMPTS: usize = 16;

/// How often it tries to fence a faster owner before it derives its first manifest again.
const FENCE_ATTEMPTS: usize = 16;

/// A claimed backend.
#[derive(Debug)]
pub(super) struct Claim {
    /// The manifest that opened the epoch.
    pub(super) manifest: Manifest,
    /// The checksum of that manifest.
    pub(super) crc: u32,
    /// Whether the opener may still begin, checked after that manifest was durable.
    pub(super) still: Result<(), Error>,
    /// The states that are in force.
    pub(super) bound: BTreeSet<StateId>,
    /// Whether the state comes from the backend's own chain, with exactly its key groups.
    pub(super) is_own: bool,
    /// The parts of the checkpoint that it begins with; empty for the empty state.
    pub(super) parts: Vec<RestoredPart>,
    /// The places of the attachments of `parts`, which have none yet.
    pub(super) attachments: Vec<Attachment>,
    /// Other chains whose owners were fenced, with the epochs that fenced them.
    pub(super) fenced: Vec<(BackendId, Epoch)>,
    /// Newer checkpoints that were skipped because they are damaged.
    pub(super) skipped: Vec<Spoilt>,
    /// The manifest to restore from. Unlike `manifest` it names everything that is read, and none of it was moved into
    /// pages.
    pub(super) reads: Manifest,
    /// Pins that protect the objects to read.
    pub(super) pins: Vec<Held>,
    /// The operator state of which it gets a share.
    pub(super) operator: Sources,
    /// The savepoint that it begins with, instead of a checkpoint.
    pub(super) savepoint: Option<savepoint::Source>,
    /// The folder of the native savepoint that has the objects to read.
    pub(super) native: Option<Store>,
}

/// Objects that were read before a claim, so that it need not read them again.
#[derive(Debug)]
pub(super) struct Known {
    /// The head of the backend's own chain. The first try takes it; later tries read it again.
    head: Option<Option<Head>>,
    /// The newest record of the job.
    pub(super) seen: Seen,
}

impl Known {
    pub(super) fn new(head: Option<Head>, seen: Seen) -> Self {
        Self { head: Some(head), seen }
    }

    /// The head of the backend's own chain.
    pub(super) async fn head(
        &mut self,
        env: &Environment,
        spec: &OpenSpec,
        retry: Retry,
    ) -> Result<Option<Head>, ChainError> {
        match self.head.take() {
            Some(head) => Ok(head),
            None => {
                self.seen = Seen::NotYet;
                chain::read_head(&env.store, &spec.id, retry).await
            }
        }
    }
}

/// The validated contents of the manifest to come.
pub(super) struct Plan {
    pub(super) shape: Shape,
    /// The parts of the checkpoint to restore.
    pub(super) parts: Vec<Part>,
    /// Whether the one part is this backend's own, with the same key groups.
    pub(super) is_own: bool,
    /// Whether the manifest must not name the parts, because they are of another job or operator.
    pub(super) is_clone: bool,
    /// Parts of which only operator state is read.
    pub(super) operator: Vec<Part>,
    pub(super) states: states::Adopted,
}

/// Validates the request against the newest manifests, fences the other chains that are read, and makes the manifest
/// that opens the new epoch.
pub(super) async fn claim(
    env: &Environment,
    admitted: &Admitted,
    known: &mut Known,
    retry: Retry,
) -> Result<Claim, Error> {
    let spec = &admitted.spec;
    if let RestoreFrom::Savepoint(id) = &spec.restore {
        return Box::pin(savepoint::claim(env, admitted, (id, known), retry)).await;
    }
    if clone::is_clone(spec) {
        return Box::pin(clone::claim(env, admitted, known, retry)).await;
    }
    let (mut fenced, mut missed) = (vec![], None);
    for _ in 0..CLAIM_ATTEMPTS {
        let head = known.head(env, spec, retry).await?;
        if let Some(head) = &head {
            refuse_outdated(spec, &head.manifest)?;
        }
        let Chosen { parts: chosen, skipped } =
            match choice::choose(env, spec, (head.as_ref(), &mut known.seen), retry).await {
                Ok(chosen) => chosen,
                Err(error) if error.reason == Reason::CheckpointNotFound => {
                    // A running owner may have published the checkpoint after its head was read.
                    let now = Some(job::head_numbers(&env.store, &spec.id, retry).await?);
                    if missed == now {
                        return Err(error);
                    }
                    missed = now;
                    continue;
                }
                Err(error) => return Err(error),
            };
        // Order: 1. validate, before any chain is touched. 2. Fence the chains that are read, so that they do not
        // change any more. 3. Validate what they have now.
        plan(env, spec, head.as_ref(), chosen.clone())?;
        let Some(chosen) = fence_all(env, spec, chosen, (&mut fenced, retry)).await? else { continue };
        let plan = plan(env, spec, head.as_ref(), chosen.clone())?;
        let mut manifest = derive(env, spec, head, &plan)?;
        let reads = manifest.clone();
        settle(env, &mut manifest, retry).await?;
        let operator = operator_sources(env, &plan);
        // No epoch begins with these imports; they are named as long as this owner may read them.
        manifest.imports.extend(operator.imports.iter().cloned());
        // 4. The own manifest, which names the sources. 5. Only after it is durable is it certain that no sweep deletes
        //    them: if they still retain the checkpoint then.
        match chain::append_beside(&env.store, &manifest, retry, admitted.still(env, &known.seen, retry)).await {
            Ok((crc, still)) if are_retained(env, spec, &plan, retry).await? => {
                let listed = if spec.restore.handles().is_empty() { plan.parts } else { chosen };
                let (parts, attachments) = restored(&listed);
                let (bound, is_own) = (plan.states.bound, plan.is_own);
                let (pins, savepoint, native) = (vec![], None, None);
                return Ok(Claim {
                    manifest,
                    crc,
                    still,
                    bound,
                    is_own,
                    parts,
                    attachments,
                    fenced,
                    skipped,
                    reads,
                    pins,
                    operator,
                    savepoint,
                    native,
                });
            }
            Ok(_) => {}
            // The faster owner may be faster for ever, however low its attempt. So it is fenced first, and then there
            // is time to choose.
            Err(ChainError::Fenced { .. }) => fence_own(env, spec, retry).await?,
            Err(error) => return Err(error.into()),
        }
    }
    Err(ChainError::Contended(spec.id.clone()).into())
}

/// Makes sure that no owner before this attempt can write to the backend's own chain.
async fn fence_own(env: &Environment, spec: &OpenSpec, retry: Retry) -> Result<(), Error> {
    for _ in 0..FENCE_ATTEMPTS {
        let Some(head) = chain::read_head(&env.store, &spec.id, retry).await? else { return Ok(()) };
        refuse_outdated(spec, &head.manifest)?;
        if head.manifest.owner().attempt == spec.attempt {
            return Ok(());
        }
        let attempt = spec.attempt.max(head.manifest.owner().attempt);
        let fence = generation::fence(&head, attempt, &spec.peers, env.random.uuid());
        match chain::append(&env.store, &fence.ok_or_else(|| too_many_epochs(&spec.id))?, retry).await {
            Ok(_) => {
                tracing::info!(backend = %spec.id, attempt = spec.attempt, "fenced its owner, who kept writing");
                return Ok(());
            }
            Err(ChainError::Fenced { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn states_of(parts: &[Part]) -> Vec<(&Manifest, &CheckpointRecord)> {
    parts.iter().map(|part| (&part.manifest, &part.record)).collect()
}

/// The public form of `parts` without attachments, and the places of the attachments.
pub(super) fn restored(parts: &[Part]) -> (Vec<RestoredPart>, Vec<Attachment>) {
    parts.iter().map(|part| (restored_part(part), part.record.attachment.clone())).unzip()
}

fn restored_part(part: &Part) -> RestoredPart {
    RestoredPart {
        backend: part.manifest.backend.clone(),
        checkpoint: part.record.identity,
        key_groups: part.span().key_groups,
        attachment: Bytes::new(),
        time: part.record.time,
    }
}

/// Refuses an attempt that the newest owner of a chain outdates. A peer outdates it only in the chain that it serves
/// itself.
pub(super) fn refuse_outdated(spec: &OpenSpec, head: &Manifest) -> Result<(), Error> {
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

/// Decides the contents of the manifest to come. Pure.
pub(super) fn plan(
    env: &Environment,
    spec: &OpenSpec,
    head: Option<&Head>,
    mut parts: Vec<Part>,
) -> Result<Plan, Error> {
    let is_clone = clone::is_clone(spec);
    let known = parts.first().map(Part::span);
    let shape = shape(env, spec, known.as_ref())?;
    let goes_on = |part: &Part| is_clone || operator::is_of_sibling(spec, part, shape.key_groups);
    for part in parts.iter().filter(|part| !goes_on(part)) {
        refuse_outdated(spec, &part.manifest)?;
    }
    let fixed = |span: Span| (span.max_parallelism, span.assignment);
    if let Some(other) = parts.iter().find(|part| known.is_some_and(|known| fixed(part.span()) != fixed(known))) {
        let text = format!(
            "backend `{}`: `{}` has another max parallelism or key-group assignment than the other parts of its checkpoint",
            spec.id, other.manifest.backend
        );
        return Err(Error::new(Reason::BackendMismatch, text));
    }
    let is_empty = parts.is_empty();
    let wanted = operator::wanted(spec, &parts);
    let mut operator: Vec<Part> =
        parts.iter().filter(|part| wanted.contains(&part.manifest.backend.subtask)).cloned().collect();
    parts.retain(|part| part.span().key_groups.overlaps(shape.key_groups));
    assert_eq!(parts.is_empty(), is_empty, "the parts of a checkpoint have the key groups, or there are none");
    let is_own = match parts.as_slice() {
        [] => true,
        // A clone names nothing of its source, even if that is its own chain.
        [part] => !is_clone && part.manifest.backend == spec.id && part.span().key_groups == shape.key_groups,
        _ => false,
    };
    if is_own && parts.first().is_some_and(|part| !is_shared_out(spec, part)) {
        operator.clear();
    }
    let own = head.map(|head| &head.manifest.states);
    let states = states::adopt(own.cloned().unwrap_or_default(), &states_of(&parts), &states_of(&operator), is_own)?;
    if states.known.len() > env.options.limits.max_states {
        let text = format!(
            "backend `{}` would have {} states: a backend has at most {}",
            spec.id,
            states.known.len(),
            env.options.limits.max_states
        );
        return Err(Error::new(Reason::TooManyStates, text));
    }
    Ok(Plan { shape, parts, is_own, is_clone, operator, states })
}

/// Whether a backend that goes on with `part` shares its operator state with others. Pure.
fn is_shared_out(spec: &OpenSpec, part: &Part) -> bool {
    part.span().parallelism != spec.parallelism || operator::needs_siblings(part)
}

/// Fences the chains of `parts`, except the backend's own and those of siblings that go on. Returns the parts as the
/// chains have them then; `None` if a chain has let go of the checkpoint.
async fn fence_all(
    env: &Environment,
    spec: &OpenSpec,
    parts: Vec<Part>,
    (fenced, retry): (&mut Vec<(BackendId, Epoch)>, Retry),
) -> Result<Option<Vec<Part>>, Error> {
    let mut current = vec![];
    let known = parts.first().map(Part::span);
    let key_groups = shape(env, spec, known.as_ref())?.key_groups;
    for part in parts {
        if part.manifest.backend == spec.id || operator::is_of_sibling(spec, &part, key_groups) {
            current.push(part);
            continue;
        }
        let manifest = fence(env, spec, &part, (fenced, retry)).await?;
        let Some(record) = manifest.checkpoints.iter().find(|record| record.identity == part.record.identity) else {
            return Ok(None);
        };
        current.push(Part { record: record.clone(), manifest });
    }
    Ok(Some(current))
}

/// Makes sure that no owner before this start can write to the chain of `part`, and that the part is marked there as
/// claimed, or as not to be claimed. Returns the chain's head.
async fn fence(
    env: &Environment,
    spec: &OpenSpec,
    part: &Part,
    (fenced, retry): (&mut Vec<(BackendId, Epoch)>, Retry),
) -> Result<Manifest, Error> {
    let backend = &part.manifest.backend;
    let is_part = |record: &CheckpointRecord| record.identity == part.record.identity;
    for _ in 0..CLAIM_ATTEMPTS {
        let Some(head) = chain::read_head(&env.store, backend, retry).await? else { break };
        refuse_outdated(spec, &head.manifest)?;
        let owner = head.manifest.owner();
        // An owner of another generation under the same attempt belongs to the old one: its subtasks never open again.
        let is_of_this_start = spec.is_peer(owner);
        let is_marked = |r: &CheckpointRecord| !is_part(r) || spec.has_marked(env, r);
        // An owner that serves has marked the part in its chain itself, whether or not it restores that part.
        let is_fenced = (owner.is_fence && head.manifest.checkpoints.iter().all(is_marked))
            || (!owner.is_fence && owner.span.parallelism == spec.parallelism);
        if is_of_this_start && is_fenced {
            return Ok(head.manifest);
        }
        // After a peer's fence, the higher of the two attempts must still outdate others.
        let attempt = spec.attempt.max(owner.attempt);
        let Some(mut manifest) = generation::fence(&head, attempt, &spec.peers, env.random.uuid()) else {
            return Err(too_many_epochs(backend));
        };
        for record in manifest.checkpoints.iter_mut().filter(|record| is_part(record)) {
            spec.mark(env, record);
        }
        match chain::append(&env.store, &manifest, retry).await {
            Ok(_) => {
                tracing::info!(%backend, by = %spec.id, attempt = spec.attempt, "fenced to restore from it");
                fenced.push((backend.clone(), manifest.owner().epoch));
                return Ok(manifest);
            }
            Err(ChainError::Fenced { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(ChainError::Contended(backend.clone()).into())
}

/// Whether the chains of all parts still retain the checkpoint.
pub(super) async fn are_retained(env: &Environment, spec: &OpenSpec, plan: &Plan, retry: Retry) -> Result<bool, Error> {
    let mut wanted: BTreeMap<&BackendId, Vec<CheckpointIdentity>> = BTreeMap::new();
    for part in plan.parts.iter().chain(&plan.operator).filter(|part| part.manifest.backend != spec.id) {
        wanted.entry(&part.manifest.backend).or_default().push(part.record.identity);
    }
    for (backend, wanted) in wanted {
        let head = chain::read_head(&env.store, backend, retry).await?;
        let retained = head.map_or_else(Vec::new, |head| head.manifest.checkpoints);
        if wanted.iter().any(|identity| retained.iter().all(|record| record.identity != *identity)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Derives the manifest that opens the next epoch.
pub(super) fn derive(env: &Environment, spec: &OpenSpec, head: Option<Head>, plan: &Plan) -> Result<Manifest, Error> {
    let number = head.as_ref().map_or(0, |head| head.manifest.owner().epoch.number) + 1;
    if number > Sqn::MAX_EPOCH {
        return Err(too_many_epochs(&spec.id));
    }
    let imports = if plan.is_clone { vec![] } else { imports(env, plan) };
    let contents = match (plan.is_own, plan.parts.first()) {
        (true, Some(part)) => part.manifest.contents(&part.record),
        _ => Contents { imports: imports.iter().map(|import| import.uuid).collect(), ..Contents::default() },
    };
    let shape = plan.shape;
    let record = EpochRecord {
        epoch: Epoch { number, owner: env.random.uuid() },
        attempt: spec.attempt,
        restored: plan.parts.first().filter(|_| !plan.is_clone).map(|part| (part.record.identity, part.record.attempt)),
        contents,
        span: shape.span(),
        peers: spec.peers.clone(),
        job_run: spec.job_run.clone(),
        is_fence: false,
        published_to: head.as_ref().and_then(|head| head.manifest.published_to(spec.attempt)).unwrap_or(Some(0)),
    };
    let mut manifest = match head {
        Some(Head { manifest, crc }) => Manifest { number: manifest.number + 1, previous_crc: crc, ..manifest },
        None => Manifest {
            number: 1,
            backend: spec.id.clone(),
            shape,
            epochs: vec![],
            states: BTreeMap::new(),
            runs: BTreeMap::new(),
            checkpoints: vec![],
            instance: env.instance,
            segment_low_water: 0,
            snapshot_low_water: 0,
            page_low_water: 0,
            materializations: vec![],
            imports: vec![],
            previous_crc: 0,
            opens_epoch: true,
            fences: Fences::default(),
        },
    };
    manifest.shape = shape;
    manifest.epochs.push(record);
    manifest.states = plan.states.known.clone();
    manifest.imports.extend(imports);
    manifest.instance = env.instance;
    manifest.segment_low_water = 0;
    manifest.snapshot_low_water = 0;
    manifest.page_low_water = 0;
    manifest.opens_epoch = true;
    manifest.fences.open(manifest.number);
    // The engine restores only completed checkpoints, even if the notice was lost. This also holds for a part in the
    // backend's own chain that this subtask does not read.
    let is_savepoint = matches!(spec.restore, RestoreFrom::Savepoint(_));
    let is_sibling = |part: &&Part| !is_savepoint && same_operator(&part.manifest.backend, &spec.id);
    let siblings: Vec<_> = plan.parts.iter().filter(is_sibling).collect();
    let is_restored = |record: &&CheckpointRecord| {
        siblings.iter().any(|part| generation::is_same(&part.manifest, &part.record, &manifest, record))
    };
    let restored: Vec<_> = manifest.checkpoints.iter().filter(is_restored).map(|record| record.identity).collect();
    for record in manifest.checkpoints.iter_mut().filter(|record| restored.contains(&record.identity)) {
        record.completed = true;
        spec.mark(env, record);
    }
    manifest.prune(&[]);
    Ok(manifest)
}

/// Moves most of the restored log index into pages, so that the manifests of the epoch do not repeat it.
pub(super) async fn settle(env: &Environment, manifest: &mut Manifest, retry: Retry) -> Result<(), Error> {
    let pages = manifest.settle(&Bounds::SETTLED, || env.random.uuid());
    let imported = manifest.imports.iter().map(|import| &import.origin);
    let origins: BTreeSet<&BackendId> = imported.chain([&manifest.backend]).collect();
    let origins: Vec<BackendId> = origins.into_iter().cloned().collect();
    Ok(pages::write(&env.store, &origins, pages, retry).await?)
}

/// The parts that the epoch begins with, unless they are the own chain's as they were.
pub(super) fn imports(env: &Environment, plan: &Plan) -> Vec<Import> {
    if plan.is_own {
        return vec![];
    }
    let export = |(part, names): (&Part, _)| {
        part.manifest.export(&part.record, plan.shape.key_groups, names, || env.random.uuid())
    };
    plan.parts.iter().zip(&plan.states.names).flat_map(export).collect()
}

/// The operator state that the plan reads separately.
pub(super) fn operator_sources(env: &Environment, plan: &Plan) -> Sources {
    let export = |(part, names): (&Part, _)| {
        part.manifest.export(&part.record, KeyGroupRange::OPERATOR, names, || env.random.uuid())
    };
    Sources {
        imports: plan.operator.iter().zip(&plan.states.operator_names).flat_map(export).collect(),
        parallelism: plan.operator.first().map_or(0, |part| part.span().parallelism),
        only_union: plan.is_own
            && plan.operator.first().is_some_and(|part| part.span().parallelism == plan.shape.parallelism),
    }
}

/// The shape of the backend, from the request and the existing state, whose facts take precedence.
pub(super) fn shape(env: &Environment, spec: &OpenSpec, known: Option<&Span>) -> Result<Shape, Error> {
    let mismatch = |text: String| Error::new(Reason::BackendMismatch, format!("backend `{}`: {text}", spec.id));
    let max_parallelism = match (spec.max_parallelism, known) {
        (Some(wanted), Some(known)) if wanted != known.max_parallelism => {
            return Err(mismatch(format!(
                "max parallelism {wanted} was asked for, the state has {}, fixed for its life; ask for that, or 0",
                known.max_parallelism
            )));
        }
        (Some(wanted), _) => wanted,
        (None, Some(known)) => known.max_parallelism,
        (None, None) => default_max_parallelism(spec.parallelism),
    };
    let computed = KeyGroupRange::of_subtask(spec.id.subtask, spec.parallelism, max_parallelism);
    let computed = computed.map_err(|error| Error::new(Reason::InvalidArgument, error.to_string()))?;
    let key_groups = spec.key_groups.unwrap_or(computed);
    if u32::from(key_groups.last().0) >= max_parallelism {
        let text = format!("key groups {key_groups} reach beyond max parallelism {max_parallelism}");
        return Err(Error::new(Reason::InvalidArgument, text));
    }
    let assignment = match (spec.assignment, known) {
        (Some(wanted), Some(known)) if wanted != known.assignment => {
            return Err(mismatch(format!(
                "key-group assignment {wanted:?} was asked for, the state has {:?}, fixed for its life",
                known.assignment
            )));
        }
        (Some(wanted), _) => wanted,
        (None, known) => known.map_or(KeyGroupAssignment::Hashed, |known| known.assignment),
    };
    let inner = spec.inner.unwrap_or(env.options.inner);
    let changelog = spec.changelog.unwrap_or(env.options.changelog);
    Ok(Shape { parallelism: spec.parallelism, max_parallelism, key_groups, assignment, inner, changelog })
}

fn too_many_epochs(backend: &BackendId) -> Error {
    let text = format!("backend `{backend}` was opened {} times, the most there may be", Sqn::MAX_EPOCH);
    Error::new(Reason::LimitExceeded, text)
}
