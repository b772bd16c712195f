//! The bound on recovery time: if a restore would take longer than `recovery.max-replay-time`, the writer waits for a
//! materialization.
//!
//! ```text
//!   estimated replay   0 ────────────── half ────────────────── limit
//!   materialization      by interval     │ begins now            │
//!   write credit         two batches     │ one batch             │ none
//! ```
//!
//! Sessions get no more credit, and unary batches wait. Credit that was granted before may still be used: at most one
//! largest batch if the log grew steadily. Reads, barriers, notices and aborts go on. The writer goes on when a
//! materialization has brought the log below the limit. If no materialization succeeds, the writer keeps waiting;
//! otherwise the bound would not hold. Metrics show this, and the log repeats it once a minute.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::Instant;

use crate::{backend::outbox::Outbox, types::BackendId};

/// How often the log repeats that a writer waits.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Whether a writer is pushed back, and the unary batches that wait.
#[derive(Debug, Default)]
pub(crate) struct PushBack {
    since: Option<Instant>,
    told: Option<Instant>,
    /// Outboxes of the unary batches that wait.
    waiting: Vec<Weak<Outbox>>,
}

impl PushBack {
    /// Whether the writer has to wait.
    pub(crate) fn is_on(&self) -> bool {
        self.since.is_some()
    }

    /// Lets unary batches check again.
    pub(crate) fn wake(&mut self) {
        for outbox in self.waiting.drain(..).filter_map(|outbox| outbox.upgrade()) {
            outbox.wake();
        }
    }

    /// Wakes `outbox` once writes need not wait any more.
    pub(crate) fn wait(&mut self, outbox: &Arc<Outbox>) {
        // A call that was given up leaves its outbox behind, so the list is tidied whenever it grows.
        self.waiting.retain(|waiting| waiting.strong_count() > 0);
        self.waiting.push(Arc::downgrade(outbox));
    }

    /// Notes that the writer has to wait; returns whether that is new.
    pub(super) fn begin(&mut self) -> bool {
        let is_new = self.since.is_none();
        self.since.get_or_insert_with(Instant::now);
        is_new
    }

    /// Lets the writer go on.
    pub(super) fn end(&mut self) {
        (self.since, self.told) = (None, None);
        self.wake();
    }

    /// Tells the log now and then that the writer waits, because a replay takes longer than `limit`.
    pub(super) fn tell(&mut self, backend: &BackendId, replay: Duration, limit: Duration) {
        let Some(since) = self.since else { return };
        let now = Instant::now();
        if self.told.is_none_or(|told| told + TOLD_EVERY <= now) {
            self.told = Some(now);
            tracing::warn!(
                %backend,
                replay_seconds = replay.as_secs(),
                limit_seconds = limit.as_secs(),
                for_seconds = (now - since).as_secs(),
                "the writer waits for a materialization: a restore would take longer than `recovery.max-replay-time`"
            );
        }
    }
}
