//! Decides which daemon chooses for an attempt when many come at the same time.
//!
//! The deciding daemon reads the chains of all subtasks. If every daemon did that, the requests of a restart would grow
//! with subtasks times daemons. So the first one appends a record with the same contents as the one before, plus the
//! announcement that it decides for the attempt. The others wait for its decision.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Beginning, CONCURRENT_READS, JobError, JobRecord, Opener, Records, chain, record::Deciding};

/// With fewer subtasks, reading all chains is as fast as waiting for another daemon.
const MANY_SUBTASKS: u32 = 2 * CONCURRENT_READS as u32;

/// The least time between two looks, and how late a deciding daemon may be.
const PAUSE: Duration = Duration::from_millis(20);
const LATE: Duration = Duration::from_secs(1);

/// Whether `opener` has to decide the checkpoint of its attempt, which is undecided in the newest of `records`. If not,
/// `records` has a newer record to follow, or reads one at the next look. Cancel-safe.
///
/// # Errors
/// If the job's records cannot be read or written.
pub(super) async fn shall_decide(records: &mut Records<'_>, opener: Opener<'_>) -> Result<bool, JobError> {
    let Opener { backend, parallelism, attempt } = opener;
    let job = &backend.job;
    if parallelism < MANY_SUBTASKS {
        return Ok(true);
    }
    // The record may be older than the store's newest. Then the announcement fails to append, and the next round reads
    // again.
    let known = records.newest(job).await?;
    let began = Instant::now();
    let announced =
        known.as_ref().filter(|known| known.deciding.as_ref().is_some_and(|deciding| deciding.attempt == attempt));
    let Some(known) = announced else {
        // The announcement is derived from the newest record and repeats it, so that a reader of the record misses
        // nothing. It keeps the attempt of that record, and the first record of a job has attempt 0: an announcement
        // must not outdate any attempt.
        let next =
            known.map_or_else(|| JobRecord::undeclared(None, 0, Beginning::Undecided, vec![]), |it| it.successor());
        let deciding = Deciding { attempt, operator: backend.operator.clone(), subtask: backend.subtask };
        let announcement = JobRecord { deciding: Some(deciding), ..next };
        return records.append(job, &announcement).await;
    };
    // The first look also measures how long a listing takes here; the waiting time is derived from it.
    let newer = chain::newer(records.store, job, known.number, records.retry).await?;
    let look = began.elapsed();
    // An estimate of the deciding daemon's work: one look for each round of concurrent reads, and a few for listings
    // and the record itself.
    let reading = look * (parallelism / CONCURRENT_READS as u32 + 4);
    let (mut pause, mut newer) = ((reading / 2).max(PAUSE), newer);
    while newer.is_none() {
        // The deciding daemon may have died. Waiting longer would hang the job; deciding twice is harmless, since only
        // one of two records gets the next number.
        if began.elapsed() > 2 * reading + LATE {
            tracing::warn!(%job, attempt, waited = ?began.elapsed(), "deciding what the attempt begins with: whoever began to has not come to an end");
            return Ok(true);
        }
        sleep(pause).await;
        newer = chain::newer(records.store, job, known.number, records.retry).await?;
        pause *= 2;
    }
    // The loop ends only with a newer record, which is noted right after.
    records.seen.forget();
    newer.into_iter().for_each(|record| records.seen.made(record));
    Ok(false)
}
