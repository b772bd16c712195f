//! Materialization, truncation, and restores from base and log.

use std::{collections::BTreeMap, time::Duration};

use dstl::{
    backend::{BackendOptions, RestoreFrom},
    checkpoint::ledger::NoticeKind,
    random::Random,
    types::InnerBackend,
};

use crate::support::{Daemon, Settings, Task, World, on_both};

const LATEST: RestoreFrom = RestoreFrom::Latest { or_empty: true };

on_both! {
    a_snapshot_and_the_log_after_it_restore_the_state
    what_did_not_change_is_not_uploaded_again_by_this_owner_or_the_next
    the_log_before_a_materialization_is_truncated_once_no_checkpoint_needs_it
    a_failed_materialization_keeps_the_previous_base_and_checkpoints_go_on
    materializes_by_itself_in_time_and_not_when_idle
    damage_to_a_snapshot_is_named_with_what_it_spoils
    a_checkpoint_is_restored_into_the_other_inner_backend
}

/// A task and what its state should be.
struct Modelled {
    task: Task,
    number: u64,
    model: BTreeMap<String, Vec<u8>>,
    random: Random,
}

impl Modelled {
    fn new(task: Task, model: BTreeMap<String, Vec<u8>>, seed: u64) -> Self {
        Self { task, number: 0, model, random: Random::seeded(seed) }
    }

    /// Overwrites `count` of `keys` keys.
    fn write(&mut self, count: u64, keys: u64) {
        for _ in 0..count {
            let key = format!("key {}", self.random.below(keys));
            let value = vec![self.random.below(256) as u8; self.random.below(200) as usize];
            self.task.put(self.number, &[(&key, &value)]);
            self.number += 1;
            self.model.insert(key, value);
        }
    }

    async fn checkpoint(&mut self, id: u64) {
        self.task.checkpoint(id).await;
        self.task.notice(NoticeKind::Complete, id);
    }

    async fn materialize(&self) -> dstl::checkpoint::manifest::Materialization {
        let backend = &self.task.opened.backend;
        backend.materialize(backend.epoch()).await.unwrap()
    }

    /// Asserts that the state equals the model, to the last entry.
    fn check(&mut self) {
        let description = self.task.opened.backend.describe();
        assert_eq!(description.states[0].entries, self.model.len() as u64);
        for (key, value) in self.model.clone() {
            assert_eq!(self.task.get(self.number, &key).as_ref(), Some(&value), "{key}");
            self.number += 1;
        }
    }
}

async fn a_snapshot_and_the_log_after_it_restore_the_state(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, Settings::on_request(inner, 1));
    let mut state = Modelled::new(daemon.task(1, LATEST).await.unwrap(), BTreeMap::new(), 5);
    state.write(3000, 2000);
    state.checkpoint(1).await;
    // Writes go on while pieces are copied.
    let backend = state.task.opened.backend.clone();
    let materializing = tokio::spawn(async move { backend.materialize(backend.epoch()).await });
    for _ in 0..300 {
        state.write(5, 2000);
        tokio::task::yield_now().await;
    }
    let made = materializing.await.unwrap().unwrap();
    let fuzzy = made.from < made.complete_at;
    assert!(fuzzy || inner == InnerBackend::RocksDb, "{made:?}");
    state.write(500, 2000);
    state.checkpoint(2).await;
    let model = state.model.clone();
    daemon.crash();
    let daemon = Daemon::start(&world, Settings::on_request(inner, 2));
    let mut restored = Modelled::new(daemon.task(2, LATEST).await.unwrap(), model, 6);
    restored.check();
    let replayed = restored.task.opened.restored.changes;
    assert!((2000..5000).contains(&replayed), "{replayed} changes: about 2000 entries and 500 to 2000 of the log");
}

async fn what_did_not_change_is_not_uploaded_again_by_this_owner_or_the_next(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, Settings::on_request(inner, 1));
    let mut state = Modelled::new(daemon.task(1, LATEST).await.unwrap(), BTreeMap::new(), 5);
    state.write(20_000, 20_000);
    let first = state.materialize().await;
    let uploaded = |daemon: &Daemon| {
        let text = daemon.metrics.encode();
        let line = text.lines().find(|line| line.starts_with("dstl_materialization_uploaded_bytes_total")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let full = uploaded(&daemon);
    assert!(full >= first.stored_bytes);
    state.write(1, 20_000);
    let second = state.materialize().await;
    let incremental = uploaded(&daemon) - full;
    assert!(incremental < full / 3, "{incremental} of {full} bytes");
    assert!(second.stored_bytes > first.stored_bytes / 2 && second.from > first.from);
    state.checkpoint(1).await;
    let model = state.model.clone();
    daemon.crash();
    let daemon = Daemon::start(&world, Settings::on_request(inner, 2));
    let mut restored = Modelled::new(daemon.task(2, LATEST).await.unwrap(), model, 6);
    restored.check();
    restored.write(1, 20_000);
    restored.materialize().await;
    assert!(uploaded(&daemon) < full / 3, "{} of {full} bytes", uploaded(&daemon));
    restored.checkpoint(2).await;
    let model = restored.model.clone();
    daemon.crash();
    let daemon = Daemon::start(&world, Settings::on_request(inner, 3));
    Modelled::new(daemon.task(3, LATEST).await.unwrap(), model, 7).check();
}

async fn the_log_before_a_materialization_is_truncated_once_no_checkpoint_needs_it(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, Settings::on_request(inner, 1));
    let mut state = Modelled::new(daemon.task(1, LATEST).await.unwrap(), BTreeMap::new(), 5);
    for id in 1..=5 {
        state.write(10, 100);
        state.checkpoint(id).await;
    }
    let sets = |state: &Modelled| {
        let manifest = state.task.opened.backend.describe().manifest;
        manifest.runs.values().map(|run| run.totals().change_sets).sum::<u64>()
    };
    assert_eq!(sets(&state), 5);
    state.materialize().await;
    assert_eq!(sets(&state), 5, "retained checkpoints need the log");
    for id in 6..=9 {
        state.write(10, 100);
        state.checkpoint(id).await;
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(sets(&state), 4, "3 checkpoints are retained, all after the materialization");
    let model = state.model.clone();
    daemon.crash();
    for (attempt, id) in [(2, 9), (3, 7)] {
        let daemon = Daemon::start(&world, Settings::on_request(inner, attempt * 10));
        let mut restored =
            Modelled::new(daemon.task(attempt, RestoreFrom::Id(id)).await.unwrap(), model.clone(), attempt);
        if id == 9 {
            restored.check();
        }
    }
}

async fn a_failed_materialization_keeps_the_previous_base_and_checkpoints_go_on(inner: InnerBackend) {
    let world = World::new();
    let mut settings = Settings::on_request(inner, 1);
    settings.options.materialization_timeout = Duration::from_secs(5);
    let daemon = Daemon::start(&world, settings);
    let mut state = Modelled::new(daemon.task(1, LATEST).await.unwrap(), BTreeMap::new(), 5);
    state.write(100, 100);
    let base = state.materialize().await;
    state.checkpoint(1).await;
    state.write(100, 100);
    daemon.faults.set_outage(true);
    let backend = state.task.opened.backend.clone();
    let error = backend.materialize(backend.epoch()).await.unwrap_err();
    assert!(error.retryable, "{error}");
    daemon.faults.set_outage(false);
    assert!(daemon.metrics.encode().contains("dstl_materialization_consecutive_failures{"));
    state.checkpoint(2).await;
    assert_eq!(backend.describe().manifest.checkpoints.last().unwrap().base, Some(base.uuid));
    state.write(100, 100);
    assert_ne!(state.materialize().await.uuid, base.uuid);
    state.checkpoint(3).await;
    let model = state.model.clone();
    daemon.crash();
    let daemon = Daemon::start(&world, Settings::on_request(inner, 2));
    Modelled::new(daemon.task(2, LATEST).await.unwrap(), model, 6).check();
}

async fn materializes_by_itself_in_time_and_not_when_idle(inner: InnerBackend) {
    let world = World::new();
    let options = BackendOptions { inner, ..BackendOptions::default() };
    let daemon = Daemon::start(&world, Settings { options, ..Settings::default() });
    let mut state = Modelled::new(daemon.task(1, LATEST).await.unwrap(), BTreeMap::new(), 5);
    state.write(100, 100);
    tokio::time::sleep(Duration::from_secs(601)).await;
    let made = |daemon: &Daemon| {
        let text = daemon.metrics.encode();
        let line = text.lines().find(|line| line.starts_with("dstl_materialization_completed_total")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(made(&daemon), 1);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(made(&daemon), 1, "nothing changed since");
}

async fn damage_to_a_snapshot_is_named_with_what_it_spoils(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, Settings::on_request(inner, 1));
    let mut state = Modelled::new(daemon.task(1, LATEST).await.unwrap(), BTreeMap::new(), 5);
    state.write(100, 100);
    state.checkpoint(1).await;
    state.materialize().await;
    state.checkpoint(2).await;
    daemon.crash();
    let store = world.store();
    for (attempt, path) in (2..).zip(world.paths("snapshot").await) {
        let path = dstl::object::Path::from(path);
        let good = store.get(&path, dstl::object::Retry::none()).await.unwrap();
        let mut bad = good.to_vec();
        let middle = bad.len() / 2;
        bad[middle] ^= 8;
        store.delete(&path, dstl::object::Retry::none()).await.unwrap();
        store.create(&path, bad.into(), dstl::object::Retry::none()).await.unwrap();
        let daemon = Daemon::start(&world, Settings::on_request(inner, attempt * 10));
        let error = daemon.task(attempt, RestoreFrom::Id(2)).await.err().unwrap();
        assert!(error.message.contains(path.as_ref()), "{error}");
        assert!(error.message.contains("spoils: 2 (epoch 1); still restore: 1 (epoch 1)"), "{error}");
        store.delete(&path, dstl::object::Retry::none()).await.unwrap();
        store.create(&path, good.into(), dstl::object::Retry::none()).await.unwrap();
    }
    let daemon = Daemon::start(&world, Settings::on_request(inner, 99));
    Modelled::new(daemon.task(99, RestoreFrom::Id(2)).await.unwrap(), state.model.clone(), 9).check();
}

async fn a_checkpoint_is_restored_into_the_other_inner_backend(inner: InnerBackend) {
    let world = World::new();
    let other = if inner == InnerBackend::HashMap { InnerBackend::RocksDb } else { InnerBackend::HashMap };
    let mut model = BTreeMap::new();
    for (attempt, inner) in (1..).zip([inner, other, inner, other]) {
        let daemon = Daemon::start(&world, Settings::on_request(inner, attempt));
        let mut state = Modelled::new(daemon.task(attempt, LATEST).await.unwrap(), model, attempt);
        assert_eq!(state.task.opened.shape.inner, inner);
        state.check();
        state.write(500, 1000);
        state.materialize().await;
        state.write(100, 1000);
        state.checkpoint(attempt).await;
        model = state.model.clone();
        daemon.crash();
    }
    let daemon = Daemon::start(&world, Settings::on_request(other, 9));
    Modelled::new(daemon.task(9, LATEST).await.unwrap(), model, 9).check();
}
