//! Credentials: the access token, the client certificate, and the authorities to trust.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use anyhow::{Context, ensure};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tonic::metadata::{Ascii, MetadataValue};

use super::target::{Target, TokenSource};
use crate::{
    config::TOKEN_ENVIRONMENT,
    domain::{access::TOKEN_CHARS_MAX, secret::Secret, subscription::tls::provider},
};

/// Largest token file, in bytes. The token may have white space around it.
const TOKEN_FILE_BYTES_MAX: u64 = 4 * TOKEN_CHARS_MAX as u64;
/// Largest PEM file, in bytes. System bundles have a few hundred thousand.
const PEM_FILE_BYTES_MAX: u64 = 4 << 20;

/// The `authorization` metadata, if there is a token. Errors never contain the token.
///
/// # Errors
///
/// The token cannot be read, or it is malformed.
pub(super) fn token(source: &TokenSource) -> anyhow::Result<Option<MetadataValue<Ascii>>> {
    let text = match source {
        TokenSource::None => return Ok(None),
        TokenSource::File(file) => {
            let context = || format!("cannot read the token file {}", file.display());
            let bytes = read(file, TOKEN_FILE_BYTES_MAX).with_context(context)?;
            Secret::new(
                String::from_utf8(bytes)
                    .map_err(|_| anyhow::anyhow!("it is not UTF-8"))
                    .with_context(context)?,
            )
        }
        TokenSource::Variable(value) => {
            let text = value.clone().into_string();
            Secret::new(text.map_err(|_| anyhow::anyhow!("{TOKEN_ENVIRONMENT} is not UTF-8"))?)
        }
    };
    let token = text.expose().trim();
    ensure!(
        !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()),
        "the access token must be one word of visible ASCII characters"
    );
    let mut value: MetadataValue<Ascii> =
        format!("Bearer {token}").parse().context("the access token cannot be sent")?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// The TLS configuration, for https.
///
/// # Errors
///
/// A file cannot be read or parsed, or the system has no certificate authorities.
pub(super) fn tls(target: &Target) -> anyhow::Result<Option<Arc<ClientConfig>>> {
    if !target.address.is_https() {
        return Ok(None);
    }
    let roots = match &target.ca {
        Some(file) => authorities(file).with_context(|| format!("cannot use --ca {}", file.display()))?,
        None => system_authorities()?,
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match &target.client_certificate {
        Some((cert, key)) => {
            let chain =
                certificates(cert).with_context(|| format!("cannot use --cert {}", cert.display()))?;
            let context = || format!("cannot use --key {}", key.display());
            let pem = read(key, PEM_FILE_BYTES_MAX).with_context(context)?;
            let key = PrivateKeyDer::from_pem_slice(&pem)
                .context("it contains no private key")
                .with_context(context)?;
            builder.with_client_auth_cert(chain, key).with_context(context)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Some(Arc::new(config)))
}

fn authorities(file: &Path) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for (index, certificate) in certificates(file)?.into_iter().enumerate() {
        roots
            .add(certificate)
            .with_context(|| format!("certificate {} in it is not one of an authority", index + 1))?;
    }
    Ok(roots)
}

fn system_authorities() -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    // A bundle may contain certificates in obsolete formats.
    let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    ensure!(added > 0, "the system has no certificate authorities: use --ca");
    Ok(roots)
}

fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let pem = read(file, PEM_FILE_BYTES_MAX)?;
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().context("it is not PEM")?;
    ensure!(!found.is_empty(), "it contains no certificate");
    Ok(found)
}

fn read(file: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(file)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("it has more than {bytes_max} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_about_a_malformed_token_does_not_contain_it() {
        for wrong in ["two words", "  ", "caf\u{e9}-secret", "a\nsecret"] {
            let error = format!("{:#}", token(&TokenSource::Variable(wrong.into())).unwrap_err());
            assert!(!error.contains("secret") && !error.contains("words"), "{error}");
        }
        let value = token(&TokenSource::Variable(" word\n".into())).unwrap().unwrap();
        assert_eq!(value.to_str().unwrap(), "Bearer word");
        assert!(!format!("{value:?}").contains("word"));
    }
}
