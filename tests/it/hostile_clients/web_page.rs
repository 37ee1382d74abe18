//! A web page in the browser of somebody who may call: the browser shows that person's certificate, and sends
//! whatever the page says within the rules of the web.

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;

use crate::{
    it::tls::mutual,
    support::{
        certificates::{Authority, Valid},
        events::{message, publish_request},
        raw_http2,
        scrape::Scrape,
    },
};

const PUBLISH: &str = "/tidings.v1.EventService/PublishEvent";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_web_page_cannot_call_though_its_reader_may() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let reader = servers.trusting().showing(&clients.client("reader", Valid::Now));
    let gateway = mutual(&servers, &clients, &reader).start().await;
    let stream = reader.connect(gateway.grpc).await.unwrap();
    let (mut page, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let event = publish_request(1, "", message(1, 1, 1)).encode_to_vec();
    let body = Bytes::from(raw_http2::message(false, event.len(), &event));
    for (method, content_type, origin, status) in [
        // As a form sends it, or `fetch` without asking first.
        (Method::POST, Some("text/plain"), Some("https://elsewhere.example"), 403),
        (Method::POST, Some("application/x-www-form-urlencoded"), Some("null"), 403),
        (Method::POST, None, Some("https://elsewhere.example"), 403),
        (Method::POST, Some("application/json"), Some("https://elsewhere.example"), 403),
        (Method::POST, Some("application/grpc-web"), Some("https://elsewhere.example"), 403),
        (Method::POST, Some("application/grpc"), Some("https://elsewhere.example"), 403),
        (Method::OPTIONS, None, Some("https://elsewhere.example"), 403),
        // A browser that leaves the origin out.
        (Method::POST, Some("text/plain"), None, 415),
        (Method::POST, Some("application/x-www-form-urlencoded"), None, 415),
        (Method::POST, None, None, 415),
        (Method::OPTIONS, None, None, 405),
        (Method::GET, None, None, 405),
    ] {
        let mut request =
            Request::builder().method(method.clone()).uri(format!("https://localhost{PUBLISH}"));
        for (name, value) in [("content-type", content_type), ("origin", origin)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        let response = page.send_request(request.body(Full::new(body.clone())).unwrap()).await.unwrap();
        let (head, sent) = response.into_parts();
        assert_eq!(head.status, status, "{method} {content_type:?} {origin:?}");
        assert!(!head.headers.contains_key("access-control-allow-origin"), "{head:?}");
        let text = sent.collect().await.unwrap().to_bytes();
        assert!(text.len() < 1000 && text.ends_with(b".\n"), "a sentence or two: {text:?}");
    }
    let scrape = Scrape::of(&gateway).await;
    assert_eq!(scrape.sum("tidings_events_accepted_total"), 0.0);
    let refused = scrape.counted("tidings_grpc_calls_refused_total");
    assert_eq!((refused["not_a_call"], refused["origin"]), (5.0, 7.0), "{refused:?}");
    gateway.client.publish(1, message(1, 1, 1)).await;
    gateway.stop().await;
}
