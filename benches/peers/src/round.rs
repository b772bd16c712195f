//! Rounds: each system in turn, again and again.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use super::{
    Fault, Run, Work, child,
    measured::Measured,
    outside::{self, Absent, Flink},
    report::{LeftOut, Report},
    system::{Driver, Engine, System},
};

/// The time that a system may take beside warm-up and window: its start, the fill, its last durable point, its end.
const SLACK: Duration = Duration::from_secs(180);

/// The slowest fill that is waited for, in keys a second.
const SLOWEST_FILL: u64 = 10_000;

/// Runs `work` on each system of `run`, in as many rounds as it says, and adds the results to `report`.
pub(crate) fn all(work: Work, run: &Run, report: &mut Report) {
    let asked = work.systems(run);
    for system in System::ALL.into_iter().filter(|system| system.does(work) && !asked.contains(system)) {
        report.leave_out(LeftOut::unasked(system, work));
    }
    let mut present = Vec::new();
    for system in asked {
        match outside::prepare(system, run) {
            Ok(()) => present.push(system),
            Err(Absent(reason)) => leave_out(LeftOut::absent(system, work, reason), report),
        }
    }
    for round in 1..=run.rounds {
        // A system that broke once is not run again: it has no median.
        for system in present.clone() {
            let begun = Instant::now();
            match once(system, work, run) {
                Ok(measured) => {
                    let (rate, took) = (measured.operations_per_second / 1e3, begun.elapsed().as_secs());
                    let (of, name, rounds) = (work.name(), system.name(), run.rounds);
                    eprintln!("peers: {of} round {round} of {rounds}: {name} {rate:.0} k/s ({took} s)");
                    report.add(system, work, measured);
                }
                Err(fault) => {
                    present.retain(|it| *it != system);
                    leave_out(LeftOut::broken(system, work, fault.to_string()), report);
                }
            }
        }
    }
}

/// Says at once that a system is left out; the report says it again at the end.
fn leave_out(left_out: LeftOut, report: &mut Report) {
    eprintln!("peers: {left_out}");
    report.leave_out(left_out);
}

/// Runs `system` once, in a folder that goes with it.
fn once(system: System, work: Work, run: &Run) -> Result<Measured, Fault> {
    let parent = run.dir.clone().unwrap_or_else(std::env::temp_dir);
    let folder = tempfile::Builder::new().prefix("dstl-peers-").tempdir_in(parent)?;
    let parameters = &run.parameters;
    let fill = Duration::from_secs(parameters.keys / SLOWEST_FILL);
    let limit = Duration::from_secs(parameters.warm_up + parameters.seconds) + fill + SLACK;
    // Beside output and log of the process, whose names a system might take.
    let data = folder.path().join("data");
    std::fs::create_dir(&data)?;
    match system.driver() {
        Driver::Load { scenario } => {
            let command = outside::load(scenario.unwrap_or(work.name()), system.place(), run, &data)?;
            outside::of_load(&child::output(&command, folder.path(), limit)?)
        }
        Driver::Flink { bare, changelog } => {
            let flink = Flink { bare, changelog, place: system.place(), work };
            outside::of_flink(&child::output(&flink.command(run, &data), folder.path(), limit)?)
        }
        Driver::Own(engine) => {
            let command = own(engine, work, run, &data)?;
            Ok(serde_json::from_str(&child::output(&command, folder.path(), limit)?)?)
        }
    }
}

/// This program, for one engine with its data in `folder`.
fn own(engine: Engine, work: Work, run: &Run, folder: &Path) -> Result<Command, Fault> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--engine", engine.name(), "--work", work.name()]);
    command.arg("--dir").arg(folder);
    outside::add_parameters(&mut command, &run.parameters);
    Ok(command)
}
