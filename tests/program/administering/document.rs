//! docs/cli.md: its commands are run as they are written, and its keystrokes are counted.

use std::{collections::BTreeMap, fs, os::unix::fs::symlink, path::Path};

use tokio::process::Command;

use super::User;
use crate::support::{
    certificates::Authority,
    environment,
    process::{Launcher, Process},
    receiver::{Receiver, Response},
};

/// Most keystrokes of the ten tasks together.
const KEYSTROKES_MAX: usize = 500;
/// The address of the gateway with TLS in the document.
const SECURED: &str = "https://gw.example.com:50051";
/// The URL of the endpoint in the document.
const ENDPOINT: &str = "https://crm.example.com/hook";

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md");
    fs::read_to_string(path).expect("the document is there")
}

/// The rows of the table of tasks: the task, its command, and the keystrokes that it says.
fn tasks(document: &str) -> Vec<(String, String, usize)> {
    let (_, table) = document.split_once("<!-- tasks:begin -->").expect("it has the table");
    let (table, _) = table.split_once("<!-- tasks:end -->").expect("the table ends");
    let row = |line: &str| {
        let [_, task, command, count, _] =
            line.split('|').map(str::trim).collect::<Vec<_>>().try_into().ok()?;
        let command: &str = command;
        let command = command.strip_prefix('`')?.strip_suffix('`')?;
        Some((str::to_owned(task), command.to_owned(), str::parse(count).expect("a number")))
    };
    table.lines().filter_map(row).collect()
}

/// The blocks of code of this language.
fn blocks<'a>(document: &'a str, language: &str) -> Vec<&'a str> {
    let opening = format!("```{language}\n");
    document.split(&*opening).skip(1).map(|rest| rest.split_once("```").expect("a block ends").0).collect()
}

#[test]
fn the_ten_tasks_take_at_most_five_hundred_keystrokes() {
    let document = document();
    let tasks = tasks(&document);
    assert_eq!(tasks.len(), 10, "{tasks:?}");
    let mut total = 0;
    for (task, command, said) in &tasks {
        // And Enter.
        let keystrokes = command.chars().count() + 1;
        assert_eq!(*said, keystrokes, "{task}");
        total += keystrokes;
    }
    assert!(total <= KEYSTROKES_MAX, "{total}");
    assert!(document.contains(&format!("| **together** | | **{total}** |")), "they are {total} together");
}

/// A shell in the user's directory whose `tidings` is the program, and in which the addresses of the document are
/// those of the test.
struct Shell<'a> {
    user: &'a User,
    addresses: BTreeMap<&'static str, String>,
}

impl Shell<'_> {
    /// The command as the shell runs it.
    fn command(&self, line: &str) -> Command {
        let line = self.addresses.iter().fold(line.to_owned(), |line, (from, to)| line.replace(from, to));
        let mut command = Command::from(environment::tidings(["sh", "-c", &line]));
        let path =
            format!("{}:{}", self.user.path().display(), std::env::var("PATH").expect("there is a path"));
        command
            .env("PATH", path)
            .env("XDG_CONFIG_HOME", self.user.path().join("config"))
            .current_dir(self.user.path());
        command.env("TIDINGS_ADDRESS", &self.user.address).stdin(std::process::Stdio::null());
        command
    }

    /// Runs a line that must succeed. Returns its output.
    async fn run(&self, line: &str) -> String {
        let output = self.command(line).output().await.expect("there is a shell");
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{line}: {stdout}{stderr}");
        stdout.into_owned()
    }
}

#[tokio::test]
async fn every_command_of_the_document_does_what_it_says() {
    let document = document();
    let commands: Vec<_> = tasks(&document).into_iter().map(|(_, command, _)| command).collect();
    let [list, add, publish, failed, tail, retry, replay, pause, counts, token] = &commands[..] else {
        panic!("there are ten tasks");
    };
    // A failure is final at once, so that there is one to be seen.
    let gateway = Launcher::new().with("retry-max-attempts", "1").start().await;
    let secured = Launcher::new();
    let authority = Authority::new();
    authority.server("localhost").write(secured.dir());
    let secured = secured
        .clone()
        .with_file("grpc-tls-cert-file", secured.dir().join("cert.pem"))
        .with_file("grpc-tls-key-file", secured.dir().join("key.pem"))
        .with_file(
            "admin-token-file",
            secured.file("admin.token", "the-token-of-the-administrator-0123456789"),
        )
        .with_tls_client(&authority.trusting());
    let secured_gateway = secured.start().await;
    let receiver = Receiver::always(Response::status(500)).await;
    let user = User::of(&gateway).await;
    let [event, ..] = blocks(&document, "json")[..] else { panic!("there is an event") };
    fs::write(user.path().join("event.json"), event).expect("there is room");
    fs::write(user.path().join("ca.pem"), authority.pem()).expect("there is room");
    fs::copy(secured.dir().join("admin.token"), user.path().join("admin.token")).expect("there is room");
    symlink(env!("CARGO_BIN_EXE_tidings"), user.path().join("tidings")).expect("there is room");
    let addresses = [
        (SECURED, format!("https://localhost:{}", secured_gateway.grpc.port())),
        (ENDPOINT, receiver.url("/hook")),
    ];
    let shell = Shell { user: &user, addresses: addresses.into() };

    let mut lines = blocks(&document, "sh").into_iter().flat_map(str::lines);
    shell.run(lines.next().expect("the context comes first")).await;
    assert_eq!(shell.run(list).await.lines().count(), 1, "nothing but the titles");
    assert!(shell.run(add).await.contains("signing secret: whsec_"));
    let listed = shell.run(list).await;
    assert!(listed.contains("message_created,message_updated") && listed.contains("crm"), "{listed}");
    assert!(shell.run(publish).await.contains("goes to 1 subscription"));
    user.until(&["dels", "ls", "-s", "failed", "-o", "name"], "crm/deliveries/order-7").await;
    let listed = shell.run(failed).await;
    assert!(listed.contains("crm/order-7") && listed.contains("500"), "{listed}");
    // Another one fails, for the replay.
    shell.run(&publish.replace("order-7", "order-8")).await;
    user.until(&["dels", "ls", "-s", "failed", "-o", "name"], "crm/deliveries/order-8").await;

    receiver.now(|_| Response::status(200));
    let tailing = Process::start(shell.command(&format!("exec {tail}")));
    // A change before the tail has begun is not in it: retry until it shows one.
    let retrying = async {
        for number in 9.. {
            shell.run(&publish.replace("order-7", &format!("order-{number}"))).await;
        }
    };
    let seen = tailing.stdout.wait_for(|line| line.contains("succeeded").then_some(()));
    tokio::select! { () = seen => {}, () = retrying => unreachable!("it goes on") }
    assert!(shell.run(retry).await.contains("is tried now"));
    tailing
        .stdout
        .wait_for(|line| (line.contains("crm/order-7") && line.contains("succeeded")).then_some(()))
        .await;
    tailing.signal("INT");
    assert_eq!(tailing.wait().await.code, Some(130));
    let replayed = shell.run(replay).await;
    assert!(replayed.contains("gets 1 event again"), "{replayed}");
    user.until(&["dels", "get", "crm/order-8"], "succeeded").await;
    assert!(shell.run(pause).await.contains("paused"));
    let counted = shell.run(counts).await;
    for state in ["pending", "retrying", "succeeded", "failed", "cancelled"] {
        assert!(counted.contains(state), "{state}: {counted}");
    }
    assert!(counted.lines().any(|line| line.split_whitespace().eq(["failed", "0"])), "{counted}");
    let created = shell.run(token).await;
    assert!(created.contains("created, for accounts/1") && created.contains("\ntoken: tdg_"), "{created}");

    for line in lines {
        shell.run(line).await;
    }
    assert!(user.path().join("man1/tidings-subscriptions-add.1").exists());
    gateway.stop().await;
    secured_gateway.stop().await;
}
