//! Load: how fast a task gets its work through a real daemon, over the real socket, with a store that fsyncs.
//!
//! ```text
//!   cargo bench --bench load -- [SCENARIO…] [--json] [options]
//! ```
//!
//! | | |
//! | --- | --- |
//! | `floor` | updates into a hash table or RocksDB behind bare tonic, without checks, checkpoints or a store: the limit of the wire |
//! | `update` … `window` | one task that does one kind of operation in pipelined batches, with a checkpoint each second |
//! | `changelog`, `hot-keys`, `memory` | updates with and without a changelog; the log of skewed keys; the daemon's memory |
//! | `materialization` | updates while state is materialized, and while it is not, told apart in one run |
//! | `checkpoint`, `tail` | a steady writer: checkpoints with more and more state; the slowest batches |
//! | `restore` | a daemon is killed, and another one restores its log, its snapshot, or both, also with another parallelism |
//! | `warm`, `kills` | a task comes back to its daemon; a daemon is killed at random moments |
//! | `multi`, `idle`, `growth` | eight busy backends; a hundred idle ones; more and more backends, states and keys |
//! | `export` | how long batches take while a savepoint is made, and while none is |
//! | `latency` | one operation in flight, by unary calls and in a session, beside a bare tonic echo in the same run |
//!
//! Each scenario runs a daemon of its own, of the same build, in a temporary folder. Rates are medians of windows. On a
//! shared machine only measurements of the same run can be compared: quote ratios.

#![allow(clippy::disallowed_methods)]

mod baseline;
mod daemon;
mod echo;
mod export;
mod figures;
mod floor;
mod growth;
mod latency;
mod options;
mod probe;
mod process;
mod report;
mod restarts;
mod restore;
mod running;
mod saturate;
mod scale;
mod source;
mod steady;
mod updates;
mod windows;
mod work;

use std::{fmt, path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum};
use serde::Serialize;

use self::{figures::Figures, options::Options};

/// The allocator of the daemon: the floor has the same one, and with it huge pages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Any error of a measurement.
type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Measure the speed of a real daemon.
#[derive(Debug, Parser)]
#[command(name = "load")]
struct Args {
    /// Measure these, in this order [default: all].
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,
    /// Serve the bare echo: what `latency` starts beside the daemon.
    #[arg(long, hide = true, value_name = "SOCKET")]
    serve_echo: Option<PathBuf>,
    /// Serve the floor.
    #[arg(long, hide = true, value_name = "SOCKET")]
    serve_floor: Option<PathBuf>,
    /// Keep the floor's state in RocksDB in this folder, rather than in a hash map.
    #[arg(long, hide = true, value_name = "FOLDER")]
    floor_folder: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
    /// Cargo adds it.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The scenarios, which run in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Scenario {
    /// Updates behind bare tonic: the limit of the wire.
    Floor,
    /// Write values.
    Update,
    /// Count in the task: read a counter, write it.
    Rmw,
    /// Count in the daemon: merge 1 into a sum.
    MergeSum,
    /// Read values.
    PointRead,
    /// Write map entries, 16 for each key.
    MapPut,
    /// Append to lists.
    ListAdd,
    /// Register timers, and fire them in order.
    Timers,
    /// Add to windows, and purge those that end.
    Window,
    /// Write values with and without a changelog, in turns, without checkpoints.
    Changelog,
    /// Write values of skewed keys, and count the bytes of the log.
    HotKeys,
    /// Compare the daemon's memory with the state.
    Memory,
    /// Write values, and tell apart when a materialization runs.
    Materialization,
    /// Take checkpoints of more and more state beside a steady writer.
    Checkpoint,
    /// Time the slowest batches of a steady writer: by itself, beside materializations, with new keys only.
    Tail,
    /// Restore the log, a snapshot, or both, and with another parallelism.
    Restore,
    /// Restart a task whose daemon lives.
    Warm,
    /// Kill daemons at random moments.
    Kills,
    /// Take ten checkpoints a second of eight backends each.
    Multi,
    /// Leave a hundred open backends alone.
    Idle,
    /// Have more and more backends, states and keys.
    Growth,
    /// Make savepoints beside a steady writer.
    Export,
    /// Wait for one operation at a time.
    Latency,
}

impl Scenario {
    /// Whether there is nothing to measure without a changelog.
    fn needs_changelog(self) -> bool {
        matches!(
            self,
            Self::HotKeys
                | Self::Materialization
                | Self::Restore
                | Self::Warm
                | Self::Kills
                | Self::Growth
                | Self::Export
        )
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let measured = runtime.map_err(Fault::from).and_then(|runtime| runtime.block_on(run(&args)));
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("load: {fault}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<(), Fault> {
    if let Some(socket) = &args.serve_echo {
        return echo::serve(socket).await;
    }
    if let Some(socket) = &args.serve_floor {
        return floor::serve(socket, args.floor_folder.as_deref()).await;
    }
    let scenarios = if args.scenarios.is_empty() { Scenario::value_variants() } else { &args.scenarios };
    let mut report = report::Report::new(args.options.json);
    for scenario in scenarios {
        if scenario.needs_changelog() && !args.options.is_logged() {
            eprintln!("load: {scenario} needs a changelog; left out");
            continue;
        }
        let baseline = baseline::measure(&args.options).await?;
        report.print(&baseline, measure(*scenario, &args.options).await?);
    }
    Ok(())
}

async fn measure(scenario: Scenario, options: &Options) -> Result<Vec<Figures>, Fault> {
    match scenario {
        Scenario::Changelog => updates::changelog(options).await,
        Scenario::HotKeys => updates::hot_keys(options).await,
        Scenario::Memory => updates::memory(options).await,
        Scenario::Materialization => windows::measure(options).await,
        Scenario::Checkpoint => steady::checkpoint(options).await,
        Scenario::Tail => steady::tail(options).await,
        Scenario::Restore => restore::measure(options).await,
        Scenario::Warm => restarts::warm(options).await,
        Scenario::Kills => restarts::kills(options).await,
        Scenario::Multi => scale::multi(options).await,
        Scenario::Idle => scale::idle(options).await,
        Scenario::Growth => growth::measure(options).await,
        Scenario::Export => export::measure(options).await,
        Scenario::Latency => latency::measure(options).await,
        _ => saturate::measure(scenario, options).await,
    }
}
