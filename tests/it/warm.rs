//! Warm restarts: a task that comes back to the daemon that still has its state.

mod disk;
mod older;

use std::collections::BTreeMap;

use bytes::Bytes;
use dstl::{
    backend::{Operation, RestoreFrom},
    checkpoint::ledger::NoticeKind,
    error::Reason,
    random::Random,
    restore::Progress,
    state::{
        MapKeys,
        op::{Answer, Op},
        rocksdb::TimerService,
    },
    types::{InnerBackend, MergeFunction, StateDescriptor, StateId, StateKind, Ttl},
};
use object_store::{ObjectStoreExt as _, path::Path};

use crate::support::{Daemon, Settings, Task, World, group_of, on_both};

const VALUE: StateId = StateId(1);
const SUM: StateId = StateId(2);
const MAP: StateId = StateId(3);
const LIST: StateId = StateId(4);
const TIMER: StateId = StateId(5);
const AGING: StateId = StateId(6);
const KEYS: u64 = 12;

const LATEST: RestoreFrom = RestoreFrom::Latest { or_empty: false };

on_both! {
    every_checkpoint_comes_back_with_changelog: |inner| super::every_checkpoint_comes_back(inner, true);
    every_checkpoint_comes_back_without_changelog: |inner| super::every_checkpoint_comes_back(inner, false);
    what_was_published_is_used_again_unless_it_was_rolled_back: super::what_was_published_is_used_again_unless_it_was_rolled_back;
    a_changed_time_to_live_is_not_that_of_the_checkpoint: super::a_changed_time_to_live_is_not_that_of_the_checkpoint;
    states_that_no_manifest_names_are_not_handed_on: super::states_that_no_manifest_names_are_not_handed_on;
}

fn settings(inner: InnerBackend, seed: u64) -> Settings {
    let mut settings = Settings::on_request(inner, seed);
    settings.options.warm = true;
    settings.timers = if seed.is_multiple_of(2) { TimerService::Heap } else { TimerService::RocksDb };
    settings
}

fn register(task: &Task) {
    let state = |name, kind| StateDescriptor::new(name, kind);
    let aging = StateDescriptor { ttl: Some(Ttl::new(1_000_000)), ..state("aging", StateKind::Value) };
    let states =
        [state("map", StateKind::Map), state("list", StateKind::List), state("timer", StateKind::Timer), aging];
    let backend = &task.opened.backend;
    assert_eq!(backend.register(backend.epoch(), &states).unwrap(), [MAP, LIST, TIMER, AGING]);
}

fn op<'a>(task: &Task, state: StateId, key: &'a str, op: Op<'a>) -> Operation<'a> {
    let key_group = Some(group_of(task.opened.shape.key_groups, key));
    let key_group = key_group.filter(|_| !matches!(op, Op::Timers { .. } | Op::TimersFire { .. }));
    Operation { state, key_group, key: key.as_bytes(), namespace: b"", op }
}

fn apply(task: &mut Task, operations: &[Operation<'_>]) -> Vec<(u32, Option<Answer>)> {
    let (acknowledgement, _) = task.session.acknowledgement();
    task.apply(acknowledgement.applied_to, 1, operations).unwrap().unwrap_or_default().answers
}

fn put(task: &mut Task, key: &str, value: &[u8]) {
    apply(task, &[op(task, VALUE, key, Op::Put(value))]);
}

/// All that is there.
fn everything(task: &mut Task) -> Vec<(u32, Option<Answer>)> {
    let keys: Vec<String> = (0..KEYS).map(|key| format!("key {key}")).collect();
    let of_key = |key| {
        [
            op(task, VALUE, key, Op::Get),
            op(task, SUM, key, Op::Get),
            op(task, MAP, key, Op::MapEntries { keys: MapKeys::default(), limit: 0 }),
            op(task, LIST, key, Op::ListGet { start: 0, token: &[], limit: 0 }),
            op(task, AGING, key, Op::Get),
        ]
    };
    let mut reads: Vec<_> = keys.iter().flat_map(|key| of_key(key)).collect();
    reads.push(op(task, TIMER, "", Op::Timers { up_to: i64::MAX, token: &[], limit: 0 }));
    apply(task, &reads)
}

/// One write of any kind.
fn write(task: &mut Task, random: &Random) {
    let key = format!("key {}", random.below(KEYS));
    let value = vec![random.below(256) as u8; random.below(40) as usize];
    let (map_key, elements) = ([random.below(6) as u8], vec![Bytes::from(value.clone()); random.below(4) as usize]);
    let time = random.below(9) as i64;
    let (state, write_op) = match random.below(14) {
        0 | 1 => (VALUE, Op::Put(&value)),
        2 => (VALUE, Op::Clear),
        3 => (SUM, Op::Merge(&[1, 0, 0, 0, 0, 0, 0, 0])),
        4 | 5 => (MAP, Op::MapPut { map_key: &map_key, value: &value }),
        6 => (MAP, Op::MapRemove { map_key: &map_key }),
        7 => (MAP, Op::Clear),
        8 => (LIST, Op::ListUpdate(&elements)),
        9 => (LIST, Op::ListAdd(&value)),
        10 => (AGING, Op::Put(&value)),
        11 => (TIMER, Op::TimerDelete { time }),
        12 if random.below(4) == 0 => (TIMER, Op::TimersFire { up_to: time, limit: 3 }),
        _ => (TIMER, Op::TimerRegister { time }),
    };
    let key = if matches!(write_op, Op::TimersFire { .. }) { "" } else { &key };
    let operation = op(task, state, key, write_op);
    apply(task, &[operation]);
}

/// Objects with state that are out of the store for a while: a restore that read one of them would fail.
struct Hidden(Vec<(Path, Bytes)>);

impl Hidden {
    async fn new(world: &World) -> Self {
        let mut hidden = vec![];
        for part in ["/segments/", "/snapshot/"] {
            for path in world.paths(part).await {
                let path = Path::from(path);
                hidden.push((path.clone(), world.objects.get(&path).await.unwrap().bytes().await.unwrap()));
                world.objects.delete(&path).await.unwrap();
            }
        }
        Self(hidden)
    }

    async fn put_back(self, world: &World) {
        for (path, bytes) in self.0 {
            world.objects.put(&path, bytes.into()).await.unwrap();
        }
    }
}

/// Ends the task without a word and opens the next one, which must not read state from the store.
async fn come_back(world: &World, daemon: &Daemon, task: Task, restore: RestoreFrom) -> Task {
    let (attempt, old) = (task.opened.backend.attempt(), task.opened.backend.clone());
    drop(task);
    let hidden = Hidden::new(world).await;
    let task = daemon.task(attempt + 1, restore).await.unwrap();
    hidden.put_back(world).await;
    let opened = &task.opened;
    assert!(opened.warm && !opened.reconnected && opened.not_warm.is_empty(), "{}", opened.not_warm);
    assert_eq!(opened.applied_to, 0);
    if opened.shape.inner == InnerBackend::HashMap {
        assert_eq!(opened.restored, Progress::default());
    }
    let zombie = old.register(old.epoch(), &[]).unwrap_err();
    assert_eq!(zombie.reason, Reason::Fenced, "{zombie}");
    register(&task);
    task
}

async fn every_checkpoint_comes_back(inner: InnerBackend, changelog: bool) {
    for seed in 1..4 {
        let world = World::new();
        let mut of_daemon = settings(inner, seed);
        of_daemon.options.changelog = changelog;
        let daemon = Daemon::start(&world, of_daemon);
        let random = Random::seeded(seed);
        let mut task = daemon.task(1, RestoreFrom::Empty).await.unwrap();
        register(&task);
        let mut cuts = BTreeMap::new();
        let mut id = 0;
        for round in 0..40 {
            for _ in 0..random.below(25) {
                write(&mut task, &random);
            }
            if changelog && random.below(4) == 0 {
                let backend = &task.opened.backend;
                backend.materialize(backend.epoch()).await.unwrap();
            }
            id += 1;
            cuts.insert(id, everything(&mut task));
            task.checkpoint(id).await;
            if random.below(3) > 0 {
                task.notice(NoticeKind::Complete, id);
            }
            for _ in 0..random.below(25) {
                write(&mut task, &random);
            }
            match random.below(4) {
                0 => continue,
                1 => {
                    // Under way when the task dies, or published in time.
                    id += 1;
                    cuts.insert(id, everything(&mut task));
                    task.barrier(id);
                    for _ in 0..random.below(25) {
                        write(&mut task, &random);
                    }
                }
                _ => {}
            }
            let restore = if random.below(2) == 0 { RestoreFrom::Id(newest(&task)) } else { LATEST };
            task = come_back(&world, &daemon, task, restore).await;
            let restored = task.opened.checkpoint.unwrap().id;
            assert_eq!(everything(&mut task), cuts[&restored], "checkpoint {restored}, seed {seed}, round {round}");
        }
        write(&mut task, &random);
        if changelog {
            let backend = &task.opened.backend;
            backend.materialize(backend.epoch()).await.unwrap();
        }
        write(&mut task, &random);
        let last = everything(&mut task);
        task.checkpoint(id + 1).await;
        drop(task);
        daemon.crash();
        let mut of_daemon = settings(inner, 100 + seed);
        of_daemon.options.changelog = changelog;
        let daemon = Daemon::start(&world, of_daemon);
        let mut task = daemon.task(1_000, LATEST).await.unwrap();
        assert!(!task.opened.warm && task.opened.not_warm.is_empty(), "{}", task.opened.not_warm);
        assert_eq!(everything(&mut task), last, "seed {seed}");
    }
}

/// The newest checkpoint that is published.
fn newest(task: &Task) -> u64 {
    task.opened.backend.outline().manifest.checkpoints.last().unwrap().identity.id
}

#[tokio::test(start_paused = true)]
async fn beyond_the_memory_the_store_is_read() {
    let inner = InnerBackend::HashMap;
    let world = World::new();
    let mut of_daemon = settings(inner, 1);
    of_daemon.options.undo_memory = 4_000;
    let daemon = Daemon::start(&world, of_daemon);
    let mut task = daemon.task(1, RestoreFrom::Empty).await.unwrap();
    put(&mut task, "a", &[1; 3_000]);
    put(&mut task, "b", &[1; 3_000]);
    task.checkpoint(1).await;
    put(&mut task, "a", b"2");
    put(&mut task, "b", b"2");
    drop(task);
    let mut task = daemon.task(2, LATEST).await.unwrap();
    assert!(!task.opened.warm && task.opened.not_warm.contains("`memory.undo`"), "{}", task.opened.not_warm);
    assert_eq!((task.get(0, "a"), task.get(1, "b")), (Some(vec![1; 3_000]), Some(vec![1; 3_000])));
    put(&mut task, "a", b"3");
    drop(task);
    let mut task = daemon.task(3, LATEST).await.unwrap();
    assert!(task.opened.warm, "what was restored from the store has a mark: {}", task.opened.not_warm);
    assert_eq!(task.get(0, "a"), Some(vec![1; 3_000]));
}

async fn what_was_published_is_used_again_unless_it_was_rolled_back(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(inner, 1));
    let mut task = daemon.task(1, RestoreFrom::Empty).await.unwrap();
    register(&task);
    let keys: Vec<String> = (0..5_000).map(|key| format!("key {key}")).collect();
    for keys in keys.chunks(500) {
        let operations: Vec<_> = keys.iter().map(|key| op(&task, VALUE, key, Op::Put(&[7; 100]))).collect();
        apply(&mut task, &operations);
    }
    let backend = task.opened.backend.clone();
    backend.materialize(backend.epoch()).await.unwrap();
    task.checkpoint(1).await;
    put(&mut task, "key 7", b"lost");
    put(&mut task, "key 9", b"lost");
    let uploaded = || value(&daemon, "dstl_materialization_uploaded_bytes_total");
    let before = uploaded();
    let mut task = come_back(&world, &daemon, task, LATEST).await;
    put(&mut task, "key 9", b"new");
    let backend = task.opened.backend.clone();
    let made = backend.materialize(backend.epoch()).await.unwrap();
    if inner == InnerBackend::HashMap {
        let again = uploaded() - before;
        assert!(0 < again && again < made.stored_bytes / 4, "{again} of {} bytes are new", made.stored_bytes);
    }
    task.checkpoint(2).await;
    // A materialization that the checkpoint does not build on is of no use.
    put(&mut task, "key 11", b"lost");
    backend.materialize(backend.epoch()).await.unwrap();
    let mut task = come_back(&world, &daemon, task, RestoreFrom::Id(2)).await;
    let backend = task.opened.backend.clone();
    backend.materialize(backend.epoch()).await.unwrap();
    task.checkpoint(3).await;
    drop(task);
    daemon.crash();
    let daemon = Daemon::start(&world, settings(inner, 2));
    let mut task = daemon.task(9, LATEST).await.unwrap();
    let lost = [("key 7", vec![7; 100]), ("key 9", b"new".to_vec()), ("key 11", vec![7; 100])];
    for (number, (key, expected)) in (0..).zip(lost) {
        assert_eq!(task.get(number, key), Some(expected), "{key}");
    }
    assert_eq!(task.opened.backend.describe().states[0].entries, 5_000);
}

async fn a_changed_time_to_live_is_not_that_of_the_checkpoint(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(inner, 1));
    let mut task = daemon.task(1, RestoreFrom::Empty).await.unwrap();
    register(&task);
    let write = op(&task, AGING, "a", Op::Put(b"1"));
    apply(&mut task, &[write]);
    task.checkpoint(1).await;
    let shorter = StateDescriptor { ttl: Some(Ttl::new(10)), ..StateDescriptor::new("aging", StateKind::Value) };
    let backend = task.opened.backend.clone();
    backend.register_states(backend.epoch(), &[shorter], &[]).await.unwrap();
    world.time.fetch_add(1_000, std::sync::atomic::Ordering::Relaxed);
    put(&mut task, "a", b"1");
    // A manifest for the notice alone names the new registration.
    task.notice(NoticeKind::Complete, 1);
    tokio::time::sleep(std::time::Duration::from_secs(20)).await;
    drop(task);
    let mut task = daemon.task(2, LATEST).await.unwrap();
    let is_undone = inner == InnerBackend::HashMap;
    assert_eq!((task.opened.warm, task.opened.not_warm.contains("time-to-live")), (!is_undone, is_undone));
    let read = op(&task, AGING, "a", Op::Get);
    let read = apply(&mut task, &[read]);
    assert_eq!(read, [(0, Some(Answer::Value(Some("1".into()))))], "it lives as long as it did at the checkpoint");
}

async fn states_that_no_manifest_names_are_not_handed_on(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(inner, 1));
    let task = &mut daemon.task(1, RestoreFrom::Empty).await.unwrap();
    put(task, "a", b"1");
    task.checkpoint(1).await;
    let backend = &task.opened.backend;
    let registered = |task: &Task, descriptor| task.opened.backend.register(task.opened.backend.epoch(), &[descriptor]);
    assert_eq!(registered(task, StateDescriptor::new("new", StateKind::Map)), Ok(vec![StateId(3)]));
    let zombie = backend.clone();
    let mut task = daemon.task(2, LATEST).await.unwrap();
    let is_undone = inner == InnerBackend::HashMap;
    assert_eq!((task.opened.warm, task.opened.not_warm.contains("registered states")), (!is_undone, is_undone));
    assert_eq!(registered(&task, StateDescriptor::new("other", StateKind::List)), Ok(vec![StateId(3)]));
    assert_eq!(task.get(0, "a"), Some(b"1".to_vec()));
    assert_eq!(zombie.persist(zombie.epoch()).await.unwrap_err().reason, Reason::Fenced);
}

fn value(daemon: &Daemon, name: &str) -> u64 {
    let text = daemon.metrics.encode();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} "))).unwrap();
    line.parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn metrics_of_warm_restores_have_exact_values() {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(InnerBackend::HashMap, 1));
    let mut task = daemon.task(1, RestoreFrom::Empty).await.unwrap();
    put(&mut task, "a", b"1");
    task.checkpoint(1).await;
    for key in ["a", "a", "b"] {
        put(&mut task, key, b"2");
    }
    let undo_bytes = value(&daemon, "dstl_undo_bytes");
    assert!(undo_bytes > 0);
    drop(task);
    let task = daemon.task(2, LATEST).await.unwrap();
    assert!(task.opened.warm);
    let values = ["restore_completed_total", "restore_warm_total", "restore_rolled_back_changes_total", "undo_bytes"]
        .map(|name| value(&daemon, &format!("dstl_{name}")));
    assert_eq!(values, [1, 1, 3, 0]);
}

#[tokio::test(start_paused = true)]
async fn without_its_setting_the_store_is_read_and_nothing_is_kept() {
    let world = World::new();
    let daemon = Daemon::start(&world, Settings::on_request(InnerBackend::HashMap, 1));
    let mut task = daemon.task(1, RestoreFrom::Empty).await.unwrap();
    put(&mut task, "a", b"1");
    task.checkpoint(1).await;
    put(&mut task, "a", b"2");
    assert_eq!(value(&daemon, "dstl_undo_bytes"), 0);
    drop(task);
    let mut task = daemon.task(2, LATEST).await.unwrap();
    assert!(!task.opened.warm && task.opened.not_warm.contains("execution.state-recovery.warm"));
    assert_eq!((task.get(0, "a"), value(&daemon, "dstl_restore_warm_total")), (Some(b"1".to_vec()), 0));
}

#[tokio::test(start_paused = true)]
async fn another_shape_or_backend_is_read_from_the_store() {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(InnerBackend::HashMap, 1));
    let mut task = daemon.task(1, RestoreFrom::Empty).await.unwrap();
    put(&mut task, "a", b"1");
    task.checkpoint(1).await;
    drop(task);
    let spec = dstl::backend::OpenSpec { restore: LATEST, changelog: Some(false), ..crate::support::spec(0, 1, 2) };
    let opened = daemon.directory.open(spec, |_| {}).await.unwrap();
    assert!(!opened.warm && opened.not_warm.contains("another shape"), "{}", opened.not_warm);
    let spec = dstl::backend::OpenSpec {
        restore: LATEST,
        inner: Some(InnerBackend::RocksDb),
        changelog: Some(false),
        ..crate::support::spec(0, 1, 3)
    };
    let opened = daemon.directory.open(spec, |_| {}).await.unwrap();
    assert!(!opened.warm && opened.not_warm.contains("another shape"), "{}", opened.not_warm);
    assert_eq!(opened.states.iter().filter(|state| state.descriptor.merge == Some(MergeFunction::SumI64)).count(), 1);
}
