//! The end of a world: no garbage is left, and nothing that is needed is gone.

use std::sync::Arc;

use super::{
    actor::{Actor, Phase},
    scope::{Scope, Step},
    script::Stage,
    world::World,
};
use crate::{
    checkpoint::collect,
    object::{ObjectName, Path},
};

impl World {
    /// Lets all requests arrive and all daemons die; then one more owner opens and closes, and an undisturbed sweep
    /// ends. Checks that no unreferenced object remains, and no other object is gone.
    pub(super) fn settle(mut self, stage: &Stage) {
        for instance in 0..self.instances.len() {
            self.crash(instance);
        }
        for request in std::mem::take(&mut self.late) {
            self.arrives(&request);
            self.find_head();
        }
        self.readers.iter_mut().for_each(|reader| reader.release(&mut self.objects));
        self.check();
        let checkpoints = self.head().map_or(0, |head| head.checkpoints.len());
        self.left = Scope { opens: 1, sweeps: 1, closes: 1, off: None, no_claim: false, ..self.left };
        self.open(stage, checkpoints.checked_sub(1), None);
        let owner = self.owners.len() - 1;
        let last = |world: &Self| world.owners[owner].clone();
        self.publish(stage, owner);
        self.take(stage, Step::Close { owner });
        self.take(stage, Step::Begin { owner });
        self.publish(stage, owner);
        assert_eq!(last(&self).phase, Phase::Ended, "nobody else is there");
        self.sweep_whole(stage);
    }

    /// Lets the manifest and the pages that are under way become durable.
    fn publish(&mut self, stage: &Stage, owner: usize) {
        while self.owners[owner].publication.is_some() {
            self.take(stage, Step::Go { owner });
        }
        while self.owners[owner].pages.is_some() {
            self.take(stage, Step::Page { owner });
        }
    }

    /// Lets everything that is under way succeed, and the present owner publish one more manifest, unless it has
    /// closed. Then nothing that is not referenced may survive a sweep, although no other owner comes.
    pub(super) fn rest(mut self, stage: &Stage) {
        let Some(owner) = self.present() else { return };
        let own = self.owners[owner].instance;
        for other in (0..self.instances.len()).filter(|other| *other != own) {
            self.crash(other);
        }
        for other in (0..self.owners.len()).filter(|other| *other != owner) {
            self.abandon(other);
        }
        self.readers.iter_mut().for_each(|reader| reader.release(&mut self.objects));
        self.left = Scope { sweeps: 1, ..Scope::NONE };
        loop {
            for request in std::mem::take(&mut self.late) {
                self.arrives(&request);
                self.find_head();
            }
            let next = self.steps().into_iter().find(|step| {
                !matches!(step, Step::Sweep | Step::Late { .. } | Step::Materialize { .. } | Step::Begin { .. })
            });
            match next {
                Some(step) => self.take(stage, step),
                None if self.owners[owner].wants_manifest(&self.instances[self.owners[owner].instance], false) => {
                    self.take(stage, Step::Begin { owner });
                }
                None => break,
            }
        }
        if self.owners[owner].phase == Phase::Serving {
            self.be_silent(stage, owner);
        }
        if self.owners[owner].phase == Phase::Serving {
            self.take(stage, Step::Begin { owner });
            self.publish(stage, owner);
        }
        // The opening manifest of an owner that died may have come late; then only the next owner makes order.
        if self.present() == Some(owner) {
            self.sweep_whole(stage);
        }
    }

    /// Lets much time pass. The owner then tells that it needs no more segments than it names.
    fn be_silent(&mut self, stage: &Stage, owner: usize) {
        Arc::make_mut(&mut self.owners[owner]).be_silent();
        let instance = self.owners[owner].instance;
        if self.owners[owner].wants_manifest(&self.instances[instance], false) {
            self.take(stage, Step::Begin { owner });
            self.publish(stage, owner);
        }
        let is_present = self.present() == Some(owner);
        let told = self.head().map_or(0, |head| head.segment_low_water);
        assert!(!is_present || told >= self.instances[instance].low_water(), "others wait for its low water for ever");
    }

    /// The owner of the head, if it serves or has closed.
    fn present(&self) -> Option<usize> {
        let head = self.head()?;
        let is_there = |it: &Actor| it.phase == Phase::Serving || it.has_closed;
        let is_present = |it: &Arc<Actor>| is_there(it) && it.owner.epoch() == head.owner().epoch;
        self.owners.iter().position(is_present)
    }

    /// An undisturbed sweep. Checks that no unreferenced object remains, and no other object is gone.
    fn sweep_whole(mut self, stage: &Stage) {
        self.sweep = None;
        self.sweep_step(stage);
        let report = loop {
            if let Some(report) = self.sweep_step(stage) {
                break report;
            }
        };
        self.check();
        // A page of an opener that died stays until another one opens that epoch.
        let present = self.head().map_or(0, |head| head.owner().epoch.number);
        let is_of_later = |path: &Path| {
            let name = ObjectName::parse(path);
            matches!(name, Some(ObjectName::IndexPage { epoch, .. }) if epoch > present)
        };
        let stays = |finding: &&collect::Finding| {
            !finding.deleted && finding.verdict.word() != "live" && !is_of_later(&finding.meta.path)
        };
        let unreferenced: Vec<_> = report.findings.iter().filter(stays).collect();
        assert!(unreferenced.is_empty(), "{unreferenced:?}");
    }
}
