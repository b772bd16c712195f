//! Leases: who cannot renew one stops, and what was only kept for it goes.

use super::*;

const LEASE: Duration = Duration::from_secs(24);

/// A clone whose reads take long, under a lease of 24 seconds.
async fn slow_clone(world: &World, inner: InnerBackend) -> Daemon {
    let mut settings = settings(inner, 100);
    settings.options.pin_lease = LEASE;
    let daemon = Daemon::start(world, settings);
    let latency = Duration::from_secs(3)..Duration::from_secs(4);
    daemon.faults.set_plan(FaultPlan { latency, ..FaultPlan::none() });
    daemon
}

async fn pinned(world: &World) {
    while count(world, "/pins/").await == 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn a_clone_that_cannot_renew_its_lease_stops_with_a_typed_error_and_may_try_again(inner: InnerBackend) {
    let world = dated();
    let (one, two) = (Daemon::start(&world, settings(inner, 1)), slow_clone(&world, inner).await);
    let (mut running, handle) = source(&one).await;
    let opening = open(&two.directory, spec_of("other", 1, handle.clone(), None));
    let outage = async {
        pinned(&world).await;
        tokio::time::sleep(Duration::from_secs(16)).await;
        two.faults.set_outage(true);
        let began = tokio::time::Instant::now();
        // For the store, the lease is over by now, and the source is swept.
        tokio::time::sleep(Duration::from_secs(40)).await;
        for id in [2, 3] {
            fill(&mut running, id);
            running.opened.backend.materialize(running.opened.backend.epoch()).await.unwrap();
            checkpoint(&mut running, id).await;
        }
        world.time.fetch_add(120_000, Ordering::Relaxed);
        sweep_job(&world, "job").await;
        sweep_job(&world, "job").await;
        began
    };
    let (stopped, began) = tokio::join!(
        async {
            let opened = opening.await;
            (opened.err().unwrap(), tokio::time::Instant::now())
        },
        outage
    );
    let (error, at) = stopped;
    assert_eq!((error.reason, error.retryable), (Reason::PinExpired, true), "{error}");
    // It tries to release the pin, too.
    assert!(at - began < LEASE + Duration::from_secs(5), "it went on for {:?} without a lease", at - began);
    assert_eq!(two.directory.count(), 0, "nothing half open is left");
    two.faults.set_outage(false);
    two.faults.set_plan(FaultPlan::none());
    let gone = open(&two.directory, spec_of("other", 1, handle, None)).await.err().unwrap();
    assert_eq!(gone.reason, Reason::CheckpointNotFound);
    let newest = checkpoint(&mut running, 4).await;
    let mut clone = open(&two.directory, spec_of("other", 1, newest, None)).await.unwrap();
    check(&mut clone, 3);
    assert_eq!(count(&world, "/pins/").await + count(&world, "/renewals/").await, 0);
}

async fn a_slow_clone_renews_its_lease_until_it_has_all(inner: InnerBackend) {
    let world = dated();
    let (one, two) = (Daemon::start(&world, settings(inner, 1)), slow_clone(&world, inner).await);
    let (mut running, handle) = source(&one).await;
    let opening = open(&two.directory, spec_of("other", 1, handle, None));
    let began = tokio::time::Instant::now();
    let meanwhile = async {
        while count(&world, "other/operators").await == 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        for id in [2, 3] {
            fill(&mut running, id);
            running.opened.backend.materialize(running.opened.backend.epoch()).await.unwrap();
            checkpoint(&mut running, id).await;
        }
        // Sweeps see the lease as young as its last renewal.
        let mut renewals = 0;
        while count(&world, "/pins/").await > 0 {
            world.time.fetch_add(1_000, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(1)).await;
            renewals = renewals.max(count(&world, "/renewals/").await);
            sweep_job(&world, "job").await;
        }
        renewals
    };
    let (clone, renewals) = tokio::join!(opening, meanwhile);
    let mut clone = clone.unwrap();
    assert!(began.elapsed() > LEASE, "longer than one lease: {:?}", began.elapsed());
    assert!(renewals >= 2, "{renewals}");
    check(&mut clone, 1);
    sweep_job(&world, "job").await;
    assert_eq!(count(&world, "/renewals/").await, 0);
}

on_both! {
    a_clone_that_cannot_renew_its_lease_stops_with_a_typed_error_and_may_try_again
    a_slow_clone_renews_its_lease_until_it_has_all
}
