//! The systems that other programs drive: dstl by its bench `load`, Flink by Java code in `benches/peers/flink`.

use std::{path::Path, process::Command};

use serde_json::Value;

use super::{
    Fault, Parameters, Run, Work,
    distribution::Distribution,
    measured::Measured,
    system::{Driver, Engine, Place, System},
};

/// Builds and runs that code.
const FLINK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/flink/run.sh");

/// The memory of RocksDB, in dstl, in Flink and in process, as Flink and dstl take it: a size with its unit.
const DISK_BUDGET: &str = "512 mb";

/// The heap of Flink's JVM, in GiB: all state lies in it, or none.
const HEAP_WITH_STATE_GIB: u64 = 6;
const HEAP_WITHOUT_STATE_GIB: u64 = 2;

/// Why a system cannot be run on this machine.
pub(crate) struct Absent(pub(crate) String);

/// Looks for the programs that a system needs, and builds those that are built.
///
/// # Errors
/// If it is not there: the system is left out.
pub(crate) fn prepare(system: System, run: &Run) -> Result<(), Absent> {
    match system.driver() {
        Driver::Load { .. } => match &run.load {
            None => Err(Absent("no bench `load` was named: --load PATH, or `make bench-peers`".to_owned())),
            Some(path) if !path.exists() => Err(Absent(format!("`{}` does not exist", path.display()))),
            Some(_) => Ok(()),
        },
        Driver::Flink { .. } => {
            succeeds(Command::new(FLINK).arg("prepare"), "its code could not be built (JDK 17 and Maven are needed)")
        }
        Driver::Own(Engine::Redis) => {
            succeeds(Command::new("redis-server").arg("--version"), "redis-server is not installed")
        }
        Driver::Own(Engine::Slatedb | Engine::Rocksdb) => Ok(()),
    }
}

fn succeeds(command: &mut Command, reason: &str) -> Result<(), Absent> {
    let output = command.output().map_err(|error| Absent(format!("{reason}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let error = text.lines().rev().find(|line| line.contains("ERROR")).or_else(|| text.lines().last());
    Err(Absent(format!("{reason}: {}", error.unwrap_or_default())))
}

/// Adds the parameters as this program and `load` both call them.
pub(crate) fn add_parameters(command: &mut Command, parameters: &Parameters) {
    let Parameters { keys, value_bytes, batch, seconds, warm_up } = parameters;
    command.args(["--keys", &keys.to_string(), "--value-bytes", &value_bytes.to_string()]);
    command.args(["--batch", &batch.to_string(), "--seconds", &seconds.to_string()]);
    command.args(["--warm-up", &warm_up.to_string()]);
}

/// The bench `load` with one window of `scenario`, with state in `place`.
pub(crate) fn load(scenario: &str, place: Place, run: &Run, folder: &Path) -> Result<Command, Fault> {
    let mut command = Command::new(run.load.as_ref().ok_or("no bench `load` was named")?);
    command.args([scenario, "--json", "--windows", "1", "--checkpoint-ms", "1000"]);
    command.arg("--dir").arg(folder);
    if let Some(daemon) = &run.daemon {
        command.arg("--daemon").arg(daemon);
    }
    if place == Place::Disk {
        command.args(["--inner", "rocksdb", "--set", &format!("memory.rocksdb={DISK_BUDGET}")]);
    }
    add_parameters(&mut command, &run.parameters);
    Ok(command)
}

/// The result that `load` printed: that of its first measurement with a rate.
pub(crate) fn of_load(text: &str) -> Result<Measured, Fault> {
    let mut objects = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let rated = |object: &Value| number(object, "operations_per_second").is_ok();
    let object = objects.find(rated).ok_or("the bench `load` printed no rate")?;
    let durable = object.get("checkpoint_ms").and_then(|it| serde_json::from_value::<Distribution>(it.clone()).ok());
    Ok(Measured {
        version: object.get("version").and_then(Value::as_str).unwrap_or_default().to_owned(),
        operations_per_second: number(&object, "operations_per_second")?,
        cpu_seconds_per_million: number(&object, "daemon_cpu_s_per_million")?
            + number(&object, "client_cpu_s_per_million")?,
        durable_ms: durable.filter(|durable| durable.count > 0),
        peak_rss_bytes: number(&object, "daemon_peak_rss_bytes")? as u64,
    })
}

/// A figure of `object`.
fn number(object: &Value, name: &str) -> Result<f64, Fault> {
    object.get(name).and_then(Value::as_f64).ok_or_else(|| format!("the bench `load` printed no `{name}`").into())
}

/// A configuration of Flink.
pub(crate) struct Flink {
    /// Whether the state backend runs alone, without a job.
    pub(crate) bare: bool,
    pub(crate) changelog: bool,
    pub(crate) place: Place,
    pub(crate) work: Work,
}

impl Flink {
    /// Its Java code for one window.
    pub(crate) fn command(&self, run: &Run, folder: &Path) -> Command {
        let (backend, heap_gib) = match self.place {
            Place::Memory => ("hashmap", HEAP_WITH_STATE_GIB),
            Place::Disk => ("rocksdb", HEAP_WITHOUT_STATE_GIB),
        };
        let Parameters { keys, value_bytes, seconds, warm_up, .. } = &run.parameters;
        let mut command = Command::new(FLINK);
        command.env("HEAP_GIB", heap_gib.to_string());
        command.arg(if self.bare { "bare" } else { "job" }).arg(format!("work={}", self.work.name()));
        command.arg(format!("backend={backend}")).arg(format!("changelog={}", self.changelog));
        command.arg(format!("managed={DISK_BUDGET}")).arg(format!("folder={}", folder.display()));
        command.arg(format!("keys={keys}")).arg(format!("valueBytes={value_bytes}"));
        command.arg(format!("seconds={seconds}")).arg(format!("warmUp={warm_up}"));
        command
    }
}

/// The result that Flink's Java code printed: the last line is JSON, whatever else the JVM had to say.
pub(crate) fn of_flink(text: &str) -> Result<Measured, Fault> {
    let line = text.lines().rev().find(|line| line.starts_with('{')).ok_or("Flink's code printed no result")?;
    Ok(serde_json::from_str(line)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_measurement_with_a_rate_is_read() {
        let report = r#"{"scenario": "update", "version": "0.1.0", "operations_per_second": 1.5e6, "windows": [1.5e6],
            "checkpoint_ms": {"count": 3, "p50": 38.0, "p99": 40.0, "max": 41.0}, "daemon_cpu_s_per_million": 0.6,
            "client_cpu_s_per_million": 0.4, "daemon_peak_rss_bytes": 1024}"#;
        let text = format!("a line\n{{\"operations_per_second\": null}}\n{}\n", report.replace('\n', " "));
        let measured = of_load(&text).expect("it is a report");
        assert_eq!((measured.operations_per_second, measured.cpu_seconds_per_million), (1.5e6, 1.0));
        assert_eq!(measured.durable_ms.map(|it| it.p50), Some(38.0));
        let missing = of_load(r#"{"saturated": []}"#).expect_err("it has no figures");
        assert!(missing.to_string().contains("printed no rate"), "{missing}");
    }

    #[test]
    fn the_last_object_of_a_jvm_is_its_result() {
        let text = "WARNING: {\n{\"version\":\"2.2.1\",\"operations_per_second\":7e5,\"cpu_seconds_per_million\":2.7,\
            \"durable_ms\":null,\"peak_rss_bytes\":1}\n";
        assert_eq!(of_flink(text).expect("it is a result").version, "2.2.1");
    }
}
