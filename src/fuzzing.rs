//! What fuzzing throws bytes at: one function for each decoder. There in builds for fuzzing and in those of the tests only.
//!
//! Each function takes any bytes, and panics where something does not hold that must. It stands beside what it is about, where it sees
//! what nobody else does. `fuzz/` runs them with libFuzzer; the tests here run every file of the corpus, with plain cargo.

use crate::{commands::import, config, delivery, event, grpc, store, webhook_ingress};

/// A decoder, by the name of its target and of its corpus.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 22] = [
    ("answer", event::fuzz::answer),
    ("attempt", store::disk::fuzz::attempt),
    ("audit", store::disk::fuzz::audit),
    ("commit", store::disk::fuzz::commit),
    ("config_file", config::fuzz::config_file),
    ("config_values", config::fuzz::config_values),
    ("event", event::fuzz::event),
    ("import", event::fuzz::import),
    ("keys", event::fuzz::keys),
    ("log", store::disk::fuzz::log),
    ("manifest", store::disk::fuzz::manifest),
    ("names", event::fuzz::names),
    ("objects", import::fuzz::objects),
    ("page_token", grpc::fuzz::page_token),
    ("registry", store::disk::fuzz::registry),
    ("secrets", event::fuzz::secrets),
    ("settings", grpc::fuzz::settings),
    ("sources", webhook_ingress::fuzz::sources),
    ("tls", event::fuzz::tls),
    ("tokens", store::disk::fuzz::tokens),
    ("url", delivery::fuzz::url),
    ("volume", store::disk::fuzz::volume),
];

/// Runs the target of this name once.
///
/// # Panics
///
/// If there is none, or if something does not hold that must.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, run) = target.expect("every target is in the table");
    run(data);
}

#[cfg(test)]
mod tests;
