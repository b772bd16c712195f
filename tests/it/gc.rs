//! Garbage collection on real stores: what goes, what stays, what hinders it.

use std::{
    ops::Range,
    path::Path as FilePath,
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use dstl::{
    backend::{BackendOptions, RestoreFrom, SessionEvent},
    changelog::segment::SegmentHandle,
    checkpoint::{
        collect::{self, Garbage, Kept, SweepOptions, SweepReport, Verdict},
        index::{Page, PageRef},
        job,
        ledger::NoticeKind,
        manifest::Import,
    },
    clock::Clock,
    metrics::Metrics,
    object::{
        ObjectName, Path, Retry, RetryOptions, Store, StoreOptions,
        faulty::{FaultPlan, FaultyStore},
        open,
    },
    random::Random,
    tasks::Tasks,
    types::Name,
};
use object_store::{ObjectStoreExt as _, local::LocalFileSystem};

use crate::support::{Daemon, Settings, Task, World};

const LATEST: RestoreFrom = RestoreFrom::Latest { or_empty: true };
const NO_GRACE: SweepOptions = SweepOptions { grace: Duration::ZERO, now_ms: 0, delete: true };

fn settings(seed: u64) -> Settings {
    Settings { seed, ..Settings::default() }
}

async fn sweep(store: &Store, options: &SweepOptions) -> SweepReport {
    collect::sweep(store, &Name::new("job").unwrap(), options, Retry::none()).await.unwrap()
}

/// Paths of the objects with such a verdict, manifests left out.
fn paths(report: &SweepReport, which: impl Fn(&Verdict) -> bool) -> Vec<String> {
    let found = report.findings.iter().filter(|f| which(&f.verdict)).map(|f| f.meta.path.to_string());
    found.filter(|path| !path.contains("manifest")).collect()
}

/// Fails if a head names a segment or page that is not there. Pages are read on the way.
pub(crate) async fn everything_named_is_there(world: &World) {
    let store = world.store();
    let job = Name::new("job").unwrap();
    for head in job::read_heads(&store, &job, Retry::none()).await.unwrap() {
        let runs = head.runs.values().chain(head.imports.iter().flat_map(|import| import.runs.values()));
        let mut handles: Vec<SegmentHandle> = runs.flat_map(|run| run.handles.clone()).collect();
        let mut pages: Vec<PageRef> = head.imports.iter().flat_map(Import::pages).collect();
        pages.extend(head.runs.values().flat_map(|run| &run.pages));
        pages.extend(head.epochs.iter().flat_map(|record| &record.contents.past));
        pages.extend(head.checkpoints.iter().filter_map(|record| record.attachment.page()));
        while let Some(page) = pages.pop() {
            let name = page.name(&head.backend);
            let bytes = store.get(&name.path(), Retry::none()).await;
            let bytes = bytes.unwrap_or_else(|error| panic!("{name} is named and gone: {error}"));
            match Page::decode(&job, &page, &bytes).unwrap() {
                Page::Handles(found) => handles.extend(found),
                Page::Pages(below) => pages.extend(below),
                Page::Past(stretches) => {
                    for stretch in stretches {
                        handles.extend(stretch.run.handles);
                        pages.extend(stretch.run.pages);
                    }
                }
                Page::Attachments(_) => {}
            }
        }
        for id in handles.iter().filter_map(SegmentHandle::segment) {
            let name = ObjectName::Segment { job: job.clone(), instance: id.instance, number: id.number };
            assert!(store.head(&name.path(), Retry::none()).await.unwrap().is_some(), "{name} is named and gone");
        }
    }
}

async fn restores(world: &World, id: u64, key: &str, value: &[u8]) {
    let heads = job::read_heads(&world.store(), &Name::new("job").unwrap(), Retry::none()).await.unwrap();
    let attempt = heads[0].owner().attempt + 1;
    let daemon = Daemon::start(world, settings(1000 + attempt * 7));
    let mut task = daemon.task(attempt, RestoreFrom::Id(id)).await.unwrap();
    assert_eq!(task.get(0, key), Some(value.to_vec()), "checkpoint {id}");
    daemon.crash();
}

/// A directory with what a crash leaves: an uploaded segment that no manifest names, temporaries, superseded manifests.
/// The retained checkpoints are 9 to 12, since the last notice came too late for a manifest; checkpoint n has `key` =
/// n.
pub(crate) async fn crashed(folder: &FilePath) -> World {
    let objects = Arc::new(LocalFileSystem::new_with_prefix(folder).unwrap());
    let world = World { objects, ..World::new() };
    let daemon = Daemon::start(&world, settings(1));
    let mut task = daemon.task(1, LATEST).await.unwrap();
    for id in 1..=12 {
        task.put(id - 1, &[("key", id.to_string().as_bytes())]);
        task.checkpoint(id).await;
        task.notice(NoticeKind::Complete, id);
    }
    task.put(12, &[("key", b"lost")]);
    task.session.persist(1).unwrap();
    task.event().await;
    daemon.crash();
    world
}

fn directory(folder: &FilePath) -> Store {
    let options = StoreOptions::new(folder.to_str().unwrap());
    open::open(&options, &Metrics::new(), &Clock::system(), Random::seeded(1)).unwrap()
}

#[tokio::test]
async fn what_a_crash_leaves_goes_and_every_retained_checkpoint_still_restores() {
    let folder = tempfile::tempdir().unwrap();
    let world = crashed(folder.path()).await;
    let store = directory(folder.path());
    let segments = world.paths("segments").await;
    let lost = segments.last().unwrap().clone();
    for (temporary, torn) in [(format!("{lost}#1"), "torn"), ("job/notes.txt".to_owned(), "mine")] {
        std::fs::write(folder.path().join(temporary), torn).unwrap();
    }

    let report = sweep(&store, &NO_GRACE).await;
    assert_eq!(
        paths(&report, |v| matches!(v, Verdict::Kept(Kept::MayBeNamed(_)))),
        std::slice::from_ref(&lost),
        "nobody has fenced the owner yet"
    );

    let daemon = Daemon::start(&world, settings(50));
    let mut task = daemon.task(2, LATEST).await.unwrap();
    assert_eq!(task.get(0, "key"), Some(b"12".to_vec()));
    let report = sweep(&store, &NO_GRACE).await;
    assert_eq!(paths(&report, Verdict::is_garbage), [lost.as_str()]);
    assert_eq!(paths(&report, |v| *v == Verdict::Unknown), ["job/notes.txt"]);
    for path in [&lost, &format!("{lost}#1")] {
        assert!(!folder.path().join(path).exists(), "{path}");
    }
    assert!(folder.path().join("job/notes.txt").exists());
    let again = sweep(&store, &NO_GRACE).await;
    assert_eq!(again.tally("garbage").objects, 0);
    assert_eq!(again.findings.len() as u64 + report.deleted().objects, report.findings.len() as u64);
    everything_named_is_there(&world).await;
    daemon.crash();
    for id in 9..=12 {
        restores(&world, id, "key", id.to_string().as_bytes()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn sweeps_without_grace_take_nothing_from_owners_at_work() {
    let world = World::new();
    let trouble = FaultPlan {
        latency: Duration::ZERO..Duration::from_millis(40),
        error_before: 0.05,
        error_after: 0.05,
        refused: 0.05,
        hang: 0.0,
        delayed: 0.02,
        delay: Duration::ZERO..Duration::from_secs(10),
    };
    let sweeper = sweeper(&world, 77, Duration::ZERO..Duration::from_millis(20));
    let sweeping = async {
        loop {
            sweep(&sweeper, &NO_GRACE).await;
            everything_named_is_there(&world).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let working = async {
        let mut completed = 0;
        for attempt in 1..=4 {
            let options = BackendOptions { preemptive_persist_threshold: 200, ..BackendOptions::default() };
            let daemon = Daemon::start(&world, Settings { options, ..settings(attempt * 100) });
            daemon.faults.set_plan(trouble.clone());
            let (mut task, mut other) =
                tokio::try_join!(daemon.subtask(0, 2, attempt, LATEST), daemon.subtask(1, 2, attempt, LATEST)).unwrap();
            for task in [&mut task, &mut other] {
                let expected = (completed > 0).then(|| completed.to_string().into_bytes());
                assert_eq!(task.get(0, "key"), expected, "attempt {attempt}");
            }
            completed = work(&mut task, &mut other, completed).await;
            if attempt.is_multiple_of(2) {
                daemon.directory.close_all().await;
            }
            daemon.crash();
        }
    };
    tokio::select! {
        biased;
        () = sweeping => {}
        () = working => {}
    }
    everything_named_is_there(&world).await;
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_comes_in_the_middle_of_a_sweep_loses_nothing() {
    for offset in (0..20_000).step_by(500).map(Duration::from_millis) {
        let world = World::new();
        let daemon = Daemon::start(&world, settings(1));
        daemon.task(1, LATEST).await.unwrap().checkpoint(1).await;
        daemon.crash();
        let sweeper = sweeper(&world, 5, Duration::from_secs(2)..Duration::from_millis(2001));
        let daemon = Daemon::start(&world, settings(20));
        let coming = async {
            tokio::time::sleep(offset).await;
            let mut task = daemon.task(2, LATEST).await.unwrap();
            task.put(0, &[("key", b"1")]);
            task.session.persist(1).unwrap();
            task.event().await;
            task
        };
        let (_, mut task) = tokio::join!(sweep(&sweeper, &NO_GRACE), coming);
        task.checkpoint(2).await;
        everything_named_is_there(&world).await;
        daemon.crash();
        restores(&world, 2, "key", b"1").await;
    }
}

/// A store for a sweep, each of whose requests takes so long.
pub(crate) fn sweeper(world: &World, seed: u64, latency: Range<Duration>) -> Store {
    let faulty = FaultyStore::new(world.objects.clone(), Random::seeded(seed), Tasks::default());
    faulty.faults().set_plan(FaultPlan { latency, ..FaultPlan::none() });
    let random = Random::seeded(seed + 1);
    Store::new(Arc::new(faulty), Path::default(), RetryOptions::default(), &Metrics::new(), random)
}

/// Five checkpoints of two subtasks, with changes in between and after; returns the id of the last one.
async fn work(task: &mut Task, other: &mut Task, last: u64) -> u64 {
    let mut number = 1;
    for id in last + 1..=last + 5 {
        for _ in 0..5 {
            for task in [&mut *task, &mut *other] {
                task.put(number, &[("key", id.to_string().as_bytes()), ("filler", &[7; 90])]);
            }
            number += 1;
        }
        tokio::join!(task.checkpoint(id), other.checkpoint(id));
        for task in [&mut *task, &mut *other] {
            task.notice(NoticeKind::Complete, id);
        }
    }
    for task in [task, other] {
        task.put(number, &[("key", b"after the last"), ("filler", &[7; 500])]);
    }
    last + 5
}

#[tokio::test(start_paused = true)]
async fn pages_of_the_log_index_are_followed_and_go_with_what_named_them() {
    let world = World::new();
    let options = BackendOptions { preemptive_persist_threshold: 1, ..BackendOptions::default() };
    let daemon = Daemon::start(&world, Settings { options, ..settings(1) });
    let mut task = daemon.task(1, LATEST).await.unwrap();
    for id in 1..=200 {
        task.put(id - 1, &[("key", id.to_string().as_bytes())]);
        task.checkpoint(id).await;
        task.notice(NoticeKind::Complete, id);
    }
    assert!(!world.paths("/index/1/").await.is_empty());
    let before = world.paths("").await;
    let report = sweep(&world.store(), &NO_GRACE).await;
    assert_eq!(world.paths("segments").await.len(), 200);
    assert!(report.deleted().objects < before.len() as u64);
    restores(&world, 200, "key", b"200").await;
    daemon.crash();
    // Nothing of the log is needed by who begins empty and lets the old checkpoints go.
    let daemon = Daemon::start(&world, settings(90));
    let mut task = daemon.task(5000, RestoreFrom::Empty).await.unwrap();
    for id in 1..=4 {
        task.put(id - 1, &[("key", b"new")]);
        task.checkpoint(id).await;
        task.notice(NoticeKind::Complete, id);
    }
    task.opened.backend.close(task.opened.backend.epoch()).await.unwrap();
    sweep(&world.store(), &NO_GRACE).await;
    assert_eq!(world.paths("/index/").await, Vec::<String>::new());
    assert_eq!(world.paths("segments").await.len(), 4);
    restores(&world, 4, "key", b"new").await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_closed_names_nothing_more() {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(1));
    let mut task = daemon.task(1, LATEST).await.unwrap();
    task.put(0, &[("key", b"1")]);
    task.checkpoint(1).await;
    task.put(1, &[("key", b"2")]);
    task.session.persist(1).unwrap();
    let SessionEvent::Persisted { .. } = task.event().await else { panic!("not persisted") };
    let report = sweep(&world.store(), &NO_GRACE).await;
    assert_eq!(report.deleted().objects, 0, "the next manifest may name the second segment");
    task.opened.backend.close(task.opened.backend.epoch()).await.unwrap();
    sweep(&world.store(), &NO_GRACE).await;
    everything_named_is_there(&world).await;
    restores(&world, 1, "key", b"1").await;
}

#[tokio::test(start_paused = true)]
async fn what_is_uploaded_while_a_backend_closes_is_not_named_any_more() {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(1));
    let mut task = daemon.task(1, LATEST).await.unwrap();
    let latency = Duration::from_millis(100)..Duration::from_millis(101);
    daemon.faults.set_plan(FaultPlan { latency, ..FaultPlan::none() });
    task.put(0, &[("key", b"1")]);
    task.barrier(1);
    // The upload ends while the last manifest, which promises to name nothing more, is being written.
    tokio::time::sleep(Duration::from_millis(50)).await;
    task.opened.backend.close(task.opened.backend.epoch()).await.unwrap();
    sweep(&world.store(), &NO_GRACE).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.paths("segments").await, Vec::<String>::new());
    everything_named_is_there(&world).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_deleted_while_a_head_or_page_cannot_be_read() {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(1));
    let mut task = daemon.task(1, LATEST).await.unwrap();
    for id in 1..=140 {
        task.put(id - 1, &[("key", b"1")]);
        task.checkpoint(id).await;
    }
    daemon.crash();
    drop(Daemon::start(&world, settings(9)).task(2, RestoreFrom::Id(140)).await.unwrap());
    let (page, head) = (world.paths("/index/").await[0].clone(), world.paths("manifest").await.last().unwrap().clone());
    let before = world.paths("").await;
    for (path, harm) in [(&page, "damaged"), (&page, "missing"), (&head, "damaged")] {
        let path = Path::from(path.as_str());
        let bytes = world.objects.get(&path).await.unwrap().bytes().await.unwrap();
        if harm == "missing" {
            world.objects.delete(&path).await.unwrap();
        } else {
            let mut damaged = bytes.to_vec();
            damaged[20] ^= 1;
            world.objects.put(&path, damaged.into()).await.unwrap();
        }
        let swept = collect::sweep(&world.store(), &Name::new("job").unwrap(), &NO_GRACE, Retry::none()).await;
        let error = swept.unwrap_err().to_string();
        assert!(error.contains(path.as_ref()) && error.contains(harm), "{error}");
        world.objects.put(&path, bytes.into()).await.unwrap();
        assert_eq!(world.paths("").await, before);
    }
    assert!(sweep(&world.store(), &NO_GRACE).await.deleted().objects > 0);
}

#[tokio::test]
async fn what_is_young_by_the_stores_clock_stays() {
    let folder = tempfile::tempdir().unwrap();
    let world = crashed(folder.path()).await;
    let (daemon, store) = (Daemon::start(&world, settings(50)), directory(folder.path()));
    daemon.task(2, LATEST).await.unwrap();
    let job = Name::new("job").unwrap();
    let now_ms = collect::store_time(&store, &job, &Random::seeded(4), Retry::none()).await.unwrap();
    assert_eq!(world.paths("clock").await, Vec::<String>::new());
    let hour = Duration::from_secs(3600);
    let report = sweep(&store, &SweepOptions { grace: hour, now_ms, delete: true }).await;
    assert_eq!((report.deleted().objects, report.tally("garbage").objects), (0, 0));
    assert_eq!(paths(&report, |v| *v == Verdict::Kept(Kept::Grace)).len(), 1);
    let report = sweep(&store, &SweepOptions { grace: hour, now_ms: now_ms + 3_700_000, delete: false }).await;
    assert_eq!((report.deleted().objects, paths(&report, Verdict::is_garbage).len()), (0, 1));
    let report = sweep(&store, &SweepOptions { grace: hour, now_ms: now_ms + 3_700_000, delete: true }).await;
    assert_eq!(paths(&report, |v| *v == Verdict::Garbage(Garbage::Unnamed)).len(), 1);
    assert_eq!(report.deleted(), report.tally("garbage"));
}

pub(crate) fn dstl(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dstl")).args(arguments).env_remove("DSTL_CONFIG").output().unwrap()
}

pub(crate) fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn the_tool_discards_checkpoints_and_jobs() {
    let folder = tempfile::tempdir().unwrap();
    let world = crashed(folder.path()).await;
    let at = ["--store", folder.path().to_str().unwrap()];
    let run = |arguments: &[&str]| dstl(&[&["discard", at[0], at[1], "--json"], arguments].concat());
    let listed = json(&dstl(&["checkpoints", "ls", at[0], at[1], "--json"]));
    let checkpoints = listed["jobs"][0]["backends"][0]["checkpoints"].as_array().unwrap();
    let handle = checkpoints[0]["handle"].as_str().unwrap();
    assert_eq!(json(&run(&["--handle", handle]))["checkpoints"], 1);
    assert_eq!(json(&run(&["--handle", handle]))["checkpoints"], 0, "idempotent");
    let discarded = json(&run(&["job"]));
    assert_eq!(discarded["checkpoints"], checkpoints.len() - 1);
    assert!(discarded["objects"].as_u64().unwrap() > 0, "{discarded}");
    assert_eq!(world.paths("segments").await, Vec::<String>::new());
    for (arguments, code, said) in [
        (&["misspelt"][..], 1, "no backend of job `misspelt`"),
        (&["--handle", "00ff"], 64, "`00ff` is not a checkpoint handle"),
        (&["--force"], 64, "JOB"),
    ] {
        let refused = run(arguments);
        assert_eq!(refused.status.code(), Some(code), "{arguments:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains(said), "{refused:?}");
    }
}

#[tokio::test]
async fn the_tools_tell_what_a_store_holds() {
    let folder = tempfile::tempdir().unwrap();
    let world = crashed(folder.path()).await;
    Daemon::start(&world, settings(50)).task(2, LATEST).await.unwrap();
    let before = world.paths("").await;
    let at = ["--store", folder.path().to_str().unwrap()];

    let listed = json(&dstl(&["checkpoints", "ls", at[0], at[1], "--json"]));
    assert_eq!(listed["jobs"][0]["latest"]["id"], 12);
    let restorable = listed["jobs"][0]["restorable"].as_array().unwrap();
    assert_eq!(restorable.last().unwrap()["id"], 12);
    let of_operator = listed["jobs"][0]["operators"][0]["checkpoints"].as_array().unwrap();
    assert_eq!(of_operator.last().unwrap()["restorable"], true);
    assert_eq!(of_operator.len(), restorable.len(), "there is one subtask");
    let checkpoint = &listed["jobs"][0]["backends"][0]["checkpoints"][3];
    assert_eq!((&checkpoint["id"], &checkpoint["completed"]), (&12.into(), &true.into()));
    let handle = checkpoint["handle"].as_str().unwrap();
    assert_eq!(json(&dstl(&["dump", "--json", handle]))[0]["id"], 12);

    let described = json(&dstl(
        &[&["dump", at[0], at[1], "--json"], &before.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat(),
    ));
    let kinds: Vec<_> = described.as_array().unwrap().iter().map(|object| object["kind"].as_str().unwrap()).collect();
    for kind in ["segment", "manifest", "job record"] {
        assert!(kinds.contains(&kind), "{kind}");
    }
    let file = folder.path().join(&before[0]);
    let text = String::from_utf8(dstl(&["dump", file.to_str().unwrap()]).stdout).unwrap();
    assert!(text.starts_with("kind: job record\n"), "{text}");

    let dry = json(&dstl(&["gc", at[0], at[1], "--grace", "0s", "--json"]));
    let garbage = dry["jobs"][0]["garbage"]["objects"].as_u64().unwrap();
    assert_eq!((&dry["dry_run"], garbage > 0), (&true.into(), true));
    let young = json(&dstl(&["gc", at[0], at[1], "--delete", "--json"]));
    assert_eq!(young["jobs"][0]["kept"]["objects"], garbage, "within the configured grace");
    assert_eq!(world.paths("").await, before);
    let done = dstl(&["gc", at[0], at[1], "job", "--grace", "0s", "--delete"]);
    let text = String::from_utf8(done.stdout).unwrap();
    assert_eq!(text.lines().filter(|line| line.starts_with("deleted ")).count() as u64, garbage, "{text}");
    assert_eq!((world.paths("").await.len() as u64) + garbage, before.len() as u64);
}

#[tokio::test]
async fn the_tools_say_what_is_wrong_by_their_exit_codes() {
    let folder = tempfile::tempdir().unwrap();
    let world = crashed(folder.path()).await;
    let at = ["--store", folder.path().to_str().unwrap()];
    let says = |arguments: &[&str], code: i32, what: &str| {
        let output = dstl(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(what), "{arguments:?}: {stderr}");
    };
    says(&["gc", at[0], at[1], "a/b"], 64, "names consist of");
    says(&["gc", at[0], at[1], "--job", "job"], 0, "another form now: `dstl gc job --store");
    says(&["checkpoints", at[0], at[1]], 0, "another form now: `dstl checkpoints ls --store");
    says(&["gc", "--store", "ftp://x"], 64, "ftp");
    says(&["dump", "neither"], 64, "neither");
    says(&["gc", at[0], at[1], "other"], 1, "no object of job `other`");
    let missing = folder.path().join("missing");
    says(&["gc", "--store", missing.to_str().unwrap()], 1, "no directory");
    assert!(!missing.exists());
    let head = world.paths("manifest").await.last().unwrap().clone();
    let file = folder.path().join(&head);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[30] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    says(&["gc", at[0], at[1], "--grace", "0s", "--delete"], 1, &head);
    says(&["checkpoints", "ls", at[0], at[1]], 1, &head);
    says(&["dump", at[0], at[1], &head], 1, "checksum");
}
