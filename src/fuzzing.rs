//! The table of fuzz targets: one function for each decoder. Compiled for fuzzing and for tests only.
//!
//! Each function takes any bytes, and panics if a property does not hold. It is in the module of its decoder,
//! with access to private parts. `fuzz/` runs the targets with libFuzzer; the tests here run every file of
//! the corpus with plain cargo.

use crate::{app, commands::import, delivery, domain, event, grpc, store, webhook_ingress};

/// The name of a target and of its corpus, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 24] = [
    ("answer", domain::fuzz::response),
    ("attempt", store::disk::fuzz::attempt),
    ("audit", store::disk::fuzz::audit),
    ("commit", store::disk::fuzz::commit),
    ("config_file", app::config::fuzz::config_file),
    ("config_values", app::config::fuzz::config_values),
    ("connect", grpc::fuzz::connect),
    ("event", event::fuzz::event),
    ("import", event::fuzz::import),
    ("keys", domain::fuzz::keys),
    ("log", store::disk::fuzz::log),
    ("manifest", store::disk::fuzz::manifest),
    ("names", domain::fuzz::names),
    ("objects", import::fuzz::objects),
    ("page_token", grpc::fuzz::page_token),
    ("registry", store::disk::fuzz::registry),
    ("registry_log", store::disk::fuzz::registry_log),
    ("secrets", domain::fuzz::secrets),
    ("settings", grpc::fuzz::settings),
    ("sources", webhook_ingress::fuzz::sources),
    ("tls", domain::fuzz::tls),
    ("tokens", store::disk::fuzz::tokens),
    ("url", delivery::fuzz::url),
    ("volume", store::disk::fuzz::volume),
];

/// Runs the target of this name once.
///
/// # Panics
///
/// If there is no such target, or if a property does not hold.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, run) = target.expect("every target is in the table");
    run(data);
}

#[cfg(test)]
mod tests;
