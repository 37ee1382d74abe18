//! Who changed what.

use askama::Template;
use axum::extract::Path;

use super::{PAGE_SIZE, Shell, Shown, Visitor, page, time};
use crate::{
    console::{
        forms::{Faults, Fields},
        view::{self, Badge, Time},
    },
    proto::v1,
};

const FILTER: [&str; 5] = ["resource", "principal", "method", "from", "until"];

#[derive(Template)]
#[template(path = "audit.html")]
struct AuditPage {
    shell: Shell,
    account: i64,
    all: bool,
    may_see_all: bool,
    resource: String,
    principal: String,
    method: String,
    from: String,
    until: String,
    rows: Vec<Row>,
    faults: Faults,
    next: String,
    is_first: bool,
    is_filtered: bool,
}

/// The name of the form's field for a path of the contract.
fn name(path: &str) -> Option<&'static str> {
    ["resource", "principal"].into_iter().find(|name| *name == path)
}

struct Row {
    number: i64,
    when: Option<Time>,
    who: String,
    address: String,
    via: String,
    method: String,
    resource: String,
    details: Vec<(String, String)>,
    badge: Badge,
    reason: String,
    /// How often the call was made, if more than once, and when last.
    repeated: Option<(i64, Time)>,
}

pub(super) async fn list(visitor: Visitor, Path(account): Path<i64>, fields: Fields) -> Shown {
    // Calls about tokens belong to no account: the list of all has them.
    let all = fields.has("all") && visitor.sees_all_accounts();
    let request = v1::ListAuditRecordsRequest {
        parent: if all { "accounts/-".to_owned() } else { format!("accounts/{account}") },
        page_size: PAGE_SIZE,
        page_token: fields.get("page").to_owned(),
        resource: fields.get("resource").to_owned(),
        principal: fields.get("principal").to_owned(),
        method: fields.get("method").to_owned(),
        start_time: view::timestamp(fields.get("from")),
        end_time: view::timestamp(fields.get("until")),
    };
    let is_first = request.page_token.is_empty();
    let (listed, faults) = match visitor.api.audit().list_audit_records(visitor.api.request(request)).await {
        Ok(listed) => (listed.into_inner(), Faults::default()),
        Err(status) => (v1::ListAuditRecordsResponse::default(), Faults::from_status(status, name)?),
    };
    let names = ["all", "resource", "principal", "method", "from", "until"];
    Ok(page(&AuditPage {
        shell: visitor.shell("Audit", "audit", Some(account)),
        account,
        all,
        may_see_all: visitor.sees_all_accounts(),
        resource: fields.get("resource").to_owned(),
        principal: fields.get("principal").to_owned(),
        method: fields.get("method").to_owned(),
        from: fields.get("from").to_owned(),
        until: fields.get("until").to_owned(),
        rows: listed.audit_records.iter().map(Row::of).collect(),
        next: match listed.next_page_token.as_str() {
            "" => String::new(),
            token => format!("/accounts/{account}/audit{}", fields.query(&names, &[("page", token)])),
        },
        faults,
        is_first,
        is_filtered: FILTER.iter().any(|name| fields.has(name)),
    }))
}

impl Row {
    fn of(record: &v1::AuditRecord) -> Self {
        let mut details: Vec<_> = record
            .parameters
            .iter()
            .filter(|(name, _)| name.as_str() != "via")
            .map(|(name, value)| (view::visible(name), view::visible(value)))
            .collect();
        if !record.fields.is_empty() {
            details.insert(0, ("changed".to_owned(), record.fields.join(", ")));
        }
        Self {
            number: record.number,
            when: time(record.create_time),
            who: view::visible(&record.principal),
            address: view::visible(&record.address),
            via: record
                .parameters
                .get("via")
                .map(|via| view::visible(via))
                .unwrap_or_else(|| "gRPC".to_owned()),
            method: view::last_part(&record.method).to_owned(),
            resource: view::visible(&record.resource),
            details,
            badge: Badge::of_record(record.outcome()),
            reason: record.reason.clone(),
            repeated: time(record.last_time).map(|last| (record.count, last)),
        }
    }
}
