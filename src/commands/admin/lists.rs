//! Lists: all pages of one, and again from time to time with `--watch`.

use std::{collections::HashMap, time::Duration};

use prost::{Message, Name};
use tokio::time::sleep;

use super::{gateway::Gateway, output::Resource};
use crate::commands::{ending::Ending, print_error};

/// The wait between two looks with `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// Most resources in one page.
const PAGE_MAX: usize = 1000;
/// Most resources of a list that may be very long, unless `--limit` says otherwise.
pub(super) const LATEST: usize = 100;
/// No bound on a list.
pub(super) const ALL: usize = 0;

/// How much of a list is shown, and for how long.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct ListArguments {
    /// Most resources to show; 0 for all. [default: 100 of events, deliveries and audit records, else all]
    #[arg(long, short = 'n', value_name = "COUNT")]
    limit: Option<usize>,
    /// Show again what is new or has changed, every two seconds, until a signal.
    #[arg(long, short = 'w')]
    watch: bool,
}

/// The response of a list.
pub(super) trait Page: Message + Name + Default {
    /// The listed resources.
    type Item: Resource;

    /// Those of this page.
    fn items(&mut self) -> &mut Vec<Self::Item>;

    /// The token of the next page. Empty on the last one.
    fn next_page_token(&mut self) -> &mut String;

    /// Adds the page after this one.
    fn append(&mut self, mut next: Self) {
        self.items().append(next.items());
        *self.next_page_token() = std::mem::take(next.next_page_token());
    }
}

/// Prints a list. `fetch` reads the page of this size with this token.
///
/// # Errors
///
/// A call fails, standard output cannot be written, or a signal ends the command.
pub(super) async fn list<P: Page>(
    gateway: &Gateway,
    arguments: ListArguments,
    limit_default: usize,
    fetch: impl AsyncFn(i32, String) -> Result<P, Ending>,
) -> Result<(), Ending> {
    let limit = match arguments.limit.unwrap_or(limit_default) {
        ALL => usize::MAX,
        limit => limit,
    };
    if arguments.watch {
        return watch(gateway, limit, fetch).await;
    }
    let mut page = collect(limit, &fetch).await?;
    let items = std::mem::take(page.items());
    if !page.next_page_token().is_empty() && gateway.output.is_table() {
        print_error(format_args!("There may be more than these {}: see --limit.", items.len()));
    }
    page.items().clone_from(&items);
    gateway.output.page(&page, &items)
}

/// The pages up to a limit as one page. Its token is set if there are more.
async fn collect<P: Page>(
    limit: usize,
    fetch: &impl AsyncFn(i32, String) -> Result<P, Ending>,
) -> Result<P, Ending> {
    let mut all = P::default();
    loop {
        let size = limit.saturating_sub(all.items().len()).min(PAGE_MAX);
        let size = i32::try_from(size).expect("a page has at most a thousand");
        let token = all.next_page_token().clone();
        all.append(fetch(size, token).await?);
        if all.next_page_token().is_empty() || all.items().len() >= limit {
            return Ok(all);
        }
    }
}

async fn watch<P: Page>(
    gateway: &Gateway,
    limit: usize,
    fetch: impl AsyncFn(i32, String) -> Result<P, Ending>,
) -> Result<(), Ending> {
    let mut shown: HashMap<String, P::Item> = HashMap::new();
    let mut is_first = true;
    loop {
        let mut page = collect(limit, &fetch).await?;
        let items = std::mem::take(page.items());
        let is_new = |item: &P::Item| shown.get(&item.id()) != Some(item);
        let changed: Vec<_> = items.iter().filter(|item| is_new(item)).cloned().collect();
        if is_first || !changed.is_empty() {
            gateway.output.changed(&changed, is_first)?;
        }
        shown = items.into_iter().map(|item| (item.id(), item)).collect();
        is_first = false;
        if gateway.shutdown.run_until_cancelled(sleep(WATCH_INTERVAL)).await.is_none() {
            return Err(Ending::Interrupted);
        }
    }
}
