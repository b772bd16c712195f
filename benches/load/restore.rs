//! The scenario `restore`: a daemon is killed, and another one on another host's disk restores from the store alone.

use std::{fs, path::Path, time::Instant};

use bytes::Bytes;
use dstl::{
    client::{Backend, BatchBuilder, Client, OpenOptions, Restore, Session, StateOptions, ValueState},
    proto::v1::{KeyGroupAssignment, MaterializeRequest, state_backend_service_client::StateBackendServiceClient},
};
use tokio::task::JoinSet;

use super::{
    Fault, Scenario,
    daemon::Daemon,
    echo::channel,
    figures::{Figures, median},
    options::{Options, no_materialization},
    source::Source,
    work::{Prepared, prepare},
};

/// Every key is written so many times more, for the log.
const ROUNDS: u64 = 2;

/// Subtasks before and after a rescale.
const BEFORE: u32 = 2;
const AFTER: u32 = 3;

/// The attempt of the first restore.
const FIRST_ATTEMPT: u64 = 2;

/// Key groups of an operator that is rescaled.
const KEY_GROUPS: u32 = 128;

/// The objects that the new daemon has to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Log,
    /// The same on one processor.
    LogOnOneCore,
    Snapshot,
    Both,
}

impl Of {
    fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::LogOnOneCore => "log_on_one_core",
            Self::Snapshot => "snapshot",
            Self::Both => "snapshot_and_log",
        }
    }
}

/// Restores the log alone, on all processors and on one, a snapshot alone, both, and both with another parallelism.
/// Each is restored as often as there are windows, by a new daemon each time.
pub(crate) async fn measure(options: &Options) -> Result<Vec<Figures>, Fault> {
    let options = &options.with(&no_materialization());
    let mut cases = vec![];
    for of in [Of::Log, Of::LogOnOneCore, Of::Snapshot, Of::Both] {
        let mut figures = one(of, options).await?;
        let all = cases.first().and_then(|figures: &Figures| figures.operations_per_second);
        if let Some((all, own)) = all.zip(figures.operations_per_second).filter(|_| of == Of::LogOnOneCore) {
            figures.set("all_cores_to_one", all / own);
        }
        cases.push(figures);
    }
    cases.push(rescaled(options).await?);
    Ok(cases)
}

async fn one(of: Of, options: &Options) -> Result<Figures, Fault> {
    let (daemon, client) = Daemon::start(options).await?;
    let mut prepared = prepare(&client, "restore", options).await?;
    if of == Of::Both || of == Of::Snapshot {
        materialize(&daemon, &prepared).await?;
    }
    if of != Of::Snapshot {
        for _ in 0..ROUNDS {
            let mut order = prepared.source.clone().seeded(3);
            let keys: Vec<u64> = (0..order.keys()).map(|_| order.key()).collect();
            prepared.write(keys, options.batch).await?;
        }
    }
    checkpoint(&prepared.session, 1).await?;
    drop(prepared);
    let cpus = (of == Of::LogOnOneCore).then(|| "0".to_owned()).or_else(|| options.daemon_cpus.clone());
    let options = Options { daemon_cpus: cpus, ..options.clone() };
    let (mut daemon, mut restores) = (daemon, Restores::default());
    let mut copies = vec![];
    for attempt in FIRST_ATTEMPT..FIRST_ATTEMPT + options.windows.max(1) as u64 {
        let client: Client;
        (daemon, client) = daemon.again_elsewhere(&options).await?;
        copies.extend(if of == Of::Snapshot { copy_seconds(&daemon)? } else { None });
        let begun = Instant::now();
        let latest = Restore::Latest { or_empty: false };
        let backend = client.open(OpenOptions::new("load", "restore").attempt(attempt).restore(latest)).await?;
        restores.add(begun.elapsed().as_secs_f64(), &[&backend]);
    }
    let seconds = median(&restores.seconds);
    let mut figures = restores.figures(&daemon, &options)?.case(of.name());
    if !copies.is_empty() {
        figures.set("copy_seconds", median(&copies));
        figures.set("seconds_to_copy", seconds / median(&copies));
    }
    Ok(figures)
}

/// The restores of one case, all of the same checkpoint.
#[derive(Debug, Default)]
struct Restores {
    seconds: Vec<f64>,
    changes: u64,
    bytes: u64,
}

impl Restores {
    /// Adds one that took so long, and ended with these backends.
    fn add(&mut self, seconds: f64, backends: &[&Backend]) {
        self.seconds.push(seconds);
        self.changes = backends.iter().map(|backend| backend.opened().restored_changes).sum();
        self.bytes = backends.iter().map(|backend| backend.opened().restored_bytes).sum();
    }

    /// Their figures; the last one was all that its daemon did.
    fn figures(&self, daemon: &Daemon, options: &Options) -> Result<Figures, Fault> {
        let usage = daemon.usage()?;
        let mut figures = Figures::new(Scenario::Restore, options);
        figures.operations = Some(self.changes);
        if self.changes > 0 {
            figures.set_rates(self.seconds.iter().map(|seconds| self.changes as f64 / seconds).collect());
            figures.daemon_cpu_s_per_million = Some(usage.cpu.as_secs_f64() * 1e6 / self.changes as f64);
        }
        figures.daemon_rss_bytes = Some(usage.rss_bytes);
        let seconds = median(&self.seconds);
        figures.set("seconds", seconds);
        figures.set("read_bytes", self.bytes);
        figures.set("read_bytes_per_second", self.bytes as f64 / seconds);
        Ok(figures)
    }
}

/// How long it takes to copy all files of the store, to the same disk; none if the store is not a folder.
fn copy_seconds(daemon: &Daemon) -> Result<Option<f64>, Fault> {
    let Some(store) = daemon.store_folder() else { return Ok(None) };
    let to = daemon.scratch("copied")?;
    let begun = Instant::now();
    copy_all(&store, &to)?;
    let seconds = begun.elapsed().as_secs_f64();
    fs::remove_dir_all(to)?;
    Ok(Some(seconds))
}

fn copy_all(from: &Path, to: &Path) -> Result<(), Fault> {
    let files = walkdir::WalkDir::new(from).into_iter().filter_map(Result::ok);
    for (number, file) in files.filter(|entry| entry.file_type().is_file()).enumerate() {
        fs::copy(file.path(), to.join(number.to_string()))?;
    }
    Ok(())
}

/// Two subtasks write a snapshot and a log, and three restore them at once.
async fn rescaled(options: &Options) -> Result<Figures, Fault> {
    let (daemon, client) = Daemon::start(options).await?;
    let mut tasks = vec![];
    for subtask in 0..BEFORE {
        let task = Subtask::open(&client, subtask, BEFORE, 1, Restore::Latest { or_empty: true }).await?;
        task.write(options).await?;
        materialize_backend(&daemon, &task.backend).await?;
        task.write(options).await?;
        tasks.push(task);
    }
    for task in &tasks {
        checkpoint(&task.session, 1).await?;
    }
    drop(tasks);
    let (mut daemon, mut restores) = (daemon, Restores::default());
    for attempt in FIRST_ATTEMPT..FIRST_ATTEMPT + options.windows.max(1) as u64 {
        let client: Client;
        (daemon, client) = daemon.again_elsewhere(options).await?;
        // All of them come from the two, though the three have no checkpoint of their own yet.
        let begun = Instant::now();
        let mut opening = JoinSet::new();
        for subtask in 0..AFTER {
            let (client, latest) = (client.clone(), Restore::Latest { or_empty: false });
            opening.spawn(async move { Subtask::open(&client, subtask, AFTER, attempt, latest).await });
        }
        let mut opened = vec![];
        while let Some(task) = opening.join_next().await {
            opened.push(task??);
        }
        let seconds = begun.elapsed().as_secs_f64();
        restores.add(seconds, &opened.iter().map(|task| &task.backend).collect::<Vec<_>>());
    }
    Ok(restores.figures(&daemon, options)?.case("rescaled_2_to_3"))
}

/// One subtask of an operator that is rescaled.
struct Subtask {
    backend: Backend,
    session: Session,
    state: ValueState<u64, Vec<u8>>,
}

impl Subtask {
    async fn open(
        client: &Client,
        subtask: u32,
        parallelism: u32,
        attempt: u64,
        restore: Restore,
    ) -> Result<Self, Fault> {
        let options = OpenOptions::new("load", "rescaled").subtask(subtask, parallelism);
        let options = options.max_parallelism(KEY_GROUPS).key_group_assignment(KeyGroupAssignment::Given);
        let backend = client.open(options.attempt(attempt).restore(restore)).await?;
        let state = backend.value_state("values", StateOptions::new()).await?;
        Ok(Self { session: backend.session().await?, backend, state })
    }

    /// Writes all keys of its key groups, and returns once they are durable.
    async fn write(&self, options: &Options) -> Result<(), Fault> {
        let mut source = Source::new(options);
        let range = self.backend.opened().key_groups.ok_or("a subtask without key groups")?;
        let states: Vec<_> = (range.first..=range.last).map(|group| self.state.key_group(group)).collect();
        let mut batch = BatchBuilder::new();
        let mut receipt = None;
        for key in (0..options.keys).filter(|key| (range.first..=range.last).contains(&group_of(*key))) {
            let state = usize::try_from(group_of(key) - range.first)?;
            batch.push(states.get(state).ok_or("a key of another subtask")?.put(&key, source.value()));
            if batch.operations() >= options.batch {
                receipt = Some(self.session.send(std::mem::take(&mut batch)).await?);
            }
        }
        if let Some(receipt) = receipt {
            receipt.applied().await?;
        }
        self.session.send(batch).await?.applied().await?;
        self.session.persist().await?;
        Ok(())
    }
}

/// The key group that this task gives a key.
fn group_of(key: u64) -> u32 {
    u32::try_from(key % u64::from(KEY_GROUPS)).unwrap_or_default()
}

/// Takes a checkpoint, and completes it.
pub(crate) async fn checkpoint(session: &Session, id: u64) -> Result<(), Fault> {
    let completed = session.barrier(id, Bytes::new()).await?.await?;
    session.complete(completed.checkpoint.as_ref().ok_or("a checkpoint without identity")?).await?;
    Ok(())
}

/// Has the backend materialized, and returns once that is durable.
pub(crate) async fn materialize(daemon: &Daemon, prepared: &Prepared) -> Result<(), Fault> {
    materialize_backend(daemon, &prepared.backend).await
}

async fn materialize_backend(daemon: &Daemon, backend: &Backend) -> Result<(), Fault> {
    let mut stub = StateBackendServiceClient::new(channel(&daemon.socket()).await?);
    stub.materialize(MaterializeRequest { backend: Some(backend.reference().clone()) }).await?;
    Ok(())
}
