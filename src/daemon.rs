//! The daemon: a configuration becomes a running service, and stops in order.
//!
//! ```text
//!   Config ─▶ store, environment, directory ─▶ listeners bound ─▶ Ready ─▶ SIGTERM or SIGINT ─▶ Draining ─▶ ended
//! ```
//!
//! Draining refuses opens. Open sessions are served until every backend is closed or `drain-timeout` is over; then the
//! remaining backends are closed in order. A second signal ends the daemon at once. `/live` and `/ready` do not ask the
//! store.

mod folders;
mod grpc;

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    thread::available_parallelism,
    time::Duration,
};

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

use self::grpc::Grpc;
use crate::{
    admin::{AdminError, AdminServer, AdminSources, Heartbeat, Readiness, ReadinessState, Watch, errors::Complaints},
    backend::{BackendMetrics, CreditPool, Directory, Environment, Idle, ProofMetrics, Prover, Turns},
    changelog::{metrics::UploadMetrics, registry::Registry, uploader::SegmentNumbers},
    checkpoint::{
        collect::{
            metrics::GcMetrics,
            schedule::{Collector, ScheduleOptions as SweepSchedule},
        },
        job::Decisions,
    },
    clock::{Clock, Step},
    config::Config,
    error::Error,
    limits,
    metrics::Metrics,
    object::{
        Copies, CopyOptions, CopyScope, Retry, Store,
        open::{self, OpenError},
    },
    random::Random,
    rpc::{
        GuardLayer,
        listener::{Acceptor, Incoming, ListenError},
    },
    state::{image::LocalBackends, set_or_extended},
    tasks::Tasks,
};

/// Threads that may wait for disks at the same time. A worker of the runtime that has to wait hands its other tasks to
/// one of these threads, so there must always be a free one.
const BLOCKING_THREADS: usize = 4096;

/// Delay before a task that panicked is started again.
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// Why the daemon could not start, or ended early.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The store of the configuration cannot be used.
    #[error("opening the object store")]
    Store(#[from] OpenError),
    /// RocksDB is the default inner backend, and its folders cannot be written.
    #[error("making the folders of `state.backend.rocksdb.localdir`")]
    LocalFolders(#[source] std::io::Error),
    /// The gRPC address cannot be taken.
    #[error("listening for tasks")]
    Listen(#[from] ListenError),
    /// The admin address cannot be taken.
    #[error("listening for metrics and health")]
    Admin(#[from] AdminError),
    /// The runtime, the signal handlers or the reflection service could not be set up.
    #[error("starting the daemon")]
    Start(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The gRPC server failed.
    #[error("serving")]
    Serve(#[from] tonic::transport::Error),
}

fn start_error(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> DaemonError {
    DaemonError::Start(error.into())
}

/// Half of the processors: the tasks beside the daemon have the others. More threads wake each other in vain: with two
/// threads on two processors, one operation in flight took 155 instead of 105 microseconds. Long work is done on other
/// threads, see [`tasks::blocking`](crate::tasks::blocking).
fn worker_threads() -> usize {
    available_parallelism().map_or(1, |processors| processors.get().div_ceil(2))
}

/// Runs the daemon until a signal ends it. The status page shows `complaints`.
///
/// # Errors
/// [`DaemonError`]; nothing is left running then.
pub fn serve(config: &Config, complaints: Complaints) -> Result<(), DaemonError> {
    limits::raise_descriptors();
    folders::warn_about_open(config);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().worker_threads(worker_threads()).max_blocking_threads(BLOCKING_THREADS);
    let runtime = builder.build().map_err(start_error)?;
    let served = runtime.block_on(run(config, complaints));
    // A store call that hangs in the background must not keep the process alive.
    runtime.shutdown_timeout(Duration::from_secs(1));
    served
}

async fn run(config: &Config, complaints: Complaints) -> Result<(), DaemonError> {
    let signal = |kind| signal(kind).map_err(start_error);
    // Ordering: the handlers come first. Without them, a signal that arrives while the daemon starts would end it at
    // once, and leave its socket and folders behind.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let hangup = signal(SignalKind::hangup())?;
    let metrics = Metrics::new();
    metrics.register("build_info", "Always 1; the version is in the package", Gauge::<i64>::default()).set(1);
    let store = store(config, &metrics, &Clock::system(), Random::from_os())?;
    let local = local(config, &metrics)?;
    let store = store.with_copies(local_copies(config, &local, &metrics));
    let directory = Directory::new(environment(config, store, local, &metrics));
    directory.environment().tasks.spawn(look_at(directory.environment().store.clone()));
    sweep_by_schedule(config, &directory, &metrics);
    verify_by_schedule(config, &directory, &metrics);
    if let Some(copies) = directory.environment().store.copies() {
        directory.environment().tasks.spawn(keep_copies(directory.environment().tasks.clone(), copies.clone()));
    }
    let readiness = Readiness::starting();
    // Admin first: a task that finds the socket then also finds metrics and health.
    let admin = AdminServer::bind(&config.admin, &metrics).await?;
    let incoming = Incoming::bind(&config.listener, &metrics).await?;
    directory.environment().tasks.spawn(keep_fresh(incoming.tls(), hangup));
    tracing::info!(
        socket = %incoming.socket().display(),
        tcp = incoming.tcp_address().map(tracing::field::display),
        admin = admin.address().map(tracing::field::display),
        store = %config.changelog.base_path,
        instance = %directory.environment().instance,
        version = env!("CARGO_PKG_VERSION"),
        "dstl serves"
    );
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let heartbeat = Heartbeat::starting();
    directory.environment().tasks.spawn(heartbeat.clone().beat());
    let watch = Watch::new(directory.clone(), readiness.clone(), config.store_prices.clone(), complaints);
    directory.environment().tasks.spawn(watch.clone().run());
    // Registers metrics, so it must be before the first scrape.
    let limits = directory.environment().options.limits;
    let grpc = Grpc {
        bounds: config.bounds,
        jobs: config.allowed_jobs.clone(),
        guard: GuardLayer::new(config.bounds, limits, &metrics),
        readiness: readiness.clone(),
    };
    let status = Arc::new(move || watch.snapshot());
    let sources = AdminSources { metrics: metrics.clone(), heartbeat, readiness: readiness.clone(), status };
    let admin = admin.spawn(sources, wait_for(stopped.clone())).map_err(start_error)?;
    #[expect(clippy::disallowed_methods, reason = "its end is awaited below")]
    let mut grpc = tokio::spawn(grpc::serve(directory.clone(), incoming, grpc, wait_for(stopped)));
    // Ordering: ready only now, as the gRPC server runs.
    readiness.advance(ReadinessState::Ready);
    tokio::select! {
        biased;
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        // A daemon that no longer serves must end instead of looking alive.
        ended = &mut grpc => {
            directory.close_all().await;
            return match ended {
                Ok(served) => served.and(Err(start_error("the gRPC server has ended"))),
                Err(panicked) => Err(start_error(panicked)),
            };
        }
    }
    // Ordering 1: `/ready` says so before the first open is refused, so that nobody is sent here in vain.
    // Ordering 2: backends are closed while the servers still run. Tasks need them for their last checkpoints, and
    // operators want to watch.
    // Ordering 3: then the servers stop, and background tasks last, since closing a backend uploads.
    readiness.advance(ReadinessState::Draining);
    tokio::select! {
        biased;
        _ = terminate.recv() => tracing::warn!("a second signal: stopping without draining"),
        _ = interrupt.recv() => tracing::warn!("a second signal: stopping without draining"),
        () = drain(&directory, config.drain_timeout) => {}
    }
    stop.send_replace(true);
    // Streams that clients keep open would otherwise delay the end of the server for ever.
    let served = tokio::time::timeout(Duration::from_secs(1), grpc).await;
    admin.await;
    directory.environment().tasks.abort_all();
    tracing::info!("dstl has stopped");
    match served {
        Ok(Ok(served)) => served,
        Ok(Err(panicked)) => Err(start_error(panicked)),
        Err(_still_open) => Ok(()),
    }
}

/// Says what is wrong with the store, and when it is no more. It may come back by itself, so that nothing else is made
/// of it.
async fn look_at(store: Store) {
    let Err(error) = store.probe(Retry::none()).await else { return };
    let error = Error::from(error).message;
    tracing::warn!(
        error,
        "the object store cannot be used; dstl serves all the same, and what needs the store waits for it"
    );
    if store.probe(Retry::forever()).await.is_ok() {
        tracing::info!("the object store answers now");
    }
}

/// Sweeps the jobs of `directory` in the background, as configured.
fn sweep_by_schedule(config: &Config, directory: &Directory, metrics: &Metrics) {
    let gc_metrics = GcMetrics::register(metrics);
    let Some(interval) = config.gc.interval else { return };
    let (env, directory) = (directory.environment(), directory.clone());
    let options = SweepSchedule { interval, grace: config.gc.grace_period };
    // A sweep must judge by the store itself, not by local copies.
    let store = env.store.clone().with_copies(None);
    let collector = Collector::new(store, env.random.clone(), env.tasks.clone(), options, gc_metrics);
    env.tasks.spawn(collector.run(move || directory.jobs()));
}

/// Verifies the newest checkpoints of the backends of `directory` in the background, as configured.
fn verify_by_schedule(config: &Config, directory: &Directory, metrics: &Metrics) {
    let proof_metrics = ProofMetrics::register(metrics);
    let Some(interval) = config.verify_interval else { return };
    directory.environment().tasks.spawn(Prover::new(directory.clone(), interval, proof_metrics).run());
}

/// Makes and removes local copies. After a panic it starts again; the objects of the interrupted turn are not copied.
async fn keep_copies(tasks: Tasks, copies: Copies) {
    while tasks.catch("the worker of local copies", copies.clone().run()).await.is_err() {
        tokio::time::sleep(RESTART_DELAY).await;
    }
}

async fn wait_for(mut stopped: tokio::sync::watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Waits until every backend is closed or `timeout` is over, then closes the remaining ones.
async fn drain(directory: &Directory, timeout: Duration) {
    // Ordering: opens are refused first. Otherwise new backends could keep the daemon from becoming empty until the
    // timeout.
    directory.drain();
    tracing::info!(backends = directory.count(), timeout_ms = timeout.as_millis(), "draining");
    if tokio::time::timeout(timeout, directory.emptied()).await.is_err() {
        tracing::warn!(backends = directory.count(), "drain-timeout is over: closing the backends that are left");
        directory.close_all().await;
    }
}

/// Loads the TLS files again when they change or when SIGHUP asks for it.
async fn keep_fresh(tls: Option<Acceptor>, mut hangup: tokio::signal::unix::Signal) {
    let watching = async {
        match &tls {
            Some(tls) => tls.clone().keep_fresh().await,
            None => std::future::pending().await,
        }
    };
    let asked = async {
        while hangup.recv().await.is_some() {
            match &tls {
                Some(tls) => tls.reload(true).await,
                None => tracing::info!("SIGHUP: there are no certificates to take again; other options take a restart"),
            }
        }
    };
    tokio::join!(watching, asked);
}

/// The store that a configuration names.
///
/// # Errors
/// If its URL or options are unusable.
pub fn store(config: &Config, metrics: &Metrics, clock: &Clock, random: Random) -> Result<Store, OpenError> {
    let changelog = &config.changelog;
    let options = open::StoreOptions {
        url: changelog.base_path.to_string(),
        options: changelog.store_options.0.clone(),
        retry: changelog.retry,
    };
    open::open(&options, metrics, clock, random)
}

/// The local copies, if they are configured or warm restarts of backends on local disk need them. A daemon that cannot
/// use its folders works without copies: they only save time.
fn local_copies(config: &Config, local: &Local, metrics: &Metrics) -> Option<Copies> {
    let settings = &config.local_copies;
    let for_warm = config.backend.warm && local.backends.is_some();
    let write = match (settings.backup, for_warm) {
        (true, _) => CopyScope::All,
        (false, true) => CopyScope::Wanted,
        (false, false) => CopyScope::Nothing,
    };
    // Copies that serve this process alone are deleted with it.
    let outlives = settings.backup || settings.recovery;
    if !outlives && write == CopyScope::Nothing {
        return None;
    }
    let options = CopyOptions {
        folders: if outlives { settings.dirs.clone() } else { local.copies.clone() },
        write,
        read: settings.recovery,
        max_bytes: settings.max_bytes,
        idle_timeout: settings.idle_timeout,
    };
    let folders = options.folders.clone();
    let opened = Copies::open(options, metrics);
    let unusable = |error: &std::io::Error| {
        tracing::warn!(%error, ?folders, "the folders of local copies cannot be used: no local recovery");
    };
    opened.inspect_err(unusable).ok()
}

/// The identity of this process, and its resources on local disk.
struct Local {
    instance: Uuid,
    backends: Option<Arc<dyn LocalBackends>>,
    /// Folders of local copies that are deleted with the process.
    copies: Vec<PathBuf>,
}

/// Makes the local folders, removing those of dead daemons, and sets RocksDB up in them. A daemon whose folders cannot
/// be written still serves backends in memory.
#[cfg(feature = "rocksdb")]
fn local(config: &Config, metrics: &Metrics) -> Result<Local, DaemonError> {
    use crate::{
        state::{folder::Folders, rocksdb},
        types::InnerBackend,
    };
    let (settings, instance) = (&config.rocksdb, Random::from_os().uuid());
    let folders = match Folders::new(&settings.local_dirs, instance) {
        Ok(folders) => folders,
        Err(error) if config.backend.inner == InnerBackend::HashMap => {
            tracing::warn!(%error, "`state.backend.rocksdb.localdir` cannot be written: RocksDB is not offered");
            return Ok(Local { instance, backends: None, copies: vec![] });
        }
        Err(error) => return Err(DaemonError::LocalFolders(error)),
    };
    let copies = folders.homes().map(|home| home.join("copies")).collect();
    let resources = rocksdb::Resources::new(settings.resources.clone(), folders).map_err(start_error)?;
    rocksdb::register_metrics(&resources, &settings.metrics, metrics);
    Ok(Local { instance, backends: Some(Arc::new(resources)), copies })
}

#[cfg(not(feature = "rocksdb"))]
#[allow(clippy::unnecessary_wraps, reason = "as with RocksDB")]
fn local(_config: &Config, _metrics: &Metrics) -> Result<Local, DaemonError> {
    Ok(Local { instance: Random::from_os().uuid(), backends: None, copies: vec![] })
}

/// The inner backends that tools read RocksDB images with; `None` if the local disk cannot be written or RocksDB is not
/// compiled in.
///
/// # Errors
/// As when a daemon starts.
pub fn local_backends(config: &Config) -> Result<Option<Arc<dyn LocalBackends>>, DaemonError> {
    Ok(local(config, &Metrics::new())?.backends)
}

/// The resources that all backends of a daemon share, as configured.
fn environment(config: &Config, store: Store, local: Local, metrics: &Metrics) -> Environment {
    register_limits(config, metrics);
    let help = "Background tasks and calls that ended with a panic, which is a bug of dstl";
    let tasks = Tasks::new(metrics.register("tasks_panicked", help, Counter::default()));
    let random = Random::from_os();
    let uploads = Registry::new(
        store.clone(),
        tasks.clone(),
        SegmentNumbers::new(local.instance),
        config.changelog.upload.clone(),
        UploadMetrics::register(metrics),
        set_or_extended,
    );
    Environment {
        store,
        clock: clock(metrics),
        random,
        tasks,
        instance: local.instance,
        options: Arc::new(config.backend.clone()),
        uploads,
        credit: CreditPool::new(config.max_in_flight_bytes, config.requests.max_message_bytes as u64),
        state_bytes: Arc::new(AtomicU64::new(0)),
        local: local.backends,
        materializing: Turns::default(),
        decisions: Decisions::default(),
        idle: Idle::default(),
        metrics: BackendMetrics::register(metrics),
    }
}

/// The clock of all backends. It reports jumps of the system's clock in the log and in metrics.
fn clock(metrics: &Metrics) -> Clock {
    let steps = metrics.register(
        "clock_steps",
        "Times that the system's clock stepped by more than a minute, ahead or back",
        Counter::<u64>::default(),
    );
    let is_wrong =
        metrics.register("clock_wrong", "1 while the system's clock is not believed", Gauge::<i64>::default());
    Clock::steady_system(move |step| match step {
        Step::Ahead(ms) => {
            steps.inc();
            is_wrong.set(1);
            tracing::warn!(
                ahead_ms = ms,
                "the system's clock stepped ahead: not believed unless that lasts for 10 minutes; time-to-live goes on by the time that passes"
            );
        }
        Step::Back(ms) => {
            steps.inc();
            is_wrong.set(1);
            tracing::warn!(
                back_ms = ms,
                "the system's clock stepped back: time-to-live goes on by the time that passes, until the clock has come up"
            );
        }
        Step::Believed(ms) => {
            is_wrong.set(0);
            tracing::warn!(
                ahead_ms = ms,
                "the system's clock has been ahead for long: it is believed; what has expired by it is gone"
            );
        }
        Step::Right => {
            is_wrong.set(0);
            tracing::info!("the system's clock is plausible again");
        }
    })
}

/// Registers the configured limits as gauges, so that alerts can compare usage with them.
fn register_limits(config: &Config, metrics: &Metrics) {
    let limits = [
        ("memory_budget_bytes", "Bytes that the whole daemon may use (memory.budget)", config.memory_budget),
        ("state_limit_bytes", "Bytes that the inner backends may hold (memory.state)", config.backend.state_memory),
        (
            "changelog_pending_limit_bytes",
            "Bytes of changes that may be not yet durable (upload.max-in-flight)",
            config.max_in_flight_bytes,
        ),
        (
            "backend_replay_limit_seconds",
            "How long a replay may take before the writer waits (recovery.max-replay-time)",
            config.backend.materialization.max_replay.as_secs(),
        ),
    ];
    for (name, help, limit) in limits {
        metrics.register(name, help, Gauge::<i64>::default()).set(i64::try_from(limit).unwrap_or(i64::MAX));
    }
}
