//! `tidings subscriptions`.

use std::{path::PathBuf, time::Duration};

use anyhow::anyhow;
use clap::Subcommand;
use prost_types::FieldMask;
use tonic::transport::Channel;

use super::{
    Administer,
    choices::{enumeration, one_of, short},
    describe,
    errors::FlagNames,
    gateway::Gateway,
    lists::{self, ListArguments, Page, list},
    names,
    output::{Resource, counted},
    settings::{self, FLAGS, SettingArguments, span},
    times,
};
use crate::{
    commands::{ending::Ending, print_error, printable},
    config::parse_duration,
    domain::ids::AccountScope,
    proto::v1::{
        CreateSubscriptionRequest, DeleteSubscriptionRequest, DeliveryAttempt, GetSubscriptionRequest,
        ListSubscriptionsRequest, ListSubscriptionsResponse, PauseSubscriptionRequest,
        ResumeSubscriptionRequest, RotateSigningSecretRequest, Subscription, TestSubscriptionRequest,
        UpdateSubscriptionRequest, subscription_service_client::SubscriptionServiceClient,
    },
};

/// Fields of requests about one subscription, with their arguments.
const ONE: FlagNames =
    &[("name", "SUBSCRIPTION"), ("event_type", "--type"), ("overlap", "--overlap"), ("etag", "--etag")];

/// What to do with subscriptions.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum Action {
    /// List subscriptions.
    #[command(visible_alias = "ls")]
    List(ListOptions),
    /// Show one subscription.
    Get(One),
    /// Add a subscription, and print its signing secret once.
    Add(Add),
    /// Change the settings that are given.
    Edit(Edit),
    /// Stop deliveries. Events are still queued.
    Pause(One),
    /// Resume deliveries after a pause or a suspension.
    Resume(One),
    /// Replace the signing secret, and print the new one once.
    Rotate(Rotate),
    /// POST a sample event once, and show the result.
    Test(Test),
    /// Delete a subscription with its deliveries.
    #[command(visible_alias = "rm")]
    Delete(Delete),
}

/// Which subscriptions.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ListOptions {
    /// Only subscriptions to this type of event.
    #[arg(long = "type", short = 't', value_name = "TYPE", value_parser = one_of("tidings.v1.EventType"), hide_possible_values = true)]
    event_type: Option<i32>,
    /// Only subscriptions in one of these states.
    #[arg(long = "state", short = 's', value_name = "STATES", value_delimiter = ',', value_parser = one_of("tidings.v1.Subscription.State"))]
    states: Vec<i32>,
    /// Only subscriptions whose latest attempt failed, and suspended ones.
    #[arg(long)]
    failing: bool,
    #[command(flatten)]
    list: ListArguments,
}

/// A subscription.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct One {
    /// Its id, or its whole name.
    subscription: String,
}

/// A new subscription.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Add {
    /// Its id. Without one the gateway makes one.
    id: Option<String>,
    #[command(flatten)]
    settings: SettingArguments,
    /// File with a signing secret that the receiver already has.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Only check.
    #[arg(long)]
    validate_only: bool,
}

/// A change.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Edit {
    #[command(flatten)]
    one: One,
    #[command(flatten)]
    settings: SettingArguments,
    /// Set the settings of these flags back to their defaults, such as rate,inboxes.
    #[arg(long, value_name = "FLAGS", value_delimiter = ',')]
    clear: Vec<String>,
    /// Only check.
    #[arg(long)]
    validate_only: bool,
}

/// A rotation.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Rotate {
    #[command(flatten)]
    one: One,
    /// How long the old secret still signs too, up to 30d. 0s ends it at once. [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    overlap: Option<Duration>,
}

/// A test.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Test {
    #[command(flatten)]
    one: One,
    /// Type of the sample event. Without one the first of the subscription.
    #[arg(long = "type", short = 't', value_name = "TYPE", value_parser = one_of("tidings.v1.EventType"), hide_possible_values = true)]
    event_type: Option<i32>,
}

/// A deletion.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Delete {
    #[command(flatten)]
    one: One,
    /// Also delete pending and retrying deliveries.
    #[arg(long)]
    force: bool,
    /// Only if this is the current etag.
    #[arg(long, value_name = "ETAG", default_value = "", hide_default_value = true)]
    etag: String,
}

impl Administer for Action {
    async fn run(self, gateway: &Gateway) -> Result<(), Ending> {
        match self {
            Self::List(options) => options.run(gateway).await,
            Self::Get(one) => get(gateway, &one).await,
            Self::Add(add) => add.run(gateway).await,
            Self::Edit(edit) => edit.run(gateway).await,
            Self::Pause(one) => pause(gateway, &one).await,
            Self::Resume(one) => resume(gateway, &one).await,
            Self::Rotate(rotate) => rotate.run(gateway).await,
            Self::Test(test) => test.run(gateway).await,
            Self::Delete(delete) => delete.run(gateway).await,
        }
    }
}

fn client(gateway: &Gateway) -> SubscriptionServiceClient<Channel> {
    SubscriptionServiceClient::new(gateway.channel())
}

impl ListOptions {
    async fn run(self, gateway: &Gateway) -> Result<(), Ending> {
        let flags: FlagNames = &[("event_type", "--type"), ("states", "--state")];
        list(gateway, self.list, lists::ALL, async |page_size, page_token| {
            let request = ListSubscriptionsRequest {
                parent: gateway.accounts(),
                page_size,
                page_token,
                event_type: self.event_type.unwrap_or_default(),
                states: self.states.clone(),
                failing: self.failing,
            };
            gateway.call(flags, client(gateway).list_subscriptions(gateway.request(request))).await
        })
        .await
    }
}

async fn get(gateway: &Gateway, one: &One) -> Result<(), Ending> {
    let name = gateway.subscription(&one.subscription)?;
    let request = GetSubscriptionRequest { name: name.clone() };
    let response = gateway.call(ONE, client(gateway).get_subscription(gateway.request(request))).await?;
    gateway.output.resource(&response, response.subscription.as_ref(), &name)
}

impl Add {
    async fn run(self, gateway: &Gateway) -> Result<(), Ending> {
        let mut subscription = Subscription::default();
        self.settings.apply(&mut subscription)?;
        let secret = self.secret_file.as_ref().map(settings::read).transpose()?;
        let request = CreateSubscriptionRequest {
            parent: gateway.one_account()?,
            subscription: Some(subscription),
            subscription_id: self.id.unwrap_or_default(),
            validate_only: self.validate_only,
            signing_secret: secret.as_deref().map(str::trim_end).unwrap_or_default().to_owned(),
            ..CreateSubscriptionRequest::default()
        };
        let response =
            gateway.call(FLAGS, client(gateway).create_subscription(gateway.request(request))).await?;
        let name =
            response.subscription.as_ref().map(|subscription| subscription.name.clone()).unwrap_or_default();
        print_notes(&response.notes);
        let what = if self.validate_only { "can be added" } else { "added" };
        gateway.output.change(&response, &name, what)?;
        gateway.output.secret("signing secret", &response.signing_secret)
    }
}

impl Edit {
    async fn run(self, gateway: &Gateway) -> Result<(), Ending> {
        let name = gateway.subscription(&self.one.subscription)?;
        let mut subscription = Subscription { name: name.clone(), ..Subscription::default() };
        if self.settings.changes_a_map() {
            let request = GetSubscriptionRequest { name: name.clone() };
            let found = gateway.call(ONE, client(gateway).get_subscription(gateway.request(request))).await?;
            let found = found.subscription.unwrap_or_default();
            // Values of headers are secret: "***" keeps them. The etag ends the call if somebody else changes them.
            subscription = Subscription {
                headers: found.headers,
                annotations: found.annotations,
                etag: found.etag,
                ..subscription
            };
        }
        let cleared = settings::clear(&self.clear, &mut subscription)?;
        let mut paths = self.settings.apply(&mut subscription)?;
        paths.extend(cleared);
        if paths.is_empty() {
            return Err(Ending::Misused(anyhow!(
                "nothing to change: give the settings to change, such as --url"
            )));
        }
        let request = UpdateSubscriptionRequest {
            subscription: Some(subscription),
            update_mask: Some(FieldMask { paths: paths.into_iter().map(str::to_owned).collect() }),
            validate_only: self.validate_only,
        };
        let response =
            gateway.call(FLAGS, client(gateway).update_subscription(gateway.request(request))).await?;
        print_notes(&response.notes);
        let what = if self.validate_only { "can be changed" } else { "changed" };
        gateway.output.change(&response, &name, what)
    }
}

async fn pause(gateway: &Gateway, one: &One) -> Result<(), Ending> {
    let name = gateway.subscription(&one.subscription)?;
    let request = PauseSubscriptionRequest { name: name.clone() };
    let response = gateway.call(ONE, client(gateway).pause_subscription(gateway.request(request))).await?;
    gateway.output.change(&response, &name, "paused")
}

async fn resume(gateway: &Gateway, one: &One) -> Result<(), Ending> {
    let name = gateway.subscription(&one.subscription)?;
    let request = ResumeSubscriptionRequest { name: name.clone() };
    let response = gateway.call(ONE, client(gateway).resume_subscription(gateway.request(request))).await?;
    gateway.output.change(&response, &name, "resumed")
}

impl Rotate {
    async fn run(self, gateway: &Gateway) -> Result<(), Ending> {
        let name = gateway.subscription(&self.one.subscription)?;
        let request = RotateSigningSecretRequest {
            name: name.clone(),
            overlap: self.overlap.map(span),
            ..RotateSigningSecretRequest::default()
        };
        let response =
            gateway.call(ONE, client(gateway).rotate_signing_secret(gateway.request(request))).await?;
        let until = times::shown(response.old_secret_expire_time.as_ref());
        gateway.output.change(
            &response,
            &name,
            &format!("has a new signing secret; the old one signs until {until}"),
        )?;
        gateway.output.secret("signing secret", &response.signing_secret)?;
        gateway.output.secret("public key", &response.public_key)
    }
}

impl Test {
    async fn run(self, gateway: &Gateway) -> Result<(), Ending> {
        let name = gateway.subscription(&self.one.subscription)?;
        let event_type = self.event_type.unwrap_or_default();
        let request = TestSubscriptionRequest { name: name.clone(), event_type };
        let response = gateway.call(ONE, client(gateway).test_subscription(gateway.request(request))).await?;
        gateway.output.resource(&response, response.attempt.as_ref(), &name)?;
        tested(response.attempt.as_ref())
    }
}

/// The end of a test: the command fails if the endpoint did not take the sample.
pub(super) fn tested(attempt: Option<&DeliveryAttempt>) -> Result<(), Ending> {
    match attempt.map(|attempt| attempt.error.as_str()) {
        None | Some("") => Ok(()),
        Some(error) => {
            Err(Ending::Failed(anyhow!("the endpoint did not accept the sample: {}", printable(error, 1000))))
        }
    }
}

impl Delete {
    async fn run(self, gateway: &Gateway) -> Result<(), Ending> {
        let name = gateway.subscription(&self.one.subscription)?;
        let request = DeleteSubscriptionRequest { name: name.clone(), etag: self.etag, force: self.force };
        let response =
            gateway.call(ONE, client(gateway).delete_subscription(gateway.request(request))).await?;
        let what = format!("deleted, with {}", counted(response.dropped_count(), "unfinished delivery"));
        gateway.output.change(&response, &name, &what)
    }
}

fn print_notes(notes: &[String]) {
    notes.iter().for_each(|note| print_error(format_args!("note: {}", printable(note, 1000))));
}

impl Page for ListSubscriptionsResponse {
    type Item = Subscription;

    fn items(&mut self) -> &mut Vec<Subscription> {
        &mut self.subscriptions
    }

    fn next_page_token(&mut self) -> &mut String {
        &mut self.next_page_token
    }
}

impl Resource for Subscription {
    const COLUMNS: &'static [&'static str] = &["SUBSCRIPTION", "STATE", "OWED", "FAILING", "TYPES", "URL"];

    fn id(&self) -> String {
        self.name.clone()
    }

    fn cells(&self, scope: Option<AccountScope>) -> Vec<String> {
        let event_types = enumeration("tidings.v1.EventType");
        let types: Vec<_> = self.event_types.iter().map(|number| short(&event_types, *number)).collect();
        let failing = match &self.failing_since_time {
            Some(since) => format!("since {}", times::shown(Some(since))),
            None => "no".to_owned(),
        };
        vec![
            names::short(&self.name, scope, "subscriptions").to_owned(),
            short(&enumeration("tidings.v1.Subscription.State"), self.state),
            self.owed_count().to_string(),
            failing,
            if self.all_event_types { "all".to_owned() } else { types.join(",") },
            self.url.clone(),
        ]
    }
}

/// The duration of something, or a dash.
pub(super) fn shown_duration(duration: Option<&prost_types::Duration>) -> String {
    duration.map_or_else(|| "-".to_owned(), describe::duration)
}
