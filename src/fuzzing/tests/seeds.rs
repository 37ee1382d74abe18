//! The seeds of fuzzing: output of the program itself, and odd inputs that its tests know. `fuzz/run
//! --minimise` extends them.

use std::{env, fs, path::Path};

use prost::Message;
use uuid::Uuid;

use crate::{
    app::Config,
    config::Flags,
    domain::{ids::AccountId, payload_format::PayloadFormat},
    event::{self, render, samples},
    fuzzing::run,
    grpc,
    proto::v1::{self, EventType},
    store,
};

const RESPONSES: [&str; 9] = [
    "0",
    "120",
    "-1",
    " 7 ",
    "99999999999999999999",
    "Tue, 14 Nov 2023 22:14:20 GMT",
    "Tuesday, 14-Nov-23 22:14:20 GMT",
    "Tue Nov 14 22:14:20 2023",
    "https://example.com/hook?token=secret#x",
];

const NAMES: [&str; 8] = [
    "accounts/1",
    "accounts/-",
    "accounts/9223372036854775807",
    "accounts/1/subscriptions/a-0",
    "accounts/1/events/A.b_c~d-1",
    "accounts/7/subscriptions/crm/deliveries/e.1",
    "018bcfe5-6800-7000-8000-000000000001",
    "crm",
];

const URLS: [&str; 20] = [
    "http://example.com",
    "HTTPS://Example.com:8443/a?b=c@d",
    "http://[::1]:3000/",
    "http://ä.example",
    "http://2130706433/",
    "http://0x7f.1/",
    "http://0177.0.0.1/",
    "http://127.1./",
    "http://[::ffff:7f00:1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[fe80::1%25eth0]/",
    "http://１２７.0.0.1/",
    "http://localhost./",
    "http://user:password@example.com",
    "http://example.com\\@other",
    "http://example.com:0",
    "https://1.1.1.1/?`|^{}\"",
    "http://a_b.example/%00",
    "http://xn--mnchen-3ya.example:80/..//./a",
];

const SECRETS: [&str; 4] = [
    "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\nAuthorization:Bearer abc\nx-empty:",
    "sixteen letters!\nHost:x\nContent-Length:1\nX-Tab:a\tb",
    "whsec_short\nx: y",
    "\nx:ü\n:path:x\nwebhook-id:1",
];

const KEYS: [&str; 5] = [
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "# one\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=, AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
    "http://user:password@proxy.example:3128",
    ".example.com:8443",
    "10.0.0.0/8",
];

const VALUES: [&str; 5] = [
    "--grpc-listen=[::1]:1\nTIDINGS_GRPC_LISTEN=127.0.0.1:2\nTIDINGS_LOG_FORMAT=json",
    "--egress-allow=127.0.0.0/8,::1\n--egress-allow=10.0.0.0/8\nTIDINGS_EGRESS_DENY=fd00::/8",
    "TIDINGS_LOG_LEVEL=warn,tidings::delivery=debug\nTIDINGS_PORT_80_TCP=x\nTIDINGS_CALL_TIMEOUT=1h",
    "TIDINGS_RETENTION_BYTES_MAX=18446744073709551615GiB\nTIDINGS_MAX_IN_FLIGHT=0\nTIDINGS_NO_SUCH=1",
    "--retry-min-backoff=7d\n--retry-max-backoff=10ms\n--data-dir=a \"b\" \\",
];

const FILES: [&str; 4] = [
    "egress_allow = [\"127.0.0.0/8\", \"::1\"]\nmax_in_flight = 0x10\nclient_timeout = \"1m\"\n",
    "client_timeout = 10\nno_such = true\nlog_level = 'warn'\n[table]\nx = 1.5\n",
    "data_dir = \"\"\"a\nb\"\"\"\nhttp_listen = \"127.0.0.1:50051\"\n= broken\nclient_timeout = \n",
    "max_in_flight = 99999999999999999999\nlog_format = [\"json\", 1]\nclient_timeout = 1979-05-27\n",
];

const OBJECTS: [&str; 6] = [
    "\u{1}{\"a\":1}\n{\n  \"b\": [\n{}\n, {\"c\": \"}\\\"{\"}]\n}{} {\"d\":[[]]}\r\n",
    "\u{2}{\"a\":[1}\n{}\n",
    "\u{3}{\"a\":\"text\n{\"b\":2}\nnothing\n{}",
    "\u{4}[\n  {\"a\": 1}\n]\n{}\n",
    "\u{5}\u{feff}{\"a\":{}]}\n{\"b\":",
    "\u{6}\u{feff}\n\u{feff}{}",
];

const SOURCES: [&str; 4] = [
    "[[source]]\naccount = 1\npath = '0123456789abcdefABCD_-'\nsigning_secret = 'sixteen letters!'\nname = 'support'\n",
    "source = [{ account = 0x7, path = \"x\", name = \"a b\" }, 1]\nsources = 1979-05-27\n",
    "[[source]]\naccount = 1\npath = '0123456789abcdefABCD_-'\n[[source]]\naccount = 1\npath = '0123456789abcdefABCD_-'\n",
    "[source]\npath = hunter2\n[[source]]\naccount = -1\n= broken\n",
];

/// Seeds pass their targets. With a folder in `WRITE_SEEDS` they are also written there: `fuzz/run` does it.
#[tokio::test]
async fn every_seed_passes_its_target() {
    let mut seeds: Vec<(&str, Vec<u8>)> = Vec::new();
    let mut add = |target: &'static str, bytes: &[u8]| seeds.push((target, bytes.to_vec()));
    for kind in std::iter::once(EventType::Unspecified).chain(EventType::all()) {
        add("event", &samples::sample(kind, AccountId::new(1).unwrap()).encode_to_vec());
    }
    for body in webhooks() {
        add("import", &body);
    }
    for (number, text) in (0_u8..).zip(RESPONSES) {
        let now = 1_700_000_000_000_000_i64.to_le_bytes();
        let status = (u16::from(number) * 50).to_le_bytes();
        add("answer", &[&now[..], &status, &[number & 1, 5, 0, 9, 0, 3], text.as_bytes()].concat());
    }
    NAMES.iter().for_each(|text| add("names", text.as_bytes()));
    OBJECTS.iter().for_each(|text| add("objects", text.as_bytes()));
    URLS.iter().for_each(|text| add("url", text.as_bytes()));
    SECRETS.iter().for_each(|text| add("secrets", text.as_bytes()));
    KEYS.iter().for_each(|text| add("keys", text.as_bytes()));
    SOURCES.iter().for_each(|text| add("sources", text.as_bytes()));
    add("tls", b"example.com\0-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n\0\0");
    VALUES.iter().for_each(|text| add("config_values", text.as_bytes()));
    FILES.iter().for_each(|text| add("config_file", text.as_bytes()));
    let (_, origins) = Config::load(&Flags::default(), []).unwrap();
    add("config_file", origins.to_toml().as_bytes());
    grpc::fuzz::tokens().iter().for_each(|token| add("page_token", token));
    updates().iter().for_each(|update| add("settings", &update.encode_to_vec()));
    for (target, bytes) in store::disk::fuzz::seeds().await {
        add(target, &bytes);
    }

    let seeds_folder = env::var_os("WRITE_SEEDS");
    for (target, bytes) in seeds {
        run(target, &bytes);
        let Some(folder) = &seeds_folder else { continue };
        let folder = Path::new(folder).join(target);
        fs::create_dir_all(&folder).unwrap();
        // The same bytes are the same file.
        let name = Uuid::new_v5(&Uuid::NAMESPACE_OID, &bytes).simple().to_string();
        fs::write(folder.join(name), bytes).unwrap();
    }
}

/// Chatwoot's webhooks: the sample of each event type, and the captured ones.
fn webhooks() -> Vec<Vec<u8>> {
    let account = AccountId::new(1).unwrap();
    let sample = |kind| {
        let mut event = samples::sample(kind, account);
        event::check(&mut event, account, "event").unwrap();
        render::render(&event, PayloadFormat::Chatwoot)
    };
    let captured = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chatwoot/captured");
    let captured = fs::read_dir(captured).unwrap().map(|file| {
        let body = fs::read(file.unwrap().path()).unwrap();
        // Without white space, for which the fuzzer has no room.
        serde_json::from_slice::<serde_json::Value>(&body).unwrap().to_string().into_bytes()
    });
    EventType::all().map(sample).chain(captured).collect()
}

/// Updates by owners: with every field, with some, and with invalid ones.
fn updates() -> Vec<v1::UpdateSubscriptionRequest> {
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 1_000_000 });
    let full = v1::Subscription {
        display_name: "CRM".to_owned(),
        url: "https://example.com/hook".to_owned(),
        event_types: vec![1, 4],
        inbox_ids: vec![7],
        payload_format: 2,
        headers: [("X-Token".to_owned(), "***".to_owned()), ("x-other".to_owned(), "o".to_owned())].into(),
        retry_policy: Some(v1::RetryPolicy {
            max_attempts: 3,
            min_backoff: seconds(1),
            max_backoff: seconds(9),
            give_up_statuses: vec!["404".to_owned(), "5xx".to_owned()],
        }),
        timeout: seconds(5),
        max_in_flight: 4,
        rate_limit: Some(v1::RateLimit { events: 5, interval: seconds(60), burst: 2 }),
        ordered: true,
        annotations: [("team".to_owned(), "a".to_owned())].into(),
        ..Default::default()
    };
    let bare = v1::Subscription {
        url: "http://example.com:8080/a?b".to_owned(),
        event_types: vec![2],
        headers: [("a".to_owned(), "b".to_owned())].into(),
        ..Default::default()
    };
    let refused = v1::Subscription {
        display_name: "\u{1}".to_owned(),
        event_types: vec![0, 4, 4, 99],
        inbox_ids: vec![0, 7, 7],
        payload_format: 4,
        timeout: seconds(31),
        max_in_flight: 257,
        ..bare.clone()
    };
    let mask = |paths: &[&str]| {
        let paths = paths.iter().map(ToString::to_string).collect();
        Some(prost_types::FieldMask { paths })
    };
    let masks = [None, mask(&["*"]), mask(&["displayName", "retry_policy.max_attempts", "headers"])];
    let update = |subscription: &v1::Subscription, update_mask| v1::UpdateSubscriptionRequest {
        subscription: Some(subscription.clone()),
        update_mask,
        ..Default::default()
    };
    let all = [full, bare, refused];
    all.iter().flat_map(|message| masks.iter().map(move |mask| update(message, mask.clone()))).collect()
}
