//! Loads a base of pieces: they are read in parallel, verified and applied.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{LONG_BLOCK_BYTES, Progress, READ_AHEAD_BYTES, Restore, RestoreError};
use crate::{
    checkpoint::{
        base::{BaseIndex, Piece, PieceBlock, PieceError},
        damage::Fault,
        manifest::{Contents, SnapshotFile},
    },
    object::{Path, Retry, Store, StoreError, layout::ObjectName},
    state::{StateBackend, snapshot},
    tasks,
    types::{BackendId, KeyGroup},
};

/// Most bytes of adjacent pieces that one read fetches.
const READ_BYTES: u64 = 4 << 20;

/// Most bytes that the pieces of one read have once they are decompressed, unless one alone has more.
const RAW_BYTES: u64 = 8 << 20;

/// Units in which the memory of reads is counted, in bytes.
const UNIT_BYTES: u64 = 1 << 10;

/// Adjacent pieces of one file, fetched by one read.
struct Read {
    file: SnapshotFile,
    from: u64,
    to: u64,
    pieces: Vec<(KeyGroup, PieceBlock)>,
    /// Bytes of the pieces once they are decompressed.
    raw_bytes: u64,
}

/// The memory that reads may take together. It is taken in their order, and given back in it.
struct Room(Arc<Semaphore>);

impl Restore<'_> {
    /// The index of the base of `contents`, limited to the pieces that this backend needs; `None` without a base.
    pub(super) async fn read_base(&self, contents: &Contents) -> Result<Option<BaseIndex>, RestoreError> {
        let Some(uuid) = contents.base else { return Ok(None) };
        let Some(base) = self.manifest.materialization(uuid) else {
            return Err(self.lacks(format_args!("the manifest has no materialization {uuid}")));
        };
        let path = self.file_path(&base.index);
        let index = self.store.get_checked(&path, self.retry, |bytes| BaseIndex::of(base, bytes)).await;
        let index = index
            .map_err(|error| self.base_unreadable(&path, error))?
            .map_err(|error| self.damaged(Fault::corrupt(&path, None, error)))?;
        if index.sqns().is_some_and(|(from, complete_at)| from < base.from || complete_at > base.complete_at) {
            let what = format_args!("its pieces are not those of materialization {uuid} of the manifest");
            return Err(self.damaged(Fault::corrupt(&path, None, what)));
        }
        for (_, block) in index.stored() {
            self.check_length(block.length, || self.file_path(&block.file).to_string())?;
        }
        Ok(Some(index))
    }

    /// Applies every piece to `inner`. The reads that are not applied yet have at most [`READ_AHEAD_BYTES`] together; a
    /// larger one goes alone.
    pub(super) async fn load(
        &self,
        inner: &mut dyn StateBackend,
        base: &BaseIndex,
        progress: &mut Progress,
        report: &mut (impl FnMut(Progress) + Send),
    ) -> Result<(), RestoreError> {
        let wanted = self.wanted();
        let reads = plan(base, |piece| wanted.iter().any(|wanted| wanted.overlaps(piece.key_groups)));
        let (store, backend, retry) = (self.store.clone(), self.manifest.backend.clone(), self.retry);
        let room = Room::new();
        #[expect(clippy::async_yields_async, reason = "only the room is waited for here; `buffered` awaits the reads")]
        // Ordering: room is taken in the order in which the reads are applied. If they took it in any other order,
        // later reads could fill it while the next one to be applied still waits, and none would ever go on.
        let fetches = stream::iter(reads).then(move |read| {
            let (taken, store, backend) = (room.take(read.memory()), store.clone(), backend.clone());
            async move { fetch(store, backend, read, taken.await, retry) }
        });
        // Boxed: with the types of these closures the restore would be a future that cannot be spawned.
        let mut fetched = fetches.buffered(self.parallel_reads.max(1)).boxed();
        // The room of a read is given back once it is applied, not when it has come.
        while let Some((read, opened, _taken)) = fetched.next().await {
            let path = self.file_path(&read.file);
            let opened = opened.map_err(|error| self.base_unreadable(&path, error))?;
            let opened =
                opened.map_err(|refused| self.damaged(Fault::corrupt(&path, Some(refused.offset), refused.error)))?;
            let takes_long = inner.may_block() || read.raw_bytes >= u64::from(LONG_BLOCK_BYTES);
            tasks::blocking_if(takes_long, || self.load_pieces(inner, &read, &opened, progress))?;
            report(*progress);
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Applies the verified pieces of one read, whose contents are `opened`.
    fn load_pieces(
        &self,
        inner: &mut dyn StateBackend,
        read: &Read,
        opened: &[Bytes],
        progress: &mut Progress,
    ) -> Result<(), RestoreError> {
        // Only for messages, which name object and offset of a fault.
        let path = self.file_path(&read.file);
        for ((group, block), raw) in read.pieces.iter().zip(opened) {
            let damaged = |what: String| self.damaged(Fault::corrupt(&path, Some(block.offset), what));
            for change in snapshot::changes(*group, raw) {
                let change = change.map_err(|error| damaged(error.to_string()))?;
                let Some(change) = self.renamed(change) else { continue };
                let unfit = |source| self.unfit(source, path.as_ref(), block.offset);
                inner.apply(&change).map_err(unfit)?;
            }
            inner.finish_batch().map_err(|source| self.inner_error(source))?;
            progress.changes = progress.changes.saturating_add(block.changes);
            progress.bytes_done += u64::from(block.stored_length);
        }
        Ok(())
    }

    pub(super) fn file_path(&self, file: &SnapshotFile) -> Path {
        path(&self.manifest.backend, file)
    }

    /// The restore error for an object of the base that cannot be read.
    pub(super) fn base_unreadable(&self, object: &Path, error: StoreError) -> RestoreError {
        match error {
            StoreError::NotFound { .. } => self.damaged(Fault::missing(object)),
            StoreError::OutOfRange { .. } => {
                // The object is shorter than the index says, so it is not the object that was written.
                let what = error.to_string();
                self.damaged(Fault { object: object.to_string(), offset: None, what, missing: false })
            }
            other => other.into(),
        }
    }
}

/// A piece that differs from the one that was written.
#[derive(Debug, thiserror::Error)]
#[error("byte {offset}: {error}")]
struct Refused {
    offset: u64,
    error: PieceError,
}

impl Room {
    fn new() -> Self {
        Self(Arc::new(Semaphore::new(units(READ_AHEAD_BYTES) as usize)))
    }

    /// Waits until there is room for `bytes`, or until there is nothing else if it is more than all of the room.
    fn take(&self, bytes: u64) -> impl Future<Output = OwnedSemaphorePermit> + use<> {
        let room = self.0.clone();
        async move {
            let units = units(bytes.min(READ_AHEAD_BYTES));
            room.acquire_many_owned(units).await.expect("nobody closes it")
        }
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

impl Read {
    /// Bytes of memory that it takes: those stored, and beside them those decompressed.
    fn memory(&self) -> u64 {
        (self.to - self.from).saturating_add(self.raw_bytes)
    }

    fn can_join(&self, block: &PieceBlock) -> bool {
        self.file == block.file
            && self.to == block.offset
            && self.to + u64::from(block.stored_length) - self.from <= READ_BYTES
            && self.raw_bytes + u64::from(block.length) <= RAW_BYTES
    }

    /// The contents of the pieces in `bytes`, each verified.
    fn open(&self, bytes: &Bytes) -> Result<Vec<Bytes>, Refused> {
        let open = |(_, block): &(KeyGroup, PieceBlock)| {
            tasks::breathe();
            let from = usize::try_from(block.offset - self.from).unwrap_or(usize::MAX).min(bytes.len());
            let stored = bytes.slice(from..from.saturating_add(block.stored_length as usize).min(bytes.len()));
            block.open(&stored).map_err(|error| Refused { offset: block.offset, error })
        };
        self.pieces.iter().map(open).collect()
    }
}

type Opened = Result<Result<Vec<Bytes>, Refused>, StoreError>;

async fn fetch(
    store: Store,
    backend: BackendId,
    read: Read,
    taken: OwnedSemaphorePermit,
    retry: Retry,
) -> (Read, Opened, OwnedSemaphorePermit) {
    let (path, range) = (path(&backend, &read.file), read.from..read.to);
    let opened = store.get_range_checked(&path, range, retry, |bytes| read.open(bytes)).await;
    (read, opened, taken)
}

fn path(backend: &BackendId, file: &SnapshotFile) -> Path {
    let (backend, file_name) = (backend.clone(), file.name.clone());
    ObjectName::SnapshotFile { backend, instance: file.instance, file: file_name }.path()
}

/// Reads that together fetch every wanted piece, in order of objects and offsets.
fn plan(base: &BaseIndex, wanted: impl Fn(&Piece) -> bool) -> Vec<Read> {
    let mut all: Vec<(&Piece, &PieceBlock)> = base.stored().filter(|(piece, _)| wanted(piece)).collect();
    all.sort_by(|(_, a), (_, b)| (&a.file, a.offset).cmp(&(&b.file, b.offset)));
    let mut reads: Vec<Read> = vec![];
    for (piece, block) in all {
        let (end, raw_bytes) = (block.offset + u64::from(block.stored_length), u64::from(block.length));
        match reads.last_mut() {
            Some(read) if read.can_join(block) => {
                read.to = end;
                read.raw_bytes += raw_bytes;
                read.pieces.push((piece.key_groups.first(), block.clone()));
            }
            _ => reads.push(Read {
                file: block.file.clone(),
                from: block.offset,
                to: end,
                pieces: vec![(piece.key_groups.first(), block.clone())],
                raw_bytes,
            }),
        }
    }
    reads
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn reads_take_room_in_their_order_and_a_larger_one_than_all_goes_alone() {
        let room = Room::new();
        let first = room.take(READ_AHEAD_BYTES - UNIT_BYTES).await;
        let small = room.take(UNIT_BYTES).await;
        let mut large = Box::pin(room.take(10 * READ_AHEAD_BYTES));
        assert!((&mut large).now_or_never().is_none());
        drop(first);
        let mut later = Box::pin(room.take(UNIT_BYTES));
        assert!((&mut later).now_or_never().is_none(), "the larger one is before it");
        assert!((&mut large).now_or_never().is_none());
        drop(small);
        let large = (&mut large).now_or_never().unwrap();
        assert!((&mut later).now_or_never().is_none());
        drop(large);
        assert!(later.now_or_never().is_some());
    }
}
