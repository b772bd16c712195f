//! Tests that the stores of this process conform, and that each broken store is found out.

use super::{
    broken::{BrokenStore, WAYS},
    *,
};
use crate::{
    metrics::Metrics,
    object::{StoreOptions, open::open},
    random::Random,
};

fn store(url: &str, clock: &Clock) -> Store {
    open(&StoreOptions::new(url), &Metrics::new(), clock, Random::seeded(1)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn memory_conforms() {
    let clock = Clock::new(|| 0);
    all(&store("memory://", &clock), &clock).await;
}

#[tokio::test(start_paused = true)]
async fn memory_below_a_base_conforms() {
    let clock = Clock::new(|| 0);
    all(&store("memory:///a/b", &clock), &clock).await;
}

#[tokio::test]
async fn a_directory_conforms_and_is_empty_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    all(&store(dir.path().to_str().unwrap(), &clock), &clock).await;
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn of_a_store_that_breaks_a_promise_that_one_alone_is_told_and_it_is_empty_afterwards() {
    let mut wrong = vec![];
    for (way, promise) in WAYS {
        let broken = BrokenStore::new(way);
        let mut told = BTreeSet::new();
        for check in CHECKS {
            if check.run(&broken.door(), &Path::from("doctor"), &Clock::new(|| 0)).await.is_err() {
                told.insert(check.promise);
            }
        }
        let left = broken.count().await;
        if told != BTreeSet::from([promise]) || left > 0 {
            wrong.push((way, told, left));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn every_promise_has_a_check_and_a_way_to_break_it() {
    let checked: BTreeSet<_> = CHECKS.iter().map(|check| check.promise).collect();
    let broken: BTreeSet<_> = WAYS.iter().map(|(_, promise)| *promise).collect();
    assert_eq!(checked, broken);
    let names: BTreeSet<_> = CHECKS.iter().map(|check| check.name).collect();
    assert_eq!(names.len(), CHECKS.len(), "each check works in a folder of its own");
}
