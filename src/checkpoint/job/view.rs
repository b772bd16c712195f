//! The pure view: the checkpoints that the heads of all chains of a job can restore together.

use std::collections::{BTreeMap, BTreeSet};

use super::JobCheckpoint;
use crate::{
    checkpoint::{generation, manifest::Manifest},
    types::Name,
};

/// The newest consistent state of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Latest {
    /// No subtask has a completed checkpoint.
    Nothing,
    /// The newest checkpoint that every operator retains whole.
    Checkpoint(JobCheckpoint),
    /// Some subtasks have completed checkpoints, but there is none that all retain.
    Inconsistent,
}

/// The checkpoints that a job can be restored to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobView {
    /// The checkpoints of each operator, by its name.
    pub operators: BTreeMap<Name, Vec<OperatorCheckpoint>>,
    /// The checkpoints that every operator retains whole, oldest first.
    pub consistent: Vec<JobCheckpoint>,
    /// Whether any subtask retains a checkpoint that it knows to be complete.
    any_completed: bool,
}

/// The parts of one checkpoint that the subtasks of one operator retain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorCheckpoint {
    /// The checkpoint that the parts belong to.
    pub checkpoint: JobCheckpoint,
    /// The number of subtasks that made it.
    pub parallelism: u32,
    /// The subtasks that retain their part.
    there: BTreeSet<u32>,
    /// Whether all subtasks retain their part, and are of one generation, so that it can be restored.
    pub is_whole: bool,
    /// Whether every retained part is known to be complete.
    pub completed: bool,
}

impl JobView {
    /// The view over `heads`, the newest manifests of all subtasks of a job. Pure.
    #[must_use]
    pub fn of(heads: &[Manifest]) -> Self {
        let mut retained: BTreeMap<&Name, BTreeSet<JobCheckpoint>> = BTreeMap::new();
        for head in heads {
            let of_operator = retained.entry(&head.backend.operator).or_default();
            of_operator.extend(head.checkpoints.iter().map(JobCheckpoint::of));
        }
        let mut operators = BTreeMap::new();
        let mut consistent: Option<BTreeSet<JobCheckpoint>> = None;
        for (operator, checkpoints) in retained {
            let checkpoints: Vec<_> = checkpoints.into_iter().map(|c| of_operator(heads, operator, c)).collect();
            let of_before = |checkpoint: &JobCheckpoint| consistent.as_ref().is_none_or(|all| all.contains(checkpoint));
            let whole = checkpoints.iter().filter(|found| found.is_whole).map(|found| found.checkpoint);
            // The first operator gives the candidates, and each further one removes those that it does not have whole.
            consistent = Some(whole.filter(of_before).collect());
            operators.insert(operator.clone(), checkpoints);
        }
        Self {
            operators,
            consistent: consistent.unwrap_or_default().into_iter().collect(),
            any_completed: heads.iter().flat_map(|head| &head.checkpoints).any(|record| record.completed),
        }
    }

    /// The newest consistent checkpoint.
    #[must_use]
    pub fn latest(&self) -> Latest {
        match self.consistent.last() {
            Some(checkpoint) => Latest::Checkpoint(*checkpoint),
            None if self.any_completed => Latest::Inconsistent,
            None => Latest::Nothing,
        }
    }

    /// The checkpoint `id` of the newest attempt for which `operator` retains it whole.
    #[must_use]
    pub fn by_id(&self, operator: &Name, id: u64) -> Option<JobCheckpoint> {
        let of = |found: &&OperatorCheckpoint| found.is_whole && found.checkpoint.id == id;
        self.operators.get(operator)?.iter().rev().find(of).map(|found| found.checkpoint)
    }
}

impl OperatorCheckpoint {
    /// The subtasks that made the checkpoint and do not retain it.
    pub fn missing(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.parallelism).filter(|subtask| !self.there.contains(subtask))
    }
}

/// The newest consistent checkpoint over `heads`. Pure.
#[must_use]
pub fn latest(heads: &[Manifest]) -> Latest {
    JobView::of(heads).latest()
}

fn of_operator(heads: &[Manifest], operator: &Name, checkpoint: JobCheckpoint) -> OperatorCheckpoint {
    let parts = generation::parts(heads, operator, checkpoint);
    let parallelism = parts.first().map_or(0, |(head, record)| head.span(record).parallelism);
    let there: BTreeSet<u32> = parts.iter().map(|(head, _)| head.backend.subtask).collect();
    OperatorCheckpoint {
        checkpoint,
        parallelism,
        there,
        is_whole: generation::is_whole(&parts),
        completed: parts.iter().all(|(_, record)| record.completed),
    }
}
