//! Discarding, and what a user pinned.

use super::*;

/// What a sweep says of what is left of the job.
async fn verdicts(world: &World) -> Vec<Verdict> {
    sweep_job(world, "job").await.findings.into_iter().map(|finding| finding.verdict).collect()
}

async fn a_discarded_job_leaves_only_what_fences_and_its_owner_elsewhere_stops(inner: InnerBackend) {
    let world = dated();
    let (one, two) = (Daemon::start(&world, settings(inner, 1)), Daemon::start(&world, settings(inner, 100)));
    let (mut running, _) = source(&one).await;
    let job = Discard::Job(Name::new("job").unwrap());
    let discarded = two.directory.discard(&job, false).await.unwrap();
    assert_eq!(discarded.checkpoints, 1);
    // It notices with its next manifest, and what it uploaded for that is swept.
    fill(&mut running, 9);
    running.barrier(2);
    let event = running.event().await;
    assert!(format!("{event:?}").contains("Fenced"), "{event:?}");
    assert_eq!(two.directory.discard(&job, false).await.unwrap().checkpoints, 0, "idempotent");
    for part in ["/segments/", "/snapshot/", "/index/", "/pins/", "/renewals/", "/clock"] {
        assert_eq!(count(&world, part).await, 0, "{part}");
    }
    for verdict in verdicts(&world).await {
        assert!(matches!(verdict, Verdict::Live(_)), "{verdict:?}");
    }
    // Its engine may not know: the same attempt begins empty, a higher one too.
    for attempt in [1, 2] {
        let task = open(&two.directory, spec_of("job", attempt, LATEST, None)).await;
        let mut task = task.unwrap();
        assert_eq!((task.opened.checkpoint, task.get(0, "key 1")), (None, None));
        let backend = task.opened.backend.clone();
        let refused = two.directory.discard(&job, true).await.unwrap_err();
        assert_eq!(refused.reason, Reason::InUse, "it is open here");
        two.directory.close(backend.id(), backend.epoch()).await.unwrap();
    }
}

async fn a_job_that_is_being_cloned_is_discarded_only_by_force(inner: InnerBackend) {
    let world = dated();
    let (one, two) = (Daemon::start(&world, settings(inner, 1)), Daemon::start(&world, settings(inner, 100)));
    let (running, handle) = source(&one).await;
    drop(running);
    one.directory.close_all().await;
    let latency = Duration::from_secs(3)..Duration::from_secs(4);
    two.faults.set_plan(FaultPlan { latency, ..FaultPlan::none() });
    let opening = open(&two.directory, spec_of("other", 1, handle, None));
    let discarding = async {
        while count(&world, "/pins/").await == 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        tokio::time::sleep(Duration::from_secs(13)).await;
        let job = Discard::Job(Name::new("job").unwrap());
        let refused = one.directory.discard(&job, false).await.unwrap_err();
        assert_eq!((refused.reason, refused.retryable), (Reason::InUse, true), "{refused}");
        one.directory.discard(&job, true).await.unwrap();
    };
    let (opened, ()) = tokio::join!(opening, discarding);
    assert_eq!(opened.err().unwrap().reason, Reason::PinExpired);
    assert_eq!(count(&world, "job/segments").await + count(&world, "/snapshot/").await, 0);
}

async fn what_a_user_pinned_survives_all_but_force_until_it_is_released(inner: InnerBackend) {
    let world = dated();
    let one = Daemon::start(&world, settings(inner, 1));
    let (mut running, handle) = source(&one).await;
    let backend = running.opened.backend.clone();
    let RestoreFrom::Handles(handles) = &handle else { unreachable!() };
    let identity = handles[0].checkpoint;
    let target = NoticeTarget { epoch: identity.epoch, id: identity.id, uuid: Some(identity.uuid) };
    backend.pin(backend.epoch(), target).await.unwrap();
    for kind in [NoticeKind::Subsume, NoticeKind::Discard] {
        running.session.notice(kind, target).unwrap();
    }
    for id in 2..6 {
        fill(&mut running, id);
        backend.materialize(backend.epoch()).await.unwrap();
        checkpoint(&mut running, id).await;
        sweep_job(&world, "job").await;
    }
    let ids = |task: &Task| {
        let manifest = task.opened.backend.outline().manifest;
        manifest.checkpoints.iter().map(|record| record.identity.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(&running), [1, 5]);
    // Under later owners too, whatever they restore.
    one.crash();
    let two = Daemon::start(&world, settings(inner, 100));
    let mut next = open(&two.directory, spec_of("job", 2, LATEST, None)).await.unwrap();
    check(&mut next, 5);
    fill(&mut next, 6);
    checkpoint(&mut next, 6).await;
    sweep_job(&world, "job").await;
    let three = Daemon::start(&world, settings(inner, 200));
    let discard = Discard::Checkpoint(handles[0].backend.clone(), target);
    assert_eq!(three.directory.discard(&discard, false).await.unwrap_err().reason, Reason::InUse);
    let mut old = open(&three.directory, spec_of("job", 3, handle.clone(), None)).await.unwrap();
    check(&mut old, 1);
    let backend = old.opened.backend.clone();
    assert!(backend.release(backend.epoch(), target).unwrap());
    for id in 7..9 {
        fill(&mut old, id);
        backend.materialize(backend.epoch()).await.unwrap();
        checkpoint(&mut old, id).await;
    }
    old.checkpoint(9).await;
    assert!(!ids(&old).contains(&1), "{:?}", ids(&old));
    assert!(sweep_job(&world, "job").await.deleted().objects > 0);
}

on_both! {
    a_discarded_job_leaves_only_what_fences_and_its_owner_elsewhere_stops
    a_job_that_is_being_cloned_is_discarded_only_by_force
    what_a_user_pinned_survives_all_but_force_until_it_is_released
}
