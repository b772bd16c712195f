//! Restores from local copies: what they spare the store, and that nothing depends on them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path as FilePath, PathBuf},
    time::Duration,
};

use dstl::{
    backend::RestoreFrom,
    checkpoint::{damage, ledger::NoticeKind},
    metrics::Metrics,
    object::{Copies, CopyOptions, CopyScope, Path, Retry},
    types::InnerBackend,
};
use tokio::time::sleep;

use crate::{
    picky::Refused,
    support::{Daemon, Settings, Task, World, on_both},
};

const LATEST: RestoreFrom = RestoreFrom::Latest { or_empty: true };

const IDLE: Duration = Duration::from_secs(600);

on_both! {
    after_a_restart_a_restore_reads_nothing_but_manifests_from_the_store
    a_damaged_copy_is_deleted_and_the_store_read_instead
    a_copy_that_cannot_be_made_fails_no_checkpoint
    folders_that_are_gone_cost_only_time
    completion_lets_older_copies_go_whatever_the_order_of_notices
    an_abort_lets_go_what_only_the_aborted_checkpoint_needed
    of_a_rescale_only_what_is_not_local_is_read
    copies_of_a_backend_that_nobody_opens_go_after_the_idle_time
    snapshots_without_changelog_have_copies_too
    after_a_rescale_damaged_copies_are_read_from_the_store_instead
    a_survey_sees_what_is_missing_on_the_store_behind_a_copy
}

/// One host: its folder of copies outlives its daemons.
struct Host {
    folder: tempfile::TempDir,
    max_bytes: u64,
}

/// A daemon with local copies.
struct Here {
    locks: Vec<PathBuf>,
    daemon: Daemon,
    copies: Copies,
}

impl Host {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), max_bytes: 1 << 30 }
    }

    fn options(&self) -> CopyOptions {
        let folders = ["a", "b"].map(|name| self.folder.path().join(name)).to_vec();
        CopyOptions { folders, write: CopyScope::All, read: true, max_bytes: self.max_bytes, idle_timeout: IDLE }
    }

    fn start(&self, world: &World, inner: InnerBackend, seed: u64) -> Here {
        self.start_with(world, Settings::on_request(inner, seed))
    }

    fn start_with(&self, world: &World, settings: Settings) -> Here {
        let open = |metrics: &Metrics| Some(Copies::open(self.options(), metrics).unwrap());
        let daemon = Daemon::start_with_copies(world, settings, open);
        let copies = daemon.directory.environment().store.copies().unwrap().clone();
        let locks = self.options().folders.iter().map(|folder| folder.join("dstl-copies.lock")).collect();
        Here { daemon, copies, locks }
    }

    /// The files of all copies.
    fn files(&self) -> Vec<PathBuf> {
        let entries = self.options().folders.into_iter().flat_map(|root| walkdir::WalkDir::new(root.join("objects")));
        entries.filter_map(Result::ok).filter(|e| e.file_type().is_file()).map(|e| e.path().to_owned()).collect()
    }
}

impl Here {
    /// Ends the daemon as kill -9 does, once what waits is copied.
    async fn crash(self, task: Task) {
        settle().await;
        drop(task);
        self.daemon.crash();
        drop(self.copies);
        // A process that ends lets its locks go at once; here what is being written holds them for a moment.
        let is_held = |lock: &PathBuf| fs::File::open(lock).is_ok_and(|file| file.try_lock().is_err());
        while self.locks.iter().any(is_held) {
            settle().await;
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn metric(&self, name: &str) -> u64 {
        let text = self.daemon.metrics.encode();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("dstl_local_copies_{name} ")));
        line.map_or(0, |value| value.parse().unwrap())
    }

    fn reads(&self) -> [u64; 3] {
        ["hit", "miss", "corrupt"].map(|outcome| self.metric(&format!("reads_total{{outcome=\"{outcome}\"}}")))
    }

    /// Kinds of what there are copies of.
    fn count(&self, part: &str) -> usize {
        self.copies.paths().iter().filter(|path| path.as_ref().contains(part)).count()
    }
}

/// Lets the background work go on.
async fn settle() {
    sleep(Duration::from_millis(100)).await;
}

/// Writes to a task and knows what it should have.
#[derive(Default)]
struct Model {
    entries: BTreeMap<String, Vec<u8>>,
    number: u64,
}

impl Model {
    fn write(&mut self, task: &mut Task, keys: std::ops::Range<u64>, value: u8) {
        for key in keys {
            let (key, value) = (format!("key {key}"), vec![value; 50]);
            task.put(self.number, &[(&key, &value)]);
            self.number += 1;
            self.entries.insert(key, value);
        }
    }

    fn check(&mut self, task: &mut Task) {
        self.number = task.opened.applied_to;
        assert_eq!(task.opened.backend.describe().states[0].entries, self.entries.len() as u64);
        for (key, value) in &self.entries {
            assert_eq!(task.get(self.number, key).as_ref(), Some(value), "{key}");
            self.number += 1;
        }
    }
}

async fn complete(task: &mut Task, id: u64) {
    task.checkpoint(id).await;
    task.notice(NoticeKind::Complete, id);
}

async fn materialize(task: &Task) {
    let backend = &task.opened.backend;
    backend.materialize(backend.epoch()).await.unwrap();
}

/// A base, and so much log after it that its index has pages.
async fn prepare(here: &Here) -> (Task, Model) {
    let mut task = here.daemon.task(1, LATEST).await.unwrap();
    let mut model = Model::default();
    model.write(&mut task, 0..300, 1);
    materialize(&task).await;
    for id in 1..=140 {
        model.write(&mut task, id..id + 2, 2);
        complete(&mut task, id).await;
    }
    (task, model)
}

/// Reads of anything but manifests and job records.
fn fetched(refused: &Refused) -> Vec<String> {
    let names_only = |path: &String| path.contains("/manifest/") || path.contains("/job/");
    refused.take_reads().into_iter().filter(|path| !names_only(path)).collect()
}

async fn after_a_restart_a_restore_reads_nothing_but_manifests_from_the_store(inner: InnerBackend) {
    let (refused, host) = (Refused::default(), Host::new());
    let world = refused.by(World::new());
    let here = host.start(&world, inner, 1);
    let (task, mut model) = prepare(&here).await;
    assert!(here.count("/index/") > 0 && here.count("/snapshot/") > 0 && here.count("/segments/") > 100);
    assert_eq!((here.reads(), here.metric("failures_total")), ([0, 0, 0], 0));
    here.crash(task).await;
    let here = host.start(&world, inner, 2);
    fetched(&refused);
    let mut task = here.daemon.task(2, LATEST).await.unwrap();
    model.check(&mut task);
    assert_eq!(fetched(&refused), Vec::<String>::new());
    let [hits, misses, corrupt] = here.reads();
    assert!(hits > 100, "{hits}");
    assert_eq!((misses, corrupt), (0, 0));
    // And so does the one after that, which restores what this one made.
    model.write(&mut task, 0..10, 3);
    complete(&mut task, 200).await;
    here.crash(task).await;
    let here = host.start(&world, inner, 3);
    fetched(&refused);
    model.check(&mut here.daemon.task(3, LATEST).await.unwrap());
    assert_eq!(fetched(&refused), Vec::<String>::new());
}

async fn a_damaged_copy_is_deleted_and_the_store_read_instead(inner: InnerBackend) {
    let (world, host) = (World::new(), Host::new());
    let here = host.start(&world, inner, 1);
    let (task, mut model) = prepare(&here).await;
    here.crash(task).await;
    let files = host.files();
    for (at, file) in files.iter().enumerate() {
        let mut bytes = fs::read(file).unwrap();
        match at % 3 {
            // In the object, in the head, at the end.
            0 => *bytes.last_mut().unwrap() ^= 1,
            1 => bytes[20] ^= 1,
            _ => bytes.truncate(bytes.len() - 1),
        }
        fs::write(file, bytes).unwrap();
    }
    let here = host.start(&world, inner, 2);
    let left = here.copies.paths().len();
    assert_eq!(left, files.len().div_ceil(3), "damaged heads and lengths are seen at once");
    let mut task = here.daemon.task(2, LATEST).await.unwrap();
    model.check(&mut task);
    let [hits, misses, corrupt] = here.reads();
    assert!(hits == 0 && misses > 0 && corrupt > 0, "{hits} {misses} {corrupt}");
    let old = here.copies.paths().into_iter().filter(|path| !path.as_ref().contains("/index/2/")).count();
    assert_eq!(old as u64, left as u64 - corrupt, "beside what was written by opening it");
    assert_eq!(host.files().len(), here.copies.paths().len());
}

async fn a_copy_that_cannot_be_made_fails_no_checkpoint(inner: InnerBackend) {
    let (world, host) = (World::new(), Host::new());
    let here = host.start(&world, inner, 1);
    let mut task = here.daemon.task(1, LATEST).await.unwrap();
    let mut model = Model::default();
    // Nobody can write a file where a folder is, not even root.
    let full: Vec<_> = host.options().folders.iter().map(|root| root.join("new")).collect();
    full.iter().for_each(|path| fs::create_dir(path).unwrap());
    for id in 1..=3 {
        model.write(&mut task, 0..5, id as u8);
        complete(&mut task, id).await;
    }
    materialize(&task).await;
    settle().await;
    let failures = here.metric("failures_total");
    assert!(failures >= 3 + 2, "{failures}");
    assert_eq!((here.metric("bytes"), here.copies.paths().len()), (0, 0));
    full.iter().for_each(|path| fs::remove_dir(path).unwrap());
    model.write(&mut task, 0..5, 9);
    complete(&mut task, 4).await;
    settle().await;
    assert_eq!((here.metric("failures_total"), here.copies.paths().len()), (failures, 1));
    assert_eq!(here.metric("bytes"), fs::metadata(&host.files()[0]).unwrap().len());
    here.crash(task).await;
    let here = host.start(&world, inner, 2);
    let mut task = here.daemon.task(2, LATEST).await.unwrap();
    model.check(&mut task);
    let [hits, misses, corrupt] = here.reads();
    assert!(hits == 1 && misses >= 1 && corrupt == 0, "{hits} {misses} {corrupt}");
}

async fn folders_that_are_gone_cost_only_time(inner: InnerBackend) {
    let (world, host) = (World::new(), Host::new());
    let here = host.start(&world, inner, 1);
    let (task, mut model) = prepare(&here).await;
    here.crash(task).await;
    let here = host.start(&world, inner, 2);
    host.options().folders.iter().for_each(|root| fs::remove_dir_all(root).unwrap());
    let mut task = here.daemon.task(2, LATEST).await.unwrap();
    model.check(&mut task);
    let [hits, misses, corrupt] = here.reads();
    assert!(hits == 0 && misses > 0 && corrupt == 0);
    model.write(&mut task, 0..5, 9);
    complete(&mut task, 200).await;
    here.crash(task).await;
    let here = host.start(&world, inner, 3);
    model.check(&mut here.daemon.task(3, LATEST).await.unwrap());
}

/// Rewrites everything, so that nothing of the base before is used again, and materializes.
async fn rebase(task: &mut Task, model: &mut Model, value: u8) {
    model.write(task, 0..50, value);
    materialize(task).await;
}

async fn completion_lets_older_copies_go_whatever_the_order_of_notices(inner: InnerBackend) {
    let (world, host) = (World::new(), Host::new());
    let here = host.start(&world, inner, 1);
    let mut task = here.daemon.task(1, LATEST).await.unwrap();
    let mut model = Model::default();
    for id in 1..=3 {
        rebase(&mut task, &mut model, id as u8).await;
        task.checkpoint(id).await;
    }
    settle().await;
    assert_eq!(here.count(".index"), 3, "none is completed");
    let before = here.count("/segments/");
    task.notice(NoticeKind::Complete, 2);
    settle().await;
    assert_eq!(here.count(".index"), 2);
    assert!(here.count("/segments/") < before);
    let kept = here.copies.paths();
    task.notice(NoticeKind::Complete, 1);
    settle().await;
    assert_eq!(here.copies.paths(), kept, "an older one comes too late");
    task.notice(NoticeKind::Complete, 3);
    settle().await;
    assert_eq!(here.count(".index"), 1);
    let bytes: u64 = host.files().iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    assert_eq!(here.metric("bytes"), bytes);
    here.crash(task).await;
    let here = host.start(&world, inner, 2);
    assert_eq!(here.metric("bytes"), bytes);
    model.check(&mut here.daemon.task(2, LATEST).await.unwrap());
    assert_eq!(here.reads()[1..], [0, 0]);
}

async fn an_abort_lets_go_what_only_the_aborted_checkpoint_needed(inner: InnerBackend) {
    let (world, host) = (World::new(), Host::new());
    let here = host.start(&world, inner, 1);
    let mut task = here.daemon.task(1, LATEST).await.unwrap();
    let mut model = Model::default();
    for id in 1..=2 {
        rebase(&mut task, &mut model, id as u8).await;
        task.checkpoint(id).await;
        if id == 1 {
            task.notice(NoticeKind::Complete, id);
        }
    }
    rebase(&mut task, &mut model, 3).await;
    settle().await;
    assert_eq!(here.count(".index"), 3, "of the completed one, of the one in flight, and of those to come");
    task.notice(NoticeKind::Abort, 2);
    settle().await;
    assert_eq!(here.count(".index"), 2);
    complete(&mut task, 4).await;
    here.crash(task).await;
    let here = host.start(&world, inner, 2);
    model.check(&mut here.daemon.task(2, LATEST).await.unwrap());
    assert_eq!(here.reads()[1..], [0, 0], "the next checkpoint has usable copies");
}

async fn of_a_rescale_only_what_is_not_local_is_read(inner: InnerBackend) {
    let (refused, hosts) = (Refused::default(), [Host::new(), Host::new()]);
    let world = refused.by(World::new());
    let mut model = BTreeMap::new();
    let mut running = vec![];
    for (subtask, host) in (0_u32..).zip(&hosts) {
        let here = host.start(&world, inner, 1 + u64::from(subtask));
        let mut task = here.daemon.subtask(subtask, 2, 1, LATEST).await.unwrap();
        let mut own = Model::default();
        own.write(&mut task, 0..100, subtask as u8);
        materialize(&task).await;
        own.write(&mut task, 0..50, 7);
        running.push((here, task, own));
    }
    for (_, task, own) in &mut running {
        complete(task, 1).await;
        let groups = task.opened.shape.key_groups;
        model.extend(own.entries.clone().into_iter().map(|(key, value)| {
            let group = crate::support::group_of(groups, &key);
            ((group, key), value)
        }));
    }
    let away = running[1].0.daemon.directory.environment().instance.to_string();
    for (here, task, _) in running {
        here.crash(task).await;
    }
    fetched(&refused);
    let here = hosts[0].start(&world, inner, 9);
    let mut task = here.daemon.subtask(0, 1, 2, LATEST).await.unwrap();
    let fetched = fetched(&refused);
    assert!(!fetched.is_empty() && fetched.iter().all(|path| path.contains(&away)), "{fetched:?}");
    let [hits, misses, corrupt] = here.reads();
    assert!(hits > 0 && misses == fetched.len() as u64 && corrupt == 0, "{hits} {misses}: {fetched:?}");
    assert_eq!(task.opened.backend.describe().states[0].entries, model.len() as u64);
    // It needs what it was made from until it has a base of its own; then that is of no more use to anybody.
    let of_old = here.copies.paths();
    complete(&mut task, 2).await;
    settle().await;
    assert!(of_old.iter().all(|path| here.copies.paths().contains(path)));
    materialize(&task).await;
    complete(&mut task, 3).await;
    settle().await;
    assert!(!of_old.iter().any(|path| here.copies.paths().contains(path)));
}

async fn after_a_rescale_damaged_copies_are_read_from_the_store_instead(inner: InnerBackend) {
    let (refused, host) = (Refused::default(), Host::new());
    let world = refused.by(World::new());
    let here = host.start(&world, inner, 1);
    let (mut tasks, mut expected) = (vec![], 0);
    for subtask in 0..2 {
        let mut task = here.daemon.subtask(subtask, 2, 1, LATEST).await.unwrap();
        let mut own = Model::default();
        own.write(&mut task, 0..100, subtask as u8);
        materialize(&task).await;
        own.write(&mut task, 50..120, 7);
        expected += own.entries.len() as u64;
        tasks.push(task);
    }
    for task in &mut tasks {
        complete(task, 1).await;
    }
    let task = tasks.pop().unwrap();
    drop(tasks);
    here.crash(task).await;
    for file in host.files() {
        let mut bytes = fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(file, bytes).unwrap();
    }
    let here = host.start(&world, inner, 2);
    fetched(&refused);
    let task = here.daemon.subtask(0, 1, 2, LATEST).await.unwrap();
    assert_eq!(task.opened.backend.describe().states[0].entries, expected);
    let [hits, _, corrupt] = here.reads();
    assert!(corrupt > 0 && !fetched(&refused).is_empty(), "{hits} {corrupt}");
}

async fn a_survey_sees_what_is_missing_on_the_store_behind_a_copy(inner: InnerBackend) {
    let (world, host) = (World::new(), Host::new());
    let here = host.start(&world, inner, 1);
    let mut task = here.daemon.task(1, LATEST).await.unwrap();
    let mut model = Model::default();
    model.write(&mut task, 0..50, 1);
    materialize(&task).await;
    for id in 1..=2 {
        model.write(&mut task, 0..5, id as u8);
        complete(&mut task, id).await;
    }
    settle().await;
    let gone: Vec<String> = world.paths(".index").await.into_iter().chain(world.paths("/segments/").await).collect();
    for path in &gone {
        world.store().delete(&Path::from(path.as_str()), Retry::none()).await.unwrap();
    }
    let store = &here.daemon.directory.environment().store;
    let head = task.opened.backend.outline().manifest;
    let parts: Vec<_> = head.checkpoints.iter().map(|record| (&head, record)).collect();
    let damage = damage::survey(store, &parts, &[], &BTreeSet::new(), Retry::none()).await.unwrap();
    let mut found: Vec<_> = damage.faults.iter().map(|fault| fault.object.clone()).collect();
    found.sort();
    assert!(found.iter().all(|object| gone.contains(object)), "{found:?}");
    assert!(found.iter().any(|object| object.ends_with(".index")), "{found:?}");
    assert!(found.iter().any(|object| object.contains("/segments/")), "{found:?}");
    // This host restores it all the same.
    here.crash(task).await;
    let here = host.start(&world, inner, 2);
    model.check(&mut here.daemon.task(2, LATEST).await.unwrap());
}

async fn copies_of_a_backend_that_nobody_opens_go_after_the_idle_time(inner: InnerBackend) {
    let (world, host) = (World::new(), Host::new());
    let here = host.start(&world, inner, 1);
    let (task, mut model) = prepare(&here).await;
    sleep(2 * IDLE).await;
    let kept = here.copies.paths();
    assert!(!kept.is_empty(), "an open backend is not idle");
    let backend = task.opened.backend.clone();
    here.daemon.directory.close(backend.id(), backend.epoch()).await.unwrap();
    drop(backend);
    sleep(IDLE - Duration::from_secs(1)).await;
    assert_eq!(here.copies.paths(), kept);
    here.crash(task).await;
    // The time begins again with the daemon.
    let here = host.start(&world, inner, 2);
    sleep(IDLE - Duration::from_secs(1)).await;
    assert_eq!(here.copies.paths(), kept);
    sleep(Duration::from_secs(2)).await;
    assert_eq!((here.copies.paths(), here.metric("bytes"), host.files()), (vec![], 0, vec![]));
    model.check(&mut here.daemon.task(2, LATEST).await.unwrap());
}

async fn snapshots_without_changelog_have_copies_too(inner: InnerBackend) {
    let (refused, host) = (Refused::default(), Host::new());
    let world = refused.by(World::new());
    let settings = |seed| {
        let mut settings = Settings::on_request(inner, seed);
        settings.options.changelog = false;
        settings
    };
    let here = host.start_with(&world, settings(1));
    let mut task = here.daemon.task(1, LATEST).await.unwrap();
    let mut model = Model::default();
    for id in 1..=5 {
        model.write(&mut task, 0..50, id as u8);
        task.barrier(id);
        model.write(&mut task, 50..60 + id, id as u8);
        let event = task.event().await;
        assert!(matches!(event, dstl::backend::SessionEvent::CheckpointCompleted(_)), "{event:?}");
        task.notice(NoticeKind::Complete, id);
    }
    complete(&mut task, 6).await;
    settle().await;
    assert_eq!((here.count(".index"), here.count("/segments/")), (1, 0));
    here.crash(task).await;
    let here = host.start_with(&world, settings(2));
    fetched(&refused);
    model.check(&mut here.daemon.task(2, LATEST).await.unwrap());
    assert_eq!(fetched(&refused), Vec::<String>::new());
    assert_eq!(here.reads()[1..], [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn beyond_the_bound_the_oldest_copies_go() {
    let (world, mut host) = (World::new(), Host::new());
    host.max_bytes = 4_000;
    let here = host.start(&world, InnerBackend::HashMap, 1);
    let mut task = here.daemon.task(1, LATEST).await.unwrap();
    let mut model = Model::default();
    let mut newest = vec![];
    for id in 1..=20 {
        model.write(&mut task, 0..3, id as u8);
        complete(&mut task, id).await;
        settle().await;
        assert!((1..=4_000).contains(&here.metric("bytes")));
        newest.push(here.copies.paths().last().unwrap().clone());
    }
    let kept = here.copies.paths();
    assert!((3..20).contains(&kept.len()));
    assert_eq!(kept[..], newest[20 - kept.len()..]);
    model.write(&mut task, 0..100, 77);
    complete(&mut task, 21).await;
    settle().await;
    assert_eq!((here.copies.paths(), here.metric("failures_total")), (kept, 1), "one that can never fit");
    here.crash(task).await;
    host.max_bytes = 1_000;
    let here = host.start(&world, InnerBackend::HashMap, 2);
    assert!(here.metric("bytes") <= 1_000 && !here.copies.paths().is_empty());
    model.check(&mut here.daemon.task(2, LATEST).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn reads_have_exact_metrics_and_only_what_is_named_is_read() {
    let (world, host) = (World::new(), Host::new());
    let here = host.start(&world, InnerBackend::HashMap, 1);
    let mut task = here.daemon.task(1, LATEST).await.unwrap();
    let mut model = Model::default();
    for id in 1..=3 {
        model.write(&mut task, 0..3, id as u8);
        complete(&mut task, id).await;
    }
    task.notice(NoticeKind::Discard, 1);
    here.crash(task).await;
    let files = host.files();
    let mut bytes = fs::read(&files[0]).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&files[0], bytes).unwrap();
    fs::remove_file(&files[1]).unwrap();
    let here = host.start(&world, InnerBackend::HashMap, 2);
    let error = here.daemon.task(2, RestoreFrom::Id(1)).await.map(drop).unwrap_err();
    assert_eq!(error.reason, dstl::error::Reason::CheckpointNotFound, "a copy does not bring it back");
    assert_eq!(here.reads(), [0, 0, 0]);
    model.check(&mut here.daemon.task(2, LATEST).await.unwrap());
    assert_eq!(here.reads(), [1, 1, 1]);
    assert_eq!(here.metric("bytes"), fs::metadata(&files[2]).unwrap().len());
    assert_eq!(host.files(), [files[2].clone()]);
}

#[tokio::test(start_paused = true)]
async fn two_daemons_do_not_share_a_folder() {
    let (world, host) = (World::new(), Host::new());
    let here = host.start(&world, InnerBackend::HashMap, 1);
    let refused = Copies::open(host.options(), &Metrics::new()).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::WouldBlock);
    assert!(refused.to_string().ends_with("another daemon has it"), "{refused}");
    let not_a_folder = host.folder.path().join("file");
    fs::write(&not_a_folder, "").unwrap();
    let at = |path: &FilePath| CopyOptions { folders: vec![path.to_owned()], ..host.options() };
    Copies::open(at(&not_a_folder), &Metrics::new()).unwrap_err();
    drop(here);
    settle().await;
    Copies::open(host.options(), &Metrics::new()).unwrap();
}
