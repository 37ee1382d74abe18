//! What fuzzing checks of page tokens, and of what the owner of a subscription sends.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message;

use super::wire::{
    pagination::{Cursor, List, Tokens},
    to_proto,
};
use crate::{
    domain::{
        retry::RetryPolicy,
        subscription::{Mask, check_new, check_update},
    },
    proto::v1,
};

const LISTS: [List; 4] = [List::Subscriptions, List::Events, List::Deliveries, List::Replay];

/// A page token: one list takes it at most, with one set of parameters, and it says the same when it is written again.
pub fn page_token(data: &[u8]) {
    let requests = ["accounts/1", "accounts/2"]
        .map(|parent| v1::ListEventsRequest { parent: parent.to_owned(), ..Default::default() });
    let all = LISTS.iter().flat_map(|list| requests.iter().map(|request| Tokens::of(*list, request)));
    let all: Vec<Tokens> = all.collect();

    // As a caller sends it, and as what is encoded in it.
    let encoded = URL_SAFE_NO_PAD.encode(data);
    for text in [str::from_utf8(data).unwrap_or_default(), &encoded] {
        let read = all.iter().filter_map(|tokens| Some((tokens, tokens.read(text).ok()??)));
        let read: Vec<(&Tokens, Cursor)> = read.collect();
        assert!(read.len() <= 1, "several lists take {text:?}");
        for (tokens, cursor) in &read {
            let token = tokens.write(Some(cursor.clone()));
            assert_eq!(tokens.read(&token).ok().flatten().as_ref(), Some(cursor));
        }
    }
    let Ok(cursor) = Cursor::decode(data) else { return };
    for (number, tokens) in all.iter().enumerate() {
        let token = tokens.write(Some(cursor.clone()));
        for (other, reader) in all.iter().enumerate() {
            assert_eq!(
                reader.read(&token).is_ok(),
                number == other,
                "a token is good for its own list alone"
            );
        }
    }
}

/// What an owner sends of a subscription, with a mask: what is taken is shown so that it can be sent back, and changes nothing then; and
/// a change that is made twice is made once.
pub fn settings(data: &[u8]) {
    let Ok(request) = v1::UpdateSubscriptionRequest::decode(data) else { return };
    let message = request.subscription.unwrap_or_default();
    let defaults = RetryPolicy::default();
    if let Ok(taken) = check_new(&message, "subscription", defaults) {
        let shown = to_proto::settings(&taken);
        let back = check_update(&taken, &shown, &Mask::AllFields, "subscription", defaults);
        assert_eq!(back.as_ref(), Ok(&taken), "what is shown can be sent back");
        assert!(shown.headers.values().all(|value| value == "***"));
    }

    let stored = v1::Subscription {
        url: "https://example.com/hook".to_owned(),
        event_types: vec![1],
        headers: [("x-token".to_owned(), "secret".to_owned())].into(),
        ..Default::default()
    };
    let stored = check_new(&stored, "subscription", defaults).expect("it keeps to the rules");
    let paths = request.update_mask.map(|mask| mask.paths).unwrap_or_default();
    let Ok(mask) = Mask::parse(&paths, "update_mask") else { return };
    if let Ok(changed) = check_update(&stored, &message, &mask, "subscription", defaults) {
        let again = check_update(&changed, &message, &mask, "subscription", defaults);
        assert_eq!(again.as_ref(), Ok(&changed));
        if mask.fields(&message).is_empty() {
            assert_eq!(changed, stored);
        }
    }
}

/// Where fuzzing of page tokens begins: tokens of every list, and what is encoded in them.
#[cfg(test)]
pub(crate) fn tokens() -> Vec<Vec<u8>> {
    let request = v1::ListEventsRequest { parent: "accounts/1".to_owned(), ..Default::default() };
    let name = "accounts/1/subscriptions/crm".to_owned();
    let cursor = Cursor { name, seq: 7, subscription: 9, until: 11, time: -13 };
    let mut tokens = vec![cursor.encode_to_vec(), b"????".to_vec()];
    for list in LISTS {
        let token = Tokens::of(list, &request).write(Some(cursor.clone()));
        tokens.push(URL_SAFE_NO_PAD.decode(&token).expect("it was just encoded"));
        tokens.push(token.into_bytes());
    }
    tokens
}
