//! The supervisor starts daemon and task, kills them as planned, starts them again, and measures the cost.

use std::{fs, io, process::ExitStatus, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    EXIT_DAEMON_GONE,
    outcome::{Durations, Kills, grouped, milliseconds},
    process::{Daemon, Place, Task, TaskEvent, TaskStart},
    progress::Display,
    report::{Order, Report},
    run::DemoError,
    schedule::{Kill, Victim},
};

/// A demo that makes no progress for this time has failed.
const STALL_TIMEOUT: Duration = Duration::from_secs(120);

/// Consecutive lives of the task that end without applying anything before the demo has failed.
const MAX_FRUITLESS: u32 = 20;

/// Pause before the task is started again after it found no daemon.
const RESTART_PAUSE: Duration = Duration::from_millis(50);

/// Lines of a log that are shown with a failure.
const SHOWN_LINES: usize = 8;

/// The signals that end the demo.
#[derive(Debug)]
pub(super) struct Interrupts(Vec<Signal>);

impl Interrupts {
    /// Begins to listen for the signals.
    pub(super) fn listen() -> io::Result<Self> {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        kinds.into_iter().map(signal).collect::<io::Result<_>>().map(Self)
    }

    /// Waits for one of them. Cancel-safe.
    pub(super) async fn any(&mut self) {
        std::future::poll_fn(|cx| {
            if self.0.iter_mut().any(|signal| signal.poll_recv(cx).is_ready()) {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        })
        .await;
    }
}

/// The result of the work.
#[derive(Debug)]
pub(super) struct Work {
    /// Time from the first start of the task to its end.
    pub(super) elapsed: Duration,
    /// Number of updates, as the task counted them.
    pub(super) updates: u64,
    /// The attempt of the task's last life.
    pub(super) attempt: u64,
    /// Kills that were survived.
    pub(super) kills: Kills,
    /// Durations of the checkpoints.
    pub(super) checkpoints: Durations,
    /// Recovery time of each kill, in milliseconds.
    pub(super) recoveries_ms: Vec<f64>,
    /// The daemon, which still runs.
    pub(super) daemon: Daemon,
}

/// A kill from which the task has not recovered yet.
#[derive(Debug)]
struct Wound {
    at: Instant,
    /// The first life of the task that applies anything after it.
    attempt: u64,
    victim: Victim,
}

/// The supervisor, with the two running processes.
#[derive(Debug)]
pub(super) struct Supervisor<'a> {
    place: &'a Place,
    display: &'a mut Display,
    start: TaskStart,
    /// The remaining kills; the next one is last.
    plan: Vec<Kill>,
    /// When the next kill happens, once its record is reached.
    strike_at: Option<Instant>,
    daemon: Daemon,
    task: Task,
    wounds: Vec<Wound>,
    /// Whether this life of the task applied anything.
    has_applied: bool,
    fruitless: u32,
    finished: Option<u64>,
    started: Instant,
    alive_at: Instant,
    kills: Kills,
    checkpoints: Durations,
    recoveries_ms: Vec<f64>,
}

impl<'a> Supervisor<'a> {
    /// Starts both processes.
    pub(super) async fn start(
        place: &'a Place,
        start: TaskStart,
        mut plan: Vec<Kill>,
        display: &'a mut Display,
    ) -> Result<Self, DemoError> {
        plan.reverse();
        let daemon = Daemon::start(place).map_err(DemoError::start)?;
        let task = Task::start(place, start).map_err(DemoError::start)?;
        let now = Instant::now();
        let mut this = Self {
            place,
            display,
            start,
            plan,
            strike_at: None,
            daemon,
            task,
            wounds: vec![],
            has_applied: false,
            fruitless: 0,
            finished: None,
            started: now,
            alive_at: now,
            kills: Kills::default(),
            checkpoints: Durations::new(),
            recoveries_ms: vec![],
        };
        this.brief().await;
        Ok(this)
    }

    /// Works until the task has finished.
    pub(super) async fn run(mut self, interrupts: &mut Interrupts) -> Result<Work, DemoError> {
        loop {
            let strike_at = self.strike_at;
            let strike = async {
                match strike_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = interrupts.any() => return Err(DemoError::Interrupted),
                () = strike => self.strike().await?,
                event = self.task.event() => match event.map_err(DemoError::start)? {
                    TaskEvent::Report(report) => self.on_report(report).await,
                    TaskEvent::Ended(status) => if let Some(elapsed) = self.on_task_ended(status).await? {
                        return Ok(self.into_work(elapsed));
                    },
                },
                ended = self.daemon.ended() => {
                    let status = ended.map_err(DemoError::start)?;
                    return Err(self.failed(format!("the daemon ended by itself ({status})"), "daemon"));
                }
                () = sleep_until(self.alive_at + STALL_TIMEOUT) => {
                    return Err(self.failed(format!("no progress for {} s", STALL_TIMEOUT.as_secs()), "task"));
                }
            }
        }
    }

    fn into_work(self, elapsed: Duration) -> Work {
        Work {
            elapsed,
            updates: self.finished.unwrap_or_default(),
            attempt: self.start.attempt,
            kills: self.kills,
            checkpoints: self.checkpoints,
            recoveries_ms: self.recoveries_ms,
            daemon: self.daemon,
        }
    }

    /// Tells a task how far it may go, and the daemon's process id.
    async fn brief(&mut self) {
        let permit = self.plan.last().map_or(self.start.records, |kill| kill.permit);
        if let Some(process) = self.daemon.id() {
            self.task.order(Order::Daemon(process)).await;
        }
        self.task.order(Order::Permit(permit)).await;
    }

    async fn on_report(&mut self, report: Report) {
        self.alive_at = Instant::now();
        match report {
            Report::Restoring { changes } => self.display.phase(&format!("restoring, {} changes", grouped(changes))),
            Report::Opened { record, changes } => {
                self.display.note(&format!(
                    "task {} goes on at record {}, {} changes restored",
                    self.start.attempt,
                    grouped(record),
                    grouped(changes)
                ));
            }
            Report::Applied => self.on_applied(),
            Report::Progress { record, updates } => {
                self.display.progress(record, updates);
                let due = self.plan.last().filter(|kill| kill.record.is_some_and(|at| at <= record));
                if let (Some(kill), None) = (due, self.strike_at) {
                    self.strike_at = Some(Instant::now() + kill.delay);
                }
            }
            Report::Checkpoint { duration_us, bytes } => {
                self.checkpoints.add(duration_us, bytes);
                self.display.checkpoint();
            }
            Report::CheckpointFailed { message } => {
                // A checkpoint that a kill interrupted does not count as failed.
                if self.wounds.is_empty() {
                    self.checkpoints.add_failed();
                    self.display.note(&format!("a checkpoint did not complete: {message}"));
                }
            }
            Report::Finished { updates } => self.finished = Some(updates),
        }
    }

    fn on_applied(&mut self) {
        (self.has_applied, self.fruitless) = (true, 0);
        let attempt = self.start.attempt;
        for Wound { at, victim, .. } in self.wounds.extract_if(.., |wound| wound.attempt <= attempt) {
            let took = at.elapsed();
            self.recoveries_ms.push(milliseconds(took));
            match victim {
                Victim::Daemon => self.kills.daemon += 1,
                Victim::Task => self.kills.task += 1,
            }
            self.display.note(&format!("recovered {:.0} ms after the kill", milliseconds(took)));
        }
    }

    /// Does the planned kill. If the process has just ended by itself, the loop handles that, and the kill comes later.
    async fn strike(&mut self) -> Result<(), DemoError> {
        self.strike_at = None;
        let Some(kill) = self.plan.last().copied() else { return Ok(()) };
        let at = Instant::now();
        match kill.victim {
            Victim::Daemon => {
                self.daemon.kill().await.map_err(DemoError::start)?;
                self.display.note("kill -9 to the daemon");
                self.daemon = Daemon::start(self.place).map_err(DemoError::start)?;
            }
            Victim::Task => {
                if !self.task.kill().await.map_err(DemoError::start)? {
                    self.strike_at = Some(Instant::now() + RESTART_PAUSE);
                    return Ok(());
                }
                self.display.note("kill -9 to the task");
            }
        }
        self.plan.pop();
        // A task that had only begun to connect finds the new daemon and survives.
        let lives_on = kill.victim == Victim::Daemon && !self.has_applied;
        self.wounds.push(Wound { at, attempt: self.start.attempt + u64::from(!lives_on), victim: kill.victim });
        match kill.victim {
            Victim::Daemon => self.brief().await,
            Victim::Task => self.restart_task().await?,
        }
        // The next kill may be planned for this recovery.
        if let Some(Kill { record: None, delay, .. }) = self.plan.last() {
            self.strike_at = Some(Instant::now() + *delay);
        }
        Ok(())
    }

    async fn restart_task(&mut self) -> Result<(), DemoError> {
        self.start.attempt += 1;
        self.has_applied = false;
        self.task = Task::start(self.place, self.start).map_err(DemoError::start)?;
        self.alive_at = Instant::now();
        self.brief().await;
        Ok(())
    }

    /// Returns the duration of the whole work if it is done; starts the task again if it lost its daemon.
    async fn on_task_ended(&mut self, status: ExitStatus) -> Result<Option<Duration>, DemoError> {
        if status.success() && self.finished.is_some() {
            return Ok(Some(self.started.elapsed()));
        }
        self.fruitless += 1;
        if status.code() != Some(EXIT_DAEMON_GONE.into()) || self.fruitless > MAX_FRUITLESS {
            return Err(self.failed(format!("the task ended ({status})"), "task"));
        }
        sleep(RESTART_PAUSE).await;
        self.restart_task().await?;
        Ok(None)
    }

    fn failed(&self, what: String, log: &str) -> DemoError {
        let text = fs::read_to_string(self.place.log(log)).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let last = lines.iter().skip(lines.len().saturating_sub(SHOWN_LINES)).map(|line| format!("\n    {line}"));
        DemoError::Failed(last.fold(what, |what, line| what + &line))
    }
}

/// Kills the daemon when it is no longer needed.
pub(super) async fn stop(mut daemon: Daemon) {
    let _ = timeout(Duration::from_secs(5), daemon.kill()).await;
}
