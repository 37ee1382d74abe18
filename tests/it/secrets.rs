//! Secrets: none is in a file, in a line of the log or in an answer, and the key that they are sealed with
//! can be changed whatever happens meanwhile.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use tidings::{
    domain::key_pair::verifies,
    proto::v1::{self, EventType, delivery::State, subscription::SignatureScheme},
};
use tokio::time::{Instant, sleep};
use tonic::Code;

use crate::{
    it::signing::{assert_chatwoot_signed, assert_signed},
    support::{
        client::{Client, Subscribed, attempts, subscription},
        events::contact,
        process::{Ended, Launcher, Process, TidingsProcess, run},
        profile::in_full_or_short,
        receiver::{Receiver, Request, Response},
    },
};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const OTHER_KEY: &str = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";
const GIVEN: &str = "given-signing-secret-0123456789";
const HEADER: &str = "Bearer header-value-0123456789";
const NEW_HEADER: &str = "Bearer another-value-0123456789";

/// A launcher whose files are soon looked through.
fn small_home() -> Launcher {
    Launcher::new().with("retention-bytes-max", "16MiB")
}

/// Every file of the data directory in which this is.
fn files_with(dir: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else if String::from_utf8_lossy(&fs::read(&path).unwrap()).contains(text) {
            found.push(path);
        }
    }
    found
}

#[track_caller]
fn assert_nowhere(dir: &Path, secrets: &[String]) {
    for secret in secrets {
        let text = secret.strip_prefix("whsec_").unwrap_or(secret);
        assert_eq!(files_with(dir, text), Vec::<PathBuf>::new(), "{secret}");
        if let Ok(bytes) = STANDARD.decode(text) {
            assert!(!files_with(dir, "").iter().any(|path| has_bytes(path, &bytes)), "the bytes of {secret}");
        }
    }
}

fn has_bytes(path: &Path, wanted: &[u8]) -> bool {
    let bytes = fs::read(path).unwrap();
    let first = |(at, byte): (usize, &u8)| (*byte == wanted[0]).then_some(at);
    bytes.iter().enumerate().filter_map(first).any(|at| bytes[at..].starts_with(wanted))
}

/// Subscribes with a secret and a header that are known, changes both, and has another one signed with a key
/// pair. Returns what must be in no file.
async fn use_secrets(client: &Client, receiver: &Receiver) -> (Subscribed, Vec<String>) {
    let request = v1::CreateSubscriptionRequest {
        parent: "accounts/1".into(),
        subscription: Some(v1::Subscription {
            headers: [("authorization".to_owned(), HEADER.to_owned())].into(),
            ..subscription(receiver.url("/given"))
        }),
        request_id: uuid::Uuid::from_u128(7).to_string(),
        signing_secret: GIVEN.into(),
        ..Default::default()
    };
    let subscribed = client.create(request).await.unwrap();
    let name = subscribed.name.clone();
    let headers =
        [("authorization".to_owned(), "***".to_owned()), ("x-another".to_owned(), NEW_HEADER.to_owned())];
    client
        .update(v1::Subscription { name: name.clone(), headers: headers.into(), ..Default::default() })
        .await;
    let rotated = client.rotate(&name, Duration::from_hours(1)).await;
    let asymmetric = v1::Subscription {
        signature_scheme: SignatureScheme::Ed25519.into(),
        ..subscription(receiver.url("/asymmetric"))
    };
    let asymmetric = client.subscribe(1, asymmetric).await;
    let secrets = [GIVEN, HEADER, NEW_HEADER, &rotated.signing_secret, &asymmetric.secret];
    (subscribed, secrets.map(str::to_owned).into())
}

#[tokio::test]
async fn no_path_and_no_query_of_a_url_is_in_a_file_of_the_data_directory() {
    let receiver = Receiver::start().await;
    let launcher = small_home();
    let gateway = launcher.start().await;
    let first = receiver.url("/first-path-to-be-looked-for?key=first-query-to-be-looked-for");
    let second = receiver.url("/second-path-to-be-looked-for?key=second-query-to-be-looked-for");
    let texts = ["path-to-be-looked-for", "query-to-be-looked-for"].map(str::to_owned);
    let created = v1::CreateSubscriptionRequest {
        parent: "accounts/1".into(),
        subscription: Some(subscription(&first)),
        request_id: uuid::Uuid::from_u128(7).to_string(),
        ..Default::default()
    };
    let subscribed = gateway.client.create(created).await.unwrap();
    gateway.client.publish_as(1, "first", contact(1)).await;
    gateway.client.nothing_owed(1).await;
    let delivery = gateway.client.delivery(&subscribed.delivery("first")).await;
    assert_eq!(delivery.attempts[0].url, first);
    let changed =
        v1::Subscription { name: subscribed.name.clone(), url: second.clone(), ..Default::default() };
    gateway.client.update(changed).await;
    gateway.client.publish_as(1, "second", contact(1)).await;
    gateway.client.nothing_owed(1).await;
    assert_nowhere(&launcher.data_dir(), &texts);
    gateway.kill().await;
    assert_nowhere(&launcher.data_dir(), &texts);

    let gateway = launcher.start().await;
    assert_eq!(gateway.client.subscription(&subscribed.name).await.url, second);
    let url_of = async |id| gateway.client.delivery(&subscribed.delivery(id)).await.attempts[0].url.clone();
    assert_eq!(url_of("first").await, receiver.url("/***"), "of another URL the origin is left");
    assert_eq!(url_of("second").await, second);
    gateway.stop().await;
    assert_nowhere(&launcher.data_dir(), &texts);
    assert!(!files_with(&launcher.data_dir(), "accounts/1/subscriptions/").is_empty(), "names are found");
}

#[tokio::test]
async fn no_secret_is_in_a_file_of_the_data_directory() {
    let receiver = Receiver::start().await;
    let launcher = small_home();
    let gateway = launcher.start().await;
    let (given, secrets) = use_secrets(&gateway.client, &receiver).await;
    gateway.client.publish(1, contact(1)).await;
    gateway.client.nothing_owed(1).await;
    assert_nowhere(&launcher.data_dir(), &secrets);
    gateway.kill().await;
    assert_nowhere(&launcher.data_dir(), &secrets);

    let gateway = launcher.start().await;
    gateway.client.publish(1, contact(1)).await;
    let seen = receiver.wait_for(4).await;
    let posted = seen.iter().rfind(|request| request.path == "/given").unwrap();
    assert_eq!((posted.header("authorization"), posted.header("x-another")), (HEADER, NEW_HEADER));
    assert_signed(posted, &[&secrets[3], GIVEN]);
    gateway.client.delete(&given.name, true).await.unwrap();
    let log = gateway.stop().await;
    assert_nowhere(&launcher.data_dir(), &secrets);
    assert!(
        !files_with(&launcher.data_dir(), "accounts/1/subscriptions/").is_empty(),
        "names are found, so secrets would be"
    );
    let count = log.iter().filter(|line| line.contains("secrets in the store")).count();
    assert_eq!(count, 1, "a later start says little");
}

#[tokio::test]
async fn without_a_key_one_is_made_for_its_owner_only_and_logged() {
    let launcher = Launcher::new();
    let log = launcher.start().await.stop().await;
    let file = launcher.data_dir().join("secrets.key");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let made: Vec<_> = log.iter().filter(|line| line.contains("made a key")).collect();
    assert!(
        made.len() == 1 && made[0].contains("secrets.key") && made[0].contains("keep a copy"),
        "{made:?}"
    );
    let text = fs::read_to_string(&file).unwrap();
    let key = text.lines().find(|line| !line.starts_with('#')).unwrap();
    assert_eq!(STANDARD.decode(key).unwrap().len(), 32);
    let log = launcher.start().await.stop().await;
    assert!(!log.iter().any(|line| line.contains("made a key") || line.contains(key)));
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
}

#[tokio::test]
async fn another_key_is_refused_and_the_right_one_works_again() {
    let receiver = Receiver::start().await;
    let launcher = Launcher::new().with_variable("TIDINGS_SECRETS_KEY", KEY);
    let gateway = launcher.start().await;
    let (_, secrets) = use_secrets(&gateway.client, &receiver).await;
    gateway.stop().await;
    assert!(!launcher.data_dir().join("secrets.key").exists(), "none is made where one is given");

    let launcher = launcher.with_variable("TIDINGS_SECRETS_KEY", OTHER_KEY);
    let refusal = launcher.refusal().await;
    assert!(refusal.contains("are sealed with the key b85a1a6c, and given is "), "{refusal}");
    assert!(refusal.contains("Nothing was changed") && !refusal.contains(OTHER_KEY), "{refusal}");
    let launcher = launcher.without_variable("TIDINGS_SECRETS_KEY");
    let refusal = launcher.refusal().await;
    assert!(refusal.contains("secrets.key is missing") && refusal.contains("b85a1a6c"), "{refusal}");

    let file = launcher.file("key", format!("{KEY}\n"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let launcher = launcher.with_file("secrets-key-file", &file);
    let refusal = launcher.refusal().await;
    assert!(refusal.contains("may be read or changed by others (its mode is 644)"), "{refusal}");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
    let gateway = launcher.start().await;
    gateway.client.publish(1, contact(1)).await;
    let seen = receiver.wait_for(2).await;
    let posted = seen.iter().find(|request| request.path == "/given").unwrap();
    assert_signed(posted, &[&secrets[3], GIVEN]);
    gateway.stop().await;

    // Both, the new one first: the store is the new one's from then on.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&file, format!("{OTHER_KEY}\n{KEY}\n")).unwrap();
    launcher.start().await.stop().await;
    fs::write(&file, KEY).unwrap();
    assert!(launcher.refusal().await.contains("given is b85a1a6c"));
    fs::write(&file, OTHER_KEY).unwrap();
    launcher.start().await.stop().await;
}

/// Whether requests are signed now as they were before.
async fn still_signs(gateway: &TidingsProcess, receiver: &Receiver, secrets: &[String]) {
    let before = receiver.seen().len();
    gateway.client.publish(1, contact(1)).await;
    let seen = receiver.wait_for(before + 2).await;
    let posted = seen[before..].iter().find(|request| request.path == "/given").unwrap();
    assert_signed(posted, &[&secrets[3]]);
    assert_eq!(posted.header("authorization"), HEADER);
}

#[tokio::test]
async fn a_rotation_that_is_killed_at_any_moment_leaves_a_store_that_opens() {
    const SUBSCRIPTIONS: usize = 200;
    let kills = in_full_or_short(16, 8);
    let receiver = Receiver::start().await;
    let launcher = small_home();
    let gateway = launcher.start().await;
    let (given, mut secrets) = use_secrets(&gateway.client, &receiver).await;
    secrets[3] = gateway.client.rotate(&given.name, Duration::ZERO).await.signing_secret;
    for number in 0..SUBSCRIPTIONS {
        let headers = [("x-token".to_owned(), format!("a-token-of-number-{number}"))].into();
        let paused = v1::Subscription { headers, ..subscription(receiver.url(&format!("/{number}"))) };
        gateway.client.subscribe(2, paused).await;
    }
    gateway.stop().await;

    let key_of = || fs::read_to_string(launcher.data_dir().join("secrets.key")).unwrap();
    let first = key_of();
    let once = Instant::now();
    let Ended { code, stdout, stderr } = run(launcher.command_to("rotate-secrets-key")).await;
    let takes = once.elapsed();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("are now encrypted with key ") && stdout.contains("Keep a copy"), "{stdout}");
    assert_ne!(key_of(), first);
    assert!(key_of().lines().all(|line| line.starts_with('#') || !stdout.contains(line)), "{stdout}");

    let mut interrupted = 0;
    for kill in 0..kills {
        let rotating = Process::start(launcher.command_to("rotate-secrets-key"));
        sleep(takes * kill / kills).await;
        rotating.kill().await;
        let keys = key_of().lines().filter(|line| !line.starts_with('#')).count();
        interrupted += usize::from(keys == 2);
        if kill % 2 == 0 {
            let gateway = launcher.start().await;
            still_signs(&gateway, &receiver, &secrets).await;
            gateway.stop().await;
        }
    }
    assert!(interrupted > 0, "none of the kills came in the middle");
    assert_eq!(run(launcher.command_to("rotate-secrets-key")).await.code, Some(0));
    let gateway = launcher.start().await;
    still_signs(&gateway, &receiver, &secrets).await;
    gateway.stop().await;
    assert_nowhere(&launcher.data_dir(), &secrets);
    assert_eq!(files_with(&launcher.data_dir(), "a-token-of-number-"), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_rotation_is_refused_while_a_gateway_runs_and_in_a_folder_without_one() {
    let launcher = Launcher::new();
    let rotate = async || run(launcher.command_to("rotate-secrets-key")).await;
    let ended = rotate().await;
    assert!(ended.code == Some(1) && ended.stderr.contains("has no store in it"), "{ended:?}");
    let gateway = launcher.start().await;
    let ended = rotate().await;
    assert!(ended.code == Some(1) && ended.stderr.contains("in use by another process"), "{ended:?}");
    gateway.stop().await;
}

/// Everything that touches secrets, with the most verbose log. The harness scans output and responses.
#[tokio::test]
async fn no_output_and_no_response_shows_a_secret() {
    let status = |path: &str| if path == "/asymmetric" { 500 } else { 200 };
    let receiver = Receiver::with(move |request| Response::status(status(&request.path))).await;
    let launcher = Launcher::new().with("log-level", "trace").with("retry-max-attempts", "3");
    let gateway = launcher.start().await;
    let client = &gateway.client;
    let (given, secrets) = use_secrets(client, &receiver).await;
    secrets.iter().for_each(|secret| launcher.secrets().add(secret));

    // A fault is reported without the value.
    let refused = async |change: &dyn Fn(&mut v1::CreateSubscriptionRequest)| {
        let mut request = v1::CreateSubscriptionRequest {
            parent: "accounts/1".into(),
            subscription: Some(subscription(receiver.url("/refused"))),
            ..Default::default()
        };
        change(&mut request);
        let status = client.create(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    };
    let headers = |request: &mut v1::CreateSubscriptionRequest, name: &str, value: &str| {
        request.subscription.as_mut().unwrap().headers.insert(name.into(), value.into());
    };
    refused(&|request| request.signing_secret = "a-secret-that-is-no-ascii-ä".into()).await;
    refused(&|request| request.signing_secret = "whsec_this-is-no-base64-of-anything".into()).await;
    refused(&|request| headers(request, "host", "a-value-of-a-reserved-header")).await;
    refused(&|request| headers(request, "x-lines", "a-value-with\r\na-line-break")).await;
    refused(&|request| headers(request, "x-long", &"a-long-value".repeat(1000))).await;

    client.publish(1, contact(1)).await;
    client.test(&given.name, EventType::MessageCreated).await;
    let event = client.stored_events(1).await.remove(0);
    client.render(&event.name, &given.name).await;
    client.subscription(&given.name).await;
    client.all_subscriptions("accounts/-").await;
    client.pause(&given.name).await;
    client.resume(&given.name).await;
    client.counts_when("accounts/1/subscriptions/-", "one given up", |counts| counts.failed == 1).await;
    client.deliveries_in(1, &[State::Failed]).await;
    // Nobody listens there.
    let unheard = v1::Subscription {
        headers: [("x-api-key".to_owned(), "a-key-for-nobody".to_owned())].into(),
        retry_policy: attempts(1),
        ..subscription("http://127.0.0.1:1/")
    };
    let unheard = client.subscribe(3, unheard).await;
    client.publish(3, contact(3)).await;
    client.counts_when(&unheard.name, "one given up", |counts| counts.failed == 1).await;
    client.delete(&unheard.name, true).await.unwrap();
    let log = gateway.stop().await;
    assert!(log.iter().any(|line| line.contains(r#""level":"TRACE""#)), "the log is as verbose as it can be");

    let rotated = run(launcher.command_to("rotate-secrets-key")).await;
    for printed in [rotated.stdout, rotated.stderr] {
        assert_eq!(launcher.secrets().find_in(printed.as_bytes(), ""), None);
    }
    launcher.clone().with_variable("TIDINGS_SECRETS_KEY", OTHER_KEY).refusal().await;
    launcher.start().await.stop().await;
}

/// Verifies `webhook-signature`: it is made with these public keys, the newest first, and nothing else.
#[track_caller]
fn assert_signed_for(request: &Request, public_keys: &[&str]) {
    let signatures: Vec<_> = request.header("webhook-signature").split(' ').collect();
    assert_eq!(signatures.len(), public_keys.len(), "{signatures:?}");
    let timestamp = request.header("webhook-timestamp");
    let signed = format!("{}.{timestamp}.{}", request.webhook_id(), request.body);
    for (signature, key) in signatures.iter().zip(public_keys) {
        let signature = STANDARD.decode(signature.strip_prefix("v1a,").unwrap()).unwrap();
        assert!(verifies(key, signed.as_bytes(), &signature));
    }
}

#[tokio::test]
async fn with_ed25519_the_public_key_verifies_and_both_do_during_a_rotation() {
    let receiver = Receiver::start().await;
    let launcher = Launcher::new();
    let gateway = launcher.start().await;
    let client = &gateway.client;
    let asked = v1::Subscription {
        signature_scheme: SignatureScheme::Ed25519.into(),
        public_key: "whpk_ignored".into(),
        ..subscription(receiver.url("/hook"))
    };
    let Subscribed { name, secret } = client.subscribe(1, asked).await;
    assert!(secret.starts_with("whsec_"));
    let first = client.subscription(&name).await.public_key;
    assert!(first.starts_with("whpk_"));
    client.publish(1, contact(1)).await;
    let seen = receiver.wait_for(1).await;
    assert_signed_for(&seen[0], &[&first]);
    let another = client.subscribe(
        2,
        v1::Subscription {
            signature_scheme: SignatureScheme::Ed25519.into(),
            ..subscription(receiver.url("/another"))
        },
    );
    assert_ne!(client.subscription(&another.await.name).await.public_key, first, "each has its own");

    let rotated = client.rotate(&name, Duration::from_hours(1)).await;
    let second = client.subscription(&name).await.public_key;
    assert_eq!(rotated.public_key, second);
    assert_ne!(first, second);
    assert_ne!(rotated.signing_secret, secret);
    gateway.kill().await;

    let gateway = launcher.start().await;
    let client = &gateway.client;
    client.publish(1, contact(1)).await;
    let seen = receiver.wait_for(2).await;
    assert_signed_for(&seen[1], &[&second, &first]);
    assert_chatwoot_signed(&seen[1], &rotated.signing_secret);

    client.rotate(&name, Duration::ZERO).await;
    let third = client.subscription(&name).await.public_key;
    client.publish(1, contact(1)).await;
    assert_signed_for(&receiver.wait_for(3).await[2], &[&third]);
    gateway.stop().await;
}

#[tokio::test]
async fn a_change_of_scheme_signs_both_ways_for_a_while() {
    let receiver = Receiver::start().await;
    let gateway = Launcher::new().start().await;
    let client = &gateway.client;
    let Subscribed { name, secret } = client.subscribe(1, subscription(receiver.url("/hook"))).await;
    assert_eq!(client.subscription(&name).await.public_key, "");
    let scheme = |scheme: SignatureScheme| v1::Subscription {
        name: name.clone(),
        signature_scheme: scheme.into(),
        ..Default::default()
    };
    let changed = client.update(scheme(SignatureScheme::Ed25519)).await;
    assert!(changed.public_key.starts_with("whpk_"));
    let again = client.update(scheme(SignatureScheme::Ed25519)).await;
    assert_eq!(again, changed, "nothing changes the second time");
    client.publish(1, contact(1)).await;
    let seen = receiver.wait_for(1).await.remove(0);
    let (asymmetric, symmetric) = seen.header("webhook-signature").split_once(' ').unwrap();
    let with = |signature: &str| seen.with_header("webhook-signature", signature);
    assert_signed_for(&with(asymmetric), &[&changed.public_key]);
    assert_signed(&with(symmetric), &[&secret]);

    let back = client.update(scheme(SignatureScheme::HmacSha256)).await;
    assert_eq!(back.public_key, "");
    client.publish(1, contact(1)).await;
    let seen = receiver.wait_for(2).await.remove(1);
    let signatures: Vec<_> = seen.header("webhook-signature").split(' ').collect();
    assert_eq!(
        signatures.iter().map(|one| &one[..one.find(',').unwrap()]).collect::<Vec<_>>(),
        ["v1", "v1a", "v1"]
    );

    client.update(scheme(SignatureScheme::Ed25519)).await;
    let refused = client.try_update(scheme(SignatureScheme::HmacSha256), &[]).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "as many secrets as allowed sign with the newest");
    gateway.stop().await;
}

/// A start that is refused says so once, and is no panic.
#[tokio::test]
async fn an_invalid_key_in_the_environment_is_a_fault_of_the_configuration() {
    let launcher = Launcher::new().with_variable("TIDINGS_SECRETS_KEY", "a-passphrase-instead");
    let ended = run(launcher.command()).await;
    assert_eq!(ended.code, Some(64));
    let fault = "environment TIDINGS_SECRETS_KEY: key 1 must be the padded base64 of 32 bytes";
    assert!(
        ended.stderr.contains(fault) && !ended.stderr.contains("a-passphrase-instead"),
        "{}",
        ended.stderr
    );
}
