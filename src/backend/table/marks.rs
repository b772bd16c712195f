//! Marks of checkpoints. With them queries read the newest completed checkpoint while the backend is written, and a
//! task that comes back gets that checkpoint's state from memory, without the store (`open::warm`).
//!
//! Each barrier sets a mark. The mark is kept while its checkpoint may still be completed, and while its checkpoint is
//! the newest completed one. A batch of a query keeps its mark until the batch ends. The restored checkpoint counts as
//! the first completed one.

use std::collections::BTreeMap;

use crate::{
    state::{
        StateBackend,
        undo::{Mark, Recording, Undo},
    },
    types::{CheckpointIdentity, StateKind},
};

/// The mark of the restored checkpoint. Marks of barriers are the checkpoints' ids, which begin at 1.
const RESTORED: Mark = Mark(0);

/// The marks of one backend.
#[derive(Debug)]
pub(crate) struct Marks {
    pub(crate) undo: Undo,
    /// The checkpoint of each mark, and the length of its log.
    pub(super) known: BTreeMap<Mark, MarkedCut>,
    /// Marks up to this one can no longer be rolled back to, with the reason.
    pub(super) closed: Option<(Mark, &'static str)>,
    /// The newest completed checkpoint, and its mark.
    pub(super) completed: Option<(CheckpointIdentity, Mark)>,
    /// Number of batches that read each mark.
    pub(super) readers: BTreeMap<Mark, usize>,
    /// Bytes and dropped marks that are counted in the metrics so far.
    pub(super) counted: (u64, u64),
}

/// A checkpoint at its mark.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MarkedCut {
    pub(super) identity: CheckpointIdentity,
    /// Changes that a restore would replay after its base.
    pub(crate) log_changes: u64,
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

    /// Sets the mark of a checkpoint.
    pub(super) fn mark(&mut self, mark: Mark, cut: MarkedCut) {
        self.undo.mark(mark);
        self.known.insert(mark, cut);
    }

    /// The mark of checkpoint `to`, if the state can be rolled back to it.
    ///
    /// # Errors
    /// Why the state cannot be rolled back to it.
    pub(crate) fn way_back(&self, to: &CheckpointIdentity) -> Result<(Mark, MarkedCut), String> {
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
            // Every overwritten entry is looked up once more to be recorded, so nothing is recorded without need.
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
