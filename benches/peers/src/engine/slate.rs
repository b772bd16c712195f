//! SlateDB in process, on its local object store, which syncs files and folders here as dstl's store does.
//!
//! Its options are its defaults, with one exception: it flushes its log when the task asks, once a second, instead of
//! ten times a second.

use std::{path::Path, sync::Arc};

use futures::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{self, FuturesOrdered},
};
use slatedb::{Db, Settings, WriteBatch, object_store::local::LocalFileSystem};

use super::{Driven, Point, counted, runs};
use crate::{Fault, source::Source};

/// Batches in flight: while one is applied, the task makes the next.
const FLIGHTS: usize = 4;

/// Reads of one batch that run at the same time.
const READS: usize = 64;

pub(super) struct Slate {
    db: Db,
    /// Writes in the order sent, each with the number of its operations.
    flights: FuturesOrdered<BoxFuture<'static, Result<u64, Fault>>>,
    applied: u64,
}

impl Slate {
    pub(super) async fn open(folder: &Path) -> Result<Self, Fault> {
        let store = Arc::new(LocalFileSystem::new_with_prefix(folder)?.with_fsync(true));
        let settings = Settings { flush_interval: None, ..Settings::default() };
        let db = Db::builder("db", store).with_settings(settings).build().await?;
        Ok(Self { db, flights: FuturesOrdered::new(), applied: 0 })
    }

    /// Sends a batch, and waits until fewer than so many are in flight.
    async fn send(&mut self, batch: WriteBatch, operations: usize) -> Result<(), Fault> {
        let db = self.db.clone();
        let write = async move {
            db.write(batch).await?;
            Ok(operations as u64)
        };
        self.flights.push_back(write.boxed());
        self.land(FLIGHTS).await
    }

    async fn land(&mut self, fewer_than: usize) -> Result<(), Fault> {
        while self.flights.len() >= fewer_than {
            let Some(landed) = self.flights.next().await else { break };
            self.applied += landed?;
        }
        Ok(())
    }
}

impl Driven for Slate {
    async fn put(&mut self, keys: &[u64], source: &mut Source) -> Result<(), Fault> {
        let mut batch = WriteBatch::new();
        for key in keys {
            batch.put(key.to_be_bytes(), source.value());
        }
        self.send(batch, keys.len()).await
    }

    async fn count(&mut self, keys: &[u64]) -> Result<(), Fault> {
        let reads = runs(keys).map(|(key, more)| {
            let db = self.db.clone();
            async move {
                let value = db.get(key.to_be_bytes()).await?;
                Ok::<_, Fault>((key, counted(value.as_deref(), more)?))
            }
        });
        let counters: Vec<_> = stream::iter(reads).buffered(READS).collect().await;
        let mut batch = WriteBatch::new();
        for counter in counters {
            let (key, value) = counter?;
            batch.put(key.to_be_bytes(), value);
        }
        self.send(batch, keys.len()).await?;
        // The next batch reads what this one wrote.
        self.land(1).await
    }

    fn applied(&self) -> u64 {
        self.applied
    }

    async fn settle(&mut self) -> Result<(), Fault> {
        self.land(1).await
    }

    fn point(&self) -> Option<Point> {
        let db = self.db.clone();
        Some(Box::new(move || {
            let db = db.clone();
            async move { Ok(db.flush().await?) }.boxed()
        }))
    }

    fn server(&self) -> Option<u32> {
        None
    }

    async fn close(self) -> Result<(), Fault> {
        self.db.flush().await?;
        Ok(self.db.close().await?)
    }
}
