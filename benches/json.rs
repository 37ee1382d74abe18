//! The cost of a body: `cargo bench --bench json`.
//!
//! Each format of a typical message is rendered from the protobuf event (`tidings`). Two other ways to write
//! the same content are for comparison: serde_json from plain derived structs that own their strings
//! (`plain`), and by way of a `serde_json::Value` (`value`; its keys are sorted, so the bytes differ in order
//! only). `check` is the validation of a publish. `import` is the conversion of a received webhook, compared
//! with only parsing it (`value`).
//!
//! The first line of a format is the size of its body. Times are for one event.

use std::{hint::black_box, time::Duration};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use tidings::{
    domain::{ids::AccountId, payload_format::PayloadFormat},
    event::{self, parse, render, samples},
    proto::v1,
};

fn typical_message() -> (v1::Event, AccountId) {
    let account = AccountId::new(7).expect("7 is positive");
    (samples::typical_message(account, 4711, 881_204), account)
}

fn bodies(criterion: &mut Criterion) {
    body::<documented::Message>(criterion, "documented", PayloadFormat::Documented);
    body::<sample::Message>(criterion, "sample", PayloadFormat::Sample);
    body::<chatwoot::Message>(criterion, "chatwoot", PayloadFormat::Chatwoot);
}

fn body<Plain: Serialize + DeserializeOwned>(criterion: &mut Criterion, form: &str, format: PayloadFormat) {
    let (event, _) = typical_message();
    let body = render::render(&event, format);
    let plain: Plain = serde_json::from_slice(&body).expect("the plain structs have the body's keys");
    assert_eq!(serde_json::to_vec(&plain).expect("it came from JSON"), body, "both write the same bytes");
    println!("{form}: {} bytes", body.len());

    let mut group = criterion.benchmark_group(form);
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("tidings", |b| b.iter(|| render::render(black_box(&event), format)));
    group.bench_function("plain", |b| b.iter(|| serde_json::to_vec(black_box(&plain))));
    group.bench_function("value", |b| {
        b.iter(|| serde_json::to_value(black_box(&plain)).map(|value| serde_json::to_vec(&value)));
    });
    group.finish();
}

/// The conversion of a received webhook: parse, validate, render, and compare with the original.
fn import(criterion: &mut Criterion) {
    let (mut event, account) = typical_message();
    event::check(&mut event, account, "event").expect("the sample is valid");
    let body = render::render(&event, PayloadFormat::Chatwoot);
    let mut group = criterion.benchmark_group("import");
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("typical message", |b| b.iter(|| parse::read(black_box(&body), account)));
    group.bench_function("value", |b| b.iter(|| serde_json::from_slice::<Value>(black_box(&body))));
    group.finish();
}

fn check(criterion: &mut Criterion) {
    let (event, account) = typical_message();
    let mut group = criterion.benchmark_group("check");
    group.bench_function("typical message", |b| {
        b.iter_batched_ref(
            || event.clone(),
            |event| event::check(black_box(event), account, "event"),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = bodies, check, import
}
criterion_main!(benches);

#[derive(Serialize, Deserialize)]
struct Browser {
    device_name: String,
    browser_name: String,
    platform_name: String,
    browser_version: String,
    platform_version: String,
}

mod documented {
    use super::{Browser, Deserialize, Serialize, Value};

    #[derive(Serialize, Deserialize)]
    pub(super) struct Message {
        event: String,
        id: i64,
        content: String,
        message_type: i32,
        created_at: i64,
        private: bool,
        source_id: Option<String>,
        content_type: String,
        content_attributes: Value,
        sender: Contact,
        account: Named,
        conversation: Conversation,
        inbox: Named,
    }

    #[derive(Serialize, Deserialize)]
    struct Named {
        id: i64,
        name: String,
    }

    #[derive(Serialize, Deserialize)]
    struct Contact {
        id: i64,
        name: String,
        avatar: String,
        r#type: String,
        account: Option<Named>,
    }

    #[derive(Serialize, Deserialize)]
    struct User {
        id: i64,
        name: String,
        email: String,
        r#type: String,
    }

    #[derive(Serialize, Deserialize)]
    struct Conversation {
        additional_attributes: AdditionalAttributes,
        can_reply: bool,
        channel: String,
        id: i64,
        inbox_id: i64,
        contact_inbox: ContactInbox,
        messages: Vec<Message>,
        meta: Meta,
        status: String,
        unread_count: i32,
        agent_last_seen_at: i64,
        contact_last_seen_at: i64,
        timestamp: i64,
        account_id: i64,
    }

    #[derive(Serialize, Deserialize)]
    struct AdditionalAttributes {
        browser: Browser,
        referer: String,
        initiated_at: InitiatedAt,
    }

    #[derive(Serialize, Deserialize)]
    struct InitiatedAt {
        timestamp: String,
    }

    #[derive(Serialize, Deserialize)]
    struct ContactInbox {
        id: i64,
        contact_id: i64,
        inbox_id: i64,
        source_id: String,
        created_at: String,
        updated_at: String,
        hmac_verified: bool,
    }

    #[derive(Serialize, Deserialize)]
    struct Meta {
        sender: Contact,
        assignee: User,
    }
}

mod sample {
    use super::{Browser, Deserialize, Serialize, Value};

    #[derive(Serialize, Deserialize)]
    pub(super) struct Message {
        event: String,
        id: String,
        content: String,
        created_at: String,
        message_type: String,
        content_type: String,
        content_attributes: Value,
        source_id: String,
        sender: Value,
        contact: Named,
        conversation: Conversation,
        account: Named,
    }

    #[derive(Serialize, Deserialize)]
    struct Named {
        id: String,
        name: String,
    }

    #[derive(Serialize, Deserialize)]
    struct Conversation {
        display_id: String,
        additional_attributes: AdditionalAttributes,
    }

    #[derive(Serialize, Deserialize)]
    struct AdditionalAttributes {
        browser: Browser,
        referer: String,
        initiated_at: String,
    }
}

mod chatwoot {
    use super::{Browser, Deserialize, Serialize, Value};

    #[derive(Serialize, Deserialize)]
    pub(super) struct Message {
        account: Named,
        additional_attributes: Value,
        content_attributes: Value,
        content_type: String,
        content: String,
        conversation: Conversation,
        created_at: String,
        id: i64,
        inbox: Named,
        message_type: String,
        private: bool,
        sender: OuterContact,
        source_id: Option<String>,
        event: String,
    }

    #[derive(Serialize, Deserialize)]
    struct Named {
        id: i64,
        name: String,
    }

    #[derive(Serialize, Deserialize)]
    struct OuterContact {
        account: Named,
        additional_attributes: Value,
        avatar: String,
        custom_attributes: Value,
        email: Option<String>,
        id: i64,
        identifier: Option<String>,
        name: String,
        phone_number: Option<String>,
        thumbnail: String,
        blocked: bool,
    }

    #[derive(Serialize, Deserialize)]
    struct InnerContact {
        additional_attributes: Value,
        custom_attributes: Value,
        email: Option<String>,
        id: i64,
        identifier: Option<String>,
        name: String,
        phone_number: Option<String>,
        thumbnail: String,
        blocked: bool,
        r#type: String,
    }

    #[derive(Serialize, Deserialize)]
    struct User {
        id: i64,
        name: String,
        available_name: String,
        avatar_url: String,
        r#type: String,
        availability_status: Option<String>,
        thumbnail: String,
    }

    #[derive(Serialize, Deserialize)]
    struct Attributes {
        browser: Browser,
        referer: Option<String>,
        initiated_at: InitiatedAt,
    }

    #[derive(Serialize, Deserialize)]
    struct InitiatedAt {
        timestamp: String,
    }

    #[derive(Serialize, Deserialize)]
    struct ContactInbox {
        id: i64,
        contact_id: i64,
        inbox_id: i64,
        source_id: String,
        created_at: Option<String>,
        updated_at: Option<String>,
        hmac_verified: bool,
        pubsub_token: String,
    }

    #[derive(Serialize, Deserialize)]
    struct Meta {
        sender: InnerContact,
        assignee: Option<User>,
        assignee_type: Option<String>,
        team: Option<Named>,
        hmac_verified: Option<bool>,
    }

    #[derive(Serialize, Deserialize)]
    struct Conversation {
        additional_attributes: Attributes,
        can_reply: bool,
        channel: Option<String>,
        contact_inbox: ContactInbox,
        id: i64,
        inbox_id: i64,
        messages: Vec<InnerMessage>,
        labels: Vec<String>,
        meta: Meta,
        status: String,
        custom_attributes: Value,
        snoozed_until: Option<String>,
        unread_count: i32,
        first_reply_created_at: Option<String>,
        priority: Option<String>,
        waiting_since: i64,
        agent_last_seen_at: i64,
        contact_last_seen_at: i64,
        last_activity_at: i64,
        timestamp: i64,
        created_at: i64,
        updated_at: f64,
        account: Named,
    }

    #[derive(Serialize, Deserialize)]
    struct InnerMessage {
        id: i64,
        content: Option<String>,
        account_id: i64,
        inbox_id: i64,
        conversation_id: i64,
        message_type: i32,
        created_at: i64,
        updated_at: Option<String>,
        private: bool,
        status: String,
        source_id: Option<String>,
        content_type: String,
        content_attributes: Value,
        sender_type: Option<String>,
        sender_id: Option<i64>,
        external_source_ids: Value,
        additional_attributes: Value,
        processed_message_content: Option<String>,
        sentiment: Value,
        conversation: Within,
        sender: InnerContact,
    }

    #[derive(Serialize, Deserialize)]
    struct Within {
        assignee_id: Option<i64>,
        unread_count: i32,
        last_activity_at: i64,
        contact_inbox: Source,
    }

    #[derive(Serialize, Deserialize)]
    struct Source {
        source_id: String,
    }
}
