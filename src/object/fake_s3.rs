//! A server for the part of S3's protocol that the store uses, so that the checks run against a real HTTP client.
//!
//! Every tenth create is refused with 409 and without effect, as S3 does while another create of the object is under
//! way.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{AttemptError, Created, Path, Retry, Store, StoreError, StoreOptions, conformance, open::open};
use crate::{clock::Clock, metrics::Metrics, random::Random, tasks::Tasks};

const LAST_MODIFIED: &str = "Thu, 01 Jan 2026 00:00:00 GMT";

#[derive(Default)]
struct Bucket {
    objects: BTreeMap<String, Bytes>,
    creates: u64,
}

type Shared = Arc<Mutex<Bucket>>;

/// Serves the bucket `bucket` and returns the address of the server.
async fn serve() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().fallback(answer).layer(DefaultBodyLimit::disable()).with_state(Shared::default());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}

async fn answer(State(bucket): State<Shared>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let path = parts.uri.path().trim_start_matches('/').to_owned();
    let Some(key) = path.strip_prefix("bucket").map(|key| key.trim_start_matches('/')) else {
        return (StatusCode::NOT_FOUND, "<Error><Code>NoSuchBucket</Code></Error>").into_response();
    };
    let mut bucket = bucket.lock();
    match parts.method {
        Method::PUT => bucket.create(key, body, &parts.headers),
        Method::POST => bucket.delete_all(std::str::from_utf8(&body).unwrap()),
        Method::DELETE => {
            bucket.objects.remove(key);
            StatusCode::NO_CONTENT.into_response()
        }
        _ if key.is_empty() => bucket.list(&parts.uri),
        _ => bucket.read(key, &parts.headers),
    }
}

impl Bucket {
    fn create(&mut self, key: &str, body: Bytes, headers: &HeaderMap) -> Response {
        assert_eq!(headers[header::IF_NONE_MATCH], "*");
        self.creates += 1;
        if self.creates.is_multiple_of(10) {
            return StatusCode::CONFLICT.into_response();
        }
        if self.objects.contains_key(key) {
            return StatusCode::PRECONDITION_FAILED.into_response();
        }
        self.objects.insert(key.to_owned(), body);
        [(header::ETAG, "\"e\"")].into_response()
    }

    fn read(&self, key: &str, headers: &HeaderMap) -> Response {
        let Some(object) = self.objects.get(key) else {
            return (StatusCode::NOT_FOUND, "<Error><Code>NoSuchKey</Code></Error>").into_response();
        };
        let common = [(header::ETAG, "\"e\""), (header::LAST_MODIFIED, LAST_MODIFIED)];
        let Some(range) = headers.get(header::RANGE) else { return (common, object.clone()).into_response() };
        let (from, to) = range.to_str().unwrap().strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        let from: usize = from.parse().unwrap();
        if from >= object.len() {
            return StatusCode::RANGE_NOT_SATISFIABLE.into_response();
        }
        let to = object.len().min(to.parse::<usize>().unwrap() + 1);
        let described = format!("bytes {from}-{}/{}", to - 1, object.len());
        let range = [(header::CONTENT_RANGE, described)];
        (StatusCode::PARTIAL_CONTENT, common, range, object.slice(from..to)).into_response()
    }

    fn list(&self, uri: &Uri) -> Response {
        let query: BTreeMap<_, _> = url::form_urlencoded::parse(uri.query().unwrap().as_bytes()).collect();
        let value = |name| query.get(name).map_or("", |value| value.as_ref());
        let (prefix, after) = (value("prefix"), value("start-after"));
        let found = self.objects.iter().filter(|(key, _)| key.starts_with(prefix) && key.as_str() > after);
        let contents: String = found
            .map(|(key, object)| {
                let size = object.len();
                format!(
                    "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>\
                     <ETag>e</ETag><Size>{size}</Size></Contents>"
                )
            })
            .collect();
        format!("<ListBucketResult>{contents}</ListBucketResult>").into_response()
    }

    fn delete_all(&mut self, body: &str) -> Response {
        let keys: Vec<_> = body.split("<Key>").skip(1).map(|rest| rest.split("</Key>").next().unwrap()).collect();
        for key in &keys {
            self.objects.remove(*key);
        }
        let deleted: String = keys.iter().map(|key| format!("<Deleted><Key>{key}</Key></Deleted>")).collect();
        format!("<DeleteResult>{deleted}</DeleteResult>").into_response()
    }
}

async fn store(bucket: &str) -> Store {
    store_at(&serve().await, bucket, &Metrics::new())
}

fn store_at(endpoint: &str, bucket: &str, metrics: &Metrics) -> Store {
    let mut options = StoreOptions::new(format!("s3://{bucket}/some/prefix"));
    for (key, value) in
        [("endpoint", endpoint), ("allow_http", "true"), ("access_key_id", "me"), ("secret_access_key", "secret")]
    {
        options.options.insert(key.to_owned(), value.to_owned());
    }
    open(&options, metrics, &Clock::new(|| 0), Random::seeded(1)).unwrap()
}

/// Serves these answers one after the other, then 404, and returns the address. Records the time of each request in
/// `asked`.
async fn answer_with(answers: Vec<Response>, asked: Arc<Mutex<Vec<Instant>>>) -> String {
    let answers = Arc::new(Mutex::new(answers.into_iter()));
    let answer = move || {
        asked.lock().push(Instant::now());
        let next =
            answers.lock().next().unwrap_or_else(|| (StatusCode::NOT_FOUND, "<Code>NoSuchKey</Code>").into_response());
        async move { next }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await.unwrap() });
    address
}

#[tokio::test]
async fn a_store_that_speaks_the_protocol_of_s3_conforms() {
    // The server dates all objects at this time.
    conformance::all(&store("bucket").await, &Clock::new(|| 1_767_225_600_000)).await;
}

#[tokio::test]
async fn a_request_of_another_runtime_leaves_no_connection_there() {
    let (store, tasks, once) = (store("bucket").await, Tasks::default(), Retry::none());
    for number in 0..3 {
        let (path, elsewhere) = (Path::from(format!("a/{number}")), store.clone());
        let aside = tasks.aside("a test", move || async move {
            let created = elsewhere.create(&path, vec![7; 3 << 20].into(), once).await.unwrap();
            (created, elsewhere.get_range(&path, 5..2 << 20, once).await.unwrap().len())
        });
        assert_eq!(aside.await.unwrap(), (Created::New, (2 << 20) - 5));
        assert_eq!(store.get(&Path::from(format!("a/{number}")), once).await.unwrap().len(), 3 << 20);
    }
}

#[tokio::test]
async fn times_are_those_of_the_store() {
    let store = store("bucket").await;
    let path = Path::from("a");
    assert_eq!(store.create(&path, "1".into(), Retry::none()).await.unwrap(), Created::New);
    assert_eq!(store.head(&path, Retry::none()).await.unwrap().unwrap().modified_ms, 1_767_225_600_000);
}

#[tokio::test]
async fn a_missing_bucket_is_reported_and_does_not_look_empty() {
    let store = store("absent").await;
    let once = Retry::none();
    for answer in [
        store.probe(once).await,
        store.list(&Path::default(), once).await.map(|_| ()),
        store.create(&Path::from("a"), "1".into(), once).await.map(|_| ()),
    ] {
        let Err(StoreError::Unavailable { source, .. }) = answer else { panic!("{answer:?}") };
        assert!(source.to_string().contains("NoSuchBucket"), "{source}");
    }
}

#[tokio::test]
async fn a_pause_that_the_store_asks_for_is_granted_by_every_request() {
    let refusals = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
    let refused = refusals.map(|status| (status, [(header::RETRY_AFTER, "1")], "SlowDown").into_response());
    let asked = Arc::new(Mutex::new(vec![]));
    let metrics = Metrics::new();
    let store = store_at(&answer_with(refused.into(), Arc::clone(&asked)).await, "bucket", &metrics);
    let (a, b) = (Path::from("a"), Path::from("b"));
    let (_, _) = tokio::join!(store.get_optional(&a, Retry::forever()), async {
        // A request that comes later waits, too.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(store.get_optional(&b, Retry::forever()).await.unwrap().is_none());
    });
    let times = asked.lock().clone();
    assert_eq!(times.len(), 4);
    let after = |number: usize| (times[number] - times[0]).as_millis();
    // The second refusal comes after the first pause, and its pause holds the requests that are left.
    assert!(after(1) >= 1_000 && after(3) >= 2_000, "{times:?}");
    let text = metrics.encode();
    assert!(text.contains("dstl_object_requests_total{operation=\"get\",outcome=\"throttled\"} 2\n"), "{text}");
}

#[tokio::test]
async fn a_request_that_cannot_be_sent_before_its_deadline_is_none() {
    let refused = (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "20")], "").into_response();
    let asked = Arc::new(Mutex::new(vec![]));
    let metrics = Metrics::new();
    let store = store_at(&answer_with(vec![refused], Arc::clone(&asked)).await, "bucket", &metrics);
    for _ in 0..3 {
        let soon = Retry::until(Instant::now() + Duration::from_millis(300));
        store.get(&Path::from("a"), soon).await.unwrap_err();
    }
    let held = store.get(&Path::from("a"), Retry::until(Instant::now() + Duration::from_millis(50))).await;
    let Err(StoreError::Unavailable { source, .. }) = held else { panic!("{held:?}") };
    assert!(matches!(*source, AttemptError::Held), "{source}");
    assert_eq!(asked.lock().len(), 1);
    assert!(metrics.encode().contains("outcome=\"throttled\"} 1\n"));
}

#[tokio::test]
async fn a_page_that_says_not_found_is_no_missing_object() {
    let page = "<html><head><title>404 Not Found</title></head></html>";
    let pages = (0..2).map(|_| (StatusCode::NOT_FOUND, page).into_response()).collect();
    let store = store_at(&answer_with(pages, Arc::default()).await, "bucket", &Metrics::new());
    let answer = store.get_optional(&Path::from("a"), Retry::none()).await;
    let Err(StoreError::Unavailable { source, .. }) = answer else { panic!("{answer:?}") };
    assert!(source.to_string().contains("no object store") && source.to_string().contains("`endpoint`"), "{source}");
    assert!(!source.to_string().contains("<title>"), "{source}");
    // Once the server answers like a store again, the object is missing.
    assert!(store.get_optional(&Path::from("a"), Retry::forever()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_page_is_no_object_whatever_its_status() {
    let pages = (0..3).map(|_| axum::response::Html("<html>Please log in.</html>").into_response()).collect();
    let store = store_at(&answer_with(pages, Arc::default()).await, "bucket", &Metrics::new());
    let path = Path::from("a");
    let get = store.get(&path, Retry::none()).await.map(drop);
    let create = store.create(&path, "1".into(), Retry::none()).await.map(drop);
    let list = store.list(&Path::default(), Retry::none()).await.map(drop);
    for answer in [get, create, list] {
        let Err(StoreError::Unavailable { source, .. }) = answer else { panic!("{answer:?}") };
        assert!(
            source.to_string().contains("no object store") && source.to_string().contains("`endpoint`"),
            "{source}"
        );
    }
}
