//! Load: how fast a task gets its work through a real daemon, over the real socket, with a store that fsyncs.
//!
//! ```text
//!   cargo bench --bench load -- [update|latency] [--json] [options]
//! ```
//!
//! * `update`: batches of value updates at uniform random keys, as fast as the daemon takes them, with a checkpoint
//!   each second.
//! * `latency`: one operation in flight, by unary calls and in a session, beside a bare tonic echo in the same run.
//!
//! Each scenario runs a daemon of its own, of the same build, in a temporary folder. Rates are medians of windows. On a
//! shared machine only what was measured in the same run compares: quote ratios.

mod daemon;
mod echo;
mod latency;
mod process;
mod report;
mod update;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args as ClapArgs, Parser, Subcommand};

/// What a measurement may fail with.
type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Measure the speed of a real daemon.
#[derive(Debug, Parser)]
#[command(name = "load")]
struct Args {
    /// Measure only this.
    #[command(subcommand)]
    scenario: Option<Scenario>,
    #[command(flatten)]
    options: Options,
    /// Cargo adds it.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
enum Scenario {
    /// Saturate a daemon with value updates.
    Update,
    /// Wait for one operation at a time.
    Latency,
    /// Serve the bare echo: what `latency` starts beside the daemon.
    #[command(hide = true)]
    Echo {
        /// Where to listen.
        socket: PathBuf,
    },
}

/// What both scenarios may be told.
#[derive(Debug, Clone, ClapArgs)]
struct Options {
    /// Print one JSON object instead of text.
    #[arg(long, global = true)]
    json: bool,
    /// Keep this many keys.
    #[arg(long, global = true, value_name = "N", default_value_t = 1_000_000)]
    keys: u64,
    /// Write values of this length.
    #[arg(long, global = true, value_name = "BYTES", default_value_t = 100)]
    value_bytes: usize,
    /// Put this many updates into a batch.
    #[arg(long, global = true, value_name = "N", default_value_t = 500)]
    batch: usize,
    /// Measure windows of this length.
    #[arg(long, global = true, value_name = "S", default_value_t = 10)]
    seconds: u64,
    /// Measure this many windows.
    #[arg(long, global = true, value_name = "N", default_value_t = 3)]
    windows: usize,
    /// Warm up for so long, after every key was written once.
    #[arg(long, global = true, value_name = "S", default_value_t = 4)]
    warm_up: u64,
    /// Trigger checkpoints so often; 0 for none.
    #[arg(long, global = true, value_name = "MS", default_value_t = 1000)]
    checkpoint_ms: u64,
    /// Time this many operations of each kind.
    #[arg(long, global = true, value_name = "N", default_value_t = 20_000)]
    operations: u64,
    /// Make the temporary folders here [default: the system's folder for them].
    #[arg(long, global = true, value_name = "PATH")]
    dir: Option<PathBuf>,
    /// Measure this binary [default: `dstl` of the same build].
    #[arg(long, global = true, value_name = "PATH", default_value = env!("CARGO_BIN_EXE_dstl"), hide_default_value = true)]
    daemon: PathBuf,
    /// Set an option of the daemon; may be repeated.
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Options {
    fn window(&self) -> Duration {
        Duration::from_secs(self.seconds)
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
    if let Some(Scenario::Echo { socket }) = &args.scenario {
        return echo::serve(socket).await;
    }
    let wanted = |scenario: Scenario| args.scenario.as_ref().is_none_or(|only| *only == scenario);
    let mut report = report::Report::new(&args.options);
    if wanted(Scenario::Update) {
        report.update(update::measure(&args.options).await?);
    }
    if wanted(Scenario::Latency) {
        report.latency(latency::measure(&args.options).await?);
    }
    report.print();
    Ok(())
}
