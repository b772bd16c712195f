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

use super::{Fault, Options, process::Usage};

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
    // After the process: its files go when it is gone.
    folder: TempDir,
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
        Self::start_in(temporary(options)?, options, "data").await
    }

    async fn start_in(folder: TempDir, options: &Options, data: &str) -> Result<(Self, Client), Fault> {
        let admin = free_address()?;
        let mut command = Command::new(&options.daemon);
        command.args(["serve", "--log-level", "warn", "--admin", &admin]);
        command.arg("--socket").arg(socket(&folder));
        command.arg("--store").arg(folder.path().join("store"));
        command.arg("--set").arg(format!("dstl.data-dir={}", folder.path().join(data).display()));
        for setting in options.settings() {
            command.arg("--set").arg(setting);
        }
        Self::connect(Self { process: Process::spawn(&mut command)?, admin, folder }).await
    }

    /// Starts the floor in its place.
    pub(crate) async fn floor(options: &Options) -> Result<(Self, Client), Fault> {
        let folder = temporary(options)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--serve-floor").arg(socket(&folder));
        Self::connect(Self { process: Process::spawn(&mut command)?, admin: String::new(), folder }).await
    }

    async fn connect(self) -> Result<(Self, Client), Fault> {
        let client = connect(&self.socket()).await?;
        Ok((self, client))
    }

    /// Kills it, and starts another one on its store, with nothing else of it.
    pub(crate) async fn again_elsewhere(self, options: &Options) -> Result<(Self, Client), Fault> {
        let Self { process, folder, .. } = self;
        drop(process);
        let _ = std::fs::remove_file(socket(&folder));
        Self::start_in(folder, options, "elsewhere").await
    }

    pub(crate) fn socket(&self) -> PathBuf {
        socket(&self.folder)
    }

    pub(crate) fn usage(&self) -> Result<Usage, Fault> {
        self.process.usage()
    }

    /// One of its metrics, summed over the series that have `label`.
    pub(crate) fn metric(&self, name: &str, label: &str) -> Result<f64, Fault> {
        let mut stream = TcpStream::connect(&self.admin)?;
        write!(stream, "GET /metrics HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.admin)?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']) && rest.contains(label))?;
            rest.rsplit(' ').next()?.parse::<f64>().ok()
        });
        Ok(values.sum())
    }

    /// Number and bytes of the objects in its store.
    pub(crate) fn stored(&self) -> Stored {
        let files = walkdir::WalkDir::new(self.folder.path().join("store")).into_iter().filter_map(Result::ok);
        files
            .filter_map(|entry| entry.metadata().ok())
            .filter(std::fs::Metadata::is_file)
            .fold(Stored::default(), |sum, file| Stored { objects: sum.objects + 1, bytes: sum.bytes + file.len() })
    }
}

/// A temporary folder where the options want it.
pub(crate) fn temporary(options: &Options) -> Result<TempDir, Fault> {
    let parent = options.dir.clone().unwrap_or_else(std::env::temp_dir);
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
