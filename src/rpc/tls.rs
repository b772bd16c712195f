//! Mutual TLS for gRPC over TCP: the server's certificate is shown, a client's is demanded.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
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

/// How long a client may take to shake hands.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The files of mutual TLS, all PEM. Read once, at start.
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

/// Shakes hands with TCP clients. Cheap to clone.
#[derive(Clone)]
pub(super) struct Acceptor(TlsAcceptor);

impl Acceptor {
    /// Reads the files of `options`. Blocks on them; for use at start.
    pub(super) fn new(options: &TlsOptions) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for authority in certificates(&options.client_ca)? {
            roots.add(authority).map_err(|source| TlsError::Authority { path: options.client_ca.clone(), source })?;
        }
        // The provider is named, not taken from the process, so that it does not matter who installed what.
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider)).build()?;
        let key = PrivateKeyDer::from_pem_file(&options.key)
            .map_err(|source| TlsError::File { path: options.key.clone(), source })?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates(&options.certificate)?, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// Shakes hands within a time limit. Cancelled, the connection is closed.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, self.0.accept(stream)).await {
            Ok(shaken) => shaken,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "tls handshake took too long")),
        }
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
