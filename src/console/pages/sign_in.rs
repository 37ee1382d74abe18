//! Signing in with an access token, and out again.

use std::{sync::Arc, time::Instant};

use askama::Template;
use axum::{
    Extension,
    extract::State,
    http::{StatusCode, header::SET_COOKIE},
    response::Response,
};
use tonic::Code;

use super::{Visitor, page_with, see_other, session_cookie};
use crate::{
    console::{
        api::{self, Api},
        forms::{Form, sentence},
        guard::Allowed,
        server::{Ends, Parts},
    },
    domain::secret::Secret,
};

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage {
    fault: String,
    /// There is no token yet that one could sign in with.
    has_no_tokens: bool,
}

pub(super) async fn ask(State(parts): State<Arc<Parts>>) -> Response {
    if !parts.guard.is_exposed && !(parts.tokens_required)() {
        return see_other("/");
    }
    form(&parts, StatusCode::OK, String::new())
}

pub(super) async fn begin(
    State(parts): State<Arc<Parts>>,
    Extension(ends): Extension<Ends>,
    Extension(allowed): Extension<Allowed>,
    Form(form_fields): Form,
) -> Response {
    let text = form_fields.get("token");
    if text.is_empty() || !api::is_sendable(text) {
        return form(
            &parts,
            StatusCode::UNPROCESSABLE_ENTITY,
            "Paste an access token: it begins with tdg_.".to_owned(),
        );
    }
    let token = Secret::new(text);
    match Api::new(parts.calls.clone(), Some(token.clone()), ends.peer).own_token().await {
        Ok(_) => {
            let id = parts.sessions.begin(token, Instant::now());
            let mut response = see_other("/");
            let seconds = parts.settings.session_age_max.as_secs();
            if let Ok(cookie) = session_cookie(&parts, allowed.https, &id, seconds).parse() {
                response.headers_mut().append(SET_COOKIE, cookie);
            }
            response
        }
        Err(status) => {
            let http = match status.code() {
                Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
                _ => StatusCode::UNPROCESSABLE_ENTITY,
            };
            form(&parts, http, sentence(status.message()))
        }
    }
}

/// Signs out: the session ends here, whatever the browser does with its cookie.
pub(super) async fn end(State(parts): State<Arc<Parts>>, visitor: Visitor) -> Response {
    super::sign_in_first(&parts, &visitor)
}

fn form(parts: &Parts, status: StatusCode, fault: String) -> Response {
    page_with(status, &SignInPage { fault, has_no_tokens: !(parts.tokens_required)() })
}
