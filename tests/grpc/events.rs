//! EventService, where it does as asked; its stream has a file of its own.

use crate::support::{events::long_message, in_process::*, receiver::Receiver};
use tidings::{
    event::samples,
    proto::v1::{self, EventType, render_event_request::Source},
};
use tonic::Code;

#[tokio::test]
async fn a_published_event_is_read_back_as_it_was_published() {
    let server = TidingsInProcess::start().await;
    let result = server.publish("e1").await;
    assert_eq!(
        (result.event.as_str(), result.duplicate, result.delivery_count()),
        ("accounts/1/events/e1", false, 0)
    );
    let get = v1::GetEventRequest { name: result.event.clone() };
    let event = server.client.events.clone().get_event(get).await.unwrap().into_inner().event.unwrap();
    assert_eq!(
        (&event.name, event.r#type(), event.create_time),
        (&result.event, EventType::MessageCreated, result.create_time)
    );
    assert_eq!(event.payload, message(7).payload);

    let made = server.publish("").await;
    assert!(made.event.starts_with("accounts/1/events/"), "{}", made.event);
    server.stop().await;
}

#[tokio::test]
async fn an_event_is_owed_to_the_subscriptions_that_match_when_it_is_stored() {
    let server = TidingsInProcess::start().await;
    assert_eq!(server.publish("before").await.delivery_count, Some(0), "JSON shows 0 as well");
    let first = server.subscribe("a").await;
    assert_eq!(server.publish("one").await.delivery_count(), 1);
    server.subscribe("b").await;
    assert_eq!(server.publish("two").await.delivery_count(), 2);
    // Paused ones keep collecting.
    server.client.pause(&first.name).await;
    assert_eq!(server.publish("paused").await.delivery_count(), 2);
    server.client.delete(&first.name, true).await.unwrap();
    assert_eq!(server.publish("after").await.delivery_count(), 1);

    let event = Some(samples::sample(EventType::ContactCreated, account()).into());
    let other = v1::PublishEventRequest { event, ..publish("other") };
    assert_eq!(server.client.try_publish_batch(vec![other]).await.unwrap()[0].delivery_count(), 0);
    server.stop().await;
}

#[tokio::test]
async fn a_repeated_event_gets_the_response_of_the_first() {
    let server = TidingsInProcess::start().await;
    server.subscribe("a").await;
    let first = server.publish("e1").await;
    server.subscribe("b").await;
    let second = server.publish("e1").await;
    assert_eq!(second, v1::PublishResult { duplicate: true, ..first });

    let other = publish_message("e1", 8);
    let status = server.client.try_publish(other).await.unwrap_err();
    assert_refused(&status, Code::AlreadyExists, "EVENT_EXISTS", &["event_id"]);
    assert_eq!(details(&status).resource_info().unwrap().resource_name, "accounts/1/events/e1");
    server.stop().await;
}

#[tokio::test]
async fn a_batch_is_stored_wholly_or_not_at_all() {
    let server = TidingsInProcess::start().await;
    server.publish("old").await;
    // The same event twice in a batch is stored once.
    let results = server
        .client
        .try_publish_batch(vec![publish("a"), publish("b"), publish("a"), publish("old")])
        .await
        .unwrap();
    let duplicates: Vec<_> = results.iter().map(|result| result.duplicate).collect();
    assert_eq!(duplicates, [false, false, true, true]);
    assert_eq!(results[0].event, results[2].event);

    let other = publish_message("b", 8);
    let status = server.client.try_publish_batch(vec![publish("c"), other]).await.unwrap_err();
    assert_refused(&status, Code::AlreadyExists, "EVENT_EXISTS", &["requests[1].event_id"]);
    assert_eq!(details(&status).error_info().unwrap().metadata["request_index"], "1");
    let get = v1::GetEventRequest { name: "accounts/1/events/c".into() };
    let status = server.client.events.clone().get_event(get).await.unwrap_err();
    assert_refused(&status, Code::NotFound, "EVENT_NOT_FOUND", &[]);
    server.stop().await;
}

#[tokio::test]
async fn a_batch_of_a_thousand_takes_its_parent_from_above() {
    let server = TidingsInProcess::start().await;
    let requests =
        (0..1000).map(|n| v1::PublishEventRequest { parent: String::new(), ..publish(&n.to_string()) });
    let request = v1::BatchPublishEventsRequest { parent: PARENT.into(), requests: requests.collect() };
    let results =
        server.client.events.clone().batch_publish_events(request).await.unwrap().into_inner().results;
    assert_eq!(results.len(), 1000);
    assert_eq!(results[999].event, "accounts/1/events/999");
    server.stop().await;
}

#[tokio::test]
async fn an_event_that_is_only_validated_gets_the_usual_response_and_is_not_stored() {
    let server = TidingsInProcess::start().await;
    server.subscribe("a").await;
    let client = &server.client;
    let validate = |id: &str| v1::PublishEventRequest {
        validate_only: true,
        include_warnings: Some(false),
        ..publish(id)
    };
    for (id, name) in [("", ""), ("e1", "accounts/1/events/e1")] {
        let result = client.try_publish(validate(id)).await.unwrap();
        let expected =
            v1::PublishResult { event: name.into(), delivery_count: Some(1), ..Default::default() };
        assert_eq!(result, expected);
    }
    assert!(client.stored_events(1).await.is_empty());

    let first = server.publish("e1").await;
    let result = client.try_publish(validate("e1")).await.unwrap();
    assert_eq!(result, v1::PublishResult { duplicate: true, warnings: Vec::new(), ..first });
    let other = v1::PublishEventRequest { event: Some(message(8).into()), ..validate("e1") };
    let status = client.try_publish(other).await.unwrap_err();
    assert_refused(&status, Code::AlreadyExists, "EVENT_EXISTS", &["event_id"]);
    server.stop().await;
}

#[tokio::test]
async fn lists_show_the_latest_first_by_type_and_time() {
    let server = TidingsInProcess::start().await;
    server.publish("e1").await;
    let event = Some(samples::sample(EventType::ContactCreated, account()).into());
    server.client.try_publish_batch(vec![v1::PublishEventRequest { event, ..publish("c1") }]).await.unwrap();
    let last = server.publish("e2").await;
    let list = v1::ListEventsRequest { parent: PARENT.into(), ..Default::default() };
    let mut client = server.client.events.clone();
    let mut listed = async |request| {
        let listed = client.list_events(request).await.unwrap().into_inner().events;
        listed.iter().map(|event| event.name.replace("accounts/1/events/", "")).collect::<Vec<_>>()
    };
    assert_eq!(listed(list.clone()).await, ["e2", "c1", "e1"]);
    let types = vec![EventType::ContactCreated.into()];
    assert_eq!(listed(v1::ListEventsRequest { types, ..list.clone() }).await, ["c1"]);
    let until = v1::ListEventsRequest { end_time: last.create_time, ..list.clone() };
    assert!(!listed(until).await.contains(&"e2".into()));
    let from = v1::ListEventsRequest { start_time: last.create_time, ..list };
    assert!(listed(from).await.contains(&"e2".into()));
    server.stop().await;
}

#[tokio::test]
async fn pages_of_large_events_survive_new_ones_and_stay_below_the_limit_of_clients() {
    let server = TidingsInProcess::start().await;
    for number in 1..=9 {
        let event = long_message(1, 3, number, 900_000);
        server.client.publish_as(1, &format!("e{number}"), event).await;
    }
    let mut client = server.client.events.clone();
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let parent = PARENT.into();
        let request = v1::ListEventsRequest { parent, page_size: 1000, page_token, ..Default::default() };
        // A page of more than 4 MiB is an error of the client's codec.
        let page = client.list_events(request).await.unwrap().into_inner();
        seen.extend(page.events.into_iter().map(|event| event.name.replace("accounts/1/events/", "")));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
        server.publish("").await;
    }
    assert_eq!(seen, ["e9", "e8", "e7", "e6", "e5", "e4", "e3", "e2", "e1"]);
    server.stop().await;
}

#[tokio::test]
async fn a_rendered_event_equals_the_body_that_a_receiver_gets() {
    let mut receiver = Receiver::start().await;
    let server = TidingsInProcess::start().await;
    let subscription = v1::Subscription {
        headers: [("x-token".to_owned(), "secret".to_owned())].into(),
        payload_format: v1::subscription::PayloadFormat::Sample.into(),
        ..subscription(&receiver.url("/hook"))
    };
    let request = v1::CreateSubscriptionRequest { subscription: Some(subscription), ..create("crm", "") };
    server.client.create(request).await.unwrap();
    let tested = server.client.test(CRM, EventType::Unspecified).await;
    let got = receiver.next().await;

    let source = Some(Source::Event(samples::sample(EventType::MessageCreated, account())));
    let render = v1::RenderEventRequest { source, subscription: CRM.into(), ..Default::default() };
    let rendered = server.client.events.clone().render_event(render).await.unwrap().into_inner();
    assert_eq!(rendered.body, tested.request_body);
    assert_eq!(rendered.headers["x-token"], "***");
    assert!(rendered.headers["webhook-signature"].starts_with("v1,"));
    for name in rendered.headers.keys() {
        assert!(got.headers.contains_key(name), "{name} was not sent");
    }
    for name in got.headers.keys().filter(|name| !["host", "content-length"].contains(&name.as_str())) {
        assert!(rendered.headers.contains_key(name.as_str()), "{name} was not shown");
    }
    server.stop().await;
}

#[tokio::test]
async fn an_event_is_rendered_as_documented_where_no_subscription_is_named() {
    let server = TidingsInProcess::start().await;
    let mut client = server.client.events.clone();
    server.publish("e1").await;
    let stored = v1::RenderEventRequest {
        source: Some(Source::Name("accounts/1/events/e1".into())),
        ..Default::default()
    };
    let stored = client.render_event(stored).await.unwrap().into_inner();
    assert!(!stored.headers.contains_key("webhook-signature") && stored.headers.contains_key("user-agent"));
    for kind in EventType::all() {
        let source = Some(Source::Event(samples::sample(kind, account())));
        let result = client.render_event(v1::RenderEventRequest { source, ..Default::default() }).await;
        match kind {
            // These payloads do not say whose they are.
            EventType::InboxCreated | EventType::InboxUpdated => {
                let expected = (Code::InvalidArgument, "FIELD_REQUIRED".into(), vec!["subscription".into()]);
                assert_eq!(in_short(&result.unwrap_err()), expected);
            }
            _ => assert!(result.unwrap().into_inner().body.contains("\"event\":")),
        }
    }
    let source = Some(Source::Event(message(7)));
    let new = client
        .render_event(v1::RenderEventRequest { source, ..Default::default() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(new.body, stored.body);
    server.stop().await;
}

#[tokio::test]
async fn the_answer_of_publish_says_what_the_form_of_a_subscriber_leaves_out() {
    use v1::subscription::PayloadFormat;
    let (receiver, server) = (Receiver::start().await, TidingsInProcess::start().await);
    let client = &server.client;
    let with_attachment = |id: &str, include_warnings| {
        let mut event = message(7);
        let Some(v1::event::Payload::MessageCreated(created)) = &mut event.payload else { unreachable!() };
        let attachment = v1::Attachment { id: 1, file_type: "image".into(), ..Default::default() };
        created.message.as_mut().unwrap().attachments = vec![attachment; 2];
        v1::PublishEventRequest { event: Some(event.into()), include_warnings, ..publish(id) }
    };
    let subscribe = |format: PayloadFormat, path: &str| {
        let wanted = v1::Subscription {
            payload_format: format.into(),
            event_types: vec![EventType::MessageCreated.into()],
            url: receiver.url(path),
            ..Default::default()
        };
        client.subscribe(1, wanted)
    };
    subscribe(PayloadFormat::Chatwoot, "/chatwoot").await;
    let result = client.try_publish(with_attachment("nobody", None)).await.unwrap();
    assert_eq!(result.warnings, [], "Chatwoot's form has all of it");

    let documented = subscribe(PayloadFormat::Documented, "/documented").await;
    let warnings = |result: &v1::PublishResult| {
        let warnings = result.warnings.iter();
        warnings.map(|warning| (warning.fields.clone(), warning.description.clone())).collect::<Vec<_>>()
    };
    let attachments = |result: &v1::PublishResult| {
        let field = "event.message_created.message.attachments".to_owned();
        let with = warnings(result).into_iter().filter(|(paths, _)| paths.contains(&field));
        with.map(|(_, why)| why).collect::<Vec<_>>()
    };
    let said = ["not in PAYLOAD_FORMAT_DOCUMENTED"];
    let result = client.try_publish(with_attachment("unary", None)).await.unwrap();
    assert_eq!(result.warnings.iter().map(|warning| warning.fields.len()).collect::<Vec<_>>(), [1]);
    let validated = v1::PublishEventRequest { validate_only: true, ..with_attachment("", Some(true)) };
    assert_eq!(attachments(&client.try_publish(validated).await.unwrap()), said);
    let quiet = client.try_publish(with_attachment("quiet", Some(false))).await.unwrap();
    assert_eq!(warnings(&quiet), []);

    // One field is named, and more where they are asked for.
    let rich = |include_warnings| {
        let mut request = with_attachment("", include_warnings);
        let event = request.event.as_mut().unwrap();
        let Some(v1::event::Payload::MessageCreated(created)) = &mut event.payload else { unreachable!() };
        let conversation = created.message.as_mut().unwrap().conversation.as_mut().unwrap();
        conversation.labels = vec!["a".into()];
        conversation.priority = Some("high".into());
        conversation.waiting_since = Some(prost_types::Timestamp::default());
        v1::PublishEventRequest { validate_only: true, ..request }
    };
    let few = client.try_publish(rich(None)).await.unwrap();
    let many = client.try_publish(rich(Some(true))).await.unwrap();
    assert_eq!(few.warnings[0].fields, many.warnings[0].fields[..1]);
    assert_eq!(few.warnings[0].description, format!("{}, and there are more", said[0]));
    assert!(many.warnings[0].fields.len() > 2 && many.warnings[0].description == said[0], "{many:?}");

    // In batches and streams only where they are asked for.
    let batch = vec![with_attachment("b1", None), with_attachment("b2", Some(true))];
    let results = client.try_publish_batch(batch).await.unwrap();
    assert_eq!((warnings(&results[0]), attachments(&results[1])), (vec![], said.map(str::to_owned).to_vec()));
    let (sender, mut responses) = client.publish_stream().await;
    for (sequence, include) in [(1, None), (2, Some(true))] {
        let request = Some(with_attachment(&format!("s{sequence}"), include));
        sender.send(v1::StreamPublishEventsRequest { sequence, request }).unwrap();
        let response = responses.message().await.unwrap().unwrap();
        let Some(v1::stream_publish_events_response::Outcome::Result(result)) = response.outcome else {
            panic!("{response:?}")
        };
        assert_eq!(attachments(&result).len(), usize::from(include.is_some()));
    }
    client.pause(&documented.name).await;
    let paused = client.try_publish(with_attachment("paused", Some(true))).await.unwrap();
    assert_eq!(attachments(&paused), said, "it gets the event later");
    drop(sender);
    server.stop().await;
}
