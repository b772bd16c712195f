//! The frame of the examples: each has a daemon of its own in a temporary folder, and a task that loses this daemon in
//! the middle of its work.
//!
//! A job has several lives. In every life but the last the daemon is killed (SIGKILL) while the task works, and then
//! started again. The next life opens with a higher attempt, restores the latest checkpoint, and continues at its cut.
//! The result of the last life is compared with a direct computation without state. The exit code is 1 if they differ.

// The lint is for the daemon; a task may use these methods.
#![allow(clippy::disallowed_methods)]

use std::{
    collections::BTreeMap,
    env,
    error::Error,
    fs::File,
    future::Future,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use dstl_client::{
    Backend, Client, ClientError, Decode as _, OpenOptions, PendingCheckpoint, Restore, Session, SessionOptions,
    proto::v1::CheckpointIdentity,
};
use tempfile::TempDir;
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep},
};

/// Steps between two checkpoints.
const CHECKPOINT_STEPS: u64 = 50;
/// Longest wait for a daemon that starts.
const START_TIMEOUT: Duration = Duration::from_secs(20);

type Fault = Box<dyn Error + Send + Sync>;

/// The job of an example.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    /// Name of the example and of its job.
    pub(crate) name: &'static str,
    /// Number of subtasks of each life.
    pub(crate) lives: &'static [u32],
    /// The daemon is killed when every subtask has made this many steps.
    pub(crate) crash_after: u64,
}

/// A daemon process.
#[derive(Debug)]
struct Daemon(Mutex<Child>);

impl Daemon {
    fn start(folder: &Path) -> Result<Self, Fault> {
        let program = program()?;
        let data = format!("dstl.data-dir={}", folder.display());
        let child = Command::new(program)
            .arg("serve")
            .args(["--socket".as_ref(), folder.join("dstl.sock").as_os_str()])
            .args(["--store".as_ref(), folder.join("store").as_os_str()])
            .args(["--admin", "off", "--set", "rpc.tcp.address=off", "--set", &data])
            // The daemon takes variables whose names begin with its own for options.
            .env_remove("DSTL_BIN")
            .env_remove("DSTL_CONFIG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::options().create(true).append(true).open(folder.join("daemon.log"))?)
            .spawn()?;
        Ok(Self(Mutex::new(child)))
    }

    fn kill(&self) {
        let mut child = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        let _ = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).wait();
    }
}

/// The daemon's program: `DSTL_BIN`, or the one that was built beside this example.
fn program() -> Result<PathBuf, Fault> {
    let beside = || {
        let folder = env::current_exe().ok()?.parent()?.parent()?.to_path_buf();
        Some(folder.join("dstl"))
    };
    let program = env::var_os("DSTL_BIN").map(PathBuf::from).or_else(beside).ok_or("this program has no path")?;
    match program.is_file() {
        true => Ok(program),
        false => Err(format!(
            "no daemon at `{}`: build it (cargo build --release --bin dstl), or name it with DSTL_BIN",
            program.display()
        )
        .into()),
    }
}

/// State that the subtasks of one life share.
#[derive(Debug)]
struct Shared {
    daemon: Daemon,
    parallelism: u32,
    /// Steps until the daemon is killed; `None` in the last life.
    crash_after: Option<u64>,
    /// Number of subtasks that have made these steps.
    ready: AtomicU32,
    /// Checkpoints that some subtasks have published, but not all.
    published: Mutex<BTreeMap<u64, Vec<(Session, CheckpointIdentity)>>>,
}

impl Shared {
    /// Completes a checkpoint once every subtask has published its part.
    async fn published(&self, id: u64, session: Session, identity: CheckpointIdentity) -> Result<(), ClientError> {
        let all = {
            let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
            let some = published.entry(id).or_default();
            some.push((session, identity));
            if some.len() < self.parallelism as usize {
                return Ok(());
            }
            published.remove(&id).unwrap_or_default()
        };
        for (session, identity) in all {
            session.complete(&identity).await?;
        }
        Ok(())
    }
}

/// One life of one subtask.
#[derive(Debug)]
#[allow(dead_code, reason = "not every example uses all of it")]
pub(crate) struct Life {
    /// The backend, restored or, in the first life, empty.
    pub(crate) backend: Backend,
    /// The session that writes to the backend.
    pub(crate) session: Session,
    /// The record to continue with, as the last step before the restored checkpoint gave it.
    pub(crate) next: u64,
    /// Number of the subtask, from 0.
    pub(crate) subtask: u32,
    /// Number of subtasks of this life.
    pub(crate) parallelism: u32,
    shared: Arc<Shared>,
    steps: u64,
    checkpoint_id: u64,
    checkpoint: Option<JoinHandle<Result<(), ClientError>>>,
}

impl Life {
    async fn open(shared: Arc<Shared>, client: Client, name: &str, attempt: u64, subtask: u32) -> Result<Self, Fault> {
        let parallelism = shared.parallelism;
        let options = OpenOptions::new("examples", name).subtask(subtask, parallelism).max_parallelism(128);
        let latest = Restore::Latest { or_empty: attempt == 1 };
        let backend = client.open(options.attempt(attempt).restore(latest)).await?;
        // All parts are of one cut. A job with several subtasks keeps its positions in operator state.
        let next = if backend.attachment().is_empty() { 0 } else { u64::decode(backend.attachment().clone())? };
        let session = backend.session_with(SessionOptions { reconnect_timeout: Duration::ZERO }).await?;
        let checkpoint_id = backend.checkpoint().map_or(0, |checkpoint| checkpoint.checkpoint_id);
        Ok(Self { backend, session, next, subtask, parallelism, shared, steps: 0, checkpoint_id, checkpoint: None })
    }

    /// Has to be called between two steps of the work; `next` is the record that comes next. Every 50 steps it triggers
    /// a checkpoint, which completes while the work continues. Once, it kills the daemon.
    pub(crate) async fn step(&mut self, next: u64) -> Result<(), ClientError> {
        self.steps += 1;
        if self.steps.is_multiple_of(CHECKPOINT_STEPS) {
            if let Some(before) = self.checkpoint.take() {
                before.await.unwrap_or(Err(ClientError::Closed))?;
            }
            self.checkpoint_id += 1;
            let pending = self.session.barrier(self.checkpoint_id, next.to_le_bytes().to_vec()).await?;
            self.checkpoint = Some(tokio::spawn(complete(pending, self.shared.clone(), self.session.clone())));
        }
        if self.shared.crash_after == Some(self.steps) {
            let ready = self.shared.ready.fetch_add(1, Ordering::SeqCst) + 1;
            if ready == self.parallelism {
                self.shared.daemon.kill();
            }
        }
        Ok(())
    }
}

async fn complete(pending: PendingCheckpoint, shared: Arc<Shared>, session: Session) -> Result<(), ClientError> {
    let id = pending.id();
    let identity = pending.await?.checkpoint.ok_or(ClientError::Incomplete("the checkpoint"))?;
    shared.published(id, session, identity).await
}

/// Runs all lives of a job. `check` gets the results of the last life's subtasks, and returns a summary or the fault in
/// them.
pub(crate) fn run<T, F>(
    job: Job,
    task: impl Fn(Life) -> F,
    check: impl FnOnce(Vec<T>) -> Result<String, String>,
) -> ExitCode
where
    T: Send + 'static,
    F: Future<Output = Result<T, ClientError>> + Send + 'static,
{
    let lives = async {
        let folder = TempDir::new()?;
        for (life, attempt) in job.lives.iter().zip(1..) {
            let is_last = attempt == job.lives.len() as u64;
            let crash_after = (!is_last).then_some(job.crash_after);
            let outcome = live(&job, (folder.path(), attempt, *life, crash_after), &task).await;
            match outcome {
                Ok(found) if is_last => return check(found).map_err(Fault::from),
                Ok(_) => return Err("the task was done before the daemon was killed".into()),
                Err(error) if !is_last && is_about_a_dead_daemon(&error) => {
                    println!("{}: life {attempt} lost its daemon", job.name);
                }
                Err(error) => {
                    let log = std::fs::read_to_string(folder.path().join("daemon.log")).unwrap_or_default();
                    let said = if log.is_empty() { log } else { format!("\nthe daemon said:\n{log}") };
                    return Err(format!("life {attempt}: {error}{said}").into());
                }
            }
        }
        Err("a job without lives".into())
    };
    match tokio::runtime::Runtime::new().map_err(Fault::from).and_then(|runtime| runtime.block_on(lives)) {
        Ok(how) => {
            println!("{}: {how}", job.name);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}: {error}", job.name);
            ExitCode::FAILURE
        }
    }
}

/// One life of the job, from the start of a daemon to its end.
async fn live<T, F>(
    job: &Job,
    (folder, attempt, parallelism, crash_after): (&Path, u64, u32, Option<u64>),
    task: &impl Fn(Life) -> F,
) -> Result<Vec<T>, Fault>
where
    T: Send + 'static,
    F: Future<Output = Result<T, ClientError>> + Send + 'static,
{
    let daemon = Daemon::start(folder)?;
    // An error before this point is no end of the task.
    let client = connect(&folder.join("dstl.sock")).await.map_err(|error| format!("no daemon: {error}"))?;
    let ready = AtomicU32::new(0);
    let shared = Arc::new(Shared { daemon, parallelism, crash_after, ready, published: Mutex::default() });
    // All subtasks open at the same time, since they agree on the latest checkpoint of the job together.
    let mut opening = JoinSet::new();
    for subtask in 0..parallelism {
        let (shared, client, name) = (shared.clone(), client.clone(), job.name);
        opening.spawn(async move { Life::open(shared, client, name, attempt, subtask).await });
    }
    let mut lives = Vec::new();
    for opened in opening.join_all().await {
        lives.push(opened.map_err(|error| format!("opening: {error}"))?);
    }
    let restored = lives.first().and_then(|life| life.backend.checkpoint()).map(|checkpoint| checkpoint.checkpoint_id);
    let restored = restored.map_or("began empty".to_owned(), |id| format!("restored checkpoint {id}"));
    println!("{}: life {attempt} of {parallelism} subtask(s) {restored}", job.name);
    let mut subtasks = JoinSet::new();
    for life in lives {
        subtasks.spawn(task(life));
    }
    let mut found = Vec::new();
    while let Some(ended) = subtasks.join_next().await {
        found.push(ended??);
    }
    Ok(found)
}

async fn connect(socket: &Path) -> Result<Client, ClientError> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        match Client::connect(socket).await {
            Err(error) if error.is_retryable() && Instant::now() < deadline => sleep(Duration::from_millis(10)).await,
            other => return other,
        }
    }
}

/// Whether a task meets this error when its daemon dies.
fn is_about_a_dead_daemon(error: &Fault) -> bool {
    error.downcast_ref::<ClientError>().is_some_and(|error| {
        let is_lost = matches!(
            error,
            ClientError::SessionLost(_) | ClientError::CheckpointInterrupted { .. } | ClientError::Closed
        );
        is_lost || error.is_retryable()
    })
}
