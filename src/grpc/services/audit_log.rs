//! `AuditService`.

use std::{collections::BTreeSet, sync::LazyLock, time::Duration};

use prost::Message;
use prost_types::{FileDescriptorSet, MethodOptions, method_options::IdempotencyLevel};
use tonic::{Request, Response, Status};

use crate::{
    domain::{
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
        pagination::{self, Cursor, PageKind, PageTokens},
        request_fields::Fields,
        status::GrpcError,
    },
    proto::{
        self,
        v1::{self, audit_service_server::AuditService},
    },
};

/// Longest resource name of a filter, in bytes. No resource has a longer one.
const RESOURCE_BYTES_MAX: usize = 512;

const METHOD_RULE: &str =
    "must be a method that leaves records, such as tidings.v1.SubscriptionService/PauseSubscription";

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
        if method.as_ref().is_some_and(|method| !CHANGING.contains(method)) {
            fields.violations.invalid("method", METHOD_RULE);
        }
        let time = fields.time_range(request.start_time, request.end_time);
        let scope = fields.finish(scope)?;

        let tokens = PageTokens::of(PageKind::AuditRecords, &request);
        let before =
            tokens.read(&token)?.map(|cursor| AuditKey { time: UnixMicros(cursor.time), number: cursor.seq });
        let query = AuditQuery { scope, resource, principal, method, time, before: None, limit: 0 };
        let read =
            |before, limit| self.gateway.list_audit_records(AuditQuery { before, limit, ..query.clone() });
        let (audit_records, next) =
            pagination::fill(size, before, read, |record| (record.key, shown(record))).await?;
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

fn shown(record: &AuditRecord) -> v1::AuditRecord {
    let AuditRecord { key, call, outcome, code, reason, end_time } = record.clone();
    let AuditedCall { principal, address, method, subject } = call;
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
        address,
        method,
        resource,
        fields,
        parameters,
        outcome: outcome.into(),
        code,
        reason,
    }
}

/// Every method of the contract that may write audit records.
static CHANGING: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let set = FileDescriptorSet::decode(proto::DESCRIPTORS);
    let set = set.expect("descriptors that were built in are valid");
    let mut changing = BTreeSet::new();
    for file in set.file.iter().filter(|file| file.package() == "tidings.v1") {
        for service in file.service.iter().filter(|service| service.name() != "EventService") {
            for method in &service.method {
                let level = method.options.as_ref().map(MethodOptions::idempotency_level);
                if level != Some(IdempotencyLevel::NoSideEffects) {
                    changing.insert(format!("tidings.v1.{}/{}", service.name(), method.name()));
                }
            }
        }
    }
    changing
});
