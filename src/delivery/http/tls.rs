//! TLS to endpoints: what is trusted and shown where a subscription does not say, and where it does.

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

use super::client::WebhookClientError;
use crate::domain::subscription::tls::{TlsProfile, TlsViolation, provider};

/// What is spoken over TLS, the better first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// Sessions that a profile may take up again. Most have one endpoint.
const SESSIONS_PER_PROFILE: usize = 32;

/// Why there is no connection over TLS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// The options of the subscription passed every check, and still cannot be used.
    #[error("the subscription's tls options cannot be used: {0}")]
    Options(#[from] TlsViolation),
    /// They cannot be put together.
    #[error("the subscription's tls options cannot be used: {0}")]
    Unusable(rustls::Error),
    /// No certificate can be for the URL's host.
    #[error("the url's host is no name that a certificate could be for")]
    Name(#[from] InvalidDnsNameError),
    /// The endpoint ended it after the handshake, as it does with a client that it does not trust.
    #[error("tls failed: {0}")]
    Ended(rustls::Error),
    /// The two do not come together.
    #[error(transparent)]
    Handshake(io::Error),
}

/// Makes connections to endpoints over TLS. Each profile has a configuration of its own, made once: what is trusted and
/// shown, and the sessions that can be taken up again. There is no way to leave a certificate unchecked.
pub(crate) struct Tls {
    /// What is trusted where a subscription does not say.
    roots: Arc<RootCertStore>,
    usual: Arc<ClientConfig>,
    made: Mutex<Made>,
    profiles_max: usize,
}

/// The configurations of profiles that were used lately.
#[derive(Default)]
struct Made {
    configs: HashMap<Box<str>, Used>,
    /// Counts the uses.
    now: u64,
}

struct Used {
    config: Arc<ClientConfig>,
    at: u64,
}

impl Tls {
    /// Trusts the system's authorities and these, where a subscription does not say. Keeps the configurations of so many
    /// profiles, at least one. Reads the system's authorities from disk.
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
        let usual = config(Arc::clone(&roots), None).map_err(WebhookClientError::Tls)?;
        Ok(Self { roots, usual: Arc::new(usual), made: Mutex::default(), profiles_max: profiles_max.max(1) })
    }

    /// Makes a connection over `stream` to the endpoint of a URL with this host.
    pub(crate) async fn connect<T>(
        &self,
        stream: T,
        host: &str,
        profile: Option<&TlsProfile>,
    ) -> Result<TlsStream<T>, TlsError>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self.config(profile)?;
        let asked = profile.map(|profile| profile.options().name()).transpose()?.flatten();
        let name = match asked {
            Some(name) => name,
            None => {
                let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
                ServerName::try_from(literal.unwrap_or(host).to_owned())?
            }
        };
        TlsConnector::from(config).connect(name, stream).await.map_err(TlsError::Handshake)
    }

    fn config(&self, profile: Option<&TlsProfile>) -> Result<Arc<ClientConfig>, TlsError> {
        let Some(profile) = profile else { return Ok(Arc::clone(&self.usual)) };
        if let Some(config) = self.made().used(profile.id()) {
            return Ok(config);
        }
        // Without the lock: keys are looked at, which takes a while.
        let options = profile.options();
        let roots = options.authorities()?.map_or_else(|| Arc::clone(&self.roots), Arc::new);
        let identity = options.identity()?.map(SingleCertAndKey::from);
        let mut made = config(roots, identity).map_err(TlsError::Unusable)?;
        made.resumption = Resumption::in_memory_sessions(SESSIONS_PER_PROFILE);
        Ok(self.made().keep(profile.id(), made, self.profiles_max))
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().expect("no code panics while it holds this lock")
    }
}

impl Made {
    fn used(&mut self, id: &str) -> Option<Arc<ClientConfig>> {
        self.now += 1;
        let used = self.configs.get_mut(id)?;
        used.at = self.now;
        Some(Arc::clone(&used.config))
    }

    /// Keeps a configuration, unless somebody else was faster, and forgets the one that was not used for longest if there
    /// are too many.
    fn keep(&mut self, id: &str, config: ClientConfig, max: usize) -> Arc<ClientConfig> {
        if let Some(config) = self.used(id) {
            return config;
        }
        if self.configs.len() >= max
            && let Some(oldest) =
                self.configs.iter().min_by_key(|(_, used)| used.at).map(|(id, _)| id.clone())
        {
            self.configs.remove(&oldest);
            tracing::debug!(
                max,
                "a tls profile was forgotten for another; egress_tls_profiles_max bounds them"
            );
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

/// Adds the system's certificate authorities. A system without any is no reason not to start: plain http works, and an
/// https attempt says what is wrong with its certificate.
fn add_system_roots(roots: &mut RootCertStore) {
    let system = rustls_native_certs::load_native_certs();
    // A bundle may hold certificates of forms that are not in use any more.
    let (added, unusable) = roots.add_parsable_certificates(system.certs);
    if added == 0 {
        tracing::warn!(
            errors = ?system.errors,
            "the system has no certificate authorities: no https endpoint will be trusted unless its authority is set"
        );
    } else if unusable > 0 || !system.errors.is_empty() {
        tracing::debug!(added, unusable, errors = ?system.errors, "not all certificate authorities can be used");
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
    fn a_profile_is_made_once_and_the_one_not_used_for_longest_is_forgotten() {
        let tls = Tls::new(&[], 2).unwrap();
        let config = |name: &str| tls.config(Some(&profile(name))).unwrap();
        let first = config("a");
        assert!(Arc::ptr_eq(&first, &config("a")));
        let second = config("b");
        assert!(!Arc::ptr_eq(&first, &second));
        // The first was used last.
        config("a");
        config("c");
        assert_eq!(tls.made().configs.len(), 2);
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
