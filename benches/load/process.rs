//! The kernel's figures of a process.

use std::{fs, time::Duration};

use super::Fault;

/// Linux counts processor time for user space in hundredths of a second, on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// Resources that a process has used so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// Processor time of all its threads, user and system.
    pub(crate) cpu: Duration,
    /// Resident memory in bytes.
    pub(crate) rss_bytes: u64,
    /// The most that it was.
    pub(crate) peak_rss_bytes: u64,
    /// Bytes that it sent to the block layer, 0 where that may not be read.
    pub(crate) written_bytes: u64,
}

impl Usage {
    /// Of the process `pid`.
    pub(crate) fn of(pid: u32) -> Result<Self, Fault> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The second field is the name in parentheses, which may itself have spaces.
        let fields: Vec<_> = stat.rsplit_once(')').ok_or("no name in /proc/…/stat")?.1.split_whitespace().collect();
        let ticks = |field: usize| -> Result<f64, Fault> {
            Ok(fields.get(field - 3).ok_or("too few fields in /proc/…/stat")?.parse()?)
        };
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        Ok(Self {
            cpu: Duration::from_secs_f64((ticks(14)? + ticks(15)?) / TICKS_PER_SECOND),
            rss_bytes: number(&status, "VmRSS:") << 10,
            peak_rss_bytes: number(&status, "VmHWM:") << 10,
            written_bytes: number(&io, "write_bytes:"),
        })
    }

    /// Of this process.
    pub(crate) fn own() -> Result<Self, Fault> {
        Self::of(std::process::id())
    }
}

fn number(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}
