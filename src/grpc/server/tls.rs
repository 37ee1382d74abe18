//! TLS for the gRPC port: the certificate, its key and the authority of clients, read from files and read again when they
//! change.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use tokio::{sync::Notify, time::MissedTickBehavior};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// The largest file that is read. A chain of certificates takes some kilobytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// What is spoken inside. Whoever offers only something else is refused; whoever offers nothing may speak HTTP/2.
const PROTOCOL: &[u8] = b"h2";

/// Where certificate, key and authority are, in PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// `grpc_tls_cert_file`: the server's certificate, then those between it and its authority.
    pub certificate: PathBuf,
    /// `grpc_tls_key_file`: its private key.
    pub key: PathBuf,
    /// `grpc_client_ca_file`: authorities of which every client must show a certificate; `None` asks for none.
    pub client_ca: Option<PathBuf>,
}

/// Why there is no TLS with these files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{setting} {} cannot be read: {reason}", .file.display())]
    Unreadable {
        /// Which setting names it.
        setting: &'static str,
        /// The file.
        file: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// A file holds something else than it should.
    #[error("{setting} {} {reason}", .file.display())]
    Unusable {
        /// Which setting names it.
        setting: &'static str,
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// What new connections are served with. Clones share it; a connection keeps what it began with.
#[derive(Clone)]
pub struct Tls {
    current: Arc<RwLock<Arc<ServerConfig>>>,
    files: TlsFiles,
    metrics: Arc<Metrics>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// Which file cannot be used, and why.
    pub fn load(files: TlsFiles, metrics: Arc<Metrics>) -> Result<Self, TlsError> {
        let loaded = Contents::read(&files)?.load(&files)?;
        metrics.connections.certificate_expiry.set(loaded.expiry);
        Ok(Self { current: Arc::new(RwLock::new(loaded.config)), files, metrics })
    }

    /// Whether every client must show a certificate.
    pub fn is_mutual(&self) -> bool {
        self.files.client_ca.is_some()
    }

    /// What takes a new connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)).into()
    }

    /// Looks at the files every `interval`, and whenever it is `asked` to, until `shutdown`. New ones are used from the next
    /// connection on. Files that cannot be used change nothing; what is wrong is logged once.
    pub async fn keep_current(self, interval: Duration, asked: Arc<Notify>, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = None;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = asked.notified() => {}
                _ = ticks.tick() => {}
            }
            let files = self.files.clone();
            let Ok(read) = tokio::task::spawn_blocking(move || Contents::read(&files)).await else { return };
            if seen.as_ref() == Some(&read) {
                continue;
            }
            // What is seen first is what `load` has read, or newer.
            self.take(&read, seen.is_none());
            seen = Some(read);
        }
    }

    /// Serves new connections with what was read.
    fn take(&self, read: &Result<Contents, TlsError>, is_first: bool) {
        match read.as_ref().map_err(Clone::clone).and_then(|contents| contents.load(&self.files)) {
            Ok(loaded) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = loaded.config;
                self.metrics.connections.certificate_expiry.set(loaded.expiry);
                if !is_first {
                    self.metrics.connections.certificates_loaded.inc();
                    tracing::info!(subject = %loaded.subject, "new certificates are in use");
                }
            }
            Err(error) => {
                self.metrics.connections.certificates_refused.inc();
                tracing::warn!(%error, "new certificates cannot be used; the old ones stay");
            }
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

/// What the files hold.
#[derive(PartialEq, Eq)]
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// What they come to.
struct Loaded {
    config: Arc<ServerConfig>,
    /// Of the server's certificate.
    subject: String,
    /// When that certificate ends, in seconds since 1970.
    expiry: i64,
}

impl Contents {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let client_ca = files.client_ca.as_deref();
        Ok(Self {
            certificate: read("grpc_tls_cert_file", &files.certificate)?,
            key: read("grpc_tls_key_file", &files.key)?,
            client_ca: client_ca.map(|file| read("grpc_client_ca_file", file)).transpose()?,
        })
    }

    fn load(&self, files: &TlsFiles) -> Result<Loaded, TlsError> {
        let of_certificate = |reason: String| unusable("grpc_tls_cert_file", &files.certificate, reason);
        let of_key = |reason: String| unusable("grpc_tls_key_file", &files.key, reason);
        let chain = certificates(&self.certificate).map_err(of_certificate)?;
        let (subject, expiry) = super::certificate_subject::described(&chain[0]).map_err(of_certificate)?;
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
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        if self.client_ca.is_some() {
            // Every connection shows its certificate anew, so that one that has ended does not live on in a session.
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
