//! What people do on the pages, without a script.

use tidings::domain::access::Scope::{Admin, Publish};

use super::browser::{Browsed, read_until};
use crate::support::receiver::Receiver;

const NEW: &str = "/accounts/1/new-webhook";
const FORM: &str = "url=https%3A%2F%2Fexample.com%2Fhook&event=message_created";

#[tokio::test]
async fn a_webhook_is_added_its_secret_is_shown_once_and_a_repeated_form_makes_no_second_one() {
    let console = Browsed::start().await;
    console.get("/", "").await;
    console
        .get("/accounts/1/webhooks", "")
        .await
        .has("Add new webhook")
        .has("There are no webhooks configured");
    let request_id = console.request_id(NEW, "").await;
    let form = format!("{FORM}&request_id={request_id}&id=crm");
    let created = console.post(NEW, "", &form).await;
    created.has("shown only once").has("whsec_").has("Send a test");
    let secret = created.secret();
    console.post(NEW, "", &form).await.has("was shown before").has_not(secret);
    for path in ["/accounts/1/webhooks", "/accounts/1/webhooks/crm", "/accounts/1/audit"] {
        console.get(path, "").await.has_not(secret);
    }
    let page = console.get("/accounts/1/webhooks", "").await;
    assert_eq!(page.body.matches("<tr>").count(), 2, "a head and one row");
}

#[tokio::test]
async fn a_form_that_is_sent_twice_rotates_a_secret_once() {
    let console = Browsed::start().await;
    console.post(NEW, "", &format!("{FORM}&id=crm")).await.has("whsec_");
    let path = "/accounts/1/webhooks/crm/rotate";
    let form = format!("overlap=3600&request_id={}", console.request_id(path, "").await);
    let first = console.post(path, "", &form).await;
    console.post(path, "", &form).await.has("was shown before").has_not(first.secret());
    let another = format!("overlap=3600&request_id={}", console.request_id(path, "").await);
    assert_ne!(console.post(path, "", &another).await.secret(), first.secret());
}

#[tokio::test]
async fn a_form_that_is_sent_twice_creates_one_token() {
    let console = Browsed::start().await;
    let cookie = console.sign_in(&console.token(&[Admin], &[]).await).await;
    let path = "/tokens/new";
    let form = format!(
        "name=twice&scope=read&accounts=1&days=30&request_id={}",
        console.request_id(path, &cookie).await
    );
    let first = console.post(path, &cookie, &form).await;
    console.post(path, &cookie, &form).await.has("was shown before").has_not(first.secret());
    let tokens = console.get("/tokens", &cookie).await;
    assert_eq!(tokens.body.matches("data-label=\"Token\">twice").count(), 1, "{}", tokens.body);
}

#[tokio::test]
async fn a_webhook_may_have_any_id_that_the_contract_allows() {
    let console = Browsed::start().await;
    for (number, id) in ["new", "new-webhook", "edit", "live", "replay", "raw"].into_iter().enumerate() {
        let form = format!("url=https%3A%2F%2Fexample.com%2F{number}&event=message_created&id={id}");
        console.post(NEW, "", &form).await.has("whsec_");
        let path = format!("/accounts/1/webhooks/{id}");
        console.get(&path, "").await.has(&format!("/webhooks/{id}/test")).has("Send a test");
        console.get(&format!("{path}/edit"), "").await.has("Edit webhook");
        console.post(&format!("{path}/pause"), "", "").await;
        console.get(&path, "").await.has("paused");
        console.get(&format!("/accounts/1/deliveries?webhook={id}"), "").await.has("Deliveries");
    }
    console.get(NEW, "").await.has("Add new webhook");
}

#[tokio::test]
async fn what_is_wrong_stands_beside_its_field_and_what_was_typed_stays() {
    let console = Browsed::start().await;
    let page =
        console.post(NEW, "", "url=ftp%3A%2F%2Fa.example&name=Mine&timeout=90&event=message_created").await;
    assert_eq!(page.status, 422);
    page.has("id=\"e-url\"").has("id=\"e-timeout\"").has("value=\"ftp://a.example\"").has("value=\"Mine\"");
    page.has("<details open>");
    console.post(NEW, "", "url=https%3A%2F%2Fa.example").await.has("id=\"e-event\"");
    console.post(NEW, "", &format!("{FORM}&id=crm")).await.has("whsec_");
    console.post(NEW, "", FORM).await.has("role=\"alert\"");
}

#[tokio::test]
async fn a_webhook_is_changed_paused_resumed_and_deleted() {
    let console = Browsed::start().await;
    console.post(NEW, "", &format!("{FORM}&id=crm")).await.has("whsec_");
    let path = "/accounts/1/webhooks/crm";
    let asked = console.get(&format!("{path}/edit"), "").await;
    let etag = asked
        .body
        .split("name=\"etag\" value=\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap()
        .replace("&#34;", "%22");
    let form = format!("{FORM}&event=contact_created&name=CRM&etag={etag}");
    let changed = console.post(&format!("{path}/edit"), "", &form).await;
    assert_eq!(changed.header("location"), format!("{path}?done=updated"));
    console
        .get(&format!("{path}?done=updated"), "")
        .await
        .has("contact_created")
        .has("The webhook was updated.");
    // Somebody else has changed it meanwhile.
    let late = form.replace("name=CRM", "name=Late");
    assert_eq!(console.post(&format!("{path}/edit"), "", &late).await.status, 422);
    console.post(&format!("{path}/pause"), "", "").await;
    console.get(path, "").await.has("paused").has("Resume");
    console.get("/accounts/1/webhooks?state=paused", "").await.has("CRM");
    console.get("/accounts/1/webhooks?state=active", "").await.has("No webhook matches");
    console.post(&format!("{path}/resume"), "", "").await;
    console.get(path, "").await.has("active");
    let rotated = console.post(&format!("{path}/rotate"), "", "overlap=86400").await;
    rotated.has("New signing secret").has("whsec_").has("The old secret signs as well until");
    console.get(&format!("{path}/delete"), "").await.has("Are you sure to delete");
    let deleted = console.post(&format!("{path}/delete"), "", "").await;
    assert_eq!(deleted.header("location"), "/accounts/1/webhooks?done=deleted");
    assert_eq!(console.get(path, "").await.status, 404);
}

#[tokio::test]
async fn the_audit_names_the_console_the_token_and_the_browsers_address() {
    let console = Browsed::start().await;
    let cookie = console.sign_in(&console.token(&[Admin], &[]).await).await;
    console.post(NEW, &cookie, &format!("{FORM}&id=crm")).await.has("whsec_");
    let audit = console.get("/accounts/1/audit", &cookie).await;
    audit.has("CreateSubscription").has("via console").has("127.0.0.1:").has("accessTokens/");
}

#[tokio::test]
async fn a_test_shows_what_was_sent_and_what_came_back() {
    let console = Browsed::start().await;
    let receiver = Receiver::start().await;
    let url = url::form_urlencoded::byte_serialize(receiver.url("/hook").as_bytes()).collect::<String>();
    console.post(NEW, "", &format!("url={url}&event=message_created&id=crm")).await.has("whsec_");
    let page = console.post("/accounts/1/webhooks/crm/test", "", "event=message_created").await;
    page.has("accepted").has("HTTP 200").has("&#34;event&#34;: &#34;message_created&#34;");
}

#[tokio::test]
async fn tokens_are_made_shown_once_and_explained() {
    let console = Browsed::start().await;
    console.get("/tokens", "").await.has("No tokens yet");
    let refused = console.post("/tokens/new", "", "scope=read").await;
    assert_eq!(refused.status, 422);
    let made = console.post("/tokens/new", "", "name=Me&scope=admin").await;
    made.has("tdg_").has("shown only once").has("sign in with it");
    let token = made.body.split("id=\"secret\">").nth(1).unwrap().split('<').next().unwrap().to_owned();
    let cookie = console.sign_in(&token).await;
    console.get("/tokens", &cookie).await.has("Me").has("(yours)").has_not(&token);
    console.get("/me", &cookie).await.has("not publish").has("manage");
}

#[tokio::test]
async fn a_publisher_sees_nothing_of_accounts() {
    let console = Browsed::start().await;
    console.token(&[Admin], &[]).await;
    let cookie = console.sign_in(&console.token(&[Publish], &[1]).await).await;
    let start = console.get("/start", &cookie).await;
    start.has_not("/webhooks\"").has("PublishEvent");
    assert_eq!(console.get("/", &cookie).await.header("location"), "/start");
    assert_eq!(console.get("/accounts/1/webhooks", &cookie).await.status, 403);
}

#[tokio::test]
async fn pages_that_are_empty_say_what_to_do() {
    let console = Browsed::start().await;
    console.get("/accounts/7/deliveries", "").await.has("No deliveries yet");
    console.get("/accounts/7/events", "").await.has("No events yet");
    console.get("/accounts/7/audit", "").await.has("Nothing was changed yet");
    console.get("/accounts", "").await.has("No account has webhooks or events yet");
    console.get("/accounts/7/deliveries/replay", "").await.has("Count first");
    for language in ["shell", "python", "node", "go", "java", "ruby", "php"] {
        console.get(&format!("/start?account=7&lang={language}"), "").await.has("accounts/7");
    }
    assert_eq!(console.get("/nothing", "").await.status, 404);
    assert_eq!(console.get("/accounts/7/webhooks/none", "").await.status, 404);
}

#[tokio::test]
async fn the_first_page_is_small() {
    let console = Browsed::start().await;
    console.post(NEW, "", &format!("{FORM}&id=crm")).await.has("whsec_");
    let mut bytes = 0;
    for path in ["/accounts/1/webhooks", "/assets/console.css", "/assets/console.js"] {
        bytes += console.get(path, "").await.body.len();
    }
    assert!(bytes < 50 * 1024, "{bytes} bytes");
}

#[tokio::test]
async fn a_live_stream_sends_no_more_than_people_read_and_says_that_it_is_behind() {
    let console = Browsed::start().await;
    console.post(NEW, "", &format!("{FORM}&id=crm")).await.has("whsec_");
    let mut stream = console.stream("/accounts/1/deliveries/live", "").await;
    read_until(&mut stream, "retry:").await.unwrap();
    console.publish(1000).await;
    let seen = read_until(&mut stream, "event: behind").await.unwrap();
    let rows = seen.matches("event: row").count();
    assert!((25..=400).contains(&rows), "{rows} rows");
}

#[tokio::test]
async fn a_live_stream_begins_at_once() {
    let console = Browsed::start().await;
    let mut stream = console.stream("/accounts/1/deliveries/live?state=failed", "").await;
    let begun = read_until(&mut stream, "retry:").await.unwrap();
    assert!(begun.contains("text/event-stream"), "{begun}");
}
