//! Where and when a run took place: no figure means anything without these.

use std::{fs, process::Command, time::SystemTime};

use serde::Serialize;

/// The circumstances of a run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    /// The day in UTC, as `2026-12-01`.
    pub(crate) date: String,
    /// The commit of this checkout; `-dirty` behind it says that something is not committed.
    pub(crate) commit: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: u64,
    pub(crate) kernel: String,
    /// Processes that wanted a core in the minute before the run: above 0, the machine was shared.
    pub(crate) load_before: f64,
}

impl Machine {
    /// This machine, now.
    pub(crate) fn now() -> Self {
        let date = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let processors = read("/proc/cpuinfo");
        Self {
            date: date.split('T').next().unwrap_or_default().to_owned(),
            commit: commit().unwrap_or_else(|| "unknown".to_owned()),
            processor: field(&processors, "model name").unwrap_or("unknown processor").to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: memory_gib().unwrap_or_default(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_before: read("/proc/loadavg").split(' ').next().and_then(|it| it.parse().ok()).unwrap_or_default(),
        }
    }

    /// All of it on one line.
    pub(crate) fn line(&self) -> String {
        let Self { date, commit, processor, cores, memory_gib, kernel, .. } = self;
        format!("{date}, commit {commit}, {processor}, {cores} cores, {memory_gib} GiB, Linux {kernel}")
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim())
}

fn memory_gib() -> Option<u64> {
    let kib: u64 = field(&read("/proc/meminfo"), "MemTotal")?.split(' ').next()?.parse().ok()?;
    // The kernel keeps some of it: 23.4 GiB are 24.
    Some(kib.div_ceil(1 << 20))
}

fn commit() -> Option<String> {
    let mut git = Command::new("git");
    git.args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty", "--exclude", "*"]);
    let output = git.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
