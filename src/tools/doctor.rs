//! `dstl store doctor`, which checks the promises of a store and measures its speed.
//!
//! The promises and checks are those of `object::conformance`, which the tests use, too. All objects are in one folder
//! with a unique name (`doctor-<uuid>`), which is empty afterwards.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::{outline::Node, retry};
use crate::{
    clock::Clock,
    error::Error,
    object::{
        Operation, Path, PutPayload, Store, StoreError,
        conformance::{Broken, CHECKS, Promise},
    },
    random::Random,
};

/// Number of measured requests of each kind, made one after the other, and the bytes of their objects.
const MEASURED: usize = 50;
const SMALL_BYTES: usize = 1 << 10;

/// Number and bytes of the objects whose transfer is timed.
const LARGE: usize = 3;
const LARGE_BYTES: usize = 8 << 20;

/// The result of an examination.
#[derive(Debug)]
pub struct Report {
    /// Each promise, with an observation if it does not hold.
    promises: BTreeMap<Promise, Option<Broken>>,
    /// Speed of the store; `None` if a promise does not hold.
    speed: Option<Speed>,
}

#[derive(Debug, Default)]
struct Speed {
    durations: BTreeMap<Operation, Vec<Duration>>,
    write_bytes_per_second: u64,
    read_bytes_per_second: u64,
}

/// Examines `store`. If the future is dropped, [`clean`] deletes the remaining objects.
///
/// # Errors
/// Errors of a store that cannot be used at all, or that failed during the measurement.
pub async fn run(store: &Store, root: &Path, clock: &Clock) -> Result<Report, Error> {
    usable(store, root).await?;
    let mut promises = BTreeMap::new();
    for check in CHECKS {
        let broken = check.run(store, root, clock).await.err();
        let known = promises.entry(check.promise).or_insert(None);
        // A promise may have several checks. The first observation against it stays.
        *known = known.take().or(broken);
    }
    let holds = promises.values().all(Option::is_none);
    let speed = if holds { Some(Speed::measure(store, &root.clone().join("speed")).await) } else { None };
    // Ordering: the objects are deleted before a failure of the measurement is returned.
    clean(store, root).await?;
    Ok(Report { promises, speed: speed.transpose()? })
}

/// Tests that `store` takes requests at all. A store that does not (no bucket, no permission, no space) breaks no
/// promise, and cannot be examined. Relies on none of the promises.
async fn usable(store: &Store, root: &Path) -> Result<(), StoreError> {
    // First a request that leaves nothing behind if it is refused.
    store.list(root, retry()).await?;
    let first = root.clone().join("first");
    store.create(&first, PutPayload::from_static(b"1"), retry()).await?;
    store.delete(&first, retry()).await
}

/// A folder that no other examination uses.
#[must_use]
pub fn folder(random: &Random) -> Path {
    Path::from(format!("doctor-{}", random.uuid()))
}

/// Deletes all objects in the folder `root`.
///
/// # Errors
/// Errors of the store.
pub async fn clean(store: &Store, root: &Path) -> Result<(), StoreError> {
    let left = store.list(root, retry()).await?;
    store.delete_all(left.into_iter().map(|meta| meta.path).collect(), retry()).await
}

impl Report {
    /// A line for each promise that does not hold.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let broken = self.promises.iter().filter_map(|(promise, broken)| Some((promise, broken.as_ref()?)));
        broken.map(|(promise, broken)| format!("`{promise}` does not hold on this store: {broken}")).collect()
    }

    /// The report for people and programs.
    #[must_use]
    pub fn outline(&self) -> Node {
        let promises = self.promises.iter().map(|(promise, broken)| {
            Node::Fields(vec![
                ("promise", Node::text(promise)),
                ("holds", Node::Bool(broken.is_none())),
                ("meaning", Node::text(promise.text())),
                ("seen", broken.as_ref().map_or(Node::None, Node::text)),
            ])
        });
        Node::Fields(vec![
            ("promises", Node::list(promises)),
            ("speed", self.speed.as_ref().map_or(Node::None, Speed::outline)),
        ])
    }
}

impl Speed {
    async fn measure(store: &Store, folder: &Path) -> Result<Self, StoreError> {
        let mut speed = Self::default();
        let paths: Vec<_> = (0..MEASURED).map(|number| folder.clone().join(format!("{number}"))).collect();
        for path in &paths {
            let payload = PutPayload::from(vec![1; SMALL_BYTES]);
            speed.time(Operation::Create, store.create(path, payload, retry())).await?;
            speed.time(Operation::Get, store.get(path, retry())).await?;
            speed.time(Operation::GetRange, store.get_range(path, 0..16, retry())).await?;
            speed.time(Operation::Head, store.head(path, retry())).await?;
            speed.time(Operation::List, store.list(folder, retry())).await?;
        }
        for path in &paths {
            speed.time(Operation::Delete, store.delete(path, retry())).await?;
        }
        let large: Vec<_> = (0..LARGE).map(|number| folder.clone().join(format!("large-{number}"))).collect();
        let begun = Instant::now();
        for path in &large {
            store.create(path, PutPayload::from(vec![2; LARGE_BYTES]), retry()).await?;
        }
        let written = begun.elapsed();
        for path in &large {
            store.get(path, retry()).await?;
        }
        speed.write_bytes_per_second = per_second(written);
        speed.read_bytes_per_second = per_second(begun.elapsed().saturating_sub(written));
        Ok(speed)
    }

    async fn time<T>(
        &mut self,
        operation: Operation,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<(), StoreError> {
        let begun = Instant::now();
        request.await?;
        self.durations.entry(operation).or_default().push(begun.elapsed());
        Ok(())
    }

    fn outline(&self) -> Node {
        let requests = self.durations.iter().map(|(operation, durations)| {
            let mut sorted = durations.clone();
            sorted.sort_unstable();
            Node::Fields(vec![
                ("request", Node::text(operation)),
                ("p50_us", micros(&sorted, 50)),
                ("p99_us", micros(&sorted, 99)),
            ])
        });
        Node::Fields(vec![
            ("requests", Node::list(requests)),
            ("write_bytes_per_second", Node::Number(self.write_bytes_per_second)),
            ("read_bytes_per_second", Node::Number(self.read_bytes_per_second)),
        ])
    }
}

fn per_second(duration: Duration) -> u64 {
    let micros = duration.as_micros().max(1);
    let bytes = (LARGE * LARGE_BYTES) as u128;
    u64::try_from(bytes.saturating_mul(1_000_000) / micros).unwrap_or(u64::MAX)
}

/// The duration that `percent` of all durations do not exceed, in microseconds.
fn micros(sorted: &[Duration], percent: usize) -> Node {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    let micros = sorted.get(at).map_or(0, Duration::as_micros);
    Node::Number(u64::try_from(micros).unwrap_or(u64::MAX))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        metrics::Metrics,
        object::{
            MemoryStore, RetryOptions,
            conformance::broken::{BrokenStore, WAYS},
            faulty::{Faults, FaultyStore},
        },
        tasks::Tasks,
    };

    fn store() -> (Store, Faults) {
        let memory = Arc::new(MemoryStore::new(Clock::new(|| 0)));
        let faulty = FaultyStore::new(memory, Random::seeded(1), Tasks::default());
        let faults = faulty.faults();
        let options = RetryOptions::default();
        (Store::new(Arc::new(faulty), Path::default(), options, &Metrics::new(), Random::seeded(2)), faults)
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_keeps_its_promises_is_told_with_its_speed_and_is_empty_afterwards() {
        let (store, _) = store();
        let clock = Clock::new(|| 0);
        let report = run(&store, &folder(&Random::seeded(3)), &clock).await.unwrap();
        assert_eq!(report.faults(), [""; 0]);
        let json = report.outline().to_json();
        assert!(json["promises"].as_array().unwrap().iter().all(|promise| promise["holds"] == true), "{json}");
        assert_eq!(json["speed"]["requests"].as_array().unwrap().len(), 6, "{json}");
        assert_eq!(store.list(&Path::default(), retry()).await.unwrap(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_store_that_breaks_one_promise_that_one_alone_is_named() {
        let mut wrong = vec![];
        for (way, promise) in WAYS {
            let broken = BrokenStore::new(way);
            let report = run(&broken.door(), &folder(&Random::seeded(3)), &Clock::new(|| 0)).await.unwrap();
            let faults = report.faults();
            let is_named = faults.len() == 1 && faults[0].starts_with(&format!("`{promise}` does not hold"));
            let left = broken.count().await;
            if !is_named || left > 0 || report.outline().to_json()["speed"] != serde_json::Value::Null {
                wrong.push(format!("{way:?}: {faults:?}, {left} objects left"));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_promise_that_does_not_hold_is_named_with_what_was_seen() {
        let (store, _) = store();
        let ahead = Clock::new(|| 3_600_000);
        let report = run(&store, &folder(&Random::seeded(3)), &ahead).await.unwrap();
        let told = "`clock` does not hold on this store: an object was dated 3600000 ms earlier than this host's time";
        assert_eq!(report.faults(), [told]);
        assert_eq!(store.list(&Path::default(), retry()).await.unwrap(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_cannot_be_used_is_an_error_and_no_broken_promise() {
        let (store, faults) = store();
        faults.set_outage(true);
        let error = run(&store, &folder(&Random::seeded(3)), &Clock::new(|| 0)).await.unwrap_err();
        assert!(error.message.contains("injected fault"), "{}", error.message);
    }

    #[test]
    fn a_percentile_is_the_duration_that_so_many_do_not_exceed() {
        let hundred: Vec<_> = (1..=100).map(Duration::from_micros).collect();
        assert_eq!(micros(&hundred, 50), Node::Number(50));
        assert_eq!(micros(&hundred, 99), Node::Number(99));
        assert_eq!(micros(&hundred[..1], 99), Node::Number(1));
        assert_eq!(micros(&[], 50), Node::Number(0));
    }
}
