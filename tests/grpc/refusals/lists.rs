//! Refused lists, renderings and reads of deliveries.

use super::call::*;
use crate::support::in_process::*;
use prost_types::Timestamp;
use tidings::{
    event::samples,
    proto::v1::{self, EventType, render_event_request::Source},
};

pub fn lists() -> Vec<Line> {
    let subscriptions = |change: fn(&mut v1::ListSubscriptionsRequest)| {
        let mut request = v1::ListSubscriptionsRequest { parent: PARENT.into(), ..Default::default() };
        change(&mut request);
        Call::ListSubscriptions(request)
    };
    let events = |change: fn(&mut v1::ListEventsRequest)| {
        let mut request = v1::ListEventsRequest { parent: PARENT.into(), ..Default::default() };
        change(&mut request);
        Call::ListEvents(request)
    };
    let deliveries = |change: fn(&mut v1::ListDeliveriesRequest)| {
        let mut request = v1::ListDeliveriesRequest { parent: CRM.into(), ..Default::default() };
        change(&mut request);
        Call::ListDeliveries(request)
    };
    let replay = |change: fn(&mut v1::ReplayDeliveriesRequest)| {
        let mut request = v1::ReplayDeliveriesRequest { parent: CRM.into(), ..Default::default() };
        change(&mut request);
        Call::Replay(request)
    };
    let render = |source: Option<Source>, subscription: &str| {
        Call::Render(v1::RenderEventRequest {
            source,
            subscription: subscription.into(),
            ..Default::default()
        })
    };
    let stored = || Some(Source::Name("accounts/1/events/taken".into()));
    vec![
        required("a list without a parent", subscriptions(|r| r.parent.clear()), &["parent"]),
        invalid("a negative page size", subscriptions(|r| r.page_size = -1), &["page_size"]),
        invalid("an unknown event type to filter by", subscriptions(|r| r.event_type = 99), &["event_type"]),
        invalid(
            "an unspecified state to filter by",
            subscriptions(|r| r.states = vec![1, 0]),
            &["states[1]"],
        ),
        page_token("a page token of garbage", subscriptions(|r| r.page_token = "garbage".into())),
        invalid("a list of the events of nobody", events(|r| r.parent = "accounts/".into()), &["parent"]),
        invalid(
            "a list of one subscription's deliveries of all accounts",
            deliveries(|r| r.parent = "accounts/-/subscriptions/crm".into()),
            &["parent"],
        ),
        invalid("an unknown type of events to list", events(|r| r.types = vec![99]), &["types[0]"]),
        invalid("a negative page size of events", events(|r| r.page_size = i32::MIN), &["page_size"]),
        invalid(
            "an end before the start",
            events(|r| {
                r.start_time = Some(Timestamp { seconds: 2, nanos: 0 });
                r.end_time = Some(Timestamp { seconds: 1, nanos: 0 });
            }),
            &["end_time"],
        ),
        invalid(
            "a start with negative nanos",
            events(|r| r.start_time = Some(Timestamp { seconds: 2, nanos: -1 })),
            &["start_time"],
        ),
        page_token("a page token of events that is garbage", events(|r| r.page_token = "AAAA".into())),
        invalid("a list of deliveries of an account", deliveries(|r| r.parent = PARENT.into()), &["parent"]),
        no_subscription(
            "deliveries of a subscription that is not there",
            deliveries(|r| r.parent = NO_SUBSCRIPTION.into()),
        ),
        invalid("an unknown state of deliveries", deliveries(|r| r.states = vec![9]), &["states[0]"]),
        mismatch(
            "deliveries of an event of another account",
            deliveries(|r| r.event = "accounts/2/events/taken".into()),
            &["event"],
        ),
        invalid(
            "deliveries of an event of another form",
            deliveries(|r| r.event = "taken".into()),
            &["event"],
        ),
        page_token("a page token of deliveries that is garbage", deliveries(|r| r.page_token = "{}".into())),
        required("no delivery to get", Call::GetDelivery(""), &["name"]),
        invalid("a delivery name of another form", Call::GetDelivery(CRM), &["name"]),
        missing(
            "a delivery of an event that is not there",
            Call::GetDelivery("accounts/1/subscriptions/crm/deliveries/none"),
            "DELIVERY_NOT_FOUND",
        ),
        missing(
            "a delivery that was never owed",
            Call::GetDelivery("accounts/1/subscriptions/other/deliveries/taken"),
            "DELIVERY_NOT_FOUND",
        ),
        missing(
            "a delivery of a subscription that is not there",
            Call::GetDelivery("accounts/1/subscriptions/none/deliveries/taken"),
            "DELIVERY_NOT_FOUND",
        ),
        required("a replay to nobody", replay(|r| r.parent.clear()), &["parent"]),
        invalid(
            "a replay to all of an account",
            replay(|r| r.parent = "accounts/1/subscriptions/-".into()),
            &["parent"],
        ),
        no_subscription(
            "a replay to a subscription that is not there",
            replay(|r| r.parent = NO_SUBSCRIPTION.into()),
        ),
        invalid(
            "a replay of what is owed",
            replay(|r| r.states = vec![4, 1, 2]),
            &["states[1]", "states[2]"],
        ),
        invalid("a replay of an unknown state", replay(|r| r.states = vec![7]), &["states[0]"]),
        invalid("a replay of an unknown type", replay(|r| r.event_types = vec![1, 0]), &["event_types[1]"]),
        invalid("a replay of too many at once", replay(|r| r.page_size = 10_001), &["page_size"]),
        invalid("a replay of less than none", replay(|r| r.page_size = -1), &["page_size"]),
        invalid(
            "a replay that ends before it starts",
            replay(|r| {
                r.start_time = Some(Timestamp { seconds: 2, nanos: 0 });
                r.end_time = Some(Timestamp { seconds: 1, nanos: 0 });
            }),
            &["end_time"],
        ),
        page_token("a page token of a replay that is garbage", replay(|r| r.page_token = "x".into())),
        required("nothing to render", render(None, ""), &["source"]),
        missing(
            "an event to render that is not there",
            render(Some(Source::Name("accounts/1/events/none".into())), ""),
            "EVENT_NOT_FOUND",
        ),
        no_subscription("a subscription to render for that is not there", render(stored(), NO_SUBSCRIPTION)),
        mismatch(
            "a subscription of another account to render for",
            render(stored(), "accounts/2/subscriptions/crm"),
            &["subscription"],
        ),
        required(
            "a bad event to render",
            render(Some(Source::Event(v1::Event::default())), CRM),
            &["event.payload"],
        ),
        mismatch(
            "an event of another account to render",
            render(
                Some(Source::Event(samples::sample(EventType::ContactCreated, account()))),
                "accounts/2/subscriptions/crm",
            ),
            &["event.contact_created.contact.account.id"],
        ),
    ]
}
