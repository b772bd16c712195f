//! All that is outside of engines: the store, the network before it, the daemons, and what is known.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use dstl::{
    backend::Description,
    checkpoint::{
        chain,
        collect::{Kept, SweepOptions, Verdict, sweep},
        index::PageRef,
        manifest::{CheckpointRecord, Manifest},
    },
    clock::Clock,
    metrics::Metrics,
    object::{
        MemoryStore, Path, Retry, RetryOptions, Store,
        faulty::{FaultPlan, Faults, FaultyStore},
    },
    random::Random,
    restore::{Restore, RestoreError},
    state::hashmap::HashMapBackend,
    tasks::Tasks,
    types::{BackendId, Sqn, StateId},
};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::{
    host::{Ground, Host},
    model::{self, Model},
    plan::Plan,
    trace::Trace,
    truth::{CutKey, JobTruth, Truth},
};

/// Deletes all that may be deleted.
const SWEEP: SweepOptions = SweepOptions { grace: Duration::ZERO, now_ms: 0, delete: true };

pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) random: Random,
    pub(super) trace: Trace,
    pub(super) truths: Vec<Mutex<Truth>>,
    pub(super) job: Mutex<JobTruth>,
    ground: Ground,
    faults: Faults,
    /// The store without the network.
    raw: Store,
    tasks: Tasks,
    hosts: Mutex<Vec<Option<Arc<Host>>>>,
    started: Mutex<u64>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let random = Random::seeded(seed);
        let plan = Plan::random(&random);
        let (begun, trace, tasks) = (Instant::now(), Trace::new(), Tasks::default());
        let clock = Clock::new(move || 1_700_000_000_000 + begun.elapsed().as_millis() as u64);
        let memory = Arc::new(MemoryStore::new(clock.clone()));
        let seeded = || Random::seeded(random.below(u64::MAX));
        let faulty = FaultyStore::new(memory.clone(), seeded(), tasks.clone());
        let faults = faulty.faults();
        let raw = Store::new(memory, Path::default(), RetryOptions::default(), &Metrics::new(), seeded());
        let ground =
            Ground { store: Arc::new(faulty), tasks: tasks.clone(), clock, random: seeded(), trace: trace.clone() };
        let truths = plan.seats.iter().map(|_| Mutex::default()).collect();
        let hosts = (0..plan.hosts).map(|_| None).collect();
        let (job, hosts, started) = (Mutex::default(), Mutex::new(hosts), Mutex::default());
        Self { plan, random, trace, truths, job, ground, faults, raw, tasks, hosts, started }
    }

    /// Starts whatever daemon does not run.
    pub(super) fn start_hosts(&self) {
        let mut hosts = self.hosts.lock();
        for (n, host) in hosts.iter_mut().enumerate() {
            if host.as_ref().is_none_or(|host| host.life.is_over()) {
                *self.started.lock() += 1;
                let name = format!("daemon-{n}.{}", self.started.lock());
                *host = Some(Arc::new(Host::start(name, &self.ground, &self.plan)));
            }
        }
    }

    /// Those that run.
    pub(super) fn hosts(&self) -> Vec<Arc<Host>> {
        self.hosts.lock().iter().flatten().filter(|host| !host.life.is_over()).cloned().collect()
    }

    /// Brings misfortune until it is dropped.
    pub(super) async fn misfortune(&self) {
        let random = &self.ground.random;
        loop {
            let peace = self.plan.peace.mul_f64(random.fraction());
            sleep(peace).await;
            let hosts = self.hosts();
            let host = hosts.get(random.below(hosts.len().max(1) as u64) as usize);
            match (random.below(10), host) {
                (0, Some(host)) => {
                    self.trace.note(|| format!("{} crashes", host.name));
                    host.life.crash();
                }
                (1 | 2, Some(host)) => host.life.crash_at_request(random.below(20)),
                (3, _) => {
                    self.trace.note(|| "outage".to_owned());
                    self.faults.set_outage(true);
                    sleep(Duration::from_millis(random.below(2500))).await;
                    self.faults.set_outage(false);
                }
                (4 | 5, _) => self.start_hosts(),
                (6 | 7, Some(host)) => self.start_sweep(host),
                _ => {
                    let weather = Plan::weather(random);
                    self.trace.note(|| format!("weather {weather:?}"));
                    self.faults.set_plan(weather);
                }
            }
        }
    }

    /// Lets a daemon sweep beside whatever else goes on. Without grace.
    fn start_sweep(&self, host: &Host) {
        let (store, job) = (host.directory.environment().store.clone(), self.plan.seats[0].job.clone());
        let (trace, name) = (self.trace.clone(), host.name.clone());
        host.directory.environment().tasks.spawn(async move {
            let retry = Retry::until(Instant::now() + Duration::from_secs(5));
            let swept = sweep(&store, &job, &SWEEP, retry).await;
            trace.note(|| format!("{name} swept: {:?}", swept.map(|report| report.deleted())));
        });
    }

    /// What a sweep leaves that nothing needs, as paths with the reason.
    pub(super) async fn left_after_sweep(&self) -> Vec<String> {
        let job = &self.plan.seats[0].job;
        let report = sweep(&self.raw, job, &SWEEP, Retry::none()).await.unwrap();
        // Who vanished and is still needed was not fenced by anybody who began empty.
        let newest = self.job.lock().attempt;
        let is_vanished = |backend: &BackendId| {
            let seat = self.plan.seats.iter().position(|seat| seat == backend);
            seat.is_none_or(|seat| self.plan.seat(seat, newest).is_none())
        };
        let left = report.findings.iter().filter(|finding| match &finding.verdict {
            Verdict::Kept(Kept::MayBeNamed(by)) => !is_vanished(by),
            verdict => !finding.deleted && verdict.word() != "live",
        });
        left.map(|finding| format!("{}: {}", finding.meta.path, finding.verdict.reason())).collect()
    }

    /// Ends all misfortune.
    pub(super) fn calm(&self) {
        self.faults.set_outage(false);
        self.faults.set_plan(FaultPlan::none());
        self.hosts().iter().for_each(|host| host.life.crash_at_request(u64::MAX));
        self.start_hosts();
    }

    /// Ends every daemon.
    pub(super) fn crash_all(&self) {
        self.hosts.lock().iter_mut().for_each(|host| *host = None);
    }

    /// Whether the checkpoint can be restored by anybody who has only the store, and is what it was, to the last entry.
    pub(super) async fn check_restorable(&self, seat: usize, key: CutKey) {
        let may_be_gone = || !self.truths[seat].lock().must(key);
        let id = &self.plan.seats[seat];
        let head = chain::read_head(&self.raw, id, Retry::none()).await.unwrap();
        let Some(manifest) = head.map(|head| head.manifest) else { panic!("{id} has no manifest") };
        let of_key = |record: &&CheckpointRecord| (record.identity.epoch, record.identity.id) == key;
        let Some(record) = manifest.checkpoints.iter().find(of_key) else {
            assert!(may_be_gone(), "{id}: checkpoint {key:?} was answered, but the newest manifest does not name it");
            return;
        };
        let cut = self.truths[seat].lock().cuts[&key].clone();
        let attachment = cut.attachment.clone().into();
        assert_eq!((&record.attachment, record.applied_to), (&attachment, cut.applied_to), "{id}: {key:?}");
        match self.difference(&manifest, record, &cut.model, &cut.ids).await {
            Ok(None) => {}
            Ok(Some(difference)) => panic!("{id}: checkpoint {key:?}: {difference}"),
            Err(error) => assert!(may_be_gone(), "{id}: checkpoint {key:?}: {error}"),
        }
    }

    /// Whether what a running backend calls persisted is durable, and is what it was.
    pub(super) async fn check_persisted(
        &self,
        description: Description,
        expected: &Model,
        ids: &BTreeMap<usize, StateId>,
    ) {
        let Description { id, epoch, mut manifest, persisted_to: cut, .. } = description;
        let own = manifest.runs.get(&epoch.number);
        for page in own.iter().flat_map(|run| &run.pages) {
            // It is under way, and what it lists was persisted as part of the manifest before.
            if self.raw.head(&page.name(&id).path(), Retry::none()).await.unwrap().is_none()
                && !self.is_named(&id, page).await
            {
                return;
            }
        }
        if cut == Sqn::first_of(epoch.number) {
            return;
        }
        let Some(mut record) = manifest.checkpoints.last().cloned() else { return };
        (record.identity.epoch, record.cut) = (epoch.number, cut);
        let newest = manifest.materializations.iter().rev().find(|base| base.from.epoch() == epoch.number);
        record.base = match newest {
            Some(base) if base.complete_at <= cut => Some(base.uuid),
            // The log before it may be truncated, and a cut before it is served by nothing.
            Some(_) => return,
            None => None,
        };
        manifest.checkpoints = vec![record.clone()];
        let difference = self.difference(&manifest, &record, expected, ids).await;
        let difference = difference.unwrap_or_else(|error| Some(error.to_string()));
        // What an owner that was fenced did not publish is nobody's, whether it knows or not.
        let head = chain::read_head(&self.raw, &id, Retry::none()).await.unwrap();
        if head.is_some_and(|head| head.manifest.owner().epoch != epoch) {
            return;
        }
        assert_eq!(difference, None, "{id}: what is persisted up to {cut}");
    }

    /// Whether the newest manifest names the page itself.
    async fn is_named(&self, id: &BackendId, page: &PageRef) -> bool {
        let head = chain::read_head(&self.raw, id, Retry::none()).await.unwrap();
        head.is_some_and(|head| head.manifest.runs.values().any(|run| run.pages.contains(page)))
    }

    async fn difference(
        &self,
        manifest: &Manifest,
        record: &CheckpointRecord,
        expected: &Model,
        ids: &BTreeMap<usize, StateId>,
    ) -> Result<Option<String>, RestoreError> {
        let mut manifest = manifest.clone();
        manifest.shape.key_groups = manifest.span(record).key_groups;
        let manifest = &manifest;
        let mut inner = HashMapBackend::new(manifest.shape.key_groups);
        let known = manifest.states.iter().map(|(id, state)| (*id, state.descriptor.clone()));
        let own = ids.iter().map(|(state, id)| (*id, model::descriptor(*state)));
        for (id, descriptor) in known.chain(own).collect::<BTreeMap<_, _>>() {
            dstl::state::StateBackend::register(&mut inner, id, &descriptor);
        }
        let (store, tasks, retry) = (&self.raw, &self.tasks, Retry::none());
        let restore = Restore {
            store,
            tasks,
            local: None,
            kept: None,
            manifest,
            checkpoint: record,
            parallel_reads: 4,
            block_memory: dstl::restore::block_memory(u64::MAX),
            retry,
            imported: None,
        };
        restore.run(&mut inner, |_| {}).await?;
        Ok(expected.difference(&inner, ids))
    }
}
