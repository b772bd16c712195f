//! The tools, run on the store or the file that the command line names.

use std::{io::Read as _, path::Path as FilePath};

use bytes::Bytes;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::{
    CliError,
    args::{DiscardArgs, DoctorArgs, DumpArgs, FenceArgs, GcArgs, StoreArgs},
    output,
};
use crate::{
    checkpoint::{discard::Discard, handle::CheckpointHandle, ledger::NoticeTarget},
    clock::Clock,
    config::{self, Config, Host},
    daemon,
    metrics::Metrics,
    object::{self, Path, Store, StoreError},
    random::Random,
    tools::{
        self,
        dump::{decode_handle, describe},
        gc,
        outline::Node,
    },
};

/// Longest configuration of Flink that is read, in bytes, so that reading any file ends.
const MAX_FLINK_BYTES: u64 = 2 << 20;

/// Sweeps, or shows the effect of a sweep.
pub(super) fn gc(args: &GcArgs) -> Result<(), CliError> {
    let (config, store) = open(&args.store, None)?;
    let grace = args.grace.unwrap_or(config.gc.grace_period);
    let options = gc::Options { job: args.job.clone(), grace, delete: args.delete };
    let (clock, random) = (Clock::system(), Random::from_os());
    let swept = runtime()?.block_on(gc::run(&store, &options, &clock, &random));
    let outcome = swept.map_err(CliError::runtime)?;
    output::print(&if args.json { json(outcome.outline().to_json()) } else { outcome.to_text() })?;
    complain_of(&outcome.faults())
}

/// Releases a checkpoint, or all checkpoints of a job.
pub(super) fn discard(args: &DiscardArgs) -> Result<(), CliError> {
    let what = match (&args.job, &args.handle) {
        (Some(job), _) => Discard::Job(job.clone()),
        (None, Some(text)) => {
            let unusable = || CliError::Usage(format!("`{text}` is not a checkpoint handle"));
            let handle = decode_handle(text).and_then(|bytes| CheckpointHandle::decode(&bytes).ok());
            let CheckpointHandle { backend, checkpoint } = handle.ok_or_else(unusable)?;
            let target = NoticeTarget { epoch: checkpoint.epoch, id: checkpoint.id, uuid: Some(checkpoint.uuid) };
            Discard::Checkpoint(backend, target)
        }
        (None, None) => return Err(CliError::Usage("give a `JOB` or `--handle`".to_owned())),
    };
    let (_, store) = open(&args.store, None)?;
    let discarded = runtime()?.block_on(tools::discard::run(&store, &what, args.force, &Random::from_os()));
    print(&discarded.map_err(CliError::runtime)?, args.json)
}

/// Adds a fence above the damaged end of a chain.
pub(super) fn fence(args: &FenceArgs) -> Result<(), CliError> {
    let (_, store) = open(&args.store, None)?;
    let added = runtime()?.block_on(tools::fence::run(&store, &args.target, args.attempt, &Random::from_os()));
    print(&added.map_err(CliError::runtime)?, args.json)
}

/// Shows which promises a store keeps, and its speed. Deletes the objects of an interrupted examination.
pub(super) fn doctor(args: &DoctorArgs) -> Result<(), CliError> {
    let (_, store) = open(&args.store, args.url.clone())?;
    let (root, clock) = (tools::doctor::folder(&Random::from_os()), Clock::system());
    let examined = async {
        tokio::select! {
            report = tools::doctor::run(&store, &root, &clock) => report.map_err(|error| CliError::runtime(error.message)),
            _ = tokio::signal::ctrl_c() => {
                tools::doctor::clean(&store, &root).await.map_err(CliError::runtime)?;
                Err(CliError::runtime("interrupted"))
            }
        }
    };
    let report = runtime()?.block_on(examined)?;
    print(&report.outline(), args.json)?;
    complain_of(&report.faults())
}

/// Decodes objects. If one cannot be decoded, continues with the others.
pub(super) fn dump(args: &DumpArgs) -> Result<(), CliError> {
    let (runtime, mut nodes, mut faults) = (runtime()?, vec![], vec![]);
    for object in &args.objects {
        let bytes = read(&runtime, &args.store, object);
        let described = bytes.and_then(|bytes| describe(object, &bytes).map_err(CliError::runtime));
        match described {
            Ok(node) => nodes.push(node),
            Err(CliError::Runtime(fault)) => faults.push(fault.to_string()),
            Err(usage) => return Err(usage),
        }
    }
    if args.json {
        output::print(&json(nodes.iter().map(Node::to_json).collect()))?;
    } else {
        let texts: Vec<String> = nodes.iter().map(Node::to_text).collect();
        output::print(&texts.join("\n"))?;
    }
    complain_of(&faults)
}

/// Translates a configuration of Flink. A summary of its settings goes to standard error.
pub(super) fn translate(file: &FilePath) -> Result<(), CliError> {
    let unusable = |error: &dyn std::fmt::Display| {
        CliError::Usage(format!("`{}` is not a configuration of Flink: {error}", file.display()))
    };
    let mut text = String::new();
    let read = if file == FilePath::new("-") {
        std::io::stdin().lock().take(MAX_FLINK_BYTES).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|opened| opened.take(MAX_FLINK_BYTES).read_to_string(&mut text))
    };
    read.map_err(|error| unusable(&error))?;
    let translation = config::translate(&text, &Host::detect()).map_err(|error| unusable(&error))?;
    output::remark(&translation.summary);
    output::print(&translation.toml)
}

/// The bytes of an object, a file or a handle.
fn read(runtime: &Runtime, args: &StoreArgs, object: &str) -> Result<Bytes, CliError> {
    let get = |store: &Store, path: &str| {
        let path = Path::parse(path).map_err(CliError::runtime)?;
        let whole = async {
            let Some(meta) = store.head(&path, tools::retry()).await? else {
                return Err(StoreError::NotFound { path: path.clone() });
            };
            store.get_range(&path, 0..meta.size, tools::retry()).await
        };
        runtime.block_on(whole).map_err(CliError::runtime)
    };
    if let Some((folder, name)) = object.rsplit_once('/').filter(|(folder, _)| folder.contains("://")) {
        return get(&open(args, Some(folder.to_owned()))?.1, name);
    }
    if args.store.is_some() {
        return get(&open(args, None)?.1, object);
    }
    // Ordering: a file wins over a handle, whose digits may be the name of a file.
    match std::fs::read(object) {
        Ok(bytes) => Ok(bytes.into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => decode_handle(object).ok_or_else(|| {
            CliError::Usage(format!("`{object}` is neither a file, a URL of an object, nor a checkpoint handle"))
        }),
        Err(error) => Err(CliError::runtime(format!("reading `{object}`: {error}"))),
    }
}

/// The configuration, and the store that it names; `url` replaces that store.
pub(super) fn open(args: &StoreArgs, url: Option<String>) -> Result<(Config, Store), CliError> {
    let config = Config::resolve(&args.sources(url), &Host::detect())?;
    let folder = object::local_folder(&config.changelog.base_path);
    // A daemon makes this folder. A tool must not, or a slip in its name would look like an empty store.
    if let Some(folder) = folder.filter(|folder| !FilePath::is_dir(folder)) {
        return Err(CliError::runtime(format!("there is no store: no directory `{}`", folder.display())));
    }
    let store = daemon::store(&config, &Metrics::new(), &Clock::system(), Random::from_os());
    Ok((config, store.map_err(CliError::runtime)?))
}

pub(super) fn runtime() -> Result<Runtime, CliError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::runtime)
}

pub(super) fn print(node: &Node, as_json: bool) -> Result<(), CliError> {
    output::print(&if as_json { json(node.to_json()) } else { node.to_text() })
}

fn json(value: Value) -> String {
    format!("{value:#}\n")
}

pub(super) fn complain_of(faults: &[String]) -> Result<(), CliError> {
    if faults.is_empty() { Ok(()) } else { Err(CliError::runtime(faults.join("\n"))) }
}
