//! The targets of tools: a checkpoint, a savepoint, or the place of a savepoint in another store.

use std::{fmt, str::FromStr};

use super::retry;
use crate::{
    object::Store,
    savepoint::{Savepoint, SavepointError, SavepointId},
    types::Name,
};

/// The state that a tool reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A checkpoint of a job, by its id. Without id, the newest checkpoint that every subtask has.
    Checkpoint(Name, Option<u64>),
    /// A savepoint of the same store.
    Savepoint(SavepointId),
}

impl FromStr for Target {
    type Err = String;

    /// Reads `JOB`, `JOB@CHECKPOINT`, or a path that ends with `<job>/savepoints/<name>`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('/') {
            return SavepointId::parse(text)
                .map(Self::Savepoint)
                .ok_or_else(|| "not a path that ends with `<job>/savepoints/<name>`".to_owned());
        }
        let (job, id) = match text.split_once('@') {
            Some((job, id)) => {
                let id =
                    id.parse().map_err(|_| format!("`{id}` is not the id of a checkpoint, such as `wordcount@7`"))?;
                (job, Some(id))
            }
            None => (text, None),
        };
        Ok(Self::Checkpoint(Name::new(job).map_err(|error| error.to_string())?, id))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checkpoint(job, None) => write!(f, "{job}"),
            Self::Checkpoint(job, Some(id)) => write!(f, "{job}@{id}"),
            Self::Savepoint(id) => write!(f, "{}", id.folder()),
        }
    }
}

/// The store and target from which the state of a target is read.
#[derive(Debug, Clone)]
pub struct Place {
    /// The store that was asked, or the folder of a native savepoint in it.
    pub store: Store,
    /// A checkpoint of that store, or a savepoint of rows.
    pub target: Target,
    /// Whether the target is a checkpoint of a job, which may release it meanwhile.
    pub is_of_job: bool,
}

impl Place {
    /// Resolves `target`, which is in `store`. Cancel-safe.
    ///
    /// # Errors
    /// If `target` is a savepoint that cannot be read.
    pub async fn of(store: &Store, target: &Target) -> Result<Self, SavepointError> {
        let (store, target) = (store.clone(), target.clone());
        let Target::Savepoint(id) = &target else { return Ok(Self { store, target, is_of_job: true }) };
        match Savepoint::read(&store, id, retry()).await? {
            Savepoint::Rows(_) => Ok(Self { store, target, is_of_job: false }),
            Savepoint::Native(metadata) => {
                let store = store.below(&metadata.folder(id));
                let target = Target::Checkpoint(metadata.job(), Some(metadata.checkpoint));
                Ok(Self { store, target, is_of_job: false })
            }
        }
    }
}

/// A savepoint in another store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elsewhere {
    /// URL or local folder of the store.
    pub store: String,
    /// Job and name of the savepoint in that store.
    pub id: SavepointId,
}

/// A source of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportSource {
    /// Parquet files with the state of an operator: a path or URL of a file or folder.
    Files(Name, String),
    /// A savepoint that is copied.
    Savepoint(Elsewhere),
}

impl FromStr for Elsewhere {
    type Err = String;

    /// Reads `<url or folder>/<job>/savepoints/<name>`.
    fn from_str(text: &str) -> Result<Self, String> {
        let id = SavepointId::parse(text).ok_or("not a place that ends with `<job>/savepoints/<name>`")?;
        let text = text.trim_end_matches('/');
        let store = text.len().checked_sub(id.folder().as_ref().len()).and_then(|end| text.get(..end));
        let store = match store.unwrap_or_default() {
            "" => ".",
            "/" => "/",
            store => store.trim_end_matches('/'),
        };
        Ok(Self { store: store.to_owned(), id })
    }
}

impl FromStr for ImportSource {
    type Err = String;

    /// Reads `OPERATOR=PATH`, or the place of a savepoint.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((operator, path)) if !operator.contains('/') => {
                let operator = Name::new(operator).map_err(|error| error.to_string())?;
                Ok(Self::Files(operator, path.to_owned()))
            }
            _ => {
                let elsewhere =
                    text.parse::<Elsewhere>().map_err(|error| format!("neither `OPERATOR=PATH`, and {error}"))?;
                Ok(Self::Savepoint(elsewhere))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_job_a_checkpoint_or_a_savepoint() {
        let name = |name| Name::new(name).unwrap();
        assert_eq!("wc".parse(), Ok(Target::Checkpoint(name("wc"), None)));
        assert_eq!("wc@7".parse(), Ok(Target::Checkpoint(name("wc"), Some(7))));
        let savepoint = SavepointId { job: name("wc"), name: name("before-2.0") };
        for path in ["wc/savepoints/before-2.0", "s3://bucket/a/wc/savepoints/before-2.0/"] {
            assert_eq!(path.parse(), Ok(Target::Savepoint(savepoint.clone())), "{path}");
        }
        for (place, store) in [("s3://b/p/wc/savepoints/before-2.0/", "s3://b/p"), ("wc/savepoints/before-2.0", ".")] {
            let elsewhere = Elsewhere { store: store.to_owned(), id: savepoint.clone() };
            assert_eq!(place.parse(), Ok(elsewhere.clone()));
            assert_eq!(place.parse(), Ok(ImportSource::Savepoint(elsewhere)));
        }
        assert_eq!("/wc/savepoints/before-2.0".parse::<Elsewhere>().unwrap().store, "/");
        assert_eq!("count=/a=b/c".parse(), Ok(ImportSource::Files(name("count"), "/a=b/c".to_owned())));
        assert!("/a/b.parquet".parse::<ImportSource>().is_err() && "a b=c".parse::<ImportSource>().is_err());
        for (text, says) in [("wc@x", "id of a checkpoint"), ("wc@", "id of a"), ("a/b", "savepoints"), ("", "names")] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
