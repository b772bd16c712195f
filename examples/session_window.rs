//! Session windows of users' visits. A visit ends when a user does not click for 200 ms of event time.
//!
//! A click may close the gap between two visits. Then their windows become one, and their summaries are merged by a
//! function of the task. The daemon does not know this function, and does not need it for a restore, since it logs
//! results.
//!
//! The task handles several users at the same time. Operations that they await at the same time travel in one batch.
//!
//! `cargo run --release --example session_window`

#[path = "support/crash.rs"]
mod crash;

use std::{collections::BTreeMap, process::ExitCode};

use crash::{Job, Life};
use dstl_client::{
    Aggregate, AggregatingState, BoundAggregate, ClientError, MapState, Session, StateOptions, TimerState,
};
use tokio::task::JoinSet;

/// All times are milliseconds of event time.
const GAP: i64 = 200;
const LATENESS: i64 = 900;
const INTERVAL: i64 = 25;
const CLICKS: u64 = 3000;
const USERS: u64 = 6;
const CHUNK: u64 = 30;

#[derive(Clone)]
struct Click {
    user: String,
    time: i64,
    page: u64,
}

fn click(number: u64) -> Click {
    let random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    let time = number.cast_signed() * INTERVAL + random.cast_signed() % LATENESS;
    Click { user: format!("user {}", random / 1000 % USERS), time, page: random % 97 }
}

/// The summary of a visit: first click, last click, and number of clicks. A click is its time and page; of two clicks
/// at the same time, the one with the lower page is earlier.
struct Visit;

type Summary = ((i64, u64), (i64, u64), u64);

impl Aggregate for Visit {
    type Accumulator = ((i64, u64), (i64, u64), u64);
    type Input = (i64, u64);
    type Output = Summary;

    fn start(&self, click: (i64, u64)) -> Summary {
        (click, click, 1)
    }

    fn add(&self, visit: Summary, click: (i64, u64)) -> Summary {
        self.merge(visit, self.start(click))
    }

    fn merge(&self, one: Summary, other: Summary) -> Summary {
        (one.0.min(other.0), one.1.max(other.1), one.2 + other.2)
    }

    fn output(&self, visit: Summary) -> Summary {
        visit
    }
}

/// The states, and the session that writes them. Cheap to clone.
#[derive(Clone)]
struct States {
    session: Session,
    /// The open windows of each user: begin and end of each, by the namespace that holds its visit.
    windows: MapState<String, i64, (i64, i64)>,
    visits: BoundAggregate<String, Visit>,
    ends: TimerState<String, i64>,
    results: MapState<String, i64, Summary>,
}

impl States {
    async fn open(life: &Life) -> Result<Self, ClientError> {
        let (backend, session) = (&life.backend, &life.session);
        let visits: AggregatingState<String, Visit> =
            backend.aggregating_state("visits", Visit, StateOptions::new()).await?;
        Ok(Self {
            session: session.clone(),
            windows: backend.map_state("windows", StateOptions::new()).await?,
            visits: visits.on(session),
            ends: backend.timer_state("window ends", StateOptions::new()).await?,
            results: backend.map_state("results", StateOptions::new()).await?,
        })
    }

    async fn on_click(&self, Click { user, time, page }: Click) -> Result<(), ClientError> {
        let (mut begin, mut end) = (time, time + GAP);
        let session = &self.session;
        let open = self.windows.scan(&user).collect(session).await?;
        let met: Vec<_> = open.into_iter().filter(|(_, (from, to))| *from < time + GAP && time < *to).collect();
        // The first window keeps its namespace; the others are merged into it.
        let namespace = met.first().map_or(time, |(namespace, _)| *namespace);
        for (old, (from, to)) in &met {
            (begin, end) = (begin.min(*from), end.max(*to));
            session.run(self.windows.remove(&user, old)).await?;
            session.run(self.ends.namespace(old).delete(&user, *to)).await?;
        }
        let visit = self.visits.namespace(&namespace);
        let others: Vec<i64> = met.iter().skip(1).map(|(other, _)| *other).collect();
        if !others.is_empty() {
            visit.merge_namespaces(&user, &others).await?;
        }
        visit.add(&user, (time, page)).await?;
        session.run(self.windows.put(&user, &namespace, &(begin, end))).await?;
        session.run(self.ends.namespace(&namespace).register(&user, end)).await
    }

    async fn fire(&self, watermark: i64) -> Result<(), ClientError> {
        let session = &self.session;
        let mut due = self.ends.due(watermark);
        while let Some(timer) = due.next(session).await? {
            let (user, window) = (&timer.key, &timer.namespace);
            let visit = self.visits.namespace(window);
            let summary = visit.get(user).await?.ok_or(ClientError::Incomplete("the visit of a window"))?;
            session.run(self.results.put(user, &summary.0.0, &summary)).await?;
            visit.clear(user).await?;
            session.run(self.windows.remove(user, window)).await?;
            session.run(self.ends.namespace(window).delete(user, timer.time)).await?;
        }
        Ok(())
    }
}

async fn task(mut life: Life) -> Result<Vec<(String, Summary)>, ClientError> {
    let states = States::open(&life).await?;
    for first in (life.next..CLICKS).step_by(CHUNK as usize) {
        let mut users: BTreeMap<String, Vec<Click>> = BTreeMap::new();
        for click in (first..CLICKS).take(CHUNK as usize).map(click) {
            users.entry(click.user.clone()).or_default().push(click);
        }
        let mut at_once = JoinSet::new();
        for clicks in users.into_values() {
            let states = states.clone();
            at_once.spawn(async move {
                for click in clicks {
                    states.on_click(click).await?;
                }
                Ok(())
            });
        }
        at_once.join_all().await.into_iter().collect::<Result<(), ClientError>>()?;
        states.fire((first + CHUNK).cast_signed() * INTERVAL).await?;
        life.step(first + CHUNK).await?;
    }
    states.fire(i64::MAX).await?;
    let mut found = Vec::new();
    for user in states.results.keys().collect(&states.session).await? {
        let summaries = states.results.scan(&user).collect(&states.session).await?;
        found.extend(summaries.into_iter().map(|(_, summary)| (user.clone(), summary)));
    }
    found.sort_unstable();
    Ok(found)
}

fn main() -> ExitCode {
    let mut clicks: Vec<_> = (0..CLICKS).map(click).collect();
    clicks.sort_by_key(|click| (click.user.clone(), click.time, click.page));
    let mut expected: Vec<(String, Summary)> = Vec::new();
    for Click { user, time, page } in clicks {
        let visit = Visit.start((time, page));
        match expected.last_mut() {
            Some((last, before)) if *last == user && time < before.1.0 + GAP => *before = Visit.merge(*before, visit),
            _ => expected.push((user, visit)),
        }
    }
    let job = Job { name: "session_window", lives: &[1, 1], crash_after: 70 };
    crash::run(job, task, |found| match found.as_slice() {
        [found] if *found == expected => Ok(format!("{} visits, as computed directly", found.len())),
        _ => Err(format!("other visits than computed directly: {found:?}")),
    })
}
