//! The display of a running demo: a bar on a terminal, otherwise lines, or nothing if only JSON is wanted.

use std::{io::IsTerminal as _, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::outcome::grouped;

/// Time between two lines of progress.
const LINE_INTERVAL: Duration = Duration::from_secs(2);

/// A display on standard error.
#[derive(Debug)]
pub(super) struct Display {
    kind: Kind,
    records: u64,
    checkpoints: u64,
    started: Instant,
}

#[derive(Debug)]
enum Kind {
    Bar(ProgressBar),
    Lines { due: Instant },
    Quiet,
}

impl Display {
    /// A display for work on `records` records.
    pub(super) fn new(records: u64, quiet: bool) -> Self {
        let started = Instant::now();
        let kind = if quiet {
            Kind::Quiet
        } else if std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("  {elapsed:>4} [{bar:32}] {percent:>3}%  {msg}")
                .expect("the template is valid")
                .progress_chars("=> ");
            let bar = ProgressBar::new(records).with_style(style);
            bar.enable_steady_tick(Duration::from_millis(200));
            Kind::Bar(bar)
        } else {
            Kind::Lines { due: started }
        };
        Self { kind, records, checkpoints: 0, started }
    }

    /// Prints one line.
    pub(super) fn say(&self, line: &str) {
        match &self.kind {
            Kind::Bar(bar) => bar.suspend(|| eprintln!("  {line}")),
            Kind::Lines { .. } => eprintln!("  {line}"),
            Kind::Quiet => {}
        }
    }

    /// Prints one line about the processes, with the time.
    pub(super) fn note(&self, line: &str) {
        self.say(&format!("{:6.1} s  {line}", self.started.elapsed().as_secs_f64()));
    }

    /// Shows a phase that does not count records.
    pub(super) fn phase(&self, text: &str) {
        if let Kind::Bar(bar) = &self.kind {
            bar.set_message(text.to_owned());
        }
    }

    /// Counts a checkpoint.
    pub(super) fn checkpoint(&mut self) {
        self.checkpoints += 1;
    }

    /// Shows the progress of the work.
    pub(super) fn progress(&mut self, record: u64, updates: u64) {
        let text = format!("{} updates, {} checkpoints", grouped(updates), self.checkpoints);
        let percent = record * 100 / self.records.max(1);
        match &mut self.kind {
            Kind::Bar(bar) => {
                bar.set_position(record);
                bar.set_message(text);
            }
            Kind::Lines { due } if Instant::now() >= *due => {
                *due = Instant::now() + LINE_INTERVAL;
                self.note(&format!("{percent} %: {text}"));
            }
            Kind::Lines { .. } | Kind::Quiet => {}
        }
    }

    /// Ends the display.
    pub(super) fn finish(&self) {
        if let Kind::Bar(bar) = &self.kind {
            bar.finish_and_clear();
        }
    }
}
