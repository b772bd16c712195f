//! Rows of the table of options, and the order of listings.

use super::kind::Kind;

/// An option: name, type, default and meaning.
#[derive(Debug)]
pub(crate) struct Spec {
    /// Dotted name in kebab-case.
    pub(crate) key: &'static str,
    /// The section of listings that it is in.
    pub(crate) section: Section,
    /// Its place in that section; the lowest is first.
    pub(crate) place: u8,
    /// The type of its value.
    pub(crate) kind: Kind,
    /// Its default value.
    pub(crate) default: Default,
    /// Its meaning, in sentences.
    pub(crate) doc: &'static str,
}

/// The value of an option that is not set.
#[derive(Debug)]
pub(crate) enum Default {
    /// This fixed text.
    Text(&'static str),
    /// A computed value: a description of the computation, and the result for root without XDG folders.
    Computed { how: &'static str, for_root: &'static str },
}

impl Default {
    /// The default in the form of listings.
    pub(crate) fn describe(&self) -> &'static str {
        match self {
            Self::Text(text) => text,
            Self::Computed { how, .. } => how,
        }
    }
}

/// Options that belong together, in the order of listings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Section {
    State,
    RocksDb,
    Changelog,
    Materialization,
    Transfer,
    Checkpoints,
    LocalCopies,
    Socket,
    Tcp,
    Limits,
    Operation,
}

impl Section {
    /// The heading in listings.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::State => "State",
            Self::RocksDb => "RocksDB",
            Self::Changelog => "Changelog",
            Self::Materialization => "Materialization and recovery",
            Self::Transfer => "Uploads and downloads",
            Self::Checkpoints => "Checkpoints",
            Self::LocalCopies => "Local recovery",
            Self::Socket => "The socket",
            Self::Tcp => "TCP",
            Self::Limits => "Limits of requests",
            Self::Operation => "Operation",
        }
    }
}
