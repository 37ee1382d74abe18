//! The tests that use the gateway from outside, all in one program: shared code is built once. `tests/sim` is
//! a program of its own.
//!
//! `TIDINGS_TESTS=full` runs the long ones in full (see `support::profile`), as `.ci/run` does.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

/// One attempt to POST an event: its request, and its result for every way in which a receiver can respond or
/// fail to.
mod attempt;
/// Payloads that were captured from Chatwoot, and code that reads them.
mod chatwoot;
/// The pages for people, and the rules that keep them safe.
mod console;
/// The bodies of all events, byte for byte.
mod golden;
/// The contract: the server within this process, called by a real client.
mod grpc;
/// The real program from end to end, over kills and restarts.
mod it;
/// The program as people run it: arguments, output, exit codes.
mod program;
/// Code that all of them share.
mod support;
