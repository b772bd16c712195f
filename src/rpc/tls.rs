//! Mutual TLS for gRPC over TCP: the server's certificate is shown, a client's is demanded.
//!
//! The files are looked at again and again: one that was replaced is taken for the handshakes from then on, connections
//! stay. Files that do not fit together (a manager that replaces one after the other) are told and tried again, and
//! what was read before stays in use.

mod certificate;

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _},
    server::{VerifierBuilderError, WebPkiClientVerifier},
};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

pub(super) use self::certificate::peer_names;
use crate::metrics::Metrics;

/// How often the files are looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(10);

/// Bits of the mode of a private key that let in more than its owner and group.
const OTHERS: u32 = 0o007;

/// The files of mutual TLS, all PEM. Read again when they change.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TlsOptions {
    /// The server's certificate, then its intermediates.
    pub certificate: PathBuf,
    /// The private key of `certificate` (PKCS #8, SEC 1 or PKCS #1).
    pub key: PathBuf,
    /// Authorities that sign the certificates of clients. A client without such a certificate is refused.
    pub client_ca: PathBuf,
}

/// Why TLS cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing, unreadable or not PEM.
    #[error("read pem file `{path}`: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// A file holds no certificate.
    #[error("pem file `{path}` holds no certificate")]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// An authority is no usable certificate.
    #[error("client authorities in `{path}`: {source}")]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The authorities cannot verify anything.
    #[error("verifier of client certificates: {0}")]
    Verifier(#[from] VerifierBuilderError),
    /// Certificate and key are unusable or do not belong together.
    #[error("server certificate and key: {0}")]
    Identity(#[from] rustls::Error),
}

/// Shakes hands with TCP clients, and reads its files again. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor(Arc<Shared>);

struct Shared {
    options: TlsOptions,
    config: RwLock<Arc<ServerConfig>>,
    /// Of what is in use, or was tried last.
    seen: Mutex<Stamps>,
    expiry: Family<CertificateLabels, Gauge>,
    reloads: Counter,
    failures: Counter,
}

/// By which a replaced file is known: inode, length, modified at (seconds and nanoseconds).
type Stamp = Option<(u64, u64, i64, i64)>;

/// Of certificate, key and authorities.
type Stamps = [Stamp; 3];

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Purpose {
    Server,
    ClientCa,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabels {
    certificate: Purpose,
}

/// What was read.
struct Loaded {
    config: ServerConfig,
    /// Unix times at which the server's certificates, and the authorities, end first.
    expiry: [(Purpose, Option<i64>); 2],
}

impl EncodeLabelValue for Purpose {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        let label = match self {
            Self::Server => "server",
            Self::ClientCa => "client-ca",
        };
        label.encode(encoder)
    }
}

impl Acceptor {
    /// Reads the files of `options`. Blocks on them; for use at start.
    pub(super) fn new(options: &TlsOptions, expiry: TlsMetrics) -> Result<Self, TlsError> {
        let seen = stamps(options);
        let loaded = load(options)?;
        let TlsMetrics { expiry, reloads, failures } = expiry;
        let shared = Shared {
            options: options.clone(),
            config: RwLock::new(Arc::new(loaded.config)),
            seen: Mutex::new(seen),
            expiry,
            reloads,
            failures,
        };
        shared.tell_expiry(&loaded.expiry);
        warn_about_key(&options.key);
        Ok(Self(Arc::new(shared)))
    }

    /// Shakes hands. Cancelled, the connection is closed.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = self.0.config.read().clone();
        TlsAcceptor::from(config).accept(stream).await
    }

    /// Looks at the files every few seconds, and takes those that changed. Never ends. Cancel-safe.
    pub async fn keep_fresh(self) {
        loop {
            tokio::time::sleep(RELOAD_INTERVAL).await;
            self.reload(false).await;
        }
    }

    /// Takes the files if they changed, or in any case if `asked`.
    pub async fn reload(&self, asked: bool) {
        let shared = self.0.clone();
        let done = tokio::task::spawn_blocking(move || shared.reload(asked)).await;
        if let Err(error) = done {
            tracing::error!(%error, "reading the files of tls");
        }
    }
}

/// What is told about the files. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct TlsMetrics {
    expiry: Family<CertificateLabels, Gauge>,
    reloads: Counter,
    failures: Counter,
}

impl TlsMetrics {
    pub(super) fn register(metrics: &Metrics) -> Self {
        Self {
            expiry: metrics.register(
                "tls_certificate_expiry_seconds",
                "Unix time at which the certificate ends; of several in one file, the first one that does",
                Family::default(),
            ),
            reloads: metrics.register(
                "tls_reloads",
                "Changed certificates, keys and authorities taken",
                Counter::default(),
            ),
            failures: metrics.register(
                "tls_reload_failures",
                "Changed certificates, keys and authorities that could not be taken; those before stay in use",
                Counter::default(),
            ),
        }
    }
}

impl Shared {
    fn reload(&self, asked: bool) {
        let now = stamps(&self.options);
        {
            let mut seen = self.seen.lock();
            if *seen == now && !asked {
                return;
            }
            *seen = now;
        }
        match load(&self.options) {
            Ok(loaded) => {
                *self.config.write() = Arc::new(loaded.config);
                self.tell_expiry(&loaded.expiry);
                self.reloads.inc();
                tracing::info!(certificate = %self.options.certificate.display(), "took the files of tls again");
                warn_about_key(&self.options.key);
            }
            Err(error) => {
                self.failures.inc();
                tracing::warn!(%error, "the files of tls cannot be taken: those before stay in use");
            }
        }
    }

    fn tell_expiry(&self, expiry: &[(Purpose, Option<i64>)]) {
        for &(certificate, expiry) in expiry {
            if let Some(expiry) = expiry {
                self.expiry.get_or_create(&CertificateLabels { certificate }).set(expiry);
            }
        }
    }
}

fn load(options: &TlsOptions) -> Result<Loaded, TlsError> {
    let mut roots = RootCertStore::empty();
    let authorities = certificates(&options.client_ca)?;
    let authorities_end = certificate::first_end(&authorities);
    for authority in authorities {
        roots.add(authority).map_err(|source| TlsError::Authority { path: options.client_ca.clone(), source })?;
    }
    // The provider is named, not taken from the process, so that it does not matter who installed what.
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider)).build()?;
    let key = PrivateKeyDer::from_pem_file(&options.key)
        .map_err(|source| TlsError::File { path: options.key.clone(), source })?;
    let chain = certificates(&options.certificate)?;
    let server_ends = certificate::first_end(&chain);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Loaded { config, expiry: [(Purpose::Server, server_ends), (Purpose::ClientCa, authorities_end)] })
}

fn stamps(options: &TlsOptions) -> Stamps {
    [&options.certificate, &options.key, &options.client_ca].map(|path| {
        let found = fs::metadata(path).ok()?;
        Some((found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
    })
}

fn warn_about_key(key: &Path) {
    if fs::metadata(key).is_ok_and(|found| found.mode() & OTHERS != 0) {
        tracing::warn!(key = %key.display(), "every user of this host may read the private key: chmod o-rwx");
    }
}

/// All certificates of a PEM file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|source| TlsError::File { path: path.to_owned(), source })?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate { path: path.to_owned() });
    }
    Ok(certificates)
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Acceptor").field(&self.0.options).finish()
    }
}
