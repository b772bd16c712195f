//! The kernel's figures of processes.

use std::{fs, time::Duration};

use super::Fault;

/// Linux counts processor time for user space in hundredths of a second, on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// Resources that a process has used so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// Processor time of all its threads, user and system.
    pub(crate) cpu: Duration,
    /// The most resident memory that it had, in bytes.
    pub(crate) peak_rss_bytes: u64,
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
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak_kib: u64 = peak.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default();
        let cpu = Duration::from_secs_f64((ticks(14)? + ticks(15)?) / TICKS_PER_SECOND);
        Ok(Self { cpu, peak_rss_bytes: peak_kib << 10 })
    }

    /// Of all `pids` together.
    pub(crate) fn sum(pids: impl IntoIterator<Item = u32>) -> Result<Self, Fault> {
        pids.into_iter().try_fold(Self::default(), |sum, pid| {
            let usage = Self::of(pid)?;
            Ok(Self { cpu: sum.cpu + usage.cpu, peak_rss_bytes: sum.peak_rss_bytes + usage.peak_rss_bytes })
        })
    }
}

/// The process `pid` and all that descend from it, the youngest generation last.
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        let threads = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().filter_map(Result::ok);
        for thread in threads {
            // A thread that has ended has no children any more.
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
        at += 1;
    }
    found
}
