//! The whole configuration as one struct: the options of the components, and those that no component has.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use url::Url;

use super::host::Host;
use crate::{
    admin::{AdminOptions, prices::Prices},
    backend::BackendOptions,
    changelog::uploader::UploadOptions,
    limits::Bounds,
    object::RetryOptions,
    rpc::listener::{ListenerOptions, TcpSettings},
    setting::{FromValue, Kind, Value, options, words},
    state::options::ResourceOptions,
    types::{AllowedJobs, Limits},
};

/// Highest default budget, in bytes, for changes that are not yet durable: enough for half a minute of a busy task.
const MAX_IN_FLIGHT_BYTES: u64 = 256 << 20;

/// Highest share of the memory budget that this default may take, in percent.
const MAX_IN_FLIGHT_PERCENT: u64 = 15;

/// Integer properties of RocksDB that can be metrics.
const ROCKSDB_PROPERTIES: &[&str] = &[
    "actual-delayed-write-rate",
    "background-errors",
    "block-cache-pinned-usage",
    "block-cache-usage",
    "compaction-pending",
    "cur-size-all-mem-tables",
    "estimate-live-data-size",
    "estimate-num-keys",
    "estimate-pending-compaction-bytes",
    "estimate-table-readers-mem",
    "is-write-stopped",
    "live-sst-files-size",
    "mem-table-flush-pending",
    "num-deletes-active-mem-table",
    "num-entries-active-mem-table",
    "num-immutable-mem-table",
    "num-live-versions",
    "num-running-compactions",
    "num-running-flushes",
    "num-snapshots",
    "total-sst-files-size",
];

options! {
    /// A valid configuration.
    #[derive(Debug, Clone, PartialEq)]
    pub struct Config given (host: &Host) {
        /// Folder of what the daemon keeps on this machine.
        pub data_dir: PathBuf = computed(
            "dstl.data-dir", State 1, Kind::Path { optional: false },
            "$XDG_STATE_HOME/dstl, else /var/lib/dstl for root, else ~/.local/state/dstl",
            "/var/lib/dstl",
        ) else { host.data_dir() };
        /// What the whole daemon may use: a size, or a percentage of the memory that this process may use (the
        /// machine's or its cgroup's). memory.state, memory.rocksdb and state.changelog.dstl.dfs.upload.max-in-flight
        /// must fit it together; what they leave is for everything else.
        pub memory_budget: u64 = option("memory.budget", State 3, Kind::Share, "80%");
        /// Lengths and counts that bound one request.
        pub requests: RequestLimits = group();
        /// The store, and uploads to it.
        pub changelog: ChangelogConfig = group(&data_dir);
        /// Garbage collection of unreferenced objects.
        pub gc: GcConfig = group();
        /// Options of backends.
        pub backend: BackendOptions = group(requests.limits(), gc.grace_period, changelog.upload.compression);
        /// Budget of changes that are not yet durable. Writers are pushed back beyond it. Flink's default is 100 MB.
        pub max_in_flight_bytes: u64 = computed(
            "state.changelog.dstl.dfs.upload.max-in-flight", Transfer 2, Kind::at_least(1 << 20),
            "256 MiB or 15% of memory.budget, whichever is less, but enough for two of the longest messages and \
             for the thresholds of uploads",
            "256 MiB",
        ) else { usual_max_in_flight(memory_budget, &requests, &backend, &changelog.upload) };
        /// The inner backend on local disk.
        pub rocksdb: RocksDbConfig = group(&data_dir);
        /// Local copies, for recovery without downloads.
        pub local_copies: LocalCopiesConfig = group(&data_dir);
        /// The options of TCP as they are set.
        pub tcp: TcpSettings = group();
        /// Bounds on the memory and descriptors that peers can occupy.
        pub bounds: Bounds = group(memory_budget, requests.max_message_bytes as u64, host.open_files());
        /// The socket of the gRPC service, and TCP.
        pub listener: ListenerOptions = group(host.socket(), tcp.listening(), bounds);
        /// Who may use which jobs: `uid:1000` (over the socket) or `cert:NAME` (over TCP, a name of the client's
        /// certificate), or `*` for all others; then names of jobs, with spaces between them, of which each may end
        /// with `*`. Whoever is not named may use none. Empty: whoever can connect may use every job. A single one can
        /// be set as `rpc.allowed-jobs.<who>`.
        pub allowed_jobs: AllowedJobs = option("rpc.allowed-jobs", Socket 6, Kind::Table { secret: false }, "");
        /// The HTTP service.
        pub admin: AdminOptions = group();
        /// Prices of 1,000 requests to the store, for the status page: of `create`, `get`, `get_range`, `head`, `list`,
        /// `delete` and `copy`; and their `currency`. What is not set is as Amazon S3 asks in us-east-1: 0.005 USD for
        /// `create`, `list` and `copy`, 0.0004 for reads, 0 for `delete`. A single one can be set as
        /// `admin.store-prices.<operation>`.
        pub store_prices: Prices = option("admin.store-prices", Operation 5, Kind::Table { secret: false }, "");
        /// The daemon's own log.
        pub log: LogConfig = group();
        /// Time between two proofs that the newest checkpoint of each backend can be restored, if it has a newer one
        /// than at the proof before. `0 s`, never, is the default: a proof reads all state from the store and takes a
        /// processor as long as a restore does, so only you know how often that is worth it. `24 h` is a good start.
        pub verify_interval: Option<Duration> = option("verify.interval", Checkpoints 7, Kind::ANY_DURATION, "0 s");
        /// How long a daemon that was asked to stop serves its open sessions before it ends them.
        pub drain_timeout: Duration = option("drain-timeout", Operation 6, Kind::ANY_DURATION, "30 s");
    }
}

/// The default budget of changes that are not yet durable. Only the rule about the memory budget can refuse it.
fn usual_max_in_flight(budget: u64, requests: &RequestLimits, backend: &BackendOptions, upload: &UploadOptions) -> u64 {
    let thresholds = backend.preemptive_persist_threshold.max(upload.batch.persist_size_threshold);
    let messages = 2 * requests.max_message_bytes as u64;
    (budget / 100 * MAX_IN_FLIGHT_PERCENT).min(MAX_IN_FLIGHT_BYTES).max(messages).max(thresholds)
}

options! {
    /// Lengths and counts that bound one request.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct RequestLimits {
        /// Longest gRPC message. The memory budgets must hold at least one.
        pub max_message_bytes: usize =
            option("rpc.max-message-size", Limits 13, Kind::Size { min: 128 << 10, max: 1 << 30 }, "4 MiB");
        /// Longest key, longest namespace and longest key of a map entry.
        pub max_key_bytes: usize =
            option("rpc.max-key-size", Limits 14, Kind::Size { min: 1, max: 256 << 20 }, "32 KiB");
        /// Longest value, list element or result of an append.
        pub max_value_bytes: usize =
            option("rpc.max-value-size", Limits 15, Kind::Size { min: 1, max: 512 << 20 }, "1 MiB");
        /// Most operations of one batch.
        pub max_batch_operations: usize =
            option("rpc.max-batch-operations", Limits 16, Kind::Integer { min: 1, max: 10_000_000 }, "100000");
        /// Most checkpoints of one backend that are triggered and not yet answered. Where a barrier would make it more,
        /// the second oldest fails, so that the oldest and the newest go on. Flink allows only 1 with a changelog.
        pub max_concurrent_checkpoints: usize = option(
            "execution.checkpointing.max-concurrent-checkpoints", Checkpoints 3,
            Kind::Integer { min: 1, max: 1_000 }, "64",
        );
    }
}

impl RequestLimits {
    /// The limits for clients. Limits without an option have their defaults.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let Self { max_message_bytes, max_key_bytes, max_value_bytes, .. } = *self;
        let Self { max_batch_operations, max_concurrent_checkpoints, .. } = *self;
        Limits {
            max_message_bytes,
            max_key_bytes,
            max_value_bytes,
            max_batch_operations,
            max_concurrent_checkpoints,
            ..Limits::default()
        }
    }
}

options! {
    /// The store, and uploads to it.
    #[derive(Debug, Clone, PartialEq)]
    pub struct ChangelogConfig given (data_dir: &Path) {
        /// Where changelogs and checkpoints are kept: an absolute path or a URL (file, s3, gs, az, abfs, hdfs, memory).
        /// Credentials come from the environment, as the store's own tools read them.
        pub base_path: Url = computed(
            "state.changelog.dstl.dfs.base-path", Changelog 2, Kind::Store,
            "the folder `store` in dstl.data-dir",
            "/var/lib/dstl/store",
        ) else { Url::from_file_path(data_dir.join("store")).expect("the data folder is absolute") };
        /// Options handed to the object store as they are, such as `aws_endpoint` or `aws_region`; for HDFS
        /// `config_dir`, `user`, `replication`, `block_size`, `kerberos_principal`, `kerberos_keytab`,
        /// `kerberos_cache`. Their values are never shown. A single one can be set as
        /// `state.changelog.dstl.dfs.store-options.<name>`.
        pub store_options: StoreOptions =
            option("state.changelog.dstl.dfs.store-options", Changelog 3, Kind::Table { secret: true }, "");
        /// Segments, and how they are made.
        pub upload: UploadOptions = group();
        /// How requests to the store are made, and made again.
        pub retry: RetryOptions = group();
    }
}

/// Options of the object store by name; some are secret, so debug output shows only the names.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StoreOptions(pub BTreeMap<String, String>);

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl FromValue for StoreOptions {
    fn from_value(value: Value) -> Result<Self, String> {
        BTreeMap::from_value(value).map(Self)
    }
}

options! {
    /// Settings of garbage collection.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct GcConfig {
        /// Unreferenced objects younger than this, by the store's clock, are not deleted.
        pub grace_period: Duration = option("gc.grace-period", Checkpoints 8, Kind::AT_LEAST_1_S, "1 h");
        /// Time between two sweeps of each job of which this daemon has a backend; the first comes at a random moment
        /// within it. `0 s` turns them off: then `dstl gc --delete` has to be run by a timer.
        pub interval: Option<Duration> = option("gc.interval", Checkpoints 9, Kind::ANY_DURATION, "1 h");
    }
}

options! {
    /// The inner backend on local disk.
    #[derive(Debug, Clone, PartialEq)]
    pub struct RocksDbConfig given (data_dir: &Path) {
        /// Memory, threads and options of RocksDB.
        pub resources: ResourceOptions = group();
        /// Folders of RocksDB's files, best on different local disks: databases are spread over them. Daemons may share
        /// them. Nothing in them outlives its daemon; what a killed one left, the next one removes.
        pub local_dirs: Vec<PathBuf> = computed(
            "state.backend.rocksdb.localdir", RocksDb 3, Kind::Paths,
            "the folder `local` in dstl.data-dir",
            "/var/lib/dstl/local",
        ) else { vec![data_dir.join("local")] };
        /// Properties of RocksDB that become metrics, summed over all databases: `estimate-num-keys` is
        /// `dstl_rocksdb_estimate_num_keys`. Flink has an option for each instead. Some cost time with many databases.
        pub metrics: Vec<&'static str> =
            option("state.backend.rocksdb.metrics", RocksDb 8, Kind::Words(ROCKSDB_PROPERTIES), "");
    }
}

options! {
    /// Local copies of uploaded objects.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct LocalCopiesConfig given (data_dir: &Path) {
        /// Whether what is uploaded is also written to local disk, as far as the newest completed checkpoint and newer
        /// ones need it. A copy that cannot be written never fails a checkpoint.
        pub backup: bool = option("execution.checkpointing.local-backup.enabled", LocalCopies 1, Kind::Flag, "false");
        /// Whether restores read local copies where there are any. Each is verified; the store is asked for what has
        /// none, and for manifests always.
        pub recovery: bool = option("execution.state-recovery.from-local", LocalCopies 2, Kind::Flag, "false");
        /// Folders of the local copies, which are spread over them. They outlive the daemon, and belong to one daemon
        /// at a time: a second one does without.
        pub dirs: Vec<PathBuf> = computed(
            "execution.checkpointing.local-backup.dirs", LocalCopies 3, Kind::Paths,
            "the folder `copies` in dstl.data-dir",
            "/var/lib/dstl/copies",
        ) else { vec![data_dir.join("copies")] };
        /// Most bytes of all local copies; beyond, the oldest are deleted. Flink has no such bound.
        pub max_bytes: u64 =
            option("execution.checkpointing.local-backup.max-size", LocalCopies 4, Kind::at_least(1 << 20), "10 GiB");
        /// Local copies of a backend that has not been open for so long are deleted.
        pub idle_timeout: Duration = option(
            "state.changelog.dstl.dfs.download.local-cache.idle-timeout-ms", LocalCopies 5,
            Kind::AT_LEAST_1_S, "10 min",
        );
    }
}

options! {
    /// The daemon's own log.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct LogConfig {
        /// Format of the log on standard error.
        pub format: LogFormat = option("log.format", Operation 7, Kind::of::<LogFormat>(), "text");
        /// What is logged: a level (`error`, `warn`, `info`, `debug`, `trace`), or a filter as of tracing. The
        /// environment variable DSTL_LOG is short for it.
        pub level: String = option("log.level", Operation 8, Kind::Filter, "info");
    }
}

words! {
    /// Format of log events.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum LogFormat {
        /// One readable line per event.
        Text = "text",
        /// One JSON object per event.
        Json = "json",
    }
}
