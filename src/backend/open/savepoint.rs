//! Begins with a savepoint: rows in files, which have no owner and are never written again.
//!
//! Whatever the savepoint was made of, its rows become entries of the requested inner backend, as far as they belong to
//! its key groups. Operator state is redistributed as after a rescale. Like a [clone](super::clone), the owner serves
//! only once all of its state is in a materialization of its own. None of its manifests names the savepoint, which may
//! be removed from then on.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    super::{
        environment::Environment,
        states::{self, Adopted, States},
    },
    ClaimMode, LoadError, Loaded, OpenSpec, RestoredPart,
    admit::Admitted,
    claim::{self, Claim, Known, Plan},
    native,
    operator::{self, Shares, Sources},
};
use crate::{
    checkpoint::{
        chain::{self, ChainError, Head},
        manifest::{Attachment, Registration, Span},
    },
    error::{Error, Reason},
    object::{Path, Retry},
    restore::{Progress, block_memory},
    savepoint::{Entry, FileMeta, OperatorMeta, Place, Row, Savepoint, SavepointError, SavepointId, read_rows},
    state::{
        StateBackend as _, StateError,
        operator::{Contents, WithOperatorState, share, sources},
    },
    tasks,
    types::{BackendId, CheckpointId, CheckpointIdentity, KeyGroupRange, Limits, StateId, StateKind},
};

/// How often it begins again when others open the same backend.
const CLAIM_ATTEMPTS: usize = 16;

/// The state of an operator in a savepoint, and the ids that its states get here.
#[derive(Debug)]
pub(super) struct Source {
    id: SavepointId,
    operator: OperatorMeta,
    names: BTreeMap<String, StateId>,
}

/// Validates the request, and makes the manifest that opens the new epoch, which names nothing of the savepoint.
/// # Errors
/// [`Reason::CheckpointNotFound`] if there is no such savepoint, or it has no such operator.
pub(super) async fn claim(
    env: &Environment,
    admitted: &Admitted,
    (id, known): (&SavepointId, &mut Known),
    retry: Retry,
) -> Result<Claim, Error> {
    let spec = &admitted.spec;
    if spec.claim == Some(ClaimMode::Claim) {
        let text = format!("backend `{}`: a savepoint cannot be claimed: it stays until somebody removes it", spec.id);
        return Err(Error::new(Reason::InvalidArgument, text));
    }
    let metadata = match Savepoint::read(&env.store, id, retry).await.map_err(|error| unreadable(&spec.id, error))? {
        Savepoint::Rows(metadata) => metadata,
        Savepoint::Native(metadata) => {
            return Box::pin(native::claim(env, admitted, (id, &metadata, known), retry)).await;
        }
    };
    let Some(operator) = metadata.operators.get(spec.id.operator.as_str()) else {
        let names: Vec<&str> = metadata.operators.keys().map(String::as_str).collect();
        let (backend, folder, names) = (&spec.id, id.folder(), names.join(", "));
        let text = format!("backend `{backend}`: savepoint `{folder}` has no such operator; it has: {names}");
        return Err(Error::new(Reason::CheckpointNotFound, text));
    };
    for _ in 0..CLAIM_ATTEMPTS {
        let head = known.head(env, spec, retry).await?;
        if let Some(head) = &head {
            claim::refuse_outdated(spec, &head.manifest)?;
        }
        let (plan, names) = plan(env, spec, head.as_ref(), operator)?;
        let manifest = claim::derive(env, spec, head, &plan)?;
        let beside = admitted.still(env, &known.seen, retry);
        let (crc, still) = match chain::append_beside(&env.store, &manifest, retry, beside).await {
            Ok(appended) => appended,
            Err(ChainError::Fenced { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        let parts = parts(spec, id, (operator, metadata.checkpoint), plan.shape.key_groups);
        return Ok(Claim {
            reads: manifest.clone(),
            manifest,
            crc,
            still,
            bound: plan.states.bound,
            is_own: false,
            attachments: parts.iter().map(|part| Attachment::Here(part.attachment.clone())).collect(),
            parts,
            fenced: vec![],
            skipped: vec![],
            pins: vec![],
            operator: Sources::default(),
            savepoint: Some(Source { id: id.clone(), operator: operator.clone(), names }),
            native: None,
        });
    }
    Err(ChainError::Contended(spec.id.clone()).into())
}

/// Decides the contents of the manifest, and the ids that the states of the savepoint get here. Pure.
fn plan(
    env: &Environment,
    spec: &OpenSpec,
    head: Option<&Head>,
    operator: &OperatorMeta,
) -> Result<(Plan, BTreeMap<String, StateId>), Error> {
    let OperatorMeta { parallelism, max_parallelism, assignment, .. } = *operator;
    let all = KeyGroupRange::new(0, max_parallelism - 1).expect("it was checked");
    let known = Span { parallelism, max_parallelism, key_groups: all, assignment };
    let shape = claim::shape(env, spec, Some(&known))?;
    let plan = |states| Plan { shape, parts: vec![], is_own: true, is_clone: true, operator: vec![], states };
    let limits: &Limits = &env.options.limits;
    let descriptors = || operator.states.iter().map(|state| &state.descriptor);
    descriptors().try_for_each(|descriptor| states::check(descriptor, limits))?;
    // The states of a savepoint get ids as those of a backend without other states.
    let mut source = claim::derive(env, spec, None, &plan(Adopted::default()))?;
    let numbered = (1..).map(StateId).zip(descriptors());
    source.states = numbered.map(|(id, state)| (id, Registration::first(id, state.clone()))).collect();
    let mut record = source.beginning(0);
    record.states_to = u32::try_from(source.states.len()).unwrap_or(u32::MAX);
    let own = head.map(|head| head.manifest.states.clone()).unwrap_or_default();
    let adopted = states::adopt(own, &[(&source, &record)], &[], false)?;
    if adopted.known.len() > limits.max_states {
        let (backend, states, most) = (&spec.id, adopted.known.len(), limits.max_states);
        let text = format!("backend `{backend}` would have {states} states: a backend has at most {most}");
        return Err(Error::new(Reason::TooManyStates, text));
    }
    let ids = adopted.names.first().into_iter().flatten();
    let name = |(from, to): (&StateId, &StateId)| Some((source.states.get(from)?.descriptor.name.clone(), *to));
    let names = ids.filter_map(name).collect();
    Ok((plan(adopted), names))
}

/// The parts of the subtasks that had key groups of this backend.
fn parts(
    spec: &OpenSpec,
    id: &SavepointId,
    (operator, checkpoint): (&OperatorMeta, CheckpointId),
    key_groups: KeyGroupRange,
) -> Vec<RestoredPart> {
    let subtasks = (0..).zip(&operator.subtasks).filter(|(_, had)| had.key_groups().overlaps(key_groups));
    let part = |(subtask, had): (u32, &crate::savepoint::SubtaskMeta)| RestoredPart {
        backend: BackendId { job: id.job.clone(), operator: spec.id.operator.clone(), subtask },
        checkpoint: CheckpointIdentity { epoch: had.epoch, id: checkpoint, uuid: had.uuid() },
        key_groups: had.key_groups(),
        attachment: had.attachment.clone(),
        time: had.time_ms,
    };
    subtasks.map(part).collect()
}

/// An inner backend filled with the rows of `source` that belong to it.
pub(super) async fn load(
    env: &Environment,
    (claim, source): (&Claim, &Source),
    states: States,
    progress: &mut (impl FnMut(Progress) + Send),
) -> Result<Loaded, LoadError> {
    let mut contents = super::restore(env, claim, &states, (&env.store, None), |_| {}).await?;
    let to = (claim.manifest.backend.subtask, claim.manifest.shape.parallelism);
    let key_groups = claim.manifest.shape.key_groups;
    let mut loading = Loading { source, key_groups, operator: BTreeMap::new(), fault: None };
    let files = source.operator.files.iter().filter(|file| loading.needs(file, to));
    let files: Vec<&FileMeta> = files.collect();
    let done = &mut contents.restored.progress;
    done.bytes_total = files.iter().map(|file| file.bytes).sum();
    let retry = Retry::forever().at_most(super::RESTORE_READ_ATTEMPTS);
    let refused = |error| LoadError::Refused(unreadable(&claim.manifest.backend, error));
    let faulty = |fault: &StateError| {
        LoadError::Refused(Error::new(super::super::error::local(fault), super::super::error::inner(fault)))
    };
    for file in files {
        let at = (&source.id, &claim.manifest.backend.operator);
        let (path, bytes) = OperatorMeta::read_file(&env.store, at, file, retry).await.map_err(refused)?;
        let inner = &mut contents.inner;
        let most = block_memory(env.options.state_memory);
        let rows = tasks::blocking_if(inner.may_block(), || loading.file(inner, (&path, &bytes), file, most));
        if let Some(fault) = loading.fault.take() {
            return Err(faulty(&fault));
        }
        done.changes += rows.map_err(refused)?;
        done.bytes_done += file.bytes;
        progress(*done);
        tokio::task::yield_now().await;
    }
    let shares = loading.shares(to);
    let shares = operator::changed(&contents.inner, shares, &states).map_err(|fault| faulty(&fault))?;
    let super::Contents { inner, restored, .. } = contents;
    let on_disk = claim.manifest.shape.inner == crate::types::InnerBackend::RocksDb;
    let images = (on_disk && env.options.warm).then(Default::default);
    let parts = claim.parts.clone();
    Ok(Loaded { inner, states, parts, restored, previous: None, images, shares, warm: None, not_warm: String::new() })
}

/// Rows that are being loaded into a backend.
struct Loading<'a> {
    source: &'a Source,
    key_groups: KeyGroupRange,
    /// Operator state by state, then by the subtask that had it.
    operator: BTreeMap<StateId, BTreeMap<u32, Contents>>,
    /// An error of the inner backend, as opposed to one of the savepoint.
    fault: Option<StateError>,
}

impl Loading<'_> {
    /// Whether a file has rows for subtask `to.0` of `to.1`.
    fn needs(&self, file: &FileMeta, to: (u32, u32)) -> bool {
        let operator = &self.source.operator;
        match (file.key_groups(), file.subtask) {
            (Some(key_groups), _) => key_groups.overlaps(self.key_groups),
            (None, Some(subtask)) => {
                let redistributions = operator.states.iter().filter_map(|state| state.descriptor.redistribution);
                redistributions.into_iter().any(|one| sources(one, operator.parallelism, to).contains(&subtask))
            }
            (None, None) => false,
        }
    }

    /// Loads one file; returns how many rows it had.
    fn file(
        &mut self,
        inner: &mut WithOperatorState,
        (path, bytes): (&Path, &Bytes),
        file: &FileMeta,
        max_bytes: u64,
    ) -> Result<u64, SavepointError> {
        let rows = read_rows(path, bytes, max_bytes, |row| self.row(inner, row))?;
        if rows != file.rows {
            let what = format!("it has {rows} rows, {} recorded", file.rows);
            return Err(SavepointError::damaged(path, None, what));
        }
        self.fault = inner.finish_batch().err();
        Ok(rows)
    }

    fn row(&mut self, inner: &mut WithOperatorState, row: &Row<'_>) -> Result<(), String> {
        let (Some(state), Some(id)) = (self.source.operator.state(row.state), self.source.names.get(row.state)) else {
            return Err(format!("the metadata has no state `{}`", row.state));
        };
        row.check(state)?;
        match row.place {
            Place::KeyGroup(key_group) if !self.key_groups.contains(key_group) => Ok(()),
            Place::KeyGroup(_) => row.change(*id, |change| inner.apply(change)).map_err(|error| {
                let what = error.to_string();
                self.fault = Some(error).filter(|error| !error.is_damage());
                what
            }),
            Place::Subtask(subtask) => self.of_subtask(*id, subtask, row),
        }
    }

    fn of_subtask(&mut self, id: StateId, subtask: u32, row: &Row<'_>) -> Result<(), String> {
        let copied = Bytes::copy_from_slice;
        let empty = || match row.entry.kind() {
            StateKind::Map => Contents::Entries(vec![]),
            _ => Contents::Elements(vec![]),
        };
        let had = self.operator.entry(id).or_default().entry(subtask).or_insert_with(empty);
        match (row.entry, had) {
            (Entry::Element(index, value), Contents::Elements(elements)) if index == elements.len() as u64 => {
                elements.push(copied(value));
                Ok(())
            }
            (Entry::Map(key, value), Contents::Entries(entries)) => {
                entries.push((copied(key), copied(value)));
                Ok(())
            }
            _ => Err(format!("an element of `{}` that does not follow the one before", row.state)),
        }
    }

    /// The share of the operator state of subtask `to.0` of `to.1`.
    fn shares(self, to: (u32, u32)) -> Shares {
        let parallelism = self.source.operator.parallelism;
        let share_of = |(id, mut had): (StateId, BTreeMap<u32, Contents>)| {
            had.values_mut().for_each(|contents| {
                if let Contents::Entries(entries) = contents {
                    entries.sort();
                }
            });
            let name = self.source.names.iter().find(|(_, other)| **other == id)?.0;
            let redistribution = self.source.operator.state(name)?.redistribution?;
            Some((id, share(redistribution, &had, parallelism, to)))
        };
        self.operator.into_iter().filter_map(share_of).collect()
    }
}

fn unreadable(backend: &BackendId, error: SavepointError) -> Error {
    let reason = match error {
        SavepointError::NotFound(_) => Reason::CheckpointNotFound,
        SavepointError::Damaged { .. } => Reason::CorruptObject,
        SavepointError::Missing(_) => Reason::MissingObject,
        SavepointError::Store(source) => return source.into(),
    };
    Error::new(reason, format!("backend `{backend}`: {error}"))
}
