//! TLS of a listener, gRPC's or the console's: the server's certificate and key, and the authority of client certificates. All are
//! read from files, and read again when those change.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use clap::Args;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{file_watch::FileWatch, metrics::Metrics};

/// The largest file that is read. A chain of certificates takes some kilobytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The listener that speaks TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsListener {
    /// gRPC over HTTP/2, and the other protocols over HTTP/1.1 as well.
    Grpc,
    /// The console over HTTP/1.1.
    Console,
}

impl TlsListener {
    /// The application protocols, the preferred one first. A client that offers only others is rejected; one that offers
    /// none may speak any.
    fn protocols(self) -> Vec<Vec<u8>> {
        let (http1, http2) = (b"http/1.1".to_vec(), b"h2".to_vec());
        match self {
            Self::Grpc => vec![http2, http1],
            Self::Console => vec![http1],
        }
    }

    fn certificate_setting(self) -> &'static str {
        match self {
            Self::Grpc => "grpc_tls_cert_file",
            Self::Console => "console_tls_cert_file",
        }
    }

    fn key_setting(self) -> &'static str {
        match self {
            Self::Grpc => "grpc_tls_key_file",
            Self::Console => "console_tls_key_file",
        }
    }
}

/// Settings of TLS.
#[derive(Args, Clone, Debug)]
pub struct TlsSettings {
    /// A PEM file with the certificate of the gRPC server, then those up to its authority. With it there is
    /// only TLS.
    #[arg(long, value_name = "FILE")]
    pub grpc_tls_cert_file: Option<PathBuf>,
    /// A PEM file with the private key of that certificate.
    #[arg(long, value_name = "FILE")]
    pub grpc_tls_key_file: Option<PathBuf>,
    /// A PEM file with authorities: every gRPC client must present a certificate of one of them.
    #[arg(long, value_name = "FILE")]
    pub grpc_client_ca_file: Option<PathBuf>,
}

/// The PEM files of certificate, key and authority.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The server's certificate, then the intermediate ones.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// `grpc_client_ca_file`: the authorities of client certificates; `None` requires no certificate.
    pub client_ca: Option<PathBuf>,
}

impl TlsSettings {
    /// The files; `None` if gRPC is served without TLS.
    pub fn files(&self) -> Option<TlsFiles> {
        Some(TlsFiles {
            certificate: self.grpc_tls_cert_file.clone()?,
            key: self.grpc_tls_key_file.clone()?,
            client_ca: self.grpc_client_ca_file.clone(),
        })
    }
}

/// The error of files that cannot be used for TLS.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{setting} {} cannot be read: {reason}", .file.display())]
    Unreadable {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        file: PathBuf,
        /// The system's error.
        reason: String,
    },
    /// A file has the wrong contents.
    #[error("{setting} {} {reason}", .file.display())]
    Unusable {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        file: PathBuf,
        /// The fault of the contents.
        reason: String,
    },
}

/// The TLS configuration of new connections. Clones share it; an open connection keeps the one it began with.
#[derive(Clone)]
pub struct Tls {
    listener: TlsListener,
    current: Arc<RwLock<Arc<ServerConfig>>>,
    files: TlsFiles,
    /// Digest of the files as [`Tls::load`] has read them.
    loaded: [u8; 32],
    metrics: Arc<Metrics>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// A file cannot be used.
    pub fn load(listener: TlsListener, files: TlsFiles, metrics: Arc<Metrics>) -> Result<Self, TlsError> {
        let contents = Contents::read(listener, &files)?;
        let loaded = contents.load(listener, &files)?;
        let current = Arc::new(RwLock::new(loaded.config));
        let tls = Self { listener, current, files, loaded: contents.digest(), metrics };
        tls.report_expiry(loaded.expiry);
        Ok(tls)
    }

    /// The metric is about the certificate of gRPC.
    fn report_expiry(&self, expiry: i64) {
        if self.listener == TlsListener::Grpc {
            self.metrics.connections.certificate_expiry.set(expiry);
        }
    }

    /// Whether every client must present a certificate.
    pub fn is_mutual(&self) -> bool {
        self.files.client_ca.is_some()
    }

    /// The acceptor of a new connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)).into()
    }

    /// Reads the files again when they change, until `shutdown`. New ones serve from the next connection on.
    /// Unusable files change nothing, and are logged once.
    pub async fn keep_current(self, watch: FileWatch, shutdown: CancellationToken) {
        let (listener, files) = (self.listener, self.files.clone());
        let read = move || Contents::read(listener, &files);
        watch.run(self.loaded, shutdown, read, Contents::digest, |read| self.reload(read)).await;
    }

    /// Serves new connections with the files that were read.
    fn reload(&self, read: Result<Contents, TlsError>) {
        match read.and_then(|contents| contents.load(self.listener, &self.files)) {
            Ok(loaded) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = loaded.config;
                self.report_expiry(loaded.expiry);
                self.metrics.connections.certificates_loaded.inc();
                tracing::info!(subject = %loaded.subject, "new certificates are in use");
            }
            Err(error) => {
                self.metrics.connections.certificates_refused.inc();
                tracing::warn!(%error, "new certificates cannot be used; the current ones stay in use");
            }
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

/// The contents of the files.
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// A configuration made of the files.
struct Loaded {
    config: Arc<ServerConfig>,
    /// The subject of the server's certificate.
    subject: String,
    /// When that certificate ends, in seconds since 1970.
    expiry: i64,
}

impl Contents {
    fn read(listener: TlsListener, files: &TlsFiles) -> Result<Self, TlsError> {
        let client_ca = files.client_ca.as_deref();
        Ok(Self {
            certificate: read(listener.certificate_setting(), &files.certificate)?,
            key: read(listener.key_setting(), &files.key)?,
            client_ca: client_ca.map(|file| read("grpc_client_ca_file", file)).transpose()?,
        })
    }

    fn digest(&self) -> [u8; 32] {
        let files = [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()];
        let mut digest = Sha256::new();
        // Each by its own digest, so that no byte can move from one file to the next unseen.
        files.iter().flatten().for_each(|file| digest.update(Sha256::digest(file)));
        digest.finalize().into()
    }

    fn load(&self, listener: TlsListener, files: &TlsFiles) -> Result<Loaded, TlsError> {
        let of_certificate =
            |reason: String| unusable(listener.certificate_setting(), &files.certificate, reason);
        let of_key = |reason: String| unusable(listener.key_setting(), &files.key, reason);
        let chain = certificates(&self.certificate).map_err(of_certificate)?;
        let (subject, expiry) =
            super::certificate_subject::subject_and_expiry(&chain[0]).map_err(of_certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| of_key(format!("holds no private key: {error}")))?;
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| of_certificate(error.to_string()))?;
        let builder = match (&files.client_ca, &self.client_ca) {
            (Some(file), Some(pem)) => {
                let of_authority = |reason: String| unusable("grpc_client_ca_file", file, reason);
                let roots = Arc::new(roots(pem).map_err(of_authority)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| of_authority(error.to_string()))?)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| of_key(format!("does not go with the certificate: {error}")))?;
        config.alpn_protocols = listener.protocols();
        if self.client_ca.is_some() {
            // Every connection presents its certificate again, so that no session outlives an expired one.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Loaded { config: Arc::new(config), subject, expiry })
    }
}

fn unusable(setting: &'static str, file: &Path, reason: String) -> TlsError {
    TlsError::Unusable { setting, file: file.to_owned(), reason }
}

fn read(setting: &'static str, file: &Path) -> Result<Vec<u8>, TlsError> {
    let read = || {
        let bytes = fs::metadata(file)?.len();
        if bytes > FILE_BYTES_MAX {
            return Err(io::Error::other(format!("it has {bytes} bytes, more than {FILE_BYTES_MAX}")));
        }
        fs::read(file)
    };
    read().map_err(|error| TlsError::Unreadable { setting, file: file.to_owned(), reason: error.to_string() })
}

/// The certificates of a PEM file; at least one.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err("holds no certificate".to_owned()),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("is not PEM: {error}")),
    }
}

fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for (index, certificate) in certificates(pem)?.into_iter().enumerate() {
        roots
            .add(certificate)
            .map_err(|error| format!("has an unusable certificate {}: {error}", index + 1))?;
    }
    Ok(roots)
}
