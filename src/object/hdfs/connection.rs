//! The client of a cluster. It is replaced when a NameNode hangs.
//!
//! The client itself fails over if a NameNode refuses connections or says that it is on standby. But it waits forever
//! for a NameNode that is stopped, or that is behind a broken network: the connection counts as alive until TCP gives
//! up, and every later request uses the same connection. So when a caller gives up a call after a while, the client is
//! dropped with it, and the next client begins with the next NameNode. Other calls under way keep the old client.
//!
//! Every client works on the runtime that opened the store, whichever runtime calls it first. A caller with a runtime
//! of its own would end the connections of all others when it ends.

use std::{future::Future, time::Duration};

use hdfs_native::{Client, ClientBuilder};
use object_store::Result;
use parking_lot::Mutex;
use tokio::{runtime::Handle, time::Instant};

use super::{error::told, settings::Settings};

/// A call that is dropped sooner says nothing about the NameNode, as its caller no longer needs the answer.
const SUSPICIOUS: Duration = Duration::from_secs(1);

/// The client of the NameNodes, and the settings to make another one.
#[derive(Debug)]
pub(super) struct Connection {
    settings: Settings,
    /// The runtime that opened the store, if one did.
    home: Option<Handle>,
    current: Mutex<Current>,
}

#[derive(Debug, Default)]
struct Current {
    client: Option<Client>,
    /// Number of clients that were given up. It decides with which NameNode the next client begins.
    given_up: usize,
}

/// A call under way.
struct Pending<'a> {
    connection: &'a Connection,
    /// Value of `given_up` when the call began.
    generation: usize,
    since: Instant,
    answered: bool,
}

impl Connection {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, home: Handle::try_current().ok(), current: Mutex::default() }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Makes a call. Cancel-safe if `call` is.
    pub(super) async fn call<T, F>(&self, call: impl FnOnce(Client) -> F) -> Result<T>
    where
        F: Future<Output = hdfs_native::Result<T>>,
    {
        let (client, generation) = self.client().map_err(|error| told(error, &self.settings))?;
        let mut pending = Pending { connection: self, generation, since: Instant::now(), answered: false };
        let answer = call(client).await;
        // An error is an answer, too: only silence makes a NameNode suspicious. If this future is dropped at the await
        // above, the guard sees that no answer came.
        pending.answered = true;
        answer.map_err(|error| told(error, &self.settings))
    }

    fn client(&self) -> hdfs_native::Result<(Client, usize)> {
        let mut current = self.current.lock();
        let client = match &current.client {
            Some(client) => client.clone(),
            None => self.build(current.given_up)?,
        };
        current.client = Some(client.clone());
        Ok((client, current.given_up))
    }

    fn build(&self, given_up: usize) -> hdfs_native::Result<Client> {
        let settings = &self.settings;
        let mut builder = ClientBuilder::new().with_url(&settings.url).with_config(settings.properties(given_up));
        if let Some(home) = &self.home {
            builder = builder.with_io_runtime(home.clone());
        }
        if let Some(folder) = &settings.config_dir {
            builder = builder.with_config_dir(folder);
        }
        if let Some(user) = &settings.user {
            builder = builder.with_user(user);
        }
        if let Some(principal) = &settings.kerberos_principal {
            builder = builder.with_kerberos_principal(principal);
        }
        if let Some(keytab) = &settings.kerberos_keytab {
            builder = builder.with_kerberos_keytab(keytab);
        }
        if let Some(cache) = &settings.kerberos_cache {
            builder = builder.with_kerberos_cache(cache);
        }
        builder.build()
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if self.answered || self.since.elapsed() < SUSPICIOUS {
            return;
        }
        let mut current = self.connection.current.lock();
        // Another call may have given up this client already.
        if current.given_up == self.generation {
            // Calls under way keep their clone of the old client, and may still be answered.
            current.client = None;
            current.given_up += 1;
            tracing::debug!(store = %self.connection.settings.url, "a NameNode does not answer; the next one is asked");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use std::future::pending;

    use tokio::time::timeout;
    use url::Url;

    use super::*;
    use crate::object::StoreOptions;

    fn connection() -> Connection {
        let url = "hdfs://127.0.0.1:9";
        Connection::new(Settings::new(&StoreOptions::new(url), &Url::parse(url).unwrap()).unwrap())
    }

    async fn drop_after(connection: &Connection, millis: u64) -> usize {
        let call = connection.call(|_| pending::<hdfs_native::Result<()>>());
        timeout(Duration::from_millis(millis), call).await.unwrap_err();
        connection.current.lock().given_up
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_given_up_takes_the_client_with_it() {
        let connection = connection();
        assert_eq!(drop_after(&connection, 5000).await, 1);
        assert!(connection.current.lock().client.is_none());
        assert_eq!(drop_after(&connection, 5000).await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_hang_at_the_same_time_give_up_one_client() {
        let connection = connection();
        tokio::join!(drop_after(&connection, 4000), drop_after(&connection, 5000));
        assert_eq!(connection.current.lock().given_up, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_answered_or_soon_dropped_keeps_the_client() {
        let connection = connection();
        assert_eq!(drop_after(&connection, 900).await, 0);
        let slow = connection.call(|_| async {
            tokio::time::sleep(Duration::from_secs(4)).await;
            Ok(())
        });
        slow.await.unwrap();
        assert_eq!(connection.current.lock().given_up, 0);
        assert!(connection.current.lock().client.is_some());
    }
}
