//! When marks are set, kept and dropped: with each barrier, notice and batch.

use super::{
    Table,
    marks::{MarkedCut, Marks},
};
use crate::{
    backend::metrics::signed,
    checkpoint::{
        ledger::{NoticeOutcome, NoticeTarget},
        owner::Owner,
    },
    error::{Error, Reason},
    state::undo::Mark,
    types::{CheckpointId, CheckpointIdentity},
};

/// Most records of dropped marks that one batch moves to earlier marks.
const SETTLED_PER_BATCH: usize = 256;

impl Table {
    /// Sets the mark of a checkpoint that was just cut.
    pub(crate) fn mark_checkpoint(&mut self, identity: CheckpointIdentity, log_changes: u64) {
        if let Some(marks) = &mut self.marks {
            marks.mark(Mark(identity.id), MarkedCut { identity, log_changes });
        }
    }

    /// Rules out rolling back to the marks so far, because of an event that cannot be undone.
    pub(crate) fn close_way_back(&mut self, why: &'static str) {
        if let Some(marks) = &mut self.marks {
            // Marks that are set later are not concerned: the event is before them.
            marks.closed = marks.known.keys().next_back().map(|newest| (*newest, why));
        }
    }

    /// Notes that a checkpoint was completed.
    pub(crate) fn mark_completed(&mut self, owner: &Owner, target: NoticeTarget, outcome: NoticeOutcome) {
        let (Some(marks), NoticeOutcome::Done) = (&mut self.marks, outcome) else { return };
        let same = |identity: &CheckpointIdentity| identity.epoch == target.epoch && identity.id == target.id;
        let is_newest = marks.completed.is_none_or(|(_, mark)| Mark(target.id) > mark);
        // Checkpoints of older owners have no mark here, except for the restored one.
        if target.epoch == owner.epoch().number
            && is_newest
            && let Some(record) = owner.ledger().retained().iter().find(|record| same(&record.identity))
        {
            marks.completed = Some((record.identity, Mark(target.id)));
        }
    }

    /// Drops every mark that is no longer needed. Call it after the ledger has changed.
    pub(crate) fn retain_marks(&mut self, owner: &Owner) {
        let Some(Marks { undo, completed, readers, known, .. }) = &mut self.marks else { return };
        let (epoch, ledger) = (owner.epoch().number, owner.ledger());
        // A mark above the newest completed one may become the next: its checkpoint is in flight, or published and not
        // completed yet.
        let newest = completed.map(|(_, mark)| mark);
        let may_complete = |mark: Mark| {
            let retained = || ledger.retained().iter().map(|record| &record.identity);
            newest.is_none_or(|newest| mark > newest)
                && (ledger.in_flight_ids().any(|id| Mark(id) == mark)
                    || retained().any(|identity| identity.epoch == epoch && Mark(identity.id) == mark))
        };
        undo.retain(|mark| newest == Some(mark) || readers.contains_key(&mark) || may_complete(mark));
        known.retain(|mark, _| undo.has(*mark));
        self.tend_marks();
    }

    /// Does a small part of the pending work on marks. Call it after each batch.
    pub(crate) fn tend_marks(&mut self) {
        let Some(Marks { undo, completed, counted, .. }) = &mut self.marks else { return };
        undo.settle(&self.inner, SETTLED_PER_BATCH);
        let now = (undo.bytes(), undo.dropped());
        self.env.metrics.queries.undone(signed(now.0) - signed(counted.0), now.1 - counted.1);
        let is_lost = now.1 > counted.1 && completed.is_some_and(|(_, mark)| !undo.has(mark));
        if is_lost && self.env.options.queries {
            tracing::warn!(
                backend = %self.id,
                limit_bytes = self.env.options.undo_memory,
                "`memory.undo` is too small for what changes between checkpoints: the completed one cannot be queried until the \
                 next one completes"
            );
        }
        *counted = now;
        if let Some(garbage) = undo.take_garbage() {
            // Many records take a while to drop, and batches would wait for it.
            self.env.tasks.spawn(async move { drop(garbage) });
        }
    }

    /// Drops all marks.
    pub(super) fn drop_marks(&mut self) {
        drop(self.take_marks());
    }

    /// Takes all marks out.
    pub(super) fn take_marks(&mut self) -> Option<Marks> {
        let marks = self.marks.take()?;
        self.env.metrics.queries.undone(-signed(marks.counted.0), 0);
        Some(marks)
    }

    /// Keeps the mark of the newest completed checkpoint for one reader, until [`Table::end_reading`].
    ///
    /// # Errors
    /// If there is no completed checkpoint, or its mark was dropped.
    pub(crate) fn begin_reading(&mut self) -> Result<(CheckpointIdentity, Mark), Error> {
        let Some((identity, mark)) = self.marks.as_ref().and_then(|marks| marks.completed) else {
            return Err(not_yet(format!("backend `{}`: its owner has no completed checkpoint yet", self.id)));
        };
        self.check_mark(identity.id, mark)?;
        if let Some(marks) = &mut self.marks {
            *marks.readers.entry(mark).or_default() += 1;
        }
        Ok((identity, mark))
    }

    /// Checks that the mark of a completed checkpoint is still there.
    ///
    /// # Errors
    /// Why it is not.
    pub(crate) fn check_mark(&self, id: CheckpointId, mark: Mark) -> Result<(), Error> {
        if self.marks.as_ref().is_some_and(|marks| marks.undo.has(mark)) {
            return Ok(());
        }
        Err(not_yet(format!(
            "backend `{}`: more has changed since checkpoint {id} than `memory.undo` ({} bytes) can hold; ask again once the \
             next one is completed, or raise the setting",
            self.id, self.env.options.undo_memory
        )))
    }

    /// Notes that a reader of `mark` has ended. The caller then [retains](Self::retain_marks) the marks that are
    /// needed.
    pub(crate) fn end_reading(&mut self, mark: Mark) {
        let Some(marks) = &mut self.marks else { return };
        if let Some(readers) = marks.readers.get_mut(&mark) {
            *readers -= 1;
            if *readers == 0 {
                marks.readers.remove(&mark);
            }
        }
    }
}

/// The error while there is no completed checkpoint to read yet. Retryable.
fn not_yet(text: String) -> Error {
    Error { retryable: true, ..Error::new(Reason::CheckpointNotFound, text) }
}
