//! Takes the figures of the daemon once a second, so that reading them never blocks.
//!
//! ```text
//!   backends ──glance, if free──▶ Watch ◀── counters of the store, journal of checkpoints, log
//!                                   │ newest snapshot
//!                                   ▼
//!              status page, `/status`, `dstl top`: never touch a backend or the store
//! ```
//!
//! If a backend is in use without a gap, for example because its disk hangs, its last figures stay, which say how old
//! they are.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::{
    errors::Complaints,
    prices::Prices,
    readiness::Readiness,
    snapshot::{
        BackendFigures, CheckpointFigures, ErrorFigures, Moment, NewestFigures, OperationFigures, Rates, Snapshot,
        StoreFigures, VerifiedFigures,
    },
};
use crate::{
    backend::{Backend, Directory, Glance, Outcome, Phase, Proof, Work},
    object::Operation,
    types::BackendId,
};

/// Time between two snapshots.
const INTERVAL: Duration = Duration::from_secs(1);

/// How often a backend that is in use is asked again within one snapshot, and the pause before each time.
const GLANCES: usize = 4;
const GLANCE_PAUSE: Duration = Duration::from_millis(5);

/// Moments that are kept: two minutes.
const HISTORY: usize = 120;

/// Moments that a rate is taken over.
const RATE_MOMENTS: usize = 5;

/// Snapshots that the rate of requests to the store is taken over: five minutes.
const STORE_MOMENTS: usize = 300;

/// How long a failed request to the store is shown.
const TROUBLE_SHOWN: Duration = Duration::from_secs(600);

/// Most errors that are shown.
const ERRORS_SHOWN: usize = 32;

/// The watch over one daemon. Cheap to clone; all clones show the same.
#[derive(Debug, Clone)]
pub struct Watch {
    directory: Directory,
    readiness: Readiness,
    prices: Arc<Prices>,
    complaints: Complaints,
    newest: Arc<Mutex<Arc<Snapshot>>>,
}

/// Figures of before, which rates are taken from.
#[derive(Debug)]
struct Past {
    began: Instant,
    history: VecDeque<Moment>,
    work: VecDeque<(Instant, Work)>,
    requests: VecDeque<(Instant, [(Operation, u64); Operation::ALL.len()])>,
    batches: BTreeMap<BackendId, VecDeque<(Instant, u64)>>,
    known: BTreeMap<BackendId, BackendFigures>,
}

impl Watch {
    /// A watch over the backends of `directory` that has taken no figures yet.
    #[must_use]
    pub fn new(directory: Directory, readiness: Readiness, prices: Prices, complaints: Complaints) -> Self {
        Self { directory, readiness, prices: Arc::new(prices), complaints, newest: Arc::default() }
    }

    /// The newest snapshot, with the present readiness. Never blocks.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        // Only the pointer is copied under the lock. The figures are copied after it.
        let newest = self.newest.lock().clone();
        Snapshot { readiness: self.readiness.get().to_string(), ..(*newest).clone() }
    }

    /// Takes figures for ever.
    pub async fn run(self) {
        let mut past = Past::new();
        loop {
            let taken = self.take(&mut past).await;
            *self.newest.lock() = Arc::new(taken);
            sleep(INTERVAL).await;
        }
    }

    async fn take(&self, past: &mut Past) -> Snapshot {
        let (env, now) = (self.directory.environment(), Instant::now());
        let at_ms = env.clock.now_ms();
        let backends = self.directory.backends();
        for glance in glances(&backends).await {
            let rate = past.batch_rate(&glance.id, now, glance.acknowledgement.applied_to);
            past.known.insert(glance.id.clone(), figures(&glance, at_ms, rate));
        }
        let is_open = |id: &BackendId| backends.iter().any(|backend| backend.id() == id);
        // Figures of closed backends go, or they would add up over the life of the daemon.
        past.known.retain(|id, _| is_open(id));
        past.batches.retain(|id, _| is_open(id));
        let journal = env.metrics.journal();
        let backends: Vec<_> = backends
            .iter()
            .map(|backend| {
                let id = backend.id();
                let known = past.known.get(id).cloned().unwrap_or_else(|| unknown(backend));
                let checkpoints = journal.outcomes(id).iter().map(checkpoint).collect();
                BackendFigures { checkpoints, verified: journal.proof(id).map(verified), ..known }
            })
            .collect();
        let rates = past.rates(now, env.metrics.work());
        let pending_bytes = backends.iter().map(|backend| backend.pending_bytes).fold(0, u64::saturating_add);
        push(&mut past.history, Moment { at_ms, rates, pending_bytes }, HISTORY);
        Snapshot {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: env.instance.to_string(),
            readiness: String::new(),
            at_ms,
            uptime_ms: millis(now - past.began),
            rates,
            history: past.history.iter().copied().collect(),
            backends,
            store: self.store(past, now),
            errors: self.errors(),
        }
    }

    fn store(&self, past: &mut Past, now: Instant) -> StoreFigures {
        let store = &self.directory.environment().store;
        let requests = store.requests();
        push(&mut past.requests, (now, requests), STORE_MOMENTS);
        let (since, before) = past.requests.front().copied().unwrap_or((now, requests));
        let hours = (now - since).as_secs_f64() / 3_600.0;
        let operations: Vec<_> = requests
            .iter()
            .zip(before)
            .map(|((operation, total), (_, before))| {
                let per_hour = rate(total.saturating_sub(before), hours);
                let price_per_hour = self.prices.price(*operation, per_hour);
                OperationFigures { operation: operation.to_string(), total: *total, per_hour, price_per_hour }
            })
            .collect();
        // Soon after the start of the host, its clock has no moment that is so long ago.
        let since = now.checked_sub(TROUBLE_SHOWN).unwrap_or(past.began);
        let trouble = store.trouble(since);
        StoreFigures {
            price_per_hour: operations.iter().map(|operation| operation.price_per_hour).sum(),
            operations,
            currency: self.prices.currency().to_owned(),
            trouble_ago_ms: trouble.as_ref().map_or(0, |(ago, _)| millis(*ago)),
            trouble: trouble.map_or_else(String::new, |(_, why)| why),
        }
    }

    /// The errors of backends and of the log, newest first.
    fn errors(&self) -> Vec<ErrorFigures> {
        let mishaps = self.directory.environment().metrics.journal().errors().into_iter();
        let mishaps = mishaps.map(|it| ErrorFigures { at_ms: it.at, about: it.backend.to_string(), text: it.text });
        let complaints = self.complaints.list().into_iter();
        let complaints = complaints.map(|it| ErrorFigures { at_ms: it.at, about: it.target.to_owned(), text: it.text });
        let mut errors: Vec<_> = mishaps.chain(complaints).collect();
        errors.sort_by_key(|error| std::cmp::Reverse(error.at_ms));
        errors.truncate(ERRORS_SHOWN);
        errors
    }
}

impl Past {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            history: VecDeque::new(),
            work: VecDeque::new(),
            requests: VecDeque::new(),
            batches: BTreeMap::new(),
            known: BTreeMap::new(),
        }
    }

    fn rates(&mut self, now: Instant, work: Work) -> Rates {
        push(&mut self.work, (now, work), RATE_MOMENTS);
        let (since, before) = self.work.front().copied().unwrap_or((now, work));
        let seconds = (now - since).as_secs_f64();
        Rates {
            batches: rate(work.batches - before.batches, seconds),
            operations: rate(work.operations - before.operations, seconds),
            appended_bytes: rate(work.appended_bytes - before.appended_bytes, seconds),
        }
    }

    fn batch_rate(&mut self, id: &BackendId, now: Instant, applied: u64) -> f64 {
        let moments = self.batches.entry(id.clone()).or_default();
        // A new owner counts its batches anew.
        if moments.back().is_some_and(|(_, before)| *before > applied) {
            moments.clear();
        }
        push(moments, (now, applied), RATE_MOMENTS);
        let (since, before) = moments.front().copied().unwrap_or((now, applied));
        // The numbers of one owner only grow, so the difference is not below 0.
        rate(applied - before, (now - since).as_secs_f64())
    }
}

/// Glances at all `backends` that are free within a few milliseconds.
async fn glances(backends: &[Backend]) -> Vec<Glance> {
    let (mut taken, mut left) = (vec![], backends.to_vec());
    for attempt in 0..GLANCES {
        if attempt > 0 {
            sleep(GLANCE_PAUSE).await;
        }
        left.retain(|backend| match backend.glance() {
            Some(glance) => {
                taken.push(glance);
                false
            }
            None => true,
        });
        if left.is_empty() {
            break;
        }
    }
    taken
}

fn figures(glance: &Glance, at_ms: u64, batches_per_second: f64) -> BackendFigures {
    BackendFigures {
        name: glance.id.to_string(),
        at_ms,
        phase: match glance.phase {
            Phase::Writing => "writing",
            Phase::Idle => "idle",
            Phase::PushedBack => "pushed back",
            Phase::Failsafe => "failsafe",
            Phase::Closing => "closing",
            Phase::Ended => "ended",
        }
        .to_owned(),
        inner: glance.inner.to_string(),
        changelog: glance.changelog,
        epoch: glance.epoch,
        attempt: glance.attempt,
        batches_per_second,
        applied_to: glance.acknowledgement.applied_to,
        persisted_to: glance.acknowledgement.persisted_to,
        confirmed_to: glance.acknowledgement.confirmed_to,
        state_bytes: glance.state_bytes,
        pending_bytes: glance.pending_bytes,
        log_bytes: glance.log_bytes,
        materialized_bytes: glance.base_bytes,
        replay_ms: millis(glance.replay),
        materialization_failures: glance.materialization_failures.into(),
        failsafe: glance.failsafe.clone(),
        retained: glance.retained as u64,
        in_flight: glance.in_flight as u64,
        newest: glance.newest.map(|(id, triggered_at_ms)| NewestFigures { id, triggered_at_ms }),
        verified: None,
        checkpoints: vec![],
    }
}

/// A backend that was in use whenever it was looked at.
fn unknown(backend: &Backend) -> BackendFigures {
    BackendFigures {
        name: backend.id().to_string(),
        phase: "unknown".to_owned(),
        epoch: backend.epoch().number,
        attempt: backend.attempt(),
        ..BackendFigures::default()
    }
}

fn checkpoint(outcome: &Outcome) -> CheckpointFigures {
    let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
    let figures = CheckpointFigures { id: outcome.id, at_ms: outcome.at, ..CheckpointFigures::default() };
    match &outcome.result {
        Ok(phases) => CheckpointFigures {
            sync_ms: ms(phases.sync),
            persist_ms: ms(phases.persist),
            publish_ms: ms(phases.publish),
            bytes: outcome.incremental_bytes,
            ..figures
        },
        Err(why) => CheckpointFigures { fault: why.clone(), ..figures },
    }
}

fn verified(proof: Proof) -> VerifiedFigures {
    VerifiedFigures {
        id: proof.id,
        at_ms: proof.at,
        took_ms: millis(proof.took),
        bytes: proof.bytes,
        fault: proof.fault.unwrap_or_default(),
    }
}

fn push<T>(ring: &mut VecDeque<T>, item: T, most: usize) {
    if ring.len() >= most {
        ring.pop_front();
    }
    ring.push_back(item);
}

#[allow(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
fn rate(count: u64, units: f64) -> f64 {
    if units > 0.0 { count as f64 / units } else { 0.0 }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
