//! Marks of checkpoints. With them queries read the newest completed checkpoint while the backend is written, and a
//! task that comes back gets that checkpoint's state from memory, without the store ([`open::warm`](super::open)).
//!
//! Each barrier sets a mark. The mark is kept while its checkpoint may still be completed, and while its checkpoint is
//! the newest completed one. A batch of a query keeps its mark until the batch ends. The restored checkpoint counts as
//! the first completed one.

use std::collections::BTreeMap;

use super::core::{Condition, Core, signed};
use crate::{
    checkpoint::ledger::{NoticeOutcome, NoticeTarget},
    error::{Error, Reason},
    state::{
        StateBackend,
        undo::{Mark, Recording, Undo},
    },
    types::{CheckpointId, CheckpointIdentity, StateKind},
};

/// The mark of the restored checkpoint. Marks of barriers are the checkpoints' ids, which begin at 1.
const RESTORED: Mark = Mark(0);

/// Most records of dropped marks that one batch moves to earlier marks.
const SETTLED_PER_BATCH: usize = 256;

/// The marks of one backend.
#[derive(Debug)]
pub(super) struct Marks {
    pub(super) undo: Undo,
    /// The checkpoint of each mark, and the length of its log.
    known: BTreeMap<Mark, MarkedCut>,
    /// Marks up to this one can no longer be rolled back to, with the reason.
    closed: Option<(Mark, &'static str)>,
    /// The newest completed checkpoint, and its mark.
    completed: Option<(CheckpointIdentity, Mark)>,
    /// Number of batches that read each mark.
    readers: BTreeMap<Mark, usize>,
    /// Bytes and dropped marks that are counted in the metrics so far.
    counted: (u64, u64),
}

/// A checkpoint at its mark.
#[derive(Debug, Clone, Copy)]
pub(super) struct MarkedCut {
    identity: CheckpointIdentity,
    /// Changes that a restore would replay after its base.
    pub(super) log_changes: u64,
}

impl Marks {
    /// The marks of a backend that contains `restored`, with `log_changes` changes of log.
    pub(super) fn new(undo: Undo, restored: Option<CheckpointIdentity>, log_changes: u64) -> Self {
        let mut marks = Self {
            undo,
            known: BTreeMap::new(),
            closed: None,
            completed: restored.map(|identity| (identity, RESTORED)),
            readers: BTreeMap::new(),
            counted: (0, 0),
        };
        if let Some(identity) = restored {
            marks.mark(RESTORED, MarkedCut { identity, log_changes });
        }
        marks
    }

    fn mark(&mut self, mark: Mark, cut: MarkedCut) {
        self.undo.mark(mark);
        self.known.insert(mark, cut);
    }

    /// The mark of checkpoint `to`, if the state can be rolled back to it.
    ///
    /// # Errors
    /// Why the state cannot be rolled back to it.
    pub(super) fn way_back(&self, to: &CheckpointIdentity) -> Result<(Mark, MarkedCut), String> {
        let found = self.known.iter().find(|(mark, cut)| cut.identity == *to && self.undo.has(**mark));
        let none = || match self.undo.dropped() {
            0 => format!("checkpoint {} is not one of which changes since are kept", to.id),
            _ => format!("more has changed since checkpoint {} than `memory.undo` holds, or it is an older one", to.id),
        };
        let (mark, cut) = found.ok_or_else(none)?;
        match self.closed.filter(|(closed, _)| mark <= closed) {
            Some((_, why)) => Err(format!("{why} after checkpoint {}", to.id)),
            None => Ok((*mark, *cut)),
        }
    }
}

/// An inner backend that is about to be changed.
pub(super) enum Live<'a> {
    /// Overwritten entries are not recorded.
    Plain(&'a mut dyn StateBackend),
    /// Overwritten entries are recorded for the marks.
    Recorded(Recording<'a>),
}

impl<'a> Live<'a> {
    /// For changes of a state of `kind`.
    pub(super) fn new(marks: &'a mut Option<Marks>, inner: &'a mut dyn StateBackend, kind: StateKind) -> Self {
        match marks {
            Some(marks) if marks.undo.is_recording() => Self::Recorded(marks.undo.recording(inner, kind)),
            _ => Self::Plain(inner),
        }
    }

    pub(super) fn backend(&mut self) -> &mut dyn StateBackend {
        match self {
            Self::Plain(inner) => *inner,
            Self::Recorded(recording) => recording,
        }
    }
}

impl Core {
    /// Sets the mark of a checkpoint that was just cut.
    pub(super) fn mark_checkpoint(&mut self, identity: CheckpointIdentity) {
        if let Some(marks) = &mut self.marks {
            marks.mark(Mark(identity.id), MarkedCut { identity, log_changes: self.log_changes });
        }
    }

    /// Rules out rolling back to the marks so far, because of an event that cannot be undone.
    pub(super) fn close_way_back(&mut self, why: &'static str) {
        if let Some(marks) = &mut self.marks {
            marks.closed = marks.known.keys().next_back().map(|newest| (*newest, why));
        }
    }

    /// Notes that a checkpoint was completed.
    pub(super) fn mark_completed(&mut self, target: NoticeTarget, outcome: NoticeOutcome) {
        let (Some(marks), NoticeOutcome::Done) = (&mut self.marks, outcome) else { return };
        let same = |identity: &CheckpointIdentity| identity.epoch == target.epoch && identity.id == target.id;
        let is_newest = marks.completed.is_none_or(|(_, mark)| Mark(target.id) > mark);
        if target.epoch == self.owner.epoch().number
            && is_newest
            && let Some(record) = self.owner.ledger().retained().iter().find(|record| same(&record.identity))
        {
            marks.completed = Some((record.identity, Mark(target.id)));
        }
    }

    /// Drops every mark that is no longer needed. Call it after the ledger has changed.
    pub(super) fn retain_marks(&mut self) {
        // An owner that ends fails checkpoints that may be published already. Its successor decides which marks it
        // needs.
        if matches!(self.condition, Condition::Ended(_)) {
            return;
        }
        let Some(Marks { undo, completed, readers, known, .. }) = &mut self.marks else { return };
        let (epoch, ledger) = (self.owner.epoch().number, self.owner.ledger());
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
    pub(super) fn tend_marks(&mut self) {
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
            self.env.tasks.spawn(async move { drop(garbage) });
        }
    }

    /// Drops all marks.
    pub(super) fn drop_marks(&mut self) {
        drop(self.take_marks());
    }

    /// Takes all marks out of the core.
    pub(super) fn take_marks(&mut self) -> Option<Marks> {
        let marks = self.marks.take()?;
        self.env.metrics.queries.undone(-signed(marks.counted.0), 0);
        Some(marks)
    }

    /// Keeps the mark of the newest completed checkpoint for one reader, until [`Core::end_reading`].
    ///
    /// # Errors
    /// If there is no completed checkpoint, or its mark was dropped.
    pub(super) fn begin_reading(&mut self) -> Result<(CheckpointIdentity, Mark), Error> {
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
    pub(super) fn check_mark(&self, id: CheckpointId, mark: Mark) -> Result<(), Error> {
        if self.marks.as_ref().is_some_and(|marks| marks.undo.has(mark)) {
            return Ok(());
        }
        Err(not_yet(format!(
            "backend `{}`: more has changed since checkpoint {id} than `memory.undo` ({} bytes) can hold; ask again once the \
             next one is completed, or raise the setting",
            self.id, self.env.options.undo_memory
        )))
    }

    /// Notes that a reader of `mark` has ended.
    pub(super) fn end_reading(&mut self, mark: Mark) {
        let Some(marks) = &mut self.marks else { return };
        if let Some(readers) = marks.readers.get_mut(&mark) {
            *readers -= 1;
            if *readers == 0 {
                marks.readers.remove(&mark);
            }
        }
        self.retain_marks();
    }
}

/// The error while there is no completed checkpoint to read yet. Retryable.
fn not_yet(text: String) -> Error {
    Error { retryable: true, ..Error::new(Reason::CheckpointNotFound, text) }
}
