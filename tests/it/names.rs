//! Names that do not resolve: those whose servers are silent keep no other account's from resolving. And names
//! with an address that does not respond.

use std::time::Duration;

use tidings::proto::v1::{self, delivery::State, delivery_attempt::Outcome};

use crate::support::{
    client::{attempts, duration, id_of, subscription},
    dns_server::DnsServer,
    events::{message, publish_request},
    eventually,
    process::Launcher,
    receiver::{Receiver, Response},
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};

const SILENT: i64 = 1;
const HEALTHY: i64 = 2;
/// More than the gateway looks up at once: 128, of which one account has a quarter.
const NAMES: usize = 200;
const AT_ONCE: usize = 32;

#[tokio::test]
async fn names_in_a_silent_zone_leave_the_look_ups_of_other_accounts_alone() {
    const EVENTS: i64 = 60;
    let Some(names) = DnsServer::start().await else { return };
    names.silence("silent.example");
    names.set("healthy.example", vec![vec!["127.0.0.1".parse().unwrap()]]);
    // Each attempt is to look the name up.
    let healthy = Receiver::always(Response::with_header(200, "connection", "close")).await;
    let gateway = Launcher::new().resolving_at(&names).start().await;
    let client = &gateway.client;
    let url = |host: &str| format!("http://{host}:{}/", healthy.address.port());
    client.subscribe(HEALTHY, subscription(url("healthy.example"))).await;
    for number in 0..NAMES {
        let asked = subscription(url(&format!("n{number}.silent.example")));
        client.subscribe(SILENT, v1::Subscription { retry_policy: attempts(2), ..asked }).await;
    }
    client.publish(SILENT, message(SILENT, 1, 1)).await;
    let asked = async || names.asked_in_vain().len();
    eventually("as many as may be", asked, |asked| *asked >= AT_ONCE).await;

    client
        .publish_all((1..=EVENTS).map(|number| publish_request(HEALTHY, "", message(HEALTHY, 1, number))))
        .await;
    client.nothing_owed(HEALTHY).await;
    for listed in client.deliveries_in(HEALTHY, &[]).await {
        let delivery = client.delivery(&listed.name).await;
        assert_eq!(delivery.state(), State::Succeeded, "{delivery:#?}");
        let [attempt] = &*delivery.attempts else { panic!("{delivery:#?}") };
        assert_eq!(attempt.outcome(), Outcome::Ok, "{delivery:#?}");
    }
    assert!(names.look_ups("healthy.example") > 1);

    // An attempt at a silent name ends in time and says why. The next one does not ask again.
    client.nothing_owed(SILENT).await;
    let (mut slow, mut waited) = (0, 0);
    for listed in client.deliveries_in(SILENT, &[]).await {
        let delivery = client.delivery(&listed.name).await;
        let [first, second] = &*delivery.attempts else { panic!("{delivery:#?}") };
        assert_eq!(
            (first.outcome(), second.outcome()),
            (Outcome::Timeout, Outcome::Timeout),
            "{delivery:#?}"
        );
        let (_, first) = first.error.split_once(" did not resolve within 5s").expect("that is the error");
        let (_, second) = second.error.split_once(" did not resolve within 5s").expect("that is the error");
        if first.is_empty() {
            slow += 1;
            assert_eq!(second, " a moment ago, and is not looked up again for 5s");
        } else {
            waited += 1;
            assert_eq!(first, ": it waited for slow look-ups of other names of the account");
        }
    }
    assert_eq!((slow, waited), (AT_ONCE, NAMES - AT_ONCE));
    gateway.stop().await;
}

/// Holds the queue of a listener that accepts nobody: once it is full, the system drops all others.
async fn silent_at(address: &str) -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(address.parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let (address, mut waiting) = (listener.local_addr().unwrap(), Vec::new());
    while let Ok(stream) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        waiting.push(stream.unwrap());
    }
    (listener, waiting)
}

#[tokio::test]
async fn a_name_with_a_silent_address_is_posted_to_at_another_one_within_a_moment() {
    let Some(names) = DnsServer::start().await else { return };
    // The system prefers the address that is nearest to its own: the silent one.
    let (silent, _waiting) = silent_at("127.0.0.1:0").await;
    let port = silent.local_addr().unwrap().port();
    let receiver = Receiver::at(&format!("127.0.0.9:{port}")).await;
    names.set("dual.example", vec![["127.0.0.1", "127.0.0.9"].map(|ip| ip.parse().unwrap()).into()]);
    let gateway = Launcher::new().resolving_at(&names).start().await;
    let asked = v1::Subscription {
        timeout: duration(Duration::from_secs(2)),
        ..subscription(format!("http://dual.example:{port}/"))
    };
    let subscribed = gateway.client.subscribe(HEALTHY, asked).await;
    let published = gateway.client.publish(HEALTHY, message(HEALTHY, 1, 1)).await;
    let delivery = subscribed.delivery(id_of(&published.event));
    let delivery = gateway.client.delivery_in(&delivery, State::Succeeded).await;
    assert_eq!(delivery.attempt_count(), 1, "{delivery:#?}");
    assert_eq!(receiver.seen().len(), 1);
    gateway.stop().await;
}
