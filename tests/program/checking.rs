//! `tidings check`: what it prints, its exit codes, and that a repair makes a refused directory serve again.

use std::fs;

use crate::support::{
    client::subscription,
    events::contact,
    process::{Launcher, run, tidings},
};

#[tokio::test]
async fn a_refused_start_says_which_command_to_run_and_a_repair_makes_it_serve() {
    let launcher = Launcher::new();
    let dir = launcher.data_dir();
    let dir = dir.to_str().unwrap();
    let gateway = launcher.start().await;
    gateway.client.subscribe(1, subscription("http://127.0.0.1:9/")).await;
    gateway.client.publish(1, contact(1)).await;
    gateway.stop().await;
    let whole = run(tidings(&["check", dir])).await;
    assert_eq!(
        (whole.code, whole.stdout.starts_with("Read 1 subscription, 0 access tokens, ")),
        (Some(0), true),
        "{whole:?}"
    );

    fs::write(launcher.data_dir().join("store/db"), [0x5a; 9_000]).unwrap();
    let refusal = launcher.refusal().await;
    let last = refusal.lines().last().unwrap();
    assert!(last.contains("store/") && last.contains(&format!("`tidings check {dir}`")), "{last}");
    let damaged = run(tidings(&["check", dir])).await;
    assert_eq!(damaged.code, Some(1), "{damaged:?}");
    assert!(damaged.stdout.starts_with("store: ") && damaged.stdout.contains("audit records"), "{damaged:?}");
    assert!(damaged.stdout.ends_with(": 1 damage.\n"), "{damaged:?}");
    assert_eq!(damaged.stderr, format!("tidings: {dir} is damaged\n"), "sled's own lines say no more");
    assert!(!refusal.contains("\"sled"), "{refusal}");
    let repaired = run(tidings(&["check", "--repair", dir])).await;
    assert_eq!(repaired.code, Some(0), "{repaired:?}");
    assert!(repaired.stdout.contains("the audit records are lost"), "{repaired:?}");
    assert!(repaired.stdout.ends_with(": 1 damage, repaired.\n"), "{repaired:?}");
    assert_eq!(run(tidings(&["check", dir])).await.code, Some(0));

    let gateway = launcher.start().await;
    assert_eq!(gateway.client.all_subscriptions("accounts/1").await.len(), 1);
    assert_eq!(gateway.client.stored_events(1).await.len(), 1);
    let in_use = run(tidings(&["check", dir])).await;
    assert!(in_use.code == Some(1) && in_use.stderr.contains("in use"), "{in_use:?}");
    gateway.stop().await;
    fs::write(launcher.data_dir().join("TIDINGS"), "tidings format 9 ready\n").unwrap();
    let newer = run(tidings(&["check", dir])).await;
    let words = "TIDINGS: it has format 9, and this version reads formats 2 to 5 only. Another version wrote the directory; nothing in \
                 it is known to be damaged. Start or check it with that version.\nNothing else was read: 1 damage.\n";
    assert_eq!((newer.code, &*newer.stdout), (Some(1), words), "{newer:?}");
    assert_eq!(run(tidings(&["check"])).await.code, Some(64));
}
