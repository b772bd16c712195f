//! How many files and connections the system lets this process have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// As many as are enough for anything; beyond, a limit costs memory in some libraries.
const ENOUGH: u64 = 65_536;

/// Open descriptors that this process may have, once the limit is raised.
#[must_use]
pub fn descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let reachable = limit.maximum.unwrap_or(ENOUGH).min(ENOUGH);
    limit.current.unwrap_or(ENOUGH).max(reachable)
}

/// Raises the soft limit, a number of the days of `select`, as far as the hard one allows. Where it cannot, it stays.
pub fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(ENOUGH).min(ENOUGH);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::debug!(%error, wanted, "raising the limit of descriptors");
        }
    }
}
