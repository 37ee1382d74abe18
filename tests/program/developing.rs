//! `tidings dev`: everything to try the gateway out, in one command.

use std::{fs, net::SocketAddr};

use tokio::net::TcpListener;

use crate::support::process::{Process, run, tidings};

const FREE_PORTS: [&str; 8] = [
    "--grpc-listen",
    "127.0.0.1:0",
    "--http-listen",
    "127.0.0.1:0",
    "--console-listen",
    "127.0.0.1:0",
    "--listen",
    "127.0.0.1:0",
];

/// The address behind this word of the heading.
async fn address(dev: &Process, word: &str) -> String {
    let find = |line: &str| line.strip_prefix(word)?.split_whitespace().next().map(str::to_owned);
    dev.stdout.wait_for(find).await
}

#[tokio::test]
async fn the_first_publish_arrives_and_nothing_is_left() {
    let directory = tempfile::tempdir().expect("there is room");
    let mut command = tidings(&[&["dev"][..], &FREE_PORTS].concat());
    // Settings of `serve` change nothing.
    command.env("TMPDIR", directory.path()).env("TIDINGS_GRPC_LISTEN", "nowhere");
    let dev = Process::start(command);
    let gateway = address(&dev, "gateway ").await;
    assert!(address(&dev, "console ").await.starts_with("http://127.0.0.1:"));
    for next in ["publish", "deliveries tail", "subscriptions list"] {
        dev.stdout.wait_for(|line| line.contains(&format!(" {next} ")).then_some(())).await;
    }

    // The event of the first command that it shows.
    let shown = dev.stdout.wait_for(|line| Some(line.split_once(" publish ")?.1.to_owned())).await;
    let event = shown.split_once('\'').expect("it is quoted").1.trim_end_matches('\'');
    let file = directory.path().join("event.json");
    fs::write(&file, event).expect("there is room");
    let file = file.to_str().expect("paths of tests are UTF-8");
    let published = run(tidings(&["import", "--address", &gateway, "--account", "1", file])).await;
    assert_eq!(published.stdout, "published 1, already there 0, refused 0\n", "{}", published.stderr);
    dev.stdout.wait_for(|line| line.starts_with("#1 POST / ").then_some(())).await;
    for header in ["webhook-signature: ", "x-chatwoot-signature: "] {
        dev.stdout
            .wait_for(|line| (line.starts_with(header) && line.ends_with(" (valid)")).then_some(()))
            .await;
    }
    dev.stdout.wait_for_line("  \"content\": \"Hi\",").await;

    fs::remove_file(file).expect("it is there");
    dev.signal("TERM");
    let ended = dev.wait().await;
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{}", ended.stdout);
    assert_eq!(fs::read_dir(directory.path()).expect("it is there").count(), 0);
}

#[tokio::test]
async fn a_port_in_use_is_named_with_its_flag() {
    let holder = TcpListener::bind("127.0.0.1:0").await.expect("there is a port");
    let taken: SocketAddr = holder.local_addr().expect("it is bound");
    for flag in ["--grpc-listen", "--http-listen", "--console-listen", "--listen"] {
        let mut arguments = FREE_PORTS.map(str::to_owned);
        let at = arguments.iter().position(|argument| argument == flag).expect("it is one of them");
        arguments[at + 1] = taken.to_string();
        let arguments: Vec<&str> = ["dev"].into_iter().chain(arguments.iter().map(String::as_str)).collect();
        let ended = run(tidings(&arguments)).await;
        assert_eq!(ended.code, Some(1), "{flag}: {}", ended.stdout);
        let wanted = format!("choose another address with {flag};");
        assert!(
            ended.stderr.contains(&wanted) && ended.stderr.contains(&taken.to_string()),
            "{}",
            ended.stderr
        );
    }
    drop(holder);
}
