//! Tests of reducing and aggregating state.

use std::collections::BTreeMap;

use super::*;

/// Sum and count of numbers; the result is their mean.
struct Mean;

impl Aggregate for Mean {
    type Accumulator = Average<i64>;
    type Input = i64;
    type Output = f64;

    fn start(&self, input: i64) -> Average<i64> {
        Average::of(input)
    }

    fn add(&self, accumulator: Average<i64>, input: i64) -> Average<i64> {
        Average { sum: accumulator.sum + input, count: accumulator.count + 1 }
    }

    fn merge(&self, first: Average<i64>, second: Average<i64>) -> Average<i64> {
        Average { sum: first.sum + second.sum, count: first.count + second.count }
    }

    fn output(&self, accumulator: Average<i64>) -> f64 {
        accumulator.mean()
    }
}

type Longest = fn(String, String) -> String;

const APPEND: Longest = |first, second| first + &second;

async fn texts(setup: &Setup) -> ReducingState<String, String, Longest> {
    setup.backend.reducing_state("texts", APPEND, StateOptions::new()).await.unwrap()
}

#[tokio::test]
async fn inputs_become_accumulators_and_these_results() {
    let setup = setup(|_| {}).await;
    let session = setup.session().await;
    let means: AggregatingState<String, Mean> =
        setup.backend.aggregating_state("means", Mean, StateOptions::new()).await.unwrap();
    let means = means.on(&session);
    assert_eq!(means.get("a").await.unwrap(), None);
    means.add("a", 1).await.unwrap();
    means.add("a", 2).await.unwrap();
    assert_eq!(means.get("a").await.unwrap(), Some(1.5));
    assert_eq!(session.run(means.values().get("a")).await.unwrap(), Some(Average { sum: 3, count: 2 }));
    assert_eq!(means.values().keys().collect(&session).await.unwrap(), ["a"]);
    means.clear("a").await.unwrap();
    assert_eq!(means.get("a").await.unwrap(), None);
}

#[tokio::test]
async fn a_batch_of_inputs_takes_one_read_and_one_write() {
    let setup = setup(|_| {}).await;
    let session = setup.session().await;
    let texts = texts(&setup).await.on(&session);
    let inputs = ["a", "b", "a", "c", "a"].into_iter().zip(["1", "2", "3", "4", "5"]);
    texts.add_all(inputs.map(|(key, text)| (key.to_owned(), text.to_owned()))).await.unwrap();
    assert_eq!(setup.events()[1..], [Event::Applied(0, 3), Event::Applied(1, 3)]);
    assert_eq!(texts.get("a").await.unwrap().as_deref(), Some("135"));
    assert_eq!(texts.get("c").await.unwrap().as_deref(), Some("4"));
}

#[tokio::test]
async fn concurrent_adds_share_round_trips_and_none_is_lost() {
    let setup = setup(|state| state.reads_per_message = 3).await;
    let session = setup.session().await;
    let means = setup.backend.aggregating_state("means", Mean, StateOptions::new()).await.unwrap();
    let means: BoundAggregate<String, Mean> = means.on(&session);
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..200_i64 {
        let means = means.namespace(&(number % 2).cast_unsigned());
        calls.spawn(async move { means.add(&format!("{}", number % 10), number).await });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap().unwrap();
    }
    let mut expected = BTreeMap::new();
    for number in 0..200_i64 {
        let average = expected.entry(number % 10).or_insert(Average { sum: 0, count: 0 });
        *average = Mean.add(*average, number);
    }
    for (key, average) in expected {
        let bound = means.namespace(&(key % 2).cast_unsigned());
        assert_eq!(session.run(bound.values().get(&key.to_string())).await.unwrap(), Some(average));
    }
    let batches = setup.events().len();
    assert!(batches < 100, "{batches} for 200 additions");
}

#[tokio::test]
async fn namespaces_merge_by_the_function_in_one_batch() {
    let setup = setup(|_| {}).await;
    let session = setup.session().await;
    let texts = texts(&setup).await.on(&session);
    for (namespace, text) in [(1_u64, "a"), (2, "b"), (3, "c"), (9, "z")] {
        texts.namespace(&namespace).add("key", text.to_owned()).await.unwrap();
    }
    let before = setup.events().len();
    texts.namespace(&2_u64).merge_namespaces("key", &[3_u64, 4, 1]).await.unwrap();
    assert_eq!(setup.events()[before..], [Event::Applied(8, 4), Event::Applied(9, 4)]);
    assert_eq!(texts.namespace(&2_u64).get("key").await.unwrap().as_deref(), Some("bca"));
    texts.namespace(&5_u64).merge_namespaces("key", &[2_u64]).await.unwrap();
    let mut left = texts.values().all_keys::<u64>().collect(&session).await.unwrap();
    left.sort_unstable();
    assert_eq!(left.iter().map(|stored| stored.namespace).collect::<Vec<_>>(), [5, 9]);
    for sources in [vec![1_u64, 1], vec![5]] {
        let refused = texts.namespace(&5_u64).merge_namespaces("key", &sources).await.unwrap_err();
        assert!(matches!(refused, ClientError::MergeIntoItself));
    }
}

#[tokio::test]
async fn what_waits_together_is_done_in_order() {
    let setup = setup(|state| state.answer_delay = Duration::from_millis(5)).await;
    let session = setup.session().await;
    let texts = texts(&setup).await.on(&session);
    let (one, two) = (texts.namespace(&1_u64), texts.namespace(&2_u64));
    let sources = [1_u64];
    let done = tokio::join!(
        one.add("key", "a".to_owned()),
        two.add("key", "b".to_owned()),
        two.merge_namespaces("key", &sources),
        one.add("key", "c".to_owned()),
        two.add("key", "d".to_owned()),
        texts.add("key", "gone".to_owned()),
        texts.clear("key"),
    );
    assert_eq!(format!("{done:?}").matches("Ok").count(), 7);
    assert_eq!(two.get("key").await.unwrap().as_deref(), Some("bad"));
    assert_eq!(one.get("key").await.unwrap().as_deref(), Some("c"));
    assert_eq!(texts.get("key").await.unwrap(), None);
}

#[tokio::test]
async fn only_what_is_refused_or_malformed_fails() {
    let setup = setup(|_| {}).await;
    let session = setup.session().await;
    let means: AggregatingState<String, Mean> =
        setup.backend.aggregating_state("means", Mean, StateOptions::new()).await.unwrap();
    let raw: ValueState<str, String> = ValueState::from_id(means.values().id());
    session.run(raw.put("odd", "no mean")).await.unwrap();
    let means = means.on(&session);
    let done = tokio::join!(means.add("a", 1), means.add("bad", 1), means.add("odd", 1), means.add("b", 1));
    assert!(matches!(done.2, Err(ClientError::Malformed { .. })));
    assert_eq!(done.1.unwrap_err().reason(), Reason::UnknownState);
    assert!(done.0.is_ok() && done.3.is_ok());
    means.clear("odd").await.unwrap();
    means.add("odd", 4).await.unwrap();
    assert_eq!(means.get("odd").await.unwrap(), Some(4.0));
}

#[tokio::test]
async fn values_merge_by_a_function_given_at_the_call() {
    let setup = setup(|_| {}).await;
    let session = setup.session().await;
    let values: ValueState<str, String> = setup.backend.value_state("values", StateOptions::new()).await.unwrap();
    for (namespace, text) in [(1_u64, "a"), (2, "b")] {
        session.run(values.namespace(&namespace).put("key", text)).await.unwrap();
    }
    let all = values.namespace(&0_u64);
    all.merge_namespaces_with(&session, "key", &[2_u64, 1, 3], |first, second| first + &second).await.unwrap();
    assert_eq!(session.run(all.get("key")).await.unwrap().as_deref(), Some("ba"));
    assert_eq!(session.run(values.namespace(&1_u64).get("key")).await.unwrap(), None);
    let refused = all.merge_namespaces_with(&session, "key", &[0_u64], |first, _| first).await.unwrap_err();
    assert!(matches!(refused, ClientError::MergeIntoItself));
}

#[tokio::test]
async fn folds_of_a_session_that_is_over_are_told_why() {
    let setup = setup(|_| {}).await;
    let session = setup.session().await;
    let texts = texts(&setup).await.on(&session);
    session.close().await.unwrap();
    assert!(matches!(texts.add("key", "a".to_owned()).await, Err(ClientError::Closed)));
}
