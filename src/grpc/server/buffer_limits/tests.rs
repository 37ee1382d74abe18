//! Unfinished messages, by their bytes and their time.

use std::convert::Infallible;

use futures_util::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use tonic::Code;

use super::*;
use crate::{domain::time::UnixMicros, grpc::layers::call_share::ConnectionShare, limits::ShareKey};

const PUBLISH: &str = "/tidings.v1.EventService/PublishEvent";
const STREAM: &str = "/tidings.v1.EventService/StreamPublishEvents";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// A message of this length.
fn message(length: u32) -> Vec<u8> {
    let mut message = vec![0];
    message.extend(length.to_be_bytes());
    message.resize(PREFIX_BYTES + length as usize, 7);
    message
}

#[test]
fn only_unfinished_messages_are_counted_however_they_are_split() {
    let bytes = [message(3), message(0), message(300), message(1)].concat();
    // Bytes of the unfinished message that have arrived, after each byte.
    let ends = [8, 13, 318, 324];
    let expected = |at: usize| {
        let begin = ends.iter().rev().find(|end| **end <= at).copied().unwrap_or_default();
        (at - begin).saturating_sub(PREFIX_BYTES)
    };
    for step in [1, 2, 5, 7, 100, 324] {
        let (mut parser, mut at) = (FrameParser::new(true), 0);
        for part in bytes.chunks(step) {
            parser.read(part);
            at += part.len();
            assert_eq!(parser.unfinished, expected(at), "{step} {at}");
        }
    }
}

fn limits(max: usize) -> Arc<RequestLimits> {
    let metrics = Metrics::new(UnixMicros(0));
    let unfinished = ByteBudget::new("grpc_unfinished_bytes_max", max, CallRefused::UnfinishedBytes, metrics);
    Arc::new(RequestLimits { unfinished, message_timeout: MESSAGE_TIMEOUT })
}

fn caller(number: u8) -> CallShare {
    ConnectionShare::new(ShareKey::of_address(Some([192, 0, 2, number].into())), None).call()
}

/// A body whose parts come at once, and which never ends.
fn metered(
    path: &str,
    parts: Vec<Vec<u8>>,
    call: CallShare,
    limits: &Arc<RequestLimits>,
) -> MeteredBody<impl Body<Data = Bytes, Error = Infallible> + Unpin + use<>> {
    let frames = parts.into_iter().map(|part| Ok(Frame::data(Bytes::from(part))));
    let frames = futures_util::stream::iter(frames).chain(futures_util::stream::pending());
    MeteredBody::new(StreamBody::new(frames), path, true, call, Arc::clone(limits))
}

#[tokio::test]
async fn a_message_without_a_prefix_is_unfinished_until_its_body_ends() {
    let limits = limits(400);
    let body = |bytes: &[u8]| http_body_util::Full::new(Bytes::copy_from_slice(bytes));
    let mut whole = MeteredBody::new(body(&[7; 1000]), PUBLISH, false, caller(1), Arc::clone(&limits));
    assert!(whole.frame().await.expect("there is one").is_ok(), "it arrives in one piece");
    let parts = futures_util::stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[7; 250])))]);
    let parts = StreamBody::new(parts.chain(futures_util::stream::pending()));
    let mut half = MeteredBody::new(parts, PUBLISH, false, caller(1), Arc::clone(&limits));
    assert!(half.frame().await.expect("there is one").is_err(), "more than a caller's half may be to come");
}

#[tokio::test]
async fn a_caller_may_buffer_half_and_others_have_room_beside() {
    let limits = limits(400);
    let half = || vec![message(1000)[..105].to_vec(), message(10)];
    let mut kept = Vec::new();
    for call in 0..2 {
        let mut body = metered(PUBLISH, half(), caller(1), &limits);
        assert!(body.frame().await.expect("there is one").is_ok(), "call {call}");
        kept.push(body);
    }
    // 100 bytes each. A third of the same caller passes its share.
    let mut third = metered(PUBLISH, half(), caller(1), &limits);
    let error = third.frame().await.expect("there is one").unwrap_err();
    let status = error.downcast_ref::<Status>().expect("it is a status");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("grpc_unfinished_bytes_max"), "{status:?}");
    drop(third);
    let mut other = metered(PUBLISH, half(), caller(2), &limits);
    assert!(other.frame().await.expect("there is one").is_ok());
    // Three quarters are in use, and the rest is for small messages of others.
    let mut large = metered(PUBLISH, half(), caller(3), &limits);
    assert!(large.frame().await.expect("there is one").is_err());
    let mut small = metered(PUBLISH, vec![message(30)[..25].to_vec()], caller(3), &limits);
    assert!(small.frame().await.expect("there is one").is_ok());
    drop((kept, other, large, small));
    assert!(limits.unfinished.pool.try_acquire(ShareKey::Local, 200).is_ok(), "all of it is free");
}

#[tokio::test]
async fn whole_messages_of_any_size_pass() {
    let limits = limits(4);
    let parts = vec![message(1000), message(0), [message(7), message(9)].concat()];
    let mut body = metered(PUBLISH, parts, caller(1), &limits);
    for _ in 0..3 {
        assert!(body.frame().await.expect("there is one").is_ok());
    }
}

/// The time after which a body ends with DEADLINE_EXCEEDED; `None` if it does not.
async fn late_after(path: &str, parts: Vec<Vec<u8>>) -> Option<Duration> {
    let begin = tokio::time::Instant::now();
    let mut body = metered(path, parts, caller(1), &limits(1000));
    let ended = tokio::time::timeout(Duration::from_hours(1), async {
        loop {
            match body.frame().await.expect("it never ends") {
                Ok(_) => {}
                Err(error) => return error.downcast_ref::<Status>().expect("it is a status").code(),
            }
        }
    });
    let code = ended.await.ok()?;
    assert_eq!(code, Code::DeadlineExceeded);
    Some(begin.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_message_has_a_time_to_arrive_and_a_stream_only_for_each_that_began() {
    for part in [vec![], vec![0], message(9)[..9].to_vec(), message(9)] {
        assert_eq!(late_after(PUBLISH, vec![part.clone()]).await, Some(MESSAGE_TIMEOUT), "{part:?}");
    }
    assert_eq!(late_after(STREAM, vec![]).await, None);
    assert_eq!(late_after(STREAM, vec![message(9), message(3)]).await, None);
    assert_eq!(late_after(STREAM, vec![message(9), vec![0]]).await, Some(MESSAGE_TIMEOUT));
    assert_eq!(late_after(REFLECTION, vec![message(9)]).await, Some(REFLECTION_SILENCE_MAX));
    assert_eq!(late_after(REFLECTION, vec![vec![0]]).await, Some(MESSAGE_TIMEOUT));
}
