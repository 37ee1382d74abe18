//! What went over the wire in one attempt, noted step by step by the layers that send it.
//!
//! An attempt runs in one task: its layers note things in a variable of that task, whoever wants them opens
//! it.

use std::{
    cell::RefCell,
    future::Future,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue};
use url::{Host, Url};

/// Most bytes of names and values that are kept of the headers of a response.
pub const RESPONSE_HEADERS_BYTES_KEPT: usize = 4096;

/// The wire's side of an attempt.
#[derive(Clone, Debug, Default)]
pub struct Exchange {
    /// The headers as sent, secret values replaced. A list: filling a map would cost each attempt more.
    pub request_headers: Vec<(HeaderName, HeaderValue)>,
    /// The headers of the response, up to [`RESPONSE_HEADERS_BYTES_KEPT`].
    pub response_headers: HeaderMap,
    /// The other end of the connection: the receiver, or a proxy. Callers see
    /// [`shown_address`](Exchange::shown_address).
    pub remote_address: Option<SocketAddr>,
    /// How long the name took to resolve; `None` on a connection that was kept.
    pub dns: Option<Duration>,
    /// How long TCP took to connect; `None` on a connection that was kept.
    pub connect: Option<Duration>,
    /// How long the TLS handshake took; `None` on a connection that was kept, and without TLS.
    pub tls: Option<Duration>,
    /// From sending the request to the head of the response.
    pub first_byte: Option<Duration>,
    /// How often the request was sent again.
    pub resent: u32,
    /// Nothing was sent: the gateway had no file descriptor free for a connection.
    pub lacked_descriptor: bool,
}

impl Exchange {
    /// The other end of the connection as callers may see it: only if it is the address in their URL. Neither the
    /// addresses of names nor those of proxies are theirs to know.
    pub fn shown_address(&self, url: &str) -> Option<SocketAddr> {
        let url = Url::parse(url).ok()?;
        let in_url: IpAddr = match url.host()? {
            Host::Ipv4(address) => address.into(),
            Host::Ipv6(address) => address.into(),
            Host::Domain(_) => return None,
        };
        self.remote_address.filter(|remote| remote.ip() == in_url)
    }
}

tokio::task_local! {
    // Boxed: it is moved with the futures of the attempt.
    static CURRENT: RefCell<Box<Exchange>>;
}

/// Runs an attempt, and returns what its layers noted as well.
pub async fn observe<T>(attempt: impl Future<Output = T>) -> (T, Box<Exchange>) {
    let observed = async {
        let result = attempt.await;
        (result, CURRENT.with(RefCell::take))
    };
    CURRENT.scope(RefCell::default(), observed).await
}

/// Notes something of the attempt that runs in this task, if somebody observes it.
pub fn note<T>(change: impl FnOnce(&mut Exchange) -> T) -> Option<T> {
    CURRENT.try_with(|exchange| change(&mut exchange.borrow_mut())).ok()
}

/// The headers of a response that are kept: the first ones, up to the bound.
pub fn kept_headers(headers: HeaderMap) -> HeaderMap {
    let bytes = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
    // Nearly all responses fit.
    if headers.iter().map(bytes).sum::<usize>() <= RESPONSE_HEADERS_BYTES_KEPT {
        return headers;
    }
    let (mut kept, mut room) = (HeaderMap::new(), RESPONSE_HEADERS_BYTES_KEPT);
    for (name, value) in &headers {
        let Some(left) = room.checked_sub(bytes((name, value))) else { break };
        room = left;
        kept.append(name, value.clone());
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn notes_belong_to_the_attempt_that_runs() {
        let attempt = |millis| async move {
            tokio::task::yield_now().await;
            note(|exchange| exchange.dns = Some(Duration::from_millis(millis)));
            millis
        };
        let ((one, first), (two, second)) = tokio::join!(observe(attempt(1)), observe(attempt(2)));
        assert_eq!((one, first.dns), (1, Some(Duration::from_millis(1))));
        assert_eq!((two, second.dns), (2, Some(Duration::from_millis(2))));
        assert_eq!(note(|_| ()), None, "nobody observes");
    }

    #[test]
    fn only_the_address_in_the_url_is_shown() {
        let remote = |address: &str| Exchange { remote_address: address.parse().ok(), ..Exchange::default() };
        let shown = |address, url| remote(address).shown_address(url).is_some();
        assert!(shown("127.0.0.1:8080", "http://127.0.0.1:8080/hook"));
        assert!(shown("[::1]:443", "https://[::1]/"));
        assert!(!shown("127.0.0.1:8080", "http://localhost:8080/hook"));
        assert!(!shown("10.0.0.1:3128", "http://192.0.2.1/"), "a proxy");
        assert!(!shown("", "http://127.0.0.1/"));
    }

    #[test]
    fn the_headers_that_are_kept_are_bounded() {
        let mut headers = HeaderMap::new();
        for _ in 0..100 {
            headers.append("x", HeaderValue::try_from("y".repeat(99)).unwrap());
        }
        assert_eq!(kept_headers(headers).len(), RESPONSE_HEADERS_BYTES_KEPT / 100);
    }
}
