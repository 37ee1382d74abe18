//! Where the gateway does not POST to, however it is asked: by odd spellings, by names with several
//! addresses, and by a name whose address changes between two look-ups. docs/security.md has the counts that
//! are printed here.

use std::net::IpAddr;

use tidings::proto::v1::{self, EventType, delivery::State, delivery_attempt::Outcome};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use url::Url;

use crate::support::{
    client::{Client, attempts, id_of, subscription},
    closed_address,
    dns_server::DnsServer,
    events::sample,
    process::{Launcher, TidingsProcess},
    receiver::{Receiver, Response},
};

mod headers;
mod spellings;

use spellings::{ADDRESSES, MALFORMED, NAMES};

const ACCOUNT: i64 = 1;
const KIND: EventType = EventType::MessageCreated;
/// The error of an attempt at an address that is not POSTed to.
const NOT_POSTED_TO: &str = " is blocked: it is ";

/// A receiver at all addresses of this machine, of both families if it has both.
async fn trap() -> Receiver {
    let both = std::net::TcpListener::bind("[::]:0").is_ok();
    Receiver::at(if both { "[::]:0" } else { "0.0.0.0:0" }).await
}

/// A URL of its own for each number, so that none is taken already.
fn url(host: &str, port: u16, number: usize) -> String {
    let scheme = if number.is_multiple_of(2) { "http" } else { "https" };
    format!("{scheme}://{host}:{port}/{number}")
}

fn asked(url: &str) -> v1::Subscription {
    v1::Subscription { retry_policy: attempts(2), ..subscription(url) }
}

/// The refusal is about the URL, and says so.
#[track_caller]
fn assert_url_refused(refused: Result<impl Sized, Status>, url: &str) {
    let Err(status) = refused else { panic!("{url} was taken") };
    assert_eq!(status.code(), Code::InvalidArgument, "{url}: {status:?}");
    let violations = status.get_error_details().bad_request().expect("a violation").field_violations.clone();
    let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["subscription.url"], "{url}");
    assert!(!status.message().contains("password"), "{status:?}");
}

/// CreateSubscription and UpdateSubscription refuse the URL: two refusals.
async fn refuses(client: &Client, subscription: &str, url: &str) -> usize {
    assert_url_refused(client.try_subscribe(ACCOUNT, asked(url)).await, url);
    let change =
        v1::Subscription { name: subscription.to_owned(), url: url.to_owned(), ..Default::default() };
    assert_url_refused(client.try_update(change, &[]).await, url);
    2
}

/// TestSubscription reports that the address is not POSTed to: a refusal.
async fn does_not_test(client: &Client, subscription: &str, host: &str) -> usize {
    let tested = client.test(subscription, KIND).await;
    assert!(tested.error.contains(NOT_POSTED_TO) && tested.http_status == 0, "{host}: {tested:?}");
    1
}

/// The same of a name, whose addresses are not shown.
async fn does_not_test_nor_tell(client: &Client, subscription: &str) -> usize {
    let tested = client.test(subscription, KIND).await;
    let attempt = tested.attempt.expect("it is there");
    let host = Url::parse(&attempt.url).unwrap().host_str().unwrap().to_owned();
    assert_eq!(
        tested.error,
        format!("{host} is blocked: it is at no address that is public or in egress_allow")
    );
    assert_eq!((attempt.error, attempt.remote_address), (tested.error, String::new()));
    1
}

/// Publishes an event that every subscription wants, and demands that none of its deliveries is made: as many
/// refusals as there are attempts.
async fn does_not_deliver(client: &Client, subscriptions: usize) -> usize {
    client.publish(ACCOUNT, sample(KIND, ACCOUNT)).await;
    client.nothing_owed(ACCOUNT).await;
    let deliveries = client.deliveries_in(ACCOUNT, &[]).await;
    assert_eq!(deliveries.len(), subscriptions);
    let mut refusals = 0;
    for listed in deliveries {
        assert_eq!(listed.state(), State::Failed, "{listed:#?}");
        let delivery = client.delivery(&listed.name).await;
        assert_eq!(delivery.attempts.len(), 2, "{delivery:#?}");
        for attempt in &delivery.attempts {
            assert_eq!(attempt.outcome(), Outcome::Blocked, "{attempt:?}");
            assert!(attempt.error.contains(NOT_POSTED_TO), "{attempt:?}");
        }
        refusals += delivery.attempts.len();
    }
    refusals
}

#[tokio::test]
async fn no_spelling_leads_where_nothing_is_posted_to() {
    let trap = trap().await;
    let port = trap.address.port();
    let words = |groups: &[&'static str]| {
        groups.iter().flat_map(|group| group.split_whitespace()).collect::<Vec<_>>()
    };
    let addresses = words(ADDRESSES);
    let hosts = [&addresses[..], &words(NAMES)].concat();

    // Subscriptions from when everything was allowed. They say that the spellings are such that addresses are
    // read.
    let launcher = Launcher::new().with("egress-allow", "0.0.0.0/0,::/0");
    let gateway = launcher.start().await;
    let mut subscriptions = Vec::new();
    for (number, host) in hosts.iter().enumerate() {
        let created = gateway.client.try_subscribe(ACCOUNT, asked(&url(host, port, number))).await;
        subscriptions.push(created.unwrap_or_else(|status| panic!("{host}: {status:?}")).name);
    }
    let mut refusals = 0;
    for (number, host) in (hosts.len()..).zip(MALFORMED) {
        refusals += refuses(&gateway.client, &subscriptions[0], &url(host, port, number)).await;
    }
    gateway.stop().await;

    let gateway = launcher.without("egress-allow").start().await;
    for (number, host) in (1000..).zip(addresses) {
        refusals += refuses(&gateway.client, &subscriptions[0], &url(host, port, number)).await;
    }
    for (subscription, host) in subscriptions.iter().zip(&hosts) {
        refusals += does_not_test(&gateway.client, subscription, host).await;
    }
    refusals += does_not_deliver(&gateway.client, subscriptions.len()).await;
    trap.assert_never_connected().await;
    gateway.stop().await;

    let spellings = hosts.len() + MALFORMED.len();
    println!("{spellings} spellings, {refusals} tries, {refusals} refusals, 0 connections");
    assert!(spellings >= 150, "{spellings} spellings");
}

/// Where endpoints are allowed in the tests of names, besides one address of these that is denied.
const ALLOWED: &str = "127.0.0.2/31";
const DENIED: &str = "127.0.0.3";

/// A gateway that asks `names`, a receiver at the one address that is allowed, and a trap at the same port of
/// 127.0.0.1.
async fn with_names(names: &DnsServer) -> (TidingsProcess, Receiver, Receiver) {
    let trap = Receiver::start().await;
    let receiver = Receiver::at(&format!("127.0.0.2:{}", trap.address.port())).await;
    // Each attempt is to look the name up.
    receiver.now(|_| Response::with_header(200, "connection", "close"));
    let launcher = Launcher::new().with("egress-allow", ALLOWED).with("egress-deny", DENIED);
    (launcher.resolving_at(names).start().await, receiver, trap)
}

fn addresses(addresses: &[&str]) -> Vec<IpAddr> {
    addresses.iter().map(|address| address.parse().unwrap()).collect()
}

#[tokio::test]
async fn a_name_is_posted_to_at_those_of_its_addresses_that_are_allowed() {
    let Some(names) = DnsServer::start().await else { return };
    let (gateway, receiver, trap) = with_names(&names).await;
    let port = receiver.address.port();
    let blocked: [&[&str]; 16] = [
        &["127.0.0.1"],
        &["127.0.0.1", "::1"],
        &["::1"],
        &["::ffff:127.0.0.1"],
        &["::127.0.0.1"],
        &["64:ff9b::127.0.0.1"],
        &["2002:7f00:1::"],
        &["2001:0:808:808::80ff:fffe"],
        &["0.0.0.0", "::"],
        &["10.0.0.1", "172.16.0.1", "192.168.0.1", "fd00::1"],
        &["169.254.169.254", "fd00:ec2::254"],
        &["100.100.100.200", "168.63.129.16"],
        &["224.0.0.1", "ff02::1"],
        &["255.255.255.255", "240.0.0.1"],
        &["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1"],
        &[DENIED],
    ];
    let mut tries = 0;
    for (number, list) in blocked.into_iter().enumerate() {
        let name = format!("blocked{number}.example");
        names.set(&name, vec![addresses(list)]);
        let spelled = [name.clone(), name.to_uppercase(), format!("{name}."), name.replace('.', "。")];
        for (number, host) in spelled.iter().enumerate() {
            let path = (tries + number) % 2;
            let subscribed = gateway.client.subscribe(ACCOUNT, asked(&url(host, port, path))).await;
            does_not_test_nor_tell(&gateway.client, &subscribed.name).await;
            gateway.client.delete(&subscribed.name, true).await.unwrap();
        }
        tries += spelled.len();
    }
    assert_eq!(receiver.seen().len(), 0);

    for (number, list) in
        [["10.0.0.1", "127.0.0.2"], ["127.0.0.2", "127.0.0.1"], ["::1", "127.0.0.2"]].iter().enumerate()
    {
        let name = format!("mixed{number}.example");
        names.set(&name, vec![addresses(list)]);
        let subscribed = gateway.client.subscribe(ACCOUNT, asked(&url(&name, port, 0))).await;
        let tested = gateway.client.test(&subscribed.name, KIND).await;
        assert_eq!((tested.http_status, &*tested.error), (200, ""), "{list:?}: {tested:?}");
        assert_eq!(tested.attempt.expect("it is there").remote_address, "", "{list:?}");
        assert_eq!(receiver.seen().len(), number + 1, "{list:?}");
    }
    // Where nobody listens neither, nor where a delivery says it.
    names.set("closed.example", vec![addresses(&["127.0.0.2"])]);
    let closed = closed_address().port();
    let subscribed = gateway.client.subscribe(ACCOUNT, asked(&url("closed.example", closed, 0))).await;
    let tested = gateway.client.test(&subscribed.name, KIND).await;
    let error = format!("could not connect to closed.example:{closed}: connection refused");
    assert_eq!((tested.error, tested.attempt.unwrap().remote_address), (error.clone(), String::new()));
    let published = gateway.client.publish(ACCOUNT, sample(KIND, ACCOUNT)).await;
    let name = subscribed.delivery(id_of(&published.event));
    let delivery = gateway.client.delivery_in(&name, State::Failed).await;
    for attempt in &delivery.attempts {
        assert_eq!((&attempt.error, &*attempt.remote_address), (&error, ""));
    }
    assert_eq!(gateway.client.subscription(&subscribed.name).await.last_error, error);
    println!("{tries} names, {tries} refusals, 0 connections");
    trap.assert_never_connected().await;
    let log = gateway.stop().await;
    let says =
        |line: &String| line.contains("blocked0.example") && line.contains(r#""remote.address":"127.0.0.1""#);
    assert!(log.iter().any(says), "the operator learns the address");
}

/// The name leads to an allowed address once, and to 127.0.0.1 at the next look-up: a gateway that looks a
/// second time before connecting is led astray.
#[tokio::test]
async fn the_address_that_was_judged_is_the_one_that_is_connected_to() {
    const ROUNDS: usize = 20;
    let Some(names) = DnsServer::start().await else { return };
    let (gateway, receiver, trap) = with_names(&names).await;
    let port = receiver.address.port();
    names.set("changing.example", vec![addresses(&["127.0.0.2"]), addresses(&["127.0.0.1"])]);
    let changing = gateway.client.subscribe(ACCOUNT, asked(&url("changing.example", port, 0))).await;
    for round in 1..=ROUNDS {
        let tested = gateway.client.test(&changing.name, KIND).await;
        assert_eq!((tested.http_status, &*tested.error), (200, ""), "round {round}: {tested:?}");
        does_not_test(&gateway.client, &changing.name, "changing.example").await;
        assert_eq!(receiver.seen().len(), round);
        assert_eq!(names.look_ups("changing.example"), 2 * round, "one look-up for each attempt");
    }

    // So it is with deliveries: a refused one is tried again, and then the name leads elsewhere.
    names.set("returning.example", vec![addresses(&["127.0.0.1"]), addresses(&["127.0.0.2"])]);
    gateway.client.delete(&changing.name, true).await.unwrap();
    let returning = gateway.client.subscribe(ACCOUNT, asked(&url("returning.example", port, 0))).await;
    for _ in 0..ROUNDS {
        let published = gateway.client.publish(ACCOUNT, sample(KIND, ACCOUNT)).await;
        let name = returning.delivery(id_of(&published.event));
        let delivery = gateway.client.delivery_in(&name, State::Succeeded).await;
        let outcomes: Vec<_> = delivery.attempts.iter().map(v1::DeliveryAttempt::outcome).collect();
        assert_eq!(outcomes, [Outcome::Blocked, Outcome::Ok], "{delivery:#?}");
    }
    assert_eq!(receiver.seen().len(), 2 * ROUNDS);
    assert_eq!(names.look_ups("returning.example"), 2 * ROUNDS);
    println!("{} changes of address, {} refusals, 0 connections", 4 * ROUNDS - 2, 2 * ROUNDS);
    trap.assert_never_connected().await;
    gateway.stop().await;
}
