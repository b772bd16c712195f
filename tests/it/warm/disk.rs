//! Warm restarts of RocksDB: from images that are linked, and copies of the log.

use std::{
    fs,
    path::{Path as FilePath, PathBuf},
    time::Duration,
};

use dstl::object::{Copies, CopyOptions, CopyScope};

use super::*;
use crate::picky::Refused;

const ROCKS: InnerBackend = InnerBackend::RocksDb;

/// Folders of images on local disk; those of databases are left out.
pub(super) fn images(world: &World) -> Vec<PathBuf> {
    let of_daemons = children(world.disk.path());
    let folders = of_daemons.iter().filter(|path| path.join("LOCK").exists()).flat_map(|path| children(path));
    folders.filter(|path| children(path).iter().any(|file| is_manifest(file))).collect()
}

fn is_manifest(file: &FilePath) -> bool {
    file.file_name().unwrap().to_str().unwrap().starts_with("MANIFEST-")
}

fn children(folder: &FilePath) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

async fn materialize(task: &Task) {
    let backend = &task.opened.backend;
    backend.materialize(backend.epoch()).await.unwrap();
}

async fn settle() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// A task with a base and a log after it, whose index has pages, and what it has at its newest checkpoint.
async fn prepare(daemon: &Daemon) -> (Task, Vec<(u32, Option<Answer>)>) {
    let random = Random::seeded(3);
    let mut task = daemon.task(1, RestoreFrom::Empty).await.unwrap();
    register(&task);
    for _ in 0..200 {
        write(&mut task, &random);
    }
    materialize(&task).await;
    for id in 1..=140 {
        write(&mut task, &random);
        task.checkpoint(id).await;
        task.notice(NoticeKind::Complete, id);
    }
    let last = everything(&mut task);
    write(&mut task, &random);
    (task, last)
}

#[tokio::test(start_paused = true)]
async fn nothing_but_manifests_and_records_of_the_job_is_read_from_the_store() {
    let refused = Refused::default();
    let world = refused.by(World::new());
    let daemon = Daemon::start(&world, settings(ROCKS, 1));
    let (task, last) = prepare(&daemon).await;
    drop(task);
    for attempt in 2..5 {
        refused.take_reads();
        let mut task = daemon.task(attempt, LATEST).await.unwrap();
        let read = refused.take_reads();
        assert!(task.opened.warm, "{}", task.opened.not_warm);
        let is_record = |path: &String| path.contains("/manifest/") || path.contains("/job/");
        assert!(read.len() <= 5 && read.iter().all(is_record), "{read:?}");
        assert!(task.opened.restored.changes >= 140 && task.opened.restored.bytes_done > 0);
        assert_eq!(task.opened.restored.bytes_done, task.opened.restored.bytes_total);
        register(&task);
        assert_eq!(everything(&mut task), last);
        put(&mut task, "key 1", b"lost");
    }
    assert_eq!(value(&daemon, "dstl_restore_warm_total"), 3);
}

#[tokio::test(start_paused = true)]
async fn writers_record_nothing_that_they_overwrite() {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(ROCKS, 1));
    let (mut task, _) = prepare(&daemon).await;
    put(&mut task, "key 1", b"1");
    assert_eq!(value(&daemon, "dstl_undo_bytes"), 0);
    assert!(!images(&world).is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_image_that_is_gone_or_cut_off_is_downloaded_and_open_says_so() {
    for cut_off in [false, true] {
        let world = World::new();
        let daemon = Daemon::start(&world, settings(ROCKS, 1));
        let (task, last) = prepare(&daemon).await;
        drop(task);
        let files = images(&world).iter().flat_map(|image| children(image)).collect::<Vec<_>>();
        for file in files.iter().filter(|file| is_manifest(file)) {
            // Tables are links to those of the database.
            if cut_off { fs::write(file, "1").unwrap() } else { fs::remove_file(file).unwrap() }
        }
        let mut task = daemon.task(2, LATEST).await.unwrap();
        let why = task.opened.not_warm.clone();
        assert!(!task.opened.warm && why.contains("went to the store") && why.contains("/snapshot/"), "{why}");
        register(&task);
        assert_eq!(everything(&mut task), last);
        // What was downloaded is kept.
        let mut task = come_back(&world, &daemon, task, LATEST).await;
        assert_eq!(everything(&mut task), last);
    }
}

#[tokio::test(start_paused = true)]
async fn a_local_image_that_does_not_open_is_replaced_from_the_store() {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(ROCKS, 1));
    let (task, last) = prepare(&daemon).await;
    drop(task);
    for file in images(&world).iter().flat_map(|image| children(image)).filter(|file| is_manifest(file)) {
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, vec![7; bytes.len()]).unwrap();
    }
    let mut task = daemon.task(2, LATEST).await.unwrap();
    let why = task.opened.not_warm.clone();
    assert!(!task.opened.warm && why.contains("restoring from local disk"), "{why}");
    register(&task);
    assert_eq!(everything(&mut task), last);
    // Indexes and the log were read without being copied, but nothing of the images is read again.
    drop(task);
    let mut task = daemon.task(3, LATEST).await.unwrap();
    register(&task);
    assert_eq!(everything(&mut task), last);
}

#[tokio::test(start_paused = true)]
async fn images_and_copies_go_with_the_checkpoints_that_need_them() {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(ROCKS, 1));
    let copies = daemon.directory.environment().store.copies().unwrap().clone();
    let mut task = daemon.task(1, RestoreFrom::Empty).await.unwrap();
    register(&task);
    let mut kept = vec![];
    for id in 1..=6 {
        for key in 0..KEYS {
            put(&mut task, &format!("key {key}"), &[id as u8; 100]);
        }
        materialize(&task).await;
        task.checkpoint(id).await;
        if id > 3 {
            task.notice(NoticeKind::Complete, id);
        }
        settle().await;
        kept.push((images(&world).len(), copies.paths().len()));
    }
    // Parts that did not change have the images that they had.
    assert!(kept[0].0 < kept[1].0 && kept[1].0 < kept[2].0, "{kept:?}");
    assert!(kept[3..].iter().all(|(images, _)| *images == kept[0].0), "{kept:?}");
    assert!(kept[5].1 <= kept[3].1 && kept[3].1 < kept[2].1, "{kept:?}");
    assert!(copies.paths().iter().all(|path| !path.as_ref().ends_with(".sst")), "tables are linked, not copied");
}

#[tokio::test(start_paused = true)]
async fn where_images_cannot_be_taken_no_checkpoint_fails() {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(ROCKS, 1));
    let (mut task, _) = prepare(&daemon).await;
    // Nobody can make a folder where a file is, not even root.
    let home = children(world.disk.path()).into_iter().find(|path| path.join("LOCK").exists()).unwrap();
    let full: Vec<_> = (0..1_000).map(|number| home.join(number.to_string())).filter(|path| !path.exists()).collect();
    full.iter().for_each(|path| fs::write(path, "").unwrap());
    let backend = task.opened.backend.clone();
    backend.materialize(backend.epoch()).await.unwrap_err();
    put(&mut task, "key 1", b"2");
    task.checkpoint(200).await;
    task.notice(NoticeKind::Complete, 200);
    let last = everything(&mut task);
    full.iter().for_each(|path| fs::remove_file(path).unwrap());
    let mut task = come_back(&world, &daemon, task, LATEST).await;
    assert_eq!(everything(&mut task), last);
}

/// A daemon whose copies have no more room than `max_bytes`.
fn with_room(world: &World, seed: u64, max_bytes: u64) -> Daemon {
    let folders = vec![world.disk.path().join(format!("copies of {seed}"))];
    let idle_timeout = Duration::from_secs(600);
    let options = CopyOptions { folders, write: CopyScope::Wanted, read: false, max_bytes, idle_timeout };
    Daemon::start_with_copies(world, settings(ROCKS, seed), |metrics| Some(Copies::open(options, metrics).unwrap()))
}

#[tokio::test(start_paused = true)]
async fn beyond_the_room_for_copies_the_store_is_read_and_open_says_so() {
    let world = World::new();
    let daemon = with_room(&world, 1, 2_000);
    let (task, last) = prepare(&daemon).await;
    settle().await;
    drop(task);
    let mut task = daemon.task(2, LATEST).await.unwrap();
    let why = task.opened.not_warm.clone();
    assert!(!task.opened.warm && why.contains("went to the store") && !why.contains(".sst"), "{why}");
    register(&task);
    assert_eq!(everything(&mut task), last);
}

#[tokio::test(start_paused = true)]
async fn backends_in_memory_have_nothing_copied() {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(InnerBackend::HashMap, 1));
    let copies = daemon.directory.environment().store.copies().unwrap().clone();
    let (task, _) = prepare(&daemon).await;
    settle().await;
    assert!(copies.paths().is_empty());
    drop(task);
}
