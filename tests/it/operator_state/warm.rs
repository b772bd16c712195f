//! Operator state after warm restarts: a subtask that comes back to its daemon has what it had, and the union of what
//! all had.

use super::*;

on_both! {
    subtasks_come_back_warm_and_what_they_write_then_is_durable
    a_subtask_comes_back_twice_to_the_same_checkpoint
}

fn warm(inner: InnerBackend, seed: u64) -> Settings {
    let mut settings = settings(inner, seed);
    settings.options.warm = true;
    settings
}

async fn subtasks_come_back_warm_and_what_they_write_then_is_durable(inner: InnerBackend) {
    for parallelism in [1, 3] {
        let world = World::new();
        let daemon = Daemon::start(&world, warm(inner, 10));
        let mut fleet = Fleet::open(&daemon, (parallelism, 1), &RestoreFrom::Empty, (&Model::default(), 1)).await;
        let mut model = Model::default();
        for attempt in 2..=6 {
            fleet.write(60);
            if attempt % 2 == 0 {
                fleet.materialize().await;
                fleet.write(20);
            }
            // Ids are used again.
            fleet.checkpoint(1 + attempt / 3).await;
            model = fleet.model.clone();
            fleet.write(40);
            fleet = Fleet::open(&daemon, (parallelism, attempt), &LATEST, (&model, attempt)).await;
            for subtask in &fleet.subtasks {
                let opened = &subtask.task.opened;
                assert!(opened.warm, "attempt {attempt}: {}", opened.not_warm);
            }
            fleet.check();
            model = fleet.model.clone();
        }
        fleet.write(30);
        fleet.checkpoint(9).await;
        model.clone_from(&fleet.model);
        fleet.write(30);
        daemon.crash();
        sweep(&world).await;
        let daemon = Daemon::start(&world, warm(inner, 50));
        Fleet::open(&daemon, (parallelism, 20), &LATEST, (&model, 5)).await.check();
    }
}

async fn a_subtask_comes_back_twice_to_the_same_checkpoint(inner: InnerBackend) {
    let world = World::new();
    let daemon = Daemon::start(&world, warm(inner, 10));
    let mut fleet = Fleet::open(&daemon, (2, 1), &RestoreFrom::Empty, (&Model::default(), 1)).await;
    fleet.write(60);
    fleet.materialize().await;
    fleet.write(60);
    fleet.checkpoint(1).await;
    let model = fleet.model.clone();
    for attempt in 2..=4 {
        fleet.write(20);
        fleet = Fleet::open(&daemon, (2, attempt), &RestoreFrom::Id(1), (&model, attempt)).await;
        let warm = fleet.subtasks.iter().filter(|subtask| subtask.task.opened.warm).count();
        // With the union of all it is not what the checkpoint was, so that it cannot be rolled back to that.
        let is_back = attempt == 2 || inner == InnerBackend::RocksDb;
        assert_eq!(warm, if is_back { 2 } else { 0 }, "attempt {attempt}");
        fleet.check();
    }
    fleet.write(20);
    fleet.checkpoint(2).await;
    let model = fleet.model.clone();
    daemon.crash();
    let daemon = Daemon::start(&world, warm(inner, 50));
    Fleet::open(&daemon, (3, 20), &LATEST, (&model, 5)).await.check();
}
