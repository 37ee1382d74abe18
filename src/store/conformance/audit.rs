//! Conformance: audit records.

use super::{Bench, Engine, account};
use crate::{
    domain::{
        audit::{
            AUDIT_REPEATS_FOR, AuditEnd, AuditKey, AuditOutcome, AuditRecord, AuditSubject, AuditedCall,
            FOREIGN_PRINCIPAL,
        },
        ids::AccountScope,
        time::UnixMicros,
    },
    store::{AUDIT_REFUSED_PART, AuditQuery, AuditWrite, StoreError, TimeRange},
};

/// Bytes of audit records that an engine under test keeps.
pub const AUDIT_BYTES_MAX: u64 = 20_000;

pub(super) async fn run<E: Engine>(engine: &impl Fn() -> E) {
    a_call_is_begun_and_ended_and_listed_newest_first(engine()).await;
    a_list_has_what_its_filters_want(engine()).await;
    past_the_bound_the_oldest_go_and_refusals_never_push_out_changes(engine()).await;
    an_account_over_its_share_loses_its_own_oldest(engine()).await;
    repeats_of_what_changed_nothing_are_counted_up(engine()).await;
    callers_of_other_accounts_are_hidden(engine()).await;
    old_records_are_purged(engine()).await;
    a_closed_store_notes_nothing(engine()).await;
}

fn call(resource: &str, method: &str) -> AuditedCall {
    let subject = AuditSubject {
        resource: resource.into(),
        fields: vec!["url".into(), "headers".into()],
        parameters: [("force".to_owned(), "true".to_owned())].into(),
    };
    let (principal, address) = ("accessTokens/ci".into(), "127.0.0.1:9".into());
    AuditedCall { principal, address, method: method.into(), subject, account: None }
}

fn ok() -> AuditEnd {
    AuditEnd { outcome: AuditOutcome::Ok, ..AuditEnd::default() }
}

fn refused() -> AuditEnd {
    let (outcome, code, reason) = (AuditOutcome::Refused, 5, "SUBSCRIPTION_NOT_FOUND".into());
    AuditEnd { outcome, code, reason, ..AuditEnd::default() }
}

fn everything(limit: usize) -> AuditQuery {
    let (resource, principal, method, before) = (None, None, None, None);
    let (time, hides_foreign) = (TimeRange::default(), false);
    AuditQuery { scope: AccountScope::All, resource, principal, hides_foreign, method, time, before, limit }
}

impl<E: Engine> Bench<E> {
    async fn note(&self, note: AuditWrite) -> AuditKey {
        self.store.audit(note).await.unwrap()
    }

    fn records(&self, query: &AuditQuery) -> Vec<AuditRecord> {
        self.store.audit_records(query).unwrap().rows
    }
}

async fn a_call_is_begun_and_ended_and_listed_newest_first<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let (create, delete) = (call("accounts/1", "create"), call("accounts/1/subscriptions/a", "delete"));
    let first = bench.note(AuditWrite::Begun(create.clone())).await;
    bench.clock.step(-50);
    let second = bench.note(AuditWrite::Begun(delete.clone())).await;
    assert!(first < second && first.time == second.time, "times never step back");
    bench.reopen();
    let begun = [AuditRecord::begun(second, delete.clone()), AuditRecord::begun(first, create.clone())];
    assert_eq!(bench.records(&everything(9)), begun, "what has only begun survives");

    bench.clock.step(1000);
    let end = AuditEnd {
        resource: Some("accounts/1/subscriptions/b".into()),
        parameters: [("replayed_count".to_owned(), "7".to_owned())].into(),
        ..ok()
    };
    bench.note(AuditWrite::Ended(first, end.clone())).await;
    bench.note(AuditWrite::Ended(second, refused())).await;
    bench.note(AuditWrite::Ended(second, ok())).await;
    let replay = call("accounts/1/subscriptions/a", "replay");
    let third = bench.note(AuditWrite::Refused(replay.clone(), refused())).await;
    assert_eq!(third.number, second.number + 1, "an end has no number of its own");
    bench.reopen();
    let now = third.time;
    let expected = [
        AuditRecord::begun(third, replay).ended(refused(), now),
        AuditRecord::begun(second, delete).ended(refused(), now),
        AuditRecord::begun(first, create).ended(end, now),
    ];
    assert_eq!(bench.records(&everything(9)), expected, "a call ends once");
    let fourth = bench.note(AuditWrite::Begun(call("", "x"))).await;
    assert_eq!(fourth.number, third.number + 1, "no number is given away twice");

    let (mut query, mut seen) = (everything(1), Vec::new());
    loop {
        let page = bench.store.audit_records(&query).unwrap();
        assert!(page.rows.len() <= 1);
        seen.extend(page.rows.iter().map(|record| record.key.number));
        query.before = page.next;
        if query.before.is_none() {
            break;
        }
    }
    assert_eq!(seen, [4, 3, 2, 1], "page by page");
}

async fn a_list_has_what_its_filters_want<E: Engine>(engine: E) {
    let bench = Bench::new(engine);
    let mut keys = Vec::new();
    for (resource, method) in [
        ("accounts/1/subscriptions/a", "pause"),
        ("accounts/1/subscriptions/ab", "pause"),
        ("accounts/1/subscriptions/a/deliveries/e", "retry"),
        ("accounts/10/subscriptions/a", "pause"),
        ("accessTokens/ci", "revoke"),
    ] {
        bench.clock.step(10);
        keys.push(bench.note(AuditWrite::Begun(call(resource, method))).await);
    }
    let other = AuditedCall { principal: "anonymous".into(), ..call("accounts/1", "pause") };
    bench.clock.step(10);
    keys.push(bench.note(AuditWrite::Refused(other, refused())).await);
    let numbers = |query: AuditQuery| -> Vec<u64> {
        bench.records(&query).into_iter().map(|record| record.key.number).collect()
    };
    let all = || everything(9);
    let one = AccountScope::One(account(1));
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(numbers(AuditQuery { scope: one, ..all() }), [6, 3, 2, 1]);
    assert_eq!(numbers(AuditQuery { resource: text("accounts/1/subscriptions/a"), ..all() }), [3, 1]);
    assert_eq!(numbers(AuditQuery { method: text("pause"), scope: one, ..all() }), [6, 2, 1]);
    assert_eq!(numbers(AuditQuery { principal: text("anonymous"), ..all() }), [6]);
    let (second, fourth) = (keys[1].time, keys[3].time);
    let within = |start, end| numbers(AuditQuery { time: TimeRange { start, end }, ..all() });
    assert_eq!(within(Some(second), Some(fourth)), [3, 2]);
    assert_eq!(within(Some(fourth), None), [6, 5, 4]);
    assert_eq!(within(None, Some(second)), [1]);
    assert_eq!(within(Some(fourth), Some(second)), [0; 0]);
    assert_eq!(within(Some(UnixMicros(-7)), Some(UnixMicros(i64::MAX))), [6, 5, 4, 3, 2, 1]);
}

async fn past_the_bound_the_oldest_go_and_refusals_never_push_out_changes<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let bytes = |records: &[AuditRecord]| records.iter().map(AuditRecord::bytes).sum::<u64>();
    let mut changed = Vec::new();
    for _ in 0..20 {
        let key = bench.note(AuditWrite::Begun(call("accounts/1", "change"))).await;
        bench.note(AuditWrite::Ended(key, ok())).await;
        changed.push(key);
    }
    bench.reopen();
    let mut last = 0;
    for nth in 0..200 {
        let flood = |part| call(&format!("accounts/1/subscriptions/{part}{nth:03}"), "flood");
        let key = bench.note(AuditWrite::Begun(flood("a"))).await;
        bench.note(AuditWrite::Ended(key, refused())).await;
        last = bench.note(AuditWrite::Refused(flood("b"), refused())).await.number;
    }
    bench.reopen();
    let records = bench.records(&everything(1000));
    assert_eq!(records[0].key.number, last, "the newest is there");
    let (refusals, others): (Vec<_>, Vec<_>) =
        records.into_iter().partition(|record| record.outcome == AuditOutcome::Refused);
    let others: Vec<_> = others.iter().rev().map(|record| record.key).collect();
    assert_eq!(others, changed, "a flood of refusals leaves what was changed");
    let part = AUDIT_BYTES_MAX / AUDIT_REFUSED_PART;
    assert!(bytes(&refusals) <= part && bytes(&refusals) > part * 9 / 10, "{}", bytes(&refusals));
    assert!(refusals.windows(2).all(|pair| pair[0].key.number == pair[1].key.number + 1), "the oldest went");

    for _ in 0..200 {
        let key = bench.note(AuditWrite::Begun(call("accounts/1", "change"))).await;
        bench.note(AuditWrite::Ended(key, ok())).await;
        changed.push(key);
    }
    bench.reopen();
    let records = bench.records(&everything(1000));
    assert!(bytes(&records) <= AUDIT_BYTES_MAX && bytes(&records) > AUDIT_BYTES_MAX * 9 / 10);
    let kept: Vec<_> = records.iter().rev().map(|record| record.key).collect();
    assert!(changed.ends_with(&kept), "the oldest went, whatever they are");
    bench.note(AuditWrite::Ended(changed[0], ok())).await;
    assert_eq!(bench.records(&everything(1000)), records, "what is gone does not come back");
}

async fn an_account_over_its_share_loses_its_own_oldest<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let mut kept = Vec::new();
    for (account, principal) in [(2, "accessTokens/two"), (3, "accessTokens/three")] {
        for nth in 0..5 {
            let mut change = call(&format!("accounts/{account}"), "change");
            change.principal = principal.to_owned();
            let key = bench.note(AuditWrite::Begun(change.clone())).await;
            bench.note(AuditWrite::Ended(key, ok())).await;
            kept.push(key);
            change.method = format!("refused{nth}");
            kept.push(bench.note(AuditWrite::Refused(change, refused())).await);
        }
    }
    // Of tokens, by the operator: no account has them.
    let key = bench.note(AuditWrite::Begun(call("accessTokens/two", "revoke"))).await;
    bench.note(AuditWrite::Ended(key, ok())).await;
    kept.push(key);
    let mut flooded = Vec::new();
    for nth in 0..400 {
        if nth == 200 {
            bench.reopen();
        }
        // Account 1 changes what it has, is refused, and tries what others have.
        let key = bench.note(AuditWrite::Begun(call("accounts/1/subscriptions/a", "change"))).await;
        bench.note(AuditWrite::Ended(key, ok())).await;
        let mut foreign = call(&format!("accounts/2/subscriptions/{nth}"), "change");
        foreign.account = Some(account(1));
        flooded.extend([key, bench.note(AuditWrite::Refused(foreign, refused())).await]);
    }
    bench.reopen();
    let records = bench.records(&everything(1000));
    let bytes: u64 = records.iter().map(AuditRecord::bytes).sum();
    assert!(bytes <= AUDIT_BYTES_MAX && bytes > AUDIT_BYTES_MAX * 8 / 10, "{bytes}");
    let there: Vec<_> = records.iter().rev().map(|record| record.key).collect();
    assert!(there.starts_with(&kept), "{there:?}");
    let (refusals, changes): (Vec<_>, Vec<_>) = records
        .iter()
        .filter(|record| record.charged_account() == Some(account(1)))
        .partition(|record| record.outcome == AuditOutcome::Refused);
    for left in [refusals, changes] {
        assert!(!left.is_empty() && left.windows(2).all(|pair| pair[0].key.number == pair[1].key.number + 2));
        assert!(
            flooded.ends_with(&[left[0].key]) || flooded[..799].ends_with(&[left[0].key]),
            "the newest is there"
        );
    }
}

async fn repeats_of_what_changed_nothing_are_counted_up<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let name = "accounts/1/subscriptions/a";
    let at = |address: &str| AuditedCall { address: address.to_owned(), ..call(name, "pause") };
    let unchanged = || AuditEnd { unchanged: true, ..ok() };
    let first = bench.note(AuditWrite::Begun(at("127.0.0.1:1"))).await;
    bench.note(AuditWrite::Ended(first, ok())).await;
    let mut noop = AuditKey::default();
    for nth in 0..50 {
        bench.clock.step(10);
        let key = bench.note(AuditWrite::Begun(at(&format!("127.0.0.1:{nth}")))).await;
        bench.note(AuditWrite::Ended(key, unchanged())).await;
        if nth == 0 {
            noop = key;
        }
    }
    bench.reopen();
    let deny = || AuditEnd { code: 7, reason: "SCOPE_DENIED".into(), ..refused() };
    let denied = bench.note(AuditWrite::Refused(call("", "revoke"), deny())).await;
    bench.clock.step(10);
    bench.note(AuditWrite::Refused(call("", "revoke"), AuditEnd { repeats: 8, ..deny() })).await;
    // Another caller, another address and another outcome are no repeats; neither is a change.
    let other = AuditedCall { principal: "accessTokens/other".into(), ..at("127.0.0.1:1") };
    for (call, end) in [(other, unchanged()), (at("127.0.0.2:1"), unchanged()), (at("127.0.0.1:1"), ok())] {
        let key = bench.note(AuditWrite::Begun(call)).await;
        bench.note(AuditWrite::Ended(key, end)).await;
    }
    bench.reopen();
    let records = bench.records(&everything(99));
    let repeats: Vec<_> = records.iter().map(|record| record.repeats).collect();
    assert_eq!(repeats, [0, 0, 0, 9, 49, 0], "{records:#?}");
    let (counted, once) = (&records[4], &records[5]);
    assert_eq!((counted.key, once.key, records[3].key), (noop, first, denied));
    assert_eq!(counted.call.address, "127.0.0.1:0", "the first of them");
    assert!(counted.last_time > counted.end_time && records[3].last_time > records[3].end_time);
    assert_eq!(once.last_time, None);

    // After an hour another record begins, and the number of the last is not given away again.
    bench.clock.step(i64::try_from(AUDIT_REPEATS_FOR.as_micros()).unwrap() + 1);
    let last = bench.note(AuditWrite::Begun(at("127.0.0.1:1"))).await;
    bench.note(AuditWrite::Ended(last, unchanged())).await;
    let records = bench.records(&everything(99));
    assert_eq!((records.len(), records[0].key, records[0].repeats), (7, last, 0));
    // Repeats find the newer one, also once the older one is gone.
    assert_eq!(bench.store.purge_audit(last.time).await.unwrap(), 6);
    let key = bench.note(AuditWrite::Begun(at("127.0.0.1:1"))).await;
    bench.note(AuditWrite::Ended(key, unchanged())).await;
    let records = bench.records(&everything(99));
    assert_eq!((records.len(), records[0].repeats), (1, 1));
    assert_eq!(bench.store.purge_audit(UnixMicros(i64::MAX)).await.unwrap(), 1);
    let next = bench.note(AuditWrite::Refused(at("127.0.0.1:1"), unchanged())).await;
    assert!(next.number > key.number, "what is gone is not counted up");
}

async fn callers_of_other_accounts_are_hidden<E: Engine>(engine: E) {
    let bench = Bench::new(engine);
    let foreign = AuditedCall { account: Some(account(1)), ..call("accounts/2/subscriptions/a", "pause") };
    let deny = AuditEnd { code: 7, reason: "ACCOUNT_DENIED".into(), ..refused() };
    bench.note(AuditWrite::Refused(foreign, deny)).await;
    let own = AuditedCall { account: Some(account(2)), ..call("", "revoke") };
    bench.note(AuditWrite::Refused(own, refused())).await;
    let found = |scope, principal: &str, hides_foreign| {
        let principal = Some(principal.to_owned());
        bench.records(&AuditQuery { scope, principal, hides_foreign, ..everything(9) }).len()
    };
    let (one, two) = (AccountScope::One(account(1)), AccountScope::One(account(2)));
    assert_eq!([found(two, "accessTokens/ci", true), found(two, "accessTokens/ci", false)], [1, 2]);
    assert_eq!([found(two, FOREIGN_PRINCIPAL, true), found(two, FOREIGN_PRINCIPAL, false)], [1, 0]);
    assert_eq!(found(one, "accessTokens/ci", false), 0, "it is about the other account");
}

async fn old_records_are_purged<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let mut keys = Vec::new();
    for nth in 0..6 {
        bench.clock.step(10);
        let note = match nth % 2 {
            0 => AuditWrite::Begun(call("accounts/1", "change")),
            _ => AuditWrite::Refused(call("accounts/1", &format!("change{nth}")), refused()),
        };
        keys.push(bench.note(note).await);
    }
    assert_eq!(bench.store.purge_audit(keys[0].time).await.unwrap(), 0);
    assert_eq!(bench.store.purge_audit(keys[4].time).await.unwrap(), 4);
    assert_eq!(bench.store.purge_audit(keys[4].time).await.unwrap(), 0);
    bench.reopen();
    let left: Vec<_> = bench.records(&everything(9)).into_iter().map(|record| record.key).collect();
    assert_eq!(left, [keys[5], keys[4]]);
    assert_eq!(bench.store.purge_audit(UnixMicros(i64::MAX)).await.unwrap(), 2);
    bench.reopen();
    let next = bench.note(AuditWrite::Begun(call("accounts/1", "change"))).await;
    assert_eq!(next.number, keys[5].number + 1, "no number is given away twice");
}

async fn a_closed_store_notes_nothing<E: Engine>(engine: E) {
    let bench = Bench::new(engine);
    bench.store.close().unwrap();
    let refused = bench.store.audit(AuditWrite::Begun(call("accounts/1", "change"))).await.unwrap_err();
    assert!(matches!(refused, StoreError::Closed));
    assert!(matches!(bench.store.purge_audit(UnixMicros(0)).await, Err(StoreError::Closed)));
}
