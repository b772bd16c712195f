//! A claimed backend, and the facts that a claim begins with.

use std::collections::BTreeSet;

use super::{claiming::Claiming, part::RestoredPart, redistribution::Sources, source::Source, spec::OpenSpec};
use crate::{
    checkpoint::{
        chain::{self, ChainError, Head},
        job::{Seen, Spoilt},
        manifest::{Attachment, Manifest},
        pin::Held,
    },
    error::Error,
    object::{Retry, Store},
    types::{BackendId, Epoch, StateId},
};

/// A claimed backend.
#[derive(Debug)]
pub(crate) struct Claim {
    /// The manifest that opened the epoch.
    pub(crate) manifest: Manifest,
    /// The checksum of that manifest.
    pub(crate) crc: u32,
    /// Whether the opener may still begin, checked after that manifest was durable.
    pub(crate) still: Result<(), Error>,
    /// The states that are in force.
    pub(crate) bound: BTreeSet<StateId>,
    /// Whether the state comes from the backend's own chain, with exactly its key groups.
    pub(crate) is_own: bool,
    /// The parts of the checkpoint that it begins with; empty for the empty state.
    pub(crate) parts: Vec<RestoredPart>,
    /// The places of the attachments of `parts`, which have none yet.
    pub(crate) attachments: Vec<Attachment>,
    /// Other chains whose owners were fenced, with the epochs that fenced them.
    pub(crate) fenced: Vec<(BackendId, Epoch)>,
    /// Newer checkpoints that were skipped because they are damaged.
    pub(crate) skipped: Vec<Spoilt>,
    /// The manifest to restore from. Unlike `manifest` it names everything that is read, and none of it was moved into
    /// pages.
    pub(crate) reads: Manifest,
    /// Pins that protect the objects to read.
    pub(crate) pins: Vec<Held>,
    /// The operator state of which it gets a share.
    pub(crate) operator: Sources,
    /// The savepoint that it begins with, instead of a checkpoint.
    pub(crate) savepoint: Option<Source>,
    /// The folder of the native savepoint that has the objects to read.
    pub(crate) native: Option<Store>,
}

/// Objects that were read before a claim, so that it need not read them again.
#[derive(Debug)]
pub(crate) struct Known {
    /// The head of the backend's own chain. The first try takes it; later tries read it again.
    head: Option<Option<Head>>,
    /// The newest record of the job.
    pub(crate) seen: Seen,
}

impl Known {
    pub(crate) fn new(head: Option<Head>, seen: Seen) -> Self {
        Self { head: Some(head), seen }
    }

    /// The head of the backend's own chain.
    pub(crate) async fn head(
        &mut self,
        by: &Claiming,
        spec: &OpenSpec,
        retry: Retry,
    ) -> Result<Option<Head>, ChainError> {
        match self.head.take() {
            Some(head) => Ok(head),
            None => {
                // A later try: the chain has moved on, and the job may have, too.
                self.seen = Seen::NotYet;
                chain::read_head(&by.store, &spec.id, retry).await
            }
        }
    }
}
