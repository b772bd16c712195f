//! Who decides for an attempt, where many daemons come at once.
//!
//! Whoever decides reads the chains of all subtasks. If each of many daemons did, the requests of a restart would grow
//! with subtasks times daemons. So the first one appends a record that says the same as the one before, and that it
//! decides for the attempt; the others wait for what it decides.
//!
//! ```text
//!   daemon a: record 8 "attempt 5 is being decided" ── reads all chains ──▶ record 9 "attempt 5 restores (4, 3)"
//!   daemon b: finds record 8 ── waits ───────────────────────────────────────▶ follows record 9
//! ```
//!
//! The announcement binds nobody: the deciding daemon may die. Who has waited for more than twice as long as the
//! reading should take decides itself, and the chain orders what both append.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Beginning, CONCURRENT_READS, JobError, JobRecord, Seen, chain, record::Deciding};
use crate::{
    object::{Retry, Store},
    types::{Attempt, BackendId},
};

/// With fewer subtasks, all chains are read as fast as others are waited for.
const MANY_SUBTASKS: u32 = 2 * CONCURRENT_READS as u32;

/// The least time between two looks, and the time by which a deciding daemon may be late.
const PAUSE: Duration = Duration::from_millis(20);
const LATE: Duration = Duration::from_secs(1);

/// Whether `backend`, one of `parallelism` subtasks, shall decide what `attempt` begins with, as nobody has by the
/// record in `seen`. If it shall not, there is a newer record to go by. Cancel-safe.
///
/// # Errors
/// If the job's records cannot be read or written.
pub(super) async fn shall_decide(
    store: &Store,
    (backend, parallelism): (&BackendId, u32),
    attempt: Attempt,
    (seen, retry): (&mut Seen, Retry),
) -> Result<bool, JobError> {
    let job = &backend.job;
    if parallelism < MANY_SUBTASKS {
        return Ok(true);
    }
    let known = seen.get(store, job, retry).await?;
    let began = Instant::now();
    let announced =
        known.as_ref().filter(|known| known.deciding.as_ref().is_some_and(|deciding| deciding.attempt == attempt));
    let Some(known) = announced else {
        // The first record of a job must not outdate any attempt.
        let next =
            known.map_or_else(|| JobRecord::undeclared(None, 0, Beginning::Undecided, vec![]), |it| it.successor());
        let deciding = Deciding { attempt, operator: backend.operator.clone(), subtask: backend.subtask };
        let announcement = JobRecord { deciding: Some(deciding), ..next };
        let is_first = chain::append(store, job, &announcement, retry).await?;
        if is_first {
            seen.made(announcement);
        } else {
            seen.forget();
        }
        return Ok(is_first);
    };
    let newer = chain::newer(store, job, known.number, retry).await?;
    let look = began.elapsed();
    let reading = look * (parallelism / CONCURRENT_READS as u32 + 4);
    let (mut pause, mut newer) = ((reading / 2).max(PAUSE), newer);
    while newer.is_none() {
        if began.elapsed() > 2 * reading + LATE {
            tracing::warn!(%job, attempt, waited = ?began.elapsed(), "deciding what the attempt begins with: whoever began to has not come to an end");
            return Ok(true);
        }
        sleep(pause).await;
        newer = chain::newer(store, job, known.number, retry).await?;
        pause *= 2;
    }
    seen.forget();
    newer.into_iter().for_each(|record| seen.made(record));
    Ok(false)
}
