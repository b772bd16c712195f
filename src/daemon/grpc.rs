//! The gRPC server: its services, its layers, and the bounds of HTTP/2 itself.

use std::time::Duration;

use tonic::transport::Server;
use tower::util::MapResponseLayer;

use super::{DaemonError, start_error};
use crate::{
    admin::{Readiness, ReadinessState},
    backend::Directory,
    limits::Bounds,
    proto::FILE_DESCRIPTOR_SET,
    rpc::{self, GuardLayer, listener::Incoming},
    types::AllowedJobs,
};

/// Most calls that a client may cancel before the server looked at them; more end its connection.
const MAX_CANCELLED_CALLS: usize = 4096;

/// How often an idle connection is asked whether its peer is alive, and how long the answer may take.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// The parts of the gRPC server besides the directory.
pub(super) struct Grpc {
    pub(super) bounds: Bounds,
    pub(super) jobs: AllowedJobs,
    pub(super) guard: GuardLayer,
    pub(super) readiness: Readiness,
}

/// Serves `incoming` until `shutdown` is done and all running calls have ended.
///
/// # Errors
/// If the reflection service cannot be made, or the server fails.
pub(super) async fn serve(
    directory: Directory,
    incoming: Incoming,
    Grpc { bounds, jobs, guard, readiness }: Grpc,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), DaemonError> {
    let limits = directory.environment().options.limits;
    let service = rpc::Routed::allowing(&directory, jobs);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let reflection_old = reflection().build_v1alpha().map_err(start_error)?;
    let reflection = reflection().build_v1().map_err(start_error)?;
    let (reporter, health) = tonic_health::server::health_reporter();
    directory.environment().tasks.spawn(report_health(reporter, readiness));
    Server::builder()
        .initial_stream_window_size(bounds.stream_window_bytes)
        .initial_connection_window_size(bounds.connection_window_bytes)
        .max_frame_size(bounds.frame_bytes())
        .max_concurrent_streams(bounds.streams)
        .http2_max_pending_accept_reset_streams(Some(MAX_CANCELLED_CALLS))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .layer(MapResponseLayer::new(move |response| rpc::describe_refusals(response, limits.max_message_bytes)))
        .layer(guard)
        .add_service(service)
        .add_service(health)
        .add_service(reflection)
        .add_service(reflection_old)
        .serve_with_incoming_shutdown(incoming, shutdown)
        .await?;
    Ok(())
}

/// Reports readiness to `grpc.health.v1`.
async fn report_health(reporter: tonic_health::server::HealthReporter, readiness: Readiness) {
    let mut states = readiness.subscribe();
    loop {
        // Ordering: the state counts as seen before it is reported, so a change meanwhile comes back to here.
        let serving = match *states.borrow_and_update() {
            ReadinessState::Ready => tonic_health::ServingStatus::Serving,
            ReadinessState::Starting | ReadinessState::Draining => tonic_health::ServingStatus::NotServing,
        };
        for service in ["", "dstl.v1.StateBackendService"] {
            reporter.set_service_status(service, serving).await;
        }
        if states.changed().await.is_err() {
            return;
        }
    }
}
