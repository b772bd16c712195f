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

/// Objects that are judged again, then deleted, at a time.
const BATCH_OBJECTS: usize = 10_000;

/// How often a batch is judged anew because chains are being opened, before it is left for the next sweep.
const SETTLE_ATTEMPTS: usize = 16;

/// How often [`store_time`] tries when sweeps without grace delete what it makes.
const CLOCK_ATTEMPTS: usize = 16;

/// How to sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SweepOptions {
    /// What is younger stays. May be zero: no owner's work is at risk.
    pub grace: Duration,
    /// What time it is for the store: see [`store_time`]. Decides what is young, and whether the lease of a pin is
    /// over: too low, more stays.
    pub now_ms: TimeMs,
    /// Delete the garbage, rather than only tell.
    pub delete: bool,
}

/// What a sweep did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SweepReport {
    /// The job.
    pub job: Name,
    /// Every object of the job as listed at the beginning, by path.
    pub findings: Vec<Finding>,
    /// Chains of subtasks that an operator no longer has and nothing needs, as they were found: retired if this sweep
    /// deletes. What only they name is garbage by then.
    pub retired: Vec<Retired>,
}

/// One object and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where it is, its size and its time.
    pub meta: ObjectMeta,
    /// Why it stays or goes.
    pub verdict: Verdict,
    /// Whether this sweep deleted it.
    pub deleted: bool,
}

/// A number of objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Why a job was not swept, or not to the end. No object that is needed was deleted.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// A head cannot be read.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A manifest that was there is gone, and none after it is there.
    #[error("manifest `{object}` was the newest of its chain and is gone: somebody else deletes objects of this job")]
    HeadLost {
        /// Its path.
        object: String,
    },
    /// A page or index that a head names is damaged.
    #[error("index object `{object}` is damaged: {source}")]
    PageDamaged {
        /// Its path.
        object: String,
        /// Where and how.
        source: EnvelopeError,
    },
    /// A page or index that a head names is missing.
    #[error("index object `{object}` is missing, though the head of `{backend}` names it")]
    PageMissing {
        /// Its path.
        object: String,
        /// Whose.
        backend: BackendId,
    },
    /// A bug.
    #[error(transparent)]
    Panicked(#[from] Panicked),
    /// What was made to read the store's clock vanishes each time.
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
    /// Sums over the objects whose verdict is `word`, see [`Verdict::word`].
    #[must_use]
    pub fn tally(&self, word: &str) -> Tally {
        Tally::of(self.findings.iter().filter(|finding| finding.verdict.word() == word))
    }

    /// Sums over what was deleted.
    #[must_use]
    pub fn deleted(&self) -> Tally {
        Tally::of(self.findings.iter().filter(|finding| finding.deleted))
    }
}

impl Tally {
    /// Sums over `findings`.
    #[must_use]
    pub fn of<'a>(findings: impl Iterator<Item = &'a Finding>) -> Self {
        findings.fold(Self::default(), |tally, finding| Self {
            objects: tally.objects + 1,
            bytes: tally.bytes + finding.meta.size,
        })
    }
}

/// Judges every object of `job` and, if asked to, deletes the garbage. Safe beside owners at work and other sweeps,
/// with any grace. Cancel-safe: dropped, part of the garbage may be deleted.
///
/// # Errors
/// [`SweepError`]: a head or a page that it names cannot be read, then nothing was deleted; or the store failed, then
/// part of the garbage may be deleted.
pub async fn sweep(store: &Store, job: &Name, options: &SweepOptions, retry: Retry) -> Result<SweepReport, SweepError> {
    sweep_on(store, job, options, &mut FirstSeen::default(), retry).await
}

/// Like [`sweep`], for who sweeps again and again: `seen` is of the sweeps of the job before.
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
    // Before any head is read: the whole argument rests on it.
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
    let mut observer = Observer::new((store, seen), job, &listed, retry);
    let mut view = observer.observe(options.now_ms).await?;
    let retired = if view.pins().has_unknown() { vec![] } else { generation::retired(observer.heads()) };
    if options.delete && !retired.is_empty() {
        for chain in &retired {
            retire(store, chain, retry).await?;
        }
        view = observer.observe(options.now_ms).await?;
    }
    if options.delete {
        say_retired(store, &observer, retry).await?;
    }
    let judge = |view: &View, (meta, name): &(ObjectMeta, Option<ObjectName>)| match name {
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
        for batch in garbage.chunks_mut(BATCH_OBJECTS) {
            // What nobody names in two views between which no chain was opened, nobody names again: see the front page.
            for _ in 0..SETTLE_ATTEMPTS {
                let now = observer.observe(options.now_ms).await?;
                let is_settled = now.is_of_the_same_owners(&view);
                for (finding, object) in batch.iter_mut() {
                    let (before, verdict) = (judge(&view, object), judge(&now, object));
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

/// Retires a chain, unless somebody opens it meanwhile. Two sweeps make the same manifest.
async fn retire(store: &Store, chain: &Retired, retry: Retry) -> Result<(), SweepError> {
    let Some(head) = chain::read_head(store, &chain.backend, retry).await? else { return Ok(()) };
    // As it was found to be retired, or further behind: only an opener raises the attempt.
    if head.manifest.owner().attempt > chain.attempt || head.manifest.checkpoints.iter().any(|record| record.pinned) {
        return Ok(());
    }
    let going = |record: &CheckpointRecord| chain.going.contains(&record.identity);
    let Some(manifest) = generation::retirement(&head, chain.attempt, Uuid::nil(), going) else { return Ok(()) };
    match chain::append(store, &manifest, retry).await {
        Ok(_) => tracing::info!(backend = %chain.backend, "retired the chain of a subtask that vanished"),
        Err(ChainError::Fenced { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Says beside each head that retired its chain that it did, for the time when nobody can read it.
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

/// What time it is for the store: the time of an object made for that and deleted again. One that a kill leaves behind
/// is found by the next sweep of `job`. Not cancel-safe in that sense.
///
/// # Errors
/// Those of the store.
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
