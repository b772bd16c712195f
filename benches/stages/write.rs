//! The stages of a batch up to its changes: decode, check, apply.

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use dstl::{
    backend::Operation,
    rpc::stage,
    state::{
        Address, Change, StateBackend,
        hashmap::HashMapBackend,
        op::{self, OpContext},
    },
    types::{KeyGroup, Limits, StateDescriptor},
};

use super::{
    Fault,
    data::{self, BATCH, BATCHES, MAX_PARALLELISM, STATE, VALUE_BYTES, key_group, key_groups},
};

/// Numbers of keys.
const KEYS: [u64; 2] = [100_000, 1_000_000];

/// Reads the operations of a message, which borrow from its bytes.
pub(crate) fn decode(criterion: &mut Criterion) -> Result<(), Fault> {
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(BATCH as u64));
    for value_bytes in VALUE_BYTES {
        let messages = data::messages(1_000_000, value_bytes);
        let mut next = messages.iter().cycle();
        group.bench_function(BenchmarkId::from_parameter(format!("value={value_bytes}")), |bencher| {
            bencher.iter(|| {
                let batch = next.next().and_then(stage::batch);
                batch.and_then(|batch| stage::operations(&batch, usize::MAX).map(|(_, operations)| operations.len()))
            });
        });
    }
    group.finish();
    Ok(())
}

/// Checks each operation of a batch by its shape and sizes, and computes its key group.
pub(crate) fn check(criterion: &mut Criterion) -> Result<(), Fault> {
    let mut group = criterion.benchmark_group("check");
    group.throughput(Throughput::Elements(BATCH as u64));
    let (descriptor, limits) = (data::descriptor(), Limits::default());
    for value_bytes in VALUE_BYTES {
        let batches = data::batches(&data::messages(1_000_000, value_bytes))?;
        let decoded: Vec<_> = batches.iter().map(|batch| data::operations(batch)).collect::<Result<_, _>>()?;
        let mut next = decoded.iter().cycle();
        group.bench_function(BenchmarkId::from_parameter(format!("value={value_bytes}")), |bencher| {
            bencher.iter(|| {
                let operations = next.next().map_or(&[][..], Vec::as_slice);
                operations.iter().all(|operation| {
                    let at = address(operation, key_group(operation));
                    op::check(&operation.op, &at, &descriptor, &limits).is_ok()
                })
            });
        });
    }
    group.finish();
    Ok(())
}

/// Executes checked batches against an inner backend that has all keys.
pub(crate) fn apply(criterion: &mut Criterion) -> Result<(), Fault> {
    let mut group = criterion.benchmark_group("apply");
    group.throughput(Throughput::Elements(BATCH as u64));
    for keys in KEYS {
        for inner in inners() {
            let id = format!("inner={}/keys={keys}/value=100", inner.name);
            let mut filled = None;
            let batches = data::batches(&data::messages(keys, 100))?;
            let decoded: Vec<_> = batches.iter().map(|batch| data::operations(batch)).collect::<Result<_, _>>()?;
            let mut next = decoded.iter().cycle();
            // Filled only if the filter has it.
            let mut fault = None;
            group.bench_function(BenchmarkId::from_parameter(id), |bencher| {
                let backend = match &mut filled {
                    Some(backend) => backend,
                    none => match fill(&inner, keys) {
                        Ok(backend) => none.insert(backend),
                        Err(error) => return fault = Some(error),
                    },
                };
                let descriptor = data::descriptor();
                bencher.iter(|| {
                    let operations = next.next().map_or(&[][..], Vec::as_slice);
                    execute(&mut *backend.backend, operations, &descriptor)
                });
            });
            if let Some(fault) = fault {
                return Err(fault);
            }
        }
    }
    group.finish();
    Ok(())
}

/// A kind of inner backend.
pub(crate) struct Inner {
    name: &'static str,
    make: fn() -> Result<Filled, Fault>,
}

/// An inner backend, and the folder of its files.
pub(crate) struct Filled {
    backend: Box<dyn StateBackend>,
    _folder: Option<tempfile::TempDir>,
}

/// Those that this build has.
fn inners() -> Vec<Inner> {
    vec![
        Inner { name: "hashmap", make: hashmap },
        #[cfg(feature = "rocksdb")]
        Inner { name: "rocksdb", make: rocksdb },
    ]
}

fn hashmap() -> Result<Filled, Fault> {
    Ok(Filled { backend: Box::new(HashMapBackend::new(key_groups()?)), _folder: None })
}

#[cfg(feature = "rocksdb")]
fn rocksdb() -> Result<Filled, Fault> {
    use dstl::state::rocksdb::RocksDbBackend;
    let folder = tempfile::tempdir()?;
    let resources = super::daemon::resources(folder.path())?;
    let backend = RocksDbBackend::new(&resources, key_groups()?, MAX_PARALLELISM)?;
    Ok(Filled { backend: Box::new(backend), _folder: Some(folder) })
}

/// An inner backend with a value at every key below `keys`.
fn fill(inner: &Inner, keys: u64) -> Result<Filled, Fault> {
    let mut filled = (inner.make)()?;
    let descriptor = data::descriptor();
    filled.backend.register(STATE, &descriptor);
    let mut numbers = data::Numbers::new();
    let mut from = 0;
    while from < keys {
        let to = (from + (BATCH * BATCHES) as u64).min(keys);
        let batches = data::batches(&[data::message(0, from..to, 100, &mut numbers)])?;
        for batch in &batches {
            execute(&mut *filled.backend, &data::operations(batch)?, &descriptor);
        }
        from = to;
    }
    Ok(filled)
}

/// Executes operations, as a table does: all places are told to the backend before the first one is touched. Returns
/// the bytes of the changes.
fn execute(backend: &mut dyn StateBackend, operations: &[Operation<'_>], descriptor: &StateDescriptor) -> usize {
    let context = OpContext {
        descriptor,
        max_value_bytes: 1 << 20,
        page_bytes: 1 << 20,
        key_groups: dstl::types::KeyGroupRange::OPERATOR,
        scope: 0,
        time: 0,
        upkeep: None,
        reach: op::scan::Reach::default(),
        cursors: None,
    };
    let places: Vec<_> = operations.iter().map(|operation| address(operation, key_group(operation))).collect();
    backend.warm(&mut places.iter().copied());
    let mut bytes = 0;
    let mut log = |change: &Change<'_>| bytes += change.at.key.len();
    let executed = operations
        .iter()
        .zip(&places)
        .try_for_each(|(operation, at)| op::execute(backend, *at, &operation.op, &context, &mut log).map(drop));
    executed.and_then(|()| backend.finish_batch()).expect("the operations fit their state, and the disk has room");
    bytes
}

/// The address of an operation in a key group.
pub(crate) fn address<'a>(operation: &Operation<'a>, key_group: KeyGroup) -> Address<'a> {
    Address { state: operation.state, key_group, key: operation.key, namespace: operation.namespace }
}

/// The bytes of messages, for stages that only need their changes.
pub(crate) fn batches_of(keys: u64, value_bytes: usize) -> Result<Vec<Bytes>, Fault> {
    data::batches(&data::messages(keys, value_bytes))
}
