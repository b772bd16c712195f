//! A demo from its beginning to its end: the work, the comparison, the sweep.

use std::{
    env, fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use dstl::{object::Store, random::Random, types::Name};
use dstl_client::{Client, ClientError, OpenOptions, Restore};

use super::{
    args::{DemoOptions, Inner},
    count::{self, Count},
    input::Input,
    outcome::{Objects, Outcome, grouped},
    process::{Place, TaskStart},
    progress::Display,
    schedule,
    states::{Cursor, OPERATOR},
    store,
    supervisor::{self, Interrupts, Supervisor, Work},
    verify::{self, Comparison},
};

/// Least time of the work for each kill, and once more, so that kills hit it even if the input is small.
const TIME_PER_KILL: Duration = Duration::from_millis(800);

/// Longest path of a folder that still leaves room for a socket in it.
const MAX_FOLDER_BYTES: usize = 60;

/// The reason why a demo has no outcome.
#[derive(Debug, thiserror::Error)]
pub(super) enum DemoError {
    /// The options do not make sense here.
    #[error("{0}")]
    Usage(String),
    /// The store does not answer; the demo was not begun.
    #[error("{0}")]
    Store(String),
    /// A signal came.
    #[error("interrupted")]
    Interrupted,
    /// A process or a file could not be made.
    #[error("running the demo")]
    Start(#[source] io::Error),
    /// A part of dstl did not work as it should.
    #[error("the demo failed: {0}")]
    Failed(String),
}

impl DemoError {
    pub(super) fn start(error: io::Error) -> Self {
        Self::Start(error)
    }

    pub(super) fn failed(what: impl std::fmt::Display) -> Self {
        Self::Failed(what.to_string())
    }
}

/// Runs a demo to its end.
///
/// # Errors
/// [`DemoError`]. No process is left behind; the temporary folder with the logs is kept unless the options were at
/// fault.
pub(super) async fn run(options: DemoOptions) -> Result<Outcome, DemoError> {
    let mut interrupts = Interrupts::listen().map_err(DemoError::start)?;
    let random = Random::from_os();
    let input =
        Input::collect(&options.paths, options.max_bytes).map_err(|error| DemoError::Usage(error.to_string()))?;
    let mut folder = Folder::make(&random).map_err(DemoError::start)?;
    let ran = run_in(&folder.path, &input, &options, &mut interrupts).await;
    let keep = match &ran {
        Ok(outcome) => !outcome.ok,
        Err(error) => !matches!(error, DemoError::Usage(_) | DemoError::Store(_) | DemoError::Interrupted),
    };
    if keep {
        folder.keep();
    }
    ran
}

async fn run_in(
    folder: &Path,
    input: &Input,
    options: &DemoOptions,
    interrupts: &mut Interrupts,
) -> Result<Outcome, DemoError> {
    let seed = options.seed.unwrap_or_else(|| Random::from_os().below(1_000_000));
    let random = Random::seeded(seed);
    let place = place(folder, options)?;
    let opening = store::open(&place.store, &random);
    let store = tokio::select! {
        biased;
        () = interrupts.any() => return Err(DemoError::Interrupted),
        store = opening => store.map_err(|error| unusable(&place.store, &error))?,
    };
    input.save(folder).map_err(DemoError::start)?;
    let records = input.records();
    let plan = schedule::plan(&random, options.kills, records);
    let mut display = Display::new(records, options.json);
    display.say(&format!(
        "counting {} words of {} files, seed {seed}, job `{}` in {}",
        grouped(records),
        grouped(input.files.len() as u64),
        place.job,
        options.store.as_deref().unwrap_or("a temporary folder")
    ));
    let at_least = TIME_PER_KILL * (options.kills + 1);
    let rate = if options.kills == 0 { 0 } else { (records * 1_000 / at_least.as_millis() as u64).max(1) };
    let start = TaskStart { attempt: 1, records, rate };
    let work = Supervisor::start(&place, start, plan, &mut display).await?.run(interrupts).await?;
    display.phase("comparing with the count in memory");
    let count = count::count(input);
    let comparison = tokio::select! {
        biased;
        () = interrupts.any() => return Err(DemoError::Interrupted),
        compared = compare(&place, &work, input, &count) => compared?,
    };
    // Order: 1. stop the daemon, 2. sweep. Otherwise an upload of its last materialization could arrive after the
    // sweep.
    supervisor::stop(work.daemon).await;
    let (objects, materializations) = tokio::select! {
        biased;
        () = interrupts.any() => return Err(DemoError::Interrupted),
        swept = sweep(&place, &store) => swept?,
    };
    display.finish();
    for difference in &comparison.told {
        eprintln!("dstl-demo: {difference}");
    }
    let survived = work.kills.daemon + work.kills.task == options.kills;
    let seconds = work.elapsed.as_secs_f64();
    let outcome = Outcome {
        ok: comparison.mismatches == 0 && objects.unreferenced == 0 && survived,
        inner: options.inner.to_string(),
        seed,
        store: options.store.clone().unwrap_or_else(|| "temporary".to_owned()),
        job: place.job.clone(),
        files: input.files.len() as u64,
        input_bytes: input.text.len() as u64,
        input_bounded: input.bounded,
        records,
        updates: work.updates,
        updates_per_second: work.updates as f64 / seconds,
        seconds,
        entries: comparison.entries,
        mismatches: comparison.mismatches,
        kills: work.kills,
        checkpoints: work.checkpoints.summary(),
        materializations,
        recoveries_ms: work.recoveries_ms,
        objects,
    };
    Ok(outcome)
}

/// Restores the last checkpoint as one more owner, and compares its state with the count.
async fn compare(place: &Place, work: &Work, input: &Input, count: &Count<'_>) -> Result<Comparison, DemoError> {
    let mut comparison = restore_and_compare(place, work, input, count)
        .await
        .map_err(|error| DemoError::failed(format!("comparing: {error}")))?;
    if work.updates != count.updates {
        comparison.mismatches += 1;
        comparison.told.push(format!("the task made {} updates and should have made {}", work.updates, count.updates));
    }
    Ok(comparison)
}

/// Sweeps the store; returns the remaining objects, and the number of materializations.
async fn sweep(place: &Place, store: &Store) -> Result<(Objects, u64), DemoError> {
    let job = Name::new(place.job.as_str()).map_err(DemoError::failed)?;
    store::sweep(store, &job).await.map_err(|error| DemoError::failed(format!("sweeping: {error}")))
}

async fn restore_and_compare(
    place: &Place,
    work: &Work,
    input: &Input,
    count: &Count<'_>,
) -> Result<Comparison, ClientError> {
    let client = Client::connect(place.socket()).await?;
    let open =
        OpenOptions::new(&place.job, OPERATOR).attempt(work.attempt + 1).restore(Restore::Latest { or_empty: false });
    let backend = client.open(open).await?;
    let mut comparison = verify::compare(&client, &backend, input, count).await?;
    let record = Cursor::decode(backend.attachment()).map(|cursor| cursor.record);
    if record != Some(count.records) {
        comparison.mismatches += 1;
        comparison.told.push(format!("the last checkpoint is at record {record:?} of {}", count.records));
    }
    backend.close().await?;
    Ok(comparison)
}

/// Makes the names that the processes share. The name of the job is new each time, so that no older state is found in
/// the store.
fn place(folder: &Path, options: &DemoOptions) -> Result<Place, DemoError> {
    let store = match options.store.as_deref() {
        None => folder.join("store").display().to_string(),
        Some(url) if url.contains("://") => url.to_owned(),
        Some(path) => std::path::absolute(path)
            .map_err(|error| DemoError::Usage(format!("store `{path}`: {error}")))?
            .display()
            .to_string(),
    };
    let job = format!("demo-{}", Random::from_os().uuid().simple());
    Ok(Place { folder: folder.to_owned(), inner: options.inner, dstl: daemon(options)?, store, job })
}

/// The daemon's program.
fn daemon(options: &DemoOptions) -> Result<PathBuf, DemoError> {
    if options.inner == Inner::Rocksdb && !cfg!(feature = "rocksdb") {
        let text = "`--inner rocksdb`: RocksDB is not built into this program; `hashmap` is";
        return Err(DemoError::Usage(text.to_owned()));
    }
    let beside = || env::current_exe().map(|program| program.with_file_name("dstl")).map_err(DemoError::start);
    let dstl = options.dstl.clone().map_or_else(beside, Ok)?;
    if dstl.is_file() {
        return Ok(dstl);
    }
    Err(DemoError::Usage(format!("no daemon at `{}`: name the program `dstl` with `--dstl`", dstl.display())))
}

fn unusable(store: &str, error: &store::UnusableStore) -> DemoError {
    let mut text = format!("store `{store}` cannot be used: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        // Some errors include their causes in their text.
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    match error {
        store::UnusableStore::Silent(_) => DemoError::Store(text),
        _ => DemoError::Usage(text),
    }
}

/// A temporary folder, which is removed when this is dropped.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    kept: bool,
}

impl Folder {
    fn make(random: &Random) -> io::Result<Self> {
        let temporary = env::temp_dir();
        let base = if temporary.as_os_str().len() > MAX_FOLDER_BYTES { PathBuf::from("/tmp") } else { temporary };
        let path = base.join(format!("dstl-demo-{:08x}", random.below(1 << 32)));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path, kept: false })
    }

    fn keep(&mut self) {
        self.kept = true;
        eprintln!("dstl-demo: kept for a look: `{}` (daemon.log, task.log)", self.path.display());
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
