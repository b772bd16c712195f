//! Forwarding for wrappers of a state backend: the methods that a wrapper does not change.

/// Implements these methods of [`StateBackend`](super::StateBackend) by those of the field `$to`.
macro_rules! forward {
    ($to:ident: $($method:ident),+ $(,)?) => {
        $($crate::state::forward::forward!(@$method $to);)+
    };
    (@register $to:ident) => {
        fn register(&mut self, state: $crate::types::StateId, descriptor: &$crate::types::StateDescriptor) {
            self.$to.register(state, descriptor);
        }
    };
    (@value $to:ident) => {
        fn value(
            &self,
            at: $crate::state::Address<'_>,
            read: &mut dyn FnMut(Option<&[u8]>),
        ) -> Result<(), $crate::state::StateError> {
            self.$to.value(at, read)
        }
    };
    (@map_value $to:ident) => {
        fn map_value(
            &self,
            at: $crate::state::Address<'_>,
            map_key: &[u8],
            read: &mut dyn FnMut(Option<&[u8]>),
        ) -> Result<(), $crate::state::StateError> {
            self.$to.map_value(at, map_key, read)
        }
    };
    (@map_page $to:ident) => {
        fn map_page(
            &self,
            at: $crate::state::Address<'_>,
            keys: $crate::state::MapKeys<'_>,
            limit: $crate::state::PageLimit,
            read: &mut dyn FnMut(&[u8], &[u8]),
        ) -> Result<bool, $crate::state::StateError> {
            self.$to.map_page(at, keys, limit, read)
        }
    };
    (@list_page $to:ident) => {
        fn list_page(
            &self,
            at: $crate::state::Address<'_>,
            from: u64,
            limit: $crate::state::PageLimit,
            read: &mut dyn FnMut(&[u8]),
        ) -> Result<bool, $crate::state::StateError> {
            self.$to.list_page(at, from, limit, read)
        }
    };
    (@timer $to:ident) => {
        fn timer(&self, at: $crate::state::Address<'_>, time: i64) -> Result<bool, $crate::state::StateError> {
            self.$to.timer(at, time)
        }
    };
    (@timer_page $to:ident) => {
        fn timer_page(
            &self,
            state: $crate::types::StateId,
            after: Option<$crate::state::TimerRef<'_>>,
            up_to: i64,
            limit: $crate::state::PageLimit,
            read: &mut dyn FnMut($crate::state::TimerRef<'_>),
        ) -> Result<bool, $crate::state::StateError> {
            self.$to.timer_page(state, after, up_to, limit, read)
        }
    };
    (@timer_count $to:ident) => {
        fn timer_count(&self, state: $crate::types::StateId) -> Result<u64, $crate::state::StateError> {
            self.$to.timer_count(state)
        }
    };
    (@len $to:ident) => {
        fn len(&self, at: $crate::state::Address<'_>) -> Result<u64, $crate::state::StateError> {
            self.$to.len(at)
        }
    };
    (@has_entries $to:ident) => {
        fn has_entries(
            &self,
            at: $crate::state::Address<'_>,
            kind: $crate::types::StateKind,
        ) -> Result<bool, $crate::state::StateError> {
            self.$to.has_entries(at, kind)
        }
    };
    (@name_page $to:ident) => {
        fn name_page(
            &self,
            state: $crate::types::StateId,
            key_group: $crate::types::KeyGroup,
            after: Option<(&[u8], &[u8])>,
            limit: $crate::state::PageLimit,
            read: &mut dyn FnMut(&[u8], &[u8]),
        ) -> Result<bool, $crate::state::StateError> {
            self.$to.name_page(state, key_group, after, limit, read)
        }
    };
    (@name_rank $to:ident) => {
        fn name_rank(&self, key: &[u8], namespace: &[u8], rank: &mut Vec<u8>) {
            self.$to.name_rank(key, namespace, rank);
        }
    };
    (@counting $to:ident) => {
        fn counting(&self) -> $crate::state::Counting {
            self.$to.counting()
        }
    };
    (@bytes $to:ident) => {
        fn bytes(&self) -> u64 {
            self.$to.bytes()
        }
    };
    (@memory_bytes $to:ident) => {
        fn memory_bytes(&self) -> u64 {
            self.$to.memory_bytes()
        }
    };
    (@set_stamp $to:ident) => {
        fn set_stamp(&mut self, stamp: u64) {
            self.$to.set_stamp(stamp);
        }
    };
    (@set_time $to:ident) => {
        fn set_time(&mut self, time: $crate::types::TimeMs) {
            self.$to.set_time(time);
        }
    };
    (@set_ttl $to:ident) => {
        fn set_ttl(&mut self, state: $crate::types::StateId, ttl: $crate::types::Ttl) {
            self.$to.set_ttl(state, ttl);
        }
    };
    (@warm $to:ident) => {
        fn warm(&self, places: &mut dyn Iterator<Item = $crate::state::Address<'_>>) {
            self.$to.warm(places);
        }
    };
    (@finish_batch $to:ident) => {
        fn finish_batch(&mut self) -> Result<(), $crate::state::StateError> {
            self.$to.finish_batch()
        }
    };
}

pub(in crate::state) use forward;
