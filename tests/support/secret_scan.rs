//! Scans everything that gateways print and respond for the secrets that they were given or made. The two
//! responses that may show one show no other, and nothing else shows any.

use std::{
    collections::BTreeSet,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use prost::Message;
use tidings::proto::v1;
use tonic::body::Body;
use tower::Service;

/// Shorter ones are found in text that has nothing to do with them.
const BYTES_MIN: usize = 8;
/// The end of a frame that is scanned together with the next: a secret may be in both.
const OVERLAP_BYTES: usize = 512;
/// In front of a message of gRPC: whether it is compressed, and its length.
const MESSAGE_HEAD: usize = 5;
/// The methods whose responses show a secret, in their `signing_secret`.
const SHOWING: [&str; 3] = ["CreateSubscription", "RotateSigningSecret", "CreateNoticeSink"];

/// The secrets that the gateways of a test know.
#[derive(Clone, Default)]
pub struct Secrets(Arc<Mutex<BTreeSet<String>>>);

impl Secrets {
    /// Scans for this one from now on.
    pub fn add(&self, secret: &str) {
        // The secret follows the prefix.
        let secret = secret.strip_prefix("whsec_").or(secret.strip_prefix("whsk_")).unwrap_or(secret);
        if secret.len() >= BYTES_MIN {
            self.0.lock().unwrap().insert(secret.to_owned());
        }
    }

    /// The first secret that is in it but for `shown`: as text, as a list of bytes, or made up of base64 as
    /// keys are.
    pub fn find_in(&self, bytes: &[u8], shown: &str) -> Option<String> {
        let text = String::from_utf8_lossy(bytes);
        let secrets = self.0.lock().unwrap();
        let is_there = |secret: &&String| {
            let listed = format!("{:?}", secret.as_bytes());
            text.contains(secret.as_str()) || text.contains(listed.trim_matches(['[', ']']))
        };
        let known = secrets.iter().find(|secret| !shown.contains(secret.as_str()) && is_there(secret));
        known.cloned().or_else(|| keys_in(&text).find(|key| *key != shown).map(str::to_owned))
    }

    fn check(&self, what: &str, bytes: &[u8], shown: &str) {
        let found = self.find_in(bytes, shown);
        assert_eq!(found, None, "{what} shows a secret");
    }

    fn check_headers(&self, path: &str, headers: &HeaderMap) {
        for (name, value) in headers {
            let what = format!("{name} of the response to {path}");
            self.check(&what, value.as_bytes(), "");
            self.check(&what, percent_decoded(value.as_bytes()).as_slice(), "");
            if let Ok(decoded) = STANDARD_NO_PAD.decode(value.as_bytes().trim_ascii_end()) {
                self.check(&what, &decoded, "");
            }
        }
    }

    /// Adds the secrets of a request.
    fn learn(&self, path: &str, request: &[u8]) {
        let Some(message) = request.get(MESSAGE_HEAD..) else { return };
        let subscription = if path.ends_with("/CreateSubscription") {
            let request = v1::CreateSubscriptionRequest::decode(message).unwrap_or_default();
            self.add(&request.signing_secret);
            request.subscription
        } else if path.ends_with("/UpdateSubscription") {
            v1::UpdateSubscriptionRequest::decode(message).unwrap_or_default().subscription
        } else {
            None
        };
        subscription.unwrap_or_default().headers.values().for_each(|value| self.add(value));
    }

    /// The secret that a response may show.
    fn shown_by(&self, path: &str, response: &[u8]) -> String {
        let message = response.get(MESSAGE_HEAD..).unwrap_or_default();
        let shown = if path.ends_with(SHOWING[0]) {
            v1::CreateSubscriptionResponse::decode(message).unwrap_or_default().signing_secret
        } else if path.ends_with(SHOWING[1]) {
            v1::RotateSigningSecretResponse::decode(message).unwrap_or_default().signing_secret
        } else if path.ends_with(SHOWING[2]) {
            v1::CreateNoticeSinkResponse::decode(message).unwrap_or_default().signing_secret
        } else {
            String::new()
        };
        self.add(&shown);
        shown
    }
}

/// Signing secrets and private keys, from the gateway or from tests.
pub fn keys_in(text: &str) -> impl Iterator<Item = &str> {
    const CHARS_MIN: usize = 24;
    let starts =
        ["whsec_", "whsk_"].map(|prefix| text.match_indices(prefix).map(|(at, _)| (at, prefix.len())));
    starts.into_iter().flatten().filter_map(|(at, prefix)| {
        let is_of_key = |b: u8| b.is_ascii_alphanumeric() || b"+/=".contains(&b);
        let chars = text.as_bytes()[at + prefix..].iter().take_while(|b| is_of_key(**b)).count();
        (chars >= CHARS_MIN).then(|| &text[at..at + prefix + chars])
    })
}

fn percent_decoded(bytes: &[u8]) -> Vec<u8> {
    let (mut decoded, mut rest) = (Vec::new(), bytes);
    while let [first, tail @ ..] = rest {
        let coded = (*first == b'%').then(|| tail.get(..2)).flatten();
        let coded = coded.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        decoded.push(coded.unwrap_or(*first));
        rest = if coded.is_some() { &tail[2..] } else { tail };
    }
    decoded
}

/// A connection to a gateway whose responses are scanned.
#[derive(Clone)]
pub struct Channel {
    inner: tonic::transport::Channel,
    secrets: Secrets,
    authorization: Option<HeaderValue>,
}

impl Channel {
    pub fn new(inner: tonic::transport::Channel, secrets: Secrets) -> Self {
        Self { inner, secrets, authorization: None }
    }

    /// The same connection with this metadata `authorization` on every call.
    pub fn with_authorization(mut self, value: &str) -> Self {
        self.authorization = Some(HeaderValue::from_str(value).expect("it can be sent"));
        self
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = tonic::transport::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(value) = &self.authorization {
            request.headers_mut().insert("authorization", value.clone());
        }
        let path = request.uri().path().to_owned();
        let sent = Arc::new(Mutex::new(Vec::new()));
        let request = {
            let sent = Arc::clone(&sent);
            let is_learned_from = path.contains("SubscriptionService/");
            request.map(|body| {
                Body::new(body.map_frame(move |frame: Frame<Bytes>| {
                    if let Some(data) = frame.data_ref().filter(|_| is_learned_from) {
                        sent.lock().unwrap().extend_from_slice(data);
                    }
                    frame
                }))
            })
        };
        let (responding, secrets) = (self.inner.call(request), self.secrets.clone());
        Box::pin(async move {
            let response = responding.await?;
            secrets.learn(&path, &sent.lock().unwrap());
            secrets.check_headers(&path, response.headers());
            let mut seen = Vec::new();
            Ok(response.map(|body| {
                Body::new(body.map_frame(move |frame: Frame<Bytes>| {
                    if let Some(data) = frame.data_ref() {
                        seen.extend_from_slice(data);
                        let shown = secrets.shown_by(&path, &seen);
                        secrets.check(&format!("the response to {path}"), &seen, &shown);
                        if !SHOWING.iter().any(|method| path.ends_with(method)) {
                            seen.drain(..seen.len().saturating_sub(OVERLAP_BYTES));
                        }
                    }
                    if let Some(trailers) = frame.trailers_ref() {
                        secrets.check_headers(&path, trailers);
                    }
                    frame
                }))
            }))
        })
    }
}

#[test]
fn a_secret_is_found_however_it_is_written() {
    let secrets = Secrets::default();
    secrets.add("whsec_c2VjcmV0LXRoYXQtaXMtbG9va2VkLWZvcg==");
    secrets.add("a value of a header");
    secrets.add("short");
    let found = |text: &str| secrets.find_in(text.as_bytes(), "").is_some();
    for text in [
        "x c2VjcmV0LXRoYXQtaXMtbG9va2VkLWZvcg== y",
        "header: a value of a header",
        &format!("bytes={:?}", b"so a value of a header it is"),
        "whsec_bmV2ZXItdG9sZC1vZi10aGlzLW9uZS1idXQtaXQtaXMtb25l",
        "whsk_bmV2ZXItdG9sZC1vZi10aGlzLW9uZS1idXQtaXQtaXMtb25l",
    ] {
        assert!(found(text), "{text}");
    }
    for text in
        ["", "short", "***", "a value of another header", "whsec_ and whpk_bmV2ZXItdG9sZC1vZi10aGlzLW9uZQ=="]
    {
        assert!(!found(text), "{text}");
    }
    let shown = "whsec_c2VjcmV0LXRoYXQtaXMtbG9va2VkLWZvcg==";
    assert_eq!(secrets.find_in(shown.as_bytes(), shown), None);
    assert!(secrets.find_in(format!("{shown} a value of a header").as_bytes(), shown).is_some());
    assert_eq!(percent_decoded(b"a%2Fb%zz%"), b"a/b%zz%");
}
