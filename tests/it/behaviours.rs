//! Every behaviour of state, whatever becomes of its backend on the way.
//!
//! A behaviour is written once, as what a task does and what it must then read. It runs on both inner backends, with
//! the changelog on and off, and at each *turn* its backends go on undisturbed, or are killed and restored: from the
//! log alone, from a snapshot alone, from a snapshot and the log after it, or into another parallelism.

mod keyed;
mod operator;
mod timers;
mod ttl;

use dstl::{
    backend::{OpenSpec, Operation, RestoreFrom, Session},
    checkpoint::ledger::NoticeKind,
    state::{
        op::{Answer, Op},
        rocksdb::TimerService,
    },
    types::{InnerBackend, KeyGroup, StateDescriptor, StateId},
};

use crate::support::{Daemon, Settings, Task, World, spec};

const KEY_GROUPS: u32 = 128;

/// Parallelisms in turn, where a behaviour is rescaled.
const PARALLELISMS: [u32; 4] = [1, 3, 2, 5];

/// What happens at a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Course {
    /// Nothing.
    Live,
    /// kill -9; the log is replayed from the beginning.
    LogAlone,
    /// kill -9; there is nothing after the snapshot.
    SnapshotAlone,
    /// kill -9; the snapshot was made halfway.
    SnapshotAndLog,
    /// kill -9; another parallelism.
    Rescaled,
}

/// Where and how a behaviour runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) inner: InnerBackend,
    pub(crate) changelog: bool,
    pub(crate) course: Course,
    pub(crate) timers: TimerService,
}

/// The subtasks of one operator.
pub(crate) struct Bench {
    pub(crate) setting: Setting,
    pub(crate) world: World,
    daemon: Option<Daemon>,
    states: Vec<StateDescriptor>,
    subtasks: Vec<Subtask>,
    attempt: u64,
}

struct Subtask {
    task: Task,
    ids: Vec<StateId>,
    next: u64,
}

impl Bench {
    async fn start(setting: Setting, states: Vec<StateDescriptor>) -> Self {
        let mut bench = Self { setting, world: World::new(), daemon: None, states, subtasks: vec![], attempt: 0 };
        bench.open(RestoreFrom::Empty).await;
        bench
    }

    /// A new daemon with all subtasks, as a later attempt.
    async fn open(&mut self, restore: RestoreFrom) {
        let Setting { inner, changelog, course, timers } = self.setting;
        let settings = Settings { timers, ..Settings::on_request(inner, 10 * (self.attempt + 1)) };
        let daemon = Daemon::start(&self.world, settings);
        let turn = if course == Course::Rescaled { self.attempt as usize % PARALLELISMS.len() } else { 0 };
        self.attempt += 1;
        self.subtasks.clear();
        for subtask in 0..PARALLELISMS[turn] {
            let plain = spec(subtask, PARALLELISMS[turn], self.attempt);
            let (changelog, max_parallelism) = (Some(changelog), Some(KEY_GROUPS));
            let opened = OpenSpec { restore: restore.clone(), changelog, max_parallelism, ..plain };
            let opened = daemon.directory.open(opened, |_| {}).await.unwrap();
            let backend = opened.backend.clone();
            let ids = backend.register(backend.epoch(), &self.states).unwrap();
            let session = Session::start(backend.clone(), backend.epoch()).unwrap();
            self.subtasks.push(Subtask { task: Task { opened, session }, ids, next: 0 });
        }
        self.daemon = Some(daemon);
    }

    /// A place where a snapshot may be made.
    pub(crate) async fn halfway(&mut self) {
        if self.setting.course == Course::SnapshotAndLog {
            self.materialize().await;
        }
    }

    /// A place where the task may be killed.
    pub(crate) async fn turn(&mut self) {
        if self.setting.course == Course::Live {
            return;
        }
        if self.setting.course == Course::SnapshotAlone {
            self.materialize().await;
        }
        for subtask in &mut self.subtasks {
            subtask.task.checkpoint(self.attempt).await;
        }
        for subtask in &mut self.subtasks {
            subtask.task.notice(NoticeKind::Complete, self.attempt);
        }
        if let Some(daemon) = self.daemon.take() {
            daemon.crash();
        }
        self.open(RestoreFrom::Latest { or_empty: false }).await;
    }

    async fn materialize(&mut self) {
        if !self.setting.changelog {
            return;
        }
        for subtask in &self.subtasks {
            let backend = subtask.task.opened.backend.clone();
            backend.materialize(backend.epoch()).await.unwrap();
        }
    }

    /// Does one thing, as a batch of its own, in the subtask that has the key.
    pub(crate) fn run(&mut self, state: usize, (key, namespace): (&str, &str), op: Op<'_>) -> Option<Answer> {
        let group = group(key);
        let has = |subtask: &Subtask| subtask.task.opened.shape.key_groups.contains(KeyGroup(group as u16));
        let position = self.subtasks.iter().position(has).unwrap();
        let place = (Some(group), key.as_bytes(), namespace.as_bytes());
        self.subtasks[position].apply(state, place, op)
    }

    /// Does one thing that has no key, in every subtask.
    pub(crate) fn run_all(&mut self, state: usize, op: Op<'_>) -> Vec<Option<Answer>> {
        self.subtasks.iter_mut().map(|subtask| subtask.apply(state, (None, b"", b""), op)).collect()
    }

    /// How many subtasks there are.
    pub(crate) fn parallelism(&self) -> usize {
        self.subtasks.len()
    }

    /// Does one thing that has no key, in one subtask.
    pub(crate) fn run_in(&mut self, subtask: usize, state: usize, op: Op<'_>) -> Option<Answer> {
        self.subtasks[subtask].apply(state, (None, b"", b""), op)
    }

    /// Does something that says nothing.
    pub(crate) fn write(&mut self, state: usize, place: (&str, &str), op: Op<'_>) {
        assert_eq!(self.run(state, place, op), None, "{op:?} in {:?}", self.setting);
    }
}

impl Subtask {
    fn apply(
        &mut self,
        state: usize,
        (key_group, key, namespace): (Option<u32>, &[u8], &[u8]),
        op: Op<'_>,
    ) -> Option<Answer> {
        let operation = Operation { state: self.ids[state], key_group, key, namespace, op };
        self.task.session.acknowledgement();
        let cost = if op.is_write() { 1_000 } else { 0 };
        let result = self.task.apply(self.next, cost, &[operation]).unwrap();
        self.next += 1;
        let answers = result.map(|result| result.answers).unwrap_or_default();
        answers.into_iter().next().and_then(|(_, answer)| answer)
    }
}

/// The key group of a key.
fn group(key: &str) -> u32 {
    key.bytes().fold(0, |sum, byte| (sum * 31 + u32::from(byte)) % KEY_GROUPS)
}

/// Runs a behaviour in every setting.
pub(crate) async fn everywhere(states: Vec<StateDescriptor>, behaviour: impl AsyncFn(&mut Bench)) {
    everywhere_with(&[TimerService::default()], states, behaviour).await;
}

/// Likewise, with each of `services` for the timers of RocksDB.
pub(crate) async fn everywhere_with(
    services: &[TimerService],
    states: Vec<StateDescriptor>,
    behaviour: impl AsyncFn(&mut Bench),
) {
    use Course::{Live, LogAlone, Rescaled, SnapshotAlone, SnapshotAndLog};
    let on_disk = services.iter().map(|timers| (InnerBackend::RocksDb, *timers));
    for (inner, timers) in on_disk.chain([(InnerBackend::HashMap, TimerService::default())]) {
        let (logged, unlogged) = ([Live, LogAlone, SnapshotAlone, SnapshotAndLog, Rescaled], [SnapshotAlone, Rescaled]);
        for (changelog, courses) in [(true, &logged[..]), (false, &unlogged[..])] {
            for &course in courses {
                let setting = Setting { inner, changelog, course, timers };
                let mut bench = Bench::start(setting, states.clone()).await;
                behaviour(&mut bench).await;
            }
        }
    }
}
