//! TLS options that are refused.

use rcgen::{CertificateParams, KeyPair};
use tidings::proto::v1;

use super::{
    call::*,
    subscriptions::{spoilt, update},
};

const SERVER_NAME: &str = "subscription.tls.server_name";
const CA_CERTIFICATES: &str = "subscription.tls.ca_certificates";
const CLIENT_CERTIFICATE: &str = "subscription.tls.client_certificate";
const CLIENT_KEY: &str = "subscription.tls.client_key";

fn tls(set: impl FnOnce(&mut v1::TlsOptions)) -> Call {
    let mut options = v1::TlsOptions::default();
    set(&mut options);
    spoilt(|subscription| subscription.tls = Some(options))
}

/// An update of the subscription, which has no options, at these paths.
fn change(paths: &[&str], set: impl FnOnce(&mut v1::TlsOptions)) -> Call {
    let mut options = v1::TlsOptions::default();
    set(&mut options);
    update(paths, |subscription| subscription.tls = Some(options))
}

pub fn tls_options() -> Vec<Line> {
    let issue = || {
        let key = KeyPair::generate().expect("there is randomness");
        let params = CertificateParams::new(vec!["client.example".to_owned()]).expect("a name");
        (params.self_signed(&key).expect("it can be signed").pem(), key.serialize_pem())
    };
    let ((certificate, key), (other, _)) = (issue(), issue());
    let identity = |certificate: &str, key: &str| {
        let (certificate, key) = (certificate.to_owned(), key.to_owned());
        |options: &mut v1::TlsOptions| (options.client_certificate, options.client_key) = (certificate, key)
    };
    let damaged = certificate.replacen('M', "!", 1);
    vec![
        invalid("a server name with a port", tls(|t| t.server_name = "a.example:443".into()), &[SERVER_NAME]),
        invalid("a server name in IDNA", tls(|t| t.server_name = "ä.example".into()), &[SERVER_NAME]),
        invalid("a server name of 254 bytes", tls(|t| t.server_name = "a.".repeat(127)), &[SERVER_NAME]),
        invalid("an authority that is no PEM", tls(|t| t.ca_certificates = "x".into()), &[CA_CERTIFICATES]),
        invalid("a damaged authority", tls(|t| t.ca_certificates = damaged), &[CA_CERTIFICATES]),
        invalid("a key for an authority", tls(|t| t.ca_certificates = key.clone()), &[CA_CERTIFICATES]),
        invalid(
            "too many authorities",
            tls(|t| t.ca_certificates = certificate.repeat(17)),
            &[CA_CERTIFICATES],
        ),
        invalid(
            "authorities of more than 32 KiB",
            tls(|t| t.ca_certificates = format!("{certificate}{}", " ".repeat(32 * 1024))),
            &[CA_CERTIFICATES],
        ),
        invalid("a certificate without a key", tls(identity(&certificate, "")), &[CLIENT_KEY]),
        invalid("a key without a certificate", tls(identity("", &key)), &[CLIENT_CERTIFICATE]),
        invalid("a key of another certificate", tls(identity(&other, &key)), &[CLIENT_KEY]),
        invalid("a key that is no PEM", tls(identity(&certificate, "x")), &[CLIENT_KEY]),
        invalid(
            "a key after the certificate",
            tls(identity(&format!("{certificate}{key}"), &key)),
            &[CLIENT_CERTIFICATE],
        ),
        invalid("three stars for a key in a creation", tls(identity(&certificate, "***")), &[CLIENT_KEY]),
        invalid(
            "several faults of tls at once",
            tls(|t| (t.server_name, t.ca_certificates) = (" ".into(), "x".into())),
            &[SERVER_NAME, CA_CERTIFICATES],
        ),
        invalid(
            "tls options for a plain URL",
            spoilt(|s| {
                let server_name = "a.example".into();
                s.tls = Some(v1::TlsOptions { server_name, ..Default::default() });
                s.url = "http://new.example.com/".into();
            }),
            &["subscription.tls"],
        ),
        invalid(
            "a key alone in an update",
            change(&["tls.client_key"], |t| t.client_key = key),
            &[CLIENT_CERTIFICATE],
        ),
        invalid(
            "three stars for a key that is not stored",
            change(&["tls"], identity(&certificate, "***")),
            &[CLIENT_KEY],
        ),
        invalid("a mask of no tls option", change(&["tls.insecure"], |_| ()), &["update_mask.paths[0]"]),
        invalid(
            "tls options and a plain URL in an update",
            update(&["tls", "url"], |s| {
                let server_name = "a.example".into();
                s.tls = Some(v1::TlsOptions { server_name, ..Default::default() });
                s.url = "http://crm.example.com/".into();
            }),
            &["subscription.tls"],
        ),
    ]
}
