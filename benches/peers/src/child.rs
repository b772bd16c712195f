//! A child process that prints one JSON object and ends.

use std::{
    fs::File,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{Fault, process::family};

/// How often a child is asked whether it has ended.
const POLL: Duration = Duration::from_millis(50);

/// Lines of its log that a broken child is told with.
const LOG_LINES: usize = 8;

/// The words by which logs of programs in Rust, Java and C say why they failed.
const REASONS: [&str; 4] = ["Caused by", "Exception", "error", "panicked"];

/// The program of `command`, so that the kernel ends it when its parent dies, however that happens. Nothing that was
/// started for a measurement may disturb the next one.
pub(crate) fn bound(command: &Command) -> Command {
    let mut bound = Command::new("setpriv");
    bound.args(["--pdeathsig", "KILL"]).arg(command.get_program()).args(command.get_args());
    bound.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    bound
}

/// Runs `command` until it ends, with its output and its log in `folder`, and returns its output.
///
/// # Errors
/// If it fails, or does not end in time; the end of its log is part of the message. No process of it is left.
pub(crate) fn output(command: &Command, folder: &Path, limit: Duration) -> Result<String, Fault> {
    let (output, log) = (folder.join("output"), folder.join("log"));
    let program = command.get_program().to_string_lossy().into_owned();
    let mut command = bound(command);
    command.stdin(Stdio::null()).stdout(File::create(&output)?).stderr(File::create(&log)?);
    let mut child = Guard(command.spawn().map_err(|error| format!("`{program}`: {error}"))?);
    let ended = child.wait(limit)?;
    if ended.is_some_and(|status| status.success()) {
        return Ok(std::fs::read_to_string(&output)?);
    }
    let text = std::fs::read(&log).unwrap_or_default();
    let end = ended.map_or_else(|| format!("did not end in {} s", limit.as_secs()), |status| status.to_string());
    Err(format!("`{program}`: {end}: {}", told(&String::from_utf8_lossy(&text))).into())
}

/// The lines of a log that say why, or else its last ones.
fn told(log: &str) -> String {
    let lines: Vec<_> = log.lines().filter(|line| REASONS.iter().any(|reason| line.contains(reason))).collect();
    let lines = if lines.is_empty() { log.lines().collect() } else { lines };
    lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default().join("; ")
}

/// A child that does not outlive its owner, nor do its children.
struct Guard(Child);

impl Guard {
    /// How it ended; nothing if it still runs after `limit`.
    fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>, Fault> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // The identifier of a child that was waited for may already be that of another process.
        if matches!(self.0.try_wait(), Ok(None)) {
            for pid in family(self.0.id()).into_iter().filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_in_a_log_is_told() {
        assert_eq!(told("one\nCaused by: no space\n\tat main\n\tat other"), "Caused by: no space");
        assert_eq!(told("one\ntwo"), "one; two");
    }

    #[test]
    fn a_child_that_does_not_end_in_time_is_ended() {
        let folder = tempfile::tempdir().expect("there is room");
        let mut sleep = Command::new("sh");
        sleep.args(["-c", "sleep 60 & wait"]);
        let begun = Instant::now();
        let fault = output(&sleep, folder.path(), Duration::from_millis(100)).expect_err("it sleeps");
        assert!(fault.to_string().contains("did not end in 0 s"), "{fault}");
        assert!(begun.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn the_output_of_a_child_is_returned() {
        let folder = tempfile::tempdir().expect("there is room");
        let mut echo = Command::new("sh");
        echo.args(["-c", "echo $WORD"]).env("WORD", "said");
        let said = output(&echo, folder.path(), Duration::from_secs(30)).expect("it ends");
        assert_eq!(said, "said\n");
    }
}
