//! End to end: the real program, a real gRPC client, and a receiver that responds as the test says. Every
//! wait has a deadline, and a test that gives up shows what was there instead.

mod access;
mod audit;
mod backup;
mod bodies;
mod clock;
mod connections;
mod crash;
mod damage;
mod data_directory;
mod descriptors;
mod disk;
mod documents;
mod egress;
mod ending;
mod failures;
mod fairness;
mod hostile_clients;
mod ingest;
mod metrics;
mod order;
mod peers;
mod publishing;
mod repeats;
mod replay;
mod restarts;
mod retention;
mod secrets;
mod secured;
mod signing;
mod starts;
mod subscriptions;
mod suspension;
mod throttle;
mod tidy;
mod tls;
