//! The audit subject of each request that changes something.

use std::{collections::BTreeMap, fmt::Display, str::FromStr};

use super::audited::AuditedRequest;
use crate::{
    domain::{
        access::TokenId,
        audit::{AuditEnd, AuditSubject},
        ids::{
            AccountId, AccountScope, DeliveryName, NoticeSinkName, SubscriptionId, SubscriptionName,
            parse_account_name,
        },
        subscription::{Mask, check_overlap},
    },
    gateway::BackupRun,
    proto::v1,
};

/// The subject with this resource name; without a resource if the name is invalid.
fn about<T: FromStr + Display>(name: &str) -> AuditSubject {
    let resource = name.parse::<T>().map(|name| name.to_string()).unwrap_or_default();
    AuditSubject { resource, ..AuditSubject::default() }
}

/// The sink with this name.
fn about_sink(name: &str) -> AuditSubject {
    let resource = name.parse::<NoticeSinkName>().map(|name| name.0.to_string()).unwrap_or_default();
    AuditSubject { resource, ..AuditSubject::default() }
}

/// The parameters that are set, by name.
fn parameters<const N: usize>(all: [(&str, Option<String>); N]) -> BTreeMap<String, String> {
    all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// The names of these enum numbers, each once.
fn names<E: TryFrom<i32> + Ord>(numbers: &[i32], name: impl Fn(&E) -> &'static str) -> Option<String> {
    let known: std::collections::BTreeSet<E> =
        numbers.iter().filter_map(|number| E::try_from(*number).ok()).collect();
    let names: Vec<&str> = known.iter().map(name).collect();
    (!names.is_empty()).then(|| names.join(","))
}

impl AuditedRequest for v1::CreateSubscriptionRequest {
    type Response = v1::CreateSubscriptionResponse;
    const METHOD: &'static str = "tidings.v1.SubscriptionService/CreateSubscription";

    fn subject(&self) -> AuditSubject {
        let Ok(account) = parse_account_name(&self.parent) else { return AuditSubject::default() };
        let resource = match self.subscription_id.parse::<SubscriptionId>() {
            Ok(id) => SubscriptionName { account, id }.to_string(),
            Err(_) => format!("accounts/{account}"),
        };
        AuditSubject { resource, ..AuditSubject::default() }
    }

    fn is_dry_run(&self) -> bool {
        self.validate_only
    }

    fn record_result(response: &Self::Response, end: &mut AuditEnd) {
        end.resource = response.subscription.as_ref().map(|subscription| subscription.name.clone());
    }
}

impl AuditedRequest for v1::UpdateSubscriptionRequest {
    type Response = v1::UpdateSubscriptionResponse;
    const METHOD: &'static str = "tidings.v1.SubscriptionService/UpdateSubscription";

    fn subject(&self) -> AuditSubject {
        let Some(message) = &self.subscription else { return AuditSubject::default() };
        let paths = self.update_mask.as_ref().map_or(&[][..], |mask| &mask.paths);
        let mut fields: Vec<String> = Vec::new();
        if let Ok(mask) = Mask::parse(paths, "update_mask") {
            for field in mask.fields(message) {
                let path = field.path();
                if !fields.iter().any(|field| field == path) {
                    fields.push(path.to_owned());
                }
            }
        }
        AuditSubject { fields, ..about::<SubscriptionName>(&message.name) }
    }

    fn is_dry_run(&self) -> bool {
        self.validate_only
    }
}

impl AuditedRequest for v1::DeleteSubscriptionRequest {
    type Response = v1::DeleteSubscriptionResponse;
    const METHOD: &'static str = "tidings.v1.SubscriptionService/DeleteSubscription";

    fn subject(&self) -> AuditSubject {
        let parameters = parameters([("force", self.force.then(|| "true".to_owned()))]);
        AuditSubject { parameters, ..about::<SubscriptionName>(&self.name) }
    }

    fn record_result(response: &Self::Response, end: &mut AuditEnd) {
        end.parameters = parameters([("dropped_count", Some(response.dropped_count().to_string()))]);
    }
}

impl AuditedRequest for v1::PauseSubscriptionRequest {
    type Response = v1::PauseSubscriptionResponse;
    const METHOD: &'static str = "tidings.v1.SubscriptionService/PauseSubscription";

    fn subject(&self) -> AuditSubject {
        about::<SubscriptionName>(&self.name)
    }
}

impl AuditedRequest for v1::ResumeSubscriptionRequest {
    type Response = v1::ResumeSubscriptionResponse;
    const METHOD: &'static str = "tidings.v1.SubscriptionService/ResumeSubscription";

    fn subject(&self) -> AuditSubject {
        about::<SubscriptionName>(&self.name)
    }
}

impl AuditedRequest for v1::RotateSigningSecretRequest {
    type Response = v1::RotateSigningSecretResponse;
    const METHOD: &'static str = "tidings.v1.SubscriptionService/RotateSigningSecret";

    fn subject(&self) -> AuditSubject {
        let overlap = check_overlap(self.overlap).ok().map(|overlap| format!("{}s", overlap.as_secs_f64()));
        AuditSubject {
            parameters: parameters([("overlap", overlap)]),
            ..about::<SubscriptionName>(&self.name)
        }
    }
}

impl AuditedRequest for v1::TestSubscriptionRequest {
    type Response = v1::TestSubscriptionResponse;
    const METHOD: &'static str = "tidings.v1.SubscriptionService/TestSubscription";
    // The POST has the subscription's own timeout.
    const IS_TIMED: bool = false;

    fn subject(&self) -> AuditSubject {
        about::<SubscriptionName>(&self.name)
    }

    fn record_result(response: &Self::Response, end: &mut AuditEnd) {
        end.parameters = parameters([("http_status", Some(response.http_status.to_string()))]);
    }
}

impl AuditedRequest for v1::CreateNoticeSinkRequest {
    type Response = v1::CreateNoticeSinkResponse;
    const METHOD: &'static str = "tidings.v1.NoticeService/CreateNoticeSink";

    fn subject(&self) -> AuditSubject {
        let Ok(scope) = self.parent.parse::<AccountScope>() else { return AuditSubject::default() };
        let account = match scope {
            AccountScope::One(account) => account,
            AccountScope::All => AccountId::ALL,
        };
        let resource = match self.notice_sink_id.parse::<SubscriptionId>() {
            Ok(id) => SubscriptionName { account, id: id.of_sink() }.to_string(),
            Err(_) => format!("accounts/{account}"),
        };
        let kinds = self.notice_sink.as_ref().map_or(&[][..], |sink| &sink.kinds);
        let kinds = names(kinds, v1::notice_sink::Kind::as_str_name);
        AuditSubject { resource, parameters: parameters([("kinds", kinds)]), ..AuditSubject::default() }
    }

    fn record_result(response: &Self::Response, end: &mut AuditEnd) {
        end.resource = response.notice_sink.as_ref().map(|sink| sink.name.clone());
    }
}

impl AuditedRequest for v1::DeleteNoticeSinkRequest {
    type Response = v1::DeleteNoticeSinkResponse;
    const METHOD: &'static str = "tidings.v1.NoticeService/DeleteNoticeSink";

    fn subject(&self) -> AuditSubject {
        about_sink(&self.name)
    }
}

impl AuditedRequest for v1::TestNoticeSinkRequest {
    type Response = v1::TestNoticeSinkResponse;
    const METHOD: &'static str = "tidings.v1.NoticeService/TestNoticeSink";
    // The POST has the sink's own timeout.
    const IS_TIMED: bool = false;

    fn subject(&self) -> AuditSubject {
        about_sink(&self.name)
    }

    fn record_result(response: &Self::Response, end: &mut AuditEnd) {
        let status = response.attempt.as_ref().map(|attempt| attempt.http_status.to_string());
        end.parameters = parameters([("http_status", status)]);
    }
}

impl AuditedRequest for v1::RetryDeliveryRequest {
    type Response = v1::RetryDeliveryResponse;
    const METHOD: &'static str = "tidings.v1.DeliveryService/RetryDelivery";

    fn subject(&self) -> AuditSubject {
        about::<DeliveryName>(&self.name)
    }
}

impl AuditedRequest for v1::CancelDeliveryRequest {
    type Response = v1::CancelDeliveryResponse;
    const METHOD: &'static str = "tidings.v1.DeliveryService/CancelDelivery";

    fn subject(&self) -> AuditSubject {
        about::<DeliveryName>(&self.name)
    }
}

impl AuditedRequest for v1::ReplayDeliveriesRequest {
    type Response = v1::ReplayDeliveriesResponse;
    const METHOD: &'static str = "tidings.v1.DeliveryService/ReplayDeliveries";

    fn subject(&self) -> AuditSubject {
        let parameters = parameters([
            ("start_time", self.start_time.as_ref().map(ToString::to_string)),
            ("end_time", self.end_time.as_ref().map(ToString::to_string)),
            ("event_types", names(&self.event_types, v1::EventType::as_str_name)),
            ("states", names(&self.states, v1::delivery::State::as_str_name)),
        ]);
        AuditSubject { parameters, ..about::<SubscriptionName>(&self.parent) }
    }

    fn is_dry_run(&self) -> bool {
        self.validate_only
    }

    fn record_result(response: &Self::Response, end: &mut AuditEnd) {
        end.parameters = parameters([("replayed_count", Some(response.replayed_count().to_string()))]);
    }
}

impl AuditedRequest for v1::CreateAccessTokenRequest {
    type Response = v1::CreateAccessTokenResponse;
    const METHOD: &'static str = "tidings.v1.AccessTokenService/CreateAccessToken";

    fn subject(&self) -> AuditSubject {
        let Some(message) = &self.access_token else { return AuditSubject::default() };
        let scopes = names(&message.scopes, v1::access_token::Scope::as_str_name);
        let accounts: std::collections::BTreeSet<String> = message
            .accounts
            .iter()
            .filter_map(|name| parse_account_name(name).ok())
            .map(|id| id.to_string())
            .collect();
        let accounts = Vec::from_iter(accounts).join(",");
        let accounts = (!accounts.is_empty()).then_some(accounts);
        AuditSubject {
            parameters: parameters([("scopes", scopes), ("accounts", accounts)]),
            ..AuditSubject::default()
        }
    }

    fn record_result(response: &Self::Response, end: &mut AuditEnd) {
        end.resource = response.access_token.as_ref().map(|token| token.name.clone());
    }
}

impl AuditedRequest for v1::RevokeAccessTokenRequest {
    type Response = v1::RevokeAccessTokenResponse;
    const METHOD: &'static str = "tidings.v1.AccessTokenService/RevokeAccessToken";

    fn subject(&self) -> AuditSubject {
        let resource = self.name.parse::<TokenId>().map(|id| id.name()).unwrap_or_default();
        AuditSubject { resource, ..AuditSubject::default() }
    }
}

impl AuditedRequest for v1::CreateBackupRequest {
    type Response = BackupRun;
    const METHOD: &'static str = "tidings.v1.BackupService/CreateBackup";

    fn subject(&self) -> AuditSubject {
        AuditSubject::default()
    }

    fn record_result(response: &Self::Response, end: &mut AuditEnd) {
        end.parameters = parameters([("size_bytes", Some(response.bytes().to_string()))]);
    }
}
