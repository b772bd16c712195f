//! Parts of a daemon without its wire: uploads to a store on the disk, and the backends over such a store.

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use dstl::{
    backend::{BackendMetrics, BackendOptions, CreditPool, Directory, Environment, Idle, Turns},
    changelog::{
        metrics::UploadMetrics,
        registry::Registry,
        uploader::{Client, SegmentNumbers, UploadEdge, UploadOptions},
    },
    checkpoint::job::Decisions,
    clock::Clock,
    materialization::schedule::ScheduleOptions,
    metrics::Metrics,
    object::{Store, StoreOptions, open::open},
    random::Random,
    state::{image::LocalBackends, set_or_extended},
    tasks::Tasks,
    types::InnerBackend,
};
use tempfile::TempDir;

use super::{Fault, data};

/// Memory for state, for changes that are not durable, and for RocksDB.
const STATE_BYTES: u64 = 8 << 30;
const IN_FLIGHT_BYTES: u64 = 256 << 20;
#[cfg(feature = "rocksdb")]
const ROCKSDB_BYTES: u64 = 512 << 20;

/// Uploads of one job, to a store in a temporary folder.
pub(crate) struct Uploads {
    pub(crate) client: Client,
    _folder: TempDir,
}

impl Uploads {
    /// Starts them; call it in a runtime.
    pub(crate) fn start() -> Result<Self, Fault> {
        let (folder, metrics, random) = (tempfile::tempdir()?, Metrics::new(), Random::seeded(1));
        let job = data::backend()?.job;
        let edge = UploadEdge {
            store: store(folder.path(), &metrics, &random)?,
            tasks: Tasks::default(),
            numbers: SegmentNumbers::new(random.uuid()),
            metrics: UploadMetrics::register(&metrics).of_job(&job),
            entry_of: set_or_extended,
        };
        Ok(Self { client: Client::start(job, UploadOptions::default(), edge), _folder: folder })
    }
}

/// The backends of a daemon whose store is in `folder`, and whose local files are below it. Call it in a runtime; each
/// needs a seed of its own.
pub(crate) fn backends(folder: &Path, inner: InnerBackend, seed: u64) -> Result<Directory, Fault> {
    let (metrics, random, tasks) = (Metrics::new(), Random::seeded(seed), Tasks::default());
    let (store, instance) = (store(&folder.join("store"), &metrics, &random)?, random.uuid());
    let never = Duration::from_secs(1 << 30);
    let materialization = ScheduleOptions { interval: None, max_replay: never, ..ScheduleOptions::default() };
    let options = BackendOptions { state_memory: STATE_BYTES, inner, materialization, ..BackendOptions::default() };
    let uploads = Registry::new(
        store.clone(),
        tasks.clone(),
        SegmentNumbers::new(instance),
        UploadOptions::default(),
        UploadMetrics::register(&metrics),
        set_or_extended,
    );
    Ok(Directory::new(Environment {
        store,
        clock: Clock::system(),
        random,
        tasks,
        instance,
        credit: CreditPool::new(IN_FLIGHT_BYTES, options.limits.max_message_bytes as u64),
        options: Arc::new(options),
        uploads,
        state_bytes: Arc::new(AtomicU64::new(0)),
        local: local(&folder.join("local"))?,
        materializing: Turns::default(),
        decisions: Decisions::default(),
        idle: Idle::default(),
        metrics: BackendMetrics::register(&metrics),
    }))
}

/// A store in `folder`, which fsyncs.
fn store(folder: &Path, metrics: &Metrics, random: &Random) -> Result<Store, Fault> {
    std::fs::create_dir_all(folder)?;
    let options = StoreOptions::new(folder.to_string_lossy());
    Ok(open(&options, metrics, &Clock::system(), random.clone())?)
}

#[cfg(feature = "rocksdb")]
fn local(folder: &Path) -> Result<Option<Arc<dyn LocalBackends>>, Fault> {
    Ok(Some(Arc::new(resources(folder)?)))
}

#[cfg(not(feature = "rocksdb"))]
fn local(_: &Path) -> Result<Option<Arc<dyn LocalBackends>>, Fault> {
    Ok(None)
}

/// RocksDB with its files below `folder`.
#[cfg(feature = "rocksdb")]
pub(crate) fn resources(folder: &Path) -> Result<dstl::state::rocksdb::Resources, Fault> {
    use dstl::state::{
        folder::Folders,
        rocksdb::{ResourceOptions, Resources},
    };
    let folders = Folders::new(&[folder.to_owned()], uuid::Uuid::new_v4())?;
    let options = ResourceOptions { memory_bytes: ROCKSDB_BYTES, ..ResourceOptions::default() };
    Ok(Resources::new(options, folders)?)
}
