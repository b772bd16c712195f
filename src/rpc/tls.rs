//! Mutual TLS for gRPC over TCP: the server shows a certificate and demands one of the client.
//!
//! The files are checked periodically. A replaced file is used for handshakes from then on; existing connections stay.
//! If the files do not fit together (because a manager replaces one after the other), that is logged and tried again,
//! and the former contents stay in use.

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
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

pub(super) use self::certificate::peer_names;
use crate::metrics::Metrics;

/// How often the files are checked.
const RELOAD_INTERVAL: Duration = Duration::from_secs(10);

/// Bits of a private key's mode that admit users other than its owner and group.
const OTHERS: u32 = 0o007;

/// The files of mutual TLS, all PEM. Read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    /// The server's certificate, then its intermediates.
    pub certificate: PathBuf,
    /// The private key of `certificate` (PKCS #8, SEC 1 or PKCS #1).
    pub key: PathBuf,
    /// Authorities that sign the certificates of clients. A client without such a certificate is refused.
    pub client_ca: PathBuf,
}

/// The reason why TLS cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing, unreadable or not PEM.
    #[error("read pem file `{path}`: {source}")]
    File {
        /// Path of the file.
        path: PathBuf,
        /// The error of reading it.
        source: pem::Error,
    },
    /// A file has no certificate.
    #[error("pem file `{path}` holds no certificate")]
    NoCertificate {
        /// Path of the file.
        path: PathBuf,
    },
    /// The certificate of an authority is unusable.
    #[error("client authorities in `{path}`: {source}")]
    Authority {
        /// Path of the file.
        path: PathBuf,
        /// The error of rustls.
        source: rustls::Error,
    },
    /// No client could be verified with these authorities.
    #[error("verifier of client certificates: {0}")]
    Verifier(#[from] VerifierBuilderError),
    /// Certificate and key are unusable or do not belong together.
    #[error("server certificate and key: {0}")]
    Identity(#[from] rustls::Error),
}

/// Does handshakes with TCP clients, and reloads its files. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor(Arc<Shared>);

struct Shared {
    options: TlsOptions,
    config: RwLock<Arc<ServerConfig>>,
    /// Stamps of the files that are in use, or were tried last.
    seen: Mutex<Stamps>,
    expiry: Family<CertificateLabels, Gauge>,
    reloads: Counter,
    failures: Counter,
}

/// Identifies a version of a file: inode, length, and modification time in seconds and nanoseconds.
type Stamp = Option<(u64, u64, i64, i64)>;

/// The stamps of certificate, key and authorities.
type Stamps = [Stamp; 3];

/// The purpose of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Purpose {
    Server,
    ClientCa,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabels {
    certificate: Purpose,
}

/// The contents of the files.
struct Loaded {
    config: ServerConfig,
    /// The earliest Unix times at which one of the server's certificates, and one of the authorities, ends.
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
    /// Reads the files of `options`. It blocks on them, so use it at start only.
    pub(super) fn new(options: &TlsOptions, expiry: TlsMetrics) -> Result<Self, TlsError> {
        // Ordering: the stamps are taken before the files are read. A file that changes in between then differs at the
        // next look, and is read again. The other way round that change would be missed.
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

    /// Does a handshake. If cancelled, the connection is closed.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        // The lock is let go before the handshake, which takes as long as the client likes.
        let config = self.0.config.read().clone();
        TlsAcceptor::from(config).accept(stream).await
    }

    /// Checks the files every few seconds, and loads changed ones. Never ends. Cancel-safe.
    pub async fn keep_fresh(self) {
        loop {
            tokio::time::sleep(RELOAD_INTERVAL).await;
            self.reload(false).await;
        }
    }

    /// Loads the files if they have changed, or if `asked`.
    pub async fn reload(&self, asked: bool) {
        let shared = self.0.clone();
        let done = tokio::task::spawn_blocking(move || shared.reload(asked)).await;
        if let Err(error) = done {
            tracing::error!(%error, "reading the files of tls");
        }
    }
}

/// Metrics of the files. Cheap to clone.
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
            // Ordering: noted before the files are read, for the same reason as at the start. Files that cannot be
            // taken are not tried again until one of them changes.
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
    // The provider is named here, so that it does not matter which one the process has installed.
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
