//! Deduplication of events: each is delivered once, however often it comes within an hour.
//!
//! A value with time-to-live remembers each event, and goes by itself after an hour. The daemon's clock decides, and
//! its time survives the crash, since it is logged with the changes. A second state, whose entries live for a moment
//! only, shows that entries do go.
//!
//! `cargo run --release --example deduplication`

#[path = "support/crash.rs"]
mod crash;

use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
    time::Duration,
};

use crash::{Job, Life};
use dstl_client::{
    ClientError, StateOptions, ValueState,
    types::{MergeFunction, Ttl},
};

const EVENTS: u64 = 4000;
const DISTINCT: u64 = 900;
const CHUNK: u64 = 25;
const HOUR_MS: u64 = 60 * 60 * 1000;
const MOMENT_MS: u64 = 250;

/// The id of an event.
fn event(number: u64) -> String {
    let random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    format!("event {}", random % DISTINCT)
}

async fn task(mut life: Life) -> Result<BTreeMap<String, i64>, ClientError> {
    let living = |duration_ms| StateOptions::new().with_ttl(Ttl::new(duration_ms));
    let sums = StateOptions::new().with_merge(MergeFunction::SumI64);
    let seen: ValueState<String, ()> = life.backend.value_state("seen", living(HOUR_MS)).await?;
    let recent: ValueState<String, u64> = life.backend.value_state("recent", living(MOMENT_MS)).await?;
    let deliveries: ValueState<String, i64> = life.backend.value_state("deliveries", sums).await?;
    let session = life.session.clone();
    for first in (life.next..EVENTS).step_by(CHUNK as usize) {
        let events: Vec<_> = (first..EVENTS).take(CHUNK as usize).map(event).collect();
        let mut reads = session.batch();
        let slots: Vec<_> = events.iter().map(|event| reads.push(seen.get(event))).collect();
        let found = session.send(reads).await?.applied().await?;
        let mut batch = session.batch();
        let mut new = BTreeSet::new();
        for (slot, event) in slots.into_iter().zip(&events) {
            if found.get(slot)?.is_none() && new.insert(event) {
                batch.push(seen.put(event, &()));
                batch.push(deliveries.merge(event, &1));
            }
            batch.push(recent.put(event, &first));
        }
        session.send(batch).await?.applied().await?;
        life.step(first + CHUNK).await?;
    }

    tokio::time::sleep(Duration::from_millis(2 * MOMENT_MS)).await;
    let mut found = BTreeMap::new();
    // The daemon reads the time once per batch that writes.
    session.run(seen.put("the end", &())).await?;
    let mut events = deliveries.keys();
    while let Some(event) = events.next(&session).await? {
        assert_eq!(session.run(recent.get(&event)).await?, None, "what is older than a moment is gone");
        assert!(session.run(seen.get(&event)).await?.is_some(), "what is younger than an hour is there");
        found.insert(event.clone(), session.run(deliveries.get(&event)).await?.unwrap_or_default());
    }
    Ok(found)
}

fn main() -> ExitCode {
    let expected: BTreeMap<_, _> = (0..EVENTS).map(|number| (event(number), 1)).collect();
    let job = Job { name: "deduplication", lives: &[1, 1], crash_after: 117 };
    crash::run(job, task, |found| match found.as_slice() {
        [found] if *found == expected => Ok(format!("{} of {EVENTS} events delivered, each once", found.len())),
        _ => Err(format!("not every event was delivered once: {found:?}")),
    })
}
