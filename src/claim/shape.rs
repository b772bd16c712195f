//! The shape of a backend: parallelism, key groups, inner backend, changelog.

use super::{claiming::Claiming, spec::OpenSpec};
use crate::{
    checkpoint::manifest::{Shape, Span},
    error::{Error, Reason},
    types::{KeyGroupAssignment, KeyGroupRange, default_max_parallelism},
};

/// The shape of the backend, from the request and the existing state, whose facts take precedence.
pub(crate) fn shape(by: &Claiming, spec: &OpenSpec, known: Option<&Span>) -> Result<Shape, Error> {
    let mismatch = |text: String| Error::new(Reason::BackendMismatch, format!("backend `{}`: {text}", spec.id));
    let max_parallelism = match (spec.max_parallelism, known) {
        (Some(wanted), Some(known)) if wanted != known.max_parallelism => {
            return Err(mismatch(format!(
                "max parallelism {wanted} was asked for, the state has {}, fixed for its life; ask for that, or 0",
                known.max_parallelism
            )));
        }
        (Some(wanted), _) => wanted,
        (None, Some(known)) => known.max_parallelism,
        (None, None) => default_max_parallelism(spec.parallelism),
    };
    let computed = KeyGroupRange::of_subtask(spec.id.subtask, spec.parallelism, max_parallelism);
    let computed = computed.map_err(|error| Error::new(Reason::InvalidArgument, error.to_string()))?;
    let key_groups = spec.key_groups.unwrap_or(computed);
    if u32::from(key_groups.last().0) >= max_parallelism {
        let text = format!("key groups {key_groups} reach beyond max parallelism {max_parallelism}");
        return Err(Error::new(Reason::InvalidArgument, text));
    }
    let assignment = match (spec.assignment, known) {
        (Some(wanted), Some(known)) if wanted != known.assignment => {
            return Err(mismatch(format!(
                "key-group assignment {wanted:?} was asked for, the state has {:?}, fixed for its life",
                known.assignment
            )));
        }
        (Some(wanted), _) => wanted,
        (None, known) => known.map_or(KeyGroupAssignment::Hashed, |known| known.assignment),
    };
    let inner = spec.inner.unwrap_or(by.inner);
    let changelog = spec.changelog.unwrap_or(by.changelog);
    Ok(Shape { parallelism: spec.parallelism, max_parallelism, key_groups, assignment, inner, changelog })
}
