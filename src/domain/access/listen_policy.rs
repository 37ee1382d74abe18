//! The policy for listening: with authentication, on loopback, or open to the network if the operator asks
//! for that.

use std::{fmt, net::IpAddr};

/// The facts that the decision depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenContext {
    /// The listen address is a loopback one.
    pub loopback: bool,
    /// Access tokens are configured: calls need one.
    pub tokens: bool,
    /// Clients authenticate with a certificate.
    pub certificates: bool,
    /// The configuration says what certificates grant.
    pub subjects: bool,
    /// The operator allows unauthenticated access.
    pub insecure: bool,
}

/// The callers that a listening gateway accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenPolicy {
    /// Callers with an access token, or a client certificate that the configuration grants something to.
    Authenticated,
    /// Every holder of a client certificate: nothing says what any of them may do.
    Certificates,
    /// Every process on this machine.
    Loopback,
    /// Anyone who can connect; the operator asked for it.
    Insecure,
}

/// The gateway would be open to the network, and the operator did not ask for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "anyone who can connect would have full access: configure an access token (admin_token_file, or TIDINGS_ADMIN_TOKEN in the \
     environment), listen on a loopback address, or set insecure"
)]
pub struct OpenToNetwork;

/// The policy for a listener; refused if it would be open to the network by mistake.
///
/// # Errors
///
/// See [`OpenToNetwork`].
pub const fn listen_policy(asked: ListenContext) -> Result<ListenPolicy, OpenToNetwork> {
    match asked {
        ListenContext { tokens: true, .. } | ListenContext { certificates: true, subjects: true, .. } => {
            Ok(ListenPolicy::Authenticated)
        }
        ListenContext { certificates: true, .. } => Ok(ListenPolicy::Certificates),
        ListenContext { loopback: true, .. } => Ok(ListenPolicy::Loopback),
        ListenContext { insecure: true, .. } => Ok(ListenPolicy::Insecure),
        _ => Err(OpenToNetwork),
    }
}

impl ListenContext {
    /// Whether a listener on this address is reachable from this machine only.
    pub fn is_loopback(address: IpAddr) -> bool {
        address.to_canonical().is_loopback()
    }
}

impl fmt::Display for ListenPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Authenticated => {
                "every call needs an access token, or a client certificate whose subject grpc_client_subjects lists"
            }
            Self::Certificates => {
                "every holder of a client certificate has full access (no access token, no grpc_client_subjects): from the \
                 first access token on, certificates alone grant only what grpc_client_subjects lists"
            }
            Self::Loopback => {
                "no authentication: every process on this machine has full access (loopback address, no access token)"
            }
            Self::Insecure => "no authentication: anyone who can connect has full access (no access token)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_gateway_is_open_to_the_network_by_mistake() {
        for number in 0..32_u8 {
            let bit = |index: u8| number & (1 << index) != 0;
            let asked = ListenContext {
                loopback: bit(0),
                tokens: bit(1),
                certificates: bit(2),
                insecure: bit(3),
                subjects: bit(4),
            };
            let expected = match asked {
                _ if bit(1) || bit(2) && bit(4) => Ok(ListenPolicy::Authenticated),
                _ if bit(2) => Ok(ListenPolicy::Certificates),
                _ if bit(0) => Ok(ListenPolicy::Loopback),
                _ if bit(3) => Ok(ListenPolicy::Insecure),
                _ => Err(OpenToNetwork),
            };
            assert_eq!(listen_policy(asked), expected, "{asked:?}");
        }
    }

    #[test]
    fn loopback_is_this_machine_in_every_spelling() {
        for (address, loopback) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("0.0.0.0", false),
            ("::", false),
            ("10.0.0.1", false),
            ("::ffff:10.0.0.1", false),
        ] {
            assert_eq!(ListenContext::is_loopback(address.parse().unwrap()), loopback, "{address}");
        }
    }
}
