//! The rules for what the owner of a subscription says about TLS.

use std::sync::Arc;

use super::Check;
use crate::{
    domain::{
        secret::{REDACTED, Secret},
        subscription::{Settings, TlsOptions, TlsProfile},
    },
    proto::v1,
};

impl Check<'_> {
    pub(super) fn tls_message(&self) -> v1::TlsOptions {
        self.message.tls.clone().unwrap_or_default()
    }

    /// `stored` has what `***` stands for.
    pub(super) fn tls(&mut self, stored: &TlsOptions) -> TlsOptions {
        let v1::TlsOptions { server_name, ca_certificates, client_certificate, client_key: _ } =
            self.tls_message();
        TlsOptions { server_name, ca_certificates, client_certificate, client_key: self.tls_key(stored) }
    }

    pub(super) fn tls_key(&mut self, stored: &TlsOptions) -> Option<Secret> {
        let key = self.tls_message().client_key;
        match key.as_str() {
            "" => None,
            REDACTED if stored.client_key.is_none() => {
                self.invalid("tls.client_key", "\"***\" keeps the stored key, and there is none");
                None
            }
            REDACTED => stored.client_key.clone(),
            _ => Some(Secret::new(key)),
        }
    }

    pub(super) fn tls_profile(&mut self, options: TlsOptions) -> Option<Arc<TlsProfile>> {
        // Where no key is kept, that it is missing says nothing new.
        if !self.has_fault("tls.client_key") {
            for fault in options.faults() {
                self.invalid(&format!("tls.{}", fault.field), fault.rule);
            }
        }
        TlsProfile::new(options).map(Arc::new)
    }

    /// Notes a fault of `field` if the URL leads to no TLS, and there are options for it.
    pub(super) fn tls_needs_https(&mut self, settings: &Settings, field: &str) {
        if settings.tls.is_some() && settings.url.scheme() != "https" && !self.has_fault("url") {
            let rule = match field {
                "tls" => "must not be set where the url is http: nothing would be encrypted",
                _ => "must be https: the subscription has tls options",
            };
            self.invalid(field, rule);
        }
    }

    fn has_fault(&self, field: &str) -> bool {
        self.faults.iter().any(|fault| fault.field == format!("{}.{field}", self.path))
    }
}
