//! The view over a job in the form of the protocol.

use std::collections::BTreeMap;

use crate::{
    backend::JobDescription,
    checkpoint::job::{Asked, Declaration, Generation, JobCheckpoint, JobRecord, OperatorCheckpoint, Spoilt},
    error::{Error, Reason},
    proto::v1,
    types::Name,
};

/// Most subtasks that the description of an operator's checkpoint lists.
const MAX_MISSING: usize = 1_000;

pub(in crate::rpc) fn to_damaged(spoilt: &Spoilt) -> v1::DamagedCheckpoint {
    v1::DamagedCheckpoint { checkpoint: Some(to_checkpoint(&spoilt.checkpoint)), what: spoilt.what.clone() }
}

pub(in crate::rpc) fn to_job(job: &JobDescription) -> v1::DescribeJobResponse {
    v1::DescribeJobResponse {
        operators: job.view.operators.iter().map(|(name, found)| to_operator(name, found)).collect(),
        checkpoints: job.view.consistent.iter().map(to_checkpoint).collect(),
        damaged: job.damaged.iter().map(to_damaged).collect(),
        generation: job.record.as_ref().map(|record| to_generation(record, &job.reported)),
        commits: job.record.iter().flat_map(JobRecord::commits).map(|commit| to_checkpoint(&commit)).collect(),
    }
}

fn to_generation(record: &JobRecord, reported: &[(JobCheckpoint, usize)]) -> v1::JobGeneration {
    let narrow = |tasks: usize| u32::try_from(tasks).unwrap_or(u32::MAX);
    let tasks = |(operator, parallelism): (&Name, &u32)| v1::JobTasks {
        operator: operator.to_string(),
        parallelism: *parallelism,
    };
    let all = record.declared.as_ref().map_or(0, Declaration::tasks);
    let reported = reported.iter().map(|(checkpoint, reports)| v1::ReportedCheckpoint {
        checkpoint: Some(to_checkpoint(checkpoint)),
        reports: narrow(*reports),
        tasks: narrow(all),
    });
    v1::JobGeneration {
        attempt: record.attempt,
        restore: record.restore().as_ref().map(to_checkpoint),
        tasks: record.declared.iter().flat_map(|declared| &declared.operators).map(tasks).collect(),
        reported: reported.collect(),
    }
}

/// The declaration of an engine.
pub(in crate::rpc) fn declaration(request: &v1::DeclareJobRequest) -> Result<Declaration, Error> {
    use v1::declare_job_request::Restore;
    let invalid = |text: String| Error::new(Reason::InvalidArgument, format!("job `{}`: {text}", request.job));
    let mut operators = BTreeMap::new();
    for tasks in &request.tasks {
        let operator = Name::new(&tasks.operator).map_err(|error| invalid(error.to_string()))?;
        if operators.insert(operator, tasks.parallelism).is_some() {
            return Err(invalid(format!("operator `{}` is declared twice", tasks.operator)));
        }
    }
    let asked = match &request.restore {
        Some(Restore::Latest(_)) => Asked::Latest,
        Some(Restore::Empty(_)) => Asked::Empty,
        Some(Restore::Checkpoint(given)) => Asked::Given { id: given.id, attempt: given.attempt },
        None => return Err(invalid("`restore` is missing: set `latest`, `checkpoint` or `empty`".to_owned())),
    };
    Ok(Declaration { operators, asked })
}

pub(in crate::rpc) fn to_declared(generation: &Generation) -> v1::DeclareJobResponse {
    v1::DeclareJobResponse {
        restore: generation.restore.as_ref().map(to_checkpoint),
        new_operators: generation.new_operators.iter().map(ToString::to_string).collect(),
        number: generation.number,
    }
}

fn to_operator(name: &Name, checkpoints: &[OperatorCheckpoint]) -> v1::OperatorDescription {
    let checkpoint = |found: &OperatorCheckpoint| v1::OperatorCheckpoint {
        checkpoint: Some(to_checkpoint(&found.checkpoint)),
        parallelism: found.parallelism,
        missing_subtasks: found.missing().take(MAX_MISSING).collect(),
        restorable: found.is_whole,
        completed: found.completed,
    };
    v1::OperatorDescription { operator: name.to_string(), checkpoints: checkpoints.iter().map(checkpoint).collect() }
}

fn to_checkpoint(checkpoint: &JobCheckpoint) -> v1::JobCheckpoint {
    v1::JobCheckpoint { attempt: checkpoint.attempt, id: checkpoint.id }
}
