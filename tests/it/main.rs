//! End to end: the real binary, a real gRPC client, and a receiver that does what it is told. What a test waits for has a
//! deadline, and a test that gives up shows what was there instead.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod access;
mod audit;
mod bodies;
mod client;
mod connections;
mod crash;
mod disk;
mod documents;
mod egress;
mod ending;
mod failures;
mod gateway;
#[path = "../golden/bodies.rs"]
mod golden;
#[path = "../golden/events.rs"]
mod golden_events;
mod hostile_clients;
mod ingest;
mod metrics;
mod names;
mod order;
mod pace;
mod peers;
#[path = "../attempt/proxy.rs"]
mod proxy;
mod publishing;
mod raw;
mod receiver;
mod repeats;
mod replay;
mod restarts;
mod retention;
mod secrets;
mod secured;
mod shares;
mod signing;
mod subscriptions;
mod suspension;
mod tidy;
mod tls;
#[path = "../attempt/tls_receiver.rs"]
#[expect(dead_code, reason = "some of it is for the tests beside it")]
mod tls_receiver;
mod watched;
