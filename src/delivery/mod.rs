//! Sends: reads from the store what is owed, attempts it, and settles it there.
//!
//! `dispatcher` serves all subscriptions, `lane` is what it knows of one; `pace`, `places` and `suspension` decide how fast it
//! goes, and `sending` makes one attempt and settles it. The rest is one POST: `client` holds the settings, `attempt` the tower
//! stack, `pool` the kept connections, `http1` one of them, `connect`, `resolve`, `proxy` and `tls` the way to a `stream`,
//! `failure` what there is instead of an answer.

pub mod dispatcher;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod http;
mod lane;
