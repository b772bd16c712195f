//! The state of one open backend under one owner. It is synchronous. Every method returns in microseconds, except those
//! that ask an inner backend on disk.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use super::{
    checkpointing::{Flight, PersistWaiter},
    cleanup::CleanUps,
    coordination::Coordinated,
    credit::Account,
    environment::Environment,
    error,
    handle::Shared,
    hold::Hold,
    marks::Marks,
    materialize::Reusable,
    outbox::{Outbox, SessionEvent},
    owed::SentBarrier,
    pushback::PushBack,
    snapshotting::Snapshots,
};
use crate::{
    changelog::{pending::Pending, registry::JobUploads, uploader::WriterGuard},
    checkpoint::{
        manifest::{Manifest, Materialization},
        owner::Owner,
    },
    claim::{
        part::RestoredPart,
        states::{RegisteredState, States},
    },
    clock::OwnTime,
    error::{Error, Reason},
    restore::KeptImages,
    state::{StateBackend as _, operator::WithOperatorState},
    tasks::{self, Panicked},
    types::{BackendId, CheckpointId, Epoch, Sqn, TimeMs},
};

/// Which calls a backend answers.
#[derive(Debug, Clone)]
pub(super) enum Condition {
    /// All calls.
    Serving,
    /// Only reads, since this fatal fault of the inner backend.
    Failsafe(String),
    /// No calls: each gets this error.
    Ended(Error),
}

/// The session that may write.
#[derive(Debug)]
pub(super) struct Writing {
    /// Its number; sessions are counted per backend.
    pub(super) number: u64,
    /// Events for its client.
    pub(super) outbox: Arc<Outbox>,
    /// The error of a rejected batch, while the session is halted.
    pub(super) halt: Option<Error>,
}

/// Cumulative durability of batches: each value holds for all batches below it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Acknowledgement {
    /// Batches below are in the inner backend.
    pub applied_to: u64,
    /// Batches below are durable in the object store.
    pub persisted_to: u64,
    /// Batches below are part of a completed checkpoint.
    pub confirmed_to: u64,
}

/// The uploads of the backend's job.
#[derive(Debug)]
pub(super) struct Uploading {
    pub(super) uploads: JobUploads,
    /// Counts this backend among those whose changes share segments.
    pub(super) _writer: WriterGuard,
}

/// One open backend.
///
/// Invariants: `confirmed_to <= persisted_to <= applied_to`; each checkpoint in flight in the owner's ledger has an
/// entry in `flights`.
pub(super) struct Core {
    pub(super) env: Environment,
    pub(super) shared: Weak<Shared>,
    pub(super) id: BackendId,
    pub(super) condition: Condition,
    /// Log, ledger and manifest.
    pub(super) owner: Owner,
    pub(super) inner: WithOperatorState,
    pub(super) states: States,
    /// Incremental TTL clean-up, one cursor per state.
    pub(super) clean_ups: CleanUps,
    /// `None` once the backend has ended, so that the job's uploads and their metrics can end, too.
    pub(super) uploads: Option<Uploading>,
    /// Coordination of the job's checkpoints, if its attempt was declared.
    pub(super) coordinated: Option<Coordinated>,
    pub(super) publish_now: Vec<oneshot::Sender<Result<(), Error>>>,
    pub(super) publishing_for: Vec<oneshot::Sender<Result<(), Error>>>,
    pub(super) flights: BTreeMap<CheckpointId, Flight>,
    /// Checkpoints of this owner that stay to be read, whatever retention says.
    pub(super) held: BTreeMap<CheckpointId, Hold>,
    /// The newest barriers of sessions, to recognise those that are sent again.
    pub(super) barriers: BTreeMap<CheckpointId, SentBarrier>,
    pub(super) persist_waiters: Pending<PersistWaiter>,
    pub(super) account: Account,
    pub(super) session: Option<Writing>,
    pub(super) sessions: u64,
    /// How long the backend may be without session; `None` for ever.
    pub(super) linger: Option<Duration>,
    /// Since when it has no session.
    pub(super) idle_since: Option<Instant>,
    /// Whether a watcher ends it when that time is over.
    pub(super) is_watched: bool,
    pub(super) undelivered: Vec<SessionEvent>,
    /// The number of the next batch.
    pub(super) next_batch: u64,
    /// Time of the newest batch; it never goes back.
    pub(super) time: TimeMs,
    /// Moves `time` on with the clock.
    pub(super) own_time: OwnTime,
    /// The parts of the checkpoint that this owner restored.
    pub(super) restored: Vec<RestoredPart>,
    /// Newer checkpoints that were skipped because they are damaged.
    pub(super) skipped: Vec<crate::checkpoint::job::Spoilt>,
    /// Pieces and images that the next materialization may reuse.
    pub(super) previous: Option<Arc<Reusable>>,
    /// Checkpoints that are being made without changelog.
    pub(super) snapshots: Snapshots,
    /// Changes that a restore would replay after the base.
    pub(super) log_changes: u64,
    /// Whether the writer waits because a replay would take too long.
    pub(super) push_back: PushBack,
    /// Materializations that failed since the last success.
    pub(super) materialization_failures: u32,
    /// Callers that asked for a materialization.
    pub(super) materialization_requests: Vec<oneshot::Sender<Result<Materialization, Error>>>,
    /// The next number of a snapshot file of this epoch.
    pub(super) snapshot_files: Arc<AtomicU64>,
    /// Bytes of state that this backend has counted into `env.state_bytes`.
    pub(super) counted_state_bytes: u64,
    /// Marks of checkpoints, if queries or warm restarts need them.
    pub(super) marks: Option<Marks>,
    /// Images on local disk, if warm restarts need them.
    pub(super) images: Option<KeptImages>,
    /// Number of opens on this daemon that may go on with the state of this owner.
    pub(super) successors: usize,
    /// Scratch memory: the key groups of the current batch.
    pub(super) key_groups: Vec<crate::types::KeyGroup>,
}

/// One state, for people and tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateSummary {
    /// Its id and descriptor.
    pub state: RegisteredState,
    /// Number of its entries: keys for values, map entries, list elements, timers.
    pub entries: u64,
    /// True if counting stopped early, so `entries` is a lower bound.
    pub at_least: bool,
}

impl StateSummary {
    fn uncounted(state: RegisteredState) -> Self {
        Self { state, entries: 0, at_least: true }
    }
}

/// The contents of a backend, for people and tools.
#[derive(Debug, Clone)]
pub struct Description {
    /// The name of the backend.
    pub id: BackendId,
    /// The epoch of its owner.
    pub epoch: Epoch,
    /// The newest manifest, with the present log index and ledger.
    pub manifest: Manifest,
    /// Every state that is in force.
    pub states: Vec<StateSummary>,
    /// How durable its batches are.
    pub acknowledgement: Acknowledgement,
    /// Changes below this sequence number are durable.
    pub persisted_to: Sqn,
    /// Bytes of its state, as the inner backend accounts for them.
    pub state_bytes: u64,
    /// Bytes of changes that are not yet durable.
    pub pending_bytes: u64,
    /// Estimated time to replay the changelog.
    pub replay: Duration,
    /// Whether the writer waits for a materialization because of that time.
    pub pushed_back: bool,
    /// Materializations that failed since the last success.
    pub materialization_failures: u32,
    /// See [`CompletedCheckpoint::self_sustained_since`](super::CompletedCheckpoint::self_sustained_since).
    pub self_sustained_since: CheckpointId,
    /// Why writes are refused; empty if they are not.
    pub failsafe: String,
}

impl Core {
    /// Refuses calls of another epoch, and any call of a backend that has ended.
    pub(super) fn check_owner(&self, epoch: Epoch) -> Result<(), Error> {
        if epoch != self.owner.epoch() {
            return Err(error::fenced(&self.id, epoch, self.owner.epoch()));
        }
        match &self.condition {
            Condition::Ended(error) => Err(error.clone()),
            Condition::Serving | Condition::Failsafe(_) => Ok(()),
        }
    }

    /// Refuses writes in failsafe.
    pub(super) fn check_writable(&self) -> Result<(), Error> {
        match &self.condition {
            Condition::Failsafe(why) => Err(error::failsafe(&self.id, why)),
            Condition::Serving | Condition::Ended(_) => Ok(()),
        }
    }

    /// How durable the batches are.
    pub(super) fn acknowledgement(&self) -> Acknowledgement {
        let applied_to = self.next_batch;
        let persisted_to = self.owner.writer().persisted_batches(applied_to);
        let confirmed_to = self.owner.ledger().confirmed_to();
        assert!(confirmed_to <= persisted_to && persisted_to <= applied_to, "rungs of the ladder are in order");
        Acknowledgement { applied_to, persisted_to, confirmed_to }
    }

    /// Sends `event` to the writing session, or keeps it for the next session.
    pub(super) fn tell(&mut self, event: SessionEvent) {
        match &self.session {
            Some(session) => session.outbox.push(event),
            None => self.undelivered.push(event),
        }
    }

    /// Makes `outbox` the writing session, and ends an older one. Returns the session's number.
    pub(super) fn start_session(&mut self, outbox: Arc<Outbox>) -> u64 {
        if let Some(old) = self.session.take() {
            let error = Error::new(
                Reason::SessionReplaced,
                format!("backend `{}`: a newer session of the same owner was started; this one is over", self.id),
            );
            self.keep_owed(&old.outbox);
            old.outbox.push(SessionEvent::Ended(error));
            self.env.metrics.session_ended();
        }
        self.env.metrics.session_started();
        self.account.revoke();
        self.sessions += 1;
        for event in std::mem::take(&mut self.undelivered) {
            outbox.push(event);
        }
        if let Some(part) = self.coordinated.as_ref().and_then(Coordinated::committed) {
            outbox.push(SessionEvent::JobCheckpointCompleted(part));
        }
        self.session = Some(Writing { number: self.sessions, outbox, halt: None });
        self.idle_since = None;
        self.sessions
    }

    /// Forgets session `number`, if it is still the writing one.
    pub(super) fn end_session(&mut self, number: u64) {
        if let Some(session) = self.session.take_if(|session| session.number == number) {
            self.keep_owed(&session.outbox);
            self.idle_since = Some(Instant::now());
            self.env.metrics.session_ended();
            self.account.revoke();
        }
    }

    /// Makes the writing session read acknowledgements and credit again.
    pub(super) fn wake_session(&self) {
        if let Some(session) = &self.session {
            session.outbox.wake();
        }
    }

    /// Ends this owner: every waiting caller gets `error`, and nothing more is written. Idempotent: the first reason
    /// stays.
    pub(super) fn end(&mut self, error: &Error) {
        if matches!(self.condition, Condition::Ended(_)) {
            return;
        }
        // Order: 1. the condition. From here on no call passes and no manifest begins.
        self.condition = Condition::Ended(error.clone());
        // 2. Everything that waits is answered, checkpoints while the session is still there to be told.
        let in_flight: Vec<_> = self.flights.keys().copied().collect();
        for id in in_flight {
            self.fail_checkpoint(id, error.clone());
        }
        for waiter in self.persist_waiters.drain() {
            if let PersistWaiter::Call(reply) = waiter {
                let _ = reply.send(Err(error.clone()));
            }
        }
        for reply in self.materialization_requests.drain(..) {
            let _ = reply.send(Err(error.clone()));
        }
        for reply in self.publish_now.drain(..).chain(self.publishing_for.drain(..)) {
            let _ = reply.send(Err(error.clone()));
        }
        if let Some(Uploading { uploads, .. }) = &self.uploads {
            uploads.withdraw(&self.id, self.owner.epoch().number);
        }
        // 3. The session hears of its end after all other events.
        if let Some(session) = self.session.take() {
            session.outbox.push(SessionEvent::Ended(error.clone()));
            self.env.metrics.session_ended();
        }
        // 4. Memory and credit go back to the daemon, for the next owner too.
        self.env.metrics.ended(&self.id);
        self.stop_awaiting();
        self.release_copies();
        self.env.metrics.pending_grew(-signed(self.owner.writer().unpersisted_bytes()));
        self.account.close();
        self.push_back.wake();
        self.count_state_bytes(0);
        // 5. The state goes, unless a successor on this daemon takes it over.
        if error.reason != Reason::Fenced || self.successors == 0 {
            self.drop_kept();
        }
        if let Some(shared) = self.shared.upgrade() {
            // 6. Workers and the directory are woken, and find that the backend has ended.
            shared.wake.notify_one();
            shared.materialize.notify_one();
            shared.ended.send_replace(Some(error.clone()));
        }
    }

    /// Ends this owner, because one of its tasks has panicked.
    pub(super) fn end_panicked(&mut self, panicked: &Panicked) {
        let text = format!("backend `{}` was ended by {panicked}; open it again", self.id);
        self.end(&Error::new(Reason::Internal, text));
    }

    /// Sets this backend's share of the daemon's total bytes of state to `bytes`.
    pub(super) fn count_state_bytes(&mut self, bytes: u64) {
        let total = &self.env.state_bytes;
        if bytes >= self.counted_state_bytes {
            total.fetch_add(bytes - self.counted_state_bytes, Ordering::Relaxed);
        } else {
            total.fetch_sub(self.counted_state_bytes - bytes, Ordering::Relaxed);
        }
        self.env.metrics.state_grew(signed(bytes) - signed(self.counted_state_bytes));
        self.counted_state_bytes = bytes;
    }

    /// Describes the backend without counting entries.
    pub(super) fn outline(&self) -> Description {
        let mut manifest = self.owner.manifest().clone();
        manifest.checkpoints = self.owner.ledger().retained().to_vec();
        Description {
            id: self.id.clone(),
            epoch: self.owner.epoch(),
            manifest,
            states: self.states.in_force().map(StateSummary::uncounted).collect(),
            acknowledgement: self.acknowledgement(),
            persisted_to: self.owner.writer().persisted_to(),
            state_bytes: tasks::blocking_if(self.inner.may_block(), || self.inner.bytes()),
            pending_bytes: self.owner.writer().unpersisted_bytes(),
            replay: self.replay_time(),
            pushed_back: self.push_back.is_on(),
            materialization_failures: self.materialization_failures,
            self_sustained_since: self.owner.sustained_since(),
            failsafe: match &self.condition {
                Condition::Failsafe(why) => why.clone(),
                Condition::Serving | Condition::Ended(_) => String::new(),
            },
        }
    }
}

/// A number of bytes in the type of a gauge.
pub(super) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

impl Drop for Core {
    fn drop(&mut self) {
        self.count_state_bytes(0);
        self.drop_marks();
    }
}
