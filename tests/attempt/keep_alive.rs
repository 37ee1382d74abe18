//! Idle connections: which of them are used again, and for how long they are kept.

use std::{sync::Arc, time::Duration};

use tidings::domain::delivery::Outcome;
use tokio::sync::Barrier;

use crate::{
    attempt::sender::Sender,
    support::receiver::{OK, Receiver, Response},
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
