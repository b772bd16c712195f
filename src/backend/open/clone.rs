//! Clones: beginning with a checkpoint of another job, or operator, whose owners go on undisturbed.
//!
//! Nobody is fenced, so the source may let the checkpoint go, and be swept, at any time. A [pin](crate::checkpoint::pin) keeps what is read,
//! from before the source was seen to retain the checkpoint until the state is in a materialization of this backend's own. No
//! manifest of this backend ever names an object of the source; which to read is remembered only here.

use tokio::time::Instant;

use super::{
    super::environment::Environment,
    OpenSpec, RestoreFrom,
    choice::{self, Part},
    claim::{self, Claim},
};
use crate::{
    checkpoint::{
        chain::{self, ChainError, Head},
        manifest::Contents,
        pin::{Held, Pin, PinLost},
    },
    error::{Error, Reason},
    object::Retry,
    types::BackendId,
};

/// How often it begins anew when the source, or other openers, move on.
const CLONE_ATTEMPTS: usize = 16;

/// Whether what is asked for is of another job or operator.
pub(super) fn is_clone(spec: &OpenSpec) -> bool {
    let RestoreFrom::Handles(handles) = &spec.restore else { return false };
    handles.iter().any(|handle| !choice::same_operator(&handle.backend, &spec.id))
}

/// Validates the request, pins what will be read, and makes the manifest that opens the new epoch, which names none of it.
///
/// # Errors
/// [`Reason::CheckpointNotFound`] if the source does not retain the checkpoint, or lets it go meanwhile.
pub(super) async fn claim(env: &Environment, spec: &OpenSpec, retry: Retry) -> Result<Claim, Error> {
    if spec.claim == Some(super::ClaimMode::Claim) {
        let text =
            format!("backend `{}`: a checkpoint of another job or operator cannot be claimed, only cloned", spec.id);
        return Err(Error::new(Reason::InvalidArgument, text));
    }
    for _ in 0..CLONE_ATTEMPTS {
        let head = chain::read_head(&env.store, &spec.id, retry).await?;
        if let Some(head) = &head {
            claim::refuse_outdated(spec, &head.manifest)?;
        }
        let chosen = choice::choose(env, spec, head.as_ref(), retry).await?.parts;
        let Some(mut pin) = pin(env, spec, (head.as_ref(), &chosen), retry).await? else { continue };
        match kept(&spec.id, &mut pin, begin(env, spec, (head, chosen), retry)).await {
            Ok(Some(claim)) => return Ok(Claim { pin: Some(pin), ..claim }),
            Ok(None) => pin.release().await,
            Err(error) => {
                pin.release().await;
                return Err(error);
            }
        }
    }
    Err(ChainError::Contended(spec.id.clone()).into())
}

/// Pins what the plan would read; `None` if the source let it go before the pin was durable.
async fn pin(
    env: &Environment,
    spec: &OpenSpec,
    (head, chosen): (Option<&Head>, &[Part]),
    retry: Retry,
) -> Result<Option<Held>, Error> {
    let plan = claim::plan(env, spec, head, chosen.to_vec())?;
    let Some(source) = plan.parts.first().map(|part| part.manifest.backend.clone()) else { return Ok(None) };
    let lease_ms = u64::try_from(env.options.pin_lease.as_millis()).unwrap_or(u64::MAX);
    let mut imports = claim::imports(env, &plan);
    imports.extend(claim::operator_sources(env, &plan).imports);
    let pin = Pin { operator: source.operator, lease_ms, imports };
    let mut held = Held::make(&env.store, &source.job, &pin, &env.random, retry).await?;
    match kept(&spec.id, &mut held, claim::are_retained(env, spec, &plan, retry)).await {
        Ok(true) => Ok(Some(held)),
        Ok(false) => {
            held.release().await;
            Ok(None)
        }
        Err(error) => {
            held.release().await;
            Err(error)
        }
    }
}

/// Opens the epoch; `None` if others opened the backend meanwhile.
async fn begin(
    env: &Environment,
    spec: &OpenSpec,
    (head, chosen): (Option<Head>, Vec<Part>),
    retry: Retry,
) -> Result<Option<Claim>, Error> {
    let plan = claim::plan(env, spec, head.as_ref(), chosen.clone())?;
    let mut manifest = claim::derive(env, spec, head, &plan)?;
    claim::settle(env, &mut manifest, retry).await?;
    let crc = match chain::append(&env.store, &manifest, retry).await {
        Ok(crc) => crc,
        Err(ChainError::Fenced { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut reads = manifest.clone();
    let imports = claim::imports(env, &plan);
    if let Some(owner) = reads.epochs.last_mut() {
        owner.contents =
            Contents { imports: imports.iter().map(|import| import.uuid).collect(), ..Contents::default() };
    }
    reads.imports = imports;
    let parts = chosen.iter().map(claim::restored).collect();
    let operator = claim::operator_sources(env, &plan);
    Ok(Some(Claim {
        manifest,
        crc,
        bound: plan.states.bound,
        is_own: false,
        parts,
        fenced: vec![],
        skipped: vec![],
        reads,
        pin: None,
        operator,
    }))
}

/// Does `begun`, which reads under `pin`, as long as the pin can be renewed, and releases it. If it could not read because the pin was
/// gone, that is the error.
pub(super) async fn holding<T>(
    env: &Environment,
    backend: &BackendId,
    pin: Option<Held>,
    begun: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let Some(mut pin) = pin else { return begun.await };
    let begun = match kept(backend, &mut pin, begun).await {
        Err(error) if error.reason == Reason::MissingObject => {
            let retry = Retry::until(Instant::now() + env.options.open_timeout);
            Err(match pin.check(retry).await {
                Err(gone) => lost(backend, &gone),
                Ok(()) => error,
            })
        }
        begun => begun,
    };
    pin.release().await;
    begun
}

/// Does `doing` as long as `pin` can be renewed.
async fn kept<T>(
    backend: &BackendId,
    pin: &mut Held,
    doing: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::select! {
        biased;
        gone = pin.keep() => Err(lost(backend, &gone)),
        done = doing => done,
    }
}

/// The pin was lost while it was needed.
fn lost(backend: &BackendId, lost: &PinLost) -> Error {
    let text =
        format!("backend `{backend}`: {lost}; what it read may be deleted meanwhile, so the restore was stopped");
    Error::new(Reason::PinExpired, text)
}
