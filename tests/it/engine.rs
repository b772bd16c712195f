//! An engine that knows what each of its checkpoints must contain, for tests that stop, cut off and kill its daemons.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use dstl::{
    backend::{Backend, BarrierRequest, OpenSpec, Operation, RestoreFrom},
    checkpoint::{
        collect::{self, SweepOptions, SweepReport},
        handle::CheckpointHandle,
        job,
        ledger::{NoticeKind, NoticeTarget, Retention},
        manifest::Manifest,
    },
    error::{Error, Reason},
    object::Retry,
    state::op::{Answer, Op},
    types::{Name, StateId},
};
use futures::FutureExt as _;
use parking_lot::Mutex;

use crate::support::{Daemon, World, group_of, spec, states};

/// All keys.
const KEYS: u8 = 8;

/// What the state contains, by key.
pub(crate) type Contents = BTreeMap<u8, String>;

/// What the engines of one job know, by epoch and id.
#[derive(Debug, Default)]
pub(crate) struct Story {
    cuts: BTreeMap<(u64, u64), Contents>,
    /// Those that were replied to be restorable.
    replied: BTreeMap<(u64, u64), CheckpointHandle>,
    /// Those that may have been let go since.
    let_go: BTreeSet<(u64, u64)>,
    /// The newest that an engine said to be complete, or restored.
    completed: (u64, u64),
}

/// One owner.
#[derive(Clone)]
pub(crate) struct Engine {
    pub(crate) backend: Backend,
    pub(crate) restored: Option<(u64, u64)>,
    contents: Contents,
    story: Arc<Mutex<Story>>,
    writes: u64,
    /// Whether retention counts.
    counts: bool,
}

impl Story {
    /// The newest that must be there: none before it can be what `Latest` restores.
    pub(crate) fn newest(&self) -> Option<(u64, u64)> {
        self.replied.keys().filter(|key| !self.let_go.contains(key)).max().copied()
    }

    /// Those that must be there.
    pub(crate) fn kept(&self) -> Vec<((u64, u64), CheckpointHandle)> {
        let kept = self.replied.iter().filter(|(key, _)| !self.let_go.contains(key));
        kept.map(|(key, handle)| (*key, handle.clone())).collect()
    }
}

impl Engine {
    /// Opens, and checks that the state is exactly that of the checkpoint that was restored.
    pub(crate) async fn open(
        daemon: &Daemon,
        story: &Arc<Mutex<Story>>,
        attempt: u64,
        restore: RestoreFrom,
    ) -> Result<Self, Error> {
        let spec = OpenSpec { restore, ..spec(0, 1, attempt) };
        let opened = daemon.directory.open(spec, |_| {}).await?;
        let backend = opened.backend;
        backend.register(backend.epoch(), &states())?;
        let restored = opened.checkpoint.map(|identity| (identity.epoch, identity.id));
        let contents = restored.map(|key| story.lock().cuts[&key].clone()).unwrap_or_default();
        {
            let mut story = story.lock();
            story.completed = story.completed.max(restored.unwrap_or_default());
        }
        let counts = matches!(daemon.directory.environment().options.retention, Retention::Count(_));
        let engine = Self { backend, restored, contents, story: story.clone(), writes: attempt * 1000, counts };
        assert_eq!(engine.read().await?, engine.contents, "restored {restored:?}");
        Ok(engine)
    }

    async fn apply(&self, ops: &[(u8, Op<'_>)]) -> Result<Vec<Answer>, Error> {
        let keys: Vec<String> = ops.iter().map(|(key, _)| format!("key {key}")).collect();
        let groups = self.backend.key_groups();
        let operations: Vec<Operation<'_>> = keys
            .iter()
            .zip(ops)
            .map(|(key, (_, op))| Operation {
                state: StateId(1),
                key_group: Some(group_of(groups, key)),
                key: key.as_bytes(),
                namespace: b"",
                op: *op,
            })
            .collect();
        let (result, _) = self.backend.apply_batch(self.backend.epoch(), None, 50, &operations).await?;
        Ok(result.answers.into_iter().filter_map(|(_, answer)| answer).collect())
    }

    pub(crate) async fn read(&self) -> Result<Contents, Error> {
        let gets: Vec<_> = (0..KEYS).map(|key| (key, Op::Get)).collect();
        let answers = self.apply(&gets).await?;
        assert_eq!(answers.len(), gets.len());
        let text = |answer| match answer {
            Answer::Value(value) => value.map(|value| String::from_utf8(value.to_vec()).unwrap()),
            other => panic!("{other:?} to a get"),
        };
        Ok((0..KEYS).zip(answers).filter_map(|(key, answer)| Some((key, text(answer)?))).collect())
    }

    /// Overwrites two keys and clears a third, all in one batch.
    pub(crate) async fn write(&mut self) -> Result<(), Error> {
        self.writes += 1;
        let at = |n: u64| u8::try_from(n % u64::from(KEYS)).unwrap();
        let (first, second, cleared) = (at(self.writes), at(self.writes * 3 + 1), at(self.writes * 5 + 2));
        let value = self.writes.to_string();
        let put = Op::Put(value.as_bytes());
        self.apply(&[(cleared, Op::Clear), (first, put), (second, put)]).await?;
        self.contents.remove(&cleared);
        self.contents.extend([first, second].map(|key| (key, value.clone())));
        Ok(())
    }

    /// Takes a barrier; the reply is noted when it comes.
    pub(crate) fn barrier(&self, id: u64) -> impl Future<Output = Result<(), Error>> + use<> {
        let (backend, story) = (self.backend.clone(), self.story.clone());
        let key = (backend.epoch().number, id);
        {
            let mut story = story.lock();
            // What was restored was complete: with a checkpoint that builds on it, retention by count lets older ones
            // go.
            let beginning = self.restored.filter(|_| self.counts).unwrap_or_default();
            let older: Vec<_> = story.cuts.keys().filter(|key| **key < beginning).copied().collect();
            story.let_go.extend(older);
            story.cuts.insert(key, self.contents.clone());
        }
        let request = BarrierRequest { id, attachment: bytes::Bytes::new(), timeout: None };
        let mut checkpoint = Box::pin(async move { backend.checkpoint(backend.epoch(), request).await });
        // The first poll takes the barrier, before the next write; then it goes on, whoever waits.
        let refused = checkpoint.as_mut().now_or_never();
        let taken = tokio::spawn(async move {
            match refused {
                Some(refused) => refused,
                None => checkpoint.await,
            }
        });
        async move {
            let completed = taken.await.unwrap()?;
            story.lock().replied.insert(key, CheckpointHandle::decode(&completed.handle).unwrap());
            Ok(())
        }
    }

    /// Tells the backend of checkpoint `id` of `epoch`; what that may let go is no longer expected.
    pub(crate) fn notice(&self, kind: NoticeKind, (epoch, id): (u64, u64)) -> Result<(), Error> {
        let mut story = self.story.lock();
        story.completed = story.completed.max(if kind == NoticeKind::Complete { (epoch, id) } else { (0, 0) });
        let completed = story.completed;
        let goes = |key: &(u64, u64)| match kind {
            NoticeKind::Complete => *key < completed,
            NoticeKind::Subsume => key.0 == epoch && key.1 <= id,
            NoticeKind::Abort | NoticeKind::Discard => *key == (epoch, id),
        };
        let goes: Vec<_> = story.cuts.keys().filter(|key| goes(key)).copied().collect();
        self.backend.notice(self.backend.epoch(), kind, NoticeTarget { epoch, id, uuid: None })?;
        story.let_go.extend(goes);
        Ok(())
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.backend.epoch().number
    }
}

pub(crate) async fn head(world: &World) -> Option<Manifest> {
    job::read_heads(&world.store(), &Name::new("job").unwrap(), Retry::none()).await.unwrap().pop()
}

/// Sweeps without grace.
pub(crate) async fn sweep(world: &World) -> SweepReport {
    let options = SweepOptions { grace: Duration::ZERO, now_ms: 0, delete: true };
    collect::sweep(&world.store(), &Name::new("job").unwrap(), &options, Retry::none()).await.unwrap()
}

/// Restores every checkpoint that the head retains, and those that must be among them. Returns the next attempt.
pub(crate) async fn all_restore(world: &World, daemon: &Daemon, story: &Arc<Mutex<Story>>, attempt: u64) -> u64 {
    let head = head(world).await.unwrap();
    let retained: Vec<_> = head.checkpoints.iter().map(|record| record.identity).collect();
    for (key, handle) in story.lock().kept() {
        assert!(retained.contains(&handle.checkpoint), "checkpoint {key:?} was promised, retained are {retained:?}");
    }
    let mut attempt = attempt;
    for identity in retained {
        let handle = CheckpointHandle { backend: head.backend.clone(), checkpoint: identity };
        let engine = Engine::open(daemon, story, attempt, RestoreFrom::Handles(vec![handle])).await.unwrap();
        assert_eq!(engine.restored, Some((identity.epoch, identity.id)));
        attempt += 1;
    }
    attempt
}

/// Closes the backend and sweeps: nothing is left that nothing needs.
pub(crate) async fn nothing_unreferenced_stays(
    world: &World,
    daemon: &Daemon,
    story: &Arc<Mutex<Story>>,
    attempt: u64,
) {
    let latest = RestoreFrom::Latest { or_empty: true };
    let last = match Engine::open(daemon, story, attempt, latest).await {
        Err(error) if error.reason == Reason::CheckpointNotFound => {
            Engine::open(daemon, story, attempt + 1, RestoreFrom::Empty).await.unwrap()
        }
        opened => opened.unwrap(),
    };
    last.backend.close(last.backend.epoch()).await.unwrap();
    sweep(world).await;
    let left = sweep(world).await;
    let unreferenced: Vec<_> = left.findings.iter().filter(|finding| finding.verdict.word() != "live").collect();
    assert!(unreferenced.is_empty(), "{unreferenced:?}");
}
