//! The text whose words are counted. It is collected once and kept in one file, so that every process reads the same
//! bytes in each of its lives, whatever happens to the original files.
//!
//! A *word* is a longest run of letters, digits and `_`, case kept; of a very long one only the beginning counts. Every
//! word is one record, numbered over the whole input from 0. Files without words are left out.

use std::{
    env, fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use walkdir::WalkDir;

/// Longest word in bytes.
const MAX_WORD_BYTES: usize = 100;

const TEXT: &str = "input.txt";
const FILES: &str = "input.json";

/// One file of the input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct File {
    /// Path of the file, as found.
    pub(super) path: String,
    /// Offset of its text in the text of the input, in bytes.
    pub(super) start: usize,
    /// Offset of its end.
    pub(super) end: usize,
}

/// The whole input.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Input {
    /// The text of all files.
    pub(super) text: String,
    /// The files in order, without gaps between them, none of them empty.
    pub(super) files: Vec<File>,
    /// Whether there was more text than allowed.
    pub(super) bounded: bool,
}

/// The reason why there is no text. The user can correct each of them.
#[derive(Debug, thiserror::Error)]
pub(super) enum InputError {
    /// A path that was given cannot be read.
    #[error("`{}` cannot be read: {source}", path.display())]
    Unreadable {
        /// The path, as given.
        path: PathBuf,
        /// The error of reading it.
        source: io::Error,
    },
    /// There is no text with words.
    #[error("no text with words in {0}; name files or folders with UTF-8 text")]
    Empty(String),
}

impl Input {
    /// Reads the text files of `paths`, including all files in folders, in order of their names and up to `max_bytes`
    /// in sum. Without paths, reads the source tree here and cargo's registry. Files that are not UTF-8 or have zero
    /// bytes are left out.
    pub(super) fn collect(paths: &[PathBuf], max_bytes: u64) -> Result<Self, InputError> {
        let mut input = Self::default();
        let room = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        if paths.is_empty() {
            let roots = default_roots();
            for root in &roots {
                input.add_folder(root, room, is_source);
            }
            return input.unless_empty(&roots);
        }
        for path in paths {
            let unreadable = |source| InputError::Unreadable { path: path.clone(), source };
            if fs::metadata(path).map_err(unreadable)?.is_dir() {
                fs::read_dir(path).map_err(unreadable)?;
                input.add_folder(path, room, |_| true);
            } else {
                input.add_file(path, room).map_err(unreadable)?;
            }
        }
        input.unless_empty(paths)
    }

    fn unless_empty(self, roots: &[PathBuf]) -> Result<Self, InputError> {
        if !self.files.is_empty() {
            return Ok(self);
        }
        let names: Vec<_> = roots.iter().map(|root| format!("`{}`", root.display())).collect();
        let none = "the source tree or cargo's registry, for neither is here".to_owned();
        Err(InputError::Empty(if names.is_empty() { none } else { names.join(", ") }))
    }

    /// Files that cannot be read are left out, since only their folder was named.
    fn add_folder(&mut self, folder: &Path, max_bytes: usize, wanted: fn(&walkdir::DirEntry) -> bool) {
        for entry in WalkDir::new(folder).sort_by_file_name().into_iter().filter_entry(wanted).flatten() {
            if self.bounded {
                return;
            }
            if entry.file_type().is_file() {
                let _ = self.add_file(entry.path(), max_bytes);
            }
        }
    }

    fn add_file(&mut self, path: &Path, max_bytes: usize) -> io::Result<()> {
        let room = max_bytes.saturating_sub(self.text.len());
        let mut bytes = Vec::new();
        fs::File::open(path)?.take(room as u64 + 1).read_to_end(&mut bytes)?;
        let cut = bytes.len() > room;
        self.bounded |= cut;
        bytes.truncate(room);
        let text = match std::str::from_utf8(&bytes) {
            Ok(text) => text,
            // The last character may be incomplete if the file was cut.
            Err(error) if cut && error.error_len().is_none() => {
                std::str::from_utf8(bytes.get(..error.valid_up_to()).unwrap_or_default()).unwrap_or_default()
            }
            Err(_) => return Ok(()),
        };
        if !text.contains('\0') && words(text).next().is_some() {
            let start = self.text.len();
            self.text.push_str(text);
            self.files.push(File { path: path.display().to_string(), start, end: self.text.len() });
        }
        Ok(())
    }

    /// Writes the input into `folder`.
    pub(super) fn save(&self, folder: &Path) -> io::Result<()> {
        fs::write(folder.join(TEXT), &self.text)?;
        fs::write(folder.join(FILES), serde_json::to_vec(&self.files)?)
    }

    /// Reads the input that [`save`](Self::save) wrote.
    pub(super) fn load(folder: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(folder.join(TEXT))?;
        let files = serde_json::from_slice(&fs::read(folder.join(FILES))?)?;
        Ok(Self { text, files, bounded: false })
    }

    /// The text of `file` from byte `from` of the input's.
    pub(super) fn text_of(&self, file: &File, from: usize) -> &str {
        self.text.get(from..file.end).unwrap_or_default()
    }

    /// Number of words.
    pub(super) fn records(&self) -> u64 {
        self.files.iter().map(|file| words(self.text_of(file, file.start)).count() as u64).sum()
    }
}

/// Folders with text that everybody has who can build dstl.
fn default_roots() -> Vec<PathBuf> {
    let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".cargo"));
    let registry = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home).map(|home| home.join("registry/src"));
    let tree = Path::new("Cargo.toml").is_file().then(|| PathBuf::from("."));
    tree.into_iter().chain(registry.filter(|registry| registry.is_dir())).collect()
}

/// Neither hidden, nor a build folder of cargo.
fn is_source(entry: &walkdir::DirEntry) -> bool {
    let hidden = || entry.file_name().as_encoded_bytes().starts_with(b".");
    let built = || entry.file_type().is_dir() && entry.path().join("CACHEDIR.TAG").exists();
    entry.depth() == 0 || !(hidden() || built())
}

/// The words of `text`, each with the byte offset of its end.
pub(super) fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = text.get(at..)?;
        let start = at + rest.find(is_word)?;
        let word = text.get(start..)?;
        let length = word.find(|c| !is_word(c)).unwrap_or(word.len());
        at = start + length;
        Some((at, word.get(..word.floor_char_boundary(length.min(MAX_WORD_BYTES)))?))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn words_are_runs_of_letters_digits_and_underscores_with_a_longest_length() {
        let long = "ä".repeat(70);
        let text = format!("fn f_1(x) -> {long}; Ende");
        let found: Vec<_> = words(&text).collect();
        let expected = [(2, "fn"), (6, "f_1"), (8, "x"), (153, &long[..100]), (159, "Ende")];
        assert_eq!(found, expected);
    }

    #[test]
    fn collects_text_in_order_up_to_the_bound_and_comes_back_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("in");
        fs::create_dir_all(root.join("b")).unwrap();
        fs::create_dir_all(root.join(".git")).unwrap();
        for (name, text) in
            [("c", "three"), ("a", "one"), ("b/x", "two zwö"), (".git/y", "-"), ("d", "- -"), ("e", "n\0")]
        {
            fs::write(root.join(name), text).unwrap();
        }
        let all = Input::collect(std::slice::from_ref(&root), 100).unwrap();
        assert_eq!((all.text.as_str(), all.records(), all.bounded), ("onetwo zwöthree", 4, false));
        // The bound lies within the two bytes of `ö`.
        let some = Input::collect(std::slice::from_ref(&root), 10).unwrap();
        assert_eq!((some.text.as_str(), some.bounded), ("onetwo zw", true));
        some.save(dir.path()).unwrap();
        assert_eq!(Input::load(dir.path()).unwrap(), Input { bounded: false, ..some });
    }

    #[test]
    fn says_what_is_missing_or_empty() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Input::collect(&[dir.path().join("no")], 100).unwrap_err().to_string();
        assert!(missing.contains("/no` cannot be read"), "{missing}");
        let empty = Input::collect(&[dir.path().into()], 100).unwrap_err().to_string();
        assert!(empty.starts_with("no text with words in `/"), "{empty}");
    }
}
