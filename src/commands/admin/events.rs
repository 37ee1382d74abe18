//! `tidings events`.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::Subcommand;
use tonic::transport::Channel;

use super::{
    Administer,
    choices::{enumeration, one_of, short},
    deliveries::TimeRange,
    errors::FlagNames,
    gateway::{Gateway, MESSAGE_BYTES_MAX},
    lists::{self, ListArguments, Page, list},
    names,
    output::Resource,
    publish::Input,
    times,
};
use crate::{
    commands::{ending::Ending, print_error},
    domain::ids::AccountScope,
    proto::v1::{
        Event, GetEventRequest, ListEventsRequest, ListEventsResponse, RenderEventRequest,
        event_service_client::EventServiceClient, render_event_request::Source,
    },
};

const FLAGS: FlagNames = &[
    ("name", "EVENT"),
    ("event", ""),
    ("types", "--type"),
    ("subscription", "--subscription"),
    ("payload_format", "--form"),
];

/// What to do with events.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum Action {
    /// List stored events, the latest first.
    #[command(visible_alias = "ls")]
    List(ListOptions),
    /// Show one stored event.
    Get(One),
    /// Print the body that is POSTed for an event.
    Render(Render),
}

/// Which events.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ListOptions {
    /// Only events of these types, separated by commas.
    #[arg(long = "type", short = 't', value_name = "TYPES", value_delimiter = ',', value_parser = one_of("tidings.v1.EventType"), hide_possible_values = true)]
    types: Vec<i32>,
    #[command(flatten)]
    times: TimeRange,
    #[command(flatten)]
    list: ListArguments,
}

/// An event.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct One {
    /// Its id, or its whole name.
    event: String,
}

/// An event and a form.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Render {
    /// Id or whole name of a stored event.
    #[arg(required_unless_present = "file")]
    event: Option<String>,
    /// File with the protobuf JSON of an event that is not stored; - for standard input.
    #[arg(long, short = 'f', value_name = "FILE", conflicts_with = "event")]
    file: Option<PathBuf>,
    /// Subscription whose form and headers are used.
    #[arg(long, value_name = "SUBSCRIPTION")]
    subscription: Option<String>,
    /// Form of the body, instead of the subscription's.
    #[arg(long, value_name = "FORM", value_parser = one_of("tidings.v1.Subscription.PayloadFormat"))]
    form: Option<i32>,
    /// Print the headers of the POST before the body.
    #[arg(long)]
    headers: bool,
}

impl Administer for Action {
    async fn run(self, gateway: &Gateway) -> Result<(), Ending> {
        match self {
            Self::List(options) => options.run(gateway).await,
            Self::Get(one) => get(gateway, &one).await,
            Self::Render(render) => render.run(gateway).await,
        }
    }
}

/// A client of the service.
pub(super) fn client(gateway: &Gateway) -> EventServiceClient<Channel> {
    EventServiceClient::new(gateway.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

impl ListOptions {
    async fn run(self, gateway: &Gateway) -> Result<(), Ending> {
        let now = gateway.now();
        list(gateway, self.list, lists::LATEST, async |page_size, page_token| {
            let request = ListEventsRequest {
                parent: gateway.accounts(),
                page_size,
                page_token,
                types: self.types.clone(),
                start_time: self.times.since.map(|time| time.before(now)),
                end_time: self.times.until.map(|time| time.before(now)),
            };
            let page = gateway.call(FLAGS, client(gateway).list_events(gateway.request(request))).await?;
            for damaged in &page.damaged_events {
                print_error(format_args!("the disk has lost the content of {damaged}"));
            }
            Ok(page)
        })
        .await
    }
}

async fn get(gateway: &Gateway, one: &One) -> Result<(), Ending> {
    let name = gateway.name("events", &one.event)?;
    let request = GetEventRequest { name: name.clone() };
    let response = gateway.call(FLAGS, client(gateway).get_event(gateway.request(request))).await?;
    match gateway.output.is_names() {
        true => gateway.output.line(&name),
        false => gateway.output.document(&response),
    }
}

impl Render {
    async fn run(self, gateway: &Gateway) -> Result<(), Ending> {
        let source = match (&self.event, self.file) {
            (Some(event), _) => Source::Name(gateway.name("events", event)?),
            (None, Some(file)) => {
                Source::Event(*Input::of_file(file).read()?.protobuf()?.event.unwrap_or_default())
            }
            (None, None) => return Err(Ending::Misused(anyhow!("which event? Give its id, or --file"))),
        };
        let subscription = self.subscription.map(|name| gateway.subscription(&name)).transpose()?;
        let request = RenderEventRequest {
            source: Some(source),
            subscription: subscription.unwrap_or_default(),
            payload_format: self.form.unwrap_or_default(),
        };
        let response = gateway.call(FLAGS, client(gateway).render_event(gateway.request(request))).await?;
        if !gateway.output.is_table() {
            return gateway.output.document(&response);
        }
        if self.headers {
            let mut headers: Vec<_> = response.headers.iter().collect();
            headers.sort();
            headers.iter().try_for_each(|(name, value)| gateway.output.line(&format!("{name}: {value}")))?;
            gateway.output.line("")?;
        }
        gateway.output.line(&response.body)
    }
}

impl Page for ListEventsResponse {
    type Item = Event;

    fn items(&mut self) -> &mut Vec<Event> {
        &mut self.events
    }

    fn next_page_token(&mut self) -> &mut String {
        &mut self.next_page_token
    }

    fn append(&mut self, mut next: Self) {
        self.events.append(&mut next.events);
        self.damaged_events.append(&mut next.damaged_events);
        self.next_page_token = next.next_page_token;
    }
}

impl Resource for Event {
    const COLUMNS: &'static [&'static str] = &["EVENT", "TYPE", "STORED"];

    fn id(&self) -> String {
        self.name.clone()
    }

    fn cells(&self, scope: Option<AccountScope>) -> Vec<String> {
        vec![
            names::short(&self.name, scope, "events").to_owned(),
            short(&enumeration("tidings.v1.EventType"), self.r#type),
            times::shown(self.create_time.as_ref()),
        ]
    }
}
