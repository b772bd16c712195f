//! The set-up of RocksDB, which a build without RocksDB reads, too.

use std::collections::BTreeMap;

use crate::setting::{Kind, options, words};

words! {
    /// Presets of options for kinds of disks, as Flink's `PredefinedOptions`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum PredefinedOptions {
        /// RocksDB's own defaults.
        Default = "DEFAULT",
        /// For disks that seek slowly.
        SpinningDisk = "SPINNING_DISK_OPTIMIZED",
        /// For disks that seek slowly, with a lot of memory.
        SpinningDiskHighMemory = "SPINNING_DISK_OPTIMIZED_HIGH_MEM",
        /// For flash disks.
        FlashSsd = "FLASH_SSD_OPTIMIZED",
    }
}

words! {
    /// Where RocksDB backends keep their timers in order. Rows are written in either mode.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub enum TimerService {
        /// In the rows themselves; the first ones of each key group are also in memory.
        #[default]
        RocksDb = "ROCKSDB",
        /// In an index of all timers in memory.
        Heap = "HEAP",
    }
}

options! {
    /// The set-up of RocksDB.
    #[derive(Debug, Clone, PartialEq)]
    pub struct ResourceOptions given () {
        /// Memory of all RocksDB backends together: memtables, block cache and, for up to a quarter of it, rows that
        /// were read lately. A size, or a percentage of memory.budget. Flink's
        /// state.backend.rocksdb.memory.managed and memory.fixed-per-slot. There is no
        /// state.backend.rocksdb.memory.high-prio-pool-ratio: the cache has no such pool; indexes and filters are in it
        /// like data.
        pub memory_bytes: u64 = option("memory.rocksdb", RocksDb 1, Kind::Share, "25%");
        /// The part of memory.rocksdb that memtables may take.
        pub write_buffer_ratio: f64 =
            option("state.backend.rocksdb.memory.write-buffer-ratio", RocksDb 2, Kind::Ratio, "0.5");
        /// Threads for the flushes of all RocksDB backends, and as many for their compactions.
        pub threads: u16 = option("state.backend.rocksdb.thread.num", RocksDb 4, Kind::THREADS, "2");
        /// Options of RocksDB for a kind of disk, as Flink has them.
        pub predefined: PredefinedOptions =
            option("state.backend.rocksdb.predefined-options", RocksDb 5, Kind::of::<PredefinedOptions>(), "DEFAULT");
        /// What keeps the timers of RocksDB backends in order: `ROCKSDB` itself, with the first ones of each key group
        /// in memory, or an index of all of them in memory, `HEAP`. On disk they are either way, so it may change at
        /// any restart.
        pub timers: TimerService =
            option("state.backend.rocksdb.timer-service.factory", RocksDb 6, Kind::of::<TimerService>(), "ROCKSDB");
        /// Single options of RocksDB over the predefined ones, by RocksDB's own names, such as `max_open_files` or
        /// `write_buffer_size`; those of tables as `block_based_table_factory = "{block_size=16K}"`. RocksDB checks
        /// names and values. A single one can be set as `state.backend.rocksdb.options.<name>`.
        pub overrides: BTreeMap<String, String> =
            option("state.backend.rocksdb.options", RocksDb 7, Kind::Table { secret: false }, "");
    }
}

impl Default for ResourceOptions {
    /// The defaults of the options, with 256 MiB of memory.
    fn default() -> Self {
        Self { memory_bytes: 256 << 20, ..Self::usual() }
    }
}
