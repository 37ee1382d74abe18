//! The first page, and the choice of an account.

use askama::Template;
use axum::response::Response;

use super::{Failure, Shell, Shown, Visitor, page, see_other};
use crate::{console::forms::Fields, proto::v1};

/// `/`: the account used last, or the first steps.
pub(super) async fn home(visitor: Visitor) -> Response {
    let account = visitor.last_account.or_else(|| visitor.own_accounts().first().copied());
    match account {
        Some(account) if visitor.may(v1::access_token::Scope::Read) => see_other(&webhooks(account)),
        _ => see_other("/start"),
    }
}

/// `/go?account=7`: the form of the header.
pub(super) async fn go(fields: Fields) -> Result<Response, Failure> {
    match fields.number::<i64>("account").filter(|account| *account > 0) {
        Some(account) => Ok(see_other(&webhooks(account))),
        None => Err(Failure::not_found("An account is a number such as 1.")),
    }
}

fn webhooks(account: i64) -> String {
    format!("/accounts/{account}/webhooks")
}

#[derive(Template)]
#[template(path = "accounts.html")]
struct AccountsPage {
    shell: Shell,
    accounts: Vec<i64>,
    next: String,
}

pub(super) async fn list(visitor: Visitor, fields: Fields) -> Shown {
    let request = v1::ListAccountsRequest { page_size: 1000, page_token: fields.get("page").to_owned() };
    let listed = visitor.api.subscriptions().list_accounts(visitor.api.request(request)).await?.into_inner();
    let accounts = listed.accounts.iter().filter_map(|name| crate::console::view::account_of(name)).collect();
    let next = match listed.next_page_token.as_str() {
        "" => String::new(),
        token => format!("/accounts{}", fields.query(&[], &[("page", token)])),
    };
    Ok(page(&AccountsPage { shell: visitor.shell("Accounts", "accounts", None), accounts, next }))
}
