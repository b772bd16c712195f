//! Notices of the engine, and the ends of holds: which checkpoints they fail, complete or let go.

use super::core::Core;
use crate::{
    checkpoint::ledger::{NoticeKind, NoticeOutcome, NoticeTarget},
    error::{Error, Reason},
    types::CheckpointId,
};

/// Carries out a notice. Idempotent.
pub(super) fn carry_out(core: &mut Core, kind: NoticeKind, target: NoticeTarget) -> NoticeOutcome {
    // A checkpoint in flight is not reported to its job yet, so its notices are for the owner even in a declared job.
    if core.owner.is_failed_by(kind, target) {
        let text = format!("backend `{}`: checkpoint {} was aborted by notice", core.id, target.id);
        core.fail_checkpoint(target.id, Error::new(Reason::CheckpointAborted, text));
        core.want_copies();
        return NoticeOutcome::Done;
    }
    if core.coordinated.as_ref().is_some_and(|coordinated| coordinated.takes(&core.owner, kind, target)) {
        return NoticeOutcome::Coordinated;
    }
    let outcome = core.owner.notice(kind, target);
    // Ordering: first the mark of the completed checkpoint becomes the newest one, then older marks go. The other way
    // round, the mark before it would keep its records until the next notice.
    if kind == NoticeKind::Complete {
        core.table.mark_completed(&core.owner, target, outcome);
    }
    core.retain_marks();
    core.want_copies();
    core.seat.wake();
    outcome
}

/// Ends the hold on a checkpoint.
pub(super) fn let_loose(core: &mut Core, id: CheckpointId) {
    if core.holds.remove(id) {
        // In a declared job it may be about to be committed.
        core.owner.let_loose(id, core.coordinated.is_none());
        core.retain_marks();
        core.want_copies();
    }
}

/// Notes that a reader of a readable checkpoint has ended. The first one lets the checkpoint loose.
pub(super) fn end_reader(core: &mut Core, id: CheckpointId) {
    if core.holds.ends_with_a_reader(id) {
        let_loose(core, id);
    }
}
