//! Manifests: the numbered durable record of a backend.
//!
//! ```text
//!   epochs        1 ──restores nothing   2 ──restores [1, cut of 5)     3 ──restores [1, cut of 5) [2, cut of 9)
//!   runs          1: ▒▒▒▒▒▒░░            2: ▒▒▒▒░                       3: ▒▒▒…
//!   checkpoints          5↑                     9↑                          12↑
//! ```
//!
//! Each epoch has one *run* of the changelog, and *sources*: what it began with, as earlier runs each up to some
//! sequence number. The contents of a checkpoint are its epoch's sources and then its epoch's run up to the cut. What
//! an owner logged beyond the checkpoint that its successor restored (░) belongs to no later state; it stays for as
//! long as a retained checkpoint has it.
//!
//! An epoch that began with what lies in other chains, because the operator was rescaled, names it as
//! [`imports`](Import).
//!
//! # What bounds its size
//!
//! Each checkpoint writes a manifest, so none of it may grow with the log. What would, lies in pages
//! ([`super::index`]).
//!
//! | part | at most | bytes each, about |
//! | --- | --- | --- |
//! | names, shape, low waters | 1 | 150, and the names |
//! | run of the present epoch | 128 change sets (256 if more come than pages are written), 128 pages of each level | 40, and 35 for each of up to 5 blocks; 75 |
//! | its inline tails | 64 KiB and one `execution.checkpointing.data-inline-threshold`, then they move into a page | |
//! | runs of older epochs | 1 for each epoch with a retained checkpoint, and those in `sources`; each 16 change sets, 16 pages of each level, 4 KiB of tails | as above |
//! | epochs | 1 for each epoch with a retained checkpoint, and the present one | 80 |
//! | what one began with | 16 `sources` with their runs; all before in 16 pages of each level | 30; 75 |
//! | checkpoints | those retained: `state.checkpoints.num-retained` and those in flight, pinned and not yet let go; never more than `max_retained_checkpoints` of [`Limits`](crate::types::Limits) | 100, and 60 if the attachment is in a page |
//! | attachments | 16 KiB of those that manifests before had, then all move into a page; each new one, up to `max_attachment_bytes` | |
//! | materializations | 1 for each of those, 1 newer | 130 |
//! | states | `max_states` | 20, and name, serializers and default value |
//! | imports | of each rescale since the last materialization, 1 for each old subtask with common key groups; an owner with more than 16 materializes at once | 200, 6 for each state, and 16 change sets or 16 pages of each level |
//!
//! A level has 64 pages of the one below, so the third begins at some 500,000 change sets.
//!
//! Not here, because it has other bounds: the pieces and files of materializations are in their index objects; what is
//! damaged, in records of the job; what was let go is told by two low waters and by not being named. The manifest that
//! opens an epoch names the operator state that its owner is about to read, too: as much as the manifests of all old
//! subtasks have of it.

mod attachment;
mod check;
pub(super) mod codec;
mod fences;
mod import;
mod settle;
mod states;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
pub(crate) mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;
use uuid::Uuid;

pub(super) use self::check::MAX_NUMBER;
pub use self::{
    attachment::{ATTACHMENT_BYTES, Attachment, follow},
    fences::Fences,
    import::Import,
    states::Registration,
};
pub use super::index::Source;
use super::index::{PageRef, Run, Totals};
use crate::{
    object::{ObjectName, Path},
    types::{
        Attempt, BackendId, CheckpointIdentity, Epoch, InnerBackend, KeyGroupAssignment, KeyGroupRange, Name,
        Redistribution, Sqn, StateId, TimeMs,
    },
};

/// The record of one backend at one moment.
///
/// Invariants: epochs ascend and the last one wrote it; every source and checkpoint names an epoch that has a record,
/// and a run where its part of the log is not empty; every import that a checkpoint needs is there; checkpoints ascend
/// by (epoch, id).
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// Position in the chain, from 1.
    pub number: u64,
    /// Whose.
    pub backend: BackendId,
    /// What the backend was opened as.
    pub shape: Shape,
    /// Owners, oldest first.
    pub epochs: Vec<EpochRecord>,
    /// What was registered, by the ids of the registrations, which are dense from 1.
    pub states: BTreeMap<StateId, Registration>,
    /// The changelog by epoch.
    pub runs: BTreeMap<u64, Run>,
    /// Retained checkpoints, oldest first.
    pub checkpoints: Vec<CheckpointRecord>,
    /// Materializations that those or the present owner need, oldest first.
    pub materializations: Vec<Materialization>,
    /// What epochs began with that lies elsewhere, oldest first; and what a new owner is about to read.
    pub imports: Vec<Import>,
    /// The daemon instance that `segment_low_water` speaks of.
    pub instance: Uuid,
    /// Segments of `instance` below this number that no manifest names by now will never be named.
    pub segment_low_water: u64,
    /// Snapshot files of the present epoch numbered below this that no manifest names by now will never be named.
    pub snapshot_low_water: u64,
    /// Pages of the present epoch [numbered](super::index::page_number) below this that no manifest names by now will
    /// never be named.
    pub page_low_water: u64,
    /// Checksum of the manifest before; 0 for the first.
    pub previous_crc: u32,
    /// Whether it opened its epoch.
    pub opens_epoch: bool,
    /// Which of the manifests before it stay for ever.
    pub fences: Fences,
}

/// What a backend was opened as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Subtasks of the operator.
    pub parallelism: u32,
    /// Key groups of the operator; fixed for the life of the state.
    pub max_parallelism: u32,
    /// Those of this subtask.
    pub key_groups: KeyGroupRange,
    /// Fixed for the life of the state.
    pub assignment: KeyGroupAssignment,
    /// Where the state lives.
    pub inner: InnerBackend,
    /// Whether changes are logged.
    pub changelog: bool,
}

/// One owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochRecord {
    /// Who.
    pub epoch: Epoch,
    /// The engine's attempt.
    pub attempt: Attempt,
    /// What it restored, and under which attempt that was made; `None` if it began empty.
    pub restored: Option<(CheckpointIdentity, Attempt)>,
    /// What it began with.
    pub contents: Contents,
    /// What it was opened as.
    pub span: Span,
    /// Its peers have the same, whatever their attempts; empty: those of its attempt are its peers.
    pub peers: Bytes,
    /// The run of the job that it belongs to; a fence has none.
    pub job_run: Bytes,
    /// Whether it only outdates the owners before it, and changes nothing itself: whoever reads the chain to rescale,
    /// or retires it, makes one.
    pub is_fence: bool,
    /// The highest id that its attempt has published in this chain, retained or not; 0: none. `None`: it does not tell.
    pub published_to: Option<u64>,
}

/// Which part of the operator's state an owner has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Subtasks of the operator.
    pub parallelism: u32,
    /// Key groups of the operator.
    pub max_parallelism: u32,
    /// Those of the subtask.
    pub key_groups: KeyGroupRange,
    /// Who computes them.
    pub assignment: KeyGroupAssignment,
}

/// A state: imports, then a materialization (none: the empty state), then the parts of the log after it, in order.
///
/// Invariant: a materialization has what the imports have, so that nothing names both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// Names the imports: what comes later wins.
    pub imports: Vec<Uuid>,
    /// Names the materialization.
    pub base: Option<Uuid>,
    /// Pages that list sources before `sources`, with their runs.
    pub past: Vec<PageRef>,
    /// Not empty, one per run.
    pub sources: Vec<Source>,
}

/// A snapshot of the inner backend, made of pieces that were each copied at their own sqn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Materialization {
    /// Names it.
    pub uuid: Uuid,
    /// Lowest sqn of its pieces: what the log must keep for it; of the epoch that made it.
    pub from: Sqn,
    /// Highest sqn of its pieces: the earliest cut that it serves.
    pub complete_at: Sqn,
    /// The object that lists its pieces.
    pub index: SnapshotFile,
    /// Checksum of that object, so that another one of its name is not taken for it; `None` if an older version wrote
    /// the manifest.
    pub index_crc: Option<u32>,
    /// Stored bytes of its pieces.
    pub stored_bytes: u64,
    /// State changes in its pieces.
    pub changes: u64,
}

/// An object below `snapshot/` of the backend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotFile {
    /// The daemon instance that wrote it.
    pub instance: Uuid,
    /// `<epoch>-<number>.<kind>`, see [`SnapshotFile::name`].
    pub name: Name,
    /// Its length.
    pub bytes: u64,
}

/// One retained checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointRecord {
    /// Its name.
    pub identity: CheckpointIdentity,
    /// The attempt that made it: (attempt, id) names a checkpoint of the whole job.
    pub attempt: Attempt,
    /// Everything of its epoch's run below this.
    pub cut: Sqn,
    /// Batches of its epoch below this.
    pub applied_to: u64,
    /// The task's bytes.
    pub attachment: Attachment,
    /// The run of the job that counts it, and lets it go: that of its owner, or of the one that claimed it since.
    pub job_run: Bytes,
    /// Whether the engine said that it completed.
    pub completed: bool,
    /// Whether a user keeps it.
    pub pinned: bool,
    /// Whether retention let it go and only the pin keeps it.
    pub subsumed: bool,
    /// When its barrier came.
    pub triggered_at: TimeMs,
    /// The time of the newest batch that it has, reads included: the clock of the state.
    pub time: TimeMs,
    /// Bytes of log between the checkpoint before and it, before compression.
    pub incremental_bytes: u64,
    /// Changes likewise.
    pub changes: u64,
    /// Registrations with ids up to this one were in force at the cut, without `missing_states`.
    pub states_to: u32,
    /// Ids of registrations that others had replaced, or of an owner whose changes are no part of the checkpoint.
    pub missing_states: Vec<StateId>,
    /// The materialization of its own epoch that it builds on; `None` if it builds on what its epoch began with.
    pub base: Option<Uuid>,
}

impl CheckpointRecord {
    /// Whether the registration `id` was in force at the cut.
    #[must_use]
    pub fn has_state(&self, id: StateId) -> bool {
        id.0 <= self.states_to && !self.missing_states.contains(&id)
    }
}

impl SnapshotFile {
    /// The name of file `number` of `epoch`, of a kind that tells people what it is.
    #[must_use]
    pub fn name(epoch: u64, number: u64, kind: &str) -> Name {
        Name::new(&format!("{epoch:08}-{number:012}.{kind}")).expect("digits and a word are a name")
    }

    /// Epoch and number of a name; `None` for a name that is not of this form.
    #[must_use]
    pub fn parse(name: &str) -> Option<(u64, u64)> {
        let (epoch, rest) = name.split_once('-')?;
        let (number, _kind) = rest.split_once('.')?;
        Some((epoch.parse().ok()?, number.parse().ok()?))
    }

    /// Where it lies, if it is of `backend`.
    #[must_use]
    pub fn path(&self, backend: &BackendId) -> Path {
        let (backend, file) = (backend.clone(), self.name.clone());
        ObjectName::SnapshotFile { backend, instance: self.instance, file }.path()
    }
}

impl Shape {
    /// Which part of the operator's state it is.
    #[must_use]
    pub fn span(&self) -> Span {
        let Self { parallelism, max_parallelism, key_groups, assignment, .. } = *self;
        Span { parallelism, max_parallelism, key_groups, assignment }
    }
}

impl Manifest {
    /// The owner that wrote it.
    #[must_use]
    pub fn owner(&self) -> &EpochRecord {
        self.epochs.last().expect("a manifest is written by an owner")
    }

    /// The record of an epoch.
    #[must_use]
    pub fn epoch(&self, number: u64) -> Option<&EpochRecord> {
        self.epochs.iter().find(|record| record.epoch.number == number)
    }

    /// The highest id that `attempt` has published in this chain; `None` if no owner of it is remembered, `Some(None)`
    /// if one does not tell.
    #[must_use]
    pub fn published_to(&self, attempt: Attempt) -> Option<Option<u64>> {
        let told = self.epochs.iter().filter(|record| record.attempt == attempt).map(|record| record.published_to);
        told.reduce(|one, other| Some(one?.max(other?)))
    }

    /// The present owner publishes the checkpoints of its epoch that are there.
    pub fn note_published(&mut self) {
        let epoch = self.owner().epoch.number;
        let own = self.checkpoints.iter().filter(|record| record.identity.epoch == epoch);
        let newest = own.map(|record| record.identity.id).max();
        if let (Some(owner), Some(newest)) = (self.epochs.last_mut(), newest) {
            owner.published_to = owner.published_to.map(|before| before.max(newest));
        }
    }

    /// The newest checkpoint with `id`.
    #[must_use]
    pub fn checkpoint_by_id(&self, id: u64) -> Option<&CheckpointRecord> {
        self.checkpoints.iter().rev().find(|record| record.identity.id == id)
    }

    /// The materialization called `uuid`.
    #[must_use]
    pub fn materialization(&self, uuid: Uuid) -> Option<&Materialization> {
        self.materializations.iter().find(|materialization| materialization.uuid == uuid)
    }

    /// The import called `uuid`.
    #[must_use]
    pub fn import(&self, uuid: Uuid) -> Option<&Import> {
        self.imports.iter().find(|import| import.uuid == uuid)
    }

    /// Which part of the operator's state `checkpoint` has.
    #[must_use]
    pub fn span(&self, checkpoint: &CheckpointRecord) -> Span {
        let of_epoch = self.epoch(checkpoint.identity.epoch).map(|record| record.span);
        of_epoch.unwrap_or_else(|| self.shape.span())
    }

    /// The group of peers whose owner made `checkpoint`; empty if it had none.
    #[must_use]
    pub fn peers(&self, checkpoint: &CheckpointRecord) -> &[u8] {
        self.epoch(checkpoint.identity.epoch).map_or(&[], |record| &record.peers)
    }

    /// The newest epoch whose owner served, rather than only fenced; `None` if no such is remembered.
    #[must_use]
    pub fn served(&self) -> Option<&EpochRecord> {
        self.epochs.iter().rev().find(|record| !record.is_fence)
    }

    /// The checkpoint that the state was at when its present epoch began: what a restore of this epoch restores, called
    /// `id`.
    #[must_use]
    pub fn beginning(&self, id: u64) -> CheckpointRecord {
        let owner = self.owner();
        let epoch = owner.epoch.number;
        CheckpointRecord {
            identity: CheckpointIdentity { epoch, id, uuid: Uuid::nil() },
            attempt: owner.attempt,
            cut: Sqn::first_of(epoch),
            applied_to: 0,
            attachment: Bytes::new().into(),
            job_run: owner.job_run.clone(),
            completed: true,
            pinned: false,
            subsumed: false,
            triggered_at: 0,
            time: 0,
            incremental_bytes: 0,
            changes: 0,
            states_to: 0,
            missing_states: vec![],
            base: None,
        }
    }

    /// How the operator state that `checkpoint` has is redistributed; nothing if it has none.
    pub fn redistributions(&self, checkpoint: &CheckpointRecord) -> impl Iterator<Item = Redistribution> {
        let states = self.states.iter().filter(|(id, _)| checkpoint.has_state(**id));
        states.filter_map(|(_, registration)| registration.descriptor.redistribution)
    }

    /// What `checkpoint` consists of.
    #[must_use]
    pub fn contents(&self, checkpoint: &CheckpointRecord) -> Contents {
        self.contents_at(checkpoint.identity.epoch, checkpoint.base, checkpoint.cut)
    }

    /// What the state of `epoch` at `cut` consists of, on the materialization `base` of that epoch or on what it began
    /// with.
    #[must_use]
    pub fn contents_at(&self, epoch: u64, base: Option<Uuid>, cut: Sqn) -> Contents {
        let (mut contents, from) = match base {
            Some(uuid) => {
                let from = self.materialization(uuid).map_or(Sqn::first_of(epoch), |base| base.from);
                (Contents { base, ..Contents::default() }, from)
            }
            None => {
                let began = self.epoch(epoch).map(|record| record.contents.clone()).unwrap_or_default();
                (began, Sqn::first_of(epoch))
            }
        };
        if cut > from {
            contents.sources.push(Source { epoch, from, to: cut });
        }
        contents
    }

    /// Removes epochs, imports, materializations and the parts of runs that neither a retained checkpoint, nor one in
    /// flight, nor the present owner needs. `in_flight` are the contents of checkpoints that are not in `checkpoints`
    /// yet.
    pub fn prune(&mut self, in_flight: &[Contents]) {
        let present = self.owner().epoch.number;
        let newest = self.materializations.iter().rev().find(|base| base.from.epoch() == present).map(|base| base.uuid);
        let mut all: Vec<Contents> = self.checkpoints.iter().map(|record| self.contents(record)).collect();
        all.push(self.contents_at(present, newest, Sqn(u64::MAX)));
        all.extend_from_slice(in_flight);
        let mut needed: BTreeMap<u64, (Sqn, Sqn)> = BTreeMap::new();
        for source in all.iter().flat_map(|contents| &contents.sources) {
            let (from, to) = needed.entry(source.epoch).or_insert((source.from, source.to));
            (*from, *to) = ((*from).min(source.from), (*to).max(source.to));
        }
        self.runs.retain(|epoch, run| {
            let Some((from, to)) = needed.get(epoch) else { return false };
            run.drop_before(*from);
            run.drop_from(*to);
            !run.is_empty()
        });
        let keep: Vec<u64> = self.checkpoints.iter().map(|record| record.identity.epoch).chain([present]).collect();
        self.epochs.retain(|record| keep.contains(&record.epoch.number));
        let bases: Vec<Uuid> = all.iter().filter_map(|contents| contents.base).chain(newest).collect();
        self.materializations.retain(|base| bases.contains(&base.uuid));
        let imports: Vec<Uuid> = all.iter().flat_map(|contents| contents.imports.iter().copied()).collect();
        self.imports.retain(|import| imports.contains(&import.uuid));
        for record in &mut self.epochs {
            let past = &mut record.contents.past;
            if !all.iter().any(|contents| contents.past == *past) {
                past.clear();
            }
        }
    }

    /// Stored bytes that a restore of `checkpoint` reads, at most.
    #[must_use]
    pub fn stored_bytes(&self, checkpoint: &CheckpointRecord) -> u64 {
        let contents = self.contents(checkpoint);
        let base = contents.base.and_then(|uuid| self.materialization(uuid));
        let imports = contents.imports.iter().filter_map(|uuid| self.import(*uuid));
        let runs = contents.sources.iter().filter_map(|source| self.runs.get(&source.epoch));
        let log = Totals::sum(contents.past.iter().map(|page| page.totals).chain(runs.map(Run::totals)));
        let base = base.map_or(0, |base| base.stored_bytes);
        imports.map(Import::stored_bytes).fold(base.saturating_add(log.stored_bytes), u64::saturating_add)
    }

    /// Sums over the backend's own changelog, as far as it is needed.
    #[must_use]
    pub fn log_totals(&self) -> Totals {
        let pages = self.epochs.iter().flat_map(|record| &record.contents.past);
        let past: BTreeMap<Uuid, Totals> = pages.map(|page| (page.uuid, page.totals)).collect();
        Totals::sum(past.into_values().chain(self.runs.values().map(Run::totals)))
    }
}
