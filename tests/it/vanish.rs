//! A store whose objects vanish one by one: each restore is exact or refused with the name of what is missing.

use std::{collections::BTreeMap, time::Duration};

use dstl::{
    backend::{BackendOptions, RestoreFrom},
    checkpoint::ledger::{NoticeKind, Retention},
    error::{Error, Reason},
    object::Path,
    types::InnerBackend,
};
use object_store::ObjectStoreExt as _;

use crate::support::{Daemon, Settings, Task, World};

const LATEST: RestoreFrom = RestoreFrom::Latest { or_empty: true };

/// The newest checkpoint.
pub(crate) const NEWEST: u64 = 5;

/// Longer than any answer may take.
const HANG: Duration = Duration::from_secs(3600);

pub(crate) type Model = BTreeMap<String, Vec<u8>>;

pub(crate) fn settings(inner: InnerBackend, seed: u64) -> Settings {
    let settings = Settings::on_request(inner, seed);
    let options = BackendOptions {
        retention: Retention::Count(10),
        // Every batch is a segment, so that the log index gets pages.
        preemptive_persist_threshold: 1,
        ..settings.options
    };
    Settings { options, ..settings }
}

/// Two subtasks with 5 checkpoints each: 1 and 2 of the log alone, 3 after a takeover, 4 and 5 on a materialization.
/// Returns what the first subtask had at each.
pub(crate) async fn prepare(world: &World, inner: InnerBackend) -> BTreeMap<u64, Model> {
    let (mut model, mut models) = (Model::new(), BTreeMap::new());
    for attempt in 1..=2 {
        let daemon = Daemon::start(world, settings(inner, attempt * 10));
        let mut tasks = vec![];
        for subtask in 0..2 {
            tasks.push(daemon.subtask(subtask, 2, attempt, LATEST).await.unwrap());
        }
        let mut number = 0;
        for id in if attempt == 1 { 1..=2 } else { 3..=NEWEST } {
            let batches = if id == 2 { 140 } else { 3 };
            for batch in 0..batches {
                let (key, value) = (format!("key {}", batch % 30), format!("{batch} before {id}").into_bytes());
                tasks[0].put(number, &[(&key, &value)]);
                model.insert(key, value);
                number += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            if id == 4 {
                let backend = tasks[0].opened.backend.clone();
                backend.materialize(backend.epoch()).await.unwrap();
            }
            for task in &mut tasks {
                task.checkpoint(id).await;
                task.notice(NoticeKind::Complete, id);
            }
            models.insert(id, model.clone());
        }
        daemon.crash();
    }
    models
}

/// `world` as it is now, without the object at `path`.
pub(crate) async fn copy_without(world: &World, path: &str) -> World {
    let copy = World::new();
    for kept in world.paths("").await.iter().filter(|kept| *kept != path) {
        let kept = Path::from(kept.as_str());
        let bytes = world.objects.get(&kept).await.unwrap().bytes().await.unwrap();
        copy.objects.put(&kept, bytes.into()).await.unwrap();
    }
    copy
}

/// Opens the first subtask and returns its checkpoint's id and all that it has.
pub(crate) async fn open(world: &World, inner: InnerBackend, restore: RestoreFrom) -> Result<(u64, Model), Error> {
    let daemon = Daemon::start(world, settings(inner, 77));
    let opened = tokio::time::timeout(HANG, daemon.subtask(0, 2, 3, restore)).await.expect("it does not hang");
    let mut task: Task = opened?;
    let entries = task.opened.backend.describe().states[0].entries;
    let mut model = Model::new();
    for key in (0..40).map(|key| format!("key {key}")) {
        let number = task.session.acknowledgement().0.applied_to;
        model.extend(task.get(number, &key).map(|value| (key, value)));
    }
    assert_eq!(entries, model.len() as u64);
    let id = task.opened.checkpoint.expect("it does not begin empty").id;
    daemon.crash();
    Ok((id, model))
}

/// The ids in `message` after `words`.
fn ids(message: &str, words: &str) -> Vec<u64> {
    let Some((_, rest)) = message.split_once(words) else { panic!("`{words}` is not in {message}") };
    let list = rest.split(';').next().unwrap();
    list.split(", ")
        .filter(|id| *id != "none")
        .map(|id| id.split_whitespace().next().unwrap().parse().unwrap())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn what_vanishes_is_named_with_what_it_spoils_or_does_not_matter() {
    vanish(InnerBackend::HashMap, &[".pieces"], |_| true).await;
}

/// Only what is different from the hash map: the files of images.
#[tokio::test(start_paused = true)]
async fn so_it_is_of_state_on_disk() {
    vanish(InnerBackend::RocksDb, &[".sst", ".manifest"], |path| path.contains("/snapshot/")).await;
}

/// Takes away, one by one, the objects that `chosen` chooses.
async fn vanish(inner: InnerBackend, snapshots: &[&str], chosen: impl Fn(&str) -> bool) {
    let world = World::new();
    let models = prepare(&world, inner).await;
    let objects = world.paths("").await;
    for part in ["segments", "manifest", "/index/", ".index", "job/job"].iter().chain(snapshots) {
        assert!(objects.iter().any(|path| path.contains(part)), "no {part} in {objects:?}");
    }
    let heads: Vec<_> = [0, 1].map(|subtask| head_of(&objects, subtask)).into();
    let (mut exact, mut refused) = (0, 0);
    for victim in objects.iter().filter(|path| chosen(path)) {
        let mut answers = BTreeMap::new();
        for id in 1..=NEWEST {
            let answer = open(&copy_without(&world, victim).await, inner, RestoreFrom::Id(id)).await;
            if let Ok((restored, model)) = &answer {
                assert_eq!((*restored, model), (id, &models[&id]), "without {victim}");
            }
            answers.insert(id, answer.map(|_| ()));
        }
        let is_head = heads.contains(victim);
        let latest = open(&copy_without(&world, victim).await, inner, RestoreFrom::Latest { or_empty: false }).await;
        if let Ok((id, model)) = &latest {
            assert_eq!(model, &models[id], "latest without {victim}");
            assert!(*id == NEWEST || is_head, "{id} is not the latest; without {victim}");
        }
        for error in answers.values().chain([&latest.map(|_| ())]).filter_map(|answer| answer.as_ref().err()) {
            check_refusal(victim, is_head, error, &answers);
            refused += 1;
        }
        exact += answers.values().filter(|answer| answer.is_ok()).count();
    }
    let least = if inner == InnerBackend::HashMap { 300 } else { 5 };
    assert!(exact > least && refused > least, "{exact} exact, {refused} refused");
}

/// Path of the newest manifest of a subtask.
fn head_of(objects: &[String], subtask: u32) -> String {
    let chain = format!("job/operators/op/{subtask}/manifest/");
    objects.iter().rfind(|path| path.starts_with(&chain)).unwrap().clone()
}

/// Asserts that `error` names what is missing, and that what it says of the other checkpoints is what they answered.
fn check_refusal(victim: &str, is_head: bool, error: &Error, answers: &BTreeMap<u64, Result<(), Error>>) {
    let restores = |id: &u64| answers[id].is_ok();
    match error.reason {
        Reason::MissingObject => {
            assert!(error.message.contains(victim), "{error}");
            let (spoilt, whole) = (ids(&error.message, "spoils: "), ids(&error.message, "still restore: "));
            assert!(!spoilt.iter().any(restores) && whole.iter().all(restores), "{error}");
            assert_eq!(spoilt.len() + whole.len(), answers.len(), "{error}");
        }
        // The newest manifest named it. What the one before it says cannot be told from the truth, and is exact.
        Reason::CheckpointNotFound if is_head => {
            assert!(ids(&error.message, "retained are: ").iter().all(restores), "{error}");
        }
        _ => panic!("without {victim}: {error}"),
    }
}
