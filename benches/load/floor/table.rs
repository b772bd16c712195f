//! All that a session of the floor has: the entries, and the buffer in place of a log.

use std::path::Path;

use bytes::Bytes;
use dstl::proto::{
    v1::{self as pb, OperationKind, OperationResult, session_response::Response as Answer},
    wire::{Fields, tag, take_bytes, take_tag, take_varint},
};
use tonic::Status;

#[cfg(feature = "rocksdb")]
use super::disk::Disk;
use super::map::Map;

/// Credit of a session, as the daemon gives it.
pub(super) const CREDIT: u64 = 32 << 20;

/// The log is forgotten beyond so many bytes.
const LOG_BYTES: usize = 64 << 20;

/// Bytes of a small operation, to guess how many a batch has.
const SMALL_OPERATION_BYTES: usize = 16;

/// A read or a write of a batch, borrowed from its message.
pub(super) struct Step<'a> {
    pub(super) key: &'a [u8],
    /// The value to put; `None` for a read.
    pub(super) value: Option<&'a [u8]>,
}

/// The state of a session.
pub(super) struct Table {
    entries: Entries,
    log: Vec<u8>,
    used: u64,
    applied_to: u64,
}

/// The place of the entries.
enum Entries {
    Memory(Map),
    #[cfg(feature = "rocksdb")]
    Disk(Disk),
}

impl Entries {
    fn open(folder: Option<&Path>) -> Result<Self, Status> {
        match folder {
            None => Ok(Self::Memory(Map::default())),
            #[cfg(feature = "rocksdb")]
            Some(folder) => Ok(Self::Disk(Disk::open(folder)?)),
            #[cfg(not(feature = "rocksdb"))]
            Some(_) => Err(Status::unimplemented("this build has no RocksDB")),
        }
    }
}

impl Table {
    /// An empty one; in RocksDB if there is a folder for it.
    pub(super) fn open(folder: Option<&Path>) -> Result<Self, Status> {
        Ok(Self { entries: Entries::open(folder)?, log: vec![], used: 0, applied_to: 0 })
    }

    /// Batches below are applied.
    pub(super) fn applied_to(&self) -> u64 {
        self.applied_to
    }

    /// Applies the batch that the message of a client consists of; `None` for another message.
    pub(super) fn batch(&mut self, message: &[u8]) -> Result<Option<pb::BatchResult>, Status> {
        let Some((number, batch, steps)) = read(message) else { return Ok(None) };
        self.used += batch.len() as u64;
        // The bytes are the same as in the message: framed, and with the keys of reads, which are few in updates.
        self.log.extend_from_slice(batch);
        if self.log.len() > LOG_BYTES {
            self.log.clear();
        }
        let mut results = vec![];
        let answer = &mut |operation: usize, value: Option<Bytes>| {
            let (operation, found) = (u32::try_from(operation).unwrap_or(u32::MAX), value.is_some());
            results.push(OperationResult { operation, found, value: value.unwrap_or_default(), ..Default::default() });
        };
        match &mut self.entries {
            Entries::Memory(map) => map.run(&steps, answer),
            #[cfg(feature = "rocksdb")]
            Entries::Disk(disk) => disk.run(&steps, answer)?,
        }
        self.applied_to = number + 1;
        Ok(Some(pb::BatchResult { number, results, repeated_batch: false }))
    }

    /// All batches so far are as durable as they get.
    pub(super) fn acknowledgement(&self) -> Answer {
        let (to, credit) = (self.applied_to, self.used + CREDIT);
        Answer::Acknowledgement(pb::Acknowledgement { applied_to: to, persisted_to: to, confirmed_to: to, credit })
    }
}

/// Number, bytes and operations of a batch in the usual form, by the decoder that the daemon has.
fn read(mut message: &[u8]) -> Option<(u64, &[u8], Vec<Step<'_>>)> {
    take_tag(&mut message, tag::BATCH_IN_REQUEST)?;
    let batch = take_bytes(&mut message)?;
    let (mut number, mut rest, mut steps) = (0, batch, Vec::with_capacity(batch.len() / SMALL_OPERATION_BYTES));
    while let Some((&field, after)) = rest.split_first() {
        rest = after;
        match field {
            tag::NUMBER_IN_BATCH => number = take_varint(&mut rest)?,
            tag::OPERATION_IN_BATCH => {
                let Fields { kind, key, value, .. } = Fields::read(take_bytes(&mut rest)?)?;
                let is_read = kind == i32::from(OperationKind::Get);
                steps.push(Step { key, value: (!is_read).then_some(value) });
            }
            _ => return None,
        }
    }
    Some((number, batch, steps))
}
