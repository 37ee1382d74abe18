//! `tidings replay`: counts the stored events, asks, and queues them again for one subscription.

use std::io::{self, BufRead, IsTerminal};

use anyhow::{Context, anyhow};

use super::{
    Administer, choices::one_of, deliveries::client, errors::FlagNames, gateway::Gateway, output::counted,
    times::When,
};
use crate::{
    commands::{ending::Ending, print_error},
    proto::v1::{ReplayDeliveriesRequest, ReplayDeliveriesResponse},
};

const FLAGS: FlagNames = &[("parent", "SUBSCRIPTION"), ("event_types", "--type"), ("states", "--state")];
/// Events that one call queues.
const PAGE_SIZE: i32 = 10_000;

/// Which events.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Arguments {
    /// Subscription: its id, or its whole name.
    subscription: String,
    /// Only events stored at this time or later, such as 24h or 2026-11-30.
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    since: When,
    /// Only events stored before this time. [default: now]
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    until: Option<When>,
    /// Only events of these types, separated by commas.
    #[arg(long = "type", short = 't', value_name = "TYPES", value_delimiter = ',', value_parser = one_of("tidings.v1.EventType"), hide_possible_values = true)]
    types: Vec<i32>,
    /// Only events whose delivery is in one of these states. [default: failed and cancelled ones, and events without a delivery]
    #[arg(long = "state", short = 's', value_name = "STATES", value_delimiter = ',', value_parser = one_of("tidings.v1.Delivery.State"))]
    states: Vec<i32>,
    /// Do not ask.
    #[arg(long, short = 'y')]
    yes: bool,
    /// Only count.
    #[arg(long, conflicts_with = "yes")]
    validate_only: bool,
}

impl Administer for Arguments {
    async fn run(self, gateway: &Gateway) -> Result<(), Ending> {
        let now = gateway.now();
        let request = ReplayDeliveriesRequest {
            parent: gateway.subscription(&self.subscription)?,
            start_time: Some(self.since.before(now)),
            // The end is fixed: events that are stored meanwhile were not counted.
            end_time: Some(self.until.map_or_else(|| now.into(), |time| time.before(now))),
            event_types: self.types.clone(),
            states: self.states.clone(),
            page_size: PAGE_SIZE,
            ..ReplayDeliveriesRequest::default()
        };
        let counting = ReplayDeliveriesRequest { validate_only: true, ..request.clone() };
        let count = replay(gateway, counting).await?;
        let name = request.parent.clone();
        if self.validate_only {
            return gateway.output.change(
                &count,
                &name,
                &format!("would get {} again", counted(count.replayed_count(), "event")),
            );
        }
        if !self.yes && count.replayed_count() > 0 {
            confirm(&name, &count)?;
        }
        let done = if count.replayed_count() > 0 { replay(gateway, request).await? } else { count };
        gateway.output.change(
            &done,
            &name,
            &format!("gets {} again", counted(done.replayed_count(), "event")),
        )
    }
}

/// Queues, or counts, page by page.
async fn replay(
    gateway: &Gateway,
    mut request: ReplayDeliveriesRequest,
) -> Result<ReplayDeliveriesResponse, Ending> {
    let mut total = ReplayDeliveriesResponse::default();
    loop {
        let mut client = client(gateway);
        let calling = client.replay_deliveries(gateway.request(request.clone()));
        let page = match gateway.call(FLAGS, calling).await {
            Ok(page) => page,
            Err(ending) => {
                if total.replayed_count() > 0 && !request.validate_only {
                    print_error(format_args!(
                        "{} queued; repeat the command for the rest",
                        counted(total.replayed_count(), "event")
                    ));
                }
                return Err(ending);
            }
        };
        total.replayed_count = Some(total.replayed_count().saturating_add(page.replayed_count()));
        if page.next_page_token.is_empty() {
            return Ok(total);
        }
        request.page_token = page.next_page_token;
    }
}

/// Asks on the terminal.
fn confirm(name: &str, count: &ReplayDeliveriesResponse) -> Result<(), Ending> {
    let question = format!("{} would be sent to {name} again.", counted(count.replayed_count(), "event"));
    if !io::stdin().is_terminal() {
        return Err(Ending::Misused(anyhow!("{question} Nobody can be asked: use --yes")));
    }
    print_error(format_args!("{question} Type yes to go on:"));
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context("cannot read the answer").map_err(Ending::Failed)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Ending::Failed(anyhow!("nothing was queued"))),
    }
}
