//! Conformance: audit records.

use super::{Bench, Engine, account};
use crate::{
    domain::{
        audit::{AuditEnd, AuditKey, AuditOutcome, AuditRecord, AuditSubject, AuditedCall},
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
    AuditedCall { principal, address, method: method.into(), subject }
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
    let time = TimeRange::default();
    AuditQuery { scope: AccountScope::All, resource, principal, method, time, before, limit }
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
    let third = bench.note(AuditWrite::Refused(delete.clone(), refused())).await;
    assert_eq!(third.number, second.number + 1, "an end has no number of its own");
    bench.reopen();
    let now = third.time;
    let expected = [
        AuditRecord::begun(third, delete.clone()).ended(refused(), now),
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
    for _ in 0..200 {
        let key = bench.note(AuditWrite::Begun(call("accounts/1", "flood"))).await;
        bench.note(AuditWrite::Ended(key, refused())).await;
        last = bench.note(AuditWrite::Refused(call("accounts/1", "flood"), refused())).await.number;
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

async fn old_records_are_purged<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let mut keys = Vec::new();
    for nth in 0..6 {
        bench.clock.step(10);
        let note = match nth % 2 {
            0 => AuditWrite::Begun(call("accounts/1", "change")),
            _ => AuditWrite::Refused(call("accounts/1", "change"), refused()),
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
