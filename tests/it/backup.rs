//! Backups of a gateway that runs, and gateways that run on them.

use std::{
    collections::{BTreeSet, HashSet},
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tidings::{
    proto::v1::{self, access_token::Scope, audit_record::Outcome, create_backup_response::Part},
    store::{
        BackupPart, FileSum,
        disk::{BackupReceiver, Received},
    },
};
use tokio::{process::Command, sync::watch};
use tonic::{Code, Streaming};
use tonic_types::StatusExt;

use super::crash::{
    ACCOUNT, Endpoint, Subscribed, assert_in_order,
    load::{Load, event_id, request},
    stored_once, webhook_id,
};
use crate::support::{
    client::{Client, id_of, subscription},
    closed_address,
    events::{long_message, publish_request},
    eventually, in_time,
    process::{Ended, Launcher, Process, run, tidings},
    profile::in_full_or_short,
    receiver::Receiver,
    scrape::Scrape,
    tcp_relay::TcpRelay,
};

/// Acknowledged events after a backup, which are not in it.
const EVENTS_AFTER: usize = 300;
/// Acknowledged events between two changes of subscriptions.
const EVENTS_PER_CHANGE: usize = 50;
/// Events that a copy has, and later ones after which retention has removed the first.
const COPIED: i64 = 300;
const REMOVING: i64 = 1_300;
const EVENT_BYTES: usize = 16_000;
/// Bytes of a backup after which a connection stalls: less than the events have, more than anything before them.
const STALLS_AFTER: u64 = 1 << 20;
const BACKUP_METHOD: &str = "tidings.v1.BackupService/CreateBackup";
/// The token of an administrator.
const ADMIN: &str = "0123456789abcdef-the-operators-own-choice";

/// `tidings backup` of the gateway at this address.
fn backup(address: SocketAddr, to: &Path) -> Command {
    let address = format!("http://{address}");
    tidings(&["backup", "--address", &address, "--to", to.to_str().unwrap()])
}

/// A launcher for a copy of this store, and the copy's directory.
fn restoring() -> (Launcher, PathBuf) {
    let launcher = Launcher::new();
    let dir = launcher.data_dir();
    (launcher, dir)
}

/// The key does not leave the gateway: it is kept and put back apart from the copy.
fn put_key_back(source: &Launcher, copy: &Path) {
    assert!(!copy.join("secrets.key").exists());
    fs::copy(source.data_dir().join("secrets.key"), copy.join("secrets.key")).unwrap();
}

async fn assert_whole(launcher: &Launcher) {
    let checked = run(tidings(&["check", launcher.data_dir().to_str().unwrap()])).await;
    assert_eq!((checked.code, checked.stdout.contains(" 0 damages")), (Some(0), true), "{checked:?}");
}

/// Changes subscriptions of another account, once for some events of the load, until it is told to stop.
async fn change_subscriptions(client: Client, load: Arc<Load>, over: Arc<AtomicBool>) {
    let mut changes = 0_u64;
    while !over.load(Relaxed) {
        let made = client.subscribe(2, subscription(format!("http://127.0.0.1:9/{changes}"))).await;
        let change = v1::Subscription { name: made.name.clone(), max_in_flight: 3, ..Default::default() };
        client.update(change).await;
        if changes.is_multiple_of(2) {
            client.delete(&made.name, true).await.unwrap();
        }
        changes += 1;
        load.acknowledged_more(EVENTS_PER_CHANGE).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_has_everything_acknowledged_before_it_and_can_be_restored() {
    let endpoint = Endpoint::start().await;
    let launcher = Launcher::new().with("retention-bytes-max", "16MiB");
    let gateway = launcher.start().await;
    let subscriptions = endpoint.subscribe(&gateway.client).await;
    let clients = watch::Sender::new(gateway.client.clone());
    let load = Arc::new(Load::new(clients.subscribe(), subscriptions.len()));
    let mut callers = load.start();
    let over = Arc::new(AtomicBool::new(false));
    let changer = gateway.another_client().await;
    let changing = tokio::spawn(change_subscriptions(changer, Arc::clone(&load), Arc::clone(&over)));
    // So many that retention has something to do.
    load.acknowledged_more(in_full_or_short(8_000, 1_200)).await;

    endpoint.failing.store(EVENTS_AFTER, Relaxed);
    let before = load.acknowledged.borrow().clone();
    let (restored, dir) = restoring();
    let made = run(backup(gateway.grpc, &dir)).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    assert!(made.stdout.contains("To restore, stop the gateway"), "{made:?}");
    let left: HashSet<String> = gateway
        .client
        .stored_events(ACCOUNT)
        .await
        .into_iter()
        .map(|event| id_of(&event.name).to_owned())
        .collect();
    let taken: HashSet<String> = endpoint.taken.lock().unwrap().values().flatten().cloned().collect();
    load.acknowledged_more(EVENTS_AFTER).await;
    over.store(true, Relaxed);
    changing.await.unwrap();
    load.over.store(true, Relaxed);
    while let Some(ended) = in_time(callers.join_next()).await {
        ended.unwrap();
    }
    for Subscribed { subscription, .. } in &subscriptions {
        gateway.client.counts_when(&subscription.name, "nothing owed", |counts| counts.owed() == 0).await;
    }
    gateway.stop().await;

    #[cfg(unix)]
    for file in ["", "ledger", "ledger/manifest", "ledger/registry", "clean"] {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(dir.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "others may use {file:?}: {mode:o}");
    }
    put_key_back(&launcher, &dir);
    assert_whole(&restored).await;
    let seen_before = endpoint.receiver.seen().len();
    let gateway = restored.start().await;
    let stored = stored_once(&gateway.client, &load.acknowledged.borrow()).await;
    let there: BTreeSet<i64> = stored.iter().copied().collect();
    for number in before.difference(&there) {
        assert!(!left.contains(&event_id(*number)), "event {number} was stored after the backup too");
        for Subscribed { subscription, .. } in &subscriptions {
            let id = webhook_id(subscription, *number);
            assert!(taken.contains(&id), "event {number} is not in the copy, and had not arrived");
        }
    }
    for Subscribed { subscription, path } in &subscriptions {
        let counts = gateway.client.counts_when(&subscription.name, "delivered", |counts| counts.owed() == 0);
        let counts = counts.await;
        assert_eq!((counts.succeeded, counts.all()), (stored.len(), stored.len()), "{path}: {counts:?}");
        if subscription.ordered {
            assert_in_order(&endpoint.receiver.seen()[seen_before..], path, &stored);
        }
    }
    let of_backup = gateway.client.audit_records().await.into_iter().find(|one| one.method == BACKUP_METHOD);
    assert_eq!(of_backup.map(|record| record.outcome()), Some(Outcome::Unknown), "it was running");
    // It takes events like any other.
    let next = load.acknowledged.borrow().last().unwrap() + 1_000_000;
    gateway.client.try_publish(request(next)).await.unwrap();
    gateway.client.nothing_owed(ACCOUNT).await;
    gateway.stop().await;
}

type Parts = Streaming<v1::CreateBackupResponse>;

/// Begins a backup. Everything but its start is still to be read.
async fn begin(client: &Client) -> (i32, Parts) {
    let begun = in_time(client.backups.clone().create_backup(v1::CreateBackupRequest {})).await;
    let mut parts = begun.unwrap().into_inner();
    let first = in_time(parts.message()).await.unwrap().unwrap().part;
    let Some(Part::Start(start)) = first else { panic!("{first:?}") };
    (start.format, parts)
}

/// Reads the rest of a backup into a directory.
async fn receive((format, mut parts): (i32, Parts), dir: &Path) -> Received {
    let mut receiver = BackupReceiver::begin(dir, u32::try_from(format).unwrap()).unwrap();
    loop {
        let part = match in_time(parts.message()).await.unwrap().expect("there is an end").part.unwrap() {
            Part::File(file) => BackupPart::File(file.path),
            Part::Data(data) => BackupPart::Data(data),
            Part::FileEnd(end) => {
                BackupPart::FileEnd(FileSum { bytes: end.size_bytes.unsigned_abs(), checksum: end.checksum })
            }
            Part::End(end) => {
                assert!(in_time(parts.message()).await.unwrap().is_none(), "more after the end");
                return receiver.finish(u64::try_from(end.file_count).unwrap()).unwrap();
            }
            Part::Start(_) => panic!("a second start"),
        };
        receiver.write(part).unwrap();
    }
}

/// A launcher with the administrator's token.
fn with_admin_token(launcher: Launcher) -> Launcher {
    let file = launcher.file("admin.token", ADMIN);
    launcher.with_file("admin-token-file", file)
}

fn token(scope: Scope) -> v1::AccessToken {
    v1::AccessToken { scopes: vec![scope.into()], ..Default::default() }
}

async fn publish(client: &Client, numbers: impl Iterator<Item = i64>) {
    let requests: Vec<_> = numbers
        .map(|number| {
            publish_request(ACCOUNT, &event_id(number), long_message(ACCOUNT, 1, number, EVENT_BYTES))
        })
        .collect();
    // The limit on messages is 4 MiB.
    for batch in requests.chunks(100) {
        client.try_publish_batch(batch.to_vec()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_of_the_moment_when_it_began_whatever_changes_while_it_is_read() {
    let receiver = Receiver::start().await;
    let launcher = with_admin_token(Launcher::new().with("retention-bytes-max", "16MiB"));
    let gateway = launcher.start().await;
    let admin = gateway.client.with_token(ADMIN);
    let (revoked, text) = admin.create_token(token(Scope::Publish)).await.unwrap();
    let publisher = gateway.client.with_token(&text);
    let kept = admin.subscribe(ACCOUNT, subscription(receiver.url("/kept"))).await;
    let deleted = admin.subscribe(ACCOUNT, subscription(receiver.url("/deleted"))).await;
    publish(&publisher, 1..=COPIED).await;
    admin.nothing_owed(ACCOUNT).await;

    let begun = begin(&admin).await;
    admin.delete(&deleted.name, true).await.unwrap();
    admin.subscribe(ACCOUNT, subscription(receiver.url("/later"))).await;
    let (_, later) = admin.create_token(token(Scope::Publish)).await.unwrap();
    let later = gateway.client.with_token(&later);
    admin.revoke_token(&revoked.name).await.unwrap();
    // So many that retention removes what is still to be copied.
    publish(&later, COPIED + 1..=COPIED + REMOVING).await;
    let first = format!("accounts/{ACCOUNT}/events/{}", event_id(1));
    let get = async || admin.events.clone().get_event(v1::GetEventRequest { name: first.clone() }).await;
    let is_gone = |code: &Code| *code == Code::NotFound;
    eventually("removed", async || get().await.err().map_or(Code::Ok, |status| status.code()), is_gone).await;

    // Only one at a time.
    let second = admin.backups.clone().create_backup(v1::CreateBackupRequest {}).await.unwrap_err();
    assert_eq!(second.code(), Code::FailedPrecondition);
    assert_eq!(second.get_details_error_info().unwrap().reason, "BACKUP_RUNNING");
    let (restored, dir) = restoring();
    let token_file = launcher.dir().join("admin.token");
    let mut command = backup(gateway.grpc, &dir);
    command.arg("--token-file").arg(token_file);
    let second = run(command).await;
    assert_eq!((second.code, dir.exists()), (Some(75), false), "{second:?}");
    assert!(second.stderr.contains("BACKUP_RUNNING: another backup is running"), "{second:?}");

    let received = receive(begun, &dir).await;
    assert!(received.files > 5 && received.key.is_some(), "{received:?}");
    let ended = |outcome| format!(r#"tidings_backups_total{{outcome="{outcome}"}}"#);
    Scrape::reaches(&gateway, &[(&ended("complete"), 1.0), (&ended("incomplete"), 0.0)]).await;
    let records = admin.audit_records().await;
    let of_backups: Vec<_> = records.iter().filter(|record| record.method == BACKUP_METHOD).collect();
    let outcomes: Vec<_> = of_backups.iter().map(|record| record.outcome()).collect();
    assert_eq!((outcomes, of_backups[0].count), (vec![Outcome::Refused, Outcome::Ok], 2), "{of_backups:?}");
    assert!(of_backups[1].parameters["size_bytes"].parse::<i64>().unwrap() > COPIED, "{of_backups:?}");
    let number = of_backups[1].number;
    gateway.stop().await;

    put_key_back(&launcher, &dir);
    assert_whole(&restored).await;
    let restored = with_admin_token(restored);
    let gateway = restored.start().await;
    let admin = gateway.client.with_token(ADMIN);
    let events = admin.stored_events(ACCOUNT).await;
    let events: Vec<_> = events.iter().rev().map(|event| id_of(&event.name).to_owned()).collect();
    assert_eq!(events, (1..=COPIED).map(event_id).collect::<Vec<_>>());
    let subscriptions = admin.all_subscriptions("accounts/-").await;
    let subscriptions: BTreeSet<_> =
        subscriptions.into_iter().map(|subscription| subscription.name).collect();
    assert_eq!(subscriptions, BTreeSet::from([kept.name.clone(), deleted.name.clone()]));
    for name in [&kept.name, &deleted.name] {
        assert_eq!(admin.counts(name).await.succeeded, usize::try_from(COPIED).unwrap());
    }
    publish(&gateway.client.with_token(&text), COPIED + 1..=COPIED + 1).await;
    let records = admin.audit_records().await;
    assert_eq!((records[0].number, records[0].outcome()), (number, Outcome::Unknown), "{records:?}");
    assert!(records[1..].iter().all(|record| record.outcome() == Outcome::Ok), "{records:?}");
    // The next change gets a number of its own.
    admin.revoke_token(&revoked.name).await.unwrap();
    assert_eq!(admin.audit_records().await[0].number, number + 1);
    admin.nothing_owed(ACCOUNT).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_backup_that_is_cut_off_is_refused_by_a_start_and_costs_the_gateway_nothing() {
    let launcher = Launcher::new();
    let gateway = launcher.start().await;
    publish(&gateway.client, 1..=COPIED).await;
    let (cut_off, dir) = restoring();
    let begun = async |dir: &Path| {
        let relay = TcpRelay::stalling_after(STALLS_AFTER, gateway.grpc).await;
        let process = Process::start(backup(relay.address, dir));
        let file = dir.join("ledger/0000000001.log");
        eventually("begun", async || file.metadata().is_ok_and(|file| file.len() > 0), |begun| *begun).await;
        (relay, process)
    };
    let (relay, process) = begun(&dir).await;
    process.kill().await;
    drop(relay);
    let refusal = cut_off.refusal().await;
    assert!(refusal.contains("is a backup that was not completed"), "{refusal}");
    for arguments in [&["check"][..], &["check", "--repair"]] {
        let checked = run(tidings(&[arguments, &[dir.to_str().unwrap()]].concat())).await;
        assert!(checked.code == Some(1) && checked.stderr.contains("not completed"), "{checked:?}");
    }
    let again = run(backup(gateway.grpc, &dir)).await;
    assert!(again.code == Some(64) && again.stderr.contains("is not empty"), "{again:?}");

    // A signal leaves time to remove what was written.
    let incomplete = r#"tidings_backups_total{outcome="incomplete"}"#;
    Scrape::reaches(&gateway, &[(incomplete, 1.0)]).await;
    let (_launcher, signalled) = restoring();
    let (_relay, process) = begun(&signalled).await;
    process.signal("TERM");
    let Ended { code, stderr, .. } = process.wait().await;
    assert_eq!((code, fs::read_dir(&signalled).unwrap().count()), (Some(130), 0), "{stderr}");
    Scrape::reaches(&gateway, &[(incomplete, 2.0)]).await;

    publish(&gateway.client, COPIED + 1..=COPIED + 1).await;
    let whole = run(backup(gateway.grpc, &signalled)).await;
    assert_eq!(whole.code, Some(0), "{whole:?}");
    gateway.stop().await;
}

#[tokio::test]
async fn a_backup_needs_an_administrator_of_all_accounts_an_empty_directory_and_a_gateway() {
    let launcher = with_admin_token(Launcher::new());
    let gateway = launcher.start().await;
    let admin = gateway.client.with_token(ADMIN);
    let limited = v1::AccessToken { accounts: vec!["accounts/1".into()], ..token(Scope::Admin) };
    let (_, limited) = admin.create_token(limited).await.unwrap();
    let (_, manager) = admin.create_token(token(Scope::Manage)).await.unwrap();
    let dir = launcher.dir().join("copy");
    let try_with = async |token: Option<&str>, address: SocketAddr| {
        let mut command = backup(address, &dir);
        if let Some(token) = token {
            command.env("TIDINGS_TOKEN", token);
        }
        run(command).await
    };
    let here = gateway.grpc;
    for (token, words) in [
        (None, "rejected the caller"),
        (Some(&*manager), "admin"),
        (Some(&*limited), "a backup is of all accounts, and the access token is for some"),
    ] {
        let refused = try_with(token, here).await;
        assert_eq!((refused.code, dir.exists()), (Some(77), false), "{refused:?}");
        assert!(refused.stderr.contains(words), "{refused:?}");
    }
    let unreachable = try_with(None, closed_address()).await;
    assert_eq!((unreachable.code, dir.exists()), (Some(75), false), "{unreachable:?}");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("file"), "somebody's").unwrap();
    let refused = try_with(Some(ADMIN), here).await;
    assert!(refused.code == Some(64) && refused.stderr.contains("is not empty"), "{refused:?}");
    assert_eq!(fs::read(dir.join("file")).unwrap(), b"somebody's");
    fs::remove_file(dir.join("file")).unwrap();
    assert_eq!(try_with(Some(ADMIN), here).await.code, Some(0));
    // Without its key it does not open, and the refusal says which.
    let in_place = run(tidings(&["serve", "--data-dir", dir.to_str().unwrap()])).await;
    assert!(in_place.code == Some(1) && in_place.stderr.contains("secrets.key is missing"), "{in_place:?}");
    gateway.stop().await;
}
