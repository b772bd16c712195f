//! A directory as a store: object_store's implementation, with additions.
//!
//! * Temporaries. A process that is killed while it creates `name` leaves `name#1`. The wrapped store neither lists nor
//!   deletes such files; this one does both, so that a sweep finds them.
//! * Durability of a file that exists already. A create that meets a file has not made its directory entry durable, and
//!   the process that wrote the file may have died before doing so. The entry is synced before the answer, since the
//!   caller may find identical bytes and rely on them.
//! * Durability of directories that exist already. The wrapped store makes the directories durable that it creates. A
//!   directory that was there before may be left from a process that was killed before it synced it. So the first
//!   create of this process in a directory syncs all directories that lead to it.
//! * A missing directory. While a file system is not mounted, its mount point is an empty directory like any other.
//!   Every request then fails until the directory is back. Otherwise reads would find no objects, and creates would
//!   begin another store.

use std::{
    collections::BTreeSet,
    fmt, fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use async_trait::async_trait;
use futures::{StreamExt as _, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, local::LocalFileSystem, path::Path,
};
use parking_lot::Mutex;
use tokio::task::spawn_blocking;
use walkdir::WalkDir;

use super::memory::not_implemented;

/// Number of concurrent deletions of one stream.
const CONCURRENT_DELETIONS: usize = 10;

/// Name of this store in errors.
const STORE: &str = "local directory";

/// The objects below one directory.
#[derive(Debug, Clone)]
pub(super) struct LocalStore {
    files: Arc<LocalFileSystem>,
    root: Arc<FilePath>,
    /// Inode of the root. Device numbers are not compared, as they change with every mount.
    inode: u64,
    /// Directories that are known to be durable, with all directories above them.
    durable: Arc<Mutex<BTreeSet<Directory>>>,
    sync: SyncFolder,
}

/// Makes a directory's entries durable.
type SyncFolder = fn(&FilePath) -> io::Result<()>;

/// The identity of a directory: its path, its inode and, if the file system records it, the time of its creation. The
/// path alone may be used again for another directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Directory {
    path: PathBuf,
    inode: u64,
    made: Option<SystemTime>,
}

/// Most directories that are remembered as durable. When one more is added, all others are forgotten.
const DURABLE_DIRECTORIES: usize = 10_000;

impl LocalStore {
    /// Opens the directory `root`, which is created if it is missing. Blocks for a few file-system calls.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(super) fn open(root: &FilePath) -> Result<Self> {
        let wanted = std::path::absolute(root).map_err(failed)?;
        // Looked at before they are made, to know which parents got a new entry that has to be made durable.
        let made: Vec<_> = wanted.ancestors().take_while(|folder| !folder.exists()).collect();
        fs::create_dir_all(&wanted).map_err(failed)?;
        made.iter().filter_map(|folder| folder.parent()).try_for_each(sync).map_err(failed)?;
        let root = wanted.canonicalize().map_err(failed)?;
        let files = LocalFileSystem::new_with_prefix(&root)?.with_fsync(true).with_automatic_cleanup(true);
        let inode = fs::metadata(&root).map_err(failed)?.ino();
        Ok(Self { files: Arc::new(files), root: root.into(), inode, durable: Arc::default(), sync })
    }

    /// Fails unless the directory at the root is the one that was opened.
    async fn check(&self) -> Result<()> {
        let (root, inode) = (Arc::clone(&self.root), self.inode);
        let found = spawn_blocking(move || fs::metadata(root).map(|metadata| metadata.ino())).await?;
        if found.map_err(failed)? == inode {
            return Ok(());
        }
        let reason = format!(
            "`{}` is another directory than the one that was opened; mount it again, or restart to begin with this one",
            self.root.display()
        );
        Err(failed(io::Error::other(reason)))
    }

    fn file(&self, location: &Path) -> PathBuf {
        location.parts().fold(self.root.to_path_buf(), |file, part| file.join(part.as_ref()))
    }

    /// Makes the directories that lead to `location` durable.
    async fn sync_parents(&self, location: &Path) -> Result<()> {
        let (file, store) = (self.file(location), self.clone());
        spawn_blocking(move || {
            let mut inside = file.ancestors().skip(1).take_while(|folder| folder.starts_with(&*store.root));
            inside.try_for_each(store.sync).map_err(failed)
        })
        .await?
    }

    /// Makes the directories that lead to a new file at `location` durable, unless they are known to be.
    async fn sync_new_parents(&self, location: &Path) -> Result<()> {
        let file = self.file(location);
        let Some(folder) = file.parent().map(FilePath::to_path_buf) else { return Ok(()) };
        // By inode and time of creation, and not by path alone: a directory that was deleted and made again is not
        // durable.
        let directory = spawn_blocking(move || Directory::at(folder)).await?.map_err(failed)?;
        if self.durable.lock().contains(&directory) {
            return Ok(());
        }
        self.sync_parents(location).await?;
        let mut durable = self.durable.lock();
        if durable.len() >= DURABLE_DIRECTORIES {
            // Forgetting costs a few syncs. Finding out which entries are old would cost more.
            durable.clear();
        }
        durable.insert(directory);
        Ok(())
    }

    /// All files below `prefix`, temporaries included.
    async fn files_below(self, prefix: Option<Path>) -> Result<Vec<ObjectMeta>> {
        let top = prefix.map_or_else(|| self.root.to_path_buf(), |prefix| self.file(&prefix));
        let root = Arc::clone(&self.root);
        let found = spawn_blocking(move || walk(&root, &top)).await??;
        // The root may have been replaced during the walk.
        self.check().await?;
        Ok(found)
    }

    async fn delete_file(self, location: Path) -> Result<Path> {
        self.check().await?;
        if is_temporary(&location) {
            let file = self.file(&location);
            spawn_blocking(move || fs::remove_file(file)).await?.map_err(|error| {
                if error.kind() == io::ErrorKind::NotFound { absent(&location, error) } else { failed(error) }
            })?;
            return Ok(location);
        }
        let mut deleted = self.files.delete_stream(stream::iter([Ok(location.clone())]).boxed());
        match deleted.next().await {
            Some(answer) => answer,
            None => Ok(location),
        }
    }
}

impl fmt::Display for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "directory {}", self.root.display())
    }
}

#[async_trait]
impl ObjectStore for LocalStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.check().await?;
        // Ordering: the root is checked before and after the put. If it was unmounted in between, the file lies in the
        // directory below the mount point. Without the second look the caller would be told that an object is durable
        // which vanishes with the next mount.
        let put = self.files.put_opts(location, payload, options).await;
        match &put {
            Ok(_) => self.sync_new_parents(location).await?,
            // The file may be of a process that was killed before it synced the directories. The caller will find its
            // own bytes and call them durable, so they are made so now, even if they are remembered as durable.
            Err(Error::AlreadyExists { .. }) => self.sync_parents(location).await?,
            Err(_) => {}
        }
        self.check().await?;
        put
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        not_implemented("multipart upload", self)
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let got = self.files.get_opts(location, options).await;
        // Only then: a file that was read is the right one, since names are not used again.
        if matches!(got, Err(Error::NotFound { .. })) {
            self.check().await?;
        }
        got
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .map(move |location| {
                let store = store.clone();
                async move { store.delete_file(location?).await }
            })
            .buffered(CONCURRENT_DELETIONS)
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let files = self.clone().files_below(prefix.cloned());
        stream::once(files)
            .flat_map(|files| match files {
                Ok(files) => stream::iter(files).map(Ok).boxed(),
                Err(error) => stream::iter([Err(error)]).boxed(),
            })
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let listed = self.files.list_with_delimiter(prefix).await?;
        self.check().await?;
        Ok(listed)
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        not_implemented("copy", self)
    }
}

impl Directory {
    fn at(path: PathBuf) -> io::Result<Self> {
        let metadata = fs::metadata(&path)?;
        Ok(Self { inode: metadata.ino(), made: metadata.created().ok(), path })
    }
}

/// Whether the wrapped store takes `location` for one of its temporaries.
fn is_temporary(location: &Path) -> bool {
    let suffix = location.filename().and_then(|name| name.split_once('#')).map(|(_, suffix)| suffix);
    suffix.is_some_and(|suffix| !suffix.is_empty() && suffix.bytes().all(|b| b.is_ascii_digit()))
}

/// All files below `top`.
fn walk(root: &FilePath, top: &FilePath) -> Result<Vec<ObjectMeta>> {
    let mut found = Vec::new();
    for entry in WalkDir::new(top).min_depth(1) {
        match entry.map_err(io::Error::from).and_then(|entry| describe(root, &entry)) {
            Ok(meta) => found.extend(meta),
            // A file that was deleted, or a temporary that was renamed, during the walk.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(found)
}

/// The file at `entry`. `None` if it is not a file, or if its path cannot be the path of an object.
fn describe(root: &FilePath, entry: &walkdir::DirEntry) -> io::Result<Option<ObjectMeta>> {
    if !entry.file_type().is_file() {
        return Ok(None);
    }
    let location =
        entry.path().strip_prefix(root).ok().and_then(FilePath::to_str).and_then(|path| Path::parse(path).ok());
    let Some(location) = location else { return Ok(None) };
    let metadata = entry.metadata()?;
    let last_modified = metadata.modified()?.into();
    Ok(Some(ObjectMeta { location, last_modified, size: metadata.len(), e_tag: None, version: None }))
}

fn sync(folder: &FilePath) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

fn failed(error: io::Error) -> Error {
    Error::Generic { store: STORE, source: error.into() }
}

fn absent(location: &Path, error: io::Error) -> Error {
    Error::NotFound { path: location.to_string(), source: error.into() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use object_store::ObjectStoreExt as _;

    use super::*;

    #[tokio::test]
    async fn temporaries_of_a_killed_process_are_listed_and_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::open(dir.path()).unwrap();
        store.put(&Path::from("a/b"), "1".into()).await.unwrap();
        for (name, bytes) in [("a/b#1", "torn"), ("a/c#22", "torn"), ("a/d#e", "no temporary")] {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        let listed: Vec<_> = store.list(Some(&Path::from("a"))).map(|meta| meta.unwrap()).collect().await;
        let mut names: Vec<_> = listed.iter().map(|meta| (meta.location.as_ref(), meta.size)).collect();
        names.sort_unstable();
        assert_eq!(names, [("a/b", 1), ("a/b#1", 4), ("a/c#22", 4), ("a/d#e", 12)]);
        for (location, _) in names {
            store.delete(&Path::parse(location).unwrap()).await.unwrap();
        }
        let again = store.delete(&Path::parse("a/b#1").unwrap()).await;
        assert!(matches!(again, Err(Error::NotFound { .. })));
        assert!(store.list(None).next().await.is_none());
    }

    #[tokio::test]
    async fn directories_of_a_killed_process_are_made_durable_once() {
        static SYNCED: Mutex<Vec<PathBuf>> = Mutex::new(vec![]);
        let dir = tempfile::tempdir().unwrap();
        let note = |folder: &FilePath| {
            SYNCED.lock().push(folder.to_path_buf());
            Ok(())
        };
        let store = LocalStore { sync: note, ..LocalStore::open(dir.path()).unwrap() };
        let root = store.root.to_path_buf();
        let synced = || std::mem::take(&mut *SYNCED.lock());
        // Directories as a process leaves them that is killed before it syncs them.
        fs::create_dir_all(root.join("a/b")).unwrap();
        let put = async |name: &str| drop(store.put(&Path::from(name), "1".into()).await.unwrap());
        put("a/b/1").await;
        assert_eq!(synced(), [root.join("a/b"), root.join("a"), root.clone()]);
        put("a/b/2").await;
        assert_eq!(synced(), Vec::<PathBuf>::new(), "it is known");
        for name in ["a/b/1", "a/b/2"] {
            store.delete(&Path::from(name)).await.unwrap();
        }
        fs::create_dir_all(root.join("a/b")).unwrap();
        put("a/b/3").await;
        assert_eq!(synced().len(), 3, "another one of that name is not");
    }

    #[tokio::test]
    async fn a_create_leaves_nothing_but_the_object() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::open(&dir.path().join("made")).unwrap();
        let create = || PutOptions::from(object_store::PutMode::Create);
        store.put_opts(&Path::from("a/b"), "1".into(), create()).await.unwrap();
        let again = store.put_opts(&Path::from("a/b"), "2".into(), create()).await;
        assert!(matches!(again, Err(Error::AlreadyExists { .. })));
        let left: Vec<_> =
            fs::read_dir(dir.path().join("made/a")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["b"]);
    }

    #[tokio::test]
    async fn while_another_directory_is_in_its_place_everything_fails() {
        let dir = tempfile::tempdir().unwrap();
        let (root, away) = (dir.path().join("store"), dir.path().join("away"));
        let store = LocalStore::open(&root).unwrap();
        let (there, other) = (Path::from("a/b"), Path::from("a/c"));
        store.put(&there, "1".into()).await.unwrap();
        fs::rename(&root, &away).unwrap();
        for is_made_again in [false, true] {
            if is_made_again {
                fs::create_dir(&root).unwrap();
            }
            let put = store.put(&other, "2".into()).await;
            assert!(matches!(put, Err(Error::Generic { .. })), "{put:?}");
            let got = store.get(&there).await.map(|_| ());
            assert!(matches!(got, Err(Error::Generic { .. })), "{got:?}");
            let listed: Vec<_> = store.list(None).collect().await;
            assert!(matches!(listed[..], [Err(Error::Generic { .. })]), "{listed:?}");
            let deleted = store.delete(&there).await;
            assert!(matches!(deleted, Err(Error::Generic { .. })), "{deleted:?}");
        }
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0, "nothing is begun there");
        fs::remove_dir(&root).unwrap();
        fs::rename(&away, &root).unwrap();
        assert_eq!(store.get(&there).await.unwrap().bytes().await.unwrap(), "1");
        store.put(&other, "2".into()).await.unwrap();
        assert_eq!(store.list(None).count().await, 2);
    }

    #[test]
    fn a_file_is_no_directory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        LocalStore::open(file.path()).unwrap_err();
    }
}
