//! Endpoints behind an HTTP proxy: how they are reached, and the result for every way in which a proxy can
//! fail.

use std::time::Duration;

use http::Version;
use tidings::domain::{
    delivery::Outcome,
    egress::{HostPattern, Proxy, ProxyRules},
};

use crate::{
    attempt::sender::Sender,
    support::{
        closed_address,
        http_proxy::http_proxy,
        receiver::{OK, Receiver, Response, Tls},
    },
};

/// The credentials that the proxies want, in the URL and in the header.
const USER: &str = "user:hunter2@";
const AUTHORIZATION: &str = "Basic dXNlcjpodW50ZXIy";

fn rules(url: &str) -> ProxyRules {
    let proxy = Proxy::parse(url).unwrap();
    ProxyRules { http: Some(proxy.clone()), https: Some(proxy), direct: Vec::new() }
}

/// The heads of all requests of a proxy.
fn heads(proxy: &Receiver) -> Vec<String> {
    proxy.seen().into_iter().map(|request| request.head).collect()
}

impl Sender {
    /// One that reaches everything by this proxy.
    pub fn by(url: &str) -> Self {
        Self::with(|settings| settings.proxies = rules(url))
    }
}

#[tokio::test]
async fn an_https_endpoint_is_reached_by_a_tunnel_that_is_kept() {
    for (protocols, version) in [(["h2"], Version::HTTP_2), (["http/1.1"], Version::HTTP_11)] {
        let proxy = http_proxy(Some(AUTHORIZATION)).await;
        let receiver =
            Receiver::with_tls(Tls { protocols: &protocols, name: "receiver.test", ..Tls::default() }).await;
        let sender = Sender::with(|settings| {
            settings.proxies = rules(&format!("http://{USER}{}", proxy.address));
            settings.extra_roots = vec![receiver.authority().der()];
        });
        for _ in 0..3 {
            let attempt = sender.post(&receiver.url_at("receiver.test", "/hook")).await;
            assert_eq!((attempt.outcome, attempt.http_status), (Outcome::Ok, 200), "{}", attempt.error);
        }
        let host = format!("receiver.test:{}", receiver.address.port());
        let agent = concat!("tidings/", env!("CARGO_PKG_VERSION"));
        let asked = format!(
            "CONNECT {host} HTTP/1.1\r\nhost: {host}\r\nuser-agent: {agent}\r\n\
             proxy-authorization: {AUTHORIZATION}\r\n\r\n"
        );
        assert_eq!(heads(&proxy), [asked]);
        let seen = receiver.seen();
        assert!(seen.iter().all(|request| request.version == version && request.connection == 0));
        // Headers for the proxy do not get to the endpoint.
        assert!(seen.iter().all(|request| !request.headers.contains_key("proxy-authorization")));
    }
}

#[tokio::test]
async fn an_http_endpoint_is_reached_by_requests_that_name_it_over_a_connection_that_is_kept() {
    let proxy = http_proxy(Some(AUTHORIZATION)).await;
    let mut receiver = Receiver::always(Response::bytes(OK)).await;
    let sender = Sender::by(&format!("http://{USER}{}", proxy.address));
    let host = format!("receiver.test:{}", receiver.address.port());
    for _ in 0..3 {
        let attempt = sender.post(&format!("http://{host}/hook?a=b")).await;
        assert_eq!((attempt.outcome, attempt.http_status), (Outcome::Ok, 200), "{}", attempt.error);
        let received = receiver.next().await;
        assert!(received.head.starts_with("POST /hook?a=b HTTP/1.1\r\n"), "{}", received.head);
        assert!(received.head.contains(&format!("\r\nHost: {host}\r\n")), "{}", received.head);
        assert!(!received.body.is_empty());
    }
    let line = format!("POST http://{host}/hook?a=b HTTP/1.1\r\n");
    assert!(heads(&proxy).len() == 3 && heads(&proxy).iter().all(|head| head.starts_with(&line)));
    assert_eq!(proxy.connections(), 1);
}

#[tokio::test]
async fn a_kept_connection_to_a_proxy_that_broke_costs_a_second_try_and_no_attempt() {
    let mut receiver = Receiver::on_connections(|mut connection| async move {
        connection.request().await;
        connection.send(OK).await;
        connection.request().await;
        if connection.number == 0 {
            connection.reset();
        } else {
            connection.send(OK).await;
        }
    })
    .await;
    // It would be a proxy of requests: its address is asked instead.
    let sender = Sender::by(&format!("http://{USER}{}", receiver.address));
    for _ in 0..3 {
        assert_eq!(sender.post("http://receiver.test/hook").await.outcome, Outcome::Ok);
    }
    let connections: Vec<_> = receiver.take_all().iter().map(|request| request.connection).collect();
    assert_eq!(connections, [0, 0, 1, 1]);
}

#[tokio::test]
async fn an_address_that_is_not_posted_to_is_not_by_a_proxy_either() {
    let proxy = http_proxy(None).await;
    let sender = Sender::by(&format!("http://{}", proxy.address));
    let mut tries = 0;
    for host in
        ["10.0.0.1", "169.254.169.254", "[fd00::1]", "[::ffff:10.0.0.1]", "0xa000001", "[64:ff9b::a00:1]"]
    {
        for scheme in ["http", "https"] {
            let attempt = sender.post(&format!("{scheme}://{host}:1234/")).await;
            assert_eq!(attempt.outcome, Outcome::Blocked, "{host}: {}", attempt.error);
            tries += 1;
        }
    }
    assert_eq!((tries, proxy.connections()), (12, 0));
}

#[tokio::test]
async fn this_machine_and_excepted_hosts_are_reached_directly() {
    let proxy = http_proxy(None).await;
    let mut receiver = Receiver::always(Response::bytes(OK)).await;
    let sender = Sender::with(|settings| {
        settings.proxies = rules(&format!("http://{}", proxy.address));
        settings.proxies.direct = vec![HostPattern::parse("excepted.invalid").unwrap()];
    });
    for host in ["localhost", "127.0.0.1"] {
        let attempt = sender.post(&format!("http://{host}:{}/", receiver.address.port())).await;
        assert_eq!(attempt.outcome, Outcome::Ok, "{}", attempt.error);
        receiver.next().await;
    }
    let attempt = sender.post("https://a.excepted.invalid/").await;
    assert!(attempt.error.starts_with("a.excepted.invalid did not resolve: "), "{}", attempt.error);
    assert_eq!(proxy.connections(), 0);
    // And judged: this one may not be POSTed to.
    let settings = |settings: &mut tidings::delivery::http::client::WebhookClientSettings| {
        settings.proxies = rules(&format!("http://{}", proxy.address));
        settings.egress = Default::default();
    };
    let attempt = Sender::with(settings).post("https://localhost:1/").await;
    assert_eq!(attempt.outcome, Outcome::Blocked, "{}", attempt.error);
    assert_eq!(proxy.connections(), 0);
}

/// Demands this end of an attempt by a proxy that responds so, to endpoints of each of these schemes.
async fn assert_fails(schemes: &[&str], response: Response, outcome: Outcome, error: &str) {
    for scheme in schemes {
        let proxy = Receiver::always(response.clone()).await;
        let sender = Sender::with(|settings| {
            settings.proxies = rules(&format!("http://{USER}{}", proxy.address));
            settings.connect_timeout = Duration::from_millis(500);
        });
        let attempt = sender.post(&format!("{scheme}://receiver.test/hook")).await;
        assert_eq!((attempt.outcome, &*attempt.error, attempt.http_status), (outcome, error, 0), "{scheme}");
        assert_eq!(attempt.response_body, "", "the proxy's response is not the endpoint's");
    }
}

#[tokio::test]
async fn the_status_of_a_proxy_that_refuses_is_in_the_error() {
    for (schemes, response, error) in [
        (
            &["https", "http"][..],
            "HTTP/1.1 407 Tell me hunter2\r\ncontent-length: 3\r\n\r\nwho",
            "the proxy refused: 407 Proxy Authentication Required",
        ),
        (
            &["https"],
            "HTTP/1.1 502 hunter2\r\ncontent-length: 7\r\n\r\nhunter2",
            "the proxy refused: 502 Bad Gateway",
        ),
        (
            &["https"],
            "HTTP/1.1 302 Found\r\nlocation: http://user:hunter2@a/\r\n\r\n",
            "the proxy refused: 302 Found",
        ),
    ] {
        assert_fails(schemes, Response::bytes(response), Outcome::Connect, error).await;
    }
}

#[tokio::test]
async fn a_proxy_that_talks_nonsense_is_reported() {
    let more = "HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let flood = Response::repeat("HTTP/1.1 200 OK\r\n", "x-more: of the same\r\n");
    for (response, error) in [
        (Response::bytes("SSH-2.0-OpenSSH_9.9\r\n"), "the proxy's response is not http"),
        (Response::bytes(more), "the proxy sent more than its response"),
        (flood, "the proxy's response is longer than 8192 bytes"),
        (Response::close(), "the proxy closed the connection before its response was complete"),
    ] {
        assert_fails(&["https"], response, Outcome::Connect, error).await;
    }
}

#[tokio::test]
async fn a_proxy_that_is_slow_is_given_up_in_the_time_for_connecting() {
    let dripping =
        Response::Repeat("HTTP/1.1 200 OK\r\nx: ".into(), "x".into(), 1, Duration::from_millis(20));
    for response in [Response::nothing(), dripping] {
        let error = "no connection by the proxy within 500ms";
        assert_fails(&["https"], response, Outcome::Timeout, error).await;
    }
}

#[tokio::test]
async fn a_proxy_that_is_down_is_reported_without_its_name() {
    let address = closed_address();
    let unresolved = format!("http://{USER}proxy.invalid");
    for (proxy, error) in [
        (format!("http://{USER}{address}"), "could not connect to the proxy: connection refused"),
        (unresolved, "the proxy's name did not resolve"),
    ] {
        for scheme in ["http", "https"] {
            let attempt = Sender::by(&proxy).post(&format!("{scheme}://receiver.test/hook")).await;
            assert_eq!((attempt.outcome, &*attempt.error), (Outcome::Connect, error));
        }
    }
}
