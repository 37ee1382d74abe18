//! `tidings import`: the real binary against a real gateway, whose subscribers get Chatwoot's form.

use std::io::{PipeWriter, Write};

use serde_json::{Value, json};
use tidings::proto::v1::{self, subscription::PayloadFormat};
use tokio::process::Command;

use crate::support::{
    client::{id_of, subscription},
    closed_address,
    process::{Ended, Launcher, Process, TidingsProcess, run, tidings},
    receiver::{Receiver, Request},
};

mod captured;
mod documented;
mod secured;

/// The command against this gateway.
fn command(gateway: &TidingsProcess, arguments: &[&str]) -> Command {
    tidings(&[&["import", "--address", &format!("http://{}", gateway.grpc)], arguments].concat())
}

/// Runs the command against this gateway.
async fn import(gateway: &TidingsProcess, arguments: &[&str]) -> Ended {
    run(command(gateway, arguments)).await
}

/// The command with a standard input that the test writes to.
fn with_input(mut command: Command) -> (Command, PipeWriter) {
    let (reader, writer) = std::io::pipe().expect("there are pipes");
    command.stdin(reader);
    (command, writer)
}

/// Subscribes a receiver to everything of an account, in Chatwoot's form and in order. Returns its name.
async fn subscribe(gateway: &TidingsProcess, account: i64, receiver: &Receiver) -> String {
    let subscription = v1::Subscription {
        payload_format: PayloadFormat::Chatwoot.into(),
        ordered: true,
        ..subscription(receiver.url("/hook"))
    };
    gateway.client.subscribe(account, subscription).await.name
}

/// A gateway, and a receiver of everything in account 1.
async fn subscribed(launcher: &Launcher) -> (TidingsProcess, Receiver) {
    let (gateway, receiver) = (launcher.start().await, Receiver::start().await);
    subscribe(&gateway, 1, &receiver).await;
    (gateway, receiver)
}

/// Stops the gateway once everything is delivered, and demands that the receiver got nothing that was not
/// taken from it.
async fn stop_with_nothing_more(gateway: TidingsProcess, mut receiver: Receiver) {
    gateway.client.nothing_owed(1).await;
    gateway.stop().await;
    assert!(receiver.take_all().is_empty());
}

/// Writes a file in the launcher's directory. Returns its path.
fn file(launcher: &Launcher, name: &str, text: impl AsRef<[u8]>) -> String {
    launcher.file(name, text).to_str().expect("paths of tests are UTF-8").to_owned()
}

/// A body of Chatwoot's: a message of this number in this conversation.
fn message(account: i64, conversation: i64, number: i64) -> String {
    json!({
        "event": "message_created",
        "id": number,
        "content": "Good morning",
        "message_type": "incoming",
        "created_at": "2026-01-02T03:04:05.678Z",
        "account": {"id": account, "name": "Acme"},
        "inbox": {"id": 5, "name": "Website"},
        "sender": {"id": 11, "name": "Ada", "email": "ada@example.com"},
        "conversation": {"id": conversation, "inbox_id": 5, "status": "open", "labels": ["vip"]},
    })
    .to_string()
}

/// Messages of account 1 with these numbers, in one conversation, one on each line.
fn lines(numbers: impl IntoIterator<Item = i64>) -> String {
    numbers.into_iter().map(|number| message(1, 3, number) + "\n").collect()
}

/// The line in which the command says that it waits.
async fn waiting(importing: &Process) -> String {
    importing.stderr.wait_for(|line| line.contains("waiting").then(|| line.to_owned())).await
}

/// The numbers of the next `count` messages.
async fn next_numbers(receiver: &mut Receiver, count: usize) -> Vec<i64> {
    receiver.take(count).await.iter().map(Request::message_number).collect()
}

#[tokio::test]
async fn a_repetition_publishes_nothing_and_equal_objects_are_as_many_events() {
    let launcher = Launcher::new();
    let (gateway, mut receiver) = subscribed(&launcher).await;
    let text = format!("{}{}{}", lines([1]), lines([2, 1]), lines([1]));
    let input = file(&launcher, "hooks.jsonl", &text);

    let first = import(&gateway, &[&input]).await;
    assert_eq!((first.code, &*first.stdout), (Some(0), "published 4, already there 0, refused 0\n"));
    assert_eq!(next_numbers(&mut receiver, 4).await, [1, 2, 1, 1]);

    let (command, mut writer) = with_input(command(&gateway, &["--account", "1", "-"]));
    writer.write_all(text.as_bytes()).expect("a pipe takes some kilobytes");
    drop(writer);
    let again = run(command).await;
    assert_eq!((again.code, &*again.stdout), (Some(0), "published 0, already there 4, refused 0\n"));
    // Further equal ones are further events; so are those of two files of one input.
    let more = import(&gateway, &[&input, &input, "--batch", "1"]).await;
    assert_eq!(more.stdout, "published 4, already there 4, refused 0\n");
    assert_eq!(next_numbers(&mut receiver, 4).await, [1, 2, 1, 1]);
    stop_with_nothing_more(gateway, receiver).await;
}

#[tokio::test]
async fn invalid_lines_are_refused_with_their_number_and_the_rest_is_published() {
    let launcher = Launcher::new();
    let (gateway, mut receiver) = subscribed(&launcher).await;
    let pretty: Value = serde_json::from_str(&message(1, 3, 4)).expect("it is JSON");
    let pieces = [
        message(1, 3, 1),
        "not JSON".to_owned(),
        message(2, 3, 2),
        message(1, 3, 3).replace("\"Good morning\"", "17"),
        message(1, 3, 3).replace("message_created", "message_deleted"),
        message(1, 3, 3).replace("\"Ada\"", "Ada"),
        message(1, 3, 3).replace("Good morning", &"x".repeat(1 << 20)),
        message(1, 3, 3).replace('}', ""),
        format!("{pretty:#}"),
    ];
    let input = file(&launcher, "hooks.jsonl", pieces.join("\n"));

    let ended = import(&gateway, &["--account", "1", &input]).await;
    assert_eq!(ended.code, Some(65));
    assert_eq!(ended.stdout, "published 2, already there 0, refused 7\n");
    for (line, what) in [
        (2, "must be a JSON object"),
        (3, "account.id must be 1, "),
        (4, "content must be a string"),
        (5, "event is not a known event name"),
        (6, ": expected value at column "),
        (7, "is longer than 1 MiB"),
        (8, "is not JSON: its braces"),
    ] {
        let start = format!("{input}:{line}: ");
        let found = ended.stderr.lines().any(|fault| fault.starts_with(&start) && fault.contains(what));
        assert!(found, "{line} {what}: {}", ended.stderr);
    }
    assert_eq!(next_numbers(&mut receiver, 2).await, [1, 4]);

    // Events before the first are published, and those after it are not.
    let input = file(&launcher, "strict.jsonl", format!("{}{{}}\n{}", lines([11, 12]), lines([13])));
    let ended = import(&gateway, &["--account", "1", "--strict", &input]).await;
    let expected = format!("published 2, already there 0, refused 1; stopped after {input}:3\n");
    assert_eq!((ended.code, ended.stdout), (Some(65), expected));
    assert_eq!(next_numbers(&mut receiver, 2).await, [11, 12]);
    stop_with_nothing_more(gateway, receiver).await;
}

#[tokio::test]
async fn an_event_that_the_gateway_refuses_stops_no_other() {
    let launcher = Launcher::new().with("event-bytes-max", "4KiB");
    let (gateway, mut receiver) = subscribed(&launcher).await;
    let large = message(1, 3, 2).replace("Good morning", &"x".repeat(5000));
    let input = file(&launcher, "hooks.jsonl", format!("{}{large}\n{}", lines([1]), lines([3])));
    let ended = import(&gateway, &[&input]).await;
    assert_eq!((ended.code, &*ended.stdout), (Some(65), "published 2, already there 0, refused 1\n"));
    assert!(ended.stderr.starts_with(&format!("{input}:2: event ")), "{}", ended.stderr);
    assert_eq!(next_numbers(&mut receiver, 2).await, [1, 3]);
    gateway.stop().await;
}

#[tokio::test]
async fn an_event_that_an_earlier_version_read_differently_exists_already() {
    let (first, second) = (Launcher::new(), Launcher::new());
    let input = file(&first, "hooks.jsonl", lines([1, 2]));
    let gateway = first.start().await;
    assert_eq!(import(&gateway, &[&input]).await.code, Some(0));
    let stored = gateway.client.stored_events(1).await;
    gateway.stop().await;

    // The event of the second line has the id of the first one.
    let gateway = second.start().await;
    gateway.client.publish_as(1, id_of(&stored[1].name), stored[0].clone()).await;
    let ended = import(&gateway, &[&input]).await;
    let expected = (Some(0), "published 1, already there 1, refused 0\n", "");
    assert_eq!((ended.code, &*ended.stdout, &*ended.stderr), expected);
    gateway.stop().await;
}

#[tokio::test]
async fn nothing_is_published_where_it_is_only_to_be_checked() {
    let launcher = Launcher::new();
    let gateway = launcher.start().await;
    let input = file(&launcher, "hooks.jsonl", format!("{}{{}}\n", lines([1, 2])));
    let dry = run(tidings(&["import", "--dry-run", "--account", "1", &input])).await;
    assert_eq!((dry.code, &*dry.stdout), (Some(65), "readable 2, refused 1\n"));
    let one = file(&launcher, "one.jsonl", lines([1]));
    assert_eq!(import(&gateway, &[&one]).await.code, Some(0));
    let checked = import(&gateway, &["--validate-only", "--account", "1", &input]).await;
    let expected = "would be published 1, already there 1, refused 1\n";
    assert_eq!((checked.code, &*checked.stdout), (Some(65), expected));
    assert_eq!(gateway.client.stored_events(1).await.len(), 1);
    gateway.stop().await;
}

#[tokio::test]
async fn every_conversation_keeps_its_order_through_an_overload() {
    const COUNT: i64 = 1010;
    const CONVERSATIONS: i64 = 50;
    // Some after one another and some apart.
    let conversation_of = |number: i64| number / 3 % CONVERSATIONS + 1;
    let launcher = Launcher::new().with("backlog-per-subscription-max", "1000");
    let (gateway, mut receiver) = (launcher.start().await, Receiver::start().await);
    let name = subscribe(&gateway, 1, &receiver).await;
    gateway.client.pause(&name).await;
    let text: String = (1..=COUNT).map(|number| message(1, conversation_of(number), number) + "\n").collect();
    let input = file(&launcher, "hooks.jsonl", text);

    let importing = Process::start(command(&gateway, &["--batch", "10", &input]));
    assert!(waiting(&importing).await.contains("BACKLOG_FULL"));
    gateway.client.resume(&name).await;
    assert_eq!(importing.wait().await.code, Some(0));

    let numbers = next_numbers(&mut receiver, usize::try_from(COUNT).unwrap()).await;
    for conversation in 1..=CONVERSATIONS {
        let is_of_it = |number: &i64| conversation_of(*number) == conversation;
        let arrived: Vec<_> = numbers.iter().copied().filter(is_of_it).collect();
        assert_eq!(arrived, (1..=COUNT).filter(is_of_it).collect::<Vec<_>>());
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_lasting_overload_ends_the_command_and_a_second_run_continues() {
    let launcher = Launcher::new().with("backlog-per-subscription-max", "1000");
    let (gateway, receiver) = (launcher.start().await, Receiver::start().await);
    let name = subscribe(&gateway, 1, &receiver).await;
    gateway.client.pause(&name).await;
    let input = file(&launcher, "hooks.jsonl", lines(1..=1200));
    let ended = import(&gateway, &["--batch", "100", "--retry-for", "1s", &input]).await;
    // A call goes as a whole or not at all, so the last ones may not have fitted.
    let published: i64 =
        ended.stdout.split([' ', ',']).nth(1).and_then(|word| word.parse().ok()).expect("a count");
    assert!((900..=1000).contains(&published), "{}", ended.stdout);
    let expected =
        format!("published {published}, already there 0, refused 0; stopped after {input}:{published}\n");
    assert_eq!((ended.code, ended.stdout), (Some(75), expected));
    assert!(ended.stderr.contains("gave up after 1s (--retry-for)"), "{}", ended.stderr);

    gateway.client.resume(&name).await;
    let ended = import(&gateway, &[&input]).await;
    let expected = format!("published {}, already there {published}, refused 0\n", 1200 - published);
    assert_eq!((ended.code, ended.stdout), (Some(0), expected));
    gateway.stop().await;
}

#[tokio::test]
async fn a_gateway_that_is_started_again_is_waited_for() {
    let launcher = Launcher::new();
    let (gateway, mut receiver) = subscribed(&launcher).await;
    let (command, mut writer) = with_input(command(&gateway, &[]));
    let importing = Process::start(command);
    writer.write_all(lines([1]).as_bytes()).expect("it reads");
    assert_eq!(next_numbers(&mut receiver, 1).await, [1]);

    let listen = gateway.grpc.to_string();
    gateway.stop().await;
    writer.write_all(lines([2]).as_bytes()).expect("it reads");
    assert!(waiting(&importing).await.contains("cannot reach"));
    let gateway = launcher.with("grpc-listen", listen).start().await;
    assert_eq!(next_numbers(&mut receiver, 1).await, [2]);
    drop(writer);
    assert_eq!(importing.wait().await.code, Some(0));
    gateway.stop().await;
}

#[tokio::test]
async fn a_run_that_was_broken_off_says_how_far_it_came_and_can_be_repeated() {
    let launcher = Launcher::new();
    let (gateway, mut receiver) = subscribed(&launcher).await;
    for (signal, first) in [("INT", 1), ("TERM", 11), ("KILL", 21)] {
        let (command, mut writer) = with_input(command(&gateway, &[]));
        let importing = Process::start(command);
        writer.write_all(lines(first..first + 2).as_bytes()).expect("it reads");
        assert_eq!(next_numbers(&mut receiver, 2).await, [first, first + 1]);
        importing.signal(signal);
        let ended = importing.wait().await;
        let expected = match signal {
            "KILL" => (None, ""),
            _ => (Some(130), "published 2, already there 0, refused 0; interrupted after stdin:2\n"),
        };
        assert_eq!((ended.code, &*ended.stdout), expected);

        let input = file(&launcher, "hooks.jsonl", lines(first..first + 4));
        let again = import(&gateway, &[&input]).await;
        assert_eq!((again.code, &*again.stdout), (Some(0), "published 2, already there 2, refused 0\n"));
        assert_eq!(next_numbers(&mut receiver, 2).await, [first + 2, first + 3]);
    }
    stop_with_nothing_more(gateway, receiver).await;
}

#[tokio::test]
async fn a_file_or_gateway_that_cannot_be_reached_ends_the_command_with_one_line() {
    let launcher = Launcher::new();
    let nobody = format!("http://{}", closed_address());
    let missing = launcher.dir().join("missing.jsonl").to_str().unwrap().to_owned();
    for (arguments, code, what) in [
        (vec!["--dry-run", &missing], 1, "cannot read"),
        (vec!["--address", &nobody, &missing], 75, "cannot reach a gateway at"),
        (vec!["--token-file", &missing], 1, "cannot read the token file"),
        (vec!["--ca", &missing], 64, "are for https only"),
        (vec!["--address", "https://localhost", "--ca", &missing], 1, "cannot use --ca"),
    ] {
        let ended = run(tidings(&[&["import"], &arguments[..]].concat())).await;
        assert_eq!(ended.code, Some(code), "{arguments:?}: {}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        assert!(ended.stderr.starts_with("tidings: ") && ended.stderr.contains(what), "{}", ended.stderr);
    }
    for arguments in [
        &["--account", "0"][..],
        &["--address", "127.0.0.1:50051"],
        &["--batch", "1001"],
        &["--cert", "a"],
        &["--dry-run", "--validate-only"],
        &["--token", "secret"],
    ] {
        let ended = run(tidings(&[&["import"], arguments].concat())).await;
        assert_eq!(ended.code, Some(64), "{arguments:?}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn a_server_of_something_else_is_no_gateway_and_not_tried_again() {
    let launcher = Launcher::new();
    let input = file(&launcher, "hooks.jsonl", lines([1]));
    let other = Receiver::on_connections(async |mut connection| {
        connection.send("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    })
    .await;
    let ended = run(tidings(&["import", "--address", &other.url(""), &input])).await;
    let counts = "published 0, already there 0, refused 0; stopped before the first object\n";
    assert_eq!(ended.code, Some(75), "{}", ended.stderr);
    assert!(ended.stdout == counts || ended.stdout.is_empty(), "{}", ended.stdout);
    assert!(ended.stderr.starts_with("tidings: cannot reach "), "{}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
}

#[tokio::test]
async fn the_input_may_have_as_many_different_objects_as_are_allowed() {
    let launcher = Launcher::new();
    let input = file(&launcher, "hooks.jsonl", lines([1, 2, 1, 3]));
    let ended = run(tidings(&["import", "--dry-run", "--objects-max", "2", &input])).await;
    let expected = format!("readable 3, refused 0; stopped after {input}:3\n");
    assert_eq!((ended.code, ended.stdout), (Some(1), expected));
    assert!(ended.stderr.contains("more than 2 different objects"), "{}", ended.stderr);
}
