//! Metrics of RocksDB: its memory always, its own properties by choice.
//!
//! Properties are read when they are scraped, but on a thread of their own: a database may hold its lock as long as its
//! disk hangs. Then a scrape returns the last value that was read.

use std::{
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use super::Resources;
use crate::metrics::Metrics;

/// How long a scrape waits for a property.
const PATIENCE: Duration = Duration::from_millis(50);

/// Reads properties of all databases, one at a time.
#[derive(Default)]
struct Reader {
    is_reading: Mutex<bool>,
    has_read: Condvar,
}

/// One property, with the last value that was read.
struct Property {
    name: &'static str,
    resources: Resources,
    reader: Arc<Reader>,
    value: Mutex<u64>,
}

impl Property {
    /// The present value. If reading it takes long, or another slow read is under way, the last value.
    fn read(self: &Arc<Self>) -> u64 {
        let mut is_reading = self.reader.is_reading.lock();
        if !*is_reading {
            let this = self.clone();
            let reading = move || {
                let value = this.resources.property(this.name);
                // Ordering: the value, then the flag, then the notice. A scrape that wakes up reads the new value. The
                // notice cannot be missed: the scrape holds the flag's lock from before this thread starts until it
                // waits.
                *this.value.lock() = value;
                *this.reader.is_reading.lock() = false;
                this.reader.has_read.notify_all();
            };
            *is_reading = thread::Builder::new().name("rocksdb-property".to_owned()).spawn(reading).is_ok();
            // Without a thread the flag is down, so this returns at once.
            self.reader.has_read.wait_while_for(&mut is_reading, |is_reading| *is_reading, PATIENCE);
        }
        *self.value.lock()
    }
}

/// Registers the memory of `resources`, and the integer properties in `properties`, such as `estimate-num-keys`.
pub fn register_metrics(resources: &Resources, properties: &[&'static str], metrics: &Metrics) {
    let limit = resources.memory_limit_bytes();
    metrics.read("rocksdb_memory_limit_bytes", "Bytes of memory that RocksDB may use (memory.rocksdb)", move || limit);
    let shared = resources.clone();
    metrics.read(
        "rocksdb_memory_bytes",
        "Bytes of memory that RocksDB uses: block cache, rows and memtables of all backends",
        move || shared.memory_bytes(),
    );
    let shared = resources.clone();
    let help = "Bytes of memory that the memtables of RocksDB take, of those of all backends";
    metrics.read("rocksdb_memtable_bytes", help, move || shared.memtable_bytes());
    let expired = resources.expired().clone();
    let help = "Expired entries that compactions have left out, each version by itself";
    metrics.read("rocksdb_ttl_removed_entries", help, move || expired.load(Ordering::Relaxed));
    let reader = Arc::new(Reader::default());
    for &property in properties {
        let name = format!("rocksdb_{}", property.replace('-', "_"));
        let help = format!("The property {property} of RocksDB, over all databases");
        let (resources, reader) = (resources.clone(), reader.clone());
        let property = Arc::new(Property { name: property, resources, reader, value: Mutex::default() });
        metrics.read(&name, &help, move || property.read());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        state::{
            Action, Address, Change, StateBackend as _,
            folder::Folders,
            rocksdb::{ResourceOptions, RocksDbBackend},
        },
        types::{KeyGroup, KeyGroupRange, StateDescriptor, StateId, StateKind},
    };

    #[test]
    fn what_rocksdb_holds_is_read_when_it_is_asked_for() {
        let root = tempfile::tempdir().unwrap();
        let folders = Folders::new(&[root.path().to_owned()], Uuid::from_u128(1)).unwrap();
        let options = ResourceOptions { memory_bytes: 64 << 20, ..ResourceOptions::default() };
        let (resources, metrics) = (Resources::new(options, folders).unwrap(), Metrics::new());
        register_metrics(&resources, &["estimate-num-keys", "is-write-stopped"], &metrics);
        let value = |name: &str| -> u64 {
            let text = metrics.encode_plain();
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("{name}: {text}")).parse().unwrap()
        };
        assert_eq!(value("dstl_rocksdb_memory_limit_bytes"), 64 << 20);
        assert_eq!(value("dstl_rocksdb_estimate_num_keys"), 0);
        let mut backend = RocksDbBackend::new(&resources, KeyGroupRange::new(0, 127).unwrap(), 128).unwrap();
        let before = value("dstl_rocksdb_memtable_bytes");
        backend.register(StateId(1), &StateDescriptor::new("a", StateKind::Value));
        // Each shard's share is more than it buffers.
        for key in 0..100_u16 {
            let at = Address { state: StateId(1), key_group: KeyGroup(key), key: &key.to_be_bytes(), namespace: b"" };
            backend.apply(&Change { at, action: Action::Put(&[7; 100_000]) }).unwrap();
        }
        let keys = value("dstl_rocksdb_estimate_num_keys");
        assert!((60..=100).contains(&keys), "{keys} handed on");
        assert_eq!(value("dstl_rocksdb_is_write_stopped"), 0);
        assert!(value("dstl_rocksdb_memtable_bytes") >= before + 60 * 100_000);
        assert!(value("dstl_rocksdb_memory_bytes") >= value("dstl_rocksdb_memtable_bytes"));
        drop(backend);
        assert_eq!(value("dstl_rocksdb_estimate_num_keys"), 0);
    }
}
