//! Settings of egress: allowed endpoints, proxies and additional certificate authorities.

use std::{ffi::OsString, fs, path::PathBuf};

use anyhow::Context;
use clap::Args;
use http::HeaderName;
use ipnet::IpNet;
use rustls::pki_types::CertificateDer;

use crate::{
    config::{
        ResolvedSettings,
        proxies::ProxySetting,
        quantities::{header_name, host, network},
    },
    delivery::http::client,
    domain::egress::{EgressPolicy, HostPattern, ProxyRules},
};

/// Settings of allowed endpoints, proxies and certificate authorities.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Egress")]
pub struct EgressSettings {
    /// Networks that endpoints may be in though they are not public: loopback, private and the like.
    ///
    /// A bare address is a network of one. The flag may be repeated.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = network)]
    pub egress_allow: Vec<IpNet>,
    /// Networks that endpoints may not be in, even if they are public or within egress_allow.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = network)]
    pub egress_deny: Vec<IpNet>,
    /// Headers that subscriptions may not set, by their names. Letter case does not matter.
    ///
    /// docs/security.md says which ones are worth it where egress_allow leads to services of yours. The flag may be
    /// repeated.
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = header_name)]
    pub egress_headers_deny: Vec<HeaderName>,
    /// A PEM file with certificate authorities to trust for https endpoints in addition to the system's.
    #[arg(long, value_name = "FILE")]
    pub egress_ca_file: Option<PathBuf>,
    /// An HTTP proxy for endpoints of both schemes, http://user:password@host:port, or none.
    ///
    /// Without it HTTPS_PROXY, HTTP_PROXY and NO_PROXY of the environment apply, in lower case too; `none`
    /// ignores them. The proxy resolves names. Other users of the machine can read a flag: a password is
    /// better in the file.
    #[arg(long, value_name = "URL", value_parser = ProxySetting::parse)]
    pub egress_proxy: Option<ProxySetting>,
    /// Endpoints that are reached without the proxy: names with all below them, addresses, networks, or *.
    ///
    /// Each with or without a port. The flag may be repeated.
    #[arg(long, value_name = "HOST", value_delimiter = ',', value_parser = host)]
    pub egress_no_proxy: Vec<HostPattern>,
}

impl EgressSettings {
    /// The policy for endpoints' addresses and subscriptions' headers.
    pub(super) fn policy(&self) -> EgressPolicy {
        EgressPolicy::new(self.egress_allow.clone())
            .denying(self.egress_deny.clone())
            .denying_headers(self.egress_headers_deny.clone())
    }

    /// The rules that select a proxy for an endpoint.
    pub(super) fn proxies(
        &self,
        environment: &[(OsString, OsString)],
        resolved: &mut ResolvedSettings,
    ) -> ProxyRules {
        let setting = self.egress_proxy.as_ref().unwrap_or(&ProxySetting::Environment);
        let mut faults = Vec::new();
        let rules = setting.rules(self.egress_no_proxy.clone(), environment, &mut faults);
        faults.into_iter().for_each(|fault| resolved.add_fault(fault));
        rules
    }

    /// The certificate authorities of `egress_ca_file`.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or contains no certificate.
    pub(super) fn extra_roots(&self) -> anyhow::Result<Vec<CertificateDer<'static>>> {
        let Some(file) = &self.egress_ca_file else { return Ok(Vec::new()) };
        let context = || format!("cannot read egress_ca_file {}", file.display());
        let pem = fs::read(file).with_context(context)?;
        let certificates = client::certificates(&pem).with_context(context)?;
        anyhow::ensure!(
            !certificates.is_empty(),
            "egress_ca_file {} contains no certificate",
            file.display()
        );
        Ok(certificates)
    }
}
