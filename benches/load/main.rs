//! Load: how fast a task gets its work through a real daemon, over the real socket, with a store that fsyncs.
//!
//! ```text
//!   cargo bench --bench load -- [SCENARIO…] [--json] [options]
//! ```
//!
//! | | |
//! | --- | --- |
//! | `floor` | updates into a hash map behind bare tonic, without checks, checkpoints or a store: the limit of the wire |
//! | `update` … `window` | one task that does one kind of operation in pipelined batches, with a checkpoint each second |
//! | `restore` | a daemon is killed, and another one restores its log, its snapshot, or both, from the store |
//! | `multi` | eight backends that write little, each with ten checkpoints a second |
//! | `idle` | a hundred open backends, to which nothing happens |
//! | `export` | how long batches take while a savepoint is made, and while none is |
//! | `latency` | one operation in flight, by unary calls and in a session, beside a bare tonic echo in the same run |
//!
//! Each scenario runs a daemon of its own, of the same build, in a temporary folder. Rates are medians of windows. On a
//! shared machine only measurements of the same run can be compared: quote ratios.

#![allow(clippy::disallowed_methods)]

mod daemon;
mod echo;
mod export;
mod floor;
mod latency;
mod process;
mod report;
mod restore;
mod saturate;
mod scale;
mod source;
mod work;

use std::{fmt, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args as ClapArgs, Parser, ValueEnum};
use serde::Serialize;

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
    /// Restore the log, a snapshot, or both.
    Restore,
    /// Take ten checkpoints a second of eight backends each.
    Multi,
    /// Leave a hundred open backends alone.
    Idle,
    /// Make savepoints beside a steady writer.
    Export,
    /// Wait for one operation at a time.
    Latency,
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

/// Kinds of inner backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Inner {
    Hashmap,
    Rocksdb,
}

/// Whether the changelog is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Changelog {
    On,
    Off,
}

/// Options of the scenarios.
#[derive(Debug, Clone, ClapArgs)]
struct Options {
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// Keep this many keys.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    keys: u64,
    /// Write values of this length.
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    value_bytes: usize,
    /// Put this many updates into a batch.
    #[arg(long, value_name = "N", default_value_t = 500)]
    batch: usize,
    /// Measure windows of this length.
    #[arg(long, value_name = "S", default_value_t = 10)]
    seconds: u64,
    /// Measure this many windows.
    #[arg(long, value_name = "N", default_value_t = 3)]
    windows: usize,
    /// Warm up for so long, after every key was written once.
    #[arg(long, value_name = "S", default_value_t = 4)]
    warm_up: u64,
    /// Trigger checkpoints so often; 0 for none.
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    checkpoint_ms: u64,
    /// Time this many operations of each kind.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    operations: u64,
    /// Make the temporary folders here [default: the system's folder for them].
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
    /// Measure this binary [default: `dstl` of the same build].
    #[arg(long, value_name = "PATH", default_value = env!("CARGO_BIN_EXE_dstl"), hide_default_value = true)]
    daemon: PathBuf,
    /// Keep state in this inner backend.
    #[arg(long, value_enum, default_value_t = Inner::Hashmap)]
    inner: Inner,
    /// Have a changelog, or snapshots at each checkpoint.
    #[arg(long, value_enum, default_value_t = Changelog::On)]
    changelog: Changelog,
    /// Skew the keys by a Zipf distribution of this exponent, below 1 [default: uniform].
    #[arg(long, value_name = "THETA")]
    zipf: Option<f64>,
    /// Send at most so many operations a second [default: as many as the daemon takes].
    #[arg(long, value_name = "N")]
    rate: Option<u64>,
    /// Set an option of the daemon; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Options {
    fn window(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// Settings of the daemon.
    fn settings(&self) -> Vec<String> {
        let inner = match self.inner {
            Inner::Hashmap => "hashmap",
            Inner::Rocksdb => "rocksdb",
        };
        let changelog = self.changelog == Changelog::On;
        let own = [format!("state.backend.type={inner}"), format!("state.changelog.enabled={changelog}")];
        own.into_iter().chain(self.set.iter().cloned()).collect()
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
        return floor::serve(socket).await;
    }
    let options = &args.options;
    let scenarios = if args.scenarios.is_empty() { Scenario::value_variants() } else { &args.scenarios };
    let mut report = report::Report::new(options);
    for scenario in scenarios {
        match scenario {
            Scenario::Latency => report.latency(latency::measure(options).await?),
            Scenario::Export => report.export(export::measure(options).await?),
            Scenario::Restore => report.restore(restore::measure(options).await?),
            Scenario::Multi => report.scale(scale::multi(options).await?),
            Scenario::Idle => report.scale(scale::idle(options).await?),
            _ => report.saturated(*scenario, saturate::measure(*scenario, options).await?),
        }
    }
    report.print();
    Ok(())
}
