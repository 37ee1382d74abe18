//! gRPC-Web, and what web pages of other sites may do.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::Method;
use prost::Message;
use serde_json::json;
use tidings::proto::v1;

use crate::support::{
    http_client::{HttpClient, Reply, envelope, envelopes},
    in_process::*,
};

const PUBLISH: &str = "/tidings.v1.EventService/PublishEvent";
const APP: &str = "https://app.example.com";

async fn start(origins: &[&'static str]) -> TidingsInProcess {
    let mut setup = Setup::default();
    setup.grpc.cors_allow_origins =
        origins.iter().map(|origin| http::HeaderValue::from_static(origin)).collect();
    TidingsInProcess::start_with(setup).await
}

/// The message and the trailers in a body of gRPC-Web.
fn parts(body: &[u8]) -> (Option<&[u8]>, String) {
    let frames = envelopes(body);
    let message = frames.iter().find(|(flags, _)| *flags == 0).map(|(_, message)| *message);
    let trailers = frames.iter().find(|(flags, _)| *flags == 0x80).map(|(_, trailers)| *trailers);
    (message, String::from_utf8(trailers.unwrap_or_default().to_vec()).unwrap())
}

#[tokio::test]
async fn grpc_web_publishes_over_either_http_in_bytes_and_in_base64() {
    let server = TidingsInProcess::start().await;
    for (number, client) in
        [HttpClient::http1(server.address), HttpClient::http2(server.address)].into_iter().enumerate()
    {
        let id = format!("bytes-{number}");
        let body = envelope(0, &publish(&id).encode_to_vec());
        let reply = client.post(PUBLISH, "application/grpc-web+proto", body).await;
        assert_eq!(
            (reply.status.as_u16(), &reply.headers["content-type"]),
            (200, &"application/grpc-web+proto".parse().unwrap())
        );
        let (message, trailers) = parts(&reply.body);
        let response = v1::PublishEventResponse::decode(message.unwrap()).unwrap();
        assert_eq!(response.result.unwrap().event, format!("{PARENT}/events/{id}"));
        assert!(trailers.contains("grpc-status:0"), "{trailers}");

        let text = STANDARD.encode(envelope(0, &publish(&format!("text-{number}")).encode_to_vec()));
        let asking = client.with("accept", "application/grpc-web-text+proto");
        let reply = asking.post(PUBLISH, "application/grpc-web-text+proto", text).await;
        assert_eq!(reply.headers["content-type"], "application/grpc-web-text+proto");
        assert!(reply.body.iter().all(u8::is_ascii), "{reply:?}");

        let reply = client.post(PUBLISH, "application/grpc-web", envelope(0, b"")).await;
        assert_eq!(reply.headers["grpc-status"], "3", "{reply:?}");
        assert!(reply.headers.contains_key("grpc-status-details-bin"));
    }
    assert_eq!(server.client.stored_events(1).await.len(), 4);
    server.stop().await;
}

#[tokio::test]
async fn a_page_of_an_allowed_site_may_ask_and_read() {
    let server = start(&[APP, "http://localhost:5173"]).await;
    for client in [HttpClient::http1(server.address), HttpClient::http2(server.address)] {
        let page = client.with("origin", APP);
        let asking = page
            .with("access-control-request-method", "POST")
            .with("access-control-request-headers", "authorization,connect-protocol-version,content-type");
        let preflight = Reply::of(asking.send(Method::OPTIONS, PUBLISH, None, "").await).await;
        assert!(preflight.status.is_success(), "{preflight:?}");
        assert_eq!(preflight.headers["access-control-allow-origin"], APP);
        assert_eq!(preflight.headers["access-control-allow-methods"], "POST");
        assert!(!preflight.headers.contains_key("access-control-allow-credentials"));
        let allowed = preflight.headers["access-control-allow-headers"].to_str().unwrap();
        for name in
            ["authorization", "connect-protocol-version", "connect-timeout-ms", "x-grpc-web", "x-user-agent"]
        {
            assert!(allowed.split(',').any(|allowed| allowed == name), "{name}: {allowed}");
        }
        for reply in [
            page.call("SubscriptionService/ListSubscriptions", &json!({"parent": PARENT})).await,
            page.call("SubscriptionService/GetSubscription", &json!({})).await,
            page.post(PUBLISH, "application/grpc-web+proto", envelope(0, b"")).await,
            page.post(PUBLISH, "text/plain", "").await,
        ] {
            assert_eq!(reply.headers["access-control-allow-origin"], APP, "{reply:?}");
            let exposed = reply.headers["access-control-expose-headers"].to_str().unwrap();
            assert!(exposed.contains("grpc-status-details-bin"), "{exposed}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_page_of_any_other_site_may_nothing_whatever_it_sends() {
    for server in [start(&[]).await, start(&[APP]).await] {
        for client in [HttpClient::http1(server.address), HttpClient::http2(server.address)] {
            for origin in [
                "https://evil.example",
                "null",
                "https://app.example.com.evil.example",
                "http://app.example.com",
                "https://app.example.com:8443",
            ] {
                let page = client.with("origin", origin);
                let event = publish("a").encode_to_vec();
                let body = Bytes::from(json!({"parent": PARENT}).to_string());
                for (method, content_type, body) in [
                    (Method::OPTIONS, None, Bytes::new()),
                    (Method::GET, None, Bytes::new()),
                    (Method::POST, Some("application/json"), body.clone()),
                    (Method::POST, Some("text/plain"), body),
                    (Method::POST, Some("application/proto"), event.clone().into()),
                    (Method::POST, Some("application/grpc-web+proto"), envelope(0, &event).into()),
                    (Method::POST, Some("application/grpc"), envelope(0, &event).into()),
                ] {
                    let reply = Reply::of(page.send(method.clone(), PUBLISH, content_type, body).await).await;
                    assert_eq!(reply.status, 403, "{method} {content_type:?} of {origin}: {reply:?}");
                    assert!(reply.text().contains("cors_allow_origins"), "{}", reply.text());
                    assert!(!reply.headers.contains_key("access-control-allow-origin"), "{reply:?}");
                }
            }
            // An allowed one beside it does not help.
            let reply = client
                .with("origin", APP)
                .with("origin", "https://evil.example")
                .post(PUBLISH, "application/json", "{}")
                .await;
            assert_eq!(reply.status, 403);
        }
        assert!(server.client.stored_events(1).await.is_empty());
        server.stop().await;
    }
}
