//! Addresses that are not POSTed to.

use tidings::domain::{delivery::Outcome, egress::EgressPolicy};

use crate::{
    attempt::sender::Sender,
    support::receiver::{OK, Receiver, Response},
};

#[tokio::test]
async fn loopback_is_blocked_in_every_spelling_and_nothing_is_sent() {
    let mut receiver = Receiver::always(Response::bytes(OK)).await;
    let port = receiver.address.port();
    let sender = Sender::with(|settings| settings.egress = EgressPolicy::default());
    for host in [
        "127.0.0.1",
        "localhost",
        "LOCALHOST",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.0.0.1.",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "[::]",
    ] {
        for scheme in ["http", "https"] {
            let attempt = sender.post(&format!("{scheme}://{host}:{port}/")).await;
            assert_eq!(
                (attempt.outcome, attempt.http_status),
                (Outcome::Blocked, 0),
                "{host}: {}",
                attempt.error
            );
            assert!(attempt.error.contains(" is blocked: it is "), "{}", attempt.error);
        }
    }
    assert_eq!(receiver.take_all().len(), 0);
}

#[tokio::test]
async fn an_allowed_network_is_posted_to_by_name_and_by_address() {
    let receiver = Receiver::always(Response::bytes(OK)).await;
    let port = receiver.address.port();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let attempt = Sender::new().post(&format!("http://{host}:{port}/")).await;
        assert_eq!(attempt.outcome, Outcome::Ok, "{host}: {}", attempt.error);
    }
}
