//! The daemon's configuration: as typed, then merged, then resolved and validated.
//!
//! ```text
//! defaults < file (TOML) < environment (DSTL_…) < flags      later wins
//!     typed     each setting checked by itself, with its origin    `typed`, `kind`
//!     merged    one value per option                               `merged`
//!     resolved  computed defaults, rules between options           `resolved`, `check`
//! ```
//!
//! All of it is made from one table of options (`options`): `dstl config options` lists it, `dstl config example`
//! prints it as a commented file. A configuration with faults is refused as a whole. The answer lists *all* faults,
//! each with the key, the value, its origin and the allowed values. Unknown keys and unknown `DSTL_` variables are
//! faults too.
//!
//! Flink's names and values that differ here get an answer that says what to write instead, from one table (`legacy`).
//! [`translate()`] turns a Flink file into a file of ours by the same table.
//!
//! [`Config`] is plain data. It depends on no component but [`Bounds`] and [`Prices`], which are plain data too. The
//! daemon makes the options of its components from it.

mod carry;
mod check;
mod fault;
mod flink_file;
mod foreign;
mod host;
mod kind;
mod legacy;
mod listing;
mod merged;
mod options;
mod resolved;
mod secret;
mod size;
mod store_url;
mod suggest;
mod translate;
mod typed;

use std::{collections::BTreeMap, fmt, net::SocketAddr, num::NonZeroU32, path::PathBuf, time::Duration};

use url::Url;

pub use self::{
    fault::{Fault, Faults, Origin, Quoted},
    flink_file::Unusable,
    host::Host,
    listing::{OptionRow, example, list, list_json, option_rows},
    size::parse as parse_size,
    translate::{Translation, translate},
    typed::{File, Flag, Sources},
};
use crate::{
    admin::prices::Prices,
    limits::Bounds,
    types::{AllowedJobs, Limits},
};

/// A valid configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Folder of the daemon's data on this machine; an absolute path.
    pub data_dir: PathBuf,
    /// Inner backend of a backend whose open request names none.
    pub inner: InnerBackend,
    /// Budgets of memory.
    pub memory: MemoryConfig,
    /// The inner backend on local disk.
    pub rocksdb: RocksDbConfig,
    /// Changelogs and their store.
    pub changelog: ChangelogConfig,
    /// Options of checkpoints.
    pub checkpoint: CheckpointConfig,
    /// Local copies, for recovery without downloads.
    pub local_copies: LocalCopiesConfig,
    /// Garbage collection of unreferenced objects.
    pub gc: GcConfig,
    /// Materializations, and the bound on replay time.
    pub materialization: MaterializationConfig,
    /// The gRPC service.
    pub rpc: RpcConfig,
    /// The HTTP service.
    pub admin: AdminConfig,
    /// The daemon's own log.
    pub log: LogConfig,
    /// Owner of a restored checkpoint where the open request does not say.
    pub claim: ClaimMode,
    /// How long a pin of a clone is valid after its last renewal.
    pub pin_lease: Duration,
    /// How long a backend stays open without session; zero means for ever.
    pub linger: Duration,
    /// Whether clients may read a backend while it is written.
    pub queries: bool,
    /// Whether an owner that ends hands its state to the next owner on this daemon (warm restart).
    pub warm: bool,
    /// How long a savepoint by barrier may take where the barrier does not say.
    pub savepoint_timeout: Duration,
    /// Time between two proofs that the newest checkpoint of a backend can be restored; `None` for never.
    pub verify_interval: Option<Duration>,
    /// How long a stopping daemon serves its open sessions.
    pub drain_timeout: Duration,
}

impl Config {
    /// The configuration that `sources` give on `host`.
    ///
    /// # Errors
    ///
    /// [`Faults`] with everything that is wrong.
    pub fn resolve(sources: &Sources, host: &Host) -> Result<Self, Faults> {
        resolved::resolve(typed::Typed::read(sources), host)
    }

    /// The limits for clients. Limits without an option have their defaults.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            max_message_bytes: self.rpc.max_message_bytes,
            max_key_bytes: self.rpc.max_key_bytes,
            max_value_bytes: self.rpc.max_value_bytes,
            max_batch_operations: self.rpc.max_batch_operations,
            max_concurrent_checkpoints: self.checkpoint.max_concurrent,
            ..Limits::default()
        }
    }
}

/// Kinds of inner backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InnerBackend {
    /// State in memory.
    Hashmap,
    /// State in RocksDB on local disk.
    Rocksdb,
}

/// Budgets of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Bytes that the whole process may use; the other budgets together fit into it.
    pub budget_bytes: u64,
    /// Bytes of all state in memory.
    pub state_bytes: u64,
    /// Bytes of block cache and memtables of all RocksDB backends.
    pub rocksdb_bytes: u64,
    /// Bytes of overwritten state that each backend may keep for queries.
    pub undo_bytes: u64,
    /// Bytes of state while a checkpoint is read.
    pub reading_bytes: u64,
}

/// The inner backend on local disk.
#[derive(Debug, Clone, PartialEq)]
pub struct RocksDbConfig {
    /// Folders of its files, absolute; at least one.
    pub local_dirs: Vec<PathBuf>,
    /// The share of `rocksdb_bytes` that memtables may take, 0.1 to 0.9.
    pub write_buffer_ratio: f64,
    /// Threads for flushes, and as many for compactions; above 0.
    pub threads: u16,
    /// Preset of options for a kind of disk.
    pub predefined: PredefinedOptions,
    /// Where timers are kept in order.
    pub timers: TimerService,
    /// Single options on top of the preset, checked by RocksDB.
    pub options: BTreeMap<String, String>,
    /// Names of the RocksDB properties that become metrics.
    pub metrics: Vec<&'static str>,
}

/// Where RocksDB backends keep their timers in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerService {
    /// In the database.
    RocksDb,
    /// In memory.
    Heap,
}

/// Presets of RocksDB options for kinds of disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PredefinedOptions {
    /// RocksDB's own defaults.
    Default,
    /// For disks that seek slowly.
    SpinningDisk,
    /// For disks that seek slowly, with a lot of memory.
    SpinningDiskHighMemory,
    /// For flash disks.
    FlashSsd,
}

/// Changelogs and their store.
#[derive(Debug, Clone, PartialEq)]
pub struct ChangelogConfig {
    /// Whether a backend has a changelog where the open request does not say.
    pub enabled: bool,
    /// URL of the store, with the prefix under which all objects lie.
    pub base_path: Url,
    /// Options that are passed to the object store.
    pub store_options: StoreOptions,
    /// Compression of change sets.
    pub compression: Compression,
    /// Bytes of one changelog waiting for upload that start an upload by themselves; above 0.
    pub preemptive_persist_bytes: usize,
    /// How long an upload waits for other change sets to share its segment.
    pub persist_delay: Duration,
    /// Waiting bytes that end that delay early; above 0.
    pub persist_size_bytes: usize,
    /// How segments are uploaded.
    pub upload: UploadConfig,
    /// Objects that one restore reads at the same time; above 0.
    pub download_threads: usize,
    /// Requests a second of all that share the store.
    pub max_requests_per_second: Option<NonZeroU32>,
}

/// How segments are uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadConfig {
    /// Segments uploaded at the same time; above 0.
    pub num_threads: usize,
    /// Budget in bytes for changes that are not yet durable; at least two messages.
    pub max_in_flight_bytes: usize,
    /// Timeout of one attempt of a small upload.
    pub timeout: Duration,
    /// Delay before the second attempt.
    pub next_attempt_delay: Duration,
    /// Longest delay between two attempts.
    pub max_attempt_delay: Duration,
}

/// Compression of change sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// No compression.
    None,
    /// Compression with LZ4.
    Lz4,
    /// Compression with Zstandard.
    Zstd,
}

/// Options of the object store by name; some are secret, so debug output shows only the names.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StoreOptions(pub BTreeMap<String, String>);

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Options of checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointConfig {
    /// Completed checkpoints to keep where the open request does not say; above 0.
    pub num_retained: usize,
    /// Time after which an incomplete checkpoint is aborted.
    pub timeout: Duration,
    /// Most checkpoints of one backend that are triggered and not yet answered; above 0.
    pub max_concurrent: usize,
    /// How often to look for commits of other daemons.
    pub coordination_interval: Duration,
    /// Most bytes of changes that a barrier puts into the manifest itself; 0 for never.
    pub inline_bytes: usize,
}

/// Local copies of uploaded objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalCopiesConfig {
    /// Whether uploads are also copied to local disk.
    pub backup: bool,
    /// Whether restores read the local copies.
    pub recovery: bool,
    /// Folders of the copies; not empty.
    pub dirs: Vec<PathBuf>,
    /// Most bytes of all copies together.
    pub max_bytes: u64,
    /// Time after which the copies of a backend that is not open are removed.
    pub idle_timeout: Duration,
}

/// Garbage collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcConfig {
    /// Age, by the store's clock, below which unreferenced objects are kept.
    pub grace_period: Duration,
    /// Time between two sweeps of a job by its daemons; `None` if only an operator starts sweeps.
    pub interval: Option<Duration>,
}

/// The gRPC service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcConfig {
    /// Path of the Unix socket, absolute, short enough to bind.
    pub socket: PathBuf,
    /// Permissions of the socket.
    pub socket_mode: u32,
    /// Group of the socket by name or id; `None` for the daemon's own.
    pub socket_group: Option<String>,
    /// User ids that may connect besides the daemon's own; if empty, the permissions alone decide.
    pub allowed_uids: Vec<u32>,
    /// Whether the folder of the socket may be writable by everybody.
    pub socket_folder_open: bool,
    /// Rules about who may use which jobs.
    pub allowed_jobs: AllowedJobs,
    /// The gRPC service over TCP; `None` for off.
    pub tcp: Option<TcpConfig>,
    /// Bounds on the memory and descriptors that peers can occupy.
    pub bounds: Bounds,
    /// Longest message in bytes.
    pub max_message_bytes: usize,
    /// Longest key, namespace and map key in bytes.
    pub max_key_bytes: usize,
    /// Longest value in bytes.
    pub max_value_bytes: usize,
    /// Most operations of one batch.
    pub max_batch_operations: usize,
}

/// Snapshots of inner backends, and the bound on recovery time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaterializationConfig {
    /// Time between two materializations; `None` if none is started by time.
    pub interval: Option<Duration>,
    /// Longest time that a replay may take, as estimated.
    pub max_replay: Duration,
    /// State changes that a replay does in a second, for that estimate.
    pub replay_rate: u64,
}

/// The gRPC service over TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpConfig {
    /// Address to listen on; a loopback address if it is insecure.
    pub address: SocketAddr,
    /// How peers are authenticated.
    pub security: TcpSecurity,
}

/// How TCP is secured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TcpSecurity {
    /// Both sides show certificates; absolute paths of PEM files.
    MutualTls {
        /// Certificate chain of the daemon.
        certificate: PathBuf,
        /// Private key of the daemon.
        key: PathBuf,
        /// Certificates that sign those of the clients.
        client_ca: PathBuf,
    },
    /// No security, by an explicit option.
    Insecure,
}

/// The HTTP service.
#[derive(Debug, Clone, PartialEq)]
pub struct AdminConfig {
    /// Address to listen on; `None` for off.
    pub address: Option<SocketAddr>,
    /// Most connections at the same time.
    pub max_connections: usize,
    /// How long a connection may take to send a whole request.
    pub header_timeout: Duration,
    /// Prices of requests to the object store, for the status page.
    pub prices: Prices,
}

/// The daemon's own log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// Format of the events.
    pub format: LogFormat,
    /// A valid tracing filter.
    pub level: String,
}

/// The owner of a checkpoint after a restore from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimMode {
    /// The restored backend owns it and may delete it.
    Claim,
    /// The restored backend does not own it, and never deletes it.
    NoClaim,
}

/// Format of log events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line per event.
    Text,
    /// One JSON object per event.
    Json,
}
