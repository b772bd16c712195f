//! The sweep: lists, observes, judges, deletes.

use std::{collections::BTreeSet, time::Duration};

use uuid::Uuid;

use super::{FirstSeen, Verdict, View, observe::Observer};
use crate::{
    checkpoint::{
        chain::{self, ChainError},
        envelope::EnvelopeError,
        generation::{self, Retired},
        job::JobError,
        manifest::{CheckpointRecord, Manifest},
    },
    object::{
        ObjectMeta, Path, PutPayload, Retry, Store, StoreError,
        layout::{self, ObjectName},
    },
    random::Random,
    tasks::Panicked,
    types::{BackendId, Name, TimeMs},
};

/// Objects that are judged again, and then deleted, in one batch.
const BATCH_OBJECTS: usize = 10_000;

/// How often a batch is judged again because chains are being opened, before it is left for the next sweep.
const SETTLE_ATTEMPTS: usize = 16;

/// How often [`store_time`] tries again when sweeps without grace delete the object that it makes.
const CLOCK_ATTEMPTS: usize = 16;

/// How to sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SweepOptions {
    /// Objects younger than this stay. It may be zero: the work of owners is never at risk.
    pub grace: Duration,
    /// The present time by the store's clock: see [`store_time`]. It decides which objects are young, and whether the
    /// lease of a pin is over. If it is too low, more objects stay.
    pub now_ms: TimeMs,
    /// Whether to delete the garbage, instead of only reporting it.
    pub delete: bool,
}

/// The result of a sweep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SweepReport {
    /// The job that was swept.
    pub job: Name,
    /// Every object of the job as listed at the beginning, by path.
    pub findings: Vec<Finding>,
    /// Chains of subtasks that an operator no longer has and that are not needed, as they were found. If the sweep
    /// deletes, they are retired, and objects that only they named are then garbage.
    pub retired: Vec<Retired>,
}

/// One object and the verdict on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its path, size and time.
    pub meta: ObjectMeta,
    /// Why it stays or goes.
    pub verdict: Verdict,
    /// Whether this sweep deleted it.
    pub deleted: bool,
}

/// A number of objects and their size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Number of objects.
    pub objects: u64,
    /// Their size in bytes.
    pub bytes: u64,
}

/// A job was not swept, or not to the end. No needed object was deleted.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// A head cannot be read.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A head has vanished, and its chain has no newer manifest.
    #[error("manifest `{object}` was the newest of its chain and is gone: somebody else deletes objects of this job")]
    HeadLost {
        /// Path of the manifest.
        object: String,
    },
    /// A page or index that a head names is damaged.
    #[error("index object `{object}` is damaged: {source}")]
    PageDamaged {
        /// Path of the object.
        object: String,
        /// The offset and kind of the damage.
        source: EnvelopeError,
    },
    /// A page or index that a head names is missing.
    #[error("index object `{object}` is missing, though the head of `{backend}` names it")]
    PageMissing {
        /// Path of the object.
        object: String,
        /// The backend whose head names it.
        backend: BackendId,
    },
    /// A task panicked, because of a bug.
    #[error(transparent)]
    Panicked(#[from] Panicked),
    /// The object that was made to read the store's clock vanished at every attempt.
    #[error("the store's clock cannot be read: objects below `{0}` vanish")]
    Clock(Path),
    /// The newest record of the job's chain cannot be read.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SweepReport {
    /// The tally of the objects whose verdict is `word`, see [`Verdict::word`].
    #[must_use]
    pub fn tally(&self, word: &str) -> Tally {
        Tally::of(self.findings.iter().filter(|finding| finding.verdict.word() == word))
    }

    /// The tally of the deleted objects.
    #[must_use]
    pub fn deleted(&self) -> Tally {
        Tally::of(self.findings.iter().filter(|finding| finding.deleted))
    }
}

impl Tally {
    /// The tally of `findings`.
    #[must_use]
    pub fn of<'a>(findings: impl Iterator<Item = &'a Finding>) -> Self {
        findings.fold(Self::default(), |tally, finding| Self {
            objects: tally.objects + 1,
            bytes: tally.bytes + finding.meta.size,
        })
    }
}

/// Judges every object of `job` and, if asked to, deletes the garbage. Safe beside running owners and other sweeps,
/// with any grace. Cancel-safe: if dropped, a part of the garbage may be deleted.
///
/// # Errors
/// [`SweepError`]. If a head or a page that it names cannot be read, nothing was deleted. If the store failed, a part
/// of the garbage may be deleted.
pub async fn sweep(store: &Store, job: &Name, options: &SweepOptions, retry: Retry) -> Result<SweepReport, SweepError> {
    sweep_on(store, job, options, &mut FirstSeen::default(), retry).await
}

/// Like [`sweep`], for a caller that sweeps again and again; `seen` comes from its earlier sweeps of the job.
///
/// # Errors
/// As [`sweep`].
pub async fn sweep_on(
    store: &Store,
    job: &Name,
    options: &SweepOptions,
    seen: &mut FirstSeen,
    retry: Retry,
) -> Result<SweepReport, SweepError> {
    // Order: 1. list, 2. read the heads, 3. list the pins. The proof on the front page depends on it: everything that
    // can name a listed object was there when the object was listed.
    // The listing tells which objects there are to judge. Whatever is created later is not judged by this sweep.
    let objects = store.list(&layout::job(job), retry).await?;
    let listed: Vec<_> = objects
        .into_iter()
        .map(|meta| {
            let name = ObjectName::parse(&meta.path);
            (meta, name)
        })
        .collect();
    let names: BTreeSet<ObjectName> = listed.iter().filter_map(|(_, name)| name.clone()).collect();
    let young: BTreeSet<Path> =
        listed.iter().filter(|(meta, _)| is_young(options, meta, seen)).map(|(meta, _)| meta.path.clone()).collect();
    let mut observer = Observer::new(store, job, seen, &listed, retry);
    let mut view = observer.observe(options.now_ms).await?;
    // A pin of a later version may read a chain that looks retired, so none is retired then.
    let retired = if view.pins().has_unknown() { vec![] } else { generation::retired(observer.heads()) };
    if options.delete && !retired.is_empty() {
        for chain in &retired {
            retire(store, chain, retry).await?;
        }
        view = observer.observe(options.now_ms).await?;
    }
    if options.delete {
        // Only after the retirement is durable and was observed. If the object came first and the retirement failed, a
        // damaged head beside it would be passed over although it names objects.
        say_retired(store, &observer, retry).await?;
    }
    let judge = |view: &View, (meta, name): &(ObjectMeta, Option<ObjectName>)| match name {
        // Whether a target exists is asked of the first listing, as for everything else.
        Some(name) => view.judge(name, young.contains(&meta.path), |other| names.contains(other)),
        None => Verdict::Unknown,
    };
    let verdicts: Vec<Verdict> = listed.iter().map(|object| judge(&view, object)).collect();
    let mut findings: Vec<Finding> = listed
        .iter()
        .zip(verdicts)
        .map(|((meta, _), verdict)| Finding { meta: meta.clone(), verdict, deleted: false })
        .collect();
    if options.delete {
        let mut garbage: Vec<_> =
            findings.iter_mut().zip(&listed).filter(|(finding, _)| finding.verdict.is_garbage()).collect();
        // In batches, so that a long sweep does not rely on views that are hours old.
        for batch in garbage.chunks_mut(BATCH_OBJECTS) {
            // 4. Right before each batch, look again. If two views say garbage and no chain was opened between them, no
            //    owner can name the objects again. 5. Only then delete.
            // If chains are opened all the time, no two views agree, and the batch is left: nothing is deleted in
            // doubt.
            for _ in 0..SETTLE_ATTEMPTS {
                let now = observer.observe(options.now_ms).await?;
                let is_settled = now.is_of_the_same_owners(&view);
                for (finding, object) in batch.iter_mut() {
                    let (before, verdict) = (judge(&view, object), judge(&now, object));
                    // Noted before the deletion: if that fails, the whole sweep returns an error, and this report is
                    // dropped.
                    finding.deleted = is_settled && before.is_garbage() && verdict.is_garbage();
                    finding.verdict = if verdict.is_garbage() { before } else { verdict };
                }
                view = now;
                if is_settled {
                    break;
                }
            }
            let going = batch.iter().filter(|(finding, _)| finding.deleted);
            store.delete_all(going.map(|(finding, _)| finding.meta.path.clone()).collect(), retry).await?;
        }
    }
    seen.tidy();
    Ok(SweepReport { job: job.clone(), findings, retired })
}

/// Retires a chain, unless it is opened meanwhile. Two sweeps make the same manifest.
async fn retire(store: &Store, chain: &Retired, retry: Retry) -> Result<(), SweepError> {
    let Some(head) = chain::read_head(store, &chain.backend, retry).await? else { return Ok(()) };
    // The chain must be as it was found, or further behind; only an opener raises the attempt.
    // Read again right before the retirement, since the view may be old. Whoever comes after this read conflicts in the
    // chain.
    if head.manifest.owner().attempt > chain.attempt || head.manifest.checkpoints.iter().any(|record| record.pinned) {
        return Ok(());
    }
    // Only the checkpoints that were found: one that came since may be needed.
    let going = |record: &CheckpointRecord| chain.going.contains(&record.identity);
    // The nil UUID makes the bytes the same for two sweeps that retire the chain at once. The second finds its own
    // bytes there, which counts as success.
    let Some(manifest) = generation::retirement(&head, chain.attempt, Uuid::nil(), going) else { return Ok(()) };
    match chain::append(store, &manifest, retry).await {
        Ok(_) => tracing::info!(backend = %chain.backend, "retired the chain of a subtask that vanished"),
        // An opener was first. The chain is in use, and the next sweep looks at it again.
        Err(ChainError::Fenced { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Makes an object beside each head that retired its chain, which still says so when the head cannot be read.
async fn say_retired(store: &Store, observer: &Observer<'_>, retry: Retry) -> Result<(), SweepError> {
    let is_unsaid =
        |head: &&Manifest| generation::is_retired(head) && !observer.is_said_retired(&head.backend, head.number);
    let path = |head: &Manifest| ObjectName::Retired { backend: head.backend.clone(), number: head.number }.path();
    let unsaid: Vec<Path> = observer.heads().iter().filter(is_unsaid).map(path).collect();
    for path in unsaid {
        store.create(&path, PutPayload::from_static(b""), retry).await?;
    }
    Ok(())
}

fn is_young(options: &SweepOptions, meta: &ObjectMeta, seen: &mut FirstSeen) -> bool {
    let age = Duration::from_millis(options.now_ms.saturating_sub(seen.time_of(meta, options.now_ms)));
    age < options.grace
}

/// The time by the store's clock, which is the time of an object that is made for this and deleted again. If a crash
/// leaves it behind, the next sweep of `job` finds it; the function is not cancel-safe in that sense.
///
/// # Errors
/// The error of the store.
pub async fn store_time(store: &Store, job: &Name, random: &Random, retry: Retry) -> Result<TimeMs, SweepError> {
    let mut path = Path::default();
    for _ in 0..CLOCK_ATTEMPTS {
        path = ObjectName::Clock { job: job.clone(), id: random.uuid() }.path();
        store.create(&path, PutPayload::from_static(b""), retry).await?;
        let made = store.head(&path, retry).await?;
        store.delete(&path, retry).await?;
        if let Some(made) = made {
            return Ok(made.modified_ms);
        }
    }
    Err(SweepError::Clock(path))
}
