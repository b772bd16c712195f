//! An interval join of two streams: each order with the payments of its customer from 50 ms before to 100 ms after it.
//!
//! Each side is a map ordered by time, so that one range of it holds all records that join a record of the other side.
//! Timers remove the records that no later record can join.
//!
//! `cargo run --release --example stream_join`

#[path = "support/crash.rs"]
mod crash;

use std::{collections::BTreeSet, process::ExitCode};

use crash::{Job, Life};
use dstl_client::{ClientError, MapState, Ordered, Session, StateOptions, TimerState};

/// All times are milliseconds of event time.
const BEFORE: i64 = 50;
const AFTER: i64 = 100;
const LATENESS: i64 = 60;
const INTERVAL: i64 = 4;
const RECORDS: u64 = 1500;
/// Number of records between two runs of the timers.
const CLEANUP_RECORDS: u64 = 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Order,
    Payment,
}

struct Record {
    number: u64,
    side: Side,
    customer: String,
    time: i64,
}

fn record(number: u64) -> Record {
    let random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    let side = if random.is_multiple_of(3) { Side::Order } else { Side::Payment };
    let time = number.cast_signed() * INTERVAL + random.cast_signed() % LATENESS;
    Record { number, side, customer: format!("customer {}", random / 64 % 4), time }
}

impl Side {
    /// The namespace of the side's timers.
    fn namespace(self) -> u64 {
        u64::from(self == Self::Payment)
    }

    fn other(self) -> Self {
        if self == Self::Order { Self::Payment } else { Self::Order }
    }

    /// First and last time on the other side that join `time` on this side, both inclusive.
    fn interval(self, time: i64) -> (i64, i64) {
        match self {
            Self::Order => (time - BEFORE, time + AFTER),
            Self::Payment => (time - AFTER, time + BEFORE),
        }
    }
}

/// Numbers of the records of each customer, in order of their times.
type Buffer = MapState<String, (Ordered<i64>, u64), ()>;

struct States {
    session: Session,
    orders: Buffer,
    payments: Buffer,
    cleanup: TimerState<String, u64>,
    /// Pairs of an order and a payment, by their numbers.
    joined: MapState<String, (u64, u64), ()>,
}

impl States {
    fn buffer(&self, side: Side) -> &Buffer {
        if side == Side::Order { &self.orders } else { &self.payments }
    }

    async fn on_record(&self, Record { number, side, customer, time }: Record) -> Result<(), ClientError> {
        let (first, last) = side.interval(time);
        let range = (Ordered(first), 0)..(Ordered(last + 1), 0);
        let mut matches = self.buffer(side.other()).range(&customer, range);
        let mut batch = self.session.batch();
        while let Some(((_, other), ())) = matches.next(&self.session).await? {
            let pair = if side == Side::Order { (number, other) } else { (other, number) };
            batch.push(self.joined.put(&customer, &pair, &()));
        }
        batch.push(self.buffer(side).put(&customer, &(Ordered(time), number), &()));
        // Registering a timer again has no effect, so all records of one moment share a timer.
        batch.push(self.cleanup.namespace(&side.namespace()).register(&customer, last));
        self.session.send(batch).await?.applied().await.map(drop)
    }

    /// Removes the records that no record at or after the watermark can join.
    async fn clean_up(&self, watermark: i64) -> Result<(), ClientError> {
        let mut due = self.cleanup.due(watermark.saturating_sub(1));
        let mut batch = self.session.batch();
        while let Some(timer) = due.next(&self.session).await? {
            let side = if timer.namespace == Side::Order.namespace() { Side::Order } else { Side::Payment };
            let time = timer.time - if side == Side::Order { AFTER } else { BEFORE };
            let buffer = self.buffer(side);
            let mut old = buffer.range(&timer.key, (Ordered(time), 0)..(Ordered(time + 1), 0));
            while let Some((record, ())) = old.next(&self.session).await? {
                batch.push(buffer.remove(&timer.key, &record));
            }
            batch.push(self.cleanup.namespace(&timer.namespace).delete(&timer.key, timer.time));
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.session.send(batch).await?.applied().await.map(drop)
    }
}

async fn task(mut life: Life) -> Result<BTreeSet<(u64, u64)>, ClientError> {
    let backend = &life.backend;
    let states = States {
        session: life.session.clone(),
        orders: backend.map_state("orders", StateOptions::new()).await?,
        payments: backend.map_state("payments", StateOptions::new()).await?,
        cleanup: backend.timer_state("cleanup", StateOptions::new()).await?,
        joined: backend.map_state("joined", StateOptions::new()).await?,
    };
    for number in life.next..RECORDS {
        states.on_record(record(number)).await?;
        if number % CLEANUP_RECORDS == 0 {
            states.clean_up((number + 1).cast_signed() * INTERVAL).await?;
        }
        life.step(number + 1).await?;
    }
    states.clean_up(i64::MAX).await?;
    for side in [Side::Order, Side::Payment] {
        let left = states.buffer(side).keys().next(&life.session).await?;
        assert_eq!(left, None, "nothing is left once everything is joined");
    }
    let (joined, session) = (&states.joined, &life.session);
    let mut found = BTreeSet::new();
    for customer in joined.keys().collect(session).await? {
        found.extend(joined.scan(&customer).collect(session).await?.into_iter().map(|(pair, ())| pair));
    }
    Ok(found)
}

fn main() -> ExitCode {
    let records = || (0..RECORDS).map(record);
    let mut expected = BTreeSet::new();
    for order in records().filter(|record| record.side == Side::Order) {
        let (first, last) = Side::Order.interval(order.time);
        let payments = records().filter(|record| record.side == Side::Payment && record.customer == order.customer);
        let joined = payments.filter(|payment| (first..=last).contains(&payment.time));
        expected.extend(joined.map(|payment| (order.number, payment.number)));
    }
    let job = Job { name: "stream_join", lives: &[1, 1], crash_after: 1017 };
    crash::run(job, task, |found| match found.as_slice() {
        [found] if *found == expected => Ok(format!("{} pairs, as computed directly", found.len())),
        _ => Err(format!("other pairs than computed directly: {found:?}")),
    })
}
