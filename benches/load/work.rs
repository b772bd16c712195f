//! The work of a saturating task: one kind of operation each, in pipelined batches.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use dstl::{
    client::{
        Backend, BatchBuilder, Client, ListState, MapState, OpenOptions, Session, StateOptions, TimerState, ValueState,
    },
    types::MergeFunction,
};
use tokio::{task::JoinSet, time::interval};

use super::{Fault, Scenario, options::Options, probe::Probe, source::Source};

/// Map entries of one key.
const ENTRIES_PER_KEY: u64 = 16;

/// Reads and writes of one counter are two batches: so many pairs are in flight.
const LANES: u64 = 8;

/// Batches of a window, and windows that are open at once.
const BATCHES_PER_WINDOW: u64 = 100;
const OPEN_WINDOWS: u64 = 4;

/// Batches of reads in flight.
const READS: usize = 8;

/// A backend with every key written, where the scenario needs that.
pub(crate) struct Prepared {
    pub(crate) backend: Backend,
    pub(crate) session: Session,
    pub(crate) state: ValueState<u64, Vec<u8>>,
    pub(crate) source: Source,
    /// Whether the backend has a changelog, so that it can be asked to make everything durable.
    pub(crate) logged: bool,
}

/// A task at work.
pub(crate) struct Worker {
    scenario: Scenario,
    session: Session,
    source: Source,
    batch: usize,
    rate: Option<u64>,
    /// The next new key, if every update is of one.
    next: Option<u64>,
    probe: Probe,
    values: ValueState<u64, Vec<u8>>,
    sums: ValueState<u64, i64>,
    maps: MapState<u64, u64, Vec<u8>>,
    lists: ListState<u64, Vec<u8>>,
    timers: TimerState<u64, ()>,
}

/// Opens a backend and writes every key once.
pub(crate) async fn prepare(client: &Client, operator: &str, options: &Options) -> Result<Prepared, Fault> {
    let backend = client.open(OpenOptions::new("load", operator).attempt(1)).await?;
    let state = backend.value_state::<u64, Vec<u8>>("values", StateOptions::new()).await?;
    let session = backend.session().await?;
    let mut prepared = Prepared { backend, session, state, source: Source::new(options), logged: options.is_logged() };
    prepared.write(0..options.keys.max(1), options.batch).await?;
    Ok(prepared)
}

impl Prepared {
    /// Writes `keys`, in batches of `size`, and waits until all is durable, if there is a changelog.
    pub(crate) async fn write(&mut self, keys: impl IntoIterator<Item = u64>, size: usize) -> Result<(), Fault> {
        let mut batch = BatchBuilder::new();
        for key in keys {
            batch.push(self.state.put(&key, self.source.value()));
            if batch.operations() >= size {
                self.session.send(std::mem::take(&mut batch)).await?;
            }
        }
        self.session.send(batch).await?;
        settle(&self.session, &self.state, self.logged).await
    }
}

/// Waits until all that was sent is durable; without a changelog, until it is applied.
pub(crate) async fn settle(session: &Session, state: &ValueState<u64, Vec<u8>>, logged: bool) -> Result<(), Fault> {
    if logged {
        session.persist().await?;
    } else {
        // Answers come in the order of the batches.
        session.run(state.get(&0)).await?;
    }
    Ok(())
}

impl Worker {
    /// A worker on a prepared backend, and the probe that has the latencies of its batches.
    pub(crate) async fn new(
        scenario: Scenario,
        prepared: &Prepared,
        options: &Options,
    ) -> Result<(Self, Probe), Fault> {
        let Prepared { backend, session, state, source, .. } = prepared;
        let sum = StateOptions::new().with_merge(MergeFunction::SumI64);
        let probe = Probe::new()?;
        let worker = Self {
            scenario,
            session: session.clone(),
            source: source.clone(),
            batch: options.batch,
            rate: options.rate.filter(|rate| *rate > 0),
            next: options.grows.then_some(options.keys),
            probe: probe.clone(),
            values: state.clone(),
            sums: backend.value_state("sums", sum).await?,
            maps: backend.map_state("maps", StateOptions::new()).await?,
            lists: backend.list_state("lists", StateOptions::new()).await?,
            timers: backend.timer_state("timers", StateOptions::new()).await?,
        };
        Ok((worker, probe))
    }

    /// Batches that count as one of the scenario: a counter is read by one and written by another.
    pub(crate) fn batches_per_round(scenario: Scenario) -> u64 {
        match scenario {
            Scenario::Rmw | Scenario::Timers | Scenario::Window => 2,
            _ => 1,
        }
    }

    /// State changes that one operation makes and the log has.
    pub(crate) fn changes_per_operation(scenario: Scenario) -> u64 {
        match scenario {
            Scenario::PointRead => 0,
            // A timer is set and removed; a record is merged, and purged with its window.
            Scenario::Timers | Scenario::Window => 2,
            _ => 1,
        }
    }

    /// Sends a batch, and has it timed.
    async fn send(&self, batch: BatchBuilder) -> Result<(), Fault> {
        let begun = Instant::now();
        let receipt = self.session.send(batch).await?;
        self.probe.watch(begun, receipt);
        Ok(())
    }

    /// The key of the next update.
    fn key(&mut self) -> u64 {
        match &mut self.next {
            None => self.source.key(),
            Some(next) => {
                *next += 1;
                *next - 1
            }
        }
    }

    /// Works until it is aborted.
    pub(crate) async fn run(self) -> Result<(), Fault> {
        match self.scenario {
            Scenario::Rmw => self.count().await,
            Scenario::PointRead => self.read().await,
            Scenario::Timers => self.fire().await,
            Scenario::Window => self.slide().await,
            _ => self.write().await,
        }
    }

    /// Writes without reading, at a rate if there is one.
    async fn write(mut self) -> Result<(), Fault> {
        let bytes = self.batch * (self.source.value_bytes() + 24);
        let mut ticks = self.rate.map(|rate| interval(Duration::from_secs_f64(self.batch as f64 / rate as f64)));
        loop {
            if let Some(ticks) = &mut ticks {
                ticks.tick().await;
            }
            let mut batch = BatchBuilder::with_capacity(bytes);
            for _ in 0..self.batch {
                let key = self.key();
                match self.scenario {
                    Scenario::MergeSum => _ = batch.push(self.sums.merge(&key, &1)),
                    Scenario::MapPut => {
                        let (of, entry) = (key / ENTRIES_PER_KEY, key % ENTRIES_PER_KEY);
                        batch.push(self.maps.put(&of, &entry, self.source.value()));
                    }
                    Scenario::ListAdd => _ = batch.push(self.lists.add(&key, self.source.value())),
                    _ => _ = batch.push(self.values.put(&key, self.source.value())),
                }
            }
            self.send(batch).await?;
        }
    }

    /// Reads values; some batches are in flight.
    async fn read(mut self) -> Result<(), Fault> {
        let mut receipts = VecDeque::new();
        loop {
            let mut batch = BatchBuilder::new();
            let mut last = None;
            for _ in 0..self.batch {
                last = Some(batch.push(self.values.get(&self.source.key())));
            }
            let begun = Instant::now();
            receipts.push_back((begun, self.session.send(batch).await?, last.ok_or("a batch is empty")?));
            if receipts.len() >= READS {
                let (begun, receipt, last) = receipts.pop_front().ok_or("nothing is in flight")?;
                receipt.applied().await?.get(last)?.ok_or("a key is missing")?;
                self.probe.record(begun);
            }
        }
    }

    /// Counts in the task: reads a batch of counters, adds one to each, and writes them. No two lanes have a key in
    /// common, as each read must see the write before.
    async fn count(self) -> Result<(), Fault> {
        let mut lanes = JoinSet::new();
        for lane in 0..LANES {
            let (session, sums, size) = (self.session.clone(), self.sums.clone(), self.batch);
            let probe = self.probe.clone();
            let mut source = self.source.clone().seeded(lane + 2);
            lanes.spawn(async move {
                loop {
                    let mut keys: Vec<u64> = (0..size).map(|_| source.key() / LANES * LANES + lane).collect();
                    keys.sort_unstable();
                    keys.dedup();
                    let mut reads = BatchBuilder::new();
                    let slots: Vec<_> = keys.iter().map(|key| reads.push(sums.get(key))).collect();
                    let begun = Instant::now();
                    let read = session.send(reads).await?.applied().await?;
                    probe.record(begun);
                    let mut writes = BatchBuilder::new();
                    for (slot, key) in slots.into_iter().zip(&keys) {
                        writes.push(sums.put(key, &(read.get(slot)?.unwrap_or(0) + 1)));
                    }
                    session.send(writes).await?;
                }
            });
        }
        lanes.join_next().await.ok_or("there are no lanes")??
    }

    /// Registers timers in a random order of time, and fires those that are due.
    async fn fire(mut self) -> Result<(), Fault> {
        let span = self.source.keys();
        for now in (0..).step_by(self.batch) {
            let mut batch = BatchBuilder::new();
            for _ in 0..self.batch {
                let ahead = self.source.key();
                batch.push(self.timers.register(&ahead, i64::try_from(now as u64 + ahead)?));
            }
            self.send(batch).await?;
            if now as u64 > span / 2 {
                let due = i64::try_from(now as u64 - span / 2)?;
                self.timers.fire(&self.session, due, self.batch as u64).await?;
            } else {
                self.timers.peek(&self.session).await?;
            }
        }
        Ok(())
    }

    /// Adds records to the windows that they fall into, each in one of several open ones, and purges the oldest, key by
    /// key.
    async fn slide(mut self) -> Result<(), Fault> {
        // The source, as it was when the window that ends now began.
        let mut purged = self.source.clone();
        for number in 0_u64.. {
            let window = number / BATCHES_PER_WINDOW;
            let mut batch = BatchBuilder::new();
            let state = self.sums.namespace(&window);
            for _ in 0..self.batch {
                batch.push(state.merge(&self.source.key(), &1));
            }
            self.send(batch).await?;
            let mut batch = BatchBuilder::new();
            if window >= OPEN_WINDOWS {
                let state = self.sums.namespace(&(window - OPEN_WINDOWS));
                for _ in 0..self.batch {
                    batch.push(state.clear(&purged.key()));
                }
            } else {
                batch.push(self.sums.get(&0));
            }
            self.send(batch).await?;
        }
        Ok(())
    }
}
