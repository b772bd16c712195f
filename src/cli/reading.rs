//! The tools that read whole checkpoints and savepoints, run on the store that the command line names.

use std::ops::ControlFlow;

use indicatif::{ProgressBar, ProgressStyle};

use super::{
    CliError,
    args::{ReadArgs, StateCommand, StoreArgs, WhichArgs},
    output::Lines,
    savepoint,
    tools::{complain_of, open, print, runtime},
};
use crate::{
    config::Config,
    daemon,
    export::source::Source,
    object::Store,
    random::Random,
    restore::reader::ReaderOptions,
    state::image::LocalBackends,
    tasks::Tasks,
    tools::{
        self,
        state::{self, Filter},
        target::Target,
        verify,
    },
};

/// The store, the settings and the helpers of this process that reading a checkpoint needs.
pub(super) struct Reading {
    config: Config,
    store: Store,
    tasks: Tasks,
    random: Random,
    local: Option<std::sync::Arc<dyn LocalBackends>>,
    memory: u64,
}

impl Reading {
    /// Reads from the store that `args` name, with so many bytes of memory for state.
    pub(super) fn open(args: &StoreArgs, memory: u64) -> Result<Self, CliError> {
        let (config, store) = open(args, None)?;
        let local = daemon::local_backends(&config).map_err(CliError::runtime)?;
        Ok(Self { config, store, tasks: Tasks::default(), random: Random::from_os(), local, memory })
    }

    pub(super) fn options(&self) -> ReaderOptions<'_> {
        ReaderOptions {
            store: &self.store,
            tasks: &self.tasks,
            random: &self.random,
            local: self.local.as_deref(),
            memory: self.memory,
            parallel_reads: self.config.changelog.download_threads,
            retry: tools::retry(),
        }
    }

    /// The lease of the pins that keep a checkpoint while it is read, in milliseconds.
    pub(super) fn lease_ms(&self) -> u64 {
        u64::try_from(self.config.pin_lease.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Rebuilds all of a checkpoint, or reads all of a savepoint.
pub(super) fn verify(args: &ReadArgs) -> Result<(), CliError> {
    let (job, checkpoint) = match &args.target {
        Target::Checkpoint(job, checkpoint) => (job.clone(), *checkpoint),
        Target::Savepoint(id) => return savepoint::verify(&args.store, id, args.json),
    };
    let reading = Reading::open(&args.store, args.memory)?;
    let source = Source { job, checkpoint, lease_ms: reading.lease_ms() };
    let bar = progress_bar(args.json);
    let verified = runtime()?.block_on(verify::checkpoint(&source, &reading.options(), |read| {
        bar.set_position(read.bytes_done);
    }));
    bar.finish_and_clear();
    let (node, faults) = verified.map_err(CliError::runtime)?;
    print(&node, args.json)?;
    complain_of(&faults)
}

/// Shows entries.
pub(super) fn state(command: StateCommand) -> Result<(), CliError> {
    match command {
        StateCommand::Get { read, which, key } => {
            let shown = show(&read, &Filter { key: Some(key), ..filter(which) }, u64::MAX)?;
            if shown > 0 { Ok(()) } else { Err(CliError::runtime("there are no such entries")) }
        }
        StateCommand::Scan { read, which, key_group, limit } => {
            show(&read, &Filter { key_group, ..filter(which) }, limit.unwrap_or(u64::MAX)).map(|_| ())
        }
    }
}

fn filter(which: WhichArgs) -> Filter {
    let WhichArgs { operator, state, namespace } = which;
    Filter { operator, state, namespace, ..Filter::default() }
}

/// Shows up to `limit` entries; tells how many it showed.
fn show(args: &ReadArgs, filter: &Filter, limit: u64) -> Result<u64, CliError> {
    let reading = Reading::open(&args.store, args.memory)?;
    let options = reading.options();
    let line = if args.json { state::json_line } else { state::line };
    let (mut shown, mut lines) = (0, Lines::new());
    let scan = state::scan((&args.target, filter), (&options, reading.lease_ms()), |operator, row| {
        if shown == limit {
            return ControlFlow::Break(());
        }
        shown += 1;
        lines.print(&line(operator, row))
    });
    let scanned = runtime()?.block_on(scan);
    lines.finish()?;
    scanned.map_err(CliError::runtime)?;
    Ok(shown)
}

/// Shows how much was read of the subtask at hand, on a terminal.
pub(super) fn progress_bar(quiet: bool) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} read {bytes} in {elapsed}");
    ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
}
