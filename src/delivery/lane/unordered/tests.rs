//! The unordered lane, step by step.

use std::sync::Arc;

use super::*;
use crate::{
    domain::ids::{AccountId, EventName},
    event::{StoredEvent, samples},
};

const WINDOW: usize = 4;
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
fn what_fits_goes_straight_through_in_order() {
    let mut lane = UnorderedLane::up_to_date(Seq(0));
    (1..=4).for_each(|seq| lane.offer(owed(seq), WINDOW));
    assert_eq!(drain(&mut lane), [1, 2, 3, 4]);
    assert!(lane.is_idle());
}

#[test]
fn what_does_not_fit_is_read_on_from_the_store_and_nothing_twice() {
    let mut lane = UnorderedLane::up_to_date(Seq(0));
    (1..=6).for_each(|seq| lane.offer(owed(seq), WINDOW));
    assert_eq!(lane.next_read(NOW, WINDOW), None, "the window is full");
    assert_eq!(drain(&mut lane), [1, 2, 3, 4]);
    let read = lane.next_read(NOW, WINDOW).unwrap();
    assert_eq!(read.kind, ReadKind::Pending(Seq(4)));
    assert_eq!(lane.next_read(NOW, WINDOW), None, "one read at a time");
    lane.offer(owed(7), WINDOW); // stored while the read was under way, and seen by it
    lane.take_pending(&read, page(5..=7, false));
    assert_eq!(drain(&mut lane), [5, 6, 7]);
    let read = lane.next_read(NOW, WINDOW).unwrap();
    lane.take_pending(&read, PendingPage { owed: Vec::new(), until: Seq(7), more: false });
    lane.offer(owed(7), WINDOW); // the feed may lag behind the read
    assert_eq!(drain(&mut lane), [0_u64; 0]);
    lane.offer(owed(8), WINDOW);
    assert_eq!(drain(&mut lane), [8]);
}

#[test]
fn no_more_are_in_flight_than_allowed() {
    let mut lane = UnorderedLane::up_to_date(Seq(0));
    (1..=3).for_each(|seq| lane.offer(owed(seq), WINDOW));
    assert!(lane.take(2).is_some() && lane.take(2).is_some());
    assert!(lane.take(2).is_none());
    lane.settled(Seq(1), None);
    assert_eq!(lane.take(2).unwrap().event.seq, Seq(3));
}

#[test]
fn a_retry_is_read_when_it_is_due_and_not_while_it_is_held() {
    let mut lane = UnorderedLane::up_to_date(Seq(0));
    lane.offer(owed(1), WINDOW);
    lane.take(1).unwrap();
    lane.settled(Seq(1), Some(UnixMicros(NOW.0 + 5)));
    assert!(!lane.is_idle());
    assert_eq!(lane.next_read(NOW, WINDOW), None, "it is not due yet");
    let later = UnixMicros(NOW.0 + 5);
    let read = lane.next_read(later, WINDOW).unwrap();
    assert_eq!(read.kind, ReadKind::Due);
    lane.take_due(&read, DuePage { owed: vec![owed(1)], next_due: None });
    assert_eq!(lane.next_read(later, WINDOW), None);
    lane.take(1).unwrap();
    lane.settled(Seq(1), None);
    assert!(lane.is_idle());
}

#[test]
fn what_ends_during_a_read_is_not_sent_again_and_its_retry_is_not_forgotten() {
    let mut lane = UnorderedLane::up_to_date(Seq(0));
    (1..=2).for_each(|seq| lane.offer(owed(seq), WINDOW));
    lane.take(2).unwrap();
    lane.take(2).unwrap();
    lane.settled(Seq(1), Some(NOW));
    let read = lane.next_read(NOW, WINDOW).unwrap();
    lane.take_due(&read, DuePage { owed: vec![owed(1)], next_due: None });
    lane.take(2).unwrap();
    lane.settled(Seq(2), Some(NOW));
    let read = lane.next_read(NOW, WINDOW).unwrap();
    // Both are in the store as due when it is read, and then the attempt of the first ends.
    let later = UnixMicros(NOW.0 + 5);
    lane.settled(Seq(1), Some(later));
    lane.take_due(&read, DuePage { owed: vec![owed(1), owed(2)], next_due: None });
    assert_eq!(drain(&mut lane), [2]);
    let read = lane.next_read(later, WINDOW).unwrap();
    lane.take_due(&read, DuePage { owed: vec![owed(1)], next_due: None });
    assert_eq!(drain(&mut lane), [1]);
    assert!(lane.is_idle());
}

#[test]
fn a_read_of_retries_that_failed_is_made_again() {
    let mut lane = UnorderedLane::behind(Some(NOW));
    let read = lane.next_read(NOW, WINDOW).unwrap();
    lane.read_failed(&read);
    let again = lane.next_read(NOW, WINDOW).unwrap();
    assert_eq!(again.kind, ReadKind::Due);
}

#[test]
fn a_parked_lane_keeps_nothing_and_reads_everything_again() {
    let mut lane = UnorderedLane::up_to_date(Seq(0));
    (1..=3).for_each(|seq| lane.offer(owed(seq), WINDOW));
    lane.take(1).unwrap();
    lane.missed();
    lane.settled(Seq(1), None);
    let stale = lane.next_read(NOW, WINDOW).unwrap();
    lane.park();
    lane.take_pending(&stale, page(4..=5, false));
    assert_eq!(drain(&mut lane), [0_u64; 0], "what was read before is not taken");
    let due = lane.next_read(NOW, WINDOW).unwrap();
    assert_eq!(due.kind, ReadKind::Due);
    lane.take_due(&due, DuePage { owed: Vec::new(), next_due: None });
    let read = lane.next_read(NOW, WINDOW).unwrap();
    assert_eq!(read.kind, ReadKind::Pending(Seq(0)));
    lane.take_pending(&read, page(2..=5, false));
    assert_eq!(drain(&mut lane), [2, 3, 4, 5]);
}

#[test]
fn what_is_requeued_is_read_again_and_nothing_that_is_held_twice() {
    let mut lane = UnorderedLane::up_to_date(Seq(0));
    (1..=4).for_each(|seq| lane.offer(owed(seq), WINDOW));
    for seq in 1..=2 {
        lane.take(4).unwrap();
        lane.settled(Seq(seq), None);
    }
    lane.take(4).unwrap();
    // 3 is under way and 4 queued; 2 became owed again.
    lane.requeued(Seq(2));
    let due = lane.next_read(NOW, WINDOW).unwrap();
    assert_eq!(due.kind, ReadKind::Due);
    lane.take_due(&due, DuePage { owed: vec![], next_due: None });
    let read = lane.next_read(NOW, WINDOW).unwrap();
    assert_eq!(read.kind, ReadKind::Pending(Seq(1)));
    lane.take_pending(&read, page(2..=4, false));
    assert_eq!(drain(&mut lane), [4, 2]);
}

#[test]
fn what_is_requeued_while_it_is_under_way_is_found_once_that_is_over() {
    for tell in [
        (|lane: &mut UnorderedLane| lane.requeued(Seq(1))) as fn(&mut UnorderedLane),
        |lane| lane.made_due(Seq(1), NOW),
        UnorderedLane::missed,
    ] {
        let mut lane = UnorderedLane::up_to_date(Seq(0));
        lane.offer(owed(1), WINDOW);
        lane.take(1).unwrap();
        tell(&mut lane);
        // The store has it as owed again already; the lane does not know that the attempt is over.
        while let Some(read) = lane.next_read(NOW, WINDOW) {
            match read.kind {
                ReadKind::Due => lane.take_due(&read, DuePage { owed: vec![owed(1)], next_due: None }),
                _ => lane.take_pending(&read, PendingPage { owed: vec![], until: Seq(1), more: false }),
            }
        }
        lane.settled(Seq(1), None);
        let read = lane.next_read(NOW, WINDOW).unwrap();
        assert_eq!(read.kind, ReadKind::Due);
        lane.take_due(&read, DuePage { owed: vec![owed(1)], next_due: None });
        assert_eq!(drain(&mut lane), [1]);
    }
}

#[test]
fn a_read_from_before_a_requeue_does_not_count() {
    let mut lane = UnorderedLane::up_to_date(Seq(9));
    lane.missed();
    let due = lane.next_read(NOW, WINDOW).unwrap();
    lane.take_due(&due, DuePage { owed: vec![], next_due: None });
    let stale = lane.next_read(NOW, WINDOW).unwrap();
    assert_eq!(stale.kind, ReadKind::Pending(Seq(9)));
    lane.requeued(Seq(3));
    lane.take_pending(&stale, PendingPage { owed: vec![], until: Seq(20), more: false });
    let due = lane.next_read(NOW, WINDOW).unwrap();
    lane.take_due(&due, DuePage { owed: vec![], next_due: None });
    assert_eq!(lane.next_read(NOW, WINDOW).unwrap().kind, ReadKind::Pending(Seq(2)));
}
