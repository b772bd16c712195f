//! How many files and connections the system lets this process have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Most descriptors to ask for; a higher limit costs memory in some libraries and is not needed.
const ENOUGH: u64 = 65_536;

/// The number of descriptors that this process may have open, once the limit is raised.
#[must_use]
pub fn descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let reachable = limit.maximum.unwrap_or(ENOUGH).min(ENOUGH);
    limit.current.unwrap_or(ENOUGH).max(reachable)
}

/// Raises the soft limit, whose usual value is far too low, to the hard limit but not above `ENOUGH`. If the system
/// refuses, the limit stays.
pub fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(ENOUGH).min(ENOUGH);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
        // Not fatal: the number of connections is bounded by the limit that there is.
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::debug!(%error, wanted, "raising the limit of descriptors");
        }
    }
}
