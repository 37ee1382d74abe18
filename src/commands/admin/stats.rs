//! `tidings stats`: deliveries by state, or attempts over time.

use super::{
    Administer,
    choices::{enumeration, one_of, short},
    deliveries::client,
    errors::FlagNames,
    gateway::Gateway,
    output::table,
    subscriptions::shown_duration,
    times,
};
use crate::{
    commands::ending::Ending,
    proto::v1::{
        DeliveryStatsBucket, GetDeliveryStatsRequest, GetDeliveryStatsResponse, SummarizeDeliveriesRequest,
        SummarizeDeliveriesResponse,
    },
};

const FLAGS: FlagNames = &[("parent", "SUBSCRIPTION"), ("period", "--period")];

/// What to count.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Arguments {
    /// Subscription: its id, or its whole name. Without one all subscriptions.
    subscription: Option<String>,
    /// Count the attempts of this time instead, minute by minute or hour by hour.
    #[arg(long, short = 'p', value_name = "PERIOD", value_parser = one_of("tidings.v1.GetDeliveryStatsRequest.Period"))]
    period: Option<i32>,
}

impl Administer for Arguments {
    async fn run(self, gateway: &Gateway) -> Result<(), Ending> {
        let parent = gateway.deliveries_of(self.subscription.as_deref())?;
        match self.period {
            None => {
                let request = gateway.request(SummarizeDeliveriesRequest { parent });
                let response = gateway.call(FLAGS, client(gateway).summarize_deliveries(request)).await?;
                print_summary(gateway, &response)
            }
            Some(period) => {
                let request = gateway.request(GetDeliveryStatsRequest { parent, period });
                let response = gateway.call(FLAGS, client(gateway).get_delivery_stats(request)).await?;
                print_stats(gateway, &response)
            }
        }
    }
}

fn print_summary(gateway: &Gateway, response: &SummarizeDeliveriesResponse) -> Result<(), Ending> {
    if !gateway.output.is_table() {
        return gateway.output.document(response);
    }
    let states = enumeration("tidings.v1.Delivery.State");
    let rows =
        response.counts.iter().map(|count| vec![short(&states, count.state), count.count().to_string()]);
    table(&["STATE", "DELIVERIES"], rows)?;
    match &response.oldest_owed_create_time {
        Some(time) => {
            gateway.output.line(&format!("oldest unfinished delivery: {}", times::shown(Some(time))))
        }
        None => Ok(()),
    }
}

fn print_stats(gateway: &Gateway, response: &GetDeliveryStatsResponse) -> Result<(), Ending> {
    if !gateway.output.is_table() {
        return gateway.output.document(response);
    }
    let rows = response.buckets.iter().map(|bucket| {
        vec![
            times::shown(bucket.start_time.as_ref()),
            bucket.succeeded_count().to_string(),
            bucket.failed_attempt_count().to_string(),
            bucket.given_up_count().to_string(),
            shown_duration(bucket.latency_p50.as_ref()),
            shown_duration(bucket.latency_p95.as_ref()),
        ]
    });
    let total =
        |count: fn(&DeliveryStatsBucket) -> i64| response.buckets.iter().map(count).sum::<i64>().to_string();
    let total = vec![
        "total".to_owned(),
        total(DeliveryStatsBucket::succeeded_count),
        total(DeliveryStatsBucket::failed_attempt_count),
        total(DeliveryStatsBucket::given_up_count),
        shown_duration(response.latency_p50.as_ref()),
        shown_duration(response.latency_p95.as_ref()),
    ];
    let titles = ["FROM", "SUCCEEDED", "FAILED ATTEMPTS", "GIVEN UP", "HALF WITHIN", "95% WITHIN"];
    table(&titles, rows.chain([total]))?;
    gateway.output.line(&format!("counted since {}", times::shown(response.since_time.as_ref())))
}
