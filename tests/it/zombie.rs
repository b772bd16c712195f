//! A daemon that stops at any request, is succeeded and swept behind, and goes on.

use std::{sync::Arc, time::Duration};

use dstl::{
    backend::{BackendOptions, RestoreFrom},
    checkpoint::{handle::CheckpointHandle, ledger::NoticeKind, manifest::Manifest},
    error::{Error, Reason},
    object::Retry,
    types::InnerBackend,
};
use parking_lot::Mutex;

use crate::{
    engine::{Engine, Story, all_restore, head, nothing_unreferenced_stays, sweep},
    gate::Gate,
    support::{Daemon, Settings, World},
};

/// Longer than any retry of the one that goes on.
const LONG: Duration = Duration::from_secs(3600);

/// How the successor begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Latest,
    /// The oldest that is retained: it uses ids of the zombie again.
    Oldest,
}

fn settings(inner: InnerBackend, seed: u64) -> Settings {
    let settings = Settings::on_request(inner, seed);
    // Some tails go inline, others into segments.
    let options = BackendOptions { data_inline_threshold: 100, ..settings.options };
    Settings { options, ..settings }
}

/// Writes, cuts, completes, materializes, subsumes: until it is fenced, or through.
async fn work(mut engine: Engine, first: u64) -> Result<(), Error> {
    let mut flights = vec![];
    for id in first..first + 10 {
        for _ in 0..=id % 3 {
            engine.write().await?;
        }
        flights.push((id, engine.barrier(id)));
        engine.write().await?;
        if id % 3 == 0 {
            engine.backend.persist(engine.backend.epoch()).await?;
        }
        if id % 2 == 0 {
            for (id, flight) in flights.drain(..) {
                flight.await?;
                engine.notice(NoticeKind::Complete, (engine.epoch(), id))?;
            }
        }
        if id % 4 == 2 {
            engine.backend.materialize(engine.backend.epoch()).await?;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    Ok(())
}

/// Numbers and epochs of all manifests.
async fn manifests(world: &World) -> Vec<(u64, u64)> {
    let mut found = vec![];
    for path in world.paths("/manifest/").await {
        let path = dstl::object::Path::parse(path).unwrap();
        let manifest = Manifest::decode(&world.store().get(&path, Retry::none()).await.unwrap()).unwrap();
        found.push((manifest.number, manifest.owner().epoch.number));
    }
    found
}

/// How the old owner ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It made no such request.
    NotStopped,
    Fenced,
    /// What was last on its way had arrived before its successor came.
    Through,
}

/// One life, with the old owner stopped at its request `at`.
async fn haunt(inner: InnerBackend, from: From, (at, after_effect): (u64, bool)) -> End {
    let (world, story) = (World::new(), Arc::new(Mutex::new(Story::default())));
    let (seen, gate) = Gate::before(&world);
    let old = Daemon::start(&seen, settings(inner, 1));
    let first = Engine::open(&old, &story, 1, RestoreFrom::Empty).await.unwrap();
    let old_epoch = first.epoch();
    gate.close_after(at, after_effect);
    let mut working = tokio::spawn(work(first, 1));
    tokio::select! {
        biased;
        ended = &mut working => {
            ended.unwrap().unwrap();
            return End::NotStopped;
        }
        () = gate.closed() => {}
    }
    let new = Daemon::start(&world, settings(inner, 50));
    let retained: Vec<_> = head(&world).await.unwrap().checkpoints.iter().map(|record| record.identity).collect();
    let restore = match (from, retained.first()) {
        (From::Oldest, Some(oldest)) => {
            let backend = head(&world).await.unwrap().backend;
            RestoreFrom::Handles(vec![CheckpointHandle { backend, checkpoint: *oldest }])
        }
        _ => RestoreFrom::Latest { or_empty: true },
    };
    let newest = story.lock().newest();
    let mut second = Engine::open(&new, &story, 2, restore).await.unwrap();
    if from == From::Latest {
        assert!(second.restored >= newest, "restored {:?}, and {newest:?} was promised", second.restored);
    }
    let opened = head(&world).await.unwrap().number;
    sweep(&world).await;
    let id = second.restored.map_or(0, |(_, id)| id);
    second.write().await.unwrap();
    second.barrier(id + 1).await.unwrap();
    second.backend.materialize(second.backend.epoch()).await.unwrap();
    second.write().await.unwrap();
    second.barrier(id + 2).await.unwrap();
    second.notice(NoticeKind::Complete, (second.epoch(), id + 2)).unwrap();
    sweep(&world).await;
    gate.open();
    let end = match tokio::time::timeout(LONG, working).await.unwrap().unwrap() {
        Ok(()) => End::Through,
        Err(error) => {
            assert_eq!(error.reason, Reason::Fenced, "{error}");
            End::Fenced
        }
    };
    sweep(&world).await;
    let stale = manifests(&world).await.into_iter().find(|(number, epoch)| *number >= opened && *epoch == old_epoch);
    assert_eq!(stale, None, "a stale owner published");
    second.write().await.unwrap();
    second.barrier(id + 3).await.unwrap();
    let third = Daemon::start(&world, settings(inner, 90));
    let attempt = all_restore(&world, &third, &story, 3).await;
    nothing_unreferenced_stays(&world, &third, &story, attempt).await;
    end
}

async fn haunt_all(inner: InnerBackend, from: From, every: usize) {
    let mut ends = vec![];
    for at in (0..).step_by(every) {
        let both = [haunt(inner, from, (at, false)).await, haunt(inner, from, (at, true)).await];
        if both.contains(&End::NotStopped) {
            break;
        }
        ends.extend(both);
    }
    let fenced = ends.iter().filter(|end| **end == End::Fenced).count();
    println!("stopped {} times, fenced {fenced} times", ends.len());
    assert!(ends.len() * every > 20 && fenced * 4 > ends.len() * 3, "{ends:?}");
}

#[tokio::test(start_paused = true)]
async fn a_zombie_of_hashmap_stopped_at_any_request_publishes_nothing_and_loses_nothing_of_its_successor() {
    haunt_all(InnerBackend::HashMap, From::Latest, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_zombie_whose_successor_goes_back_and_uses_its_ids_again() {
    haunt_all(InnerBackend::HashMap, From::Oldest, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_zombie_of_rocksdb_stopped_at_any_request_publishes_nothing_and_loses_nothing_of_its_successor() {
    haunt_all(InnerBackend::RocksDb, From::Latest, 3).await;
    haunt_all(InnerBackend::RocksDb, From::Oldest, 4).await;
}
