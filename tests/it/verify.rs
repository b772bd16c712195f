//! `dstl verify` and `dstl state`: a checkpoint is proved restorable, and looked into, without its engine.

use std::{ops::ControlFlow, process::Output};

use dstl::{
    backend::RestoreFrom,
    error::Error,
    export::source::Source,
    object::{Path, Retry, Store},
    random::Random,
    restore::reader::ReaderOptions,
    tasks::Tasks,
    tools::{
        outline::Node,
        state::{self, Filter, StateFault},
        target::Target,
        verify,
    },
    types::{InnerBackend, Name},
};
use object_store::ObjectStoreExt as _;
use serde_json::{Value, json};

use crate::{
    gc::{dstl, json as answer},
    savepoints,
    support::{Daemon, World, on_both},
    vanish::{self, NEWEST, copy_without},
};

/// The store and the helpers that a reader of `world` needs.
struct Host {
    store: Store,
    tasks: Tasks,
    random: Random,
    daemon: Daemon,
}

impl Host {
    fn new(world: &World, inner: InnerBackend) -> Self {
        let daemon = Daemon::start(world, vanish::settings(inner, 3));
        Self { store: world.store(), tasks: Tasks::default(), random: Random::seeded(5), daemon }
    }

    fn options(&self, memory: u64) -> ReaderOptions<'_> {
        ReaderOptions {
            store: &self.store,
            tasks: &self.tasks,
            random: &self.random,
            local: self.daemon.directory.environment().local.as_deref(),
            memory,
            parallel_reads: 2,
            retry: Retry::none(),
        }
    }
}

/// The report of `verify` on checkpoint `id`, or the faults that hinder a restore.
async fn verified(world: &World, inner: InnerBackend, id: Option<u64>, memory: u64) -> Result<Value, String> {
    let host = Host::new(world, inner);
    let source = Source { job: Name::new("job").unwrap(), checkpoint: id, lease_ms: 60_000 };
    let verified = verify::checkpoint(&source, &host.options(memory), |_| {}).await;
    assert_eq!(world.paths("pins").await, Vec::<String>::new(), "no pin is left");
    let (node, faults) = verified.map_err(|error| error.to_string())?;
    let report = Node::to_json(&node);
    assert_eq!(report["restorable"], faults.is_empty());
    if faults.is_empty() { Ok(report) } else { Err(faults.join("; ")) }
}

/// Restores checkpoint `id` in both subtasks.
async fn restored(world: &World, inner: InnerBackend, id: u64) -> Result<(), Error> {
    let daemon = Daemon::start(world, vanish::settings(inner, 77));
    for subtask in 0..2 {
        daemon.subtask(subtask, 2, 3, RestoreFrom::Id(id)).await?;
    }
    Ok(())
}

on_both! {
    a_whole_checkpoint_is_rebuilt_and_counted_in_little_memory
    verify_fails_exactly_where_a_restore_fails
    entries_of_a_checkpoint_are_shown_by_key_state_and_key_group
}

async fn a_whole_checkpoint_is_rebuilt_and_counted_in_little_memory(inner: InnerBackend) {
    let world = World::new();
    let (_daemon, _subtasks) = savepoints::job(&world, inner).await;
    for memory in [64 << 20, 200_000] {
        let report = verified(&world, inner, None, memory).await.unwrap();
        assert_eq!((&report["checkpoint"], &report["operators"][0]["parallelism"]), (&json!(1), &json!(2)));
        for state in report["operators"][0]["states"].as_array().unwrap() {
            let is_of_state = |row: &&String| row.contains(&format!("state: {}", state["state"]));
            let expected = savepoints::expected().iter().filter(is_of_state).count();
            assert_eq!(state["entries"], expected, "{state}");
            assert!(expected > 0, "{state}");
        }
        assert_eq!(report["operators"][0]["states"].as_array().unwrap().len(), 8, "{report}");
    }
    let error = verified(&world, inner, Some(7), 64 << 20).await.unwrap_err();
    assert!(error.contains("has no checkpoint 7") && error.ends_with("there are: 1"), "{error}");
}

async fn verify_fails_exactly_where_a_restore_fails(inner: InnerBackend) {
    let world = World::new();
    vanish::prepare(&world, inner).await;
    let (mut whole, mut broken) = (0, 0);
    let objects = world.paths("").await;
    // All of the few large ones, and some of the many segments and manifests.
    let chosen = objects.iter().enumerate().filter(|(at, path)| at % 5 == 0 || path.contains("/snapshot/"));
    for (_, victim) in chosen {
        // The parts of a segment are told by its handles: bytes between and after them are not read.
        for part in [3, 5] {
            let path = Path::from(victim.as_str());
            let mut bytes = world.objects.get(&path).await.unwrap().bytes().await.unwrap().to_vec();
            let at = bytes.len() * part / 10;
            bytes[at] ^= 4;
            for id in [3, NEWEST] {
                let world = copy_without(&world, victim).await;
                world.objects.put(&path, bytes.clone().into()).await.unwrap();
                let verified = verified(&world, inner, Some(id), 64 << 20).await;
                let label = format!("checkpoint {id}, byte {at} of `{victim}` flipped");
                match restored(&world, inner, id).await {
                    Ok(()) => {
                        verified.unwrap_or_else(|fault| panic!("{label}: {fault}"));
                        whole += 1;
                    }
                    Err(error) => {
                        let Err(fault) = verified else { panic!("{label}: {error}") };
                        assert!(fault.contains(victim.as_str()), "{label}: {fault}");
                        broken += 1;
                    }
                }
            }
        }
    }
    assert!(whole > 20 && broken > 10, "{whole} whole, {broken} broken");
}

async fn entries_of_a_checkpoint_are_shown_by_key_state_and_key_group(inner: InnerBackend) {
    let world = World::new();
    let (daemon, _subtasks) = savepoints::job(&world, inner).await;
    savepoints::create(&world, &daemon, "job", "all", 64 << 20).await.unwrap();
    let host = Host::new(&world, inner);
    for target in ["job", "job@1", "job/savepoints/all"] {
        let target: Target = target.parse().unwrap();
        let scan = async |filter: &Filter| {
            let (mut lines, options) = (vec![], host.options(64 << 20));
            let scanned = state::scan(&target, filter, &options, 60_000, |operator, row| {
                lines.push(state::line(operator, row));
                ControlFlow::Continue(())
            });
            scanned.await.map(|()| lines)
        };
        assert_eq!(scan(&Filter::default()).await.unwrap().len(), savepoints::expected().len());
        let key = Some(vec![0, 0, 0, 7].into());
        let mut found = scan(&Filter { key, state: Some("value".to_owned()), ..Filter::default() }).await.unwrap();
        found.sort_unstable();
        let windowed = "op/value (value): key group 7, key 0x00000007, namespace \"window\": 0x07\n".to_owned();
        let value = format!("op/value (value): key group 7, key 0x00000007: 0x{}\n", "00".repeat(40));
        assert_eq!(found, [windowed, value]);
        let found = scan(&Filter { key_group: Some(7), ..Filter::default() }).await.unwrap();
        let of_group = savepoints::expected().iter().filter(|row| row.contains("KeyGroup(KeyGroup(7))")).count();
        assert_eq!(found.len(), of_group);
        let found = scan(&Filter { state: Some("split".to_owned()), ..Filter::default() }).await.unwrap();
        assert_eq!((found.len(), &*found[0]), (6, "op/split (list): subtask 0, element 0: 0x0000\n"));
        let error = scan(&Filter { state: Some("valeu".to_owned()), ..Filter::default() }).await.unwrap_err();
        assert!(matches!(&error, StateFault::NoState { there, .. } if there.contains("`value`")), "{error}");
        let operator = Some(Name::new("pot").unwrap());
        let error = scan(&Filter { operator, ..Filter::default() }).await.unwrap_err().to_string();
        assert_eq!(error, "it has no operator `pot`, but `op`");
    }
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn the_programs_print_text_or_json_and_end_with_1_where_something_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let world = crate::gc::crashed(folder.path()).await;
    let data = format!("dstl.data-dir={}", folder.path().join("data").display());
    let at = ["--store", folder.path().to_str().unwrap(), "--set", &data];
    let run = |arguments: &[&str]| dstl(&[arguments, &at[..]].concat());
    let report = answer(&run(&["verify", "job", "--json"]));
    assert_eq!((&report["restorable"], &report["job"]), (&json!(true), &json!("job")));
    let text = run(&["state", "scan", "job", "--limit", "0"]);
    assert_eq!(String::from_utf8_lossy(&text.stdout).lines().count(), 0, "{}", told(&text));
    let lines = run(&["state", "scan", "job", "--limit", "1", "--json"]);
    let row: Value = serde_json::from_slice(&lines.stdout).unwrap();
    let key = format!("0x{}", row["key"].as_str().unwrap());
    let found = run(&["state", "get", "job", &key, "--json"]);
    assert!(found.status.success() && String::from_utf8_lossy(&found.stdout).contains(&row.to_string()));
    let none = run(&["state", "get", "job", "no such key"]);
    assert!(none.status.code() == Some(1) && told(&none).contains("no such entries"), "{}", told(&none));
    let usage = run(&["verify", "job@x"]);
    assert!(usage.status.code() == Some(64) && told(&usage).contains("id of a checkpoint"), "{}", told(&usage));
    drop(world);
}
