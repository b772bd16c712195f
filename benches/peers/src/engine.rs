//! The engines that this program drives by itself, in a process of their own, and how their window is measured.

mod redis;
mod rocks;
mod slate;

use std::{
    future::Future,
    path::Path,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use tokio::{sync::mpsc, task::JoinHandle, time::MissedTickBehavior};

use super::{
    Fault, Parameters, Run, Work, distribution::Distribution, measured::Measured, process::Usage, source::Source,
    system::Engine,
};

/// How often a durable point is made.
const DURABLE_EVERY: Duration = Duration::from_secs(1);

/// Makes everything durable that is applied when it is called.
type Point = Box<dyn Fn() -> BoxFuture<'static, Result<(), Fault>> + Send>;

/// An engine with the state of one task. What it was given last may still be in flight, up to a bound of its own.
trait Driven {
    /// Writes a value under each key.
    fn put(&mut self, keys: &[u64], source: &mut Source) -> impl Future<Output = Result<(), Fault>>;

    /// Adds one to the counter of each key; `keys` are sorted and may repeat.
    fn count(&mut self, keys: &[u64]) -> impl Future<Output = Result<(), Fault>>;

    /// Operations that it has applied so far.
    fn applied(&self) -> u64;

    /// Waits until everything is applied.
    fn settle(&mut self) -> impl Future<Output = Result<(), Fault>>;

    /// How its durable points are made; nothing if it makes them by itself.
    fn point(&self) -> Option<Point>;

    /// Its server, if that is another process.
    fn server(&self) -> Option<u32>;

    /// Waits until everything is durable, and ends it.
    fn close(self) -> impl Future<Output = Result<(), Fault>>;
}

/// Measures one engine in the folder of `run`, and prints the result as JSON.
pub(crate) fn measure(engine: Engine, work: Work, run: &Run) -> Result<(), Fault> {
    let folder = run.dir.as_deref().ok_or("an engine needs a folder")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let measured = runtime.block_on(drive(engine, work, folder, &run.parameters))?;
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

async fn drive(engine: Engine, work: Work, folder: &Path, parameters: &Parameters) -> Result<Measured, Fault> {
    let task = |version| Task::new(version, work, parameters);
    match engine {
        Engine::Redis => task(redis::version()?).run(redis::Redis::start(folder)?).await,
        Engine::Rocksdb => task(locked("librocksdb-sys")?).run(rocks::Rocks::open(folder)?).await,
        Engine::Slatedb => task(locked("slatedb")?).run(slate::Slate::open(folder).await?).await,
    }
}

/// The version of a package in the lock file; of RocksDB's, the version of the library.
fn locked(package: &str) -> Result<String, Fault> {
    let lock = include_str!("../Cargo.lock");
    let (_, rest) = lock.split_once(&format!("name = \"{package}\"\nversion = \"")).ok_or("it is not locked")?;
    let version = rest.split('"').next().unwrap_or_default();
    Ok(version.rsplit('+').next().unwrap_or(version).to_owned())
}

/// One task with its work.
struct Task<'a> {
    version: String,
    work: Work,
    parameters: &'a Parameters,
    source: Source,
    keys: Vec<u64>,
}

/// The counts at the beginning of the window.
struct Begin {
    at: Instant,
    applied: u64,
    usage: Usage,
}

impl<'a> Task<'a> {
    fn new(version: String, work: Work, parameters: &'a Parameters) -> Self {
        Self { version, work, parameters, source: Source::new(parameters), keys: Vec::new() }
    }

    async fn run<D: Driven>(mut self, mut driven: D) -> Result<Measured, Fault> {
        self.fill(&mut driven).await?;
        let (report, mut durations) = mpsc::unbounded_channel();
        let points: Option<JoinHandle<Result<(), Fault>>> =
            driven.point().map(|point| tokio::spawn(make_points(point, report)));
        self.work_for(Duration::from_secs(self.parameters.warm_up), &mut driven).await?;

        while durations.try_recv().is_ok() {}
        let begin = Begin { at: Instant::now(), applied: driven.applied(), usage: usage(&driven)? };
        self.work_for(Duration::from_secs(self.parameters.seconds), &mut driven).await?;

        let elapsed = begin.at.elapsed().as_secs_f64();
        let operations = (driven.applied() - begin.applied) as f64;
        let usage = usage(&driven)?;
        let mut durable_ms = Vec::new();
        while let Ok(duration) = durations.try_recv() {
            durable_ms.push(Duration::as_secs_f64(&duration) * 1e3);
        }
        if let Some(points) = points {
            if points.is_finished() {
                points.await??;
                return Err("durable points ended by themselves".into());
            }
            points.abort();
        }
        driven.settle().await?;
        driven.close().await?;
        Ok(Measured {
            version: self.version,
            operations_per_second: operations / elapsed,
            cpu_seconds_per_million: (usage.cpu - begin.usage.cpu).as_secs_f64() / (operations / 1e6),
            durable_ms: (!durable_ms.is_empty()).then(|| Distribution::of(durable_ms)),
            peak_rss_bytes: usage.peak_rss_bytes,
        })
    }

    /// Writes every key once.
    async fn fill<D: Driven>(&mut self, driven: &mut D) -> Result<(), Fault> {
        let (keys, batch) = (self.parameters.keys.max(1), self.parameters.batch.max(1));
        for first in (0..keys).step_by(batch) {
            self.keys.clear();
            self.keys.extend(first..keys.min(first + batch as u64));
            self.batch(driven).await?;
        }
        driven.settle().await
    }

    /// Works on random keys for so long.
    async fn work_for<D: Driven>(&mut self, time: Duration, driven: &mut D) -> Result<(), Fault> {
        let begun = Instant::now();
        while begun.elapsed() < time {
            self.keys.clear();
            for _ in 0..self.parameters.batch.max(1) {
                self.keys.push(self.source.key());
            }
            self.batch(driven).await?;
        }
        Ok(())
    }

    async fn batch<D: Driven>(&mut self, driven: &mut D) -> Result<(), Fault> {
        match self.work {
            Work::Update => driven.put(&self.keys, &mut self.source).await,
            Work::Rmw => {
                self.keys.sort_unstable();
                driven.count(&self.keys).await
            }
        }
    }
}

/// Of this process, and of the server if there is one.
fn usage<D: Driven>(driven: &D) -> Result<Usage, Fault> {
    Usage::sum([std::process::id()].into_iter().chain(driven.server()))
}

/// Makes durable points until it is aborted.
async fn make_points(point: Point, report: mpsc::UnboundedSender<Duration>) -> Result<(), Fault> {
    let mut ticks = tokio::time::interval(DURABLE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let begun = Instant::now();
        point().await?;
        let _ = report.send(begun.elapsed());
    }
}

/// The counter in `bytes`, which is 0 where there is none, plus `more`, as bytes.
fn counted(bytes: Option<&[u8]>, more: u64) -> Result<[u8; 8], Fault> {
    let before = bytes.map(<[u8; 8]>::try_from).transpose().map_err(|_| "a counter does not have eight bytes")?;
    Ok((before.map_or(0, u64::from_be_bytes) + more).to_be_bytes())
}

/// Each key of the sorted `keys`, and how often it is there.
fn runs(keys: &[u64]) -> impl Iterator<Item = (u64, u64)> {
    keys.chunk_by(|one, next| one == next).filter_map(|run| Some((*run.first()?, run.len() as u64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_begins_at_nothing() {
        let one = counted(None, 1).expect("there is no counter yet");
        assert_eq!(counted(Some(&one), 2).expect("it is a counter"), 3_u64.to_be_bytes());
        assert!(counted(Some(&[0; 7]), 1).is_err());
    }

    #[test]
    fn keys_that_repeat_count_more() {
        assert_eq!(runs(&[1, 2, 2, 2, 5]).collect::<Vec<_>>(), [(1, 1), (2, 3), (5, 1)]);
    }

    #[test]
    fn versions_are_those_of_the_lock_file() {
        let rocksdb = locked("librocksdb-sys").expect("RocksDB is locked");
        assert!(rocksdb.starts_with(|c: char| c.is_ascii_digit()) && !rocksdb.contains('+'), "{rocksdb}");
        assert!(locked("no such package").is_err());
    }
}
