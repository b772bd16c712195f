//! Makes an owner independent of the restored checkpoint: it serves only once all of its state is in a materialization
//! of its own.

use crate::{
    backend::handle::Backend,
    error::{Error, Reason},
};

/// Waits until all state of `backend` is in a materialization. Without a changelog each of its checkpoints is one, so
/// there is nothing to wait for. Cancel-safe: if dropped, the backend ends.
///
/// # Errors
/// If the materialization cannot be made; the backend has ended then.
pub(super) async fn materialized(backend: &Backend, changelog: bool) -> Result<(), Error> {
    if !changelog {
        return Ok(());
    }
    let ends = EndsUnless::done(backend);
    backend.materialize(backend.epoch()).await.map_err(|error| {
        let text = format!(
            "backend `{}`: its first materialization, without which it would need what it restored and may not claim: {}",
            backend.id(),
            error.message
        );
        Error { message: text, ..error }
    })?;
    ends.forget();
    Ok(())
}

/// Drop guard: ends a backend that was never handed out, unless disarmed by [`forget`](Self::forget).
struct EndsUnless(Option<Backend>);

impl EndsUnless {
    fn done(backend: &Backend) -> Self {
        Self(Some(backend.clone()))
    }

    fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for EndsUnless {
    fn drop(&mut self) {
        if let Some(backend) = &self.0 {
            let text = format!("backend `{}` was given up before it had opened", backend.id());
            backend.end(&Error::new(Reason::BackendClosed, text));
        }
    }
}
