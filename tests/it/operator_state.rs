//! Operator state: what subtasks had, others have after a restore, redistributed, beside keyed state.

mod changes;
mod claims;
mod racing;
mod storm;
mod warm;

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use dstl::{
    backend::{OpenSpec, Operation, RestoreFrom, Session},
    checkpoint::{
        chain,
        collect::{self, SweepOptions, SweepReport},
        handle::CheckpointHandle,
        ledger::NoticeKind,
    },
    error::{Error, Reason},
    object::Retry,
    random::Random,
    state::{
        MapKeys,
        op::{Answer, Op},
    },
    types::{BackendId, InnerBackend, Name, Redistribution, StateDescriptor, StateId, StateKind},
};

use crate::support::{Daemon, Settings, Task, World, on_both, spec};

const KEY_GROUPS: u64 = 128;
const NO_GRACE: SweepOptions = SweepOptions { grace: Duration::ZERO, now_ms: 0, delete: true };
const LATEST: RestoreFrom = RestoreFrom::Latest { or_empty: true };

/// Operator state of every redistribution, then a keyed state.
pub(crate) fn descriptors() -> Vec<StateDescriptor> {
    let operator = |name: &str, kind, redistribution| StateDescriptor {
        redistribution: Some(redistribution),
        ..StateDescriptor::new(name, kind)
    };
    vec![
        operator("split", StateKind::List, Redistribution::Split),
        operator("union", StateKind::List, Redistribution::Union),
        operator("broadcast", StateKind::Map, Redistribution::Broadcast),
        StateDescriptor::new("keyed", StateKind::Value),
    ]
}

/// What one subtask has of operator state.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Contents {
    pub(crate) split: Vec<Bytes>,
    pub(crate) union: Vec<Bytes>,
    pub(crate) broadcast: BTreeMap<Bytes, Bytes>,
}

/// What all subtasks have at a checkpoint: operator state by subtask, and keyed state.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    subtasks: Vec<Contents>,
    keyed: BTreeMap<u64, u64>,
}

impl Model {
    /// What subtasks of another parallelism begin with, as Flink redistributes.
    fn redistributed(&self, parallelism: usize) -> Self {
        let old = self.subtasks.len();
        let all: Vec<Bytes> = self.subtasks.iter().flat_map(|subtask| subtask.split.clone()).collect();
        let union: Vec<Bytes> = self.subtasks.iter().flat_map(|subtask| subtask.union.clone()).collect();
        let mut rest = all.iter();
        let share = |subtask: usize| Contents {
            split: if old == parallelism {
                self.subtasks[subtask].split.clone()
            } else {
                let count = all.len() / parallelism + usize::from(subtask < all.len() % parallelism);
                rest.by_ref().take(count).cloned().collect()
            },
            union: union.clone(),
            broadcast: self.subtasks.get(subtask % old.max(1)).map(|copy| copy.broadcast.clone()).unwrap_or_default(),
        };
        let subtasks =
            if old == 0 { vec![Contents::default(); parallelism] } else { (0..parallelism).map(share).collect() };
        Self { subtasks, keyed: self.keyed.clone() }
    }
}

struct Subtask {
    task: Task,
    next: u64,
    ids: BTreeMap<String, StateId>,
}

impl Subtask {
    async fn open(daemon: &Daemon, spec: OpenSpec) -> Result<Self, Error> {
        let opened = daemon.directory.open(spec, |_| {}).await?;
        let backend = opened.backend.clone();
        // In an order of its own.
        let mut wanted = descriptors();
        wanted.rotate_left(backend.id().subtask as usize % 4);
        let ids = backend.register(backend.epoch(), &wanted)?;
        let session = Session::start(backend.clone(), backend.epoch())?;
        let ids = wanted.into_iter().map(|descriptor| descriptor.name).zip(ids).collect();
        Ok(Self { task: Task { opened, session }, next: 0, ids })
    }

    fn apply(&mut self, state: &str, key: Option<u64>, op: Op<'_>) -> Option<Answer> {
        let name = key.map(u64::to_be_bytes);
        let operation = Operation {
            state: self.ids[state],
            key_group: key.map(|key| (key % KEY_GROUPS) as u32),
            key: name.as_ref().map_or(&[], |name| &name[..]),
            namespace: b"",
            op,
        };
        self.task.session.acknowledgement();
        let cost = if operation.op.is_write() { 300 } else { 0 };
        let result = self.task.apply(self.next, cost, &[operation]).unwrap();
        self.next += 1;
        result.and_then(|mut result| result.answers.pop()).and_then(|(_, answer)| answer)
    }

    fn list(&mut self, state: &str) -> Vec<Bytes> {
        match self.apply(state, None, Op::ListGet { start: 0, token: &[], limit: 0 }) {
            Some(Answer::Elements { elements, token: None }) => elements,
            other => panic!("a list answers its elements, not {other:?}"),
        }
    }

    fn read(&mut self) -> Contents {
        let broadcast = match self.apply("broadcast", None, Op::MapEntries { keys: MapKeys::default(), limit: 0 }) {
            Some(Answer::Entries { entries, more: false }) => entries.into_iter().collect(),
            other => panic!("a map answers its entries, not {other:?}"),
        };
        Contents { split: self.list("split"), union: self.list("union"), broadcast }
    }

    fn has(&self, key: u64) -> bool {
        self.task.opened.shape.key_groups.contains(dstl::types::KeyGroup((key % KEY_GROUPS) as u16))
    }
}

/// All subtasks of one generation.
struct Fleet {
    subtasks: Vec<Subtask>,
    model: Model,
    random: Random,
    handles: Vec<CheckpointHandle>,
}

impl Fleet {
    /// Opens all subtasks, in an order that `seed` tells, on what `model` was at the checkpoint that is restored.
    async fn open(
        daemon: &Daemon,
        (parallelism, attempt): (u32, u64),
        restore: &RestoreFrom,
        (model, seed): (&Model, u64),
    ) -> Self {
        let mut subtasks = BTreeMap::new();
        let random = Random::seeded(seed);
        let shift = random.below(parallelism.into()) as u32;
        for subtask in (0..parallelism).map(|subtask| (subtask + shift) % parallelism) {
            let spec = OpenSpec { restore: restore.clone(), ..spec(subtask, parallelism, attempt) };
            subtasks.insert(subtask, Subtask::open(daemon, spec).await.unwrap());
        }
        let model = model.redistributed(parallelism as usize);
        Self { subtasks: subtasks.into_values().collect(), model, random, handles: vec![] }
    }

    fn write(&mut self, count: u64) {
        for _ in 0..count {
            let number = self.random.below(1_000_000);
            let position = self.random.below(self.subtasks.len() as u64) as usize;
            let (subtask, contents) = (&mut self.subtasks[position], &mut self.model.subtasks[position]);
            let element = Bytes::from(format!("{number} of {position}"));
            match self.random.below(10) {
                0..3 => {
                    subtask.apply("split", None, Op::ListAdd(&element));
                    contents.split.push(element);
                }
                3 => {
                    let elements = [element.clone(), Bytes::new()];
                    subtask.apply("split", None, Op::ListUpdate(&elements));
                    contents.split = elements.to_vec();
                }
                4 => {
                    // As sources of offsets do: what all had is replaced by what it has itself.
                    subtask.apply("union", None, Op::ListUpdate(std::slice::from_ref(&element)));
                    contents.union = vec![element];
                }
                5 => {
                    let (map_key, value) = (Bytes::from(format!("{}", number % 7)), element);
                    for (subtask, contents) in self.subtasks.iter_mut().zip(&mut self.model.subtasks) {
                        subtask.apply("broadcast", None, Op::MapPut { map_key: &map_key, value: &value });
                        contents.broadcast.insert(map_key.clone(), value.clone());
                    }
                }
                _ => {
                    let key = number % 500;
                    let subtask = self.subtasks.iter_mut().find(|subtask| subtask.has(key)).unwrap();
                    subtask.apply("keyed", Some(key), Op::Put(&number.to_be_bytes()));
                    self.model.keyed.insert(key, number);
                }
            }
        }
    }

    fn check(&mut self) {
        for (position, (subtask, expected)) in self.subtasks.iter_mut().zip(&self.model.subtasks).enumerate() {
            assert_eq!(subtask.read(), *expected, "subtask {position}");
            let counts: BTreeMap<String, u64> = subtask
                .task
                .opened
                .backend
                .describe()
                .states
                .into_iter()
                .map(|state| (state.state.descriptor.name, state.entries))
                .collect();
            let lengths = [
                ("split", expected.split.len()),
                ("union", expected.union.len()),
                ("broadcast", expected.broadcast.len()),
            ];
            for (state, length) in lengths {
                assert_eq!(counts[state], length as u64, "entries of {state} of subtask {position}");
            }
        }
        for key in 0..500 {
            let expected = self.model.keyed.get(&key).map(|number| Bytes::copy_from_slice(&number.to_be_bytes()));
            let subtask = self.subtasks.iter_mut().find(|subtask| subtask.has(key)).unwrap();
            assert_eq!(subtask.apply("keyed", Some(key), Op::Get), Some(Answer::Value(expected)), "key {key}");
        }
    }

    async fn checkpoint(&mut self, id: u64) {
        self.handles.clear();
        for subtask in &mut self.subtasks {
            let completed = subtask.task.checkpoint(id).await;
            self.handles.push(CheckpointHandle::decode(&completed.handle).unwrap());
        }
        for subtask in &mut self.subtasks {
            subtask.task.notice(NoticeKind::Complete, id);
        }
    }

    async fn materialize(&self) {
        for subtask in &self.subtasks {
            let backend = &subtask.task.opened.backend;
            backend.materialize(backend.epoch()).await.unwrap();
        }
    }
}

async fn sweep(world: &World) -> SweepReport {
    collect::sweep(&world.store(), &Name::new("job").unwrap(), &NO_GRACE, Retry::none()).await.unwrap()
}

fn settings(inner: InnerBackend, seed: u64) -> Settings {
    Settings::on_request(inner, seed)
}

fn restore(way: u64, id: u64, fleet: &Fleet) -> RestoreFrom {
    match way {
        0 => RestoreFrom::Handles(fleet.handles.iter().rev().cloned().collect()),
        1 => RestoreFrom::Id(id),
        _ => LATEST,
    }
}

/// Where what is restored lies.
#[derive(Debug, Clone, Copy, PartialEq)]
enum From {
    Log,
    Materialization,
    Both,
}

on_both! {
    it_comes_back_from_the_log: |inner| super::comes_back(inner, super::From::Log);
    it_comes_back_from_a_materialization: |inner| super::comes_back(inner, super::From::Materialization);
    it_comes_back_from_both: |inner| super::comes_back(inner, super::From::Both);
    rescales_give_each_element_to_whom_it_belongs: super::rescales;
    a_subtask_that_dies_in_the_middle_of_a_rescale_gets_its_share_again: super::dies_in_the_middle;
}

async fn comes_back(inner: InnerBackend, from: From) {
    for parallelism in [1, 2] {
        let world = World::new();
        let (mut model, mut restore_from) = (Model::default(), RestoreFrom::Empty);
        for attempt in 1..=4 {
            let daemon = Daemon::start(&world, settings(inner, attempt * 10));
            let mut fleet = Fleet::open(&daemon, (parallelism, attempt), &restore_from, (&model, attempt)).await;
            fleet.check();
            fleet.write(60);
            if from != From::Log {
                fleet.materialize().await;
            }
            if from == From::Both {
                fleet.write(60);
            }
            fleet.check();
            fleet.checkpoint(attempt).await;
            model = fleet.model.clone();
            restore_from = restore(attempt % 3, attempt, &fleet);
            fleet.write(20);
            daemon.crash();
            sweep(&world).await;
        }
    }
}

async fn rescales(inner: InnerBackend) {
    for seed in 1..=3 {
        let world = World::new();
        let random = Random::seeded(seed);
        let (mut model, mut from) = (Model::default(), RestoreFrom::Empty);
        for (attempt, parallelism) in (1..).zip([1, 3, 2, 4, 1, 3, 3]) {
            let mut settings = settings(inner, seed * 1000 + attempt * 10);
            if attempt % 2 == 1 {
                settings.options.block_split_threshold = 500;
            }
            let daemon = Daemon::start(&world, settings);
            let mut fleet = Fleet::open(&daemon, (parallelism, attempt), &from, (&model, seed + attempt)).await;
            sweep(&world).await;
            fleet.check();
            for id in 1..=1 + random.below(3) {
                // Also none at all: then what was redistributed is all that there is.
                fleet.write(random.below(3) * 60);
                if random.below(2) == 0 {
                    fleet.materialize().await;
                    fleet.write(random.below(20));
                }
                fleet.checkpoint(id).await;
                sweep(&world).await;
                from = restore(random.below(3), id, &fleet);
            }
            model = fleet.model.clone();
            fleet.write(50);
            if random.below(2) == 0 {
                daemon.directory.close_all().await;
            }
            daemon.crash();
            sweep(&world).await;
        }
        let daemon = Daemon::start(&world, settings(inner, seed * 1000 + 99));
        Fleet::open(&daemon, (2, 99), &from, (&model, seed)).await.check();
    }
}

async fn dies_in_the_middle(inner: InnerBackend) {
    for (seed, (old, new)) in (1..).zip([(1, 3), (3, 2), (2, 4), (2, 2)]) {
        let world = World::new();
        let daemon = Daemon::start(&world, settings(inner, 1));
        let mut fleet = Fleet::open(&daemon, (old, 1), &RestoreFrom::Empty, (&Model::default(), seed)).await;
        fleet.write(200);
        fleet.materialize().await;
        fleet.write(50);
        fleet.checkpoint(7).await;
        let (model, from) = (fleet.model.clone(), restore(seed % 3, 7, &fleet));
        daemon.crash();
        let (first, second) = (Daemon::start(&world, settings(inner, 20)), Daemon::start(&world, settings(inner, 30)));
        let at = |subtask, attempt| OpenSpec { restore: from.clone(), ..spec(subtask, new, attempt) };
        let mut subtasks = vec![];
        for subtask in 0..new {
            let daemon = if subtask == new - 1 { &second } else { &first };
            subtasks.push(Subtask::open(daemon, at(subtask, 2)).await.unwrap());
        }
        // The last one writes what nobody will ever see.
        let mut lost = subtasks.pop().unwrap();
        lost.apply("split", None, Op::ListAdd(b"lost"));
        lost.apply("union", None, Op::Clear);
        second.crash();
        sweep(&world).await;
        let mut fleet =
            Fleet { subtasks, model: model.redistributed(new as usize), random: Random::seeded(seed), handles: vec![] };
        let changed = fleet.subtasks.len();
        for position in 0..changed {
            fleet.subtasks[position].apply("split", None, Op::ListAdd(b"meanwhile"));
            fleet.model.subtasks[position].split.push(Bytes::from_static(b"meanwhile"));
        }
        let third = Daemon::start(&world, settings(inner, 40));
        fleet.subtasks.push(Subtask::open(&third, at(new - 1, 2)).await.unwrap());
        sweep(&world).await;
        fleet.check();
        fleet.checkpoint(8).await;
        let model = fleet.model.clone();
        first.crash();
        third.crash();
        let daemon = Daemon::start(&world, settings(inner, 50));
        Fleet::open(&daemon, (5, 3), &LATEST, (&model, seed)).await.check();
    }
}

async fn refusal(daemon: &Daemon, spec: OpenSpec) -> Error {
    match Subtask::open(daemon, spec).await {
        Ok(subtask) => panic!("{} opened", subtask.task.opened.backend.id()),
        Err(error) => error,
    }
}

#[tokio::test(start_paused = true)]
async fn handles_of_some_subtasks_do_not_do_where_the_state_of_all_is_redistributed() {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(InnerBackend::HashMap, 1));
    let mut fleet = Fleet::open(&daemon, (3, 1), &RestoreFrom::Empty, (&Model::default(), 3)).await;
    fleet.write(100);
    fleet.checkpoint(1).await;
    let of = |subtasks: &[usize]| RestoreFrom::Handles(subtasks.iter().map(|n| fleet.handles[*n].clone()).collect());
    let other = Daemon::start(&world, settings(InnerBackend::HashMap, 20));
    let before = world.paths("").await;
    // Its key groups are those of old subtask 0 alone; its union list is that of all, with the same parallelism too.
    for (parallelism, given, missing) in [(6, &[0][..], "1, 2 of 3"), (3, &[0, 2][..], "1 of 3")] {
        let error = refusal(&other, OpenSpec { restore: of(given), ..spec(0, parallelism, 2) }).await;
        assert_eq!(error.reason, Reason::InvalidArgument);
        assert!(error.message.contains(&format!("subtasks {missing}")), "{error}");
    }
    assert_eq!(world.paths("").await, before, "nobody was fenced");
    let model = fleet.model.clone();
    let mut fleet = Fleet::open(&other, (6, 2), &of(&[2, 0, 1]), (&model, 4)).await;
    fleet.check();
}

#[tokio::test(start_paused = true)]
async fn a_sibling_that_alone_has_operator_state_is_not_forgotten_in_a_rescale() {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(InnerBackend::HashMap, 1));
    let mut handles = vec![];
    for subtask in 0..2 {
        let opened = daemon.directory.open(spec(subtask, 2, 1), |_| {}).await.unwrap();
        let backend = opened.backend.clone();
        let ids = if subtask == 0 { backend.register(backend.epoch(), &descriptors()[..1]).unwrap() } else { vec![] };
        let mut task = Task { session: Session::start(backend.clone(), backend.epoch()).unwrap(), opened };
        if let [state] = ids[..] {
            let elements = [1, 2, 3].map(|n: u8| Bytes::from(vec![n]));
            let operation =
                Operation { state, key_group: None, key: b"", namespace: b"", op: Op::ListUpdate(&elements) };
            task.session.acknowledgement();
            task.apply(0, 300, &[operation]).unwrap();
        }
        handles.push(CheckpointHandle::decode(&task.checkpoint(1).await.handle).unwrap());
    }
    let other = Daemon::start(&world, settings(InnerBackend::HashMap, 20));
    let at =
        |handles: &[CheckpointHandle]| OpenSpec { restore: RestoreFrom::Handles(handles.to_vec()), ..spec(2, 3, 2) };
    let error = refusal(&other, at(&handles[1..])).await;
    assert_eq!(error.reason, Reason::InvalidArgument);
    assert!(error.message.contains("subtasks 0 of 2"), "{error}");
    let mut subtask = Subtask::open(&other, at(&handles)).await.unwrap();
    assert_eq!(subtask.list("split"), [Bytes::from_static(&[3])]);
}

#[tokio::test(start_paused = true)]
async fn a_subtask_that_restarts_alone_reads_its_siblings_and_fences_none_of_them() {
    let world = World::new();
    let daemons = [1, 2].map(|seed| Daemon::start(&world, settings(InnerBackend::HashMap, seed * 100)));
    let mut subtasks = vec![];
    for (subtask, daemon) in daemons.iter().enumerate() {
        subtasks.push(Subtask::open(daemon, spec(subtask as u32, 2, 1)).await.unwrap());
    }
    let mut handles = vec![];
    for subtask in &mut subtasks {
        let element = Bytes::from(vec![handles.len() as u8]);
        subtask.apply("union", None, Op::ListAdd(&element));
        handles.push(CheckpointHandle::decode(&subtask.task.checkpoint(1).await.handle).unwrap());
        subtask.task.notice(NoticeKind::Complete, 1);
    }
    let [first, second] = daemons;
    first.crash();
    let third = Daemon::start(&world, settings(InnerBackend::HashMap, 300));
    // With a higher attempt of its own: the sibling runs on with the old one.
    let again = OpenSpec { restore: RestoreFrom::Handles(handles), ..spec(0, 2, 2) };
    let mut restored = Subtask::open(&third, again).await.unwrap();
    assert_eq!(restored.list("union"), [Bytes::from_static(&[0]), Bytes::from_static(&[1])]);
    subtasks[1].apply("union", None, Op::ListAdd(b"goes on"));
    subtasks[1].task.checkpoint(2).await;
    restored.task.checkpoint(2).await;
    drop(second);
}

#[tokio::test(start_paused = true)]
async fn what_is_read_for_a_share_stays_named_until_the_next_manifest_and_goes_then() {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(InnerBackend::HashMap, 1));
    let mut fleet = Fleet::open(&daemon, (4, 1), &RestoreFrom::Empty, (&Model::default(), 3)).await;
    fleet.write(300);
    fleet.materialize().await;
    fleet.write(50);
    fleet.checkpoint(1).await;
    let model = fleet.model.clone();
    daemon.crash();
    let daemon = Daemon::start(&world, settings(InnerBackend::HashMap, 20));
    let mut fleet = Fleet::open(&daemon, (2, 2), &LATEST, (&model, 4)).await;
    let named = |subtask| {
        let store = world.store();
        async move {
            let name = |name: &str| Name::new(name).unwrap();
            let backend = BackendId { job: name("job"), operator: name("op"), subtask };
            let head = chain::read_head(&store, &backend, Retry::none()).await.unwrap().unwrap();
            let operator = dstl::types::KeyGroupRange::OPERATOR;
            head.manifest.imports.iter().filter(|import| import.key_groups == operator).count()
        }
    };
    assert_eq!(named(0).await, 4, "of every old subtask");
    fleet.check();
    for id in 2..=6 {
        fleet.write(10);
        fleet.checkpoint(id).await;
        assert_eq!(named(0).await, 0);
    }
    fleet.materialize().await;
    for id in 7..=11 {
        fleet.checkpoint(id).await;
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    sweep(&world).await;
    sweep(&world).await;
    let tells = |path: &String| path.contains("/manifest/") || path.contains("/retired/");
    let vanished = |path: &String| ["op/2/", "op/3/"].iter().any(|part| path.contains(part)) && !tells(path);
    assert_eq!(world.paths("op/").await.into_iter().filter(vanished).collect::<Vec<_>>(), [] as [String; 0]);
    let report = sweep(&world).await;
    let left: Vec<_> = report.findings.iter().filter(|finding| finding.verdict.word() != "live").collect();
    let may_be_named = |finding: &&&collect::Finding| finding.meta.path.as_ref().contains("snapshot");
    assert_eq!(left.iter().filter(|finding| !may_be_named(finding)).count(), 0, "{left:?}");
    let model = fleet.model.clone();
    daemon.crash();
    let daemon = Daemon::start(&world, settings(InnerBackend::HashMap, 40));
    Fleet::open(&daemon, (3, 3), &LATEST, (&model, 5)).await.check();
}

#[tokio::test(start_paused = true)]
async fn operations_that_name_a_key_or_need_one_are_refused_and_change_nothing() {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(InnerBackend::RocksDb, 1));
    let mut subtask = Subtask::open(&daemon, spec(0, 1, 1)).await.unwrap();
    subtask.apply("split", None, Op::ListAdd(b"a"));
    let backend = subtask.task.opened.backend.clone();
    let (split, keyed) = (subtask.ids["split"], subtask.ids["keyed"]);
    let on = |state, key_group, key, namespace, op| Operation { state, key_group, key, namespace, op };
    let add = Op::ListAdd(b"b");
    let cases = [
        (on(split, None, b"k", b"", add), Reason::InvalidArgument),
        (on(split, None, b"", b"n", add), Reason::InvalidArgument),
        (on(split, Some(3), b"", b"", add), Reason::WrongKeyGroup),
        (on(split, Some(65_535), b"", b"", add), Reason::WrongKeyGroup),
        (on(split, None, b"", b"", Op::MergeNamespaces(&[])), Reason::InvalidArgument),
        (on(split, None, b"", b"", Op::Keys { all_namespaces: true, token: b"", limit: 0 }), Reason::InvalidArgument),
        (on(split, None, b"", b"", Op::MapCount), Reason::WrongKind),
        (on(keyed, Some(3), b"", b"", Op::Get), Reason::InvalidArgument),
        (on(keyed, Some(65_535), b"k", b"", Op::Get), Reason::WrongKeyGroup),
        (on(keyed, None, b"k", b"", Op::Get), Reason::WrongKeyGroup),
    ];
    for (operation, reason) in cases {
        let error = backend.apply_batch(backend.epoch(), Some(subtask.next), 300, &[operation]).await.unwrap_err();
        assert_eq!(error.reason, reason, "{operation:?}: {error}");
    }
    assert_eq!(subtask.list("split"), [Bytes::from_static(b"a")]);
}

#[tokio::test(start_paused = true)]
async fn operator_state_counts_against_the_memory_for_state_on_disk_too() {
    let world = World::new();
    let mut settings = settings(InnerBackend::RocksDb, 1);
    settings.options.state_memory = 100_000;
    let daemon = Daemon::start(&world, settings);
    let mut subtask = Subtask::open(&daemon, spec(0, 1, 1)).await.unwrap();
    let element = vec![7; 60_000];
    let backend = subtask.task.opened.backend.clone();
    for _ in 0..2 {
        subtask.apply("split", None, Op::ListAdd(&element));
    }
    let operation =
        Operation { state: subtask.ids["split"], key_group: None, key: b"", namespace: b"", op: Op::ListAdd(&element) };
    let error = backend.apply_batch(backend.epoch(), Some(subtask.next), 300, &[operation]).await.unwrap_err();
    assert_eq!(error.reason, Reason::StateMemory);
    subtask.apply("split", None, Op::Clear);
    subtask.apply("split", None, Op::ListAdd(&element));
}

#[tokio::test(start_paused = true)]
async fn a_share_of_much_operator_state_reads_no_keyed_state_of_others() {
    for materialized in [false, true] {
        let world = World::new();
        let daemon = Daemon::start(&world, settings(InnerBackend::HashMap, 1));
        let mut fleet = Fleet::open(&daemon, (2, 1), &RestoreFrom::Empty, (&Model::default(), 3)).await;
        let value = vec![5; 10_000];
        for key in 0..300 {
            let subtask = fleet.subtasks.iter_mut().find(|subtask| subtask.has(key)).unwrap();
            subtask.apply("keyed", Some(key), Op::Put(&value));
        }
        fleet.subtasks[1].apply("split", None, Op::ListAddAll(&[Bytes::from_static(b"x"), Bytes::from_static(b"y")]));
        if materialized {
            fleet.materialize().await;
        }
        fleet.checkpoint(1).await;
        daemon.crash();
        let daemon = Daemon::start(&world, settings(InnerBackend::HashMap, 20));
        // A quarter of the key groups, all of old subtask 0.
        let restore = RestoreFrom::Handles(fleet.handles.clone());
        let mut subtask = Subtask::open(&daemon, OpenSpec { restore, ..spec(0, 4, 2) }).await.unwrap();
        assert_eq!(subtask.list("split"), [Bytes::from_static(b"x")]);
        let read = subtask.task.opened.restored.bytes_done;
        assert!((960_000..970_000).contains(&read), "{read} bytes: of keyed state 96 values alone");
    }
}
