//! Sinks of notices, and what they were told.

use std::sync::Arc;

use super::{Bench, Engine, account, new_event, new_subscription};
use crate::{
    domain::{
        delivery::{DeliveryKey, DeliveryState},
        event_routing::{EventAddress, OrderTag},
        ids::{AccountId, AccountScope, NoticeSinkName},
        notice::{NoticeKind, NoticeKinds, Noticed, Trouble},
        subscription::Subscription,
    },
    event::notice::Notice,
    store::{Change, EventQuery, NewEvent, NewSubscription, StoreError, TimeRange},
};

pub(super) async fn run<E: Engine>(engine: &impl Fn() -> E) {
    a_notice_is_owed_to_its_sinks_and_to_nobody_else(engine()).await;
    a_sink_is_beside_subscriptions(engine()).await;
    what_was_told_is_no_change_of_the_owner(engine()).await;
}

async fn sink<E: Engine>(bench: &Bench<E>, name: &str) -> Arc<Subscription> {
    let NoticeSinkName(name) = name.parse().unwrap();
    let mut new = NewSubscription { name, ..new_subscription(1, "a") };
    new.settings.event_types = Vec::new().into();
    new.settings.notices = Some([NoticeKind::EndpointFailing].into_iter().collect());
    bench.store.create_subscription(new).await.unwrap().subscription
}

fn notice(of: AccountId, sinks: &[&Arc<Subscription>]) -> NewEvent {
    NewEvent {
        address: EventAddress { account: of, id: Some("endpoint.failing-1".parse().unwrap()) },
        content: Notice::sample(NoticeKind::EndpointFailing).content(OrderTag(7)),
        inbox_id: None,
        fingerprint: 0,
        recipients: Some(sinks.iter().map(|sink| sink.key).collect()),
    }
}

async fn a_notice_is_owed_to_its_sinks_and_to_nobody_else<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let subscription = bench.subscribe(1, "a").await;
    let [own, gone] =
        [sink(&bench, "accounts/1/noticeSinks/a").await, sink(&bench, "accounts/1/noticeSinks/b").await];
    let of_all = sink(&bench, "accounts/-/noticeSinks/a").await;
    bench.store.delete_subscription(gone.key, gone.version, true).await.unwrap();
    assert_eq!(bench.publish(1, None, 1).await.delivery_count, 1, "sinks receive no published events");

    let notices = || vec![notice(account(1), &[&own, &gone]), notice(AccountId::ALL, &[&of_all])];
    let stored = bench.store.accept(notices()).await.unwrap();
    assert_eq!(
        stored.iter().map(|one| (one.delivery_count, one.duplicate)).collect::<Vec<_>>(),
        [(1, false); 2]
    );
    for _ in 0..2 {
        let again = bench.store.accept(notices()).await.unwrap();
        assert!(again.iter().all(|one| one.duplicate), "a notice is stored once");
        for (of, sink) in [(account(1), &own), (AccountId::ALL, &of_all)] {
            let event = bench.store.event(of, &stored[0].id).unwrap().expect("it is stored");
            assert!(event.is_notice() && event.event_type_name() == "endpoint.failing");
            let key = DeliveryKey { seq: event.seq, subscription: sink.key };
            assert_eq!(bench.store.delivery(key).unwrap().unwrap().state, DeliveryState::Pending);
            assert_eq!(bench.store.queue_summary(sink.key).owed(), 1);
        }
        assert_eq!(bench.store.queue_summary(subscription.key).owed(), 1);
        assert_eq!(bench.store.owed_by(AccountId::ALL).deliveries, 1);
        assert_eq!(bench.store.accounts().into_iter().collect::<Vec<_>>(), [account(1)]);
        let (account, time) = (account(1), TimeRange::default());
        let scope = AccountScope::One(account);
        let query = EventQuery { scope, types: Vec::new(), time, before: None, limit: 10 };
        let listed = bench.store.events(&query).unwrap().rows;
        assert_eq!(listed.iter().filter(|event| event.is_notice()).count(), 0, "a notice is no event");
        assert_eq!(listed.len(), 1);
        bench.reopen();
    }
}

async fn a_sink_is_beside_subscriptions<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    bench.subscribe(1, "a").await;
    // The same id and the same URL.
    let own = sink(&bench, "accounts/1/noticeSinks/a").await;
    let other = sink(&bench, "accounts/1/noticeSinks/b").await;
    let of_all = sink(&bench, "accounts/-/noticeSinks/a").await;
    let NoticeSinkName(name) = "accounts/1/noticeSinks/a".parse().unwrap();
    let again = NewSubscription { name, ..new_subscription(1, "c") };
    let taken = bench.store.create_subscription(again).await.unwrap_err();
    assert!(matches!(taken, StoreError::NameTaken(name) if name == own.name));
    for _ in 0..2 {
        let registry = bench.store.registry();
        assert_eq!(registry.sinks_about(account(1)), [of_all.clone(), own.clone(), other.clone()]);
        assert_eq!(registry.sinks_about(account(2)), std::slice::from_ref(&of_all));
        assert_eq!(registry.sinks_about(AccountId::ALL), std::slice::from_ref(&of_all));
        assert!(registry.has_sinks() && registry.has_sinks_of(NoticeKind::EndpointFailing));
        assert!(!registry.has_sinks_of(NoticeKind::DeliveryFailed));
        assert_eq!(
            (registry.by_key(own.key), registry.by_name(&own.name)),
            (Some(own.clone()), Some(own.clone()))
        );
        assert_eq!(registry.count_by_state(), [1, 0, 0]);
        let mut walked = 0;
        registry.walk(AccountScope::All, None, |_| {
            walked += 1;
            true
        });
        assert_eq!(walked, 1);
        bench.reopen();
    }
    for sink in [own, other, of_all] {
        bench.store.delete_subscription(sink.key, sink.version, true).await.unwrap();
    }
    let registry = bench.store.registry();
    assert!(!registry.has_sinks() && registry.sinks_about(account(1)).is_empty());
    assert_eq!(registry.len(), 1);
}

async fn what_was_told_is_no_change_of_the_owner<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let a = bench.subscribe(1, "a").await;
    assert_eq!((a.noticed, a.settings.notices), (Noticed::default(), None::<NoticeKinds>));
    for trouble in [Trouble::Suspended, Trouble::Failing, Trouble::None] {
        let noticed = Noticed { trouble, backlog_level: 3, count: u64::MAX };
        let told = bench.store.update_subscription(a.key, a.version, Change::Noticed(noticed)).await.unwrap();
        assert_eq!(*told, Subscription { noticed, ..(*a).clone() });
        bench.reopen();
        assert_eq!(bench.store.registry().by_key(a.key), Some(told));
    }
    let other = bench.store.accept(vec![new_event(1, None, 1)]).await.unwrap();
    assert_eq!(other[0].delivery_count, 1);
}
