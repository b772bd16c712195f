//! `dstl savepoint`, run on the store that the command line names.

use std::{collections::BTreeMap, path::Path as FilePath};

use super::{
    CliError,
    args::{ImportArgs, ReadArgs, SavepointCommand, StoreArgs, ToolArgs},
    reading::{self, Reading, progress_bar},
    tools::{complain_of, open, print, runtime},
};
use crate::{
    checkpoint::job,
    clock::Clock,
    export::{
        self, Export,
        source::{self, Source},
    },
    object::{Path, Store},
    savepoint::{Metadata, Savepoint, SavepointId},
    tools::{
        self,
        import::{self, Declared, Import, Input},
        savepoint,
        target::{Elsewhere, ImportSource, Place, Target},
        transfer::{self, End},
    },
    types::Name,
};

/// Makes, lists, shows, moves or removes a savepoint.
pub(super) fn run(command: SavepointCommand) -> Result<(), CliError> {
    match command {
        SavepointCommand::Create { read, native, name } => create(&read, native, name),
        SavepointCommand::Ls { common, job } => {
            let (_, store) = open(&common.store, None)?;
            let listed = runtime()?.block_on(savepoint::list(&store, job.as_ref()));
            let (node, faults) = listed.map_err(CliError::runtime)?;
            print(&node, common.json)?;
            complain_of(&faults)
        }
        SavepointCommand::Show { common, savepoint: id } => show(&common, &id),
        SavepointCommand::Export { common, savepoint: id, destination } => {
            let (_, store) = open(&common.store, None)?;
            let there = open_elsewhere(&common.store, &destination, true)?;
            copy(&common, End { store: &store, id: &id }, End { store: &there, id: &destination.id })
        }
        SavepointCommand::Import(args) => import(&args),
        SavepointCommand::Rm { common, savepoint: id } => remove(&common, &id),
    }
}

/// Shows the contents of a savepoint.
pub(super) fn show(common: &ToolArgs, id: &SavepointId) -> Result<(), CliError> {
    let (_, store) = open(&common.store, None)?;
    print(&runtime()?.block_on(savepoint::show(&store, id)).map_err(CliError::runtime)?, common.json)
}

fn create(args: &ReadArgs, native: bool, name: Name) -> Result<(), CliError> {
    let Target::Checkpoint(job, checkpoint) = args.target.clone() else {
        let what =
            "a savepoint is made of a checkpoint: give `JOB` or `JOB@ID`; `dstl savepoint export` copies a savepoint";
        return Err(CliError::Usage(what.to_owned()));
    };
    let reading = Reading::open(&args.store, args.memory)?;
    let source = Source { job, checkpoint, lease_ms: reading.lease_ms() };
    let export = Export { source, name, now: Clock::system().now_ms() };
    let (bar, options) = (progress_bar(args.json), reading.options());
    let made = runtime()?.block_on(async {
        if native {
            export::native::create(&export, &options, |bytes| bar.set_position(bytes)).await.map(Savepoint::Native)
        } else {
            export::create(&export, &options, |read| bar.set_position(read.bytes_done)).await.map(Savepoint::Rows)
        }
    });
    bar.finish_and_clear();
    let made = made.map_err(CliError::runtime)?;
    print(&savepoint::whole(&SavepointId { job: export.source.job, name: export.name }, &made), args.json)
}

fn copy(common: &ToolArgs, from: End<'_>, to: End<'_>) -> Result<(), CliError> {
    let bar = progress_bar(common.json);
    let copied = runtime()?.block_on(transfer::copy(from, to, |bytes| bar.set_position(bytes)));
    bar.finish_and_clear();
    print(&savepoint::whole(to.id, &copied.map_err(CliError::runtime)?), common.json)
}

fn import(args: &ImportArgs) -> Result<(), CliError> {
    let mut operators: BTreeMap<Name, Vec<Input>> = BTreeMap::new();
    let reading = Reading::open(&args.common.store, args.memory)?;
    // Several threads, since one of them waits for rows while files in a store are read.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(CliError::runtime)?;
    for source in &args.sources {
        match source {
            ImportSource::Savepoint(elsewhere) if args.sources.len() == 1 => return bring(args, elsewhere),
            ImportSource::Savepoint(_) => {
                return Err(CliError::Usage("give one savepoint, or `OPERATOR=PATH` for each operator".to_owned()));
            }
            ImportSource::Files(operator, path) => {
                let found = inputs(&args.common.store, path, &runtime)?;
                operators.entry(operator.clone()).or_default().extend(found);
            }
        }
    }
    let declared = match (&args.states, &args.like) {
        (Some(file), _) => Declared::read(file).map_err(CliError::runtime)?,
        (None, Some(target)) => runtime.block_on(like(reading.store(), target))?,
        (None, None) => BTreeMap::new(),
    };
    if let Some(operator) = operators.keys().find(|name| !declared.is_empty() && !declared.contains_key(*name)) {
        return Err(CliError::Usage(format!("operator `{operator}` is not among the declared ones")));
    }
    let (id, max_parallelism, now) = (args.savepoint.clone(), args.max_parallelism, Clock::system().now_ms());
    let import = Import { id, operators, declared, max_parallelism, now };
    let bar = progress_bar(args.common.json);
    let options = reading.options();
    let made = runtime.block_on(import::create(&import, &options, |rows| {
        bar.set_message(format!("{rows} rows, "));
    }));
    bar.finish_and_clear();
    let metadata = made.map_err(CliError::runtime)?;
    print(&savepoint::whole(&import.id, &Savepoint::Rows(metadata)), args.common.json)
}

/// Copies a savepoint from another place, after all of it was read and verified.
fn bring(args: &ImportArgs, from: &Elsewhere) -> Result<(), CliError> {
    if args.states.is_some() || args.like.is_some() {
        return Err(CliError::Usage(
            "a savepoint has its states already: leave out `--states` and `--like`".to_owned(),
        ));
    }
    let (_, store) = open(&args.common.store, None)?;
    let there = open_elsewhere(&args.common.store, from, false)?;
    // Ordering: all of the savepoint is verified before its first file is copied.
    reading::verify_all(
        &Reading::of(&args.common.store, there.clone(), args.memory)?,
        &Target::Savepoint(from.id.clone()),
    )?;
    copy(&args.common, End { store: &there, id: &from.id }, End { store: &store, id: &args.savepoint })
}

/// The Parquet files at `path`, which is a local path or a URL.
fn inputs(args: &StoreArgs, path: &str, runtime: &tokio::runtime::Runtime) -> Result<Vec<Input>, CliError> {
    let Some((folder, name)) = path.trim_end_matches('/').rsplit_once('/').filter(|_| path.contains("://")) else {
        return Input::local(FilePath::new(path)).map_err(CliError::runtime);
    };
    let (_, store) = open(args, Some(folder.to_owned()))?;
    let name = Path::parse(name).map_err(|error| CliError::Usage(error.to_string()))?;
    runtime.block_on(Input::stored(&store, &name)).map_err(CliError::runtime)
}

/// The states of each operator of a checkpoint or a savepoint.
async fn like(store: &Store, target: &Target) -> Result<BTreeMap<Name, Declared>, CliError> {
    let Place { store, target, .. } = &Place::of(store, target).await.map_err(CliError::runtime)?;
    let (job, checkpoint) = match target {
        Target::Checkpoint(job, checkpoint) => (job.clone(), *checkpoint),
        Target::Savepoint(id) => {
            let rows = Metadata::read(store, id, tools::retry()).await.map_err(CliError::runtime)?;
            let declared = rows.operators.iter().filter_map(|(name, of)| Some((Name::new(name).ok()?, of.into())));
            return Ok(declared.collect());
        }
    };
    let heads = job::read_heads(store, &job, tools::retry()).await.map_err(CliError::runtime)?;
    let chosen = Source { job, checkpoint, lease_ms: 0 }.choose(&heads, None).map_err(CliError::runtime)?;
    let mut declared = BTreeMap::new();
    for (operator, parts) in source::parts(&heads, chosen) {
        let states = export::states(&operator, &parts).map_err(CliError::runtime)?.into_values().collect();
        let Some(span) = parts.first().map(|(head, record)| head.span(record)) else { continue };
        let (max_parallelism, assignment) = (span.max_parallelism, span.assignment);
        declared.insert(operator, Declared { max_parallelism, assignment, states });
    }
    Ok(declared)
}

/// The store of another place. A local folder is created if `make` is set.
fn open_elsewhere(args: &StoreArgs, place: &Elsewhere, make: bool) -> Result<Store, CliError> {
    let mut url = place.store.clone();
    if !url.contains("://") {
        let folder = std::path::absolute(&url).map_err(CliError::runtime)?;
        if make {
            std::fs::create_dir_all(&folder).map_err(CliError::runtime)?;
        }
        url = folder.to_string_lossy().into_owned();
    }
    Ok(open(args, Some(url))?.1)
}

fn remove(args: &ToolArgs, id: &SavepointId) -> Result<(), CliError> {
    let (_, store) = open(&args.store, None)?;
    let removed = runtime()?.block_on(export::remove(id, &store, tools::retry()));
    print(&savepoint::removed(id, removed.map_err(CliError::runtime)?), args.json)
}
