//! Starts that are killed, and what a start makes durable.

use std::path::PathBuf;

use crate::support::{
    client::subscription,
    copy_dir,
    events::contact,
    interposer::Interposer,
    process::Launcher,
    profile::{count, in_full_or_short},
};

/// Points of each kind of start at which it is killed, at most.
const KILLS: usize = 200;
const KILLS_SHORT: usize = 8;
/// Calls of every start.
const EARLY: usize = 10;
const KEYS: [&str; 2] =
    ["AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="];

/// Small log files: creating one is a write per page.
fn launcher() -> Launcher {
    let launcher = Launcher::new().with("retention-bytes-max", "16MiB");
    launcher.with_variable("TIDINGS_SECRETS_KEY", KEYS[0])
}

/// The data directory of a gateway that was killed after it had made a subscription and stored an event.
async fn used() -> Launcher {
    let launcher = launcher();
    let gateway = launcher.start().await;
    gateway.client.subscribe(1, subscription("http://127.0.0.1:9/first")).await;
    gateway.stop().await;
    let gateway = launcher.start().await;
    let kept = gateway.client.subscribe(1, subscription("http://127.0.0.1:9/")).await;
    gateway.client.pause(&kept.name).await;
    gateway.client.publish(1, contact(1)).await;
    gateway.kill().await;
    launcher
}

#[tokio::test]
async fn a_start_that_is_killed_at_any_write_rename_or_sync_is_followed_by_one_that_serves() {
    let interposer = Interposer::new();
    let used = used().await;
    let mut killed = 0;
    let other_key = KEYS.map(str::to_owned).into_iter().rev().collect::<Vec<_>>().join(",");
    for (stored, keys) in
        [(None, KEYS[0]), (Some(used.data_dir()), KEYS[0]), (Some(used.data_dir()), &other_key)]
    {
        let prepared = || {
            let launcher = launcher().with_variable("TIDINGS_SECRETS_KEY", keys);
            if let Some(stored) = &stored {
                copy_dir(stored, &launcher.data_dir());
            }
            launcher
        };
        let whole = prepared();
        interposer.watching(&whole, whole.dir()).start().await.kill().await;
        let calls = interposer.calls().len();
        for nth in (1..=calls).step_by(calls.div_ceil(in_full_or_short(KILLS, KILLS_SHORT))) {
            let launcher = prepared();
            let watching = interposer.watching(&launcher, launcher.dir());
            // The start after it is killed early as well.
            for nth in [nth, nth % EARLY + 1].into_iter().take(in_full_or_short(2, 1)) {
                let killed_at = watching.clone().with_variable("INTERPOSED_KILL", nth.to_string());
                let ended = killed_at.spawn().wait().await;
                assert_eq!(ended.code, None, "{ended:?}");
                killed += 1;
            }
            let last = interposer.calls().pop();
            let gateway = launcher.start().await;
            if stored.is_some() {
                let kept = gateway.client.all_subscriptions("accounts/1").await;
                assert_eq!(kept.len(), 2, "killed after {last:?}");
                assert_eq!(gateway.client.stored_events(1).await.len(), 1, "killed after {last:?}");
            }
            gateway.client.publish(1, contact(1)).await;
            gateway.stop().await;
        }
    }
    count(&format!("{killed} starts were killed, and every following one served"));
}

#[tokio::test]
async fn a_new_store_syncs_its_files_and_its_entry_in_the_directory_above() {
    let interposer = Interposer::new();
    let launcher = launcher();
    interposer.watching(&launcher, launcher.dir()).start().await.stop().await;
    let calls = interposer.calls();
    let ready = |call: &String| call.starts_with("rename ") && call.ends_with("/TIDINGS.new");
    let ready = calls.iter().rposition(ready).expect("the store was made");
    let synced = |path: PathBuf| calls[..ready].contains(&format!("fsync {}", path.display()));
    let files = ["store/conf", "store/db", "store", "store/blobs", "ledger/0000000001.log", "ledger", ""];
    let expected = files.map(|file| launcher.data_dir().join(file).components().collect());
    let missing: Vec<_> = expected
        .into_iter()
        .chain([launcher.dir().to_owned()])
        .filter(|path| !synced(path.clone()))
        .collect();
    assert!(missing.is_empty(), "not synced before the store was ready: {missing:?}");
}
