//! Bodies as Chatwoot's documentation has them, pasted into a file: they come out again as they came.

use super::{file, import};
use crate::{
    golden::bodies::golden,
    support::{client::subscription, process::Launcher, receiver::Receiver},
};

const BODIES: [&str; 3] =
    ["documented/message_created", "sample/message_created", "documented/inbox_created"];

#[tokio::test]
async fn documented_bodies_are_published_in_the_form_that_they_have() {
    let launcher = Launcher::new();
    let (gateway, mut receiver) = (launcher.start().await, Receiver::start().await);
    gateway.client.subscribe(1, subscription(receiver.url("/hook"))).await;
    let text: String = BODIES.iter().map(|body| golden(body) + "\n").collect();
    let input = file(&launcher, "pasted.json", &text);

    let ended = import(&gateway, &["--account", "1", &input]).await;
    let expected = (Some(0), "published 3, already there 0, refused 0\n", "");
    assert_eq!((ended.code, &*ended.stdout, &*ended.stderr), expected);
    let mut bodies: Vec<String> = Vec::new();
    for _ in BODIES {
        bodies.push(receiver.next().await.body);
    }
    for documented in [BODIES[0], BODIES[2]] {
        assert!(bodies.contains(&golden(documented)), "{documented}: {bodies:?}");
    }

    // A named form is demanded of every object.
    let ended = import(&gateway, &["--account", "1", "--dry-run", "--format", "documented", &input]).await;
    assert_eq!((ended.code, &*ended.stdout), (Some(65), "readable 2, refused 1\n"));
    assert!(ended.stderr.contains("pasted.json:2: id must be an integer of 64 bits\n"), "{}", ended.stderr);
    let ended = import(&gateway, &["--dry-run", "--format", "unheard-of", &input]).await;
    assert_eq!(ended.code, Some(64), "{}", ended.stderr);
    assert!(ended.stderr.contains("chatwoot, documented, sample"), "{}", ended.stderr);
    gateway.stop().await;
}
