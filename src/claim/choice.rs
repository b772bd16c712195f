//! Chooses the checkpoint that a backend begins with, and finds its parts in their chains.
//!
//! The generation that made the checkpoint may have had another parallelism. Then the wanted key groups may be spread
//! over the parts of several subtasks, or be a part of one subtask's larger range.

use std::collections::BTreeSet;

use tokio::sync::OwnedMutexGuard;

use super::{
    claiming::Claiming,
    error::job_error,
    part::Part,
    redistribution,
    shape::shape,
    spec::{OpenSpec, RestoreFrom, same_operator},
};
use crate::{
    checkpoint::{
        chain::{self, Head},
        generation,
        handle::CheckpointHandle,
        job::{self, JobCheckpoint, JobError, Named, Records, Seen, Spoilt, Wish},
        manifest::{CheckpointRecord, Manifest, Shape},
    },
    error::{Error, Reason},
    object::Retry,
    types::{Attempt, BackendId, KeyGroupRange, Name},
};

/// A chosen checkpoint.
#[derive(Debug)]
pub(crate) struct Chosen {
    /// Its parts, by subtask.
    pub(crate) parts: Vec<Part>,
    /// The shape that the backend gets with them.
    pub(crate) shape: Shape,
    /// Newer checkpoints that are damaged.
    pub(crate) skipped: Vec<Spoilt>,
}

/// The job's decision.
enum Agreed {
    /// All subtasks of the attempt restore this checkpoint.
    On(JobCheckpoint),
    /// No such checkpoint is retained everywhere.
    Nothing,
    /// There is no decision, because the job's record is damaged.
    Unrecorded,
}

/// Chooses the checkpoint for one try of a claim.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chooser<'a> {
    /// The resources of the claim.
    pub(crate) by: &'a Claiming,
    /// The request of the opener.
    pub(crate) spec: &'a OpenSpec,
    /// The head of the backend's own chain.
    pub(crate) head: Option<&'a Head>,
    /// How each request to the store is retried.
    pub(crate) retry: Retry,
}

impl Chooser<'_> {
    /// Chooses the checkpoint to restore. Its parts have each key group of the backend exactly once; there are no parts
    /// to begin empty. Also returns the parts whose operator state is needed, those of subtasks that vanish, and all
    /// that were named by handles. `seen` is the newest record of the job as far as it is known.
    pub(crate) async fn choose(&self, seen: &mut Seen) -> Result<Chosen, Error> {
        let Self { by, spec, head, .. } = *self;
        let mut skipped = vec![];
        let mut parts = match &spec.restore {
            RestoreFrom::Empty | RestoreFrom::Savepoint(_) => vec![],
            RestoreFrom::Id(id) if spec.fallback => {
                let wish = Wish { not_after: Some(*id), fallback: true };
                self.of_job(wish, &mut skipped, seen).await?
            }
            RestoreFrom::Id(id) => match self.agreed(Named::Id(*id), seen).await? {
                Agreed::On(chosen) => self.parts_of(chosen).await?,
                Agreed::Nothing => return Err(self.lacking(*id).await),
                Agreed::Unrecorded => self.by_id(*id).await?,
            },
            RestoreFrom::Handles(handles) | RestoreFrom::Vouched(handles) => self.by_handles(handles).await?,
            RestoreFrom::Latest { .. } => {
                let wish = Wish { not_after: None, fallback: spec.fallback };
                self.of_job(wish, &mut skipped, seen).await?
            }
        };
        let shape = shape(by, spec, parts.first().map(Part::span).as_ref())?;
        if parts.is_empty() {
            return Ok(Chosen { parts, shape, skipped });
        }
        let key_groups = shape.key_groups;
        // Before parts are left out: if a needed part is missing, the others must not be taken for an empty state.
        check(spec, head, &parts, key_groups)?;
        if is_vouched(spec) {
            check_vouched(spec, &parts)?;
            if parts.iter().all(|part| !part.span().key_groups.overlaps(key_groups)) {
                return Ok(Chosen { parts: vec![], shape: self::shape(by, spec, None)?, skipped });
            }
        }
        // Operator state decides which further parts are needed. It is asked after the check of key groups: parts of an
        // incomplete checkpoint would tell too little.
        let by_handles = !spec.restore.handles().is_empty();
        let mut wanted = redistribution::wanted(spec, &parts);
        if matches!(spec.restore, RestoreFrom::Handles(_)) {
            wanted.extend(self.wanted_beyond(&parts).await?);
        }
        redistribution::check(spec, &parts, &wanted, by_handles)?;
        if matches!(spec.restore, RestoreFrom::Handles(_)) {
            // Ordering: the choice is recorded after the last check. A record binds all subtasks of the attempt, and a
            // refusal after it would leave them with a checkpoint that this one cannot restore.
            self.agree_on_handles(&parts, seen).await?;
        }
        // Parts that handles name all stay: the opener gets their attachments back, whether or not it reads their
        // state.
        if !by_handles {
            let is_needed = |part: &Part| {
                let subtask = part.manifest.backend.subtask;
                let vanishes = subtask >= spec.parallelism;
                part.span().key_groups.overlaps(key_groups) || vanishes || wanted.contains(&subtask)
            };
            parts.retain(is_needed);
        }
        Ok(Chosen { parts, shape, skipped })
    }

    /// Further subtasks whose operator state the backend needs, beyond those of the handles. In a generation with
    /// another parallelism, other subtasks may have registered states that those of the handles have not.
    async fn wanted_beyond(&self, given: &[Part]) -> Result<BTreeSet<u32>, Error> {
        let Self { by, spec, retry, .. } = *self;
        let Some(first) = given.first() else { return Ok(BTreeSet::new()) };
        let old = first.span().parallelism;
        if old == spec.parallelism || given.len() >= old as usize {
            return Ok(BTreeSet::new());
        }
        // Heads are read only if other subtasks of the old generation can matter.
        let of = &first.manifest.backend;
        let heads = if same_operator(of, &spec.id) {
            self.heads().await?
        } else {
            job::read_operator(&by.store, &of.job, &of.operator, retry).await?
        };
        Ok(redistribution::wanted(spec, &parts(&heads, &of.operator, JobCheckpoint::of(&first.record))))
    }

    /// Records, for the other subtasks of the attempt, the checkpoint that the handles name; only after everything that
    /// could be refused was checked.
    async fn agree_on_handles(&self, parts: &[Part], seen: &mut Seen) -> Result<(), Error> {
        let spec = self.spec;
        let first = parts.first().filter(|first| same_operator(&first.manifest.backend, &spec.id));
        // With `peers` the engine has chosen already, and the peers may not share an attempt under which the job could
        // record it.
        if let Some(first) = first.filter(|_| spec.peers.is_empty()) {
            self.agreed(Named::Exactly(JobCheckpoint::of(&first.record)), seen).await?;
        }
        Ok(())
    }

    /// Decides with the job which checkpoint all subtasks of the attempt restore, if one of them names it so.
    async fn agreed(&self, named: Named, seen: &mut Seen) -> Result<Agreed, Error> {
        let Self { by, spec, retry, .. } = *self;
        let turn = self.turn(seen).await;
        let agreed = job::agree(&mut Records { store: &by.store, seen, retry }, spec.opener(), named).await;
        // Handed on even after an error: a record that was read stays read.
        hand_on(turn, seen);
        match agreed {
            Ok(Some(chosen)) => Ok(Agreed::On(chosen)),
            Ok(None) => Ok(Agreed::Nothing),
            // A request that names its checkpoint does not need the record.
            Err(error @ JobError::Corrupt { .. }) => {
                tracing::warn!(backend = %spec.id, %error, "opening without recording for the other subtasks what is restored");
                Ok(Agreed::Unrecorded)
            }
            Err(error) => Err(job_error(error)),
        }
    }

    /// The error for a checkpoint `id` that cannot be found.
    async fn lacking(&self, id: u64) -> Error {
        // The checkpoint may have been published since.
        let found = self.by_id(id).await;
        found.err().unwrap_or_else(|| not_found(self.spec, self.head, &id.to_string()))
    }

    /// The parts of checkpoint `id`, of the newest attempt in which the operator has it completely; otherwise of the
    /// newest that has all key groups.
    async fn by_id(&self, id: u64) -> Result<Vec<Part>, Error> {
        let Self { by, spec, head, .. } = *self;
        let heads = self.heads().await?;
        let records = heads.iter().flat_map(|head| &head.checkpoints);
        let attempts: BTreeSet<Attempt> = records.filter(|r| r.identity.id == id).map(|r| r.attempt).collect();
        let operator = &spec.id.operator;
        let is_whole = |attempt: &Attempt| {
            generation::is_whole(&generation::parts(&heads, operator, JobCheckpoint { attempt: *attempt, id }))
        };
        // The newest attempt first, but whole ones before those of which a subtask lacks its part.
        let (whole, partial): (Vec<Attempt>, Vec<Attempt>) = attempts.into_iter().rev().partition(is_whole);
        let mut lacking = None;
        for attempt in whole.into_iter().chain(partial) {
            let parts = parts(&heads, &spec.id.operator, JobCheckpoint { attempt, id });
            let span = parts.first().map(Part::span);
            let missing = shape(by, spec, span.as_ref())?.key_groups.without(spans(&parts));
            if missing.is_empty() {
                return Ok(parts);
            }
            lacking.get_or_insert((attempt, missing));
        }
        Err(match lacking {
            Some((attempt, missing)) => {
                let text = format!(
                    "backend `{}`: of checkpoint {id} of attempt {attempt}, no subtask retains key groups {}; retained are: {}",
                    spec.id,
                    list(&missing),
                    retained(head)
                );
                Error::new(Reason::CheckpointNotFound, text)
            }
            None => not_found(spec, head, &id.to_string()),
        })
    }

    /// The parts that the handles name.
    async fn by_handles(&self, handles: &[CheckpointHandle]) -> Result<Vec<Part>, Error> {
        let Self { by, spec, head, retry } = *self;
        let invalid = |text: String| Error::new(Reason::InvalidArgument, format!("backend `{}`: {text}", spec.id));
        let mut parts: Vec<Part> = vec![];
        for handle in handles {
            let of = &handle.backend;
            if let Some(first) = handles.first().filter(|first| !is_vouched(spec) && !same_operator(&first.backend, of))
            {
                return Err(invalid(format!("the handles are of different operators: `{}` and `{of}`", first.backend)));
            }
            let of_chain = || parts.iter().filter(|part| part.manifest.backend == *of);
            // A handle that is given twice names one part.
            if of_chain().any(|part| part.record.identity == handle.checkpoint) {
                continue;
            }
            if let Some(other) = of_chain().next().filter(|_| !is_vouched(spec)) {
                let (one, two) = (other.record.identity, handle.checkpoint);
                return Err(invalid(format!("two handles are of `{of}`: {one} and {two}; give one")));
            }
            // The own head was read already. Reading it again could return a newer one, from which the next manifest
            // would not be derived.
            let read = if *of == spec.id { None } else { chain::read_head(&by.store, of, retry).await? };
            let head = if *of == spec.id { head } else { read.as_ref() };
            let same = |record: &&CheckpointRecord| record.identity == handle.checkpoint;
            let Some((head, record)) = head.and_then(|head| Some((head, head.manifest.checkpoints.iter().find(same)?)))
            else {
                return Err(not_found_in(of, head, &handle.checkpoint.to_string()));
            };
            let part = Part { manifest: head.manifest.clone(), record: record.clone() };
            let is_other = |first: &&Part| JobCheckpoint::of(&first.record) != JobCheckpoint::of(record);
            if let Some(first) = parts.first().filter(|first| !is_vouched(spec) && is_other(first)) {
                let name = |record: &CheckpointRecord| format!("{} of attempt {}", record.identity.id, record.attempt);
                return Err(invalid(format!(
                    "the handles are of different checkpoints: `{}` of {}, `{of}` of {}; give those of one",
                    first.manifest.backend,
                    name(&first.record),
                    name(record)
                )));
            }
            parts.push(part);
        }
        parts.sort_by_key(|part| part.manifest.backend.subtask);
        Ok(parts)
    }

    /// Waits for its turn on this daemon to decide which checkpoint the attempt begins with; `None` if `seen` names it
    /// already. A subtask that waited takes over the record that the previous turn has read.
    async fn turn(&self, seen: &mut Seen) -> Option<OwnedMutexGuard<Seen>> {
        if seen.decides(self.spec.attempt) {
            return None;
        }
        // One subtask of a job at a time. The first one reads the job and decides, and the others take both over from
        // it. If all read the job at once, a start would cost the square of the number of subtasks.
        let turn = self.by.decisions.turn(&self.spec.id.job).await;
        seen.or_newer(&turn);
        Some(turn)
    }

    /// The parts of the checkpoint that the job chooses: the newest that is consistent over the job, among those that
    /// `wish` allows. Puts the damaged ones that are newer into `skipped`.
    async fn of_job(&self, wish: Wish, skipped: &mut Vec<Spoilt>, seen: &mut Seen) -> Result<Vec<Part>, Error> {
        let Self { by, spec, head, retry } = *self;
        let own = head.map(|head| &head.manifest);
        let turn = self.turn(seen).await;
        let chosen = job::choose(&mut Records { store: &by.store, seen, retry }, spec.opener(), own, wish).await;
        hand_on(turn, seen);
        let chosen = chosen.map_err(|error| match error {
            JobError::NotRetained(_, id) => not_found(spec, head, &id.to_string()),
            other => job_error(other),
        })?;
        *skipped = chosen.skipped;
        let Some(chosen) = chosen.checkpoint else {
            let or_empty = matches!(spec.restore, RestoreFrom::Latest { or_empty: true });
            return if or_empty { Ok(vec![]) } else { Err(not_found(spec, head, "at all that completed")) };
        };
        self.parts_of(chosen).await
    }

    /// The parts of the checkpoint that all subtasks of the attempt restore.
    async fn parts_of(&self, chosen: JobCheckpoint) -> Result<Vec<Part>, Error> {
        let Self { by, spec, head, .. } = *self;
        let same = |record: &&CheckpointRecord| JobCheckpoint::of(record) == chosen;
        if let Some(Head { manifest, .. }) = head
            && let Some(record) = manifest.checkpoints.iter().rev().find(same)
        {
            let part = Part { manifest: manifest.clone(), record: record.clone() };
            // A backend that goes on as it was needs no other chain, so most restarts read one head.
            let is_as_it_was = shape(by, spec, Some(&part.span()))?.key_groups == part.span().key_groups;
            // With another parallelism, the key groups may be the same and operator state still be redistributed.
            let is_alone = part.span().parallelism == spec.parallelism && !redistribution::needs_siblings(&part);
            if is_as_it_was && is_alone {
                return Ok(vec![part]);
            }
        }
        let heads = self.heads().await?;
        let parts = parts(&heads, &spec.id.operator, chosen);
        if parts.is_empty() {
            let mut error = not_found(spec, head, &chosen.to_string());
            let advice = format!(
                "; attempt {} chose it before it was let go: open with a higher attempt to choose anew",
                spec.attempt
            );
            error.message.push_str(&advice);
            return Err(error);
        }
        Ok(parts)
    }

    /// The heads of the operator's chains.
    async fn heads(&self) -> Result<Vec<Manifest>, Error> {
        let Self { by, spec, head, retry } = *self;
        let mut heads = job::read_operator(&by.store, &spec.id.job, &spec.id.operator, retry).await?;
        // The own chain counts as it was read before: the next manifest is derived from exactly that head.
        heads.retain(|other| other.backend != spec.id);
        heads.extend(head.map(|head| head.manifest.clone()));
        Ok(heads)
    }
}

/// Whether the engine vouches that the given parts belong together.
fn is_vouched(spec: &OpenSpec) -> bool {
    matches!(spec.restore, RestoreFrom::Vouched(_))
}

/// Checks a fact for which an engine cannot vouch: that operator state of different checkpoints goes together. Pure.
fn check_vouched(spec: &OpenSpec, parts: &[Part]) -> Result<(), Error> {
    let Some(first) = parts.first() else { return Ok(()) };
    let is_alike = |part: &&Part| {
        same_operator(&part.manifest.backend, &first.manifest.backend)
            && part.span().parallelism == first.span().parallelism
            && generation::is_same(&part.manifest, &part.record, &first.manifest, &first.record)
    };
    let has_operator_state = |part: &Part| part.manifest.redistributions(&part.record).next().is_some();
    match parts.iter().find(|part| !is_alike(part)) {
        Some(other) if parts.iter().any(has_operator_state) => {
            let text = format!(
                "backend `{}`: the handles of `{}` and `{}` are of different checkpoints, and there is operator state, which cannot be \
                 redistributed over such; give handles of one checkpoint",
                spec.id, first.manifest.backend, other.manifest.backend
            );
            Err(Error::new(Reason::InvalidArgument, text))
        }
        _ => Ok(()),
    }
}

/// Ends a turn, and leaves `seen` to the next one.
fn hand_on(turn: Option<OwnedMutexGuard<Seen>>, seen: &Seen) {
    if let Some(mut turn) = turn {
        turn.clone_from(seen);
    }
}

fn parts(heads: &[Manifest], operator: &Name, checkpoint: JobCheckpoint) -> Vec<Part> {
    let parts = generation::parts(heads, operator, checkpoint);
    parts.into_iter().map(|(head, record)| Part { manifest: head.clone(), record: record.clone() }).collect()
}

fn spans(parts: &[Part]) -> impl Iterator<Item = KeyGroupRange> + '_ {
    parts.iter().map(|part| part.span().key_groups)
}

/// Checks that `parts` of one checkpoint have each of `key_groups` exactly once. Pure.
///
/// # Errors
/// If some are missing; the error names them and the subtasks whose handles have them.
fn check(spec: &OpenSpec, head: Option<&Head>, parts: &[Part], key_groups: KeyGroupRange) -> Result<(), Error> {
    let mut needed: Vec<&Part> = parts.iter().filter(|part| part.span().key_groups.overlaps(key_groups)).collect();
    needed.sort_by_key(|part| part.span().key_groups.first());
    for (part, other) in needed.iter().zip(needed.iter().skip(1)) {
        if part.span().key_groups.last() >= other.span().key_groups.first() {
            let text = format!(
                "backend `{}`: `{}` and `{}` have key groups in common in that checkpoint; give handles of subtasks that have \
                 none in common",
                spec.id, part.manifest.backend, other.manifest.backend
            );
            return Err(Error::new(Reason::InvalidArgument, text));
        }
    }
    let missing = key_groups.without(spans(parts));
    if missing.is_empty() || is_vouched(spec) {
        return Ok(());
    }
    let Some(span) = parts.first().map(Part::span) else { return Ok(()) };
    let has_missing = |subtask: &u32| {
        let range = KeyGroupRange::of_subtask(*subtask, span.parallelism, span.max_parallelism);
        range.is_ok_and(|range| missing.iter().any(|missing| missing.overlaps(range)))
    };
    let subtasks: Vec<String> = (0..span.parallelism).filter(has_missing).map(|subtask| subtask.to_string()).collect();
    let (what, reason) = match &spec.restore {
        RestoreFrom::Handles(_) | RestoreFrom::Vouched(_) => ("handles", Reason::InvalidArgument),
        _ => ("parts", Reason::CheckpointNotFound),
    };
    let text = format!(
        "backend `{}`: key groups {} are in none of the {what}: those of subtasks {} of {} are missing{}",
        spec.id,
        list(&missing),
        subtasks.join(", "),
        span.parallelism,
        if reason == Reason::CheckpointNotFound {
            format!("; retained are: {}", retained(head))
        } else {
            String::new()
        }
    );
    Err(Error::new(reason, text))
}

fn list(ranges: &[KeyGroupRange]) -> String {
    ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn not_found(spec: &OpenSpec, head: Option<&Head>, what: &str) -> Error {
    not_found_in(&spec.id, head, what)
}

fn not_found_in(backend: &BackendId, head: Option<&Head>, what: &str) -> Error {
    let text = format!("backend `{backend}` retains no checkpoint {what}; retained are: {}", retained(head));
    Error::new(Reason::CheckpointNotFound, text)
}

/// The ids of the checkpoints that a chain retains.
fn retained(head: Option<&Head>) -> String {
    let ids = |head: &Head| head.manifest.checkpoints.iter().map(|r| r.identity.id.to_string()).collect::<Vec<_>>();
    head.map(ids).filter(|ids| !ids.is_empty()).map_or_else(|| "none".to_owned(), |ids| ids.join(", "))
}
