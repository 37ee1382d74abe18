//! Conformance: access tokens.

use std::sync::Arc;

use uuid::Uuid;

use super::{Bench, Engine};
use crate::{
    clock::Clock,
    domain::{
        access::{AccessToken, Accounts, Rights, Scope, TOKENS_REMEMBERED, TokenHash, TokenId},
        ids::AccountId,
        secret::Secret,
        time::UnixMicros,
    },
    store::{Issued, NewToken, RequestKey, Store, StoreError, TokenChange},
};

pub(super) async fn run<E: Engine>(engine: &impl Fn() -> E) {
    tokens_are_given_out_and_end(engine()).await;
    tokens_expire_and_are_forgotten(engine()).await;
    the_last_use_of_a_token_is_written_down(engine()).await;
    a_repeated_request_gets_the_first_token_without_its_text(engine()).await;
    more_tokens_than_may_be_are_refused(engine()).await;
}

fn token(number: u64, now: UnixMicros) -> AccessToken {
    AccessToken {
        id: TokenId::made_of(number),
        display_name: format!("token {number}"),
        hash: TokenHash::of(&format!("text {number}")),
        rights: Rights {
            scopes: vec![Scope::Publish, Scope::Admin],
            accounts: Accounts::of(vec![AccountId::new(3).unwrap(), AccountId::new(1).unwrap()]),
        },
        create_time: now,
        expire_time: Some(UnixMicros(now.0 + 60_000_000)),
        revoke_time: None,
        last_use_time: None,
    }
}

fn new(token: AccessToken, request: Option<RequestKey>) -> NewToken {
    let secret = Secret::new(format!("text of {}", token.id.name()));
    NewToken { token, secret, request, tokens_max: 100, administrator: Accounts::All }
}

async fn create<E: Engine>(bench: &Bench<E>, token: AccessToken) {
    bench.store.create_token(new(token, None)).await.unwrap();
}

fn found(store: &dyn Store, number: u64) -> Option<Arc<Issued>> {
    let by_hash = store.tokens().by_hash(&TokenHash::of(&format!("text {number}")));
    let by_id = store.tokens().by_id(&TokenId::made_of(number));
    assert_eq!(by_hash.as_ref().map(|issued| &issued.token), by_id.as_ref().map(|issued| &issued.token));
    by_id
}

fn ids(store: &dyn Store, after: Option<&TokenId>, limit: usize) -> Vec<TokenId> {
    let mut ids = Vec::new();
    store.tokens().walk(after, |issued| {
        ids.push(issued.token.id.clone());
        ids.len() < limit
    });
    ids
}

async fn tokens_are_given_out_and_end<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    assert!(!bench.store.tokens().are_asked_for());
    let now = bench.clock.now();
    let tokens = [2, 1, 3].map(|number| token(number, now));
    for token in &tokens {
        create(&bench, token.clone()).await;
    }
    bench.reopen();
    assert!(bench.store.tokens().are_asked_for());
    let [id2, id1, id3] = tokens.each_ref().map(|token| token.id.clone());
    assert_eq!(found(&*bench.store, 2).unwrap().token, tokens[0]);
    assert!(found(&*bench.store, 4).is_none());
    assert_eq!(ids(&*bench.store, None, 2), [id1.clone(), id2.clone()]);
    assert_eq!(ids(&*bench.store, Some(&id1), 9), [id2.clone(), id3]);

    // Whoever has it in hand notices its end.
    let held = found(&*bench.store, 2).unwrap();
    held.use_at(UnixMicros(now.0 + 5_000_000));
    bench.clock.step(7_000_000);
    bench.store.change_tokens(TokenChange::Revoke(id2.clone())).await.unwrap();
    assert!(held.ended().is_cancelled());
    let revoked = found(&*bench.store, 2).unwrap();
    assert_eq!(revoked.token.revoke_time, Some(bench.clock.now()));
    assert_eq!(revoked.token.last_use_time, Some(UnixMicros(now.0 + 5_000_000)), "it went along");
    // Again is no change.
    bench.clock.step(1_000_000);
    bench.store.change_tokens(TokenChange::Revoke(id2)).await.unwrap();
    bench.reopen();
    let again = found(&*bench.store, 2).unwrap();
    assert_eq!(again.token, revoked.token);
    assert!(again.ended().is_cancelled());
    let unknown = bench.store.change_tokens(TokenChange::Revoke(TokenId::made_of(9))).await;
    assert!(matches!(unknown, Err(StoreError::TokenNotFound)), "{unknown:?}");
}

async fn tokens_expire_and_are_forgotten<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let start = bench.clock.now();
    for number in 1..=2 {
        create(&bench, token(number, start)).await;
        bench.clock.step(1_000_000);
    }
    let endless = AccessToken { expire_time: None, ..token(3, start) };
    create(&bench, endless).await;
    bench.reopen();
    let held = [1, 2, 3].map(|number| found(&*bench.store, number).unwrap());
    let ended = || held.each_ref().map(|issued| issued.ended().is_cancelled());
    let expire = start.0 + 60_000_000;
    bench.store.tokens().expire(UnixMicros(expire - 1));
    assert_eq!(ended(), [false, false, false]);
    bench.store.tokens().expire(UnixMicros(expire));
    assert_eq!(ended(), [true, true, false]);

    bench.clock.step(i64::try_from(TOKENS_REMEMBERED.as_micros()).unwrap() + 61_000_000);
    let now = bench.clock.now();
    let one_more = NewToken { tokens_max: 2, ..new(token(4, now), None) };
    bench.store.create_token(one_more).await.expect("those that expired are forgotten");
    bench.reopen();
    let left = [1, 2, 3, 4].map(|number| found(&*bench.store, number).is_some());
    assert_eq!(left, [false, false, true, true]);

    // Without one that is left, calls need one all the same.
    bench.store.change_tokens(TokenChange::Revoke(TokenId::made_of(3))).await.unwrap();
    bench.clock.step(2 * i64::try_from(TOKENS_REMEMBERED.as_micros()).unwrap());
    create(&bench, token(5, start)).await;
    bench.reopen();
    assert!(bench.store.tokens().are_asked_for());
    assert_eq!(ids(&*bench.store, None, 9), [TokenId::made_of(5)]);
}

async fn the_last_use_of_a_token_is_written_down<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let now = bench.clock.now();
    create(&bench, token(1, now)).await;
    let held = found(&*bench.store, 1).unwrap();
    assert_eq!(held.last_use(), None);
    held.use_at(UnixMicros(now.0 + 5_000_000));
    assert_eq!(held.last_use(), Some(UnixMicros(now.0 + 5_000_000)));
    let uses = vec![
        (TokenId::made_of(1), UnixMicros(now.0 + 5_000_000)),
        (TokenId::made_of(9), UnixMicros(now.0 + 5_000_000)),
    ];
    bench.store.change_tokens(TokenChange::Used(uses)).await.unwrap();
    // The token itself stays valid: callers that have it can use it.
    assert!(!held.ended().is_cancelled());
    bench.reopen();
    let read = found(&*bench.store, 1).unwrap();
    assert_eq!(read.token.last_use_time, Some(UnixMicros(now.0 + 5_000_000)));
    assert_eq!(read.last_use(), read.token.last_use_time);
    assert!(found(&*bench.store, 9).is_none());
    bench.store.close().unwrap();
    let closed = bench.store.change_tokens(TokenChange::Revoke(TokenId::made_of(1))).await;
    assert!(matches!(closed, Err(StoreError::Closed)), "{closed:?}");
}

async fn a_repeated_request_gets_the_first_token_without_its_text<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let now = bench.clock.now();
    let request = RequestKey { id: Uuid::from_u128(7), fingerprint: [1; 32] };
    let (id, text) = bench.store.create_token(new(token(1, now), Some(request.clone()))).await.unwrap();
    assert!(text.is_some());
    bench.reopen();
    let again = bench.store.create_token(new(token(2, now), Some(request.clone()))).await.unwrap();
    assert_eq!((again.0, again.1.is_some()), (id, false));
    assert!(found(&*bench.store, 2).is_none(), "only one was created");
    let full = NewToken { tokens_max: 1, ..new(token(2, now), Some(request.clone())) };
    bench.store.create_token(full).await.expect("there is room for what is there");
    let other = RequestKey { fingerprint: [2; 32], ..request };
    let refused = bench.store.create_token(new(token(2, now), Some(other))).await;
    assert!(matches!(refused, Err(StoreError::RequestIdReused)));
}

async fn more_tokens_than_may_be_are_refused<E: Engine>(engine: E) {
    let bench = Bench::new(engine);
    let now = bench.clock.now();
    let at_most = |number| NewToken { tokens_max: 2, ..new(token(number, now), None) };
    for number in [1, 2] {
        bench.store.create_token(at_most(number)).await.unwrap();
    }
    let refused = bench.store.create_token(at_most(3)).await;
    assert!(matches!(refused, Err(StoreError::TooManyTokens { .. })));
    assert!(found(&*bench.store, 3).is_none());
}
