//! The core of one open backend under one owner: the parts of it, and the decisions that concern several of them.
//!
//! ```text
//!            ┌ Owner    log, ledger, manifests: when one is due, and its contents    (checkpoint::owner)
//!            ├ Table    inner backend, states, marks: the contents                   (table)
//!   Core ────┼ Seat     who writes: numbers, halts, credit                           (seat)
//!            ├ Bases    materializations and snapshots, and which parts they reuse   (bases)
//!            ├ Waiters  checkpoints in flight, and other waiting callers             (waiters)
//!            └ Kept, Uploading, Coordinated, Holds, Lingering, Origin
//! ```
//!
//! Each part keeps its own fields to itself and knows no other part. It is synchronous, as the core is. The core is
//! only reached under the lock of [`Shared`](super::shared::Shared).

use std::sync::Arc;

use super::{
    bases::{Bases, snapshots::Snapshot},
    condition::Condition,
    coordinated::Coordinated,
    environment::Environment,
    error,
    holds::Holds,
    kept::Kept,
    lingering::Lingering,
    metrics::signed,
    outbox::SessionEvent,
    seat::Seat,
    signals::Signals,
    table::{Table, log::Log},
    uploading::Uploading,
    waiters::{CheckpointReply, PersistWaiter, Waiters},
    words::Acknowledgement,
};
use crate::{
    checkpoint::{job::Spoilt, local, owner::Owner},
    claim::part::RestoredPart,
    error::{Error, Reason},
    tasks::{self, Panicked},
    types::{BackendId, CheckpointId, Epoch},
};

/// The checkpoint that an owner began with.
#[derive(Debug)]
pub(super) struct Origin {
    /// The restored parts, one for each chain that was read.
    pub(super) restored: Vec<RestoredPart>,
    /// Newer checkpoints that were skipped because they are damaged.
    pub(super) skipped: Vec<Spoilt>,
}

/// One open backend.
///
/// Invariants: `confirmed_to <= persisted_to <= applied_to`; each checkpoint in flight in the owner's ledger is in
/// flight in `waiters`; a snapshot that the owner makes is in `bases`, and its cut in `table`.
pub(super) struct Core {
    pub(super) env: Environment,
    pub(super) id: BackendId,
    pub(super) signals: Arc<Signals>,
    pub(super) condition: Condition,
    pub(super) owner: Owner,
    pub(super) table: Table,
    pub(super) seat: Seat,
    pub(super) bases: Bases,
    pub(super) waiters: Waiters,
    pub(super) kept: Kept,
    pub(super) uploading: Uploading,
    /// Coordination of the job's checkpoints, if its attempt was declared.
    pub(super) coordinated: Option<Coordinated>,
    pub(super) holds: Holds,
    pub(super) lingering: Lingering,
    pub(super) origin: Origin,
}

impl Core {
    /// Whether the owner has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.condition.has_ended()
    }

    /// Refuses calls of another epoch, and any call of a backend that has ended.
    pub(super) fn check_owner(&self, epoch: Epoch) -> Result<(), Error> {
        if epoch != self.owner.epoch() {
            return Err(error::fenced(&self.id, epoch, self.owner.epoch()));
        }
        self.condition.check_running()
    }

    /// Refuses writes in failsafe.
    pub(super) fn check_writable(&self) -> Result<(), Error> {
        self.condition.check_writable(&self.id)
    }

    /// How durable the batches are.
    pub(super) fn acknowledgement(&self) -> Acknowledgement {
        let applied_to = self.seat.next_batch();
        let persisted_to = self.owner.writer().persisted_batches(applied_to);
        let confirmed_to = self.owner.ledger().confirmed_to();
        assert!(confirmed_to <= persisted_to && persisted_to <= applied_to, "rungs of the ladder are in order");
        Acknowledgement { applied_to, persisted_to, confirmed_to }
    }

    /// Logs the changes that `work` makes to the table, as one batch with a sequence number of its own. Returns also
    /// how many bytes were logged. In the log it has the number of the next batch, whether it is that batch or one of
    /// the daemon's own before it.
    ///
    /// # Errors
    /// A fault of the inner backend: the changes are not logged. Changes that were logged before can still become
    /// durable.
    pub(super) fn logged<T>(
        &mut self,
        work: impl FnOnce(&mut Table, &mut Log<'_>) -> Result<T, String>,
    ) -> Result<(T, u64), String> {
        let Self { owner, table, bases, seat, .. } = self;
        let bytes_before = owner.writer().active_bytes();
        table.set_stamp(owner.writer().next().0);
        owner.begin_batch(seat.next_batch(), table.time());
        let done = work(table, &mut Log { log: owner.log(), log_changes: bases.log_changes_mut() });
        if done.is_err() {
            // A part of a batch must not be logged: a replay would have it, although no client was told of it.
            owner.abandon_batch();
        }
        let appended = done.map(|done| (done, owner.end_batch(bytes_before)))?;
        self.env.metrics.pending_grew(signed(appended.1));
        Ok(appended)
    }

    /// Refuses writes from now on, because of a fault of the inner backend. Returns the error for the caller.
    pub(super) fn fail_safe(&mut self, fault: String) -> Error {
        let error = error::failsafe(&self.id, &fault);
        tracing::error!(backend = %self.id, fault, "backend goes into failsafe");
        self.env.metrics.failed_safe(&self.id);
        self.table.close_way_back("the owner before failed");
        // The fault may be in these very files.
        drop(self.kept.take());
        self.condition = Condition::Failsafe(fault);
        error
    }

    /// Rolls over the active block and hands it to the uploads. `urgent` if a writer is pushed back until it is
    /// durable. Checkpoints and persist requests wait out the persist delay, so that backends share a segment.
    pub(super) fn roll_over(&mut self, urgent: bool) {
        if let Some(set) = self.owner.roll_over() {
            self.uploading.submit(set, urgent);
        }
    }

    /// Answers the callers that wait for the changelog, after more of it became durable.
    pub(super) fn on_persisted(&mut self) {
        let persisted_to = self.acknowledgement().persisted_to;
        for waiter in self.waiters.persisted_to(self.owner.writer().persisted_to()) {
            match waiter {
                PersistWaiter::Session { token } => self.seat.tell(SessionEvent::Persisted { token, persisted_to }),
                PersistWaiter::Call(reply) => _ = reply.send(Ok(persisted_to)),
            }
        }
        self.seat.wake();
    }

    /// Releases the memory of changes that are durable. A backend that has ended released all of it already.
    pub(super) fn release_memory(&mut self, bytes: u64) {
        if !self.has_ended() {
            self.seat.release(bytes);
        }
    }

    /// Whether writes have to wait for a materialization now.
    pub(super) fn pushes_back(&mut self) -> bool {
        if !matches!(self.condition, Condition::Serving) {
            return false;
        }
        let (pushes_back, is_new) = self.bases.pushes_back();
        if is_new {
            self.signals.materialize.notify_one();
        }
        pushes_back
    }

    /// Fails one checkpoint in flight.
    pub(super) fn fail_checkpoint(&mut self, id: CheckpointId, error: Error) {
        // Ordering: the ledger first. By it the marks are judged, and no manifest publishes the checkpoint any more.
        self.owner.fail(id);
        self.retain_marks();
        if let Some(snapshot) = self.bases.snapshots.give_up(id) {
            if error.reason != Reason::CheckpointAborted && !self.has_ended() {
                self.bases.failed();
            }
            self.end_snapshot(id, snapshot);
        }
        let Some(flight) = self.waiters.land(id) else { return };
        self.env.metrics.checkpoint_failed(&self.id, id, self.env.clock.now_ms(), &error);
        match flight.reply {
            CheckpointReply::Session(_) => {
                self.seat.remember_failure(id, &error);
                self.seat.tell(SessionEvent::CheckpointFailed { id, error });
            }
            CheckpointReply::Call(reply) => _ = reply.send(Err(error)),
        }
    }

    /// Frees the memory of a snapshot, and lets the next ones go on.
    pub(super) fn end_snapshot(&mut self, id: CheckpointId, snapshot: Snapshot) {
        self.table.end_cut(id);
        self.count_copies();
        self.bases.snapshots.one_is_over();
        if snapshot.has_taken_images() {
            self.drop_aside(snapshot);
        }
    }

    /// Updates the credit held for copies.
    pub(super) fn count_copies(&mut self) {
        if self.owner.is_unlogged() {
            self.seat.hold_copies(self.table.copied_bytes());
        }
    }

    /// Drops every mark that is no longer needed. Call it after the ledger has changed.
    pub(super) fn retain_marks(&mut self) {
        // An owner that ends fails checkpoints that may be published already. Its successor decides which marks it
        // needs.
        if !self.has_ended() {
            self.table.retain_marks(&self.owner);
        }
    }

    /// Tells the local copies which objects this backend would restore from, and drops images that are no longer
    /// needed.
    pub(super) fn want_copies(&self) {
        let owner = &self.owner;
        if let Some(copies) = self.env.store.copies().filter(|copies| copies.has_all() || self.kept.has_images()) {
            let files_from = owner.snapshot_low_water(self.bases.next_file());
            let wanted = local::wanted(owner.manifest(), owner.ledger(), owner.snapshot_contents(), files_from);
            copies.want(&self.id, owner.epoch().number, wanted);
        }
        if self.kept.has_images() {
            let bases = local::bases(owner.manifest(), owner.ledger(), owner.snapshot_contents());
            self.kept.retain(|base| bases.contains(base)).into_iter().for_each(|images| self.drop_aside(images));
        }
    }

    /// Drops `what` where it may wait for a disk.
    fn drop_aside(&self, what: impl Send + 'static) {
        self.env.tasks.spawn(async move { tasks::blocking(|| drop(what)) });
    }

    /// Ends this owner: every waiting caller gets `error`, and nothing more is written. Idempotent: the first reason
    /// stays.
    pub(super) fn end(&mut self, error: &Error) {
        if self.has_ended() {
            return;
        }
        // Ordering 1: the condition. From here on no call passes and no manifest begins.
        self.condition = Condition::Ended(error.clone());
        // Ordering 2: everything that waits is answered, checkpoints while the session is still there to be told.
        for id in self.waiters.in_flight() {
            self.fail_checkpoint(id, error.clone());
        }
        self.waiters.end(error);
        self.uploading.withdraw(&self.id, self.owner.epoch().number);
        // Ordering 3: the session hears of its end after all other events. Its client may leave once it has.
        self.seat.evict(error);
        // Ordering 4: memory and credit go back to the daemon, so that a successor that waits for them finds them.
        self.env.metrics.ended(&self.id);
        if let Some(coordinated) = &mut self.coordinated {
            coordinated.stop_awaiting(&self.env.metrics);
        }
        if let Some(copies) = self.env.store.copies() {
            copies.release(&self.id, self.owner.epoch().number);
        }
        self.env.metrics.pending_grew(-signed(self.owner.writer().unpersisted_bytes()));
        self.seat.close();
        self.bases.push_back.wake();
        self.table.discount();
        // Ordering 5: the state goes, unless a successor on this daemon takes it over.
        if error.reason != Reason::Fenced || !self.kept.has_successor() {
            self.drop_kept();
        }
        // Ordering 6: workers and directory are woken. The directory reads the end without the core, so this comes
        // last.
        self.signals.wake.notify_one();
        self.signals.materialize.notify_one();
        self.signals.ended.send_replace(Some(error.clone()));
    }

    /// Ends this owner, because one of its tasks has panicked.
    pub(super) fn end_panicked(&mut self, panicked: &Panicked) {
        let text = format!("backend `{}` was ended by {panicked}; open it again", self.id);
        self.end(&Error::new(Reason::Internal, text));
    }

    /// Drops the state, and everything else that would let a successor on this daemon begin without the store. Called
    /// for a backend that has ended: others may still hold it for a while, but no call is answered from it.
    pub(super) fn drop_kept(&mut self) {
        let (state, images) = (self.table.empty(), self.kept.take());
        drop(self.bases.take_previous());
        self.uploading.end();
        self.drop_aside((state, images));
    }
}
