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
        segment::{self, ChangeSet, SegmentHandle},
        uploader::{Submission, UploadError},
    },
    checkpoint::{
        handle::CheckpointHandle,
        index::{Bounds, INLINE_BYTES, NewPage},
        ledger::{Awaits, NoticeKind, NoticeOutcome, NoticeTarget},
        manifest::{CheckpointRecord, Manifest},
    },
    error::{Error, Reason},
    types::{CheckpointId, CheckpointIdentity},
};

/// A silent owner keeps the segments of this daemon from deletion. Once it keeps this many, it publishes a manifest
/// with a higher low water after [`LOW_WATER_DELAY`].
const LOW_WATER_STEP: u64 = 32;

/// How long after its last manifest a silent owner publishes a higher low water.
const LOW_WATER_DELAY: Duration = Duration::from_secs(30);

/// How long after its last manifest a silent owner publishes a higher low water if it keeps fewer than
/// [`LOW_WATER_STEP`] segments.
const LOW_WATER_SILENCE: Duration = Duration::from_secs(300);

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

/// A manifest to write, and the pages that belong to it.
#[derive(Debug)]
pub(super) struct Publication {
    /// Pages that this manifest names, so they must be durable before it. There are some only if more entries came than
    /// could be moved into pages earlier.
    pub(super) before: Vec<NewPage>,
    pub(super) manifest: Manifest,
    /// Pages that the next manifest names. They may be written at the same time as this one.
    pub(super) beside: Vec<NewPage>,
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
        if self.ledger.make_room(limits.max_retained_checkpoints) {
            self.retain_marks();
        }
        let checked = self.ledger.check(request.id, limits.max_concurrent_checkpoints, limits.max_retained_checkpoints);
        checked.map_err(|refusal| error::trigger(&refusal))?;
        let deadline = triggered + request.timeout.unwrap_or(options.checkpoint_timeout);
        // 2. The cut, in the same hold of the lock as the record below: no batch comes between. A disk fault refuses
        //    here.
        let unlogged = self.is_unlogged();
        let (awaits, base) = if unlogged {
            self.freeze(request.id, deadline)?
        } else {
            self.roll_over_for_barrier();
            let base = self.base.as_ref().filter(|base| base.complete_at <= self.writer.next());
            (Awaits::Log, base.map(|base| base.uuid))
        };
        // 3. Now that the barrier cannot be refused any more, older checkpoints give way to it.
        self.make_way(request.id);
        let (incremental_bytes, changes) = std::mem::take(&mut self.since_barrier);
        let record = CheckpointRecord {
            identity: CheckpointIdentity { epoch: self.epoch.number, id: request.id, uuid: self.env.random.uuid() },
            attempt: self.manifest.owner().attempt,
            cut: self.writer.next(),
            applied_to: self.next_batch,
            attachment: request.attachment.into(),
            job_run: self.manifest.owner().job_run.clone(),
            completed: false,
            pinned: false,
            subsumed: false,
            triggered_at: self.env.clock.now_ms(),
            time: self.time,
            incremental_bytes,
            changes,
            states_to: self.states.last_id(),
            base,
            missing_states: self.states.unbound().collect(),
        };
        let identity = record.identity;
        // 4. Ledger and flight, so that a failure from here on answers the caller.
        self.ledger.trigger(record, awaits);
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

    /// Tells the ledger which checkpoint this owner began with.
    pub(super) fn begin_retention(&mut self) {
        if let Some((restored, attempt)) = self.manifest.owner().restored {
            self.ledger.begin((attempt, restored.id));
        }
    }

    /// Rolls over the changes that are not yet durable. If they are short and all earlier change sets are listed, they
    /// go into the manifest itself.
    fn roll_over_for_barrier(&mut self) {
        let options = &self.env.options;
        let is_short = self.writer.is_all_listed() && self.writer.active_bytes() <= options.data_inline_threshold;
        let run = self.manifest.runs.get(&self.epoch.number);
        // While the store is down, such tails would pile up in the manifest; the next durable manifest makes room.
        let has_room = run.is_none_or(|run| run.inline_bytes() <= INLINE_BYTES);
        if options.data_inline_threshold == 0 || !is_short || !has_room {
            return self.roll_over(false);
        }
        let Some(set) = self.writer.roll_over() else { return };
        let handle = segment::inline(&set, options.compression);
        self.writer.on_inlined(handle.range);
        self.manifest.runs.entry(self.epoch.number).or_default().handles.push(handle);
        self.env.metrics.tail_inlined();
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
        self.persist_waiters.push(self.writer.next(), waiter);
        self.on_persisted();
        Ok(())
    }

    /// Fails one checkpoint in flight.
    pub(super) fn fail_checkpoint(&mut self, id: CheckpointId, error: Error) {
        self.ledger.fail(id);
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
        while self.ledger.in_flight() >= most {
            let Some(id) = self.ledger.gives_way() else { return };
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
        matches!(self.condition, Condition::Ended(_)) && !self.sealed
    }

    /// When something has to be done without a call: a timeout, or a manifest for notices alone.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let notices = self.dirty_since.map(|since| since + self.env.options.notice_delay);
        self.next_expiry().into_iter().chain(notices).min()
    }

    /// The manifest to write now, if one is wanted.
    pub(super) fn next_publication(&mut self, now: Instant) -> Option<Publication> {
        if self.sealed || !matches!(self.condition, Condition::Serving | Condition::Failsafe(_)) {
            return None;
        }
        self.dirty_since = self.ledger.is_dirty().then(|| self.dirty_since.unwrap_or(now));
        let listed_to = self.writer.listed_to();
        let notices_due = self.dirty_since.is_some_and(|since| since + self.env.options.notice_delay <= now);
        let withdrawing = std::mem::take(&mut self.withdrawing);
        // Also if the checkpoint of an inlined tail has failed: its changes become durable, and their memory free, only
        // with a manifest.
        let is_wanted = self.ledger.is_ready(listed_to) || self.writer.awaits_manifest();
        if !is_wanted && !notices_due && !withdrawing && self.publish_now.is_empty() && !self.is_waited_for(now) {
            return None;
        }
        self.publishing_for.append(&mut self.publish_now);
        // Order: 1. seal, 2. take the low water. The last manifest says that this owner will name no further segment,
        // page or snapshot file, and a sweep then deletes all that it does not name. So no manifest may follow it.
        self.sealed = self.closing;
        let low_water = if self.sealed { u64::MAX } else { self.segment_low_water() };
        Some(self.begin_publication(low_water))
    }

    /// Whether segments are kept only because this owner has not published its low water for a while.
    fn is_waited_for(&self, now: Instant) -> bool {
        let behind = self.segment_low_water().saturating_sub(self.manifest.segment_low_water);
        behind >= LOW_WATER_STEP && self.is_silent_for(LOW_WATER_DELAY, now)
            || behind > 0 && self.is_silent_for(LOW_WATER_SILENCE, now)
    }

    /// Whether the owner neither published nor checked the chain for `time`.
    pub(super) fn is_silent_for(&self, time: Duration, now: Instant) -> bool {
        self.heard + time <= now
    }

    /// Derives the next manifest. `low_water` must have been read before: every segment below it is listed by now, or
    /// will never be.
    pub(super) fn begin_publication(&mut self, low_water: u64) -> Publication {
        // Order: 1. what this manifest covers. Only these changes are released once it is durable.
        self.publishing_to = self.writer.listed_to();
        let retained = self.ledger.retained().len();
        let (ids, records) = self.ledger.begin_publishing(self.publishing_to);
        let lets_go = self.ledger.retained().len() < retained;
        self.dirty_since = None;
        let now = Instant::now();
        for id in ids {
            if let Some(flight) = self.flights.get_mut(&id) {
                flight.persisted.get_or_insert(now);
            }
        }
        // 2. Pages that this manifest names. The worker makes them durable before the manifest.
        let before = self.fold(&Bounds::NOW);
        self.manifest.number += 1;
        self.manifest.previous_crc = self.manifest_crc;
        self.manifest.opens_epoch = false;
        self.manifest.checkpoints = records;
        self.manifest.note_published();
        self.manifest.states = self.states.registrations().map(|(id, it)| (id, it.clone())).collect();
        self.manifest.segment_low_water = low_water;
        let is_last = low_water == u64::MAX;
        self.manifest.snapshot_low_water = if is_last { u64::MAX } else { self.snapshot_low_water() };
        // 3. The low water of pages, after the pages that this manifest names and before those that only the next one
        //    names. A sweep may delete a page below it that this manifest does not name.
        self.manifest.page_low_water = if is_last { u64::MAX } else { self.next_page };
        let in_flight = self.ledger.in_flight_records().map(|record| self.manifest.contents(record));
        let in_flight: Vec<_> = in_flight.chain(self.snapshots.contents()).collect();
        // 4. Pruning, after the records are complete. Contents of checkpoints in flight, and of snapshots that still
        //    upload, stay named.
        self.manifest.prune(&in_flight);
        if lets_go {
            self.want_copies();
        }
        // 5. The manifest is copied before more entries move into pages: it does without the pages that are written
        //    beside it.
        let manifest = self.manifest.clone();
        let mut beside = vec![];
        if !is_last {
            beside = self.fold(&Bounds::SOON);
            beside.extend(self.fold_attachments());
        }
        Publication { before, manifest, beside }
    }

    /// Pages to write now if many change sets are in no manifest yet, since the next barrier may be far away.
    pub(super) fn next_pages(&mut self) -> Vec<NewPage> {
        let run = self.manifest.runs.get(&self.epoch.number);
        let is_long = run.is_some_and(|run| run.handles.len() > Bounds::SOON.entries + Bounds::SOON.page_entries);
        let is_over = self.sealed || matches!(self.condition, Condition::Ended(_));
        if is_long && !is_over { self.fold(&Bounds::SOON) } else { vec![] }
    }

    fn fold(&mut self, bounds: &Bounds) -> Vec<NewPage> {
        let random = self.env.random.clone();
        self.manifest.fold(bounds, &mut self.next_page, || random.uuid())
    }

    /// Moves attachments into pages if the next manifests would repeat many bytes of them.
    fn fold_attachments(&mut self) -> Vec<NewPage> {
        let random = self.env.random.clone();
        let pages = self.manifest.fold_attachments(&mut self.next_page, || random.uuid());
        if !pages.is_empty() {
            self.ledger.follow(&self.manifest.checkpoints);
        }
        pages
    }

    /// Notes that the manifest that was begun is durable, and answers everything that waited for it.
    pub(super) fn published(&mut self, crc: u32) {
        // Order: 1. the checksum that the next manifest is chained to.
        self.manifest_crc = crc;
        self.heard = Instant::now();
        let released = self.writer.on_published(self.publishing_to);
        self.release_memory(released);
        // 2. Reports and answers only now: nobody may hear of a checkpoint before its manifest is durable.
        for record in self.ledger.published() {
            self.owe_report(&record);
            let Some(flight) = self.flights.remove(&record.identity.id) else { continue };
            if let Some(since) = self.self_sustained_since.as_mut().filter(|since| **since == 0) {
                *since = record.identity.id;
            }
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
            let full_bytes = self.ledger.retained().last().map_or(0, |newest| self.manifest.stored_bytes(newest));
            self.env.metrics.published(&self.id, self.ledger.retained().len(), full_bytes);
        }
        for reply in self.publishing_for.drain(..) {
            let _ = reply.send(Ok(()));
        }
        // 3. Acknowledgements last: the batches of an inlined tail are persisted by this manifest.
        if released > 0 {
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
        if matches!(kind, NoticeKind::Abort | NoticeKind::Discard) && self.ledger.means_in_flight(target) {
            let text = format!("backend `{}`: checkpoint {} was aborted by notice", self.id, target.id);
            self.fail_checkpoint(target.id, Error::new(Reason::CheckpointAborted, text));
            self.want_copies();
            return NoticeOutcome::Done;
        }
        if self.is_coordinated(kind, target) {
            return NoticeOutcome::Coordinated;
        }
        let outcome = self.ledger.notice(kind, target);
        if matches!(kind, NoticeKind::Abort | NoticeKind::Discard) && outcome == NoticeOutcome::Done {
            // The checkpoint must not come back after a crash, so a manifest without it is written at once.
            self.withdrawing = true;
        }
        if kind == NoticeKind::Complete {
            self.mark_completed(target, outcome);
        }
        self.retain_marks();
        self.want_copies();
        self.wake_session();
        outcome
    }

    /// Segments of this daemon below this number will never be named by this backend, except those that this manifest
    /// names.
    fn segment_low_water(&self) -> u64 {
        let uploading = self.uploads.as_ref().map_or(u64::MAX, |uploading| uploading.uploads.low_water());
        self.writer.lowest_unlisted_segment().map_or(uploading, |unlisted| unlisted.min(uploading))
    }

    /// Snapshot files of this epoch below this number will never be named by this backend, except those that this
    /// manifest names.
    pub(super) fn snapshot_low_water(&self) -> u64 {
        if self.is_unlogged() {
            self.snapshots.low_water(self.snapshot_files.load(Ordering::Relaxed))
        } else {
            self.snapshot_low_water
        }
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
            full_bytes: self.manifest.stored_bytes(record),
            changes: record.changes,
            sync: cut - triggered,
            persist: persisted - cut,
            publish: now - persisted,
            total: now - triggered,
            self_sustained_since: self.self_sustained_since.unwrap_or(0),
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
    // Order: 1. the writer hands out the handles that continue the log without a gap. Those behind a gap wait in it.
    let uploaded = core.writer.on_uploaded(handle);
    core.release_memory(uploaded.released_bytes);
    if matches!(core.condition, Condition::Ended(_)) || uploaded.handles.is_empty() {
        return;
    }
    let epoch = core.epoch.number;
    // 2. The index lists them before anyone hears that they are durable. 3. The worker looks for ready checkpoints.
    core.manifest.runs.entry(epoch).or_default().handles.extend(uploaded.handles);
    core.on_persisted();
    drop(core);
    shared.wake.notify_one();
}
