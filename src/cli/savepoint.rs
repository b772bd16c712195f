//! `dstl savepoint`, run on the store that the command line names.

use indicatif::{ProgressBar, ProgressStyle};

use super::{
    CliError,
    args::{SavepointArgs, SavepointCommand},
    tools::{complain_of, open, print, runtime},
};
use crate::{
    clock::Clock,
    config::Config,
    daemon,
    export::{self, Export},
    object::Store,
    random::Random,
    restore::reader::ReaderOptions,
    savepoint::SavepointId,
    state::image::LocalBackends,
    tasks::Tasks,
    tools::{self, savepoint},
};

/// What reading a checkpoint needs of this process.
struct Host {
    store: Store,
    tasks: Tasks,
    random: Random,
}

impl Host {
    fn options<'a>(&'a self, config: &Config, local: Option<&'a dyn LocalBackends>, memory: u64) -> ReaderOptions<'a> {
        ReaderOptions {
            store: &self.store,
            tasks: &self.tasks,
            random: &self.random,
            local,
            memory,
            parallel_reads: config.changelog.download_threads,
            retry: tools::retry(),
        }
    }
}

/// Makes, lists, shows, verifies or removes a savepoint.
pub(super) fn run(command: SavepointCommand) -> Result<(), CliError> {
    match command {
        SavepointCommand::Create { common, job, checkpoint, memory, name } => {
            create(&common, memory, |lease_ms, now| Export { job, checkpoint, name, lease_ms, now })
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
        SavepointCommand::Verify { common, savepoint: id } => {
            let (_, store) = open(&common.store, None)?;
            print(&runtime()?.block_on(savepoint::verify(&store, &id)).map_err(CliError::runtime)?, common.json)
        }
        SavepointCommand::Rm { common, savepoint: id } => remove(&common, &id),
    }
}

fn create(args: &SavepointArgs, memory: u64, export: impl FnOnce(u64, u64) -> Export) -> Result<(), CliError> {
    let (config, store) = open(&args.store, None)?;
    let host = Host { store, tasks: Tasks::default(), random: Random::from_os() };
    let lease_ms = u64::try_from(config.pin_lease.as_millis()).unwrap_or(u64::MAX);
    let export = export(lease_ms, Clock::system().now_ms());
    let local = daemon::local_backends(&config).map_err(CliError::runtime)?;
    let options = host.options(&config, local.as_deref(), memory);
    let bar = progress_bar(args.json);
    let made = runtime()?.block_on(export::create(&export, &options, |read| {
        bar.set_position(read.bytes_done);
    }));
    bar.finish_and_clear();
    let metadata = made.map_err(CliError::runtime)?;
    print(&savepoint::whole(&SavepointId { job: export.job, name: export.name }, &metadata), args.json)
}

fn remove(args: &SavepointArgs, id: &SavepointId) -> Result<(), CliError> {
    let (config, store) = open(&args.store, None)?;
    let host = Host { store, tasks: Tasks::default(), random: Random::from_os() };
    let removed = runtime()?.block_on(export::remove(id, &host.options(&config, None, 0)));
    print(&savepoint::removed(id, removed.map_err(CliError::runtime)?), args.json)
}

/// Shows how much was read of the subtask at hand, on a terminal.
fn progress_bar(quiet: bool) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} read {bytes} in {elapsed}");
    ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
}
