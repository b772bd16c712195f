//! Every tool on stores with one damaged object of each kind: an answer with a reason, and never a panic.

use std::{collections::BTreeMap, fs, path::Path as FilePath, process::Output};

use dstl::{
    export::{self, Export, source::Source},
    object::{ObjectName, Path, Retry},
    random::Random,
    restore::reader::ReaderOptions,
    tasks::Tasks,
    types::{InnerBackend, Name},
};
use object_store::ObjectStoreExt as _;

use crate::{
    gc::dstl,
    support::{Daemon, World, on_both},
    vanish,
};

on_both! {
    every_tool_answers_on_a_store_with_a_damaged_object_of_each_kind
}

fn name(name: &str) -> Name {
    Name::new(name).unwrap()
}

/// A store with objects of every kind: checkpoints, a savepoint of each kind, and a lease.
async fn prepare(inner: InnerBackend) -> BTreeMap<String, Vec<u8>> {
    let world = World::new();
    vanish::prepare(&world, inner).await;
    let daemon = Daemon::start(&world, vanish::settings(inner, 99));
    let (store, tasks, random) = (world.store(), Tasks::default(), Random::seeded(5));
    let local = daemon.directory.environment().local.clone();
    let (memory, parallel_reads, retry) = (64 << 20, 2, Retry::none());
    let options = ReaderOptions {
        store: &store,
        tasks: &tasks,
        random: &random,
        local: local.as_deref(),
        memory,
        parallel_reads,
        retry,
    };
    let export = |savepoint| {
        let source = Source { job: name("job"), checkpoint: None, lease_ms: 60_000 };
        Export { source, name: name(savepoint), now: 1_000 }
    };
    export::create(&export("rows"), &options, |_| {}).await.unwrap();
    export::native::create(&export("native"), &options, |_| {}).await.unwrap();
    // A reader that never came back.
    let source = Source { job: name("job"), checkpoint: None, lease_ms: 60_000 };
    let reading = source.read(&options, async |_: &export::source::Found<'_>| {
        std::future::pending::<Result<(), export::source::SourceError>>().await
    });
    let _left = tokio::time::timeout(std::time::Duration::from_secs(1), reading).await.unwrap_err();
    let mut objects = BTreeMap::new();
    for path in world.paths("").await {
        let bytes = world.objects.get(&Path::from(path.as_str())).await.unwrap().bytes().await.unwrap();
        objects.insert(path, bytes.to_vec());
    }
    objects
}

/// The kind of an object, as far as damage of it is concerned.
fn kind(path: &str) -> String {
    let kind = |name: &ObjectName| {
        let debug = format!("{name:?}");
        debug.split([' ', '{']).next().unwrap_or_default().to_owned()
    };
    let Some(object) = ObjectName::parse(&Path::from(path)) else { return "other".to_owned() };
    match object {
        ObjectName::SavepointFile { savepoint, file, .. } if savepoint.as_str() == "native" && file.len() > 1 => {
            let inner: Vec<&str> = file.iter().skip(1).map(Name::as_str).collect();
            let inner = ObjectName::parse(&Path::from(inner.join("/"))).map(|name| kind(&name));
            format!("native {}", inner.unwrap_or_default())
        }
        ObjectName::SavepointFile { savepoint, file, .. } => {
            format!("{savepoint} {}", file.last().unwrap().as_str().rsplit('.').next().unwrap())
        }
        ObjectName::SnapshotFile { file, .. } => file.as_str().rsplit('.').next().unwrap_or_default().to_owned(),
        other => kind(&other),
    }
}

fn lay(folder: &FilePath, objects: &BTreeMap<String, Vec<u8>>) {
    for (path, bytes) in objects {
        let file = folder.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
    }
}

async fn every_tool_answers_on_a_store_with_a_damaged_object_of_each_kind(inner: InnerBackend) {
    let objects = prepare(inner).await;
    // The newest of each kind, which most tools read.
    let victims: BTreeMap<String, &String> = objects.keys().map(|path| (kind(path), path)).collect();
    for wanted in [
        "Segment",
        "Manifest",
        "JobRecord",
        "IndexPage",
        "Pin",
        "index",
        "rows parquet",
        "rows json",
        "native json",
        "native Manifest",
    ] {
        assert!(victims.contains_key(wanted), "{wanted}: {victims:?}");
    }
    let (mut whole, mut refused) = (0, 0);
    for (kind, victim) in &victims {
        for damage in ["flipped", "cut", "gone"] {
            let mut damaged = objects.clone();
            let bytes = damaged.get_mut(*victim).unwrap();
            match damage {
                "flipped" if bytes.is_empty() => continue,
                "flipped" => {
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 1;
                }
                "cut" => bytes.truncate(bytes.len() / 3),
                _ => _ = damaged.remove(*victim),
            }
            let folder = tempfile::tempdir().unwrap();
            lay(folder.path(), &damaged);
            for (code, line, told) in run_all(folder.path(), victim) {
                let label = format!("{kind} `{victim}` {damage}: dstl {line}: {told}");
                assert!(!told.contains("panicked"), "{label}");
                match code {
                    Some(0) => whole += 1,
                    Some(1) => {
                        assert!(told.starts_with("dstl: ") && told.len() > 20, "{label}");
                        refused += 1;
                    }
                    _ => panic!("{code:?}: {label}"),
                }
            }
        }
    }
    assert!(whole > 100 && refused > 50, "{whole} whole, {refused} refused");
}

/// Runs every tool; tells the exit code, the command line and what went to standard error.
fn run_all(folder: &FilePath, victim: &str) -> Vec<(Option<i32>, String, String)> {
    let data = format!("dstl.data-dir={}", folder.with_extension("data").display());
    let at = ["--store", folder.to_str().unwrap(), "--set", &data];
    let out = folder.with_extension("out");
    let elsewhere = |name: &str| format!("{}/job/savepoints/{name}", out.display());
    let exported = [elsewhere("rows"), elsewhere("native")];
    let lines: Vec<Vec<&str>> = vec![
        vec!["checkpoints", "ls"],
        vec!["checkpoints", "show", "job", "--json"],
        vec!["checkpoints", "diff", "job@4", "job"],
        vec!["changelog", "dump", "job", "--limit", "3"],
        vec!["pin", "ls", "job"],
        vec!["verify", "job"],
        vec!["verify", "job/savepoints/rows"],
        vec!["verify", "job/savepoints/native", "--json"],
        vec!["state", "scan", "job", "--limit", "3"],
        vec!["state", "get", "job/savepoints/native", "key 1"],
        vec!["savepoint", "ls"],
        vec!["savepoint", "show", "job/savepoints/rows"],
        vec!["savepoint", "create", "job", "again"],
        vec!["savepoint", "create", "job", "copied", "--native"],
        vec!["savepoint", "export", "job/savepoints/rows", &exported[0]],
        vec!["savepoint", "export", "job/savepoints/native", &exported[1]],
        vec!["savepoint", "import", "job/savepoints/back", &exported[1]],
        vec!["pin", "add", "job@5", "--stopped"],
        vec!["pin", "rm", "job@5", "--stopped"],
        vec!["gc"],
        vec!["dump", victim],
        vec!["savepoint", "rm", "job/savepoints/rows"],
        vec!["discard", "job", "--force"],
    ];
    let run = |line: Vec<&str>| {
        let output: Output = dstl(&[&line[..], &at[..]].concat());
        (output.status.code(), line.join(" "), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let told = lines.into_iter().map(run).collect();
    let _ = fs::remove_dir_all(&out);
    let _ = fs::remove_dir_all(folder.with_extension("data"));
    told
}
