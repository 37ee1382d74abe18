//! Fuzz targets of page tokens, of requests of the Connect protocol, and of the settings of a subscription.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message;

use super::wire::{
    pagination::{Cursor, PageKind, PageTokens},
    to_proto,
};
use crate::{
    domain::{
        retry::RetryPolicy,
        subscription::{Mask, check_new, check_update},
    },
    proto::v1,
};

const LISTS: [PageKind; 4] =
    [PageKind::Subscriptions, PageKind::Events, PageKind::Deliveries, PageKind::Replay];

/// A request of the Connect protocol: the first byte is its form, the rest its body.
pub fn connect(data: &[u8]) {
    super::layers::connect::check_translation(data);
}

/// A page token: at most one list accepts it, with one set of parameters, and it survives a round trip.
pub fn page_token(data: &[u8]) {
    let requests = ["accounts/1", "accounts/2"]
        .map(|parent| v1::ListEventsRequest { parent: parent.to_owned(), ..Default::default() });
    let all = LISTS.iter().flat_map(|list| requests.iter().map(|request| PageTokens::of(*list, request)));
    let all: Vec<PageTokens> = all.collect();

    // The text of a token, and the bytes that are encoded in it.
    let encoded = URL_SAFE_NO_PAD.encode(data);
    for text in [str::from_utf8(data).unwrap_or_default(), &encoded] {
        let read = all.iter().filter_map(|tokens| Some((tokens, tokens.read(text).ok()??)));
        let read: Vec<(&PageTokens, Cursor)> = read.collect();
        assert!(read.len() <= 1, "several lists accept {text:?}");
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
                "a token is valid for its own list only"
            );
        }
    }
}

/// An update of a subscription with a mask: valid settings can be read and written back without a change, and
/// the same update twice is the same as once.
pub fn settings(data: &[u8]) {
    let Ok(request) = v1::UpdateSubscriptionRequest::decode(data) else { return };
    let message = request.subscription.unwrap_or_default();
    let defaults = RetryPolicy::default();
    if let Ok(checked) = check_new(&message, "subscription", defaults) {
        let shown = to_proto::settings(&checked);
        let back = check_update(&checked, &shown, &Mask::AllFields, "subscription", defaults);
        assert_eq!(back.as_ref(), Ok(&checked), "settings that were read can be written back");
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

/// Seeds of the page tokens' fuzz target: tokens of every list, as text and as bytes.
#[cfg(test)]
pub(crate) fn tokens() -> Vec<Vec<u8>> {
    let request = v1::ListEventsRequest { parent: "accounts/1".to_owned(), ..Default::default() };
    let name = "accounts/1/subscriptions/crm".to_owned();
    let cursor = Cursor { name, seq: 7, subscription: 9, until: 11, time: -13 };
    let mut tokens = vec![cursor.encode_to_vec(), b"????".to_vec()];
    for list in LISTS {
        let token = PageTokens::of(list, &request).write(Some(cursor.clone()));
        tokens.push(URL_SAFE_NO_PAD.decode(&token).expect("it was just encoded"));
        tokens.push(token.into_bytes());
    }
    tokens
}
