//! The stage of a restore: a new owner opens a checkpoint whose changes all lie in the log.

use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use dstl::{
    backend::{BarrierRequest, ClaimMode, OpenSpec, Opened, RestoreFrom},
    types::{InnerBackend, KeyGroupAssignment},
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{
    Fault, daemon,
    data::{self, BATCH, MAX_PARALLELISM},
};

/// Batches in the log, and the number of keys that they update.
const BATCHES: u64 = 2_000;
const KEYS: u64 = 300_000;

/// The id of the checkpoint.
const CHECKPOINT: u64 = 1;

/// Opens the checkpoint again and again, each time with a daemon of its own.
pub(crate) fn replay(criterion: &mut Criterion) -> Result<(), Fault> {
    let runtime = Runtime::new()?;
    let mut group = criterion.benchmark_group("replay");
    group.sample_size(10);
    group.throughput(Throughput::Elements(BATCHES * BATCH as u64));
    for (name, inner) in [("hashmap", InnerBackend::HashMap), ("rocksdb", InnerBackend::RocksDb)] {
        if inner == InnerBackend::RocksDb && !cfg!(feature = "rocksdb") {
            continue;
        }
        let id = format!("inner={name}/changes={}/keys={KEYS}/value=100", BATCHES * BATCH as u64);
        let (mut written, mut fault) = (None, None);
        group.bench_function(BenchmarkId::from_parameter(id), |bencher| {
            let written = match &mut written {
                Some(written) => written,
                // Written only if the filter has it.
                none => match runtime.block_on(Written::new(inner)) {
                    Ok(new) => none.insert(new),
                    Err(error) => return fault = Some(error),
                },
            };
            bencher.iter_custom(|times| {
                let opens = (0..times).map(|_| runtime.block_on(written.open()));
                opens.sum::<Result<Duration, Fault>>().unwrap_or_else(|error| {
                    fault = Some(error);
                    // Criterion needs a time that passes.
                    Duration::from_secs(1)
                })
            });
        });
        if let Some(fault) = fault {
            return Err(fault);
        }
    }
    group.finish();
    Ok(())
}

/// A store with a checkpoint.
struct Written {
    folder: TempDir,
    inner: InnerBackend,
    attempt: u64,
}

impl Written {
    async fn new(inner: InnerBackend) -> Result<Self, Fault> {
        let (folder, attempt) = (tempfile::tempdir()?, 1);
        let directory = daemon::backends(folder.path(), inner, attempt)?;
        let opened = directory.open(spec(inner, attempt, RestoreFrom::Empty)?, |_| {}).await?;
        let (backend, epoch) = (&opened.backend, opened.backend.epoch());
        backend.register(epoch, &[data::descriptor()])?;
        let mut numbers = data::Numbers::new();
        for number in 0..BATCHES {
            let keys: Vec<u64> = (0..BATCH).map(|_| numbers.next() % KEYS).collect();
            let batches = data::batches(&[data::message(number, keys, 100, &mut numbers)])?;
            for batch in &batches {
                let operations = data::operations(batch)?;
                backend.apply_batch(epoch, Some(number), batch.len() as u64, &operations).await?;
            }
        }
        let barrier = BarrierRequest { id: CHECKPOINT, attachment: Bytes::new(), timeout: None };
        backend.checkpoint(epoch, barrier).await?;
        directory.environment().tasks.abort_all();
        Ok(Self { folder, inner, attempt })
    }

    /// Restores the checkpoint as the next owner, on another daemon; returns the time that the open took.
    async fn open(&mut self) -> Result<Duration, Fault> {
        self.attempt += 1;
        let directory = daemon::backends(self.folder.path(), self.inner, self.attempt)?;
        let spec = spec(self.inner, self.attempt, RestoreFrom::Id(CHECKPOINT))?;
        let begun = Instant::now();
        let opened: Opened = directory.open(spec, |_| {}).await?;
        let time = begun.elapsed();
        assert_eq!(opened.restored.changes, BATCHES * BATCH as u64, "every change is replayed");
        directory.environment().tasks.abort_all();
        Ok(time)
    }
}

fn spec(inner: InnerBackend, attempt: u64, restore: RestoreFrom) -> Result<OpenSpec, Fault> {
    Ok(OpenSpec {
        id: data::backend()?,
        parallelism: 1,
        max_parallelism: Some(MAX_PARALLELISM),
        key_groups: None,
        assignment: Some(KeyGroupAssignment::Hashed),
        inner: Some(inner),
        changelog: Some(true),
        attempt,
        token: Bytes::new(),
        fresh: false,
        peers: Bytes::new(),
        job_run: Bytes::new(),
        restore,
        fallback: false,
        retention: None,
        linger: None,
        claim: Some(ClaimMode::Claim),
    })
}
