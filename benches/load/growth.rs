//! The scenario `growth`: whether a daemon with many backends, many states or many keys does as much as one with few,
//! and the memory that each of them takes.

use std::time::{Duration, Instant};

use dstl::{
    client::{BatchBuilder, Client, OpenOptions, Session, StateOptions, ValueState},
    types::StateKind,
};
use tokio::task::JoinSet;

use super::{
    Fault, Scenario,
    daemon::Daemon,
    figures::Figures,
    options::{Inner, Options},
    saturate::run,
    source::Source,
    work::{Prepared, prepare},
};

/// States that one call registers.
const REGISTERED: usize = 1_000;

/// How long memory may take to settle.
const SETTLE: Duration = Duration::from_secs(2);

/// Grows backends, then states, then keys of RocksDB.
pub(crate) async fn measure(options: &Options) -> Result<Vec<Figures>, Fault> {
    let mut cases = vec![];
    let mut backends = vec![];
    for &count in &options.backends {
        backends.push(of_backends(count.max(1), options).await?);
    }
    let mut states = vec![];
    for &count in &options.states {
        states.push(of_states(count.max(1), options).await?);
    }
    let mut keys = vec![];
    for &count in &options.growing_keys {
        keys.push(of_keys(count.max(1), options).await?);
    }
    for mut grown in [backends, states, keys] {
        let first = grown.first().and_then(|first| first.operations_per_second);
        for figures in &mut grown {
            if let Some((first, own)) = first.zip(figures.operations_per_second) {
                figures.set("rate_to_first", own / first);
            }
        }
        cases.extend(grown);
    }
    Ok(cases)
}

/// Backends that share the keys, each with a writer at full speed.
async fn of_backends(count: u64, options: &Options) -> Result<Figures, Fault> {
    // Each backend is guaranteed memory for its largest batch.
    let guaranteed = "state.changelog.dstl.dfs.upload.max-in-flight=1 GiB".to_owned();
    let options = Options { keys: (options.keys / count).max(1), ..options.with(&[guaranteed]) };
    let (daemon, client) = Daemon::start(&options).await?;
    let before = daemon.usage()?.rss_bytes;
    let (mut writers, source) = (vec![], Source::new(&options));
    for number in 0..count {
        let source = source.clone().seeded(number + 1);
        writers.push(Writer::open(&client, &format!("grown-{number}"), 1, source).await?);
    }
    tokio::time::sleep(SETTLE).await;
    let opened = daemon.usage()?.rss_bytes;
    let mut figures = all(writers, &daemon, &options).await?.case(format!("{count}_backends"));
    figures.keys = options.keys * count;
    figures.set("memory_per_backend_bytes", opened.saturating_sub(before) / count);
    Ok(figures)
}

/// States of one backend, which share the keys.
async fn of_states(count: u64, options: &Options) -> Result<Figures, Fault> {
    let (daemon, client) = Daemon::start(options).await?;
    // The backend itself is no part of the memory of its states.
    let source = Source::new(options);
    let backend = Writer::open(&client, "one", 1, source.clone()).await?;
    tokio::time::sleep(SETTLE).await;
    let before = daemon.usage()?.rss_bytes;
    let writer = Writer::open(&client, "many", usize::try_from(count)?, source).await?;
    tokio::time::sleep(SETTLE).await;
    let opened = daemon.usage()?.rss_bytes;
    drop(backend);
    let mut figures = all(vec![writer], &daemon, options).await?.case(format!("{count}_states"));
    figures.set("memory_per_state_bytes", opened.saturating_sub(before) / count);
    Ok(figures)
}

/// Keys of RocksDB.
async fn of_keys(count: u64, options: &Options) -> Result<Figures, Fault> {
    let options = Options { keys: count, inner: Inner::Rocksdb, ..options.clone() };
    let (daemon, client) = Daemon::start(&options).await?;
    let prepared: Prepared = prepare(&client, "load", &options).await?;
    let mut figures = run(Scenario::Update, &daemon, &prepared, &options).await?.case(format!("{count}_keys"));
    figures.scenario = Scenario::Growth;
    Ok(figures)
}

/// Writes all keys of the writers, then updates at full speed.
async fn all(writers: Vec<Writer>, daemon: &Daemon, options: &Options) -> Result<Figures, Fault> {
    let sessions: Vec<Session> = writers.iter().map(|writer| writer.session.clone()).collect();
    let operations = || sessions.iter().map(|it| it.acknowledged().applied_to * options.batch as u64).sum::<u64>();
    let mut filling = JoinSet::new();
    for writer in writers {
        filling.spawn(writer.fill(options.batch));
    }
    let mut working = JoinSet::new();
    while let Some(filled) = filling.join_next().await {
        working.spawn(filled??.update(options.batch));
    }
    tokio::time::sleep(Duration::from_secs(options.warm_up)).await;
    let (before, mut rates) = (daemon.usage()?, vec![]);
    let first = operations();
    for _ in 0..options.windows {
        let (begun, applied) = (Instant::now(), operations());
        tokio::select! {
            biased;
            Some(ended) = working.join_next() => ended??,
            () = tokio::time::sleep(options.window()) => {}
        }
        rates.push((operations() - applied) as f64 / begun.elapsed().as_secs_f64());
    }
    let (after, done) = (daemon.usage()?, operations() - first);
    working.abort_all();
    for session in sessions {
        session.persist().await?;
    }
    let mut figures = Figures::new(Scenario::Growth, options);
    figures.operations = Some(done);
    figures.set_rates(rates);
    figures.daemon_cpu_s_per_million = Some((after.cpu - before.cpu).as_secs_f64() * 1e6 / done.max(1) as f64);
    figures.daemon_rss_bytes = Some(after.rss_bytes);
    figures.set("state_bytes", daemon.metrics()?.sum("dstl_state_bytes") as u64);
    Ok(figures)
}

/// One writer of a backend, whose keys lie in several states: each in one of them.
struct Writer {
    session: Session,
    states: Vec<ValueState<u64, Vec<u8>>>,
    source: Source,
}

impl Writer {
    async fn open(client: &Client, operator: &str, states: usize, source: Source) -> Result<Self, Fault> {
        let backend = client.open(OpenOptions::new("load", operator).attempt(1)).await?;
        let numbers: Vec<usize> = (0..states).collect();
        let mut registered = vec![];
        for numbers in numbers.chunks(REGISTERED) {
            let name = |number: &usize| StateOptions::new().descriptor(&format!("values-{number}"), StateKind::Value);
            let descriptors: Vec<_> = numbers.iter().map(name).collect();
            let ids = backend.register(&descriptors).await?;
            registered.extend(ids.iter().map(|state| ValueState::from_id(state.id)));
        }
        let session = backend.session().await?;
        Ok(Self { session, states: registered, source })
    }

    /// Writes each key once, in batches of this size, and returns when all is durable.
    async fn fill(mut self, batch: usize) -> Result<Self, Fault> {
        let mut from = 0;
        while from < self.source.keys() {
            let to = (from + batch as u64).min(self.source.keys());
            self.send(from..to).await?;
            from = to;
        }
        self.session.persist().await?;
        Ok(self)
    }

    /// Updates in batches of this size until it is aborted.
    async fn update(mut self, batch: usize) -> Result<(), Fault> {
        loop {
            let keys: Vec<u64> = (0..batch).map(|_| self.source.key()).collect();
            self.send(keys).await?;
        }
    }

    async fn send(&mut self, keys: impl IntoIterator<Item = u64>) -> Result<(), Fault> {
        let mut batch = BatchBuilder::new();
        for key in keys {
            let state = usize::try_from(key % self.states.len() as u64)?;
            batch.push(self.states.get(state).ok_or("a backend has no state")?.put(&key, self.source.value()));
        }
        self.session.send(batch).await?;
        Ok(())
    }
}
