//! The caller of a method.

use std::{fmt, net::SocketAddr};

/// The other end of a connection on which calls are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Its address; `None` where the transport has none.
    pub address: Option<SocketAddr>,
    /// The subject of its verified client certificate; `None` without one.
    pub certificate: Option<String>,
}

/// The part of the gateway that makes a call for somebody, such as `console`. It travels in the extensions of
/// a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via(pub &'static str);

/// The authenticated identity of a caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Principal {
    /// No authentication is required.
    #[default]
    Anonymous,
    /// The holder of an access token: its resource name, such as `accessTokens/ci`.
    Token(String),
    /// The holder of a client certificate: its subject, such as `CN=publisher`.
    Certificate(String),
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::Token(name) => f.write_str(name),
            Self::Certificate(subject) => write!(f, "certificates/{subject}"),
        }
    }
}

/// The caller of a method, and its address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Its identity.
    pub principal: Principal,
    /// The other end of its connection.
    pub peer: Peer,
}
