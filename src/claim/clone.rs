//! Clones begin with a checkpoint of another job, or operator, whose owners go on undisturbed.
//!
//! No owner is fenced, so the source may let the checkpoint go, and a sweep may delete it, at any time. A
//! [pin](crate::checkpoint::pin) protects the objects. It exists from before the source was seen to retain the
//! checkpoint until the state is in a materialization of this backend's own. No manifest of this backend ever names an
//! object of the source; only this code remembers which ones to read.

use std::collections::BTreeMap;

use futures::future;
use tokio::time::Instant;

use super::{
    admit::Admitted,
    choice::{Chooser, Chosen},
    claimed::{Claim, Known},
    claiming::{ClaimMode, Claiming},
    fence::are_retained,
    part::restored,
    plan::{self, Plan, derive, operator_sources, settle},
    refusal::refuse_outdated,
    spec::OpenSpec,
};
use crate::{
    checkpoint::{
        chain::{self, ChainError, Head},
        job::Seen,
        manifest::{Contents, Import},
        pin::{self, Held, Pin, PinLost, release_all},
    },
    error::{Error, Reason},
    object::Retry,
    types::{BackendId, Name},
};

/// Attempts to begin, when the source or other openers move on.
const CLONE_ATTEMPTS: usize = 16;

/// Validates the request, pins the objects to read, and makes the manifest that opens the new epoch, which names none
/// of them.
///
/// # Errors
/// [`Reason::CheckpointNotFound`] if the source does not retain the checkpoint, or lets it go meanwhile.
pub(crate) async fn claim(by: &Claiming, admitted: &Admitted, known: &mut Known, retry: Retry) -> Result<Claim, Error> {
    let spec = &admitted.spec;
    if spec.claim == Some(ClaimMode::Claim) {
        let text =
            format!("backend `{}`: a checkpoint of another job or operator cannot be claimed, only cloned", spec.id);
        return Err(Error::new(Reason::InvalidArgument, text));
    }
    for _ in 0..CLONE_ATTEMPTS {
        let head = known.head(by, spec, retry).await?;
        if let Some(head) = &head {
            refuse_outdated(spec, &head.manifest)?;
        }
        let chooser = Chooser { by, spec, head: head.as_ref(), retry };
        let chosen = chooser.choose(&mut known.seen).await?;
        // Ordering 1: the plan, which refuses an unreadable checkpoint, before anything is pinned.
        let plan = plan::plan(by, spec, head.as_ref(), &chosen)?;
        // Ordering 2: the pins.
        let mut pins = make_pins(by, spec, &plan, retry).await?;
        let begun = async {
            // Ordering 3: the sources are read again. If they still retain the checkpoint, every sweep that could
            // delete its objects lists the pins after these were made. If they do not, a sweep may have listed the pins
            // before, so this try does not count.
            if are_retained(by, spec, &plan, retry).await? {
                // Ordering 4: the manifest. It names nothing of the sources, and the pins are renewed meanwhile.
                begin(by, admitted, Basis { head, chosen: &chosen, seen: &known.seen }, retry).await
            } else {
                Ok(None)
            }
        };
        match kept(&spec.id, &mut pins, begun).await {
            Ok(Some(claim)) => return Ok(Claim { pins, ..claim }),
            Ok(None) => release_all(pins).await,
            Err(error) => {
                release_all(pins).await;
                return Err(error);
            }
        }
    }
    Err(ChainError::Contended(spec.id.clone()).into())
}

/// Pins the objects that the plan would read, with one pin for each operator. The pins are effective only if the
/// sources still retain the checkpoint after they were made.
async fn make_pins(by: &Claiming, spec: &OpenSpec, plan: &Plan, retry: Retry) -> Result<Vec<Held>, Error> {
    let lease_ms = u64::try_from(by.pin_lease.as_millis()).unwrap_or(u64::MAX);
    let mut of_operators: BTreeMap<(Name, Name), Vec<Import>> = BTreeMap::new();
    for import in plan::imports(by, plan).into_iter().chain(operator_sources(by, plan).imports) {
        let operator = (import.origin.job.clone(), import.origin.operator.clone());
        of_operators.entry(operator).or_default().push(import);
    }
    let mut pins = vec![];
    for ((job, operator), imports) in of_operators {
        let pin = Pin { operator, lease_ms, imports };
        let making = async { Ok(Held::make(&by.store, &job, &pin, &by.random, retry).await?) };
        match kept(&spec.id, &mut pins, making).await {
            Ok(held) => pins.push(held),
            Err(error) => {
                release_all(pins).await;
                return Err(error);
            }
        }
    }
    Ok(pins)
}

/// The facts that one try of a claim goes by.
pub(crate) struct Basis<'a> {
    /// The head of the backend's own chain.
    pub(crate) head: Option<Head>,
    /// The checkpoint to read.
    pub(crate) chosen: &'a Chosen,
    /// The newest record of the job that was read.
    pub(crate) seen: &'a Seen,
}

/// Opens the epoch, to read the chosen checkpoint; `None` if another opener was faster.
pub(crate) async fn begin(
    by: &Claiming,
    admitted: &Admitted,
    basis: Basis<'_>,
    retry: Retry,
) -> Result<Option<Claim>, Error> {
    let Basis { head, chosen, seen } = basis;
    let spec = &admitted.spec;
    let plan = plan::plan(by, spec, head.as_ref(), chosen)?;
    let mut manifest = derive(by, spec, head, &plan)?;
    settle(by, &mut manifest, retry).await?;
    let beside = admitted.still(by, seen, retry);
    let (crc, still) = match chain::append_beside(&by.store, &manifest, retry, beside).await {
        Ok(appended) => appended,
        Err(ChainError::Fenced { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut reads = manifest.clone();
    let imports = plan::imports(by, &plan);
    if let Some(owner) = reads.epochs.last_mut() {
        owner.contents =
            Contents { imports: imports.iter().map(|import| import.uuid).collect(), ..Contents::default() };
    }
    reads.imports = imports;
    let (parts, attachments) = restored(&chosen.parts);
    let operator = operator_sources(by, &plan);
    Ok(Some(Claim {
        manifest,
        crc,
        still,
        bound: plan.states.bound,
        is_own: false,
        parts,
        attachments,
        fenced: vec![],
        skipped: vec![],
        reads,
        pins: vec![],
        operator,
        savepoint: None,
        native: None,
    }))
}

/// Runs `begun`, which reads under `pins`, as long as the pins can be renewed, and then releases them. If it could not
/// read because a pin was lost, that is the error.
pub(crate) async fn holding<T>(
    by: &Claiming,
    backend: &BackendId,
    mut pins: Vec<Held>,
    begun: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let begun = match kept(backend, &mut pins, begun).await {
        // A missing object may be the effect of a lost pin. Then the pin is the error to tell, since the checkpoint
        // itself is not damaged.
        Err(error) if error.reason == Reason::MissingObject => {
            let retry = Retry::until(Instant::now() + by.open_timeout);
            let checks = pins.iter().map(|pin| pin.check(retry));
            Err(match future::try_join_all(checks).await {
                Err(gone) => lost(backend, &gone),
                Ok(_) => error,
            })
        }
        begun => begun,
    };
    release_all(pins).await;
    begun
}

/// Runs `doing` as long as `pins` can be renewed.
async fn kept<T>(
    backend: &BackendId,
    pins: &mut [Held],
    doing: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::select! {
        biased;
        // The loss of a pin is looked at first: objects that were read since then may have been deleted in part.
        gone = pin::keep_all(pins) => Err(lost(backend, &gone)),
        done = doing => done,
    }
}

/// The error for a pin that was lost while it was needed.
fn lost(backend: &BackendId, lost: &PinLost) -> Error {
    let text =
        format!("backend `{backend}`: {lost}; what it read may be deleted meanwhile, so the restore was stopped");
    Error::new(Reason::PinExpired, text)
}
