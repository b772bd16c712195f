//! `dstl savepoint`, run on the store that the command line names.

use super::{
    CliError,
    args::{SavepointArgs, SavepointCommand, StoreArgs},
    reading::{Reading, progress_bar},
    tools::{complain_of, open, print, runtime},
};
use crate::{
    clock::Clock,
    export::{self, Export, source::Source},
    savepoint::SavepointId,
    tools::{self, savepoint},
};

/// Makes, lists, shows, verifies or removes a savepoint.
pub(super) fn run(command: SavepointCommand) -> Result<(), CliError> {
    match command {
        SavepointCommand::Create { common, job, checkpoint, memory, name } => {
            create(&common, memory, |lease_ms, now| Export { source: Source { job, checkpoint, lease_ms }, name, now })
        }
        SavepointCommand::Ls { common, job } => {
            let (_, store) = open(&common.store, None)?;
            let listed = runtime()?.block_on(savepoint::list(&store, &job));
            let (node, faults) = listed.map_err(CliError::runtime)?;
            print(&node, common.json)?;
            complain_of(&faults)
        }
        SavepointCommand::Show { common, savepoint: id } => {
            let (_, store) = open(&common.store, None)?;
            print(&runtime()?.block_on(savepoint::show(&store, &id)).map_err(CliError::runtime)?, common.json)
        }
        SavepointCommand::Verify { common, savepoint: id } => verify(&common.store, &id, common.json),
        SavepointCommand::Rm { common, savepoint: id } => remove(&common, &id),
    }
}

/// Reads all of a savepoint.
pub(super) fn verify(args: &StoreArgs, id: &SavepointId, as_json: bool) -> Result<(), CliError> {
    let (_, store) = open(args, None)?;
    print(&runtime()?.block_on(savepoint::verify(&store, id)).map_err(CliError::runtime)?, as_json)
}

fn create(args: &SavepointArgs, memory: u64, export: impl FnOnce(u64, u64) -> Export) -> Result<(), CliError> {
    let reading = Reading::open(&args.store, memory)?;
    let export = export(reading.lease_ms(), Clock::system().now_ms());
    let bar = progress_bar(args.json);
    let made = runtime()?.block_on(export::create(&export, &reading.options(), |read| {
        bar.set_position(read.bytes_done);
    }));
    bar.finish_and_clear();
    let metadata = made.map_err(CliError::runtime)?;
    print(&savepoint::whole(&SavepointId { job: export.source.job, name: export.name }, &metadata), args.json)
}

fn remove(args: &SavepointArgs, id: &SavepointId) -> Result<(), CliError> {
    let (_, store) = open(&args.store, None)?;
    let removed = runtime()?.block_on(export::remove(id, &store, tools::retry()));
    print(&savepoint::removed(id, removed.map_err(CliError::runtime)?), args.json)
}
