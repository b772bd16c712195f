//! The whole state model, typed: iteration, ranges, timers, operator state, TTL.

use super::*;
use dstl_proto::{
    types::{Redistribution, Ttl, TtlUpdate, TtlVisibility},
    v1,
};

#[tokio::test]
async fn keys_are_told_page_by_page() {
    let setup = setup(|_| {}).await;
    let session = setup.session().await;
    let counts = &setup.counts;
    for key in ["a", "b", "c", "d", "e"] {
        session.run(counts.namespace(&1_u64).merge(key, &1)).await.unwrap();
    }
    session.run(counts.namespace(&2_u64).merge("f", &1)).await.unwrap();
    let mut keys = counts.namespace(&1_u64).keys();
    assert_eq!(keys.next(&session).await.unwrap().as_deref(), Some("a"));
    assert_eq!(keys.collect(&session).await.unwrap(), ["b", "c", "d", "e"]);
    let all = counts.all_keys::<u64>().page_of(1).collect(&session).await.unwrap();
    let expected = StoredKey { key: "f".to_owned(), namespace: 2, key_group: 7 };
    assert_eq!((all.len(), all.last()), (6, Some(&expected)));
    assert!(counts.all_keys::<u64>().collect(&session).await.unwrap().iter().all(|stored| stored.key_group == 7));
    let malformed = counts.all_keys::<(u64, u64)>().next(&session).await.unwrap_err();
    assert!(matches!(malformed, ClientError::Malformed { .. }));
}

#[tokio::test]
async fn maps_are_read_by_range_and_prefix() {
    let setup = setup(|_| {}).await;
    let session = setup.session().await;
    let map: MapState<str, Ordered<i64>, i64> = setup.backend.map_state("map", StateOptions::new()).await.unwrap();
    for number in [300, -5, 7, 0, 20, 21] {
        session.run(map.put("key", &Ordered(number), &number)).await.unwrap();
    }
    let numbers = |entries: Vec<(Ordered<i64>, i64)>| entries.into_iter().map(|(_, number)| number).collect::<Vec<_>>();
    assert_eq!(numbers(map.scan("key").collect(&session).await.unwrap()), [-5, 0, 7, 20, 21, 300]);
    assert_eq!(numbers(map.range("key", Ordered(-5)..Ordered(20)).collect(&session).await.unwrap()), [-5, 0, 7]);
    assert_eq!(numbers(map.range("key", Ordered(0)..=Ordered(20)).collect(&session).await.unwrap()), [0, 7, 20]);
    assert_eq!(numbers(map.range("key", Ordered(20)..).collect(&session).await.unwrap()), [20, 21, 300]);
    assert_eq!(numbers(map.range("key", ..Ordered(0)).collect(&session).await.unwrap()), [-5]);
    let above = (std::ops::Bound::Excluded(Ordered(20)), std::ops::Bound::Unbounded);
    assert_eq!(numbers(map.range("key", above).collect(&session).await.unwrap()), [21, 300]);

    let words: MapState<str, String, u64> = setup.backend.map_state("words", StateOptions::new()).await.unwrap();
    for word in ["tea", "team", "te", "ten", "to"] {
        session.run(words.put("key", word, &1)).await.unwrap();
    }
    let found = words.prefix("key", "tea").collect(&session).await.unwrap();
    assert_eq!(found.into_iter().map(|(word, _)| word).collect::<Vec<_>>(), ["tea", "team"]);
    // Empty bytes would be no bound for the daemon.
    let before = setup.events().len();
    assert_eq!(words.range("key", ..String::new()).collect(&session).await.unwrap(), []);
    assert_eq!(words.range("key", "x".to_owned().."b".to_owned()).collect(&session).await.unwrap(), []);
    assert_eq!(setup.events().len(), before);
}

#[tokio::test]
async fn timers_are_registered_read_deleted_and_fired_in_order() {
    let setup = setup(|_| {}).await;
    let session = setup.session().await;
    let timers: TimerState<String, u64> = setup.backend.timer_state("timers", StateOptions::new()).await.unwrap();
    assert_eq!(timers.peek(&session).await.unwrap(), None);
    for (key, time) in [("b", 20), ("a", -10), ("c", 30), ("a", 20), ("a", 20)] {
        session.run(timers.namespace(&3_u64).register(key, time)).await.unwrap();
    }
    let timer = |key: &str, time| Timer { time, key: key.to_owned(), namespace: 3_u64, key_group: 7 };
    assert_eq!(timers.peek(&session).await.unwrap(), Some(timer("a", -10)));
    let due = timers.due(20).collect(&session).await.unwrap();
    assert_eq!(due, [timer("a", -10), timer("a", 20), timer("b", 20)]);
    session.run(timers.namespace(&3_u64).delete("a", -10)).await.unwrap();
    let mut batch = session.batch();
    batch.push(timers.namespace(&3_u64).delete("b", 20));
    batch.push(timers.namespace(&3_u64).register("d", 21));
    session.send(batch).await.unwrap().applied().await.unwrap();
    let fired = timers.fire(&session, 30, 2).await.unwrap();
    assert_eq!(fired, Fired { timers: vec![timer("a", 20), timer("d", 21)], more: true });
    assert_eq!(timers.fire(&session, 30, 0).await.unwrap(), Fired { timers: vec![timer("c", 30)], more: false });
    assert!(setup.fake.state().timers.is_empty());
}

#[tokio::test]
async fn fired_timers_whose_answer_is_lost_are_an_error() {
    let setup = setup(|state| state.breaks = [1].into()).await;
    let session = setup.session().await;
    let timers: TimerState<String, ()> = setup.backend.timer_state("timers", StateOptions::new()).await.unwrap();
    session.run(timers.register("a", 1)).await.unwrap();
    let lost = timers.fire(&session, 1, 0).await.unwrap_err();
    assert!(matches!(lost, ClientError::AnswerLost(_)), "{lost}");
}

#[tokio::test]
async fn reads_for_which_a_message_had_no_room_are_asked_again() {
    let setup = setup(|state| state.reads_per_message = 2).await;
    let session = setup.session().await;
    for key in ["a", "b", "c", "d", "e"] {
        session.send(setup.one(key)).await.unwrap();
    }
    let mut batch = session.batch();
    let reads = ["a", "b", "c", "d", "e", "f"].map(|key| {
        batch.push(setup.counts.merge("a", &0));
        batch.push(setup.counts.get(key))
    });
    let applied = session.send(batch).await.unwrap().applied().await.unwrap();
    assert_eq!(applied.number, 5);
    let values = reads.map(|read| applied.get(read).unwrap());
    assert_eq!(values, [Some(1), Some(1), Some(1), Some(1), Some(1), None]);
    assert_eq!(setup.events()[7..], [Event::Applied(6, 4), Event::Applied(7, 2)]);
    assert_eq!(setup.count("a"), 1);

    let calls = ["a", "b", "c", "f", "d"].map(|key| {
        let (counts, session) = (setup.counts.clone(), session.clone());
        tokio::spawn(async move { session.run(counts.get(key)).await.unwrap() })
    });
    let mut found = Vec::new();
    for call in calls {
        found.push(call.await.unwrap());
    }
    assert_eq!(found, [Some(1), Some(1), Some(1), None, Some(1)]);
}

#[tokio::test]
async fn what_a_break_and_a_full_message_leave_out_is_asked_again() {
    let setup = setup(|state| {
        state.reads_per_message = 1;
        state.breaks = [1, 2].into();
    })
    .await;
    let session = setup.session().await;
    let mut batch = setup.one("a");
    let reads = ["a", "b", "a"].map(|key| batch.push(setup.counts.get(key)));
    let applied = session.send(batch).await.unwrap().applied().await.unwrap();
    assert_eq!(reads.map(|read| applied.get(read).unwrap()), [Some(1), None, Some(1)]);
    assert_eq!((applied.number, setup.count("a")), (0, 1));
    session.close().await.unwrap();
}

#[tokio::test]
async fn reads_that_touch_cost_credit() {
    let setup = setup(|state| state.credit = 60).await;
    let ttl = Ttl { update: TtlUpdate::OnReadAndWrite, ..Ttl::new(1000) };
    let options = StateOptions::new().with_ttl(ttl);
    let touched: ValueState<str, i64> = setup.backend.value_state("touched", options).await.unwrap();
    let session = setup.session().await;
    let mut receipts = Vec::new();
    for number in 0..50 {
        let mut batch = session.batch();
        let state = if number % 3 == 0 { &setup.counts } else { &ValueState::from_id(touched.id()) };
        batch.push(state.get("a"));
        receipts.push(session.send(batch).await.unwrap());
    }
    for receipt in receipts {
        receipt.applied().await.unwrap();
    }
    assert!(setup.fake.state().most_used > 0);
    let spent = setup.fake.state().most_used;
    assert!(spent <= 60, "{spent}");
}

#[tokio::test]
async fn descriptors_carry_ttl_defaults_and_redistribution() {
    let setup = setup(|_| {}).await;
    let ttl = Ttl { visibility: TtlVisibility::ReturnExpiredIfNotCleanedUp, ..Ttl::new(5000) };
    let options = StateOptions::new().with_ttl(ttl).with_default(&7_i64);
    let value: ValueState<str, i64> = setup.backend.value_state("value", options).await.unwrap();
    let buffer: ListState<(), i64> =
        setup.backend.operator_list("buffer", Redistribution::Split, StateOptions::new()).await.unwrap();
    let _: ListState<(), i64> =
        setup.backend.operator_list("seen", Redistribution::Union, StateOptions::new()).await.unwrap();
    let rules: MapState<(), String, i64> = setup.backend.broadcast_map("rules", StateOptions::new()).await.unwrap();
    let states = setup.fake.state().states.clone();
    let ttl = states[1].ttl.unwrap();
    assert_eq!((ttl.duration_ms, ttl.update()), (5000, v1::ttl::Update::OnCreateAndWrite));
    assert_eq!(ttl.visibility(), v1::ttl::Visibility::ReturnExpiredIfNotCleanedUp);
    assert_eq!(ttl.cleanup.unwrap().incremental.unwrap().entries, 5);
    assert_eq!(states[1].default_value, &7_i64.to_le_bytes()[..]);
    let redistributions: Vec<_> = states[2..].iter().map(v1::StateDescriptor::redistribution).collect();
    use v1::Redistribution::{Broadcast, Split, Union};
    assert_eq!(redistributions, [Split, Union, Broadcast]);

    let session = setup.session().await;
    assert_eq!(session.run(value.get("a")).await.unwrap(), None);
    assert_eq!(session.run(value.get_or_default("a")).await.unwrap(), 7);
    let mut batch = session.batch();
    let read = batch.push(value.get_or_default("a"));
    let applied = session.send(batch).await.unwrap().applied().await.unwrap();
    assert_eq!(applied.get(read).unwrap(), 7);
    session.run(buffer.add(&(), &1)).await.unwrap();
    assert_eq!(buffer.scan(&()).collect(&session).await.unwrap(), [1]);
    session.run(rules.put(&(), "limit", &3)).await.unwrap();
    assert!(setup.fake.state().lists.contains_key(&(buffer.id(), Bytes::new())));
}
