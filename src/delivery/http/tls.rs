//! TLS to endpoints: trusted authorities and client certificates, by default and per subscription.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, InvalidDnsNameError, ServerName},
    sign::SingleCertAndKey,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::domain::subscription::tls::{TlsProfile, TlsViolation, provider};

/// ALPN protocols, the preferred one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", HTTP1];
const HTTP1: &[u8] = b"http/1.1";
/// TLS sessions that a profile can resume. Most have one endpoint.
const SESSIONS_PER_PROFILE: usize = 32;

/// Why the client cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum WebhookClientError {
    /// A certificate of the extra certificate authorities is unusable.
    #[error("certificate {number} of the extra certificate authorities cannot be used: {source}")]
    ExtraRoot {
        /// Its number, from 1.
        number: usize,
        /// The reason.
        source: rustls::Error,
    },
    /// TLS cannot be set up.
    #[error("tls cannot be set up: {0}")]
    Tls(rustls::Error),
}

/// Why there is no connection over TLS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// The options of the subscription passed validation and still cannot be used.
    #[error("the subscription's tls options cannot be used: {0}")]
    Options(#[from] TlsViolation),
    /// The options cannot be combined.
    #[error("the subscription's tls options cannot be used: {0}")]
    Unusable(rustls::Error),
    /// No certificate can be issued for the URL's host.
    #[error("the url's host is no name that a certificate could be for")]
    Name(#[from] InvalidDnsNameError),
    /// The endpoint ended the session after the handshake, for example because it does not trust the client.
    #[error("tls failed: {0}")]
    Ended(rustls::Error),
    /// The handshake failed.
    #[error(transparent)]
    Handshake(io::Error),
}

/// Connects to endpoints over TLS. Each profile has its own configuration, built once: trusted authorities,
/// client certificate, and sessions to resume. Certificates are always verified.
pub(crate) struct Tls {
    /// Authorities that are trusted if a subscription names none.
    roots: Arc<RootCertStore>,
    default: Arc<ClientConfig>,
    cache: Mutex<ConfigCache>,
    profiles_max: usize,
}

/// The configurations of recently used profiles.
#[derive(Default)]
struct ConfigCache {
    configs: HashMap<Box<str>, Used>,
    /// Number of uses, as a clock.
    now: u64,
}

struct Used {
    config: Arc<ClientConfig>,
    at: u64,
}

impl Tls {
    /// Trusts the system's authorities and `extra_roots` if a subscription names none. Keeps the
    /// configurations of
    /// `profiles_max` profiles, at least one. Reads the system's authorities from disk.
    pub(crate) fn new(
        extra_roots: &[CertificateDer<'static>],
        profiles_max: usize,
    ) -> Result<Self, WebhookClientError> {
        let mut roots = RootCertStore::empty();
        for (index, root) in extra_roots.iter().enumerate() {
            roots
                .add(root.clone())
                .map_err(|source| WebhookClientError::ExtraRoot { number: index + 1, source })?;
        }
        add_system_roots(&mut roots);
        let roots = Arc::new(roots);
        let default = config(Arc::clone(&roots), None).map_err(WebhookClientError::Tls)?;
        Ok(Self {
            roots,
            default: Arc::new(default),
            cache: Mutex::default(),
            profiles_max: profiles_max.max(1),
        })
    }

    /// Establishes TLS over `stream` to the endpoint of a URL with this host. Offers HTTP/2 unless it
    /// `needs_http1`.
    pub(crate) async fn connect<T>(
        &self,
        stream: T,
        host: &str,
        profile: Option<&TlsProfile>,
        needs_http1: bool,
    ) -> Result<TlsStream<T>, TlsError>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self.config(profile)?;
        let server_name = profile.map(|profile| profile.options().name()).transpose()?.flatten();
        let name = match server_name {
            Some(name) => name,
            None => {
                let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
                ServerName::try_from(literal.unwrap_or(host).to_owned())?
            }
        };
        let protocols = if needs_http1 { vec![HTTP1.to_vec()] } else { config.alpn_protocols.clone() };
        let connector = TlsConnector::from(config);
        connector.with_alpn(protocols).connect(name, stream).await.map_err(TlsError::Handshake)
    }

    fn config(&self, profile: Option<&TlsProfile>) -> Result<Arc<ClientConfig>, TlsError> {
        let Some(profile) = profile else { return Ok(Arc::clone(&self.default)) };
        if let Some(config) = self.cache().used(profile.id()) {
            return Ok(config);
        }
        // Without the lock: parsing keys takes a while.
        let options = profile.options();
        let roots = options.authorities()?.map_or_else(|| Arc::clone(&self.roots), Arc::new);
        let identity = options.identity()?.map(SingleCertAndKey::from);
        let mut made = config(roots, identity).map_err(TlsError::Unusable)?;
        made.resumption = Resumption::in_memory_sessions(SESSIONS_PER_PROFILE);
        Ok(self.cache().keep(profile.id(), made, self.profiles_max))
    }

    fn cache(&self) -> MutexGuard<'_, ConfigCache> {
        self.cache.lock().expect("no code panics while it holds this lock")
    }
}

impl ConfigCache {
    fn used(&mut self, id: &str) -> Option<Arc<ClientConfig>> {
        self.now += 1;
        let used = self.configs.get_mut(id)?;
        used.at = self.now;
        Some(Arc::clone(&used.config))
    }

    /// Adds a configuration unless another attempt was faster. Drops the least recently used one if there are
    /// too many.
    fn keep(&mut self, id: &str, config: ClientConfig, max: usize) -> Arc<ClientConfig> {
        if let Some(config) = self.used(id) {
            return config;
        }
        if self.configs.len() >= max
            && let Some(oldest) =
                self.configs.iter().min_by_key(|(_, used)| used.at).map(|(id, _)| id.clone())
        {
            self.configs.remove(&oldest);
            tracing::debug!(max, "dropped the least recently used tls profile");
        }
        let config = Arc::new(config);
        self.configs.insert(id.into(), Used { config: Arc::clone(&config), at: self.now });
        config
    }
}

fn config(
    roots: Arc<RootCertStore>,
    identity: Option<SingleCertAndKey>,
) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(identity)),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
    Ok(config)
}

/// Adds the system's certificate authorities. A system without any can still start: plain http works, and an
/// https attempt reports what is wrong with the certificate.
fn add_system_roots(roots: &mut RootCertStore) {
    let system = rustls_native_certs::load_native_certs();
    // A bundle may contain certificates in obsolete formats.
    let (added, unusable) = roots.add_parsable_certificates(system.certs);
    if added == 0 {
        tracing::warn!(
            errors = ?system.errors,
            "no system certificate authorities; https deliveries fail unless one is configured"
        );
    } else if unusable > 0 || !system.errors.is_empty() {
        tracing::debug!(added, unusable, errors = ?system.errors, "unusable certificate authorities");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::subscription::TlsOptions;

    fn profile(name: &str) -> TlsProfile {
        TlsProfile::new(TlsOptions { server_name: name.to_owned(), ..TlsOptions::default() }).unwrap()
    }

    #[test]
    fn a_profile_is_built_once_and_the_least_recently_used_is_dropped() {
        let tls = Tls::new(&[], 2).unwrap();
        let config = |name: &str| tls.config(Some(&profile(name))).unwrap();
        let first = config("a");
        assert!(Arc::ptr_eq(&first, &config("a")));
        let second = config("b");
        assert!(!Arc::ptr_eq(&first, &second));
        // `first` is the most recently used.
        config("a");
        config("c");
        assert_eq!(tls.cache().configs.len(), 2);
        assert!(Arc::ptr_eq(&first, &config("a")));
        assert!(!Arc::ptr_eq(&second, &config("b")));
    }

    #[test]
    fn options_that_cannot_be_used_say_so() {
        let options = TlsOptions { ca_certificates: "no pem".to_owned(), ..TlsOptions::default() };
        let error = Tls::new(&[], 1).unwrap().config(TlsProfile::new(options).as_ref()).unwrap_err();
        assert!(error.to_string().contains("ca_certificates must be in PEM"), "{error}");
    }
}
