//! Idle connections: which of them are used again, and for how long they are kept.

use std::{sync::Arc, time::Duration};

use tidings::{delivery::http::client::WebhookClientSettings, domain::delivery::Outcome};
use tokio::{sync::Barrier, time::Instant};

use crate::{
    attempt::sender::Sender,
    support::{
        PATIENCE,
        receiver::{OK, Receiver, Response},
    },
};

#[tokio::test]
async fn one_that_the_receiver_closed_meanwhile_is_not_used() {
    let mut receiver = Receiver::always(Response::last(OK)).await;
    let sender = Sender::new();
    for number in 0..10 {
        assert_eq!(sender.post(&receiver.url("/")).await.outcome, Outcome::Ok);
        assert_eq!(receiver.next().await.connection, number);
    }
}

#[tokio::test]
async fn one_that_is_not_used_for_long_is_closed() {
    let receiver = Receiver::always(Response::bytes(OK)).await;
    let sender = Sender::with(|settings| settings.idle_timeout = Duration::from_millis(50));
    assert_eq!(sender.post(&receiver.url("/")).await.outcome, Outcome::Ok);
    receiver.wait_for_closed(1).await;
}

/// Receivers that respond to everything, over HTTP/1.1 and HTTP/2, and a sender to each.
async fn of_both_protocols(change: impl Fn(&mut WebhookClientSettings)) -> [(Receiver, Sender); 2] {
    let (http1, http2) = (Receiver::speaking(&["http/1.1"], 2).await, Receiver::speaking(&["h2"], 2).await);
    [http1, http2].map(|receiver| {
        let sender = Sender::with(|settings| {
            settings.extra_roots = vec![receiver.authority().der()];
            change(settings);
        });
        (receiver, sender)
    })
}

#[tokio::test]
async fn one_that_is_too_old_is_closed_even_if_it_is_used() {
    let age = Duration::from_millis(200);
    for (receiver, sender) in of_both_protocols(|settings| settings.delivery_connection_age_max = age).await {
        let begun = Instant::now();
        while receiver.connections() < 3 {
            assert_eq!(sender.post(&receiver.url("/")).await.outcome, Outcome::Ok);
            assert!(begun.elapsed() < PATIENCE, "{} connections", receiver.connections());
        }
        assert!(begun.elapsed() >= age * 3 / 2, "two lived for {:?}", begun.elapsed());
        receiver.wait_for_closed(2).await;
    }
}

#[tokio::test]
async fn one_that_is_too_old_and_not_used_is_closed() {
    let age = Duration::from_millis(200);
    for (receiver, sender) in of_both_protocols(|settings| settings.delivery_connection_age_max = age).await {
        assert_eq!(sender.post(&receiver.url("/")).await.outcome, Outcome::Ok);
        receiver.wait_for_closed(1).await;
    }
}

#[tokio::test]
async fn one_that_carried_as_many_posts_as_it_may_carries_no_more() {
    for (receiver, sender) in of_both_protocols(|settings| settings.connection_requests_max = 4).await {
        for _ in 0..24 {
            assert_eq!(sender.post(&receiver.url("/")).await.outcome, Outcome::Ok);
        }
        let mut carried = [0; 9];
        receiver.seen().iter().for_each(|request| carried[request.connection] += 1);
        let last = receiver.connections() - 1;
        assert!(carried[..last].iter().all(|posts| [3, 4].contains(posts)), "{carried:?}");
    }
}

#[tokio::test]
async fn no_more_are_kept_than_the_endpoint_may_have() {
    let receiver = Receiver::always(Response::bytes(OK)).await;
    let sender = Sender::with(|settings| settings.idle_connections_per_endpoint_max = 0);
    assert_eq!(sender.post(&receiver.url("/")).await.outcome, Outcome::Ok);
    receiver.wait_for_closed(1).await;
}

#[tokio::test]
async fn of_too_many_in_all_those_go_that_were_not_used_for_longest() {
    let mut receivers = Vec::new();
    let sender = Sender::with(|settings| settings.idle_connections_max = 3);
    for _ in 0..4 {
        let receiver = Receiver::always(Response::bytes(OK)).await;
        assert_eq!(sender.post(&receiver.url("/")).await.outcome, Outcome::Ok);
        receivers.push(receiver);
    }
    for (number, receiver) in receivers.iter().enumerate() {
        if number < 2 {
            receiver.wait_for_closed(1).await;
        } else {
            assert_eq!(sender.post(&receiver.url("/")).await.outcome, Outcome::Ok);
            let used: Vec<_> = receiver.seen().iter().map(|request| request.connection).collect();
            assert_eq!(used, [0, 0], "the receiver {number}");
        }
    }
}

#[tokio::test]
async fn many_that_broke_together_cost_one_second_try() {
    // All connections of the first round are reset when they are used again.
    const AT_ONCE: usize = 8;
    let all_there = Arc::new(Barrier::new(AT_ONCE));
    let mut receiver = Receiver::on_connections(move |mut connection| {
        let all_there = Arc::clone(&all_there);
        async move {
            connection.request().await;
            if connection.number >= AT_ONCE {
                connection.send(OK).await;
                connection.wait_for_end().await;
                return;
            }
            // So that no connection is used twice in the first round.
            all_there.wait().await;
            connection.send(OK).await;
            connection.request().await;
            connection.reset();
        }
    })
    .await;
    let sender = Sender::new();
    let url = receiver.url("/");
    let posts = (0..AT_ONCE).map(|_| sender.post(&url));
    let attempts = futures_util::future::join_all(posts).await;
    assert!(attempts.iter().all(|attempt| attempt.outcome == Outcome::Ok), "{attempts:?}");
    assert_eq!(receiver.take_all().len(), AT_ONCE);
    assert_eq!(sender.post(&url).await.outcome, Outcome::Ok);
    // One over a kept connection that was reset, one over a new one.
    assert_eq!(receiver.take_all().len(), 2);
}
