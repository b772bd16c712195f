//! Claims and clones of whole generations: with operator state and rescaling, with and without a changelog, with inline
//! tails.

use dstl::{
    backend::ClaimMode,
    checkpoint::{
        collect::{Live, Verdict},
        discard::Discard,
        ledger::{NoticeTarget, Retention},
    },
    object::Path,
};

use super::*;

/// How both sides work.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    pub(super) inner: InnerBackend,
    pub(super) changelog: bool,
    /// Short tails lie in manifests.
    pub(super) inline: bool,
    /// Subtasks of the source, and of who restores it.
    pub(super) parallelism: (u32, u32),
}

impl Way {
    fn all(inner: InnerBackend) -> Vec<Self> {
        let modes = [(true, false), (true, true), (false, false)];
        let both = modes.into_iter().flat_map(|mode| [(1, 1), (2, 3), (3, 2)].map(|parallelism| (mode, parallelism)));
        // Local stores take long to open.
        let step = if inner == InnerBackend::RocksDb { 4 } else { 1 };
        both.step_by(step)
            .map(|((changelog, inline), parallelism)| Self { inner, changelog, inline, parallelism })
            .collect()
    }

    pub(super) fn start(self, world: &World, seed: u64) -> Daemon {
        let mut settings = settings(self.inner, seed);
        settings.options.retention = Retention::Count(1);
        settings.options.notice_delay = Duration::ZERO;
        settings.options.changelog = self.changelog;
        settings.options.data_inline_threshold = if self.inline { 16 << 10 } else { 0 };
        Daemon::start(world, settings)
    }
}

/// A source at attempt 1 with checkpoint 1, in bases and logs.
pub(super) async fn source(daemon: &Daemon, way: Way) -> Fleet {
    let parallelism = way.parallelism.0;
    let mut fleet = Fleet::open(daemon, (parallelism, 1), &RestoreFrom::Empty, (&Model::default(), 3)).await;
    fleet.write(120);
    if way.changelog {
        fleet.materialize().await;
        fleet.write(20);
    }
    fleet.checkpoint(1).await;
    fleet
}

/// Opens the subtasks of `job` one by one, with a sweep of the source after each.
pub(super) async fn restored(
    world: &World,
    daemon: &Daemon,
    (job, attempt, claim): (&str, u64, Option<ClaimMode>),
    (way, from, model): (Way, &RestoreFrom, &Model),
) -> Fleet {
    let (mut subtasks, parallelism) = (vec![], way.parallelism.1);
    for subtask in 0..parallelism {
        let plain = spec(subtask, parallelism, attempt);
        let id = BackendId { job: Name::new(job).unwrap(), ..plain.id.clone() };
        let spec = OpenSpec { id, restore: from.clone(), claim, ..plain };
        subtasks.push(Subtask::open(daemon, spec).await.unwrap());
        sweep(world).await;
    }
    let model = model.redistributed(parallelism as usize);
    Fleet { subtasks, model, random: Random::seeded(9), handles: vec![] }
}

/// Checkpoint `id` of a fleet that claimed nothing: it needs nothing of what it restored.
async fn sustained(fleet: &mut Fleet, id: u64) {
    fleet.checkpoint(id).await;
    for subtask in &fleet.subtasks {
        let backend = &subtask.task.opened.backend;
        assert_eq!(backend.describe().self_sustained_since, id);
        let manifest = backend.outline().manifest;
        let contents = manifest.contents(manifest.checkpoints.iter().find(|r| r.identity.id == id).unwrap());
        let epoch = backend.epoch().number;
        assert!(contents.imports.is_empty() && contents.sources.iter().all(|source| source.epoch == epoch));
        assert_eq!(manifest.materialization(contents.base.unwrap()).unwrap().from.epoch(), epoch);
    }
}

fn target(handle: &CheckpointHandle) -> NoticeTarget {
    let identity = handle.checkpoint;
    NoticeTarget { epoch: identity.epoch, id: identity.id, uuid: Some(identity.uuid) }
}

async fn clones(inner: InnerBackend) {
    for way in Way::all(inner) {
        let world = World::new();
        let (one, two) = (way.start(&world, 1), way.start(&world, 100));
        let mut running = source(&one, way).await;
        let (model, handles) = (running.model.clone(), running.handles.clone());
        for (subtask, handle) in running.subtasks.iter().zip(&handles) {
            let backend = &subtask.task.opened.backend;
            backend.pin(backend.epoch(), target(handle)).await.unwrap();
        }
        for id in [2, 3] {
            running.write(60);
            running.checkpoint(id).await;
        }
        let from = RestoreFrom::Handles(handles.clone());
        let mut clone = restored(&world, &two, ("other", 1, None), (way, &from, &model)).await;
        clone.check();
        for (subtask, handle) in running.subtasks.iter().zip(&handles) {
            let backend = &subtask.task.opened.backend;
            backend.release(backend.epoch(), target(handle)).unwrap();
        }
        // Nobody has noticed anything.
        running.write(60);
        running.checkpoint(4).await;
        running.check();
        sweep(&world).await;
        clone.write(60);
        sustained(&mut clone, 1).await;
        one.directory.close_all().await;
        one.directory.discard(&Discard::Job(Name::new("job").unwrap()), false).await.unwrap();
        let left = world.paths("").await.into_iter().filter(|path| path.starts_with("job/"));
        // Those say that the job is gone.
        let tells = |path: &String| ["/manifest/", "/retired/", "job/job/"].iter().any(|part| path.contains(part));
        let left: Vec<_> = left.filter(|path| !tells(path)).collect();
        assert_eq!(left, Vec::<String>::new(), "{way:?}");
        let model = clone.model.clone();
        two.crash();
        let three = way.start(&world, 200);
        for (attempt, parallelism) in [(2, way.parallelism.1), (3, 4)] {
            let again = Way { parallelism: (0, parallelism), ..way };
            restored(&world, &three, ("other", attempt, None), (again, &LATEST, &model)).await.check();
        }
    }
}

/// What is named of the source, but for its manifests.
async fn named(world: &World) -> Vec<Path> {
    let findings = sweep(world).await.findings.into_iter();
    findings.filter(|f| matches!(f.verdict, Verdict::Live(Live::Named(_)))).map(|f| f.meta.path).collect()
}

async fn all_there(world: &World, named: &[Path]) -> bool {
    let there = world.paths("").await;
    named.iter().all(|path| there.contains(&path.to_string()))
}

async fn without_a_claim(inner: InnerBackend) {
    for (way, turn) in Way::all(inner).into_iter().zip([0, 1, 2].into_iter().cycle()) {
        let world = World::new();
        let one = way.start(&world, 1);
        let fleet = source(&one, way).await;
        let (model, handles, from) = (fleet.model.clone(), fleet.handles.clone(), restore(turn, 1, &fleet));
        one.crash();
        let before = named(&world).await;
        assert!(!before.is_empty() || way.inline);
        let two = way.start(&world, 100);
        let claimed = ("job", 2, Some(ClaimMode::NoClaim));
        let mut fleet = restored(&world, &two, claimed, (way, &from, &model)).await;
        fleet.check();
        assert!(all_there(&world, &before).await, "{way:?}");
        for id in 2..5 {
            fleet.write(60);
            if id == 2 {
                sustained(&mut fleet, id).await;
            } else {
                fleet.checkpoint(id).await;
            }
            sweep(&world).await;
            assert!(all_there(&world, &before).await, "{way:?}: after checkpoint {id}");
        }
        let newest = fleet.model.clone();
        two.crash();
        let three = way.start(&world, 200);
        // What was restored is still there for whoever asks, whatever became of its subtasks.
        let old = Way { parallelism: (0, way.parallelism.0), ..way };
        let by_handles = RestoreFrom::Handles(handles.clone());
        let mut clone = restored(&world, &three, ("other", 1, None), (old, &by_handles, &model)).await;
        clone.check();
        for handle in &handles {
            let discard = Discard::Checkpoint(handle.backend.clone(), target(handle));
            assert!(three.directory.discard(&discard, false).await.is_err(), "it is pinned");
            assert_eq!(three.directory.discard(&discard, true).await.unwrap().checkpoints, 1);
        }
        sweep(&world).await;
        sweep(&world).await;
        let left = world.paths("").await;
        let left: Vec<_> = before.iter().filter(|path| left.contains(&path.to_string())).collect();
        assert!(left.is_empty(), "{way:?}: nothing else needed {left:?}");
        let last = Way { parallelism: (0, 4), ..way };
        restored(&world, &three, ("job", 3, None), (last, &LATEST, &newest)).await.check();
    }
}

on_both! {
    a_clone_has_all_shares_and_outlives_its_source: super::clones;
    without_a_claim_a_generation_needs_nothing_of_the_one_before_and_deletes_nothing_of_it: super::without_a_claim;
}
