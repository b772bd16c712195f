//! The task: a process that counts words and keeps everything in its state.
//!
//! It restores the latest checkpoint, goes on at the record that the attachment names, writes pipelined batches, and
//! checkpoints twice a second. Everything that it does follows from its position in the input, so work that a crash
//! undoes is repeated exactly.
//!
//! The state tells whether a word is new in its file: the batch that counts the word first reads its last known record.
//! The answer comes while later batches are on their way; then the file is added to the word's list.

use std::{
    collections::{HashSet, VecDeque},
    io::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use dstl_client::{
    Backend, Client, ClientError, OpenOptions, PendingCheckpoint, Receipt, Restore, Session, SessionOptions, Slot,
    ValueState,
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    input::{File, Input, words},
    report::{Order, Report},
    states::{Cursor, OPERATOR, States, WINDOW_RECORDS},
};

/// Time between the triggers of two checkpoints.
const CHECKPOINT_INTERVAL: Duration = Duration::from_millis(500);

/// Most records of one batch.
const MAX_BATCH_RECORDS: u64 = 500;

/// A small input is cut into at least this many batches, so that there is work to interrupt.
const MIN_BATCHES: u64 = 200;

/// Most batches that wait for their results.
const MAX_IN_FLIGHT: usize = 24;

/// How often progress is reported.
const REPORT_INTERVAL: Duration = Duration::from_millis(25);

/// How long to wait for a daemon that starts, and how often to try.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_PAUSE: Duration = Duration::from_millis(20);

/// Pause of a task that may not go on.
const PACE: Duration = Duration::from_millis(5);

/// How one life of the task is started.
#[derive(Debug, Clone, Args)]
pub(super) struct TaskOptions {
    /// Connect to the daemon on this socket.
    #[arg(long, value_name = "PATH")]
    pub(super) socket: PathBuf,
    /// Read the input in this folder.
    #[arg(long, value_name = "PATH")]
    pub(super) input: PathBuf,
    /// Open the backend of this job.
    #[arg(long, value_name = "NAME")]
    pub(super) job: String,
    /// Open it as this attempt, which orders the lives of the task.
    #[arg(long, value_name = "N")]
    pub(super) attempt: u64,
    /// Count so many words.
    #[arg(long, value_name = "N")]
    pub(super) records: u64,
    /// Count at most so many words a second, 0 for no limit.
    #[arg(long, value_name = "N")]
    pub(super) rate: u64,
}

/// The reason why a life of the task ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum TaskError {
    /// The daemon is gone: start again with a higher attempt.
    #[error("the daemon is gone: {0}")]
    DaemonGone(ClientError),
    /// The daemon refused a call that should work.
    #[error("{0}")]
    Refused(ClientError),
    /// The input cannot be read.
    #[error("reading the input")]
    Input(#[source] io::Error),
    /// The attachment of the restored checkpoint is not from a word count of this input.
    #[error("the attachment of the restored checkpoint does not fit the input")]
    Attachment,
}

impl From<ClientError> for TaskError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Connect { .. }
            | ClientError::Transport(_)
            | ClientError::SessionLost(_)
            | ClientError::CheckpointInterrupted { .. } => Self::DaemonGone(error),
            error if error.is_retryable() => Self::DaemonGone(error),
            error => Self::Refused(error),
        }
    }
}

/// Runs one life of the task.
///
/// # Errors
/// [`TaskError`]; the state is that of the last checkpoint.
pub(super) async fn run(options: TaskOptions) -> Result<(), TaskError> {
    let permit = orders();
    let input = Input::load(&options.input).map_err(TaskError::Input)?;
    let client = connect(&options).await?;
    let open =
        OpenOptions::new(&options.job, OPERATOR).attempt(options.attempt).restore(Restore::Latest { or_empty: true });
    let progress =
        |restoring: dstl_client::proto::v1::Restoring| report(&Report::Restoring { changes: restoring.changes });
    let backend = client.open_with(open, progress).await?;
    let cursor = match backend.checkpoint() {
        Some(_) => Cursor::decode(backend.attachment()).ok_or(TaskError::Attachment)?,
        None => Cursor::default(),
    };
    report(&Report::Opened { record: cursor.record, changes: backend.opened().restored_changes });
    // A broken stream is not resumed, since reads that are sent again would see the writes behind them.
    let session = backend.session_with(SessionOptions { reconnect_timeout: Duration::ZERO }).await?;
    let states = States::register(&backend).await?;
    let next_checkpoint = backend.checkpoint().map_or(0, |checkpoint| checkpoint.checkpoint_id) + 1;
    let work = Work {
        input: &input,
        states,
        session,
        cursor,
        seen: HashSet::new(),
        in_flight: VecDeque::new(),
        next_checkpoint,
        checkpoint: None,
        checkpoint_due: Instant::now() + CHECKPOINT_INTERVAL,
        report_due: Instant::now(),
        has_applied: false,
    };
    let updates = work.run(Pace { permit, rate: options.rate, records: options.records }).await?;
    close(backend).await?;
    report(&Report::Finished { updates });
    Ok(())
}

async fn close(backend: Backend) -> Result<(), ClientError> {
    backend.close().await.map(drop)
}

async fn connect(options: &TaskOptions) -> Result<Client, ClientError> {
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    loop {
        match Client::connect(&options.socket).await {
            Err(error) if error.is_retryable() && Instant::now() < deadline => sleep(CONNECT_PAUSE).await,
            other => return other,
        }
    }
}

/// Reads the supervisor's orders. If the supervisor is gone, the task ends itself and the daemon.
fn orders() -> watch::Receiver<u64> {
    let (permit, permitted) = watch::channel(0);
    // A thread of its own, since a read of tokio's standard input would keep the runtime from ending.
    std::thread::spawn(move || {
        let mut daemon = None;
        for line in io::stdin().lines().map_while(Result::ok) {
            match serde_json::from_str(&line) {
                Ok(Order::Permit(record)) => drop(permit.send_replace(record)),
                Ok(Order::Daemon(process)) => daemon = Some(process),
                Err(_) => {}
            }
        }
        if let Some(process) = daemon {
            let _ = std::process::Command::new("kill").args(["-KILL", &process.to_string()]).status();
        }
        std::process::exit(1);
    });
    permitted
}

/// Sends a report to the supervisor. If it is gone, the reader of orders notices.
fn report(report: &Report) {
    let line = serde_json::to_string(report).expect("a report has only strings and numbers");
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// The pace of the work.
#[derive(Debug)]
struct Pace {
    permit: watch::Receiver<u64>,
    rate: u64,
    records: u64,
}

impl Pace {
    /// The record before which to stop, `elapsed` after the start at record `from`.
    fn limit(&self, from: u64, elapsed: Duration) -> u64 {
        let permit = (*self.permit.borrow()).min(self.records);
        if self.rate == 0 {
            return permit;
        }
        let paced = u128::from(self.rate) * elapsed.as_millis() / 1000;
        permit.min(from.saturating_add(u64::try_from(paced).unwrap_or(u64::MAX)))
    }
}

/// A word whose file may not be in its list yet.
#[derive(Debug)]
struct Candidate<'a> {
    word: &'a str,
    file: u64,
    file_record: u64,
    /// The operation that reads its last record.
    read: Slot<Option<i64>>,
}

/// A batch whose result has not come yet.
#[derive(Debug)]
struct InFlight<'a> {
    receipt: Receipt,
    candidates: Vec<Candidate<'a>>,
}

/// A word with its number in the input.
#[derive(Debug)]
struct Record<'a> {
    word: &'a str,
    file: u64,
}

/// The work of one life.
#[derive(Debug)]
struct Work<'a> {
    input: &'a Input,
    states: States,
    session: Session,
    /// The position behind everything that was sent, except updates that still wait for an answer.
    cursor: Cursor,
    /// Words of the present file that need not be looked up again.
    seen: HashSet<&'a str>,
    in_flight: VecDeque<InFlight<'a>>,
    next_checkpoint: u64,
    checkpoint: Option<JoinHandle<()>>,
    checkpoint_due: Instant,
    report_due: Instant,
    has_applied: bool,
}

impl<'a> Work<'a> {
    /// Works to the end; returns the number of all updates.
    async fn run(mut self, mut pace: Pace) -> Result<u64, TaskError> {
        let (start, from) = (Instant::now(), self.cursor.record);
        let batch_records = (pace.records / MIN_BATCHES).clamp(1, MAX_BATCH_RECORDS);
        while self.cursor.record < pace.records {
            self.report_progress();
            if Instant::now() >= self.checkpoint_due && self.checkpoint.as_ref().is_none_or(JoinHandle::is_finished) {
                self.trigger_checkpoint().await?;
            }
            let limit = pace.limit(from, start.elapsed());
            if self.cursor.record < limit {
                self.hand_over(batch_records.min(limit - self.cursor.record)).await?;
                self.settle(MAX_IN_FLIGHT).await?;
            } else {
                self.settle(0).await?;
                self.note_applied();
                self.wait(&mut pace.permit).await?;
            }
        }
        self.finish().await
    }

    /// Makes the last checkpoint, which has everything.
    async fn finish(mut self) -> Result<u64, TaskError> {
        self.settle(0).await?;
        self.report_due = Instant::now();
        self.report_progress();
        loop {
            if let Some(checkpoint) = self.checkpoint.take() {
                let _ = checkpoint.await;
            }
            let pending = self.session.barrier(self.next_checkpoint, self.cursor.encode()).await?;
            self.next_checkpoint += 1;
            match complete(&self.session, pending, Instant::now()).await {
                Err(error) if error.daemon().is_some_and(|error| error.retryable) => {
                    report(&Report::CheckpointFailed { message: error.to_string() });
                }
                other => break other?,
            }
        }
        self.session.close().await?;
        Ok(self.cursor.updates)
    }

    /// Sends the next `count` records, or the remaining ones.
    async fn hand_over(&mut self, count: u64) -> Result<(), TaskError> {
        let mut batch = self.session.batch();
        let first = self.cursor.record;
        let (mut records, mut candidates) = (Vec::new(), Vec::new());
        while (records.len() as u64) < count {
            let Some((number, file)) = self.file_at(self.cursor.byte) else { break };
            if self.cursor.byte == file.start as u64 {
                batch.push(self.states.files.put(&number, file.path.as_str()));
                self.seen.clear();
                self.cursor.file_record = first + records.len() as u64;
                self.cursor.updates += 1;
            }
            let from = usize::try_from(self.cursor.byte).unwrap_or(usize::MAX);
            let left = usize::try_from(count).unwrap_or(usize::MAX) - records.len();
            let before = records.len();
            for (end, word) in words(self.input.text_of(file, from)).take(left) {
                if self.seen.insert(word) {
                    let read = batch.push(self.states.last.get(word));
                    candidates.push(Candidate { word, file: number, file_record: self.cursor.file_record, read });
                }
                records.push(Record { word, file: number });
                self.cursor.byte = (from + end) as u64;
            }
            if records.len() - before < left {
                self.cursor.byte = file.end as u64;
            }
        }
        let mut windows: Option<(u64, ValueState<u64, i64>)> = None;
        for (at, Record { word, file }) in (first..).zip(&records) {
            let at_i64 = i64::try_from(at).unwrap_or(i64::MAX);
            batch.push(self.states.count.merge(*word, &1));
            batch.push(self.states.first.merge(*word, &at_i64));
            batch.push(self.states.last.merge(*word, &at_i64));
            let window = at / WINDOW_RECORDS;
            let (_, state) = match &mut windows {
                Some(current) if current.0 == window => current,
                other => other.insert((window, self.states.windows.namespace(&window))),
            };
            batch.push(state.merge(file, &1));
        }
        self.cursor.record += records.len() as u64;
        self.cursor.updates += 4 * records.len() as u64;
        let receipt = self.session.send(batch).await?;
        self.in_flight.push_back(InFlight { receipt, candidates });
        Ok(())
    }

    /// The file that contains the offset `byte`, with its number.
    fn file_at(&self, byte: u64) -> Option<(u64, &'a File)> {
        let index = self.input.files.partition_point(|file| file.end as u64 <= byte);
        Some((index as u64, self.input.files.get(index)?))
    }

    /// Waits until at most `most` batches are in flight, and adds files to the lists of the words that are new in them.
    async fn settle(&mut self, most: usize) -> Result<(), TaskError> {
        while self.in_flight.len() > most {
            let Some(InFlight { receipt, candidates }) = self.in_flight.pop_front() else { return Ok(()) };
            let applied = receipt.applied().await?;
            self.note_applied();
            let mut batch = self.session.batch();
            for Candidate { word, file, file_record, read } in candidates {
                let last = applied.get(read)?;
                if last.is_none_or(|last| last < i64::try_from(file_record).unwrap_or(i64::MAX)) {
                    batch.push(self.states.in_files.add(word, &file));
                }
            }
            if !batch.is_empty() {
                self.cursor.updates += batch.operations() as u64;
                let receipt = self.session.send(batch).await?;
                self.in_flight.push_back(InFlight { receipt, candidates: vec![] });
            }
        }
        Ok(())
    }

    /// Cuts behind everything so far. The checkpoint completes while the work goes on.
    async fn trigger_checkpoint(&mut self) -> Result<(), TaskError> {
        self.settle(0).await?;
        self.checkpoint_due = Instant::now() + CHECKPOINT_INTERVAL;
        let triggered = Instant::now();
        let pending = self.session.barrier(self.next_checkpoint, self.cursor.encode()).await?;
        self.next_checkpoint += 1;
        let session = self.session.clone();
        self.checkpoint = Some(tokio::spawn(async move {
            if let Err(error) = complete(&session, pending, triggered).await {
                report(&Report::CheckpointFailed { message: error.to_string() });
            }
        }));
        Ok(())
    }

    /// Waits a moment, or until more is permitted, or until the session is lost.
    async fn wait(&self, permit: &mut watch::Receiver<u64>) -> Result<(), TaskError> {
        tokio::select! {
            biased;
            lost = self.session.wait_applied(u64::MAX) => lost.map(drop).map_err(TaskError::from),
            _ = permit.changed() => Ok(()),
            () = sleep(PACE) => Ok(()),
        }
    }

    fn note_applied(&mut self) {
        if !self.has_applied {
            self.has_applied = true;
            report(&Report::Applied);
        }
    }

    fn report_progress(&mut self) {
        if Instant::now() >= self.report_due {
            self.report_due = Instant::now() + REPORT_INTERVAL;
            report(&Report::Progress { record: self.cursor.record, updates: self.cursor.updates });
        }
    }
}

/// Waits for a checkpoint, tells the daemon that the job has it, and the supervisor how long it took.
async fn complete(session: &Session, pending: PendingCheckpoint, triggered: Instant) -> Result<(), ClientError> {
    let completed = pending.await?;
    let duration_us = u64::try_from(triggered.elapsed().as_micros()).unwrap_or(u64::MAX);
    let checkpoint = completed.checkpoint.ok_or(ClientError::Incomplete("the checkpoint's name"))?;
    session.complete(&checkpoint).await?;
    report(&Report::Checkpoint { duration_us, bytes: completed.incremental_bytes });
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_the_lower_of_permit_rate_and_input() {
        let (permit, permitted) = watch::channel(1_000);
        let pace = |rate| Pace { permit: permitted.clone(), rate, records: 600 };
        assert_eq!(pace(0).limit(5, Duration::ZERO), 600);
        assert_eq!(pace(100).limit(5, Duration::from_millis(2_500)), 255);
        permit.send_replace(200);
        assert_eq!(pace(100).limit(5, Duration::from_secs(9)), 200);
    }
}
