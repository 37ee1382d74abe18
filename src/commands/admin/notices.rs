//! `tidings notices`: the sinks that receive notices about endpoints.

use clap::Subcommand;
use tonic::transport::Channel;

use super::{
    Administer,
    choices::{enumeration, one_of, short},
    errors::FlagNames,
    gateway::Gateway,
    lists::{self, ListArguments, Page, list},
    names,
    output::Resource,
    settings::parse_header,
    subscriptions::tested,
    times,
};
use crate::{
    commands::ending::Ending,
    domain::ids::AccountScope,
    proto::v1::{
        CreateNoticeSinkRequest, DeleteNoticeSinkRequest, GetNoticeSinkRequest, ListNoticeSinksRequest,
        ListNoticeSinksResponse, NoticeSink, TestNoticeSinkRequest,
        notice_service_client::NoticeServiceClient,
    },
};

const FLAGS: FlagNames = &[
    ("name", "SINK"),
    ("notice_sink_id", "ID"),
    ("kind", "--kind"),
    ("notice_sink.url", "--url"),
    ("notice_sink.kinds", "--kind"),
    ("notice_sink.headers", "--header"),
    ("notice_sink.display_name", "--display-name"),
];

/// What to do with sinks.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum Action {
    /// List sinks.
    #[command(visible_alias = "ls")]
    List(ListArguments),
    /// Show one sink.
    Get(One),
    /// Add a sink, and print its signing secret once. Without an account it is for all accounts.
    Add(Add),
    /// POST a sample notice once, and show the result.
    Test(Test),
    /// Delete a sink with its deliveries.
    #[command(visible_alias = "rm")]
    Delete(One),
}

/// A sink.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct One {
    /// Its id, or its whole name. Without an account a sink for all accounts.
    sink: String,
}

/// A new sink.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Add {
    /// Its id. Without one the gateway makes one.
    #[arg(default_value = "", hide_default_value = true)]
    id: String,
    /// URL that receives the notices.
    #[arg(long, value_name = "URL", default_value = "", hide_default_value = true)]
    url: String,
    /// Only notices of these kinds, separated by commas.
    #[arg(long = "kind", short = 'k', value_name = "KINDS", value_delimiter = ',', value_parser = one_of("tidings.v1.NoticeSink.Kind"))]
    kinds: Vec<i32>,
    /// Header to send along: "Name: value". May be repeated.
    #[arg(long = "header", value_name = "HEADER", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// Name for people.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    display_name: String,
}

/// A test.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Test {
    #[command(flatten)]
    one: One,
    /// Kind of the sample.
    #[arg(long, short = 'k', value_name = "KIND", value_parser = one_of("tidings.v1.NoticeSink.Kind"))]
    kind: Option<i32>,
}

impl Administer for Action {
    async fn run(self, gateway: &Gateway) -> Result<(), Ending> {
        match self {
            Self::List(arguments) => list_sinks(gateway, arguments).await,
            Self::Get(one) => get(gateway, &one).await,
            Self::Add(add) => add.run(gateway).await,
            Self::Test(test) => test.run(gateway).await,
            Self::Delete(one) => delete(gateway, &one).await,
        }
    }
}

fn client(gateway: &Gateway) -> NoticeServiceClient<Channel> {
    NoticeServiceClient::new(gateway.channel())
}

impl One {
    fn name(&self, gateway: &Gateway) -> String {
        match self.sink.starts_with("accounts/") {
            true => self.sink.clone(),
            false => format!("{}/noticeSinks/{}", gateway.accounts(), self.sink),
        }
    }
}

async fn list_sinks(gateway: &Gateway, arguments: ListArguments) -> Result<(), Ending> {
    list(gateway, arguments, lists::ALL, async |page_size, page_token| {
        let request = ListNoticeSinksRequest { parent: gateway.accounts(), page_size, page_token };
        gateway.call(FLAGS, client(gateway).list_notice_sinks(gateway.request(request))).await
    })
    .await
}

async fn get(gateway: &Gateway, one: &One) -> Result<(), Ending> {
    let name = one.name(gateway);
    let request = GetNoticeSinkRequest { name: name.clone() };
    let response = gateway.call(FLAGS, client(gateway).get_notice_sink(gateway.request(request))).await?;
    gateway.output.resource(&response, response.notice_sink.as_ref(), &name)
}

impl Add {
    async fn run(self, gateway: &Gateway) -> Result<(), Ending> {
        let sink = NoticeSink {
            url: self.url,
            kinds: self.kinds,
            headers: self.headers.into_iter().collect(),
            display_name: self.display_name,
            ..NoticeSink::default()
        };
        let request = CreateNoticeSinkRequest {
            parent: gateway.accounts(),
            notice_sink: Some(sink),
            notice_sink_id: self.id,
            ..CreateNoticeSinkRequest::default()
        };
        let response =
            gateway.call(FLAGS, client(gateway).create_notice_sink(gateway.request(request))).await?;
        let name = response.notice_sink.as_ref().map(|sink| sink.name.clone()).unwrap_or_default();
        gateway.output.change(&response, &name, "added")?;
        gateway.output.secret("signing secret", &response.signing_secret)
    }
}

impl Test {
    async fn run(self, gateway: &Gateway) -> Result<(), Ending> {
        let name = self.one.name(gateway);
        let request = TestNoticeSinkRequest { name: name.clone(), kind: self.kind.unwrap_or_default() };
        let response =
            gateway.call(FLAGS, client(gateway).test_notice_sink(gateway.request(request))).await?;
        gateway.output.resource(&response, response.attempt.as_ref(), &name)?;
        tested(response.attempt.as_ref())
    }
}

async fn delete(gateway: &Gateway, one: &One) -> Result<(), Ending> {
    let name = one.name(gateway);
    let request = DeleteNoticeSinkRequest { name: name.clone() };
    let response = gateway.call(FLAGS, client(gateway).delete_notice_sink(gateway.request(request))).await?;
    gateway.output.change(&response, &name, "deleted")
}

impl Page for ListNoticeSinksResponse {
    type Item = NoticeSink;

    fn items(&mut self) -> &mut Vec<NoticeSink> {
        &mut self.notice_sinks
    }

    fn next_page_token(&mut self) -> &mut String {
        &mut self.next_page_token
    }
}

impl Resource for NoticeSink {
    const COLUMNS: &'static [&'static str] = &["SINK", "STATE", "OWED", "KINDS", "LAST FAILURE", "URL"];

    fn id(&self) -> String {
        self.name.clone()
    }

    fn cells(&self, scope: Option<AccountScope>) -> Vec<String> {
        let kinds = enumeration("tidings.v1.NoticeSink.Kind");
        let names_of_kinds: Vec<_> = self.kinds.iter().map(|number| short(&kinds, *number)).collect();
        vec![
            names::short(&self.name, scope, "noticeSinks").to_owned(),
            short(&enumeration("tidings.v1.Subscription.State"), self.state),
            self.owed_count().to_string(),
            if self.kinds.is_empty() { "all".to_owned() } else { names_of_kinds.join(",") },
            times::shown(self.last_failure_time.as_ref()),
            self.url.clone(),
        ]
    }
}
