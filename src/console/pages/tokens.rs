//! Access tokens: made and shown once, listed, revoked; and the visitor's own.

use askama::Template;
use axum::{extract::Path, http::StatusCode, response::Response};

use super::{PAGE_SIZE, Shell, Shown, Visitor, page, page_with, see_other, time, token_title};
use crate::{
    console::{
        forms::{Faults, Fields, Form},
        view::{self, Badge, Time},
    },
    proto::v1::{self, access_token::Scope, access_token::State},
};

/// The scopes: the word in forms, and what each allows.
const SCOPES: [(&str, Scope, &str); 4] = [
    ("publish", Scope::Publish, "Publish events. No other scope includes it."),
    ("read", Scope::Read, "See webhooks, events and deliveries."),
    ("manage", Scope::Manage, "Change webhooks and deliveries, see bodies and the audit. Includes read."),
    ("admin", Scope::Admin, "Create and revoke tokens. Includes manage."),
];

#[derive(Template)]
#[template(path = "tokens.html")]
struct TokensPage {
    shell: Shell,
    rows: Vec<Row>,
    next: String,
    is_first: bool,
}

struct Row {
    id: String,
    title: String,
    scopes: Vec<&'static str>,
    accounts: String,
    badge: Badge,
    is_active: bool,
    is_own: bool,
    created: Option<Time>,
    last_use: Option<Time>,
    expires: Option<Time>,
}

impl Row {
    fn of(token: &v1::AccessToken, own: &str) -> Self {
        let accounts: Vec<_> = token.accounts.iter().map(|name| view::last_part(name)).collect();
        Self {
            id: view::last_part(&token.name).to_owned(),
            title: view::visible(&token_title(token)),
            scopes: SCOPES
                .iter()
                .filter(|(_, scope, _)| token.scopes().any(|given| given == *scope))
                .map(|(word, _, _)| *word)
                .collect(),
            accounts: if accounts.is_empty() { "all".to_owned() } else { accounts.join(", ") },
            badge: Badge::of_token(token.state()),
            is_active: token.state() == State::Active,
            is_own: token.name == own,
            created: time(token.create_time).filter(|time| time.seconds() > 0),
            last_use: time(token.last_use_time),
            expires: time(token.expire_time),
        }
    }
}

pub(super) async fn list(visitor: Visitor, fields: Fields) -> Shown {
    let request =
        v1::ListAccessTokensRequest { page_size: PAGE_SIZE, page_token: fields.get("page").to_owned() };
    let is_first = request.page_token.is_empty();
    let listed = visitor.api.tokens().list_access_tokens(visitor.api.request(request)).await?.into_inner();
    let own = visitor.token.as_ref().map(|token| token.name.clone()).unwrap_or_default();
    Ok(page(&TokensPage {
        shell: visitor.shell("Access tokens", "tokens", None).saying(fields.get("done")),
        rows: listed.access_tokens.iter().map(|token| Row::of(token, &own)).collect(),
        next: match listed.next_page_token.as_str() {
            "" => String::new(),
            token => format!("/tokens{}", fields.query(&[], &[("page", token)])),
        },
        is_first,
    }))
}

#[derive(Template)]
#[template(path = "token_form.html")]
struct TokenForm {
    shell: Shell,
    name: String,
    scopes: Vec<ScopeChoice>,
    accounts: String,
    days: String,
    request_id: String,
    /// There is no token yet: the first one must be an administrator's.
    is_first: bool,
    faults: Faults,
}

struct ScopeChoice {
    word: &'static str,
    meaning: &'static str,
    is_chosen: bool,
}

pub(super) async fn ask(visitor: Visitor) -> Response {
    page(&form(&visitor, &Fields::default(), Faults::default()))
}

fn form(visitor: &Visitor, fields: &Fields, faults: Faults) -> TokenForm {
    let chosen: Vec<_> = fields.all("scope").collect();
    let is_first = visitor.token.is_none();
    let own: Vec<_> = visitor.own_accounts().iter().map(ToString::to_string).collect();
    TokenForm {
        shell: visitor.shell("Create token", "tokens", None),
        name: fields.get("name").to_owned(),
        scopes: SCOPES
            .iter()
            .map(|(word, _, meaning)| ScopeChoice {
                word,
                meaning,
                is_chosen: chosen.contains(word) || (is_first && chosen.is_empty() && *word == "admin"),
            })
            .collect(),
        accounts: if fields.has("accounts") { fields.get("accounts").to_owned() } else { own.join(", ") },
        days: fields.get("days").to_owned(),
        request_id: fields.request_id(),
        is_first,
        faults,
    }
}

#[derive(Template)]
#[template(path = "token_created.html")]
struct CreatedPage {
    shell: Shell,
    row: Row,
    secret: String,
    is_first: bool,
}

pub(super) async fn create(visitor: Visitor, Form(fields): Form) -> Shown {
    const DAY_SECONDS: i64 = 86_400;
    const DAYS_MAX: i64 = 36_500;
    let mut faults = Faults::default();
    let scopes: Vec<_> = fields.all("scope").collect();
    let texts = fields.get("accounts").split([',', ' ']).map(str::trim).filter(|text| !text.is_empty());
    let numbers: Result<Vec<i64>, _> = texts.map(str::parse).collect();
    if numbers.is_err() {
        faults.push("accounts", "Must be numbers of accounts, with commas between them.");
    }
    let days = fields.number::<i64>("days").filter(|days| (1..=DAYS_MAX).contains(days));
    if fields.has("days") && days.is_none() {
        faults.push("days", format!("Must be a number of days from 1 to {DAYS_MAX}."));
    }
    if !faults.is_empty() {
        return Ok(page_with(StatusCode::UNPROCESSABLE_ENTITY, &form(&visitor, &fields, faults)));
    }
    let now = (visitor.parts.now)().seconds();
    let token = v1::AccessToken {
        display_name: fields.get("name").to_owned(),
        scopes: SCOPES
            .iter()
            .filter(|(word, _, _)| scopes.contains(word))
            .map(|(_, scope, _)| (*scope).into())
            .collect(),
        accounts: numbers.unwrap_or_default().iter().map(|account| format!("accounts/{account}")).collect(),
        // At the end of a day: the same form sent again asks for the same.
        expire_time: days.map(|days| prost_types::Timestamp {
            seconds: (now / DAY_SECONDS + days + 1) * DAY_SECONDS,
            nanos: 0,
        }),
        ..Default::default()
    };
    let is_first = visitor.token.is_none();
    let request = v1::CreateAccessTokenRequest {
        access_token: Some(token),
        request_id: fields.get("request_id").to_owned(),
    };
    match visitor.api.tokens().create_access_token(visitor.api.request(request)).await {
        Ok(response) => {
            let created = response.into_inner();
            Ok(page(&CreatedPage {
                shell: visitor.shell("Token created", "tokens", None),
                row: Row::of(&created.access_token.unwrap_or_default(), ""),
                secret: created.token,
                is_first,
            }))
        }
        Err(status) => {
            let faults = Faults::from_status(status, |path| match path {
                "access_token.display_name" => Some("name"),
                "access_token.scopes" => Some("scope"),
                "access_token.expire_time" => Some("days"),
                other if other.starts_with("access_token.accounts") => Some("accounts"),
                _ => None,
            })?;
            Ok(page_with(StatusCode::UNPROCESSABLE_ENTITY, &form(&visitor, &fields, faults)))
        }
    }
}

#[derive(Template)]
#[template(path = "token_revoke.html")]
struct RevokePage {
    shell: Shell,
    row: Row,
}

pub(super) async fn ask_revoke(visitor: Visitor, Path(id): Path<String>) -> Shown {
    let request = v1::GetAccessTokenRequest { name: format!("accessTokens/{id}") };
    let found = visitor.api.tokens().get_access_token(visitor.api.request(request)).await?.into_inner();
    let own = visitor.token.as_ref().map(|token| token.name.clone()).unwrap_or_default();
    let row = Row::of(&found.access_token.unwrap_or_default(), &own);
    Ok(page(&RevokePage { shell: visitor.shell("Revoke token", "tokens", None), row }))
}

pub(super) async fn revoke(visitor: Visitor, Path(id): Path<String>) -> Shown {
    let request = v1::RevokeAccessTokenRequest { name: format!("accessTokens/{id}") };
    visitor.api.tokens().revoke_access_token(visitor.api.request(request)).await?;
    Ok(see_other("/tokens?done=revoked"))
}

#[derive(Template)]
#[template(path = "me.html")]
struct MePage {
    shell: Shell,
    row: Option<Row>,
    scopes: Vec<ScopeChoice>,
}

/// Who am I, and what may I do?
pub(super) async fn me(visitor: Visitor) -> Response {
    let row = visitor.token.as_ref().map(|token| Row::of(token, &token.name));
    let scopes = SCOPES
        .iter()
        .map(|(word, scope, meaning)| ScopeChoice { word, meaning, is_chosen: visitor.may(*scope) })
        .collect();
    page(&MePage { shell: visitor.shell("Who am I", "me", None), row, scopes })
}
