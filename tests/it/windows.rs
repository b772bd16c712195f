//! Session windows: merges of namespaces, and what is left of them after a crash.

use bytes::Bytes;
use dstl::{
    backend::{Operation, RestoreFrom},
    checkpoint::ledger::NoticeKind,
    state::{
        MapKeys,
        op::{Answer, Op},
    },
    types::{InnerBackend, MergeFunction, StateDescriptor, StateId, StateKind},
};

use crate::support::{Daemon, Settings, Task, World, group_of};

const LATEST: RestoreFrom = RestoreFrom::Latest { or_empty: true };
const WINDOWS: [&str; 4] = ["12:00-12:10", "12:05-12:20", "12:15-12:30", "12:00-12:30"];
const KEYS: [&str; 3] = ["a", "b", "c"];

/// A task with states of every kind, and the number of its next batch.
struct Windows {
    task: Task,
    ids: Vec<StateId>,
    next: u64,
}

impl Windows {
    async fn open(daemon: &Daemon, attempt: u64) -> Self {
        let task = daemon.task(attempt, LATEST).await.unwrap();
        let backend = &task.opened.backend;
        let state = |name: &str, kind, merge| StateDescriptor::new(name, kind).with_merge(merge);
        let states = [
            state("reducing", StateKind::Value, Some(MergeFunction::MaxI64)),
            state("aggregating", StateKind::Value, Some(MergeFunction::AverageI64)),
            state("distinct", StateKind::Value, Some(MergeFunction::HyperLogLog)),
            state("list", StateKind::List, None),
            state("map", StateKind::Map, Some(MergeFunction::Count)),
        ];
        let ids = backend.register(backend.epoch(), &states).unwrap();
        Self { task, ids, next: 0 }
    }

    fn apply(&mut self, key: &str, window: &str, ops: &[(usize, Op<'_>)]) -> Vec<Option<Answer>> {
        let group = group_of(self.task.opened.shape.key_groups, key);
        let (key_group, key, namespace) = (Some(group), key.as_bytes(), window.as_bytes());
        let mut operations = Vec::new();
        for &(state, op) in ops {
            operations.push(Operation { state: self.ids[state], key_group, key, namespace, op });
        }
        self.task.session.acknowledgement();
        let cost = if operations.iter().any(|operation| operation.op.is_write()) { 300 } else { 0 };
        let result = self.task.apply(self.next, cost, &operations).unwrap();
        self.next += 1;
        result.map(|result| result.answers.into_iter().map(|(_, answer)| answer).collect()).unwrap_or_default()
    }

    /// A record falls into a window.
    fn record(&mut self, key: &str, window: &str, number: i64) {
        let operand = number.to_le_bytes();
        let map_key = [key.as_bytes(), &operand[..1]].concat();
        let adds = [
            (0, Op::Merge(&operand)),
            (1, Op::Merge(&operand)),
            (2, Op::Merge(&operand)),
            (3, Op::ListAdd(&operand)),
            (4, Op::MapMerge { map_key: &map_key, operand: b"" }),
        ];
        assert!(self.apply(key, window, &adds).is_empty());
    }

    fn merge(&mut self, key: &str, target: &str, sources: &[&'static str]) {
        let sources: Vec<_> = sources.iter().map(|source| Bytes::from_static(source.as_bytes())).collect();
        let merges: Vec<_> = (0..self.ids.len()).map(|state| (state, Op::MergeNamespaces(&sources))).collect();
        assert!(self.apply(key, target, &merges).is_empty());
    }

    /// All that there is, in a lasting order.
    fn contents(&mut self) -> Vec<Vec<Option<Answer>>> {
        let reads = [
            (0, Op::Get),
            (1, Op::Get),
            (2, Op::Get),
            (3, Op::ListGet { start: 0, token: &[], limit: 0 }),
            (4, Op::MapEntries { keys: MapKeys::default(), limit: 0 }),
        ];
        let places = KEYS.into_iter().flat_map(|key| WINDOWS.map(|window| (key, window)));
        places.collect::<Vec<_>>().into_iter().map(|(key, window)| self.apply(key, window, &reads)).collect()
    }

    async fn checkpoint(&mut self, id: u64) {
        self.task.checkpoint(id).await;
        self.task.notice(NoticeKind::Complete, id);
    }
}

/// Records in three windows that come to overlap, merged before or after a base is made, if at all; then kill -9 and
/// replay.
pub(crate) async fn merge_crash_and_compare(inner: InnerBackend, base: Option<bool>) {
    let world = World::new();
    let daemon = Daemon::start(&world, Settings::on_request(inner, 1));
    let mut windows = Windows::open(&daemon, 1).await;
    for (number, key) in (1..=30).zip(KEYS.into_iter().cycle()) {
        windows.record(key, WINDOWS[number as usize % 7 % 3], number);
    }
    let base_before = base == Some(true);
    if base_before {
        let backend = windows.task.opened.backend.clone();
        backend.materialize(backend.epoch()).await.unwrap();
    }
    windows.merge("a", WINDOWS[3], &WINDOWS[..3]);
    windows.merge("b", WINDOWS[0], &WINDOWS[1..3]);
    if base == Some(false) {
        let backend = windows.task.opened.backend.clone();
        backend.materialize(backend.epoch()).await.unwrap();
        windows.record("b", WINDOWS[1], 99);
        windows.merge("b", WINDOWS[1], &WINDOWS[..1]);
    }
    windows.checkpoint(1).await;
    let expected = windows.contents();
    let merged = &expected[3];
    let number = |answer: &Option<Answer>| match answer {
        Some(Answer::Value(Some(bytes))) => i64::from_le_bytes(bytes[..8].try_into().unwrap()),
        other => panic!("{other:?}"),
    };
    assert_eq!((number(&merged[0]), number(&merged[1])), (28, (0..10).map(|i| 1 + 3 * i).sum()), "all of key a");
    let sources_of_a = [&expected[0], &expected[1], &expected[2]].map(|window| &window[0]);
    assert_eq!(sources_of_a, [&Some(Answer::Value(None)); 3]);
    daemon.crash();
    let daemon = Daemon::start(&world, Settings::on_request(inner, 2));
    let mut restored = Windows::open(&daemon, 2).await;
    assert_eq!(restored.contents(), expected, "base {base:?}");
    // Merging goes on where it was.
    restored.merge("c", WINDOWS[3], &WINDOWS[..3]);
    assert_eq!(number(&restored.apply("c", WINDOWS[3], &[(0, Op::Get)])[0]), 30);
}
