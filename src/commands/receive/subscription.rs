//! A subscription of the receiver's own, for as long as it runs.

use std::{fmt, net::SocketAddr, time::Duration};

use anyhow::{Context, anyhow};
use tokio::time::timeout;
use tonic::{Status, transport::Channel};
use tonic_types::StatusExt;

use super::keys::Keys;
use crate::{
    commands::{
        connection::{self, Connection, ConnectionArguments},
        json_form::JsonForm,
        print_error,
    },
    domain::{ids::AccountId, secret::Secret},
    proto::v1::{
        CreateSubscriptionRequest, DeleteSubscriptionRequest, EventType, GetSubscriptionRequest,
        Subscription, subscription_service_client::SubscriptionServiceClient,
    },
};

/// Limit on one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The subscription that a receiver makes for itself.
#[derive(Clone, Debug, clap::Args)]
pub struct SubscribeArguments {
    /// Subscribe this receiver at a gateway for as long as it runs, and verify with the secret of the subscription.
    #[arg(long, conflicts_with_all = ["secret", "public_key"])]
    pub subscribe: bool,
    /// Account whose events are wanted.
    #[arg(long, value_name = "NUMBER", default_value = "1")]
    pub account: AccountId,
    /// Types of the events, such as message_created. All by default. May be repeated.
    #[arg(long = "type", value_name = "TYPE", value_parser = parse_event_type, value_delimiter = ',', requires = "subscribe")]
    pub types: Vec<EventType>,
    /// Form of the bodies.
    #[arg(long, value_name = "FORM", default_value = "documented")]
    pub format: JsonForm,
    /// URL by which the gateway reaches this receiver. By default the address that it listens on.
    #[arg(long, value_name = "URL", requires = "subscribe")]
    pub url: Option<String>,
    /// The gateway.
    #[command(flatten)]
    pub connection: ConnectionArguments,
}

fn parse_event_type(text: &str) -> Result<EventType, String> {
    let name = format!("EVENT_TYPE_{}", text.trim_start_matches("EVENT_TYPE_").to_uppercase());
    let known = EventType::from_str_name(&name).filter(|known| *known != EventType::Unspecified);
    known.ok_or_else(|| {
        let names: Vec<_> =
            EventType::all().map(|known| name_of(known.as_str_name(), "EVENT_TYPE_")).collect();
        format!("must be one of {}", names.join(", "))
    })
}

/// The name of a value of the contract, as webhooks write it.
fn name_of(value: &str, prefix: &str) -> String {
    value.strip_prefix(prefix).unwrap_or(value).to_lowercase()
}

/// The receiver's own subscription. [`remove`](Self::remove) ends it.
pub struct OwnSubscription {
    client: SubscriptionServiceClient<Channel>,
    connection: Connection,
    /// `accounts/1/subscriptions/receive-…`
    pub name: String,
}

impl SubscribeArguments {
    /// The gateway, and the credentials for it.
    ///
    /// # Errors
    ///
    /// The arguments contradict each other, or a file cannot be read.
    pub(super) fn gateway(&self) -> anyhow::Result<Connection> {
        self.connection.resolve(&connection::Environment::of_process())?.open()
    }
}

impl OwnSubscription {
    /// Subscribes a receiver that listens on `address`. `id` is the last part of the name; without it the gateway
    /// chooses one. Returns the keys that verify its webhooks as well.
    ///
    /// # Errors
    ///
    /// The gateway cannot be reached, or refuses the subscription.
    pub(super) async fn create(
        arguments: &SubscribeArguments,
        connection: Connection,
        id: Option<&str>,
        address: SocketAddr,
    ) -> anyhow::Result<(Self, Keys)> {
        let url = match &arguments.url {
            Some(url) => url.clone(),
            None if address.ip().is_unspecified() => {
                anyhow::bail!(
                    "--listen {address} is every address of this machine: name one that the gateway reaches with --url"
                )
            }
            None => format!("http://{address}/"),
        };
        let mut client = SubscriptionServiceClient::new(connection.connect().await?);
        let subscription = Subscription {
            display_name: "tidings receive".to_owned(),
            url,
            event_types: arguments.types.iter().map(|wanted| i32::from(*wanted)).collect(),
            all_event_types: arguments.types.is_empty(),
            payload_format: arguments.format.payload_format().to_wire().into(),
            ..Subscription::default()
        };
        let request = connection.request(CreateSubscriptionRequest {
            parent: format!("accounts/{}", arguments.account),
            subscription: Some(subscription),
            subscription_id: id.unwrap_or_default().to_owned(),
            ..CreateSubscriptionRequest::default()
        });
        let created = in_time(client.create_subscription(request)).await.context("cannot subscribe")?;
        let subscription = created.subscription.context("the gateway did not return the subscription")?;
        let keys = Keys {
            secrets: vec![Secret::new(created.signing_secret)],
            public_keys: public_keys(&subscription),
        };
        Ok((Self { client, connection, name: subscription.name }, keys))
    }

    /// The public keys of the subscription as it is now: a rotation replaces them. A new secret is shown to its
    /// rotator only.
    ///
    /// # Errors
    ///
    /// The gateway cannot be reached, or the subscription is gone.
    pub async fn public_keys(&self) -> anyhow::Result<Vec<String>> {
        let request = self.connection.request(GetSubscriptionRequest { name: self.name.clone() });
        let read = in_time(self.client.clone().get_subscription(request)).await?;
        Ok(read.subscription.as_ref().map(public_keys).unwrap_or_default())
    }

    /// Deletes the subscription. If that fails, says so.
    pub async fn remove(mut self) {
        let request = self.connection.request(DeleteSubscriptionRequest {
            name: self.name.clone(),
            // What is owed to it is owed to nobody else.
            force: true,
            ..DeleteSubscriptionRequest::default()
        });
        if let Err(error) = in_time(self.client.delete_subscription(request)).await {
            print_error(format_args!("tidings: cannot delete {}: {error:#}", self.name));
        }
    }
}

fn public_keys(subscription: &Subscription) -> Vec<String> {
    Some(subscription.public_key.clone()).filter(|key| !key.is_empty()).into_iter().collect()
}

async fn in_time<T>(call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> anyhow::Result<T> {
    let response = timeout(CALL_TIMEOUT, call).await;
    let response = response.map_err(|_| anyhow!("the gateway did not respond within {CALL_TIMEOUT:?}"))?;
    response.map(tonic::Response::into_inner).map_err(|status| anyhow!("{}", Refusal(&status)))
}

/// A status with each field at fault.
struct Refusal<'a>(&'a Status);

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.message())?;
        let violations = self.0.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
        for violation in violations.iter().filter(|one| !self.0.message().contains(&one.description)) {
            write!(f, "; {} {}", violation.field, violation.description)?;
        }
        Ok(())
    }
}
