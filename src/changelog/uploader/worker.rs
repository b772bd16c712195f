//! The worker passes due change sets to upload tasks as long as slots are free.

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    InFlight, Ticket, UploadEdge, UploadError, UploadOptions,
    upload::{Slot, Upload},
};
use crate::{
    changelog::{batcher::Batcher, segment::ChangeSet},
    types::{BackendId, Name},
};

/// A request of a client.
pub(super) enum Message {
    /// Makes a change set durable.
    Submit { set: ChangeSet, urgent: bool, ticket: Ticket },
    /// Cancels the change sets of an owner whose upload has not begun.
    Withdraw { backend: BackendId, epoch: u64 },
    /// Registers one more backend.
    WriterJoined,
    /// Removes one backend.
    WriterLeft,
}

/// The actor. It ends when all clients are gone and no upload is in flight.
pub(super) struct Worker {
    job: Name,
    options: UploadOptions,
    edge: UploadEdge,
    in_flight: InFlight,
    batcher: Batcher<Ticket>,
    messages: mpsc::UnboundedReceiver<Message>,
    /// Slots that uploads have given back; never more than `num_threads`.
    freed: mpsc::UnboundedReceiver<()>,
    free: mpsc::UnboundedSender<()>,
    used_slots: usize,
}

impl Worker {
    pub(super) fn new(
        job: Name,
        options: UploadOptions,
        edge: UploadEdge,
        in_flight: InFlight,
        messages: mpsc::UnboundedReceiver<Message>,
    ) -> Self {
        let batcher = Batcher::new(options.batch.clone());
        let (free, freed) = mpsc::unbounded_channel();
        Self { job, options, edge, in_flight, batcher, messages, freed, free, used_slots: 0 }
    }

    pub(super) async fn run(mut self) {
        loop {
            // Ordering 1: due sets are sent before the deadline is computed. After that either nothing is due, so the
            // deadline lies ahead, or no slot is free. Then no timer is armed, and only a freed slot goes on. The other
            // way round, the timer would be armed for sets that are sent already.
            self.send_due();
            let deadline = self.has_slot().then(|| self.batcher.deadline()).flatten();
            tokio::select! {
                biased;
                // Ordering 2: freed slots come before messages. A flood of submissions then cannot keep finished
                // uploads from making room for the next ones. The channel never closes, since `free` is a field.
                Some(()) = self.freed.recv() => self.used_slots -= 1,
                message = self.messages.recv() => match message {
                    Some(message) => self.handle(message),
                    // All clients and writers are gone, so nobody can ask for the waiting sets any more.
                    None => break,
                },
                () = sleep_until(deadline.map_or_else(Instant::now, Instant::from_std)), if deadline.is_some() => {}
            }
        }
        self.drain().await;
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Submit { set, urgent, ticket } => {
                self.batcher.push(Instant::now().into_std(), set, urgent, ticket);
            }
            Message::Withdraw { backend, epoch } => {
                for ticket in self.batcher.withdraw(&backend, epoch) {
                    ticket.call(Err(UploadError::Cancelled));
                }
            }
            Message::WriterJoined => self.batcher.writer_joined(),
            Message::WriterLeft => self.batcher.writer_left(),
        }
    }

    fn has_slot(&self) -> bool {
        self.used_slots < self.options.num_threads
    }

    fn send_due(&mut self) {
        while self.has_slot()
            && let Some(mut sets) = self.batcher.take(Instant::now().into_std())
        {
            // A backend's change sets become neighbours in the segment, so one range can be read. The sort is stable,
            // so each backend's order stays.
            sets.sort_by(|(a, _), (b, _)| (&a.backend, a.epoch).cmp(&(&b.backend, b.epoch)));
            self.used_slots += 1;
            let slot = Slot { free: self.free.clone(), in_flight: self.edge.metrics.in_flight.clone() };
            slot.in_flight.inc();
            let upload = Upload {
                job: self.job.clone(),
                compression: self.options.compression,
                edge: self.edge.clone(),
                in_flight: self.in_flight.clone(),
                sets,
            };
            // Begun here and not in the task, so that numbers follow the order of sending and the low water knows them
            // at once.
            let number = self.in_flight.begin();
            // Waiting callers hear of a panic by their tickets.
            self.edge.tasks.supervise("an upload", upload.run(number, slot), |_| {});
        }
        self.measure();
    }

    fn measure(&self) {
        let metrics = &self.edge.metrics;
        metrics.waiting_sets.set(i64::try_from(self.batcher.waiting()).unwrap_or(i64::MAX));
        metrics.waiting_bytes.set(i64::try_from(self.batcher.waiting_bytes()).unwrap_or(i64::MAX));
    }

    /// Cancels waiting change sets, and waits for uploads in flight.
    async fn drain(mut self) {
        for ticket in self.batcher.clear() {
            ticket.call(Err(UploadError::Cancelled));
        }
        self.measure();
        // Uploads in flight are not aborted: a half-made request may still create its segment, and its number has to
        // stay in flight until that is known.
        while self.used_slots > 0 && self.freed.recv().await.is_some() {
            self.used_slots -= 1;
        }
    }
}
