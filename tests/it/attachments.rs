//! Attachments of checkpoints: whatever their size, manifests do not repeat them, and every restore gives them back.

use std::time::Duration;

use dstl::{
    backend::{BarrierRequest, OpenSpec, Opened, RestoreFrom, SessionEvent},
    checkpoint::{
        collect::{self, SweepOptions},
        ledger::{NoticeKind, Retention},
    },
    error::{Error, Reason},
    object::{ObjectName, Path, Retry},
    types::{InnerBackend, Name},
};
use object_store::ObjectStoreExt as _;
use tokio::time::sleep;

use crate::{
    gc::everything_named_is_there,
    support::{Daemon, Settings, Task, World, on_both, spec},
};

/// Bytes of one attachment, of the largest that there may be.
const BYTES: usize = 64 << 10;

const CHECKPOINTS: u64 = 40;

on_both! {
    manifests_do_not_repeat_what_they_said_before: super::bounded;
    every_restore_gives_them_back: super::given_back;
    a_clone_and_a_rescale_give_them_back: super::elsewhere;
    a_page_that_is_lost_spoils_its_checkpoints: super::lost;
}

fn settings(inner: InnerBackend, seed: u64) -> Settings {
    let mut settings = Settings::on_request(inner, seed);
    settings.options.retention = Retention::Explicit;
    settings
}

fn attachment(id: u64, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (id as usize * 31 + at) as u8).collect()
}

async fn checkpoint(task: &mut Task, id: u64, bytes: usize) {
    let attachment = attachment(id, bytes).into();
    task.session.barrier(BarrierRequest { id, attachment, timeout: None }).unwrap();
    match task.event().await {
        SessionEvent::CheckpointCompleted(completed) => assert_eq!(completed.identity.id, id),
        other => panic!("checkpoint {id}: {other:?}"),
    }
    task.notice(NoticeKind::Complete, id);
}

/// A world in which one task took the checkpoints from 1 on; its daemon is gone.
async fn ran(inner: InnerBackend, changelog: bool, bytes: usize) -> World {
    let world = World::new();
    let daemon = Daemon::start(&world, settings(inner, 1));
    let spec = OpenSpec { changelog: Some(changelog), ..spec(0, 1, 1) };
    let opened = daemon.directory.open(spec, |_| {}).await.unwrap();
    let backend = opened.backend.clone();
    backend.register(backend.epoch(), &crate::support::states()).unwrap();
    let session = dstl::backend::Session::start(backend.clone(), backend.epoch()).unwrap();
    let mut task = Task { opened, session };
    for id in 1..=CHECKPOINTS {
        task.put(id - 1, &[("key", &id.to_be_bytes())]);
        checkpoint(&mut task, id, bytes).await;
    }
    sleep(Duration::from_secs(60)).await;
    daemon.crash();
    world
}

/// The sizes of all manifests, and the number of pages.
async fn sizes(world: &World) -> (Vec<u64>, usize) {
    let (mut manifests, mut pages) = (vec![], 0);
    for meta in world.store().list(&Path::default(), Retry::none()).await.unwrap() {
        match ObjectName::parse(&meta.path) {
            Some(ObjectName::Manifest { .. }) => manifests.push(meta.size),
            Some(ObjectName::IndexPage { .. }) => pages += 1,
            _ => {}
        }
    }
    (manifests, pages)
}

async fn sweep(world: &World) {
    let options = SweepOptions { grace: Duration::ZERO, now_ms: 0, delete: true };
    collect::sweep(&world.store(), &Name::new("job").unwrap(), &options, Retry::none()).await.unwrap();
    everything_named_is_there(world).await;
}

async fn open(daemon: &Daemon, attempt: u64, restore: RestoreFrom) -> Result<Opened, Error> {
    daemon.directory.open(OpenSpec { restore, ..spec(0, 1, attempt) }, |_| {}).await
}

async fn bounded(inner: InnerBackend) {
    for changelog in [true, false] {
        let (manifests, pages) = sizes(&ran(inner, changelog, BYTES).await).await;
        let most = manifests.into_iter().max().unwrap();
        assert!(most < (BYTES + (24 << 10)) as u64, "a manifest of {most} bytes");
        assert!(pages > 0 && pages as u64 <= CHECKPOINTS, "{pages} pages");
        // A few bytes are cheaper in the manifest than beside it.
        assert_eq!(sizes(&ran(inner, changelog, 100).await).await.1, 0);
    }
}

async fn given_back(inner: InnerBackend) {
    let world = ran(inner, true, BYTES).await;
    for (attempt, id) in [(2, CHECKPOINTS), (4, 7), (6, 1)] {
        sweep(&world).await;
        let daemon = Daemon::start(&world, settings(inner, 100 * attempt));
        // The second time on the same daemon, which may have the state at hand.
        for attempt in [attempt, attempt + 1] {
            let opened = open(&daemon, attempt, RestoreFrom::Id(id)).await.unwrap();
            assert_eq!(opened.attachment, attachment(id, BYTES), "checkpoint {id}");
        }
        daemon.crash();
    }
    let daemon = Daemon::start(&world, settings(inner, 900));
    let mut task = daemon.task(20, RestoreFrom::Id(7)).await.unwrap();
    assert_eq!(task.opened.attachment, attachment(7, BYTES));
    checkpoint(&mut task, CHECKPOINTS + 1, 10).await;
    // Without the checkpoints that they are of, the pages go.
    for id in 1..=CHECKPOINTS {
        let target = dstl::checkpoint::ledger::NoticeTarget { epoch: 1, id, uuid: None };
        task.session.notice(NoticeKind::Discard, target).unwrap();
    }
    // Nor does the log of what was restored need one.
    task.notice(NoticeKind::Discard, CHECKPOINTS + 1);
    task.opened.backend.materialize(task.opened.backend.epoch()).await.unwrap();
    sleep(Duration::from_secs(60)).await;
    checkpoint(&mut task, CHECKPOINTS + 2, 10).await;
    sleep(Duration::from_secs(60)).await;
    sweep(&world).await;
    let left = world.paths("/index/").await;
    assert_eq!(left, [] as [String; 0], "pages are left");
}

async fn elsewhere(inner: InnerBackend) {
    let world = ran(inner, true, BYTES).await;
    let daemon = Daemon::start(&world, settings(inner, 100));
    let heads =
        dstl::checkpoint::job::read_heads(&world.store(), &Name::new("job").unwrap(), Retry::none()).await.unwrap();
    let checkpoint = heads[0].checkpoints[6].identity;
    let handle = dstl::checkpoint::handle::CheckpointHandle { backend: heads[0].backend.clone(), checkpoint };
    let mut clone = OpenSpec { restore: RestoreFrom::Handles(vec![handle]), ..spec(0, 1, 1) };
    clone.id.job = Name::new("clone").unwrap();
    let opened = daemon.directory.open(clone, |_| {}).await.unwrap();
    assert_eq!(opened.attachment, attachment(7, BYTES));
    for subtask in [0, 1] {
        let spec = OpenSpec { restore: RestoreFrom::Id(7), ..spec(subtask, 2, 2) };
        let opened = daemon.directory.open(spec, |_| {}).await.unwrap();
        assert_eq!(opened.parts.len(), 1);
        assert_eq!(opened.parts[0].attachment, attachment(7, BYTES), "subtask {subtask}");
    }
}

async fn lost(inner: InnerBackend) {
    let world = ran(inner, true, BYTES).await;
    // The last one that moved.
    let heads =
        dstl::checkpoint::job::read_heads(&world.store(), &Name::new("job").unwrap(), Retry::none()).await.unwrap();
    let newest = heads[0].checkpoints.last().unwrap();
    let path = newest.attachment.page().unwrap().name(&heads[0].backend).path();
    world.objects.delete(&path).await.unwrap();
    let daemon = Daemon::start(&world, settings(inner, 100));
    let refused = open(&daemon, 2, RestoreFrom::Id(CHECKPOINTS)).await.unwrap_err();
    assert_eq!(refused.reason, Reason::MissingObject);
    assert!(refused.message.contains(path.as_ref()), "{refused}");
    let restore = RestoreFrom::Latest { or_empty: false };
    let fallback = OpenSpec { restore, fallback: true, ..spec(0, 1, 3) };
    let opened = daemon.directory.open(fallback, |_| {}).await.unwrap();
    let id = opened.checkpoint.unwrap().id;
    assert_eq!((id, opened.attachment.to_vec()), (CHECKPOINTS - 1, attachment(CHECKPOINTS - 1, BYTES)));
    assert_eq!(opened.skipped.len(), 1);
}
