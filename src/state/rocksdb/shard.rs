//! One database: the entries of one part of a backend's key groups.

use std::{cell::RefCell, ops::ControlFlow, sync::Arc};

use rocksdb::{
    DB, DBRawIterator, ReadOptions, WriteBatch, WriteOptions,
    checkpoint::Checkpoint,
    perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats},
};

use super::{
    buffer::Buffer,
    entries::hash_of,
    expiry::Expiry,
    gaps::{self, Gaps},
    key,
    resources::{Resources, local},
    rows::Rows,
};
use crate::{
    state::{
        StateError,
        folder::Folder,
        image::{ImageFile, LocalImage},
    },
    types::KeyGroupRange,
};

/// From this many entries on, a clear writes one tombstone over their range instead of one for each. Fewer range
/// tombstones are better, since they slow reads down.
const RANGE_CLEAR_ENTRIES: usize = 512;

/// Subfolder of the database in its folder.
const DATABASE: &str = "db";

/// The name of the file that names the manifest.
pub(super) const CURRENT: &str = "CURRENT";

/// The prefix of a database's manifest.
pub(super) const MANIFEST: &str = "MANIFEST-";

/// The suffix of table files.
const TABLE: &str = ".sst";

/// Takes an entry's key and value; can break off the scan.
pub(super) type ReadEntry<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, StateError>;

/// Takes an entry's key; returns where to seek next.
pub(super) type ReadKey<'a> = &'a mut dyn FnMut(&[u8]) -> Result<Option<Vec<u8>>, StateError>;

/// One open database behind its write buffer. Its folder is removed with it.
pub(super) struct Shard {
    pub(super) key_groups: KeyGroupRange,
    /// The highest stamp of any change.
    pub(super) changed: u64,
    db: Arc<DB>,
    /// Kept, since RocksDB would make and free default ones for each read.
    reads: ReadOptions,
    writes: WriteOptions,
    resources: Resources,
    buffer: RefCell<Buffer>,
    /// Rows of the database; those that the buffer has are hidden.
    rows: RefCell<Rows>,
    /// Gaps of the database and the buffer together.
    gaps: RefCell<Gaps>,
    /// Dropped after the database is closed.
    folder: Folder,
}

/// Buffered writes on their way to the database.
pub(super) struct HandOn<'a> {
    db: &'a DB,
    writes: &'a WriteOptions,
    resources: &'a Resources,
    batch: WriteBatch,
}

impl HandOn<'_> {
    /// Writes them, whole or not at all, once there is memory for them.
    pub(super) fn run(self) -> Result<(), StateError> {
        self.resources.await_flushes();
        self.db.write_opt(self.batch, self.writes).map_err(local)
    }
}

impl Shard {
    /// An empty shard, whose compactions remove entries according to `expiry`.
    pub(super) fn create(
        resources: &Resources,
        key_groups: KeyGroupRange,
        expiry: &Expiry,
    ) -> Result<Self, StateError> {
        Self::open(resources, key_groups, resources.folders().create()?, Some(expiry))
    }

    /// The database whose files are in `folder`'s subfolder `db`, or an empty one.
    fn open(
        resources: &Resources,
        key_groups: KeyGroupRange,
        folder: Folder,
        expiry: Option<&Expiry>,
    ) -> Result<Self, StateError> {
        let path = folder.path().join(DATABASE);
        let mut options = resources.database_options()?;
        if let Some(expiry) = expiry {
            options.set_compaction_filter_factory(expiry.filters());
        }
        let db = Arc::new(DB::open(&options, path).map_err(local)?);
        resources.opened(&db);
        let mut writes = WriteOptions::default();
        writes.disable_wal(true);
        let (buffer, gaps, rows) = (RefCell::default(), RefCell::default(), RefCell::new(Rows::new(resources)));
        let (reads, resources) = (ReadOptions::default(), resources.clone());
        Ok(Self { key_groups, changed: 0, db, reads, writes, resources, buffer, rows, gaps, folder })
    }

    /// A shard made of an image, whose folder it takes over. Without `expiry` no entry is removed.
    pub(super) fn adopt(resources: &Resources, image: LocalImage, expiry: Option<&Expiry>) -> Result<Self, StateError> {
        let path = image.folder.path().join(DATABASE);
        std::fs::create_dir(&path)?;
        for file in &image.files {
            // All of this is in one folder, so no file is copied.
            std::fs::rename(image.path(file), path.join(&file.name))?;
        }
        let manifest = image.files.iter().find(|file| file.name.starts_with(MANIFEST));
        let manifest = manifest.ok_or(StateError::Undecodable("an image without manifest"))?;
        // The file says no more than the name of the manifest, so images do not have it.
        std::fs::write(path.join(CURRENT), format!("{}\n", manifest.name))?;
        Self::open(resources, image.key_groups, image.folder, expiry)
    }

    /// The database itself, for calls that may take long.
    pub(super) fn database(&self) -> Arc<DB> {
        self.db.clone()
    }

    /// Reads the value of a key.
    pub(super) fn get<T>(&self, key: &[u8], read: impl FnOnce(Option<&[u8]>) -> T) -> Result<T, StateError> {
        let hash = hash_of(key);
        if let Some(written) = self.buffer.borrow().get(hash, key) {
            return Ok(read(written));
        }
        let row = self.rows.borrow_mut().find(hash, key);
        if let Some(row) = row {
            return Ok(read(self.rows.borrow().value(row)));
        }
        let stored = self.db.get_pinned_opt(key, &self.reads).map_err(local)?;
        self.rows.borrow_mut().add(hash, key, stored.as_deref());
        Ok(read(stored.as_deref()))
    }

    /// Writes a key. Its first `prefix` bytes, if given, are the prefix that scans use.
    pub(super) fn put(&self, key: &[u8], prefix: Option<usize>, value: &[u8]) {
        self.buffer.borrow_mut().write(key, prefix, Some(value));
        self.gaps.borrow_mut().written(key);
    }

    /// Removes a key, with the same `prefix`.
    pub(super) fn delete(&self, key: &[u8], prefix: Option<usize>) {
        self.buffer.borrow_mut().write(key, prefix, None);
        self.gaps.borrow_mut().removed(key);
    }

    /// Forgets the rows in memory, whose entries the database may not have any more.
    pub(super) fn forget_rows(&self) {
        self.rows.borrow_mut().forget();
    }

    /// Bytes of writes that the database does not have yet.
    pub(super) fn buffered_bytes(&self) -> usize {
        self.buffer.borrow().bytes()
    }

    /// Takes the buffered writes, to be passed to the database; that has to happen before anything is read.
    pub(super) fn handing_on(&self) -> HandOn<'_> {
        let (mut buffer, mut rows) = (self.buffer.borrow_mut(), self.rows.borrow_mut());
        // Ordering: the rows are renewed before the writes leave the buffer, which hides them until then.
        if !rows.is_empty() {
            buffer.writes().for_each(|(hash, key, value)| rows.renew(hash, key, value));
        }
        let batch = buffer.take();
        HandOn { db: &self.db, writes: &self.writes, resources: &self.resources, batch }
    }

    /// Passes the buffered writes to the database.
    pub(super) fn hand_on(&self) -> Result<(), StateError> {
        if self.buffer.borrow().is_empty() { Ok(()) } else { self.handing_on().run() }
    }

    /// Removes every entry that begins with `prefix`.
    pub(super) fn clear(&self, prefix: &[u8]) -> Result<(), StateError> {
        let mut keys: Vec<Vec<u8>> = vec![];
        self.scan(prefix, prefix, &mut |key, _| {
            // One key above the bound is read, which tells that there are too many.
            keys.push(key.to_vec());
            Ok(if keys.len() > RANGE_CLEAR_ENTRIES { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        if keys.len() <= RANGE_CLEAR_ENTRIES {
            keys.iter().for_each(|key| self.delete(key, Some(prefix.len())));
            return Ok(());
        }
        let end = key::behind(prefix).ok_or(StateError::Undecodable("a key without key group"))?;
        // Ordering: this tombstone goes past the buffer, straight to the database. That is safe only with no write of
        // the prefix in the buffer: such a write would be passed on later, and come back to life above the tombstone.
        // The scan has already passed on the buffered writes of this prefix.
        let mut batch = WriteBatch::default();
        batch.delete_range(prefix, &end);
        self.forget_rows();
        self.db.write_opt(batch, &self.writes).map_err(local)?;
        // A range tombstone was not counted entry by entry. It is worth a gap, no more.
        self.gaps.borrow_mut().found(prefix, &end, gaps::WORTH);
        Ok(())
    }

    /// Calls `read` with every entry whose key begins with `prefix` and is at or after `from`, in order, until it
    /// breaks off.
    pub(super) fn scan(&self, prefix: &[u8], from: &[u8], read: ReadEntry<'_>) -> Result<(), StateError> {
        // Only writes under this prefix matter. Others stay in the buffer, where they may still be overwritten.
        if self.buffers(prefix) {
            self.hand_on()?;
        }
        let end = key::behind(prefix).ok_or(StateError::Undecodable("a key without key group"))?;
        self.scan_between_gaps(from, &end, read)
    }

    /// As [`Reader::scan_range`], but skips known gaps and notes new ones. All buffered writes must have been passed
    /// on.
    fn scan_between_gaps(&self, from: &[u8], end: &[u8], read: ReadEntry<'_>) -> Result<(), StateError> {
        let (reader, mut from) = (Reader(self.db.clone()), from.to_vec());
        loop {
            let gap = self.gaps.borrow().next(&from).map(|(begin, end)| (begin.to_vec(), end.to_vec()));
            let gap = gap.filter(|(begin, _)| **begin < *end);
            let until = gap.as_ref().map_or(end, |(begin, _)| &begin[..]);
            if *from < *until {
                let mut dead = vec![];
                let scanned =
                    reader.scan_watched(&from, until, read, &mut |from, to, count| dead.push((from, to, count)));
                // Gaps that were met before the scan broke off or failed are gaps all the same.
                let mut gaps = self.gaps.borrow_mut();
                dead.iter().for_each(|(from, to, count)| gaps.found(from, to, *count));
                if scanned?.is_break() {
                    return Ok(());
                }
            }
            match gap {
                Some((_, behind)) if *behind < *end => from = behind,
                _ => return Ok(()),
            }
        }
    }

    /// Calls `read` with the key of the first entry at or after `from` that begins with `prefix`; `read` returns where
    /// to look for the next one.
    pub(super) fn skip(&self, prefix: &[u8], from: Option<Vec<u8>>, read: ReadKey<'_>) -> Result<(), StateError> {
        let (reader, end) = (self.reader()?, key::behind(prefix).unwrap_or_default());
        let (mut entries, watch) = (reader.entries(Some(end.clone())), Watch::begin());
        let mut next = from;
        while let Some(mut from) = next {
            if let Some((_, behind)) = self.gaps.borrow().next(&from).filter(|(begin, _)| **begin <= *from) {
                from = behind.to_vec();
            }
            if from >= end {
                return Ok(());
            }
            // Only the tombstones of this seek count. A seek that ended because the disk fails proves no gap, so its
            // status is asked first.
            let before = watch.tombstones();
            entries.seek(&from);
            if !entries.valid() {
                entries.status().map_err(local)?;
            }
            let dead = watch.tombstones() - before;
            if dead >= gaps::WORTH {
                self.gaps.borrow_mut().found(&from, entries.key().unwrap_or(&end), dead);
            }
            next = match entries.key() {
                Some(key) => read(key)?,
                None => None,
            };
        }
        Ok(())
    }

    /// Whether there are writes under `prefix` that the database does not have yet.
    pub(super) fn buffers(&self, prefix: &[u8]) -> bool {
        self.buffer.borrow().has_prefix(prefix)
    }

    /// As [`Reader::scan_range`], including buffered writes.
    pub(super) fn scan_range(&self, from: &[u8], to: Option<Vec<u8>>, read: ReadEntry<'_>) -> Result<(), StateError> {
        let reader = self.reader()?;
        match to {
            Some(to) => self.scan_between_gaps(from, &to, read),
            None => reader.scan_range(from, None, read),
        }
    }

    /// A reader that works beside the writer.
    pub(super) fn reader(&self) -> Result<Reader, StateError> {
        self.hand_on()?;
        Ok(Reader(self.db.clone()))
    }

    /// Compacts files that are older than this. If RocksDB refuses, expired entries wait for other compactions.
    pub(super) fn compact_every(&self, seconds: u64) {
        if let Err(error) = self.db.set_options(&[("periodic_compaction_seconds", &seconds.to_string())]) {
            tracing::warn!(%error, seconds, "no periodic compaction");
        }
    }

    /// Bytes of the buffer, memtables and live files.
    pub(super) fn bytes(&self) -> u64 {
        let property = |name: &str| self.db.property_int_value(name).ok().flatten().unwrap_or(0);
        let stored = property("rocksdb.cur-size-all-mem-tables") + property("rocksdb.live-sst-files-size");
        stored + self.buffered_bytes() as u64
    }

    /// Links the files that contain everything written so far.
    pub(super) fn image(&self) -> Result<LocalImage, StateError> {
        self.hand_on()?;
        // Ordering: the buffer goes to the database first (above), or the image would lack its writes. Then RocksDB
        // flushes its memtables before it links files, since there is no write-ahead log that could stand in for them.
        let folder = self.folder.sibling()?;
        // RocksDB makes the folder itself, so it must not exist.
        let path = folder.path().join("image");
        Checkpoint::new(&self.db).and_then(|checkpoint| checkpoint.create_checkpoint(&path)).map_err(local)?;
        let mut files = vec![];
        for entry in std::fs::read_dir(&path)? {
            let entry = entry?;
            let name = entry.file_name().into_string().unwrap_or_default();
            if name.ends_with(TABLE) || name.starts_with(MANIFEST) {
                let bytes = entry.metadata()?.len();
                std::fs::rename(entry.path(), folder.path().join(&name))?;
                // RocksDB goes on writing the manifest, so the next image has other bytes under its name.
                let is_immutable = name.ends_with(TABLE);
                files.push(ImageFile { name, bytes, is_immutable });
            }
        }
        std::fs::remove_dir_all(&path)?;
        files.sort();
        let keys = self.db.property_int_value("rocksdb.estimate-num-keys").map_err(local)?;
        Ok(LocalImage { key_groups: self.key_groups, folder, files, changes: keys.unwrap_or(0) })
    }

    /// Adds a file of sorted entries, which override existing ones.
    pub(super) fn ingest(&self, file: &std::path::Path) -> Result<(), StateError> {
        // Ordering 1: buffered writes go to the database first. If they came behind the file, they would override its
        // entries.
        // Ordering 2: gaps and rows are forgotten before the file comes. If that fails half-way, none of them hides an
        // entry of the file.
        self.hand_on()?;
        let mut options = rocksdb::IngestExternalFileOptions::default();
        options.set_move_files(true);
        self.gaps.borrow_mut().forget();
        self.forget_rows();
        self.db.ingest_external_file_opts(&options, vec![file]).map_err(local)
    }
}

/// Counts, as long as it lives, the tombstones that reads of this thread walk over.
struct Watch(PerfContext);

impl Watch {
    fn begin() -> Self {
        set_perf_stats(PerfStatsLevel::EnableCount);
        Self(PerfContext::default())
    }

    /// Tombstones so far; only differences between two calls have a meaning.
    fn tombstones(&self) -> u64 {
        self.0.metric(PerfMetric::InternalDeleteSkippedCount)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        set_perf_stats(PerfStatsLevel::Disable);
    }
}

/// Takes a range with many tombstones, from (inclusive) and to (exclusive), and their number.
type NoteGap<'a> = &'a mut dyn FnMut(Vec<u8>, Vec<u8>, u64);

/// Reads a database beside its writer.
pub(super) struct Reader(Arc<DB>);

impl Reader {
    /// All entries with keys below `to`.
    fn entries(&self, to: Option<Vec<u8>>) -> DBRawIterator<'_> {
        let mut options = ReadOptions::default();
        if let Some(to) = to {
            options.set_iterate_upper_bound(to);
        }
        self.0.raw_iterator_opt(options)
    }

    /// As [`scan_range`](Self::scan_range); tells of stretches without entries that have many tombstones. Breaks where
    /// `read` does.
    fn scan_watched(
        &self,
        from: &[u8],
        to: &[u8],
        read: ReadEntry<'_>,
        note: NoteGap<'_>,
    ) -> Result<ControlFlow<()>, StateError> {
        let (mut entries, watch) = (self.entries(Some(to.to_vec())), Watch::begin());
        let (mut behind, mut before) = (from.to_vec(), watch.tombstones());
        entries.seek(from);
        loop {
            let now = watch.tombstones();
            if !entries.valid() {
                // A scan that ended because the disk fails proves no gap.
                entries.status().map_err(local)?;
            }
            if now - before >= gaps::WORTH {
                note(behind.clone(), entries.key().unwrap_or(to).to_vec(), now - before);
            }
            let Some((key, value)) = entries.item() else { return Ok(ControlFlow::Continue(())) };
            if read(key, value)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            behind.clear();
            behind.extend_from_slice(key);
            behind.push(0);
            // Ordering: the count is taken before the step, so the tombstones of the step count for the stretch that it
            // crosses.
            before = now;
            entries.next();
        }
    }

    /// Calls `read` with every entry from `from` (inclusive) to `to` (exclusive), in order, until it breaks off.
    pub(super) fn scan_range(&self, from: &[u8], to: Option<Vec<u8>>, read: ReadEntry<'_>) -> Result<(), StateError> {
        let mut entries = self.entries(to);
        entries.seek(from);
        while let Some((key, value)) = entries.item() {
            if read(key, value)?.is_break() {
                return Ok(());
            }
            entries.next();
        }
        entries.status().map_err(local)
    }
}
