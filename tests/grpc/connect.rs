//! The Connect protocol: calls in JSON and protobuf by a client that knows HTTP only, over HTTP/1.1 and HTTP/2.

use std::{io::Write as _, time::Duration};

use flate2::{Compression, write::GzEncoder};
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use prost::Message;
use serde_json::{Value, json};
use tidings::proto::v1::{self, access_token::Scope};
use tonic_types::pb::BadRequest;

use crate::support::{
    blocking_store::BlockingStore,
    http_client::{HttpClient, Reply, detail, envelope, envelopes, reason_of},
    in_process::*,
};

mod connections;
mod hostile;

/// The path of PublishEvent.
const PUBLISH: &str = "/tidings.v1.EventService/PublishEvent";
const WATCH: &str = "/tidings.v1.DeliveryService/WatchDeliveries";

/// A request to publish a message under an id.
fn publish_json(id: &str) -> Value {
    json!({"parent": PARENT, "eventId": id, "event": {"messageCreated": {"message": {
        "id": "7", "messageType": "MESSAGE_TYPE_INCOMING", "content": "Hi", "createdAt": "2023-05-15T10:00:00Z",
        "account": {"id": 1, "name": "Acme"}, "conversation": {"id": 5, "inboxId": 3, "status": "open"},
        "contentAttributes": {"in_reply_to": 12, "list": [null, true, {"a": "b"}]},
    }}}})
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn json_calls_over_either_http_do_what_grpc_calls_do() {
    let server = TidingsInProcess::start().await;
    for (number, client) in
        [HttpClient::http1(server.address), HttpClient::http2(server.address)].into_iter().enumerate()
    {
        let id = format!("crm-{number}");
        let subscription = json!({"url": format!("https://{id}.example.com/"), "event_types": ["EVENT_TYPE_MESSAGE_CREATED"]});
        let request = json!({"parent": PARENT, "subscriptionId": id, "subscription": subscription});
        let created = client.call("SubscriptionService/CreateSubscription", &request).await.json();
        assert_eq!(created["subscription"]["name"], format!("{PARENT}/subscriptions/{id}"));
        assert_eq!(created["subscription"]["state"], "STATE_ACTIVE");

        let reply = client.call("EventService/PublishEvent", &publish_json(&id)).await;
        assert_eq!(
            (reply.status.as_u16(), &reply.headers["content-type"]),
            (200, &"application/json".parse().unwrap())
        );
        assert_eq!(reply.headers["content-length"], reply.body.len().to_string().as_str());
        assert_eq!(reply.json()["result"]["deliveryCount"], number + 1);

        let name = json!({"name": format!("{PARENT}/events/{id}")});
        let event = client.call("EventService/GetEvent", &name).await.json();
        let message = &event["event"]["messageCreated"]["message"];
        assert_eq!((&message["id"], &message["createdAt"]), (&json!("7"), &json!("2023-05-15T10:00:00Z")));
        assert_eq!(message["contentAttributes"]["list"], json!([null, true, {"a": "b"}]));
        let health = client.post("/grpc.health.v1.Health/Check", "application/json", "{}").await;
        assert_eq!(health.json(), json!({"status": "SERVING"}));
    }
    // A client of gRPC sees the same.
    let events = server.client.stored_events(1).await;
    assert_eq!(events.len(), 2);
    server.stop().await;
}

#[tokio::test]
async fn messages_may_be_protobuf_and_compressed() {
    let server = TidingsInProcess::start().await;
    let client = HttpClient::http1(server.address);
    let request = publish("a").encode_to_vec();
    let reply = client.post(PUBLISH, "application/proto", request.clone()).await;
    assert_eq!(reply.headers["content-type"], "application/proto");
    let response = v1::PublishEventResponse::decode(reply.body).unwrap();
    assert_eq!(response.result.unwrap().event, format!("{PARENT}/events/a"));

    let compressed = client.with("content-encoding", "gzip");
    let again = compressed.post(PUBLISH, "application/proto", gzip(&request)).await;
    assert!(v1::PublishEventResponse::decode(again.body).unwrap().result.unwrap().duplicate);
    let json = gzip(publish_json("b").to_string().as_bytes());
    let reply = compressed.post(PUBLISH, "application/json; charset=utf-8", json).await;
    assert_eq!(reply.json()["result"]["event"], format!("{PARENT}/events/b"));
    server.stop().await;
}

#[tokio::test]
async fn an_error_has_its_code_its_status_and_the_details_of_grpc() {
    let server = TidingsInProcess::start().await;
    let client = HttpClient::http1(server.address);
    let reply = client.call("EventService/PublishEvent", &json!({})).await;
    let error = reply.refused(400, "invalid_argument", "FIELD_REQUIRED");
    assert_eq!(error["message"], "parent is required; event is required");
    let violations = json!([{"field": "parent", "description": "is required"}, {"field": "event", "description": "is required"}]);
    assert_eq!(detail(&error, "google.rpc.BadRequest")["debug"]["fieldViolations"], violations);
    // The bytes are those that gRPC has.
    let status = server.client.try_publish(v1::PublishEventRequest::default()).await.unwrap_err();
    let grpc = tonic_types::pb::Status::decode(status.details()).unwrap();
    let bytes =
        |name: &str| grpc.details.iter().find(|any| any.type_url.ends_with(name)).unwrap().value.clone();
    let value = detail(&error, "google.rpc.BadRequest")["value"].as_str().unwrap();
    let value = base64::Engine::decode(&base64::engine::general_purpose::STANDARD_NO_PAD, value).unwrap();
    assert_eq!(value, bytes("BadRequest"));
    assert_eq!(BadRequest::decode(&*value).unwrap().field_violations.len(), 2);

    // Of JSON itself: the field, as the caller wrote it.
    let wrong = json!({"parent": PARENT, "event": {"messageCreated": {"message": {"id": [7]}}}});
    let error = client.call("EventService/PublishEvent", &wrong).await.refused(
        400,
        "invalid_argument",
        "MESSAGE_MALFORMED",
    );
    let violations = &detail(&error, "google.rpc.BadRequest")["debug"]["fieldViolations"];
    assert_eq!(violations[0]["field"], "event.messageCreated.message.id", "{error:#}");

    let missing = json!({"name": CRM});
    let reply = client.call("SubscriptionService/GetSubscription", &missing).await;
    reply.refused(404, "not_found", "SUBSCRIPTION_NOT_FOUND");
    let reply = client.call("EventService/Publish", &json!({})).await;
    let error = reply.refused(501, "unimplemented", "METHOD_UNKNOWN");
    assert!(error["message"].as_str().unwrap().contains("PublishEvent"), "{error:#}");
    server.stop().await;
}

#[tokio::test]
async fn a_method_whose_requests_stream_names_grpc_and_batches() {
    let server = TidingsInProcess::start().await;
    let client = HttpClient::http2(server.address);
    let path = "/tidings.v1.EventService/StreamPublishEvents";
    let error =
        client.post(path, "application/json", "{}").await.refused(501, "unimplemented", "REQUESTS_STREAM");
    let reply = client.post(path, "application/connect+json", envelope(0, b"{}")).await;
    assert_eq!(
        (reply.status.as_u16(), &reply.headers["content-type"]),
        (200, &"application/connect+json".parse().unwrap())
    );
    let [(2, end)] = envelopes(&reply.body)[..] else { panic!("{reply:?}") };
    let end: Value = serde_json::from_slice(end).unwrap();
    assert_eq!(end["error"], error);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("gRPC") && message.contains("BatchPublishEvents"), "{message}");
    server.stop().await;
}

#[tokio::test]
async fn what_is_no_call_is_told_how_to_call() {
    let server = TidingsInProcess::start().await;
    for client in [HttpClient::http1(server.address), HttpClient::http2(server.address)] {
        let ask = async |method: Method, path: &str, content_type: Option<&str>| {
            Reply::of(client.send(method, path, content_type, "").await).await
        };
        for (method, path, content_type, status, word) in [
            (Method::GET, "/", None, 404, "curl --json"),
            (Method::GET, "/favicon.ico", None, 404, "curl --json"),
            (Method::GET, PUBLISH, None, 405, "POST"),
            (Method::PUT, PUBLISH, Some("application/json"), 405, "POST"),
            (Method::OPTIONS, PUBLISH, None, 405, "POST"),
            (Method::POST, PUBLISH, None, 415, "application/json"),
            (Method::POST, PUBLISH, Some("text/plain"), 415, "application/grpc-web"),
            (Method::POST, PUBLISH, Some("application/json; charset=latin1"), 415, "application/json"),
            (Method::POST, WATCH, Some("application/json"), 415, "application/connect+json"),
            (Method::POST, PUBLISH, Some("application/connect+proto"), 415, "application/proto"),
        ] {
            let reply = ask(method.clone(), path, content_type).await;
            assert_eq!(reply.status.as_u16(), status, "{method} {path} {content_type:?}");
            assert!(reply.text().contains(word), "{method} {path} {content_type:?}: {}", reply.text());
            assert_eq!(reply.headers["content-type"], "text/plain; charset=utf-8");
            assert_eq!(reply.headers.get("allow").is_some(), status == 405);
        }
    }
    let reply = HttpClient::http1(server.address).post(PUBLISH, "application/grpc", envelope(0, b"")).await;
    assert_eq!(reply.status, 505);
    assert!(reply.text().contains("gRPC needs HTTP/2"), "{}", reply.text());
    server.stop().await;
}

/// The next envelope of a response that goes on.
async fn next(response: &mut http::Response<Incoming>) -> (u8, Value) {
    let frame = in_time(response.body_mut().frame()).await.expect("there is more").expect("it is whole");
    let bytes = frame.into_data().expect("it is data");
    let [(flags, message)] = envelopes(&bytes)[..] else { panic!("{bytes:?}") };
    (flags, serde_json::from_slice(message).unwrap())
}

#[tokio::test]
async fn a_watch_in_json_shows_changes_and_ends_with_an_error_or_at_its_timeout() {
    let server = TidingsInProcess::start().await;
    server.subscribe("crm").await;
    let request = envelope(0, json!({"parent": CRM}).to_string().as_bytes());
    let open = async |client: HttpClient| {
        let response =
            client.send(Method::POST, WATCH, Some("application/connect+json"), request.clone()).await;
        assert_eq!(response.status(), 200);
        response
    };
    let mut late = open(HttpClient::http1(server.address).with("connect-timeout-ms", "200")).await;
    let (flags, end) = next(&mut late).await;
    assert_eq!((flags, &end["error"]["code"]), (2, &json!("deadline_exceeded")), "{end:#}");
    assert!(Reply::of(late).await.body.is_empty(), "nothing comes after the end");

    let mut watches =
        vec![open(HttpClient::http1(server.address)).await, open(HttpClient::http2(server.address)).await];
    server.publish("a").await;
    server.client.cancel(&format!("{CRM}/deliveries/a")).await;
    for watch in &mut watches {
        loop {
            let (flags, message) = next(watch).await;
            assert_eq!(flags, 0, "{message:#}");
            if message["delivery"]["state"] == "STATE_CANCELLED" {
                break;
            }
        }
    }

    server.shutdown.cancel();
    for mut watch in watches {
        let (flags, end) = next(&mut watch).await;
        assert_eq!((flags, reason_of(&end["error"])), (2, "SHUTTING_DOWN"));
        assert!(Reply::of(watch).await.body.is_empty(), "nothing comes after the end");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_call_ends_at_its_timeout_and_past_a_limit_it_says_when_to_come_again() {
    let store = BlockingStore::new();
    let mut setup = Setup::on(&store);
    setup.grpc.calls_in_flight_max = 1;
    setup.grpc.call_timeout = Duration::from_hours(1);
    let server = TidingsInProcess::start_with(setup).await;
    let client = HttpClient::http1(server.address);
    let reply =
        client.with("connect-timeout-ms", "50").call("EventService/PublishEvent", &publish_json("a")).await;
    reply.refused(504, "deadline_exceeded", "DEADLINE_EXCEEDED");
    assert!(server.is_stored("a"), "the write still takes effect");

    let waiting = server.publishing("b");
    store.has_accepts(2).await;
    let reply = client.call("EventService/PublishEvent", &publish_json("c")).await;
    let error = reply.refused(429, "resource_exhausted", "OVERLOADED");
    assert_eq!(
        detail(&error, "google.rpc.ErrorInfo")["debug"]["metadata"]["limit"],
        "grpc_calls_in_flight_max"
    );
    let wait: u64 = reply.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(wait >= 1);
    store.release();
    waiting.await.unwrap().unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_token_gives_the_rights_that_it_gives_over_grpc_and_its_calls_are_on_record() {
    let server = TidingsInProcess::start().await;
    let tokens = |scopes: &[Scope]| v1::CreateAccessTokenRequest {
        access_token: Some(v1::AccessToken {
            scopes: scopes.iter().map(|scope| (*scope).into()).collect(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut access = v1::access_token_service_client::AccessTokenServiceClient::new(server.channel().await);
    let admin = access.create_access_token(tokens(&[Scope::Admin])).await.unwrap().into_inner().token;
    let client = HttpClient::http1(server.address);
    let request = json!({"accessToken": {"scopes": ["SCOPE_PUBLISH"]}});
    let reply = client.call("AccessTokenService/CreateAccessToken", &request).await;
    reply.refused(401, "unauthenticated", "TOKEN_MISSING");
    assert_eq!(reply.headers["www-authenticate"], "Bearer");
    let admin = client.with("authorization", &format!("Bearer {admin}"));
    let created = admin.call("AccessTokenService/CreateAccessToken", &request).await.json();
    let token = created["token"].as_str().expect("it is created");
    let publisher = client.with("authorization", &format!("Bearer {token}"));
    // With tokens any name will do: whoever makes it lead here has none.
    let named = publisher.with("host", "tidings.example.com");
    assert_eq!(named.call("EventService/PublishEvent", &publish_json("a")).await.status, 200);
    let reply = publisher.call("SubscriptionService/ListSubscriptions", &json!({"parent": PARENT})).await;
    reply.refused(403, "permission_denied", "SCOPE_DENIED");
    let records = admin.call("AuditService/ListAuditRecords", &json!({"parent": "accounts/-"})).await.json();
    let records = records["auditRecords"].as_array().expect("records");
    let is_of_it = |record: &&Value| record["resource"] == created["accessToken"]["name"];
    let record = records.iter().find(is_of_it).unwrap_or_else(|| panic!("{records:#?}"));
    assert!(record["principal"].as_str().unwrap().starts_with("accessTokens/"), "{record:#}");
    server.stop().await;
}
