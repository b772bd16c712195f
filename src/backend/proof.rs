//! Proves on a schedule that the newest checkpoints of this daemon's backends can be restored, by rebuilding them.
//!
//! A proof goes the way of a restore, key group by key group, from the store itself rather than from local copies. It
//! fails where a restore fails. Its time is the longest that a restore takes here: where all state at once exceeds the
//! memory for reading, the changelog is read more than once.

use std::{collections::BTreeMap, sync::atomic::AtomicU64, time::Duration};

use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};
use tokio::time::{Instant, sleep};

use super::{
    directory::Directory,
    environment::Environment,
    handle::Backend,
    journal::Proof,
    reading::{bug, lease_ms, reader_options, unreadable},
};
use crate::{
    checkpoint::manifest::{CheckpointRecord, Manifest},
    error::{Error, Reason},
    export::{
        part::PartSource,
        rows::{self, RowError},
        source::{SourceError, attachment},
    },
    metrics::{BackendLabels, Metrics},
    restore::{
        Progress,
        reader::{Reader, ReaderOptions},
    },
    types::{BackendId, CheckpointIdentity},
};

/// How often backends are looked at for something to prove.
const POLL: Duration = Duration::from_secs(1);

/// How soon after a proof that could not be made the next one is tried.
const AGAIN: Duration = Duration::from_secs(60);

/// Metrics of proofs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ProofMetrics {
    checkpoint: Family<BackendLabels, Gauge>,
    time: Family<BackendLabels, Gauge<f64, AtomicU64>>,
    seconds: Family<BackendLabels, Gauge<f64, AtomicU64>>,
    is_failed: Family<BackendLabels, Gauge>,
    proofs: Counter,
    read_bytes: Counter,
}

/// Proves that the newest checkpoints can be restored.
#[derive(Debug)]
pub struct Prover {
    directory: Directory,
    interval: Duration,
    metrics: ProofMetrics,
    /// For each backend, the checkpoint that was proved or found damaged last, and when the next one may be tried.
    tried: BTreeMap<BackendId, (Option<CheckpointIdentity>, Instant)>,
}

impl ProofMetrics {
    /// Registers the metrics.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        Self {
            checkpoint: metrics.register(
                "last_verified_checkpoint",
                "The id of the newest checkpoint of a backend that was proved restorable",
                Family::default(),
            ),
            time: metrics.register(
                "last_verified_timestamp_seconds",
                "When that was, in seconds since the Unix epoch",
                Family::default(),
            ),
            seconds: metrics.register(
                "verified_restore_seconds",
                "How long reading and rebuilding all of that checkpoint took",
                Family::default(),
            ),
            is_failed: metrics.register(
                "verify_failed",
                "1 for a backend whose newest checkpoint that was tried cannot be restored",
                Family::default(),
            ),
            proofs: metrics.register("verify_completed", "Checkpoints that were tried", Counter::default()),
            read_bytes: metrics.register("verify_read_bytes", "Stored bytes that were read for it", Counter::default()),
        }
    }

    fn forget(&self, id: &BackendId) {
        let labels = BackendLabels::from(id);
        self.checkpoint.remove(&labels);
        self.time.remove(&labels);
        self.seconds.remove(&labels);
        self.is_failed.remove(&labels);
    }
}

impl Prover {
    /// A prover that tries each backend of `directory` once per `interval`, if it has a newer checkpoint than before.
    #[must_use]
    pub fn new(directory: Directory, interval: Duration, metrics: ProofMetrics) -> Self {
        Self { directory, interval, metrics, tried: BTreeMap::new() }
    }

    /// Proves for ever.
    pub async fn run(mut self) {
        loop {
            let backends = self.directory.backends();
            self.tried.retain(|id, _| {
                let is_open = backends.iter().any(|backend| backend.id() == id);
                if !is_open {
                    self.metrics.forget(id);
                }
                is_open
            });
            for backend in backends {
                if let Some(checkpoint) = self.due(&backend) {
                    self.prove(&backend, checkpoint).await;
                }
            }
            sleep(POLL).await;
        }
    }

    /// The checkpoint of `backend` that is to be tried now. Never blocks.
    fn due(&self, backend: &Backend) -> Option<CheckpointIdentity> {
        let newest = backend.newest_checkpoint()?;
        match self.tried.get(backend.id()) {
            Some((tried, next)) if *tried == Some(newest) || Instant::now() < *next => None,
            _ => Some(newest),
        }
    }

    async fn prove(&mut self, backend: &Backend, checkpoint: CheckpointIdentity) {
        let (id, env) = (backend.id().clone(), self.directory.environment().clone());
        let permit = self.directory.may_read().await;
        let began = Instant::now();
        let source = PartSource { backend: id.clone(), checkpoint, lease_ms: lease_ms(&env) };
        let work = {
            let env = env.clone();
            move || async move {
                let _permit = permit;
                rebuild(&env, &source).await
            }
        };
        let rebuilt = env.tasks.aside("verifying a checkpoint", work).await;
        let rebuilt = rebuilt.unwrap_or_else(|panicked| Err(bug(&panicked)));
        let (at, took) = (env.clock.now_ms(), began.elapsed());
        let (read, fault) = match rebuilt {
            Ok(read) => (read, None),
            Err(error) if is_verdict(&error) => (Progress::default(), Some(error.message)),
            Err(error) => {
                tracing::info!(backend = %id, checkpoint = checkpoint.id, %error, "a checkpoint was not verified");
                // No verdict, so the checkpoint of the last verdict stays, and this one is tried again soon.
                let before = self.tried.get(&id).and_then(|(tried, _)| *tried);
                self.tried.insert(id, (before, Instant::now() + AGAIN.min(self.interval)));
                return;
            }
        };
        // Counted from the beginning, so that long proofs come as often as short ones.
        self.tried.insert(id.clone(), (Some(checkpoint), began + self.interval));
        self.note(&id, &Proof { id: checkpoint.id, at, took, bytes: read.bytes_done, fault });
    }

    fn note(&self, id: &BackendId, proof: &Proof) {
        let labels = BackendLabels::from(id);
        let Proof { id: checkpoint, at, took, bytes, fault } = proof;
        self.metrics.proofs.inc();
        self.metrics.read_bytes.inc_by(*bytes);
        self.metrics.is_failed.get_or_create(&labels).set(fault.is_some().into());
        match fault {
            Some(why) => tracing::error!(backend = %id, checkpoint, why, "a checkpoint cannot be restored"),
            None => {
                tracing::info!(backend = %id, checkpoint, took_ms = took.as_millis(), bytes, "a checkpoint was verified");
                self.metrics.checkpoint.get_or_create(&labels).set(i64::try_from(*checkpoint).unwrap_or(i64::MAX));
                #[allow(clippy::cast_precision_loss, reason = "a time in milliseconds has 41 bits")]
                self.metrics.time.get_or_create(&labels).set(*at as f64 / 1_000.0);
                self.metrics.seconds.get_or_create(&labels).set(took.as_secs_f64());
            }
        }
        self.directory.environment().metrics.journal().prove(id, proof.clone());
    }
}

impl Backend {
    /// The newest retained checkpoint of this owner; `None` if there is none, or while others use the backend.
    fn newest_checkpoint(&self) -> Option<CheckpointIdentity> {
        let core = self.shared.try_core()?;
        // A checkpoint of an older owner was that owner's to prove. A held one may go as soon as its hold ends.
        let newest = core.owner.ledger().retained().last()?.identity;
        (newest.epoch == self.epoch().number && !core.holds.has(newest.id)).then_some(newest)
    }
}

/// Whether an error says that the checkpoint is damaged, rather than that it could not be read now.
fn is_verdict(error: &Error) -> bool {
    matches!(error.reason, Reason::CorruptObject | Reason::MissingObject | Reason::Internal)
}

/// Reads all of a part, as a restore does.
async fn rebuild(env: &Environment, source: &PartSource) -> Result<Progress, Error> {
    // Local copies prove nothing about the store.
    let store = env.store.clone().with_copies(None);
    let options = reader_options(env, &store);
    let read = source.read(&options, async |manifest, record| each_entry(manifest, record, &options).await);
    read.await.map_err(unreadable)
}

async fn each_entry(
    manifest: &Manifest,
    record: &CheckpointRecord,
    options: &ReaderOptions<'_>,
) -> Result<Progress, SourceError> {
    let of = &manifest.backend;
    attachment(manifest, record, options).await?;
    let mut reader = Reader::new(options.clone(), manifest, record);
    while let Some(part) = reader.next().await.map_err(|source| SourceError::Unreadable { of: of.clone(), source })? {
        for at in rows::places(&part, of.subtask, reader.states()) {
            let seen = rows::each(&part, at, |_| Ok::<_, RowError>(()));
            seen.map_err(|source| SourceError::Rows { of: of.clone(), source })?;
        }
    }
    Ok(reader.progress())
}
