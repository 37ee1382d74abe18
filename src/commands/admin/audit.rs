//! `tidings audit`.

use super::{
    Administer,
    choices::{enumeration, short},
    deliveries::TimeRange,
    errors::FlagNames,
    gateway::Gateway,
    lists::{self, ListArguments, Page, list},
    output::Resource,
    times,
};
use crate::{
    commands::ending::Ending,
    domain::ids::AccountScope,
    proto::v1::{
        AuditRecord, ListAuditRecordsRequest, ListAuditRecordsResponse,
        audit_service_client::AuditServiceClient,
    },
};

const FLAGS: FlagNames = &[("resource", "--resource"), ("principal", "--principal"), ("method", "--method")];
/// The package of all methods, which records name in full.
const PACKAGE: &str = "tidings.v1.";

/// Which records, the latest first.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Arguments {
    /// Only records about this resource, or those below it: a subscription's id, or a whole name.
    #[arg(long, value_name = "NAME")]
    resource: Option<String>,
    /// Only calls by this caller, such as accessTokens/1234 or anonymous.
    #[arg(long, value_name = "CALLER", default_value = "", hide_default_value = true)]
    principal: String,
    /// Only calls of this method, such as SubscriptionService/DeleteSubscription.
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    #[command(flatten)]
    times: TimeRange,
    #[command(flatten)]
    list: ListArguments,
}

impl Administer for Arguments {
    async fn run(self, gateway: &Gateway) -> Result<(), Ending> {
        let now = gateway.now();
        let resource = match &self.resource {
            Some(name) if name.contains('/') => name.clone(),
            Some(id) => gateway.subscription(id)?,
            None => String::new(),
        };
        let method = self.method.map(|method| format!("{PACKAGE}{}", method.trim_start_matches(PACKAGE)));
        list(gateway, self.list, lists::LATEST, async |page_size, page_token| {
            let request = ListAuditRecordsRequest {
                parent: gateway.accounts(),
                page_size,
                page_token,
                resource: resource.clone(),
                principal: self.principal.clone(),
                method: method.clone().unwrap_or_default(),
                start_time: self.times.since.map(|time| time.before(now)),
                end_time: self.times.until.map(|time| time.before(now)),
            };
            let mut client = AuditServiceClient::new(gateway.channel());
            gateway.call(FLAGS, client.list_audit_records(gateway.request(request))).await
        })
        .await
    }
}

impl Page for ListAuditRecordsResponse {
    type Item = AuditRecord;

    fn items(&mut self) -> &mut Vec<AuditRecord> {
        &mut self.audit_records
    }

    fn next_page_token(&mut self) -> &mut String {
        &mut self.next_page_token
    }
}

impl Resource for AuditRecord {
    const COLUMNS: &'static [&'static str] =
        &["NUMBER", "TIME", "CALLER", "METHOD", "RESOURCE", "OUTCOME", "COUNT"];

    fn id(&self) -> String {
        self.number.to_string()
    }

    fn cells(&self, _: Option<AccountScope>) -> Vec<String> {
        let outcome = short(&enumeration("tidings.v1.AuditRecord.Outcome"), self.outcome);
        vec![
            self.number.to_string(),
            times::shown(self.create_time.as_ref()),
            self.principal.clone(),
            self.method.trim_start_matches(PACKAGE).to_owned(),
            if self.resource.is_empty() { "-".to_owned() } else { self.resource.clone() },
            if self.reason.is_empty() { outcome } else { format!("{outcome} {}", self.reason) },
            self.count.to_string(),
        ]
    }
}
