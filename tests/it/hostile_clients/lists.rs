//! Many lists at once. With default settings.

use tidings::proto::v1;
use tokio::task::JoinSet;

use super::{Attacked, Tried};
use crate::support::{events::long_message, process::Launcher};

/// The account whose events are large.
const LARGE: i64 = 2;
/// Lists on one connection, all at once.
const LISTS: u32 = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_lists_at_once_take_the_memory_of_a_few_and_all_get_their_page() {
    let attacked = Attacked::start(&Launcher::new()).await;
    for number in 1..=16 {
        attacked.healthy.publish(LARGE, long_message(LARGE, 1, number, 250_000)).await;
    }
    let lists = attacked.gateway.another_client().await.events;
    let tried = attacked
        .under("100 lists of 1 MiB", 0, |_, _| async move {
            let mut calls = JoinSet::new();
            for _ in 0..LISTS {
                let mut lists = lists.clone();
                calls.spawn(async move {
                    let parent = format!("accounts/{LARGE}");
                    let request = v1::ListEventsRequest { parent, page_size: 1000, ..Default::default() };
                    lists.list_events(request).await
                });
            }
            let mut tried = Tried::default();
            while let Some(listed) = calls.join_next().await {
                let refused = listed.unwrap().is_err();
                tried += Tried { tries: 1, refused: refused.into() };
            }
            tried
        })
        .await;
    assert_eq!((tried.tries, tried.refused), (u64::from(LISTS), 0));
    attacked.end().await;
}
