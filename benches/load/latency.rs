//! The scenario `latency`: one operation in flight, beside the bare echo, in turns.

use std::{process::Command, time::Instant};

use bytes::Bytes;
use dstl::{
    client::{Client, Session, State as _, ValueState},
    proto::v1::{
        Acknowledgement, BackendRef, Batch, Operation, OperationKind, SessionRequest, SessionResponse, SessionStart,
        session_request::Request, session_response::Response, state_backend_service_client::StateBackendServiceClient,
    },
};
use hdrhistogram::Histogram;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{
    Fault, Scenario,
    daemon::{Daemon, Process, socket, temporary},
    echo::{EchoClient, channel},
    figures::{Figures, Latency},
    options::Options,
    probe,
    source::Source,
    work::{Prepared, prepare},
};

/// Turns that the operations of each kind are spread over.
const TURNS: u64 = 20;

/// Operations of each kind before anything is timed, as a part of all.
const WARM_UP_PART: u64 = 5;

/// The operation that is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    EchoUnary,
    UnaryGet,
    UnaryPut,
    EchoStream,
    RawGet,
    RawPut,
    SessionGet,
    SessionPut,
}

impl Kind {
    /// Each echo precedes the operations that are compared with it.
    const ALL: [Self; 8] = [
        Self::EchoUnary,
        Self::UnaryGet,
        Self::UnaryPut,
        Self::EchoStream,
        Self::RawGet,
        Self::RawPut,
        Self::SessionGet,
        Self::SessionPut,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::EchoUnary => "echo_unary",
            Self::UnaryGet => "unary_get",
            Self::UnaryPut => "unary_put",
            Self::EchoStream => "echo_stream",
            Self::RawGet => "raw_session_get",
            Self::RawPut => "raw_session_put",
            Self::SessionGet => "session_get",
            Self::SessionPut => "session_put",
        }
    }

    fn echo(self) -> Option<Self> {
        match self {
            Self::EchoUnary | Self::EchoStream => None,
            Self::UnaryGet | Self::UnaryPut => Some(Self::EchoUnary),
            Self::RawGet | Self::RawPut | Self::SessionGet | Self::SessionPut => Some(Self::EchoStream),
        }
    }
}

/// Runs the scenario with a daemon and an echo of its own.
pub(crate) async fn measure(options: &Options) -> Result<Vec<Figures>, Fault> {
    let folder = temporary(options)?;
    let mut command = Command::new(std::env::current_exe()?);
    let _echo = Process::spawn(command.arg("--serve-echo").arg(socket(&folder)))?;
    let (daemon, client) = Daemon::start(options).await?;
    let echo = EchoClient::connect(&socket(&folder)).await?;
    let mut bench = Bench::new(&daemon, client, echo, options).await?;

    for kind in Kind::ALL {
        bench.turn(kind, options.operations / WARM_UP_PART, &mut probe::empty()?).await?;
    }
    let mut histograms = Vec::new();
    for kind in Kind::ALL {
        histograms.push((kind, probe::empty()?));
    }
    for _ in 0..TURNS {
        for (kind, histogram) in &mut histograms {
            bench.turn(*kind, options.operations.div_ceil(TURNS), histogram).await?;
        }
    }
    let median = |wanted: Kind| {
        let found = histograms.iter().find(|(kind, _)| *kind == wanted);
        found.map_or(0, |(_, histogram)| histogram.value_at_quantile(0.5))
    };
    let figures = histograms.iter().map(|(kind, histogram)| {
        let mut figures = Figures::new(Scenario::Latency, options).case(kind.name());
        figures.operations = Some(histogram.len());
        figures.latency_us = Some(Latency::of(histogram));
        match kind.echo() {
            // Of these very turns, and so a better yardstick than the echo before the scenario.
            Some(echo) => figures.with("to_echo", median(*kind) as f64 / median(echo) as f64),
            None => figures,
        }
    });
    Ok(figures.collect())
}

/// The latency of one update in flight, in a session, on the backend of a floor.
pub(crate) async fn floor(prepared: &Prepared, options: &Options) -> Result<Figures, Fault> {
    let Prepared { session, state, source, .. } = prepared;
    let (mut source, mut histogram) = (source.clone(), probe::empty()?);
    for number in 0..options.operations / WARM_UP_PART + options.operations {
        let begun = Instant::now();
        session.run(state.put(&source.key(), source.value())).await?;
        if number >= options.operations / WARM_UP_PART {
            histogram.record(u64::try_from(begun.elapsed().as_nanos())?)?;
        }
    }
    let mut figures = Figures::new(Scenario::Floor, options).case("one_in_flight");
    figures.operations = Some(histogram.len());
    figures.latency_us = Some(Latency::of(&histogram));
    Ok(figures)
}

/// Everything that an operation needs.
struct Bench {
    echo: EchoClient,
    client: Client,
    unary: BackendRef,
    session: Session,
    values: ValueState<u64, Vec<u8>>,
    raw: Raw,
    source: Source,
    /// The id of the state, in every backend.
    state: u32,
}

/// A session by the generated code alone.
struct Raw {
    outbound: mpsc::Sender<SessionRequest>,
    inbound: Streaming<SessionResponse>,
    number: u64,
}

impl Bench {
    /// Each way of writing has a backend of its own, since a backend has one writer.
    async fn new(daemon: &Daemon, client: Client, echo: EchoClient, options: &Options) -> Result<Self, Fault> {
        let unary = prepare(&client, "unary", options).await?.backend.reference().clone();
        let raw = prepare(&client, "raw", options).await?.backend.reference().clone();
        let raw = Raw::start(daemon, raw).await?;
        let Prepared { session, state, source, .. } = prepare(&client, "session", options).await?;
        let id = state.id();
        Ok(Self { echo, client, unary, session, values: state, raw, source, state: id })
    }

    async fn turn(&mut self, kind: Kind, operations: u64, histogram: &mut Histogram<u64>) -> Result<(), Fault> {
        for _ in 0..operations {
            let key = self.source.key();
            let value = Bytes::copy_from_slice(self.source.value());
            let begun = Instant::now();
            self.one(kind, key, value).await?;
            histogram.record(u64::try_from(begun.elapsed().as_nanos())?)?;
        }
        Ok(())
    }

    async fn one(&mut self, kind: Kind, key: u64, value: Bytes) -> Result<(), Fault> {
        match kind {
            Kind::EchoUnary => drop(self.echo.unary(value).await?),
            Kind::EchoStream => drop(self.echo.stream(value).await?),
            Kind::UnaryGet | Kind::UnaryPut => {
                let batch = Batch { number: 0, operations: vec![self.operation(kind, key, value)] };
                self.client.apply_batch(&self.unary, batch, false).await?;
            }
            Kind::RawGet | Kind::RawPut => {
                let operation = self.operation(kind, key, value);
                self.raw.one(operation).await?;
            }
            Kind::SessionGet => drop(self.session.run(self.values.get(&key)).await?.ok_or("a key is missing")?),
            Kind::SessionPut => self.session.run(self.values.put(&key, &value[..])).await?,
        }
        Ok(())
    }

    fn operation(&self, kind: Kind, key: u64, value: Bytes) -> Operation {
        let key = Bytes::copy_from_slice(&key.to_le_bytes());
        let operation = Operation { state: self.state, key, ..Operation::default() };
        match kind {
            Kind::UnaryPut | Kind::RawPut => Operation { kind: OperationKind::Put.into(), value, ..operation },
            _ => Operation { kind: OperationKind::Get.into(), ..operation },
        }
    }
}

impl Raw {
    async fn start(daemon: &Daemon, backend: BackendRef) -> Result<Self, Fault> {
        let mut stub = StateBackendServiceClient::new(channel(&daemon.socket()).await?);
        let (outbound, requests) = mpsc::channel(1);
        let start = Request::Start(SessionStart { backend: Some(backend) });
        outbound.send(SessionRequest { request: Some(start) }).await?;
        let mut inbound = stub.session(ReceiverStream::new(requests)).await?.into_inner();
        let first = inbound.message().await?.and_then(|first| first.response);
        let Some(Response::Started(started)) = first else { return Err("no session was started".into()) };
        Ok(Self { outbound, inbound, number: started.applied_to })
    }

    /// Sends one operation and waits for its result, or for the acknowledgement of a write.
    async fn one(&mut self, operation: Operation) -> Result<(), Fault> {
        let number = self.number;
        self.number += 1;
        let batch = Batch { number, operations: vec![operation] };
        self.outbound.send(SessionRequest { request: Some(Request::Batch(batch)) }).await?;
        loop {
            let response = self.inbound.message().await?.ok_or("the session ended")?;
            match response.response.ok_or("an empty response")? {
                Response::Acknowledgement(Acknowledgement { applied_to, .. }) if applied_to > number => return Ok(()),
                Response::Acknowledgement(_) => {}
                Response::Result(_) => return Ok(()),
                other => return Err(format!("not an answer to a batch: {other:?}").into()),
            }
        }
    }
}
