//! What an engine does with a backend while it owns it, and what it checks of every answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use dstl::{
    backend::{
        Acknowledgement, Backend, BarrierRequest, CompletedCheckpoint, Opened, Operation, Refusal, RestoreFrom,
        Session, SessionEvent, StateSummary,
    },
    checkpoint::{
        handle::{CheckpointHandle, MAX_HANDLE_BYTES},
        ledger::{NoticeKind, NoticeOutcome, NoticeTarget},
    },
    error::{Error, Reason},
    state::op::{Answer, Op},
    types::{KeyGroupAssignment, StateId},
};
use tokio::time::{Instant, sleep, timeout};

use super::{
    engine::{Engine, Phase, Restored},
    host::Host,
    model::{self, EITHER, MAX_VALUE_BYTES, Model, STATE_COUNT, Step, pick},
    truth::{Cut, CutKey},
};

/// Reads in one batch: so few that their answers fit a message.
const READS: usize = 10;

/// How long a barrier takes at most while nothing is wrong.
const PROMPT: Duration = Duration::from_secs(2);

/// How an ownership ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// As it was told.
    Done,
    /// Its daemon crashed.
    Crashed,
    /// A successor opened.
    Fenced,
}

type Went<T = ()> = Result<T, End>;

/// As a batch answers: by index of the operation.
type Answers = Vec<(u32, Option<Answer>)>;

/// Answers as a model can give them.
fn comparable(answers: Answers) -> Answers {
    answers.into_iter().map(|(operation, answer)| (operation, answer.map(Answer::comparable))).collect()
}

pub(super) struct Owner<'a> {
    engine: &'a mut Engine,
    host: Arc<Host>,
    backend: Backend,
    session: Option<Session>,
    granted: u64,
    spent: u64,
    ids: BTreeMap<usize, StateId>,
    model: Model,
    /// Contents before each batch that may not be durable.
    history: BTreeMap<u64, Model>,
    next: u64,
    acknowledged: Acknowledgement,
    /// Barriers whose answer is due.
    unanswered: BTreeSet<u64>,
    /// Barriers whose answer went to a session that is gone, perhaps.
    unheard: BTreeSet<u64>,
    /// Barriers that were sent twice, so may be answered twice.
    repeated: BTreeSet<u64>,
    /// Persist requests, and what each has to reach.
    tokens: BTreeMap<u64, u64>,
    token: u64,
}

impl<'a> Owner<'a> {
    pub(super) fn start(engine: &'a mut Engine, host: Arc<Host>, opened: Opened, restored: Restored) -> Self {
        let Restored { model, ids } = restored;
        let mut owner = Self {
            engine,
            host,
            backend: opened.backend,
            session: None,
            granted: 0,
            spent: 0,
            ids: BTreeMap::new(),
            history: BTreeMap::from([(0, model.clone())]),
            model,
            next: 0,
            acknowledged: Acknowledgement::default(),
            unanswered: BTreeSet::new(),
            unheard: BTreeSet::new(),
            repeated: BTreeSet::new(),
            tokens: BTreeMap::new(),
            token: 0,
        };
        if let Ok(()) = owner.register(ids.keys().copied().collect()) {
            assert_eq!(owner.ids, ids, "states keep their ids");
        }
        owner
    }

    fn one_in(&self, n: u64) -> bool {
        self.engine.one_in(n)
    }

    fn below(&self, n: u64) -> u64 {
        self.engine.random.below(n)
    }

    fn key(&self, id: u64) -> CutKey {
        (self.backend.epoch().number, id)
    }

    /// What an error that ends the ownership means.
    fn over(&self, error: &Error) -> End {
        if self.host.life.is_over() {
            return End::Crashed;
        }
        let successor = self.engine.world.job.lock().attempt > self.engine.attempt;
        assert!(error.reason == Reason::Fenced && successor, "{:?} {error}", error.reason);
        End::Fenced
    }

    fn refused(&self, refusal: Refusal) -> End {
        match refusal {
            Refusal::Over(error) => self.over(&error),
            other => panic!("{other:?}"),
        }
    }

    /// Waits for `call`, until the daemon dies or patience is over.
    async fn patiently<T>(&self, call: impl Future<Output = T>, patience: Duration) -> Went<Option<T>> {
        tokio::select! {
            biased;
            () = self.host.life.over() => Err(End::Crashed),
            outcome = timeout(patience, call) => Ok(outcome.ok()),
        }
    }

    pub(super) async fn run(mut self) -> End {
        if let Err(end) = self.verify().await {
            return end;
        }
        loop {
            if self.host.life.is_over() {
                return End::Crashed;
            }
            let went = match self.engine.control.phase() {
                Phase::Run => self.act().await,
                Phase::Die => return End::Done,
                Phase::Close => return self.close().await.err().unwrap_or(End::Done),
                Phase::Calm => return self.calm().await.err().unwrap_or(End::Done),
            };
            if let Err(end) = went {
                self.engine.note(|| format!("{end:?}"));
                return end;
            }
            let pause = self.engine.world.plan.pause.mul_f64(self.engine.random.fraction());
            if let Err(end) = self.patiently(sleep(pause), Duration::from_secs(9)).await {
                return end;
            }
        }
    }

    /// Does anything.
    async fn act(&mut self) -> Went {
        self.hear().await?;
        let ordered = self.engine.world.job.lock().barrier;
        if ordered > self.engine.barrier && self.one_in(3) {
            self.engine.barrier = ordered;
            return if self.one_in(10) { self.unary_checkpoint(ordered).await } else { self.barrier(ordered) };
        }
        match self.below(40) {
            0 => self.bad_batch().await,
            1 => self.repeat_batch().await,
            2 => self.persist(),
            3 => self.unary_persist().await,
            4 | 5 => self.unary_batch().await,
            6 => self.replace_session(),
            7 => self.reconnect().await,
            8 => self.register_more(),
            9 => self.verify().await,
            10..=15 => self.notice(),
            16 => self.pin_or_release().await,
            17 => self.check_description().await,
            _ => self.batch().await,
        }
    }

    fn register(&mut self, states: Vec<usize>) -> Went {
        let wanted: Vec<_> = states.iter().map(|state| model::descriptor(*state)).collect();
        let ids = self.backend.register(self.backend.epoch(), &wanted).map_err(|error| self.over(&error))?;
        self.ids.extend(states.into_iter().zip(ids));
        Ok(())
    }

    fn register_more(&mut self) -> Went {
        let state = self.below(STATE_COUNT as u64) as usize;
        // One name, two shapes: the one that it has stays for as long as this state goes on.
        let taken = EITHER.contains(&state) && EITHER.iter().any(|other| self.ids.contains_key(other));
        if taken && !self.ids.contains_key(&state) {
            let wanted = [model::descriptor(state)];
            let refused = self.backend.register(self.backend.epoch(), &wanted).unwrap_err();
            if refused.reason != Reason::StateMismatch {
                return Err(self.over(&refused));
            }
            return Ok(());
        }
        self.register(vec![state])
    }

    fn session(&mut self) -> Went<&mut Session> {
        if self.session.is_none() {
            let session = Session::start(self.backend.clone(), self.backend.epoch());
            self.session = Some(session.map_err(|error| self.over(&error))?);
            (self.granted, self.spent) = (0, 0);
            // Answers that nobody heard are asked for again.
            for id in std::mem::take(&mut self.unheard) {
                self.repeat_barrier(id)?;
            }
        }
        Ok(self.session.as_mut().expect("just started"))
    }

    fn replace_session(&mut self) -> Went {
        self.session()?;
        if self.one_in(2) {
            // What it was told and did not hear is lost.
            self.session = None;
            return Ok(());
        }
        let new = Session::start(self.backend.clone(), self.backend.epoch()).map_err(|error| self.over(&error))?;
        let mut old = self.session.replace(new).expect("there is one");
        (self.granted, self.spent) = (0, 0);
        match old.persist(1 << 40) {
            Err(Refusal::Over(error)) if error.reason == Reason::SessionReplaced => {}
            other => return Err(self.refused(other.expect_err("the old session is over"))),
        }
        self.unheard.append(&mut self.unanswered);
        self.tokens.clear();
        for id in std::mem::take(&mut self.unheard) {
            self.repeat_barrier(id)?;
        }
        Ok(())
    }

    async fn reconnect(&mut self) -> Went {
        let (host, spec) = (self.host.clone(), self.engine.spec(RestoreFrom::Latest { or_empty: true }));
        let opened = self.patiently(host.directory.open(spec, |_| {}), PROMPT).await?;
        match opened.expect("a running backend is found at once") {
            Ok(opened) => {
                assert!(opened.reconnected && opened.backend.epoch() == self.backend.epoch());
                assert_eq!(opened.applied_to, self.next);
                Ok(())
            }
            Err(error) => Err(self.over(&error)),
        }
    }

    /// Random steps, what they answer, and what they lead to.
    fn steps(&self) -> (Vec<Step>, Answers, Model) {
        let (mut model, mut steps, mut answers) = (self.model.clone(), vec![], vec![]);
        let (plan, states) = (&self.engine.world.plan, self.ids.keys().copied().collect::<Vec<_>>());
        let keys = &self.engine.own.keys;
        while !states.is_empty() && steps.len() < 1 + self.below(READS as u64) as usize {
            let step = Step::random(&self.engine.random, &states, keys, plan.value_bytes);
            if model.is_full(&step) {
                continue;
            }
            answers.extend(model.apply(&step).map(|answer| (steps.len() as u32, Some(answer))));
            steps.push(step);
        }
        (steps, answers, model)
    }

    fn operations<'s>(&self, steps: &'s [Step]) -> Vec<Operation<'s>> {
        let given = self.engine.world.plan.assignment == KeyGroupAssignment::Given;
        let operation = |step: &'s Step| {
            let (state, op) = (self.ids[&step.state], step.op());
            if !op.is_keyed() {
                return Operation { state, key_group: None, key: b"", namespace: b"", op };
            }
            let key_group = given.then_some(u32::from(step.key.group));
            Operation { state, key_group, key: &step.key.bytes, namespace: step.namespace.as_bytes(), op }
        };
        steps.iter().map(operation).collect()
    }

    /// Waits a little for credit; returns whether there is enough.
    async fn credit(&mut self, cost: u64) -> Went<bool> {
        for _ in 0..3 {
            self.acknowledge()?;
            if self.granted - self.spent >= cost {
                return Ok(true);
            }
            let outbox = self.session()?.outbox().clone();
            self.patiently(outbox.changed(), Duration::from_millis(100)).await?;
        }
        Ok(false)
    }

    async fn batch(&mut self) -> Went {
        let (steps, answers, model) = self.steps();
        let cost = cost(&steps);
        if !self.credit(cost).await? {
            return Ok(());
        }
        let number = self.next;
        let outcome = {
            let operations = self.operations(&steps);
            self.session()?.apply(number, cost, &operations).await
        };
        self.spent += cost;
        match outcome {
            Ok(result) => {
                let result = result.unwrap_or_default();
                assert!(!result.repeated);
                assert_eq!(comparable(result.answers), answers, "batch {number}: {steps:?}");
                self.applied(model);
                Ok(())
            }
            Err(Refusal::Halted { first_failed, error }) => {
                assert_eq!((first_failed, error.reason), (number, Reason::StateMemory), "{error}");
                self.resume()
            }
            Err(refusal) => Err(self.refused(refusal)),
        }
    }

    fn applied(&mut self, model: Model) {
        self.model = model;
        self.next += 1;
        self.history.insert(self.next, self.model.clone());
    }

    fn resume(&mut self) -> Went {
        let next = self.next;
        let wrong = self.session()?.resume(next + 1).unwrap_err();
        if let Refusal::Over(error) = wrong {
            return Err(self.over(&error));
        }
        self.session()?.resume(next).map_err(|refusal| self.refused(refusal))
    }

    /// A batch that is refused, and what follows until its halt is ended.
    async fn bad_batch(&mut self) -> Went {
        self.session()?;
        let (steps, ..) = self.steps();
        let (too_long, number) = (vec![0; MAX_VALUE_BYTES + 1], self.next);
        let mut operations = self.operations(&steps);
        let Some(good) = operations.iter().find(|operation| operation.op.is_keyed()).copied() else { return Ok(()) };
        let foreign = self.engine.own.foreign.clone();
        let bad = match (self.engine.random.below(5), &foreign) {
            (0, _) => Operation { state: StateId(999), ..good },
            (1, _) => Operation { key: b"", key_group: good.key_group, ..good },
            (2, _) => Operation { op: Op::MapPut { map_key: &too_long, value: b"" }, ..good },
            (3, Some(key)) => {
                let key_group = good.key_group.map(|_| u32::from(key.group));
                Operation { key: &key.bytes, key_group, ..good }
            }
            _ => Operation { key_group: if good.key_group.is_some() { None } else { Some(0) }, ..good },
        };
        operations.push(bad);
        let gap = self.engine.one_in(6);
        let session = self.session.as_mut().expect("started above");
        let outcome = session.apply(if gap { number + 1 } else { number }, 0, &operations).await;
        let first = match outcome {
            Err(Refusal::Halted { first_failed, error }) => {
                assert_eq!(first_failed, number, "{error}");
                error
            }
            Err(refusal) => return Err(self.refused(refusal)),
            Ok(result) => panic!("{bad:?} was applied: {result:?}"),
        };
        let request = BarrierRequest { id: u64::MAX, attachment: Bytes::new(), timeout: None };
        let again = session.apply(number + 1, 0, &operations[..1]).await.map(|_| ());
        let later = [again, session.barrier(request)];
        for outcome in later {
            assert_eq!(outcome, Err(Refusal::Halted { first_failed: number, error: first.clone() }));
        }
        self.resume()
    }

    async fn repeat_batch(&mut self) -> Went {
        let (steps, ..) = self.steps();
        self.session()?;
        let Some(number) = self.next.checked_sub(1 + self.below(3)) else { return Ok(()) };
        let operations = self.operations(&steps);
        let session = self.session.as_mut().expect("started above");
        match session.apply(number, 0, &operations).await {
            Ok(Some(result)) => {
                assert!(result.repeated && result.number == number);
                Ok(())
            }
            Ok(None) => panic!("batch {number} was applied twice"),
            Err(refusal) => Err(self.refused(refusal)),
        }
    }

    async fn unary_batch(&mut self) -> Went {
        let (steps, answers, model) = self.steps();
        let (number, cost) = (self.one_in(2).then_some(self.next), cost(&steps));
        // A batch without number and writes takes none; with writes it must not come between those of a session.
        let (takes_none, intrudes) = (number.is_none() && cost == 0, number.is_none() && self.session.is_some());
        let operations = self.operations(&steps);
        let call = self.backend.apply_batch(self.backend.epoch(), number, cost, &operations);
        let outcome = self.patiently(call, Duration::from_millis(200)).await?;
        match outcome {
            Some(Ok((result, acknowledgement))) => {
                assert!(!result.repeated && (takes_none || !intrudes));
                assert_eq!(comparable(result.answers), answers, "batch {}: {steps:?}", self.next);
                if !takes_none {
                    self.applied(model);
                }
                self.check(acknowledgement);
            }
            Some(Err(error)) if error.reason == Reason::BatchOutOfOrder && intrudes => {}
            Some(Err(error)) if error.reason == Reason::StateMemory => {}
            Some(Err(error)) => return Err(self.over(&error)),
            None => assert_eq!(self.backend.describe().acknowledgement.applied_to, self.next, "dropped, not applied"),
        }
        Ok(())
    }

    /// Reads everything.
    async fn verify(&mut self) -> Went {
        let states: Vec<_> = self.ids.keys().copied().collect();
        let keys = &self.engine.own.keys;
        for steps in Step::read_all(&states, keys).chunks(READS) {
            let mut model = self.model.clone();
            let expected: Vec<_> = (0..).zip(steps).map(|(n, step)| (n, Some(model.apply(step).unwrap()))).collect();
            let operations = self.operations(steps);
            let outcome = self.backend.apply_batch(self.backend.epoch(), None, 0, &operations).await;
            let (result, _) = outcome.map_err(|error| self.over(&error))?;
            assert_eq!(comparable(result.answers), expected, "epoch {}: {steps:?}", self.backend.epoch());
        }
        for StateSummary { state, entries, .. } in self.backend.describe().states {
            let dstl::backend::RegisteredState { id, descriptor, .. } = state;
            let state = self.ids.iter().find(|(_, known)| **known == id).map(|(state, _)| *state);
            let expected = state.map_or(0, |state| self.model.entries(state));
            assert_eq!(entries, expected, "entries of {descriptor:?}");
        }
        Ok(())
    }

    /// Notes what is cut now, as checkpoint `id`.
    fn cut(&mut self, id: u64) -> BarrierRequest {
        let text = format!("{}/{}/{}", self.engine.attempt, id, self.next);
        let attachment = Bytes::from(text);
        let cut = Cut {
            attempt: self.engine.attempt,
            attachment: attachment.clone(),
            applied_to: self.next,
            model: self.model.clone(),
            ids: self.ids.clone(),
            handle: None,
            failed: false,
            completed: false,
            pinned: false,
            let_go: false,
            vanished: self.engine.has_vanished(),
        };
        let mut truth = self.engine.world.truths[self.engine.seat].lock();
        if let Some((restored, attempt)) = self.backend.outline().manifest.owner().restored {
            truth.retain_before(self.engine.world.plan.retention, (attempt, restored.id));
        }
        assert!(truth.cuts.insert(self.key(id), cut).is_none(), "an engine sends ids once");
        drop(truth);
        let hurried = self.engine.control.phase() == Phase::Run && self.one_in(4);
        let timeout = hurried.then(|| Duration::from_millis(1 + self.below(500)));
        BarrierRequest { id, attachment, timeout }
    }

    fn barrier(&mut self, id: u64) -> Went {
        self.session()?;
        let request = self.cut(id);
        self.engine.note(|| format!("barrier {id} after {} batches", self.next));
        match self.session.as_mut().expect("started above").barrier(request) {
            Ok(()) => _ = self.unanswered.insert(id),
            Err(Refusal::Request(error)) => {
                assert_eq!(error.reason, Reason::TooManyCheckpoints, "{error}");
                self.forget(id);
            }
            Err(refusal) => return Err(self.refused(refusal)),
        }
        Ok(())
    }

    fn forget(&self, id: u64) {
        self.engine.world.truths[self.engine.seat].lock().cuts.remove(&self.key(id));
    }

    /// Sends a barrier again whose answer was not heard.
    fn repeat_barrier(&mut self, id: u64) -> Went {
        self.repeated.insert(id);
        let request = BarrierRequest { id, attachment: Bytes::from_static(b"again"), timeout: None };
        match self.session.as_mut().expect("the caller has one").barrier(request) {
            Ok(()) => _ = self.unanswered.insert(id),
            // It failed, or was let go.
            Err(Refusal::Request(error)) => assert_eq!(error.reason, Reason::CheckpointOutOfOrder, "{error}"),
            Err(refusal) => return Err(self.refused(refusal)),
        }
        Ok(())
    }

    async fn unary_checkpoint(&mut self, id: u64) -> Went {
        let request = self.cut(id);
        let call = self.backend.checkpoint(self.backend.epoch(), request);
        let outcome = self.patiently(call, Duration::from_millis(20 + self.below(5000))).await?;
        match outcome {
            Some(Ok(completed)) => self.completed(&completed).await,
            Some(Err(error)) => match error.reason {
                Reason::TooManyCheckpoints => self.forget(id),
                Reason::CheckpointTimeout => {}
                _ => return Err(self.over(&error)),
            },
            None => {}
        }
        Ok(())
    }

    fn persist(&mut self) -> Went {
        self.token += 1;
        let (token, next) = (self.token, self.next);
        if self.engine.is_unlogged() {
            return match self.session()?.persist(token) {
                Err(Refusal::Request(error)) if error.reason == Reason::Unsupported => Ok(()),
                other => Err(self.refused(other.expect_err("there is no log to persist"))),
            };
        }
        self.tokens.insert(token, next);
        self.session()?.persist(token).map_err(|refusal| self.refused(refusal))
    }

    async fn unary_persist(&mut self) -> Went {
        let patience = Duration::from_millis(self.below(1000));
        match self.patiently(self.backend.persist(self.backend.epoch()), patience).await? {
            Some(Err(error)) if error.reason == Reason::Unsupported && self.engine.is_unlogged() => Ok(()),
            Some(Ok(persisted_to)) => {
                assert!(persisted_to >= self.next && !self.engine.is_unlogged());
                self.check_description().await
            }
            Some(Err(error)) => Err(self.over(&error)),
            None => Ok(()),
        }
    }

    /// Checks acknowledgements against the last ones.
    fn check(&mut self, now: Acknowledgement) {
        let (then, next) = (self.acknowledged, self.next);
        assert_eq!(now.applied_to, next);
        assert!(now.confirmed_to <= now.persisted_to && now.persisted_to <= now.applied_to, "{now:?}");
        assert!(then.persisted_to <= now.persisted_to && then.confirmed_to <= now.confirmed_to, "{then:?} {now:?}");
        self.acknowledged = now;
        self.history = self.history.split_off(&now.persisted_to);
    }

    fn acknowledge(&mut self) -> Went {
        let (acknowledgement, granted) = self.session()?.acknowledgement();
        assert!(granted >= self.granted);
        self.granted = granted;
        self.check(acknowledgement);
        Ok(())
    }

    /// What the description says is durable must be.
    async fn check_description(&mut self) -> Went {
        if !self.one_in(3) {
            return Ok(());
        }
        let description = self.backend.describe();
        if self.host.life.is_over() || self.backend.has_ended() {
            return Ok(());
        }
        self.check(description.acknowledgement);
        let persisted_to = description.acknowledgement.persisted_to;
        let expected = self.history[&persisted_to].clone();
        self.engine.world.check_persisted(description, &expected, &self.ids).await;
        Ok(())
    }

    /// Takes what the session was told.
    async fn hear(&mut self) -> Went {
        let Some(session) = &self.session else {
            self.unheard.append(&mut self.unanswered);
            self.tokens.clear();
            if self.one_in(4) {
                self.session()?;
            }
            return Ok(());
        };
        let outbox = session.outbox().clone();
        while let Some(event) = outbox.pop() {
            match event {
                SessionEvent::CheckpointCompleted(completed) => {
                    let id = completed.identity.id;
                    assert!(self.unanswered.remove(&id) || self.repeated.contains(&id), "{completed:?} was not due");
                    self.completed(&completed).await;
                }
                SessionEvent::CheckpointFailed { id, error } => {
                    let due = self.unanswered.remove(&id) || self.repeated.contains(&id);
                    assert!(due, "the failure of {id} was not due: {error}");
                    self.failed(id, &error)?;
                }
                SessionEvent::Persisted { token, persisted_to } => {
                    let due = self.tokens.remove(&token);
                    assert!(due.is_none_or(|due| persisted_to >= due), "{persisted_to} for {due:?}");
                    if self.one_in(8) {
                        self.check_description().await?;
                    }
                }
                SessionEvent::JobCheckpointCompleted(part) => panic!("{part} of a job that nobody declared"),
                SessionEvent::SavepointMade(made) => panic!("{made:?}, which nobody asked for"),
                SessionEvent::Ended(error) => return Err(self.over(&error)),
            }
        }
        self.acknowledge()
    }

    async fn completed(&self, completed: &CompletedCheckpoint) {
        let (world, seat) = (&self.engine.world, self.engine.seat);
        let key = (completed.identity.epoch, completed.identity.id);
        self.engine.note(|| format!("checkpoint {key:?} is restorable"));
        assert_eq!(key, self.key(completed.identity.id));
        assert!(completed.handle.len() <= MAX_HANDLE_BYTES);
        let handle = CheckpointHandle::decode(&completed.handle).unwrap();
        assert_eq!((&handle.backend, handle.checkpoint), (self.backend.id(), completed.identity));
        {
            let mut truth = world.truths[seat].lock();
            truth.answered(key, handle);
            assert_eq!(completed.applied_to, truth.cuts[&key].applied_to);
        }
        world.job.lock().answered((self.engine.attempt, key.1), seat);
        if self.one_in(6) {
            world.check_restorable(seat, key).await;
        }
    }

    fn failed(&self, id: u64, error: &Error) -> Went {
        self.engine.note(|| format!("checkpoint {id} failed: {error}"));
        let mut truth = self.engine.world.truths[self.engine.seat].lock();
        let cut = truth.cuts.get_mut(&self.key(id)).expect("a barrier was sent");
        assert!(cut.handle.is_none(), "checkpoint {id} was answered, and failed later");
        cut.failed = true;
        match error.reason {
            Reason::CheckpointTimeout | Reason::CheckpointAborted | Reason::TooManyCheckpoints => Ok(()),
            _ => {
                drop(truth);
                Err(self.over(error))
            }
        }
    }

    /// Tells of a checkpoint of the job that completed, or anything of any checkpoint.
    fn notice(&mut self) -> Went {
        let world = self.engine.world.clone();
        let keys: Vec<_> = world.truths[self.engine.seat].lock().cuts.keys().copied().collect();
        if keys.is_empty() {
            return Ok(());
        }
        let newest = keys.len().saturating_sub(6);
        let key = *pick(&self.engine.random, if self.one_in(4) { &keys } else { &keys[newest..] });
        let truth = world.truths[self.engine.seat].lock();
        let (cut, barrier) = (truth.cuts[&key].clone(), world.job.lock().barrier);
        drop(truth);
        let seats = world.plan.seats_of(cut.attempt).len();
        let complete = world.job.lock().is_complete((cut.attempt, key.1), seats);
        let kind = match self.below(30) {
            0 => NoticeKind::Discard,
            1 | 2 => NoticeKind::Subsume,
            3 if !complete => NoticeKind::Abort,
            _ if complete => NoticeKind::Complete,
            _ if key.1 + 4 < barrier => NoticeKind::Abort,
            _ => return Ok(()),
        };
        let uuid = cut.handle.as_ref().map(|handle| handle.checkpoint.uuid).filter(|_| self.one_in(2));
        let stranger = self.one_in(20);
        let uuid = if stranger { Some(self.engine.random.uuid()) } else { uuid };
        let target = NoticeTarget { epoch: key.0, id: key.1, uuid };
        let through_session = self.one_in(2);
        let outcome = if through_session {
            self.session()?.notice(kind, target).map_err(|refusal| self.refused(refusal))?
        } else {
            let outcome = self.backend.notice(self.backend.epoch(), kind, target);
            outcome.map_err(|error| self.over(&error))?
        };
        self.engine.note(|| format!("{kind:?} {key:?}: {outcome:?}"));
        if stranger {
            assert_eq!(outcome, NoticeOutcome::Unknown, "{kind:?} of a stranger");
            return Ok(());
        }
        self.learn(kind, key, outcome);
        Ok(())
    }

    fn learn(&self, kind: NoticeKind, key: CutKey, outcome: NoticeOutcome) {
        if outcome == NoticeOutcome::Unknown {
            return self.check_unknown(key, &kind);
        }
        let mut truth = self.engine.world.truths[self.engine.seat].lock();
        if truth.epoch() != self.backend.epoch().number {
            return;
        }
        match kind {
            NoticeKind::Complete if outcome == NoticeOutcome::Done => {
                truth.cuts.get_mut(&key).expect("it was picked").completed = true;
                truth.retain(self.engine.world.plan.retention);
            }
            NoticeKind::Complete => {}
            NoticeKind::Abort | NoticeKind::Discard => {
                truth.cuts.get_mut(&key).expect("it was picked").let_go = true;
            }
            NoticeKind::Subsume => {
                truth.cuts.range_mut((key.0, 0)..=key).for_each(|(_, cut)| cut.let_go = true);
            }
        }
    }

    /// The daemon does not know the checkpoint: right unless its owner asks for one that must be there.
    fn check_unknown(&self, key: CutKey, what: &dyn std::fmt::Debug) {
        let truth = self.engine.world.truths[self.engine.seat].lock();
        let stale = truth.epoch() != self.backend.epoch().number;
        assert!(stale || !truth.must(key), "{what:?} {key:?}: it is retained, but unknown");
    }

    async fn pin_or_release(&mut self) -> Went {
        let musts = self.engine.world.truths[self.engine.seat].lock().musts();
        if musts.is_empty() {
            return Ok(());
        }
        let key = *pick(&self.engine.random, &musts);
        let pinned = self.engine.world.truths[self.engine.seat].lock().cuts[&key].pinned;
        let (epoch, target) = (self.backend.epoch(), NoticeTarget { epoch: key.0, id: key.1, uuid: None });
        let set = |pinned| {
            let mut truth = self.engine.world.truths[self.engine.seat].lock();
            if truth.epoch() == self.backend.epoch().number {
                truth.cuts.get_mut(&key).expect("it was picked").pinned = pinned;
            }
        };
        if pinned {
            set(false);
            return self.backend.release(epoch, target).map(|_| ()).map_err(|error| self.over(&error));
        }
        match self.patiently(self.backend.pin(epoch, target), Duration::from_secs(3)).await? {
            Some(Ok(())) => set(true),
            Some(Err(error)) if error.reason == Reason::CheckpointNotFound => self.check_unknown(key, &"pin"),
            Some(Err(error)) => return Err(self.over(&error)),
            None => {}
        }
        Ok(())
    }

    /// Nothing goes wrong any more: all that is due comes, and the newest checkpoint of the job completes.
    async fn calm(&mut self) -> Went {
        let id = self.engine.world.job.lock().barrier;
        assert!(self.engine.barrier < id, "the last barrier is ordered once all is calm");
        self.engine.barrier = id;
        self.session()?;
        assert!(self.credit(self.engine.world.plan.value_bytes).await?, "credit comes back");
        self.barrier(id)?;
        self.persist()?;
        let begun = Instant::now();
        let seats = self.engine.world.plan.seats_of(self.engine.attempt).len();
        let job = (self.engine.attempt, id);
        while !self.engine.world.job.lock().is_complete(job, seats) || !self.tokens.is_empty() {
            assert!(begun.elapsed() < PROMPT, "{id} is not complete in time, {:?} are due", self.tokens);
            self.hear().await?;
            sleep(Duration::from_millis(5)).await;
        }
        sleep(self.engine.world.plan.backend.checkpoint_timeout).await;
        self.hear().await?;
        assert!(self.unanswered.is_empty(), "barriers {:?} were never answered", self.unanswered);
        let (epoch, key) = (self.backend.epoch(), self.key(id));
        let target = NoticeTarget { epoch: key.0, id, uuid: None };
        let outcome = self.backend.notice(epoch, NoticeKind::Complete, target).map_err(|error| self.over(&error))?;
        assert_eq!(outcome, NoticeOutcome::Done);
        self.learn(NoticeKind::Complete, key, outcome);
        let applied_to = self.engine.world.truths[self.engine.seat].lock().cuts[&key].applied_to;
        self.acknowledge()?;
        let acknowledged = self.acknowledged;
        assert!(acknowledged.confirmed_to >= applied_to && acknowledged.persisted_to >= applied_to, "{acknowledged:?}");
        self.verify().await?;
        self.close().await
    }

    async fn close(&mut self) -> Went {
        let (host, epoch) = (self.host.clone(), self.backend.epoch());
        let call = host.directory.close(self.backend.id(), epoch);
        match self.patiently(call, Duration::from_secs(20)).await?.expect("closing is bounded in time") {
            Ok(_) => {
                let error = self.backend.persist(epoch).await.unwrap_err();
                assert!(matches!(error.reason, Reason::BackendClosed | Reason::Fenced), "{error}");
                Ok(())
            }
            Err(error) => Err(self.over(&error)),
        }
    }
}

/// Credit that a batch costs: only writes do.
fn cost(steps: &[Step]) -> u64 {
    if steps.iter().any(|step| step.op().is_write()) { steps.iter().map(Step::bytes).sum() } else { 0 }
}
