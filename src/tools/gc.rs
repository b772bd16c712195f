//! `dstl gc`, which sweeps jobs, or shows the effect of a sweep.

use std::time::Duration;

use super::{outline::Node, retry, time};
use crate::{
    checkpoint::collect::{self, Finding, SweepError, SweepOptions, SweepReport, Tally},
    checkpoint::generation::Retired,
    clock::Clock,
    object::{Store, StoreError},
    random::Random,
    types::Name,
};

/// Settings of a sweep.
#[derive(Debug, Clone)]
pub struct Options {
    /// The job to sweep; `None` for all jobs of the store.
    pub job: Option<Name>,
    /// Objects younger than this are kept.
    pub grace: Duration,
    /// Whether to delete the garbage. If not, it is only listed.
    pub delete: bool,
}

/// The result of a sweep for each job.
#[derive(Debug)]
pub struct Outcome {
    deletes: bool,
    jobs: Vec<(Name, Result<SweepReport, SweepError>)>,
}

/// The reason why no job was swept.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// The store has no object of the job.
    #[error("the store has no object of job `{0}`")]
    NoJob(Name),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Sweeps the jobs. If one cannot be swept, continues with the others. A dry run computes the age of objects by
/// `clock`, so that it writes nothing; a real one uses the store's own clock. Cancel-safe, but if dropped, part of the
/// garbage may be deleted.
///
/// # Errors
/// [`GcError`]. Faults of single jobs are part of the outcome.
pub async fn run(store: &Store, options: &Options, clock: &Clock, random: &Random) -> Result<Outcome, GcError> {
    let jobs = match &options.job {
        Some(job) => vec![job.clone()],
        None => collect::jobs(store, retry()).await?,
    };
    let mut outcome = Outcome { deletes: options.delete, jobs: vec![] };
    for job in jobs {
        let swept = sweep(store, &job, options, clock, random).await;
        outcome.jobs.push((job, swept));
    }
    match &options.job {
        Some(job) if outcome.is_empty() => Err(GcError::NoJob(job.clone())),
        _ => Ok(outcome),
    }
}

async fn sweep(
    store: &Store,
    job: &Name,
    options: &Options,
    clock: &Clock,
    random: &Random,
) -> Result<SweepReport, SweepError> {
    // The clock of the store is read from an object that is written for it, and a dry run writes nothing. The clock of
    // this host may be wrong, but in a dry run nothing is deleted by it.
    let now_ms = if options.delete { collect::store_time(store, job, random, retry()).await? } else { clock.now_ms() };
    let options = SweepOptions { grace: options.grace, now_ms, delete: options.delete };
    collect::sweep(store, job, &options, retry()).await
}

impl Outcome {
    /// Whether no object was found and no job failed.
    fn is_empty(&self) -> bool {
        self.jobs.iter().all(|(_, swept)| swept.as_ref().is_ok_and(|report| report.findings.is_empty()))
    }

    /// A line for each job that could not be swept, with the reason.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let failed = self.jobs.iter().filter_map(|(job, swept)| Some((job, swept.as_ref().err()?)));
        failed.map(|(job, error)| format!("job `{job}` was not swept: {error}")).collect()
    }

    /// The outcome for programs.
    #[must_use]
    pub fn outline(&self) -> Node {
        let job = |(job, swept): &(Name, Result<SweepReport, SweepError>)| {
            let mut fields = vec![("job", Node::text(job))];
            match swept {
                Ok(report) => fields.extend(outline_of(report)),
                Err(error) => fields.push(("error", Node::text(error))),
            }
            Node::Fields(fields)
        };
        Node::Fields(vec![("dry_run", (!self.deletes).into()), ("jobs", Node::list(self.jobs.iter().map(job)))])
    }

    /// The outcome for people: a line for each object, then a summary of each job.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        for report in self.jobs.iter().filter_map(|(_, swept)| swept.as_ref().ok()) {
            for finding in &report.findings {
                let word = if finding.deleted { "deleted" } else { finding.verdict.word() };
                let (path, size, why) = (&finding.meta.path, finding.meta.size, finding.verdict.reason());
                out.push_str(&format!("{word:<8} {path} ({size} bytes): {why}\n"));
            }
            for chain in &report.retired {
                let word = if self.deletes { "retired" } else { "vanished" };
                out.push_str(&format!("{word:<8} {}: {}\n", chain.backend, why_retired(chain)));
            }
            out.push_str(&self.summary(report));
        }
        if self.jobs.is_empty() {
            out.push_str("the store has no jobs\n");
        }
        out
    }

    fn summary(&self, report: &SweepReport) -> String {
        let part = |word: &str| tally_text(report.tally(word), word);
        let parts = ["live", "kept", "garbage", "unknown"].map(part).join(", ");
        let deleted = report.deleted();
        let done = match (self.deletes, report.tally("garbage").objects) {
            (true, _) => tally_text(deleted, "deleted"),
            (false, 0) => "nothing to delete".to_owned(),
            (false, _) => "dry run: `--delete` deletes the garbage".to_owned(),
        };
        format!("job `{}`: {parts}; {done}\n", report.job)
    }
}

fn why_retired(chain: &Retired) -> String {
    format!(
        "the operator has {} subtasks since attempt {}, none of which retains a checkpoint of this one; what only its chain \
         names goes when `--delete` is given",
        chain.parallelism, chain.attempt
    )
}

fn tally_text(tally: Tally, word: &str) -> String {
    format!("{} {word} ({} bytes)", tally.objects, tally.bytes)
}

fn outline_of(report: &SweepReport) -> Vec<(&'static str, Node)> {
    let tally = |tally: Tally| Node::Fields(vec![("objects", tally.objects.into()), ("bytes", tally.bytes.into())]);
    let object = |finding: &Finding| {
        Node::Fields(vec![
            ("path", Node::text(&finding.meta.path)),
            ("bytes", finding.meta.size.into()),
            ("modified", time(finding.meta.modified_ms)),
            ("verdict", Node::text(finding.verdict.word())),
            ("reason", Node::text(finding.verdict.reason())),
            ("deleted", finding.deleted.into()),
        ])
    };
    vec![
        ("live", tally(report.tally("live"))),
        ("kept", tally(report.tally("kept"))),
        ("garbage", tally(report.tally("garbage"))),
        ("unknown", tally(report.tally("unknown"))),
        ("deleted", tally(report.deleted())),
        ("vanished", Node::list(report.retired.iter().map(|chain| Node::text(&chain.backend)))),
        ("objects", Node::list(report.findings.iter().map(object))),
    ]
}
