//! The unordered lane, step by step.

use std::sync::Arc;

use super::*;
use crate::{
    domain::ids::{AccountId, EventName},
    event::{StoredEvent, samples},
};

const PREFETCH: usize = 4;
const NOW: UnixMicros = UnixMicros(1_000);

fn owed(seq: u64) -> PendingDelivery {
    let account = AccountId::new(1).unwrap();
    let name = EventName { account, id: format!("e{seq}").parse().unwrap() };
    PendingDelivery {
        event: Arc::new(StoredEvent::new(Seq(seq), name, NOW, samples::typical_message(account, 1, 1))),
        attempts: 0,
    }
}

fn page(seqs: std::ops::RangeInclusive<u64>, more: bool) -> PendingPage {
    PendingPage { until: Seq(*seqs.end()), owed: seqs.map(owed).collect(), more }
}

fn drain(lane: &mut UnorderedLane) -> Vec<u64> {
    let mut seqs = Vec::new();
    while let Some(owed) = lane.take(usize::MAX) {
        seqs.push(owed.event.seq.0);
        lane.settled(owed.event.seq, None);
    }
    seqs
}

#[test]
fn events_that_fit_pass_through_in_order() {
    let mut lane = UnorderedLane::up_to_date(Seq(0));
    (1..=4).for_each(|seq| lane.push(owed(seq), PREFETCH));
    assert_eq!(drain(&mut lane), [1, 2, 3, 4]);
    assert!(lane.is_idle());
}

#[test]
fn events_that_do_not_fit_are_read_from_the_store_once() {
    let mut lane = UnorderedLane::up_to_date(Seq(0));
    (1..=6).for_each(|seq| lane.push(owed(seq), PREFETCH));
    assert_eq!(lane.next_read(NOW, PREFETCH), None, "the prefetch is full");
    assert_eq!(drain(&mut lane), [1, 2, 3, 4]);
    let read = lane.next_read(NOW, PREFETCH).unwrap();
    assert_eq!(read.kind, ReadKind::Pending(Seq(4)));
    assert_eq!(lane.next_read(NOW, PREFETCH), None, "one read at a time");
    lane.push(owed(7), PREFETCH); // stored while the read was under way, and seen by it
    lane.take_pending(&read, page(5..=7, false));
    assert_eq!(drain(&mut lane), [5, 6, 7]);
    let read = lane.next_read(NOW, PREFETCH).unwrap();
    lane.take_pending(&read, PendingPage { owed: Vec::new(), until: Seq(7), more: false });
    lane.push(owed(7), PREFETCH); // the feed may lag behind the read
    assert_eq!(drain(&mut lane), [0_u64; 0]);
    lane.push(owed(8), PREFETCH);
    assert_eq!(drain(&mut lane), [8]);
}

#[test]
fn no_more_are_in_flight_than_allowed() {
    let mut lane = UnorderedLane::up_to_date(Seq(0));
    (1..=3).for_each(|seq| lane.push(owed(seq), PREFETCH));
    assert!(lane.take(2).is_some() && lane.take(2).is_some());
    assert!(lane.take(2).is_none());
    lane.settled(Seq(1), None);
    assert_eq!(lane.take(2).unwrap().event.seq, Seq(3));
}

#[test]
fn a_retry_is_read_when_it_is_due_and_not_while_it_is_prefetched() {
    let mut lane = UnorderedLane::up_to_date(Seq(0));
    lane.push(owed(1), PREFETCH);
    lane.take(1).unwrap();
    lane.settled(Seq(1), Some(UnixMicros(NOW.0 + 5)));
    assert!(!lane.is_idle());
    assert_eq!(lane.next_read(NOW, PREFETCH), None, "it is not due yet");
    let later = UnixMicros(NOW.0 + 5);
    let read = lane.next_read(later, PREFETCH).unwrap();
    assert_eq!(read.kind, ReadKind::Due);
    lane.take_due(&read, DuePage { owed: vec![owed(1)], next_due: None });
    assert_eq!(lane.next_read(later, PREFETCH), None);
    lane.take(1).unwrap();
    lane.settled(Seq(1), None);
    assert!(lane.is_idle());
}

#[test]
fn a_delivery_that_ends_during_a_read_is_not_sent_again_and_its_retry_is_kept() {
    let mut lane = UnorderedLane::up_to_date(Seq(0));
    (1..=2).for_each(|seq| lane.push(owed(seq), PREFETCH));
    lane.take(2).unwrap();
    lane.take(2).unwrap();
    lane.settled(Seq(1), Some(NOW));
    let read = lane.next_read(NOW, PREFETCH).unwrap();
    lane.take_due(&read, DuePage { owed: vec![owed(1)], next_due: None });
    lane.take(2).unwrap();
    lane.settled(Seq(2), Some(NOW));
    let read = lane.next_read(NOW, PREFETCH).unwrap();
    // Both are in the store as due when it is read, and then the attempt of the first ends.
    let later = UnixMicros(NOW.0 + 5);
    lane.settled(Seq(1), Some(later));
    lane.take_due(&read, DuePage { owed: vec![owed(1), owed(2)], next_due: None });
    assert_eq!(drain(&mut lane), [2]);
    let read = lane.next_read(later, PREFETCH).unwrap();
    lane.take_due(&read, DuePage { owed: vec![owed(1)], next_due: None });
    assert_eq!(drain(&mut lane), [1]);
    assert!(lane.is_idle());
}

#[test]
fn a_read_of_retries_that_failed_is_made_again() {
    let mut lane = UnorderedLane::with_backlog(Some(NOW));
    let read = lane.next_read(NOW, PREFETCH).unwrap();
    lane.read_failed(&read);
    let again = lane.next_read(NOW, PREFETCH).unwrap();
    assert_eq!(again.kind, ReadKind::Due);
}

#[test]
fn an_unloaded_lane_keeps_nothing_and_reads_everything_again() {
    let mut lane = UnorderedLane::up_to_date(Seq(0));
    (1..=3).for_each(|seq| lane.push(owed(seq), PREFETCH));
    lane.take(1).unwrap();
    lane.feed_lagged();
    lane.settled(Seq(1), None);
    let stale = lane.next_read(NOW, PREFETCH).unwrap();
    lane.unload();
    lane.take_pending(&stale, page(4..=5, false));
    assert_eq!(drain(&mut lane), [0_u64; 0], "what was read before is not taken");
    let due = lane.next_read(NOW, PREFETCH).unwrap();
    assert_eq!(due.kind, ReadKind::Due);
    lane.take_due(&due, DuePage { owed: Vec::new(), next_due: None });
    let read = lane.next_read(NOW, PREFETCH).unwrap();
    assert_eq!(read.kind, ReadKind::Pending(Seq(0)));
    lane.take_pending(&read, page(2..=5, false));
    assert_eq!(drain(&mut lane), [2, 3, 4, 5]);
}

#[test]
fn replayed_deliveries_are_read_again_and_none_twice() {
    let mut lane = UnorderedLane::up_to_date(Seq(0));
    (1..=4).for_each(|seq| lane.push(owed(seq), PREFETCH));
    for seq in 1..=2 {
        lane.take(4).unwrap();
        lane.settled(Seq(seq), None);
    }
    lane.take(4).unwrap();
    // 3 is under way and 4 queued; 2 became owed again.
    lane.requeued(Seq(2));
    let due = lane.next_read(NOW, PREFETCH).unwrap();
    assert_eq!(due.kind, ReadKind::Due);
    lane.take_due(&due, DuePage { owed: vec![], next_due: None });
    let read = lane.next_read(NOW, PREFETCH).unwrap();
    assert_eq!(read.kind, ReadKind::Pending(Seq(1)));
    lane.take_pending(&read, page(2..=4, false));
    assert_eq!(drain(&mut lane), [4, 2]);
}

#[test]
fn a_delivery_replayed_during_its_attempt_is_found_when_that_ends() {
    for report in [
        (|lane: &mut UnorderedLane| lane.requeued(Seq(1))) as fn(&mut UnorderedLane),
        |lane| lane.retry_requested(Seq(1), NOW),
        UnorderedLane::feed_lagged,
    ] {
        let mut lane = UnorderedLane::up_to_date(Seq(0));
        lane.push(owed(1), PREFETCH);
        lane.take(1).unwrap();
        report(&mut lane);
        // The store has it as owed again already; the lane does not know that the attempt is over.
        while let Some(read) = lane.next_read(NOW, PREFETCH) {
            match read.kind {
                ReadKind::Due => lane.take_due(&read, DuePage { owed: vec![owed(1)], next_due: None }),
                _ => lane.take_pending(&read, PendingPage { owed: vec![], until: Seq(1), more: false }),
            }
        }
        lane.settled(Seq(1), None);
        let read = lane.next_read(NOW, PREFETCH).unwrap();
        assert_eq!(read.kind, ReadKind::Due);
        lane.take_due(&read, DuePage { owed: vec![owed(1)], next_due: None });
        assert_eq!(drain(&mut lane), [1]);
    }
}

#[test]
fn a_read_from_before_a_replay_is_ignored() {
    let mut lane = UnorderedLane::up_to_date(Seq(9));
    lane.feed_lagged();
    let due = lane.next_read(NOW, PREFETCH).unwrap();
    lane.take_due(&due, DuePage { owed: vec![], next_due: None });
    let stale = lane.next_read(NOW, PREFETCH).unwrap();
    assert_eq!(stale.kind, ReadKind::Pending(Seq(9)));
    lane.requeued(Seq(3));
    lane.take_pending(&stale, PendingPage { owed: vec![], until: Seq(20), more: false });
    let due = lane.next_read(NOW, PREFETCH).unwrap();
    lane.take_due(&due, DuePage { owed: vec![], next_due: None });
    assert_eq!(lane.next_read(NOW, PREFETCH).unwrap().kind, ReadKind::Pending(Seq(2)));
}

#[test]
fn a_cancelled_delivery_leaves_the_prefetch() {
    let mut lane = UnorderedLane::up_to_date(Seq(0));
    (1..=5).for_each(|seq| lane.push(owed(seq), PREFETCH));
    lane.cancelled(Seq(2));
    lane.cancelled(Seq(4));
    assert_eq!(lane.prefetch_bytes(), owed(1).event.memory_bytes() + owed(3).event.memory_bytes());
    assert_eq!(drain(&mut lane), [1, 3]);
    let read = lane.next_read(NOW, PREFETCH).unwrap();
    // The store reads 6 before it is cancelled, and the lane gets the page afterwards.
    lane.cancelled(Seq(6));
    lane.take_pending(&read, page(5..=6, false));
    assert_eq!(drain(&mut lane), [5]);
    assert!(lane.is_idle());
}

#[test]
fn a_full_prefetch_is_read_again_after_the_feed_lagged() {
    let mut lane = UnorderedLane::up_to_date(Seq(0));
    (1..=6).for_each(|seq| lane.push(owed(seq), PREFETCH));
    assert_eq!(lane.take(1).unwrap().event.seq, Seq(1));
    // 3 was cancelled, and so was 5, and the feed lost both.
    lane.feed_lagged();
    assert!(!lane.can_take(8), "nothing is sent before it is read again");
    assert_eq!(lane.prefetch_bytes(), 0);
    let due = lane.next_read(NOW, PREFETCH).unwrap();
    lane.take_due(&due, DuePage { owed: vec![], next_due: None });
    let read = lane.next_read(NOW, PREFETCH).unwrap();
    assert_eq!(read.kind, ReadKind::Pending(Seq(1)));
    let rest = [2, 4, 6].map(owed).into();
    lane.take_pending(&read, PendingPage { owed: rest, until: Seq(6), more: false });
    lane.settled(Seq(1), None);
    let retry = lane.next_read(NOW, PREFETCH);
    assert_eq!(retry, None, "more than half of the prefetch is taken");
    assert_eq!(drain(&mut lane), [2, 4, 6]);
}

#[test]
fn a_read_under_way_when_the_feed_lagged_is_made_again() {
    let mut lane = UnorderedLane::with_backlog(None);
    let stale = lane.next_read(NOW, PREFETCH).unwrap();
    lane.feed_lagged();
    lane.take_pending(&stale, page(1..=2, false));
    assert!(!lane.can_take(8));
    let due = lane.next_read(NOW, PREFETCH).unwrap();
    lane.take_due(&due, DuePage { owed: vec![], next_due: None });
    let read = lane.next_read(NOW, PREFETCH).unwrap();
    lane.take_pending(&read, page(2..=2, false));
    assert_eq!(drain(&mut lane), [2]);
}
