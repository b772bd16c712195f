//! Admission: whether the attempt of an opener is that of a declared job, and what that demands.
//!
//! A task of a declared attempt begins with what the declaration restores, or the checkpoints that are committed from then on would not
//! be of one history. So it asks for the latest, or for the same thing by its id. A lower attempt is outdated. A higher one that was
//! not declared outdates the declared one, before it claims anything: see [`crate::checkpoint::job`], rule 2.

use super::{super::environment::Environment, OpenSpec, RestoreFrom, job_error};
use crate::{
    checkpoint::job::{self, JobError, JobRecord},
    error::{Error, Reason},
    object::Retry,
};

/// How the backend is opened, and the newest record of its job if its attempt was declared.
pub(super) async fn admit(
    env: &Environment,
    spec: &OpenSpec,
    retry: Retry,
) -> Result<(OpenSpec, Option<Box<JobRecord>>), Error> {
    let job = &spec.id.job;
    let asks_the_job = spec.fallback || matches!(spec.restore, RestoreFrom::Latest { .. });
    let newest = match job::newest(&env.store, job, retry).await {
        // Whoever knows what to restore can do without.
        Err(error @ JobError::Corrupt { .. }) if !asks_the_job => {
            tracing::warn!(backend = %spec.id, %error, "opening without looking whether the attempt was declared");
            None
        }
        newest => newest.map_err(job_error)?,
    };
    let Some(record) = newest.filter(|newest| newest.declared.is_some()) else { return Ok((spec.clone(), None)) };
    if record.attempt > spec.attempt {
        let (job, attempt, newer) = (job.clone(), spec.attempt, record.attempt);
        return Err(job_error(JobError::Outdated { job, attempt, newer }));
    }
    if record.attempt < spec.attempt {
        job::outdate(&env.store, job, spec.attempt, retry).await.map_err(job_error)?;
        return Ok((spec.clone(), None));
    }
    let spec = as_declared(spec, &record)?;
    Ok((spec, Some(Box::new(record))))
}

/// `spec`, if it is that of a task of the generation of `record`, asking for what that restores. Pure.
fn as_declared(spec: &OpenSpec, record: &JobRecord) -> Result<OpenSpec, Error> {
    let attempt = record.attempt;
    let refused = |what: String| {
        let text = format!("backend `{}`: attempt {attempt} was declared, and {what}", spec.id);
        Err(Error::new(Reason::DeclarationMismatch, text))
    };
    let operator = &spec.id.operator;
    match record.declared.as_ref().and_then(|declared| declared.operators.get(operator)) {
        None => return refused(format!("operator `{operator}` is not part of it")),
        Some(declared) if *declared != spec.parallelism => {
            return refused(format!("operator `{operator}` has {declared} subtasks there, not {}", spec.parallelism));
        }
        Some(_) => {}
    }
    let restore = record.restore().filter(|_| !record.new_operators.contains(operator));
    let is_so = match &spec.restore {
        RestoreFrom::Latest { .. } => true,
        RestoreFrom::Id(id) => restore.is_some_and(|restore| restore.id == *id),
        RestoreFrom::Empty => restore.is_none(),
        RestoreFrom::Handles(_) => false,
    };
    if !is_so {
        let begins = restore.map_or("empty".to_owned(), |restore| format!("with checkpoint {restore}"));
        return refused(format!("begins {begins}; ask for the latest, or for just that by its id or as empty"));
    }
    Ok(OpenSpec { restore: RestoreFrom::Latest { or_empty: true }, ..spec.clone() })
}
