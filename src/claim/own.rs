//! Claims a backend with a checkpoint of its own operator, or empty: makes the manifest that opens the next epoch, and
//! fences other chains that are read.
//!
//! ```text
//!   heads ──▶ parts of the checkpoint ──▶ validate ──▶ fence the other chains ──▶ own manifest: imports
//!     ▲                                                                              │
//!     └──────── an import's checkpoint was let go meanwhile ◀── heads again ◀────────┘
//! ```
//!
//! An older owner that publishes all the time moves the chain on while its successor reads and chooses. When the
//! successor meets that, it adds a fence first, which takes one read and one request, and chooses again behind the
//! fence.
//!
//! A source may drop objects from its head, and a sweep may delete them, before this backend's manifest names them. So
//! the sources are read again *after* that manifest is durable. If a source still retains the checkpoint, every sweep
//! that begins after the source lets it go sees the import (see [`crate::checkpoint::collect`]). If not, the import is
//! worth nothing, and the claim begins again. The manifest itself is the pin.

use super::{
    admit::Admitted,
    choice::Chooser,
    claimed::{Claim, Known},
    claiming::Claiming,
    fence::{Fencer, are_retained},
    part::restored,
    plan::{derive, operator_sources, plan, settle},
    refusal::refuse_outdated,
};
use crate::{
    checkpoint::{
        chain::{self, ChainError},
        job,
    },
    error::{Error, Reason},
    object::Retry,
};

/// How often the first manifest is derived again when others open the same backend.
const CLAIM_ATTEMPTS: usize = 16;

/// Validates the request against the newest manifests, fences the other chains that are read, and makes the manifest
/// that opens the new epoch.
pub(crate) async fn claim(by: &Claiming, admitted: &Admitted, known: &mut Known, retry: Retry) -> Result<Claim, Error> {
    let spec = &admitted.spec;
    let mut fencer = Fencer::new(by, spec, retry);
    let mut missed = None;
    for _ in 0..CLAIM_ATTEMPTS {
        let head = known.head(by, spec, retry).await?;
        if let Some(head) = &head {
            refuse_outdated(spec, &head.manifest)?;
        }
        let chooser = Chooser { by, spec, head: head.as_ref(), retry };
        let mut chosen = match chooser.choose(&mut known.seen).await {
            Ok(chosen) => chosen,
            Err(error) if error.reason == Reason::CheckpointNotFound => {
                // A running owner may have published the checkpoint after its head was read.
                let now = Some(job::head_numbers(&by.store, &spec.id, retry).await?);
                if missed == now {
                    return Err(error);
                }
                missed = now;
                continue;
            }
            Err(error) => return Err(error),
        };
        // Ordering 1: validate, before any chain is touched, so that a refusal disturbs no running owner.
        // Ordering 2: fence the chains that are read. Their owners could let go of the checkpoint otherwise, or
        // register states, after they were looked at.
        // Ordering 3: validate again, by the chains as they are now. They do not change any more.
        plan(by, spec, head.as_ref(), &chosen)?;
        let Some(parts) = fencer.fence_all(chosen.parts, chosen.shape.key_groups).await? else { continue };
        chosen.parts = parts;
        let plan = plan(by, spec, head.as_ref(), &chosen)?;
        let mut manifest = derive(by, spec, head, &plan)?;
        // The restore reads the log index from this copy, which has all of it, instead of from the pages.
        let reads = manifest.clone();
        // Ordering 4: pages are durable before the manifest that names them.
        settle(by, &mut manifest, retry).await?;
        let operator = operator_sources(by, &plan);
        // No epoch begins with these imports; they are named as long as this owner may read them.
        manifest.imports.extend(operator.imports.iter().cloned());
        // Ordering 5: the own manifest, which names the sources.
        // Ordering 6: the sources are read again, after that manifest is durable. If they still retain the checkpoint,
        // every sweep that begins after they let it go finds the imports in this chain. A look before the manifest
        // would prove nothing, because a sweep could come between the two.
        match chain::append_beside(&by.store, &manifest, retry, admitted.still(by, &known.seen, retry)).await {
            Ok((crc, still)) if are_retained(by, spec, &plan, retry).await? => {
                let listed = if spec.restore.handles().is_empty() { plan.parts } else { chosen.parts };
                let (parts, attachments) = restored(&listed);
                let (bound, is_own) = (plan.states.bound, plan.is_own);
                let (pins, savepoint, native) = (vec![], None, None);
                return Ok(Claim {
                    manifest,
                    crc,
                    still,
                    bound,
                    is_own,
                    parts,
                    attachments,
                    fenced: fencer.fenced,
                    skipped: chosen.skipped,
                    reads,
                    pins,
                    operator,
                    savepoint,
                    native,
                });
            }
            Ok(_) => {}
            // The faster owner may be faster for ever, however low its attempt. So it is fenced first, and then there
            // is time to choose.
            Err(ChainError::Fenced { .. }) => fencer.fence_own().await?,
            Err(error) => return Err(error.into()),
        }
    }
    Err(ChainError::Contended(spec.id.clone()).into())
}
