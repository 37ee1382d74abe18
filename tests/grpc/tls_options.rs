//! TLS options through the API: shown without the key, changed whole and in parts.

use rcgen::{CertificateParams, KeyPair};
use tidings::proto::v1;
use tonic::Code;

use crate::support::in_process::*;

/// A certificate and its key.
fn issued() -> (String, String) {
    let key = KeyPair::generate().expect("there is randomness");
    let params = CertificateParams::new(vec!["client.example".to_owned()]).expect("a name");
    (params.self_signed(&key).expect("it can be signed").pem(), key.serialize_pem())
}

/// A server with a subscription that has all options.
struct Stored {
    server: TidingsInProcess,
    options: v1::TlsOptions,
    key: String,
}

impl Stored {
    async fn new() -> Self {
        let server = TidingsInProcess::start().await;
        let (client_certificate, key) = issued();
        let options = v1::TlsOptions {
            server_name: "inner.example".into(),
            ca_certificates: issued().0,
            client_certificate,
            client_key: key.clone(),
        };
        let mut request = create("crm", "https://crm.example.com/");
        request.subscription.as_mut().expect("it is set").tls = Some(options.clone());
        server.client.create(request).await.unwrap();
        let created = server.client.subscription(CRM).await;
        let options = v1::TlsOptions { client_key: "***".into(), ..options };
        assert_eq!(created.tls.as_ref(), Some(&options));
        Self { server, options, key }
    }

    async fn try_update(
        &self,
        change: v1::Subscription,
        paths: &[&str],
    ) -> Result<v1::Subscription, tonic::Status> {
        self.server.client.try_update(v1::Subscription { name: CRM.into(), ..change }, paths).await
    }

    /// The stored options after a change of those at these paths.
    async fn update(&self, options: Option<v1::TlsOptions>, paths: &[&str]) -> Option<v1::TlsOptions> {
        let change = v1::Subscription { tls: options, ..Default::default() };
        self.try_update(change, paths).await.expect("it can be changed").tls
    }

    /// The key that is shown with the certificate.
    fn key(&self) -> Option<String> {
        let name = CRM.parse().expect("a name");
        let stored = self.server.store.registry().by_name(&name).expect("it is there");
        let key = stored.settings.tls.as_ref()?.options().client_key.as_ref()?;
        Some(key.expose().to_owned())
    }
}

#[tokio::test]
async fn three_stars_keep_the_stored_key() {
    let stored = Stored::new().await;
    // The options that were read are sent back.
    assert_eq!(stored.update(Some(stored.options.clone()), &["tls"]).await.as_ref(), Some(&stored.options));
    assert_eq!(stored.key().as_ref(), Some(&stored.key));
    // With another name, and without a mask.
    let renamed = v1::TlsOptions { server_name: "other.example".into(), ..stored.options.clone() };
    assert_eq!(stored.update(Some(renamed.clone()), &[]).await, Some(renamed));
    assert_eq!(stored.key().as_ref(), Some(&stored.key));
    // It does not fit to another certificate.
    let other = v1::TlsOptions { client_certificate: issued().0, ..stored.options.clone() };
    let change = v1::Subscription { tls: Some(other), ..Default::default() };
    let status = stored.try_update(change, &["tls"]).await.unwrap_err();
    let expected =
        (Code::InvalidArgument, "FIELD_INVALID".into(), vec!["subscription.tls.client_key".into()]);
    assert_eq!(in_short(&status), expected);
    assert!(!status.message().contains("PRIVATE"), "{status:?}");
    stored.server.stop().await;
}

#[tokio::test]
async fn options_change_in_parts_and_are_removed_as_a_whole() {
    let stored = Stored::new().await;
    let (certificate, key) = issued();
    let identity = v1::TlsOptions {
        client_certificate: certificate.clone(),
        client_key: key.clone(),
        ..Default::default()
    };
    let paths = ["tls.client_certificate", "tls.clientKey"];
    let rotated = v1::TlsOptions { client_certificate: certificate, ..stored.options.clone() };
    assert_eq!(stored.update(Some(identity), &paths).await.as_ref(), Some(&rotated));
    assert_eq!(stored.key(), Some(key));

    let bare = v1::TlsOptions { client_certificate: String::new(), client_key: String::new(), ..rotated };
    assert_eq!(stored.update(None, &paths).await.as_ref(), Some(&bare));
    assert_eq!(stored.key(), None);
    let named = v1::TlsOptions { ca_certificates: String::new(), ..bare };
    assert_eq!(stored.update(None, &["tls.ca_certificates"]).await, Some(named));
    assert_eq!(stored.update(None, &["tls.server_name"]).await, None);
    stored.server.stop().await;
}

#[tokio::test]
async fn a_url_becomes_plain_only_without_options() {
    let stored = Stored::new().await;
    let plain = v1::Subscription { url: "http://crm.example.com/".into(), ..Default::default() };
    let status = stored.try_update(plain.clone(), &["url"]).await.unwrap_err();
    assert_eq!(in_short(&status).2, ["subscription.url"]);
    let updated = stored.try_update(plain, &["url", "tls"]).await.unwrap();
    assert_eq!((updated.url.as_str(), updated.tls), ("http://crm.example.com/", None));
    stored.server.stop().await;
}
