//! Authorities, certificates, and clients that show them or trust them.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    version::{TLS12, TLS13},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

/// The versions that clients may be told to speak.
pub static TLS_1_2: [&SupportedProtocolVersion; 1] = [&TLS12];
pub static TLS_1_3: [&SupportedProtocolVersion; 1] = [&TLS13];
static BOTH: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// An authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate of an authority, and its key.
pub struct Certificate {
    der: CertificateDer<'static>,
    pem: String,
    key: KeyPair,
}

/// When a certificate holds.
#[derive(Clone, Copy, Debug)]
pub enum Holds {
    Now,
    Until2020,
    From2100,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate of a server called localhost.
    pub fn server(&self) -> Certificate {
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        self.signed(params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A certificate of a client.
    pub fn client(&self, name: &str, holds: Holds) -> Certificate {
        self.signed(named(name, holds), ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// A certificate of this name which is not for clients.
    pub fn other(&self, name: &str) -> Certificate {
        self.signed(named(name, Holds::Now), ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn signed(&self, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Certificate {
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &self.0).unwrap();
        Certificate { der: signed.der().clone(), pem: signed.pem(), key }
    }

    /// A client that trusts this authority, and shows nothing.
    pub fn trusting(&self) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        Client { roots, versions: &BOTH, shows: None, protocols: vec![b"h2".to_vec()] }
    }
}

fn named(name: &str, holds: Holds) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    match holds {
        Holds::Now => {}
        Holds::Until2020 => params.not_after = date_time_ymd(2020, 1, 1),
        Holds::From2100 => params.not_before = date_time_ymd(2100, 1, 1),
    }
    params
}

impl Certificate {
    /// Writes certificate and key as a rotation does: each whole, by a rename.
    pub fn write(&self, directory: &Path) {
        put(&directory.join("key.pem"), &self.key.serialize_pem());
        put(&directory.join("cert.pem"), &self.pem);
    }

    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }
}

/// Replaces a file.
pub fn put(file: &Path, text: &str) {
    let new = PathBuf::from(format!("{}.new", file.display()));
    fs::write(&new, text).unwrap();
    fs::rename(new, file).unwrap();
}

/// How a client speaks TLS.
#[derive(Clone)]
pub struct Client {
    roots: RootCertStore,
    versions: &'static [&'static SupportedProtocolVersion],
    shows: Option<(CertificateDer<'static>, Vec<u8>)>,
    protocols: Vec<Vec<u8>>,
}

impl Client {
    /// The same, in this version alone.
    pub fn speaking(mut self, versions: &'static [&'static SupportedProtocolVersion]) -> Self {
        self.versions = versions;
        self
    }

    /// The same with a certificate.
    pub fn showing(mut self, certificate: &Certificate) -> Self {
        self.shows = Some((certificate.der.clone(), certificate.key.serialize_der()));
        self
    }

    /// The same with these protocols offered.
    pub fn offering(mut self, protocols: &[&str]) -> Self {
        self.protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        self
    }

    fn config(&self) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_root_certificates(self.roots.clone());
        let mut config = match self.shows.clone() {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                builder.with_client_auth_cert(vec![certificate], PrivateKeyDer::Pkcs8(key.into())).unwrap()
            }
        };
        config.alpn_protocols.clone_from(&self.protocols);
        config
    }

    /// A connection, once TLS has begun.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(self.config())).connect(name, stream).await
    }

    /// A gRPC client.
    pub async fn channel(&self, address: SocketAddr) -> Result<Channel, tonic::transport::Error> {
        let client = self.clone();
        let connector = service_fn(move |_| {
            let client = client.clone();
            async move { client.connect(address).await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://localhost").connect_with_connector(connector).await
    }

    /// The certificate that a new connection is shown.
    pub async fn shown(&self, address: SocketAddr) -> CertificateDer<'static> {
        let stream = self.connect(address).await.expect("TLS begins");
        stream.get_ref().1.peer_certificates().expect("a server shows one")[0].clone()
    }
}
