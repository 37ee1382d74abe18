//! Receivers over HTTP/2 that do not take a request: what they say, and what the attempt makes of it.

use std::time::Duration;

use futures_util::future::join_all;
use http::Version;
use tidings::domain::delivery::Outcome;

use crate::{
    attempt::sender::impatient,
    support::{
        PATIENCE,
        http2_receiver::{HTTP_1_1_REQUIRED, NO_ERROR, Post, REFUSED_STREAM, go_away},
        receiver::Receiver,
    },
};

const INTERNAL_ERROR: u32 = 2;
/// Short enough to wait for, long enough for everything that is expected before.
const SHORT: Duration = Duration::from_millis(500);

/// Connections over which requests came in, in their order.
fn connections(receiver: &Receiver) -> Vec<usize> {
    receiver.seen().iter().map(|request| request.connection).collect()
}

#[tokio::test]
async fn streams_above_the_last_of_a_goaway_are_sent_again_at_once_without_costing_an_attempt() {
    for code in [NO_ERROR, INTERNAL_ERROR] {
        // Each connection takes one request and leaves the next out.
        let receiver = Receiver::with_frames(move |post: Post| match post.stream {
            1 => post.ok(),
            _ => go_away(1, code),
        })
        .await;
        let sender = receiver.trusting_sender();
        let mut resent = Vec::new();
        for _ in 0..3 {
            let attempt = sender.post(&receiver.url("/hook")).await;
            assert_eq!((attempt.outcome, attempt.http_status), (Outcome::Ok, 200), "{attempt:?}");
            resent.push(attempt.resent);
        }
        assert_eq!(resent, [0, 1, 1]);
        assert_eq!(connections(&receiver), [0, 0, 1, 1, 2]);
    }
}

#[tokio::test]
async fn refused_streams_are_sent_again_over_another_connection() {
    let receiver = Receiver::with_frames(|post: Post| match post.connection {
        0..=2 => post.reset(REFUSED_STREAM),
        _ => post.ok(),
    })
    .await;
    let attempt = receiver.trusting_sender().post(&receiver.url("/hook")).await;
    assert_eq!((attempt.outcome, attempt.resent), (Outcome::Ok, 3), "{attempt:?}");
    assert_eq!(connections(&receiver), [0, 1, 2, 3]);
}

#[tokio::test]
async fn a_receiver_that_never_takes_a_request_gets_it_four_times_in_an_attempt() {
    for (reaction, said) in [
        (Post::reset as fn(Post, u32) -> Vec<u8>, "RST_STREAM, REFUSED_STREAM"),
        (|_, code| go_away(0, code), "GOAWAY, REFUSED_STREAM"),
    ] {
        let receiver = Receiver::with_frames(move |post| reaction(post, REFUSED_STREAM)).await;
        let attempt = receiver.trusting_sender().post(&receiver.url("/hook")).await;
        assert_eq!((attempt.outcome, attempt.resent), (Outcome::Io, 3), "{attempt:?}");
        let expected =
            format!("the endpoint ended the request before the response was complete (HTTP/2 {said})");
        assert_eq!(attempt.error, expected);
        assert_eq!(connections(&receiver), [0, 1, 2, 3]);
    }
}

#[tokio::test]
async fn a_stream_that_the_receiver_may_have_processed_is_not_sent_again() {
    // The last stream of the GOAWAY is this one; any other reset may come in the middle of the work.
    let goaway_after: fn(Post) -> Vec<u8> =
        |post| [go_away(post.stream, NO_ERROR), post.reset(INTERNAL_ERROR)].concat();
    for reaction in [goaway_after, |post| post.reset(INTERNAL_ERROR)] {
        let receiver = Receiver::with_frames(reaction).await;
        let attempt = receiver.trusting_sender().post(&receiver.url("/hook")).await;
        assert_eq!((attempt.outcome, attempt.resent), (Outcome::Io, 0), "{attempt:?}");
        assert_eq!(receiver.seen().len(), 1);
    }
}

#[tokio::test]
async fn a_goaway_that_leaves_many_out_costs_none_of_them_an_attempt() {
    const AT_ONCE: usize = 20;
    // The first connection responds to the first request, and once all others are there it leaves them out.
    let receiver = Receiver::with_frames(|post: Post| match (post.connection, post.stream) {
        (0, 1) | (1.., _) => post.ok(),
        (0, stream) if stream < u32::try_from(2 * AT_ONCE + 1).unwrap() => Vec::new(),
        _ => go_away(1, NO_ERROR),
    })
    .await;
    let sender = receiver.trusting_sender();
    let url = receiver.url("/hook");
    assert_eq!(sender.post(&url).await.outcome, Outcome::Ok);
    for attempt in join_all((0..AT_ONCE).map(|_| sender.post(&url))).await {
        assert_eq!((attempt.outcome, attempt.resent), (Outcome::Ok, 1), "{attempt:?}");
    }
    assert_eq!(receiver.seen().len(), 1 + 2 * AT_ONCE);
}

#[tokio::test]
async fn a_receiver_that_has_not_said_how_many_requests_it_takes_at_once_gets_one() {
    // It never says so, and never responds.
    let receiver = Receiver::with_frames_after(Vec::new(), |_| Vec::new()).await;
    let sender = receiver.trusting_sender();
    let url = receiver.url("/hook");
    let first = sender.post_to(impatient(&url, PATIENCE));
    let others = async {
        receiver.wait_for(1).await;
        join_all((0..5).map(|_| sender.post_to(impatient(&url, SHORT)))).await
    };
    tokio::select! {
        attempt = first => panic!("{attempt:?}"),
        others = others => assert!(others.iter().all(|other| other.outcome == Outcome::Timeout), "{others:?}"),
    }
    assert_eq!(connections(&receiver), [0]);
}

#[tokio::test]
async fn after_a_timeout_no_request_goes_over_that_connection_which_ends_with_its_streams() {
    // The first connection acknowledges everything and responds to nothing but its first request.
    let receiver = Receiver::with_frames(|post: Post| match (post.connection, post.stream) {
        (0, 1) | (1.., _) => post.ok(),
        _ => Vec::new(),
    })
    .await;
    let sender = receiver.trusting_sender();
    let url = receiver.url("/hook");
    assert_eq!(sender.post(&url).await.outcome, Outcome::Ok);
    let under_way = tokio::spawn({
        let (sender, url) = (sender.clone(), url.clone());
        async move { sender.post_to(impatient(&url, SHORT * 6)).await }
    });
    receiver.wait_for(2).await;
    let late = sender.post_to(impatient(&url, SHORT)).await;
    assert_eq!((late.outcome, late.resent), (Outcome::Timeout, 0), "{late:?}");
    let next = sender.post(&url).await;
    assert_eq!((next.outcome, next.resent), (Outcome::Ok, 0), "{next:?}");
    assert_eq!(connections(&receiver), [0, 0, 0, 1]);
    assert!(!under_way.is_finished(), "it has its own time");
    assert_eq!(under_way.await.unwrap().outcome, Outcome::Timeout);
    receiver.wait_for_closed(1).await;
}

#[tokio::test]
async fn a_receiver_that_requires_http_1_1_gets_it_and_this_is_remembered() {
    let goaway: fn(Post) -> Vec<u8> = |_| go_away(0, HTTP_1_1_REQUIRED);
    for reaction in [goaway, |post| post.reset(HTTP_1_1_REQUIRED)] {
        let receiver = Receiver::with_frames(reaction).await;
        let sender = receiver.trusting_sender();
        let mut resent = Vec::new();
        for _ in 0..3 {
            // A test opens a new connection.
            for attempt in
                [sender.post(&receiver.url("/hook")).await, sender.test(&receiver.url("/hook")).await]
            {
                assert_eq!((attempt.outcome, attempt.http_status), (Outcome::Ok, 200), "{attempt:?}");
                resent.push(attempt.resent);
            }
        }
        assert_eq!(resent, [1, 0, 0, 0, 0, 0]);
        let versions: Vec<_> = receiver.seen().iter().map(|request| request.version).collect();
        assert_eq!(versions[..2], [Version::HTTP_2, Version::HTTP_11]);
        assert!(versions[2..].iter().all(|version| *version == Version::HTTP_11), "{versions:?}");
    }
}
