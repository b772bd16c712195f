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

use super::{
    core::{Condition, Core},
    outbox::Outbox,
};

/// How often the log repeats that a writer waits.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Whether a writer is pushed back, and the unary batches that wait.
#[derive(Debug, Default)]
pub(super) struct PushBack {
    since: Option<Instant>,
    told: Option<Instant>,
    /// Outboxes of the unary batches that wait.
    waiting: Vec<Weak<Outbox>>,
}

impl PushBack {
    /// Lets unary batches check again.
    pub(super) fn wake(&mut self) {
        for outbox in self.waiting.drain(..).filter_map(|outbox| outbox.upgrade()) {
            outbox.wake();
        }
    }

    /// Whether the writer has to wait.
    pub(super) fn is_on(&self) -> bool {
        self.since.is_some()
    }
}

impl Core {
    /// Whether writes have to wait for a materialization now.
    pub(super) fn pushes_back(&mut self) -> bool {
        if !matches!(self.condition, Condition::Serving)
            || !self.env.options.materialization.is_at_limit(self.log_changes)
        {
            return false;
        }
        if self.push_back.since.is_none() {
            self.push_back.since = Some(Instant::now());
            self.env.metrics.pushed_back(&self.id);
            if let Some(shared) = self.shared.upgrade() {
                shared.materialize.notify_one();
            }
        }
        true
    }

    /// Wakes `outbox` once writes need not wait any more.
    pub(super) fn wait_for_materialization(&mut self, outbox: &Arc<Outbox>) {
        self.push_back.waiting.retain(|waiting| waiting.strong_count() > 0);
        self.push_back.waiting.push(Arc::downgrade(outbox));
    }

    /// Estimated time to replay the log.
    pub(super) fn replay_time(&self) -> Duration {
        self.env.options.materialization.replay_time(self.log_changes)
    }

    /// Records the length of the log, and lets the writer go on if it is short enough again.
    pub(super) fn note_replay(&mut self) {
        self.env.metrics.replay(&self.id, self.replay_time());
        let Some(since) = self.push_back.since else { return };
        if !self.pushes_back() {
            self.push_back.since = None;
            self.push_back.told = None;
            self.env.metrics.relieved(&self.id);
            self.push_back.wake();
            self.wake_session();
            return;
        }
        let now = Instant::now();
        if self.push_back.told.is_none_or(|told| told + TOLD_EVERY <= now) {
            self.push_back.told = Some(now);
            tracing::warn!(
                backend = %self.id,
                replay_seconds = self.replay_time().as_secs(),
                limit_seconds = self.env.options.materialization.max_replay.as_secs(),
                for_seconds = (now - since).as_secs(),
                "the writer waits for a materialization: a restore would take longer than `recovery.max-replay-time`"
            );
        }
    }
}
