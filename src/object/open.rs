//! The way from a URL to a store.
//!
//! | URL | store |
//! | --- | --- |
//! | `/dir`, `dir`, `file:///dir` | a directory, created if it is missing; everything is fsynced |
//! | `memory://` | memory of this process, lost when it ends |
//! | `s3://bucket/prefix`, `s3a://bucket/prefix` | Amazon S3 and stores that speak its protocol |
//! | `gs://bucket/prefix` | Google Cloud Storage |
//! | `az://container/prefix`, `abfs[s]://container@account.dfs.core.windows.net/prefix` | Azure Blob Storage |
//! | `hdfs://host:port/prefix`, `hdfs://nameservice/prefix`, `hdfs:///prefix` | HDFS (feature `hdfs`); see `hdfs/settings.rs` |
//!
//! Credentials and settings of the cloud stores come from the environment (`AWS_…`, `GOOGLE_…`, `AZURE_…`, instance
//! metadata), never from the URL. Options have the names of object_store's, for example `endpoint`, `region`,
//! `allow_http` or `virtual_hosted_style_request`, and take precedence over the environment. S3 is addressed in path
//! style by default. It is used without encryption only if `allow_http` is set or the endpoint is on this host.
//! object_store's own retries and its limit on the duration of a request are off, because [`Store`] has its own.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use object_store::{
    ClientConfigKey, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    path::Path,
};
use url::Url;

#[cfg(feature = "hdfs")]
use super::hdfs::HdfsStore;
use super::{
    Asked, MemoryStore, RetryOptions, Store,
    cloud::{Cloud, CloudStore},
    http::Connector,
    local::LocalStore,
    pace::Pace,
};
use crate::{clock::Clock, metrics::Metrics, random::Random};

/// The accepted URLs, for messages.
const ACCEPTED: &str = "a path, `file:///dir`, `memory://`, `s3://bucket/prefix`, `gs://bucket/prefix`, \
    `az://container/prefix`, `abfs[s]://container@account.dfs.core.windows.net/prefix`, `hdfs://namenode:port/prefix` or \
    `hdfs://nameservice/prefix`";

/// A time-out of object_store that is longer than any attempt may take.
const NO_REQUEST_TIMEOUT: &str = "1day";

/// Address and settings of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOptions {
    /// A URL of the table in the documentation of this module.
    pub url: String,
    /// Settings of cloud stores by object_store's names; `-` may stand for `_`.
    pub options: BTreeMap<String, String>,
    /// Pauses between attempts, time-outs, and the limit of requests a second.
    pub retry: RetryOptions,
}

impl StoreOptions {
    /// The store at `url` with default settings.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), options: BTreeMap::new(), retry: RetryOptions::default() }
    }
}

/// Why a store could not be opened. Waiting does not help with any of these.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The text is not the URL of a store.
    #[error("object store `{url}`: {reason}; accepted are {ACCEPTED}")]
    Url {
        /// The URL as configured; only its scheme if it may contain a password.
        url: String,
        /// Why the URL is refused.
        reason: String,
    },
    /// The directory cannot be created or opened.
    #[error("object store `{url}`: the directory cannot be made or opened")]
    Directory {
        /// The URL as configured.
        url: String,
        /// The error of the file system.
        source: object_store::Error,
    },
    /// The store has no option of this name.
    #[error("object store `{url}`: unknown option `{key}`")]
    UnknownOption {
        /// The URL as configured.
        url: String,
        /// Name of the option.
        key: String,
    },
    /// An option has a value that cannot be used.
    #[error("object store `{url}`: {reason}")]
    Option {
        /// The URL as configured.
        url: String,
        /// The option, its value and the fault.
        reason: String,
    },
    /// The options and the environment together do not suffice to build a client.
    #[error("object store `{url}`: the settings do not suffice")]
    Settings {
        /// The URL as configured.
        url: String,
        /// The setting that is missing or wrong.
        source: object_store::Error,
    },
}

/// The folder that `url` names, if it is a `file` URL of this host.
#[must_use]
pub fn local_folder(url: &Url) -> Option<PathBuf> {
    // `to_file_path` looks at no scheme.
    if url.scheme() == "file" { url.to_file_path().ok() } else { None }
}

/// Opens the store. Sends no request yet (see [`Store::probe`]), but creates the directory of a local store, which
/// blocks. Installs rustls' `ring` as the process's TLS provider unless the process has one.
///
/// # Errors
/// [`OpenError`]. Waiting does not help with any of them.
pub fn open(options: &StoreOptions, metrics: &Metrics, clock: &Clock, random: Random) -> Result<Store, OpenError> {
    let pace = Arc::new(Pace::new(options.retry.max_requests_per_second, metrics, random.clone()));
    let (store, base) = connect(options, clock, &random, &pace)?;
    let asked = Asked { store, base, pace, deletes_per_request: deletes_per_request(options) };
    Ok(Store::asking(asked, options.retry, metrics, random))
}

/// Number of objects that one delete request names.
fn deletes_per_request(options: &StoreOptions) -> usize {
    match options.url.split_once("://") {
        Some(("s3" | "s3a", _)) => 1000,
        Some(("az" | "abfs" | "abfss", _)) => 256,
        // GCS and HDFS have no deletion in bulk here, nor has a directory.
        _ => 1,
    }
}

fn connect(
    options: &StoreOptions,
    clock: &Clock,
    random: &Random,
    pace: &Arc<Pace>,
) -> Result<(Arc<dyn ObjectStore>, Path), OpenError> {
    // A path is not parsed as a URL, which would change its escapes and spaces.
    let Some((scheme, _)) = options.url.split_once("://") else {
        let looks_like_url = |(scheme, _): (&str, &str)| !scheme.is_empty() && !scheme.contains(['/', '.']);
        if options.url.is_empty() || options.url.split_once(':').is_some_and(looks_like_url) {
            return Err(refused(&options.url, "neither a path nor a URL"));
        }
        return directory(options, PathBuf::from(&options.url));
    };
    let url = Url::parse(&options.url).map_err(|error| refused(scheme, &error.to_string()))?;
    // Only the scheme is repeated in the error, since messages end up in logs.
    if url.password().is_some() {
        return Err(refused(scheme, "credentials come from the environment, not from the URL"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refused(&options.url, "`?` and `#` have no place in it"));
    }
    match url.scheme() {
        "file" => {
            let path = local_folder(&url).ok_or_else(|| refused(&options.url, "the path is not absolute"))?;
            directory(options, path)
        }
        "memory" => {
            no_options(options)?;
            if url.host_str().is_some_and(|host| !host.is_empty()) {
                return Err(refused(&options.url, "`memory://` has no host"));
            }
            Ok((Arc::new(MemoryStore::new(clock.clone())), base(&options.url, &url)?))
        }
        "s3" | "s3a" | "gs" | "az" | "abfs" | "abfss" => {
            let connector = Connector { pace: Arc::clone(pace), clock: clock.clone() };
            cloud(options, &url, connector)
        }
        "hdfs" => hdfs(options, &url, random),
        other => Err(refused(&options.url, &format!("unknown scheme `{other}`"))),
    }
}

fn directory(options: &StoreOptions, path: PathBuf) -> Result<(Arc<dyn ObjectStore>, Path), OpenError> {
    no_options(options)?;
    let store = LocalStore::open(&path).map_err(|source| OpenError::Directory { url: options.url.clone(), source })?;
    Ok((Arc::new(store), Path::default()))
}

fn no_options(options: &StoreOptions) -> Result<(), OpenError> {
    match options.options.keys().next() {
        Some(key) => Err(OpenError::UnknownOption { url: options.url.clone(), key: key.clone() }),
        None => Ok(()),
    }
}

/// A builder with the settings of the environment, then our fixed settings, then the options. The three builders have
/// no trait in common.
macro_rules! builder {
    ($builder:ty, $key:ty, $options:expr) => {{
        let options: &StoreOptions = $options;
        let mut builder = <$builder>::from_env()
            .with_url(options.url.as_str())
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .with_config(<$key>::Client(ClientConfigKey::Timeout), NO_REQUEST_TIMEOUT);
        for (name, value) in &options.options {
            let key: $key = name
                .to_ascii_lowercase()
                .replace('-', "_")
                .parse()
                .map_err(|_| OpenError::UnknownOption { url: options.url.clone(), key: name.clone() })?;
            builder = builder.with_config(key, value);
        }
        builder
    }};
}

fn cloud(options: &StoreOptions, url: &Url, connector: Connector) -> Result<(Arc<dyn ObjectStore>, Path), OpenError> {
    if url.host_str().is_none_or(str::is_empty) {
        return Err(refused(&options.url, "the bucket or container is missing"));
    }
    if !url.username().is_empty() && !url.scheme().starts_with("abfs") {
        return Err(refused(url.scheme(), "credentials come from the environment, not from the URL"));
    }
    // Fails if the process has a provider already, which is just as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (cloud, store) = match url.scheme() {
        "s3" | "s3a" => (Cloud::S3, built(s3(options)?.with_http_connector(connector).build())),
        "gs" => {
            let builder = builder!(GoogleCloudStorageBuilder, GoogleConfigKey, options);
            (Cloud::Gcs, built(builder.with_http_connector(connector).build()))
        }
        _ => {
            let builder = builder!(MicrosoftAzureBuilder, AzureConfigKey, options);
            (Cloud::Azure, built(builder.with_http_connector(connector).build()))
        }
    };
    let store = store.map_err(|source| OpenError::Settings { url: options.url.clone(), source })?;
    Ok((Arc::new(CloudStore { store, cloud }), base(&options.url, url)?))
}

fn built<S: ObjectStore>(store: object_store::Result<S>) -> object_store::Result<Arc<dyn ObjectStore>> {
    store.map(|store| Arc::new(store) as Arc<dyn ObjectStore>)
}

#[cfg(feature = "hdfs")]
fn hdfs(options: &StoreOptions, url: &Url, random: &Random) -> Result<(Arc<dyn ObjectStore>, Path), OpenError> {
    if !url.username().is_empty() {
        return Err(refused(url.scheme(), "the user is named by the option `user`, or by HADOOP_USER_NAME"));
    }
    let base = base(&options.url, url)?;
    HdfsStore::check_base(&base).map_err(|reason| refused(&options.url, reason))?;
    Ok((Arc::new(HdfsStore::open(options, url, &base, random.clone())?), base))
}

#[cfg(not(feature = "hdfs"))]
fn hdfs(options: &StoreOptions, _: &Url, _: &Random) -> Result<(Arc<dyn ObjectStore>, Path), OpenError> {
    Err(refused(&options.url, "this dstl was built without the feature `hdfs`"))
}

fn s3(options: &StoreOptions) -> Result<AmazonS3Builder, OpenError> {
    let mut builder =
        builder!(AmazonS3Builder, AmazonS3ConfigKey, options).with_conditional_put(S3ConditionalPut::ETagMatch);
    // `AWS_ENDPOINT_URL_S3` would win over the option, which is named after the general endpoint.
    for name in ["endpoint", "endpoint_url", "endpoint-url"] {
        if let Some(endpoint) = options.options.get(name) {
            builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
        }
    }
    let setting = |key| builder.get_config_value(&key).unwrap_or_default();
    let endpoints = [setting(AmazonS3ConfigKey::S3Endpoint), setting(AmazonS3ConfigKey::Endpoint)];
    let endpoint = endpoints.into_iter().find(|endpoint| !endpoint.is_empty()).unwrap_or_default();
    let allow_http = setting(AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp));
    if endpoint.starts_with("http://") && !is_true(&allow_http) {
        if is_loopback(&endpoint) {
            return Ok(builder.with_allow_http(true));
        }
        let reason =
            format!("the endpoint `{endpoint}` is not encrypted: set `allow_http` to `true` to use it all the same");
        return Err(OpenError::Option { url: options.url.clone(), reason });
    }
    Ok(builder)
}

/// Whether an endpoint is on this host, where no third party can listen in between.
fn is_loopback(endpoint: &str) -> bool {
    match Url::parse(endpoint).ok().as_ref().and_then(Url::host) {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Whether object_store reads `value` as true.
fn is_true(value: &str) -> bool {
    ["1", "true", "on", "yes", "y"].contains(&value.to_ascii_lowercase().as_str())
}

/// The path in `url` as the base of the store.
fn base(given: &str, url: &Url) -> Result<Path, OpenError> {
    Path::from_url_path(url.path()).map_err(|error| refused(given, &error.to_string()))
}

fn refused(url: &str, reason: &str) -> OpenError {
    OpenError::Url { url: url.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::object::{Created, Retry};

    fn open_with(url: &str, options: &[(&str, &str)]) -> Result<Store, OpenError> {
        let mut all = StoreOptions::new(url);
        all.options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        open(&all, &Metrics::new(), &Clock::new(|| 7), Random::seeded(1))
    }

    #[test]
    fn a_server_on_this_host_is_no_folder_of_it() {
        let folder = |url| local_folder(&Url::parse(url).unwrap());
        for url in ["hdfs://localhost:8020/a", "hdfs:///a", "s3://localhost/a", "memory:///a"] {
            assert_eq!(folder(url), None, "{url}");
        }
        for url in ["file:///a", "file://localhost/a"] {
            assert_eq!(folder(url), Some(PathBuf::from("/a")), "{url}");
        }
    }

    #[test]
    fn refuses_what_names_no_store_and_says_what_would() {
        for bad in [
            "",
            "s3:bucket",
            "ftp://host/dir",
            "s3://",
            "s3:///prefix",
            "s3://key:secret@bucket/",
            "s3://key@bucket/",
            "s3://bucket/a?b",
            "memory://host/",
            "file://host/dir",
            "s3://bucket/a//b",
            "hdfs://me@nn:8020/a",
            "hdfs://nn:8020/a:b",
        ] {
            let error = open_with(bad, &[]).unwrap_err();
            assert!(matches!(error, OpenError::Url { .. }), "{bad}: {error}");
            assert!(error.to_string().contains("s3://bucket/prefix"), "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn refuses_unknown_options_and_unencrypted_endpoints() {
        let error = open_with("s3://bucket", &[("regoin", "x")]).unwrap_err();
        assert_eq!(error.to_string(), "object store `s3://bucket`: unknown option `regoin`");
        assert!(matches!(open_with("memory://", &[("region", "x")]), Err(OpenError::UnknownOption { .. })));
        let error = open_with("s3://bucket", &[("endpoint", "http://10.1.2.3:9000")]).unwrap_err();
        assert!(error.to_string().contains("`allow_http`"), "{error}");
    }

    #[test]
    fn opens_cloud_stores_without_asking_them() {
        let local = [("endpoint", "http://127.0.0.1:9000"), ("region", "eu-1")];
        let store = open_with("s3://bucket/a/b", &local).unwrap();
        assert!(format!("{store:?}").ends_with("\"a/b\")"), "{store:?}");
        open_with("gs://bucket/a", &[("skip_signature", "true")]).unwrap();
        open_with("az://container/a", &[("account_name", "me")]).unwrap();
        open_with("abfss://container@me.dfs.core.windows.net/a", &[]).unwrap();
    }

    #[tokio::test]
    async fn opens_directories_by_path_and_by_url_and_makes_them() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a b").join("c");
        let url = Url::from_directory_path(&folder).unwrap();
        let by_url = open_with(url.as_str(), &[]).unwrap();
        let by_path = open_with(folder.to_str().unwrap(), &[]).unwrap();
        let path = Path::from("x");
        assert_eq!(by_url.create(&path, "1".into(), Retry::none()).await.unwrap(), Created::New);
        assert_eq!(&by_path.get(&path, Retry::none()).await.unwrap()[..], b"1");
        assert!(folder.join("x").is_file());
    }

    #[tokio::test]
    async fn memory_is_dated_by_the_injected_clock() {
        let store = open_with("memory://", &[]).unwrap();
        let path = Path::from("x");
        store.create(&path, "1".into(), Retry::none()).await.unwrap();
        assert_eq!(store.head(&path, Retry::none()).await.unwrap().unwrap().modified_ms, 7);
    }
}
