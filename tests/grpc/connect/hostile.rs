//! Requests in JSON that are too large, too deep, or lie about what they are. None is stored, and each response says why.

use super::*;

/// A request: its headers, its content type and its body; then the status and the reason of the refusal.
type Hostile = (&'static str, Vec<(&'static str, &'static str)>, &'static str, Vec<u8>, u16, &'static str);

const MIB: usize = 1 << 20;
const JSON: &str = "application/json";
const PROTO: &str = "application/proto";
const WATCHED: &str = "application/connect+json";

fn nested(open: &str, close: &str, depth: usize) -> Vec<u8> {
    let value = format!("{}{}", open.repeat(depth), close.repeat(depth));
    format!(r#"{{"event":{{"contactCreated":{{"contact":{{"customAttributes":{{"a":{value}}}}}}}}}}}"#)
        .into_bytes()
}

fn unary() -> Vec<Hostile> {
    let bomb = gzip(&vec![b' '; 100 * MIB]);
    assert!(bomb.len() < MIB);
    let gzipped = || vec![("content-encoding", "gzip")];
    let many = format!("[{}]", vec!["1"; 300_000].join(","));
    let many =
        format!(r#"{{"event":{{"contactCreated":{{"contact":{{"customAttributes":{{"a":{many}}}}}}}}}}}"#);
    let elements = format!(r#"{{"requests":[{}]}}"#, vec!["{}"; 99_999].join(","));
    assert!(elements.len() < 4 * MIB && many.len() < 4 * MIB);
    vec![
        ("more bytes than a message may have", vec![], JSON, vec![b' '; 5 * MIB], 400, "MESSAGE_TOO_LARGE"),
        ("the same as protobuf", vec![], PROTO, vec![0; 5 * MIB], 400, "MESSAGE_TOO_LARGE"),
        ("a bomb", gzipped(), JSON, bomb.clone(), 400, "MESSAGE_TOO_LARGE"),
        ("a bomb of protobuf", gzipped(), PROTO, bomb, 400, "MESSAGE_TOO_LARGE"),
        ("no gzip", gzipped(), JSON, b"{}".to_vec(), 400, "MESSAGE_MALFORMED"),
        ("half of it", gzipped(), JSON, gzip(&[b' '; 1000])[..15].to_vec(), 400, "MESSAGE_MALFORMED"),
        ("too many values", vec![], JSON, many.into_bytes(), 400, "MESSAGE_TOO_LARGE"),
        ("unknown fields by the thousand", vec![], JSON, elements.into_bytes(), 400, "MESSAGE_MALFORMED"),
        ("lists within lists", vec![], JSON, nested("[", "]", 100_000), 400, "MESSAGE_MALFORMED"),
        ("objects that never end", vec![], JSON, nested("{\"a\":", "", 100_000), 400, "MESSAGE_MALFORMED"),
        ("deeper than a message may be", vec![], JSON, nested("[", "]", 60), 400, "MESSAGE_MALFORMED"),
        ("nothing", vec![], JSON, vec![], 400, "MESSAGE_MALFORMED"),
        ("no JSON", vec![], JSON, b"parent=accounts/1".to_vec(), 400, "MESSAGE_MALFORMED"),
        ("a list", vec![], JSON, b"[]".to_vec(), 400, "MESSAGE_MALFORMED"),
        ("two messages", vec![], JSON, b"{}{}".to_vec(), 400, "MESSAGE_MALFORMED"),
        ("no text", vec![], JSON, b"{\"parent\": \"\xff\"}".to_vec(), 400, "MESSAGE_MALFORMED"),
        ("half a character", vec![], JSON, br#"{"parent": "\ud800"}"#.to_vec(), 400, "MESSAGE_MALFORMED"),
        (
            "two payloads",
            vec![],
            JSON,
            br#"{"event": {"inboxCreated": {}, "inboxUpdated": {}}}"#.to_vec(),
            400,
            "MESSAGE_MALFORMED",
        ),
        ("no protobuf", vec![], PROTO, vec![0xff; 20], 400, "MESSAGE_MALFORMED"),
        ("another encoding", vec![("content-encoding", "br")], JSON, b"{}".to_vec(), 501, "ENCODING_UNKNOWN"),
        (
            "another version",
            vec![("connect-protocol-version", "2")],
            JSON,
            b"{}".to_vec(),
            400,
            "HEADER_INVALID",
        ),
        ("no timeout", vec![("connect-timeout-ms", "soon")], JSON, b"{}".to_vec(), 400, "HEADER_INVALID"),
        (
            "a long timeout",
            vec![("connect-timeout-ms", "12345678901")],
            JSON,
            b"{}".to_vec(),
            400,
            "HEADER_INVALID",
        ),
    ]
}

fn enveloped() -> Vec<Hostile> {
    let with_length =
        |flags: u8, length: u32, rest: &[u8]| [&[flags][..], &length.to_be_bytes(), rest].concat();
    let gzipped = || vec![("connect-content-encoding", "gzip")];
    vec![
        ("no envelope", vec![], WATCHED, b"{}".to_vec(), 200, "MESSAGE_MALFORMED"),
        ("nothing", vec![], WATCHED, vec![], 200, "MESSAGE_MALFORMED"),
        ("less than it says", vec![], WATCHED, with_length(0, 3, b"{}"), 200, "MESSAGE_MALFORMED"),
        ("more than it says", vec![], WATCHED, with_length(0, 1, b"{}"), 200, "MESSAGE_MALFORMED"),
        ("two messages", vec![], WATCHED, envelope(0, b"{}").repeat(2), 200, "MESSAGE_MALFORMED"),
        ("four gigabytes", vec![], WATCHED, with_length(0, u32::MAX, b"{}"), 200, "MESSAGE_TOO_LARGE"),
        ("an unknown flag", vec![], WATCHED, envelope(4, b"{}"), 200, "MESSAGE_MALFORMED"),
        ("an end", vec![], WATCHED, envelope(2, b"{}"), 200, "MESSAGE_MALFORMED"),
        ("compressed in no way", vec![], WATCHED, envelope(1, &gzip(b"{}")), 200, "MESSAGE_MALFORMED"),
        (
            "compressed in no known way",
            vec![("connect-content-encoding", "br")],
            WATCHED,
            vec![],
            200,
            "ENCODING_UNKNOWN",
        ),
        ("a bomb", gzipped(), WATCHED, envelope(1, &gzip(&vec![b' '; 50 * MIB])), 200, "MESSAGE_TOO_LARGE"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_hostile_message_is_refused_with_a_reason_and_changes_nothing() {
    let server = TidingsInProcess::start().await;
    for client in [HttpClient::http1(server.address), HttpClient::http2(server.address)] {
        for (what, headers, content_type, body, status, reason) in unary().into_iter().chain(enveloped()) {
            let client =
                headers.iter().fold(client.clone(), |client, (name, value)| client.with(name, value));
            let path = match content_type {
                WATCHED => WATCH,
                _ if what.starts_with("unknown") => "/tidings.v1.EventService/PublishEvent",
                _ => PUBLISH,
            };
            let reply = client.post(path, content_type, body).await;
            assert_eq!(reply.status.as_u16(), status, "{what}: {reply:?}");
            let error = match content_type {
                WATCHED => {
                    let [(2, end)] = envelopes(&reply.body)[..] else { panic!("{what}: {reply:?}") };
                    serde_json::from_slice::<Value>(end).unwrap()["error"].clone()
                }
                _ => reply.json(),
            };
            assert_eq!(reason_of(&error), reason, "{what}: {error:#}");
            assert!(error["message"].as_str().is_some_and(|message| message.len() <= 640), "{what}");
        }
    }
    assert!(server.client.stored_events(1).await.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn health_checks_read_a_name_and_no_more() {
    let server = TidingsInProcess::start().await;
    let client = HttpClient::http1(server.address);
    let body = json!({"service": "x".repeat(5000)}).to_string();
    let reply = client.post("/grpc.health.v1.Health/Check", "application/json", body).await;
    let error = reply.refused(400, "invalid_argument", "MESSAGE_TOO_LARGE");
    assert_eq!(detail(&error, "google.rpc.ErrorInfo")["debug"]["metadata"]["max"], "4096");
    server.stop().await;
}
