//! TLS options of a subscription: how the endpoint is verified, and which client certificate is presented.

use std::{fmt, sync::Arc};

use rustls::{
    Error, InconsistentKeys, RootCertStore,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem, pem::PemObject},
    server::ParsedCertificate,
    sign::CertifiedKey,
};
use sha2::{Digest, Sha256};

use crate::domain::secret::Secret;

/// Most certificates in `tls.ca_certificates`.
pub const CA_CERTIFICATES_MAX: usize = 16;
/// Longest `tls.ca_certificates`, in bytes.
pub const CA_CERTIFICATES_BYTES_MAX: usize = 32 * 1024;
/// Most certificates in `tls.client_certificate`: the client's own and its chain.
pub const CLIENT_CERTIFICATES_MAX: usize = 8;
/// Longest `tls.client_certificate`, in bytes.
pub const CLIENT_CERTIFICATE_BYTES_MAX: usize = 16 * 1024;
/// Longest `tls.client_key`, in bytes. An RSA key of 4096 bits has about 3,300.
pub const CLIENT_KEY_BYTES_MAX: usize = 8 * 1024;
/// Longest `tls.server_name`, in bytes: the limit of DNS names.
pub const SERVER_NAME_BYTES_MAX: usize = 253;

/// The TLS options of a subscription. An empty one is unset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// The name for SNI and for verifying the certificate; by default the URL's host.
    pub server_name: String,
    /// The trusted authorities, in PEM; by default those of the server.
    pub ca_certificates: String,
    /// The client certificate and its chain, in PEM.
    pub client_certificate: String,
    /// The key of that certificate, in PEM.
    pub client_key: Option<Secret>,
}

/// Options of which at least one is set, with an id. Only subscriptions with the same id share connections.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsProfile {
    options: TlsOptions,
    id: Box<str>,
}

/// Why options cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {description}")]
pub struct TlsViolation {
    /// The option, by its name in the contract.
    pub field: &'static str,
    /// Why it is invalid. Never contains the value.
    pub description: String,
}

const SERVER_NAME: &str = "server_name";
const CA_CERTIFICATES: &str = "ca_certificates";
const CLIENT_CERTIFICATE: &str = "client_certificate";
const CLIENT_KEY: &str = "client_key";

impl TlsProfile {
    /// `None` if nothing is set.
    pub fn new(options: TlsOptions) -> Option<Self> {
        if options == TlsOptions::default() {
            return None;
        }
        let mut digest = Sha256::new();
        let key = options.client_key.as_ref().map_or("", Secret::expose);
        for part in [&options.server_name, &options.ca_certificates, &options.client_certificate, key] {
            // With their lengths, so that different options never concatenate to the same bytes.
            digest.update(part.len().to_be_bytes());
            digest.update(part.as_bytes());
        }
        let id = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Some(Self { options, id: id.into() })
    }

    /// A hash of the options, of 64 characters.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The options.
    pub fn options(&self) -> &TlsOptions {
        &self.options
    }
}

impl fmt::Debug for TlsProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the id: it is a hash of the key too.
        self.options.fmt(f)
    }
}

impl TlsOptions {
    /// Every violation, at most one for each part.
    pub fn violations(&self) -> Vec<TlsViolation> {
        let checked = [self.name().err(), self.authorities().err(), self.identity().err()];
        checked.into_iter().flatten().collect()
    }

    /// The name for SNI and for verifying the certificate.
    pub fn name(&self) -> Result<Option<ServerName<'static>>, TlsViolation> {
        if self.server_name.is_empty() {
            return Ok(None);
        }
        let name = Some(self.server_name.clone()).filter(|name| name.len() <= SERVER_NAME_BYTES_MAX);
        let name = name.and_then(|name| ServerName::try_from(name).ok());
        name.map(Some).ok_or_else(|| {
            violation(
                SERVER_NAME,
                "must be a name such as hooks.example.com, in ASCII and without a port, or an address",
            )
        })
    }

    /// The trusted authorities.
    pub fn authorities(&self) -> Result<Option<RootCertStore>, TlsViolation> {
        if self.ca_certificates.is_empty() {
            return Ok(None);
        }
        let ders = certificates(
            CA_CERTIFICATES,
            &self.ca_certificates,
            CA_CERTIFICATES_MAX,
            CA_CERTIFICATES_BYTES_MAX,
        )?;
        let mut authorities = RootCertStore::empty();
        for (index, der) in ders.into_iter().enumerate() {
            authorities.add(der).map_err(|_| unusable(CA_CERTIFICATES, index))?;
        }
        Ok(Some(authorities))
    }

    /// The client certificate with its key.
    pub fn identity(&self) -> Result<Option<Arc<CertifiedKey>>, TlsViolation> {
        const TOGETHER: &str = "is required: client_certificate and client_key go together";
        let (text, key) = match (self.client_certificate.as_str(), &self.client_key) {
            ("", None) => return Ok(None),
            ("", Some(_)) => return Err(violation(CLIENT_CERTIFICATE, TOGETHER)),
            (_, None) => return Err(violation(CLIENT_KEY, TOGETHER)),
            (text, Some(key)) => (text, key.expose()),
        };
        let chain =
            certificates(CLIENT_CERTIFICATE, text, CLIENT_CERTIFICATES_MAX, CLIENT_CERTIFICATE_BYTES_MAX)?;
        for (index, der) in chain.iter().enumerate() {
            if ParsedCertificate::try_from(der).is_err() {
                return Err(unusable(CLIENT_CERTIFICATE, index));
            }
        }
        match CertifiedKey::from_der(chain, private_key(key)?, &provider()) {
            Ok(identity) => Ok(Some(Arc::new(identity))),
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                Err(violation(CLIENT_KEY, "is not the key of the first certificate in client_certificate"))
            }
            Err(_) => Err(violation(
                CLIENT_KEY,
                "has an unsupported type: use RSA with 2048 to 4096 bits, ECDSA with P-256 or P-384, or Ed25519",
            )),
        }
    }
}

/// The cryptography provider of the crate.
pub fn provider() -> CryptoProvider {
    ring::default_provider()
}

/// The certificates in a text that contains nothing else.
fn certificates(
    field: &'static str,
    text: &str,
    count_max: usize,
    bytes_max: usize,
) -> Result<Vec<CertificateDer<'static>>, TlsViolation> {
    const BEGIN: &str = "-----BEGIN ";
    if text.len() > bytes_max {
        return Err(violation(field, format_args!("must have at most {bytes_max} bytes")));
    }
    // Responses show this field, so it must not contain a key.
    if text.matches(BEGIN).count() != text.matches("-----BEGIN CERTIFICATE-----").count() {
        return Err(violation(field, "must contain certificates only"));
    }
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match found {
        Ok(found) if found.is_empty() => {
            Err(violation(field, "must be in PEM, and begin with -----BEGIN CERTIFICATE-----"))
        }
        Ok(found) if found.len() > count_max => {
            Err(violation(field, format_args!("must contain at most {count_max} certificates")))
        }
        Ok(found) => Ok(found),
        Err(_) => Err(violation(field, "is damaged: it is not PEM to its end")),
    }
}

fn private_key(text: &str) -> Result<PrivateKeyDer<'static>, TlsViolation> {
    if text.len() > CLIENT_KEY_BYTES_MAX {
        return Err(violation(CLIENT_KEY, format_args!("must have at most {CLIENT_KEY_BYTES_MAX} bytes")));
    }
    if text.contains("ENCRYPTED") {
        return Err(violation(CLIENT_KEY, "must not be encrypted: the server has no passphrase"));
    }
    PrivateKeyDer::from_pem_slice(text.as_bytes())
        .map_err(|_| violation(CLIENT_KEY, "must be a private key in PEM: PKCS #8, PKCS #1 or SEC 1"))
}

fn unusable(field: &'static str, index: usize) -> TlsViolation {
    violation(field, format_args!("contains a certificate that cannot be used: number {}", index + 1))
}

fn violation(field: &'static str, description: impl fmt::Display) -> TlsViolation {
    TlsViolation { field, description: description.to_string() }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn issued() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["client.example".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn with_identity(certificate: &str, key: &str) -> TlsOptions {
        TlsOptions {
            client_certificate: certificate.to_owned(),
            client_key: Some(Secret::new(key)),
            ..TlsOptions::default()
        }
    }

    /// Asserts one violation, by its field and a part of its description.
    #[track_caller]
    fn assert_violation(options: &TlsOptions, field: &str, rule: &str) {
        let violations = options.violations();
        assert!(
            matches!(&*violations, [violation] if violation.field == field && violation.description.contains(rule)),
            "{field} {rule}: {violations:?}"
        );
    }

    #[test]
    fn options_that_go_together_have_no_violation() {
        let (certificate, key) = issued();
        let options = TlsOptions {
            server_name: "hooks.example.com".into(),
            ca_certificates: format!("# ours\n{certificate}{certificate}"),
            ..with_identity(&certificate, &key)
        };
        assert_eq!(options.violations(), []);
        assert_eq!(options.authorities().unwrap().unwrap().len(), 2);
        assert_eq!(TlsOptions::default().violations(), []);
        for name in ["localhost", "a_b.example", "192.0.2.1", "2001:db8::1"] {
            assert!(TlsOptions { server_name: name.into(), ..Default::default() }.name().is_ok(), "{name}");
        }
    }

    #[test]
    fn a_violation_names_its_field() {
        let (certificate, key) = issued();
        for name in [
            " ",
            "a b",
            "a ",
            "hooks.example.com:443",
            "https://a",
            "ä.example",
            "*.example.com",
            &"a.".repeat(127),
        ] {
            let options = TlsOptions { server_name: name.to_owned(), ..Default::default() };
            assert_violation(&options, SERVER_NAME, "must be a name");
        }
        let trusting = |text: &str| TlsOptions { ca_certificates: text.to_owned(), ..Default::default() };
        let unreadable = "-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n";
        assert_violation(&trusting("nonsense"), CA_CERTIFICATES, "must be in PEM");
        assert_violation(&trusting(&certificate[..certificate.len() - 40]), CA_CERTIFICATES, "is damaged");
        assert_violation(&trusting(unreadable), CA_CERTIFICATES, "cannot be used: number 1");
        assert_violation(&trusting(&format!("{certificate}{key}")), CA_CERTIFICATES, "certificates only");
        assert_violation(
            &trusting(&certificate.repeat(CA_CERTIFICATES_MAX + 1)),
            CA_CERTIFICATES,
            "at most 16",
        );
        assert_violation(
            &trusting(&" ".repeat(CA_CERTIFICATES_BYTES_MAX + 1)),
            CA_CERTIFICATES,
            "32768 bytes",
        );

        assert_violation(&with_identity("", &key), CLIENT_CERTIFICATE, "go together");
        let keyless = TlsOptions { client_key: None, ..with_identity(&certificate, "") };
        assert_violation(&keyless, CLIENT_KEY, "go together");
        assert_violation(&with_identity(unreadable, &key), CLIENT_CERTIFICATE, "cannot be used: number 1");
        assert_violation(
            &with_identity(&format!("{certificate}{key}"), &key),
            CLIENT_CERTIFICATE,
            "certificates only",
        );
        assert_violation(&with_identity(&certificate, &issued().1), CLIENT_KEY, "is not the key of");
        assert_violation(
            &with_identity(&certificate, "nonsense"),
            CLIENT_KEY,
            "must be a private key in PEM",
        );
        let sealed = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        assert_violation(&with_identity(&certificate, &sealed), CLIENT_KEY, "must not be encrypted");
        let odd = "-----BEGIN PRIVATE KEY-----\nAQID\n-----END PRIVATE KEY-----\n";
        assert_violation(&with_identity(&certificate, odd), CLIENT_KEY, "has an unsupported type");
        assert_violation(&with_identity(&certificate, &" ".repeat(8193)), CLIENT_KEY, "8192 bytes");
    }

    #[test]
    fn different_options_have_different_profile_ids() {
        let (certificate, key) = issued();
        let id =
            |options: &TlsOptions| TlsProfile::new(options.clone()).map(|profile| profile.id().to_owned());
        let options = with_identity(&certificate, &key);
        assert_eq!(id(&TlsOptions::default()), None);
        assert_eq!(id(&options), id(&options.clone()));
        let (other, other_key) = issued();
        let all = [
            options.clone(),
            TlsOptions { server_name: "a".into(), ..options.clone() },
            TlsOptions { ca_certificates: "a".into(), ..options },
            with_identity(&other, &key),
            with_identity(&certificate, &other_key),
        ];
        let ids: std::collections::HashSet<_> = all.iter().map(id).collect();
        assert_eq!(ids.len(), all.len());
    }

    #[test]
    fn a_key_is_never_shown() {
        let (certificate, key) = issued();
        let profile = TlsProfile::new(with_identity(&certificate, &key)).unwrap();
        let shown = format!("{profile:?}");
        assert!(
            shown.contains("***") && !shown.contains("PRIVATE") && !shown.contains(profile.id()),
            "{shown}"
        );
    }
}
