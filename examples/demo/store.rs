//! The supervisor's own view of the store: whether it is usable, and which objects are left in it.

use std::time::Duration;

use tokio::time::Instant;

use dstl::{
    checkpoint::collect::{self, SweepError, SweepOptions},
    clock::Clock,
    config::{Config, Faults, Flag, Host, Sources},
    metrics::Metrics,
    object::{ObjectName, OpenError, Path, Retry, RetryOptions, Store, StoreError, StoreOptions, open},
    random::Random,
    types::Name,
};

use super::outcome::Objects;

/// How long to try a store that does not answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the sweep may take.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(120);

/// Sweeps at most, and the time between two of them.
const SWEEPS: usize = 5;
const BETWEEN_SWEEPS: Duration = Duration::from_secs(2);

/// The reason why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnusableStore {
    /// The URL, or the environment, has a fault.
    #[error(transparent)]
    Config(#[from] Faults),
    /// The settings do not make a store.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store would be in the memory of one process.
    #[error("`memory://` is gone with its process, which the demo kills; name a folder or a cloud store")]
    Memory,
    /// The store does not answer.
    #[error(transparent)]
    Silent(#[from] StoreError),
}

/// Opens the store at `url` as the daemon will, with the options of the environment, and sends it a request.
pub(super) async fn open(url: &str, random: &Random) -> Result<Store, UnusableStore> {
    let flag = Flag::Named { name: "--store", key: "state.changelog.dstl.dfs.base-path", value: url.to_owned() };
    let sources = Sources { file: None, environment: std::env::vars_os().collect(), flags: vec![flag] };
    let changelog = Config::resolve(&sources, &Host::detect())?.changelog;
    if changelog.base_path.scheme() == "memory" {
        return Err(UnusableStore::Memory);
    }
    let options = StoreOptions {
        url: changelog.base_path.to_string(),
        options: changelog.store_options.0,
        retry: RetryOptions { attempt_timeout: changelog.retry.attempt_timeout, ..RetryOptions::default() },
    };
    let store = open::open(&options, &Metrics::new(), &Clock::system(), random.clone())?;
    store.probe(Retry::until(Instant::now() + PROBE_TIMEOUT)).await?;
    Ok(store)
}

/// Deletes every unreferenced object of `job`, then counts the remaining ones. Returns the counts, and how many
/// materializations there were, since there was no sweep before.
///
/// A request of a killed process may take effect after its end, even after a sweep: for example, when a NameNode that
/// hung goes on. So a sweep that leaves something is followed by another one.
pub(super) async fn sweep(store: &Store, job: &Name) -> Result<(Objects, u64), SweepError> {
    let (mut objects, materializations) = sweep_once(store, job).await?;
    for _ in 1..SWEEPS {
        if objects.unreferenced == 0 {
            break;
        }
        tokio::time::sleep(BETWEEN_SWEEPS).await;
        let (again, _) = sweep_once(store, job).await?;
        objects = Objects { swept: objects.swept + again.swept, ..again };
    }
    Ok((objects, materializations))
}

async fn sweep_once(store: &Store, job: &Name) -> Result<(Objects, u64), SweepError> {
    let options = SweepOptions { grace: Duration::ZERO, now_ms: Clock::system().now_ms(), delete: true };
    let retry = Retry::until(Instant::now() + SWEEP_TIMEOUT);
    let first = collect::sweep(store, job, &options, retry).await?;
    let is_index = |path: &Path| match ObjectName::parse(path) {
        Some(ObjectName::SnapshotFile { file, .. }) => file.as_str().ends_with(".index"),
        _ => false,
    };
    let materializations = first.findings.iter().filter(|finding| is_index(&finding.meta.path)).count() as u64;
    let swept = first.deleted().objects;
    let left = collect::sweep(store, job, &SweepOptions { delete: false, ..options }, retry).await?;
    let live = left.tally("live").objects;
    Ok((Objects { live, unreferenced: left.findings.len() as u64 - live, swept }, materializations))
}
