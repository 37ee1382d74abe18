//! Whether a gateway may listen where it was told to: to whoever reaches it, or to those alone who prove who they are.

use std::{fmt, net::IpAddr};

/// What the decision is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenContext {
    /// Where it is to listen is reached from this machine alone.
    pub loopback: bool,
    /// There are access tokens: calls need one.
    pub tokens: bool,
    /// Clients prove with a certificate who they are.
    pub certificates: bool,
    /// The operator wants it whatever follows.
    pub insecure: bool,
}

/// Who may call a gateway that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenPolicy {
    /// Whoever has a token, or a certificate where these are asked for.
    Proven,
    /// Everybody on this machine.
    Loopback,
    /// Everybody who reaches it, as the operator wants it.
    Insecure,
}

/// Everybody who reaches it could call a gateway there, and the operator did not ask for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "everybody who reaches it could call: configure an access token (admin_token_file, or TIDINGS_ADMIN_TOKEN in the \
     environment), listen on a loopback address, or set insecure"
)]
pub struct OpenToNetwork;

/// Who may call; refused if that would be everybody in the network by mistake.
///
/// # Errors
///
/// See [`OpenToNetwork`].
pub const fn listen_policy(asked: ListenContext) -> Result<ListenPolicy, OpenToNetwork> {
    match asked {
        ListenContext { tokens: true, .. } | ListenContext { certificates: true, .. } => {
            Ok(ListenPolicy::Proven)
        }
        ListenContext { loopback: true, .. } => Ok(ListenPolicy::Loopback),
        ListenContext { insecure: true, .. } => Ok(ListenPolicy::Insecure),
        _ => Err(OpenToNetwork),
    }
}

impl ListenContext {
    /// Whether what listens on this address is reached from this machine alone.
    pub fn is_loopback(address: IpAddr) -> bool {
        address.to_canonical().is_loopback()
    }
}

impl fmt::Display for ListenPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Proven => "every call needs an access token or a client certificate",
            Self::Loopback => {
                "everybody on this machine may call everything: there is no access token, and the address is a loopback one"
            }
            Self::Insecure => "everybody who reaches this address may call everything: there is no access token",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_listens_to_the_network_by_mistake() {
        for number in 0..16_u8 {
            let bit = |place: u8| number & (1 << place) != 0;
            let asked =
                ListenContext { loopback: bit(0), tokens: bit(1), certificates: bit(2), insecure: bit(3) };
            let expected = match asked {
                _ if bit(1) || bit(2) => Ok(ListenPolicy::Proven),
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
