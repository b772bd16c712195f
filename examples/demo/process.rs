//! The two processes that are killed: each its own process group, so that an interrupt of the terminal reaches only the
//! supervisor, and each killed when its handle is dropped.

use std::{
    env,
    fs::{File, OpenOptions},
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use super::{
    args::Inner,
    report::{Order, Report},
};

/// So often that materialization and truncation happen between the kills.
const MATERIALIZE_OFTEN: &str = "state.changelog.periodic-materialize.interval=3 s";

/// Names and places that the processes share.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Temporary folder of this demo.
    pub(super) folder: PathBuf,
    /// The inner backend of opened backends.
    pub(super) inner: Inner,
    /// The daemon's program.
    pub(super) dstl: PathBuf,
    /// URL or absolute path of the store.
    pub(super) store: String,
    /// The job's name.
    pub(super) job: String,
}

impl Place {
    /// The daemon's socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join("dstl.sock")
    }

    /// File with the standard error of the processes of this name.
    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    fn open_log(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().create(true).append(true).open(self.log(name))
    }
}

/// A command that runs `program`.
fn command(program: &Path, place: &Place, log: &str) -> io::Result<Command> {
    let mut command = Command::new(program);
    command.stderr(place.open_log(log)?).process_group(0).kill_on_drop(true);
    Ok(command)
}

fn set(key: &str, value: &Path) -> String {
    format!("{key}={}", value.display())
}

/// A running daemon.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
}

impl Daemon {
    /// Starts a daemon at `place`.
    pub(super) fn start(place: &Place) -> io::Result<Self> {
        let child = command(&place.dstl, place, "daemon")?
            .arg("serve")
            .arg("--socket")
            .arg(place.socket())
            .args(["--store", &place.store, "--admin", "off", "--set", "rpc.tcp.address=off"])
            .args(["--set", &set("dstl.data-dir", &place.folder)])
            .args(["--set", MATERIALIZE_OFTEN, "--set", &format!("state.backend.type={}", place.inner)])
            .env_remove("DSTL_CONFIG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { child })
    }

    /// Its process id, while it runs.
    pub(super) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub(super) async fn kill(&mut self) -> io::Result<()> {
        self.child.kill().await
    }

    /// Waits for its end. Cancel-safe.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }
}

/// How one life of the task is started.
#[derive(Debug, Clone, Copy)]
pub(super) struct TaskStart {
    /// The attempt, which orders the lives.
    pub(super) attempt: u64,
    /// Words in the input.
    pub(super) records: u64,
    /// Most records in a second; 0 for as many as possible.
    pub(super) rate: u64,
}

/// An event of a running task.
#[derive(Debug)]
pub(super) enum TaskEvent {
    /// A report of the task.
    Report(Report),
    /// The end of the task, with its exit status.
    Ended(ExitStatus),
}

/// A running task.
#[derive(Debug)]
pub(super) struct Task {
    child: Child,
    stdin: ChildStdin,
    reports: Lines<BufReader<ChildStdout>>,
}

impl Task {
    /// Starts a task at `place`.
    pub(super) fn start(place: &Place, start: TaskStart) -> io::Result<Self> {
        let mut child = command(&env::current_exe()?, place, "task")?
            .arg("as-task")
            .arg("--socket")
            .arg(place.socket())
            .arg("--input")
            .arg(&place.folder)
            .args(["--job", &place.job, "--attempt", &start.attempt.to_string()])
            .args(["--records", &start.records.to_string(), "--rate", &start.rate.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let stdin = child.stdin.take().ok_or_else(gone)?;
        let reports = BufReader::new(child.stdout.take().ok_or_else(gone)?).lines();
        Ok(Self { child, stdin, reports })
    }

    /// Sends it an order. A task that has ended does not get it; its next event tells that.
    pub(super) async fn order(&mut self, order: Order) {
        let mut line = serde_json::to_string(&order).expect("an order has only numbers");
        line.push('\n');
        let _ = self.stdin.write_all(line.as_bytes()).await;
    }

    /// The next event. A line that a kill cut off is left out. Cancel-safe.
    pub(super) async fn event(&mut self) -> io::Result<TaskEvent> {
        while let Some(line) = self.reports.next_line().await? {
            if let Ok(report) = serde_json::from_str(&line) {
                return Ok(TaskEvent::Report(report));
            }
        }
        Ok(TaskEvent::Ended(self.child.wait().await?))
    }

    /// Kills it with SIGKILL and waits until it is gone. `false` if it had ended by itself.
    pub(super) async fn kill(&mut self) -> io::Result<bool> {
        let was_running = self.child.try_wait()?.is_none();
        self.child.kill().await?;
        Ok(was_running)
    }
}
