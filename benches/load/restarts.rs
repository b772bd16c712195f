//! The scenarios of tasks and daemons that die: `warm`, a task that comes back to its daemon, and `kills`, a daemon
//! that is killed at random moments under a writer at full speed.

use std::time::{Duration, Instant};

use dstl::client::{Backend, BatchBuilder, Client, OpenOptions, Restore, Session, StateOptions, ValueState};

use super::{
    Fault, Scenario,
    daemon::Daemon,
    figures::{Distribution, Figures, median},
    options::{Options, no_periodic_materialization},
    restore::{checkpoint, materialize},
    running::Running,
    saturate::run,
    source::Source,
    work::{Prepared, prepare},
};

/// Megabytes of state of `warm`.
const WARM_SIZE: u64 = 1_000;

/// Changes since the checkpoint that a warm restart goes back to.
const SINCE: u64 = 100_000;

/// Restarts of `warm` and of `kills`.
const WARM_RESTARTS: u64 = 5;
const KILLS: u64 = 20;

/// The limit of `kills` for a replay, in seconds.
const MAX_REPLAY_SECONDS: u64 = 5;

/// Settings of warm restarts.
fn warm_settings(on: bool) -> Vec<String> {
    vec![format!("execution.state-recovery.warm={on}"), "memory.undo=512 MiB".to_owned()]
}

/// Restarts of a task whose daemon lives, some changes after a checkpoint; and what it costs a writer that its daemon
/// is ready for them.
pub(crate) async fn warm(options: &Options) -> Result<Vec<Figures>, Fault> {
    let size = options.state_mb.first().copied().unwrap_or(WARM_SIZE);
    let restarted = warm_restarts(&options.with(&warm_settings(true)).of_size(size)).await?;
    Ok([vec![restarted], warm_costs(options).await?].concat())
}

async fn warm_restarts(options: &Options) -> Result<Figures, Fault> {
    let (daemon, client) = Daemon::start(options).await?;
    let mut prepared = prepare(&client, "load", options).await?;
    // As in a task that has run for a while: its state is in a base.
    materialize(&daemon, &prepared).await?;
    let mut figures = Figures::new(Scenario::Warm, options).case("restart");
    let (mut times, mut warm, mut changes) = (vec![], 0_u64, 0_u64);
    for attempt in 2..options.restarts.unwrap_or(WARM_RESTARTS) + 2 {
        checkpoint(&prepared.session, attempt).await?;
        let mut order = prepared.source.clone().seeded(attempt);
        let keys: Vec<u64> = (0..SINCE).map(|_| order.key()).collect();
        prepared.write(keys, options.batch).await?;
        let Prepared { source, session, backend, .. } = prepared;
        // The task is gone, so its backend stays open.
        drop((session, backend));
        let begun = Instant::now();
        let again = reopen(&client, attempt, source).await?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        let opened = again.backend.opened();
        warm += u64::from(opened.warm);
        changes += opened.restored_changes;
        if !opened.not_warm.is_empty() {
            figures.set("not_warm", opened.not_warm.clone());
        }
        prepared = again;
    }
    figures.operations = Some(times.len() as u64);
    figures.daemon_rss_bytes = Some(daemon.usage()?.rss_bytes);
    figures.set("state_bytes", daemon.metrics()?.sum("dstl_state_bytes") as u64);
    figures.set("changes_since_checkpoint", SINCE);
    figures.set("warm_restarts", warm);
    figures.set("restored_changes", changes);
    figures.set("restart_ms", serde_json::json!(Distribution::of(times)));
    Ok(figures)
}

/// Opens the newest checkpoint, as a task does that starts again.
async fn reopen(client: &Client, attempt: u64, source: Source) -> Result<Prepared, Fault> {
    let latest = Restore::Latest { or_empty: false };
    let backend: Backend = client.open(OpenOptions::new("load", "load").attempt(attempt).restore(latest)).await?;
    let state: ValueState<u64, Vec<u8>> = backend.value_state("values", StateOptions::new()).await?;
    let session: Session = backend.session().await?;
    Ok(Prepared { backend, session, state, source, logged: true })
}

/// Updates with and without warm restarts, in turns.
async fn warm_costs(options: &Options) -> Result<Vec<Figures>, Fault> {
    let mut cpu = [vec![], vec![]];
    let mut rates = [vec![], vec![]];
    let mut last = [None, None];
    for _ in 0..options.windows {
        for (at, on) in [true, false].into_iter().enumerate() {
            let options = Options { windows: 1, ..options.with(&warm_settings(on)) };
            let (daemon, client) = Daemon::start(&options).await?;
            let prepared = prepare(&client, "load", &options).await?;
            let figures = run(Scenario::Update, &daemon, &prepared, &options).await?;
            if let (Some(cpu), Some(rates), Some(last)) = (cpu.get_mut(at), rates.get_mut(at), last.get_mut(at)) {
                cpu.extend(figures.daemon_cpu_s_per_million);
                rates.extend(figures.operations_per_second);
                *last = Some(figures);
            }
        }
    }
    let costs = {
        let [on, off] = cpu.each_ref().map(|cpu| median(cpu));
        on / off - 1.0
    };
    let mut cases = vec![];
    for (name, (rates, figures)) in ["writer", "writer_without"].into_iter().zip(rates.into_iter().zip(last)) {
        let mut figures = figures.ok_or("no window was measured")?.case(name);
        figures.scenario = Scenario::Warm;
        figures.set_rates(rates);
        cases.push(figures);
    }
    if let Some(first) = cases.first_mut() {
        first.set("more_daemon_cpu", costs);
    }
    Ok(cases)
}

/// Kills a daemon at random moments under a writer at full speed, and has another one restore on an empty disk. The
/// time of a restore is that of the whole call, so it has the load of the snapshot beside the replay that is limited.
pub(crate) async fn kills(options: &Options) -> Result<Vec<Figures>, Fault> {
    let limit = format!("recovery.max-replay-time={MAX_REPLAY_SECONDS} s");
    let options = &options.with(&[limit, no_periodic_materialization()]);
    let kills = options.restarts.unwrap_or(KILLS);
    let (mut daemon, mut client) = Daemon::start(options).await?;
    let mut prepared = prepare(&client, "load", options).await?;
    let mut random = prepared.source.clone().seeded(11);
    let (mut times, mut changes, mut bytes, mut operations) = (vec![], vec![], vec![], 0);
    let mut push_backs = 0.0;
    for attempt in 2..kills + 2 {
        let mut running = Running::begin(Scenario::Update, &prepared, options.checkpoint_ms(), options).await?;
        let before = running.operations();
        // Not before a first checkpoint of this owner can have completed.
        let least = options.checkpoint_ms().max(1) * 2;
        let time = least + random.below(options.seconds.max(1) * 1_000 * 2);
        running.work_for(Duration::from_millis(time)).await?;
        operations += running.operations() - before;
        push_backs += daemon.metrics()?.sum("dstl_backend_push_backs_total");
        running.stop();
        let source = prepared.source.clone();
        drop((running, prepared));
        (daemon, client) = daemon.again_elsewhere(options).await?;
        let begun = Instant::now();
        prepared = reopen(&client, attempt, source).await?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        changes.push(prepared.backend.opened().restored_changes as f64);
        bytes.push(prepared.backend.opened().restored_bytes as f64);
        rewrite(&prepared).await?;
    }
    let limit = daemon.metrics()?.sum("dstl_backend_replay_limit_seconds");
    let times = Distribution::of(times);
    let mut figures = Figures::new(Scenario::Kills, options);
    figures.operations = Some(operations);
    figures.daemon_rss_bytes = Some(daemon.usage()?.rss_bytes);
    figures.set("kills", kills);
    figures.set("push_backs", push_backs as u64);
    figures.set("limit_ms", limit * 1e3);
    figures.set("restore_ms", serde_json::json!(times));
    figures.set("restore_p99_to_limit", times.p99 / (limit * 1e3));
    figures.set("restored_changes", serde_json::json!(Distribution::of(changes)));
    figures.set("restored_bytes", serde_json::json!(Distribution::of(bytes)));
    Ok(vec![figures])
}

/// Writes one batch and reads it, so that a restore counts only once its backend serves.
async fn rewrite(prepared: &Prepared) -> Result<(), Fault> {
    let mut batch = BatchBuilder::new();
    let mut source = prepared.source.clone();
    batch.push(prepared.state.put(&0, source.value()));
    let read = batch.push(prepared.state.get(&0));
    prepared.session.send(batch).await?.applied().await?.get(read)?.ok_or("a key is missing")?;
    Ok(())
}
