//! The commands that administer a gateway: the real binary against real gateways.

use std::{fs, path::Path};

use serde_json::Value;
use tokio::process::Command;

use crate::support::{
    process::{Ended, Launcher, Process, TidingsProcess, run, tidings},
    receiver::{Receiver, Response},
};

mod document;
mod errors;

/// A user: a directory of their own for contexts, in which their commands run.
struct User {
    directory: tempfile::TempDir,
    address: String,
}

impl User {
    /// A user of this gateway who has account 1 in a context.
    async fn of(gateway: &TidingsProcess) -> Self {
        let directory = tempfile::tempdir().expect("there is room");
        let user = Self { directory, address: format!("http://{}", gateway.grpc) };
        let address = user.address.clone();
        user.ok(&["context", "set", "local", "-a", "1", "--address", &address]).await;
        user
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = tidings(arguments);
        command.env("XDG_CONFIG_HOME", self.path().join("config")).current_dir(self.path());
        command
    }

    /// Runs a command to its end.
    async fn run(&self, arguments: &[&str]) -> Ended {
        run(self.command(arguments)).await
    }

    /// Runs a command that must succeed. Returns its output, which may have a secret that is shown once.
    async fn ok(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().await.expect("the program is there");
        let text = |bytes| String::from_utf8(bytes).expect("the output is UTF-8");
        assert!(output.status.success(), "{arguments:?}: {}", text(output.stderr));
        text(output.stdout)
    }

    /// The JSON of a command that must succeed.
    async fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(&[arguments, &["-o", "json"]].concat()).await;
        serde_json::from_str(&text).expect("the output is JSON")
    }

    /// Waits until a command prints this.
    async fn until(&self, arguments: &[&str], wanted: &str) {
        let look = async {
            while !self.ok(arguments).await.contains(wanted) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(crate::support::PATIENCE, look).await.expect(wanted);
    }
}

/// An event in protobuf JSON: a message of this number.
fn message(number: i64) -> String {
    let conversation = r#"{"id": 3, "account_id": 1, "inbox_id": 5}"#;
    let account = r#"{"id": 1, "name": "Acme"}"#;
    format!(
        r#"{{"message_created": {{"message": {{"id": {number}, "content": "Hi", "message_type": "MESSAGE_TYPE_INCOMING", "account": {account}, "conversation": {conversation}}}}}}}"#
    )
}

#[tokio::test]
async fn a_subscription_is_added_changed_tested_rotated_and_deleted() {
    let launcher = Launcher::new();
    let (gateway, mut receiver) = (launcher.start().await, Receiver::start().await);
    let user = User::of(&gateway).await;
    let url = receiver.url("/hook");
    let added = user
        .ok(&["subs", "add", "crm", "--url", &url, "-t", "EVENT_TYPE_MESSAGE_CREATED", "--header", "X-A: 1"])
        .await;
    assert!(added.starts_with("accounts/1/subscriptions/crm added\nsigning secret: whsec_"), "{added}");

    // The other header stays, though nobody but the gateway knows its value.
    user.ok(&[
        "subs",
        "edit",
        "crm",
        "--header",
        "X-B: 2",
        "-t",
        "message_created,contact_created",
        "--rate",
        "100/1s",
    ])
    .await;
    let shown = user.ok(&["subs", "get", "crm"]).await;
    for row in
        ["event_types", "message_created, contact_created", "headers.x-b", "rate_limit.events", "owed_count"]
    {
        assert!(shown.to_lowercase().contains(row), "{row}: {shown}");
    }
    user.ok(&["subs", "test", "crm"]).await;
    let sample = receiver.next().await;
    assert_eq!((sample.header("x-a"), sample.header("x-b")), ("1", "2"));
    user.ok(&["subs", "edit", "crm", "--header", "X-A:", "--clear", "rate", "--all-types", "--ordered"])
        .await;
    let stored = &user.json(&["subs", "get", "crm"]).await["subscription"];
    assert_eq!(stored["headers"].as_object().expect("an object").len(), 1, "{stored}");
    assert_eq!((&stored["allEventTypes"], &stored["ordered"]), (&true.into(), &true.into()));
    assert_eq!((stored.get("rateLimit"), &stored["owedCount"]), (None, &"0".into()));

    let rotated = user.ok(&["subs", "rotate", "crm", "--overlap", "1h"]).await;
    assert!(rotated.contains("\nsigning secret: whsec_"), "{rotated}");
    user.ok(&["subs", "pause", "crm"]).await;
    assert!(user.ok(&["subs", "ls"]).await.contains("paused"));
    user.ok(&["subs", "resume", "accounts/1/subscriptions/crm"]).await;
    receiver.now(|_| Response::status(500));
    let failed = user.run(&["subs", "test", "crm"]).await;
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(
        failed.stderr.contains("did not accept the sample") && failed.stdout.contains("500"),
        "{failed:?}"
    );
    user.ok(&["subs", "rm", "crm"]).await;
    assert_eq!(user.ok(&["subs", "ls", "-o", "name"]).await, "");
    let methods = user.ok(&["audit", "--since", "1h"]).await;
    assert!(methods.contains("SubscriptionService/DeleteSubscription"), "{methods}");
    gateway.stop().await;
}

#[tokio::test]
async fn an_event_is_published_in_any_form_from_anywhere_and_shown_again() {
    let launcher = Launcher::new();
    let (gateway, mut receiver) = (launcher.start().await, Receiver::start().await);
    let user = User::of(&gateway).await;
    user.ok(&["subs", "add", "crm", "--url", &receiver.url("/hook"), "--all-types", "--format", "chatwoot"])
        .await;

    let stored = user.ok(&["publish", &message(1), "-i", "one"]).await;
    assert_eq!(stored, "accounts/1/events/one stored; it goes to 1 subscription\n");
    assert_eq!(receiver.next().await.message_number(), 1);
    assert!(user.ok(&["publish", &message(1), "-i", "one"]).await.contains("was stored before"));

    // The body of a webhook, through standard input.
    let rendered = user.ok(&["events", "render", "one", "--form", "chatwoot"]).await;
    let mut body: Value = serde_json::from_str(&rendered).expect("a body is JSON");
    body["id"] = 2.into();
    fs::write(user.path().join("body.json"), body.to_string()).expect("there is room");
    let mut command = user.command(&["publish", "-i", "two"]);
    command.stdin(fs::File::open(user.path().join("body.json")).expect("it was written"));
    let published = run(command).await;
    assert_eq!((published.code, &*published.stderr), (Some(0), ""), "{published:?}");
    receiver.next().await;

    let names = user.ok(&["events", "ls", "-o", "name"]).await;
    assert_eq!(names, "accounts/1/events/two\naccounts/1/events/one\n");
    assert_eq!(user.ok(&["events", "ls", "-n", "1"]).await.lines().count(), 2);
    // What is read can be published.
    let event = user.json(&["events", "get", "one"]).await["event"].to_string();
    let again = user.ok(&["publish", &event, "--validate-only"]).await;
    assert!(again.contains("is valid; it would go to 1 subscription"), "{again}");
    let yaml = user.ok(&["dels", "get", "crm/two", "-o", "yaml"]).await;
    assert!(
        yaml.contains("state: STATE_") && yaml.contains("accounts/1/subscriptions/crm/deliveries/two"),
        "{yaml}"
    );
    gateway.stop().await;
}

#[tokio::test]
async fn lists_are_followed_until_a_signal() {
    let launcher = Launcher::new();
    let (gateway, receiver) = (launcher.start().await, Receiver::start().await);
    let user = User::of(&gateway).await;
    let watching = Process::start(user.command(&["subs", "ls", "--watch", "-o", "name"]));
    let tailing = Process::start(user.command(&["dels", "tail", "-o", "json"]));
    user.ok(&["subs", "add", "crm", "--url", &receiver.url("/hook"), "--all-types"]).await;
    watching.stdout.wait_for_line("accounts/1/subscriptions/crm").await;
    watching.signal("INT");
    assert_eq!(watching.wait().await.code, Some(130));

    // Until the tail is there.
    let published = async {
        for number in 1.. {
            user.ok(&["publish", &message(number)]).await;
        }
    };
    let seen = tailing.stdout.wait_for(|line| line.contains("STATE_SUCCEEDED").then(|| line.to_owned()));
    let line = tokio::select! { line = seen => line, () = published => unreachable!("it goes on") };
    let change: Value = serde_json::from_str(&line).expect("a line is an object");
    assert_eq!(change["skippedCount"], 0);
    tailing.signal("TERM");
    assert_eq!(tailing.wait().await.code, Some(130));
    gateway.stop().await;
}

#[tokio::test]
async fn tokens_and_sinks_of_notices_are_made_and_ended() {
    const ADMIN: &str = "the-token-of-the-administrator-0123456789";
    let launcher = Launcher::new();
    let admin = launcher.file("admin.token", ADMIN);
    let gateway = launcher.with_file("admin-token-file", &admin).start().await;
    let receiver = Receiver::start().await;
    let user = User::of(&gateway).await;
    let admin = admin.to_str().expect("paths of tests are UTF-8");
    let refused = user.run(&["tokens", "ls"]).await;
    assert_eq!(refused.code, Some(77), "{refused:?}");

    user.ok(&["context", "set", "local", "--token-file", admin]).await;
    let created = user.ok(&["tokens", "create", "reader", "-s", "read", "--expires", "90d"]).await;
    let (first, secret) = created.split_once("\ntoken: ").expect("the secret is shown");
    assert!(first.ends_with("created, for accounts/1"), "{first}");
    let mut command = user.command(&["subs", "ls"]);
    command.env("TIDINGS_TOKEN", secret.trim());
    assert_eq!(run(command).await.code, Some(0), "a variable goes before the context");
    let listed = user.ok(&["tokens", "ls"]).await;
    let row = listed.lines().find(|line| line.contains("reader")).expect("it is in the list");
    assert!(row.contains("active") && row.contains("accounts/1"), "{row}");
    user.ok(&["tokens", "revoke", row.split_whitespace().next().expect("its id")]).await;
    let mut command = user.command(&["subs", "ls"]);
    command.env("TIDINGS_TOKEN", secret.trim());
    assert_eq!(run(command).await.code, Some(77));

    let added =
        user.ok(&["notices", "add", "ops", "--url", &receiver.url("/n"), "-k", "delivery_failed"]).await;
    assert!(added.contains("signing secret: whsec_"), "{added}");
    user.ok(&["notices", "test", "ops", "-k", "delivery_failed"]).await;
    assert!(user.ok(&["notices", "ls"]).await.contains("delivery_failed"));
    user.ok(&["notices", "get", "ops"]).await;
    user.ok(&["notices", "rm", "ops"]).await;
    let audited = user.ok(&["audit", "--method", "NoticeService/DeleteNoticeSink"]).await;
    assert_eq!(audited.lines().count(), 2, "{audited}");
    gateway.stop().await;
}
