//! The resources that all RocksDB backends of a daemon share: memory, threads, options and local folders.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompactionStyle, DBCompressionType, Env, LogLevel, LruCacheOptions, Options,
    WriteBufferManager,
};

use crate::state::{
    StateError,
    folder::Folders,
    options::{PredefinedOptions, ResourceOptions, TimerService},
};

/// Length of the MANIFEST file at which RocksDB begins a new one, in bytes; each image has a copy of it.
const MANIFEST_BYTES: usize = 1 << 20;

/// Target size of SST files in compactions, in bytes: one upload or download handles one file at a time.
const FILE_BYTES: u64 = 32 << 20;

/// Smallest block that a memtable allocates, in bytes; an idle part of a backend costs this much.
const ARENA_BLOCK_BYTES: usize = 64 << 10;

/// How long a write waits for flushes that free memory, and how often it looks.
const FLUSH_WAIT: Duration = Duration::from_secs(1);
const FLUSH_POLL: Duration = Duration::from_millis(1);

/// A file is compacted at once if so many of so many consecutive keys, or such a share of all its keys, are deletions.
const DELETIONS: usize = 16 << 10;
const DELETIONS_AMONG: usize = 32 << 10;
const DELETIONS_SHARE: f64 = 0.5;

/// The part of the memory that rows may take, beside the blocks that they were read from.
const ROWS_SHARE: f64 = 0.25;

/// The resources that all RocksDB backends of a daemon share. Cheap to clone.
#[derive(Clone)]
pub struct Resources(Arc<Shared>);

struct Shared {
    options: ResourceOptions,
    cache: Cache,
    /// Bytes of the cache and of all rows together.
    capacity: usize,
    /// Bytes of the rows of all shards.
    rows: AtomicUsize,
    memtables: WriteBufferManager,
    env: Env,
    folders: Folders,
    open: Mutex<Vec<Weak<DB>>>,
    expired: Arc<AtomicU64>,
}

impl std::fmt::Debug for Resources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resources").field("options", &self.0.options).finish_non_exhaustive()
    }
}

impl Resources {
    /// Sets up the shared resources.
    ///
    /// # Errors
    /// If RocksDB does not know an option, or refuses its value.
    pub fn new(options: ResourceOptions, folders: Folders) -> Result<Self, StateError> {
        // Flink's arithmetic: the write-buffer manager may exceed its limit by half, so the cache leaves that much
        // free.
        let capacity = share(options.memory_bytes, (3.0 - options.write_buffer_ratio) / 3.0);
        let memtables = share(options.memory_bytes, 2.0 * options.write_buffer_ratio / 3.0);
        let mut cache = LruCacheOptions::default();
        cache.set_capacity(capacity);
        let cache = Cache::new_lru_cache_opts(&cache);
        let memtables = WriteBufferManager::new_write_buffer_manager_with_cache(memtables, false, cache.clone());
        let mut env = Env::new().map_err(local)?;
        env.set_background_threads(options.threads.into());
        env.set_high_priority_background_threads(options.threads.into());
        let (rows, open, expired) = Default::default();
        let shared = Shared { options, cache, capacity, rows, memtables, env, folders, open, expired };
        let resources = Self(Arc::new(shared));
        // These are made for their error alone: a wrong option stops the daemon at its start, not at its first backend.
        resources.database_options()?;
        Ok(resources)
    }

    /// The local folders.
    #[must_use]
    pub fn folders(&self) -> &Folders {
        &self.0.folders
    }

    /// Where timers are kept in order.
    pub(super) fn timers(&self) -> TimerService {
        self.0.options.timers
    }

    /// Bytes of memory that may be used, as configured.
    #[must_use]
    pub fn memory_limit_bytes(&self) -> u64 {
        self.0.options.memory_bytes
    }

    /// Bytes of memory that the block cache holds, memtables included, and rows.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        (self.0.cache.get_usage() + self.rows_bytes()) as u64
    }

    /// Bytes of the rows of all databases.
    pub(super) fn rows_bytes(&self) -> usize {
        self.0.rows.load(Ordering::Relaxed)
    }

    /// Most bytes of the rows of one database.
    pub(super) fn rows_of_each(&self) -> usize {
        let open = self.0.open.lock().iter().filter(|db| db.strong_count() > 0).count();
        share(self.0.options.memory_bytes, ROWS_SHARE) / open.max(1)
    }

    /// Notes that the rows of a database take `now` bytes, and not `before`. The block cache gives them up.
    pub(super) fn rows_changed(&self, before: usize, now: usize) {
        let shared = &*self.0;
        // Ordering: under the lock, since of two changes at a time the older sum could be set last.
        let _one_at_a_time = shared.open.lock();
        let rows = shared.rows.load(Ordering::Relaxed) - before + now;
        shared.rows.store(rows, Ordering::Relaxed);
        shared.cache.clone().set_capacity(shared.capacity.saturating_sub(rows));
    }

    /// Bytes of memory that memtables take.
    #[must_use]
    pub fn memtable_bytes(&self) -> u64 {
        self.0.memtables.get_usage() as u64
    }

    /// Waits while memtables take more than the cache leaves them and some are being flushed, for a second at most.
    /// RocksDB itself only begins flushes then: a writer that is faster than the disk, such as a restore, would take
    /// many times the limit.
    pub(super) fn await_flushes(&self) {
        let shared = &*self.0;
        let limit = shared.memtables.get_buffer_size();
        let is_over = || shared.memtables.get_usage() > limit + limit / 2;
        // Without a memtable on its way to disk there is nothing to wait for. The wait is bounded, since memory is
        // shared by all databases, and the flush of another one may hang.
        let mut waited = Duration::ZERO;
        while waited < FLUSH_WAIT && is_over() && self.property("num-immutable-mem-table") > 0 {
            thread::sleep(FLUSH_POLL);
            waited += FLUSH_POLL;
        }
    }

    /// The sum of an integer property (`rocksdb.<name>`) over all open databases. For `block-cache-…`, which all share,
    /// the value itself.
    #[must_use]
    pub fn property(&self, name: &str) -> u64 {
        // The lock is let go before any property is read: a database may hold its own lock as long as its disk hangs,
        // and `opened` must not wait for it.
        let open: Vec<Arc<DB>> = self.0.open.lock().iter().filter_map(Weak::upgrade).collect();
        let values = open.iter().filter_map(|db| db.property_int_value(&format!("rocksdb.{name}")).ok().flatten());
        if name.starts_with("block-cache-") { values.max().unwrap_or(0) } else { values.sum() }
    }

    /// The counter of expired entries that compactions removed.
    #[must_use]
    pub fn expired(&self) -> &Arc<AtomicU64> {
        &self.0.expired
    }

    pub(super) fn opened(&self, db: &Arc<DB>) {
        let mut open = self.0.open.lock();
        open.retain(|db| db.strong_count() > 0);
        open.push(Arc::downgrade(db));
    }

    /// The options of one database.
    pub(super) fn database_options(&self) -> Result<Options, StateError> {
        let shared = &*self.0;
        let mut options = Options::default();
        options.set_env(&shared.env);
        options.set_write_buffer_manager(&shared.memtables);
        options.create_if_missing(true);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_target_file_size_base(FILE_BYTES);
        options.set_arena_block_size(ARENA_BLOCK_BYTES);
        options.set_max_manifest_file_size(MANIFEST_BYTES);
        options.set_log_level(LogLevel::Warn);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(1 << 20);
        options.set_stats_dump_period_sec(0);
        options.set_avoid_unnecessary_blocking_io(true);
        // Tombstones cost scans time until a compaction removes them.
        options.add_compact_on_deletion_collector_factory(DELETIONS_AMONG, DELETIONS, DELETIONS_SHARE);
        // With a compaction filter, RocksDB would set an interval of its own.
        options.set_periodic_compaction_seconds(0);
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&shared.cache);
        table.set_bloom_filter(10.0, false);
        table.set_cache_index_and_filter_blocks(true);
        table.set_cache_index_and_filter_blocks_with_high_priority(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        predefine(shared.options.predefined, &mut options, &mut table);
        options.set_block_based_table_factory(&table);
        if shared.options.overrides.is_empty() {
            return Ok(options);
        }
        let single = shared.options.overrides.iter().map(|(name, value)| format!("{name}={value};"));
        let mut options = options.get_options_from_string(single.collect::<String>()).map_err(local)?;
        // Options made from text do not keep these alive.
        options.set_env(&shared.env);
        options.set_write_buffer_manager(&shared.memtables);
        Ok(options)
    }
}

fn predefine(predefined: PredefinedOptions, options: &mut Options, table: &mut BlockBasedOptions) {
    if predefined == PredefinedOptions::Default {
        return;
    }
    options.set_compaction_style(DBCompactionStyle::Level);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_max_background_jobs(4);
    options.set_max_open_files(-1);
    if predefined == PredefinedOptions::SpinningDiskHighMemory {
        options.set_target_file_size_base(256 << 20);
        options.set_max_bytes_for_level_base(1 << 30);
        options.set_write_buffer_size(64 << 20);
        options.set_min_write_buffer_number_to_merge(3);
        options.set_max_write_buffer_number(4);
        table.set_block_size(128 << 10);
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a share of a size"
)]
fn share(bytes: u64, of: f64) -> usize {
    (bytes as f64 * of) as usize
}

pub(super) fn local(error: rocksdb::Error) -> StateError {
    StateError::Local(error.into())
}
