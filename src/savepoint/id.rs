//! The names of savepoints.

use crate::{
    object::{Path, layout::ObjectName},
    types::Name,
};

/// The identity of a savepoint within a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavepointId {
    /// The job below whose folder the savepoint is.
    pub job: Name,
    /// Name of the savepoint within the job.
    pub name: Name,
}

impl SavepointId {
    /// The savepoint that `path` names. `None` unless it ends with `<job>/savepoints/<name>`.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let mut parts = path.trim_end_matches('/').rsplit('/');
        let (name, folder, job) = (parts.next()?, parts.next()?, parts.next()?);
        let id = Self { job: Name::new(job).ok()?, name: Name::new(name).ok()? };
        (folder == "savepoints").then_some(id)
    }

    /// Folder of all files of the savepoint.
    #[must_use]
    pub fn folder(&self) -> Path {
        crate::object::layout::savepoint(&self.job, &self.name)
    }

    /// Path of the file `metadata.json`.
    #[must_use]
    pub fn metadata(&self) -> Path {
        self.file(vec![Name::new("metadata.json").expect("it is a name")])
    }

    /// Path of file `file` of `operator`.
    #[must_use]
    pub fn rows(&self, operator: &Name, file: &Name) -> Path {
        self.file(vec![operator.clone(), file.clone()])
    }

    fn file(&self, file: Vec<Name>) -> Path {
        ObjectName::SavepointFile { job: self.job.clone(), savepoint: self.name.clone(), file }.path()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_savepoint_is_named_by_the_end_of_its_path() {
        let id = SavepointId::parse("s3://bucket/some/base/wc/savepoints/before-2.0/").unwrap();
        assert_eq!((id.job.as_str(), id.name.as_str()), ("wc", "before-2.0"));
        assert_eq!(id.metadata().as_ref(), "wc/savepoints/before-2.0/metadata.json");
        assert_eq!(SavepointId::parse("wc/savepoints/before-2.0"), Some(id));
        for bad in ["", "wc", "wc/savepoints", "wc/savepoint/x", "a b/savepoints/x"] {
            assert_eq!(SavepointId::parse(bad), None, "{bad}");
        }
    }
}
