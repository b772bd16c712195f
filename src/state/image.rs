//! Images: the contents of a part of a backend's key groups as immutable local files.
//!
//! A backend on local disk keeps its key groups in one or several *parts*, each with files of its own. An image of a
//! part is consistent: it has every change that was applied before it was taken and none after. Files keep their names
//! from one image of a part to the next for as long as the part lives, so a file that an earlier image has is not
//! uploaded again.

use std::{collections::BTreeMap, fmt, fs, io, path::PathBuf};

use super::{Change, StateBackend, StateError, folder::Folder};
use crate::types::{KeyGroupRange, StateId, StateKind};

/// A file of an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageFile {
    /// In the folder of the image.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Whether the name is known to stand for the same bytes for as long as the part lives.
    pub is_immutable: bool,
}

/// An image on local disk; its folder is removed with it.
#[derive(Debug)]
pub struct LocalImage {
    /// What it covers.
    pub key_groups: KeyGroupRange,
    /// Where its files are, linked or downloaded.
    pub folder: Folder,
    /// All of them, in order of their names.
    pub files: Vec<ImageFile>,
    /// State changes that would rebuild it, as estimated.
    pub changes: u64,
}

impl LocalImage {
    /// The path of one of its files.
    #[must_use]
    pub fn path(&self, file: &ImageFile) -> PathBuf {
        self.folder.path().join(&file.name)
    }

    /// The same image once more: links to its files, none of which is ever written again, in a folder beside it.
    ///
    /// # Errors
    /// A file is gone or of another length, or it cannot be linked.
    pub fn link(&self) -> io::Result<Self> {
        let folder = self.folder.sibling()?;
        for file in &self.files {
            let path = self.path(file);
            if fs::metadata(&path)?.len() != file.bytes {
                let text = format!("`{}` has not its {} bytes any more", path.display(), file.bytes);
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            fs::hard_link(path, folder.path().join(&file.name))?;
        }
        Ok(Self { key_groups: self.key_groups, folder, files: self.files.clone(), changes: self.changes })
    }
}

/// Writes what is in memory to files, in the background of everything else; may take seconds, blocks its thread.
pub type Flush = Box<dyn FnOnce() -> Result<(), StateError> + Send>;

/// A backend whose contents are copied as files.
pub trait ImageSnapshots {
    /// The parts of the key groups, in order and without gap.
    fn parts(&self) -> Vec<KeyGroupRange>;

    /// The highest stamp of any change to a part; 0 if nothing there ever changed.
    fn changed(&self, part: usize) -> u64;

    /// What to call before [`image`](Self::image), without holding up the writer, so that little is left to write then.
    fn flush(&self, part: usize) -> Flush;

    /// Takes an image. Blocks for as long as it takes to write what was applied since the last flush, and to link the
    /// files.
    ///
    /// # Errors
    /// [`StateError::Local`]; the backend is as it was.
    fn image(&mut self, part: usize) -> Result<LocalImage, StateError>;

    /// Loads an image into this backend, in which the key groups of the image must be empty; `states` are the ids that
    /// its states have here. Where it is exactly one part and no id differs, its files become those of the part and
    /// keep their names: the result says which.
    ///
    /// # Errors
    /// [`StateError::Local`] if the files are no image; the backend is undefined then.
    fn load(&mut self, image: LocalImage, states: &StateIds) -> Result<Loaded, StateError>;
}

/// Which id a state of an image has in the backend that loads it; a state that is not there is left out.
pub type StateIds = BTreeMap<StateId, StateId>;

/// What a daemon has for inner backends on local disk.
pub trait LocalBackends: fmt::Debug + Send + Sync {
    /// An empty backend of `key_groups` of `max_parallelism`.
    ///
    /// # Errors
    /// [`StateError::Local`].
    fn create(&self, key_groups: KeyGroupRange, max_parallelism: u32) -> Result<Box<dyn StateBackend>, StateError>;

    /// A new folder for the files of an image.
    ///
    /// # Errors
    /// If it cannot be made.
    fn folder(&self) -> io::Result<Folder>;

    /// Hands the changes that rebuild the entries of `key_groups` of an image to `read`: cell by cell, the elements of
    /// a list in order. `kind` says of what kind each state is; a state without kind is left out. Removes the image's
    /// files.
    ///
    /// # Errors
    /// [`StateError::Local`] if the files are no image, and what `read` says.
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
    /// Its files are those of this part now.
    Adopted(usize),
    /// Its entries were copied, as far as they belong here.
    Copied,
}
