//! Tools that read whole checkpoints and savepoints, run on the store that the command line names.

use std::ops::ControlFlow;

use indicatif::{ProgressBar, ProgressStyle};

use super::{
    CliError,
    args::{ChangelogArgs, ReadArgs, StateCommand, StoreArgs, ToolArgs, WhichArgs},
    output::Lines,
    tools::{complain_of, open, print, runtime},
};
use crate::{
    config::Config,
    daemon,
    export::source::Source,
    object::Store,
    random::Random,
    restore::reader::ReaderOptions,
    savepoint::Row,
    state::image::LocalBackends,
    tasks::Tasks,
    tools::{
        self, changelog, diff,
        outline::Node,
        savepoint,
        state::{self, Filter},
        target::{Place, Target},
        verify,
    },
    types::Name,
};

/// Most bytes of memory for the caches of images. Each block of an image is read only once.
const MOST_CACHE: u64 = 32 << 20;

/// The store and resources with which a tool reads checkpoints.
pub(super) struct Reading {
    config: Config,
    store: Store,
    tasks: Tasks,
    random: Random,
    local: Option<std::sync::Arc<dyn LocalBackends>>,
    memory: u64,
}

impl Reading {
    /// Reads from the store that `args` name, with `memory` bytes for state.
    pub(super) fn open(args: &StoreArgs, memory: u64) -> Result<Self, CliError> {
        let (config, store) = open(args, None)?;
        Self::new(config, store, memory)
    }

    /// Reads from `store`, with the settings that `args` name and `memory` bytes for state.
    pub(super) fn of(args: &StoreArgs, store: Store, memory: u64) -> Result<Self, CliError> {
        Self::new(open(args, None)?.0, store, memory)
    }

    fn new(mut config: Config, store: Store, memory: u64) -> Result<Self, CliError> {
        // The configured share is meant for a daemon that writes state, and such a daemon may run on this host.
        config.rocksdb.resources.memory_bytes = config.rocksdb.resources.memory_bytes.min(MOST_CACHE);
        let local = daemon::local_backends(&config).map_err(CliError::runtime)?;
        Ok(Self { config, store, tasks: Tasks::default(), random: Random::from_os(), local, memory })
    }

    pub(super) fn options(&self) -> ReaderOptions<'_> {
        self.options_at(&self.store)
    }

    /// The options for reading from another store.
    pub(super) fn options_at<'a>(&'a self, store: &'a Store) -> ReaderOptions<'a> {
        ReaderOptions {
            store,
            tasks: &self.tasks,
            random: &self.random,
            local: self.local.as_deref(),
            memory: self.memory,
            parallel_reads: self.config.backend.download_parallelism,
            retry: tools::retry(),
        }
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// The term of the leases that keep a checkpoint while it is read, in milliseconds.
    pub(super) fn lease_ms(&self) -> u64 {
        u64::try_from(self.config.backend.pin_lease.as_millis()).unwrap_or(u64::MAX)
    }

    /// The term of the leases for reading at `place`; 0 if none are needed.
    pub(super) fn lease_at(&self, place: &Place) -> u64 {
        if place.is_of_job { self.lease_ms() } else { 0 }
    }
}

/// Rebuilds all of a checkpoint, or reads all of a savepoint, and prints a report.
pub(super) fn verify(args: &ReadArgs) -> Result<(), CliError> {
    let reading = Reading::open(&args.store, args.memory)?;
    let bar = progress_bar(args.json);
    let verified = read_all(&reading, &args.target, &bar);
    bar.finish_and_clear();
    let (node, faults) = verified?;
    print(&node, args.json)?;
    complain_of(&faults)
}

/// Verifies `target` like [`verify()`], but prints nothing.
pub(super) fn verify_all(reading: &Reading, target: &Target) -> Result<(), CliError> {
    let bar = progress_bar(false);
    let verified = read_all(reading, target, &bar);
    bar.finish_and_clear();
    complain_of(&verified?.1)
}

fn read_all(reading: &Reading, target: &Target, bar: &ProgressBar) -> Result<(Node, Vec<String>), CliError> {
    runtime()?.block_on(async {
        let place = Place::of(&reading.store, target).await.map_err(CliError::runtime)?;
        let (job, checkpoint) = match &place.target {
            Target::Checkpoint(job, checkpoint) => (job.clone(), *checkpoint),
            Target::Savepoint(id) => {
                let read = savepoint::verify(&place.store, id).await;
                return read.map(|node| (node, vec![])).map_err(CliError::runtime);
            }
        };
        let source = Source { job, checkpoint, lease_ms: reading.lease_at(&place) };
        let options = reading.options_at(&place.store);
        let verified = verify::checkpoint(&source, &options, |read| bar.set_position(read.bytes_done)).await;
        verified.map_err(CliError::runtime)
    })
}

/// Shows the states and keys that grew between two checkpoints or savepoints.
pub(super) fn diff(common: &ToolArgs, memory: u64, keys: usize, from: &Target, to: &Target) -> Result<(), CliError> {
    let reading = Reading::open(&common.store, memory)?;
    let bar = progress_bar(common.json);
    let compared: Result<Node, CliError> = runtime()?.block_on(async {
        let from = Place::of(&reading.store, from).await.map_err(CliError::runtime)?;
        let to = Place::of(&reading.store, to).await.map_err(CliError::runtime)?;
        let (before, after) = (reading.options_at(&from.store), reading.options_at(&to.store));
        let from = diff::Side { target: &from.target, options: &before, lease_ms: reading.lease_at(&from) };
        let to = diff::Side { target: &to.target, options: &after, lease_ms: reading.lease_at(&to) };
        let told = |entries: u64| bar.set_message(format!("{entries} entries, "));
        diff::diff(from, to, keys, told).await.map_err(CliError::runtime)
    });
    bar.finish_and_clear();
    print(&compared?, common.json)
}

/// Shows the changes in the log of a checkpoint.
pub(super) fn changelog(args: &ChangelogArgs) -> Result<(), CliError> {
    let ChangelogArgs { read, operator, subtask, state, key, key_group, from, to, limit } = args.clone();
    let limit = limit.unwrap_or(u64::MAX);
    let filter = changelog::Filter { operator, subtask, state, key, key_group, from, to };
    let reading = Reading::open(&read.store, read.memory)?;
    let line = if read.json { changelog::json_line } else { changelog::line };
    let (mut shown, mut lines) = (0, Lines::new());
    let dumped: Result<(), CliError> = runtime()?.block_on(async {
        let place = Place::of(&reading.store, &read.target).await.map_err(CliError::runtime)?;
        let Target::Checkpoint(job, checkpoint) = place.target.clone() else {
            return Err(CliError::Usage(
                "a savepoint of rows has no log; `dstl state scan` shows its entries".to_owned(),
            ));
        };
        let source = Source { job, checkpoint, lease_ms: reading.lease_at(&place) };
        let options = reading.options_at(&place.store);
        let dump = changelog::dump(&source, &filter, &options, |change| {
            if shown == limit {
                return ControlFlow::Break(());
            }
            shown += 1;
            lines.print(&line(change))
        });
        dump.await.map_err(CliError::runtime)
    });
    // Ordering: the lines that were made go out before a fault is told.
    lines.finish()?;
    dumped
}

/// Shows entries of a checkpoint or a savepoint.
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

/// Shows up to `limit` entries, and returns their number.
fn show(args: &ReadArgs, filter: &Filter, limit: u64) -> Result<u64, CliError> {
    let reading = Reading::open(&args.store, args.memory)?;
    let line = if args.json { state::json_line } else { state::line };
    let (mut shown, mut lines) = (0, Lines::new());
    let scanned = runtime()?.block_on(async {
        let place = Place::of(&reading.store, &args.target).await?;
        let (options, lease_ms) = (reading.options_at(&place.store), reading.lease_at(&place));
        let show = |operator: &Name, row: &Row<'_>| {
            if shown == limit {
                return ControlFlow::Break(());
            }
            shown += 1;
            lines.print(&line(operator, row))
        };
        state::scan(&place.target, filter, &options, lease_ms, show).await
    });
    // Ordering: the lines that were made go out before a fault is told.
    lines.finish()?;
    scanned.map_err(CliError::runtime)?;
    Ok(shown)
}

/// Shows on a terminal how much of the current subtask was read.
pub(super) fn progress_bar(quiet: bool) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {msg}{bytes} in {elapsed}");
    ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
}
