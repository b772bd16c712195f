//! The view over a job, on the wire.

use crate::{
    backend::JobDescription,
    checkpoint::job::{JobCheckpoint, OperatorCheckpoint, Spoilt},
    proto::v1,
    types::Name,
};

pub(in crate::rpc) fn to_damaged(spoilt: &Spoilt) -> v1::DamagedCheckpoint {
    v1::DamagedCheckpoint { checkpoint: Some(to_checkpoint(&spoilt.checkpoint)), what: spoilt.what.clone() }
}

pub(in crate::rpc) fn to_job(job: &JobDescription) -> v1::DescribeJobResponse {
    v1::DescribeJobResponse {
        operators: job.view.operators.iter().map(to_operator).collect(),
        checkpoints: job.view.consistent.iter().map(to_checkpoint).collect(),
        damaged: job.damaged.iter().map(to_damaged).collect(),
    }
}

fn to_operator((name, checkpoints): (&Name, &Vec<OperatorCheckpoint>)) -> v1::OperatorDescription {
    let checkpoint = |found: &OperatorCheckpoint| v1::OperatorCheckpoint {
        checkpoint: Some(to_checkpoint(&found.checkpoint)),
        parallelism: found.parallelism,
        missing_subtasks: found.missing.clone(),
        restorable: found.is_whole,
        completed: found.completed,
    };
    v1::OperatorDescription { operator: name.to_string(), checkpoints: checkpoints.iter().map(checkpoint).collect() }
}

fn to_checkpoint(checkpoint: &JobCheckpoint) -> v1::JobCheckpoint {
    v1::JobCheckpoint { attempt: checkpoint.attempt, id: checkpoint.id }
}
