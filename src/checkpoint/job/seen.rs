//! The newest record of a job, as far as a daemon knows it, so that subtasks that open together do not each ask the
//! store.
//!
//! A record that was read, or made, is the newest until another one is appended. A subtask that relies on an old record
//! finds out in one of two ways. If it derives a record, the number is already taken. If it only follows the old
//! record, it looks again after its manifest is durable. So an old record costs a second look, and decides nothing.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::{Mutex as Turns, OwnedMutexGuard};

use super::{JobError, JobRecord, chain};
use crate::{
    object::{Retry, Store},
    types::{Attempt, Name},
};

/// The newest record of a job, as far as this daemon has read it.
#[derive(Debug, Clone, Default)]
pub enum Seen {
    /// The record was not read yet, so that even its number is unknown.
    #[default]
    NotYet,
    /// The record was read, and is this one; `None` if the job has no record.
    Newest(Option<Box<JobRecord>>),
}

impl Seen {
    /// The record; it is read from the store if it was not read yet.
    pub(super) async fn get(&mut self, store: &Store, job: &Name, retry: Retry) -> Result<Option<JobRecord>, JobError> {
        if let Self::Newest(record) = self {
            return Ok(record.as_deref().cloned());
        }
        let read = chain::newest(store, job, retry).await?;
        *self = Self::Newest(read.clone().map(Box::new));
        Ok(read)
    }

    /// The number of the record; 0 if it was not read yet, or the job has none.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.record().map_or(0, |record| record.number)
    }

    /// The record, if it was read and the job has one.
    #[must_use]
    pub fn record(&self) -> Option<&JobRecord> {
        match self {
            Self::Newest(record) => record.as_deref(),
            Self::NotYet => None,
        }
    }

    /// Notes that `record` was made, and is the newest.
    pub(super) fn made(&mut self, record: JobRecord) {
        *self = Self::Newest(Some(Box::new(record)));
    }

    /// Notes that another record may be the newest by now.
    pub(super) fn forget(&mut self) {
        *self = Self::NotYet;
    }

    /// Whether the record names the checkpoint that `attempt` begins with.
    #[must_use]
    pub fn decides(&self, attempt: Attempt) -> bool {
        let is_decided = |record: &JobRecord| record.beginning != super::Beginning::Undecided;
        self.record().is_some_and(|record| record.attempt == attempt && is_decided(record))
    }

    /// Takes over `other` if it is newer.
    pub fn or_newer(&mut self, other: &Self) {
        let is_newer = match (&*self, other) {
            (_, Self::NotYet) => false,
            (Self::NotYet, Self::Newest(_)) => true,
            // Numbers of records only rise, so the higher one is newer. A record that was not read yet tells nothing.
            _ => other.number() > self.number(),
        };
        if is_newer {
            self.clone_from(other);
        }
    }
}

/// The records of a job as one opener reads and continues them.
#[derive(Debug)]
pub struct Records<'a> {
    /// The store that has the records.
    pub store: &'a Store,
    /// The newest record that the opener knows; it becomes the new record if the opener makes one.
    pub seen: &'a mut Seen,
    /// How requests are retried.
    pub retry: Retry,
}

impl Records<'_> {
    /// The newest record of `job`; it is read from the store if it was not read yet.
    pub(super) async fn newest(&mut self, job: &Name) -> Result<Option<JobRecord>, JobError> {
        self.seen.get(self.store, job, self.retry).await
    }

    /// Appends `record`, which was derived from the newest one. Returns whether it is the newest now. If not, the next
    /// look reads the chain again. Cancel-safe: if dropped, the record may be appended.
    pub(super) async fn append(&mut self, job: &Name, record: &JobRecord) -> Result<bool, JobError> {
        let is_newest = chain::append(self.store, job, record, self.retry).await?;
        if is_newest {
            self.seen.made(record.clone());
        } else {
            self.seen.forget();
        }
        Ok(is_newest)
    }
}

/// The decisions of one daemon about the checkpoint that the subtasks of an attempt begin with, one at a time for each
/// job. A subtask that had to wait for its turn learns the decision before it. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Decisions(Arc<Mutex<HashMap<Name, Weak<Turns<Seen>>>>>);

impl Decisions {
    /// Waits for the turn to decide for `job`. With it comes the record that the turn before has read. Cancel-safe.
    pub async fn turn(&self, job: &Name) -> OwnedMutexGuard<Seen> {
        let turns = {
            let mut jobs = self.0.lock();
            // Jobs that nobody opens any more are forgotten here, since no event tells when the last turn of a job has
            // ended.
            jobs.retain(|_, turns| turns.strong_count() > 0);
            let known = jobs.get(job).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let turns = Arc::new(Turns::default());
                jobs.insert(job.clone(), Arc::downgrade(&turns));
                turns
            })
        };
        // The lock of the map is released before this wait. Held across it, one slow decision would keep the openers of
        // all jobs waiting.
        turns.lock_owned().await
    }
}
