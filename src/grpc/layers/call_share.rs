//! The share of the pools that a call draws on, and the streams of its connection.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use crate::limits::{ConnectionState, ShareKey};

/// What the calls of one connection have in common.
#[derive(Debug)]
pub(in crate::grpc) struct ConnectionShare {
    address: ShareKey,
    streams: AtomicUsize,
    state: Option<ConnectionState>,
}

impl ConnectionShare {
    /// A connection from an address, and what its listener knows of it, if it has one.
    pub(in crate::grpc) fn new(address: ShareKey, state: Option<ConnectionState>) -> Arc<Self> {
        Arc::new(Self { address, streams: AtomicUsize::new(0), state })
    }

    /// A call on it.
    pub(in crate::grpc) fn call(self: &Arc<Self>) -> CallShare {
        CallShare(Arc::new(Call { proven: OnceLock::new(), connection: Arc::clone(self) }))
    }
}

/// The share of a call: that of its address, until access control knows the caller. It is in the extensions of
/// the request. Clones are the same call.
#[derive(Clone, Debug)]
pub(in crate::grpc) struct CallShare(Arc<Call>);

#[derive(Debug)]
struct Call {
    proven: OnceLock<ShareKey>,
    connection: Arc<ConnectionShare>,
}

impl CallShare {
    /// Notes the caller that has proven who it is.
    pub(super) fn prove(&self, caller: ShareKey) {
        // Access control runs once for each call.
        self.0.proven.get_or_init(|| caller);
    }

    /// Notes that a client of the connection has access to more than what is open to everybody.
    pub(super) fn prove_connection(&self) {
        if let Some(state) = &self.0.connection.state {
            state.prove();
        }
    }

    /// The share to draw on.
    pub(in crate::grpc) fn key(&self) -> ShareKey {
        self.0.proven.get().copied().unwrap_or(self.0.connection.address)
    }

    /// Counts a stream of the connection; `None` if it has `max` already.
    pub(super) fn open_stream(&self, max: usize) -> Option<OpenStream> {
        let connection = Arc::clone(&self.0.connection);
        let before = connection.streams.fetch_add(1, Relaxed);
        // Dropped, and so counted off, if there are too many.
        let stream = OpenStream(connection);
        (before < max).then_some(stream)
    }
}

/// An open stream of a connection, until this is dropped.
#[derive(Debug)]
pub(super) struct OpenStream(Arc<ConnectionShare>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_draws_on_its_address_until_its_caller_is_known() {
        let address = ShareKey::of_address(Some("192.0.2.1".parse().unwrap()));
        let connection = ConnectionShare::new(address, None);
        let (call, other) = (connection.call(), connection.call());
        call.clone().prove(ShareKey::of_name("accessTokens/ci"));
        assert_eq!(call.key(), ShareKey::of_name("accessTokens/ci"));
        assert_eq!(other.key(), address, "another call may have another caller");
    }

    #[test]
    fn the_streams_of_a_connection_are_bounded() {
        let connection = ConnectionShare::new(ShareKey::Local, None);
        let one = connection.call().open_stream(2).expect("the first");
        let _two = connection.call().open_stream(2).expect("the second");
        assert!(connection.call().open_stream(2).is_none());
        assert!(connection.call().open_stream(2).is_none());
        drop(one);
        assert!(connection.call().open_stream(2).is_some());
    }
}
