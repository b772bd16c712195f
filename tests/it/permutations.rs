//! Barriers in flight, and notices in any order, repeated, late and about checkpoints of other attempts, with a crash
//! at every request to the store.

use std::{cell::Cell, sync::Arc, time::Duration};

use dstl::{
    backend::{BackendOptions, RestoreFrom},
    checkpoint::ledger::{NoticeKind, Retention},
    error::Error,
    types::InnerBackend,
};
use parking_lot::Mutex;
use proptest::{
    prelude::*,
    test_runner::{Config, TestRng, TestRunner},
};

use crate::{
    engine::{Engine, Story, all_restore, nothing_unreferenced_stays, sweep},
    gate::Gate,
    support::{Daemon, Settings, World},
};

/// What an engine does.
#[derive(Debug, Clone, Copy)]
enum Act {
    Write,
    /// Another checkpoint; its reply is not waited for.
    Barrier,
    /// Waits for the replies of all barriers.
    Replies,
    /// About the checkpoint that is so many back, of this attempt or those before.
    Notice(NoticeKind, usize),
    Persist,
    Materialize,
    /// Lets so many milliseconds pass: manifests are written, or not yet.
    Pause(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let kind = prop_oneof![
        4 => Just(NoticeKind::Complete),
        1 => Just(NoticeKind::Abort),
        2 => Just(NoticeKind::Subsume),
        1 => Just(NoticeKind::Discard),
    ];
    prop_oneof![
        5 => Just(Act::Write),
        5 => Just(Act::Barrier),
        2 => Just(Act::Replies),
        6 => (kind, 0..5_usize).prop_map(|(kind, back)| Act::Notice(kind, back)),
        1 => Just(Act::Persist),
        1 => Just(Act::Materialize),
        6 => (0..300_u64).prop_map(Act::Pause),
    ]
}

/// One life of a job: what its first and its second owner do.
#[derive(Debug, Clone)]
struct Plan {
    acts: [Vec<Act>; 2],
    retention: Retention,
    /// Batches up to so many bytes go inline.
    inline: usize,
}

fn plan() -> impl Strategy<Value = Plan> {
    let acts = || prop::collection::vec(act(), 8..24);
    let retention = prop_oneof![Just(Retention::Explicit), (1..4_usize).prop_map(Retention::Count)];
    ([acts(), acts()], retention, prop_oneof![Just(0), Just(100), Just(1000)])
        .prop_map(|(acts, retention, inline)| Plan { acts, retention, inline })
}

fn settings(inner: InnerBackend, plan: &Plan, seed: u64) -> Settings {
    let settings = Settings::on_request(inner, seed);
    let (retention, data_inline_threshold) = (plan.retention, plan.inline);
    let options = BackendOptions { retention, data_inline_threshold, ..settings.options };
    Settings { options, ..settings }
}

/// Ids of all checkpoints so far, of whichever attempt.
type Known = Vec<(u64, u64)>;

async fn play(mut engine: Engine, acts: Vec<Act>, mut known: Known) -> Result<Known, Error> {
    let mut id = engine.restored.map_or(0, |(_, id)| id);
    let mut flights = vec![];
    for act in acts {
        match act {
            Act::Write => engine.write().await?,
            Act::Barrier => {
                id += 1;
                flights.push(engine.barrier(id));
                known.push((engine.epoch(), id));
            }
            Act::Replies => {
                for flight in flights.drain(..) {
                    // One that was aborted fails.
                    drop(flight.await);
                }
            }
            Act::Notice(kind, back) => {
                if let Some(key) = known.iter().nth_back(back) {
                    engine.notice(kind, *key)?;
                    engine.notice(kind, *key)?;
                }
            }
            Act::Persist => drop(engine.backend.persist(engine.backend.epoch()).await?),
            Act::Materialize => drop(engine.backend.materialize(engine.backend.epoch()).await?),
            Act::Pause(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
        }
    }
    for flight in flights {
        drop(flight.await);
    }
    Ok(known)
}

/// Runs `plan` with a crash of its first or second owner's daemon at its request `at`; `false` if there is no such
/// request.
async fn crash(inner: InnerBackend, plan: &Plan, owner: usize, (at, after_effect): (u64, bool)) -> bool {
    let (world, story) = (World::new(), Arc::new(Mutex::new(Story::default())));
    let (mut known, mut is_reached) = (vec![], false);
    for (number, acts) in (0_u64..).zip(&plan.acts) {
        let (seen, gate) = Gate::before(&world);
        let daemon = Daemon::start(&seen, settings(inner, plan, 1 + number * 50));
        let restore = RestoreFrom::Latest { or_empty: story.lock().newest().is_none() };
        let newest = story.lock().newest();
        let engine = Engine::open(&daemon, &story, 1 + number, restore).await.unwrap();
        assert!(engine.restored >= newest, "restored {:?}, and {newest:?} was promised", engine.restored);
        if number == owner as u64 {
            gate.close_after(at, after_effect);
        }
        let mut playing = tokio::spawn(play(engine, acts.clone(), known.clone()));
        tokio::select! {
            biased;
            played = &mut playing => known = played.unwrap().unwrap(),
            () = gate.closed() => {
                is_reached = true;
                playing.abort();
            }
        }
        daemon.crash();
        sweep(&world).await;
    }
    let daemon = Daemon::start(&world, settings(inner, plan, 200));
    let attempt = all_restore(&world, &daemon, &story, 3).await;
    nothing_unreferenced_stays(&world, &daemon, &story, attempt).await;
    is_reached
}

fn cases() -> u32 {
    std::env::var("DSTL_MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(4)
}

/// Plans of this seed, each with a crash at every request, and before and after its effect.
fn crash_everywhere(inner: InnerBackend, seed: u8, every: usize) {
    let (config, rng) = (
        Config {
            failure_persistence: None,
            cases: cases().div_ceil(u32::try_from(every).unwrap().min(2)),
            ..Config::default()
        },
        TestRng::from_seed(proptest::test_runner::RngAlgorithm::ChaCha, &[seed; 32]),
    );
    let crashes = Cell::new(0);
    let run = |plan: &Plan, owner, stop| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let is_reached = runtime.block_on(crash(inner, plan, owner, stop));
        crashes.set(crashes.get() + u32::from(is_reached));
        is_reached
    };
    let everywhere = |plan| {
        for owner in 0..2 {
            let mut stops = (0..).step_by(every);
            while stops.next().is_some_and(|at| run(&plan, owner, (at, false)) && run(&plan, owner, (at, true))) {}
        }
        Ok(())
    };
    TestRunner::new_with_rng(config, rng).run(&plan(), everywhere).unwrap();
    let crashes = crashes.get();
    println!("{crashes} crashes");
    assert!(crashes > 10, "{crashes} crashes");
}

#[test]
fn what_was_replied_restores_whatever_the_order_of_notices_and_wherever_hashmap_crashes() {
    crash_everywhere(InnerBackend::HashMap, 1, 1);
}

#[test]
fn what_was_replied_restores_whatever_the_order_of_notices_and_wherever_rocksdb_crashes() {
    crash_everywhere(InnerBackend::RocksDb, 2, 7);
}
