//! A daemon of the same build in a temporary folder, and its own figures.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use dstl::client::Client;
use tempfile::TempDir;

use super::{
    Fault,
    options::{Inner, Options},
    process::Usage,
};

/// How long a daemon may take until it serves.
const START_TIMEOUT: Duration = Duration::from_secs(10);
const START_POLL: Duration = Duration::from_millis(20);

/// A child process that ends with its owner.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn spawn(command: &mut Command) -> Result<Self, Fault> {
        Ok(Self(command.stdin(Stdio::null()).spawn()?))
    }

    pub(crate) fn usage(&self) -> Result<Usage, Fault> {
        Usage::of(self.0.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running daemon.
pub(crate) struct Daemon {
    process: Process,
    admin: String,
    /// How many daemons had this store before.
    number: u32,
    store: Store,
    // After the process: its files go when it is gone.
    folder: TempDir,
}

/// The place of a store.
enum Store {
    /// A folder below that of the daemon.
    Beside,
    /// A folder that the options chose.
    Folder(TempDir),
    Url(String),
}

/// Objects that lie in a store.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stored {
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
}

impl Daemon {
    /// Starts one with its defaults: a store in the folder that fsyncs, logs of warnings only.
    pub(crate) async fn start(options: &Options) -> Result<(Self, Client), Fault> {
        Self::start_in(temporary(options)?, Store::of(options)?, 0, options).await
    }

    async fn start_in(folder: TempDir, store: Store, number: u32, options: &Options) -> Result<(Self, Client), Fault> {
        let admin = free_address()?;
        let mut command = match &options.daemon_cpus {
            None => Command::new(&options.daemon),
            Some(cpus) => {
                let mut command = Command::new("taskset");
                command.args(["--cpu-list", cpus]).arg(&options.daemon);
                command
            }
        };
        command.args(["serve", "--log-level", "warn", "--admin", &admin]);
        command.arg("--socket").arg(socket(&folder));
        command.arg("--store").arg(store.argument(&folder));
        command.arg("--set").arg(format!("dstl.data-dir={}", data(&folder, number).display()));
        for setting in options.settings() {
            command.arg("--set").arg(setting);
        }
        Self::connect(Self { process: Process::spawn(&mut command)?, admin, number, store, folder }).await
    }

    /// Starts the floor in its place.
    pub(crate) async fn floor(options: &Options) -> Result<(Self, Client), Fault> {
        let folder = temporary(options)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--serve-floor").arg(socket(&folder));
        if options.inner == Inner::Rocksdb {
            command.arg("--floor-folder").arg(folder.path().join("floor"));
        }
        let process = Process::spawn(&mut command)?;
        Self::connect(Self { process, admin: String::new(), number: 0, store: Store::Beside, folder }).await
    }

    async fn connect(self) -> Result<(Self, Client), Fault> {
        let client = connect(&self.socket()).await?;
        Ok((self, client))
    }

    /// Kills it, and starts another one on its store, with nothing else of it.
    pub(crate) async fn again_elsewhere(self, options: &Options) -> Result<(Self, Client), Fault> {
        let Self { process, folder, store, number, .. } = self;
        drop(process);
        let _ = std::fs::remove_file(socket(&folder));
        let _ = std::fs::remove_dir_all(data(&folder, number));
        Self::start_in(folder, store, number + 1, options).await
    }

    pub(crate) fn socket(&self) -> PathBuf {
        socket(&self.folder)
    }

    pub(crate) fn usage(&self) -> Result<Usage, Fault> {
        self.process.usage()
    }

    /// All of its metrics as they are now; none of the floor.
    pub(crate) fn metrics(&self) -> Result<Metrics, Fault> {
        let mut text = String::new();
        if !self.admin.is_empty() {
            let mut stream = TcpStream::connect(&self.admin)?;
            write!(stream, "GET /metrics HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.admin)?;
            stream.read_to_string(&mut text)?;
        }
        Ok(Metrics(text))
    }

    /// The folder of its store; none if that has a URL.
    pub(crate) fn store_folder(&self) -> Option<PathBuf> {
        match &self.store {
            Store::Beside => Some(self.folder.path().join("store")),
            Store::Folder(folder) => Some(folder.path().to_owned()),
            Store::Url(_) => None,
        }
    }

    /// Number and bytes of the objects in its store; none if that has a URL.
    pub(crate) fn stored(&self) -> Option<Stored> {
        let files = walkdir::WalkDir::new(self.store_folder()?).into_iter().filter_map(Result::ok);
        let files = files.filter_map(|entry| entry.metadata().ok()).filter(std::fs::Metadata::is_file);
        Some(
            files.fold(Stored::default(), |sum, file| Stored {
                objects: sum.objects + 1,
                bytes: sum.bytes + file.len(),
            }),
        )
    }

    /// A new folder beside its own, which goes with it.
    pub(crate) fn scratch(&self, name: &str) -> Result<PathBuf, Fault> {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(&path)?;
        Ok(path)
    }
}

impl Store {
    /// Where the options want it. Each daemon begins with an empty one.
    fn of(options: &Options) -> Result<Self, Fault> {
        Ok(match &options.store {
            None => Self::Beside,
            Some(url) if is_url(url) => {
                Self::Url(format!("{}/dstl-load-{}", url.trim_end_matches('/'), uuid::Uuid::new_v4()))
            }
            Some(folder) => Self::Folder(folder_in(Path::new(folder))?),
        })
    }

    fn argument(&self, folder: &TempDir) -> PathBuf {
        match self {
            Self::Beside => folder.path().join("store"),
            Self::Folder(folder) => folder.path().to_owned(),
            Self::Url(url) => url.into(),
        }
    }
}

/// Metrics of a daemon at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Metrics(String);

impl Metrics {
    /// The metric `name`, summed over its series; 0 if there is none.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        self.sum_of(name, "")
    }

    /// The metric `name`, summed over the series that have `label`.
    pub(crate) fn sum_of(&self, name: &str, label: &str) -> f64 {
        let values = self.0.lines().filter_map(|line| {
            let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']) && rest.contains(label))?;
            rest.rsplit(' ').next()?.parse::<f64>().ok()
        });
        values.sum()
    }
}

/// Whether a store is a URL rather than a folder.
pub(crate) fn is_url(store: &str) -> bool {
    store.contains("://")
}

/// The data folder of the daemon that is the `number`th on its store.
fn data(folder: &TempDir, number: u32) -> PathBuf {
    folder.path().join(format!("data-{number}"))
}

/// A temporary folder where the options want it.
pub(crate) fn temporary(options: &Options) -> Result<TempDir, Fault> {
    folder_in(&options.dir.clone().unwrap_or_else(std::env::temp_dir))
}

/// A temporary folder in `parent`, which is made if it is not there.
pub(crate) fn folder_in(parent: &Path) -> Result<TempDir, Fault> {
    let parent = std::path::absolute(parent)?;
    std::fs::create_dir_all(&parent)?;
    Ok(tempfile::Builder::new().prefix("dstl-load-").tempdir_in(parent)?)
}

/// The socket of the server in `folder`.
pub(crate) fn socket(folder: &TempDir) -> PathBuf {
    folder.path().join("socket")
}

/// An address that was free a moment ago.
fn free_address() -> Result<String, Fault> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

async fn connect(socket: &Path) -> Result<Client, Fault> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        match Client::connect(socket).await {
            Ok(client) => return Ok(client),
            Err(error) if Instant::now() >= deadline => return Err(error.into()),
            Err(_) => tokio::time::sleep(START_POLL).await,
        }
    }
}
