//! One database: the entries of one part of a backend's key groups.

use std::{ops::ControlFlow, sync::Arc};

use rocksdb::{DB, DBPinnableSlice, ReadOptions, WriteBatch, WriteOptions, checkpoint::Checkpoint};

use super::{
    key,
    resources::{Resources, local},
};
use crate::{
    state::{
        StateError,
        folder::Folder,
        image::{ImageFile, LocalImage},
    },
    types::KeyGroupRange,
};

/// From so many entries on, a clear writes one tombstone over their range rather than one for each: many range tombstones
/// slow reads down.
const RANGE_CLEAR_ENTRIES: usize = 512;

/// Subfolder of the database in its folder.
const DATABASE: &str = "db";

/// The name of the file that names the manifest.
pub(super) const CURRENT: &str = "CURRENT";

/// The prefix of a database's manifest.
pub(super) const MANIFEST: &str = "MANIFEST-";

/// The suffix of table files.
const TABLE: &str = ".sst";

/// Takes an entry's key and value; breaks a scan off.
pub(super) type ReadEntry<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, StateError>;

/// One open database. Its folder is removed with it.
pub(super) struct Shard {
    pub(super) key_groups: KeyGroupRange,
    /// The highest stamp of any change.
    pub(super) changed: u64,
    db: Arc<DB>,
    writes: WriteOptions,
    /// Dropped after the database is closed.
    folder: Folder,
}

impl Shard {
    /// An empty one.
    pub(super) fn create(resources: &Resources, key_groups: KeyGroupRange) -> Result<Self, StateError> {
        Self::open(resources, key_groups, resources.folders().create()?)
    }

    /// The database whose files are in `folder`'s subfolder `db`, or an empty one.
    pub(super) fn open(resources: &Resources, key_groups: KeyGroupRange, folder: Folder) -> Result<Self, StateError> {
        let path = folder.path().join(DATABASE);
        let db = Arc::new(DB::open(&resources.database_options()?, path).map_err(local)?);
        resources.opened(&db);
        let mut writes = WriteOptions::default();
        writes.disable_wal(true);
        Ok(Self { key_groups, changed: 0, db, writes, folder })
    }

    /// The database of an image, whose folder it takes.
    pub(super) fn adopt(resources: &Resources, image: LocalImage) -> Result<Self, StateError> {
        let path = image.folder.path().join(DATABASE);
        std::fs::create_dir(&path)?;
        for file in &image.files {
            std::fs::rename(image.path(file), path.join(&file.name))?;
        }
        let manifest = image.files.iter().find(|file| file.name.starts_with(MANIFEST));
        let manifest = manifest.ok_or(StateError::Undecodable("an image without manifest"))?;
        std::fs::write(path.join(CURRENT), format!("{}\n", manifest.name))?;
        Self::open(resources, image.key_groups, image.folder)
    }

    /// The database itself, for what may take long.
    pub(super) fn database(&self) -> Arc<DB> {
        self.db.clone()
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<DBPinnableSlice<'_>>, StateError> {
        self.db.get_pinned(key).map_err(local)
    }

    pub(super) fn put(&self, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        self.db.put_opt(key, value, &self.writes).map_err(local)
    }

    pub(super) fn delete(&self, key: &[u8]) -> Result<(), StateError> {
        self.db.delete_opt(key, &self.writes).map_err(local)
    }

    pub(super) fn write(&self, batch: WriteBatch) -> Result<(), StateError> {
        self.db.write_opt(batch, &self.writes).map_err(local)
    }

    /// Removes every entry that begins with `prefix`.
    pub(super) fn clear(&self, prefix: &[u8]) -> Result<(), StateError> {
        let (mut batch, mut last, mut count) = (WriteBatch::default(), vec![], 0);
        self.scan(prefix, prefix, &mut |key, _| {
            count += 1;
            if count <= RANGE_CLEAR_ENTRIES {
                batch.delete(key);
                return Ok(ControlFlow::Continue(()));
            }
            last = key.to_vec();
            Ok(ControlFlow::Break(()))
        })?;
        if count > RANGE_CLEAR_ENTRIES {
            batch.clear();
            // All keys of the prefix lie below it: no key continues with so many bytes.
            let end = key::behind(prefix).ok_or(StateError::Undecodable("a key without key group"))?;
            batch.delete_range(prefix, &end);
        }
        self.write(batch)
    }

    /// Hands every entry whose key begins with `prefix` and is at or after `from` to `read`, in order, until it breaks off.
    pub(super) fn scan(&self, prefix: &[u8], from: &[u8], read: ReadEntry<'_>) -> Result<(), StateError> {
        self.scan_range(from, key::behind(prefix), read)
    }

    /// Hands every entry from `from` (inclusive) to `to` (exclusive) to `read`, in order, until it breaks off.
    pub(super) fn scan_range(&self, from: &[u8], to: Option<Vec<u8>>, read: ReadEntry<'_>) -> Result<(), StateError> {
        let mut options = ReadOptions::default();
        if let Some(to) = to {
            options.set_iterate_upper_bound(to);
        }
        let mut entries = self.db.raw_iterator_opt(options);
        entries.seek(from);
        while let Some((key, value)) = entries.item() {
            if read(key, value)?.is_break() {
                return Ok(());
            }
            entries.next();
        }
        entries.status().map_err(local)
    }

    /// Bytes of memtables and live files.
    pub(super) fn bytes(&self) -> u64 {
        let property = |name: &str| self.db.property_int_value(name).ok().flatten().unwrap_or(0);
        property("rocksdb.cur-size-all-mem-tables") + property("rocksdb.live-sst-files-size")
    }

    /// Whether writes wait for flushes or compactions.
    pub(super) fn is_stopped(&self) -> bool {
        self.db.property_int_value("rocksdb.is-write-stopped").ok().flatten() == Some(1)
    }

    /// Links the files of everything that was written so far.
    pub(super) fn image(&self) -> Result<LocalImage, StateError> {
        let folder = self.folder.sibling()?;
        // RocksDB makes the folder itself.
        let path = folder.path().join("image");
        Checkpoint::new(&self.db).and_then(|checkpoint| checkpoint.create_checkpoint(&path)).map_err(local)?;
        let mut files = vec![];
        for entry in std::fs::read_dir(&path)? {
            let entry = entry?;
            let name = entry.file_name().into_string().unwrap_or_default();
            if name.ends_with(TABLE) || name.starts_with(MANIFEST) {
                let bytes = entry.metadata()?.len();
                std::fs::rename(entry.path(), folder.path().join(&name))?;
                files.push(ImageFile { name, bytes });
            }
        }
        std::fs::remove_dir_all(&path)?;
        files.sort();
        let keys = self.db.property_int_value("rocksdb.estimate-num-keys").map_err(local)?;
        Ok(LocalImage { key_groups: self.key_groups, folder, files, changes: keys.unwrap_or(0) })
    }

    /// Adds a file of sorted entries.
    pub(super) fn ingest(&self, file: &std::path::Path) -> Result<(), StateError> {
        let mut options = rocksdb::IngestExternalFileOptions::default();
        options.set_move_files(true);
        self.db.ingest_external_file_opts(&options, vec![file]).map_err(local)
    }
}
