//! Backends that begin with a savepoint.

use std::collections::BTreeSet;

use bytes::Bytes;
use dstl::{
    backend::{ClaimMode, OpenSpec},
    error::Reason,
    object::{PutPayload, Retry},
    types::InnerBackend,
};

use super::{Subtask, copy, create, expected, from, id, job, rows};
use crate::support::{Daemon, Settings, World, on_both, spec};

on_both! {
    it_restores_into_the_other_inner_backend_at_any_parallelism_in_another_store_as_another_job
    without_changelog_its_first_checkpoint_has_all_of_it
    it_may_be_removed_once_all_subtasks_are_open
    what_is_damaged_or_missing_is_named_and_nothing_is_restored
}

pub(super) fn other(inner: InnerBackend) -> InnerBackend {
    match inner {
        InnerBackend::HashMap => InnerBackend::RocksDb,
        InnerBackend::RocksDb => InnerBackend::HashMap,
    }
}

/// The rows without those of operator state, which is another subtask's after a rescale.
pub(super) fn keyed(rows: impl IntoIterator<Item = String>) -> BTreeSet<String> {
    rows.into_iter().filter(|row| !row.contains("Subtask(")).collect()
}

/// What operator state there is, whose it is aside, without the copies that union and broadcast make.
pub(super) fn operator(rows: impl IntoIterator<Item = String>) -> BTreeSet<String> {
    let values = rows.into_iter().filter(|row| row.contains("Subtask("));
    values.map(|row| row[row.rfind('[').unwrap()..].to_owned()).collect()
}

async fn it_restores_into_the_other_inner_backend_at_any_parallelism_in_another_store_as_another_job(
    inner: InnerBackend,
) {
    let world = World::new();
    let (daemon, _subtasks) = job(&world, inner).await;
    create(&world, &daemon, "job", "s", 64 << 20).await.unwrap();
    for parallelism in [1, 2, 3] {
        let elsewhere = World::new();
        let moved = copy(&world, &id("job", "s"), &elsewhere, "job").await;
        let daemon = Daemon::start(&elsewhere, Settings::on_request(other(inner), 50));
        let mut subtasks = vec![];
        for subtask in 0..parallelism {
            let spec = OpenSpec { restore: from(&moved), assignment: None, ..spec(subtask, parallelism, 1) };
            let opened = Subtask::open(&daemon, spec).await;
            let checkpoint = opened.task.opened.checkpoint.unwrap();
            assert_eq!(checkpoint.id, 1);
            assert!(opened.task.opened.parts.iter().all(|part| part.attachment == "at 1" && part.time >= 1_000));
            subtasks.push(opened);
        }
        for subtask in &mut subtasks {
            subtask.task.checkpoint(5).await;
        }
        create(&elsewhere, &daemon, "job", "again", 64 << 20).await.unwrap();
        let restored = rows(&elsewhere, &id("job", "again")).await;
        assert_eq!(keyed(restored.clone()), keyed(expected()), "parallelism {parallelism}");
        assert_eq!(operator(restored.clone()), operator(expected()), "parallelism {parallelism}");
        let split = restored.iter().filter(|row| row.contains("\"split\"")).count();
        assert_eq!(split, 6, "no element is lost or there twice");
        let union = restored.iter().filter(|row| row.contains("\"union\"")).count();
        assert_eq!(union, 2 * parallelism as usize);
    }
}

async fn without_changelog_its_first_checkpoint_has_all_of_it(inner: InnerBackend) {
    let world = World::new();
    let (daemon, _subtasks) = job(&world, inner).await;
    create(&world, &daemon, "job", "s", 64 << 20).await.unwrap();
    let elsewhere = World::new();
    let moved = copy(&world, &id("job", "s"), &elsewhere, "renamed").await;
    let daemon = Daemon::start(&elsewhere, Settings::on_request(inner, 50));
    let spec = OpenSpec { restore: from(&moved), assignment: None, changelog: Some(false), ..spec(0, 1, 1) };
    let mut subtask = Subtask::open(&daemon, spec).await;
    subtask.task.checkpoint(1).await;
    create(&elsewhere, &daemon, "job", "again", 64 << 20).await.unwrap();
    assert_eq!(keyed(rows(&elsewhere, &id("job", "again")).await), keyed(expected()));
}

async fn it_may_be_removed_once_all_subtasks_are_open(inner: InnerBackend) {
    let world = World::new();
    let (daemon, _subtasks) = job(&world, inner).await;
    create(&world, &daemon, "job", "s", 64 << 20).await.unwrap();
    let elsewhere = World::new();
    let moved = copy(&world, &id("job", "s"), &elsewhere, "job").await;
    let daemon = Daemon::start(&elsewhere, Settings::on_request(inner, 50));
    let spec = |attempt| OpenSpec { assignment: None, ..spec(0, 1, attempt) };
    let mut subtask = Subtask::open(&daemon, OpenSpec { restore: from(&moved), ..spec(1) }).await;
    let store = elsewhere.store();
    let objects = store.list(&moved.folder(), Retry::none()).await.unwrap();
    store.delete_all(objects.into_iter().map(|object| object.path).collect(), Retry::none()).await.unwrap();
    subtask.task.checkpoint(9).await;
    daemon.crash();
    let daemon = Daemon::start(&elsewhere, Settings::on_request(inner, 60));
    let restore = dstl::backend::RestoreFrom::Id(9);
    let mut subtask = Subtask::open(&daemon, OpenSpec { restore, ..spec(2) }).await;
    subtask.task.checkpoint(10).await;
    create(&elsewhere, &daemon, "job", "again", 64 << 20).await.unwrap();
    assert_eq!(keyed(rows(&elsewhere, &id("job", "again")).await), keyed(expected()));
}

async fn what_is_damaged_or_missing_is_named_and_nothing_is_restored(inner: InnerBackend) {
    let world = World::new();
    let (daemon, _subtasks) = job(&world, inner).await;
    create(&world, &daemon, "job", "s", 64 << 20).await.unwrap();
    let refused = async |world: &World, spec: OpenSpec, reason, word: &str| {
        let daemon = Daemon::start(world, Settings::on_request(inner, 50));
        let error = daemon.directory.open(spec, |_| {}).await.unwrap_err();
        assert_eq!(error.reason, reason, "{}", error.message);
        assert!(error.message.contains(word), "{}", error.message);
    };
    let plain = || OpenSpec { restore: from(&id("job", "s")), assignment: None, ..spec(0, 1, 9) };
    let files: Vec<String> = world.paths("savepoints/s").await;
    for damage in ["byte", "cut", "gone"] {
        for file in &files {
            let elsewhere = World::new();
            copy(&world, &id("job", "s"), &elsewhere, "job").await;
            let (store, path) = (elsewhere.store(), file.as_str().into());
            let mut bytes: Vec<u8> = store.get(&path, Retry::none()).await.unwrap().into();
            store.delete(&path, Retry::none()).await.unwrap();
            match damage {
                "byte" if file.ends_with(".json") => {
                    let before = b"\"time_ms\": ";
                    let at = bytes.windows(before.len()).position(|found| found == before).unwrap() + before.len();
                    bytes[at] = if bytes[at] == b'1' { b'2' } else { b'1' };
                }
                "byte" => bytes[100] ^= 1,
                _ => bytes.truncate(bytes.len() - 30),
            }
            if damage != "gone" {
                store.create(&path, PutPayload::from_bytes(Bytes::from(bytes)), Retry::none()).await.unwrap();
            }
            let reason = match (damage, file.ends_with(".json")) {
                ("gone", true) => Reason::CheckpointNotFound,
                ("gone", false) => Reason::MissingObject,
                _ => Reason::CorruptObject,
            };
            let word = if damage == "gone" && file.ends_with(".json") { "job/savepoints/s" } else { file };
            refused(&elsewhere, plain(), reason, word).await;
        }
    }
    refused(&world, OpenSpec { restore: from(&id("job", "none")), ..plain() }, Reason::CheckpointNotFound, "none")
        .await;
    let mut foreign = plain();
    foreign.id.operator = super::name("other");
    refused(&world, foreign, Reason::CheckpointNotFound, "it has: op").await;
    let claimed = OpenSpec { claim: Some(ClaimMode::Claim), ..plain() };
    refused(&world, claimed, Reason::InvalidArgument, "cannot be claimed").await;
    let cut = OpenSpec { max_parallelism: Some(64), ..plain() };
    refused(&world, cut, Reason::BackendMismatch, "max parallelism").await;
}
