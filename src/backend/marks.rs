//! Marks of checkpoints: what lets queries read the newest completed one beside the writer, and a task that comes back
//! have its state in memory of then without the store ([`open::warm`](super::open)).
//!
//! Each barrier sets a mark. It is kept while its checkpoint may still be completed, and while it is the newest that
//! was; a batch of a query keeps the one that it reads to its end. The restored checkpoint is the first completed one.

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

/// Of the restored checkpoint: those of barriers are their ids, which begin at 1.
const RESTORED: Mark = Mark(0);

/// Records that a batch moves from closed marks to the ones before, at most.
const SETTLED_PER_BATCH: usize = 256;

/// The marks of one backend.
#[derive(Debug)]
pub(super) struct Marks {
    pub(super) undo: Undo,
    /// Of which checkpoint each is, and how long its log was.
    known: BTreeMap<Mark, MarkedCut>,
    /// There is no way back to this mark, and those before, and why.
    closed: Option<(Mark, &'static str)>,
    /// The newest checkpoint that is completed, and its mark.
    completed: Option<(CheckpointIdentity, Mark)>,
    /// Batches that read each mark.
    readers: BTreeMap<Mark, usize>,
    /// Bytes and dropped marks that are counted in the metrics.
    counted: (u64, u64),
}

/// A checkpoint as it was at its mark.
#[derive(Debug, Clone, Copy)]
pub(super) struct MarkedCut {
    identity: CheckpointIdentity,
    /// Changes that a restore would replay after its base.
    pub(super) log_changes: u64,
}

impl Marks {
    /// For a backend that contains `restored`, with so many changes of log.
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

    /// The mark of a checkpoint that everything can be brought back to.
    ///
    /// # Errors
    /// Why it cannot.
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

/// An inner backend to change.
pub(super) enum Live<'a> {
    /// No marks want to know.
    Plain(&'a mut dyn StateBackend),
    /// What is overwritten is recorded.
    Recorded(Recording<'a>),
}

impl<'a> Live<'a> {
    /// Of a state of `kind`.
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

    /// Nothing can be brought back to the marks so far, because of what happened now.
    pub(super) fn close_way_back(&mut self, why: &'static str) {
        if let Some(marks) = &mut self.marks {
            marks.closed = marks.known.keys().next_back().map(|newest| (*newest, why));
        }
    }

    /// Takes notice that a checkpoint was completed.
    pub(super) fn mark_completed(&mut self, target: NoticeTarget, outcome: NoticeOutcome) {
        let (Some(marks), NoticeOutcome::Done) = (&mut self.marks, outcome) else { return };
        let same = |identity: &CheckpointIdentity| identity.epoch == target.epoch && identity.id == target.id;
        let is_newest = marks.completed.is_none_or(|(_, mark)| Mark(target.id) > mark);
        if target.epoch == self.epoch.number
            && is_newest
            && let Some(record) = self.ledger.retained().iter().find(|record| same(&record.identity))
        {
            marks.completed = Some((record.identity, Mark(target.id)));
        }
    }

    /// Lets go of every mark that nobody needs. To be called after the ledger has changed.
    pub(super) fn retain_marks(&mut self) {
        // An owner that ends fails checkpoints that may be published already: its successor knows.
        if matches!(self.condition, Condition::Ended(_)) {
            return;
        }
        let Some(Marks { undo, completed, readers, known, .. }) = &mut self.marks else { return };
        let (epoch, ledger) = (self.epoch.number, &self.ledger);
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

    /// Does a little of what is left to do about marks. To be called after each batch.
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

    /// Forgets all marks.
    pub(super) fn drop_marks(&mut self) {
        drop(self.take_marks());
    }

    /// Hands all marks out.
    pub(super) fn take_marks(&mut self) -> Option<Marks> {
        let marks = self.marks.take()?;
        self.env.metrics.queries.undone(-signed(marks.counted.0), 0);
        Some(marks)
    }

    /// Keeps the mark of the newest completed checkpoint for one reader, until [`Core::end_reading`].
    ///
    /// # Errors
    /// There is none, or its mark went.
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

    /// Whether the mark of a completed checkpoint is still there.
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

    /// A reader of `mark` has ended.
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

/// There is no completed checkpoint to read, but there will be.
fn not_yet(text: String) -> Error {
    Error { retryable: true, ..Error::new(Reason::CheckpointNotFound, text) }
}
