//! Peers: dstl and its peers under the same work, on one machine, in one run.
//!
//! ```text
//!   make bench-peers ARGS="[--only NAME,…] [--rounds N] [--works update,rmw] [--json] [--chart FILE] [options]"
//! ```
//!
//! Each round runs each system once, in a process of its own, in a temporary folder of its own. The rounds alternate
//! between the systems, so a slow minute of the machine meets all of them; each figure is the median of the rounds.
//!
//! | work | operations of one task |
//! | --- | --- |
//! | `update` | Writes of 100 random bytes under uniform 8-byte keys, in batches, durable each second. |
//! | `rmw` | It counts under such keys: it reads a counter, adds one and writes it. Redis counts by itself (`INCR`). |
//!
//! Every key is written once before the work; then comes a warm-up, then one window that counts. Work that is applied
//! inside the window counts. The last durable point follows the window, and the run waits for it.
//!
//! A system that cannot be measured is named in the table, in the chart and in the JSON, with the reason.

#![allow(clippy::disallowed_methods)]

mod chart;
mod child;
mod distribution;
mod engine;
mod machine;
mod measured;
mod outside;
mod process;
mod report;
mod round;
mod source;
mod system;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args as ClapArgs, Parser, ValueEnum};
use serde::Serialize;

use self::{
    report::Report,
    system::{Engine, System},
};

/// The allocator of the daemon, which RocksDB gets as well: the engines in process have the same one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Any error of a measurement.
type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Measure dstl and its peers under the same work.
#[derive(Debug, Parser)]
#[command(name = "peers")]
struct Args {
    #[command(flatten)]
    run: Run,
    /// Measure one engine inside this process, and print one JSON object: how this program calls itself.
    #[arg(long, hide = true, value_enum, requires = "work")]
    engine: Option<Engine>,
    /// The work of that engine.
    #[arg(long, hide = true, value_enum)]
    work: Option<Work>,
}

/// Kinds of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Work {
    /// Write values.
    Update,
    /// Read counters, and write them.
    Rmw,
}

impl Work {
    fn name(self) -> &'static str {
        match self {
            Self::Update => "update",
            Self::Rmw => "rmw",
        }
    }
}

/// Options of a run.
#[derive(Debug, ClapArgs)]
struct Run {
    /// Run each system this many times.
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// Measure only these systems; `flink` means all whose names begin with it [default: all].
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    only: Vec<String>,
    /// Do these kinds of work.
    #[arg(long, value_enum, value_name = "WORK,…", value_delimiter = ',', default_values_t = [Work::Update])]
    works: Vec<Work>,
    /// Print one JSON object instead of tables.
    #[arg(long)]
    json: bool,
    /// Draw the result of `update` into this SVG file.
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
    /// Make the temporary folders here [default: the system's folder for them].
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
    /// Measure dstl by this build of its bench `load`; without it, dstl is left out.
    #[arg(long, value_name = "PATH", env = "DSTL_LOAD")]
    load: Option<PathBuf>,
    /// Measure this daemon [default: that of the build of `load`].
    #[arg(long, value_name = "PATH")]
    daemon: Option<PathBuf>,
    #[command(flatten)]
    parameters: Parameters,
}

/// How much work there is.
#[derive(Debug, Clone, ClapArgs, Serialize)]
struct Parameters {
    /// Keep this many keys.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    keys: u64,
    /// Write values of this length.
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    value_bytes: usize,
    /// Put this many operations into a batch.
    #[arg(long, value_name = "N", default_value_t = 500)]
    batch: usize,
    /// Measure a window of this length.
    #[arg(long, value_name = "S", default_value_t = 10)]
    seconds: u64,
    /// Warm up for so long, after every key was written once.
    #[arg(long, value_name = "S", default_value_t = 4)]
    warm_up: u64,
}

impl Work {
    /// The systems that have it, of those that `run` asks for.
    fn systems(self, run: &Run) -> Vec<System> {
        let asked = |system: &System| run.only.is_empty() || run.only.iter().any(|name| system.is_called(name));
        System::ALL.iter().copied().filter(|system| system.does(self)).filter(asked).collect()
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match (args.engine, args.work) {
        (Some(engine), Some(work)) => engine::measure(engine, work, &args.run).map(|()| true),
        _ => compare(&args.run),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        // The report has said it already.
        Ok(false) => ExitCode::FAILURE,
        Err(fault) => {
            eprintln!("peers: {fault}");
            ExitCode::FAILURE
        }
    }
}

/// Runs all rounds and reports them. False if a system broke: one that is not installed breaks nothing.
fn compare(run: &Run) -> Result<bool, Fault> {
    if let Some(name) = run.only.iter().find(|name| !System::ALL.iter().any(|system| system.is_called(name))) {
        let names: Vec<_> = System::ALL.iter().map(|system| system.name()).collect();
        return Err(format!("there is no system `{name}`; there are {}", names.join(", ")).into());
    }
    let mut report = Report::new(run);
    for work in &run.works {
        round::all(*work, run, &mut report);
    }
    if let Some(path) = &run.chart {
        std::fs::write(path, chart::draw(&report)).map_err(|error| format!("`{}`: {error}", path.display()))?;
    }
    if run.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{report}");
    }
    Ok(!report.is_broken())
}
