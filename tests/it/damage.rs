//! Damaged objects: what is damaged is told with what it spoils, and a job falls back only where that is asked for, as
//! one.

use dstl::{
    backend::{OpenSpec, Opened, RestoreFrom},
    checkpoint::{job::JobCheckpoint, ledger::NoticeKind},
    error::{Error, Reason},
    object::Path,
    types::InnerBackend,
};
use object_store::ObjectStoreExt as _;

use crate::{
    support::{Daemon, Settings, Task, World, on_both, spec},
    vanish::{self, NEWEST, copy_without},
};

const LATEST: RestoreFrom = RestoreFrom::Latest { or_empty: false };

#[derive(Debug, Clone, Copy)]
enum How {
    Missing,
    Truncated,
    Flipped,
}

/// `world` as it is now, with the object at `path` damaged.
async fn damaged(world: &World, path: &str, how: How) -> World {
    let copy = copy_without(world, path).await;
    let path = Path::from(path);
    let mut bytes = world.objects.get(&path).await.unwrap().bytes().await.unwrap().to_vec();
    let middle = bytes.len() / 2;
    match how {
        How::Missing => return copy,
        How::Truncated => bytes.truncate(middle),
        How::Flipped => bytes[middle] ^= 4,
    }
    copy.objects.put(&path, bytes.into()).await.unwrap();
    copy
}

async fn open(daemon: &Daemon, subtask: u32, attempt: u64, restore: RestoreFrom) -> Result<Opened, Error> {
    let spec = OpenSpec { restore, fallback: true, ..spec(subtask, 2, attempt) };
    daemon.directory.open(spec, |_| {}).await
}

/// One object of each kind, of the first subtask, by what it is.
fn victims(objects: &[String], inner: InnerBackend) -> Vec<(&'static str, String)> {
    let last = |part: &str| objects.iter().rfind(|path| path.contains(part)).unwrap().clone();
    let piece = if inner == InnerBackend::HashMap { ".pieces" } else { ".sst" };
    let mut victims = vec![
        ("page", last("op/0/index/")),
        ("snapshot file", last(piece)),
        (
            "base index",
            objects.iter().rfind(|path| path.contains("/snapshot/") && path.ends_with(".index")).unwrap().clone(),
        ),
        ("manifest", last("op/0/manifest/")),
    ];
    let segments: Vec<&String> = objects.iter().filter(|path| path.contains("/segments/")).collect();
    victims.extend([0, segments.len() / 2, segments.len() - 1].map(|at| ("segment", segments[at].clone())));
    victims
}

on_both! {
    a_job_falls_back_as_one_to_the_newest_that_is_whole
    what_only_a_restore_finds_is_recorded_and_the_next_attempt_skips_it
    a_task_that_is_alone_falls_back_at_once
    falling_back_from_an_id_never_goes_forward
    a_rescale_tells_of_all_chains_and_falls_back_too
}

async fn a_job_falls_back_as_one_to_the_newest_that_is_whole(inner: InnerBackend) {
    let world = World::new();
    let models = vanish::prepare(&world, inner).await;
    let objects = world.paths("").await;
    let mut fell_back = 0;
    for (kind, victim) in victims(&objects, inner) {
        for how in [How::Missing, How::Truncated, How::Flipped] {
            let label = format!("{kind} `{victim}` {how:?}");
            let mut newest = None;
            for id in 1..=NEWEST {
                let world = damaged(&world, &victim, how).await;
                match vanish::open(&world, inner, RestoreFrom::Id(id)).await {
                    Ok((restored, model)) => {
                        assert_eq!((restored, &model), (id, &models[&id]), "{label}");
                        newest = Some(id);
                    }
                    Err(error) => assert!(error.message.contains(&victim) || kind == "manifest", "{label}: {error}"),
                }
            }
            let world = damaged(&world, &victim, how).await;
            let daemon = Daemon::start(&world, vanish::settings(inner, 99));
            let (first, second) = (open(&daemon, 0, 3, LATEST).await, open(&daemon, 1, 3, LATEST).await);
            match newest {
                None => {
                    let error = first.unwrap_err();
                    assert!(error.message.contains(&victim), "{label}: {error}");
                }
                // The manifest before the newest is one that was: it cannot be told from the truth.
                Some(_) if kind == "manifest" => assert!(matches!(how, How::Missing), "{label}"),
                Some(newest) => {
                    let (first, second) = (first.unwrap(), second.unwrap());
                    assert_eq!(
                        (first.checkpoint.unwrap().id, second.checkpoint.unwrap().id),
                        (newest, newest),
                        "{label}"
                    );
                    let skipped: Vec<u64> = first.skipped.iter().map(|spoilt| spoilt.checkpoint.id).collect();
                    assert_eq!(skipped, (newest + 1..=NEWEST).rev().collect::<Vec<_>>(), "{label}");
                    assert!(first.skipped.iter().all(|spoilt| spoilt.what.contains(&victim)), "{label}");
                    assert_eq!(first.skipped, second.skipped, "{label}");
                    let again = open(&daemon, 0, 3, LATEST).await.unwrap();
                    assert!(again.reconnected && again.skipped == first.skipped, "{label}");
                    fell_back += u32::from(newest < NEWEST);
                }
            }
            daemon.crash();
        }
    }
    assert!(fell_back >= 6, "{fell_back}");
}

/// A job of `parallelism` subtasks with three checkpoints, of which the newest has an object that is large; returns its
/// path.
async fn large(world: &World, inner: InnerBackend, parallelism: u32) -> String {
    let daemon = Daemon::start(world, Settings::on_request(inner, 5));
    let mut tasks: Vec<Task> = vec![];
    for subtask in 0..parallelism {
        tasks.push(daemon.subtask(subtask, parallelism, 1, RestoreFrom::Empty).await.unwrap());
    }
    let mut victim = String::new();
    for id in 1..=3 {
        let before = world.paths("/segments/").await;
        let value = vec![7; if id == 3 { 200_000 } else { 10 }];
        tasks[0].put(id - 1, &[("key", &value)]);
        for task in &mut tasks {
            task.checkpoint(id).await;
            task.notice(NoticeKind::Complete, id);
        }
        victim = world.paths("/segments/").await.into_iter().find(|path| !before.contains(path)).unwrap();
    }
    daemon.crash();
    victim
}

async fn what_only_a_restore_finds_is_recorded_and_the_next_attempt_skips_it(inner: InnerBackend) {
    let world = World::new();
    let victim = large(&world, inner, 2).await;
    let world = damaged(&world, &victim, How::Flipped).await;
    let daemon = Daemon::start(&world, Settings::on_request(inner, 9));
    let second = open(&daemon, 1, 2, LATEST).await.unwrap();
    assert_eq!(second.checkpoint.unwrap().id, 3, "its part is whole, and what is large is not read for it");
    let error = open(&daemon, 0, 2, LATEST).await.unwrap_err();
    assert_eq!(error.reason, Reason::CorruptObject, "{error}");
    for word in [victim.as_str(), "spoils: 3 (epoch 1)", "still restore: 1 (epoch 1), 2 (epoch 1)", "higher attempt"] {
        assert!(error.message.contains(word), "{word}: {error}");
    }
    let described = daemon.directory.describe_job(&second.backend.id().job).await.unwrap();
    let damaged: Vec<u64> = described.damaged.iter().map(|spoilt| spoilt.checkpoint.id).collect();
    assert_eq!(damaged, [3]);
    for (subtask, attempt) in [(1, 3), (0, 3)] {
        let opened = open(&daemon, subtask, attempt, LATEST).await.unwrap();
        assert_eq!(opened.checkpoint.unwrap().id, 2);
        assert_eq!(opened.skipped.iter().map(|s| s.checkpoint.id).collect::<Vec<_>>(), [3]);
    }
    let unasked = daemon.subtask(0, 2, 4, LATEST).await.err().unwrap();
    assert_eq!(unasked.reason, Reason::CorruptObject, "without being asked for, there is no falling back: {unasked}");
}

async fn a_task_that_is_alone_falls_back_at_once(inner: InnerBackend) {
    let world = World::new();
    let victim = large(&world, inner, 1).await;
    let world = damaged(&world, &victim, How::Flipped).await;
    let daemon = Daemon::start(&world, Settings::on_request(inner, 9));
    let opened = daemon.directory.open(OpenSpec { restore: LATEST, fallback: true, ..spec(0, 1, 2) }, |_| {}).await;
    let opened = opened.unwrap();
    assert_eq!(opened.checkpoint.unwrap().id, 2);
    assert_eq!(opened.skipped.len(), 1);
    assert!(opened.skipped[0].what.contains(&victim), "{:?}", opened.skipped);
}

async fn a_rescale_tells_of_all_chains_and_falls_back_too(inner: InnerBackend) {
    let world = World::new();
    let victim = large(&world, inner, 2).await;
    let world = damaged(&world, &victim, How::Truncated).await;
    let daemon = Daemon::start(&world, Settings::on_request(inner, 9));
    let error = daemon.subtask(0, 1, 2, RestoreFrom::Id(3)).await.err().unwrap();
    assert_eq!(error.reason, Reason::CorruptObject, "{error}");
    let own = "of `job/op/0` it spoils: 3 (epoch 1); still restore: 1 (epoch 1), 2 (epoch 1)";
    let other = "of `job/op/1` it spoils: none; still restore: 1 (epoch 1), 2 (epoch 1), 3 (epoch 1)";
    for word in [victim.as_str(), own, other] {
        assert!(error.message.contains(word), "{word}: {error}");
    }
    let rescaled = OpenSpec { restore: RestoreFrom::Id(3), fallback: true, ..spec(0, 1, 3) };
    let opened = daemon.directory.open(rescaled, |_| {}).await.unwrap();
    assert_eq!((opened.checkpoint.unwrap().id, opened.parts.len(), opened.skipped.len()), (2, 2, 1));
}

async fn falling_back_from_an_id_never_goes_forward(inner: InnerBackend) {
    let world = World::new();
    let victim = large(&world, inner, 2).await;
    let first = world.paths("/segments/").await.into_iter().find(|path| *path != victim).unwrap();
    let daemon = Daemon::start(&world, Settings::on_request(inner, 9));
    let opened = open(&daemon, 0, 2, RestoreFrom::Id(2)).await.unwrap();
    assert_eq!((opened.checkpoint.unwrap().id, opened.skipped.len()), (2, 0), "nothing is damaged");
    let lower = open(&daemon, 1, 2, RestoreFrom::Id(1)).await.unwrap_err();
    assert_eq!(lower.reason, Reason::InvalidArgument, "the job chose 2: {lower}");
    assert_eq!(open(&daemon, 1, 2, RestoreFrom::Id(3)).await.unwrap().checkpoint.unwrap().id, 2, "as the others");
    let unknown = open(&daemon, 0, 3, RestoreFrom::Id(9)).await.unwrap_err();
    assert_eq!(unknown.reason, Reason::CheckpointNotFound, "{unknown}");
    daemon.crash();
    let world = damaged(&world, &first, How::Missing).await;
    let daemon = Daemon::start(&world, Settings::on_request(inner, 19));
    let error = open(&daemon, 0, 4, RestoreFrom::Id(2)).await.unwrap_err();
    assert_eq!(error.reason, Reason::CorruptObject, "all build on the first segment: {error}");
    assert!(error.message.contains(&first), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_view_tells_what_each_operator_and_the_job_can_restore() {
    let world = World::new();
    let daemon = Daemon::start(&world, Settings::on_request(InnerBackend::HashMap, 3));
    let mut tasks = vec![];
    for subtask in 0..2 {
        tasks.push(daemon.subtask(subtask, 2, 1, RestoreFrom::Empty).await.unwrap());
    }
    let other = OpenSpec {
        id: dstl::types::BackendId { operator: dstl::types::Name::new("sink").unwrap(), ..spec(0, 1, 1).id },
        ..spec(0, 1, 1)
    };
    let opened = daemon.directory.open(other, |_| {}).await.unwrap();
    let session = dstl::backend::Session::start(opened.backend.clone(), opened.backend.epoch()).unwrap();
    tasks.push(Task { opened, session });
    let job = spec(0, 1, 1).id.job;
    assert_eq!(daemon.directory.describe_job(&job).await.unwrap().view.consistent, []);
    for (task, ids) in [(0, vec![1, 2, 3, 4]), (1, vec![1, 3, 4]), (2, vec![1, 2, 3])] {
        for id in ids {
            tasks[task].checkpoint(id).await;
        }
    }
    let view = daemon.directory.describe_job(&job).await.unwrap().view;
    let checkpoint = |id| JobCheckpoint { attempt: 1, id };
    assert_eq!(view.consistent, [1, 3].map(checkpoint));
    let restorable = |operator: &str| -> Vec<(u64, bool, Vec<u32>)> {
        let found = &view.operators[&dstl::types::Name::new(operator).unwrap()];
        found.iter().map(|c| (c.checkpoint.id, c.is_whole, c.missing().collect())).collect()
    };
    let op = [(1, true, vec![]), (2, false, vec![1]), (3, true, vec![]), (4, true, vec![])];
    assert_eq!(restorable("op"), op);
    assert_eq!(restorable("sink"), [1, 2, 3].map(|id| (id, true, vec![])));
    let nothing = daemon.directory.describe_job(&dstl::types::Name::new("unknown").unwrap()).await.unwrap();
    assert!(nothing.view.operators.is_empty() && nothing.damaged.is_empty());
}
