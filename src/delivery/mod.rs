//! Delivers: takes pending deliveries from the store, sends them, and settles the attempts in the store.
//!
//! - `dispatcher`: the loop over all subscriptions. `fair_share`, `throttle`, `suspension` and `probing`
//!   decide which subscription sends and when; `attempt_task` makes one attempt;
//!   `notices` tells operators how endpoints fare.
//! - `lane`: the prefetch of one subscription, ordered or not.
//! - `http`: sends a request. `client` has the settings, `stack` the layers of an attempt, `pool` and `http1`
//!   the connections; `connect` opens them with `dns`, `proxy` and `tls`; `failure` is the reason for a
//!   missing response.

pub mod dispatcher;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod http;
mod lane;
