//! Reading beside the writer: what is applied, and what the newest completed checkpoint contains.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use dstl::{
    backend::{Operation, Query, QueryAnswers, RestoreFrom, View},
    checkpoint::ledger::NoticeKind,
    error::{Error, Reason, Scope},
    random::Random,
    state::{
        MapKeys,
        op::{Answer, Op},
    },
    types::{InnerBackend, StateDescriptor, StateId, StateKind},
};

use crate::support::{Daemon, Settings, Task, World, group_of, on_both};

const VALUE: StateId = StateId(1);
const MAP: StateId = StateId(3);
const LIST: StateId = StateId(4);

on_both! {
    a_query_sees_what_is_applied_or_what_the_newest_completed_checkpoint_contains
    a_restored_checkpoint_is_the_completed_one
    a_new_owner_is_read_on_and_states_keep_their_names
    a_long_batch_of_a_completed_checkpoint_sees_one_moment_and_delays_no_write
    every_completed_checkpoint_reads_as_it_was_cut
    more_change_than_the_memory_holds_is_a_refusal_until_the_next_checkpoint_completes
    pages_and_counts_join_to_the_whole
}

fn settings(inner: InnerBackend) -> Settings {
    let mut settings = Settings::on_request(inner, 1);
    settings.options.queries = true;
    settings
}

fn start(inner: InnerBackend) -> (World, Daemon) {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(inner));
    (world, daemon)
}

fn register(task: &Task) {
    let state = |name, kind| StateDescriptor::new(name, kind);
    let states = [state("map", StateKind::Map), state("list", StateKind::List)];
    let backend = &task.opened.backend;
    assert_eq!(backend.register(backend.epoch(), &states).unwrap(), [MAP, LIST]);
}

fn query(daemon: &Daemon, task: &Task, view: View) -> Query {
    Query::start(daemon.directory.clone(), task.opened.backend.id().clone(), view).unwrap().0
}

fn op<'a>(task: &Task, state: StateId, key: &'a str, op: Op<'a>) -> Operation<'a> {
    let key_group = Some(group_of(task.opened.shape.key_groups, key));
    let key_group = key_group.filter(|_| !matches!(op, Op::Keys { .. }));
    Operation { state, key_group, key: key.as_bytes(), namespace: b"", op }
}

fn write(task: &mut Task, operations: &[Operation<'_>]) {
    let (acknowledgement, _) = task.session.acknowledgement();
    task.apply(acknowledgement.applied_to, 1, operations).unwrap();
}

fn put(task: &mut Task, key: &str, value: &str) {
    write(task, &[op(task, VALUE, key, Op::Put(value.as_bytes()))]);
}

/// One value, and of which checkpoint it is.
async fn get(query: &mut Query, task: &Task, key: &str) -> Result<(Option<String>, u64), Error> {
    let read = query.read(&[op(task, VALUE, key, Op::Get)]).await?;
    let [Some(Answer::Value(value))] = &read.answers[..] else { panic!("{read:?}") };
    let value = value.as_ref().map(|value| String::from_utf8(value.to_vec()).unwrap());
    Ok((value, read.checkpoint.map_or(0, |checkpoint| checkpoint.id)))
}

fn some(value: &str, checkpoint: u64) -> Result<(Option<String>, u64), Error> {
    Ok((Some(value.to_owned()), checkpoint))
}

fn assert_waits(result: Result<(Option<String>, u64), Error>, reason: Reason) {
    let error = result.unwrap_err();
    assert_eq!((error.reason, error.scope, error.retryable), (reason, Scope::Batch, true), "{error}");
}

async fn a_query_sees_what_is_applied_or_what_the_newest_completed_checkpoint_contains(inner: InnerBackend) {
    let (_world, daemon) = start(inner);
    let mut task = daemon.task(1, RestoreFrom::Empty).await.unwrap();
    let (mut applied, mut completed) = (query(&daemon, &task, View::Applied), query(&daemon, &task, View::Completed));
    put(&mut task, "a", "1");
    assert_eq!(get(&mut applied, &task, "a").await, some("1", 0));
    assert_waits(get(&mut completed, &task, "a").await, Reason::CheckpointNotFound);
    task.checkpoint(1).await;
    put(&mut task, "a", "2");
    assert_waits(get(&mut completed, &task, "a").await, Reason::CheckpointNotFound);
    task.notice(NoticeKind::Complete, 1);
    assert_eq!(get(&mut completed, &task, "a").await, some("1", 1));
    assert_eq!(get(&mut applied, &task, "a").await, some("2", 0));
    task.checkpoint(2).await;
    put(&mut task, "a", "3");
    task.checkpoint(3).await;
    put(&mut task, "a", "4");
    task.notice(NoticeKind::Abort, 2);
    assert_eq!(get(&mut completed, &task, "a").await, some("1", 1), "an aborted one changes nothing");
    put(&mut task, "b", "new");
    task.notice(NoticeKind::Complete, 3);
    assert_eq!(get(&mut completed, &task, "a").await, some("3", 3));
    assert_eq!(get(&mut completed, &task, "b").await, Ok((None, 3)));
    task.notice(NoticeKind::Complete, 1);
    assert_eq!(get(&mut completed, &task, "a").await, some("3", 3), "a late notice of an older one neither");
    let read = applied.read(&[op(&task, VALUE, "b", Op::Get)]).await.unwrap();
    assert_eq!((read.applied_to, read.checkpoint), (task.session.acknowledgement().0.applied_to, None));
    let refused = applied.read(&[op(&task, VALUE, "a", Op::Get), op(&task, VALUE, "a", Op::Clear)]).await.unwrap_err();
    assert_eq!((refused.reason, refused.message.contains("operation 1")), (Reason::InvalidArgument, true), "{refused}");
    assert_eq!(get(&mut applied, &task, "a").await, some("4", 0), "nothing was cleared, and the query goes on");
}

async fn a_restored_checkpoint_is_the_completed_one(inner: InnerBackend) {
    let (world, daemon) = start(inner);
    let mut task = daemon.task(1, RestoreFrom::Empty).await.unwrap();
    put(&mut task, "a", "1");
    task.checkpoint(7).await;
    put(&mut task, "a", "lost");
    daemon.crash();
    let daemon = Daemon::start(&world, Settings { seed: 5, ..settings(inner) });
    let mut task = daemon.task(2, RestoreFrom::Latest { or_empty: false }).await.unwrap();
    let mut completed = query(&daemon, &task, View::Completed);
    put(&mut task, "a", "2");
    put(&mut task, "b", "2");
    assert_eq!(get(&mut completed, &task, "a").await, some("1", 7));
    assert_eq!(get(&mut completed, &task, "b").await, Ok((None, 7)));
    task.checkpoint(8).await;
    put(&mut task, "a", "3");
    task.notice(NoticeKind::Complete, 8);
    assert_eq!(get(&mut completed, &task, "a").await, some("2", 8));
}

async fn a_new_owner_is_read_on_and_states_keep_their_names(inner: InnerBackend) {
    let (_world, daemon) = start(inner);
    let mut task = daemon.task(1, RestoreFrom::Empty).await.unwrap();
    register(&task);
    put(&mut task, "a", "1");
    task.checkpoint(1).await;
    let mut applied = query(&daemon, &task, View::Applied);
    let (backend, epoch) = (task.opened.backend.clone(), task.opened.backend.epoch());
    put(&mut task, "a", "lost");
    let mut task = daemon.task(2, RestoreFrom::Latest { or_empty: false }).await.unwrap();
    assert_eq!(get(&mut applied, &task, "a").await, some("1", 0), "the new owner does not have what the old one lost");
    put(&mut task, "a", "2");
    assert_eq!(get(&mut applied, &task, "a").await, some("2", 0));
    let mut task = daemon.task(3, RestoreFrom::Empty).await.unwrap();
    let unknown = applied.read(&[op(&task, MAP, "a", Op::MapCount)]).await.unwrap_err();
    assert_eq!(unknown.reason, Reason::UnknownState, "the new owner does not have it: {unknown}");
    // A state of the same name and kind is the same to the reader, whatever its id is now.
    let other = StateDescriptor::new("map", StateKind::Map).with_merge(Some(dstl::types::MergeFunction::SumI64));
    let id = task.opened.backend.register(task.opened.backend.epoch(), &[other]).unwrap()[0];
    assert_ne!(id, MAP);
    let entry = Op::MapPut { map_key: b"m", value: &[0; 8] };
    let operation = op(&task, id, "a", entry);
    write(&mut task, &[operation]);
    let read = applied.read(&[op(&task, MAP, "a", Op::MapCount)]).await.unwrap();
    assert_eq!(read.answers, [Some(Answer::Count(1))]);
    assert!(backend.close(epoch).await.is_ok(), "the old owner has ended");
    let (backend, epoch) = (task.opened.backend.clone(), task.opened.backend.epoch());
    daemon.directory.close(backend.id(), epoch).await.unwrap();
    assert_waits(get(&mut applied, &task, "a").await, Reason::BackendNotOpen);
    let mut task = daemon.task(4, RestoreFrom::Empty).await.unwrap();
    put(&mut task, "a", "4");
    assert_eq!(get(&mut applied, &task, "a").await, some("4", 0));
}

async fn a_long_batch_of_a_completed_checkpoint_sees_one_moment_and_delays_no_write(inner: InnerBackend) {
    let (_world, daemon) = start(inner);
    let mut task = daemon.task(1, RestoreFrom::Empty).await.unwrap();
    let keys: Vec<String> = (0..2_000).map(|key| format!("key {key}")).collect();
    let put_all = |task: &mut Task, value: &str| {
        let operations: Vec<_> = keys.iter().map(|key| op(task, VALUE, key, Op::Put(value.as_bytes()))).collect();
        write(task, &operations);
    };
    put_all(&mut task, "1");
    task.checkpoint(1).await;
    task.notice(NoticeKind::Complete, 1);
    let mut completed = query(&daemon, &task, View::Completed);
    let gets: Vec<_> = keys.iter().map(|key| op(&task, VALUE, key, Op::Get)).collect();
    let (mut writes, done) = (0, Arc::new(AtomicBool::new(false)));
    let reading = async {
        let read = completed.read(&gets).await.unwrap();
        done.store(true, Ordering::Relaxed);
        read
    };
    let writing = async {
        while !done.load(Ordering::Relaxed) {
            // The checkpoint that is read is outdated in the middle.
            if writes == 3 {
                put_all(&mut task, "2");
                task.checkpoint(2).await;
                task.notice(NoticeKind::Complete, 2);
            }
            put(&mut task, "key 1999", "later");
            writes += 1;
            tokio::task::yield_now().await;
        }
    };
    let (read, ()) = tokio::join!(reading, writing);
    assert_eq!(read.checkpoint.map(|checkpoint| checkpoint.id), Some(1));
    let one = Some(Answer::Value(Some("1".into())));
    assert!(read.answers.iter().all(|answer| *answer == one), "all are of the checkpoint that was begun with");
    assert!(writes > 20, "the writer came between the steps: {writes} times");
    assert_eq!(get(&mut completed, &task, "key 7").await, some("2", 2));
}

/// What is at each place, by the answers of one batch.
async fn everything(query: &mut Query, task: &Task, keys: &[String]) -> Result<Vec<QueryAnswers>, Error> {
    let mut all = vec![];
    for key in keys {
        let reads = [
            op(task, VALUE, key, Op::Get),
            op(task, MAP, key, Op::MapEntries { keys: MapKeys::default(), limit: 0 }),
            op(task, MAP, key, Op::MapCount),
            op(task, LIST, key, Op::ListGet { start: 0, token: &[], limit: 0 }),
            op(task, LIST, key, Op::ListCount),
        ];
        all.push(query.read(&reads).await?);
    }
    Ok(all)
}

async fn every_completed_checkpoint_reads_as_it_was_cut(inner: InnerBackend) {
    let (_world, daemon) = start(inner);
    let mut task = daemon.task(1, RestoreFrom::Empty).await.unwrap();
    register(&task);
    let keys: Vec<String> = (0..12).map(|key| format!("key {key}")).collect();
    let (mut applied, mut completed) = (query(&daemon, &task, View::Applied), query(&daemon, &task, View::Completed));
    let random = Random::seeded(7);
    let pick = |most: u32| (random.fraction() * f64::from(most)) as u32;
    let mut cuts: BTreeMap<u64, Vec<Vec<Option<Answer>>>> = BTreeMap::new();
    let answers = |read: Vec<QueryAnswers>| read.into_iter().map(|read| read.answers).collect::<Vec<_>>();
    let mut newest = None;
    for id in 1..60 {
        for _ in 0..pick(30) {
            let (key, value) = (&keys[pick(12) as usize], vec![pick(256) as u8; pick(40) as usize]);
            let (map_key, elements) = ([pick(6) as u8], vec![bytes::Bytes::from(value.clone()); pick(4) as usize]);
            let (state, write_op) = match pick(9) {
                0 => (VALUE, Op::Put(&value)),
                1 => (VALUE, Op::Clear),
                2 | 3 => (MAP, Op::MapPut { map_key: &map_key, value: &value }),
                4 => (MAP, Op::MapRemove { map_key: &map_key }),
                5 => (MAP, Op::Clear),
                6 => (LIST, Op::ListUpdate(&elements)),
                _ => (LIST, Op::ListAdd(&value)),
            };
            let operation = op(&task, state, key, write_op);
            write(&mut task, &[operation]);
        }
        cuts.insert(id, answers(everything(&mut applied, &task, &keys).await.unwrap()));
        task.checkpoint(id).await;
        match pick(4) {
            0 => task.notice(NoticeKind::Abort, id),
            // Of several that wait, in any order.
            1 => {}
            _ => {
                task.notice(NoticeKind::Complete, id.saturating_sub(pick(3).into()).max(1));
                task.notice(NoticeKind::Complete, id);
                newest = Some(id);
            }
        }
        if let Some(newest) = newest {
            let read = everything(&mut completed, &task, &keys).await.unwrap();
            assert!(read.iter().all(|read| read.checkpoint.unwrap().id == newest), "after checkpoint {id}");
            assert_eq!(answers(read), cuts[&newest], "checkpoint {newest}, after {id}");
        }
    }
}

async fn more_change_than_the_memory_holds_is_a_refusal_until_the_next_checkpoint_completes(inner: InnerBackend) {
    let world = World::new();
    let mut settings = settings(inner);
    settings.options.undo_memory = 4_000;
    let daemon = Daemon::start(&world, settings);
    let mut task = daemon.task(1, RestoreFrom::Empty).await.unwrap();
    let mut completed = query(&daemon, &task, View::Completed);
    put(&mut task, "a", &"1".repeat(3_000));
    put(&mut task, "b", &"1".repeat(3_000));
    task.checkpoint(1).await;
    task.notice(NoticeKind::Complete, 1);
    put(&mut task, "a", "2");
    assert_eq!(get(&mut completed, &task, "a").await, some(&"1".repeat(3_000), 1));
    put(&mut task, "b", "2");
    assert_waits(get(&mut completed, &task, "a").await, Reason::CheckpointNotFound);
    let text = daemon.metrics.encode();
    let lines = ["dstl_undo_bytes 0", "dstl_undo_dropped_marks_total 1", "dstl_query_failed_batches_total 1"];
    assert!(lines.iter().all(|line| text.lines().any(|found| found == *line)), "{text}");
    task.checkpoint(2).await;
    put(&mut task, "a", "3");
    task.notice(NoticeKind::Complete, 2);
    assert_eq!(get(&mut completed, &task, "a").await, some("2", 2));
}

async fn pages_and_counts_join_to_the_whole(inner: InnerBackend) {
    let (_world, daemon) = start(inner);
    let mut task = daemon.task(1, RestoreFrom::Empty).await.unwrap();
    register(&task);
    let map_keys: Vec<[u8; 4]> = (0..5_000_u32).map(u32::to_be_bytes).collect();
    let entry = |map_key| Op::MapPut { map_key, value: b"v" };
    let operations: Vec<_> = map_keys.iter().map(|map_key| op(&task, MAP, "m", entry(map_key))).collect();
    write(&mut task, &operations);
    let keys: Vec<String> = (0..3_000).map(|key| format!("key {key}")).collect();
    let operations: Vec<_> = keys.iter().map(|key| op(&task, VALUE, key, Op::Put(b"v"))).collect();
    write(&mut task, &operations);
    task.checkpoint(1).await;
    task.notice(NoticeKind::Complete, 1);
    let removed = keys.iter().step_by(2).map(|key| op(&task, VALUE, key, Op::Clear));
    let more: Vec<_> = (0..500).map(|key| format!("more {key}")).collect();
    let added = more.iter().map(|key| op(&task, VALUE, key, Op::Put(b"v")));
    let operations: Vec<_> = removed.chain(added).chain([op(&task, MAP, "m", Op::Clear)]).collect();
    write(&mut task, &operations);
    for (view, entries, names) in [(View::Applied, 0, 2_000), (View::Completed, 5_000, 3_000)] {
        let mut query = query(&daemon, &task, view);
        let read = query.read(&[op(&task, MAP, "m", Op::MapCount), op(&task, VALUE, "key 0", Op::Get)]).await.unwrap();
        assert_eq!(read.answers[0], Some(Answer::Count(entries)));
        let (mut found, mut token) = (vec![], bytes::Bytes::new());
        loop {
            let page = Op::Keys { all_namespaces: true, token: &token, limit: 0 };
            let mut read = query.read(&[op(&task, VALUE, "", page)]).await.unwrap();
            let Some(Some(Answer::Keys { keys, token: next })) = read.answers.pop() else { panic!("keys") };
            assert!(keys.len() <= 1_000, "a page is bounded: {}", keys.len());
            found.extend(keys.into_iter().map(|(_, key, _)| key));
            match next {
                Some(next) => token = next,
                None => break,
            }
        }
        found.sort();
        found.dedup();
        assert_eq!(found.len(), names, "{view:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn queries_need_their_setting_and_without_it_nothing_is_kept() {
    let world = World::new();
    let daemon = Daemon::start(&world, Settings::default());
    let mut task = daemon.task(1, RestoreFrom::Empty).await.unwrap();
    task.checkpoint(1).await;
    task.notice(NoticeKind::Complete, 1);
    put(&mut task, "a", "1");
    let refused = Query::start(daemon.directory.clone(), task.opened.backend.id().clone(), View::Applied).unwrap_err();
    assert_eq!(refused.reason, Reason::Unsupported, "{refused}");
    assert!(daemon.metrics.encode().contains("dstl_undo_bytes 0\n"));
}

#[tokio::test(start_paused = true)]
async fn metrics_of_queries_have_exact_values() {
    let (_world, daemon) = start(InnerBackend::HashMap);
    let mut task = daemon.task(1, RestoreFrom::Empty).await.unwrap();
    put(&mut task, "a", "1");
    let (mut applied, completed) = (query(&daemon, &task, View::Applied), query(&daemon, &task, View::Completed));
    let gets = ["a", "b", "c"].map(|key| op(&task, VALUE, key, Op::Get));
    applied.read(&gets).await.unwrap();
    applied.read(&gets[..1]).await.unwrap();
    applied.read(&[op(&task, StateId(99), "a", Op::Get)]).await.unwrap_err();
    let expect = |expected: [(&str, u64); 4]| {
        let text = daemon.metrics.encode();
        for (name, value) in expected {
            let line = format!("dstl_query_{name} {value}");
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    };
    expect([("sessions", 2), ("batches_total", 2), ("failed_batches_total", 1), ("operations_total", 4)]);
    drop((applied, completed));
    expect([("sessions", 0), ("batches_total", 2), ("failed_batches_total", 1), ("operations_total", 4)]);
    task.checkpoint(1).await;
    put(&mut task, "a", "2");
    let undo_bytes = |daemon: &Daemon| {
        let text = daemon.metrics.encode();
        text.lines().find_map(|line| line.strip_prefix("dstl_undo_bytes ")).unwrap().parse::<u64>().unwrap()
    };
    // State, key group, hash, the key and its end; the key again; the value.
    assert_eq!(undo_bytes(&daemon), 224 + (4 + 2 + 8 + 1 + 2) + 1 + 1);
    task.notice(NoticeKind::Abort, 1);
    assert_eq!(undo_bytes(&daemon), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_waits_for_steps_of_readers_and_not_for_their_batches() {
    let (_world, daemon) = start(InnerBackend::HashMap);
    let mut task = daemon.task(1, RestoreFrom::Empty).await.unwrap();
    let keys: Arc<Vec<String>> = Arc::new((0..20_000).map(|key| format!("key {key}")).collect());
    let operations: Vec<_> = keys.iter().map(|key| op(&task, VALUE, key, Op::Put(&[7; 100]))).collect();
    write(&mut task, &operations);
    task.checkpoint(1).await;
    task.notice(NoticeKind::Complete, 1);
    let groups = task.opened.shape.key_groups;
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = [View::Applied, View::Completed]
        .map(|view| {
            let (mut query, keys, stop) = (query(&daemon, &task, view), keys.clone(), stop.clone());
            tokio::spawn(async move {
                let mut shortest = Duration::MAX;
                while !stop.load(Ordering::Relaxed) {
                    let gets: Vec<_> = keys
                        .iter()
                        .map(|key| Operation {
                            state: VALUE,
                            key_group: Some(group_of(groups, key)),
                            key: key.as_bytes(),
                            namespace: b"",
                            op: Op::Get,
                        })
                        .collect();
                    let began = std::time::Instant::now();
                    assert_eq!(query.read(&gets).await.unwrap().answers.len(), keys.len());
                    shortest = shortest.min(began.elapsed());
                }
                shortest
            })
        })
        .into();
    let mut waits = vec![];
    for round in 0..500 {
        let began = std::time::Instant::now();
        put(&mut task, &keys[round * 7], "2");
        waits.push(began.elapsed());
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    stop.store(true, Ordering::Relaxed);
    waits.sort();
    for reader in readers {
        let shortest = reader.await.unwrap();
        // The machine may be busy with other things, so the fastest quarter of the writes counts: had they to wait for
        // batches, it would take a quarter of one.
        assert!(10 * waits[125] < shortest, "a write took {:?}, a batch {shortest:?}", waits[125]);
    }
}
