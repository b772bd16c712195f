//! What a daemon keeps on local disk, as its users see it: over the socket, under kills, and where the disk refuses.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use dstl::{
    client::{Client, ClientError, InnerBackend, OpenOptions, StateOptions},
    proto::v1::Reason,
};

/// A daemon of the real binary in a folder that outlives it.
pub(crate) struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    pub(crate) fn start(folder: &Path, settings: &[String]) -> Self {
        let socket = folder.join("s");
        let mut command = Command::new(env!("CARGO_BIN_EXE_dstl"));
        command.args(["serve", "--admin", "off", "--socket"]).arg(&socket).env_clear();
        let data = format!("dstl.data-dir={}", folder.display());
        for setting in settings.iter().chain([&data]) {
            command.args(["--set", setting]);
        }
        let child = command.stderr(Stdio::null()).spawn().expect("the binary starts");
        Self { child, socket }
    }

    /// The process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) async fn client(&self) -> Client {
        for _ in 0..200 {
            match Client::connect(&self.socket).await {
                Ok(client) => return client,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        panic!("the daemon does not answer");
    }

    /// Sends it a signal by name, and waits for its end.
    fn end(mut self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().expect("there is `kill`").success());
        self.child.wait().expect("it ends");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Folders of daemons below a root.
fn homes(root: &Path) -> usize {
    let names = std::fs::read_dir(root).expect("the root is there").map(|entry| entry.expect("an entry").file_name());
    names.filter(|name| name.to_string_lossy().starts_with("dstl-")).count()
}

#[tokio::test]
async fn state_in_rocksdb_survives_a_killed_daemon_whose_local_files_go() {
    let folder = tempfile::tempdir().unwrap();
    let locals = ["a", "b"].map(|name| folder.path().join(name));
    let localdir = format!("state.backend.rocksdb.localdir={},{}", locals[0].display(), locals[1].display());
    let settings = [localdir, "memory.budget=64 MiB".to_owned()];
    for attempt in 1..=2_u64 {
        let daemon = Daemon::start(folder.path(), &settings);
        let client = daemon.client().await;
        let options = OpenOptions::new("job", "operator").attempt(attempt).inner(InnerBackend::Rocksdb);
        let backend = client.open(options).await.unwrap();
        assert_eq!(locals.each_ref().map(|root| homes(root)), [1, 1], "those of the killed daemon are gone");
        let state = backend.value_state::<String, i64>("count", StateOptions::new()).await.unwrap();
        let session = backend.session().await.unwrap();
        let found = session.run(state.get("word")).await.unwrap();
        assert_eq!(found, (attempt > 1).then_some(1));
        session.run(state.put("word", &(attempt as i64))).await.unwrap();
        session.barrier(attempt, "").await.unwrap().await.unwrap();
        daemon.end(if attempt == 1 { "KILL" } else { "TERM" });
    }
    assert_eq!(locals.each_ref().map(|root| homes(root)), [0, 0], "an orderly end leaves nothing");
}

#[tokio::test]
async fn a_killed_daemons_copies_restore_what_it_uploaded() {
    let folder = tempfile::tempdir().unwrap();
    let settings = [
        "execution.checkpointing.local-backup.enabled=true",
        "execution.state-recovery.from-local=true",
        // Its changes are few, and lie in a segment all the same.
        "execution.checkpointing.data-inline-threshold=0",
    ];
    let (copies, segments) = (folder.path().join("copies/objects/job"), folder.path().join("store/job/segments"));
    for attempt in 1..=2_u64 {
        let daemon = Daemon::start(folder.path(), &settings.map(str::to_owned));
        let client = daemon.client().await;
        let backend = client.open(OpenOptions::new("job", "operator").attempt(attempt)).await.unwrap();
        let state = backend.value_state::<String, i64>("count", StateOptions::new()).await.unwrap();
        let session = backend.session().await.unwrap();
        assert_eq!(session.run(state.get("word")).await.unwrap(), (attempt > 1).then_some(1));
        if attempt == 2 {
            break;
        }
        session.run(state.put("word", &1)).await.unwrap();
        session.barrier(attempt, "").await.unwrap().await.unwrap();
        while !copies.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        daemon.end("KILL");
        std::fs::remove_dir_all(&segments).expect("the checkpoint has a segment");
    }
}

#[tokio::test]
async fn a_disk_that_cannot_be_written_leaves_the_backends_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "no folder").unwrap();
    let localdir = format!("state.backend.rocksdb.localdir={}", file.join("local").display());
    let daemon = Daemon::start(folder.path(), std::slice::from_ref(&localdir));
    let client = daemon.client().await;
    client.open(OpenOptions::new("job", "memory").attempt(1)).await.unwrap();
    let refused = client.open(OpenOptions::new("job", "disk").attempt(1).inner(InnerBackend::Rocksdb)).await;
    let Err(ClientError::Daemon(refused)) = refused else { panic!("{refused:?}") };
    assert_eq!(refused.reason, Reason::Unsupported);
    assert!(refused.message.contains("state.backend.rocksdb.localdir"), "{refused:?}");
    drop(daemon);
    let mut daemon = Daemon::start(folder.path(), &[localdir, "state.backend.type=rocksdb".to_owned()]);
    assert_eq!(daemon.child.wait().unwrap().code(), Some(1), "what everything would be refused for ends it at once");
}
