//! The bases of checkpoints: materializations, the parts that the next one reuses, and the log since.
//!
//! With a changelog one materialization at a time is made beside the writer, so that the log stays short
//! ([`pushback`]). Without one each checkpoint is a snapshot of its own, and several may be under way ([`snapshots`]).

pub(super) mod pushback;
pub(super) mod snapshots;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use self::{pushback::PushBack, snapshots::Snapshots};
use super::environment::Environment;
use crate::{
    materialization::{
        reusable::Reusable,
        target::{Made, Target},
    },
    object::Retry,
    types::BackendId,
};

/// The bases of one owner.
#[derive(Debug)]
pub(super) struct Bases {
    env: Environment,
    id: BackendId,
    /// Checkpoints that are being made without changelog.
    pub(super) snapshots: Snapshots,
    /// Whether the writer waits because a replay would take too long.
    pub(super) push_back: PushBack,
    /// Pieces and images that the next materialization may reuse.
    previous: Option<Arc<Reusable>>,
    /// The next number of a snapshot file of this epoch.
    files: Arc<AtomicU64>,
    /// Changes that a restore would replay after the base.
    log_changes: u64,
    /// Materializations that failed since the last success.
    failures: u32,
}

impl Bases {
    /// The bases of an owner that may reuse parts of `previous`, and whose log has `log_changes`.
    pub(super) fn new(
        env: &Environment,
        id: &BackendId,
        previous: Option<Arc<Reusable>>,
        log_changes: u64,
        snapshots: Snapshots,
    ) -> Self {
        Self {
            env: env.clone(),
            id: id.clone(),
            snapshots,
            push_back: PushBack::default(),
            previous,
            files: Arc::new(AtomicU64::new(1)),
            log_changes,
            failures: 0,
        }
    }

    /// The parts that the next materialization may reuse.
    pub(super) fn previous(&self) -> Option<&Arc<Reusable>> {
        self.previous.as_ref()
    }

    /// Takes the parts out that the next materialization may reuse.
    pub(super) fn take_previous(&mut self) -> Option<Arc<Reusable>> {
        self.previous.take()
    }

    /// The number of the next snapshot file.
    pub(super) fn next_file(&self) -> u64 {
        // A task may take a number at this very moment, and this may miss it. The result is then too low, which keeps a
        // file for longer than necessary. It is never too high, which could delete one.
        self.files.load(Ordering::Relaxed)
    }

    /// The target of a materialization in epoch `epoch`.
    pub(super) fn target(&self, epoch: u64, retry: Retry) -> Target {
        Target {
            store: self.env.store.clone(),
            backend: self.id.clone(),
            instance: self.env.instance,
            epoch,
            numbers: self.files.clone(),
            random: self.env.random.clone(),
            compression: self.env.options.compression,
            retry,
            insist_until: None,
        }
    }

    /// Changes that a restore would replay after the base, if the log left none out that others overwrite.
    pub(super) fn log_changes(&self) -> u64 {
        self.log_changes
    }

    /// The same, for a batch that adds some.
    pub(super) fn log_changes_mut(&mut self) -> &mut u64 {
        &mut self.log_changes
    }

    /// Estimated time to replay the log.
    pub(super) fn replay_time(&self) -> Duration {
        self.env.options.materialization.replay_time(self.log_changes)
    }

    /// Whether a replay comes near the limit, so that a materialization is urgent.
    pub(super) fn is_near_limit(&self) -> bool {
        self.env.options.materialization.is_near_limit(self.log_changes)
    }

    /// Materializations that failed since the last success.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Notes that a materialization is durable. If it is the newest, the next one may reuse its parts. It has the first
    /// `covered` changes of the log.
    pub(super) fn succeeded(&mut self, made: Made, is_newest: bool, covered: u64) {
        let Made { materialization, index, uploaded_bytes } = made;
        self.env.metrics.materialized(&self.id, materialization.stored_bytes, uploaded_bytes);
        self.failures = 0;
        // Changes that came while it was made still count, although some pieces have them: a replay reads and decodes
        // them all the same, and then skips them. One materialization at a time is made beside the log, so this does
        // not go below zero.
        self.log_changes -= covered;
        if is_newest {
            self.previous = Some(Arc::new(Reusable::new(materialization.uuid, Arc::new(index))));
        }
    }

    /// Notes that a materialization failed; returns how many did so in a row.
    pub(super) fn failed(&mut self) -> u32 {
        self.failures = self.failures.saturating_add(1);
        self.env.metrics.materialization_failed(&self.id, self.failures);
        self.failures
    }

    /// Whether writes have to wait for a materialization now. Returns also whether that is new.
    pub(super) fn pushes_back(&mut self) -> (bool, bool) {
        let is_at_limit = self.env.options.materialization.is_at_limit(self.log_changes);
        let is_new = is_at_limit && self.push_back.begin();
        if is_new {
            self.env.metrics.pushed_back(&self.id);
        }
        (is_at_limit, is_new)
    }

    /// Records the length of the log, and lets the writer go on if it `may_go`; returns whether it goes on now.
    pub(super) fn note_replay(&mut self, may_go: bool) -> bool {
        let replay = self.replay_time();
        self.env.metrics.replay(&self.id, replay);
        if !self.push_back.is_on() {
            return false;
        }
        if may_go {
            self.env.metrics.relieved(&self.id);
            self.push_back.end();
            return true;
        }
        self.push_back.tell(&self.id, replay, self.env.options.materialization.max_replay);
        false
    }
}
