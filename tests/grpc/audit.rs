//! Audit records: every call that changes something leaves one, with the right content.

use std::{collections::BTreeMap, convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use prost::Message;
use prost_types::{FileDescriptorSet, MethodOptions, Timestamp, method_options::IdempotencyLevel};
use tidings::{
    domain::{
        caller::Peer,
        delivery::{Attempt, Outcome},
        time::UnixMicros,
    },
    event::webhook::{WebhookClient, WebhookRequest, WebhookResponse},
    proto::{
        self,
        v1::{self, EventType, audit_record::Outcome as Audited, delivery::State},
    },
    store::StoreError,
};
use tokio::sync::Semaphore;
use tonic::Code::{InvalidArgument, NotFound, ResourceExhausted};
use tower::util::BoxCloneSyncService;

use crate::support::{
    blocking_store::BlockingStore,
    client::{Client, update_request},
    eventually,
    in_process::*,
    receiver::{Receiver, Response},
};

/// Publishing leaves events, and no audit record.
const PUBLISHING: &str = "EventService";

/// Waits until `wanted` accepts the newest record.
async fn newest_when(client: &Client, wanted: impl Fn(&v1::AuditRecord) -> bool) -> v1::AuditRecord {
    let newest = async || client.audit_records().await.into_iter().next();
    eventually("on record", newest, |record| record.as_ref().is_some_and(&wanted))
        .await
        .expect("it was there")
}

#[tokio::test]
async fn every_method_but_those_that_read_and_publish_leaves_a_record() {
    let server = TidingsInProcess::start().await;
    let set = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
    let (mut recorded, mut others) = (Vec::new(), 0);
    for file in set.file.iter().filter(|file| file.package() == "tidings.v1") {
        for (service, method) in file.service.iter().flat_map(|s| s.method.iter().map(move |m| (s, m))) {
            let name = format!("tidings.v1.{}/{}", service.name(), method.name());
            let level = method.options.as_ref().map(MethodOptions::idempotency_level);
            let reads = level == Some(IdempotencyLevel::NoSideEffects);
            let before = server.client.audit_records().await.len();
            drop(server.client.call(&format!("/{name}"), Vec::new()).await);
            let records = server.client.audit_records().await;
            if reads || service.name() == PUBLISHING {
                assert_eq!(records.len(), before, "{name} left a record");
                others += 1;
            } else {
                assert_eq!(records.len(), before + 1, "{name} left no record");
                assert_eq!(records[0].method, name);
                assert!(records[0].end_time.is_some(), "{name} has no end");
                recorded.push(name);
            }
        }
    }
    assert!(recorded.len() >= 10 && others >= 10, "{recorded:?} and {others} others");
    server.stop().await;
}

/// A record without the parts that differ at every run.
type Shown = (String, String, Vec<String>, BTreeMap<String, String>);

fn shown(record: &v1::AuditRecord) -> Shown {
    let method = record.method.rsplit('/').next().expect("a name").to_owned();
    (method, record.resource.clone(), record.fields.clone(), record.parameters.clone())
}

fn expected(method: &str, resource: &str, fields: &[&str], parameters: &[(&str, &str)]) -> Shown {
    let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    (method.into(), resource.into(), fields.iter().map(ToString::to_string).collect(), parameters.collect())
}

/// Makes every change once. Returns the secrets that were shown or sent.
async fn make_every_change(server: &TidingsInProcess, url: &str) -> Vec<String> {
    let client = &server.client;
    let mut asked = create("crm", url);
    asked.signing_secret = "a secret that is given".into();
    let headers = BTreeMap::from([("x-key".to_owned(), "header-value".to_owned())]);
    asked.subscription.as_mut().expect("it is set").headers = headers.clone();
    client.create(asked).await.unwrap();
    let made = client.create(create("", "https://made.example.com/")).await.unwrap();
    let change = v1::Subscription { name: CRM.into(), headers, max_in_flight: 3, ..Default::default() };
    client.update(change.clone()).await;
    client.try_update(change, &["displayName", "retry_policy.max_attempts"]).await.unwrap();
    client.pause(CRM).await;
    client.resume(CRM).await;
    let rotated = client.rotate(CRM, Duration::from_secs(60)).await.signing_secret;
    client.test(CRM, EventType::Unspecified).await;
    server.publish("e").await;
    let name = format!("{CRM}/deliveries/e");
    client.cancel(&name).await;
    client.retry(&name).await;
    client.cancel(&name).await;
    let replay = v1::ReplayDeliveriesRequest {
        parent: CRM.into(),
        start_time: Some(Timestamp { seconds: 1, nanos: 0 }),
        event_types: vec![EventType::MessageCreated.into()],
        states: vec![State::Failed.into(), State::Cancelled.into()],
        ..Default::default()
    };
    client.replay(replay).await;
    client.delete(CRM, true).await.unwrap();
    vec!["a secret that is given".into(), "header-value".into(), made.secret, rotated, url.into()]
}

#[tokio::test]
async fn a_record_has_caller_action_address_and_time_and_no_secret() {
    let server = TidingsInProcess::start().await;
    let receiver = Receiver::always(Response::status(201)).await;
    let secrets = make_every_change(&server, &receiver.url("/hook")).await;
    let mut records = server.client.audit_records().await;
    records.reverse();
    let made = records[1].resource.clone();
    assert!(made.starts_with("accounts/1/subscriptions/s"), "{made}");
    let delivery = format!("{CRM}/deliveries/e");
    let all = [
        expected("CreateSubscription", CRM, &[], &[]),
        expected("CreateSubscription", &made, &[], &[]),
        expected("UpdateSubscription", CRM, &["headers", "max_in_flight"], &[]),
        expected("UpdateSubscription", CRM, &["display_name", "retry_policy.max_attempts"], &[]),
        expected("PauseSubscription", CRM, &[], &[]),
        expected("ResumeSubscription", CRM, &[], &[]),
        expected("RotateSigningSecret", CRM, &[], &[("overlap", "60s")]),
        expected("TestSubscription", CRM, &[], &[("http_status", "201")]),
        expected("CancelDelivery", &delivery, &[], &[]),
        expected("RetryDelivery", &delivery, &[], &[]),
        expected("CancelDelivery", &delivery, &[], &[]),
        expected(
            "ReplayDeliveries",
            CRM,
            &[],
            &[
                ("start_time", "1970-01-01T00:00:01Z"),
                ("event_types", "EVENT_TYPE_MESSAGE_CREATED"),
                ("states", "STATE_FAILED,STATE_CANCELLED"),
                ("replayed_count", "1"),
            ],
        ),
        expected("DeleteSubscription", CRM, &[], &[("force", "true"), ("dropped_count", "1")]),
    ];
    assert_eq!(records.iter().map(shown).collect::<Vec<_>>(), all);
    let mut last = 0;
    for (number, record) in (1..).zip(&records) {
        assert_eq!((record.number, record.outcome(), record.code), (number, Audited::Ok, 0), "{record:?}");
        assert_eq!((&*record.principal, &*record.reason), ("anonymous", ""));
        let address: SocketAddr = record.address.parse().expect("an address and a port");
        assert!(address.ip().is_loopback() && address != server.address);
        let micros =
            |time: Option<Timestamp>| time.map(|t| t.seconds * 1_000_000 + i64::from(t.nanos) / 1000);
        let (begin, end) = (micros(record.create_time).unwrap(), micros(record.end_time).unwrap());
        assert!(begin >= last && end >= begin, "{record:?}");
        last = begin;
    }
    let text = format!("{records:?}");
    for secret in secrets {
        assert!(!text.contains(secret.trim_start_matches("whsec_")), "{secret} is in {text}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_refusal_leaves_its_reason_and_nothing_that_was_sent_by_mistake() {
    let server = TidingsInProcess::start().await;
    server.subscribe("crm").await;
    let client = &server.client;
    let mut wrong = create("crm", "not a URL");
    wrong.parent = "whsec_c2VjcmV0".into();
    client.create(wrong).await.unwrap_err();
    client.create(create("crm", "https://other.example.com/")).await.unwrap_err();
    client.try_pause(&format!("{CRM}2")).await.unwrap_err();
    let change = v1::Subscription { name: CRM.into(), etag: "old".into(), ..Default::default() };
    client.try_update(change.clone(), &["url", "whsec_c2VjcmV0"]).await.unwrap_err();
    client.try_update(change, &[]).await.unwrap_err();

    let records = server.client.audit_records().await;
    let refused: Vec<_> = records
        .iter()
        .take(5)
        .map(|record| (&*record.reason, record.code, &*record.resource, record.outcome()))
        .collect();
    let refused_as =
        |reason, code: tonic::Code, resource| (reason, i32::from(code), resource, Audited::Refused);
    let aborted = tonic::Code::Aborted;
    assert_eq!(
        refused,
        [
            refused_as("ETAG_MISMATCH", aborted, CRM),
            refused_as("FIELD_INVALID", InvalidArgument, CRM),
            refused_as("SUBSCRIPTION_NOT_FOUND", NotFound, "accounts/1/subscriptions/crm2"),
            refused_as("SUBSCRIPTION_EXISTS", tonic::Code::AlreadyExists, CRM),
            refused_as("FIELD_INVALID", InvalidArgument, ""),
        ]
    );
    assert_eq!(records.len(), 6, "and the one that was done");
    assert!(!format!("{records:?}").contains("c2VjcmV0"), "{records:?}");
    server.stop().await;
}

#[tokio::test]
async fn calls_that_only_validate_leave_no_record() {
    let server = TidingsInProcess::start().await;
    server.subscribe("crm").await;
    let client = &server.client;
    let url = "https://new.example.com/";
    let check = v1::CreateSubscriptionRequest { validate_only: true, ..create("new", url) };
    client.create(check.clone()).await.unwrap();
    client.create(v1::CreateSubscriptionRequest { parent: "x".into(), ..check }).await.unwrap_err();
    let change = v1::Subscription { name: CRM.into(), url: url.into(), ..Default::default() };
    let check = v1::UpdateSubscriptionRequest { validate_only: true, ..update_request(change, &[]) };
    client.subscriptions.clone().update_subscription(check).await.unwrap();
    let check = v1::ReplayDeliveriesRequest { parent: CRM.into(), validate_only: true, ..Default::default() };
    client.replay(check).await;
    assert_eq!(server.client.audit_records().await.len(), 1, "of the subscription that is there");
    server.stop().await;
}

#[tokio::test]
async fn lists_filter_and_have_pages() {
    let server = TidingsInProcess::start().await;
    for (parent, id) in [("accounts/1", "a"), ("accounts/1", "ab"), ("accounts/12", "a")] {
        server.subscribe_in(parent, id).await;
    }
    let a = "accounts/1/subscriptions/a";
    server.client.pause(a).await;
    server.client.try_cancel(&format!("{a}/deliveries/e")).await.unwrap_err();
    let third = server.client.audit_records().await[2].create_time;

    let mut audit = server.client.audit.clone();
    let mut listed = async |request: v1::ListAuditRecordsRequest| -> Vec<i64> {
        let page = audit.list_audit_records(request).await.unwrap().into_inner();
        assert_eq!(page.next_page_token, "");
        page.audit_records.iter().map(|record| record.number).collect()
    };
    let of = |parent: &str| v1::ListAuditRecordsRequest { parent: parent.into(), ..Default::default() };
    let all = || of("accounts/-");
    assert_eq!(listed(all()).await, [5, 4, 3, 2, 1]);
    assert_eq!(listed(of("accounts/1")).await, [5, 4, 2, 1]);
    assert_eq!(listed(of("accounts/2")).await, [0; 0]);
    assert_eq!(listed(v1::ListAuditRecordsRequest { resource: a.into(), ..all() }).await, [5, 4, 1]);
    let resource = "accounts/12".into();
    assert_eq!(listed(v1::ListAuditRecordsRequest { resource, ..of("accounts/12") }).await, [3]);
    let method = "tidings.v1.SubscriptionService/CreateSubscription".to_owned();
    assert_eq!(listed(v1::ListAuditRecordsRequest { method, ..all() }).await, [3, 2, 1]);
    let by = |principal: &str| v1::ListAuditRecordsRequest { principal: principal.into(), ..all() };
    assert_eq!(listed(by("anonymous")).await.len(), 5);
    assert_eq!(listed(by("accessTokens/ci")).await, [0; 0]);
    assert_eq!(listed(v1::ListAuditRecordsRequest { start_time: third, ..all() }).await, [5, 4, 3]);
    assert_eq!(listed(v1::ListAuditRecordsRequest { end_time: third, ..all() }).await, [2, 1]);

    let (mut seen, mut request) =
        (Vec::new(), v1::ListAuditRecordsRequest { page_size: 2, ..of("accounts/1") });
    loop {
        let page = audit.list_audit_records(request.clone()).await.unwrap().into_inner();
        seen.extend(page.audit_records.iter().map(|record| record.number));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
        // Records made in between are not in later pages, and hide no others.
        server.client.pause(a).await;
    }
    assert_eq!(seen, [5, 4, 2, 1]);
    server.stop().await;
}

#[tokio::test]
async fn a_list_that_asks_for_nonsense_is_refused() {
    let server = TidingsInProcess::start().await;
    let mut audit = server.client.audit.clone();
    let of = |parent: &str| v1::ListAuditRecordsRequest { parent: parent.into(), ..Default::default() };
    let one = || of("accounts/1");
    let late = Some(Timestamp { seconds: 9, nanos: 0 });
    let early = Some(Timestamp { seconds: 8, nanos: 0 });
    for (request, reason, field) in [
        (of(""), "FIELD_REQUIRED", "parent"),
        (of("accounts/x"), "FIELD_INVALID", "parent"),
        (v1::ListAuditRecordsRequest { page_size: -1, ..one() }, "FIELD_INVALID", "page_size"),
        (v1::ListAuditRecordsRequest { page_token: "x".into(), ..one() }, "PAGE_TOKEN_INVALID", "page_token"),
        (
            v1::ListAuditRecordsRequest { resource: "accounts/2/subscriptions/a".into(), ..one() },
            "ACCOUNT_MISMATCH",
            "resource",
        ),
        (
            v1::ListAuditRecordsRequest { resource: "x".repeat(513), ..of("accounts/-") },
            "FIELD_INVALID",
            "resource",
        ),
        (v1::ListAuditRecordsRequest { principal: "x".repeat(257), ..one() }, "FIELD_INVALID", "principal"),
        (
            v1::ListAuditRecordsRequest { method: "PauseSubscription".into(), ..one() },
            "FIELD_INVALID",
            "method",
        ),
        (
            v1::ListAuditRecordsRequest { method: "grpc.health.v1.Health/Check".into(), ..one() },
            "FIELD_INVALID",
            "method",
        ),
        (
            v1::ListAuditRecordsRequest { start_time: late, end_time: early, ..one() },
            "FIELD_INVALID",
            "end_time",
        ),
    ] {
        let status = audit.list_audit_records(request).await.expect_err(field);
        assert_refused(&status, InvalidArgument, reason, &[field]);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_call_is_on_record_before_it_has_an_end_and_comes_to_it_without_its_caller() {
    let gate = Arc::new(Semaphore::new(0));
    let posting = Arc::clone(&gate);
    let posts = move |_post: WebhookRequest| {
        let gate = Arc::clone(&posting);
        async move {
            drop(gate.acquire().await);
            Ok::<_, Infallible>(WebhookResponse::from(Attempt {
                start_time: UnixMicros(0),
                duration: std::time::Duration::ZERO,
                outcome: Outcome::Ok,
                http_status: 204,
                error: String::new(),
                response_body: String::new(),
                retry_after: None,
                resent: 0,
                url: String::new(),
            }))
        }
    };
    let webhook_client: WebhookClient = BoxCloneSyncService::new(tower::service_fn(posts));
    let server =
        TidingsInProcess::start_with(Setup { webhook_client: Some(webhook_client), ..Setup::default() })
            .await;
    server.subscribe("crm").await;
    let client = server.client.clone();
    let call = tokio::spawn(async move { client.try_test(CRM, EventType::Unspecified).await });
    let is_test = |record: &v1::AuditRecord| record.method.ends_with("/TestSubscription");
    let begun = newest_when(&server.client, is_test).await;
    assert_eq!((begun.outcome(), begun.end_time), (Audited::Unknown, None));
    call.abort();
    drop(call.await);
    gate.add_permits(1);
    let ended = newest_when(&server.client, |record| record.end_time.is_some()).await;
    assert_eq!((ended.number, ended.outcome(), &*ended.parameters["http_status"]), (2, Audited::Ok, "204"));
    server.stop().await;
}

#[tokio::test]
async fn a_change_that_cannot_be_recorded_is_not_made() {
    let store = BlockingStore::new();
    let server = TidingsInProcess::start_with(Setup::on(&store)).await;
    let before = server.subscribe("crm").await;
    store.fail_audit_with(StoreError::Full);
    let client = &server.client;
    let status = client.try_pause(CRM).await.unwrap_err();
    assert_refused(&status, ResourceExhausted, "DISK_FULL", &[]);
    // A fault of the request is reported all the same, and reading still works.
    let status = client.try_pause("x").await.unwrap_err();
    assert_refused(&status, InvalidArgument, "FIELD_INVALID", &["name"]);
    assert_eq!(client.subscription(CRM).await, before);
    store.fail_audit_with(StoreError::Busy);
    let status = client.try_pause(CRM).await.unwrap_err();
    assert_eq!(in_short(&status).1, "OVERLOADED");
    server.stop().await;
}

#[tokio::test]
async fn the_holder_of_a_certificate_is_named() {
    let peer = Peer { address: Some("192.0.2.1:7".parse().unwrap()), certificate: Some("CN=ops".into()) };
    let server = TidingsInProcess::start_with(Setup { peer: Some(peer), ..Setup::default() }).await;
    server.subscribe("crm").await;
    let record = server.client.audit_records().await.remove(0);
    assert_eq!((&*record.principal, &*record.address), ("certificates/CN=ops", "192.0.2.1:7"));
    server.stop().await;
}
