//! Names of backends and epochs of their owners.

use std::{fmt, sync::Arc};

use uuid::Uuid;

/// Longest name of a job, operator or state, in bytes.
pub(crate) const MAX_NAME_BYTES: usize = 200;

/// A name that may be part of an object path: 1 to 200 bytes of ASCII letters, digits, `-`, `_` and `.`, neither `.`
/// nor `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// The rule of a [`Name`] that a string breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The string is empty or too long; it has this many bytes.
    #[error("a name of {0} bytes: names have 1 to {MAX_NAME_BYTES} bytes")]
    Length(usize),
    /// The string contains a character that paths do not allow, or is `.` or `..`.
    #[error("name `{0}`: names consist of ASCII letters, digits, `-`, `_` and `.`, and are neither `.` nor `..`")]
    Characters(String),
}

impl Name {
    /// Longest name in bytes.
    pub const MAX_BYTES: usize = MAX_NAME_BYTES;

    /// Makes a name of a string that follows the rules.
    ///
    /// # Errors
    /// [`NameError`] says which rule it breaks.
    pub fn new(name: &str) -> Result<Self, NameError> {
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(NameError::Length(name.len()));
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if !name.bytes().all(allowed) || name == "." || name == ".." {
            return Err(NameError::Characters(name.to_owned()));
        }
        Ok(Self(name.into()))
    }

    /// The name itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The kind of inner backend that keeps the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InnerBackend {
    /// The state is in memory.
    HashMap,
    /// The state is in RocksDB on local disk.
    RocksDb,
}

impl InnerBackend {
    /// Its name in settings and listings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HashMap => "hashmap",
            Self::RocksDb => "rocksdb",
        }
    }
}

impl fmt::Display for InnerBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names one backend: the state of one subtask of one operator of one job.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId {
    /// The job; segments are shared within it.
    pub job: Name,
    /// The operator within the job.
    pub operator: Name,
    /// The subtask within the operator, from 0.
    pub subtask: u32,
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.job, self.operator, self.subtask)
    }
}

/// The fencing epoch of one owner of a backend. A higher number outdates every lower one; equal numbers with different
/// owners cannot both be in one manifest chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch {
    /// Counts from 1; 0 means no epoch.
    pub number: u64,
    /// Unique to the owner, so that two owners with the same number differ.
    pub owner: Uuid,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.number, self.owner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_safe_in_a_path() {
        for good in ["a", "word-count", "Job_1.v2", "..."] {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "a/b", "ü", "a b", "a\0"] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Name::new(&"x".repeat(201)), Err(NameError::Length(201)));
    }
}
