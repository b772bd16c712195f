//! Savepoints: rows of all state of a checkpoint, whatever it was made with, from which any backend can begin.

mod barriers;
mod native;
mod proofs;
mod readable;
mod restored;
mod written;

use std::collections::BTreeSet;

use bytes::Bytes;
use dstl::{
    backend::{OpenSpec, Operation, RestoreFrom, Session},
    export::{self, Export, ExportError, source::Source},
    object::{PutPayload, Retry},
    random::Random,
    restore::reader::ReaderOptions,
    savepoint::{Entry, Metadata, NativeMetadata, OperatorMeta, Place, Row, SavepointId, read_rows},
    state::op::Op,
    tasks::Tasks,
    types::{InnerBackend, KeyGroup, Name, StateDescriptor, StateId, StateKind, Ttl},
};

use crate::{
    operator_state::descriptors as operator_descriptors,
    support::{Daemon, Settings, Task, World, spec},
};

const KEY_GROUPS: u32 = 128;
const KEYS: u32 = 400;

fn name(name: &str) -> Name {
    Name::new(name).unwrap()
}

fn id(job: &str, savepoint: &str) -> SavepointId {
    SavepointId { job: name(job), name: name(savepoint) }
}

/// A state of every kind.
fn descriptors() -> Vec<StateDescriptor> {
    let ttl = StateDescriptor { ttl: Some(Ttl::new(1_000_000)), ..StateDescriptor::new("aging", StateKind::Map) };
    let mut all = vec![
        StateDescriptor::new("value", StateKind::Value),
        StateDescriptor::new("list", StateKind::List),
        StateDescriptor::new("map", StateKind::Map),
        StateDescriptor::new("timer", StateKind::Timer),
        ttl,
    ];
    all.extend(operator_descriptors().into_iter().filter(|state| state.redistribution.is_some()));
    all
}

/// A subtask that registered [`descriptors`], in order.
pub(crate) struct Subtask {
    task: Task,
    ids: Vec<StateId>,
    next: u64,
}

impl Subtask {
    async fn open(daemon: &Daemon, spec: OpenSpec) -> Self {
        let opened = daemon.directory.open(spec, |_| {}).await.unwrap();
        let backend = opened.backend.clone();
        let ids = backend.register(backend.epoch(), &descriptors()).unwrap();
        let mut session = Session::start(backend.clone(), backend.epoch()).unwrap();
        let next = session.acknowledgement().0.applied_to;
        Self { task: Task { opened, session }, ids, next }
    }

    fn apply(&mut self, state: usize, key: Option<u32>, namespace: &[u8], op: Op<'_>) {
        let bytes = key.map(u32::to_be_bytes);
        let operation = Operation {
            state: self.ids[state],
            key_group: key.map(|key| key % KEY_GROUPS),
            key: bytes.as_ref().map_or(&[], |key| &key[..]),
            namespace,
            op,
        };
        self.task.session.acknowledgement();
        self.task.apply(self.next, 500, &[operation]).unwrap();
        self.next += 1;
    }
}

/// Writes the state of `keys` through `subtasks`; those of `round` 1 replace part of those of round 0.
fn write(subtasks: &mut [Subtask], round: u8, keys: impl Iterator<Item = u32>) {
    for key in keys {
        let count = subtasks.len() as u32;
        let subtask = &mut subtasks[((key % KEY_GROUPS) * count / KEY_GROUPS) as usize];
        subtask.apply(0, Some(key), b"", Op::Put(&[round; 40]));
        subtask.apply(0, Some(key), b"window", Op::Put(&[key as u8]));
        subtask.apply(1, Some(key), b"", Op::ListAdd(&[round, 1]));
        subtask.apply(1, Some(key), b"", Op::ListAdd(&[round, 2]));
        subtask.apply(2, Some(key), b"", Op::MapPut { map_key: b"both", value: &[round] });
        subtask.apply(2, Some(key), b"", Op::MapPut { map_key: &[round], value: b"" });
        subtask.apply(3, Some(key), b"w", Op::TimerRegister { time: i64::from(key) * 10 - 7 });
        subtask.apply(4, Some(key), b"", Op::MapPut { map_key: b"m", value: &[round, 9] });
    }
}

/// The rows that are there after round 0 of all keys and round 1 of the even ones, and operator state of two subtasks.
pub(crate) fn expected() -> BTreeSet<String> {
    let mut rows = BTreeSet::new();
    for key in 0..KEYS {
        let (name, group) = (key.to_be_bytes(), Place::KeyGroup(KeyGroup((key % KEY_GROUPS) as u16)));
        let last = u8::from(key % 2 == 0);
        let mut add = |state: &str, namespace: &[u8], entry: Entry<'_>, touched: Option<u64>| {
            rows.insert(text(&Row { place: group, state, key: &name, namespace, entry, touched }));
        };
        add("value", b"", Entry::Value(&[last; 40]), None);
        add("value", b"window", Entry::Value(&[key as u8]), None);
        for round in 0..=last {
            add("list", b"", Entry::Element(u64::from(round) * 2, &[round, 1]), None);
            add("list", b"", Entry::Element(u64::from(round) * 2 + 1, &[round, 2]), None);
            add("map", b"", Entry::Map(&[round], b""), None);
        }
        add("map", b"", Entry::Map(b"both", &[last]), None);
        add("timer", b"w", Entry::Timer(i64::from(key) * 10 - 7), None);
        add("aging", b"", Entry::Map(b"m", &[last, 9]), Some(1_000));
    }
    for subtask in 0..2_u32 {
        let mut add = |state: &str, entry: Entry<'_>| {
            let place = Place::Subtask(subtask);
            rows.insert(text(&Row { place, state, key: b"", namespace: b"", entry, touched: None }));
        };
        for index in 0..3 {
            add("split", Entry::Element(index, &[subtask as u8, index as u8]));
        }
        add("union", Entry::Element(0, &[subtask as u8]));
        add("broadcast", Entry::Map(b"rule", b"same"));
    }
    rows
}

fn text(row: &Row<'_>) -> String {
    format!("{row:?}")
}

/// Two subtasks of an operator that have all of [`expected`] at checkpoint 1, part of it in a base, and more since.
pub(crate) async fn job(world: &World, inner: InnerBackend) -> (Daemon, Vec<Subtask>) {
    let (daemon, mut subtasks) = filled(world, Settings::on_request(inner, 7)).await;
    for subtask in &mut subtasks {
        subtask.task.checkpoint(1).await;
    }
    write(&mut subtasks, 2, 0..KEYS);
    (daemon, subtasks)
}

/// Two subtasks of an operator that have all of [`expected`], part of it in a base, and no checkpoint yet.
async fn filled(world: &World, settings: Settings) -> (Daemon, Vec<Subtask>) {
    let daemon = Daemon::start(world, settings);
    let mut subtasks = vec![];
    for subtask in 0..2 {
        subtasks.push(Subtask::open(&daemon, spec(subtask, 2, 1)).await);
    }
    write(&mut subtasks, 0, 0..KEYS);
    for (number, subtask) in (0_u8..).zip(&mut subtasks) {
        for index in 0..3 {
            subtask.apply(5, None, b"", Op::ListAdd(&[number, index]));
        }
        let backend = subtask.task.opened.backend.clone();
        backend.materialize(backend.epoch()).await.unwrap();
        subtask.apply(6, None, b"", Op::ListAdd(&[number]));
        subtask.apply(7, None, b"", Op::MapPut { map_key: b"rule", value: b"same" });
    }
    write(&mut subtasks, 1, (0..KEYS).step_by(2));
    (daemon, subtasks)
}

/// Makes a savepoint of `job`, with so many bytes of memory for state.
pub(crate) async fn create(
    world: &World,
    daemon: &Daemon,
    job: &str,
    savepoint: &str,
    memory: u64,
) -> Result<Metadata, ExportError> {
    let (store, tasks, random) = (world.store(), Tasks::default(), Random::seeded(5));
    let local = daemon.directory.environment().local.clone();
    let options = ReaderOptions {
        store: &store,
        tasks: &tasks,
        random: &random,
        local: local.as_deref(),
        memory,
        parallel_reads: 2,
        retry: Retry::none(),
    };
    let source = Source { job: name(job), checkpoint: None, lease_ms: 60_000 };
    let export = Export { source, name: name(savepoint), now: 1_000 };
    export::create(&export, &options, |_| {}).await
}

/// Makes a native savepoint of `job`.
async fn create_native(
    world: &World,
    daemon: &Daemon,
    (job, savepoint): (&str, &str),
) -> Result<NativeMetadata, ExportError> {
    let (store, tasks, random) = (world.store(), Tasks::default(), Random::from_os());
    let local = daemon.directory.environment().local.clone();
    let options = ReaderOptions {
        store: &store,
        tasks: &tasks,
        random: &random,
        local: local.as_deref(),
        memory: 64 << 20,
        parallel_reads: 2,
        retry: Retry::none(),
    };
    let source = Source { job: name(job), checkpoint: None, lease_ms: 60_000 };
    let export = Export { source, name: name(savepoint), now: 1_000 };
    export::native::create(&export, &options, |_| {}).await
}

/// Every row of a savepoint, as text, in order of the files.
async fn rows(world: &World, id: &SavepointId) -> Vec<String> {
    let store = world.store();
    let metadata = Metadata::read(&store, id, Retry::none()).await.unwrap();
    let mut found = vec![];
    for (operator, meta) in &metadata.operators {
        for file in &meta.files {
            let read = OperatorMeta::read_file(&store, id, &name(operator), file, Retry::none()).await;
            let (path, bytes) = read.unwrap();
            let read = |row: &Row<'_>| {
                found.push(text(row));
                Ok(())
            };
            assert_eq!(read_rows(&path, &bytes, 1 << 30, read).unwrap(), file.rows);
        }
    }
    found
}

/// Copies a savepoint into another store, below another job.
async fn copy(from: &World, id: &SavepointId, to: &World, job: &str) -> SavepointId {
    let (source, target) = (from.store(), to.store());
    for object in source.list(&id.folder(), Retry::none()).await.unwrap() {
        let bytes: Bytes = source.get(&object.path, Retry::none()).await.unwrap();
        let path = object.path.as_ref().replacen(id.job.as_str(), job, 1);
        target.create(&path.into(), PutPayload::from_bytes(bytes), Retry::none()).await.unwrap();
    }
    SavepointId { job: name(job), name: id.name.clone() }
}

fn from(id: &SavepointId) -> RestoreFrom {
    RestoreFrom::Savepoint(id.clone())
}
