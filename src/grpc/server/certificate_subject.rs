//! The subject of a certificate, as text.

use std::fmt::Write;

use rustls::pki_types::CertificateDer;
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    objects::{oid_registry, oid2abbrev},
    prelude::FromDer,
    x509::{AttributeTypeAndValue, X509Name},
};

/// Longest accepted subject, in bytes of its text. Every call carries it.
const SUBJECT_BYTES_MAX: usize = 1024;

/// The subject of a verified certificate: `CN=publisher,O=Acme`, in the order of the certificate and
/// otherwise as RFC 4514 writes it. Without a subject, the first URI or DNS name is used:
/// `URI=spiffe://acme/publisher`.
///
/// # Errors
///
/// The certificate cannot be read, has no subject and no name, or too long a one.
pub(super) fn subject(certificate: &CertificateDer<'_>) -> Result<String, String> {
    let certificate = parse(certificate)?;
    let mut subject = written(certificate.subject());
    if subject.is_empty() {
        subject = alternative(&certificate).ok_or("has neither a subject nor a URI or DNS name")?;
    }
    if subject.len() > SUBJECT_BYTES_MAX {
        return Err(format!("has a subject of {} bytes, more than {SUBJECT_BYTES_MAX}", subject.len()));
    }
    Ok(subject)
}

/// The subject of the server's own certificate, which may be empty, and its expiry in seconds since 1970.
pub(super) fn subject_and_expiry(certificate: &CertificateDer<'_>) -> Result<(String, i64), String> {
    let certificate = parse(certificate)?;
    Ok((written(certificate.subject()), certificate.validity().not_after.timestamp()))
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    let parsed = X509Certificate::from_der(certificate);
    parsed.map(|(_, certificate)| certificate).map_err(|error| format!("holds no X.509 certificate: {error}"))
}

fn written(name: &X509Name<'_>) -> String {
    let parts = name.iter().map(|part| part.iter().map(attribute).collect::<Vec<_>>().join("+"));
    parts.collect::<Vec<_>>().join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type();
    let kind = oid2abbrev(oid, oid_registry()).map_or_else(|_| oid.to_id_string(), str::to_owned);
    match attribute.as_str() {
        Ok(text) => format!("{kind}={}", escaped(text)),
        Err(_) => format!("{kind}=#{}", hex(attribute.as_slice())),
    }
}

fn alternative(certificate: &X509Certificate<'_>) -> Option<String> {
    let names = &certificate.subject_alternative_name().ok()??.value.general_names;
    names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => Some(format!("URI={}", escaped(uri))),
        GeneralName::DNSName(name) => Some(format!("DNS={}", escaped(name))),
        _ => None,
    })
}

/// A value, escaped so that it cannot contain a separator.
fn escaped(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (at, character) in value.chars().enumerate() {
        let at_an_end = (at == 0 && matches!(character, ' ' | '#')) || (at == last && character == ' ');
        if character.is_control() {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                write!(escaped, "\\{byte:02x}").expect("a string takes everything");
            }
            continue;
        }
        if at_an_end || matches!(character, ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(parts: &[(DnType, &str)], names: Vec<SanType>) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in parts {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.subject_alt_names = names;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().into()
    }

    #[test]
    fn different_subjects_are_written_differently() {
        let (cn, o) = (DnType::CommonName, DnType::OrganizationName);
        for (parts, expected) in [
            (vec![(cn.clone(), "publisher")], "CN=publisher"),
            (vec![(cn.clone(), "publisher"), (o.clone(), "Acme, Inc.")], r"CN=publisher,O=Acme\, Inc."),
            (vec![(cn.clone(), "publisher,O=Acme")], r"CN=publisher\,O\=Acme"),
            (vec![(cn.clone(), "#1 \"a\\b\" ")], r#"CN=\#1 \"a\\b\"\ "#),
            (vec![(cn.clone(), "a\nb\u{7f}")], r"CN=a\0ab\7f"),
            (vec![(cn, "Zoë")], "CN=Zoë"),
        ] {
            assert_eq!(subject(&certificate(&parts, vec![])).unwrap(), expected);
        }
    }

    #[test]
    fn without_a_subject_the_first_name_is_used() {
        let uri = SanType::URI("spiffe://acme/publisher".try_into().unwrap());
        let dns = SanType::DnsName("publisher.acme".try_into().unwrap());
        let found = |names| subject(&certificate(&[], names));
        assert_eq!(found(vec![uri.clone(), dns.clone()]).unwrap(), "URI=spiffe://acme/publisher");
        assert_eq!(found(vec![dns]).unwrap(), "DNS=publisher.acme");
        assert_eq!(found(vec![]).unwrap_err(), "has neither a subject nor a URI or DNS name");
    }

    #[test]
    fn long_subjects_and_malformed_certificates_are_rejected() {
        let long = "x".repeat(SUBJECT_BYTES_MAX);
        let refused = subject(&certificate(&[(DnType::CommonName, &long)], vec![])).unwrap_err();
        assert_eq!(refused, "has a subject of 1027 bytes, more than 1024");
        for length in [0, 1, 100] {
            let refused = subject(&CertificateDer::from(vec![0x30; length])).unwrap_err();
            assert!(refused.starts_with("holds no X.509 certificate: "), "{refused}");
        }
    }
}
