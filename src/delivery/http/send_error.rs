//! Why a request got no response, and whether it may be sent again.

use h2::Reason;

use super::connection::ConnectError;

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// There is no connection.
    #[error(transparent)]
    Connect(ConnectError),
    /// The connection broke before the response.
    #[error("{error}")]
    Broken {
        /// The error.
        error: hyper::Error,
        /// It has carried a response before.
        kept: bool,
        /// Whether the request may be sent again.
        resend: Resend,
    },
}

/// Whether a request that got no response may be sent again in the same attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Resend {
    /// No: the receiver may have processed it.
    #[default]
    Never,
    /// Once: its connection was kept from an earlier request, and the receiver may have closed it as idle
    /// just when the request was sent.
    Once,
    /// Yes: the receiver has certainly not processed it.
    Unprocessed,
}

/// Whether the receiver has said that it did not process the request of a stream that ended so: the stream is
/// above the last one that a GOAWAY names, or was refused (RFC 9113, 8.7), or HTTP/2 itself was.
pub(crate) fn is_unprocessed(error: &hyper::Error) -> bool {
    // A stream up to the last one of a GOAWAY goes on, and ends with another error if the connection does.
    of_http2(error).is_some_and(|error| {
        let refuses = matches!(error.reason(), Some(Reason::REFUSED_STREAM | Reason::HTTP_1_1_REQUIRED));
        error.is_remote() && (error.is_go_away() || refuses)
    })
}

/// Whether the receiver has said that the request needs HTTP/1.1.
pub(crate) fn requires_http1(error: &hyper::Error) -> bool {
    of_http2(error)
        .is_some_and(|error| error.is_remote() && error.reason() == Some(Reason::HTTP_1_1_REQUIRED))
}

/// The error of HTTP/2 behind this one.
pub(crate) fn of_http2(error: &hyper::Error) -> Option<&h2::Error> {
    std::error::Error::source(error).and_then(|source| source.downcast_ref())
}
