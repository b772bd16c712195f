//! Materializations: which one is the base, and the snapshots of checkpoints without log.
//!
//! With a log, one materialization at a time is made beside the writer. Without, each checkpoint is a snapshot of its
//! own, several may be under way, and they may end in any order. A running snapshot uses parts of older
//! materializations, so these stay named until it is done.

use uuid::Uuid;

use super::{
    rules::Rule,
    state::{Cut, Owner, Snapshot},
};
use crate::{
    checkpoint::{
        ledger::Awaits,
        manifest::{Contents, Materialization},
    },
    types::{CheckpointId, Sqn},
};

/// How a snapshot goes on when its turn comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It equals this materialization, which is durable.
    Durable(Uuid),
    /// Its missing parts have to be uploaded.
    Works,
}

impl Owner {
    /// Notes that a materialization beside the log is durable, or failed. Files below `next_file` are uploaded or given
    /// up.
    pub fn materialized(&mut self, made: Option<Materialization>, next_file: u64) {
        assert!(next_file >= self.files_to, "numbers of files ascend");
        // Also if the materialization failed: its files will never be named, so the low water may pass them. Otherwise
        // they would stay until the owner ends.
        self.files_to = next_file;
        if let Some(made) = made {
            // Materializations beside the log are made one at a time, so this one is the newest and belongs at the end.
            self.manifest.materializations.push(made.clone());
            self.base = Some(made);
        }
        self.assert_in_order();
    }

    /// Begins the snapshot of checkpoint `id`, whose contents were frozen and are not durable. It may use parts of the
    /// materialization `newest`.
    pub fn begin_snapshot(&mut self, id: CheckpointId, applied_to: u64, newest: Option<Uuid>) -> Cut {
        assert!(self.is_unlogged(), "with a log the log is cut");
        let snapshot =
            Snapshot { cut: self.writer.next(), applied_to, first_file: None, leans_on: newest.into_iter().collect() };
        // `leans_on` has the materialization from this moment on, and not only from the snapshot's turn: another
        // snapshot may complete in between, and the manifest would drop the older one while this snapshot still counts
        // on its parts.
        let before = self.snapshots.insert(id, snapshot);
        assert_eq!(before, None, "a checkpoint has one snapshot");
        Cut { awaits: Awaits::Snapshot, base: None }
    }

    /// The cut of a snapshot that is being made.
    #[must_use]
    pub fn snapshot_cut(&self, id: CheckpointId) -> Option<Sqn> {
        self.snapshots.get(&id).map(|snapshot| snapshot.cut)
    }

    /// Notes that the turn of a snapshot has come; `None` if it was given up. Its files are numbered from `next_file`
    /// on. It may also use parts of the materialization `newest`, which must not have later changes.
    pub fn take_turn(&mut self, id: CheckpointId, next_file: u64, newest: Option<Uuid>) -> Option<Turn> {
        let cut = self.snapshot_cut(id)?;
        // Looked up when the turn comes: while this snapshot waited, another one of the same cut may have become
        // durable.
        let durable = self.base.as_ref().filter(|base| self.equals(base.complete_at, cut)).map(|base| base.uuid);
        let snapshot = self.snapshots.get_mut(&id)?;
        assert_eq!(snapshot.first_file, None, "a turn comes once");
        // A durable materialization may be released by others before this snapshot is done, so it leans on that, too.
        // Added and not replaced: the parts that were frozen at the beginning may come from the older materialization.
        if let Some(used) = durable.or(newest).filter(|used| snapshot.leans_on.last() != Some(used)) {
            snapshot.leans_on.push(used);
        }
        if let Some(durable) = durable {
            return Some(Turn::Durable(durable));
        }
        // From here on the low water of files stays at or below this number until the snapshot ends.
        snapshot.first_file = Some(next_file);
        Some(Turn::Works)
    }

    /// Notes that the snapshot of checkpoint `id` is durable: as the materialization `made`, of which `uploaded_bytes`
    /// are new, or as `base`, which was durable when its turn came. Returns whether `made` is the new base; `None` if
    /// the snapshot was given up.
    pub fn snapshotted(&mut self, id: CheckpointId, made: Result<(Materialization, u64), Uuid>) -> Option<bool> {
        // A snapshot that was given up is not here. Its materialization is not taken, and a sweep deletes its files.
        let snapshot = self.snapshots.remove(&id)?;
        // Order: 1. the manifest gets the materialization, 2. the checkpoint gets ready to be published. A manifest
        // with the checkpoint then also has its base.
        let (base, uploaded_bytes, is_newest) = match made {
            Ok((made, uploaded_bytes)) => (made.uuid, uploaded_bytes, self.install(made)),
            Err(durable) => (durable, 0, false),
        };
        assert!(self.manifest.materialization(base).is_some(), "the base of a checkpoint is named");
        self.writer.on_snapshot(snapshot.cut, snapshot.applied_to);
        self.ledger.snapshotted(id, base, uploaded_bytes);
        self.assert_in_order();
        Some(is_newest)
    }

    /// Adds a materialization in the order of the cuts: the manifest and the next owner take the last one for the
    /// newest. Returns whether it is the newest.
    fn install(&mut self, made: Materialization) -> bool {
        let all = &mut self.manifest.materializations;
        // Snapshots end in any order, so one that ends late may be older than the last one of the list.
        let is_newer = |other: &Materialization| other.complete_at > made.complete_at;
        let position = all.iter().rposition(|other| !is_newer(other)).map_or(0, |before| before + 1);
        let is_newest = position == all.len();
        all.insert(position, made.clone());
        if is_newest {
            self.base = Some(made);
        }
        is_newest
    }

    /// The contents that the manifest keeps for running snapshots.
    pub fn snapshot_contents(&self) -> impl Iterator<Item = Contents> + '_ {
        let bases = self.snapshots.values().flat_map(|snapshot| &snapshot.leans_on);
        bases.map(|uuid| Contents { base: Some(*uuid), ..Contents::default() })
    }

    /// Snapshot files of this epoch below this number will never be named, except those that the manifest names now.
    /// The next file has number `next_file`.
    #[must_use]
    pub fn snapshot_low_water(&self, next_file: u64) -> u64 {
        // With a log one materialization at a time is made, and `files_to` moves when it ends. So files in the making
        // are above it already.
        if !self.is_unlogged() {
            return self.files_to;
        }
        let running = self.snapshots.values().filter_map(|snapshot| snapshot.first_file);
        let running = running.filter(|_| self.obeys(Rule::FilesInTheMaking));
        running.fold(next_file, u64::min)
    }

    /// Whether a materialization that is complete at `complete_at` has exactly the contents of `cut`.
    pub(super) fn equals(&self, complete_at: Sqn, cut: Sqn) -> bool {
        complete_at == cut || (complete_at < cut && !self.obeys(Rule::ExactCuts))
    }
}
