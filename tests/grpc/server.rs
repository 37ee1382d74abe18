//! The server around its services: health, reflection, compression, its responses to nonsense, and its end.

use std::{convert::Infallible, time::Duration};

use prost::Message;
use tidings::{
    event::webhook::{WebhookClient, WebhookRequest, WebhookResponse},
    grpc::Drain,
    proto::v1::{self, EventType, subscription_service_client::SubscriptionServiceClient},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_stream::{StreamExt, wrappers::UnboundedReceiverStream};
use tonic::{
    Code,
    codec::CompressionEncoding::{Gzip, Zstd},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::{
    v1::{
        self as reflection, server_reflection_request::MessageRequest,
        server_reflection_response::MessageResponse,
    },
    v1alpha,
};
use tower::util::BoxCloneSyncService;

use crate::support::{client::Client, in_process::*};

const SERVICES: [&str; 6] = [
    "tidings.v1.AuditService",
    "tidings.v1.BackupService",
    "tidings.v1.DeliveryService",
    "tidings.v1.EventService",
    "tidings.v1.NoticeService",
    "tidings.v1.SubscriptionService",
];

fn health_of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.into() }
}

#[tokio::test]
async fn health_is_serving_for_every_service_and_not_when_the_server_stops() {
    let server = TidingsInProcess::start().await;
    let mut client = HealthClient::new(server.channel().await);
    for service in SERVICES.into_iter().chain([""]) {
        let status = client.check(health_of(service)).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{service:?}");
    }
    assert_eq!(client.check(health_of("other")).await.unwrap_err().code(), Code::NotFound);

    let mut watch = client.watch(health_of("tidings.v1.EventService")).await.unwrap().into_inner();
    let mut unknown = client.watch(health_of("other")).await.unwrap().into_inner();
    assert_eq!(in_time(watch.message()).await.unwrap().unwrap().status(), ServingStatus::Serving);
    assert_eq!(in_time(unknown.message()).await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
    server.shutdown.cancel();
    let mut last = ServingStatus::Serving;
    let status = loop {
        match in_time(watch.message()).await {
            Ok(response) => last = response.expect("a watch ends with an error only").status(),
            Err(status) => break status,
        }
    };
    assert_eq!((last, status.code()), (ServingStatus::NotServing, Code::Unavailable));
    assert!(!server.health.is_serving());
    server.stop().await;
}

/// Asks the reflection of this version; they are the same on the wire.
async fn reflect(client: &Client, version: &str, request: MessageRequest) -> MessageResponse {
    let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
    let request = reflection::ServerReflectionRequest { host: String::new(), message_request: Some(request) };
    let response = client.call(&path, request.encode_to_vec()).await.unwrap();
    let response = reflection::ServerReflectionResponse::decode(&*response).unwrap();
    response.message_response.unwrap()
}

#[tokio::test]
async fn reflection_lists_the_services_in_both_versions() {
    let server = TidingsInProcess::start().await;
    for version in ["v1", "v1alpha"] {
        let response = reflect(&server.client, version, MessageRequest::ListServices(String::new())).await;
        let MessageResponse::ListServicesResponse(list) = response else { panic!("{response:?}") };
        let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
        assert!(SERVICES.iter().all(|service| names.iter().any(|name| name == service)), "{names:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn reflection_gives_the_comments_and_the_details_of_errors() {
    let server = TidingsInProcess::start().await;
    for (symbol, contained) in [
        ("tidings.v1.EventService.PublishEvent", "Publishes one event."),
        ("tidings.v1.Subscription", "Values are returned as \"***\""),
        ("google.rpc.BadRequest", "FieldViolation"),
        ("google.rpc.ErrorInfo", "reason"),
        ("grpc.health.v1.Health", "Watch"),
        ("google.protobuf.FieldMask", "paths"),
    ] {
        let request = MessageRequest::FileContainingSymbol(symbol.into());
        let response = reflect(&server.client, "v1", request).await;
        let MessageResponse::FileDescriptorResponse(files) = response else { panic!("{response:?}") };
        let text: Vec<_> =
            files.file_descriptor_proto.iter().map(|file| String::from_utf8_lossy(file)).collect();
        assert!(text.iter().any(|file| file.contains(contained)), "{symbol} does not say {contained:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn every_service_takes_both_encodings_and_responds_in_neither() {
    async fn check<T>(name: &str, call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>) {
        let response = in_time(call).await.unwrap_or_else(|status| panic!("{name}: {status}"));
        assert_eq!(response.metadata().get("grpc-encoding"), None, "{name}");
    }
    macro_rules! client {
        ($client:expr, $encoding:expr) => {
            $client.send_compressed($encoding).accept_compressed($encoding)
        };
    }
    let server = TidingsInProcess::start().await;
    server.subscribe("crm").await;
    server.publish("e").await;
    for encoding in [Gzip, Zstd] {
        let channel = server.channel().await;
        let mut client = client!(SubscriptionServiceClient::new(channel.clone()), encoding);
        let list = v1::ListSubscriptionsRequest { parent: PARENT.into(), ..Default::default() };
        check("subscriptions", client.list_subscriptions(list)).await;
        let mut client = client!(server.client.events.clone(), encoding);
        check("events", client.publish_event(publish("e"))).await;
        let messages =
            tokio_stream::once(v1::StreamPublishEventsRequest { sequence: 1, request: Some(publish("e")) });
        check("stream", client.stream_publish_events(messages)).await;
        let mut client = client!(server.client.deliveries.clone(), encoding);
        let name = "accounts/1/subscriptions/crm/deliveries/e".into();
        check("deliveries", client.get_delivery(v1::GetDeliveryRequest { name })).await;
        let channel = server.channel().await;
        let mut client = client!(HealthClient::new(channel.clone()), encoding);
        check("health", client.check(health_of(""))).await;
        let request = reflection::ServerReflectionRequest::default();
        let client_of = reflection::server_reflection_client::ServerReflectionClient::new;
        let mut client = client!(client_of(channel.clone()), encoding);
        check("reflection", client.server_reflection_info(tokio_stream::once(request))).await;
        let request = v1alpha::ServerReflectionRequest::default();
        let client_of = v1alpha::server_reflection_client::ServerReflectionClient::new;
        let mut client = client!(client_of(channel), encoding);
        check("reflection alpha", client.server_reflection_info(tokio_stream::once(request))).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn the_refusal_of_an_unknown_method_lists_the_known_ones() {
    let server = TidingsInProcess::start().await;
    for (path, mentioned) in [
        ("/tidings.v1.EventService/PublishEvents", "PublishEvent, RenderEvent"),
        ("/tidings.v2.EventService/PublishEvent", "tidings.v1.EventService"),
        ("/", "tidings.v1.EventService"),
    ] {
        let status = server.client.call(path, Vec::new()).await.unwrap_err();
        assert_refused(&status, Code::Unimplemented, "METHOD_UNKNOWN", &[]);
        assert!(status.message().contains(mentioned), "{path}: {}", status.message());
    }
    server.stop().await;
}

#[tokio::test]
async fn a_panic_costs_its_own_call_and_nothing_else() {
    async fn panics(_post: WebhookRequest) -> Result<WebhookResponse, Infallible> {
        panic!("made by a test")
    }
    let webhook_client: WebhookClient = BoxCloneSyncService::new(tower::service_fn(panics));
    let server =
        TidingsInProcess::start_with(Setup { webhook_client: Some(webhook_client), ..Setup::default() })
            .await;
    let name = server.subscribe("crm").await.name;
    let status = server.client.try_test(&name, EventType::Unspecified).await.unwrap_err();
    assert_refused(&status, Code::Internal, "INTERNAL", &[]);
    assert!(!status.message().contains("made by a test"));
    // The connection lives.
    server.client.subscription(&name).await;
    server.stop().await;
}

#[tokio::test]
async fn more_connections_than_the_bound_wait_until_one_ends() {
    let mut setup = Setup::default();
    setup.grpc.connections.connections_max = 1;
    let server = TidingsInProcess::start_with(setup).await;
    let first = TcpStream::connect(server.address).await.unwrap();
    let waiting = {
        let mut client = HealthClient::new(server.channel().await);
        tokio::spawn(async move { client.check(health_of("")).await })
    };
    // The first connection has said nothing; once it is gone the other is served.
    drop(first);
    in_time(waiting).await.unwrap().expect("it is served when its turn comes");
    server.stop().await;
}

#[tokio::test]
async fn the_drain_ends_though_clients_hold_on() {
    let mut setup = Setup::default();
    setup.grpc.drain_timeout = Duration::from_millis(300);
    let server = TidingsInProcess::start_with(setup).await;

    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut half = TcpStream::connect(server.address).await.unwrap();
    half.write_all(b"POST /tidings.v1.EventService/PublishEvent HTTP/1.1\r\nHost: x\r\nContent-")
        .await
        .unwrap();
    // An HTTP/2 client that says hello and then nothing any more, not even that it heard.
    let mut preface = TcpStream::connect(server.address).await.unwrap();
    preface.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00").await.unwrap();
    let (reflecting, requests) = tokio::sync::mpsc::unbounded_channel();
    let mut client =
        reflection::server_reflection_client::ServerReflectionClient::new(server.channel().await);
    let mut responses =
        client.server_reflection_info(UnboundedReceiverStream::new(requests)).await.unwrap().into_inner();
    // All of them are accepted by now: connections are taken in their order, and this one is answered.
    let list = MessageRequest::ListServices(String::new());
    let request = reflection::ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    reflecting.send(request).unwrap();
    in_time(responses.message()).await.unwrap();

    server.shutdown.cancel();
    assert_eq!(server.ended().await, Drain::Cut);
    for connection in [&mut silent, &mut half, &mut preface] {
        let mut rest = Vec::new();
        // Either end of it will do, as long as it is one.
        drop(in_time(connection.read_to_end(&mut rest)).await);
    }
    assert!(in_time(responses.next()).await.is_some_and(|response| response.is_err()), "the stream was cut");
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_the_drain() {
    let server = TidingsInProcess::start().await;
    let channel = server.channel().await;
    HealthClient::new(channel.clone()).check(health_of("")).await.unwrap();
    let address = server.address;
    server.stop().await;
    assert!(TcpStream::connect(address).await.is_err(), "the port is still open");
    drop(channel);
}

#[tokio::test]
async fn a_message_of_more_than_the_bound_is_refused_with_the_limit() {
    let mut setup = Setup::default();
    setup.grpc.message_bytes_max = 1024;
    let server = TidingsInProcess::start_with(setup).await;
    let mut client = server.client.subscriptions.clone();
    let name = "x".repeat(2000);
    let request = v1::GetSubscriptionRequest { name };
    let plain = client.get_subscription(request.clone()).await.unwrap_err();
    // Small on the way, and too large once it is decompressed.
    let mut client = server.client.subscriptions.clone().send_compressed(Gzip);
    let compressed = client.get_subscription(request).await.unwrap_err();
    for status in [plain, compressed] {
        assert_refused(&status, Code::InvalidArgument, "MESSAGE_TOO_LARGE", &[]);
        let metadata = details(&status).error_info().unwrap().metadata.clone();
        assert_eq!((&*metadata["limit"], &*metadata["max"]), ("grpc_message_bytes_max", "1024"));
        assert!(status.message().contains("1024") && status.message().len() <= 200, "{status:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn bytes_that_are_no_message_are_the_callers_fault_and_say_where() {
    let server = TidingsInProcess::start().await;
    let publish = "/tidings.v1.EventService/PublishEvent";
    // A name that is a number, a string that ends in the middle, a text that is not UTF-8.
    for (bytes, field) in
        [(vec![0x08, 1], "parent"), (vec![0x0a, 9, b'a'], ""), (vec![0x0a, 1, 0xff], "parent")]
    {
        let status = server.client.call(publish, bytes).await.unwrap_err();
        let fields = if field.is_empty() { vec![] } else { vec![field] };
        let (code, reason, found) = in_short(&status);
        assert_eq!((code, &*reason), (Code::InvalidArgument, "MESSAGE_MALFORMED"), "{status:?}");
        assert!(fields.is_empty() || found == fields, "{status:?}");
        assert!(status.message().len() <= 200, "{status:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_message_that_is_nested_too_deeply_names_the_field_and_the_rule() {
    let server = TidingsInProcess::start().await;
    let status = server.client.try_publish(nested_request(100)).await.unwrap_err();
    let (code, reason, fields) = in_short(&status);
    assert_eq!((code, &*reason, fields.len()), (Code::InvalidArgument, "FIELD_INVALID", 1), "{status:?}");
    assert!(fields[0].starts_with("event.contact_created.contact.custom_attributes.fields."), "{fields:?}");
    assert!(status.message().contains("100 levels") && status.message().len() <= 200, "{status:?}");
    server.stop().await;
}
