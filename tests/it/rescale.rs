//! Rescaling: what the subtasks of one generation had, those of the next one have, each entry exactly once.

mod peers;
mod rules;

use std::{collections::BTreeMap, time::Duration};

use dstl::{
    backend::{OpenSpec, Operation, RestoreFrom, Session},
    checkpoint::{
        collect::{self, SweepOptions, SweepReport},
        handle::CheckpointHandle,
        ledger::NoticeKind,
    },
    error::Error,
    object::{Retry, Store, faulty::FaultPlan},
    random::Random,
    state::op::{Answer, Op},
    types::{InnerBackend, MergeFunction, Name, StateDescriptor, StateId, StateKind},
};

use crate::support::{Daemon, Settings, Task, World, spec};

const KEY_GROUPS: u32 = 128;
const KEYS: u64 = 400;
const NO_GRACE: SweepOptions = SweepOptions { grace: Duration::ZERO, now_ms: 0, delete: true };
const LATEST: RestoreFrom = RestoreFrom::Latest { or_empty: true };

fn settings(seed: u64) -> Settings {
    Settings::on_request(InnerBackend::HashMap, seed)
}

fn descriptor(name: &str) -> StateDescriptor {
    let (kind, merge) = match name {
        "value" => (StateKind::Value, None),
        "sum" => (StateKind::Value, Some(MergeFunction::SumI64)),
        _ => (StateKind::List, None),
    };
    StateDescriptor::new(name, kind).with_merge(merge)
}

/// What there is of one key.
#[derive(Debug, Clone, Default, PartialEq)]
struct Entry {
    value: Option<Vec<u8>>,
    sum: Option<i64>,
    list: Vec<Vec<u8>>,
}

type Model = BTreeMap<u64, Entry>;

/// One subtask. Its states have ids in an order of its own.
struct Subtask {
    task: Task,
    next: u64,
    ids: BTreeMap<&'static str, StateId>,
}

/// All subtasks of one generation.
struct Fleet {
    subtasks: Vec<Subtask>,
    model: Model,
    random: Random,
    checkpoints: Vec<(u64, Model)>,
    handles: Vec<CheckpointHandle>,
}

async fn open(daemon: &Daemon, spec: OpenSpec) -> Result<Subtask, Error> {
    let opened = daemon.directory.open(spec, |_| {}).await?;
    let backend = opened.backend.clone();
    let mut names = ["value", "sum", "list"];
    names.rotate_left(backend.id().subtask as usize % 3);
    let states: Vec<_> = names.iter().map(|name| descriptor(name)).collect();
    let ids = backend.register(backend.epoch(), &states)?;
    let session = Session::start(backend.clone(), backend.epoch())?;
    Ok(Subtask { task: Task { opened, session }, next: 0, ids: names.into_iter().zip(ids).collect() })
}

/// Opens all subtasks, in an order that `seed` tells.
async fn open_all(
    daemon: &Daemon,
    (parallelism, attempt): (u32, u64),
    restore: &RestoreFrom,
    seed: u64,
) -> Vec<Subtask> {
    let mut subtasks = BTreeMap::new();
    let shift = Random::seeded(seed).below(parallelism.into()) as u32;
    for subtask in (0..parallelism).map(|subtask| (subtask + shift) % parallelism) {
        let spec = OpenSpec { restore: restore.clone(), ..spec(subtask, parallelism, attempt) };
        subtasks.insert(subtask, open(daemon, spec).await.unwrap());
    }
    subtasks.into_values().collect()
}

impl Subtask {
    fn has(&self, key: u64) -> bool {
        u32::from(self.task.opened.shape.key_groups.first().0) <= group(key)
            && group(key) <= u32::from(self.task.opened.shape.key_groups.last().0)
    }

    fn apply(&mut self, key: u64, state: &str, op: Op<'_>) -> Vec<(u32, Option<Answer>)> {
        let name = key.to_be_bytes();
        let operation =
            Operation { state: self.ids[state], key_group: Some(group(key)), key: &name, namespace: b"", op };
        self.task.session.acknowledgement();
        let cost = if operation.op.is_write() { 300 } else { 0 };
        let result = self.task.apply(self.next, cost, &[operation]).unwrap().map(|result| result.answers);
        self.next += 1;
        result.unwrap_or_default()
    }

    fn read(&mut self, key: u64) -> Entry {
        let value = |state, this: &mut Self| match &this.apply(key, state, Op::Get)[..] {
            [(0, Some(Answer::Value(value)))] => value.as_ref().map(|value| value.to_vec()),
            other => panic!("a get answers one value, not {other:?}"),
        };
        let (text, sum) = (value("value", self), value("sum", self));
        let list = match &self.apply(key, "list", Op::ListGet { start: 0, token: &[], limit: 0 })[..] {
            [(0, Some(Answer::Elements { elements, .. }))] => elements.iter().map(|e| e.to_vec()).collect(),
            other => panic!("a list answers its elements, not {other:?}"),
        };
        Entry { value: text, sum: sum.map(|sum| i64::from_le_bytes(sum.try_into().unwrap())), list }
    }
}

fn group(key: u64) -> u32 {
    (key % u64::from(KEY_GROUPS)) as u32
}

impl Fleet {
    async fn start(
        daemon: &Daemon,
        generation: (u32, u64),
        restore: &RestoreFrom,
        (model, seed): (Model, u64),
    ) -> Self {
        let subtasks = open_all(daemon, generation, restore, seed).await;
        let (checkpoints, handles) = Default::default();
        Self { subtasks, model, random: Random::seeded(seed), checkpoints, handles }
    }

    fn write(&mut self, count: u64) {
        for _ in 0..count {
            let key = self.random.below(KEYS);
            let subtask = self.subtasks.iter_mut().find(|subtask| subtask.has(key)).unwrap();
            let entry = self.model.entry(key).or_default();
            let text = vec![self.random.below(256) as u8; self.random.below(100) as usize];
            match self.random.below(10) {
                0..4 => {
                    subtask.apply(key, "value", Op::Put(&text));
                    entry.value = Some(text);
                }
                4 => {
                    subtask.apply(key, "value", Op::Clear);
                    entry.value = None;
                }
                5..8 => {
                    subtask.apply(key, "sum", Op::Merge(&3_i64.to_le_bytes()));
                    entry.sum = Some(entry.sum.unwrap_or(0) + 3);
                }
                8 => {
                    subtask.apply(key, "list", Op::ListAdd(&text));
                    entry.list.push(text);
                }
                _ => {
                    subtask.apply(key, "list", Op::Clear);
                    entry.list.clear();
                }
            }
        }
    }

    /// Asserts that the subtasks have what the model has, and nothing else.
    fn check(&mut self) {
        for key in 0..KEYS {
            let expected = self.model.get(&key).cloned().unwrap_or_default();
            let subtask = self.subtasks.iter_mut().find(|subtask| subtask.has(key)).unwrap();
            assert_eq!(subtask.read(key), expected, "key {key} of {}", subtask.task.opened.backend.id());
        }
        let count =
            |entry: &Entry| u64::from(entry.value.is_some()) + u64::from(entry.sum.is_some()) + entry.list.len() as u64;
        let expected: u64 = self.model.values().map(count).sum();
        let states = self.subtasks.iter().flat_map(|subtask| subtask.task.opened.backend.describe().states);
        assert_eq!(states.map(|state| state.entries).sum::<u64>(), expected, "entries of all subtasks");
    }

    async fn checkpoint(&mut self, id: u64) {
        let mut handles = vec![];
        for subtask in &mut self.subtasks {
            let completed = subtask.task.checkpoint(id).await;
            handles.push(CheckpointHandle::decode(&completed.handle).unwrap());
        }
        for subtask in &mut self.subtasks {
            subtask.task.notice(NoticeKind::Complete, id);
        }
        self.handles = handles;
        self.checkpoints.push((id, self.model.clone()));
    }

    async fn materialize(&self, which: impl Fn(usize) -> bool) {
        for (_, subtask) in self.subtasks.iter().enumerate().filter(|(n, _)| which(*n)) {
            let backend = &subtask.task.opened.backend;
            backend.materialize(backend.epoch()).await.unwrap();
        }
    }
}

async fn sweep_by(store: &Store) -> SweepReport {
    collect::sweep(store, &Name::new("job").unwrap(), &NO_GRACE, Retry::none()).await.unwrap()
}

async fn sweep(world: &World) -> SweepReport {
    sweep_by(&world.store()).await
}

/// How a generation restores what the one before had at its last checkpoint.
fn restore(way: u64, fleet: &Fleet) -> RestoreFrom {
    match way {
        0 => RestoreFrom::Handles(fleet.handles.iter().rev().cloned().collect()),
        1 => RestoreFrom::Id(fleet.checkpoints.last().unwrap().0),
        _ => LATEST,
    }
}

#[tokio::test(start_paused = true)]
async fn one_to_three_to_two_to_five_keeps_every_entry_exactly_once() {
    rescale_from_seeds(1..=8, |_| (InnerBackend::HashMap, true)).await;
}

#[tokio::test(start_paused = true)]
async fn rescales_on_and_between_both_inner_backends_keep_every_entry_exactly_once() {
    rescale_from_seeds(20..=21, |_| (InnerBackend::RocksDb, true)).await;
    let either = |random: &Random| (either_inner(random), true);
    rescale_from_seeds(30..=32, either).await;
}

fn either_inner(random: &Random) -> InnerBackend {
    [InnerBackend::HashMap, InnerBackend::RocksDb][random.below(2) as usize]
}

#[tokio::test(start_paused = true)]
async fn rescales_without_changelog_and_that_switch_it_keep_every_entry_exactly_once() {
    rescale_from_seeds(40..=42, |_| (InnerBackend::HashMap, false)).await;
    rescale_from_seeds(50..=50, |_| (InnerBackend::RocksDb, false)).await;
    rescale_from_seeds(60..=64, |random| (either_inner(random), random.below(2) == 0)).await;
}

/// Generations of subtasks, each with an inner backend and with or without changelog, as `mode` says.
async fn rescale_from_seeds(seeds: impl Iterator<Item = u64>, mode: impl Fn(&Random) -> (InnerBackend, bool)) {
    for seed in seeds {
        let world = World::new();
        let random = Random::seeded(seed);
        let (mut model, mut from) = (Model::new(), RestoreFrom::Empty);
        for (attempt, parallelism) in (1..).zip([1, 3, 2, 5, 5, 1, 4]) {
            let mut settings = settings(seed * 1000 + attempt * 10);
            let (inner, changelog) = mode(&random);
            (settings.options.inner, settings.options.changelog) = (inner, changelog);
            if attempt % 2 == 1 {
                settings.options.block_split_threshold = 500;
            }
            let daemon = Daemon::start(&world, settings);
            let mut fleet = Fleet::start(&daemon, (parallelism, attempt), &from, (model, seed + attempt)).await;
            fleet.check();
            sweep(&world).await;
            for id in 1..=1 + random.below(4) {
                fleet.write(300);
                if random.below(3) == 0 && changelog {
                    let (part, of) = (random.below(3) as usize, 1 + random.below(3) as usize);
                    fleet.materialize(|n| n % of == part % of).await;
                    fleet.write(50);
                }
                fleet.checkpoint(id).await;
                sweep(&world).await;
            }
            from = restore(random.below(3), &fleet);
            model = fleet.checkpoints.last().unwrap().1.clone();
            fleet.write(50);
            if random.below(2) == 0 {
                daemon.directory.close_all().await;
            }
            daemon.crash();
            sweep(&world).await;
        }
        let daemon = Daemon::start(&world, settings(seed * 1000 + 99));
        let mut fleet = Fleet::start(&daemon, (2, 99), &from, (model, seed)).await;
        fleet.check();
    }
}

#[tokio::test(start_paused = true)]
async fn what_vanished_subtasks_keep_goes_in_the_end() {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(1));
    let mut fleet = Fleet::start(&daemon, (5, 1), &RestoreFrom::Empty, (Model::new(), 3)).await;
    fleet.write(1000);
    fleet.checkpoint(1).await;
    fleet.materialize(|n| n != 3).await;
    fleet.write(100);
    fleet.checkpoint(2).await;
    daemon.crash();
    let daemon = Daemon::start(&world, settings(20));
    let mut fleet = Fleet::start(&daemon, (2, 2), &LATEST, (fleet.model, 4)).await;
    fleet.check();
    let old = sweep(&world).await;
    assert_eq!(old.retired, [], "0 and 1 retain the checkpoint of which these are a part");
    for id in 3..=6 {
        fleet.write(10);
        fleet.checkpoint(id).await;
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    let report = sweep(&world).await;
    let retired: Vec<_> = report.retired.iter().map(|chain| chain.backend.subtask).collect();
    assert_eq!(retired, [2, 3, 4]);
    let vanished = |path: &String| ["op/2/", "op/3/", "op/4/"].iter().any(|part| path.contains(part));
    let left = |paths: Vec<String>| paths.into_iter().filter(vanished).count();
    assert!(left(world.paths("snapshot").await) > 0, "imports name them");
    assert_eq!(sweep(&world).await.retired, [], "once is enough");
    fleet.materialize(|_| true).await;
    for id in 7..=10 {
        fleet.checkpoint(id).await;
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    sweep(&world).await;
    let tells = |path: &String| path.contains("/manifest/") || path.contains("/retired/");
    let others = |paths: Vec<String>| paths.into_iter().filter(|path| !tells(path)).collect();
    assert_eq!(left(others(world.paths("op/").await)), 0, "only what says that they are retired is left of them");
    let report = sweep(&world).await;
    let left: Vec<_> = report.findings.iter().filter(|finding| finding.verdict.word() != "live").collect();
    let may_be_named = |finding: &&&collect::Finding| finding.meta.path.as_ref().contains("snapshot");
    assert_eq!(left.iter().filter(|finding| !may_be_named(finding)).count(), 0, "{left:?}");
    let model = fleet.model.clone();
    daemon.crash();
    let daemon = Daemon::start(&world, settings(40));
    Fleet::start(&daemon, (5, 3), &LATEST, (model, 5)).await.check();
}

/// Opens all subtasks at once; `None` if one of them fails.
async fn try_open_all(
    daemon: &Daemon,
    (parallelism, attempt): (u32, u64),
    restore: &RestoreFrom,
) -> Option<Vec<Subtask>> {
    let spec = |subtask| OpenSpec { restore: restore.clone(), ..spec(subtask, parallelism, attempt) };
    let opening = (0..parallelism).map(|subtask| open(daemon, spec(subtask)));
    futures::future::try_join_all(opening).await.ok()
}

#[tokio::test(start_paused = true)]
async fn rescales_that_are_cut_short_and_sweeps_beside_them_lose_nothing() {
    for seed in 1..=4 {
        let world = World::new();
        let random = Random::seeded(seed);
        let weather = FaultPlan {
            latency: Duration::ZERO..Duration::from_millis(40),
            error_before: 0.03,
            error_after: 0.03,
            refused: 0.03,
            delayed: 0.02,
            delay: Duration::ZERO..Duration::from_secs(10),
            ..FaultPlan::none()
        };
        let slow = crate::gc::sweeper(&world, seed + 500, Duration::ZERO..Duration::from_millis(30));
        let sweeping = async {
            loop {
                sweep_by(&slow).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let rescaling = async {
            let (mut model, mut from, mut zombies) = (Model::new(), RestoreFrom::Empty, vec![]);
            for attempt in 1..=8 {
                let mut settings = settings(seed * 1000 + attempt * 10);
                settings.options.block_split_threshold = 300 * attempt as usize;
                let daemon = Daemon::start(&world, settings);
                daemon.faults.set_plan(weather.clone());
                let generation = (1 + random.below(5) as u32, attempt);
                let patience = Duration::from_millis(if random.below(2) == 0 { 60_000 } else { random.below(1500) });
                let opening = try_open_all(&daemon, generation, &from);
                let Ok(Some(subtasks)) = tokio::time::timeout(patience, opening).await else {
                    daemon.crash();
                    continue;
                };
                let (checkpoints, handles) = Default::default();
                let fleet_random = Random::seeded(seed + attempt);
                let mut fleet = Fleet { subtasks, model, random: fleet_random, checkpoints, handles };
                fleet.check();
                for id in 1..=1 + random.below(5) {
                    fleet.write(100);
                    if random.below(2) == 0 {
                        fleet.materialize(|n| n != 1).await;
                    }
                    fleet.checkpoint(id).await;
                }
                from = restore(random.below(3), &fleet);
                model = fleet.checkpoints.last().unwrap().1.clone();
                fleet.write(50);
                // A daemon that goes on while others take over.
                if random.below(2) == 0 { daemon.crash() } else { zombies.push((daemon, fleet)) }
            }
            let daemon = Daemon::start(&world, settings(seed * 1000 + 999));
            Fleet::start(&daemon, (3, 99), &from, (model, seed)).await.check();
        };
        tokio::select! {
            biased;
            () = sweeping => {}
            () = rescaling => {}
        }
    }
}
