//! A generation that restores, stopped before each of its requests to the store, while the one before it goes on,
//! subsumes what is restored and is swept.

use std::sync::Arc;

use dstl::backend::{BarrierRequest, ClaimMode, SessionEvent};

use super::{
    claims::{Way, restored, source},
    *,
};
use crate::claims::{
    dated,
    stepping::{Gate, SteppingStore},
};

/// The next checkpoint of a generation that may have been fenced meanwhile; as far as it gets.
async fn advance(fleet: &mut Fleet, id: u64) {
    for subtask in &mut fleet.subtasks {
        let backend = subtask.task.opened.backend.clone();
        if backend.has_ended() {
            return;
        }
        subtask.apply("split", None, Op::ListAdd(b"nobody sees it"));
        drop(backend.materialize(backend.epoch()).await);
        let barrier = BarrierRequest { id, attachment: Bytes::new(), timeout: None };
        let is_there = subtask.task.session.barrier(barrier).is_ok();
        if !is_there || !matches!(subtask.task.event().await, SessionEvent::CheckpointCompleted(_)) {
            return;
        }
    }
    for subtask in &mut fleet.subtasks {
        if !subtask.task.opened.backend.has_ended() {
            subtask.task.notice(NoticeKind::Complete, id);
        }
    }
}

/// Opens all subtasks of the next generation, in the order of their numbers.
async fn open_all(daemon: &Daemon, way: Way, claim: ClaimMode, from: &RestoreFrom) -> Result<Vec<Subtask>, Error> {
    let (mut subtasks, parallelism) = (vec![], way.parallelism.1);
    for subtask in 0..parallelism {
        let spec = OpenSpec { restore: from.clone(), claim: Some(claim), ..spec(subtask, parallelism, 2) };
        subtasks.push(Subtask::open(daemon, spec).await?);
    }
    Ok(subtasks)
}

/// Restores with trouble before request `stops_at`; `None` once all is open before that. Else whether it succeeded.
async fn attempt(way: Way, claim: ClaimMode, stops_at: u64) -> Option<bool> {
    let world = dated();
    let gate = Gate::before(stops_at);
    let stepping = Arc::new(SteppingStore { store: world.objects.clone(), gate: gate.clone() });
    let slow = World { objects: stepping, ..world.clone() };
    let (one, two) = (way.start(&world, 1), way.start(&slow, 100));
    let mut running = source(&one, way).await;
    let (model, from) = (running.model.clone(), RestoreFrom::Handles(running.handles.clone()));
    let opening = open_all(&two, way, claim, &from);
    tokio::pin!(opening);
    tokio::select! {
        biased;
        _ = gate.stopped.acquire() => {}
        opened = &mut opening => {
            assert_eq!(opened.unwrap().len(), way.parallelism.1 as usize);
            return None;
        }
    }
    for id in 2..5 {
        advance(&mut running, id).await;
        sweep(&world).await;
    }
    gate.goes_on.add_permits(1);
    let opened = opening.await;
    let again = way.start(&world, 200);
    let subtasks = match opened {
        Ok(subtasks) => subtasks,
        Err(error) => {
            assert_eq!(error.reason, Reason::CheckpointNotFound, "{way:?} before request {stops_at}: {error}");
            // What is left restores.
            for subtask in 0..way.parallelism.0 {
                Subtask::open(&again, OpenSpec { restore: LATEST, ..spec(subtask, way.parallelism.0, 3) })
                    .await
                    .unwrap();
            }
            return Some(false);
        }
    };
    sweep(&world).await;
    let model_then = model.redistributed(way.parallelism.1 as usize);
    let mut fleet = Fleet { subtasks, model: model_then, random: Random::seeded(7), handles: vec![] };
    fleet.check();
    fleet.write(30);
    fleet.checkpoint(9).await;
    sweep(&world).await;
    if claim == ClaimMode::NoClaim {
        let old = Way { parallelism: (0, way.parallelism.0), ..way };
        restored(&world, &again, ("other", 1, None), (old, &from, &model)).await.check();
    }
    let newest = fleet.model.clone();
    two.directory.environment().tasks.abort_all();
    let same = Way { parallelism: (0, way.parallelism.1), ..way };
    restored(&world, &again, ("job", 3, None), (same, &LATEST, &newest)).await.check();
    Some(true)
}

async fn at_every_step(inner: InnerBackend, claim: ClaimMode) {
    // A local store takes long to open and has many files, one as good as the other.
    let on_disk = inner == InnerBackend::RocksDb;
    for parallelism in if on_disk { &[(1, 2)][..] } else { &[(1, 2), (2, 1), (1, 1)] } {
        let parallelism = *parallelism;
        let way = Way { inner, changelog: true, inline: parallelism == (2, 1), parallelism };
        let (mut outcomes, mut request) = (vec![], 1);
        while let Some(succeeded) = attempt(way, claim, request).await {
            outcomes.push(succeeded);
            request += if on_disk { 1 + request / 2 } else { 1 };
        }
        assert!(outcomes.contains(&true) && outcomes.contains(&false), "{way:?}: {outcomes:?}");
    }
}

on_both! {
    a_restore_that_claims_nothing_races_its_source: |inner| super::at_every_step(inner, super::ClaimMode::NoClaim);
    a_restore_that_claims_races_its_source: |inner| super::at_every_step(inner, super::ClaimMode::Claim);
}
