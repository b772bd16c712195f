//! The plan of a claim: the contents of the manifest that opens the next epoch. Pure, except that its log index is
//! moved into pages.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    choice::Chosen,
    claiming::Claiming,
    part::Part,
    redistribution::{self, Sources},
    refusal::{refuse_outdated, too_many_epochs},
    spec::{OpenSpec, RestoreFrom, same_operator},
    states,
};
use crate::{
    checkpoint::{
        chain::Head,
        generation,
        index::Bounds,
        manifest::{CheckpointRecord, Contents, EpochRecord, Fences, Import, Manifest, Shape, Span},
        pages,
    },
    error::{Error, Reason},
    object::Retry,
    types::{BackendId, Epoch, KeyGroupRange, Sqn},
};

/// The validated contents of the manifest to come.
pub(crate) struct Plan {
    pub(crate) shape: Shape,
    /// The parts of the checkpoint to restore.
    pub(crate) parts: Vec<Part>,
    /// Whether the one part is this backend's own, with the same key groups.
    pub(crate) is_own: bool,
    /// Whether the manifest must not name the parts, because they are of another job or operator.
    pub(crate) is_clone: bool,
    /// Parts of which only operator state is read.
    pub(crate) operator: Vec<Part>,
    pub(crate) states: states::Adopted,
}

/// Decides the contents of the manifest to come after `head`, to begin with the checkpoint `chosen`. Pure.
pub(crate) fn plan(by: &Claiming, spec: &OpenSpec, head: Option<&Head>, chosen: &Chosen) -> Result<Plan, Error> {
    let (mut parts, shape) = (chosen.parts.clone(), chosen.shape);
    let is_clone = spec.is_clone();
    let known = parts.first().map(Part::span);
    // A clone, or a sibling that goes on, is read without a fence. Its chain may have a newer owner.
    let goes_on = |part: &Part| is_clone || redistribution::is_of_sibling(spec, part, shape.key_groups);
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
    let wanted = redistribution::wanted(spec, &parts);
    let mut operator: Vec<Part> =
        parts.iter().filter(|part| wanted.contains(&part.manifest.backend.subtask)).cloned().collect();
    // Ordering: operator state is taken from all parts before those without own key groups are left out.
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
    if states.known.len() > by.limits.max_states {
        let text = format!(
            "backend `{}` would have {} states: a backend has at most {}",
            spec.id,
            states.known.len(),
            by.limits.max_states
        );
        return Err(Error::new(Reason::TooManyStates, text));
    }
    Ok(Plan { shape, parts, is_own, is_clone, operator, states })
}

/// Whether a backend that goes on with `part` shares its operator state with others. Pure.
fn is_shared_out(spec: &OpenSpec, part: &Part) -> bool {
    part.span().parallelism != spec.parallelism || redistribution::needs_siblings(part)
}

fn states_of(parts: &[Part]) -> Vec<(&Manifest, &CheckpointRecord)> {
    parts.iter().map(|part| (&part.manifest, &part.record)).collect()
}

/// Derives the manifest that opens the next epoch.
pub(crate) fn derive(by: &Claiming, spec: &OpenSpec, head: Option<Head>, plan: &Plan) -> Result<Manifest, Error> {
    let number = head.as_ref().map_or(0, |head| head.manifest.owner().epoch.number) + 1;
    if number > Sqn::MAX_EPOCH {
        return Err(too_many_epochs(&spec.id));
    }
    let imports = if plan.is_clone { vec![] } else { imports(by, plan) };
    let contents = match (plan.is_own, plan.parts.first()) {
        (true, Some(part)) => part.manifest.contents(&part.record),
        _ => Contents { imports: imports.iter().map(|import| import.uuid).collect(), ..Contents::default() },
    };
    let shape = plan.shape;
    let record = EpochRecord {
        epoch: Epoch { number, owner: by.random.uuid() },
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
            instance: by.instance,
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
    manifest.instance = by.instance;
    // Low waters are promises of one owner about its own names, and this one has made none yet.
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
        spec.mark(by, record);
    }
    // Last: the objects that are dropped depend on the records, marks and imports above.
    manifest.prune(&[]);
    Ok(manifest)
}

/// Moves most of the restored log index into pages, so that the manifests of the epoch do not repeat it.
pub(crate) async fn settle(by: &Claiming, manifest: &mut Manifest, retry: Retry) -> Result<(), Error> {
    let pages = manifest.settle(&Bounds::SETTLED, || by.random.uuid());
    let imported = manifest.imports.iter().map(|import| &import.origin);
    let origins: BTreeSet<&BackendId> = imported.chain([&manifest.backend]).collect();
    let origins: Vec<BackendId> = origins.into_iter().cloned().collect();
    Ok(pages::write(&by.store, &origins, pages, retry).await?)
}

/// The parts that the epoch begins with, unless they are the own chain's as they were.
pub(crate) fn imports(by: &Claiming, plan: &Plan) -> Vec<Import> {
    if plan.is_own {
        return vec![];
    }
    let export = |(part, names): (&Part, _)| {
        part.manifest.export(&part.record, plan.shape.key_groups, names, || by.random.uuid())
    };
    plan.parts.iter().zip(&plan.states.names).flat_map(export).collect()
}

/// The operator state that the plan reads separately.
pub(crate) fn operator_sources(by: &Claiming, plan: &Plan) -> Sources {
    let export = |(part, names): (&Part, _)| {
        part.manifest.export(&part.record, KeyGroupRange::OPERATOR, names, || by.random.uuid())
    };
    Sources {
        imports: plan.operator.iter().zip(&plan.states.operator_names).flat_map(export).collect(),
        parallelism: plan.operator.first().map_or(0, |part| part.span().parallelism),
        only_union: plan.is_own
            && plan.operator.first().is_some_and(|part| part.span().parallelism == plan.shape.parallelism),
    }
}
