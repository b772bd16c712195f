//! The target of a tool: a checkpoint, or a savepoint.

use std::str::FromStr;

use crate::{savepoint::SavepointId, types::Name};

/// A checkpoint, or a savepoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A checkpoint of a job, by its id; the newest that every subtask has, if there is none.
    Checkpoint(Name, Option<u64>),
    /// A savepoint.
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
        for (text, says) in [("wc@x", "id of a checkpoint"), ("wc@", "id of a"), ("a/b", "savepoints"), ("", "names")] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
