//! The folders of local copies.
//!
//! ```text
//!   <folder>/dstl-copies.lock                locked (flock) as long as a process uses the folder
//!   <folder>/objects/<path of the object>    the copies
//!   <folder>/new                             a copy that is being written
//! ```

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    path::{Path as FilePath, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::UNIX_EPOCH,
};

use bytes::Bytes;
use object_store::path::Path;
use walkdir::WalkDir;

use super::file::Head;

const LOCK: &str = "dstl-copies.lock";
const OBJECTS: &str = "objects";
const NEW: &str = "new";

/// The locked folders of one process.
#[derive(Debug)]
pub(super) struct Folders {
    roots: Vec<PathBuf>,
    next: AtomicUsize,
    /// Locked for the life of this value.
    _locks: Vec<File>,
}

impl Folders {
    pub(super) fn open(roots: &[PathBuf]) -> io::Result<Self> {
        if roots.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no folder is configured"));
        }
        let locks = roots.iter().map(|root| take(root)).collect::<io::Result<_>>()?;
        Ok(Self { roots: roots.to_vec(), next: AtomicUsize::new(0), _locks: locks })
    }

    /// All copies, oldest first: the file, its bytes, and its head. A file that is not a valid copy is removed.
    pub(super) fn scan(&self) -> io::Result<Vec<(PathBuf, u64, Head)>> {
        let mut found = vec![];
        for root in &self.roots {
            let objects = root.join(OBJECTS);
            fs::create_dir_all(&objects)?;
            // The copy that an earlier process was writing when it ended; as a rule there is none.
            let _ = fs::remove_file(root.join(NEW));
            for entry in WalkDir::new(&objects).sort_by_file_name() {
                let entry = entry.map_err(io::Error::from)?;
                if entry.file_type().is_dir() {
                    continue;
                }
                let file = entry.path();
                match Head::open(file).and_then(|head| Ok((entry.metadata().map_err(io::Error::from)?, head))) {
                    // A file belongs where its name says. One that lies elsewhere was moved by somebody, and is not
                    // trusted.
                    Ok((meta, head)) if place(root, &head.path) == file => {
                        let age = meta.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
                        found.push((age, file.to_owned(), meta.len(), head));
                    }
                    Ok(_) => self.drop_damaged(file, &"it belongs elsewhere"),
                    Err(error) => self.drop_damaged(file, &error),
                }
            }
        }
        found.sort_by(|(a, file_a, ..), (b, file_b, ..)| (a, file_a).cmp(&(b, file_b)));
        Ok(found.into_iter().map(|(_, file, bytes, head)| (file, bytes, head)).collect())
    }

    fn drop_damaged(&self, file: &FilePath, why: &dyn std::fmt::Display) {
        tracing::warn!(file = %file.display(), why = %why, "a local copy is damaged: deleted");
        self.remove(file);
    }

    /// Writes the copy of the object at `path` and returns its file. The folders take turns. After a failure no file is
    /// left.
    pub(super) fn write<'a>(&self, path: &Path, parts: impl Iterator<Item = &'a Bytes>) -> io::Result<PathBuf> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.roots.len();
        let root = self.roots.get(turn).expect("a remainder is below the divisor");
        let (new, file) = (root.join(NEW), place(root, path));
        let written = write(&new, parts).and_then(|()| {
            file.parent().map_or(Ok(()), fs::create_dir_all)?;
            // Ordering: written beside, then renamed. A scan never finds a copy half written under its own name.
            fs::rename(&new, &file)
        });
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written.map(|()| file)
    }

    /// Removes a copy, and the folders that become empty. If it cannot be removed, the next scan finds it again.
    pub(super) fn remove(&self, file: &FilePath) {
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(file = %file.display(), %error, "a local copy cannot be removed");
                return;
            }
            _ => {}
        }
        let is_inside = |folder: &&FilePath| self.roots.iter().all(|root| **folder != root.join(OBJECTS));
        for folder in file.ancestors().skip(1).take_while(is_inside) {
            // Not empty, or not there: either ends the walk upwards.
            if fs::remove_dir(folder).is_err() {
                break;
            }
        }
    }
}

/// Creates and locks a folder.
fn take(root: &FilePath) -> io::Result<File> {
    let at = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", root.display()));
    fs::create_dir_all(root).map_err(at)?;
    let lock = File::create(root.join(LOCK)).map_err(at)?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => at(io::Error::new(io::ErrorKind::WouldBlock, "another daemon has it")),
        TryLockError::Error(error) => at(error),
    })?;
    Ok(lock)
}

fn place(root: &FilePath, path: &Path) -> PathBuf {
    path.parts().fold(root.join(OBJECTS), |file, part| file.join(part.as_ref()))
}

/// Writes `parts` to `file` without sync. After a crash of the host, the file is either whole or has a wrong checksum.
fn write<'a>(file: &FilePath, parts: impl Iterator<Item = &'a Bytes>) -> io::Result<()> {
    let mut file = File::create(file)?;
    for part in parts {
        file.write_all(part)?;
    }
    Ok(())
}
