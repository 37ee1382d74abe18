//! Who gets permits, how many, and in which order.

use proptest::prelude::*;

use super::*;

const MAX: usize = 64;

fn key(number: u64) -> SubscriptionKey {
    SubscriptionKey(number)
}

/// The account of a subscription: a hundred have one in common.
fn account(number: u64) -> AccountId {
    AccountId::new(i64::try_from(number / 100).unwrap() + 1).unwrap()
}

fn enqueue(scheduler: &mut FairScheduler, number: u64) {
    scheduler.enqueue(key(number), account(number));
}

fn acquire(scheduler: &mut FairScheduler, number: u64) {
    scheduler.acquire(key(number), account(number));
}

/// Gives permits as long as there are some, to subscriptions that always want more.
fn serve(scheduler: &mut FairScheduler) -> Vec<u64> {
    let mut served = Vec::new();
    while let Some(next) = scheduler.next() {
        acquire(scheduler, next.0);
        enqueue(scheduler, next.0);
        served.push(next.0);
    }
    served
}

/// The subscription has had a success.
fn succeed(scheduler: &mut FairScheduler, number: u64) {
    acquire(scheduler, number);
    scheduler.release(key(number), true);
}

/// Permits of an account that are in use.
fn in_flight(scheduler: &FairScheduler, number: u64) -> usize {
    scheduler.accounts.get(&account(number)).map_or(0, |share| share.in_flight)
}

#[test]
fn an_account_alone_has_half() {
    let mut scheduler = FairScheduler::new(MAX);
    succeed(&mut scheduler, 1);
    enqueue(&mut scheduler, 1);
    assert_eq!(serve(&mut scheduler), [1; MAX / 2]);
    (2..10).for_each(|number| succeed(&mut scheduler, number));
    (2..10).for_each(|number| enqueue(&mut scheduler, number));
    assert_eq!(scheduler.next(), None, "not even first ones");
}

#[test]
fn past_half_an_account_has_a_quarter_and_a_subscription_an_eighth() {
    let mut scheduler = FairScheduler::new(MAX);
    for number in [1, 100, 200, 201] {
        succeed(&mut scheduler, number);
        enqueue(&mut scheduler, number);
        serve(&mut scheduler);
    }
    let of_accounts = [1, 100, 200].map(|number| in_flight(&scheduler, number));
    assert_eq!(of_accounts, [MAX / 2, MAX / 8, MAX / 4]);
    assert_eq!(scheduler.lanes[&key(200)].in_flight, MAX / 8);
    while in_flight(&scheduler, 1) > MAX / 8 {
        scheduler.release(key(1), true);
        assert_eq!(scheduler.next(), None, "it gets nothing until it is down to its share");
    }
}

#[test]
fn accounts_take_turns_and_so_do_their_subscriptions() {
    let mut scheduler = FairScheduler::new(MAX);
    let numbers: Vec<u64> = (0..30).chain([100, 200]).collect();
    numbers.iter().for_each(|number| succeed(&mut scheduler, *number));
    numbers.iter().for_each(|number| enqueue(&mut scheduler, *number));
    let first: Vec<_> = (0..6)
        .map(|_| {
            let next = scheduler.next().unwrap().0;
            acquire(&mut scheduler, next);
            enqueue(&mut scheduler, next);
            next
        })
        .collect();
    assert_eq!(first, [0, 100, 200, 1, 2, 3], "then the rest of the first ones");
    serve(&mut scheduler);
    let of_accounts = [0, 100, 200].map(|number| in_flight(&scheduler, number));
    assert_eq!(
        of_accounts,
        [30, MAX / 8, MAX / 8],
        "a first one each, and others what a subscription may have"
    );
}

#[test]
fn a_subscription_without_a_permit_and_an_account_without_one_get_theirs_at_once() {
    let mut scheduler = FairScheduler::new(MAX);
    for number in [0, 100, 200] {
        (number..number + 4).for_each(|number| succeed(&mut scheduler, number));
        (number..number + 2).for_each(|number| enqueue(&mut scheduler, number));
        serve(&mut scheduler);
    }
    assert_eq!(scheduler.used, MAX - MAX / 16, "a sixteenth is kept");
    (202..205).for_each(|number| enqueue(&mut scheduler, number));
    assert_eq!(serve(&mut scheduler).len(), 2, "half of it is for first ones");
    [402, 403, 502].iter().for_each(|number| enqueue(&mut scheduler, *number));
    assert_eq!(serve(&mut scheduler), [402, 502], "and half for accounts that have nothing");
    assert_eq!(scheduler.used, MAX);
    scheduler.release(key(0), true);
    assert_eq!(scheduler.next(), None);
    enqueue(&mut scheduler, 600);
    assert_eq!(scheduler.next(), Some(key(600)));
}

#[test]
fn endpoints_that_hang_use_no_more_than_their_share() {
    let mut scheduler = FairScheduler::new(MAX);
    succeed(&mut scheduler, 900);
    (0..100).for_each(|number| enqueue(&mut scheduler, number));
    assert_eq!(serve(&mut scheduler).len(), MAX / 2, "of one account");
    (100..900).for_each(|number| enqueue(&mut scheduler, number));
    assert_eq!(serve(&mut scheduler).len(), MAX / 4, "of all");
    enqueue(&mut scheduler, 900);
    assert_eq!(serve(&mut scheduler), [900; MAX / 8], "the rest is for healthy subscriptions");
    (910..920).for_each(|number| succeed(&mut scheduler, number));
    (910..920).for_each(|number| enqueue(&mut scheduler, number));
    assert_eq!(serve(&mut scheduler), (910..916).collect::<Vec<_>>());
}

#[test]
fn subscriptions_that_hang_or_are_slow_leave_other_slow_ones_more_than_a_first() {
    let mut scheduler = FairScheduler::new(MAX);
    (0..5).for_each(|number| enqueue(&mut scheduler, number));
    assert_eq!(serve(&mut scheduler).len(), MAX / 4);
    enqueue(&mut scheduler, 100);
    assert_eq!(serve(&mut scheduler), [100; MAX / 8]);
    assert_eq!(in_flight(&scheduler, 0), MAX / 4);
}

#[test]
fn a_subscription_that_begins_to_hang_loses_its_share_and_gets_it_back() {
    let mut scheduler = FairScheduler::new(MAX);
    succeed(&mut scheduler, 1);
    enqueue(&mut scheduler, 1);
    serve(&mut scheduler);
    (0..MAX / 4).for_each(|_| scheduler.release(key(1), false));
    assert_eq!(scheduler.next(), None, "it uses a quarter");
    enqueue(&mut scheduler, 2);
    assert_eq!(serve(&mut scheduler), [2], "its account gets first ones");
    scheduler.release(key(1), true);
    assert!(serve(&mut scheduler).contains(&1));
}

#[test]
fn a_slow_success_is_not_healthy() {
    assert!(FairScheduler::is_healthy_after(true, SLOW_AFTER));
    assert!(!FairScheduler::is_healthy_after(true, SLOW_AFTER + Duration::from_millis(1)));
    assert!(!FairScheduler::is_healthy_after(false, Duration::ZERO));
}

#[test]
fn the_smallest_schedulers_serve() {
    for max in 1..16 {
        let mut scheduler = FairScheduler::new(max);
        for number in [0, 1, 100] {
            enqueue(&mut scheduler, number);
        }
        let served = serve(&mut scheduler);
        assert!(!served.is_empty() && served.len() <= max, "{max}: {served:?}");
    }
}

proptest! {
    #[test]
    fn permits_add_up_and_no_subscription_is_forgotten(
        steps in proptest::collection::vec((0_u64..6, 0_u8..5), 0..400)
    ) {
        let number = |number: u64| number * 60;
        let mut scheduler = FairScheduler::new(8);
        let mut in_flight: Vec<u64> = Vec::new();
        for (subscription, step) in steps {
            let subscription = number(subscription);
            match step {
                0 | 1 => enqueue(&mut scheduler, subscription),
                2 => {
                    if let Some(next) = scheduler.next() {
                        acquire(&mut scheduler, next.0);
                        in_flight.push(next.0);
                    }
                }
                3 => {
                    if let Some(at) = in_flight.iter().position(|in_flight| *in_flight == subscription) {
                        in_flight.remove(at);
                        scheduler.release(key(subscription), at % 2 == 0);
                    }
                }
                _ => scheduler.forget(key(subscription)),
            }
            prop_assert_eq!(scheduler.used, in_flight.len());
            prop_assert!(scheduler.used <= 8 && scheduler.used_unhealthy <= scheduler.used);
            let is_unhealthy = |number: &&u64| !scheduler.healthy.contains(&key(**number));
            let unhealthy = in_flight.iter().filter(is_unhealthy).count();
            prop_assert_eq!(scheduler.used_unhealthy, unhealthy);
            let of_accounts: usize = scheduler.accounts.values().map(|share| share.in_flight).sum();
            prop_assert_eq!(scheduler.used, of_accounts);
            let waits = |share: &AccountShare| share.lanes.iter().map(BTreeMap::len).sum::<usize>();
            prop_assert_eq!(scheduler.waiting, scheduler.accounts.values().map(waits).sum::<usize>());
        }
        for number in in_flight {
            scheduler.release(key(number), true);
        }
        (0..6).for_each(|subscription| enqueue(&mut scheduler, number(subscription)));
        let mut served = Vec::new();
        while let Some(next) = scheduler.next() {
            served.push(next.0);
            acquire(&mut scheduler, next.0);
            scheduler.release(next, true);
        }
        served.sort_unstable();
        prop_assert_eq!(served, (0..6).map(number).collect::<Vec<_>>());
        prop_assert!(scheduler.accounts.is_empty() && scheduler.lanes.is_empty());
        prop_assert!(scheduler.turns.iter().all(BTreeMap::is_empty));
    }
}
