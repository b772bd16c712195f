//! The hand-written encoding compared with that of prost.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use proptest::prelude::*;

use super::*;
use dstl_proto::v1::{Batch, Operation, session_request::Request};

fn bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from)
}

fn operation() -> impl Strategy<Value = Operation> {
    let texts = (bytes(), bytes(), bytes(), bytes());
    let numbers = (any::<u32>(), 0_u64..1000, any::<u64>(), any::<Option<u32>>());
    let kind = prop::sample::select(vec![0, 1, 2, 3, 4, 10, 11, 15, 16, 20, 23, 42]);
    (kind, texts, numbers).prop_map(|(kind, texts, (state, start, limit, key_group))| Operation {
        kind,
        state,
        key: texts.0,
        namespace: texts.1,
        map_key: texts.2,
        value: texts.3,
        values: Vec::new(),
        start,
        limit,
        key_group,
        ..Default::default()
    })
}

fn elements() -> impl Strategy<Value = Operation> {
    (operation(), prop::collection::vec(bytes(), 0..5)).prop_map(|(operation, values)| Operation {
        kind: OperationKind::ListAddAll.into(),
        map_key: Bytes::new(),
        value: Bytes::new(),
        start: 0,
        limit: 0,
        values,
        ..operation
    })
}

fn timer() -> impl Strategy<Value = Operation> {
    let kind = prop::sample::select(vec![OperationKind::TimerRegister, OperationKind::TimerDelete]);
    (kind, operation(), prop_oneof![Just(0), any::<i64>()]).prop_map(|(kind, operation, time)| Operation {
        kind: kind.into(),
        map_key: Bytes::new(),
        value: Bytes::new(),
        start: 0,
        limit: 0,
        time,
        ..operation
    })
}

fn by_hand(out: &mut Vec<u8>, operation: &Operation) {
    let target = Target {
        kind: operation.kind(),
        state: operation.state,
        namespace: &operation.namespace,
        key_group: operation.key_group,
    };
    if operation.kind() == OperationKind::ListAddAll {
        put_elements(out, &target, &operation.key, &operation.values);
    } else if matches!(operation.kind(), OperationKind::TimerRegister | OperationKind::TimerDelete) {
        put_timer(out, &target, &operation.key, operation.time);
    } else {
        let fields = Fields {
            key: &operation.key,
            map_key: &operation.map_key,
            value: &operation.value,
            start: operation.start,
            limit: operation.limit,
        };
        put_operation(out, &target, &fields);
    }
}

proptest! {
    #[test]
    fn operations_by_hand_are_what_prost_writes(
        number in prop_oneof![Just(0_u64), any::<u64>()],
        operations in prop::collection::vec(prop_oneof![operation(), elements(), timer()], 0..10),
    ) {
        let mut encoded = Vec::new();
        for operation in &operations {
            by_hand(&mut encoded, operation);
        }
        let encoded = Bytes::from(encoded);
        let mut request = Vec::new();
        put_batch(number, &encoded, &mut request);

        let batch = Batch { number, operations: operations.clone() };
        prop_assert_eq!(batch_len(number, &encoded), batch.encoded_len());
        let parts = split_operations(&encoded).unwrap();
        prop_assert_eq!(parts.len(), operations.len());
        for (part, operation) in parts.iter().zip(&operations) {
            prop_assert_eq!(part_is_read(part), is_read(operation.kind()));
            prop_assert_eq!(part_state(part), Some(operation.state));
        }
        let expected = SessionRequest { request: Some(Request::Batch(batch)) };
        prop_assert_eq!(request, expected.encode_to_vec());
    }

    #[test]
    fn splitting_any_bytes_ends(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        if let Ok(parts) = split_operations(&Bytes::from(bytes)) {
            let _ = parts.iter().filter(|part| part_is_read(part) && part_state(part).is_some()).count();
        }
    }
}
