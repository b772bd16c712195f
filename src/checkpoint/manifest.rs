//! Manifests: the numbered durable record of a backend.
//!
//! ```text
//!   epochs        1 ──restores nothing   2 ──restores [1, cut of 5)     3 ──restores [1, cut of 5) [2, cut of 9)
//!   runs          1: ▒▒▒▒▒▒░░            2: ▒▒▒▒░                       3: ▒▒▒…
//!   checkpoints          5↑                     9↑                          12↑
//! ```
//!
//! Each epoch has one *run* of the changelog, and *sources*: the parts of earlier runs that it began with, each up to
//! some sequence number. The contents of a checkpoint are its epoch's sources, followed by its epoch's run up to the
//! cut. Changes that an owner logged after the checkpoint that its successor restored (░) belong to no later state.
//! They stay as long as a retained checkpoint needs them.
//!
//! An epoch that began with parts of other chains, because the operator was rescaled, names them as
//! [`imports`](Import).
//!
//! # Bounds of its size
//!
//! Each checkpoint writes a manifest, so no part of it may grow with the log. Parts that would grow lie in pages
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
//! Some things are not here, because they have other bounds. The pieces and files of materializations are in their
//! index objects. Damage is in the records of the job. Objects that were let go are those below the low waters that are
//! not named. The manifest that opens an epoch also names the operator state that its owner is about to read, as much
//! as the manifests of all old subtasks have of it.

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
/// Invariants: epochs ascend, and the owner of the last one wrote the manifest. Every source and checkpoint names an
/// epoch that has a record, and a run unless its part of the log is empty. Every import that a checkpoint needs is
/// there. Checkpoints ascend by (epoch, id).
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// Position in the chain, from 1.
    pub number: u64,
    /// The backend that the manifest belongs to.
    pub backend: BackendId,
    /// The shape that the backend was opened with.
    pub shape: Shape,
    /// Owners, oldest first.
    pub epochs: Vec<EpochRecord>,
    /// All registrations by their ids, which count from 1 without gaps.
    pub states: BTreeMap<StateId, Registration>,
    /// The runs of the changelog by epoch.
    pub runs: BTreeMap<u64, Run>,
    /// Retained checkpoints, oldest first.
    pub checkpoints: Vec<CheckpointRecord>,
    /// Materializations that the checkpoints or the present owner need, oldest first.
    pub materializations: Vec<Materialization>,
    /// Parts of other chains that epochs began with, oldest first; and operator state that a new owner is about to
    /// read.
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
    /// Checksum of the manifest before this one; 0 for the first.
    pub previous_crc: u32,
    /// Whether this manifest opened its epoch.
    pub opens_epoch: bool,
    /// Which earlier manifests stay for ever.
    pub fences: Fences,
}

/// The fixed properties of an open backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Number of subtasks of the operator.
    pub parallelism: u32,
    /// Number of key groups of the operator; fixed for the life of the state.
    pub max_parallelism: u32,
    /// The key groups of this subtask.
    pub key_groups: KeyGroupRange,
    /// Whether the daemon or the client computes key groups; fixed for the life of the state.
    pub assignment: KeyGroupAssignment,
    /// The inner backend that has the state.
    pub inner: InnerBackend,
    /// Whether changes are logged.
    pub changelog: bool,
}

/// The record of one owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochRecord {
    /// The owner's epoch.
    pub epoch: Epoch,
    /// The engine's attempt for this owner.
    pub attempt: Attempt,
    /// The checkpoint that it restored, and the attempt that made that; `None` if it began empty.
    pub restored: Option<(CheckpointIdentity, Attempt)>,
    /// The contents that it began with.
    pub contents: Contents,
    /// The part of the operator's state that it has.
    pub span: Span,
    /// Owners with the same value are its peers, whatever their attempts. If empty, owners of the same attempt are its
    /// peers.
    pub peers: Bytes,
    /// The run of the job that it belongs to; empty for a fence.
    pub job_run: Bytes,
    /// Whether it only outdates earlier owners and changes nothing itself. Fences are made to read a chain for a
    /// rescale, or to retire it.
    pub is_fence: bool,
    /// The highest id that its attempt has published in this chain, retained or not; 0 for none. `None` if it is not
    /// recorded.
    pub published_to: Option<u64>,
}

/// The part of an operator's state that an owner has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Number of subtasks of the operator.
    pub parallelism: u32,
    /// Number of key groups of the operator.
    pub max_parallelism: u32,
    /// The key groups of the subtask.
    pub key_groups: KeyGroupRange,
    /// Whether the daemon or the client computes key groups.
    pub assignment: KeyGroupAssignment,
}

/// The contents of a state: imports, then a materialization (or the empty state), then the parts of the log after it,
/// in order.
///
/// Invariant: a materialization contains the state of the imports, so there are never both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// UUIDs of the imports, in order; a later one overrides an earlier one.
    pub imports: Vec<Uuid>,
    /// UUID of the materialization.
    pub base: Option<Uuid>,
    /// Pages that list the sources before `sources`, with their runs.
    pub past: Vec<PageRef>,
    /// Parts of the log, none of them empty, at most one per run.
    pub sources: Vec<Source>,
}

/// A snapshot of the inner backend: pieces or images, each copied at its own sqn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Materialization {
    /// Its UUID, by which contents name it.
    pub uuid: Uuid,
    /// Lowest sqn of its pieces, from which on the log must be kept for it. Its epoch is the one that made it.
    pub from: Sqn,
    /// Highest sqn of its pieces, which is the earliest cut that can build on it.
    pub complete_at: Sqn,
    /// The index object, which lists its pieces and images.
    pub index: SnapshotFile,
    /// Checksum of the index, so that no other object is taken for it; `None` if an older version wrote the manifest.
    pub index_crc: Option<u32>,
    /// Stored bytes of all its pieces and images.
    pub stored_bytes: u64,
    /// State changes in all its pieces and images.
    pub changes: u64,
}

/// An object in the folder `snapshot/` of the backend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotFile {
    /// The daemon instance that wrote it.
    pub instance: Uuid,
    /// `<epoch>-<number>.<kind>`, see [`SnapshotFile::name`].
    pub name: Name,
    /// Length of the object in bytes.
    pub bytes: u64,
}

/// One retained checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointRecord {
    /// The epoch, id and UUID that name it.
    pub identity: CheckpointIdentity,
    /// The attempt that made it: (attempt, id) names a checkpoint of the whole job.
    pub attempt: Attempt,
    /// It has all changes of its epoch's run below this sqn.
    pub cut: Sqn,
    /// It has all batches of its epoch below this number.
    pub applied_to: u64,
    /// The bytes that the task attached to its barrier.
    pub attachment: Attachment,
    /// The run of the job that counts it and lets it go: that of its owner, or of the owner that has claimed it since.
    pub job_run: Bytes,
    /// Whether the engine said that it is complete.
    pub completed: bool,
    /// Whether a user has pinned it.
    pub pinned: bool,
    /// Whether retention let it go, so that only the pin keeps it.
    pub subsumed: bool,
    /// When its barrier came, by the daemon's clock.
    pub triggered_at: TimeMs,
    /// The time of its newest batch, reads included, at which the state's own time goes on.
    pub time: TimeMs,
    /// Bytes of log since the checkpoint before it, uncompressed.
    pub incremental_bytes: u64,
    /// Number of changes since the checkpoint before it.
    pub changes: u64,
    /// Registrations with ids up to this one were in force at the cut, without `missing_states`.
    pub states_to: u32,
    /// Ids of registrations up to `states_to` that were not in force: they had been replaced, or belong to an owner
    /// whose changes are not part of the checkpoint.
    pub missing_states: Vec<StateId>,
    /// The materialization of its own epoch that it builds on; `None` if it builds on the contents that its epoch began
    /// with.
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
    /// The name of file `number` of `epoch`; `kind` tells people what the file contains.
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

    /// Its path in the folder of `backend`.
    #[must_use]
    pub fn path(&self, backend: &BackendId) -> Path {
        let (backend, file) = (backend.clone(), self.name.clone());
        ObjectName::SnapshotFile { backend, instance: self.instance, file }.path()
    }
}

impl Shape {
    /// The part of the operator's state in this shape.
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

    /// The highest id that `attempt` has published in this chain. `None` if no owner of that attempt is recorded,
    /// `Some(None)` if its record does not tell.
    #[must_use]
    pub fn published_to(&self, attempt: Attempt) -> Option<Option<u64>> {
        // One record that does not tell makes the answer unknown: the attempt may have published more under it.
        let told = self.epochs.iter().filter(|record| record.attempt == attempt).map(|record| record.published_to);
        told.reduce(|one, other| Some(one?.max(other?)))
    }

    /// Records the highest id among the checkpoints of the present epoch as published.
    pub fn note_published(&mut self) {
        let epoch = self.owner().epoch.number;
        let own = self.checkpoints.iter().filter(|record| record.identity.epoch == epoch);
        let newest = own.map(|record| record.identity.id).max();
        if let (Some(owner), Some(newest)) = (self.epochs.last_mut(), newest) {
            // Never lowered. A checkpoint that was let go since stays published, and the chain does not look as if it
            // had lost it.
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

    /// The part of the operator's state that `checkpoint` has.
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

    /// The newest epoch whose owner served, instead of being a fence; `None` if none is recorded.
    #[must_use]
    pub fn served(&self) -> Option<&EpochRecord> {
        self.epochs.iter().rev().find(|record| !record.is_fence)
    }

    /// A checkpoint called `id` with the contents that the present epoch began with.
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

    /// The redistributions of the operator states that `checkpoint` has; empty if it has none.
    pub fn redistributions(&self, checkpoint: &CheckpointRecord) -> impl Iterator<Item = Redistribution> {
        let states = self.states.iter().filter(|(id, _)| checkpoint.has_state(**id));
        states.filter_map(|(_, registration)| registration.descriptor.redistribution)
    }

    /// The contents of `checkpoint`.
    #[must_use]
    pub fn contents(&self, checkpoint: &CheckpointRecord) -> Contents {
        self.contents_at(checkpoint.identity.epoch, checkpoint.base, checkpoint.cut)
    }

    /// The contents of the state of `epoch` at `cut`, on the materialization `base` of that epoch, or on the contents
    /// that the epoch began with.
    #[must_use]
    pub fn contents_at(&self, epoch: u64, base: Option<Uuid>, cut: Sqn) -> Contents {
        let (mut contents, from) = match base {
            Some(uuid) => {
                // From the lowest sqn of its pieces, and not from `complete_at`: pieces were copied at different
                // moments, and each needs the changes since its own.
                let from = self.materialization(uuid).map_or(Sqn::first_of(epoch), |base| base.from);
                (Contents { base, ..Contents::default() }, from)
            }
            None => {
                let began = self.epoch(epoch).map(|record| record.contents.clone()).unwrap_or_default();
                (began, Sqn::first_of(epoch))
            }
        };
        // A source is never empty: see `Contents`.
        if cut > from {
            contents.sources.push(Source { epoch, from, to: cut });
        }
        contents
    }

    /// Removes epochs, imports, materializations and parts of runs that are not needed by a retained checkpoint, a
    /// checkpoint in flight or the present owner. `in_flight` are the contents of checkpoints that are not in
    /// `checkpoints` yet.
    pub fn prune(&mut self, in_flight: &[Contents]) {
        let present = self.owner().epoch.number;
        let newest = self.materializations.iter().rev().find(|base| base.from.epoch() == present).map(|base| base.uuid);
        let mut all: Vec<Contents> = self.checkpoints.iter().map(|record| self.contents(record)).collect();
        // The owner's own future: the next checkpoint builds on the newest materialization and on all of the log after
        // it.
        all.push(self.contents_at(present, newest, Sqn(u64::MAX)));
        all.extend_from_slice(in_flight);
        let mut needed: BTreeMap<u64, (Sqn, Sqn)> = BTreeMap::new();
        for source in all.iter().flat_map(|contents| &contents.sources) {
            let (from, to) = needed.entry(source.epoch).or_insert((source.from, source.to));
            // One range from the lowest to the highest need. A gap in between may keep entries that nobody needs, which
            // costs bytes and no correctness.
            (*from, *to) = ((*from).min(source.from), (*to).max(source.to));
        }
        self.runs.retain(|epoch, run| {
            // Beyond the highest need lies the log that an owner wrote after the checkpoint that its successor
            // restored. It goes, too, once no checkpoint needs it.
            let Some((from, to)) = needed.get(epoch) else { return false };
            run.drop_before(*from);
            run.drop_from(*to);
            !run.is_empty()
        });
        // The record of an epoch tells the contents that it began with, so a checkpoint without a base of its own needs
        // it.
        let keep: Vec<u64> = self.checkpoints.iter().map(|record| record.identity.epoch).chain([present]).collect();
        self.epochs.retain(|record| keep.contains(&record.epoch.number));
        let bases: Vec<Uuid> = all.iter().filter_map(|contents| contents.base).chain(newest).collect();
        self.materializations.retain(|base| bases.contains(&base.uuid));
        let imports: Vec<Uuid> = all.iter().flat_map(|contents| contents.imports.iter().copied()).collect();
        self.imports.retain(|import| imports.contains(&import.uuid));
        for record in &mut self.epochs {
            let past = &mut record.contents.past;
            // A checkpoint on a base of its own epoch does not need the past, even if the record of its epoch stays.
            if !all.iter().any(|contents| contents.past == *past) {
                past.clear();
            }
        }
    }

    /// Most stored bytes that a restore of `checkpoint` reads.
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

    /// Sums over the part of the backend's own changelog that is needed.
    #[must_use]
    pub fn log_totals(&self) -> Totals {
        let pages = self.epochs.iter().flat_map(|record| &record.contents.past);
        // By UUID, since several epochs may have begun with the same pages, which count once.
        let past: BTreeMap<Uuid, Totals> = pages.map(|page| (page.uuid, page.totals)).collect();
        Totals::sum(past.into_values().chain(self.runs.values().map(Run::totals)))
    }
}
