//! `tidings import`: the real binary against a real gateway, whose subscribers get Chatwoot's form.

use std::{
    io::{PipeWriter, Write},
    process::Command,
};

use serde_json::Value;
use tidings::proto::v1::{
    PauseSubscriptionRequest, PublishEventRequest, ResumeSubscriptionRequest,
    subscription_service_client::SubscriptionServiceClient,
};

use crate::harness::{Reads, Running, run, tidings};

mod captured;
mod secured;
mod support;

use support::{Gateway, Receiver, file, lines, message, numbers};

/// The command with a standard input that the test writes to.
fn with_input(mut command: Command) -> (Command, PipeWriter) {
    let (reader, writer) = std::io::pipe().expect("there are pipes");
    command.stdin(reader);
    (command, writer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_publishes_nothing_and_equal_objects_are_as_many_events() {
    let directory = tempfile::tempdir().expect("there is room");
    let gateway = Gateway::start(&directory.path().join("data"), &[]);
    let mut receiver = Receiver::start().await;
    gateway.subscribe(1, &receiver).await;
    let text = format!("{}{}{}", lines([1]), lines([2, 1]), lines([1]));
    let input = file(&directory, "hooks.jsonl", &text);

    let first = gateway.import(&[&input]);
    assert_eq!((first.code, &*first.stdout), (Some(0), "published 4, already there 0, refused 0\n"));
    assert_eq!(numbers(&receiver.take(4).await), [1, 2, 1, 1]);

    let (mut command, mut writer) = with_input(gateway.command(&["--account", "1", "-"]));
    writer.write_all(text.as_bytes()).expect("a pipe takes some kilobytes");
    drop(writer);
    let again = run(&mut command);
    assert_eq!((again.code, &*again.stdout), (Some(0), "published 0, already there 4, refused 0\n"));
    // Further equal ones are further events; so are those of two files of one input.
    let more = gateway.import(&[&input, &input, "--batch", "1"]);
    assert_eq!(more.stdout, "published 4, already there 4, refused 0\n");
    assert_eq!(numbers(&receiver.take(4).await), [1, 2, 1, 1]);
    receiver.nothing_more().await;
    gateway.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_represented_is_refused_with_its_line_and_the_rest_is_published() {
    let directory = tempfile::tempdir().expect("there is room");
    let gateway = Gateway::start(&directory.path().join("data"), &[]);
    let mut receiver = Receiver::start().await;
    gateway.subscribe(1, &receiver).await;
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
    let input = file(&directory, "hooks.jsonl", pieces.join("\n"));

    let ended = gateway.import(&["--account", "1", &input]);
    assert_eq!(ended.code, Some(65));
    assert_eq!(ended.stdout, "published 2, already there 0, refused 7\n");
    let told = |line: usize, what: &str| {
        let start = format!("{input}:{line}: ");
        let found = ended.stderr.lines().any(|told| told.starts_with(&start) && told.contains(what));
        assert!(found, "{line} {what}: {}", ended.stderr);
    };
    told(2, "must be a JSON object");
    told(3, "account.id must be 1, ");
    told(4, "content must be a string");
    told(5, "event is not a known event name");
    told(6, ": expected value at column ");
    told(7, "is longer than 1 MiB");
    told(8, "is not JSON: its braces");
    assert_eq!(numbers(&receiver.take(2).await), [1, 4]);

    // What comes before the first is published, and what comes after it is not.
    let input = file(&directory, "strict.jsonl", format!("{}{{}}\n{}", lines([11, 12]), lines([13])));
    let ended = gateway.import(&["--account", "1", "--strict", &input]);
    let expected = format!("published 2, already there 0, refused 1; stopped after {input}:3\n");
    assert_eq!((ended.code, ended.stdout), (Some(65), expected));
    assert_eq!(numbers(&receiver.take(2).await), [11, 12]);
    receiver.nothing_more().await;
    gateway.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_gateway_refuses_is_refused_alone() {
    let directory = tempfile::tempdir().expect("there is room");
    let gateway = Gateway::start(&directory.path().join("data"), &["--event-bytes-max", "4KiB"]);
    let mut receiver = Receiver::start().await;
    gateway.subscribe(1, &receiver).await;
    let large = message(1, 3, 2).replace("Good morning", &"x".repeat(5000));
    let input = file(&directory, "hooks.jsonl", format!("{}{large}\n{}", lines([1]), lines([3])));
    let ended = gateway.import(&[&input]);
    assert_eq!((ended.code, &*ended.stdout), (Some(65), "published 2, already there 0, refused 1\n"));
    assert!(ended.stderr.starts_with(&format!("{input}:2: event ")), "{}", ended.stderr);
    assert_eq!(numbers(&receiver.take(2).await), [1, 3]);
    gateway.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_version_read_differently_is_there_already() {
    let directory = tempfile::tempdir().expect("there is room");
    let (first, second) = (directory.path().join("first"), directory.path().join("second"));
    let input = file(&directory, "hooks.jsonl", lines([1, 2]));
    let gateway = Gateway::start(&first, &[]);
    assert_eq!(gateway.import(&[&input]).code, Some(0));
    let stored = gateway.stored(1).await;
    gateway.stop();

    // The event of the second line has the id of the first one.
    let gateway = Gateway::start(&second, &[]);
    let event_id = stored[1].name.rsplit('/').next().expect("a name has an id").to_owned();
    let event = Some(Box::new(stored[0].clone()));
    let request = PublishEventRequest {
        parent: "accounts/1".to_owned(),
        event,
        event_id,
        ..PublishEventRequest::default()
    };
    gateway.events().await.publish_event(request).await.expect("nothing else has this id");
    let ended = gateway.import(&[&input]);
    let expected = (Some(0), "published 1, already there 1, refused 0\n", "");
    assert_eq!((ended.code, &*ended.stdout, &*ended.stderr), expected);
    gateway.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_published_where_it_is_only_to_be_checked() {
    let directory = tempfile::tempdir().expect("there is room");
    let gateway = Gateway::start(&directory.path().join("data"), &[]);
    let input = file(&directory, "hooks.jsonl", format!("{}{{}}\n", lines([1, 2])));
    let dry = run(&mut tidings(&["import", "--dry-run", "--account", "1", &input]));
    assert_eq!((dry.code, &*dry.stdout), (Some(65), "readable 2, refused 1\n"));
    let one = file(&directory, "one.jsonl", lines([1]));
    assert_eq!(gateway.import(&[&one]).code, Some(0));
    let checked = gateway.import(&["--validate-only", "--account", "1", &input]);
    let expected = "would be published 1, already there 1, refused 1\n";
    assert_eq!((checked.code, &*checked.stdout), (Some(65), expected));
    assert_eq!(gateway.stored(1).await.len(), 1);
    gateway.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_conversation_keeps_its_order_through_an_overload() {
    const COUNT: i64 = 1010;
    const CONVERSATIONS: i64 = 50;
    // Some after one another and some apart.
    let conversation_of = |number: i64| number / 3 % CONVERSATIONS + 1;
    let directory = tempfile::tempdir().expect("there is room");
    let flags = ["--backlog-per-subscription-max", "1000"];
    let gateway = Gateway::start(&directory.path().join("data"), &flags);
    let mut receiver = Receiver::start().await;
    let name = gateway.subscribe(1, &receiver).await;
    let mut subscriptions = SubscriptionServiceClient::new(gateway.channel().await);
    let pause = PauseSubscriptionRequest { name: name.clone() };
    subscriptions.pause_subscription(pause).await.expect("it can be paused");
    let text: String = (1..=COUNT).map(|number| message(1, conversation_of(number), number) + "\n").collect();
    let input = file(&directory, "hooks.jsonl", text);

    let mut running = Running::start(gateway.command(&["--batch", "10", &input]), &Reads::Stderr);
    running
        .wait_for(|line| line.contains("waiting").then(|| assert!(line.contains("BACKLOG_FULL"), "{line}")));
    subscriptions.resume_subscription(ResumeSubscriptionRequest { name }).await.expect("it can be resumed");
    assert_eq!(running.wait().0, Some(0));

    let bodies = receiver.take(usize::try_from(COUNT).expect("it is positive")).await;
    for conversation in 1..=CONVERSATIONS {
        let of_it: Vec<_> =
            bodies.iter().filter(|body| body["conversation"]["id"] == conversation).cloned().collect();
        let expected: Vec<_> =
            (1..=COUNT).filter(|number| conversation_of(*number) == conversation).collect();
        assert_eq!(numbers(&of_it), expected);
    }
    gateway.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overload_that_does_not_end_ends_the_command_and_a_repetition_goes_on() {
    let directory = tempfile::tempdir().expect("there is room");
    let flags = ["--backlog-per-subscription-max", "1000"];
    let gateway = Gateway::start(&directory.path().join("data"), &flags);
    let receiver = Receiver::start().await;
    let name = gateway.subscribe(1, &receiver).await;
    let mut subscriptions = SubscriptionServiceClient::new(gateway.channel().await);
    let pause = PauseSubscriptionRequest { name: name.clone() };
    subscriptions.pause_subscription(pause).await.expect("it can be paused");
    let input = file(&directory, "hooks.jsonl", lines(1..=1200));
    let ended = gateway.import(&["--batch", "100", "--retry-for", "1s", &input]);
    // A call goes as a whole or not at all, so the last ones may not have fitted.
    let published: i64 =
        ended.stdout.split([' ', ',']).nth(1).and_then(|word| word.parse().ok()).expect("a count");
    assert!((900..=1000).contains(&published), "{}", ended.stdout);
    let expected =
        format!("published {published}, already there 0, refused 0; stopped after {input}:{published}\n");
    assert_eq!((ended.code, ended.stdout), (Some(75), expected));
    assert!(ended.stderr.contains("gave up after 1s (--retry-for)"), "{}", ended.stderr);

    subscriptions.resume_subscription(ResumeSubscriptionRequest { name }).await.expect("it can be resumed");
    let ended = gateway.import(&[&input]);
    let expected = format!("published {}, already there {published}, refused 0\n", 1200 - published);
    assert_eq!((ended.code, ended.stdout), (Some(0), expected));
    gateway.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_started_again_is_waited_for() {
    let directory = tempfile::tempdir().expect("there is room");
    let gateway = Gateway::start(directory.path(), &[]);
    let mut receiver = Receiver::start().await;
    gateway.subscribe(1, &receiver).await;
    let (command, mut writer) = with_input(gateway.command(&[]));
    let mut running = Running::start(command, &Reads::Stderr);
    writer.write_all(lines([1]).as_bytes()).expect("it reads");
    assert_eq!(numbers(&receiver.take(1).await), [1]);

    let listen = gateway.address.to_string();
    gateway.stop();
    writer.write_all(lines([2]).as_bytes()).expect("it reads");
    running
        .wait_for(|line| line.contains("waiting").then(|| assert!(line.contains("cannot reach"), "{line}")));
    let gateway = Gateway::start_on(&listen, directory.path(), &[]);
    assert_eq!(numbers(&receiver.take(1).await), [2]);
    drop(writer);
    assert_eq!(running.wait().0, Some(0));
    gateway.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_broken_off_says_how_far_it_came_and_can_be_repeated() {
    let directory = tempfile::tempdir().expect("there is room");
    let gateway = Gateway::start(&directory.path().join("data"), &[]);
    let mut receiver = Receiver::start().await;
    gateway.subscribe(1, &receiver).await;
    for (signal, first) in [("INT", 1), ("TERM", 11), ("KILL", 21)] {
        let (command, mut writer) = with_input(gateway.command(&[]));
        let running = Running::start(command, &Reads::Stdout);
        writer.write_all(lines(first..first + 2).as_bytes()).expect("it reads");
        assert_eq!(numbers(&receiver.take(2).await), [first, first + 1]);
        running.signal(signal);
        let (code, output) = running.wait();
        if signal == "KILL" {
            assert_eq!((code, output.len()), (None, 0));
        } else {
            let expected = "published 2, already there 0, refused 0; interrupted after stdin:2";
            assert_eq!((code, output), (Some(130), vec![expected.to_owned()]));
        }

        let input = file(&directory, "hooks.jsonl", lines(first..first + 4));
        let again = gateway.import(&[&input]);
        assert_eq!((again.code, &*again.stdout), (Some(0), "published 2, already there 2, refused 0\n"));
        assert_eq!(numbers(&receiver.take(2).await), [first + 2, first + 3]);
    }
    receiver.nothing_more().await;
    gateway.stop();
}

#[test]
fn what_cannot_be_read_or_reached_ends_the_command_with_one_line() {
    let directory = tempfile::tempdir().expect("there is room");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let nobody = format!("http://{}", taken.local_addr().expect("it is bound"));
    drop(taken);
    let missing = directory.path().join("missing.jsonl").to_str().expect("it is UTF-8").to_owned();
    for (arguments, code, what) in [
        (vec!["--dry-run", &missing], 1, "cannot read"),
        (vec!["--address", &nobody, &missing], 75, "cannot reach a gateway at"),
        (vec!["--token-file", &missing], 1, "cannot read the token file"),
        (vec!["--ca", &missing], 64, "are for https only"),
        (vec!["--address", "https://localhost", "--ca", &missing], 1, "cannot use --ca"),
    ] {
        let ended = run(tidings(&["import"]).args(&arguments));
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
        let ended = run(tidings(&["import"]).args(arguments));
        assert_eq!(ended.code, Some(64), "{arguments:?}: {}", ended.stderr);
    }
}

#[test]
fn a_server_of_something_else_is_no_gateway_and_not_tried_again() {
    let directory = tempfile::tempdir().expect("there is room");
    let input = file(&directory, "hooks.jsonl", lines([1]));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // It may be gone already.
            drop(stream.and_then(|mut stream| stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")));
        }
    });
    let ended = run(&mut tidings(&["import", "--address", &url, &input]));
    let counts = "published 0, already there 0, refused 0; stopped before the first object\n";
    assert_eq!(ended.code, Some(75), "{}", ended.stderr);
    assert!(ended.stdout == counts || ended.stdout.is_empty(), "{}", ended.stdout);
    assert!(ended.stderr.starts_with("tidings: cannot reach "), "{}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
}

#[test]
fn the_input_may_have_as_many_different_objects_as_are_allowed() {
    let directory = tempfile::tempdir().expect("there is room");
    let input = file(&directory, "hooks.jsonl", lines([1, 2, 1, 3]));
    let ended = run(&mut tidings(&["import", "--dry-run", "--objects-max", "2", &input]));
    let expected = format!("readable 3, refused 0; stopped after {input}:3\n");
    assert_eq!((ended.code, ended.stdout), (Some(1), expected));
    assert!(ended.stderr.contains("more than 2 different objects"), "{}", ended.stderr);
}
