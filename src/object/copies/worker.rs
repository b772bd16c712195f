//! The background work of local copies: it writes the queued copies, and removes those that are not needed.

use std::ops::Range;

use bytes::Bytes;
use object_store::{PutPayload, path::Path};
use tokio::time::{Instant, sleep_until};

use super::{Copies, Inner, Label, State, file::Head};
use crate::tasks;

/// An object that waits to be copied.
#[derive(Clone)]
pub(super) struct Pending {
    pub(super) path: Path,
    pub(super) payload: PutPayload,
    pub(super) label: Label,
}

impl Pending {
    /// All bytes, or those in `range`. `None` if the object ends before the range does.
    pub(super) fn slice(&self, range: Option<Range<u64>>) -> Option<Bytes> {
        let all = Bytes::from(self.payload.clone());
        let Some(range) = range else { return Some(all) };
        let (from, to) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
        (to <= all.len()).then(|| all.slice(from..to))
    }
}

impl Copies {
    /// Writes and removes copies until the future is dropped. Objects that wait then are not copied. Cancel-safe.
    pub async fn run(self) {
        loop {
            let now = Instant::now();
            self.0.judge(now);
            let pending = {
                let mut state = self.0.state.lock();
                let pending = state.queue.pop_front();
                state.queued_bytes -= pending.as_ref().map_or(0, |pending| pending.payload.content_length() as u64);
                // Under the same lock as the removal from the queue. Otherwise a read in between would find the object
                // nowhere.
                state.writing.clone_from(&pending);
                pending
            };
            if let Some(pending) = pending {
                self.0.write(pending);
                // Ordering: cleared only after the copy was inserted, or given up. Readers find the bytes in memory
                // until then.
                self.0.state.lock().writing = None;
                // A long queue must not keep this thread from other tasks: nothing else in this arm waits.
                tokio::task::yield_now().await;
                continue;
            }
            let expiry = {
                let state = self.0.state.lock();
                state.wants.next_expiry(state.copies.values().map(|kept| &kept.head.label), now)
            };
            let expires = async {
                match expiry {
                    Some(expiry) => sleep_until(expiry).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.0.wake.notified() => {}
                // An expiry is a matter of time alone, so nobody else asks for a judgement.
                () = expires => self.0.state.lock().unjudged = true,
            }
        }
    }
}

impl Inner {
    fn write(&self, pending: Pending) {
        let Pending { path, payload, label } = pending;
        let head = Head::of(path.clone(), &payload, label);
        let encoded = head.encode();
        let bytes = encoded.len() as u64 + head.length;
        if bytes > self.options.max_bytes {
            let why = format!("its {bytes} bytes are more than all copies may take");
            self.failed(&mut self.state.lock(), &path, &why);
            return;
        }
        // Before the write, so that all copies together stay within their limit on disk at every moment.
        self.make_room(bytes);
        let parts = std::iter::once(&encoded).chain(payload.iter());
        match tasks::blocking(|| self.folders.write(&path, parts)) {
            Ok(file) => {
                let mut state = self.state.lock();
                state.insert(file, bytes, head);
                state.failing = false;
                self.metrics.bytes(state.bytes);
            }
            Err(error) => self.failed(&mut self.state.lock(), &path, &error),
        }
    }

    /// Removes the copies that no backend needs.
    fn judge(&self, now: Instant) {
        let unneeded = {
            let mut state = self.state.lock();
            // Judging walks all copies, so it is done only after something changed.
            if !std::mem::take(&mut state.unjudged) {
                return;
            }
            let State { copies, queue, queued_bytes, wants, .. } = &mut *state;
            let made = copies.iter().map(|(path, kept)| (path, &kept.head.label));
            let waiting = queue.iter().map(|pending| (&pending.path, &pending.label));
            let unneeded = wants.unneeded(made.chain(waiting), now);
            if !queue.is_empty() {
                queue.retain(|pending| !unneeded.contains(&pending.path));
                // Counted anew, since several may have gone.
                *queued_bytes = queue.iter().map(|pending| pending.payload.content_length() as u64).sum();
            }
            unneeded
        };
        if !unneeded.is_empty() {
            self.remove(&unneeded);
        }
    }
}
