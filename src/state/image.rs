//! Images: the contents of a part of a backend's key groups as immutable local files.
//!
//! A backend on local disk keeps its key groups in one or more *parts*, each with files of its own. An image of a part
//! is consistent: it has every change that was applied before it was taken and none after. During the life of a part,
//! files keep their names from one image to the next, so a file of an earlier image is not uploaded again.

use std::{collections::BTreeMap, fmt, fs, io, path::PathBuf};

use super::{Change, StateBackend, StateError, folder::Folder};
use crate::types::{KeyGroupRange, StateId, StateKind};

/// A file of an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageFile {
    /// Its name in the folder of the image.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Whether this name stands for the same bytes during the whole life of the part.
    pub is_immutable: bool,
}

/// An image on local disk. Its folder is removed with it.
#[derive(Debug)]
pub struct LocalImage {
    /// The key groups that it covers.
    pub key_groups: KeyGroupRange,
    /// The folder that has its files, as links or downloads.
    pub folder: Folder,
    /// All its files, in order of their names.
    pub files: Vec<ImageFile>,
    /// Estimated number of state changes that would rebuild it.
    pub changes: u64,
}

impl LocalImage {
    /// The path of one of its files.
    #[must_use]
    pub fn path(&self, file: &ImageFile) -> PathBuf {
        self.folder.path().join(&file.name)
    }

    /// The same image again: links to its files in a folder beside it. None of the files is ever written again.
    ///
    /// # Errors
    /// If a file is gone or has another length, or cannot be linked.
    pub fn link(&self) -> io::Result<Self> {
        let folder = self.folder.sibling()?;
        for file in &self.files {
            let path = self.path(file);
            // Only the length is checked. A checksum would have to read all of the file, and the files are as large as
            // the state.
            if fs::metadata(&path)?.len() != file.bytes {
                let text = format!("`{}` has not its {} bytes any more", path.display(), file.bytes);
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            fs::hard_link(path, folder.path().join(&file.name))?;
        }
        Ok(Self { key_groups: self.key_groups, folder, files: self.files.clone(), changes: self.changes })
    }
}

/// Writes buffered changes to files, beside other work. It may take seconds, and blocks its thread.
pub type Flush = Box<dyn FnOnce() -> Result<(), StateError> + Send>;

/// A backend whose contents are copied as files.
pub trait ImageSnapshots {
    /// The key groups of its parts, in order and without gaps.
    fn parts(&self) -> Vec<KeyGroupRange>;

    /// The highest stamp of any change to a part; 0 if nothing in it ever changed.
    fn changed(&self, part: usize) -> u64;

    /// A flush to run before [`image`](Self::image), without holding up the writer, so that little is left to write
    /// then.
    fn flush(&self, part: usize) -> Flush;

    /// Takes an image. Blocks until the changes since the last flush are written and the files are linked.
    ///
    /// # Errors
    /// [`StateError::Local`] if the disk fails; the backend is unchanged then.
    fn image(&mut self, part: usize) -> Result<LocalImage, StateError>;

    /// Loads an image into this backend, in which the key groups of the image must be empty. `states` maps its state
    /// ids to those of this backend. If the image is exactly one part and no id differs, its files become those of the
    /// part and keep their names; the result tells.
    ///
    /// # Errors
    /// [`StateError::Local`] if the files are not an image; the contents of the backend are undefined then.
    fn load(&mut self, image: LocalImage, states: &StateIds) -> Result<Loaded, StateError>;
}

/// The id that each state of an image gets in the backend that loads it. A state that is not listed is left out.
pub type StateIds = BTreeMap<StateId, StateId>;

/// A daemon's means to make inner backends on local disk.
pub trait LocalBackends: fmt::Debug + Send + Sync {
    /// An empty backend of `key_groups` of `max_parallelism`.
    ///
    /// # Errors
    /// [`StateError::Local`] if it cannot be made.
    fn create(&self, key_groups: KeyGroupRange, max_parallelism: u32) -> Result<Box<dyn StateBackend>, StateError>;

    /// Makes a new folder for the files of an image.
    ///
    /// # Errors
    /// If it cannot be made.
    fn folder(&self) -> io::Result<Folder>;

    /// Calls `read` with the changes that rebuild the entries of `key_groups` of an image: cell by cell, list elements
    /// in order. `kind` returns the kind of each state; a state without kind is left out. Removes the image's files.
    ///
    /// # Errors
    /// [`StateError::Local`] if the files are not an image; otherwise the error of `read`.
    fn read(
        &self,
        image: LocalImage,
        key_groups: KeyGroupRange,
        kind: &dyn Fn(StateId) -> Option<StateKind>,
        read: &mut dyn FnMut(&Change<'_>) -> Result<(), StateError>,
    ) -> Result<(), StateError>;
}

/// How an image was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loaded {
    /// The files of the image are now those of this part.
    Adopted(usize),
    /// The entries of the image were copied, as far as they belong to this backend.
    Copied,
}
