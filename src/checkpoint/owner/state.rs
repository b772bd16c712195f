//! The fields of an owner, its beginning, and its log.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::rules::{Rule, Rules};
use crate::{
    changelog::{
        block::ChangeSetBuilder,
        segment::{ChangeSet, SegmentHandle},
        writer::Writer,
    },
    checkpoint::{
        index::Bounds,
        ledger::{Awaits, Ledger, Retention},
        manifest::{CheckpointRecord, Manifest, Materialization},
    },
    types::{CheckpointId, Epoch, KeyGroup, Sqn, TimeMs},
};

/// Settings of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How long notices alone may wait for a manifest.
    pub notice_delay: Duration,
    /// Bounds of the log index, beyond which entries move into pages that are written beside a manifest.
    pub soon: Bounds,
    /// Bounds of the log index, beyond which entries move into pages that are written before a manifest.
    pub now: Bounds,
}

impl Options {
    /// The settings of a daemon whose notices may wait for `notice_delay`.
    #[must_use]
    pub fn new(notice_delay: Duration) -> Self {
        Self { notice_delay, soon: Bounds::SOON, now: Bounds::NOW }
    }
}

/// The state with which an owner begins.
#[derive(Debug)]
pub struct Beginning {
    /// The durable manifest that opened its epoch.
    pub manifest: Manifest,
    /// The checksum of that manifest.
    pub crc: u32,
    /// The rule by which completed checkpoints stay.
    pub retention: Retention,
    /// Whether the owner may need objects of the restored checkpoint for ever.
    pub is_claimed: bool,
    /// The empty active block of the log.
    pub blocks: ChangeSetBuilder,
}

/// From when on an owner needs none of the objects that it restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sustained {
    /// It claimed them, so it may need them for ever.
    Claimed,
    /// It must not claim them, and has no published checkpoint of its own yet.
    NotYet,
    /// From its own checkpoint with this id on.
    Since(CheckpointId),
}

/// Amounts of log since the last barrier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct SinceBarrier {
    pub(super) bytes: u64,
    pub(super) changes: u64,
}

/// The manifests of an owner, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Publishing {
    /// No manifest is under way.
    Idle,
    /// A manifest with the log index up to `to` is under way.
    UnderWay {
        /// The end of its log index.
        to: Sqn,
    },
    /// The last manifest is under way. It says that this owner names no further object.
    Last {
        /// The end of its log index.
        to: Sqn,
    },
    /// The last manifest is durable.
    Sealed,
}

/// A snapshot that is being made.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Snapshot {
    pub(super) cut: Sqn,
    /// Batches below this number are part of it.
    pub(super) applied_to: u64,
    /// The lowest number of the files that it writes; `None` before its turn.
    pub(super) first_file: Option<u64>,
    /// Materializations whose parts it uses, oldest first.
    pub(super) leans_on: Vec<Uuid>,
}

/// A cut of the log, or of the state, for the checkpoint of a barrier.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    pub(super) awaits: Awaits,
    pub(super) base: Option<Uuid>,
}

/// One owner.
///
/// Invariants: the run of this epoch in `manifest` lists exactly the change sets below the writer's `listed_to`; the
/// parts that a checkpoint in flight builds on, or that a running snapshot uses, are in `manifest`; `base` is the last
/// materialization of this epoch in `manifest`; at most one manifest is under way, none while pages are that it would
/// name, and none after the last.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub struct Owner {
    pub(super) epoch: Epoch,
    pub(super) options: Options,
    pub(super) writer: Writer,
    pub(super) ledger: Ledger,
    /// The newest manifest, with the present log index.
    pub(super) manifest: Manifest,
    /// The checksum of the newest durable manifest.
    pub(super) crc: u32,
    pub(super) publishing: Publishing,
    /// Whether pages are being written that the next manifest names.
    pub(super) pages_under_way: bool,
    /// Number of the next page of the log index.
    pub(super) next_page: u64,
    /// The number of the manifest that opened this epoch.
    pub(super) opened_number: u64,
    /// Manifests of this epoch with lower numbers are deleted.
    pub(super) deleted_below: u64,
    /// Whether the superseded manifests of earlier owners are being deleted.
    pub(super) settling: bool,
    /// When the store last showed that this owner is not fenced.
    pub(super) heard: Instant,
    /// Since when the ledger differs from the manifest because of notices.
    pub(super) dirty_since: Option<Instant>,
    /// Whether a published checkpoint was withdrawn, so that a manifest without it goes out at once.
    pub(super) withdrawing: bool,
    /// Whether the next manifest is the last one.
    pub(super) closing: bool,
    /// The newest materialization of this epoch, on which new checkpoints build.
    pub(super) base: Option<Materialization>,
    /// With a log: snapshot files with lower numbers are in the manifest, or given up.
    pub(super) files_to: u64,
    /// Without a log: the snapshots that are being made.
    pub(super) snapshots: BTreeMap<CheckpointId, Snapshot>,
    pub(super) since_barrier: SinceBarrier,
    pub(super) sustained: Sustained,
    pub(super) rules: Rules,
}

/// The effect of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uploaded {
    /// Whether the log index became longer.
    pub is_listed: bool,
    /// Bytes of changes that no longer have to stay in memory.
    pub released_bytes: u64,
}

/// The log of an owner, to which a batch appends.
pub struct Log<'a> {
    writer: &'a mut Writer,
    changes: &'a mut u64,
}

impl Log<'_> {
    /// Whether there is no log, so that changes are only counted.
    #[inline]
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.writer.is_silent()
    }

    /// Appends one change to the open batch: `encode` adds its bytes.
    #[inline]
    pub fn push(&mut self, key_group: KeyGroup, encode: impl FnOnce(&mut Vec<u8>)) {
        *self.changes += 1;
        self.writer.push(key_group, encode);
    }
}

impl Owner {
    /// An owner whose first manifest is durable, as the store showed at `now`.
    #[must_use]
    pub fn new(begins: Beginning, options: Options, now: Instant) -> Self {
        let Beginning { manifest, crc, retention, is_claimed, blocks } = begins;
        let owner = manifest.owner();
        let (epoch, attempt) = (owner.epoch, owner.attempt);
        let writer = Writer::new(manifest.backend.clone(), epoch.number, blocks);
        // The shape of the opening manifest decides for the whole epoch.
        let writer = if manifest.shape.changelog { writer } else { writer.silenced() };
        // Ids increase within an attempt, not within an epoch: a second owner of the attempt goes on above the ids of
        // the first. A later attempt begins anew.
        let same_attempt = manifest.checkpoints.iter().filter(|record| record.attempt == attempt);
        let last_id = same_attempt.map(|record| record.identity.id).max().unwrap_or(0);
        let mut ledger =
            Ledger::new(epoch.number, retention, manifest.checkpoints.clone(), last_id).of_run(owner.job_run.clone());
        if let Some((restored, attempt)) = owner.restored {
            ledger.begin((attempt, restored.id));
        }
        let is_own = |record: &CheckpointRecord| record.identity.epoch == epoch.number;
        // `confirmed_to`, retention and notices tell own checkpoints from restored ones by their epoch.
        assert!(!manifest.checkpoints.iter().any(is_own), "an epoch begins without checkpoints");
        Self {
            epoch,
            options,
            writer,
            ledger,
            crc,
            publishing: Publishing::Idle,
            pages_under_way: false,
            // Above the numbers of all pages that openers of this epoch wrote, those included that lost the race for
            // its number. So no page of this owner has the number of a stranger's page, and its first low water rules
            // all of those out.
            next_page: manifest.page_low_water,
            opened_number: manifest.number,
            deleted_below: 0,
            settling: false,
            heard: now,
            dirty_since: None,
            withdrawing: false,
            closing: false,
            base: None,
            files_to: 0,
            snapshots: BTreeMap::new(),
            since_barrier: SinceBarrier::default(),
            sustained: if is_claimed { Sustained::Claimed } else { Sustained::NotYet },
            rules: Rules::default(),
            manifest,
        }
    }

    /// The epoch of the owner.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The changelog of the owner.
    #[must_use]
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// The checkpoints of the owner.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Its newest manifest, with the present log index. Checkpoints are those of the last manifest that was begun.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its newest materialization, on which new checkpoints build.
    #[must_use]
    pub fn base(&self) -> Option<&Materialization> {
        self.base.as_ref()
    }

    /// Whether its next manifest, or the one under way, is the last.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// The id of its first checkpoint, from which on it needs none of the objects that it restored and must not claim.
    /// 0 if there is none yet, or if it claimed them.
    #[must_use]
    pub fn sustained_since(&self) -> CheckpointId {
        match self.sustained {
            Sustained::Since(id) => id,
            Sustained::Claimed | Sustained::NotYet => 0,
        }
    }

    /// Begins to log batch `number`, applied at `time`, which never goes back.
    pub fn begin_batch(&mut self, number: u64, time: TimeMs) {
        self.writer.begin_batch(number, time);
    }

    /// The log, for changes of the open batch.
    #[inline]
    pub fn log(&mut self) -> Log<'_> {
        Log { writer: &mut self.writer, changes: &mut self.since_barrier.changes }
    }

    /// Ends the batch; `len_before` is the writer's `active_bytes` before it began. Returns the bytes appended.
    pub fn end_batch(&mut self, len_before: usize) -> u64 {
        let appended = self.writer.end_batch(len_before);
        self.since_barrier.bytes += appended;
        appended
    }

    /// Ends the batch and removes its changes from the log. Without an open batch, nothing happens.
    pub fn abandon_batch(&mut self) {
        self.writer.abandon_batch();
    }

    /// Closes the active block of the log; returns the change set to upload, if there are changes.
    pub fn roll_over(&mut self) -> Option<ChangeSet> {
        let set = self.writer.roll_over();
        self.assert_in_order();
        set
    }

    /// Notes that the change set of `handle` is durable.
    pub fn on_uploaded(&mut self, handle: SegmentHandle) -> Uploaded {
        let uploaded = self.writer.on_uploaded(handle);
        let is_listed = !uploaded.handles.is_empty();
        if is_listed {
            self.list(uploaded.handles);
        }
        self.assert_in_order();
        Uploaded { is_listed, released_bytes: uploaded.released_bytes }
    }

    /// Adds handles, which continue the log without a gap, to the log index.
    pub(super) fn list(&mut self, handles: impl IntoIterator<Item = SegmentHandle>) {
        let run = self.manifest.runs.entry(self.epoch.number).or_default();
        for handle in handles {
            let last = run.handles.last().map(|last| last.range.to);
            // If all handles have moved into pages, there is no last one to compare with; the writer has made the same
            // check.
            assert!(last.is_none_or(|last| last == handle.range.from), "listed change sets abut");
            run.handles.push(handle);
        }
    }

    pub(super) fn assert_in_order(&self) {
        let writer = &self.writer;
        // Checked where positions move, and not per change, which would cost on the path of every write.
        assert!(writer.persisted_to() <= writer.listed_to(), "what is durable is listed");
        assert!(writer.listed_to() <= writer.next(), "what is listed was appended");
        let is_past = |base: &Materialization| base.complete_at <= writer.next();
        assert!(self.base.as_ref().is_none_or(is_past), "a base is of the past");
        assert!(writer.listed_to() >= Sqn::first_of(self.epoch.number), "a log is of one epoch");
    }

    pub(super) fn obeys(&self, rule: Rule) -> bool {
        self.rules.hold(rule)
    }

    /// The same owner, which breaks one rule.
    #[cfg(test)]
    #[must_use]
    pub fn without(mut self, rule: Option<Rule>) -> Self {
        self.rules = Rules::without(rule);
        self
    }
}
