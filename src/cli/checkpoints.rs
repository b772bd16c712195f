//! `dstl checkpoints` and `dstl pin`, run on the store that the command line names.

use super::{
    CliError,
    args::{ByArgs, CheckpointsCommand, PinCommand, ToolArgs},
    reading, savepoint,
    tools::{complain_of, open, print, runtime},
};
use crate::{
    export::source::Source,
    object::{ObjectName, Path},
    random::Random,
    tools::{self, pin::By, target::Target},
};

/// Lists, shows or compares checkpoints that can be restored.
pub(super) fn run(command: CheckpointsCommand) -> Result<(), CliError> {
    match command {
        CheckpointsCommand::Ls { common, job } => {
            let (_, store) = open(&common.store, None)?;
            let listed = runtime()?.block_on(tools::checkpoints::run(&store, job));
            let (node, faults) = listed.map_err(CliError::runtime)?;
            print(&node, common.json)?;
            complain_of(&faults)
        }
        CheckpointsCommand::Show { common, target } => {
            let (job, checkpoint) = match target {
                Target::Checkpoint(job, checkpoint) => (job, checkpoint),
                Target::Savepoint(id) => return savepoint::show(&common, &id),
            };
            let (_, store) = open(&common.store, None)?;
            let source = Source { job, checkpoint, lease_ms: 0 };
            let shown = runtime()?.block_on(tools::checkpoints::show(&store, &source));
            print(&shown.map_err(CliError::runtime)?, common.json)
        }
        CheckpointsCommand::Diff { common, memory, keys, from, to } => reading::diff(&common, memory, keys, &from, &to),
    }
}

/// Lists, sets or removes pins.
pub(super) fn pin(command: PinCommand) -> Result<(), CliError> {
    match command {
        PinCommand::Ls { common, job } => {
            let (_, store) = open(&common.store, None)?;
            let listed = runtime()?.block_on(tools::pin::list(&store, job.as_ref()));
            let (node, faults) = listed.map_err(CliError::runtime)?;
            print(&node, common.json)?;
            complain_of(&faults)
        }
        PinCommand::Add { common, by, target } => set_pin(&common, &by, target, true),
        PinCommand::Rm { common, by, target } => {
            let lease = Path::parse(&target).ok().and_then(|path| ObjectName::parse(&path));
            if let Some(lease @ ObjectName::Pin { .. }) = lease {
                let (_, store) = open(&common.store, None)?;
                let ended = runtime()?.block_on(tools::pin::end_lease(&store, &lease));
                return print(&ended.map_err(CliError::runtime)?, common.json);
            }
            set_pin(&common, &by, target.parse().map_err(CliError::Usage)?, false)
        }
    }
}

fn set_pin(common: &ToolArgs, by: &ByArgs, target: Target, is_pinned: bool) -> Result<(), CliError> {
    let Target::Checkpoint(job, checkpoint) = target else {
        return Err(CliError::Usage("a savepoint needs no pin: it stays until it is removed".to_owned()));
    };
    let by = match (&by.socket, by.stopped) {
        (Some(socket), _) => By::Daemon(socket),
        (None, true) => By::Fences,
        (None, false) => {
            let what = "give `--socket PATH` of the daemon that runs the job, or `--stopped` if no task of it runs";
            return Err(CliError::Usage(what.to_owned()));
        }
    };
    let (_, store) = open(&common.store, None)?;
    let source = Source { job, checkpoint, lease_ms: 0 };
    let set = runtime()?.block_on(tools::pin::set(&store, &source, is_pinned, by, &Random::from_os()));
    print(&set.map_err(CliError::runtime)?, common.json)
}
