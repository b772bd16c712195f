//! The typed states of the Rust client, through a real daemon, on both inner backends.

use dstl::{
    client::{
        Aggregate, AggregatingState, Backend, ClientError, InnerBackend, ListState, MapState, OpenOptions, Ordered,
        Reason, StateOptions, StoredKey, Timer, TimerState, ValueState,
    },
    types::{MergeFunction, Redistribution, Schema, Serializer, Ttl, TtlUpdate},
};
use tokio::task::JoinSet;

use crate::local::Daemon;

/// Opens a backend on each inner backend of a new daemon. The settings keep results in small messages.
async fn on_both(test: impl AsyncFn(Backend)) {
    let folder = tempfile::tempdir().unwrap();
    let settings = ["rpc.max-message-size=128 KiB", "rpc.max-value-size=16 KiB", "rpc.max-key-size=1 KiB"];
    let daemon = Daemon::start(folder.path(), &settings.map(str::to_owned));
    for inner in [InnerBackend::Hashmap, InnerBackend::Rocksdb] {
        let options = OpenOptions::new("job", inner.as_str_name()).inner(inner).attempt(1);
        test(daemon.client().await.open(options).await.unwrap()).await;
    }
}

#[tokio::test]
async fn keys_map_ranges_and_lists_come_page_by_page() {
    on_both(async |backend| {
        let session = backend.session().await.unwrap();
        let counts: ValueState<String, u64> = backend.value_state("counts", StateOptions::new()).await.unwrap();
        let map: MapState<u64, Ordered<i64>, String> = backend.map_state("map", StateOptions::new()).await.unwrap();
        let list: ListState<u64, u64> = backend.list_state("list", StateOptions::new()).await.unwrap();
        let mut batch = session.batch();
        for number in 0..300_u64 {
            batch.push(counts.namespace(&(number % 2)).put(&number.to_string(), &number));
            let ordered = number.cast_signed() - 150;
            batch.push(map.put(&7, &Ordered(ordered), &"long ".repeat(40)));
            batch.push(list.add(&7, &number));
        }
        session.send(batch).await.unwrap().applied().await.unwrap();

        let keys = counts.namespace(&1_u64).keys().page_of(7).collect(&session).await.unwrap();
        let mut numbers: Vec<u64> = keys.iter().map(|key| key.parse().unwrap()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..150).map(|half| 2 * half + 1).collect::<Vec<_>>());
        let all: Vec<StoredKey<String, u64>> = counts.all_keys().collect(&session).await.unwrap();
        assert_eq!(all.len(), 300);
        assert!(all.iter().all(|stored| stored.key.parse::<u64>().unwrap() % 2 == stored.namespace));

        let entries = map.range(&7, Ordered(-3)..=Ordered(100)).page_of(10).collect(&session).await.unwrap();
        assert_eq!(entries.iter().map(|(key, _)| key.0).collect::<Vec<_>>(), (-3..=100).collect::<Vec<_>>());
        assert_eq!(map.scan(&7).collect(&session).await.unwrap().len(), 300);
        assert_eq!(map.prefix(&7, &[0x80_u8][..]).collect(&session).await.unwrap().len(), 150);
        let mut elements = list.scan(&7).page_of(64);
        for number in 0..300 {
            assert_eq!(elements.next(&session).await.unwrap(), Some(number));
        }
        assert_eq!(elements.next(&session).await.unwrap(), None);
        session.close().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn reads_that_one_message_cannot_answer_are_all_answered() {
    on_both(async |backend| {
        let session = backend.session().await.unwrap();
        let texts: ValueState<u64, String> = backend.value_state("texts", StateOptions::new()).await.unwrap();
        let text = |number: u64| number.to_string().repeat(8000);
        for number in 0..20 {
            session.run(texts.put(&number, &text(number))).await.unwrap();
        }
        let mut batch = session.batch();
        let reads: Vec<_> = (0..20).map(|number| batch.push(texts.get(&number))).collect();
        let applied = session.send(batch).await.unwrap().applied().await.unwrap();
        for (number, read) in (0..20).zip(reads) {
            assert_eq!(applied.get(read).unwrap(), Some(text(number)));
        }
        let mut calls = JoinSet::new();
        for number in 0..40 {
            let (texts, session) = (texts.clone(), session.clone());
            calls.spawn(async move { (number, session.run(texts.get(&number)).await.unwrap()) });
        }
        for (number, found) in calls.join_all().await {
            assert_eq!(found, (number < 20).then(|| text(number)));
        }
        session.close().await.unwrap();
    })
    .await;
}

/// All inputs, separated.
struct Joined;

impl Aggregate for Joined {
    type Accumulator = String;
    type Input = u64;
    type Output = usize;

    fn start(&self, input: u64) -> String {
        format!("{input},")
    }

    fn add(&self, accumulator: String, input: u64) -> String {
        accumulator + &self.start(input)
    }

    fn merge(&self, first: String, second: String) -> String {
        first + &second
    }

    fn output(&self, accumulator: String) -> usize {
        accumulator.split_terminator(',').count()
    }
}

#[tokio::test]
async fn functions_of_the_task_fold_and_merge() {
    on_both(async |backend| {
        let session = backend.session().await.unwrap();
        let joined: AggregatingState<String, Joined> =
            backend.aggregating_state("joined", Joined, StateOptions::new()).await.unwrap();
        let joined = joined.on(&session);
        let mut calls = JoinSet::new();
        for number in 0..100_u64 {
            let window = joined.namespace(&(number % 5));
            calls.spawn(async move { window.add("key", number).await });
        }
        calls.join_all().await.into_iter().collect::<Result<Vec<_>, _>>().unwrap();
        let inputs = (0..1000_u64).map(|number| ((number % 7).to_string(), number));
        joined.add_all(inputs).await.unwrap();
        assert_eq!(joined.get("3").await.unwrap(), Some(143));
        joined.namespace(&0_u64).merge_namespaces("key", &[1_u64, 2, 3, 4]).await.unwrap();
        assert_eq!(joined.namespace(&0_u64).get("key").await.unwrap(), Some(100));
        assert_eq!(joined.namespace(&1_u64).get("key").await.unwrap(), None);
        // What would become longer than a value may be fails alone.
        let many = (0..6000_u64).map(|number| ("3".to_owned(), number));
        assert!(joined.add_all(many).await.is_err());
        joined.add("4", 1).await.unwrap();
        session.close().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn timers_and_operator_state_are_typed() {
    on_both(async |backend| {
        let session = backend.session().await.unwrap();
        let timers: TimerState<String, u64> = backend.timer_state("timers", StateOptions::new()).await.unwrap();
        let mut batch = session.batch();
        for number in 0..3000_u64 {
            let time = (number * 7919 % 3000).cast_signed() - 1000;
            batch.push(timers.namespace(&number).register("key", time));
        }
        session.send(batch).await.unwrap().applied().await.unwrap();
        assert_eq!(timers.peek(&session).await.unwrap().map(|timer| (timer.time, timer.namespace)), Some((-1000, 0)));
        let due: Vec<Timer<String, u64>> = timers.due(999).page_of(77).collect(&session).await.unwrap();
        assert_eq!(due.iter().map(|timer| timer.time).collect::<Vec<_>>(), (-1000..=999).collect::<Vec<_>>());
        let mut fired = 0;
        loop {
            let some = timers.fire(&session, 999, 900).await.unwrap();
            fired += some.timers.len();
            if !some.more {
                break;
            }
        }
        assert_eq!((fired, timers.peek(&session).await.unwrap().map(|timer| timer.time)), (2000, Some(1000)));
        let last = timers.peek(&session).await.unwrap().unwrap();
        session.run(timers.namespace(&last.namespace).delete("key", 1000)).await.unwrap();
        assert_eq!(timers.due(1001).collect(&session).await.unwrap().len(), 1);

        let buffer = backend.operator_list("buffer", Redistribution::Split, StateOptions::new()).await.unwrap();
        let buffer: ListState<(), u64> = buffer;
        session.run(buffer.add_all(&(), &[1, 2, 3])).await.unwrap();
        assert_eq!(buffer.scan(&()).collect(&session).await.unwrap(), [1, 2, 3]);
        let rules: MapState<(), String, i64> = backend.broadcast_map("rules", StateOptions::new()).await.unwrap();
        session.run(rules.put(&(), "limit", &5)).await.unwrap();
        assert_eq!(rules.scan(&()).collect(&session).await.unwrap(), [("limit".to_owned(), 5)]);
        session.close().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn ttl_and_default_values_are_typed() {
    on_both(async |backend| {
        let ttl = Ttl { update: TtlUpdate::OnReadAndWrite, ..Ttl::new(3_600_000) };
        let touched = StateOptions::new().with_ttl(ttl).with_default(&-1_i64).with_merge(MergeFunction::SumI64);
        let touched: ValueState<String, i64> = backend.value_state("touched", touched).await.unwrap();
        let brief = StateOptions::new().with_ttl(Ttl::new(1));
        let brief: ValueState<String, i64> = backend.value_state("brief", brief).await.unwrap();
        let session = backend.session().await.unwrap();
        assert_eq!(session.run(touched.get_or_default("a")).await.unwrap(), -1);
        session.run(touched.merge("a", &2)).await.unwrap();
        session.run(brief.put("a", &1)).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        // Reads that touch are writes, and cost credit as these do.
        for _ in 0..100 {
            assert_eq!(session.run(touched.get("a")).await.unwrap(), Some(2));
        }
        assert_eq!(session.run(brief.get("a")).await.unwrap(), None);
        let refused: Result<TimerState<String, ()>, ClientError> =
            backend.timer_state("timers", StateOptions::new().with_ttl(Ttl::new(1))).await;
        assert_eq!(refused.unwrap_err().reason(), Reason::InvalidArgument);
        session.close().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn serializers_that_read_the_old_ones_are_declared_so() {
    on_both(async |backend| {
        let version = |version| {
            let value = Serializer { id: "text".to_owned(), version };
            StateOptions::new().with_schema(Schema { value, ..Schema::default() })
        };
        let old: ValueState<u64, String> = backend.value_state("state", version(1)).await.unwrap();
        let session = backend.session().await.unwrap();
        session.run(old.put(&1, &"old".to_owned())).await.unwrap();
        let refused = backend.value_state::<u64, String>("state", version(2)).await.unwrap_err();
        assert_eq!(refused.reason(), Reason::StateMismatch);
        let new: ValueState<u64, String> = backend.value_state("state", version(2).compatible()).await.unwrap();
        assert_eq!(session.run(new.get(&1)).await.unwrap().as_deref(), Some("old"));
        session.close().await.unwrap();
    })
    .await;
}
