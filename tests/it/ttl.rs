//! States whose entries live for some time: what is left of them after a crash, by whichever clock.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use dstl::{
    backend::{BackendOptions, OpenSpec, Operation, Refusal, RestoreFrom, Session},
    checkpoint::ledger::NoticeKind,
    error::Reason,
    state::{
        MapKeys,
        op::{Answer, Op},
    },
    types::{
        IncrementalCleanup, InnerBackend, StateDescriptor, StateId, StateKind, Ttl, TtlCleanup, TtlUpdate,
        TtlVisibility,
    },
};

use crate::support::{Daemon, Settings, Task, World, group_of, on_both, spec};

const LATEST: RestoreFrom = RestoreFrom::Latest { or_empty: true };

/// How long entries live, in milliseconds.
const LIVES: u64 = 100;

on_both! {
    entries_expire_after_a_restore_from_the_log_alone: |inner| super::crash_and_expire(inner, &[]);
    entries_expire_after_a_restore_from_a_materialization_alone: |inner| super::crash_and_expire(inner, &[1_060]);
    entries_expire_after_a_restore_from_a_materialization_and_the_log: |inner| super::crash_and_expire(inner, &[1_010]);
    entries_expire_after_a_restore_from_a_later_materialization: |inner| super::crash_and_expire(inner, &[1_010, 1_060]);
    time_does_not_go_back_with_the_clock_of_another_host: super::time_does_not_go_back;
    what_a_materialization_leaves_out_stays_away: super::what_a_materialization_leaves_out_stays_away;
    the_setting_comes_back_from_the_log_alone: super::the_setting_comes_back;
    entries_expire_after_a_warm_restart: super::entries_expire_after_a_warm_restart;
    entries_expire_after_a_rescale: super::entries_expire_after_a_rescale;
    reads_that_touch_are_writes: super::reads_that_touch_are_writes;
    what_is_cleaned_up_is_counted: super::what_is_cleaned_up_is_counted;
}

/// Flink's defaults, without work in the background.
fn quiet() -> Ttl {
    Ttl { cleanup: TtlCleanup { at_materialization: true, incremental: None, compaction: None }, ..Ttl::new(LIVES) }
}

fn states(ttl: Ttl) -> [StateDescriptor; 3] {
    [("ttl-value", StateKind::Value), ("ttl-map", StateKind::Map), ("ttl-list", StateKind::List)]
        .map(|(name, kind)| StateDescriptor { ttl: Some(ttl), ..StateDescriptor::new(name, kind) })
}

/// A task with a state of each kind.
struct Aging {
    task: Task,
    ids: Vec<StateId>,
    next: u64,
}

impl Aging {
    async fn open(daemon: &Daemon, attempt: u64, ttl: Ttl) -> Self {
        Self::of(daemon.task(attempt, LATEST).await.unwrap(), ttl)
    }

    fn of(task: Task, ttl: Ttl) -> Self {
        let backend = &task.opened.backend;
        let ids = backend.register(backend.epoch(), &states(ttl)).unwrap();
        Self { task, ids, next: 0 }
    }

    fn operations<'a>(&self, key: &'a str, ops: &[(usize, Op<'a>)]) -> Vec<Operation<'a>> {
        let key_group = Some(group_of(self.task.opened.shape.key_groups, key));
        let operation = |&(state, op): &(usize, Op<'a>)| Operation {
            state: self.ids[state],
            key_group,
            key: key.as_bytes(),
            namespace: b"",
            op,
        };
        ops.iter().map(operation).collect()
    }

    fn apply(&mut self, key: &str, ops: &[(usize, Op<'_>)]) -> Vec<Option<Answer>> {
        let operations = self.operations(key, ops);
        self.task.session.acknowledgement();
        let result = self.task.apply(self.next, 300, &operations).unwrap();
        self.next += 1;
        result.map(|result| result.answers.into_iter().map(|(_, answer)| answer).collect()).unwrap_or_default()
    }

    /// Puts an entry into each state.
    fn write(&mut self, key: &str, text: &str) {
        let value = text.as_bytes();
        let ops = [(0, Op::Put(value)), (1, Op::MapPut { map_key: value, value }), (2, Op::ListAdd(value))];
        assert!(self.apply(key, &ops).is_empty());
    }

    /// What a batch without number sees: the value, the map keys, the elements.
    async fn look(&self, key: &str) -> (Option<Bytes>, Vec<Bytes>, Vec<Bytes>) {
        let entries = Op::MapEntries { keys: MapKeys::default(), limit: 0 };
        let ops = [(0, Op::Get), (1, entries), (2, Op::ListGet { start: 0, token: &[], limit: 0 })];
        let backend = &self.task.opened.backend;
        let (result, _) = backend.apply_batch(backend.epoch(), None, 0, &self.operations(key, &ops)).await.unwrap();
        match &result.answers[..] {
            [
                (0, Some(Answer::Value(value))),
                (1, Some(Answer::Entries { entries, more: false })),
                (2, Some(Answer::Elements { elements, token: None })),
            ] => (value.clone(), entries.iter().map(|(key, _)| key.clone()).collect(), elements.clone()),
            other => panic!("{other:?}"),
        }
    }

    async fn assert_has(&self, key: &str, texts: &[&'static str]) {
        let texts: Vec<_> = texts.iter().map(|text| Bytes::from_static(text.as_bytes())).collect();
        assert_eq!(self.look(key).await, (texts.last().cloned(), texts.clone(), texts), "key {key}");
    }

    async fn checkpoint(&mut self, id: u64) {
        self.task.checkpoint(id).await;
        self.task.notice(NoticeKind::Complete, id);
    }

    async fn materialize(&self) {
        let backend = &self.task.opened.backend;
        backend.materialize(backend.epoch()).await.unwrap();
    }
}

fn at(world: &World, time: u64) {
    world.time.store(time, Ordering::Relaxed);
}

/// Writes at 1000 and 1050, with materializations at some times, then a crash.
async fn crash_and_expire(inner: InnerBackend, materializations: &'static [u64]) {
    let world = World::new();
    let daemon = Daemon::start(&world, Settings::on_request(inner, 1));
    let mut aging = Aging::open(&daemon, 1, quiet()).await;
    aging.write("k", "a");
    aging.write("other", "a");
    for time in [1_010, 1_050, 1_060] {
        at(&world, time);
        if time == 1_050 {
            aging.write("k", "b");
        }
        if materializations.contains(&time) {
            aging.materialize().await;
        }
    }
    aging.checkpoint(1).await;
    aging.assert_has("k", &["a", "b"]).await;
    daemon.crash();
    let daemon = Daemon::start(&world, Settings::on_request(inner, 2));
    let restored = Aging::open(&daemon, 2, quiet()).await;
    for (time, k, other) in
        [(1_099, &["a", "b"][..], &["a"][..]), (1_100, &["b"], &[]), (1_149, &["b"], &[]), (1_150, &[], &[])]
    {
        at(&world, time);
        restored.assert_has("k", k).await;
        restored.assert_has("other", other).await;
    }
}

async fn time_does_not_go_back(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, Settings::on_request(inner, 1));
    at(&world, 5_000);
    let mut aging = Aging::open(&daemon, 1, quiet()).await;
    aging.write("k", "a");
    at(&world, 5_050);
    aging.write("k", "b");
    aging.materialize().await;
    // A batch that only reads is what saw `a` expire.
    at(&world, 5_100);
    aging.assert_has("k", &["b"]).await;
    at(&world, 4_000);
    aging.assert_has("k", &["b"]).await;
    aging.checkpoint(1).await;
    daemon.crash();
    for attempt in [2, 3] {
        // Whose clock is behind, and nothing was logged since.
        at(&world, 1_000);
        let daemon = Daemon::start(&world, Settings::on_request(inner, attempt));
        let mut restored = Aging::open(&daemon, attempt, quiet()).await;
        restored.assert_has("k", &["b"]).await;
        restored.write("new", "c");
        at(&world, 5_149);
        restored.assert_has("k", &["b"]).await;
        at(&world, 5_150);
        restored.assert_has("k", &[]).await;
        at(&world, 5_199);
        restored.assert_has("new", &["c"]).await;
        at(&world, 5_200);
        restored.assert_has("new", &[]).await;
        daemon.crash();
    }
}

/// Everything of a map is expired when it is materialized, and half of a list, to which the log then adds.
async fn what_a_materialization_leaves_out_stays_away(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, Settings::on_request(inner, 1));
    let ttl = Ttl { visibility: TtlVisibility::ReturnExpiredIfNotCleanedUp, ..quiet() };
    let mut aging = Aging::open(&daemon, 1, ttl).await;
    for text in ["a", "b", "c"] {
        aging.write("k", text);
    }
    at(&world, 1_050);
    aging.apply("k", &[(2, Op::ListAdd(b"d"))]);
    at(&world, 1_100);
    aging.assert_has("other", &[]).await;
    aging.materialize().await;
    aging.apply("k", &[(2, Op::ListAdd(b"e"))]);
    aging.checkpoint(1).await;
    let shown = aging.look("k").await;
    assert_eq!((shown.0, shown.1.len(), shown.2.len()), (Some(Bytes::from_static(b"c")), 3, 5));
    daemon.crash();
    let daemon = Daemon::start(&world, Settings::on_request(inner, 2));
    let restored = Aging::open(&daemon, 2, ttl).await;
    let shown = restored.look("k").await;
    match inner {
        InnerBackend::HashMap => {
            assert_eq!(shown, (None, vec![], [&b"d"[..], b"e"].map(Bytes::from_static).to_vec()));
        }
        // Its images are files: those are what compactions made them.
        InnerBackend::RocksDb => assert_eq!((shown.1.len(), shown.2.len()), (3, 5)),
    }
}

async fn the_setting_comes_back(inner: InnerBackend) {
    let world = World::new();
    let ttl = Ttl {
        update: TtlUpdate::OnReadAndWrite,
        visibility: TtlVisibility::ReturnExpiredIfNotCleanedUp,
        ..Ttl::new(LIVES)
    };
    let daemon = Daemon::start(&world, Settings::on_request(inner, 1));
    let mut aging = Aging::open(&daemon, 1, ttl).await;
    aging.write("k", "a");
    aging.checkpoint(1).await;
    daemon.crash();
    let daemon = Daemon::start(&world, Settings::on_request(inner, 2));
    let opened = daemon.directory.open(OpenSpec { restore: LATEST, ..spec(0, 1, 2) }, |_| {}).await.unwrap();
    for declared in states(ttl) {
        assert!(opened.states.iter().any(|restored| restored.descriptor == declared), "{:?}", opened.states);
    }
    // It counts without being registered again.
    let session = Session::start(opened.backend.clone(), opened.backend.epoch()).unwrap();
    let mut restored = Aging { task: Task { opened, session }, ids: aging.ids, next: 0 };
    at(&world, 2_000);
    let value = Some(Answer::Value(Some(Bytes::from_static(b"a"))));
    assert_eq!(restored.apply("k", &[(0, Op::Get)]), [value]);
    assert_eq!(restored.apply("k", &[(0, Op::Get)]), [Some(Answer::Value(None))]);
}

/// What was written or cleaned up behind the checkpoint, with every clean-up at work.
async fn entries_expire_after_a_warm_restart(inner: InnerBackend) {
    for materialized in [false, true] {
        let world = World::new();
        let settings = |seed| {
            let mut settings = Settings::on_request(inner, seed);
            settings.options.warm = true;
            settings
        };
        let daemon = Daemon::start(&world, settings(1));
        let mut aging = Aging::open(&daemon, 1, Ttl::new(LIVES)).await;
        aging.write("k", "a");
        aging.write("other", "a");
        at(&world, 1_050);
        aging.write("k", "b");
        if materialized {
            aging.materialize().await;
        }
        aging.checkpoint(1).await;
        for attempt in 2..4 {
            at(&world, 1_090 + attempt * 10);
            aging.write("k", "lost");
            aging.write("new", "lost");
            for _ in 0..20 {
                aging.apply("other", &[(0, Op::Get), (1, Op::MapCount), (2, Op::ListCount)]);
            }
            aging.assert_has("other", &[]).await;
            drop(aging);
            aging = Aging::open(&daemon, attempt, Ttl::new(LIVES)).await;
            assert!(aging.task.opened.warm, "{}", aging.task.opened.not_warm);
            aging.assert_has("k", &["b"]).await;
            aging.assert_has("other", &[]).await;
            aging.assert_has("new", &[]).await;
        }
        aging.write("k", "c");
        aging.checkpoint(2).await;
        at(&world, 1_150);
        aging.assert_has("k", &["c"]).await;
        drop(aging);
        daemon.crash();
        at(&world, 1_130);
        let aging = Aging::open(&Daemon::start(&world, settings(2)), 9, Ttl::new(LIVES)).await;
        assert!(!aging.task.opened.warm);
        aging.assert_has("k", &["b", "c"]).await;
        at(&world, 1_219);
        aging.assert_has("k", &["c"]).await;
        at(&world, 1_220);
        aging.assert_has("k", &[]).await;
    }
}

async fn entries_expire_after_a_rescale(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, Settings::on_request(inner, 1));
    let mut aging = Aging::open(&daemon, 1, quiet()).await;
    let keys: Vec<_> = (0..40).map(|i| format!("key {i}")).collect();
    for (odd, time) in [(0, 1_000), (1, 1_050)] {
        at(&world, time);
        for (i, key) in keys.iter().enumerate().filter(|(i, _)| i % 2 == odd) {
            aging.write(key, "a");
            if i == 20 {
                aging.materialize().await;
            }
        }
    }
    let groups = aging.task.opened.shape.key_groups;
    aging.checkpoint(1).await;
    daemon.crash();
    // Both begin where the newest of what they restore was, whatever their clock says.
    at(&world, 10);
    let daemon = Daemon::start(&world, Settings::on_request(inner, 2));
    for subtask in 0..2 {
        let half = Aging::of(daemon.subtask(subtask, 2, 2, LATEST).await.unwrap(), quiet());
        let own = half.task.opened.shape.key_groups;
        for (time, living) in [(10, [true, true]), (1_099, [true, true]), (1_100, [false, true]), (1_150, [false; 2])] {
            at(&world, time);
            for (i, key) in keys.iter().enumerate() {
                let group = group_of(groups, key);
                if !own.iter().any(|mine| u32::from(mine.0) == group) {
                    continue;
                }
                let operation = Operation { key_group: Some(group), ..half.operations(key, &[(2, Op::ListCount)])[0] };
                let backend = &half.task.opened.backend;
                let (result, _) = backend.apply_batch(backend.epoch(), None, 0, &[operation]).await.unwrap();
                assert_eq!(result.answers, [(0, Some(Answer::Count(living[i % 2].into())))], "{key} at {time}");
            }
        }
        at(&world, 10);
    }
}

async fn reads_that_touch_are_writes(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, Settings::on_request(inner, 1));
    let mut aging = Aging::open(&daemon, 1, Ttl { update: TtlUpdate::OnReadAndWrite, ..quiet() }).await;
    aging.write("k", "a");
    for time in [1_099, 1_198] {
        at(&world, time);
        aging.apply("k", &[(0, Op::Get), (2, Op::ListGet { start: 0, token: &[], limit: 0 })]);
    }
    // They are logged.
    aging.checkpoint(1).await;
    let backend = aging.task.opened.backend.clone();
    let get = aging.operations("k", &[(0, Op::Get)]);
    let error = backend.apply_batch(backend.epoch(), None, 8, &get).await.unwrap_err();
    assert_eq!(error.reason, Reason::BatchOutOfOrder, "beside a session it would take a number");
    let refusal = aging.task.apply(aging.next, u64::MAX, &get).unwrap_err();
    assert!(matches!(refusal, Refusal::Over(error) if error.reason == Reason::CreditExceeded));
    daemon.crash();
    // Where state takes too much memory, reads go on.
    let options = Settings::on_request(inner, 2).options;
    let full = BackendOptions { state_memory: 0, ..options };
    let daemon = Daemon::start(&world, Settings { options: full, seed: 2, ..Settings::default() });
    let mut restored = Aging::open(&daemon, 2, Ttl { update: TtlUpdate::OnReadAndWrite, ..quiet() }).await;
    let put = restored.operations("k", &[(0, Op::Put(b"b"))]);
    restored.task.session.acknowledgement();
    let refusal = restored.task.apply(0, 8, &put).unwrap_err();
    assert!(matches!(refusal, Refusal::Halted { error, .. } if error.reason == Reason::StateMemory));
    let session = &mut restored.task.session;
    session.resume(0).unwrap();
    let value = [Some(Answer::Value(Some(Bytes::from_static(b"a"))))];
    for time in [1_297, 1_396] {
        at(&world, time);
        assert_eq!(restored.apply("k", &[(0, Op::Get)]), value, "touched at 1198, then at 1297");
    }
    assert_eq!(restored.apply("k", &[(1, Op::MapCount)]), [Some(Answer::Count(0))], "which nobody read");
}

async fn what_is_cleaned_up_is_counted(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, Settings::on_request(inner, 1));
    let count = |cause: &str| -> Option<u64> {
        let name = format!("dstl_state_ttl_removed_entries_total{{cause=\"{cause}\"}} ");
        let text = daemon.metrics.encode_plain();
        text.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok())
    };
    let mut aging = Aging::open(&daemon, 1, quiet()).await;
    for key in ["a", "b", "c", "d"] {
        aging.write(key, "x");
    }
    at(&world, 1_100);
    aging.assert_has("a", &[]).await;
    assert_eq!(count("read"), None, "batches without number change nothing");
    aging.apply("a", &[(0, Op::Get), (1, Op::MapGet { map_key: b"y" }), (2, Op::ListCount)]);
    assert_eq!(count("read"), Some(2));
    let backend = aging.task.opened.backend.clone();
    assert_eq!(backend.describe().states.iter().map(|state| state.entries).sum::<u64>(), 10);
    aging.materialize().await;
    let is_map = inner == InnerBackend::HashMap;
    assert_eq!(count("materialization"), is_map.then_some(10));

    // In turn, by batches that have nothing to do with it.
    let every = IncrementalCleanup { entries: 2, every_batch: true };
    let cleanup = TtlCleanup { at_materialization: false, incremental: Some(every), compaction: None };
    let descriptor =
        StateDescriptor { ttl: Some(Ttl { cleanup, ..quiet() }), ..StateDescriptor::new("turns", StateKind::Value) };
    let turns = backend.register(backend.epoch(), &[descriptor]).unwrap()[0];
    aging.ids.push(turns);
    for i in 0..100 {
        aging.apply(&format!("key {i}"), &[(3, Op::Put(b"v"))]);
    }
    assert_eq!(count("incremental"), None);
    at(&world, 1_200);
    for _ in 0..200 {
        aging.task.get(aging.next, "none");
        aging.next += 1;
    }
    assert_eq!(count("incremental"), Some(100));
    assert_eq!(count("read"), Some(2));
    let entries = backend.describe().states.iter().find(|state| state.state.id == turns).map(|state| state.entries);
    assert_eq!(entries, Some(0));
}
