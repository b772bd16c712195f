//! Pins: leases on objects for a reader that owns none of their chains.
//!
//! ```text
//!   head retains it ──▶ pin durable ──▶ head retains it still ──▶ read … read ──▶ pin deleted
//!                          │                 │ no: it does not count,              ▲
//!                          │                 ▼ begin anew                          │
//!                          └─ renewal 1 ─ renewal 2 ─ … (each: is the pin there?) ─┘
//! ```
//!
//! A pin (`<job>/pins/<uuid>`) lists by [imports](Import) which objects are read. It stands for itself, since the
//! checkpoint may be subsumed meanwhile. It is made once and never changes. Renewals (`<job>/renewals/<uuid>/<number>`)
//! are objects beside it that say that its holder is alive. Sweeps keep the objects that a pin names as long as it
//! exists, and delete it once it and all its renewals are older than the lease. [`super::collect`] shows why that is
//! enough.
//!
//! A pin that a *user* sets ([`super::ledger::Ledger::pin`]) is something else: a mark on a checkpoint in its own
//! chain, which only its owner writes, and which never expires.

use std::time::Duration;

use bytes::Bytes;
use futures::future;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::{
    envelope::{self, EnvelopeError, Kind},
    manifest::{
        Import,
        codec::{decode_import, encode_import},
    },
};
use crate::{
    object::{Created, PutPayload, Retry, Store, StoreError, layout::ObjectName},
    proto::store,
    random::Random,
    types::{BackendId, Name},
};

/// Renewals within one lease if none fails.
const RENEWALS_PER_LEASE: u32 = 3;

/// How often a release is tried; a pin that stays will expire.
const RELEASE_ATTEMPTS: u32 = 3;

/// The contents of a pin object.
#[derive(Debug, Clone, PartialEq)]
pub struct Pin {
    /// The operator whose chains the imports are of.
    pub operator: Name,
    /// How long after its making, or its last renewal, it cannot be revoked; in milliseconds.
    pub lease_ms: u64,
    /// The objects that are read.
    pub imports: Vec<Import>,
}

/// A pin no longer protects its objects.
#[derive(Debug, thiserror::Error)]
pub enum PinLost {
    /// The lease ended, or a user discarded the pinned objects.
    #[error("pin `{0}` is gone: its lease ended before it was renewed, or somebody revoked it")]
    Revoked(ObjectName),
    /// The store did not take a renewal in time.
    #[error("pin `{name}` could not be renewed within its lease: {source}")]
    Unrenewed {
        /// Name of the pin.
        name: ObjectName,
        /// The error of the last renewal.
        source: StoreError,
    },
}

/// A pin that this process made. If it is dropped without [`release`](Self::release), it stays until it expires.
#[derive(Debug)]
pub struct Held {
    store: Store,
    job: Name,
    id: Uuid,
    lease: Duration,
    /// A moment before the pin, or its last renewal, was made.
    renewed: Instant,
    renewals: u64,
}

impl Pin {
    /// The pin as the bytes of an object of `job`.
    #[must_use]
    pub fn encode(&self, job: &Name) -> Bytes {
        let of = self.of(job);
        let imports = self.imports.iter().map(|import| encode_import(&of, import)).collect();
        let message = store::Pin { operator: self.operator.to_string(), lease_ms: self.lease_ms, imports };
        envelope::seal(Kind::Pin, &message)
    }

    /// Reads a pin of `job`.
    ///
    /// # Errors
    /// If the bytes are damaged, or are not a valid pin.
    pub fn decode(job: &Name, bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let message: store::Pin = envelope::open(Kind::Pin, bytes)?;
        let contents = |what: &str| EnvelopeError::Contents(what.to_owned());
        let operator = Name::new(&message.operator).map_err(|error| contents(&error.to_string()))?;
        let mut pin = Self { operator, lease_ms: message.lease_ms, imports: vec![] };
        let of = pin.of(job);
        let imports = message.imports.iter().map(|import| decode_import(&of, import));
        pin.imports = imports.collect::<Result<_, _>>().map_err(contents)?;
        Ok(pin)
    }

    /// A backend of the operator. Imports name subtasks of the operator, so any subtask will do.
    fn of(&self, job: &Name) -> BackendId {
        BackendId { job: job.clone(), operator: self.operator.clone(), subtask: 0 }
    }
}

impl Held {
    /// Makes a pin in `job`. It is effective only if the chains that it reads still retain the imported checkpoints
    /// after this has returned. Not cancel-safe: if dropped, there may be a pin that stays until it expires.
    ///
    /// # Errors
    /// The error of the store.
    pub async fn make(store: &Store, job: &Name, pin: &Pin, random: &Random, retry: Retry) -> Result<Self, StoreError> {
        // Taken before the request: the store may date the pin as early as this moment, so the lease may be over that
        // much sooner.
        let renewed = Instant::now();
        let id = random.uuid();
        let path = ObjectName::Pin { job: job.clone(), id }.path();
        let created = store.create(&path, PutPayload::from_bytes(pin.encode(job)), retry).await?;
        assert_ne!(created, Created::Conflict, "nobody makes a pin of another's name");
        let lease = Duration::from_millis(pin.lease_ms);
        Ok(Self { store: store.clone(), job: job.clone(), id, lease, renewed, renewals: 0 })
    }

    /// Name of the pin object.
    #[must_use]
    pub fn name(&self) -> ObjectName {
        ObjectName::Pin { job: self.job.clone(), id: self.id }
    }

    /// Renews the pin in thirds of its lease as long as it is polled; returns only when the pin is lost. Cancel-safe.
    pub async fn keep(&mut self) -> PinLost {
        loop {
            sleep_until(self.renewed + self.lease / RENEWALS_PER_LEASE).await;
            if let Err(lost) = self.renew().await {
                return lost;
            }
        }
    }

    /// Checks that the pin still exists; then its objects were protected all the time. Cancel-safe.
    ///
    /// # Errors
    /// [`PinLost::Revoked`] if it does not.
    pub async fn check(&self, retry: Retry) -> Result<(), PinLost> {
        match self.store.head(&self.name().path(), retry).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(PinLost::Revoked(self.name())),
            Err(source) => Err(PinLost::Unrenewed { name: self.name(), source }),
        }
    }

    async fn renew(&mut self) -> Result<(), PinLost> {
        let now = Instant::now();
        // A holder that was stopped for longer than its lease may still have its pin, and only that matters.
        let retry = Retry::until((self.renewed + self.lease).max(now + self.lease / RENEWALS_PER_LEASE));
        // A new name for each renewal. Its time is that of its creation, which a second create of the same name would
        // not renew.
        self.renewals += 1;
        let path = self.renewal(self.renewals).path();
        let created = self.store.create(&path, PutPayload::from_static(b""), retry).await;
        created.map_err(|source| PinLost::Unrenewed { name: self.name(), source })?;
        // The pin may have been revoked before the renewal existed.
        self.check(retry).await?;
        // The moment before the renewal was made, and only once the pin was seen after it.
        self.renewed = now;
        Ok(())
    }

    /// Deletes the pin, with few attempts; a pin that stays will expire. Cancel-safe in that sense.
    pub async fn release(self) {
        // The pin first: renewals without a pin are garbage.
        let names = std::iter::once(self.name()).chain((1..=self.renewals).map(|number| self.renewal(number)));
        let retry = Retry::forever().at_most(RELEASE_ATTEMPTS);
        for path in names.map(|name| name.path()) {
            if let Err(error) = self.store.delete(&path, retry).await {
                tracing::info!(pin = %self.name(), %error, "a pin that is no longer needed stays until it expires");
                return;
            }
        }
    }

    fn renewal(&self, number: u64) -> ObjectName {
        ObjectName::PinRenewal { job: self.job.clone(), id: self.id, number }
    }
}

/// Renews all `pins` as long as it is polled; returns only when one is lost. Cancel-safe.
pub async fn keep_all(pins: &mut [Held]) -> PinLost {
    let keeping: Vec<_> = pins.iter_mut().map(|pin| Box::pin(pin.keep())).collect();
    match keeping.is_empty() {
        true => future::pending().await,
        false => future::select_all(keeping).await.0,
    }
}

/// Deletes all `pins`, as far as possible. Cancel-safe in that sense.
pub async fn release_all(pins: Vec<Held>) {
    for pin in pins {
        pin.release().await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use super::*;
    use crate::{
        checkpoint::manifest::tests::sample,
        clock::Clock,
        metrics::Metrics,
        object::{MemoryStore, Path, RetryOptions},
        types::StateId,
    };

    fn pin() -> (Name, Pin) {
        let of = sample();
        let names = BTreeMap::from([(StateId(1), StateId(4))]);
        let imports = of.export(&of.checkpoints[1], of.shape.key_groups, &names, || Uuid::from_u128(5));
        assert!(!imports.is_empty());
        (of.backend.job, Pin { operator: of.backend.operator, lease_ms: 9_000, imports })
    }

    #[test]
    fn a_pin_survives_its_bytes() {
        let (job, pin) = pin();
        assert_eq!(Pin::decode(&job, &pin.encode(&job)).unwrap(), pin);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pin_is_renewed_until_it_is_revoked_and_leaves_nothing_when_released() {
        let (job, pin) = pin();
        let memory = Arc::new(MemoryStore::new(Clock::new(|| 5)));
        let random = Random::seeded(1);
        let store = Store::new(memory, Path::default(), RetryOptions::default(), &Metrics::new(), random.clone());
        let mut held = Held::make(&store, &job, &pin, &random, Retry::none()).await.unwrap();
        let waited = tokio::time::timeout(Duration::from_secs(10), held.keep()).await;
        assert!(waited.is_err(), "{waited:?}");
        assert_eq!(store.list(&Path::default(), Retry::none()).await.unwrap().len(), 4);
        held.release().await;
        assert_eq!(store.list(&Path::default(), Retry::none()).await.unwrap(), []);
        let mut held = Held::make(&store, &job, &pin, &random, Retry::none()).await.unwrap();
        store.delete(&held.name().path(), Retry::none()).await.unwrap();
        assert!(matches!(held.keep().await, PinLost::Revoked(_)));
    }
}
