//! `tidings deliveries`.

use clap::Subcommand;
use tonic::transport::Channel;

use super::{
    Administer,
    choices::{enumeration, one_of, short},
    errors::FlagNames,
    gateway::{Gateway, MESSAGE_BYTES_MAX},
    lists::{self, ListArguments, Page, list},
    names,
    output::Resource,
    times::{self, When},
};
use crate::{
    commands::{ending::Ending, print_error},
    domain::ids::AccountScope,
    proto::v1::{
        CancelDeliveryRequest, Delivery, GetDeliveryRequest, ListDeliveriesRequest, ListDeliveriesResponse,
        RetryDeliveryRequest, WatchDeliveriesRequest, WatchDeliveriesResponse,
        delivery_service_client::DeliveryServiceClient,
    },
};

const FLAGS: FlagNames = &[
    ("name", "DELIVERY"),
    ("parent", "SUBSCRIPTION"),
    ("states", "--state"),
    ("event", "--event"),
    ("event_types", "--type"),
    ("http_status_classes", "--status-class"),
    ("outcomes", "--outcome"),
];

/// What to do with deliveries.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum Action {
    /// List deliveries, the latest first.
    #[command(visible_alias = "ls")]
    List(ListOptions),
    /// Show one delivery with its attempts.
    Get(One),
    /// Print every change of a delivery's state, until a signal.
    Tail(Tail),
    /// Make an attempt now.
    Retry(One),
    /// End a delivery: no further attempt is made.
    Cancel(One),
}

/// Which deliveries.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ListOptions {
    /// Subscription, or the whole name of a sink of notices. Without one the deliveries of all subscriptions.
    subscription: Option<String>,
    /// Only deliveries in one of these states.
    #[arg(long = "state", short = 's', value_name = "STATES", value_delimiter = ',', value_parser = one_of("tidings.v1.Delivery.State"))]
    states: Vec<i32>,
    /// Only deliveries of this event: its id, or its whole name.
    #[arg(long, value_name = "EVENT")]
    event: Option<String>,
    /// Only deliveries of events of these types, separated by commas.
    #[arg(long = "type", short = 't', value_name = "TYPES", value_delimiter = ',', value_parser = one_of("tidings.v1.EventType"), hide_possible_values = true)]
    types: Vec<i32>,
    /// Only deliveries whose last attempt got an HTTP status of these classes, such as 4,5.
    #[arg(long = "status-class", value_name = "DIGITS", value_delimiter = ',')]
    status_classes: Vec<i32>,
    /// Only deliveries whose last attempt ended so.
    #[arg(long = "outcome", value_name = "OUTCOMES", value_delimiter = ',', value_parser = one_of("tidings.v1.DeliveryAttempt.Outcome"))]
    outcomes: Vec<i32>,
    #[command(flatten)]
    times: TimeRange,
    #[command(flatten)]
    list: ListArguments,
}

/// A span of time.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct TimeRange {
    /// Only from this time on, such as 24h or 2026-11-30.
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    pub(super) since: Option<When>,
    /// Only before this time.
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    pub(super) until: Option<When>,
}

/// A delivery.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct One {
    /// Its subscription and event, such as crm/order-1, or its whole name.
    delivery: String,
}

/// Which changes.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Tail {
    /// Subscription, or the whole name of a sink of notices. Without one the deliveries of all subscriptions.
    subscription: Option<String>,
    /// Only changes to one of these states.
    #[arg(long = "state", short = 's', value_name = "STATES", value_delimiter = ',', value_parser = one_of("tidings.v1.Delivery.State"))]
    states: Vec<i32>,
}

impl Administer for Action {
    async fn run(self, gateway: &Gateway) -> Result<(), Ending> {
        match self {
            Self::List(options) => options.run(gateway).await,
            Self::Get(one) => get(gateway, &one).await,
            Self::Tail(tail) => tail.run(gateway).await,
            Self::Retry(one) => retry(gateway, &one).await,
            Self::Cancel(one) => cancel(gateway, &one).await,
        }
    }
}

/// A client of the service.
pub(super) fn client(gateway: &Gateway) -> DeliveryServiceClient<Channel> {
    DeliveryServiceClient::new(gateway.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

impl ListOptions {
    async fn run(self, gateway: &Gateway) -> Result<(), Ending> {
        let parent = gateway.deliveries_of(self.subscription.as_deref())?;
        let now = gateway.now();
        list(gateway, self.list, lists::LATEST, async |page_size, page_token| {
            let request = ListDeliveriesRequest {
                parent: parent.clone(),
                page_size,
                page_token,
                states: self.states.clone(),
                event: self.event_name(gateway)?,
                start_time: self.times.since.map(|time| time.before(now)),
                end_time: self.times.until.map(|time| time.before(now)),
                event_types: self.types.clone(),
                http_status_classes: self.status_classes.clone(),
                outcomes: self.outcomes.clone(),
            };
            gateway.call(FLAGS, client(gateway).list_deliveries(gateway.request(request))).await
        })
        .await
    }

    fn event_name(&self, gateway: &Gateway) -> Result<String, Ending> {
        self.event.as_ref().map_or_else(|| Ok(String::new()), |event| gateway.name("events", event))
    }
}

async fn get(gateway: &Gateway, one: &One) -> Result<(), Ending> {
    let name = gateway.delivery(&one.delivery)?;
    let request = GetDeliveryRequest { name: name.clone() };
    let response = gateway.call(FLAGS, client(gateway).get_delivery(gateway.request(request))).await?;
    gateway.output.resource(&response, response.delivery.as_ref(), &name)
}

async fn retry(gateway: &Gateway, one: &One) -> Result<(), Ending> {
    let name = gateway.delivery(&one.delivery)?;
    let request = RetryDeliveryRequest { name: name.clone() };
    let response = gateway.call(FLAGS, client(gateway).retry_delivery(gateway.request(request))).await?;
    gateway.output.change(&response, &name, "is tried now")
}

async fn cancel(gateway: &Gateway, one: &One) -> Result<(), Ending> {
    let name = gateway.delivery(&one.delivery)?;
    let request = CancelDeliveryRequest { name: name.clone() };
    let response = gateway.call(FLAGS, client(gateway).cancel_delivery(gateway.request(request))).await?;
    gateway.output.change(&response, &name, "cancelled")
}

impl Tail {
    async fn run(self, gateway: &Gateway) -> Result<(), Ending> {
        let parent = gateway.deliveries_of(self.subscription.as_deref())?;
        let request = WatchDeliveriesRequest { parent, states: self.states };
        let mut client = client(gateway);
        // Not under the limit on calls: the gateway may send its headers with the first change.
        let watching = client.watch_deliveries(gateway.request(request));
        let watching = gateway.shutdown.run_until_cancelled(watching).await.ok_or(Ending::Interrupted)?;
        let mut changes = watching.map_err(|status| gateway.ending(&status, FLAGS))?.into_inner();
        let mut is_first = true;
        loop {
            let change =
                gateway.shutdown.run_until_cancelled(changes.message()).await.ok_or(Ending::Interrupted)?;
            match change.map_err(|status| gateway.ending(&status, FLAGS))? {
                Some(change) => print_change(gateway, &change, is_first)?,
                None => return Ok(()),
            }
            is_first = false;
        }
    }
}

fn print_change(gateway: &Gateway, change: &WatchDeliveriesResponse, is_first: bool) -> Result<(), Ending> {
    if change.skipped_count > 0 {
        print_error(format_args!("{} changes were left out: this reader is too slow", change.skipped_count));
    }
    match &change.delivery {
        Some(delivery) if gateway.output.is_table() || gateway.output.is_names() => {
            gateway.output.changed(std::slice::from_ref(delivery), is_first)
        }
        _ => gateway.output.one_of_many(change),
    }
}

impl Page for ListDeliveriesResponse {
    type Item = Delivery;

    fn items(&mut self) -> &mut Vec<Delivery> {
        &mut self.deliveries
    }

    fn next_page_token(&mut self) -> &mut String {
        &mut self.next_page_token
    }
}

impl Resource for Delivery {
    const COLUMNS: &'static [&'static str] =
        &["DELIVERY", "STATE", "ATTEMPTS", "TYPE", "CREATED", "NEXT", "LAST ERROR"];

    fn id(&self) -> String {
        self.name.clone()
    }

    fn cells(&self, scope: Option<AccountScope>) -> Vec<String> {
        let name = names::short(&self.name, scope, "subscriptions");
        let error =
            self.attempts.last().map(|attempt| attempt.error.clone()).filter(|error| !error.is_empty());
        vec![
            // As `retry` takes it.
            if name.starts_with("accounts/") {
                name.to_owned()
            } else {
                name.replacen("/deliveries/", "/", 1)
            },
            short(&enumeration("tidings.v1.Delivery.State"), self.state),
            self.attempt_count().to_string(),
            short(&enumeration("tidings.v1.EventType"), self.event_type),
            times::shown(self.create_time.as_ref()),
            times::shown(self.next_attempt_time.as_ref()),
            error.unwrap_or_else(|| "-".to_owned()),
        ]
    }
}
