//! Barriers, uploads, manifests and notices: how a cut becomes a checkpoint.

use std::{
    fmt::Write as _,
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::oneshot, time::Instant};

use super::{
    core::{Condition, Core, Uploading, signed},
    error,
    handle::Shared,
    outbox::SessionEvent,
};
use crate::{
    changelog::{
        segment::{ChangeSet, SegmentHandle},
        uploader::{Submission, UploadError},
    },
    checkpoint::{
        handle::CheckpointHandle,
        index::NewPage,
        ledger::{NoticeKind, NoticeOutcome, NoticeTarget},
        manifest::CheckpointRecord,
        owner::{Barrier, Cut, Outside, Publication, Published, RolledOver, Tails, Uploaded},
    },
    error::{Error, Reason},
    types::{CheckpointId, CheckpointIdentity},
};

/// Delay before a segment is tried again that the store refused (permissions, configuration).
const REFUSED_DELAY: Duration = Duration::from_secs(1);

/// A request for a checkpoint, from a session or a unary call.
#[derive(Debug, Clone)]
pub struct BarrierRequest {
    /// The checkpoint's id, chosen by the engine.
    pub id: CheckpointId,
    /// Bytes of the task that are stored with the checkpoint.
    pub attachment: Bytes,
    /// Longest time until it is durable; `None` for the configured time.
    pub timeout: Option<Duration>,
}

/// A checkpoint that is restorable.
#[derive(Debug, Clone)]
pub struct CompletedCheckpoint {
    /// The epoch, id and UUID that name it.
    pub identity: CheckpointIdentity,
    /// The encoded handle, with which the engine can restore it.
    pub handle: Bytes,
    /// Batches below this number are part of it.
    pub applied_to: u64,
    /// Bytes of log since the checkpoint before; without changelog, bytes that its snapshot uploaded.
    pub incremental_bytes: u64,
    /// Bytes that a restore of it would read.
    pub full_bytes: u64,
    /// Changes since the checkpoint before.
    pub changes: u64,
    /// Time from the barrier until the cut was made.
    pub sync: Duration,
    /// Time from the cut until all changes, or the snapshot, were durable.
    pub persist: Duration,
    /// Time from then until the manifest was durable.
    pub publish: Duration,
    /// Time from the barrier until now.
    pub total: Duration,
    /// The id of this owner's first checkpoint, from which on it needs none of the objects that it restored and must
    /// not claim. 0 if there is none yet, or if it claimed them.
    pub self_sustained_since: CheckpointId,
}

/// Where the answer to a barrier goes.
#[derive(Debug)]
pub(super) enum CheckpointReply {
    /// To the writing session with this number, or to its successor.
    Session(u64),
    /// To a unary call.
    Call(oneshot::Sender<Result<CompletedCheckpoint, Error>>),
}

/// Where the answer to a persist request goes.
#[derive(Debug)]
pub(super) enum PersistWaiter {
    /// To the writing session.
    Session {
        /// The client's token, which the answer repeats.
        token: u64,
    },
    /// To a unary call.
    Call(oneshot::Sender<Result<u64, Error>>),
}

/// A checkpoint in flight: triggered, and not yet answered.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) reply: CheckpointReply,
    pub(super) deadline: Instant,
    triggered: Instant,
    cut: Instant,
    persisted: Option<Instant>,
}

impl Core {
    /// Takes a barrier: cuts the log here, or the state if there is no changelog.
    ///
    /// # Errors
    /// If its id is not above the last one, its attachment is too long, or there are too many checkpoints. Nothing was
    /// cut.
    pub(super) fn barrier(&mut self, request: BarrierRequest, reply: CheckpointReply) -> Result<(), Error> {
        let triggered = Instant::now();
        self.check_writable()?;
        let options = self.env.options.clone();
        let limits = &options.limits;
        if request.id == 0 {
            return Err(Error::new(Reason::InvalidArgument, "checkpoint id 0: ids begin at 1"));
        }
        if request.attachment.len() > limits.max_attachment_bytes {
            let text = format!(
                "an attachment of {} bytes: at most {} are allowed",
                request.attachment.len(),
                limits.max_attachment_bytes
            );
            return Err(Error::new(Reason::LimitExceeded, text));
        }
        // Order: 1. every check that can refuse the barrier, so that a refusal leaves no cut behind.
        if self.owner.make_room(limits.max_retained_checkpoints) {
            self.retain_marks();
        }
        let checked = self.owner.check(request.id, limits.max_concurrent_checkpoints, limits.max_retained_checkpoints);
        checked.map_err(|refusal| error::trigger(&refusal))?;
        let deadline = triggered + request.timeout.unwrap_or(options.checkpoint_timeout);
        // 2. The cut, in the same hold of the lock as the record below: no batch comes between. A disk fault refuses
        //    here.
        let unlogged = self.is_unlogged();
        let cut = if unlogged { self.freeze(request.id, deadline)? } else { self.cut_log() };
        // 3. Now that the barrier cannot be refused any more, older checkpoints give way to it.
        self.make_way(request.id);
        let barrier = Barrier {
            id: request.id,
            uuid: self.env.random.uuid(),
            attachment: request.attachment,
            applied_to: self.next_batch,
            triggered_at: self.env.clock.now_ms(),
            time: self.time,
            states_to: self.states.last_id(),
            missing_states: self.states.unbound().collect(),
        };
        // 4. Ledger and flight, so that a failure from here on answers the caller.
        let identity = self.owner.trigger(barrier, cut);
        let flight = Flight { reply, deadline, triggered, cut: Instant::now(), persisted: None };
        if let CheckpointReply::Session(number) = flight.reply {
            self.remember_barrier(request.id, number);
        }
        self.flights.insert(request.id, flight);
        // 5. The mark of this moment, for queries and warm restarts; then the upload of the snapshot.
        self.mark_checkpoint(identity);
        if unlogged {
            self.upload_snapshot(request.id);
        }
        self.env.metrics.checkpoint_triggered();
        Ok(())
    }

    /// Cuts the log. The changes that are not yet durable go into the manifest itself if they are short, otherwise to
    /// the uploads.
    fn cut_log(&mut self) -> Cut {
        let options = &self.env.options;
        let tails = Tails { most_bytes: options.data_inline_threshold, compression: options.compression };
        let (cut, rolled) = self.owner.cut_log(tails);
        match rolled {
            RolledOver::Nothing => {}
            RolledOver::Inlined => self.env.metrics.tail_inlined(),
            RolledOver::Upload(set) => self.submit(set, false),
        }
        cut
    }

    /// Hands a change set to the uploads.
    pub(super) fn submit(&mut self, set: ChangeSet, urgent: bool) {
        let shared = self.shared.clone();
        let again = set.clone();
        let done = move |result| on_uploaded(&shared, result, again);
        // A backend that has ended must not write any more.
        if let Some(Uploading { uploads, .. }) = &self.uploads {
            uploads.submit(Submission { set, urgent, done: Box::new(done) });
        }
    }

    /// Makes all applied changes durable, then answers `waiter`.
    ///
    /// # Errors
    /// If the backend has no changelog.
    pub(super) fn persist(&mut self, waiter: PersistWaiter) -> Result<(), Error> {
        self.check_logged("persist")?;
        self.roll_over(false);
        self.persist_waiters.push(self.owner.writer().next(), waiter);
        self.on_persisted();
        Ok(())
    }

    /// Fails one checkpoint in flight.
    pub(super) fn fail_checkpoint(&mut self, id: CheckpointId, error: Error) {
        self.owner.fail(id);
        self.retain_marks();
        self.give_up_snapshot(id, &error);
        let Some(flight) = self.flights.remove(&id) else { return };
        self.env.metrics.checkpoint_failed(&self.id, id, self.env.clock.now_ms(), &error);
        match flight.reply {
            CheckpointReply::Session(_) => {
                self.remember_failure(id, &error);
                self.tell(SessionEvent::CheckpointFailed { id, error });
            }
            CheckpointReply::Call(reply) => {
                let _ = reply.send(Err(error));
            }
        }
    }

    /// Fails the oldest checkpoints in flight that may give way, until there is room for `newest`.
    fn make_way(&mut self, newest: CheckpointId) {
        let most = self.env.options.limits.max_concurrent_checkpoints;
        while let Some(id) = self.owner.gives_way(most) {
            let text = format!(
                "backend `{}`: checkpoint {id} gives way to checkpoint {newest}: more than {most} would be in flight, the most that \
                 `execution.checkpointing.max-concurrent-checkpoints` allows; its changes are kept and go into the next one",
                self.id
            );
            self.fail_checkpoint(id, Error::new(Reason::TooManyCheckpoints, text));
        }
    }

    /// Fails every checkpoint in flight whose deadline is over.
    pub(super) fn expire(&mut self, now: Instant) {
        let late: Vec<_> = self.flights.iter().filter(|(_, f)| f.deadline <= now).map(|(id, _)| *id).collect();
        for id in late {
            let error = self.timed_out(id, "its changes are kept and go into the next one");
            self.fail_checkpoint(id, error);
        }
    }

    /// The error for a checkpoint in flight that took too long, with the store's last error in that time.
    pub(super) fn timed_out(&self, id: CheckpointId, and: &str) -> Error {
        let mut text = format!("backend `{}`: checkpoint {id} was not durable in time", self.id);
        if let Some(Flight { triggered, deadline, .. }) = self.flights.get(&id) {
            let _ = write!(text, ", within {:?}", *deadline - *triggered);
            let _ = match self.env.store.trouble(*triggered) {
                Some((ago, why)) => write!(text, "; the store's last error, {:.1} s ago: {why}", ago.as_secs_f64()),
                None => write!(text, "; the store has told no error meanwhile: it is slow, or does not answer yet"),
            };
        }
        let _ = write!(text, "; {and}");
        Error::new(Reason::CheckpointTimeout, text)
    }

    /// The earliest deadline of a checkpoint in flight.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.flights.values().map(|flight| flight.deadline).min()
    }

    /// Whether the backend has ended and no last manifest is under way.
    pub(super) fn has_given_up(&self) -> bool {
        matches!(self.condition, Condition::Ended(_)) && !self.owner.is_sealed()
    }

    /// When something has to be done without a call: a timeout, or a manifest for notices alone.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let notices = self.owner.notices_due().map(Instant::from_std);
        self.next_expiry().into_iter().chain(notices).min()
    }

    /// The manifest to write now, if one is wanted.
    pub(super) fn next_publication(&mut self, now: Instant) -> Option<Publication> {
        if !matches!(self.condition, Condition::Serving | Condition::Failsafe(_)) {
            return None;
        }
        self.owner.note_notices(now.into_std());
        let outside = self.outside();
        if !self.owner.is_due(now.into_std(), outside, !self.publish_now.is_empty()) {
            return None;
        }
        self.publishing_for.append(&mut self.publish_now);
        let states = self.states.registrations().map(|(id, registration)| (id, registration.clone()));
        let random = self.env.random.clone();
        let publication = self.owner.begin(outside, states, || random.uuid());
        let now = Instant::now();
        for id in &publication.publishes {
            if let Some(flight) = self.flights.get_mut(id) {
                flight.persisted.get_or_insert(now);
            }
        }
        if publication.lets_go {
            self.want_copies();
        }
        Some(publication)
    }

    /// The numbers that segments and files have reached.
    fn outside(&self) -> Outside {
        let segments_to = self.uploads.as_ref().map_or(u64::MAX, |uploading| uploading.uploads.low_water());
        Outside { segments_to, next_file: self.snapshot_files.load(Ordering::Relaxed) }
    }

    /// Pages to write now, although no manifest is wanted.
    pub(super) fn next_pages(&mut self) -> Vec<NewPage> {
        if matches!(self.condition, Condition::Ended(_)) {
            return vec![];
        }
        let random = self.env.random.clone();
        self.owner.next_pages(|| random.uuid())
    }

    /// Notes that the manifest that was begun is durable, and answers everything that waited for it.
    pub(super) fn published(&mut self, crc: u32) {
        let Published { checkpoints, released_bytes } = self.owner.published(crc, Instant::now().into_std());
        self.release_memory(released_bytes);
        // Order: 1. reports and answers, now that the manifest is durable.
        for record in checkpoints {
            self.owe_report(&record);
            let Some(flight) = self.flights.remove(&record.identity.id) else { continue };
            let completed = self.completed(&record, Some(&flight));
            self.env.metrics.checkpoint_completed(&self.id, self.env.clock.now_ms(), &completed);
            match flight.reply {
                CheckpointReply::Session(_) => self.tell(SessionEvent::CheckpointCompleted(Box::new(completed))),
                CheckpointReply::Call(reply) => {
                    let _ = reply.send(Ok(completed));
                }
            }
        }
        if !matches!(self.condition, Condition::Ended(_)) {
            let retained = self.owner.ledger().retained();
            let full_bytes = retained.last().map_or(0, |newest| self.owner.manifest().stored_bytes(newest));
            self.env.metrics.published(&self.id, retained.len(), full_bytes);
        }
        for reply in self.publishing_for.drain(..) {
            let _ = reply.send(Ok(()));
        }
        // 2. Acknowledgements last: the batches of an inlined tail are persisted by this manifest.
        if released_bytes > 0 {
            self.on_persisted();
        }
    }

    /// Releases the memory of changes that are durable. A backend that has ended released all of it already.
    fn release_memory(&mut self, bytes: u64) {
        if !matches!(self.condition, Condition::Ended(_)) {
            self.account.release(bytes);
            self.env.metrics.pending_grew(-signed(bytes));
        }
    }

    /// Carries out a notice. Idempotent.
    pub(super) fn notice(&mut self, kind: NoticeKind, target: NoticeTarget) -> NoticeOutcome {
        if self.owner.is_failed_by(kind, target) {
            let text = format!("backend `{}`: checkpoint {} was aborted by notice", self.id, target.id);
            self.fail_checkpoint(target.id, Error::new(Reason::CheckpointAborted, text));
            self.want_copies();
            return NoticeOutcome::Done;
        }
        if self.is_coordinated(kind, target) {
            return NoticeOutcome::Coordinated;
        }
        let outcome = self.owner.notice(kind, target);
        if kind == NoticeKind::Complete {
            self.mark_completed(target, outcome);
        }
        self.retain_marks();
        self.want_copies();
        self.wake_session();
        outcome
    }

    pub(super) fn completed(&self, record: &CheckpointRecord, flight: Option<&Flight>) -> CompletedCheckpoint {
        let handle = CheckpointHandle { backend: self.id.clone(), checkpoint: record.identity };
        let now = Instant::now();
        let (triggered, cut, persisted) =
            flight.map_or((now, now, now), |flight| (flight.triggered, flight.cut, flight.persisted.unwrap_or(now)));
        CompletedCheckpoint {
            identity: record.identity,
            handle: handle.encode(),
            applied_to: record.applied_to,
            incremental_bytes: record.incremental_bytes,
            full_bytes: self.owner.manifest().stored_bytes(record),
            changes: record.changes,
            sync: cut - triggered,
            persist: persisted - cut,
            publish: now - persisted,
            total: now - triggered,
            self_sustained_since: self.owner.sustained_since(),
        }
    }
}

/// Takes the outcome of an upload: the change set is durable, or will never be.
fn on_uploaded(shared: &Weak<Shared>, result: Result<SegmentHandle, UploadError>, set: ChangeSet) {
    let Some(shared) = shared.upgrade() else { return };
    let mut core = shared.core();
    let handle = match result {
        Ok(handle) => handle,
        // The backend has ended; all waiting callers were answered then.
        Err(UploadError::Cancelled) => return,
        Err(UploadError::Stopped) => {
            let text = format!("backend `{}`: uploads have stopped with the daemon", core.id);
            core.end(&Error::new(Reason::Draining, text));
            return;
        }
        Err(error @ UploadError::Store { .. }) => {
            tracing::warn!(backend = %core.id, %error, "the store refuses a segment; trying again");
            let tasks = core.env.tasks.clone();
            drop(core);
            let weak = Arc::downgrade(&shared);
            let again = async move {
                tokio::time::sleep(REFUSED_DELAY).await;
                let mut core = shared.core();
                if !matches!(core.condition, Condition::Ended(_)) {
                    core.submit(set, true);
                }
            };
            tasks.supervise("an upload that is tried again", again, move |panicked| {
                if let Some(shared) = weak.upgrade() {
                    shared.core().end_panicked(panicked);
                }
            });
            return;
        }
        Err(UploadError::Panicked) => {
            let text = format!("backend `{}` was ended by a bug in dstl: its uploads panicked; open it again", core.id);
            core.end(&Error::new(Reason::Internal, text));
            return;
        }
    };
    // Order: 1. the owner lists what continues the log without a gap. The rest waits in it.
    let Uploaded { is_listed, released_bytes } = core.owner.on_uploaded(handle);
    core.release_memory(released_bytes);
    if matches!(core.condition, Condition::Ended(_)) || !is_listed {
        return;
    }
    // 2. Now that it is listed, callers hear that it is durable. 3. The worker looks for ready checkpoints.
    core.on_persisted();
    drop(core);
    shared.wake.notify_one();
}
