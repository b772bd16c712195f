//! Migrates a state whose serializers changed: the client reads the entries of the old ones, and writes them again.
//!
//! Each (key, namespace) is written to the new state and cleared in the old one in one batch, so that after a crash it
//! is in exactly one of them. Entries of a map are moved page by page. Calling it again, in this process or the next,
//! goes on.

use bytes::Bytes;
use prost::Message as _;

use super::{Backend, BatchBuilder, ClientError, Decode, ListState, MapState, ValueState};
use dstl_proto::{
    types::StateId,
    v1::{
        Batch, KeyGroupAssignment, MapEntry, Operation, OperationKind, OperationResult, Outcome, RegisterStatesRequest,
        RegisteredState, SchemaChange, StateDescriptor, StateKind, StoredKey, schema_change::Mode,
    },
};

/// Keys that are read at a time.
const PAGE_KEYS: u64 = 100;

/// The entries that the old state has of one key and namespace.
#[derive(Debug, Clone, PartialEq)]
pub enum OldEntries {
    /// The value that the old state has.
    Value(Bytes),
    /// Some entries of the map; the others come in other batches.
    Map(Vec<MapEntry>),
    /// The whole list.
    List(Vec<Bytes>),
}

/// One key and namespace that has to be rewritten.
#[derive(Debug, Clone, PartialEq)]
pub struct OldKey {
    /// Key, namespace and key group, in the form of the old serializers.
    pub stored: StoredKey,
    /// The entries of this key and namespace.
    pub entries: OldEntries,
    /// The state that gets the entries.
    pub new: StateId,
    gives_key_group: bool,
}

impl OldKey {
    /// The new state as a value state, in the namespace of the old entry.
    #[must_use]
    pub fn value_state<K: ?Sized, V: ?Sized>(&self) -> ValueState<K, V> {
        let state = ValueState::from_id(self.new.0).namespace(&self.stored.namespace[..]);
        if self.gives_key_group { state.key_group(self.stored.key_group) } else { state }
    }

    /// The new state as a map state, in the namespace of the old entry.
    #[must_use]
    pub fn map_state<K: ?Sized, M: ?Sized, V: ?Sized>(&self) -> MapState<K, M, V> {
        let state = MapState::from_id(self.new.0).namespace(&self.stored.namespace[..]);
        if self.gives_key_group { state.key_group(self.stored.key_group) } else { state }
    }

    /// The new state as a list state, in the namespace of the old entry.
    #[must_use]
    pub fn list_state<K: ?Sized, V: ?Sized>(&self) -> ListState<K, V> {
        let state = ListState::from_id(self.new.0).namespace(&self.stored.namespace[..]);
        if self.gives_key_group { state.key_group(self.stored.key_group) } else { state }
    }

    fn operation(&self, kind: OperationKind, old: u32) -> Operation {
        let StoredKey { key, namespace, key_group } = self.stored.clone();
        let key_group = self.gives_key_group.then_some(key_group);
        Operation { kind: kind.into(), state: old, key, namespace, key_group, ..Operation::default() }
    }
}

impl Backend {
    /// Registers states whose schema may have changed, with the declared `changes`, all or none, and returns them in
    /// order. Idempotent and cancel-safe.
    ///
    /// # Errors
    /// As for [`register`](Self::register).
    pub async fn register_with(
        &self,
        states: &[StateDescriptor],
        changes: &[SchemaChange],
    ) -> Result<Vec<RegisteredState>, ClientError> {
        let (states, changes) = (states.to_vec(), changes.to_vec());
        let count = states.len();
        let request = RegisterStatesRequest { backend: Some(self.reference().clone()), states, changes };
        let registered = self.client().stub().register_states(request).await?.into_inner().states;
        self.touched().learn(&registered);
        if registered.len() == count { Ok(registered) } else { Err(ClientError::Incomplete("all states")) }
    }

    /// Registers a state that may have entries in an older schema, and rewrites those: `rewrite` adds to the batch the
    /// operations that put an old entry into the new state. Call it before a session begins. Returns the state when no
    /// entry is left in an older schema. Cancel-safe in the sense that calling it again goes on.
    ///
    /// # Errors
    /// The error of `rewrite`, or of the daemon, for example for a list that is too long for one batch. The daemon
    /// refuses all of it while a session writes.
    pub async fn migrate(
        &self,
        state: &StateDescriptor,
        mut rewrite: impl FnMut(&OldKey, &mut BatchBuilder) -> Result<(), ClientError>,
    ) -> Result<RegisteredState, ClientError> {
        let change = SchemaChange { state: state.name.clone(), mode: Mode::Migrate.into() };
        let gives_key_group = self.opened().key_group_assignment() == KeyGroupAssignment::Given;
        loop {
            let registered = self.register_with(std::slice::from_ref(state), std::slice::from_ref(&change)).await?;
            let registered = registered.into_iter().next().ok_or(ClientError::Incomplete("the registered state"))?;
            if registered.migrating_from == 0 {
                return Ok(registered);
            }
            let mut token = Bytes::new();
            loop {
                let (keys, next) = self.old_keys(registered.migrating_from, token).await?;
                for stored in keys {
                    let (entries, new) = (OldEntries::List(vec![]), StateId(registered.id));
                    let key = OldKey { stored, entries, new, gives_key_group };
                    self.rewrite(key, registered.migrating_from, state.kind(), &mut rewrite).await?;
                }
                if next.is_empty() {
                    break;
                }
                token = next;
            }
        }
    }

    /// Registers a value state that may have entries in an older schema, and rewrites those: `rewrite` makes the new
    /// key and value of each. Otherwise it is like [`migrate`](Self::migrate).
    ///
    /// # Errors
    /// As for [`migrate`](Self::migrate); [`ClientError::Malformed`] if an old entry does not decode.
    pub async fn migrate_values<Old, OldValue, K, V>(
        &self,
        state: &StateDescriptor,
        mut rewrite: impl FnMut(Old, OldValue) -> (K, V),
    ) -> Result<ValueState<K, V>, ClientError>
    where
        Old: Decode,
        OldValue: Decode,
        K: super::Encode,
        V: super::Encode,
    {
        let registered = self.migrate(state, |old, batch| {
            if let OldEntries::Value(value) = &old.entries {
                let (key, value) = rewrite(Old::decode(old.stored.key.clone())?, OldValue::decode(value.clone())?);
                batch.push(old.value_state::<K, V>().put(&key, &value));
            }
            Ok(())
        });
        Ok(ValueState::from_id(registered.await?.id))
    }

    /// A page of the old state's keys, and the token of the next page; the token is empty after the last one.
    async fn old_keys(&self, old: u32, token: Bytes) -> Result<(Vec<StoredKey>, Bytes), ClientError> {
        let kind = OperationKind::Keys.into();
        let keys =
            Operation { kind, state: old, all_namespaces: true, token, limit: PAGE_KEYS, ..Operation::default() };
        let page = self.read(keys).await?;
        Ok((page.keys, page.token))
    }

    /// Rewrites all entries of one key and namespace of the state `old`. Those in `key` are replaced by those that it
    /// reads.
    async fn rewrite(
        &self,
        mut key: OldKey,
        old: u32,
        kind: StateKind,
        rewrite: &mut impl FnMut(&OldKey, &mut BatchBuilder) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        loop {
            let (entries, more) = self.old_entries(&key, old, kind).await?;
            let mut batch = BatchBuilder::new();
            // There are no entries if all of them have expired.
            if let Some(entries) = entries {
                key.entries = entries;
                rewrite(&key, &mut batch)?;
            }
            // Ordering: old entries go in the batch that writes the new ones, so that a crash leaves each of them in
            // exactly one state. As long as others follow, only those of this page go. The next page then begins with
            // the rest.
            match &key.entries {
                OldEntries::Map(entries) if more => {
                    for MapEntry { key: map_key, .. } in entries {
                        let remove = key.operation(OperationKind::MapRemove, old);
                        batch.push(&Operation { map_key: map_key.clone(), ..remove });
                    }
                }
                _ => _ = batch.push(&key.operation(OperationKind::Clear, old)),
            }
            let sealed = batch.seal(self.client().limits())?;
            let batch = Batch::decode(sealed.operations).map_err(|_| ClientError::Incomplete("the batch"))?;
            self.client().apply_batch(self.reference(), batch, false).await?;
            if !more {
                return Ok(());
            }
        }
    }

    /// The old state's entries of a key, and whether others follow once these are removed.
    async fn old_entries(
        &self,
        key: &OldKey,
        old: u32,
        kind: StateKind,
    ) -> Result<(Option<OldEntries>, bool), ClientError> {
        match kind {
            StateKind::Map => {
                // Few entries, so that the rewritten ones, which may be longer, fit into a batch.
                let limit = PAGE_KEYS;
                let page = Operation { limit, ..key.operation(OperationKind::MapEntries, old) };
                let page = self.read(page).await?;
                Ok((page.found.then_some(OldEntries::Map(page.entries)), page.more))
            }
            StateKind::List => {
                let (mut elements, mut token) = (vec![], Some(Bytes::new()));
                while let Some(from) = token {
                    let page = Operation { token: from, ..key.operation(OperationKind::ListGet, old) };
                    let page = self.read(page).await?;
                    elements.extend(page.elements);
                    token = Some(page.token).filter(|token| !token.is_empty());
                }
                Ok(((!elements.is_empty()).then_some(OldEntries::List(elements)), false))
            }
            _ => {
                let value = self.read(key.operation(OperationKind::Get, old)).await?;
                Ok((value.found.then_some(OldEntries::Value(value.value)), false))
            }
        }
    }

    /// One read, which takes no batch number.
    async fn read(&self, operation: Operation) -> Result<OperationResult, ClientError> {
        let batch = Batch { number: 0, operations: vec![operation] };
        let applied = self.client().apply_batch(self.reference(), batch, false).await?;
        let result = applied.result.and_then(|result| result.results.into_iter().next());
        let result = result.ok_or(ClientError::Incomplete("the result of a read"))?;
        debug_assert!(result.outcome() != Outcome::AskAgain, "the first read of a batch is always carried out");
        Ok(result)
    }
}
