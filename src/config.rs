//! The daemon's configuration: as typed, then merged, then resolved and validated.
//!
//! ```text
//! defaults < file (TOML) < environment (DSTL_…) < flags      later wins
//!     typed     each setting checked by itself, with its origin    `typed`, `kind`
//!     merged    one value per option                               `merged`
//!     resolved  computed defaults, rules between options           `resolved`, `check`
//! ```
//!
//! All of it is made from one table of options (`options`): `dstl config options` lists it, `dstl config example` prints
//! it as a commented file. A configuration with faults is refused as a whole, with *all* its faults, each naming the key,
//! the value, where that came from and what is allowed. Unknown keys and unknown `DSTL_` variables are faults too.
//!
//! Names and values of Flink that are others here get an answer that says what to write instead, from one table (`legacy`);
//! [`translate()`] makes a file of ours from one of Flink's by the same table.
//!
//! [`Config`] is plain data. It owes nothing to the components but [`Bounds`], plain data too; the daemon makes their options from it.

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
    limits::Bounds,
    types::{AllowedJobs, Limits},
};

/// A valid configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Folder of what the daemon keeps on this machine, absolute.
    pub data_dir: PathBuf,
    /// Inner backend where the engine names none.
    pub inner: InnerBackend,
    /// Budgets of memory.
    pub memory: MemoryConfig,
    /// The inner backend on local disk.
    pub rocksdb: RocksDbConfig,
    /// Changelogs and their store.
    pub changelog: ChangelogConfig,
    /// Checkpoints.
    pub checkpoint: CheckpointConfig,
    /// Local recovery.
    pub local_copies: LocalCopiesConfig,
    /// Garbage collection.
    pub gc: GcConfig,
    /// Snapshots.
    pub materialization: MaterializationConfig,
    /// The gRPC service.
    pub rpc: RpcConfig,
    /// The HTTP service.
    pub admin: AdminConfig,
    /// The daemon's own log.
    pub log: LogConfig,
    /// Who owns what is restored where the engine does not say.
    pub claim: ClaimMode,
    /// How long what a clone reads is kept after it last said that it reads.
    pub pin_lease: Duration,
    /// How long a backend stays open without session; zero: for ever.
    pub linger: Duration,
    /// Whether clients may read beside the writers.
    pub queries: bool,
    /// Whether owners that follow each other on this daemon hand their state on.
    pub warm: bool,
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

    /// What a client may ask for at most. Limits without an option have their defaults.
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
    /// In memory.
    Hashmap,
    /// On local disk.
    Rocksdb,
}

/// Budgets of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Bytes that the whole process may use; the others fit it together.
    pub budget_bytes: u64,
    /// Bytes of all state in memory.
    pub state_bytes: u64,
    /// Bytes of block cache and memtables of all RocksDB backends.
    pub rocksdb_bytes: u64,
    /// Bytes that each backend may keep of what was overwritten.
    pub undo_bytes: u64,
}

/// The inner backend on local disk.
#[derive(Debug, Clone, PartialEq)]
pub struct RocksDbConfig {
    /// Where its files go, absolute; at least one.
    pub local_dirs: Vec<PathBuf>,
    /// The part of its memory that memtables may take, 0.1 to 0.9.
    pub write_buffer_ratio: f64,
    /// Threads for flushes and compactions, each; above 0.
    pub threads: u16,
    /// The set of options.
    pub predefined: PredefinedOptions,
    /// What keeps timers in order.
    pub timers: TimerService,
    /// Single options over it, which RocksDB accepts.
    pub options: BTreeMap<String, String>,
    /// Names of the properties that become metrics.
    pub metrics: Vec<&'static str>,
}

/// What keeps the timers of RocksDB backends in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerService {
    /// The database.
    RocksDb,
    /// Memory.
    Heap,
}

/// Sets of options of RocksDB for kinds of disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PredefinedOptions {
    /// RocksDB's own.
    Default,
    /// For disks that seek slowly.
    SpinningDisk,
    /// For disks that seek slowly, with a lot of memory.
    SpinningDiskHighMemory,
    /// For flash.
    FlashSsd,
}

/// Changelogs and their store.
#[derive(Debug, Clone, PartialEq)]
pub struct ChangelogConfig {
    /// Whether a backend gets a changelog where the engine does not say.
    pub enabled: bool,
    /// The store, and the prefix in it under which everything lies.
    pub base_path: Url,
    /// Handed to the object store.
    pub store_options: StoreOptions,
    /// Of change sets.
    pub compression: Compression,
    /// Bytes not yet uploaded, of one changelog, that start an upload by themselves; above 0.
    pub preemptive_persist_bytes: usize,
    /// How long an upload waits for others to share its segment.
    pub persist_delay: Duration,
    /// Bytes waiting that end the wait; above 0.
    pub persist_size_bytes: usize,
    /// Uploads.
    pub upload: UploadConfig,
    /// Objects that one restore reads at a time; above 0.
    pub download_threads: usize,
    /// Requests a second of all that share the store.
    pub max_requests_per_second: Option<NonZeroU32>,
}

/// How segments are uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadConfig {
    /// Segments uploaded at a time; above 0.
    pub num_threads: usize,
    /// Budget in bytes of changes that are not yet durable; at least two messages.
    pub max_in_flight_bytes: usize,
    /// Timeout of one attempt of a small upload.
    pub timeout: Duration,
    /// Delay before the first repetition.
    pub next_attempt_delay: Duration,
    /// Longest delay between attempts.
    pub max_attempt_delay: Duration,
}

/// Compression of change sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As they are.
    None,
    /// LZ4.
    Lz4,
    /// Zstandard.
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

/// Checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointConfig {
    /// Completed checkpoints kept where the engine does not say; above 0.
    pub num_retained: usize,
    /// After which an incomplete checkpoint is aborted.
    pub timeout: Duration,
    /// Most of one backend that are triggered and not yet answered; above 0.
    pub max_concurrent: usize,
    /// How often commits of other daemons are looked for.
    pub coordination_interval: Duration,
    /// Bytes of changes up to which a barrier puts them into the manifest; 0: never.
    pub inline_bytes: usize,
}

/// Local copies of what is uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalCopiesConfig {
    /// Whether they are made.
    pub backup: bool,
    /// Whether restores read them.
    pub recovery: bool,
    /// Where they lie; not empty.
    pub dirs: Vec<PathBuf>,
    /// Most bytes of all.
    pub max_bytes: u64,
    /// After which those of a backend that is not open go.
    pub idle_timeout: Duration,
}

/// Garbage collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcConfig {
    /// Age, by the store's clock, below which unreferenced objects are kept.
    pub grace_period: Duration,
    /// Time between two sweeps of a job by its daemons; `None` for only by hand.
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
    /// User ids that may connect beside the daemon's own; empty for whoever the permissions admit.
    pub allowed_uids: Vec<u32>,
    /// Whether everybody may write the folder of the socket.
    pub socket_folder_open: bool,
    /// Who may use which jobs.
    pub allowed_jobs: AllowedJobs,
    /// TCP; `None` for off.
    pub tcp: Option<TcpConfig>,
    /// What peers may make the daemon hold.
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

/// Snapshots of inner backends, and how long a recovery may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaterializationConfig {
    /// Time between two; `None` for not by time.
    pub interval: Option<Duration>,
    /// How long a replay may take.
    pub max_replay: Duration,
    /// Changes that a replay does in a second.
    pub replay_rate: u64,
}

/// The gRPC service over TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpConfig {
    /// Where it listens; a loopback address when it is insecure.
    pub address: SocketAddr,
    /// Who may connect.
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
    /// Not at all, by an explicit option.
    Insecure,
}

/// The HTTP service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdminConfig {
    /// Where it listens; `None` for off.
    pub address: Option<SocketAddr>,
    /// Most connections.
    pub max_connections: usize,
    /// How long a connection may be without a whole request.
    pub header_timeout: Duration,
}

/// The daemon's own log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// How events are written.
    pub format: LogFormat,
    /// A valid tracing filter.
    pub level: String,
}

/// Who owns a checkpoint that is restored from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimMode {
    /// The new owner.
    Claim,
    /// Nobody.
    NoClaim,
}

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line each.
    Text,
    /// One JSON object each.
    Json,
}
