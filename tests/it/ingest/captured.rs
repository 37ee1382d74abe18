//! Webhooks that were captured from Chatwoot, sent as it sends them, and delivered as they came.

use super::{delivery, launcher, now, put_sources, sender, signed, source};
use crate::{
    chatwoot::{
        exceptions::NONE_OF_THE_TWELVE,
        fixtures::{self, Fixture},
    },
    support::{client::subscription, receiver::Receiver},
};
use tidings::{
    domain::payload_format::PayloadFormat as Form,
    event::{parse, render::render},
    proto::v1::{self, subscription::PayloadFormat},
};

#[tokio::test]
async fn every_captured_webhook_is_delivered_as_it_came() {
    const SECRET: &str = "a secret that these are signed with";
    let fixtures = fixtures::all();
    let mut accounts: Vec<_> = fixtures.iter().map(|fixture| fixture.account().get()).collect();
    accounts.sort_unstable();
    accounts.dedup();
    let launcher = launcher();
    let path = |account: i64| format!("captured-0123456789-{account}");
    let sources = accounts.iter().map(|account| {
        format!("{}signing_secret = '{SECRET}'\n", source(*account, &path(*account), &format!("a{account}")))
    });
    put_sources(&launcher, &sources.collect::<String>());
    let (receiver, gateway) = (Receiver::start().await, launcher.start().await);
    for account in &accounts {
        let payload_format = PayloadFormat::Chatwoot.into();
        let url = receiver.url(&format!("/{account}"));
        let wanted = v1::Subscription { payload_format, ..subscription(url) };
        gateway.client.subscribe(*account, wanted).await;
    }
    let (mut taken, mut kept) = (0, 0);
    for fixture in &fixtures {
        let Fixture { name, captured } = fixture;
        let (text, account) = (str::from_utf8(captured).unwrap(), fixture.account());
        let sender = sender(&gateway, &path(account.get()));
        let response = sender.post(text, &delivery(), &signed(SECRET, now(), text)).await;
        assert_eq!(response.status, 200, "{name}: {response:?}");
        taken += 1;
        let arrived = receiver.wait_for(taken).await;
        let sent = arrived.last().unwrap();
        assert_eq!(sent.path, format!("/{account}"));
        if fixture.is_an_unknown_event() {
            let fault = serde_json::json!({ "field": "event", "rule": "is not a known event name" });
            assert_eq!(response.json()["faults"], serde_json::json!([fault]), "{name}");
            assert_eq!(sent.body, text, "{name}");
            kept += 1;
            continue;
        }
        // The same as if it had been published over gRPC.
        let read = parse::read(captured, account).unwrap();
        assert_eq!(sent.body.as_bytes(), render(&read, Form::Chatwoot), "{name}");
        fixture.assert_differs_as_excepted(sent.body.as_bytes());
    }
    assert_eq!((taken, kept), (fixtures.len(), NONE_OF_THE_TWELVE.len()));
    let log = gateway.stop().await;
    assert_eq!(super::refused(&log).len(), 0);
}
