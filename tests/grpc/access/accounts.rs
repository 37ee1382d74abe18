//! Limits by account: a resource of another account is refused in the same words, whether or not it exists.

use std::collections::BTreeSet;

use tidings::{
    domain::ids::{AccountId, AccountScope},
    proto::v1::{self, access_token::Scope, stream_publish_events_response::Outcome},
};
use tonic::{
    Code::{self, InvalidArgument, NotFound, PermissionDenied},
    Status,
};

use crate::support::client::Client;

use super::{ALL, CREATE_SUBSCRIPTION, PUBLISH, encoded, methods, start, token};
use crate::support::in_process::*;

/// Names of resources of the first account, which exist or not.
#[derive(Clone, Copy)]
struct Things {
    subscription: &'static str,
    event: &'static str,
    delivery: &'static str,
}

const THERE: Things = Things {
    subscription: "accounts/1/subscriptions/crm",
    event: "accounts/1/events/e",
    delivery: "accounts/1/subscriptions/crm/deliveries/e",
};
const NOT_THERE: Things = Things {
    subscription: "accounts/1/subscriptions/other",
    event: "accounts/1/events/other",
    delivery: "accounts/1/subscriptions/other/deliveries/other",
};

/// A call: its method, its message, and the field that is refused.
type Try = (&'static str, Vec<u8>, &'static str);

fn named(method: &'static str, name: &str) -> Try {
    // Every message of these methods has the name in its first field.
    (method, encoded(&v1::GetEventRequest { name: name.into() }), "name")
}

/// Every way to name something of the first account, in every method that names anything of an account.
fn tries(things: Things) -> Vec<Try> {
    let Things { subscription, event, delivery } = things;
    let mut tries = Vec::new();
    for method in ["Get", "Delete", "Pause", "Resume"] {
        let path = format!("/tidings.v1.SubscriptionService/{method}Subscription");
        tries.push(named(path.leak(), subscription));
    }
    tries.push(named("/tidings.v1.SubscriptionService/RotateSigningSecret", subscription));
    tries.push(named("/tidings.v1.SubscriptionService/TestSubscription", subscription));
    tries.push(named("/tidings.v1.EventService/GetEvent", event));
    for method in ["GetDelivery", "RetryDelivery", "CancelDelivery"] {
        tries.push(named(format!("/tidings.v1.DeliveryService/{method}").leak(), delivery));
    }
    let id = subscription.rsplit('/').next().expect("it has an id");
    let update = v1::UpdateSubscriptionRequest {
        subscription: Some(v1::Subscription {
            name: subscription.into(),
            display_name: "x".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let event_id = event.rsplit('/').next().expect("it has an id");
    let list = |parent: &str| encoded(&v1::ListEventsRequest { parent: parent.into(), ..Default::default() });
    tries.extend([
        (CREATE_SUBSCRIPTION, encoded(&create(id, "https://crm.example.com/")), "parent"),
        // Wrong in another way as well, which the refusal does not say.
        (CREATE_SUBSCRIPTION, encoded(&create(id, "nowhere")), "parent"),
        ("/tidings.v1.SubscriptionService/UpdateSubscription", encoded(&update), "subscription.name"),
        ("/tidings.v1.SubscriptionService/ListSubscriptions", list("accounts/1"), "parent"),
        ("/tidings.v1.SubscriptionService/ListSubscriptions", list("accounts/-"), "parent"),
        (PUBLISH, encoded(&publish(event_id)), "parent"),
        (PUBLISH, encoded(&v1::PublishEventRequest { validate_only: true, ..publish(event_id) }), "parent"),
        ("/tidings.v1.EventService/ListEvents", list("accounts/1"), "parent"),
        ("/tidings.v1.EventService/ListEvents", list("accounts/-"), "parent"),
        ("/tidings.v1.AuditService/ListAuditRecords", list("accounts/1"), "parent"),
        ("/tidings.v1.AuditService/ListAuditRecords", list("accounts/-"), "parent"),
        ("/tidings.v1.DeliveryService/ListDeliveries", list(subscription), "parent"),
        ("/tidings.v1.DeliveryService/ListDeliveries", list("accounts/1/subscriptions/-"), "parent"),
        ("/tidings.v1.DeliveryService/ListDeliveries", list("accounts/-/subscriptions/-"), "parent"),
        ("/tidings.v1.DeliveryService/WatchDeliveries", list(subscription), "parent"),
        ("/tidings.v1.DeliveryService/WatchDeliveries", list("accounts/-/subscriptions/-"), "parent"),
        ("/tidings.v1.DeliveryService/WatchDeliveries", list("accounts/1/subscriptions/-"), "parent"),
        ("/tidings.v1.DeliveryService/ReplayDeliveries", list(subscription), "parent"),
        ("/tidings.v1.DeliveryService/SummarizeDeliveries", list(subscription), "parent"),
        ("/tidings.v1.DeliveryService/SummarizeDeliveries", list("accounts/1/subscriptions/-"), "parent"),
        ("/tidings.v1.DeliveryService/SummarizeDeliveries", list("accounts/-/subscriptions/-"), "parent"),
        ("/tidings.v1.DeliveryService/GetDeliveryStats", list(subscription), "parent"),
        ("/tidings.v1.DeliveryService/GetDeliveryStats", list("accounts/1/subscriptions/-"), "parent"),
        ("/tidings.v1.DeliveryService/GetDeliveryStats", list("accounts/-/subscriptions/-"), "parent"),
    ]);
    let mine = || v1::PublishEventRequest {
        parent: "accounts/2".into(),
        event: Some(
            tidings::event::samples::typical_message(AccountId::new(2).expect("2 is positive"), 3, 7).into(),
        ),
        ..Default::default()
    };
    let batch =
        |parent: &str, requests| encoded(&v1::BatchPublishEventsRequest { parent: parent.into(), requests });
    let path = "/tidings.v1.EventService/BatchPublishEvents";
    tries.extend([
        (path, batch("accounts/1", vec![publish(event_id)]), "parent"),
        (path, batch("", vec![mine(), publish(event_id)]), "requests[1].parent"),
        (path, batch("accounts/2", vec![mine(), publish(event_id)]), "requests[1].parent"),
    ]);
    use v1::render_event_request::Source;
    let render = |source, subscription: &str| {
        encoded(&v1::RenderEventRequest {
            source: Some(source),
            subscription: subscription.into(),
            ..Default::default()
        })
    };
    let path = "/tidings.v1.EventService/RenderEvent";
    tries.extend([
        (path, render(Source::Name(event.into()), ""), "name"),
        (path, render(Source::Name(event.into()), subscription), "subscription"),
        (path, render(Source::Name("accounts/2/events/e".into()), subscription), "subscription"),
        (path, render(Source::Event(message(7)), subscription), "subscription"),
        (path, render(Source::Event(message(7)), ""), "event"),
    ]);
    let asked = |accounts: &[&str]| {
        encoded(&v1::CreateAccessTokenRequest {
            access_token: Some(token(&[Scope::Read], accounts)),
            ..Default::default()
        })
    };
    let path = "/tidings.v1.AccessTokenService/CreateAccessToken";
    tries.extend([
        (path, asked(&[]), "access_token.accounts"),
        (path, asked(&["accounts/1"]), "access_token.accounts[0]"),
        (path, asked(&["accounts/2", "accounts/1"]), "access_token.accounts[1]"),
    ]);
    let sink = format!("accounts/1/noticeSinks/{id}");
    for method in ["Get", "Delete", "Test"] {
        tries.push(named(format!("/tidings.v1.NoticeService/{method}NoticeSink").leak(), &sink));
    }
    let sink = v1::CreateNoticeSinkRequest {
        parent: "accounts/1".into(),
        notice_sink_id: id.into(),
        ..Default::default()
    };
    tries.extend([
        ("/tidings.v1.NoticeService/CreateNoticeSink", encoded(&sink), "parent"),
        ("/tidings.v1.NoticeService/ListNoticeSinks", list("accounts/1"), "parent"),
        ("/tidings.v1.NoticeService/ListNoticeSinks", list("accounts/-"), "parent"),
        (
            "/tidings.v1.DeliveryService/ListDeliveries",
            list(&format!("accounts/1/noticeSinks/{id}")),
            "parent",
        ),
        (
            "/tidings.v1.DeliveryService/ListDeliveries",
            list(&format!("accounts/-/noticeSinks/{id}")),
            "parent",
        ),
    ]);
    tries
}

fn everything(server: &TidingsInProcess) -> String {
    let mut subscriptions = Vec::new();
    server.store.registry().walk(AccountScope::All, None, |subscription| {
        subscriptions.push(format!("{subscription:?}"));
        true
    });
    let mut tokens = 0;
    server.store.tokens().walk(None, |_| {
        tokens += 1;
        true
    });
    format!("{subscriptions:?} {:?} {tokens}", server.store.newest())
}

#[tokio::test]
async fn nothing_of_another_account_can_be_named_and_nothing_shows_that_it_exists() {
    let (server, admin) = start().await;
    let publisher = admin.create_token(token(&[Scope::Publish], &[])).await.unwrap().1;
    let publisher = server.client_with_token(&publisher).await;
    admin.call(CREATE_SUBSCRIPTION, encoded(&create("crm", "https://crm.example.com/"))).await.unwrap();
    publisher.call(PUBLISH, encoded(&publish("e"))).await.unwrap();
    admin.sink("accounts/1", "crm", "https://crm.example.com/".into(), &[]).await;
    let (_, text) = admin.create_token(token(&ALL, &["accounts/2", "accounts/3"])).await.unwrap();
    let caller = server.client_with_token(&text).await;

    let before = everything(&server);
    let (mut tried, mut count) = (BTreeSet::new(), 0);
    for ((method, there, field), (_, not_there, _)) in tries(THERE).into_iter().zip(tries(NOT_THERE)) {
        let mut responses = Vec::new();
        for message in [there, not_there] {
            count += 1;
            let status = caller.call(method, message).await.expect_err(method);
            assert_eq!(
                (status.code(), &*in_short(&status).1),
                (PermissionDenied, "ACCOUNT_DENIED"),
                "{method}: {status:?}"
            );
            assert!(status.message().starts_with(&format!("{field} ")), "{method}: {}", status.message());
            responses.push((status.message().to_owned(), status.details().to_vec()));
        }
        assert_eq!(responses[0], responses[1], "{method} shows whether it is there");
        tried.insert(method.to_owned());
    }
    assert_eq!(everything(&server), before, "something has changed");
    assert_eq!(count, 106, "docs/security.md has this number");
    // These have tests of their own below.
    let elsewhere = [
        "StreamPublishEvents",
        "GetAccessToken",
        "ListAccessTokens",
        "RevokeAccessToken",
        "ListAccounts",
        "CreateBackup",
    ];
    for method in methods() {
        let known =
            tried.contains(&method) || elsewhere.iter().any(|name| method.ends_with(&format!("/{name}")));
        assert!(known, "{method} was not tried");
    }
    let counted = format!("tidings_calls_denied_total{{reason=\"account\"}} {count}\n");
    assert!(server.metrics.text().contains(&counted), "{}", server.metrics.text());
    server.stop().await;
}

#[tokio::test]
async fn a_callers_own_accounts_are_as_without_a_limit() {
    let (server, admin) = start().await;
    let (_, text) = admin.create_token(token(&ALL, &["accounts/1", "accounts/2"])).await.unwrap();
    let caller = server.client_with_token(&text).await;
    caller.call(CREATE_SUBSCRIPTION, encoded(&create("crm", "https://crm.example.com/"))).await.unwrap();
    caller.call(PUBLISH, encoded(&publish("e"))).await.unwrap();
    let mut denied = Vec::new();
    // A watch has nothing to show yet.
    for (method, message, field) in tries(THERE).into_iter().filter(|(method, ..)| !method.contains("Watch"))
    {
        if caller.call(method, message).await.is_err_and(|status| status.code() == PermissionDenied) {
            denied.push((method.rsplit('/').next().unwrap(), field));
        }
    }
    // Methods for all accounts only.
    let all = [
        ("ListSubscriptions", "parent"),
        ("ListEvents", "parent"),
        ("ListAuditRecords", "parent"),
        ("ListDeliveries", "parent"),
        ("SummarizeDeliveries", "parent"),
        ("GetDeliveryStats", "parent"),
        ("CreateAccessToken", "access_token.accounts"),
        ("ListNoticeSinks", "parent"),
        ("ListDeliveries", "parent"),
    ];
    assert_eq!(denied, all);
    server.stop().await;
}

#[tokio::test]
async fn a_backup_needs_a_token_for_all_accounts() {
    let (server, admin) = start().await;
    let (_, text) = admin.create_token(token(&[Scope::Admin], &["accounts/1"])).await.unwrap();
    let path = "/tidings.v1.BackupService/CreateBackup";
    let status = server.client_with_token(&text).await.call(path, Vec::new()).await.unwrap_err();
    assert_refused(&status, PermissionDenied, "ACCOUNT_DENIED", &[]);
    let counted = "tidings_calls_denied_total{reason=\"account\"} 1\n";
    assert!(server.metrics.text().contains(counted), "{}", server.metrics.text());
    // There is nothing to copy of a store in memory.
    let status = admin.call(path, Vec::new()).await.unwrap_err();
    assert_refused(&status, Code::FailedPrecondition, "NOTHING_TO_BACK_UP", &[]);
    server.stop().await;
}

#[tokio::test]
async fn a_caller_is_listed_its_own_accounts_and_told_about_its_own_token() {
    let (server, admin) = start().await;
    for (account, id) in [("accounts/1", "a"), ("accounts/2", "b")] {
        let create = v1::CreateSubscriptionRequest {
            parent: account.into(),
            ..create(id, "https://crm.example.com/")
        };
        admin.call(CREATE_SUBSCRIPTION, encoded(&create)).await.unwrap();
    }
    let (made, text) =
        admin.create_token(token(&[Scope::Read], &["accounts/2", "accounts/3"])).await.unwrap();
    let caller = server.client_with_token(&text).await;
    let list = |client: Client| async move {
        let request = v1::ListAccountsRequest { page_size: 1, ..Default::default() };
        let mut page =
            client.subscriptions.clone().list_accounts(request.clone()).await.unwrap().into_inner();
        let mut accounts = page.accounts;
        while !page.next_page_token.is_empty() {
            let next = v1::ListAccountsRequest { page_token: page.next_page_token, ..request.clone() };
            page = client.subscriptions.clone().list_accounts(next).await.unwrap().into_inner();
            accounts.extend(page.accounts.clone());
        }
        accounts
    };
    assert_eq!(list(caller.clone()).await, ["accounts/2"]);
    assert_eq!(list(admin.clone()).await, ["accounts/1", "accounts/2"]);
    let own = caller.token("accessTokens/self").await.unwrap();
    assert_eq!((own.name.as_str(), own.scopes().next()), (made.name.as_str(), Some(Scope::Read)));
    // About any other token it may not ask.
    assert_eq!(caller.token(&made.name).await.unwrap_err().code(), PermissionDenied);
    server.stop().await;
}

#[tokio::test]
async fn each_message_of_a_stream_is_looked_at_for_itself() {
    let (server, admin) = start().await;
    let (_, text) = admin.create_token(token(&[Scope::Publish], &["accounts/1"])).await.unwrap();
    let (sender, mut responses) = server.client_with_token(&text).await.publish_stream().await;
    for (sequence, parent) in [(1, "accounts/1"), (2, "accounts/2"), (3, "accounts/1")] {
        let request = v1::PublishEventRequest { parent: parent.into(), ..publish(&format!("e{sequence}")) };
        sender.send(v1::StreamPublishEventsRequest { sequence, request: Some(request) }).unwrap();
    }
    let mut outcomes = Vec::new();
    for _ in 0..3 {
        let response = in_time(responses.message()).await.unwrap().unwrap();
        outcomes.push(match response.outcome.unwrap() {
            Outcome::Result(result) => result.event,
            Outcome::Error(error) => format!("{:?} {}", Code::from(error.code), error.reason),
        });
    }
    assert_eq!(outcomes, ["accounts/1/events/e1", "PermissionDenied ACCOUNT_DENIED", "accounts/1/events/e3"]);
    drop((sender, responses));
    server.stop().await;
}

#[tokio::test]
async fn a_page_token_opens_no_other_account() {
    let (server, admin) = start().await;
    let (_, one) = admin.create_token(token(&ALL, &["accounts/1"])).await.unwrap();
    let (_, two) = admin.create_token(token(&ALL, &["accounts/2"])).await.unwrap();
    let (one, two) = (server.client_with_token(&one).await, server.client_with_token(&two).await);
    for id in ["a", "b"] {
        one.call(PUBLISH, encoded(&publish(id))).await.unwrap();
    }
    let path = "/tidings.v1.EventService/ListEvents";
    let request = v1::ListEventsRequest { parent: PARENT.into(), page_size: 1, ..Default::default() };
    let page: v1::ListEventsResponse =
        prost::Message::decode(&*one.call(path, encoded(&request)).await.unwrap()).unwrap();
    assert!(!page.next_page_token.is_empty());
    let next = v1::ListEventsRequest { page_token: page.next_page_token, ..request };
    one.call(path, encoded(&next)).await.expect("it is its own");
    let status = two.call(path, encoded(&next)).await.unwrap_err();
    assert_refused(&status, PermissionDenied, "ACCOUNT_DENIED", &[]);
    let next = v1::ListEventsRequest { parent: "accounts/2".into(), ..next };
    let status = two.call(path, encoded(&next)).await.unwrap_err();
    assert_refused(&status, InvalidArgument, "PAGE_TOKEN_INVALID", &["page_token"]);
    server.stop().await;
}

#[tokio::test]
async fn an_administrator_of_some_accounts_manages_only_their_tokens() {
    let (server, admin) = start().await;
    let (wide, _) = admin.create_token(token(&[Scope::Read], &[])).await.unwrap();
    let (other, _) = admin.create_token(token(&[Scope::Read], &["accounts/1"])).await.unwrap();
    let (mixed, _) = admin.create_token(token(&[Scope::Read], &["accounts/1", "accounts/2"])).await.unwrap();
    let (own, text) =
        admin.create_token(token(&[Scope::Admin], &["accounts/2", "accounts/3"])).await.unwrap();
    let caller = server.client_with_token(&text).await;
    let (made, _) = caller.create_token(token(&ALL, &["accounts/3"])).await.unwrap();

    let mut visible: Vec<_> =
        caller.all_tokens().await.unwrap().into_iter().map(|token| token.name).collect();
    visible.sort();
    let mut expected = [own.name.clone(), made.name.clone()];
    expected.sort();
    assert_eq!(visible, expected);
    assert_eq!(caller.token(&made.name).await.unwrap().name, made.name);
    let unknown = "accessTokens/t0000000000000000";
    let without_name = |status: &Status, name: &str| {
        (in_short(status), status.message().replace(name, ""), status.details().len() - name.len())
    };
    for name in [&wide.name, &other.name, &mixed.name] {
        for (known, other) in [
            (caller.token(name).await.unwrap_err(), caller.token(unknown).await.unwrap_err()),
            (caller.revoke_token(name).await.unwrap_err(), caller.revoke_token(unknown).await.unwrap_err()),
        ] {
            assert_eq!(known.code(), NotFound);
            assert_eq!(without_name(&known, name), without_name(&other, unknown));
        }
        assert_eq!(admin.token(name).await.unwrap().revoke_time, None, "{name} was revoked");
    }
    caller.revoke_token(&made.name).await.expect("it is its own to end");
    caller.revoke_token(&own.name).await.expect("even itself");
    assert_eq!(in_short(&caller.all_tokens().await.unwrap_err()).1, "TOKEN_REVOKED");
    server.stop().await;
}
