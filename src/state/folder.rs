//! Local folders of inner backends. Each is made for one owner and removed with it, and recognised when its daemon is
//! dead.
//!
//! ```text
//!   <root>/dstl.lock                              locked (flock) while a daemon starts
//!   <root>/dstl-<daemon instance uuid>/LOCK       locked for as long as the daemon lives
//!   <root>/dstl-<daemon instance uuid>/<number>   one folder of one backend
//! ```
//!
//! Nothing in these folders is needed after the end of the daemon, since durable state is in the object store. A daemon
//! that starts removes folders whose lock is free; the kernel frees the lock when a process ends in any way.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use uuid::Uuid;

const PREFIX: &str = "dstl-";
const LOCK: &str = "LOCK";
const ROOT_LOCK: &str = "dstl.lock";

/// The local folders of one daemon, below one or several roots. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Folders(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    homes: Vec<Home>,
    next: AtomicU64,
}

/// This daemon's folder below one root; removed when it ends in order.
#[derive(Debug)]
struct Home {
    path: PathBuf,
    /// Holds the lock of the folder.
    _lock: File,
}

impl Drop for Home {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// One folder. It is removed with all its files when this is dropped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    of: Folders,
    root: usize,
}

impl Drop for Folder {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes a folder. If that fails, the next daemon removes it when it starts.
fn remove(path: &Path) {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "a local folder cannot be removed");
        }
        _ => {}
    }
}

impl Folders {
    /// Makes this daemon's folder below each of `roots`, which are created if they do not exist. Removes the folders of
    /// dead daemons.
    ///
    /// # Errors
    /// If a root cannot be written, or there is none.
    pub fn new(roots: &[PathBuf], instance: Uuid) -> io::Result<Self> {
        let homes: Vec<Home> = roots.iter().map(|root| Self::home(root, instance)).collect::<io::Result<_>>()?;
        if homes.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no local folder is configured"));
        }
        Ok(Self(Arc::new(Shared { homes, next: AtomicU64::new(0) })))
    }

    fn home(root: &Path, instance: Uuid) -> io::Result<Home> {
        let at = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", root.display()));
        fs::create_dir_all(root).map_err(at)?;
        // Under this lock, so that no other daemon looks for stale folders between the making of a folder and its
        // locking.
        let starting = File::create(root.join(ROOT_LOCK)).map_err(at)?;
        starting.lock().map_err(at)?;
        remove_stale(root).map_err(at)?;
        // Ordering: the folder gets its own lock before the lock of the root ends with this function. In between,
        // another daemon that starts would take the folder for a dead one's and remove it.
        let path = root.join(format!("{PREFIX}{instance}"));
        fs::create_dir_all(&path).map_err(at)?;
        let lock = File::create(path.join(LOCK)).map_err(at)?;
        lock.try_lock().map_err(|error| at(error.into()))?;
        Ok(Home { path, _lock: lock })
    }

    /// This daemon's folder below each root.
    pub fn homes(&self) -> impl Iterator<Item = &Path> {
        self.0.homes.iter().map(|home| home.path.as_path())
    }

    /// Makes a new empty folder; the roots take turns.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn create(&self) -> io::Result<Folder> {
        // Two calls at once may take the same root. They never take the same number, which is drawn below.
        let turn = self.0.next.load(Ordering::Relaxed);
        let roots = self.0.homes.len() as u64;
        self.create_below(usize::try_from(turn % roots).expect("far fewer roots"))
    }

    fn create_below(&self, root: usize) -> io::Result<Folder> {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let home = self.0.homes.get(root).expect("a root of this daemon");
        let path = home.path.join(number.to_string());
        fs::create_dir(&path)?;
        Ok(Folder { path, of: self.clone(), root })
    }
}

impl Folder {
    /// The path of the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a new empty folder on the same file system, so that files can be linked between the two.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn sibling(&self) -> io::Result<Self> {
        self.of.create_below(self.root)
    }
}

/// Removes the folders below `root` whose daemon is dead.
fn remove_stale(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_ours = name.strip_prefix(PREFIX).is_some_and(|uuid| Uuid::parse_str(uuid).is_ok());
        // Nothing else in the root is this program's to remove.
        if !is_ours {
            continue;
        }
        let lock = match File::open(path.join(LOCK)) {
            Ok(lock) => lock,
            // The daemon of this folder died before it could make the lock, or is removing the folder.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                remove(&path);
                continue;
            }
            Err(error) => return Err(error),
        };
        match lock.try_lock() {
            Ok(()) => {
                tracing::info!(path = %path.display(), "removing the local folder of a dead daemon");
                remove(&path);
            }
            // Its daemon lives.
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn folders_go_with_their_owner_and_those_of_dead_daemons_at_the_next_start() {
        let root = tempfile::tempdir().unwrap();
        let roots = [root.path().join("a"), root.path().join("b")];
        let living = Folders::new(&roots, Uuid::from_u128(1)).unwrap();
        let folder = living.create().unwrap();
        fs::write(folder.path().join("file"), "state").unwrap();
        let other = living.create().unwrap();
        assert_ne!(folder.path().parent(), other.path().parent(), "the roots take turns");
        assert_eq!(folder.sibling().unwrap().path().parent(), folder.path().parent());
        let dead = roots[0].join(format!("dstl-{}", Uuid::from_u128(2)));
        fs::create_dir_all(dead.join("3")).unwrap();
        fs::write(dead.join(LOCK), "").unwrap();
        fs::create_dir_all(roots[0].join("not ours")).unwrap();
        let next = Folders::new(&roots, Uuid::from_u128(3)).unwrap();
        assert!(!dead.exists(), "nobody holds its lock");
        assert!(folder.path().join("file").exists() && roots[0].join("not ours").exists());
        let path = folder.path().to_owned();
        drop(folder);
        assert!(!path.exists());
        drop((living, other, next));
        let left = fs::read_dir(&roots[1]).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(left.collect::<Vec<_>>(), [ROOT_LOCK]);
    }
}
