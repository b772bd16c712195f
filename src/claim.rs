//! Claims, by which an opener becomes the owner of a backend and gets the state that it begins with.
//!
//! ```text
//!   request ──▶ admit ──▶ choose a checkpoint ──▶ plan ──▶ fence ──▶ plan again ──▶ manifest of the next epoch ──▶ Claim
//!                │             │ its parts, in one or several chains                    │
//!                ▼             ▼                                                        ▼
//!          declared jobs   agreed over the job                            durable before anything is read
//! ```
//!
//! Every reason to refuse is checked before a chain is changed, so a refusal does not disturb a running owner. Then a
//! manifest with a higher epoch fences every older owner.
//!
//! The parts of the restored checkpoint may be in several chains ([`choice`]); then these chains are fenced, too
//! ([`fence`]). The checkpoint of another job is read under a pin, without fencing its owners ([`clone`]). A savepoint
//! has no owner ([`savepoint`], [`native`]). If the checkpoint turns out to be damaged, [`damage`] decides how to
//! continue.
//!
//! A claim writes only to the store. It knows neither inner backends nor owners of this daemon.

pub(crate) mod admit;
pub(crate) mod claimed;
pub(crate) mod claiming;
pub(crate) mod clone;
pub(crate) mod damage;
pub(crate) mod error;
pub(crate) mod part;
pub(crate) mod redistribution;
pub(crate) mod shape;
pub(crate) mod source;
pub(crate) mod spec;
pub(crate) mod states;

mod choice;
mod fence;
mod native;
mod own;
mod plan;
mod refusal;
mod savepoint;

use self::{
    admit::Admitted,
    claimed::{Claim, Known},
    claiming::Claiming,
    spec::RestoreFrom,
};
use crate::{error::Error, object::Retry};

/// Validates the request against the newest manifests, fences the other chains that it reads, and writes the manifest
/// that opens the new epoch. Cancel-safe, except that older owners may be fenced by then.
///
/// # Errors
/// An [`Error`] whose message advises a change of the request, or another try.
pub(crate) async fn claim(by: &Claiming, admitted: &Admitted, known: &mut Known, retry: Retry) -> Result<Claim, Error> {
    let spec = &admitted.spec;
    if let RestoreFrom::Savepoint(id) = &spec.restore {
        return Box::pin(savepoint::claim(by, admitted, id, known, retry)).await;
    }
    if spec.is_clone() {
        return Box::pin(clone::claim(by, admitted, known, retry)).await;
    }
    own::claim(by, admitted, known, retry).await
}
