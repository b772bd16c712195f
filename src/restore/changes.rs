//! The changes of the log that a restore replays, without the state that they are changes of.

use std::ops::ControlFlow;

use super::{Imported, READ_AHEAD_BYTES, Restore, RestoreError};
use crate::{
    changelog::reader::{ReplayOptions, ReplayStream, object_of},
    state::Change,
    types::{BackendId, KeyGroup, KeyGroupRange, Sqn, TimeMs},
};

/// A change in the log of a checkpoint.
#[derive(Debug, Clone, Copy)]
pub struct Logged<'a> {
    /// The backend whose log has the change. For log imported at a rescale this is another backend than the
    /// checkpoint's.
    pub of: &'a BackendId,
    /// The batch that it belongs to.
    pub sqn: Sqn,
    /// The time of that batch.
    pub time: TimeMs,
    /// The change, with the id that its state has in the checkpoint's manifest.
    pub change: Change<'a>,
}

impl Restore<'_> {
    /// Hands each change of the log to `read`, as far as its key group is in `only`, until that breaks: those of the
    /// imports first, each part in order of its log. Changes that the base has already are among them. Cancel-safe.
    ///
    /// # Errors
    /// [`RestoreError`], where a restore fails as well.
    pub async fn changes(
        &self,
        only: &[KeyGroupRange],
        mut read: impl FnMut(&Logged<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, RestoreError> {
        let views = self.imports()?;
        let imports = views.iter().map(|(import, manifest, checkpoint)| Restore {
            manifest,
            checkpoint,
            imported: Some(Imported { import, by: self.manifest }),
            ..*self
        });
        for part in imports.chain([Restore { ..*self }]) {
            if part.own_changes(only, &mut read).await?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The changes of one part.
    async fn own_changes(
        &self,
        only: &[KeyGroupRange],
        read: &mut impl FnMut(&Logged<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, RestoreError> {
        let plan = self.plan().await?;
        let wanted = self.wanted();
        // Blocks without wanted key groups are not read at all.
        let both = |one: &KeyGroupRange| only.iter().filter_map(|other| one.intersection(*other)).collect::<Vec<_>>();
        let key_groups: Vec<KeyGroupRange> = wanted.iter().flat_map(both).collect();
        let is_wanted = |group: KeyGroup| key_groups.iter().any(|wanted| wanted.contains(group));
        let options = ReplayOptions {
            key_groups: key_groups.clone(),
            parallel_reads: self.parallel_reads,
            max_bytes: READ_AHEAD_BYTES,
            retry: self.retry,
        };
        let mut stream = ReplayStream::new(self.store.clone(), self.tasks.clone(), &plan.handles, options);
        while let Some(block) = stream.next().await {
            let block = block.map_err(|error| self.read_error(error))?;
            for batch in block.batches() {
                let batch = batch.map_err(|error| self.read_error(error))?;
                for (key_group, bytes) in batch.changes.filter(|(group, _)| is_wanted(*group)) {
                    let unfit = |source| self.unfit(source, &object_of(&block.place, block.range), block.handle.offset);
                    let change = Change::decode(key_group, bytes).map_err(unfit)?;
                    let Some(change) = self.renamed(change) else { continue };
                    let logged = Logged { of: &self.manifest.backend, sqn: batch.sqn, time: batch.time, change };
                    if read(&logged).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}
