//! Background tasks of one daemon. They end together: by `abort_all` when the daemon stops, or when a simulation
//! crashes it.
//!
//! A panic ends only its task, and callers that wait for the result of the task would wait forever. So each panic is
//! counted, logged, and reported to the part that the task served. That part ends with this reason, or starts the task
//! again:
//!
//! | task | part that its panic ends |
//! | --- | --- |
//! | publishing or materializing a backend, an upload of its changes | the backend, with `REASON_INTERNAL`; it can be opened again |
//! | the snapshot of a checkpoint | that checkpoint |
//! | the coordinator of a declared job | the job's backends on this daemon |
//! | uploads of a job | its backends; the next one begins them anew |
//! | reading for a restore, a call | the call; the backend too, if the call held the lock of its core |
//! | a sweep of a job; local copies | this turn; the next turn comes as after a failure |
//! | mere tidying | nothing: sweeps find the remains |

use std::{
    any::Any,
    cell::Cell,
    future::{Future, poll_fn},
    num::NonZeroU64,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::{
    runtime::{self, Handle, RuntimeFlavor},
    sync::oneshot,
    task::{AbortHandle, JoinSet},
};

/// How much a thread of [`Tasks::aside`] gives way to others: the highest is 19.
const NICENESS: i32 = 15;

/// How long the thread of a work aside works until it [breathes](breathe).
const STRETCH: Duration = Duration::from_micros(200);

/// How long it sleeps then.
const BREATH: Duration = Duration::from_micros(10);

/// By how much the kernel may lengthen such a sleep, in nanoseconds. By default it is five times the sleep.
const SLACK: NonZeroU64 = NonZeroU64::new(1_000).expect("not zero");

/// The name of its threads.
const ASIDE: &str = "dstl-aside";

/// Threads that wait for disks for one work aside, at most.
const ASIDE_THREADS: usize = 8;

/// Spawns tasks onto the current runtime and ends them together. Cheap to clone; when the last clone is dropped, every
/// task that is still running is aborted.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    running: Arc<Mutex<JoinSet<()>>>,
    panics: Counter,
}

/// A task panicked, with this message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a bug in dstl: {what} panicked: {message}")]
pub struct Panicked {
    what: &'static str,
    message: String,
}

impl Panicked {
    /// A panic whose message is not at hand, but in the log.
    #[must_use]
    pub fn unknown(what: &'static str) -> Self {
        Self { what, message: "see the log".to_owned() }
    }
}

impl Tasks {
    /// Tasks whose panics are counted by `panics`.
    #[must_use]
    pub fn new(panics: Counter) -> Self {
        Self { running: Arc::default(), panics }
    }

    /// Runs `task` in the background; no caller waits for its result.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.supervise("work in the background", task, |_| {})
    }

    /// Runs `task`, which messages call `what`, in the background. If it panics, `on_panic` ends the part that it
    /// served.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn supervise(
        &self,
        what: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
        on_panic: impl FnOnce(&Panicked) + Send + 'static,
    ) -> AbortHandle {
        let panics = self.panics.clone();
        let mut running = self.running.lock();
        // A set keeps the results of tasks that have ended until they are taken.
        while running.try_join_next().is_some() {}
        running.spawn(async move {
            if let Err(panicked) = caught(&panics, what, task).await {
                on_panic(&panicked);
            }
        })
    }

    /// Does `work` as part of the calling task. Cancel-safe if `work` is.
    ///
    /// # Errors
    /// If it panics, which is counted and logged.
    pub async fn catch<T>(&self, what: &'static str, work: impl Future<Output = T>) -> Result<T, Panicked> {
        caught(&self.panics, what, work).await
    }

    /// Does `work`, which takes much processor time, on a runtime of its own, all of whose threads give way to all
    /// others: tasks that it spawns and calls that wait for a disk are done there, too. A thread of another runtime
    /// that was started from here would give way forever, whatever it does later. If the future is dropped, the work
    /// continues. The tasks that the work has spawned end with it.
    ///
    /// # Errors
    /// If it panics, which is counted and logged, or there is no thread or runtime for it.
    pub async fn aside<T: Send + 'static, F: Future<Output = T>>(
        &self,
        what: &'static str,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> Result<T, Panicked> {
        let panics = self.panics.clone();
        let (reply, answer) = oneshot::channel();
        let run = move || {
            give_way();
            #[cfg(target_os = "linux")]
            // Where it is refused, sleeps are somewhat longer.
            let _ = rustix::thread::set_current_timer_slack(Some(SLACK));
            BREATHED.set(Some(now()));
            let mut builder = runtime::Builder::new_current_thread();
            builder.enable_all().thread_name(ASIDE).max_blocking_threads(ASIDE_THREADS).on_thread_start(give_way);
            let done = builder.build().map_err(|error| Panicked { what, message: error.to_string() });
            let done = done.and_then(|runtime| {
                let done = runtime.block_on(caught(&panics, what, async { work().await }));
                // A call that hangs holds nobody up.
                runtime.shutdown_background();
                done
            });
            // Nobody waits any more if the future was dropped. The work is done all the same.
            let _ = reply.send(done);
        };
        match thread::Builder::new().name(ASIDE.to_owned()).spawn(run) {
            // The thread answers unless it panics outside of the work, and such a panic is in the log.
            Ok(_) => answer.await.unwrap_or_else(|_| Err(Panicked::unknown(what))),
            Err(error) => Err(Panicked { what, message: error.to_string() }),
        }
    }

    /// Number of tasks that have panicked.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.panics.get()
    }

    /// Aborts every task at its next await.
    pub fn abort_all(&self) {
        self.running.lock().abort_all();
    }
}

/// Makes the calling thread give way to all others.
fn give_way() {
    // Linux applies this to the calling thread alone. If it is refused, the thread has the usual priority.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, NICENESS);
}

thread_local! {
    /// On the thread of a work aside: when it slept last.
    static BREATHED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Lets threads that wait for this processor have it, if this is the thread of a work [aside](Tasks::aside) that has
/// worked for a fifth of a millisecond. Long loops of such a work call it at each turn. Elsewhere it does nothing.
///
/// A thread with a high nice value gets a small share, but is not interrupted as soon as another one has to run: Linux
/// lets it work up to the next tick, for 4 ms at 250 ticks a second. A batch that comes meanwhile would wait so long.
pub fn breathe() {
    if BREATHED.get().is_some_and(|last| last.elapsed() >= STRETCH) {
        thread::sleep(BREATH);
        BREATHED.set(Some(now()));
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long a thread has worked: a simulation, too, runs this in real time"
)]
fn now() -> Instant {
    Instant::now()
}

async fn caught<T>(panics: &Counter, what: &'static str, work: impl Future<Output = T>) -> Result<T, Panicked> {
    // The caller that hears of the panic ends the parts that this work shares, and never uses them again.
    AssertUnwindSafe(work).catch_unwind().await.map_err(|payload| note(panics, what, payload.as_ref()))
}

fn note(panics: &Counter, what: &'static str, payload: &(dyn Any + Send)) -> Panicked {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let message = text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
    panics.inc();
    tracing::error!(task = what, message, "a task panicked: this is a bug, please report it");
    Panicked { what, message }
}

/// As [`blocking`], if the call may take long; otherwise a plain call.
pub fn blocking_if<T>(takes_long: bool, call: impl FnOnce() -> T) -> T {
    if takes_long { blocking(call) } else { call() }
}

/// Makes a call that may block its thread, for example for a disk, or that takes the processor for milliseconds. On a
/// runtime with several threads, the other tasks of this thread move to another one meanwhile.
pub fn blocking<T>(call: impl FnOnce() -> T) -> T {
    // On a runtime with one thread nothing can move elsewhere, and the call to move it would panic.
    let elsewhere = Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
    if elsewhere { tokio::task::block_in_place(call) } else { call() }
}

/// Awaits `work`, each poll of which is made as by [`blocking`].
pub async fn taking_long<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    poll_fn(|context| blocking(|| work.as_mut().poll(context))).await
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {

    use super::*;

    async fn odd(number: u32) {
        assert!(number.is_multiple_of(2), "{number} is odd");
    }

    #[tokio::test]
    async fn a_panic_is_counted_and_told_to_whom_the_task_served() {
        let (tasks, (tell, told)) = (Tasks::default(), oneshot::channel());
        tasks.supervise("a test", odd(3), |panicked| _ = tell.send(panicked.to_string()));
        assert_eq!(told.await.unwrap(), "a bug in dstl: a test panicked: 3 is odd");
        assert_eq!(tasks.panics(), 1);
        assert_eq!(tasks.catch("a test", async { 7 }).await, Ok(7));
        assert_eq!(tasks.catch("a test", odd(5)).await.unwrap_err().message, "5 is odd");
        assert_eq!(tasks.panics(), 2);
    }

    #[tokio::test]
    async fn work_aside_returns_its_result_or_its_panic() {
        let tasks = Tasks::default();
        let here = thread::current().id();
        let there = tasks.aside("a test", || async { thread::current().id() }).await.unwrap();
        assert_ne!(here, there);
        let panicked = tasks.aside("a test", || odd(7)).await.unwrap_err();
        assert_eq!((panicked.message.as_str(), tasks.panics()), ("7 is odd", 1));
    }

    /// How much the calling thread gives way.
    #[cfg(target_os = "linux")]
    fn niceness() -> i32 {
        rustix::process::getpriority_process(None).unwrap()
    }

    #[cfg(target_os = "linux")]
    #[tokio::test(flavor = "multi_thread")]
    async fn all_that_work_aside_begins_gives_way_and_nothing_else_does() {
        let tasks = Tasks::default();
        let before = niceness();
        let work = {
            let tasks = tasks.clone();
            move || async move {
                let (tell, told) = oneshot::channel();
                tasks.spawn(async move { _ = tell.send(niceness()) });
                // More calls than threads.
                let calls = (0..3 * ASIDE_THREADS).map(|_| tokio::task::spawn_blocking(niceness));
                let calls = futures::future::try_join_all(calls).await.unwrap();
                (niceness(), told.await.unwrap(), calls)
            }
        };
        let (own, task, calls) = tasks.aside("a test", work).await.unwrap();
        assert!(
            own > before && task == own && calls.iter().all(|call| *call == own),
            "{before} {own} {task} {calls:?}"
        );
        let calls = (0..100).map(|_| tokio::task::spawn_blocking(niceness));
        let calls = futures::future::try_join_all(calls).await.unwrap();
        assert!(calls.iter().all(|call| *call == before), "{calls:?}");
        assert_eq!(blocking(niceness), before);
    }

    #[tokio::test]
    async fn only_work_aside_sleeps_in_between() {
        let spin = || {
            let began = Instant::now();
            while began.elapsed() < STRETCH {}
            breathe();
            BREATHED.get().map(|slept| slept > began)
        };
        assert_eq!(Tasks::default().aside("a test", move || async move { spin() }).await, Ok(Some(true)));
        assert_eq!(spin(), None);
    }

    #[tokio::test]
    async fn an_aborted_task_is_no_panic() {
        let tasks = Tasks::default();
        let task = tasks.spawn(std::future::pending());
        task.abort();
        tasks.abort_all();
        tokio::task::yield_now().await;
        assert_eq!(tasks.panics(), 0);
    }
}
