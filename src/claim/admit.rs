//! Admission: whether the attempt of an opener may begin, whether it belongs to a declared job, and which demands
//! follow from that.
//!
//! A task of a declared attempt must begin with the checkpoint that the declaration restores; otherwise later commits
//! would not be of one history. So it asks for the latest, or for that checkpoint by its id. An attempt that is lower
//! than the newest of the job is outdated, even if no chain has met the newer one yet. A higher attempt that was not
//! declared outdates the declared one before it claims anything: see [`crate::checkpoint::job`], rule 2.
//!
//! The job may move on between that look and the manifest that opens the epoch, which may wait for the store for long.
//! So the opener looks again once that manifest is durable ([`Admitted::still`]). A declaration looks at the chains
//! after its record is durable. So at least one of the two sees the other. An opener that then gives up has served
//! nothing, and let go of nothing.

use tokio::time::Instant;

use super::{
    claiming::Claiming,
    error::job_error,
    spec::{OpenSpec, RestoreFrom},
};
use crate::{
    checkpoint::job::{self, JobError, JobRecord, Naming, Seen},
    error::{Error, Reason},
    object::Retry,
};

/// `spec` with the attempt of the start that its token names, if it has a token. Cancel-safe.
///
/// # Errors
/// If the job's records cannot be read or written.
pub(crate) async fn numbered(by: &Claiming, spec: OpenSpec) -> Result<OpenSpec, Error> {
    if spec.token.is_empty() {
        return Ok(spec);
    }
    let naming = Naming {
        token: spec.token.clone(),
        peers: spec.peers.clone(),
        now: by.clock.now_ms(),
        grace_ms: u64::try_from(by.start_grace.as_millis()).unwrap_or(u64::MAX),
    };
    let retry = Retry::until(Instant::now() + by.open_timeout);
    let attempt = job::number(&by.store, &spec.id.job, &naming, retry).await.map_err(job_error)?;
    Ok(OpenSpec { attempt, ..spec })
}

/// An opener that may begin.
#[derive(Debug)]
pub(crate) struct Admitted {
    /// How the backend is opened.
    pub(crate) spec: OpenSpec,
    /// The newest record of its job, if its attempt was declared.
    pub(crate) declared: Option<Box<JobRecord>>,
    /// The newest record that was read.
    pub(crate) seen: Seen,
}

/// Decides whether `spec` may begin, and with which checkpoint.
pub(crate) async fn admit(by: &Claiming, spec: &OpenSpec, retry: Retry) -> Result<Admitted, Error> {
    let job = &spec.id.job;
    let newest = match job::newest(&by.store, job, retry).await {
        // A request that names its checkpoint does not need the record.
        Err(error @ JobError::Corrupt { .. }) if !asks_the_job(spec) => {
            tracing::warn!(backend = %spec.id, %error, "opening without looking whether the attempt was declared");
            return Ok(Admitted { spec: spec.clone(), declared: None, seen: Seen::NotYet });
        }
        newest => newest.map_err(job_error)?,
    };
    let admitted = |spec, declared, seen| Admitted { spec, declared, seen };
    let Some(record) = newest.map(Box::new) else { return Ok(admitted(spec.clone(), None, Seen::Newest(None))) };
    refuse_outdated(spec, &record)?;
    // The newest generation was not declared, so it demands nothing of its tasks.
    if record.declared.is_none() {
        return Ok(admitted(spec.clone(), None, Seen::Newest(Some(record))));
    }
    if record.attempt < spec.attempt {
        // Ordering: the record that outdates the declared attempt is durable before this opener touches a chain. The
        // other way round, the last report of that attempt could still complete a commit, whose parts are in chains
        // that this attempt has fenced and may let go of.
        job::outdate(&by.store, job, spec.attempt, retry).await.map_err(job_error)?;
        return Ok(admitted(spec.clone(), None, Seen::NotYet));
    }
    let spec = as_declared(spec, &record)?;
    Ok(admitted(spec, Some(record.clone()), Seen::Newest(Some(record))))
}

impl Admitted {
    /// Looks again after the manifest that opened the epoch is durable: at `seen`, which a sibling may have read since,
    /// and at newer records.
    ///
    /// # Errors
    /// If it may not begin any more. The error says whether to open again.
    pub(crate) async fn still(&self, by: &Claiming, seen: &Seen, retry: Retry) -> Result<(), Error> {
        let spec = &self.spec;
        let newer = match job::newer(&by.store, &spec.id.job, seen.number(), retry).await {
            Err(JobError::Corrupt { .. }) if !asks_the_job(spec) => None,
            newer => newer.map_err(job_error)?,
        };
        // A sibling on this daemon may have read a newer record meanwhile, which `seen` has. One that is no newer than
        // at admission tells nothing new.
        let newest = newer.as_ref().or(seen.record());
        let Some(record) = newest.filter(|newest| newest.number > self.seen.number()) else { return Ok(()) };
        refuse_outdated(spec, record)?;
        if record.attempt < spec.attempt && record.declared.is_some() {
            job::outdate(&by.store, &spec.id.job, spec.attempt, retry).await.map_err(job_error)?;
            return Err(declared_meanwhile(spec, record));
        }
        if record.attempt == spec.attempt && record.declared.is_some() != self.declared.is_some() {
            return Err(declared_meanwhile(spec, record));
        }
        Ok(())
    }
}

fn asks_the_job(spec: &OpenSpec) -> bool {
    spec.fallback || matches!(spec.restore, RestoreFrom::Latest { .. })
}

fn refuse_outdated(spec: &OpenSpec, newest: &JobRecord) -> Result<(), Error> {
    if newest.attempt <= spec.attempt {
        return Ok(());
    }
    let (job, attempt, newer) = (spec.id.job.clone(), spec.attempt, newest.attempt);
    Err(job_error(JobError::Outdated { job, attempt, newer }))
}

/// The error for an attempt whose declaration was made, or withdrawn, after `spec` was admitted.
fn declared_meanwhile(spec: &OpenSpec, record: &JobRecord) -> Error {
    let what = if record.declared.is_some() { "was declared" } else { "is not declared any more" };
    let text = format!(
        "backend `{}`: attempt {} of the job {what} while attempt {} opened it; open it again",
        spec.id, record.attempt, spec.attempt
    );
    Error { retryable: true, ..Error::new(Reason::DeclarationMismatch, text) }
}

/// `spec` with the checkpoint that `record` restores, if it is a task of that generation and asks for the same. Pure.
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
        RestoreFrom::Handles(_) | RestoreFrom::Vouched(_) | RestoreFrom::Savepoint(_) => false,
    };
    if !is_so {
        let begins = restore.map_or("empty".to_owned(), |restore| format!("with checkpoint {restore}"));
        return refused(format!("begins {begins}; ask for the latest, or for just that by its id or as empty"));
    }
    Ok(OpenSpec { restore: RestoreFrom::Latest { or_empty: true }, ..spec.clone() })
}
