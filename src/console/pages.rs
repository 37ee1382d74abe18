//! The pages: their addresses, who looks at them, and what all of them have in common.

use std::sync::Arc;

use askama::Template;
use axum::{
    Router,
    extract::{FromRequestParts, Request, State},
    http::{
        HeaderMap, Method, StatusCode,
        header::{CONTENT_TYPE, COOKIE, LOCATION, SET_COOKIE},
        request::Parts as Head,
    },
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::{
    api::Api,
    forms::sentence,
    guard::Allowed,
    server::{Ends, Parts},
    sessions::{IdHash, Resumed},
    view::{Time, account_of},
};
use crate::proto::v1::{self, access_token::Scope};

mod accounts;
mod assets;
mod audit;
mod deliveries;
mod delivery;
mod events;
mod live;
mod replay;
mod sign_in;
mod start;
mod stats;
mod status;
mod tokens;
mod webhook;
mod webhook_form;
mod webhooks;

/// Rows of a list.
const PAGE_SIZE: i32 = 50;

/// Every page behind the look at who asks for it.
pub(super) fn router(parts: Arc<Parts>) -> Router {
    let manages = Router::new()
        .route("/accounts/{account}/new-webhook", get(webhook_form::ask_new).post(webhook_form::create))
        .route(
            "/accounts/{account}/webhooks/{webhook}/edit",
            get(webhook_form::ask_edit).post(webhook_form::update),
        )
        .route(
            "/accounts/{account}/webhooks/{webhook}/rotate",
            get(webhook::ask_rotate).post(webhook::rotate),
        )
        .route("/accounts/{account}/webhooks/{webhook}/test", get(webhook::ask_test).post(webhook::test))
        .route("/accounts/{account}/webhooks/{webhook}/pause", post(webhook::pause))
        .route("/accounts/{account}/webhooks/{webhook}/resume", post(webhook::resume))
        .route(
            "/accounts/{account}/webhooks/{webhook}/delete",
            get(webhook::ask_delete).post(webhook::delete),
        )
        .route("/accounts/{account}/deliveries/replay", get(replay::ask).post(replay::start))
        .route_layer(middleware::from_fn(manage_only));
    let behind = Router::new()
        .merge(manages)
        .route("/", get(accounts::home))
        .route("/accounts", get(accounts::list))
        .route("/go", get(accounts::go))
        .route("/sign-out", post(sign_in::end))
        .route("/start", get(start::show))
        .route("/status", get(status::show))
        .route("/me", get(tokens::me))
        .route("/tokens", get(tokens::list))
        .route("/tokens/new", get(tokens::ask).post(tokens::create))
        .route("/tokens/{token}/revoke", get(tokens::ask_revoke).post(tokens::revoke))
        .route("/accounts/{account}/webhooks", get(webhooks::list))
        .route("/accounts/{account}/webhooks/{webhook}", get(webhook::show))
        .route("/accounts/{account}/deliveries", get(deliveries::list).post(deliveries::change))
        .route("/accounts/{account}/deliveries/live", get(live::deliveries))
        .route("/accounts/{account}/deliveries/{webhook}/{event}", get(delivery::show).post(delivery::change))
        .route("/accounts/{account}/deliveries/{webhook}/{event}/raw", get(delivery::raw))
        .route("/accounts/{account}/events", get(events::list))
        .route("/accounts/{account}/events/{event}", get(events::show))
        .route("/accounts/{account}/events/{event}/raw", get(events::raw))
        .route("/accounts/{account}/audit", get(audit::list))
        .fallback(async || Failure::not_found("There is no such page."))
        .method_not_allowed_fallback(async || StatusCode::METHOD_NOT_ALLOWED)
        .layer(middleware::from_fn_with_state(Arc::clone(&parts), visit));
    Router::new()
        .route("/sign-in", get(sign_in::ask).post(sign_in::begin))
        .route("/assets/console.css", get(assets::css))
        .route("/assets/console.js", get(assets::js))
        .route("/favicon.ico", get(assets::icon))
        .merge(behind)
        .with_state(parts)
}

/// Who looks at a page, and what they may do.
#[derive(Clone)]
pub(super) struct Visitor {
    pub(super) api: Api,
    pub(super) parts: Arc<Parts>,
    https: bool,
    session: Option<IdHash>,
    /// Cancelled when the session ends; never without one.
    signed_out: CancellationToken,
    /// The token; `None` where no token is asked for.
    token: Option<Arc<v1::AccessToken>>,
    address: std::net::IpAddr,
    is_near: bool,
    last_account: Option<i64>,
}

impl Visitor {
    /// Whether the token covers what needs this scope. Without tokens everybody may do everything, but make
    /// the first token from this machine only.
    fn may(&self, scope: Scope) -> bool {
        let Some(token) = &self.token else { return scope != Scope::Admin || self.is_near };
        token.scopes().any(|given| match given {
            Scope::Admin => scope != Scope::Publish,
            Scope::Manage => matches!(scope, Scope::Read | Scope::Manage),
            other => other == scope,
        })
    }

    fn may_manage(&self) -> bool {
        self.may(Scope::Manage)
    }

    /// Whether the token covers all accounts.
    fn sees_all_accounts(&self) -> bool {
        self.token.as_ref().is_none_or(|token| token.accounts.is_empty())
    }

    /// The accounts that the token is limited to.
    fn own_accounts(&self) -> Vec<i64> {
        let names = self.token.iter().flat_map(|token| &token.accounts);
        names.filter_map(|name| account_of(name)).collect()
    }

    fn shell(&self, title: impl Into<String>, section: &'static str, account: Option<i64>) -> Shell {
        let account = account.or(self.last_account).or_else(|| self.own_accounts().first().copied());
        Shell {
            title: title.into(),
            section,
            account,
            accounts: self.own_accounts().into_iter().map(|own| (own, account == Some(own))).collect(),
            signed_in: self.token.as_ref().map(|token| token_title(token)),
            is_open: self.token.is_none(),
            may_read: self.may(Scope::Read),
            may_manage: self.may_manage(),
            may_admin: self.may(Scope::Admin),
            done: "",
        }
    }
}

/// How a token is called: by its name for people, or by its id.
fn token_title(token: &v1::AccessToken) -> String {
    if token.display_name.is_empty() {
        super::view::last_part(&token.name).to_owned()
    } else {
        super::view::visible(&token.display_name)
    }
}

impl<S: Sync> FromRequestParts<S> for Visitor {
    type Rejection = StatusCode;

    async fn from_request_parts(head: &mut Head, _state: &S) -> Result<Self, StatusCode> {
        head.extensions.get().cloned().ok_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// What every page has around it.
pub(super) struct Shell {
    title: String,
    /// The page of the navigation that it belongs to.
    section: &'static str,
    account: Option<i64>,
    accounts: Vec<(i64, bool)>,
    signed_in: Option<String>,
    is_open: bool,
    may_read: bool,
    may_manage: bool,
    may_admin: bool,
    /// What was just done, after a form was sent.
    done: &'static str,
}

impl Shell {
    /// Says what was just done, if the address has one of the words for it.
    fn saying(mut self, word: &str) -> Self {
        self.done = match word {
            "created" => "The webhook was created.",
            "updated" => "The webhook was updated.",
            "paused" => "The webhook is paused. Events wait for it.",
            "resumed" => "The webhook is active. Waiting events are on their way.",
            "deleted" => "The webhook was deleted.",
            "retried" => "The next attempt is on its way.",
            "cancelled" => "The delivery was cancelled.",
            "revoked" => "The token was revoked. It is refused from now on.",
            _ => "",
        };
        self
    }
}

/// A page as a response.
fn page(template: &impl Template) -> Response {
    page_with(StatusCode::OK, template)
}

fn page_with(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(html) => (status, [(CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response(),
        Err(error) => {
            tracing::error!(%error, "a page of the console cannot be made");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// Leads to another page of the console after a form.
fn see_other(path: &str) -> Response {
    (StatusCode::SEE_OTHER, [(LOCATION, path.to_owned())]).into_response()
}

/// Why there is no page.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    status: StatusCode,
    title: &'static str,
    message: String,
    hint: &'static str,
}

impl Failure {
    fn not_found(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            title: "Not found",
            message: message.into(),
            hint: "It may have been deleted, or belong to another account.",
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let (http, title, hint) = match status.code() {
            Code::NotFound => (
                StatusCode::NOT_FOUND,
                "Not found",
                "It may have been deleted, or be older than the gateway keeps.",
            ),
            Code::Unauthenticated => (StatusCode::UNAUTHORIZED, "Signed out", "Sign in again."),
            Code::PermissionDenied => (
                StatusCode::FORBIDDEN,
                "Your token does not allow this",
                "Ask an administrator for a token with the scope or the account that is missing.",
            ),
            Code::InvalidArgument => {
                (StatusCode::BAD_REQUEST, "This address is not valid", "Go back and try again.")
            }
            Code::FailedPrecondition | Code::Aborted | Code::AlreadyExists => (
                StatusCode::CONFLICT,
                "This is not possible now",
                "Reload the page to see the present state.",
            ),
            Code::ResourceExhausted => {
                (StatusCode::TOO_MANY_REQUESTS, "Too much at once", "Wait a moment, then try again.")
            }
            Code::Unavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "The gateway is not available",
                "It is stopping, or its disk failed: see the status page and the log.",
            ),
            Code::DeadlineExceeded | Code::Cancelled => {
                (StatusCode::GATEWAY_TIMEOUT, "This took too long", "Narrow the filter, then try again.")
            }
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "Something went wrong", "The gateway's log says more."),
        };
        Self { status: http, title, message: sentence(status.message()), hint }
    }
}

impl IntoResponse for Failure {
    /// The middleware makes a page of it, since it knows the visitor.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

#[derive(Template)]
#[template(path = "failure.html")]
struct FailurePage {
    shell: Shell,
    failure: Failure,
}

type Shown = Result<Response, Failure>;

/// Finds out who asks for a page, and makes pages of failures.
async fn visit(State(parts): State<Arc<Parts>>, request: Request, next: Next) -> Response {
    let (mut head, body) = request.into_parts();
    let visitor = match visitor(&parts, &head).await {
        Ok(visitor) => visitor,
        Err(response) => return response,
    };
    let is_page = head.method == Method::GET;
    let account = account_in(head.uri.path());
    head.extensions.insert(visitor.clone());
    let mut response = next.run(Request::from_parts(head, body)).await;
    if let Some(failure) = response.extensions_mut().remove::<Failure>() {
        let status = failure.status;
        if status == StatusCode::UNAUTHORIZED {
            return sign_in_first(&parts, &visitor);
        }
        let shell = visitor.shell(failure.title, "", account);
        return page_with(status, &FailurePage { shell, failure });
    }
    if let Some(account) = account.filter(|account| is_page && visitor.last_account != Some(*account))
        && response.status() == StatusCode::OK
        && let Ok(cookie) = account_cookie(&parts, visitor.https, account).parse()
    {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    response
}

async fn visitor(parts: &Arc<Parts>, head: &Head) -> Result<Visitor, Response> {
    let (Some(ends), Some(allowed)) = (head.extensions.get::<Ends>(), head.extensions.get::<Allowed>())
    else {
        return Err(StatusCode::INTERNAL_SERVER_ERROR.into_response());
    };
    let https = allowed.https;
    let last_account =
        cookie(&head.headers, &account_cookie_name(parts, https)).and_then(|text| text.parse().ok());
    let mut visitor = Visitor {
        api: Api::new(parts.calls.clone(), None, ends.peer),
        parts: Arc::clone(parts),
        https,
        session: None,
        signed_out: CancellationToken::new(),
        token: None,
        address: ends.peer.ip(),
        is_near: ends.peer.ip().to_canonical().is_loopback(),
        last_account,
    };
    if !parts.guard.is_exposed && !(parts.tokens_required)() {
        ends.state.prove();
        return Ok(visitor);
    }
    let resumed = cookie(&head.headers, &session_cookie_name(parts, https))
        .and_then(|id| parts.sessions.resume(id, std::time::Instant::now()));
    let Some(Resumed { hash, token, ended }) = resumed else { return Err(sign_in_first(parts, &visitor)) };
    visitor.api = Api::new(parts.calls.clone(), Some(token), ends.peer);
    (visitor.session, visitor.signed_out) = (Some(hash), ended);
    match visitor.api.own_token().await {
        Ok(token) => {
            visitor.token = Some(Arc::new(token));
            ends.state.prove();
            Ok(visitor)
        }
        // Revoked, expired, or there are no tokens any more.
        Err(status) if matches!(status.code(), Code::Unauthenticated | Code::NotFound) => {
            Err(sign_in_first(parts, &visitor))
        }
        Err(status) => {
            let failure = Failure::from(status);
            Err((failure.status, format!("{}\n{}\n", failure.message, failure.hint)).into_response())
        }
    }
}

/// Refuses a form before anybody fills it in, where the services would refuse what it sends. They refuse what
/// is sent all the same, and the audit has it.
async fn manage_only(visitor: Visitor, request: Request, next: Next) -> Shown {
    if request.method() == Method::GET && !visitor.may_manage() {
        return Err(Status::permission_denied("This page needs the scope manage.").into());
    }
    Ok(next.run(request).await)
}

/// Leads to the page where one signs in, and ends a session whose token is no longer valid.
fn sign_in_first(parts: &Parts, visitor: &Visitor) -> Response {
    let mut response = see_other("/sign-in");
    if let Some(session) = visitor.session {
        parts.sessions.end(session);
        if let Ok(cookie) = session_cookie(parts, visitor.https, "", 0).parse() {
            response.headers_mut().append(SET_COOKIE, cookie);
        }
    }
    response
}

/// The account of an address: `/accounts/{account}/…`.
fn account_in(path: &str) -> Option<i64> {
    account_of(path.strip_prefix('/')?)
}

fn session_cookie_name(parts: &Parts, https: bool) -> String {
    if https { "__Host-tidings".to_owned() } else { format!("tidings-{}", parts.port) }
}

fn account_cookie_name(parts: &Parts, https: bool) -> String {
    if https { "__Host-tidings-account".to_owned() } else { format!("tidings-account-{}", parts.port) }
}

fn session_cookie(parts: &Parts, https: bool, id: &str, seconds: u64) -> String {
    new_cookie(&session_cookie_name(parts, https), id, seconds, https)
}

fn account_cookie(parts: &Parts, https: bool, account: i64) -> String {
    const YEAR: u64 = 365 * 24 * 3600;
    new_cookie(&account_cookie_name(parts, https), &account.to_string(), YEAR, https)
}

fn new_cookie(name: &str, value: &str, seconds: u64, https: bool) -> String {
    let secure = if https { "; Secure" } else { "" };
    format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}")
}

/// The value of a cookie.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.into_iter().find(|(known, _)| *known == name).map(|(_, value)| value)
}

/// The name of an account's webhook in the contract.
fn webhook_name(account: i64, id: &str) -> String {
    format!("accounts/{account}/subscriptions/{id}")
}

/// A moment of the contract.
fn time(time: Option<prost_types::Timestamp>) -> Option<Time> {
    Time::of(time)
}
