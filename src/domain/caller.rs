//! Who makes a call.

use std::{fmt, net::SocketAddr};

/// The other end of a connection on which calls are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Its address; `None` where the transport has none.
    pub address: Option<SocketAddr>,
    /// The subject of the client certificate that it proved to hold; `None` without one.
    pub certificate: Option<String>,
}

/// What a caller proved to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Principal {
    /// Nothing was asked for.
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

/// Who makes a call, and from where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Who.
    pub principal: Principal,
    /// From where.
    pub peer: Peer,
}
