//! The record of a job, which is a link of its chain. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use bytes::Bytes;

use super::{JobCheckpoint, Spoilt, Start};
use crate::{
    checkpoint::{
        envelope::{self, EnvelopeError, Kind},
        handle::{identity_of, name_of},
        manifest::MAX_NUMBER,
    },
    proto::store,
    types::{Attempt, CheckpointId, CheckpointIdentity, MAX_PARALLELISM_LIMIT, Name},
};

/// Commits before the newest one that a record still lists.
const EARLIER_COMMITS: usize = 15;

/// Everything that is still true of a job after its newest generation or commit.
///
/// Invariants: `new_operators` and `commit` are set only if the attempt was declared; `commit` is of this attempt, or
/// the one that this attempt restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRecord {
    /// Its number in the chain, from 1.
    pub number: u64,
    /// The attempt of the newest generation.
    pub attempt: Attempt,
    /// The number of the record that began this generation.
    pub began: u64,
    /// The checkpoint that its subtasks begin with.
    pub beginning: Beginning,
    /// Checkpoints that are known to be damaged, oldest first.
    pub spoilt: Vec<Spoilt>,
    /// The declaration of the attempt; `None` if the engine coordinates.
    pub declared: Option<Declaration>,
    /// Operators that begin empty, because the restored checkpoint does not have them.
    pub new_operators: BTreeSet<Name>,
    /// The newest commit.
    pub commit: Option<Commit>,
    /// Commits before the newest one, oldest first; only the latest of them.
    pub earlier: Vec<JobCheckpoint>,
    /// Whether earlier owners may still let go of the checkpoint to restore, so that no task may be told of it yet.
    pub unheld: bool,
    /// The latest starts that were named by tokens, ordered by attempt.
    pub starts: Vec<Start>,
    /// The announcement that a subtask was deciding for an attempt when this record was made.
    pub deciding: Option<Deciding>,
}

/// The announcement that one subtask decides for an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deciding {
    /// The attempt that it decides for.
    pub attempt: Attempt,
    /// The operator of the deciding subtask.
    pub operator: Name,
    /// The number of the deciding subtask.
    pub subtask: u32,
}

/// The checkpoint that the subtasks of an attempt begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// The first subtask that asks for the latest will decide.
    Undecided,
    /// This checkpoint, or `None` for the empty state.
    Chosen(Option<JobCheckpoint>),
}

/// The tasks of an attempt, and the checkpoint that they are to begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declaration {
    /// Every operator, with its number of subtasks.
    pub operators: BTreeMap<Name, u32>,
    /// The checkpoint that the engine asked for.
    pub asked: Asked,
}

/// The checkpoint that an engine asks to begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The newest commit.
    Latest,
    /// The checkpoint with this id, of the given attempt or else of the newest one that has it.
    Given {
        /// The id that the engine gave it.
        id: CheckpointId,
        /// The attempt that made it; `None` for the newest one.
        attempt: Option<Attempt>,
    },
    /// The empty state.
    Empty,
}

/// A committed checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The checkpoint that was committed.
    pub checkpoint: JobCheckpoint,
    /// The parts of each operator, in order of the subtasks.
    pub parts: BTreeMap<Name, Vec<CheckpointIdentity>>,
}

impl JobRecord {
    /// The record after `before` with which `attempt` begins without a declaration. Commits of earlier attempts no
    /// longer count: the engine decides about them.
    #[must_use]
    pub fn undeclared(before: Option<&Self>, attempt: Attempt, beginning: Beginning, spoilt: Vec<Spoilt>) -> Self {
        // No overflow: numbers that are read are at most half of a u64's.
        let number = before.map_or(1, |before| before.number + 1);
        Self {
            number,
            attempt,
            began: number,
            beginning,
            spoilt,
            declared: None,
            new_operators: BTreeSet::new(),
            commit: None,
            earlier: vec![],
            unheld: false,
            starts: before.map_or_else(Vec::new, |before| before.starts.clone()),
            deciding: None,
        }
    }

    /// The next record, with the same contents.
    #[must_use]
    pub fn successor(&self) -> Self {
        // The announcement is about the moment when this record was made, so it is not handed on.
        Self { number: self.number + 1, deciding: None, ..self.clone() }
    }

    /// The checkpoint that its subtasks begin with; `None` if that is undecided or the empty state.
    #[must_use]
    pub fn restore(&self) -> Option<JobCheckpoint> {
        match self.beginning {
            Beginning::Undecided => None,
            Beginning::Chosen(restore) => restore,
        }
    }

    /// The checkpoint that a later declared generation restores: the newest commit, or else the one that this
    /// generation began with.
    #[must_use]
    pub fn stands_on(&self) -> Option<JobCheckpoint> {
        self.commit.as_ref().map(|commit| commit.checkpoint).or(self.restore())
    }

    /// The commits that it lists, oldest first.
    #[must_use]
    pub fn commits(&self) -> Vec<JobCheckpoint> {
        self.earlier.iter().copied().chain(self.commit.as_ref().map(|commit| commit.checkpoint)).collect()
    }

    /// Makes `commit` the newest; the one before moves to the earlier ones.
    pub(super) fn commit(&mut self, commit: Option<Commit>) {
        let before = std::mem::replace(&mut self.commit, commit);
        self.earlier.extend(before.map(|before| before.checkpoint));
        let excess = self.earlier.len().saturating_sub(EARLIER_COMMITS);
        // The oldest go first. The newest commit is kept apart.
        self.earlier.drain(..excess);
    }

    /// The bytes of the object.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        envelope::seal(Kind::JobRecord, &self.to_message())
    }

    /// Reads a record.
    ///
    /// # Errors
    /// If the bytes are not exactly a record.
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let message: store::JobRecord = envelope::open(Kind::JobRecord, bytes)?;
        Self::from_message(&message).map_err(EnvelopeError::Contents)
    }

    fn to_message(&self) -> store::JobRecord {
        let spoilt = |spoilt: &Spoilt| {
            let JobCheckpoint { attempt, id } = spoilt.checkpoint;
            store::SpoiltCheckpoint { attempt, id, what: spoilt.what.clone(), object: spoilt.object.clone() }
        };
        store::JobRecord {
            number: self.number,
            attempt: self.attempt,
            restore: self.restore().map(to_checkpoint),
            spoilt: self.spoilt.iter().map(spoilt).collect(),
            began: self.began,
            undecided: self.beginning == Beginning::Undecided,
            declared: self.declared.as_ref().map(Declaration::to_message),
            new_operators: self.new_operators.iter().map(ToString::to_string).collect(),
            commit: self.commit.as_ref().map(Commit::to_message),
            earlier_commits: self.earlier.iter().copied().map(to_checkpoint).collect(),
            unheld: self.unheld,
            starts: self.starts.iter().map(Start::to_message).collect(),
            deciding: self.deciding.as_ref().map(Deciding::to_message),
        }
    }

    fn from_message(message: &store::JobRecord) -> Result<Self, String> {
        let spoilt = |spoilt: &store::SpoiltCheckpoint| {
            let checkpoint = JobCheckpoint { attempt: spoilt.attempt, id: spoilt.id };
            Spoilt { checkpoint, what: spoilt.what.clone(), object: spoilt.object.clone() }
        };
        let beginning = match message.undecided {
            true => Beginning::Undecided,
            false => Beginning::Chosen(message.restore.as_ref().map(from_checkpoint)),
        };
        // There is always a next number, by which a record can be added above a forged one.
        if !(1..=MAX_NUMBER).contains(&message.number) || message.began > message.number {
            return Err("a number that no record has".to_owned());
        }
        Ok(Self {
            number: message.number,
            attempt: message.attempt,
            began: message.began,
            beginning,
            spoilt: message.spoilt.iter().map(spoilt).collect(),
            declared: message.declared.as_ref().map(Declaration::from_message).transpose()?,
            new_operators: message.new_operators.iter().map(|operator| name(operator)).collect::<Result<_, _>>()?,
            commit: message.commit.as_ref().map(Commit::from_message).transpose()?,
            earlier: message.earlier_commits.iter().map(from_checkpoint).collect(),
            unheld: message.unheld,
            starts: message.starts.iter().map(Start::from_message).collect(),
            deciding: message.deciding.as_ref().map(Deciding::from_message).transpose()?,
        })
    }
}

impl Deciding {
    fn to_message(&self) -> store::Deciding {
        let Self { attempt, operator, subtask } = self;
        store::Deciding { attempt: *attempt, operator: operator.to_string(), subtask: *subtask }
    }

    fn from_message(message: &store::Deciding) -> Result<Self, String> {
        Ok(Self { attempt: message.attempt, operator: name(&message.operator)?, subtask: message.subtask })
    }
}

impl Declaration {
    /// Number of tasks over all operators.
    #[must_use]
    pub fn tasks(&self) -> usize {
        self.operators.values().map(|parallelism| *parallelism as usize).sum()
    }

    fn to_message(&self) -> store::JobDeclaration {
        let operator = |(operator, parallelism): (&Name, &u32)| store::DeclaredOperator {
            operator: operator.to_string(),
            parallelism: *parallelism,
        };
        let (checkpoint_id, checkpoint_attempt) = match self.asked {
            Asked::Given { id, attempt } => (Some(id), attempt),
            Asked::Latest | Asked::Empty => (None, None),
        };
        store::JobDeclaration {
            operators: self.operators.iter().map(operator).collect(),
            empty: self.asked == Asked::Empty,
            checkpoint_id,
            checkpoint_attempt,
        }
    }

    fn from_message(message: &store::JobDeclaration) -> Result<Self, String> {
        let operator = |operator: &store::DeclaredOperator| {
            if !(1..=MAX_PARALLELISM_LIMIT).contains(&operator.parallelism) {
                return Err("a parallelism that no operator has".to_owned());
            }
            Ok((name(&operator.operator)?, operator.parallelism))
        };
        // An operator that is listed twice would be one entry of the map, and fewer tasks would be waited for than were
        // declared.
        if !message.operators.is_sorted_by(|one, next| one.operator < next.operator) {
            return Err("operators that are out of order, or declared twice".to_owned());
        }
        let asked = match (message.empty, message.checkpoint_id) {
            (true, _) => Asked::Empty,
            (false, Some(id)) => Asked::Given { id, attempt: message.checkpoint_attempt },
            (false, None) => Asked::Latest,
        };
        Ok(Self { operators: message.operators.iter().map(operator).collect::<Result<_, _>>()?, asked })
    }
}

impl fmt::Display for Declaration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operators = self.operators.iter().map(|(operator, parallelism)| format!("{parallelism} of `{operator}`"));
        let operators = operators.collect::<Vec<_>>().join(", ");
        match self.asked {
            Asked::Latest => write!(f, "tasks {operators}, from the newest commit"),
            Asked::Given { id, attempt: None } => write!(f, "tasks {operators}, from checkpoint {id}"),
            Asked::Given { id, attempt: Some(attempt) } => {
                write!(f, "tasks {operators}, from checkpoint {}", JobCheckpoint { attempt, id })
            }
            Asked::Empty => write!(f, "tasks {operators}, from nothing"),
        }
    }
}

impl Commit {
    /// The part of one task.
    #[must_use]
    pub fn part(&self, operator: &Name, subtask: u32) -> Option<CheckpointIdentity> {
        // Parts are listed in order of the subtasks, without gaps.
        self.parts.get(operator)?.get(subtask as usize).copied()
    }

    fn to_message(&self) -> store::JobCommit {
        let operator = |(operator, parts): (&Name, &Vec<CheckpointIdentity>)| store::CommittedOperator {
            operator: operator.to_string(),
            parts: parts.iter().map(name_of).collect(),
        };
        store::JobCommit {
            checkpoint: Some(to_checkpoint(self.checkpoint)),
            operators: self.parts.iter().map(operator).collect(),
        }
    }

    fn from_message(message: &store::JobCommit) -> Result<Self, String> {
        let identity = |name: &store::CheckpointName| identity_of(name).ok_or("a part without UUID".to_owned());
        let operator = |operator: &store::CommittedOperator| {
            let parts: Result<Vec<_>, String> = operator.parts.iter().map(identity).collect();
            Ok::<_, String>((name(&operator.operator)?, parts?))
        };
        let checkpoint = message.checkpoint.as_ref().ok_or("a commit without checkpoint")?;
        if !message.operators.is_sorted_by(|one, next| one.operator < next.operator) {
            return Err("operators that are out of order, or committed twice".to_owned());
        }
        let parts = message.operators.iter().map(operator).collect::<Result<_, _>>()?;
        Ok(Self { checkpoint: from_checkpoint(checkpoint), parts })
    }
}

pub(super) fn to_checkpoint(checkpoint: JobCheckpoint) -> store::JobCheckpoint {
    store::JobCheckpoint { attempt: checkpoint.attempt, id: checkpoint.id }
}

fn from_checkpoint(checkpoint: &store::JobCheckpoint) -> JobCheckpoint {
    JobCheckpoint { attempt: checkpoint.attempt, id: checkpoint.id }
}

fn name(text: &str) -> Result<Name, String> {
    Name::new(text).map_err(|error| error.to_string())
}
