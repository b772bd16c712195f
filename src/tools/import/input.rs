//! The files of an import, on local disk or in a store.

use std::{
    io::{self, Read},
    path::{Path as FilePath, PathBuf},
};

use bytes::{Buf as _, Bytes};
use parquet::{
    errors::ParquetError,
    file::reader::{ChunkReader, Length},
};
use tokio::runtime::Handle;

use crate::{
    object::{Path, Store},
    tasks,
    tools::retry,
};

/// Bytes of a stored file that are read at once when the library reads it bit by bit.
const READ_AHEAD_BYTES: u64 = 64 << 10;

/// A file to import.
#[derive(Debug, Clone)]
pub struct Input {
    name: String,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    Local(PathBuf),
    Stored(Stored),
}

#[derive(Debug, Clone)]
struct Stored {
    store: Store,
    path: Path,
    bytes: u64,
}

/// A file that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum InputFault {
    /// The file or folder cannot be opened or listed.
    #[error("reading `{name}`: {source}")]
    Unreadable {
        /// The path of the file.
        name: String,
        /// The answer of the operating system.
        source: io::Error,
    },
    /// There is no such file, and no folder with Parquet files.
    #[error("`{0}` is neither a file nor a folder with files `*.parquet`")]
    Nothing(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] crate::object::StoreError),
}

impl Input {
    /// The local file `path`, or every `*.parquet` in the folder `path` and its subfolders, in order.
    ///
    /// # Errors
    /// [`InputFault::Nothing`] if there is no such file.
    pub fn local(path: &FilePath) -> Result<Vec<Self>, InputFault> {
        let mut found = vec![];
        for entry in walkdir::WalkDir::new(path).follow_links(true).sort_by_file_name() {
            let entry = match entry {
                Ok(entry) => entry,
                // The path itself cannot be read, so nothing is found, as told below.
                Err(error) if error.depth() == 0 => break,
                Err(error) => {
                    return Err(InputFault::Unreadable { name: path.display().to_string(), source: error.into() });
                }
            };
            let is_meant = entry.depth() == 0 || entry.path().extension().is_some_and(|it| it == "parquet");
            if entry.file_type().is_file() && is_meant {
                let place = Place::Local(entry.path().to_owned());
                found.push(Self { name: entry.path().display().to_string(), place });
            }
        }
        if found.is_empty() { Err(InputFault::Nothing(path.display().to_string())) } else { Ok(found) }
    }

    /// The object `path` of `store`, or every `*.parquet` below `path`, in order. Cancel-safe.
    ///
    /// # Errors
    /// [`InputFault::Nothing`] if there is no such object, or the error of the store.
    pub async fn stored(store: &Store, path: &Path) -> Result<Vec<Self>, InputFault> {
        let listed = match store.head(path, retry()).await? {
            Some(object) => vec![object],
            None => {
                let below = store.list(path, retry()).await?;
                below.into_iter().filter(|object| object.path.as_ref().ends_with(".parquet")).collect()
            }
        };
        let input = |object: crate::object::ObjectMeta| Self {
            name: object.path.to_string(),
            place: Place::Stored(Stored { store: store.clone(), path: object.path, bytes: object.size }),
        };
        let found: Vec<Self> = listed.into_iter().map(input).collect();
        if found.is_empty() { Err(InputFault::Nothing(path.to_string())) } else { Ok(found) }
    }

    /// Path of the file, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Opens the file for the Parquet library.
    ///
    /// # Errors
    /// If a local file cannot be opened.
    pub fn open(&self) -> Result<File, InputFault> {
        match &self.place {
            Place::Stored(stored) => Ok(File(Place::Stored(stored.clone()), None)),
            Place::Local(path) => {
                let opened = std::fs::File::open(path);
                let unreadable = |source| InputFault::Unreadable { name: self.name.clone(), source };
                Ok(File(self.place.clone(), Some(opened.map_err(unreadable)?)))
            }
        }
    }
}

/// An open file, as the Parquet library reads it. A file in a store has to be read from a runtime with several threads.
pub struct File(Place, Option<std::fs::File>);

impl Length for File {
    fn len(&self) -> u64 {
        match (&self.0, &self.1) {
            (Place::Stored(stored), _) => stored.bytes,
            (Place::Local(_), file) => file.as_ref().map_or(0, Length::len),
        }
    }
}

impl ChunkReader for File {
    type T = Box<dyn Read>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        match (&self.0, &self.1) {
            (Place::Local(_), Some(file)) => Ok(Box::new(file.get_read(start)?)),
            (Place::Stored(stored), _) => {
                Ok(Box::new(Ahead { stored: stored.clone(), at: start, ready: Bytes::new() }))
            }
            (Place::Local(_), None) => Err(ParquetError::General("the file is not open".to_owned())),
        }
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        match (&self.0, &self.1) {
            (Place::Local(_), Some(file)) => {
                let end = start.checked_add(length as u64);
                if end.is_none_or(|end| end > file.len()) {
                    return Err(ParquetError::EOF(format!("{length} bytes at {start} are beyond the end of the file")));
                }
                file.get_bytes(start, length)
            }
            (Place::Stored(stored), _) => {
                let end = start.saturating_add(length as u64);
                stored.read(start, end).map_err(|error| ParquetError::External(Box::new(error)))
            }
            (Place::Local(_), None) => Err(ParquetError::General("the file is not open".to_owned())),
        }
    }
}

impl Stored {
    fn read(&self, from: u64, to: u64) -> Result<Bytes, crate::object::StoreError> {
        // The Parquet library is synchronous, so this thread waits, and its other tasks move to another one.
        tasks::blocking(|| Handle::current().block_on(self.store.get_range(&self.path, from..to, retry())))
    }
}

/// A reader of a stored file from some byte on, which reads ahead.
struct Ahead {
    stored: Stored,
    at: u64,
    ready: Bytes,
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ready.is_empty() {
            let to = self.at.saturating_add(READ_AHEAD_BYTES).min(self.stored.bytes);
            self.ready = self.stored.read(self.at.min(to), to).map_err(io::Error::other)?;
            self.at = to;
        }
        let count = buffer.len().min(self.ready.len());
        buffer.get_mut(..count).unwrap_or_default().copy_from_slice(self.ready.get(..count).unwrap_or_default());
        self.ready.advance(count);
        Ok(count)
    }
}
