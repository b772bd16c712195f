//! The scenario `restore`: a daemon is killed, and another one on another host's disk restores from the store alone.

use std::{fmt, time::Instant};

use bytes::Bytes;
use dstl::{
    client::{Client, OpenOptions, Restore},
    proto::v1::{MaterializeRequest, state_backend_service_client::StateBackendServiceClient},
};
use serde::Serialize;

use super::{
    Fault, Options,
    daemon::Daemon,
    echo::channel,
    work::{Prepared, prepare},
};

/// Every key is written so many times more, for the log.
const ROUNDS: u64 = 2;

/// The objects that the new daemon has to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Of {
    Log,
    Snapshot,
    Both,
}

/// One restore.
#[derive(Debug, Serialize)]
pub(crate) struct Restored {
    of: Of,
    seconds: f64,
    changes: u64,
    bytes: u64,
    changes_per_second: f64,
    bytes_per_second: f64,
}

/// Restores the log alone, a snapshot alone, and both.
pub(crate) async fn measure(options: &Options) -> Result<Vec<Restored>, Fault> {
    let mut restored = vec![];
    for of in [Of::Log, Of::Snapshot, Of::Both] {
        restored.push(one(of, options).await?);
    }
    Ok(restored)
}

async fn one(of: Of, options: &Options) -> Result<Restored, Fault> {
    let (daemon, client) = Daemon::start(options).await?;
    let mut prepared = prepare(&client, "restore", options).await?;
    if of == Of::Both {
        materialize(&daemon, &prepared).await?;
    }
    if of != Of::Snapshot {
        for _ in 0..ROUNDS {
            let mut order = prepared.source.clone().seeded(3);
            let keys: Vec<u64> = (0..order.keys()).map(|_| order.key()).collect();
            prepared.write(keys, options.batch).await?;
        }
    } else {
        materialize(&daemon, &prepared).await?;
    }
    let completed = prepared.session.barrier(1, Bytes::new()).await?.await?;
    prepared.session.complete(completed.checkpoint.as_ref().ok_or("a checkpoint without identity")?).await?;
    let (_daemon, client): (Daemon, Client) = daemon.again_elsewhere(options).await?;
    let begun = Instant::now();
    let latest = Restore::Latest { or_empty: false };
    let backend = client.open(OpenOptions::new("load", "restore").attempt(2).restore(latest)).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let (changes, bytes) = (backend.opened().restored_changes, backend.opened().restored_bytes);
    let (changes_per_second, bytes_per_second) = (changes as f64 / seconds, bytes as f64 / seconds);
    Ok(Restored { of, seconds, changes, bytes, changes_per_second, bytes_per_second })
}

pub(crate) async fn materialize(daemon: &Daemon, prepared: &Prepared) -> Result<(), Fault> {
    let mut stub = StateBackendServiceClient::new(channel(&daemon.socket()).await?);
    let backend = Some(prepared.backend.reference().clone());
    stub.materialize(MaterializeRequest { backend }).await?;
    Ok(())
}

impl fmt::Display for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { of, seconds, changes, bytes, changes_per_second, bytes_per_second } = self;
        let (mib, k) = (bytes >> 20, changes_per_second / 1e3);
        let mib_per_second = bytes_per_second / f64::from(1 << 20);
        write!(
            f,
            "restore of {of:?}: {seconds:.2} s for {changes} changes, {mib} MiB ({k:.0} k/s, {mib_per_second:.0} MiB/s)"
        )
    }
}
