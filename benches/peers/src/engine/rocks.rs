//! RocksDB in process, with its write-ahead log: the options of dstl's inner backend, and the log beside them.
//!
//! The log is written and synced once a second (`flush_wal`), as a checkpoint each second makes work durable: a crash
//! costs up to a second of work, whether the process or the machine fails.

use std::{path::Path, sync::Arc};

use futures::FutureExt as _;
use rocksdb::{BlockBasedOptions, Cache, DB, DBCompressionType, Options, WriteBatch, WriteBufferManager, WriteOptions};

use super::{Driven, Point, counted, runs};
use crate::{Fault, source::Source};

/// The memory of cache and memtables together: the budget of dstl and of Flink.
const BUDGET_BYTES: usize = 512 << 20;

/// Flink's arithmetic for half of the budget in memtables: they may exceed their limit by half, and lie in the cache.
const CACHE_BYTES: usize = BUDGET_BYTES / 6 * 5;
const MEMTABLE_BYTES: usize = BUDGET_BYTES / 3;

/// Bits of the Bloom filter for each key.
const FILTER_BITS: f64 = 10.0;

pub(super) struct Rocks {
    db: Arc<DB>,
    writes: WriteOptions,
    applied: u64,
}

impl Rocks {
    pub(super) fn open(folder: &Path) -> Result<Self, Fault> {
        let cache = Cache::new_lru_cache(CACHE_BYTES);
        let memtables = WriteBufferManager::new_write_buffer_manager_with_cache(MEMTABLE_BYTES, false, cache.clone());
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&cache);
        table.set_bloom_filter(FILTER_BITS, false);
        table.set_cache_index_and_filter_blocks(true);
        table.set_cache_index_and_filter_blocks_with_high_priority(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_write_buffer_manager(&memtables);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_manual_wal_flush(true);
        options.set_block_based_table_factory(&table);
        Ok(Self { db: Arc::new(DB::open(&options, folder)?), writes: WriteOptions::default(), applied: 0 })
    }

    fn write(&mut self, batch: WriteBatch, operations: usize) -> Result<(), Fault> {
        self.db.write_opt(batch, &self.writes)?;
        self.applied += operations as u64;
        Ok(())
    }
}

impl Driven for Rocks {
    async fn put(&mut self, keys: &[u64], source: &mut Source) -> Result<(), Fault> {
        let mut batch = WriteBatch::default();
        for key in keys {
            batch.put(key.to_be_bytes(), source.value());
        }
        self.write(batch, keys.len())
    }

    async fn count(&mut self, keys: &[u64]) -> Result<(), Fault> {
        let values = self.db.multi_get(runs(keys).map(|(key, _)| key.to_be_bytes()));
        let mut batch = WriteBatch::default();
        for ((key, more), value) in runs(keys).zip(values) {
            batch.put(key.to_be_bytes(), counted(value?.as_deref(), more)?);
        }
        self.write(batch, keys.len())
    }

    fn applied(&self) -> u64 {
        self.applied
    }

    async fn settle(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    fn point(&self) -> Option<Point> {
        let db = self.db.clone();
        Some(Box::new(move || {
            let db = db.clone();
            let synced = tokio::task::spawn_blocking(move || db.flush_wal(true));
            async move { Ok(synced.await??) }.boxed()
        }))
    }

    fn server(&self) -> Option<u32> {
        None
    }

    async fn close(self) -> Result<(), Fault> {
        Ok(self.db.flush_wal(true)?)
    }
}
