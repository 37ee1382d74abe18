//! `NoticeService`.

use prost::Message;
use sha2::{Digest, Sha256};
use tonic::{Request, Response, Status};

use crate::{
    domain::{
        access::Scope,
        ids::{AccountId, AccountScope, NoticeSinkName},
        notice::{NoticeKind, NoticeKinds},
        secret::Secret,
        subscription::Subscription,
    },
    gateway::{Applied, CreateNoticeSink, DeleteSubscription, Gateway, RequestKey},
    grpc::wire::{
        audited::AuditedCalls,
        pagination::{self, Cursor, PageKind, PageTokens},
        request_fields::Fields,
        status::GrpcError,
        to_proto,
    },
    proto::v1::{self, notice_service_server::NoticeService, notice_sink::Kind},
};

/// Handler of the calls about the sinks of notices.
pub(in crate::grpc) struct NoticeSinks {
    pub(in crate::grpc) gateway: Gateway,
    pub(in crate::grpc) audited: AuditedCalls,
}

#[tonic::async_trait]
impl NoticeService for NoticeSinks {
    async fn create_notice_sink(
        &self,
        request: Request<v1::CreateNoticeSinkRequest>,
    ) -> Result<Response<v1::CreateNoticeSinkResponse>, Status> {
        self.audited.run(request, parse_creation, create).await
    }

    async fn get_notice_sink(
        &self,
        request: Request<v1::GetNoticeSinkRequest>,
    ) -> Result<Response<v1::GetNoticeSinkResponse>, Status> {
        let name = named(Fields::of(&request)?, &request.get_ref().name)?;
        let sink = self.gateway.get_notice_sink(&name).map_err(GrpcError::from)?;
        Ok(Response::new(v1::GetNoticeSinkResponse { notice_sink: Some(shown(&self.gateway, &sink)) }))
    }

    async fn list_notice_sinks(
        &self,
        request: Request<v1::ListNoticeSinksRequest>,
    ) -> Result<Response<v1::ListNoticeSinksResponse>, Status> {
        let mut fields = Fields::of(&request)?;
        let mut request = request.into_inner();
        let size = pagination::size(&mut fields, std::mem::take(&mut request.page_size));
        let token = std::mem::take(&mut request.page_token);
        let account = parent(&mut fields, &request.parent)?;
        let account = fields.finish(account)?;

        let tokens = PageTokens::of(PageKind::NoticeSinks, &request);
        let after = tokens.read(&token)?.map(|cursor| cursor.name);
        let sinks = self.gateway.list_notice_sinks(account);
        let mut rest = sinks.iter().filter(|sink| Some(sink.name.to_string()) > after);
        let page: Vec<_> = rest.by_ref().take(size).map(|sink| shown(&self.gateway, sink)).collect();
        let last = rest.next().and(page.last()).map(|sink| sink.name.clone());
        let next = last.map(|name| Cursor { name, ..Default::default() });
        let next_page_token = tokens.write(next);
        Ok(Response::new(v1::ListNoticeSinksResponse { notice_sinks: page, next_page_token }))
    }

    async fn delete_notice_sink(
        &self,
        request: Request<v1::DeleteNoticeSinkRequest>,
    ) -> Result<Response<v1::DeleteNoticeSinkResponse>, Status> {
        self.audited.run(request, |_, fields, request| named(fields, &request.name), delete).await
    }

    async fn test_notice_sink(
        &self,
        request: Request<v1::TestNoticeSinkRequest>,
    ) -> Result<Response<v1::TestNoticeSinkResponse>, Status> {
        self.audited.run(request, |_, fields, request| parse_test(fields, &request), test).await
    }
}

fn parse_creation(
    gateway: &Gateway,
    mut fields: Fields,
    request: v1::CreateNoticeSinkRequest,
) -> Result<CreateNoticeSink, GrpcError> {
    let account = parent(&mut fields, &request.parent)?;
    let settings = request.notice_sink.as_ref().and_then(|sink| {
        let kinds = parse_kinds(&mut fields, &sink.kinds);
        let checked = gateway.check_notice_sink(sink, kinds, "notice_sink");
        checked.map_err(|violations| fields.violations.extend(violations)).ok()
    });
    if request.notice_sink.is_none() {
        fields.violations.required("notice_sink");
    }
    let id = fields.optional("notice_sink_id", &request.notice_sink_id);
    let request_id = fields.uuid("request_id", &request.request_id);
    let (account, settings) = fields.finish(account.zip(settings))?;
    let request = request_id.map(|id| RequestKey { id, fingerprint: fingerprint(request) });
    Ok(CreateNoticeSink { account, id, settings, request })
}

fn parse_kinds(fields: &mut Fields, numbers: &[i32]) -> NoticeKinds {
    let kinds = fields.choices("notice_sink.kinds", numbers, NoticeKind::from_wire);
    for (index, kind) in kinds.iter().enumerate() {
        if kinds[..index].contains(kind) {
            let rule = "is repeated: each kind may be named once";
            fields.violations.invalid(format!("notice_sink.kinds[{index}]"), rule);
        }
    }
    kinds.into_iter().collect()
}

async fn create(
    gateway: Gateway,
    create: CreateNoticeSink,
) -> Result<Applied<v1::CreateNoticeSinkResponse>, GrpcError> {
    let created = gateway.create_notice_sink(create).await?;
    let secret = Some(&created.subscription.signing_secrets.newest.secret).filter(|_| !created.repeated);
    let result = v1::CreateNoticeSinkResponse {
        notice_sink: Some(shown(&gateway, &created.subscription)),
        signing_secret: secret.map_or("", Secret::expose).to_owned(),
        secret_already_shown: created.repeated,
    };
    Ok(Applied { result, changed: !created.repeated })
}

async fn delete(
    gateway: Gateway,
    NoticeSinkName(name): NoticeSinkName,
) -> Result<v1::DeleteNoticeSinkResponse, GrpcError> {
    gateway.delete_subscription(DeleteSubscription { name, etag: None, force: true }).await?;
    Ok(v1::DeleteNoticeSinkResponse {})
}

fn parse_test(
    mut fields: Fields,
    request: &v1::TestNoticeSinkRequest,
) -> Result<(NoticeSinkName, Option<NoticeKind>), GrpcError> {
    let kind = match Kind::try_from(request.kind) {
        Ok(kind) => NoticeKind::from_wire(kind),
        Err(_) => {
            fields.violations.invalid("kind", "is not a known kind");
            None
        }
    };
    Ok((named(fields, &request.name)?, kind))
}

async fn test(
    gateway: Gateway,
    (name, kind): (NoticeSinkName, Option<NoticeKind>),
) -> Result<v1::TestNoticeSinkResponse, GrpcError> {
    let tested = gateway.test_notice_sink(&name, kind).await?;
    let mut attempt = to_proto::attempt(1, &tested.attempt);
    to_proto::add_exchange(&mut attempt, &tested.exchange);
    let request_body = String::from_utf8_lossy(&tested.body).into_owned();
    Ok(v1::TestNoticeSinkResponse { request_body, attempt: Some(attempt) })
}

/// The account of `accounts/{account}`, or all of `accounts/-`.
fn parent(fields: &mut Fields, text: &str) -> Result<Option<AccountId>, GrpcError> {
    let scope: Option<AccountScope> = fields.required("parent", text);
    let account = scope.map(|scope| match scope {
        AccountScope::One(account) => account,
        AccountScope::All => AccountId::ALL,
    });
    account.iter().try_for_each(|account| check_scope(fields, *account))?;
    Ok(account)
}

fn named(mut fields: Fields, text: &str) -> Result<NoticeSinkName, GrpcError> {
    let name: Option<NoticeSinkName> = fields.required("name", text);
    name.iter().try_for_each(|name| check_scope(&fields, name.0.account))?;
    fields.finish(name)
}

/// The sinks for all accounts are the administrator's.
fn check_scope(fields: &Fields, account: AccountId) -> Result<(), GrpcError> {
    if account == AccountId::ALL {
        fields.grant().require(Scope::Admin, "a sink for all accounts")?;
    }
    Ok(())
}

/// A sink without its secrets.
fn shown(gateway: &Gateway, sink: &Subscription) -> v1::NoticeSink {
    let kinds = sink.settings.notices.filter(|kinds| *kinds != NoticeKinds::ALL);
    let v1::Subscription {
        name,
        uid,
        display_name,
        url,
        headers,
        state,
        state_reason,
        create_time,
        owed_count,
        last_success_time,
        last_failure_time,
        last_error,
        ..
    } = to_proto::subscription_with_health(gateway, sink);
    v1::NoticeSink {
        name,
        uid,
        display_name,
        url,
        kinds: kinds.into_iter().flat_map(NoticeKinds::iter).map(|kind| kind.to_wire().into()).collect(),
        headers,
        state,
        state_reason,
        create_time,
        owed_count,
        last_success_time,
        last_failure_time,
        last_error,
    }
}

/// Digest of a request, without its id and the ignored name. An id that made something else is not one of it.
fn fingerprint(mut request: v1::CreateNoticeSinkRequest) -> [u8; 32] {
    request.request_id = String::new();
    if let Some(sink) = &mut request.notice_sink {
        sink.name = String::new();
    }
    let digest = Sha256::new_with_prefix("CreateNoticeSink");
    digest.chain_update(request.encode_to_vec()).finalize().into()
}
