//! Notices, commits and pins: the checkpoints that they release, and how urgent it is.

use super::{rules::Rule, state::Owner};
use crate::{
    checkpoint::{
        ledger::{NoticeKind, NoticeOutcome, NoticeTarget},
        manifest::CheckpointRecord,
    },
    types::CheckpointId,
};

/// Whether a notice of this kind says that a checkpoint must not be restored.
fn ends(kind: NoticeKind) -> bool {
    matches!(kind, NoticeKind::Abort | NoticeKind::Discard)
}

impl Owner {
    /// Whether a notice makes a checkpoint in flight fail. A notice about another epoch never does.
    #[must_use]
    pub fn is_failed_by(&self, kind: NoticeKind, target: NoticeTarget) -> bool {
        // An engine may count ids from 1 again after a restart. A late abort of the old checkpoint 3 must not fail the
        // new one.
        let epoch = if self.obeys(Rule::NoticesNameEpochs) { target.epoch } else { self.epoch.number };
        ends(kind) && self.ledger.means_in_flight(NoticeTarget { epoch, ..target })
    }

    /// Carries out a notice about a published checkpoint. Idempotent.
    pub fn notice(&mut self, kind: NoticeKind, target: NoticeTarget) -> NoticeOutcome {
        let retained = self.ledger.retained().len();
        let outcome = self.ledger.notice(kind, target);
        if ends(kind) && outcome == NoticeOutcome::Done {
            // The checkpoint must not come back after a crash, so a manifest without it is written at once.
            self.withdrawing = true;
        }
        let is_less = self.ledger.retained().len() < retained;
        assert!(!is_less || self.ledger.is_dirty(), "what is let go leaves the manifest");
        outcome
    }

    /// Releases a checkpoint that will not be restored. It leaves the manifest with the next notices.
    pub fn let_go(&mut self, target: NoticeTarget) {
        self.ledger.notice(NoticeKind::Discard, target);
    }

    /// Notes that `target` is committed for the whole job, which lets older uncompleted checkpoints go.
    pub fn commit(&mut self, target: NoticeTarget) -> NoticeOutcome {
        self.ledger.commit(target)
    }

    /// Completes the checkpoints of earlier owners for which `is_committed`.
    pub fn recall(&mut self, is_committed: impl Fn(&CheckpointRecord) -> bool) {
        self.ledger.recall(is_committed);
    }

    /// Keeps the checkpoint `id` of this epoch, in flight or retained, until [`let_loose`](Self::let_loose).
    pub fn hold(&mut self, id: CheckpointId) {
        self.ledger.hold(id);
    }

    /// Ends a [`hold`](Self::hold). A checkpoint that `was_for_it` goes, unless it completed or was pinned meanwhile.
    pub fn let_loose(&mut self, id: CheckpointId, was_for_it: bool) {
        self.ledger.let_loose(id, was_for_it);
    }

    /// Pins a retained checkpoint; `false` if it is not retained.
    pub fn pin(&mut self, target: NoticeTarget) -> bool {
        self.ledger.pin(target)
    }

    /// Removes a pin; `None` if there is no such checkpoint, otherwise whether it was pinned.
    pub fn release(&mut self, target: NoticeTarget) -> Option<bool> {
        self.ledger.release(target)
    }
}
