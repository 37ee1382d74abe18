use std::fs;

use crate::support::process::{run, tidings};

#[tokio::test]
async fn the_demo_fits_on_a_screen_and_says_what_the_forms_are_for() {
    let ended = run(tidings(&["demo"])).await;
    let text = &ended.stdout;
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{text}");
    assert!(text.lines().count() <= 60, "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 130), "{text}");
    for (form, purpose) in [
        ("documented", "new receivers"),
        ("sample", "receivers written from the documentation's first sample"),
        ("chatwoot", "bots, flows and bridges that exist"),
    ] {
        assert!(text.contains(&format!("{form:<10}  for {purpose}")), "{text}");
        let heading = format!(
            "message_created in the format {form}: webhook-signature valid, x-chatwoot-signature valid\n{{"
        );
        assert_eq!(text.matches(&heading).count(), 1, "{text}");
    }
    // The keys at the top in their order, inner objects cut.
    assert!(text.contains(r#"{"event": "message_created", "id": "#), "{text}");
    assert!(text.contains(r#""conversation": {…}"#), "{text}");
    assert!(text.contains("\nAll 18 deliveries arrived.\n"), "{text}");
}

#[tokio::test]
async fn the_demo_shows_every_event_in_every_form_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().expect("there is room");
    // Settings of `serve` change nothing.
    let mut command = tidings(&["demo", "--all"]);
    command.env("TMPDIR", directory.path()).env("TIDINGS_GRPC_LISTEN", "nowhere");
    let ended = run(command).await;
    let text = &ended.stdout;
    assert_eq!(ended.code, Some(0), "{text}{}", ended.stderr);
    assert!(ended.stderr.is_empty(), "{}", ended.stderr);

    for event in [
        "conversation_created",
        "conversation_updated",
        "conversation_status_changed",
        "message_created",
        "message_updated",
        "webwidget_triggered",
    ] {
        for form in ["documented", "sample", "chatwoot"] {
            let heading = format!(
                "{event} in the format {form}: webhook-signature valid, x-chatwoot-signature valid\n{{\n"
            );
            assert_eq!(text.matches(&heading).count(), 1, "{heading}{text}");
            let listed = |line: &&str| {
                line.starts_with(&format!("succeeded  {event} ")) && line.contains(&format!("  {form} "))
            };
            assert_eq!(text.lines().filter(listed).count(), 1, "{event} {form}: {text}");
        }
        assert_eq!(text.matches(&format!("\"event\": \"{event}\"")).count(), 3, "{text}");
    }
    assert!(text.ends_with("All 18 deliveries arrived.\n"), "{text}");
    assert_eq!(fs::read_dir(directory.path()).expect("it is there").count(), 0);
}
