//! The record of a job: what a link of its chain says. Pure.

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

/// Commits before the newest that a record still tells of.
const EARLIER_COMMITS: usize = 15;

/// All that is still true of a job after the newest generation or commit.
///
/// Invariants: `new_operators` and `commit` only where it was declared; `commit` is of this attempt, or what this
/// attempt restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRecord {
    /// Its place in the chain, from 1.
    pub number: u64,
    /// Of the newest generation.
    pub attempt: Attempt,
    /// The record that began it.
    pub began: u64,
    /// What its subtasks begin with.
    pub beginning: Beginning,
    /// Checkpoints that are known to be damaged, oldest first.
    pub spoilt: Vec<Spoilt>,
    /// What was declared; `None` where the engine coordinates.
    pub declared: Option<Declaration>,
    /// Operators that begin empty, because what is restored does not have them.
    pub new_operators: BTreeSet<Name>,
    /// The newest commit.
    pub commit: Option<Commit>,
    /// Commits before it, oldest first: the newest of them.
    pub earlier: Vec<JobCheckpoint>,
    /// What it restores may still be let go of by owners before it, so nobody is told yet.
    pub unheld: bool,
    /// Starts that were named by tokens, by attempt: the newest of them.
    pub starts: Vec<Start>,
    /// That a subtask decided what an attempt begins with, when this was made.
    pub deciding: Option<Deciding>,
}

/// The announcement of who decides for an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deciding {
    /// For which.
    pub attempt: Attempt,
    /// Of which operator the deciding subtask is.
    pub operator: Name,
    /// Its number.
    pub subtask: u32,
}

/// What the subtasks of an attempt begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// Whoever asks for the latest first decides.
    Undecided,
    /// This, or empty.
    Chosen(Option<JobCheckpoint>),
}

/// The tasks of an attempt, and what they shall begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declaration {
    /// Every operator with its number of subtasks.
    pub operators: BTreeMap<Name, u32>,
    /// What was asked for.
    pub asked: Asked,
}

/// What an engine asks to begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The newest commit.
    Latest,
    /// The checkpoint with this id, of this attempt or the newest that has it.
    Given {
        /// The engine's id.
        id: CheckpointId,
        /// Whose.
        attempt: Option<Attempt>,
    },
    /// Nothing.
    Empty,
}

/// A committed checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Which.
    pub checkpoint: JobCheckpoint,
    /// By operator: its parts, by subtask.
    pub parts: BTreeMap<Name, Vec<CheckpointIdentity>>,
}

impl JobRecord {
    /// The record after `before` with which `attempt` begins without being declared. Commits of earlier attempts count
    /// no longer: its engine decides what becomes of them.
    #[must_use]
    pub fn undeclared(before: Option<&Self>, attempt: Attempt, beginning: Beginning, spoilt: Vec<Spoilt>) -> Self {
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

    /// The next record, which says the same.
    #[must_use]
    pub fn successor(&self) -> Self {
        Self { number: self.number + 1, deciding: None, ..self.clone() }
    }

    /// What its subtasks begin with, if that is decided and not nothing.
    #[must_use]
    pub fn restore(&self) -> Option<JobCheckpoint> {
        match self.beginning {
            Beginning::Undecided => None,
            Beginning::Chosen(restore) => restore,
        }
    }

    /// What a later declared generation restores: the newest commit, or else what this one began with.
    #[must_use]
    pub fn stands_on(&self) -> Option<JobCheckpoint> {
        self.commit.as_ref().map(|commit| commit.checkpoint).or(self.restore())
    }

    /// The commits that it tells of, oldest first.
    #[must_use]
    pub fn commits(&self) -> Vec<JobCheckpoint> {
        self.earlier.iter().copied().chain(self.commit.as_ref().map(|commit| commit.checkpoint)).collect()
    }

    /// Makes `commit` the newest, in place of the one before.
    pub(super) fn commit(&mut self, commit: Option<Commit>) {
        let before = std::mem::replace(&mut self.commit, commit);
        self.earlier.extend(before.map(|before| before.checkpoint));
        let excess = self.earlier.len().saturating_sub(EARLIER_COMMITS);
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
    /// Number of tasks.
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
