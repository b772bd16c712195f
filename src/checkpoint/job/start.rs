//! Starts that an engine names by tokens: each token gets the next attempt of the job, once.
//!
//! ```text
//!   record 7            record 8                    record 9
//!   starts: g1/0 = 12   starts: g1/0 = 12, g2/0 = 13   starts: g2/0 = 13, g2/1 = 14      g1/0 was superseded for longer than the grace
//! ```
//!
//! If a token is not in the newest record, its daemon appends a record in which the token has the attempt after the
//! highest one. Each record is made by create-if-absent from the one before. So two tokens never get one number, and
//! one token gets two numbers only if the first is forgotten. That can happen to a start that others have superseded.
//! Then it counts as a new start, which makes the outdated tasks restart but loses no data.

use bytes::Bytes;

use super::{ATTEMPTS, Beginning, JobError, JobRecord, chain, read_heads};
use crate::{
    object::{Retry, Store},
    proto::store,
    types::{Attempt, Name, TimeMs},
};

/// Most starts in a record, which take about 20 KiB.
const KEPT_STARTS: usize = 128;

/// A start of a job and its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The name that the engine gave it.
    pub token: Bytes,
    /// Its number, used as attempt.
    pub attempt: Attempt,
    /// Starts with the same value are its peers; empty if it has none.
    pub peers: Bytes,
    /// When it got its number, by the clock of the daemon that recorded it.
    pub at: TimeMs,
}

/// A start as an engine names it.
#[derive(Debug, Clone)]
pub struct Naming {
    /// The name of the start; not empty.
    pub token: Bytes,
    /// The common value of its peers; may be empty.
    pub peers: Bytes,
    /// The present time.
    pub now: TimeMs,
    /// How long a superseded start is remembered, in milliseconds.
    pub grace_ms: u64,
}

impl Start {
    pub(super) fn to_message(&self) -> store::Start {
        let Self { token, attempt, peers, at } = self.clone();
        store::Start { token, attempt, peer_group: peers, taken_at_ms: at }
    }

    pub(super) fn from_message(message: &store::Start) -> Self {
        let store::Start { token, attempt, peer_group, taken_at_ms } = message.clone();
        Self { token, attempt, peers: peer_group, at: taken_at_ms }
    }
}

/// The attempt of the start that `naming` names: its recorded one, or else the next one of `job`. Idempotent.
/// Cancel-safe: if dropped, the start may have its number.
///
/// # Errors
/// If the job's records cannot be read or written.
pub async fn number(store: &Store, job: &Name, naming: &Naming, retry: Retry) -> Result<Attempt, JobError> {
    for _ in 0..ATTEMPTS {
        let newest = chain::newest(store, job, retry).await?;
        let starts = newest.as_ref().map_or(&[][..], |newest| newest.starts.as_slice());
        if let Some(start) = starts.iter().find(|start| start.token == naming.token) {
            return Ok(start.attempt);
        }
        // The first token of a job: earlier owners may have attempts that the engine counted.
        let owners = if starts.is_empty() { read_heads(store, job, retry).await? } else { vec![] };
        let highest = owners.iter().map(|head| head.owner().attempt).max().unwrap_or(0);
        let Some((attempt, next)) = numbered(newest.as_ref(), highest, naming) else {
            let (job, last) = (job.clone(), Attempt::MAX);
            return Err(JobError::Outdated { job, attempt: last, newer: last });
        };
        // If another record is newer, this one may be part of the chain all the same. So the next round looks for the
        // token first.
        if chain::append(store, job, &next, retry).await? {
            return Ok(attempt);
        }
    }
    Err(JobError::Contended(job.clone()))
}

/// The record after `newest` in which the start has a number above all attempts of the job, `highest` included; `None`
/// if no number is left. Pure.
pub(super) fn numbered(newest: Option<&JobRecord>, highest: Attempt, naming: &Naming) -> Option<(Attempt, JobRecord)> {
    let given =
        newest.iter().flat_map(|newest| newest.starts.iter().map(|start| start.attempt).chain([newest.attempt]));
    // Above the attempt of the record, too, which an engine may have counted itself.
    let attempt = given.chain([highest]).max().unwrap_or(0).checked_add(1)?;
    let mut next = match newest {
        Some(newest) => newest.successor(),
        None => JobRecord::undeclared(None, attempt, Beginning::Undecided, vec![]),
    };
    assert!(next.starts.iter().all(|start| start.attempt < attempt), "attempts ascend");
    let Naming { token, peers, now, .. } = naming.clone();
    next.starts.push(Start { token, attempt, peers, at: now });
    forget(&mut next.starts, naming);
    Some((attempt, next))
}

/// Drops starts that were superseded for longer than the grace, except peers of the newest; and the oldest ones if
/// there are too many.
fn forget(starts: &mut Vec<Start>, naming: &Naming) {
    // A start is superseded when the next one gets its number, so the time of the next one counts, and the last has
    // none.
    let superseded: Vec<TimeMs> = starts.iter().skip(1).map(|next| next.at).collect();
    let mut at = superseded.into_iter();
    starts.retain(|start| {
        let is_peer = !start.peers.is_empty() && start.peers == naming.peers;
        // A time in the future, by another daemon's clock, counts as the present.
        let is_young = at.next().is_none_or(|at| naming.now.saturating_sub(at) <= naming.grace_ms);
        is_peer || is_young
    });
    let excess = starts.len().saturating_sub(KEPT_STARTS);
    starts.drain(..excess);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn naming(token: &'static str, peers: &'static str, now: TimeMs) -> Naming {
        Naming { token: Bytes::from(token), peers: Bytes::from(peers), now, grace_ms: 100 }
    }

    /// Tokens and attempts that a record tells of.
    fn known(record: &JobRecord) -> String {
        let text = |start: &Start| format!("{}{}", std::str::from_utf8(&start.token).unwrap(), start.attempt);
        record.starts.iter().map(text).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_start_gets_a_number_above_all_that_the_job_had() {
        let (first, record) = numbered(None, 0, &naming("a", "", 0)).unwrap();
        assert_eq!((first, record.number, record.attempt), (1, 1, 1));
        let (above_owners, _) = numbered(None, 7, &naming("a", "", 0)).unwrap();
        assert_eq!(above_owners, 8);
        let chosen = JobRecord::undeclared(Some(&record), 20, Beginning::Chosen(None), vec![]);
        let (above_generations, next) = numbered(Some(&chosen), 0, &naming("b", "", 0)).unwrap();
        assert_eq!(above_generations, 21);
        assert_eq!(known(&next), "a1 b21", "records between keep the starts");
        assert_eq!(JobRecord::decode(&next.encode()).unwrap(), next);
        assert_eq!(numbered(Some(&next), u64::MAX, &naming("c", "", 0)), None, "the last number is never passed");
    }

    #[test]
    fn a_start_is_forgotten_once_it_was_superseded_for_longer_than_the_grace() {
        let (_, record) = numbered(None, 0, &naming("a", "", 0)).unwrap();
        let (_, record) = numbered(Some(&record), 0, &naming("b", "", 1_000)).unwrap();
        let (_, record) = numbered(Some(&record), 0, &naming("c", "", 1_050)).unwrap();
        assert_eq!(known(&record), "a1 b2 c3", "`a` was superseded 50 ms ago, though it is old");
        let (attempt, record) = numbered(Some(&record), 0, &naming("d", "", 1_101)).unwrap();
        assert_eq!((attempt, &known(&record)[..]), (4, "b2 c3 d4"));
        let (attempt, record) = numbered(Some(&record), 0, &naming("e", "", 5_000)).unwrap();
        assert_eq!((attempt, &known(&record)[..]), (5, "d4 e5"), "the last is superseded only now");
        let (again, _) = numbered(Some(&record), 0, &naming("a", "", 5_000)).unwrap();
        assert_eq!(again, 6, "a number is never given twice");
    }

    #[test]
    fn peers_of_the_newest_start_are_remembered_and_the_list_stays_bounded() {
        let (_, mut record) = numbered(None, 0, &naming("a", "g", 0)).unwrap();
        for (token, now) in [("b", 1_000), ("c", 2_000), ("d", 3_000)] {
            record = numbered(Some(&record), 0, &naming(token, "g", now)).unwrap().1;
        }
        assert_eq!(known(&record), "a1 b2 c3 d4");
        record = numbered(Some(&record), 0, &naming("e", "other", 9_000)).unwrap().1;
        assert_eq!(known(&record), "d4 e5");
        for _ in 0..2 * KEPT_STARTS {
            record = numbered(Some(&record), 0, &naming("f", "g", 9_000)).unwrap().1;
        }
        assert_eq!(record.starts.len(), KEPT_STARTS);
        let max = Bytes::from(vec![7; 64]);
        let long = |start: Start| Start { token: max.clone(), peers: max.clone(), at: u64::MAX, ..start };
        record.starts = record.starts.into_iter().map(long).collect();
        assert!(record.encode().len() < 24 << 10, "{}", record.encode().len());
    }
}
