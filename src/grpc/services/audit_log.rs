//! `AuditService`.

use std::{collections::BTreeSet, sync::LazyLock, time::Duration};

use tonic::{Request, Response, Status};

use crate::{
    domain::{
        access::Accounts,
        audit::{
            AUDIT_TEXT_BYTES_MAX, AuditKey, AuditOutcome, AuditRecord, AuditSubject, AuditedCall,
            audited_account,
        },
        field_violation::ViolationKind,
        ids::AccountScope,
        time::UnixMicros,
    },
    gateway::{AuditQuery, Gateway},
    grpc::wire::{
        deadline::within,
        methods,
        pagination::{self, Cursor, PageKind, PageTokens},
        request_fields::Fields,
        status::GrpcError,
    },
    proto::v1::{self, audit_service_server::AuditService},
};

/// Longest resource name of a filter, in bytes. No resource has a longer one.
const RESOURCE_BYTES_MAX: usize = 512;

const METHOD_RULE: &str =
    "must be a method of the contract, such as tidings.v1.SubscriptionService/PauseSubscription";

/// Handler of the calls about audit records.
pub(in crate::grpc) struct Audit {
    pub(in crate::grpc) gateway: Gateway,
    pub(in crate::grpc) call_timeout: Duration,
}

#[tonic::async_trait]
impl AuditService for Audit {
    async fn list_audit_records(
        &self,
        request: Request<v1::ListAuditRecordsRequest>,
    ) -> Result<Response<v1::ListAuditRecordsResponse>, Status> {
        within(self.call_timeout, self.list(request)).await
    }
}

impl Audit {
    async fn list(
        &self,
        request: Request<v1::ListAuditRecordsRequest>,
    ) -> Result<v1::ListAuditRecordsResponse, GrpcError> {
        let mut fields = Fields::of(&request)?;
        let hides_foreign = *fields.grant().accounts() != Accounts::All;
        let mut request = request.into_inner();
        let size = pagination::size(&mut fields, std::mem::take(&mut request.page_size));
        let token = std::mem::take(&mut request.page_token);
        let scope = fields.required::<AccountScope>("parent", &request.parent);
        let resource = text(&mut fields, "resource", &request.resource, RESOURCE_BYTES_MAX);
        if let (Some(AccountScope::One(account)), Some(resource)) = (scope, &resource)
            && audited_account(resource) != Some(account)
        {
            fields.violations.push(
                ViolationKind::AccountMismatch,
                "resource",
                "must be of the account of parent",
            );
        }
        let principal = text(&mut fields, "principal", &request.principal, AUDIT_TEXT_BYTES_MAX);
        let method = (!request.method.is_empty()).then(|| request.method.clone());
        if method.as_ref().is_some_and(|method| !METHODS.contains(method)) {
            fields.violations.invalid("method", METHOD_RULE);
        }
        let time = fields.time_range(request.start_time, request.end_time);
        let scope = fields.finish(scope)?;

        let tokens = PageTokens::of(PageKind::AuditRecords, &request);
        let before =
            tokens.read(&token)?.map(|cursor| AuditKey { time: UnixMicros(cursor.time), number: cursor.seq });
        let query =
            AuditQuery { scope, resource, principal, hides_foreign, method, time, before: None, limit: 0 };
        let read =
            |before, limit| self.gateway.list_audit_records(AuditQuery { before, limit, ..query.clone() });
        let (audit_records, next) =
            pagination::fill(size, before, read, |record| (record.key, shown(&query, record))).await?;
        let next = next.map(|key| Cursor { time: key.time.0, seq: key.number, ..Cursor::default() });
        Ok(v1::ListAuditRecordsResponse { audit_records, next_page_token: tokens.write(next) })
    }
}

/// An optional text.
fn text(fields: &mut Fields, field: &str, text: &str, bytes_max: usize) -> Option<String> {
    if text.len() > bytes_max {
        fields.violations.invalid(field, format_args!("must have at most {bytes_max} bytes"));
        return None;
    }
    (!text.is_empty()).then(|| text.to_owned())
}

/// A record as the reader may see it: callers of other accounts have neither a name nor an address.
fn shown(query: &AuditQuery, record: &AuditRecord) -> v1::AuditRecord {
    let principal = query.principal_of(record).to_owned();
    let is_hidden = principal != record.call.principal;
    let AuditRecord { key, call, outcome, code, reason, end_time, repeats, last_time } = record.clone();
    let AuditedCall { principal: _, address, method, subject, account: _ } = call;
    let AuditSubject { resource, fields, parameters } = subject;
    let outcome = match outcome {
        AuditOutcome::Unknown => v1::audit_record::Outcome::Unknown,
        AuditOutcome::Ok => v1::audit_record::Outcome::Ok,
        AuditOutcome::Refused => v1::audit_record::Outcome::Refused,
    };
    v1::AuditRecord {
        number: i64::try_from(key.number).unwrap_or(i64::MAX),
        create_time: Some(key.time.into()),
        end_time: end_time.map(Into::into),
        principal,
        address: if is_hidden { String::new() } else { address },
        method,
        resource,
        fields,
        parameters,
        outcome: outcome.into(),
        code,
        reason,
        count: i64::try_from(repeats).unwrap_or(i64::MAX).saturating_add(1),
        last_time: last_time.map(Into::into),
    }
}

/// Every method of the contract. Those that read or publish leave a record when they are refused for their scope.
static METHODS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let paths = methods::served().iter().filter_map(|method| method.path.strip_prefix('/'));
    paths.filter(|path| path.starts_with("tidings.v1.")).map(str::to_owned).collect()
});
