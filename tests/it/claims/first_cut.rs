//! The first cut of an owner without a claim: it has everything, and names only objects of its own.

use dstl::{
    backend::{BarrierRequest, ClaimMode, OpenSpec, RestoreFrom},
    checkpoint::{handle::CheckpointHandle, ledger::NoticeKind},
    object::Retry,
    types::InnerBackend,
};

use super::{check, dated, fill, open, settings, source, spec_of};
use crate::support::{Daemon, World, on_both};

/// How the checkpoint of the source is restored: the new owner is of this job.
const NO_CLAIM: [(&str, Option<ClaimMode>); 2] = [("other", None), ("job", Some(ClaimMode::NoClaim))];

/// Deletes what the source's checkpoint consists of.
async fn delete(world: &World, paths: &[String]) {
    let paths = paths.iter().map(|path| path.as_str().into()).collect();
    world.store().delete_all(paths, Retry::none()).await.unwrap();
}

async fn the_first_cut_without_a_claim_needs_nothing_of_what_was_restored(inner: InnerBackend) {
    for (job, claim) in NO_CLAIM {
        for (changelog, writes) in [(false, false), (false, true), (true, false), (true, true)] {
            let what = format!("job {job}, changelog {changelog}, writes {writes}");
            let world = dated();
            let one = Daemon::start(&world, settings(inner, 1));
            let (running, handle) = source(&one).await;
            let mut old = world.paths("job/segments").await;
            old.extend(world.paths("/snapshot/").await);
            assert!(!old.is_empty(), "{what}");
            drop(running);
            one.crash();
            let two = Daemon::start(&world, settings(inner, 100));
            let spec = OpenSpec { changelog: Some(changelog), ..spec_of(job, 2, handle, claim) };
            let mut task = open(&two.directory, spec).await.unwrap();
            if writes {
                fill(&mut task, 2);
            }
            assert_eq!(task.checkpoint(2).await.self_sustained_since, 2, "{what}");
            task.notice(NoticeKind::Complete, 2);
            delete(&world, &old).await;
            two.crash();
            let three = Daemon::start(&world, settings(inner, 200));
            let spec = spec_of(job, 3, RestoreFrom::Id(2), Some(ClaimMode::NoClaim));
            let spec = OpenSpec { changelog: Some(changelog), ..spec };
            let mut again = open(&three.directory, spec).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            check(&mut again, if writes { 2 } else { 1 });
        }
    }
}

async fn a_backend_without_states_is_materialized_and_restored_without_a_claim(inner: InnerBackend) {
    for changelog in [true, false] {
        let world = dated();
        let one = Daemon::start(&world, settings(inner, 1));
        let spec = OpenSpec { changelog: Some(changelog), ..spec_of("job", 1, RestoreFrom::Empty, None) };
        let source = one.directory.open(spec, |_| {}).await.unwrap().backend;
        if changelog {
            source.materialize(source.epoch()).await.unwrap();
        }
        let barrier = |id| BarrierRequest { id, attachment: "offset 17".into(), timeout: None };
        let completed = source.checkpoint(source.epoch(), barrier(1)).await.unwrap();
        let handle = RestoreFrom::Handles(vec![CheckpointHandle::decode(&completed.handle).unwrap()]);
        for (job, claim) in NO_CLAIM {
            let spec = OpenSpec { changelog: Some(changelog), ..spec_of(job, 2, handle.clone(), claim) };
            let opened = one.directory.open(spec, |_| {}).await.unwrap();
            assert_eq!(&opened.attachment[..], b"offset 17");
            let backend = opened.backend;
            assert_eq!(backend.checkpoint(backend.epoch(), barrier(2)).await.unwrap().self_sustained_since, 2);
            let spec = OpenSpec { changelog: Some(changelog), ..spec_of(job, 3, RestoreFrom::Id(2), claim) };
            // The first states come later.
            let mut task = open(&one.directory, spec).await.unwrap();
            fill(&mut task, 3);
            task.checkpoint(3).await;
            let spec = spec_of(job, 4, RestoreFrom::Id(3), claim);
            check(&mut open(&one.directory, spec).await.unwrap(), 3);
        }
    }
}

on_both! {
    the_first_cut_without_a_claim_needs_nothing_of_what_was_restored
    a_backend_without_states_is_materialized_and_restored_without_a_claim
}
