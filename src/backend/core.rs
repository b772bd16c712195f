//! The state of one open backend, as one owner has it. Synchronous: every method returns in microseconds, but for those
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
    marks::Marks,
    materialize::Reusable,
    open::RestoredPart,
    outbox::{Outbox, SessionEvent},
    owed::SentBarrier,
    pushback::PushBack,
    snapshotting::Snapshots,
    states::{RegisteredState, States},
};
use crate::{
    changelog::{pending::Pending, registry::JobUploads, uploader::WriterGuard, writer::Writer},
    checkpoint::{
        ledger::Ledger,
        manifest::{Manifest, Materialization},
    },
    clock::OwnTime,
    error::{Error, Reason},
    restore::KeptImages,
    state::{StateBackend as _, operator::WithOperatorState},
    tasks::{self, Panicked},
    types::{BackendId, CheckpointId, Epoch, Sqn, TimeMs},
};

/// Whether a backend does what it is asked.
#[derive(Debug, Clone)]
pub(super) enum Condition {
    /// All.
    Serving,
    /// Only reads, after a fatal fault: the first reason.
    Failsafe(String),
    /// Nothing: this error is the answer.
    Ended(Error),
}

/// The session that writes.
#[derive(Debug)]
pub(super) struct Writing {
    /// Which, counted per backend.
    pub(super) number: u64,
    /// What it is owed.
    pub(super) outbox: Arc<Outbox>,
    /// Why it is halted.
    pub(super) halt: Option<Error>,
}

/// Cumulative durability of batches: each value holds for all batches below it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Acknowledgement {
    /// In the inner backend.
    pub applied_to: u64,
    /// Durable in the object store.
    pub persisted_to: u64,
    /// Part of a completed checkpoint.
    pub confirmed_to: u64,
}

/// Where changes go to become durable.
#[derive(Debug)]
pub(super) struct Uploading {
    pub(super) uploads: JobUploads,
    /// One more of those whose changes share segments.
    pub(super) _writer: WriterGuard,
}

/// One open backend.
///
/// Invariants: `confirmed_to <= persisted_to <= applied_to`; the run of this epoch in `manifest` lists exactly the
/// change sets below the writer's `listed_to`; each checkpoint in flight in the ledger has an entry in `flights`.
pub(super) struct Core {
    pub(super) env: Environment,
    pub(super) shared: Weak<Shared>,
    pub(super) id: BackendId,
    pub(super) epoch: Epoch,
    pub(super) condition: Condition,
    pub(super) inner: WithOperatorState,
    pub(super) states: States,
    /// Of `states`.
    pub(super) clean_ups: CleanUps,
    pub(super) writer: Writer,
    /// `None` once it has ended: the job's uploads, and their metrics, are there as long as somebody has them.
    pub(super) uploads: Option<Uploading>,
    pub(super) ledger: Ledger,
    /// If its job was declared.
    pub(super) coordinated: Option<Coordinated>,
    /// The newest manifest, with the log index as it is now.
    pub(super) manifest: Manifest,
    pub(super) manifest_crc: u32,
    /// How far the log index of the manifest that is under way, or was last, reaches.
    pub(super) publishing_to: Sqn,
    /// The manifest that opened this epoch.
    pub(super) opened_number: u64,
    /// When the store last told that this is the owner still.
    pub(super) heard: Instant,
    /// Manifests of this epoch below this are deleted.
    pub(super) deleted_below: u64,
    /// What owners before left of their manifests is being deleted.
    pub(super) settling: bool,
    /// Since when the ledger differs from the manifest, and whether somebody waits for the manifest.
    pub(super) dirty_since: Option<Instant>,
    pub(super) publish_now: Vec<oneshot::Sender<Result<(), Error>>>,
    pub(super) publishing_for: Vec<oneshot::Sender<Result<(), Error>>>,
    /// A published checkpoint was withdrawn: a manifest without it goes out at once.
    pub(super) withdrawing: bool,
    /// An orderly close waits for the last manifest.
    pub(super) closing: bool,
    /// The last manifest has begun: it says that this owner names no further segment.
    pub(super) sealed: bool,
    pub(super) flights: BTreeMap<CheckpointId, Flight>,
    /// The newest barriers of sessions.
    pub(super) barriers: BTreeMap<CheckpointId, SentBarrier>,
    pub(super) persist_waiters: Pending<PersistWaiter>,
    pub(super) account: Account,
    pub(super) session: Option<Writing>,
    pub(super) sessions: u64,
    /// How long it may be without session; `None`: for ever.
    pub(super) linger: Option<Duration>,
    /// Since when it is.
    pub(super) idle_since: Option<Instant>,
    /// Whether somebody ends it then.
    pub(super) is_watched: bool,
    pub(super) undelivered: Vec<SessionEvent>,
    /// The batch number that is expected next.
    pub(super) next_batch: u64,
    /// Time of the newest batch: never goes back.
    pub(super) time: TimeMs,
    /// What makes it go on.
    pub(super) own_time: OwnTime,
    /// What it began with.
    pub(super) restored: Vec<RestoredPart>,
    /// Newer checkpoints that were skipped because they are damaged.
    pub(super) skipped: Vec<crate::checkpoint::job::Spoilt>,
    /// If it must not claim that: its first checkpoint, from which on nothing of it is needed; 0 before.
    pub(super) self_sustained_since: Option<CheckpointId>,
    /// The newest materialization of this epoch.
    pub(super) base: Option<Materialization>,
    /// What the next materialization may use again.
    pub(super) previous: Option<Arc<Reusable>>,
    /// Checkpoints that are being made without changelog.
    pub(super) snapshots: Snapshots,
    /// Changes that a restore would replay after the base.
    pub(super) log_changes: u64,
    /// Whether that is so long that the writer waits.
    pub(super) push_back: PushBack,
    /// Materializations that failed since the last one that did not.
    pub(super) materialization_failures: u32,
    /// Who asked for a materialization.
    pub(super) materialization_requests: Vec<oneshot::Sender<Result<Materialization, Error>>>,
    /// The next number of a snapshot file of this epoch.
    pub(super) snapshot_files: Arc<AtomicU64>,
    /// Below this, they are all uploaded or given up.
    pub(super) snapshot_low_water: u64,
    /// Number of the next page of the log index.
    pub(super) next_page: u64,
    /// Bytes of state that this backend has counted into `env.state_bytes`.
    pub(super) counted_state_bytes: u64,
    /// Bytes and changes appended since the last barrier.
    pub(super) since_barrier: (u64, u64),
    /// Marks of checkpoints, if queries are allowed, or warm restarts that need them.
    pub(super) marks: Option<Marks>,
    /// Images on local disk, if warm restarts need them.
    pub(super) images: Option<KeptImages>,
    /// Opens on this daemon that may go on with what this owner has.
    pub(super) successors: usize,
    /// Scratch: key groups of the batch at hand.
    pub(super) key_groups: Vec<crate::types::KeyGroup>,
}

/// One state, for people and tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateSummary {
    /// What is in force.
    pub state: RegisteredState,
    /// Its entries: keys for values, map entries, list elements.
    pub entries: u64,
    /// Whether there may be more entries: nobody counted on.
    pub at_least: bool,
}

impl StateSummary {
    fn uncounted(state: RegisteredState) -> Self {
        Self { state, entries: 0, at_least: true }
    }
}

/// What a backend consists of, for people and tools.
#[derive(Debug, Clone)]
pub struct Description {
    /// The backend.
    pub id: BackendId,
    /// Its owner.
    pub epoch: Epoch,
    /// The newest manifest.
    pub manifest: Manifest,
    /// Every state.
    pub states: Vec<StateSummary>,
    /// Durability of batches.
    pub acknowledgement: Acknowledgement,
    /// Every change below is durable.
    pub persisted_to: Sqn,
    /// As the inner backend accounts for them.
    pub state_bytes: u64,
    /// Bytes of changes that are not durable.
    pub pending_bytes: u64,
    /// How long a replay of the changelog would take, as estimated.
    pub replay: Duration,
    /// Whether the writer waits for a materialization because of that.
    pub pushed_back: bool,
    /// Materializations that failed since the last one that did not.
    pub materialization_failures: u32,
    /// See [`CompletedCheckpoint::self_sustained_since`](super::CompletedCheckpoint::self_sustained_since).
    pub self_sustained_since: CheckpointId,
    /// Why writes are refused; empty while all is well.
    pub failsafe: String,
}

impl Core {
    /// Refuses calls of another epoch, and any call of a backend that has ended.
    pub(super) fn check_owner(&self, epoch: Epoch) -> Result<(), Error> {
        if epoch != self.epoch {
            return Err(error::fenced(&self.id, epoch, self.epoch));
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

    /// How durable which batches are.
    pub(super) fn acknowledgement(&self) -> Acknowledgement {
        let applied_to = self.next_batch;
        let persisted_to = self.writer.persisted_batches(applied_to);
        let confirmed_to = self.ledger.confirmed_to();
        assert!(confirmed_to <= persisted_to && persisted_to <= applied_to, "rungs of the ladder are in order");
        Acknowledgement { applied_to, persisted_to, confirmed_to }
    }

    /// Tells the writing session `event`, or keeps it for the next one.
    pub(super) fn tell(&mut self, event: SessionEvent) {
        match &self.session {
            Some(session) => session.outbox.push(event),
            None => self.undelivered.push(event),
        }
    }

    /// Makes `outbox` the writing session; an older one ends.
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

    /// Forgets session `number`, if it still is the writing one.
    pub(super) fn end_session(&mut self, number: u64) {
        if let Some(session) = self.session.take_if(|session| session.number == number) {
            self.keep_owed(&session.outbox);
            self.idle_since = Some(Instant::now());
            self.env.metrics.session_ended();
            self.account.revoke();
        }
    }

    /// Lets the writing session look at acknowledgements and credit again.
    pub(super) fn wake_session(&self) {
        if let Some(session) = &self.session {
            session.outbox.wake();
        }
    }

    /// Ends this owner: every waiting caller gets `error`, nothing more is written. Idempotent: the first reason stays.
    pub(super) fn end(&mut self, error: &Error) {
        if matches!(self.condition, Condition::Ended(_)) {
            return;
        }
        self.condition = Condition::Ended(error.clone());
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
            uploads.withdraw(&self.id, self.epoch.number);
        }
        if let Some(session) = self.session.take() {
            session.outbox.push(SessionEvent::Ended(error.clone()));
            self.env.metrics.session_ended();
        }
        self.env.metrics.ended(&self.id);
        self.stop_awaiting();
        self.release_copies();
        self.env.metrics.pending_grew(-signed(self.writer.unpersisted_bytes()));
        self.account.close();
        self.push_back.wake();
        self.count_state_bytes(0);
        if error.reason != Reason::Fenced || self.successors == 0 {
            self.drop_kept();
        }
        if let Some(shared) = self.shared.upgrade() {
            shared.wake.notify_one();
            shared.materialize.notify_one();
            shared.ended.send_replace(Some(error.clone()));
        }
    }

    /// Ends this owner, of which a task has panicked.
    pub(super) fn end_panicked(&mut self, panicked: &Panicked) {
        let text = format!("backend `{}` was ended by {panicked}; open it again", self.id);
        self.end(&Error::new(Reason::Internal, text));
    }

    /// Accounts for `bytes` of state in the daemon's total.
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

    /// What the backend consists of; nothing is counted.
    pub(super) fn outline(&self) -> Description {
        let mut manifest = self.manifest.clone();
        manifest.checkpoints = self.ledger.retained().to_vec();
        Description {
            id: self.id.clone(),
            epoch: self.epoch,
            manifest,
            states: self.states.in_force().map(StateSummary::uncounted).collect(),
            acknowledgement: self.acknowledgement(),
            persisted_to: self.writer.persisted_to(),
            state_bytes: tasks::blocking_if(self.inner.may_block(), || self.inner.bytes()),
            pending_bytes: self.writer.unpersisted_bytes(),
            replay: self.replay_time(),
            pushed_back: self.push_back.is_on(),
            materialization_failures: self.materialization_failures,
            self_sustained_since: self.self_sustained_since.unwrap_or(0),
            failsafe: match &self.condition {
                Condition::Failsafe(why) => why.clone(),
                Condition::Serving | Condition::Ended(_) => String::new(),
            },
        }
    }
}

/// A number of bytes as a gauge counts it.
pub(super) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

impl Drop for Core {
    fn drop(&mut self) {
        self.count_state_bytes(0);
        self.drop_marks();
    }
}
