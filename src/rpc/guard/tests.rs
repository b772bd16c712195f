//! Tests of the bodies of requests and answers, with peers that send and take as the test says.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::FutureExt as _;
use http_body::{Body as HttpBody, Frame};
use prost::Message as _;
use tokio::sync::mpsc;
use tonic::Status;

use super::*;
use crate::{error::Scope, limits::Times, proto::v1};

const PATIENCE: Duration = Duration::from_secs(5);

/// A first message of a stream.
const START: &[u8] = &[0x0a, 1, 7];

/// The bytes that a peer sends, or that a service answers.
struct Sent(mpsc::UnboundedReceiver<Bytes>);

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.0.poll_recv(cx).map(|data| data.map(|data| Ok(Frame::data(data))))
    }
}

fn limits() -> Limits {
    Limits { max_message_bytes: 1 << 20, max_batch_operations: 10, ..Limits::default() }
}

fn times() -> Times {
    Times { stuck: PATIENCE, ..Times::default() }
}

fn inbound(method: &str, pool: &Pool) -> (mpsc::UnboundedSender<Bytes>, Inbound) {
    let (send, sent) = mpsc::unbounded_channel();
    let rules = Rules::of(&format!("{SERVICE}{method}"), &limits());
    (send, Inbound::new(Body::new(Sent(sent)), rules, limits(), times(), pool.share()))
}

fn framed(message: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(0);
    out.put_u32(message.len() as u32);
    out.put_slice(message);
    out.freeze()
}

/// A batch with a value of `bytes`.
fn batch(operations: usize, bytes: usize) -> Bytes {
    let operation = v1::Operation { value: vec![7; bytes].into(), ..Default::default() };
    let batch = v1::Batch { number: 0, operations: vec![operation; operations] };
    framed(&v1::ApplyBatchRequest { batch: Some(batch), ..Default::default() }.encode_to_vec())
}

async fn next<B: HttpBody<Data = Bytes, Error = Status> + Unpin>(body: &mut B) -> Option<Result<Bytes, Status>> {
    let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
    Some(frame.map(|frame| frame.into_data().unwrap()))
}

fn reason(status: &Status) -> Reason {
    status::described(status).expect("ours").reason
}

#[tokio::test(start_paused = true)]
async fn messages_are_given_on_whole_however_they_are_cut() {
    let pool = Pool::new(4 << 20, PATIENCE);
    for cut in [1, 3, 5, 6, 1000, 40_000] {
        let (send, mut body) = inbound("ApplyBatch", &pool);
        let message = batch(1, 30_000);
        for chunk in message.chunks(cut) {
            send.send(Bytes::copy_from_slice(chunk)).unwrap();
        }
        drop(send);
        assert_eq!(next(&mut body).await.unwrap().unwrap(), message, "{cut}");
        assert!(next(&mut body).await.is_none());
        assert!(pool.used() >= 60_000, "until the handler is done");
        drop(body);
        assert_eq!(pool.used(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_too_long_or_has_too_many_parts_is_refused_before_it_is_decoded() {
    let pool = Pool::new(4 << 20, PATIENCE);
    let long = |bytes: u32| {
        let mut head = BytesMut::from(&[0][..]);
        head.put_u32(bytes);
        head.freeze()
    };
    for (method, sent, expected) in [
        ("ApplyBatch", long((1 << 20) + 1), Reason::MessageTooLarge),
        ("Close", long((64 << 10) + 1), Reason::MessageTooLarge),
        ("Session", long((64 << 10) + 1), Reason::MessageTooLarge),
        ("ApplyBatch", batch(11, 0), Reason::LimitExceeded),
    ] {
        let (send, mut body) = inbound(method, &pool);
        send.send(sent).unwrap();
        let refused = next(&mut body).await.unwrap().unwrap_err();
        assert_eq!(reason(&refused), expected, "{method}");
        assert!(next(&mut body).await.is_none());
    }
    assert_eq!(pool.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_not_whole_in_time_is_given_up() {
    let pool = Pool::new(4 << 20, PATIENCE);
    for method in ["ApplyBatch", "Hello", "Query", "Session"] {
        let (send, mut body) = inbound(method, &pool);
        send.send(Bytes::from_static(&[0, 0])).unwrap();
        let started = tokio::time::Instant::now();
        let refused = next(&mut body).await.unwrap().unwrap_err();
        assert_eq!((reason(&refused), started.elapsed().as_secs()), (Reason::TooSlow, 30), "{method}");
        let error = status::described(&refused).unwrap();
        assert_eq!((error.scope, error.retryable), (Scope::Batch, true));
    }
}

#[tokio::test(start_paused = true)]
async fn half_messages_beyond_the_pool_wait_and_the_stuck_one_gives_way() {
    let pool = Pool::new(1 << 20, PATIENCE);
    let (send_one, mut one) = inbound("ApplyBatch", &pool);
    let (send_two, mut two) = inbound("ApplyBatch", &pool);
    let message = batch(1, 400_000);
    send_one.send(message.slice(..10)).unwrap();
    assert!(next(&mut one).now_or_never().is_none());
    send_two.send(message.clone()).unwrap();
    let started = tokio::time::Instant::now();
    let (gone, served) = tokio::join!(next(&mut one), async {
        let served = next(&mut two).await;
        (served, started.elapsed())
    });
    assert_eq!(reason(&gone.unwrap().unwrap_err()), Reason::TooSlow);
    drop(one);
    assert_eq!(served.0.unwrap().unwrap(), message);
    assert!(served.1 < 2 * PATIENCE, "{:?}", served.1);
}

#[tokio::test(start_paused = true)]
async fn a_session_pays_for_nothing_after_its_first_message() {
    let pool = Pool::new(1 << 10, PATIENCE);
    let (send, mut body) = inbound("Session", &pool);
    let (start, later) = (framed(START), batch(100, 1000));
    send.send([&start[..], &later[..50]].concat().into()).unwrap();
    assert_eq!(next(&mut body).await.unwrap().unwrap(), start);
    assert_eq!(next(&mut body).await.unwrap().unwrap(), later.slice(..50));
    tokio::time::sleep(Duration::from_secs(100)).await;
    send.send(later.slice(50..)).unwrap();
    assert_eq!(next(&mut body).await.unwrap().unwrap(), later.slice(50..));
    assert_eq!(pool.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_messages_of_a_query_are_paid_for_one_after_the_other() {
    let pool = Pool::new(1 << 20, PATIENCE);
    let (send, mut body) = inbound("Query", &pool);
    let message = batch(1, 100_000);
    send.send(framed(START)).unwrap();
    assert_eq!(next(&mut body).await.unwrap().unwrap(), framed(START));
    for _ in 0..20 {
        send.send(message.clone()).unwrap();
        assert_eq!(next(&mut body).await.unwrap().unwrap(), message);
        assert!((200_000..400_000).contains(&pool.used()), "{}", pool.used());
    }
    // An idle reader holds no memory, however long it is idle.
    assert!(tokio::time::timeout(Duration::from_secs(1000), next(&mut body)).await.is_err());
    assert_eq!(pool.used(), 0);
}

fn guarded(bounds: Bounds) -> GuardLayer {
    GuardLayer::new(bounds, limits(), &Metrics::new())
}

fn outbound(layer: &GuardLayer) -> (mpsc::UnboundedSender<Bytes>, Share, Outbound) {
    let (send, sent) = mpsc::unbounded_channel();
    let share = layer.0.answers.share();
    let place = layer.0.enter(false).unwrap();
    (send, share.clone(), Outbound::new(Body::new(Sent(sent)), share, place))
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_counted_from_before_it_is_read_until_the_peer_took_it() {
    let layer = guarded(Bounds { answer_bytes: 1 << 20, ..Bounds::of(256 << 20, 1 << 20, 1024) });
    let pool = layer.0.answers.clone();
    let (send, share, mut body) = outbound(&layer);
    share.acquire(1 << 20).await.unwrap();
    assert_eq!(pool.used(), 1 << 20);
    let answer = Bytes::from(vec![7; 100_000]);
    send.send(answer.clone()).unwrap();
    let mut taken = vec![next(&mut body).await.unwrap().unwrap()];
    let first = taken[0].len() as u64;
    assert_eq!(pool.used(), 100_000 + first, "what was reserved beyond it is free");
    assert!(first < 50_000);
    drop(taken[0].clone());
    taken[0] = Bytes::copy_from_slice(&taken[0]);
    assert_eq!(pool.used(), 100_000, "a piece that was taken frees none of the whole");
    while taken.iter().map(Bytes::len).sum::<usize>() < answer.len() {
        taken.push(next(&mut body).await.unwrap().unwrap());
    }
    assert_eq!(taken.concat(), answer);
    assert_eq!(pool.used(), 100_000 - first, "h2 has it, the peer has not");
    taken.pop();
    assert!(pool.used() < 100_000);
    drop(taken);
    assert_eq!(pool.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_takes_gives_way_and_its_call_ends_with_a_reason() {
    let layer = guarded(Bounds { answer_bytes: 1 << 20, ..Bounds::of(256 << 20, 1 << 20, 1024) });
    let (send, share, mut body) = outbound(&layer);
    share.acquire(1 << 20).await.unwrap();
    send.send(Bytes::from(vec![7; 1_000_000])).unwrap();
    drop(next(&mut body).await);
    let (_send, other, _body) = outbound(&layer);
    other.acquire(1 << 20).await.unwrap();
    let ended = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.unwrap().unwrap();
    let trailers = ended.into_trailers().unwrap();
    assert_eq!(reason(&Status::from_header_map(&trailers).unwrap()), Reason::TooSlow);
    assert!(body.is_end_stream());
}

#[tokio::test]
async fn calls_beyond_the_bound_are_refused_and_queries_leave_room_for_others() {
    let layer = guarded(Bounds { calls: 8, ..Bounds::of(256 << 20, 1 << 20, 1024) });
    let queries: Vec<_> = (0..6).map(|_| layer.0.enter(true).unwrap()).collect();
    let refused = layer.0.enter(true).unwrap_err();
    assert_eq!((refused.reason, refused.retryable), (Reason::TooManyCalls, true));
    let others: Vec<_> = (0..2).map(|_| layer.0.enter(false).unwrap()).collect();
    assert_eq!(layer.0.enter(false).unwrap_err().reason, Reason::TooManyCalls);
    drop((queries, others));
    assert_eq!(layer.0.calls.load(Ordering::Relaxed), 0);
    layer.0.enter(true).unwrap();
}
