//! What goes wrong, in the words of the command, and its exit code.

use super::{User, message};
use crate::support::{
    closed_address,
    process::{Launcher, run, tidings},
};

#[tokio::test]
async fn every_field_at_fault_is_named_by_its_flag() {
    let gateway = Launcher::new().start().await;
    let user = User::of(&gateway).await;
    let refused = user
        .run(&[
            "subs",
            "add",
            "CRM",
            "--url",
            "ftp://x",
            "--inboxes=-1",
            "--max-attempts",
            "99",
            "--header",
            "host: x",
        ])
        .await;
    assert_eq!((refused.code, &*refused.stdout), (Some(65), ""), "{refused:?}");
    for flag in ["ID ", "--url ", "--types ", "--inboxes (", "--max-attempts ", "--header ("] {
        let line = format!("tidings: {flag}");
        assert!(refused.stderr.lines().any(|found| found.starts_with(&line)), "{flag}: {}", refused.stderr);
    }
    let refused = user.run(&["publish", r#"{"message_created": {"message": {}}}"#, "-i", "a b"]).await;
    assert_eq!(refused.code, Some(65));
    for field in ["tidings: --id ", "tidings: message_created.message."] {
        assert!(refused.stderr.contains(field), "{field}: {}", refused.stderr);
    }
    let refused = user.run(&["publish", r#"{"message_create": {}}"#]).await;
    assert_eq!(refused.code, Some(65));
    assert!(refused.stderr.contains("message_create"), "{}", refused.stderr);
    let absent = user.run(&["subs", "pause", "none"]).await;
    assert_eq!(absent.code, Some(65));
    assert!(absent.stderr.contains("(SUBSCRIPTION_NOT_FOUND)"), "{}", absent.stderr);
    gateway.stop().await;
}

#[tokio::test]
async fn wrong_arguments_change_nothing_and_end_with_64() {
    let gateway = Launcher::new().start().await;
    let user = User::of(&gateway).await;
    let cases: [(&[&str], &str); 8] = [
        (&["subs", "ls", "-t", "message"], "message_created"),
        (&["dels", "ls", "--since", "24"], "is not a time such as"),
        (&["dels", "retry", "crm"], "crm/order-1"),
        (&["subs", "ls", "--context", "none"], "there is no context \"none\", only local"),
        (&["subs", "ls", "-a", "0"], "positive integer"),
        (&["subs", "edit", "crm"], "nothing to change"),
        (&["subs", "edit", "crm", "--clear", "name"], "--clear takes"),
        (&["subs", "pause", "crm", "-a", "-"], "--account NUMBER"),
    ];
    for (arguments, message) in cases {
        let ended = user.run(arguments).await;
        assert_eq!((ended.code, &*ended.stdout), (Some(64), ""), "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains(message), "{message}: {}", ended.stderr);
    }
    user.ok(&["subs", "add", "crm", "--url", "http://127.0.0.1:9/", "--all-types"]).await;
    user.ok(&["subs", "pause", "crm"]).await;
    user.ok(&["publish", &message(1), "-i", "one"]).await;
    user.ok(&["dels", "cancel", "crm/one"]).await;
    let replay = user.run(&["replay", "crm", "--since", "1h"]).await;
    assert_eq!(replay.code, Some(64), "nobody can be asked: {replay:?}");
    assert!(
        replay.stderr.contains("1 event would be sent") && replay.stderr.contains("--yes"),
        "{}",
        replay.stderr
    );
    assert!(user.ok(&["dels", "ls"]).await.contains("cancelled"));
    gateway.stop().await;
}

#[tokio::test]
async fn a_gateway_that_is_not_there_ends_with_75() {
    let address = format!("http://{}", closed_address());
    let ended = run(tidings(&["subs", "ls", "--address", &address])).await;
    assert_eq!(ended.code, Some(75), "{ended:?}");
    assert!(ended.stderr.contains("cannot reach a gateway at"), "{}", ended.stderr);
}

#[tokio::test]
async fn the_program_describes_itself_to_shells_and_people() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ended = run(tidings(&["completions", shell])).await;
        assert!(ended.code == Some(0) && ended.stdout.contains("subscriptions"), "{shell}");
    }
    let version = run(tidings(&["version"])).await;
    assert_eq!(version.stdout, concat!("tidings ", env!("CARGO_PKG_VERSION"), "\n"));
    let short = run(tidings(&["serve", "-h"])).await.stdout;
    let settings = short.lines().filter(|line| line.trim_start().starts_with("--")).count();
    assert!(short.contains("--egress-allow") && !short.contains("--throttle-wait-max"), "{short}");
    assert_eq!(settings, 11, "ten settings and --config: {short}");
    let long = run(tidings(&["subs", "--help"])).await.stdout;
    for text in ["-a, --account", "TIDINGS_TOKEN_FILE", "Exit codes:"] {
        assert!(long.contains(text), "{text}: {long}");
    }
}
