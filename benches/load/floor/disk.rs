//! The entries in RocksDB with its own defaults, but for the log that a changelog makes superfluous.

use std::path::Path;

use bytes::Bytes;
use rocksdb::{DB, Options, WriteBatch, WriteOptions};
use tonic::Status;

use super::table::Step;

pub(super) struct Disk(DB);

impl Disk {
    pub(super) fn open(folder: &Path) -> Result<Self, Status> {
        // Sessions come one after the other, and each begins with nothing.
        let _ = std::fs::remove_dir_all(folder);
        let mut options = Options::default();
        options.create_if_missing(true);
        DB::open(&options, folder).map(Self).map_err(|error| status(&error))
    }

    /// Carries out operations, the writes last, and calls `answer` with the index and the value of each read.
    pub(super) fn run(&self, steps: &[Step<'_>], answer: &mut dyn FnMut(usize, Option<Bytes>)) -> Result<(), Status> {
        let mut batch = WriteBatch::default();
        for (at, step) in steps.iter().enumerate() {
            match step.value {
                Some(value) => batch.put(step.key, value),
                None => answer(at, self.0.get(step.key).map_err(|error| status(&error))?.map(Bytes::from)),
            }
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.0.write_opt(batch, &options).map_err(|error| status(&error))
    }
}

fn status(error: &rocksdb::Error) -> Status {
    Status::internal(error.to_string())
}
