//! `AccessTokenService`.

use std::{collections::HashSet, time::Duration};

use prost::Message as _;
use sha2::{Digest, Sha256};
use tonic::{Code, Request, Response, Status};

use crate::{
    domain::{
        access::{ACCOUNTS_MAX, Accounts, DISPLAY_NAME_CHARS_MAX, Rights, Scope, TokenId, TokenState},
        ids::AccountScope,
        secret::Secret,
    },
    gateway::{Applied, CreateAccessToken, Gateway, Issued, RequestKey},
    grpc::{
        layers::auth::Grant,
        wire::{
            audited::AuditedCalls,
            deadline::within,
            pagination::{self, Cursor, PageKind, PageTokens},
            request_fields::Fields,
            status::GrpcError,
        },
    },
    proto::v1::{self, access_token, access_token_service_server::AccessTokenService},
};

/// The name by which a call asks about its own token.
const OWN_TOKEN: &str = "accessTokens/self";

/// Handler of the calls about access tokens.
pub(in crate::grpc) struct AccessTokens {
    pub(in crate::grpc) gateway: Gateway,
    pub(in crate::grpc) call_timeout: Duration,
    pub(in crate::grpc) audited: AuditedCalls,
}

#[tonic::async_trait]
impl AccessTokenService for AccessTokens {
    async fn create_access_token(
        &self,
        request: Request<v1::CreateAccessTokenRequest>,
    ) -> Result<Response<v1::CreateAccessTokenResponse>, Status> {
        self.audited.run(request, parse_creation, create).await
    }

    async fn get_access_token(
        &self,
        request: Request<v1::GetAccessTokenRequest>,
    ) -> Result<Response<v1::GetAccessTokenResponse>, Status> {
        let fields = Fields::of(&request)?;
        if request.get_ref().name == OWN_TOKEN {
            let Some(own) = fields.grant().own_token() else {
                let message = "the call has no access token";
                return Err(GrpcError::new(Code::NotFound, "ACCESS_TOKEN_NOT_FOUND", message).into());
            };
            let access_token = Some(shown(&self.gateway, own));
            return Ok(Response::new(v1::GetAccessTokenResponse { access_token }));
        }
        fields.grant().check_scope()?;
        let (grant, id) = named(fields, &request.get_ref().name)?;
        let issued = self.gateway.get_access_token(&id, grant.accounts())?;
        Ok(Response::new(v1::GetAccessTokenResponse { access_token: Some(shown(&self.gateway, &issued)) }))
    }

    async fn list_access_tokens(
        &self,
        request: Request<v1::ListAccessTokensRequest>,
    ) -> Result<Response<v1::ListAccessTokensResponse>, Status> {
        within(self.call_timeout, self.list(request)).await
    }

    async fn revoke_access_token(
        &self,
        request: Request<v1::RevokeAccessTokenRequest>,
    ) -> Result<Response<v1::RevokeAccessTokenResponse>, Status> {
        self.audited.run(request, |_, fields, request| named(fields, &request.name), revoke).await
    }
}

impl AccessTokens {
    async fn list(
        &self,
        request: Request<v1::ListAccessTokensRequest>,
    ) -> Result<v1::ListAccessTokensResponse, GrpcError> {
        let grant = Grant::of(&request)?;
        let mut fields = Fields::by(grant.clone());
        let mut request = request.into_inner();
        let size = pagination::size(&mut fields, std::mem::take(&mut request.page_size));
        let token = std::mem::take(&mut request.page_token);
        fields.finish(Some(()))?;

        let tokens = PageTokens::of(PageKind::AccessTokens, &request);
        let after = match tokens.read(&token)? {
            Some(cursor) => Some(cursor.name.parse().map_err(|_| GrpcError::page_token())?),
            None => None,
        };
        let read = |after: Option<TokenId>, limit| {
            std::future::ready(Ok(self.gateway.list_access_tokens(grant.accounts(), after.as_ref(), limit)))
        };
        let show = |issued: &std::sync::Arc<Issued>| (issued.token.id.clone(), shown(&self.gateway, issued));
        let (access_tokens, next) = pagination::fill(size, after, read, show).await?;
        let next = next.map(|id| Cursor { name: id.name(), ..Default::default() });
        Ok(v1::ListAccessTokensResponse { access_tokens, next_page_token: tokens.write(next) })
    }
}

fn parse_creation(
    gateway: &Gateway,
    mut fields: Fields,
    request: v1::CreateAccessTokenRequest,
) -> Result<CreateAccessToken, GrpcError> {
    let request_id = fields.uuid("request_id", &request.request_id);
    let Some(message) = request.access_token.clone() else {
        fields.violations.required("access_token");
        return Err(fields.violations.into());
    };
    let rights = Rights {
        scopes: scopes(&mut fields, &message.scopes),
        accounts: accounts(&mut fields, &message.accounts),
    };
    let display_name = message.display_name;
    let printable = display_name.chars().all(|c| !c.is_control());
    if display_name.chars().count() > DISPLAY_NAME_CHARS_MAX || !printable {
        let rule = format_args!(
            "must be at most {DISPLAY_NAME_CHARS_MAX} characters, none of them a control character"
        );
        fields.violations.invalid("access_token.display_name", rule);
    }
    let expire_time = message.expire_time.and_then(|time| fields.time("access_token.expire_time", time));
    if expire_time.is_some_and(|time| time <= gateway.now()) {
        fields.violations.invalid("access_token.expire_time", "must be in the future");
    }
    let caller = fields.grant().holder_name();
    let request = request_id.map(|id| RequestKey { id, fingerprint: fingerprint(caller, request) });
    let administrator = fields.grant().accounts().clone();
    fields.finish(Some(CreateAccessToken { display_name, rights, expire_time, administrator, request }))
}

/// Digest of a request, without its ignored fields, and of its caller: nobody else gets the first response.
fn fingerprint(caller: Option<String>, mut request: v1::CreateAccessTokenRequest) -> [u8; 32] {
    request.request_id = String::new();
    if let Some(token) = &mut request.access_token {
        token.name = caller.unwrap_or_default();
        token.create_time = None;
        token.last_use_time = None;
        token.revoke_time = None;
        token.state = 0;
    }
    Sha256::digest(request.encode_to_vec()).into()
}

async fn create(
    gateway: Gateway,
    create: CreateAccessToken,
) -> Result<Applied<v1::CreateAccessTokenResponse>, GrpcError> {
    let made = gateway.create_access_token(create).await?;
    let result = v1::CreateAccessTokenResponse {
        access_token: Some(shown(&gateway, &made.issued)),
        token: made.secret.as_ref().map_or("", Secret::expose).to_owned(),
        secret_already_shown: made.secret.is_none(),
    };
    Ok(Applied { result, changed: made.secret.is_some() })
}

async fn revoke(
    gateway: Gateway,
    (grant, id): (Grant, TokenId),
) -> Result<Applied<v1::RevokeAccessTokenResponse>, GrpcError> {
    let revoked = gateway.revoke_access_token(&id, grant.accounts()).await?;
    Ok(revoked.map(|issued| v1::RevokeAccessTokenResponse { access_token: Some(shown(&gateway, &issued)) }))
}

/// A token without its secret.
fn shown(gateway: &Gateway, issued: &Issued) -> v1::AccessToken {
    let token = &issued.token;
    let state = match token.state(gateway.now()) {
        TokenState::Active => access_token::State::Active,
        TokenState::Expired => access_token::State::Expired,
        TokenState::Revoked => access_token::State::Revoked,
    };
    v1::AccessToken {
        name: token.id.name(),
        display_name: token.display_name.clone(),
        scopes: token.rights.scopes.iter().map(|scope| scope_shown(*scope).into()).collect(),
        accounts: token.rights.accounts.named().iter().map(|id| format!("accounts/{id}")).collect(),
        create_time: Some(token.create_time.into()),
        expire_time: token.expire_time.map(Into::into),
        last_use_time: issued.last_use().map(Into::into),
        revoke_time: token.revoke_time.map(Into::into),
        state: state.into(),
    }
}

fn named(mut fields: Fields, text: &str) -> Result<(Grant, TokenId), GrpcError> {
    let grant = fields.grant().clone();
    let id = fields.required("name", text);
    Ok((grant, fields.finish(id)?))
}

/// The requested scopes: at least one, each once.
fn scopes(fields: &mut Fields, numbers: &[i32]) -> Vec<Scope> {
    const FIELD: &str = "access_token.scopes";
    if numbers.is_empty() {
        fields.violations.required(FIELD);
    }
    let mut scopes = fields.choices(FIELD, numbers, parse_scope);
    let requested = scopes.len();
    scopes.sort_unstable();
    scopes.dedup();
    if scopes.len() < requested {
        fields.violations.invalid(FIELD, "must not have a scope twice");
    }
    scopes
}

/// The requested accounts. The caller must have access to each.
fn accounts(fields: &mut Fields, names: &[String]) -> Accounts {
    const FIELD: &str = "access_token.accounts";
    if names.len() > ACCOUNTS_MAX {
        fields.violations.invalid(FIELD, format_args!("must be at most {ACCOUNTS_MAX}"));
        return Accounts::All;
    }
    if names.is_empty() {
        fields.permit(FIELD, AccountScope::All);
    }
    let mut seen = HashSet::new();
    for (index, name) in names.iter().enumerate() {
        let field = format!("{FIELD}[{index}]");
        if let Some(account) = fields.account(&field, name)
            && !seen.insert(account)
        {
            fields.violations.invalid(field, "is there twice");
        }
    }
    Accounts::of(seen.into_iter().collect())
}

fn parse_scope(scope: access_token::Scope) -> Option<Scope> {
    match scope {
        access_token::Scope::Unspecified => None,
        access_token::Scope::Publish => Some(Scope::Publish),
        access_token::Scope::Read => Some(Scope::Read),
        access_token::Scope::Manage => Some(Scope::Manage),
        access_token::Scope::Admin => Some(Scope::Admin),
    }
}

fn scope_shown(scope: Scope) -> access_token::Scope {
    match scope {
        Scope::Publish => access_token::Scope::Publish,
        Scope::Read => access_token::Scope::Read,
        Scope::Manage => access_token::Scope::Manage,
        Scope::Admin => access_token::Scope::Admin,
    }
}
