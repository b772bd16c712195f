//! Sliding windows in event time: the mean of each sensor's readings over 1 s, every 500 ms.
//!
//! A window is a namespace. A merge function of the daemon adds each reading to the windows that contain it, and a
//! timer fires each window once the watermark has passed its end. The results are state, too, so that each is there
//! exactly once.
//!
//! `cargo run --release --example sliding_window`

#[path = "support/crash.rs"]
mod crash;

use std::{collections::BTreeMap, process::ExitCode};

use crash::{Job, Life};
use dstl_client::{
    Average, ClientError, MapState, Ordered, Session, StateOptions, TimerState, ValueState, types::MergeFunction,
};

/// All times are milliseconds of event time.
const SIZE: i64 = 1000;
const SLIDE: i64 = 500;
/// A reading is late by less than this.
const LATENESS: i64 = 120;
const INTERVAL: i64 = 15;
const READINGS: u64 = 2000;
/// Readings of one batch.
const BATCH: usize = 10;

struct Reading {
    sensor: String,
    time: i64,
    value: i64,
}

fn reading(number: u64) -> Reading {
    let random = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33).cast_signed();
    let time = number.cast_signed() * INTERVAL + random % LATENESS;
    Reading { sensor: format!("sensor {}", random % 4), time, value: random % 1000 }
}

/// The starts of the windows that contain a time.
fn windows(time: i64) -> impl Iterator<Item = i64> {
    let last = time - time.rem_euclid(SLIDE);
    (0..SIZE / SLIDE).map(move |back| last - back * SLIDE)
}

struct States {
    means: ValueState<String, Average<i64>>,
    ends: TimerState<String, i64>,
    results: MapState<String, Ordered<i64>, Average<i64>>,
}

impl States {
    /// Fires the windows that end at or before the watermark. One batch writes their results and removes them.
    async fn fire(&self, session: &Session, watermark: i64) -> Result<(), ClientError> {
        let due = self.ends.due(watermark).collect(session).await?;
        if due.is_empty() {
            return Ok(());
        }
        let mut reads = session.batch();
        let mut slots = vec![];
        for timer in &due {
            slots.push(reads.push(self.means.namespace(&timer.namespace).get(&timer.key)));
        }
        let means = session.send(reads).await?.applied().await?;
        let mut batch = session.batch();
        for (slot, timer) in slots.into_iter().zip(&due) {
            let mean = means.get(slot)?.ok_or(ClientError::Incomplete("the mean of a window"))?;
            batch.push(self.results.put(&timer.key, &Ordered(timer.namespace), &mean));
            batch.push(self.means.namespace(&timer.namespace).clear(&timer.key));
            batch.push(self.ends.namespace(&timer.namespace).delete(&timer.key, timer.time));
        }
        session.send(batch).await?.applied().await.map(drop)
    }
}

type Results = BTreeMap<(String, i64), (i64, i64)>;

async fn task(mut life: Life) -> Result<Results, ClientError> {
    let averages = StateOptions::new().with_merge(MergeFunction::AverageI64);
    let states = States {
        means: life.backend.value_state("means", averages).await?,
        ends: life.backend.timer_state("window ends", StateOptions::new()).await?,
        results: life.backend.map_state("results", StateOptions::new()).await?,
    };
    let session = life.session.clone();
    for first in (life.next..READINGS).step_by(BATCH) {
        let mut batch = session.batch();
        for reading in (first..READINGS).take(BATCH).map(reading) {
            for start in windows(reading.time) {
                batch.push(states.means.namespace(&start).merge_operand(&reading.sensor, &reading.value));
                batch.push(states.ends.namespace(&start).register(&reading.sensor, start + SIZE));
            }
        }
        session.send(batch).await?.applied().await?;
        let next = first + BATCH as u64;
        states.fire(&session, next.cast_signed() * INTERVAL).await?;
        life.step(next).await?;
    }
    states.fire(&session, i64::MAX).await?;

    let mut found = Results::new();
    let mut sensors = states.results.keys();
    while let Some(sensor) = sensors.next(&session).await? {
        for (start, mean) in states.results.scan(&sensor).collect(&session).await? {
            found.insert((sensor.clone(), start.0), (mean.sum, mean.count));
        }
    }
    assert_eq!(states.ends.peek(&session).await?, None, "every timer has fired");
    Ok(found)
}

fn main() -> ExitCode {
    let mut expected = Results::new();
    for reading in (0..READINGS).map(reading) {
        for start in windows(reading.time) {
            let (sum, count) = expected.entry((reading.sensor.clone(), start)).or_default();
            *sum += reading.value;
            *count += 1;
        }
    }
    let job = Job { name: "sliding_window", lives: &[1, 1], crash_after: 137 };
    crash::run(job, task, |found| match found.as_slice() {
        [found] if *found == expected => Ok(format!("{} windows, as computed directly", found.len())),
        _ => Err(format!("other windows than computed directly: {found:?}")),
    })
}
