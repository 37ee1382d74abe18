//! The sources file changes under the running gateway.

use std::{fs, os::unix::fs::PermissionsExt as _};

use tokio::time::sleep;

use super::{ACCOUNT, PLAIN, RELOAD_INTERVAL, delivery, launcher, message, put_sources, sender, source};
use crate::support::{process::TidingsProcess, scrape::Scrape};

const NEW: &str = "new-0123456789abcdef01234";

async fn status(gateway: &TidingsProcess, path: &str) -> u16 {
    sender(gateway, path).post(&message(7), &delivery(), &[]).await.status
}

async fn loads(gateway: &TidingsProcess, loaded: f64, refused: f64) {
    let wanted =
        [("tidings_ingest_sources_loaded_total", loaded), ("tidings_ingest_sources_refused_total", refused)];
    Scrape::reaches(gateway, &wanted).await;
}

#[tokio::test]
async fn changed_sources_hold_at_once_and_a_file_that_cannot_be_used_changes_nothing() {
    let launcher = launcher();
    let gateway = launcher.start().await;
    assert_eq!((status(&gateway, PLAIN).await, status(&gateway, NEW).await), (200, 404));

    put_sources(&launcher, &source(ACCOUNT, NEW, "new"));
    loads(&gateway, 1.0, 0.0).await;
    assert_eq!((status(&gateway, PLAIN).await, status(&gateway, NEW).await), (404, 200));
    assert_eq!(Scrape::value_of(&gateway, "tidings_ingest_sources").await, 1.0);

    // Logged once, however often it is looked at.
    let file = put_sources(&launcher, &source(ACCOUNT, "hunter2", "new"));
    loads(&gateway, 1.0, 1.0).await;
    sleep(RELOAD_INTERVAL * 5).await;
    loads(&gateway, 1.0, 1.0).await;
    fs::remove_file(&file).unwrap();
    loads(&gateway, 1.0, 2.0).await;
    let open = file.with_extension("open");
    fs::write(&open, source(ACCOUNT, PLAIN, "plain")).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    fs::rename(&open, &file).unwrap();
    loads(&gateway, 1.0, 3.0).await;
    assert_eq!((status(&gateway, PLAIN).await, status(&gateway, NEW).await), (404, 200));

    put_sources(&launcher, &source(ACCOUNT, PLAIN, "plain"));
    loads(&gateway, 2.0, 3.0).await;
    assert_eq!((status(&gateway, PLAIN).await, status(&gateway, NEW).await), (200, 404));
    let log = gateway.stop().await;
    let count = |what: &str| log.iter().filter(|line| line.contains(what)).count();
    assert_eq!(count("new webhook sources are in use"), 2, "{log:#?}");
    assert_eq!(count("the current ones stay in use"), 3, "{log:#?}");
    assert_eq!(count("hunter2"), 0, "{log:#?}");
}

#[tokio::test]
async fn a_hangup_has_the_file_looked_at() {
    let launcher = launcher().with("reload-interval", "1d");
    let gateway = launcher.start().await;
    put_sources(&launcher, &source(ACCOUNT, NEW, "new"));
    gateway.signal("HUP");
    Scrape::reaches(&gateway, &[("tidings_ingest_sources", 1.0)]).await;
    assert_eq!((status(&gateway, PLAIN).await, status(&gateway, NEW).await), (404, 200));
    gateway.stop().await;
}

#[tokio::test]
async fn a_source_without_a_secret_is_warned_of_where_others_reach_it() {
    for (address, warned) in [("127.0.0.1:0", 0), ("0.0.0.0:0", 1)] {
        let gateway = launcher().with("ingest-listen", address).start().await;
        let log = gateway.stop().await;
        let is_warning =
            |line: &&String| line.contains("need no signature") && line.contains(r#""source.name":"plain""#);
        assert_eq!(log.iter().filter(is_warning).count(), warned, "{address}: {log:#?}");
    }
}
