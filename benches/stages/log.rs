//! The stages of the log: append, seal, upload.

use criterion::{BenchmarkId, Criterion, Throughput};
use dstl::{
    changelog::{
        block::{ChangeSetBuilder, SPLIT_BYTES},
        compression::Compression,
        segment::{ChangeSet, SegmentId, encode},
        uploader::{Client, Submission},
        writer::Writer,
    },
    state::{Action, Change, op::Op},
    types::TimeMs,
};
use tokio::{runtime::Runtime, sync::oneshot};

use super::{
    Fault,
    daemon::Uploads,
    data::{self, BATCH, MAX_PARALLELISM, VALUE_BYTES, key_group, key_groups},
    write::{address, batches_of},
};

/// The writer rolls over at so many bytes, as it does by default.
const ROLL_OVER_BYTES: usize = 5 << 20;

/// Bytes of the change sets that are sealed and uploaded.
const SET_BYTES: [usize; 3] = [64 << 10, 1 << 20, 5 << 20];

/// The time of all batches.
const TIME: TimeMs = 1_000_000;

/// Appends the changes of a batch, and rolls over now and then.
pub(crate) fn append(criterion: &mut Criterion) -> Result<(), Fault> {
    let mut group = criterion.benchmark_group("append");
    group.throughput(Throughput::Elements(BATCH as u64));
    for value_bytes in VALUE_BYTES {
        let batches = batches_of(1_000_000, value_bytes)?;
        let changes: Vec<_> = batches.iter().map(|batch| changes(batch)).collect::<Result<_, _>>()?;
        let (mut writer, mut number) = (writer()?, 0);
        let mut next = changes.iter().cycle();
        group.bench_function(BenchmarkId::from_parameter(format!("value={value_bytes}")), |bencher| {
            bencher.iter(|| {
                append_batch(&mut writer, number, next.next().map_or(&[], Vec::as_slice));
                number += 1;
                if writer.active_bytes() >= ROLL_OVER_BYTES { writer.roll_over() } else { None }
            });
        });
    }
    group.finish();
    Ok(())
}

/// Makes a segment of one change set: compression, checksums, index.
pub(crate) fn seal(criterion: &mut Criterion) -> Result<(), Fault> {
    let mut group = criterion.benchmark_group("seal");
    for bytes in SET_BYTES {
        let set = change_set(bytes)?;
        group.throughput(Throughput::Bytes(set.body.length()));
        for (name, compression) in [("none", Compression::None), ("lz4", Compression::Lz4), ("zstd", Compression::Zstd)]
        {
            let id = SegmentId { job: set.backend.job.clone(), instance: uuid::Uuid::nil(), number: 1 };
            let parameter = format!("bytes={bytes}/compression={name}");
            group.bench_function(BenchmarkId::from_parameter(parameter), |bencher| {
                bencher.iter(|| encode(id.clone(), std::slice::from_ref(&set), compression));
            });
        }
    }
    group.finish();
    Ok(())
}

/// Makes one change set after the other durable in a local store that fsyncs; the sealing is part of it.
pub(crate) fn upload(criterion: &mut Criterion) -> Result<(), Fault> {
    let runtime = Runtime::new()?;
    let mut group = criterion.benchmark_group("upload");
    group.sample_size(20);
    for bytes in SET_BYTES {
        let set = change_set(bytes)?;
        let uploads = runtime.block_on(async { Uploads::start() })?;
        group.throughput(Throughput::Bytes(set.body.length()));
        group.bench_function(BenchmarkId::from_parameter(format!("bytes={bytes}")), |bencher| {
            bencher.iter(|| runtime.block_on(upload_one(&uploads.client, &set)));
        });
    }
    group.finish();
    Ok(())
}

async fn upload_one(client: &Client, set: &ChangeSet) {
    let (durable, outcome) = oneshot::channel();
    let done = Box::new(move |result| _ = durable.send(result));
    client.submit(Submission { set: set.clone(), urgent: true, done });
    let uploaded = outcome.await.expect("the outcome is always told");
    uploaded.expect("a local store has room");
}

/// A writer without changes.
fn writer() -> Result<Writer, Fault> {
    let parts = key_groups()?.parts(MAX_PARALLELISM).collect();
    Ok(Writer::new(data::backend()?, 1, ChangeSetBuilder::new(parts, SPLIT_BYTES)))
}

fn append_batch(writer: &mut Writer, number: u64, changes: &[Change<'_>]) {
    let before = writer.active_bytes();
    writer.begin_batch(number, TIME);
    for change in changes {
        writer.push(change.at.key_group, |buffer| change.encode(buffer));
    }
    writer.end_batch(before);
}

/// The changes that a batch of puts makes.
fn changes(batch: &[u8]) -> Result<Vec<Change<'_>>, Fault> {
    let operations = data::operations(batch)?;
    let changes = operations.iter().filter_map(|operation| match operation.op {
        Op::Put(value) => Some(Change { at: address(operation, key_group(operation)), action: Action::Put(value) }),
        _ => None,
    });
    Ok(changes.collect())
}

/// A change set of at least so many bytes.
fn change_set(bytes: usize) -> Result<ChangeSet, Fault> {
    let (batches, mut writer) = (batches_of(1_000_000, 100)?, writer()?);
    for (number, batch) in (0..).zip(batches.iter().cycle()) {
        append_batch(&mut writer, number, &changes(batch)?);
        if writer.active_bytes() >= bytes {
            break;
        }
    }
    Ok(writer.roll_over().ok_or("nothing was appended")?)
}
