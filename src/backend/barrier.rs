//! Barriers: the reasons to refuse one, its cut, and the checkpoints that give way to it.

use std::fmt::Write as _;

use tokio::time::Instant;

use super::{
    bases::snapshots::Snapshot,
    core::Core,
    error,
    holds::Hold,
    outbox::SessionEvent,
    publication::completed,
    waiters::{CheckpointReply, Flight},
    words::BarrierRequest,
};
use crate::{
    checkpoint::owner::{Barrier, Cut, RolledOver, Tails},
    error::{Error, Reason},
    types::CheckpointId,
};

/// Most answers that a session may wait for: checkpoints and persist requests under way, and events that were not sent
/// yet.
const MOST_OWED: usize = 4096;

/// Takes a barrier: cuts the log here, or the state if there is no changelog.
///
/// # Errors
/// If its id is not above the last one, its attachment is too long, or there are too many checkpoints. Nothing was cut.
pub(super) fn take(core: &mut Core, request: BarrierRequest, reply: CheckpointReply) -> Result<(), Error> {
    let triggered = Instant::now();
    core.check_writable()?;
    let options = core.env.options.clone();
    let limits = &options.limits;
    if request.id == 0 {
        return Err(Error::new(Reason::InvalidArgument, "checkpoint id 0: ids begin at 1"));
    }
    if request.attachment.len() > limits.max_attachment_bytes {
        let (bytes, most) = (request.attachment.len(), limits.max_attachment_bytes);
        let text = format!("an attachment of {bytes} bytes: at most {most} are allowed");
        return Err(Error::new(Reason::LimitExceeded, text));
    }
    // Ordering 1: every check that can refuse the barrier, so that a refusal leaves no cut behind. Room is made first,
    // since the check may ask for exactly that room. The checkpoints that give way were beyond the retention anyway.
    if core.owner.make_room(limits.max_retained_checkpoints) {
        core.retain_marks();
    }
    let checked = core.owner.check(request.id, limits.max_concurrent_checkpoints, limits.max_retained_checkpoints);
    checked.map_err(|refusal| error::trigger(&refusal))?;
    let deadline = triggered + request.timeout.unwrap_or(options.checkpoint_timeout);
    // Ordering 2: the cut, in the same hold of the lock as the record below. A batch between the two would be below the
    // record's `applied_to` without being in the snapshot: once the checkpoint completes, the batch would be told as
    // confirmed, and a restore would not have it. A disk fault refuses here, when nothing is recorded yet.
    let unlogged = core.owner.is_unlogged();
    let cut = if unlogged { cut_state(core, request.id, deadline)? } else { cut_log(core) };
    // Ordering 3: only now older checkpoints give way. If they did so before the cut, a barrier that the disk refuses
    // would have cost a checkpoint that was about to complete.
    make_way(core, request.id);
    let barrier = Barrier {
        id: request.id,
        uuid: core.env.random.uuid(),
        attachment: request.attachment,
        applied_to: core.seat.next_batch(),
        triggered_at: core.env.clock.now_ms(),
        time: core.table.time(),
        states_to: core.table.states().last_id(),
        missing_states: core.table.states().unbound().collect(),
    };
    // Ordering 4: ledger and flight together, so that a failure from here on answers the caller. A checkpoint of the
    // ledger without a flight would end without any answer.
    let identity = core.owner.trigger(barrier, cut);
    if let CheckpointReply::Session(number) = reply {
        core.seat.remember_barrier(request.id, number);
    }
    core.waiters.depart(request.id, Flight { reply, deadline, triggered, cut: Instant::now(), persisted: None });
    // Ordering 5: the mark, before the lock is let go, so that it is of exactly this moment. Then the upload of the
    // snapshot, whose task finds the checkpoint in the ledger whenever it gets the core.
    core.table.mark_checkpoint(identity, core.bases.log_changes());
    core.bases.snapshots.begin(request.id);
    core.env.metrics.checkpoint_triggered();
    Ok(())
}

/// Takes a barrier, and holds its checkpoint.
///
/// # Errors
/// As [`take`].
pub(super) fn take_held(
    core: &mut Core,
    request: BarrierRequest,
    reply: CheckpointReply,
    hold: Hold,
) -> Result<(), Error> {
    let id = request.id;
    take(core, request, reply)?;
    core.owner.hold(id);
    core.holds.add(id, hold);
    Ok(())
}

/// Recognises a barrier that session `session` sends again after the stream of an older session broke. Such a barrier
/// cuts nothing new; its answer is sent again. Returns whether it was one.
pub(super) fn is_repeated(core: &mut Core, id: CheckpointId, session: u64) -> bool {
    // Only a barrier of an older session counts as a repetition. One that the same session sends twice is refused by
    // the ledger.
    let Some(failure) = core.seat.repeated_barrier(id, session) else { return false };
    if core.waiters.hand_over(id, session) {
        return true;
    }
    let failed = |error| SessionEvent::CheckpointFailed { id, error };
    let epoch = core.owner.epoch().number;
    let mut published = core.owner.ledger().retained().iter();
    let published = published.find(|record| record.identity.id == id && record.identity.epoch == epoch);
    let event = match (failure, published) {
        (Some(error), _) => failed(error),
        (None, Some(record)) => SessionEvent::CheckpointCompleted(Box::new(completed(core, record, None))),
        (None, None) => {
            let text = format!("backend `{}`: checkpoint {id} was let go since: a notice or retention did it", core.id);
            failed(Error::new(Reason::CheckpointAborted, text))
        }
    };
    core.seat.tell(event);
    true
}

/// Refuses a request of the session if too many answers are waiting already. So no answer ever has to be dropped.
///
/// # Errors
/// [`Reason::LimitExceeded`], retryable.
pub(super) fn check_owed(core: &Core) -> Result<(), Error> {
    // Events that were not taken count as well: a client that sends barriers and reads nothing would fill its outbox
    // otherwise.
    let owed = core.seat.unsent() + core.waiters.len();
    if owed < MOST_OWED {
        return Ok(());
    }
    let text = format!("{owed} answers are owed to the session of `{}`, the most there may be; wait for some", core.id);
    Err(Error { retryable: true, ..Error::new(Reason::LimitExceeded, text) })
}

/// Cuts the log. The changes that are not yet durable go into the manifest itself if they are short, otherwise to the
/// uploads.
fn cut_log(core: &mut Core) -> Cut {
    let options = &core.env.options;
    let tails = Tails { most_bytes: options.data_inline_threshold, compression: options.compression };
    let (cut, rolled) = core.owner.cut_log(tails);
    match rolled {
        RolledOver::Nothing => {}
        RolledOver::Inlined => core.env.metrics.tail_inlined(),
        RolledOver::Upload(set) => core.uploading.submit(set, false),
    }
    cut
}

/// Cuts the present contents for checkpoint `id`, and freezes them unless they are durable.
///
/// # Errors
/// If the local disk fails: nothing was frozen.
fn cut_state(core: &mut Core, id: CheckpointId, deadline: Instant) -> Result<Cut, Error> {
    let applied_to = core.seat.next_batch();
    if let Some(cut) = core.owner.cut_durable(applied_to) {
        return Ok(cut);
    }
    let Core { table, bases, owner, .. } = core;
    // Ordering: the table is frozen first, and owner and bases hear of the snapshot only then. The disk may refuse to
    // freeze, and there is nothing to take back that way.
    let newest = bases.previous().cloned();
    let frozen = table.begin_cut(id, newest.as_ref(), bases.snapshots.newest_images());
    let images = frozen.map_err(|fault| error::local_store(&fault))?;
    // The cut does without the pieces that `newest` has. So the owner keeps `newest` named in its manifests until the
    // snapshot is done.
    let cut = owner.begin_snapshot(id, applied_to, newest.as_ref().map(|newest| newest.uuid()));
    bases.snapshots.add(id, Snapshot::new(Instant::now(), deadline, newest.as_ref(), images));
    core.env.metrics.materialization_started();
    Ok(cut)
}

/// Fails the oldest checkpoints in flight that may give way, until there is room for `newest`.
fn make_way(core: &mut Core, newest: CheckpointId) {
    let most = core.env.options.limits.max_concurrent_checkpoints;
    while let Some(id) = core.owner.gives_way(most) {
        let text = format!(
            "backend `{}`: checkpoint {id} gives way to checkpoint {newest}: more than {most} would be in flight, the most that \
             `execution.checkpointing.max-concurrent-checkpoints` allows; its changes are kept and go into the next one",
            core.id
        );
        core.fail_checkpoint(id, Error::new(Reason::TooManyCheckpoints, text));
    }
}

/// Fails every checkpoint in flight whose deadline is over.
pub(super) fn expire(core: &mut Core, now: Instant) {
    for id in core.waiters.late(now) {
        let error = timed_out(core, id, "its changes are kept and go into the next one");
        core.fail_checkpoint(id, error);
    }
}

/// The error for a checkpoint in flight that took too long, with the store's last error in that time.
pub(super) fn timed_out(core: &Core, id: CheckpointId, and: &str) -> Error {
    let mut text = format!("backend `{}`: checkpoint {id} was not durable in time", core.id);
    if let Some(Flight { triggered, deadline, .. }) = core.waiters.flight(id) {
        let _ = write!(text, ", within {:?}", *deadline - *triggered);
        let _ = match core.env.store.trouble(*triggered) {
            Some((ago, why)) => write!(text, "; the store's last error, {:.1} s ago: {why}", ago.as_secs_f64()),
            None => write!(text, "; the store has told no error meanwhile: it is slow, or does not answer yet"),
        };
    }
    let _ = write!(text, "; {and}");
    Error::new(Reason::CheckpointTimeout, text)
}
